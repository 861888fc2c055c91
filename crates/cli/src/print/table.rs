//! Plain tables: columns as wide as they need to be, numbers to the right.

use std::io::{self, Write};

use crate::print::{DIM, PLAIN};

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

    /// The first column and every column that holds text go left, numbers right.
    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.header.len();
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.len()).collect();
        let mut is_number = vec![true; columns];
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                widths[column] = widths[column].max(cell.chars().count());
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
