//! What the consumer says of its work: three more of the first lines of `stats`.

use std::io::{self, Write};

use anstyle::Style;
use millpond_bus::{ConsumerFigures, DiskFigures, Histogram};

use super::problems::wrap;
use crate::print::{BOLD, YELLOW};
use crate::units::{human_count, human_ns, human_size};

/// Sizes and times since the bus was made, and the disk, within `width` columns; nothing of what was never counted.
pub(super) fn print(
    figures: &ConsumerFigures,
    width: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let groups = &figures.group_events;
    if groups.count > 0 {
        let batches = match figures.batch_events.count {
            0 => String::new(),
            count => format!(
                "; batches: {} of {}",
                human_count(count as f64),
                human_count(figures.batch_events.percentile(50.0) as f64)
            ),
        };
        let groups = format!(
            "{} of {} events, {}{batches} (p50)",
            human_count(groups.count as f64),
            human_count(groups.percentile(50.0) as f64),
            human_size(figures.group_bytes.percentile(50.0)),
        );
        wrap(out, "groups   ", BOLD, &groups, width)?;
        let latency = format!(
            "write {}, sync {}, commit {} (p50/p99)",
            times(&figures.write_ns),
            times(&figures.sync_ns),
            times(&figures.commit_delay_ns),
        );
        wrap(out, "latency  ", BOLD, &latency, width)?;
    }
    match &figures.disk {
        Some(disk) => {
            let (style, text) = disk_text(disk);
            wrap(out, "disk     ", style, &text, width)
        }
        None => Ok(()),
    }
}

/// `80 us/2.1 ms`
fn times(ns: &Histogram) -> String {
    match ns.count {
        0 => "none".to_owned(),
        _ => format!(
            "{}/{}",
            human_ns(ns.percentile(50.0)),
            human_ns(ns.percentile(99.0))
        ),
    }
}

fn disk_text(disk: &DiskFigures) -> (Style, String) {
    let limit = match (disk.bytes_limit, disk.part_used()) {
        (Some(limit), Some(part)) => {
            format!("of {} ({:.0} %)", human_size(limit), 100.0 * part)
        }
        _ => "without a limit".to_owned(),
    };
    // Where the one is over, or the other not kept, nothing more may go.
    let is_over = disk.part_used().is_some_and(|part| part > 1.0);
    let is_short = disk.free_bytes < disk.keep_free_bytes;
    let style = match is_over || is_short {
        true => YELLOW,
        false => BOLD,
    };
    let text = format!(
        "{} {limit}, {} free, {} to be left free",
        human_size(disk.bytes),
        human_size(disk.free_bytes),
        human_size(disk.keep_free_bytes),
    );
    (style, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(figures: &ConsumerFigures) -> Vec<String> {
        let mut out = Vec::new();
        print(figures, 80, &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        let text = anstream::adapter::strip_str(&text).to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn three_lines_fit_a_terminal_however_large_the_numbers() {
        assert_eq!(lines(&ConsumerFigures::default()), [""; 0]);
        let mut figures = ConsumerFigures::default();
        for histogram in [
            &mut figures.group_events,
            &mut figures.group_bytes,
            &mut figures.batch_events,
        ] {
            histogram.add(999_999_999_999);
        }
        for histogram in [
            &mut figures.write_ns,
            &mut figures.sync_ns,
            &mut figures.commit_delay_ns,
        ] {
            histogram.add(123_456_789);
        }
        figures.disk = Some(DiskFigures {
            bytes: 999_900_000_000,
            bytes_limit: Some(999_900_000_000),
            free_bytes: 999_900_000_000,
            keep_free_bytes: 107_000_000_000,
            ..DiskFigures::default()
        });
        let lines = lines(&figures);
        assert_eq!(lines.len(), 3);
        for line in &lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(lines[0].contains("of 825 G events"), "{lines:?}");
        assert!(lines[2].contains("(100 %)"), "{lines:?}");
    }
}
