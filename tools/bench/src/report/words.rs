//! Figures as they are read: three digits, and a unit that suits them.

use crate::row::{Figure, Spread};

const COUNTS: [&str; 5] = ["", "k", "M", "G", "T"];
const TIMES: [&str; 4] = ["ns", "us", "ms", "s"];
const BYTES: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];

/// What figures are in: how many of the smallest unit one of them is, the units, each a thousand of the one before, and what
/// comes after all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    factor: f64,
    names: &'static [&'static str],
    after: &'static str,
}

/// Of times in ns.
pub(super) const TIME: Unit = Unit {
    factor: 1.0,
    names: &TIMES,
    after: "",
};

/// Of sizes in bytes.
pub(super) const SIZE: Unit = Unit {
    factor: 1.0,
    names: &BYTES,
    after: "",
};

/// Of numbers of things.
pub(super) const COUNT: Unit = Unit {
    factor: 1.0,
    names: &COUNTS,
    after: "",
};

/// What [`Figure::of`] is in.
pub(super) fn unit(figure: Figure) -> Unit {
    match figure {
        Figure::Rate => Unit {
            after: "/s",
            ..COUNT
        },
        Figure::Bandwidth => Unit {
            after: "/s",
            ..SIZE
        },
        Figure::Cost | Figure::Latency => TIME,
        Figure::Time => Unit {
            factor: 1e6,
            ..TIME
        },
    }
}

/// What a figure is, for the head of a table.
pub(super) fn meaning(figure: Figure) -> &'static str {
    match figure {
        Figure::Rate => "events a second, more is better",
        Figure::Cost => "time of an event, less is better",
        Figure::Latency => "half of the times are not above it, less is better",
        Figure::Time => "time of the whole, less is better",
        Figure::Bandwidth => "bytes a second, more is better",
    }
}

/// Three digits that count.
pub(super) fn three(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    // 9.999 is 10.0: how many digits there are is seen when it is rounded.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let digits = match rounded.abs() {
        0.0 => 0,
        size => (2.0 - size.log10().floor()).clamp(0.0, 6.0) as usize,
    };
    format!("{value:.digits$}")
}

impl Unit {
    /// By what to divide, and the name, for figures of about this size.
    fn scale(self, value: f64) -> (f64, String) {
        let mut divisor = 1.0 / self.factor;
        let mut at = 0;
        // 999.5 and more would be four digits.
        while value.abs() / divisor >= 999.5 && at + 1 < self.names.len() {
            divisor *= 1000.0;
            at += 1;
        }
        let (name, after) = (self.names[at], self.after);
        let space = if name.is_empty() { "" } else { " " };
        (divisor, format!("{space}{name}{after}"))
    }

    /// `25.3 M/s`
    pub(super) fn text(self, value: f64) -> String {
        if !value.is_finite() {
            return "-".to_owned();
        }
        let (divisor, name) = self.scale(value);
        format!("{}{name}", three(value / divisor))
    }

    /// `24.1 to 26.0`, in the unit of the median.
    pub(super) fn range(self, spread: Spread) -> String {
        let (divisor, _) = self.scale(spread.median);
        let of = |value: f64| three(value / divisor);
        format!("{} to {}", of(spread.min), of(spread.max))
    }

    /// `25.3 M/s (24.1 to 26.0)`
    pub(super) fn spread(self, spread: Spread) -> String {
        match spread.min == spread.max {
            true => self.text(spread.median),
            false => format!("{} ({})", self.text(spread.median), self.range(spread)),
        }
    }
}

/// `12,345`
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 publisher`, `64 publishers`, `10 kB of log`: how much of what varies.
pub(super) fn varied(name: &str, value: u64) -> String {
    match name.strip_suffix(" bytes") {
        Some(what) => format!("{} of {what}", size(value)),
        None if value == 1 => format!("1 {}", name.strip_suffix('s').unwrap_or(name)),
        None => format!("{} {name}", number(value)),
    }
}

/// The value alone.
pub(super) fn varied_value(name: &str, value: u64) -> String {
    match name.ends_with("bytes") {
        true => size(value),
        false => number(value),
    }
}

/// Powers of two have their own units, for nobody knows 65.5 kB again; nor 10 GB where they have them.
fn size(bytes: u64) -> String {
    let cut = 10u64.pow(bytes.max(1).ilog10().saturating_sub(2));
    if cut > 1 && bytes.is_multiple_of(cut) {
        return SIZE.text(bytes as f64);
    }
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    match bytes {
        bytes if bytes < 1000 => format!("{bytes} B"),
        bytes => SIZE.text(bytes as f64),
    }
}

/// The same in a sentence: `2.28x faster than`, `the same as`.
pub(super) fn ratio_to(factor: f64, whom: &str) -> String {
    match ratio(factor) {
        same if same.starts_with("the") => format!("{same} as {whom}"),
        text => format!("{text} than {whom}"),
    }
}

/// How many times as good as millpond: `2.28x faster`.
pub(super) fn ratio(factor: f64) -> String {
    let (times, word) = match factor {
        factor if !factor.is_finite() || factor <= 0.0 => return "-".to_owned(),
        factor if factor >= 1.0 => (factor, "faster"),
        factor => (factor.recip(), "slower"),
    };
    match times < 1.005 {
        true => "the same".to_owned(),
        false => format!("{}x {word}", three(times)),
    }
}
