//! Reports as text of at most 80 columns.

use std::fmt;

use crate::criteria::{Account, Criterion, LogAccount};
use crate::latencies::Summary;

/// A table: the first column to the left, the others to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        let header = header.iter().map(|&cell| cell.to_owned()).collect();
        Table { rows: vec![header] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::from("  ");
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line.push_str(&format!("{cell:<width$}")),
                    _ => line.push_str(&format!("  {cell:>width$}")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A time as people read it.
pub(crate) fn duration(ns: u64) -> String {
    match ns as f64 {
        ns if ns < 1e3 => format!("{ns} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.1} s", ns / 1e9),
    }
}

/// A rate in events a second; 0 means as fast as it goes.
pub(crate) fn rate(per_second: u64) -> String {
    match per_second {
        0 => "unpaced".to_owned(),
        rate => format!("{rate}/s"),
    }
}

/// One line for each kind of latency.
pub(crate) fn latencies(f: &mut fmt::Formatter<'_>, rows: &[(&str, Summary)]) -> fmt::Result {
    let mut table = Table::new(&["latency", "count", "mean", "p50", "p99", "p99.9", "max"]);
    for (what, summary) in rows {
        let mut cells = vec![(*what).to_owned(), summary.count.to_string()];
        let times = [
            summary.mean_ns,
            summary.p50_ns,
            summary.p99_ns,
            summary.p999_ns,
            summary.max_ns,
        ];
        match summary.count {
            0 => cells.extend(times.map(|_| "-".to_owned())),
            _ => cells.extend(times.map(duration)),
        }
        table.row(cells);
    }
    write!(f, "{table}")
}

/// One line for each source and prefix.
pub(crate) fn accounts(f: &mut fmt::Formatter<'_>, accounts: &[Account]) -> fmt::Result {
    let header = [
        "prefix",
        "published",
        "delivered",
        "dropped",
        "received",
        "lagged",
    ];
    let mut table = Table::new(&header);
    for account in accounts {
        table.row(vec![
            account.prefix.clone(),
            account.published.to_string(),
            account.delivered.to_string(),
            account.dropped.to_string(),
            account
                .received
                .map_or("-".to_owned(), |count| count.to_string()),
            account.lagged.to_string(),
        ]);
    }
    write!(f, "{table}")
}

/// One line for all sources together, and one for each that is not simply complete.
pub(crate) fn log_accounts(f: &mut fmt::Formatter<'_>, accounts: &[LogAccount]) -> fmt::Result {
    let header = [
        "source",
        "published",
        "delivered",
        "dropped",
        "written",
        "repeats",
        "other",
    ];
    let mut table = Table::new(&header);
    let mut row = |source: String, of: &dyn Fn(fn(&LogAccount) -> u64) -> u64| {
        let cells = [
            of(|account| account.published),
            of(|account| account.delivered),
            of(|account| account.dropped),
            of(|account| account.written),
            of(|account| account.coalesced),
            of(|account| account.rejected + account.suppressed),
        ];
        let cells = cells.iter().map(u64::to_string);
        table.row([source].into_iter().chain(cells).collect());
    };
    for account in accounts.iter().filter(|account| !account.is_complete()) {
        row(account.source.clone(), &|field| field(account));
    }
    row(format!("all {}", accounts.len()), &|field| {
        accounts.iter().map(field).sum()
    });
    write!(f, "{table}")
}

/// A size as people read it.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 1e3 => format!("{bytes} B"),
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

/// One line for each criterion; long ones go on in the next line.
pub(crate) fn criteria(f: &mut fmt::Formatter<'_>, criteria: &[Criterion]) -> fmt::Result {
    for criterion in criteria {
        let mark = if criterion.met { "met" } else { "NOT MET" };
        let mut line = format!("  {mark:<7} ");
        for word in criterion.text.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > 80 {
                writeln!(f, "{}", line.trim_end())?;
                line = " ".repeat(10);
            }
            line.push_str(word);
            line.push(' ');
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fitting_units() {
        assert_eq!(
            [7, 1_500, 2_500_000, 3_000_000_000].map(duration),
            ["7 ns", "1.5 us", "2.5 ms", "3.0 s"]
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let mut table = Table::new(&["what", "n"]);
        table.row(vec!["a".into(), "1000".into()]);
        assert_eq!(table.to_string(), "  what     n\n  a     1000\n");
    }
}
