//! Sizes, durations and times as people write them.

use std::time::Duration;

use jiff::civil::{DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, Zoned};
use millpond_capture::WindowSize;
pub(crate) use millpond_daemon::report::format_duration;
use millpond_logfile::format_time;

/// Bytes: `65536`, `64KiB`, `64MiB`, `1GiB`, `64kB`, `64MB`, `1GB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => {
            return Err(format!(
                "{text:?} is no size: write a number of bytes, or 64KiB, 4MiB, 1GiB"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no size: it starts with no number"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("{text:?} is more bytes than there can be"))
}

/// A size as [`parse_size`] reads it, in the largest unit that leaves no rest.
pub(crate) fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Columns and rows: `80x24`.
pub(crate) fn parse_terminal_size(text: &str) -> Result<WindowSize, String> {
    let size = || {
        let (columns, rows) = text.split_once('x')?;
        let (columns, rows) = (columns.parse().ok()?, rows.parse().ok()?);
        (columns > 0 && rows > 0).then_some(WindowSize { columns, rows })
    };
    size().ok_or_else(|| "a terminal has 1x1 to 65535x65535 characters: write 80x24".to_owned())
}

/// Real time.
pub(crate) fn now_ns() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default()
}

/// A time as it stands in a log: RFC 3339 in UTC, with nanoseconds.
pub(crate) fn utc(time_ns: u64) -> String {
    String::from_utf8_lossy(&format_time(time_ns)).into_owned()
}

/// A size for reading, with three digits: `1.23 GB`.
pub(crate) fn human_size(bytes: u64) -> String {
    human(bytes as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// A length of time for reading, with three digits: `1.23 ms`.
pub(crate) fn human_ns(ns: u64) -> String {
    human(ns as f64, &["ns", "us", "ms", "s"])
}

/// A count for reading: `12.3 M`.
pub(crate) fn human_count(count: f64) -> String {
    human(count, &["", "k", "M", "G", "T"])
}

fn human(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit])
        .trim_end()
        .to_owned()
}

/// A duration: `50ms`, `1s`, `5m`, `2h`, `1d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => {
            return Err(format!(
                "{text:?} is no duration: write 50ms, 10s, 5m, 2h or 1d"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no duration: it starts with no number"))?;
    Duration::try_from_secs_f64(number * seconds)
        .map_err(|_| format!("{text:?} is longer than a duration can be"))
}

/// A point in time, in ns since 1970: RFC 3339, `2026-11-21 01:29[:53]`, `2026-11-21`, `01:29[:53]` (today),
/// `today`, `yesterday`, `now`, or a duration (that long ago). Local time unless `utc`.
pub(crate) fn parse_time(text: &str, utc: bool) -> Result<u64, String> {
    let zone = if utc {
        TimeZone::UTC
    } else {
        TimeZone::system()
    };
    let now = Zoned::now().with_time_zone(zone.clone());
    if let Ok(ago) = parse_duration(text) {
        let now_ns = now.timestamp().as_nanosecond();
        return to_ns(now_ns - ago.as_nanos() as i128, text);
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return to_ns(timestamp.as_nanosecond(), text);
    }
    let civil = match text {
        "now" => return to_ns(now.timestamp().as_nanosecond(), text),
        "today" => now.date().to_datetime(Time::midnight()),
        "yesterday" => match now.date().yesterday() {
            Ok(date) => date.to_datetime(Time::midnight()),
            Err(error) => return Err(error.to_string()),
        },
        _ => parse_civil(text, &now)?,
    };
    resolve(civil, &zone, text)
}

fn parse_civil(text: &str, now: &Zoned) -> Result<DateTime, String> {
    if let Ok(datetime) = text.parse::<DateTime>() {
        return Ok(datetime);
    }
    text.parse::<Time>().map(|time| now.date().to_datetime(time)).map_err(|_| {
        format!(
            "{text:?} is no time: write 2026-11-21T01:29:53Z, \"2026-11-21 01:29\", 01:29, today, \
             yesterday, or 5m (five minutes ago)"
        )
    })
}

/// A local time that happens twice, or never, is not guessed at.
fn resolve(civil: DateTime, zone: &TimeZone, text: &str) -> Result<u64, String> {
    let ambiguous = zone.to_ambiguous_zoned(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => {}
        AmbiguousOffset::Fold { before, after } => {
            return Err(format!(
                "{text:?} happens twice when the clocks go back: write {civil}{before} or {civil}{after}"
            ));
        }
        AmbiguousOffset::Gap { .. } => {
            return Err(format!(
                "{text:?} does not exist: the clocks go forward over it"
            ));
        }
    }
    let zoned = ambiguous.unambiguous().map_err(|error| error.to_string())?;
    to_ns(zoned.timestamp().as_nanosecond(), text)
}

fn to_ns(nanoseconds: i128, text: &str) -> Result<u64, String> {
    u64::try_from(nanoseconds).map_err(|_| format!("{text:?} is not between 1970 and 2554"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_back() {
        for text in ["1", "64KiB", "4MiB", "1GiB", "1023"] {
            assert_eq!(parse_size(text).map(format_size), Ok(text.to_owned()));
        }
        assert_eq!(parse_size("64MB"), Ok(64_000_000));
        for bad in [
            "",
            "MiB",
            "4 parsecs",
            "-1",
            "99999999999999999999",
            "99999999TiB",
        ] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_come_back() {
        for text in ["50ms", "1s", "5m", "2h", "1d", "7us"] {
            assert_eq!(
                parse_duration(text).map(format_duration),
                Ok(text.to_owned())
            );
        }
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "5 fortnights", "1e400s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_in_many_spellings() {
        let expected = Ok(1_795_224_593_000_000_000);
        for text in [
            "2026-11-21T01:29:53Z",
            "2026-11-21 01:29:53",
            "2026-11-21T01:29:53",
        ] {
            assert_eq!(parse_time(text, true), expected, "{text}");
        }
        assert!(parse_time("5m", true) < parse_time("now", true));
        assert!(parse_time("yesterday", true) < parse_time("today", true));
        assert!(parse_time("25:00", true).is_err());
        assert!(parse_time("1969-01-01T00:00:00Z", true).is_err());
    }

    #[test]
    fn a_local_time_that_happens_twice_is_an_error_with_both_readings() {
        let zone = TimeZone::get("Europe/Berlin").expect("jiff brings its own time zones");
        let civil: DateTime = "2026-10-25T02:30:00".parse().expect("a civil time");
        let error = resolve(civil, &zone, "02:30").expect_err("it happens twice");
        assert!(error.contains("+02") && error.contains("+01"), "{error}");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(human_size(1_234_567_890), "1.23 GB");
        assert_eq!(human_count(12_345_678.0), "12.3 M");
        assert_eq!(human_count(999.0), "999");
    }
}
