//! Plain tables: columns as wide as they need to be, numbers to the right.

use std::io::{self, Write};

use crate::print::{DIM, PLAIN};

/// Characters between columns.
const GAP: usize = 2;
/// No cell is cut to less.
const CELL_MIN: usize = 8;

/// A table with a header.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Table {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it within so many characters, all of it where that is `None`.
    ///
    /// Columns of `least` go where there is too little room: first those that hold nothing but zeros, then one after the
    /// other as they stand there. Those that held something are named below. If that is not enough, the first
    /// column is cut.
    pub(crate) fn print_within(
        mut self,
        out: &mut dyn Write,
        width: Option<usize>,
        least: &[&str],
    ) -> io::Result<()> {
        let Some(width) = width else {
            return self.print(out);
        };
        let is_nothing = |table: &Table, column: usize| {
            let mut cells = table.rows.iter().filter_map(|row| row.get(column));
            cells.all(|cell| ["0", "0 B", "-"].contains(&cell.as_str()))
        };
        let mut missing = Vec::new();
        for only_zeros in [true, false] {
            for name in least {
                let Some(column) = self.header.iter().position(|known| known == name) else {
                    continue;
                };
                let is_zeros = is_nothing(&self, column);
                if self.width() <= width || (only_zeros && !is_zeros) {
                    continue;
                }
                self.header.remove(column);
                self.rows
                    .iter_mut()
                    .for_each(|row| drop(row.remove(column)));
                if !is_zeros {
                    missing.push(*name);
                }
            }
        }
        let excess = self.width().saturating_sub(width);
        if excess > 0 {
            let first = self.widths().first().copied().unwrap_or(0);
            let room = first.saturating_sub(excess).max(CELL_MIN);
            self.rows.iter_mut().for_each(|row| cut(&mut row[0], room));
        }
        self.print(out)?;
        if !missing.is_empty() {
            let names = missing.join(", ");
            let mut line = "no room for:".to_owned();
            for name in names.split(' ') {
                let used = line.rsplit('\n').next().unwrap_or("").chars().count();
                let between = if used + 1 + name.chars().count() > width {
                    "\n  "
                } else {
                    " "
                };
                line.push_str(between);
                line.push_str(name);
            }
            writeln!(out, "{DIM}{line}{DIM:#}")?;
        }
        Ok(())
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }

    /// The first column and every column that holds text go left, numbers right.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.header.len();
        let widths = self.widths();
        let mut is_number = vec![true; columns];
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                is_number[column] &= cell.starts_with(|first: char| first.is_ascii_digit());
            }
        }
        let header = self
            .header
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>();
        for (number, row) in std::iter::once(&header).chain(&self.rows).enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                match is_number[column] && column > 0 {
                    true => line.push_str(&format!("{cell:>width$}  ")),
                    false => line.push_str(&format!("{cell:<width$}  ")),
                }
            }
            let style = if number == 0 { DIM } else { PLAIN };
            writeln!(out, "{style}{}{style:#}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Takes what does not fit out of the middle: beginnings say what a name is of, ends which one.
fn cut(cell: &mut String, room: usize) {
    let length = cell.chars().count();
    if length > room {
        let front = (room - 1).div_ceil(2);
        let back = room - 1 - front;
        let head: String = cell.chars().take(front).collect();
        let tail: String = cell.chars().skip(length - back).collect();
        *cell = format!("{head}…{tail}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: Option<usize>) -> String {
        let mut table = Table::new(&[
            "source",
            "rule",
            "published",
            "dropped",
            "coalesced",
            "user",
        ]);
        let row = |cells: [&str; 6]| cells.map(str::to_owned).to_vec();
        table.row(row(["pipe:web", "log:*", "20000", "17001", "0", "deploy"]));
        table.row(row([
            "publish:a-very-long-name",
            "log:*",
            "1",
            "0",
            "0",
            "-",
        ]));
        let mut out = Vec::new();
        let least = ["user", "rule", "coalesced", "dropped"];
        table
            .print_within(&mut out, width, &least)
            .expect("a vector takes all");
        anstream::adapter::strip_str(&String::from_utf8_lossy(&out)).to_string()
    }

    #[test]
    fn zeros_go_before_what_says_something_and_that_is_named() {
        assert!(shown(None).contains("coalesced") && shown(None).contains("user"));
        let all_but_zeros = shown(Some(60));
        assert!(!all_but_zeros.contains("coalesced"), "{all_but_zeros}");
        assert!(all_but_zeros.contains("deploy"), "{all_but_zeros}");
        assert!(!all_but_zeros.contains("no room"), "{all_but_zeros}");
        let narrow = shown(Some(44));
        assert!(narrow.contains("no room for: user, rule"), "{narrow}");
        assert!(narrow.contains("dropped"), "{narrow}");
        for width in [24, 30, 40, 44, 50, 60, 80] {
            let text = shown(Some(width));
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest <= Some(width), "{width}: {text}");
            assert!(text.contains("20000"), "{width}: {text}");
        }
        assert!(
            shown(Some(24)).contains("publis…g-name"),
            "{}",
            shown(Some(24))
        );
    }
}
