//! Rows on a terminal of any width.

use super::columns::Column;
use super::growth;
use super::verdict::{self, lost, trouble};
use super::words::{meaning, varied_value};
use super::works::{Curve, Work, parts, spread};
use crate::row::Row;

/// Characters between columns.
const GAP: usize = 2;
/// In front of what belongs to the line above it.
const INDENT: usize = 2;
/// No table is narrower.
const WIDTH_MIN: usize = 30;

/// What goes where there is too little room, in this order; who, how much and beside whom stay.
const LEAST: [Column; 11] = [
    Column::Version,
    Column::Promises,
    Column::Disk,
    Column::Memory,
    Column::Cpu,
    Column::Max,
    Column::P999,
    Column::P50,
    Column::Lost,
    Column::P99,
    Column::Range,
];

/// The rows as tables within so many characters, with what they come to in words. Where there is no room for all columns,
/// figures stay, and what was lost is told below; where there is no room for a name beside its figures, they stand
/// below it. `usize::MAX`: as wide as it needs to be.
///
/// ```
/// assert_eq!(millpond_bench::report::table(&[], 80), "");
/// ```
pub fn table(rows: &[Row], width: usize) -> String {
    let width = width.max(WIDTH_MIN);
    let mut text = String::new();
    for part in parts(rows) {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("{}\n", part.name.to_uppercase());
        let start = text.len();
        let divide = |text: &mut String| {
            if text.len() > start {
                text.push('\n');
            }
        };
        for work in &part.works {
            divide(&mut text);
            put_work(&mut text, work, width);
        }
        for curve in &part.curves {
            divide(&mut text);
            put_curve(&mut text, curve, width);
        }
    }
    // Rows come from files, and what others wrote there is not for a terminal to obey.
    text.retain(|character| character == '\n' || !character.is_control());
    text
}

fn put_work(text: &mut String, work: &Work<'_>, width: usize) {
    let caption = format!("{}: {}", work.words, meaning(work.figure));
    wrap(text, &caption, 0, width);
    let mut columns = Column::of(work);
    let cell = |column: Column, row: &Row| match column {
        // The reason stands below.
        Column::Median if spread(row).is_none() && trouble(row).is_some() => {
            let is_skipped = row.skipped.is_some();
            if is_skipped { "skipped" } else { "failed" }.to_owned()
        }
        _ => column.cell(work, row),
    };
    let width_of = |column: Column| {
        let cells = work
            .rows
            .iter()
            .map(|row| cell(column, row).chars().count());
        cells
            .chain([column.title(work.figure).len()])
            .max()
            .unwrap_or_default()
    };
    let total = |columns: &[Column]| -> usize {
        let widths: usize = columns.iter().map(|&column| width_of(column) + GAP).sum();
        widths + INDENT - GAP
    };
    // Names on lines of their own are better than names that are cut, if one can still compare.
    let needed: Vec<Column> = columns
        .iter()
        .copied()
        .filter(|column| matches!(column, Column::Who | Column::Median | Column::Ratio))
        .collect();
    let is_stacked = total(&needed) > width;
    if is_stacked {
        columns.retain(|&column| column != Column::Who);
    }
    let indent = if is_stacked { 2 * INDENT } else { INDENT };
    let room = width - (indent - INDENT);
    for least in LEAST {
        if total(&columns) > room {
            columns.retain(|&column| column != least);
        }
    }
    let line = |cells: &dyn Fn(Column) -> String| {
        let mut line = " ".repeat(indent);
        for &column in &columns {
            let (cell, width) = (cells(column), width_of(column));
            match column.is_text() {
                true => line += &format!("{cell:<width$}"),
                false => line += &format!("{cell:>width$}"),
            }
            line += &" ".repeat(GAP);
        }
        format!("{}\n", line.trim_end())
    };
    *text += &line(&|column| column.title(work.figure).to_owned());
    for row in &work.rows {
        if is_stacked {
            wrap(text, &Column::Who.cell(work, row), INDENT, width);
        }
        *text += &line(&|column| cell(column, row));
    }
    let has_lost = columns.contains(&Column::Lost);
    for row in &work.rows {
        let lost = lost(row).filter(|_| !has_lost);
        let notes = lost.map(|lost| format!("lost {lost}"));
        for note in notes.into_iter().chain(trouble(row)) {
            wrap(text, &format!("{} {note}", row.peer), INDENT, width);
        }
    }
    for sentence in verdict::sentences(work) {
        wrap(text, &sentence, INDENT, width);
    }
}

fn put_curve(text: &mut String, curve: &Curve<'_>, width: usize) {
    let work = growth::only_work(curve).map_or(String::new(), |work| format!(" ({work})"));
    let what = growth::cost_words(curve.figure);
    let caption = format!("by {}: {what}{work}", curve.name);
    wrap(text, &caption, 0, width);
    for (series, name) in curve.series.iter().zip(growth::names(curve)) {
        let points = series.points.iter().map(|row| {
            let value = varied_value(curve.name, super::works::value(row));
            format!("{value}: {}", growth::cell(row))
        });
        let points = points.collect::<Vec<_>>().join("; ");
        wrap(text, &format!("{name}  {points}"), INDENT, width);
    }
    for sentence in growth::sentences(curve) {
        wrap(text, &sentence, INDENT, width);
    }
}

/// Words in lines of at most `width` characters; all but the first are indented by so many more.
fn wrap(text: &mut String, words: &str, indent: usize, width: usize) {
    let mut line = " ".repeat(indent);
    let mut used = indent;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if used + length > width && line.trim_end().len() > indent {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent + INDENT);
            used = indent + INDENT;
        }
        // A word that is longer than a line, such as a path, goes on in the next.
        let mut rest: Vec<char> = word.chars().collect();
        while used + rest.len() > width {
            let next = rest.split_off(width - used);
            line.extend(rest);
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(indent + INDENT);
            used = indent + INDENT;
            rest = next;
        }
        used += rest.len() + 1;
        line.extend(rest);
        line.push(' ');
    }
    text.push_str(line.trim_end());
    text.push('\n');
}
