//! Rows as a table for a terminal, and as a report in Markdown and in HTML with plots.
//!
//! Everything in a report is computed from its rows, sentences with it, and its rows are in it ([`ROWS_FILE`]), so that it
//! can be made again. Rows of other programs go in as they are.

mod columns;
mod growth;
mod page;
mod terminal;
mod verdict;
mod words;
mod works;

use std::fs;
use std::path::Path;

use millpond_loadgen::Error;
use serde::{Deserialize, Serialize};

use crate::row::Row;

pub use self::terminal::table;

/// What holds the rows of a report, in its directory.
pub const ROWS_FILE: &str = "rows.jsonl";
const PAGE_FILE: &str = "README.md";
const HTML_FILE: &str = "report.html";

/// Where, when and of what rows were measured.
///
/// ```
/// let head = millpond_bench::report::Head { date: "2026-11-21".into(), ..Default::default() };
/// assert!(!head.is_tiny);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// When it began, as it is to be read.
    pub date: String,
    /// On what: [`machine`](crate::machine).
    pub machine: String,
    /// The commit of the work tree, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Version of millpond.
    pub version: String,
    /// What does the same again, for a shell.
    pub command: String,
    /// Whether it only showed that it runs.
    pub is_tiny: bool,
}

/// A line of a file of rows that is no row.
#[derive(Serialize, Deserialize)]
struct HeadLine {
    head: Head,
}

/// Rows, and where they come from.
///
/// ```
/// use millpond_bench::report::{Head, Report};
///
/// let mut report = Report::default();
/// report.add(Some(Head { date: "2026-11-21".into(), ..Head::default() }), Vec::new());
/// let mut again = Report::default();
/// again.read("rows.jsonl", &report.text()?)?;
/// assert_eq!(again, report);
/// # Ok::<(), millpond_bench::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    heads: Vec<Head>,
    rows: Vec<Row>,
}

impl Report {
    /// Takes rows in. One of the same work by the same peer that is there already makes room for them: it was measured
    /// earlier. Within `rows`, all count.
    pub fn add(&mut self, head: Option<Head>, rows: Vec<Row>) {
        self.heads
            .extend(head.filter(|head| !self.heads.contains(head)));
        let is_same = |one: &Row, other: &Row| {
            (&one.part, &one.work, &one.peer, one.figure, &one.varied)
                == (
                    &other.part,
                    &other.work,
                    &other.peer,
                    other.figure,
                    &other.varied,
                )
        };
        self.rows
            .retain(|old| !rows.iter().any(|new| is_same(old, new)));
        self.rows.extend(rows);
    }

    /// Takes in what [`Report::text`] gave, or rows of another program, an object a line. `name` is for errors.
    ///
    /// # Errors
    /// Where a line is neither; nothing is taken in then.
    pub fn read(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let (mut heads, mut rows) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            match serde_json::from_str(line) {
                Ok(HeadLine { head }) => heads.push(head),
                Err(_) => rows.push(serde_json::from_str(line).map_err(|error| {
                    Error::new(format!("{name}, line {}: no row: {error}", index + 1))
                })?),
            }
        }
        self.add(None, rows);
        for head in heads {
            self.add(Some(head), Vec::new());
        }
        Ok(())
    }

    /// All rows, those of earlier runs first.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Heads and rows as JSON, an object a line.
    ///
    /// # Errors
    /// None that is known: all of it can be JSON.
    pub fn text(&self) -> Result<String, Error> {
        let mut text = String::new();
        for head in &self.heads {
            text += &serde_json::to_string(&HeadLine { head: head.clone() })?;
            text.push('\n');
        }
        for row in &self.rows {
            text += &serde_json::to_string(row)?;
            text.push('\n');
        }
        Ok(text)
    }

    /// Writes `README.md`, `report.html`, the plots and [`ROWS_FILE`] into `dir`, which is made where it is missing. Other
    /// pages that are there (`*.md`) are linked; plots of an earlier report are removed.
    ///
    /// # Errors
    /// Where the directory cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let failed = |what: &Path, error: std::io::Error| {
            Error::new(format!("{} cannot be written: {error}", what.display()))
        };
        fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
        let (mut others, mut old_plots) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match path.extension().and_then(|ending| ending.to_str()) {
                Some("md") if name != PAGE_FILE => others.push(page::Other::read(&path)?),
                Some("svg") if name.starts_with(growth::PLOT_PREFIX) => old_plots.push(path),
                _ => {}
            }
        }
        others.sort();
        // Only beside rows of ours: files that are called like that elsewhere are somebody else's.
        if dir.join(ROWS_FILE).exists() {
            for path in old_plots {
                fs::remove_file(&path).map_err(|error| failed(&path, error))?;
            }
        }
        let page = page::Page::of(&self.heads, &self.rows, &others);
        let mut files = vec![
            (PAGE_FILE.to_owned(), page.markdown()),
            (HTML_FILE.to_owned(), page.html()),
            (ROWS_FILE.to_owned(), self.text()?),
        ];
        files.extend(page.plots());
        for (name, text) in files {
            let path = dir.join(name);
            fs::write(&path, text).map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
