//! Rows of values, apart from where they come from and how they are shown: sorted, filtered, fitted into a width.

use std::cmp::Ordering;

use ratatui::text::Span;
use serde_json::{Map, Value as Json, json};

use crate::units::{human_count, human_size};

/// Between two columns.
pub(super) const GAP: usize = 2;
/// A picture narrower than this says nothing.
const PICTURE_MIN: usize = 8;
/// An hour in parts of 10 s is no wider.
const PICTURE_MAX: usize = 60;
/// The first column of a table is never cut below this.
const NAME_MIN: usize = 8;
/// As wide as `999.9 kB`.
const NUMBER_MIN: usize = 6;

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Count(u64),
    /// Per second.
    Rate(f64),
    Bytes(u64),
    /// Bytes per second.
    BytesRate(f64),
    Percent(f64),
    Seconds(f64),
    /// A number in the unit that its column names.
    Number(f64),
    /// Oldest first.
    Picture(Vec<f64>),
    /// Not known, or not yet.
    Missing,
}

impl Value {
    /// A text that others have written: no character of it moves a cursor, turns the line around or hides.
    pub(super) fn text(text: &str) -> Self {
        match text.is_empty() {
            true => Value::Missing,
            false => Value::Text(clean(text)),
        }
    }

    /// Missing where it is no number.
    pub(super) fn number(number: Option<f64>, of: fn(f64) -> Value) -> Self {
        match number {
            Some(number) if number.is_finite() => of(number),
            _ => Value::Missing,
        }
    }

    /// As it is shown; a picture has no text.
    pub(super) fn show(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Count(count) => human_count(*count as f64),
            Value::Rate(rate) => rate_text(*rate),
            Value::Bytes(bytes) => human_size(*bytes),
            Value::BytesRate(rate) => human_size(*rate as u64),
            Value::Percent(percent) => format!("{percent:.0} %"),
            Value::Seconds(seconds) => seconds_text(*seconds),
            Value::Number(number) => format!("{number:.0}"),
            Value::Picture(_) => String::new(),
            Value::Missing => "-".to_owned(),
        }
    }

    /// Exact, for scripts.
    fn to_json(&self) -> Json {
        match self {
            Value::Text(text) => json!(text),
            Value::Count(count) | Value::Bytes(count) => json!(count),
            Value::Rate(number)
            | Value::BytesRate(number)
            | Value::Percent(number)
            | Value::Seconds(number)
            | Value::Number(number) => json!(number),
            Value::Picture(_) | Value::Missing => Json::Null,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Count(count) | Value::Bytes(count) => Some(*count as f64),
            Value::Rate(number)
            | Value::BytesRate(number)
            | Value::Percent(number)
            | Value::Seconds(number)
            | Value::Number(number) => Some(*number),
            Value::Picture(parts) => Some(parts.iter().sum()),
            Value::Text(_) | Value::Missing => None,
        }
    }
}

/// `0`, `0.3`, `12`, `1.23 k`.
pub(super) fn rate_text(rate: f64) -> String {
    match rate > 0.0 && rate < 9.95 {
        true => format!("{rate:.1}"),
        false => human_count(rate),
    }
}

/// `850 us`, `1.2 ms`, `3.0 s`, `5m 3s`, `2h 10m`.
pub(super) fn seconds_text(seconds: f64) -> String {
    if seconds < 60.0 {
        let (value, unit) = match seconds {
            s if s <= 0.0 => return "0".to_owned(),
            s if s < 1e-3 => (s * 1e6, "us"),
            s if s < 1.0 => (s * 1e3, "ms"),
            s => (s, "s"),
        };
        let digits = usize::from(value < 10.0);
        return format!("{value:.digits$} {unit}");
    }
    let whole = seconds as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {}s", whole % 60),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// The text without what could reach a terminal as anything but a letter.
pub(super) fn clean(text: &str) -> String {
    let shown = |character: char| {
        // Marks that turn the direction of a line, that join, or that take no room.
        let hidden = matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        match character.is_control() || hidden {
            true => char::REPLACEMENT_CHARACTER,
            false => character,
        }
    };
    text.chars().map(shown).collect()
}

/// Columns that a text takes on a terminal.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The start of a text in this many columns, with a mark where something is left out.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 0;
    let mut buffer = [0; 4];
    for character in text.chars() {
        let wide = width(character.encode_utf8(&mut buffer));
        if used + wide + 1 > columns {
            break;
        }
        kept.push(character);
        used += wide;
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// Blocks as high as the values, the highest full; the last `columns` of them, to the right.
pub(super) fn picture(parts: &[f64], columns: usize) -> String {
    let shown = &parts[parts.len().saturating_sub(columns)..];
    let highest = shown.iter().copied().fold(0.0, f64::max);
    let blocks = shown.iter().map(|&part| block(part, highest));
    std::iter::repeat_n(' ', columns - shown.len())
        .chain(blocks)
        .collect()
}

fn block(value: f64, highest: f64) -> char {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if value <= 0.0 || highest <= 0.0 {
        return ' ';
    }
    let height = (value / highest * 8.0).ceil() as usize;
    BLOCKS[height.clamp(1, 8) - 1]
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// At most this wide.
    Text(usize),
    Number,
    Picture,
}

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// In JSON, and for `--sort`.
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) kind: Kind,
    /// Where there is no room for all, the highest go first.
    pub(super) rank: u8,
}

pub(super) const fn column(key: &'static str, title: &'static str, kind: Kind, rank: u8) -> Column {
    Column {
        key,
        title,
        kind,
        rank,
    }
}

/// How much somebody should look at a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Quiet,
    Plain,
    Strong,
    Warn,
    Bad,
}

/// One row: as many cells as the table has columns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) cells: Vec<Value>,
    pub(super) tone: Tone,
}

/// By which column, and in which direction; beyond the last column, rows stay in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sort {
    pub(super) column: usize,
    pub(super) is_descending: bool,
}

/// A table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Row>,
}

impl Table {
    /// Numbers from the highest, texts from the first letter.
    pub(super) fn sort_by(columns: &[Column], column: usize) -> Sort {
        let kind = columns.get(column).map(|column| column.kind);
        Sort {
            column,
            is_descending: matches!(kind, Some(Kind::Number | Kind::Picture)),
        }
    }

    /// Rows that hold `filter` in a text, in whatever case, in order. What is missing comes last; equal ones by name.
    pub(super) fn select(&self, sort: Sort, filter: &str) -> Vec<&Row> {
        let wanted = filter.to_lowercase();
        let holds = |cell: &Value| match cell {
            Value::Text(text) => text.to_lowercase().contains(&wanted),
            _ => false,
        };
        let rows = self.rows.iter();
        let mut rows: Vec<&Row> = rows
            .filter(|row| wanted.is_empty() || row.cells.iter().any(holds))
            .collect();
        if sort.column >= self.columns.len() {
            return rows;
        }
        rows.sort_by(|a, b| {
            let of = |row: &Row| row.cells.get(sort.column).cloned();
            compare(of(a), of(b), sort.is_descending)
                .then_with(|| compare(a.cells.first().cloned(), b.cells.first().cloned(), false))
        });
        rows
    }

    /// Which columns fit into this many, each with its width; the one that rows are sorted by is among them.
    pub(super) fn fit(&self, rows: &[&Row], columns: usize, sort: Sort) -> Vec<(usize, usize)> {
        let wanted = |index: usize| -> usize {
            let title = width(self.columns[index].title) + usize::from(index == sort.column);
            match self.columns[index].kind {
                Kind::Picture => PICTURE_MIN.max(title),
                Kind::Text(most) => {
                    let cells = rows.iter().filter_map(|row| row.cells.get(index));
                    let widest = cells.map(|cell| width(&cell.show())).max();
                    widest.unwrap_or(0).min(most).max(title)
                }
                // The same for all numbers, so that columns do not move from one look to the next.
                Kind::Number => NUMBER_MIN.max(title).max(7),
            }
        };
        let mut ranked: Vec<usize> = (0..self.columns.len()).collect();
        let rank = |&index: &usize| match index == sort.column || index == 0 {
            true => 0,
            false => self.columns[index].rank,
        };
        ranked.sort_by_key(rank);
        let mut chosen: Vec<(usize, usize)> = Vec::new();
        let mut left = columns;
        for index in ranked {
            let gap = if chosen.is_empty() { 0 } else { GAP };
            let mut need = wanted(index);
            if chosen.is_empty() {
                // Room for one number beside the name, where there is little.
                need = need
                    .min(columns.saturating_sub(18).max(NAME_MIN))
                    .min(columns);
            }
            if need + gap <= left {
                left -= need + gap;
                chosen.push((index, need));
            }
        }
        chosen.sort_by_key(|&(index, _)| index);
        for (index, width) in &mut chosen {
            if self.columns[*index].kind == Kind::Picture {
                let more = left.min(PICTURE_MAX.saturating_sub(*width));
                *width += more;
                left -= more;
            }
        }
        chosen
    }

    /// The titles, as wide as `fitted` says, with a mark at the one that rows are sorted by.
    pub(super) fn title_text(&self, fitted: &[(usize, usize)], sort: Sort) -> String {
        let title = |index: usize| {
            let mark = match (index == sort.column, sort.is_descending) {
                (false, _) => "",
                (true, true) => "▼",
                (true, false) => "▲",
            };
            format!("{}{mark}", self.columns[index].title)
        };
        self.line(fitted, |index, _| title(index))
    }

    /// A row, as wide as `fitted` says.
    pub(super) fn row_text(&self, fitted: &[(usize, usize)], row: &Row) -> String {
        self.line(fitted, |index, columns| match &row.cells[index] {
            Value::Picture(parts) => picture(parts, columns),
            cell => cell.show(),
        })
    }

    fn line(&self, fitted: &[(usize, usize)], text: impl Fn(usize, usize) -> String) -> String {
        let mut line = String::new();
        for (place, &(index, columns)) in fitted.iter().enumerate() {
            if place > 0 {
                line.push_str(&" ".repeat(GAP));
            }
            let text = cut(&text(index, columns), columns);
            let space = " ".repeat(columns - width(&text));
            match self.columns[index].kind {
                Kind::Number => line.extend([space, text]),
                Kind::Text(_) | Kind::Picture => line.extend([text, space]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }

    /// Rows as objects by the keys of their columns; pictures are left out.
    pub(super) fn to_json(&self, rows: &[&Row]) -> Json {
        let object = |row: &&Row| -> Json {
            let pairs = self.columns.iter().zip(&row.cells);
            let pairs = pairs.filter(|(column, _)| column.kind != Kind::Picture);
            let object: Map<String, Json> = pairs
                .map(|(column, cell)| (column.key.to_owned(), cell.to_json()))
                .collect();
            Json::Object(object)
        };
        Json::Array(rows.iter().map(object).collect())
    }
}

fn compare(a: Option<Value>, b: Option<Value>, is_descending: bool) -> Ordering {
    let turned = |order: Ordering| {
        if is_descending {
            order.reverse()
        } else {
            order
        }
    };
    match (a, b) {
        (Some(Value::Text(a)), Some(Value::Text(b))) => turned(a.cmp(&b)),
        (a, b) => {
            let (a, b) = (a.unwrap_or(Value::Missing), b.unwrap_or(Value::Missing));
            match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => turned(a.total_cmp(&b)),
                // Texts before what is missing, numbers before both.
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => (a == Value::Missing).cmp(&(b == Value::Missing)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        column("name", "name", Kind::Text(20), 0),
        column("rule", "rule", Kind::Text(10), 3),
        column("in_per_s", "in/s", Kind::Number, 1),
        column("picture", "history", Kind::Picture, 4),
        column("lag_bytes", "lag", Kind::Number, 2),
    ];

    fn row(name: &str, rule: &str, rate: Value, lag: u64) -> Row {
        Row {
            cells: vec![
                Value::text(name),
                Value::text(rule),
                rate,
                Value::Picture(vec![1.0, 4.0, 8.0]),
                Value::Bytes(lag),
            ],
            tone: Tone::Plain,
        }
    }

    fn table() -> Table {
        Table {
            columns: COLUMNS,
            rows: vec![
                row("web", "log:*", Value::Rate(5.0), 10),
                row("db", "log:*", Value::Missing, 30),
                row("Gpu", "gpu:*", Value::Rate(700.0), 0),
                row("cache", "log:*", Value::Rate(5.0), 20),
            ],
        }
    }

    fn names(rows: &[&Row]) -> Vec<String> {
        rows.iter().map(|row| row.cells[0].show()).collect()
    }

    #[test]
    fn rows_come_highest_first_equal_ones_by_name_and_missing_ones_last_in_both_directions() {
        let table = table();
        let mut sort = Table::sort_by(COLUMNS, 2);
        assert_eq!(
            names(&table.select(sort, "")),
            ["Gpu", "cache", "web", "db"]
        );
        sort.is_descending = false;
        assert_eq!(
            names(&table.select(sort, "")),
            ["cache", "web", "Gpu", "db"]
        );
        let by_name = Table::sort_by(COLUMNS, 0);
        assert!(!by_name.is_descending);
        assert_eq!(
            names(&table.select(by_name, "")),
            ["Gpu", "cache", "db", "web"]
        );
    }

    #[test]
    fn a_filter_is_looked_for_in_every_text_in_whatever_case() {
        let table = table();
        let sort = Table::sort_by(COLUMNS, 0);
        assert_eq!(names(&table.select(sort, "GPU")), ["Gpu"]);
        assert_eq!(names(&table.select(sort, "LOG:")), ["cache", "db", "web"]);
        assert!(table.select(sort, "7").is_empty(), "numbers are no text");
    }

    #[test]
    fn at_every_width_the_columns_fit_and_the_name_and_the_sorted_one_are_there() {
        let table = table();
        for sorted in 0..COLUMNS.len() {
            let sort = Table::sort_by(COLUMNS, sorted);
            let rows = table.select(sort, "");
            for columns in 24..250 {
                let fitted = table.fit(&rows, columns, sort);
                let gaps = GAP * (fitted.len() - 1);
                let used: usize = fitted.iter().map(|(_, width)| width).sum();
                assert!(used + gaps <= columns, "{fitted:?} in {columns}");
                assert!(fitted.iter().any(|&(index, _)| index == 0), "{columns}");
                assert!(
                    fitted.iter().any(|&(index, _)| index == sorted),
                    "{columns}"
                );
            }
        }
        let sort = Table::sort_by(COLUMNS, 2);
        let wide = table.fit(&table.select(sort, ""), 100, sort);
        assert_eq!(wide.len(), COLUMNS.len());
    }

    #[test]
    fn no_name_can_move_the_cursor_or_turn_a_line_around() {
        let hostile = "a\x1b[2J\r\n\tb\u{9b}31m\u{202e}c\u{200b}é漢";
        let Value::Text(shown) = Value::text(hostile) else {
            panic!("it is a text");
        };
        assert_eq!(
            shown,
            "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}b\u{fffd}31m\u{fffd}c\u{fffd}é漢"
        );
    }

    #[test]
    fn a_cut_text_is_never_wider_than_asked() {
        let text = "ab漢字cd🦀ef";
        for columns in 0..15 {
            let short = cut(text, columns);
            assert!(width(&short) <= columns, "{short:?} in {columns}");
        }
        assert_eq!(cut(text, 5), "ab漢…");
        assert_eq!(cut(text, 12), text);
    }

    #[test]
    fn a_picture_is_as_wide_as_asked_and_its_highest_is_full() {
        assert_eq!(picture(&[1.0, 0.0, 4.0, 8.0], 6), "  ▁ ▄█");
        assert_eq!(picture(&[100.0, 1.0, 2.0], 2), "▄█");
        assert_eq!(picture(&[], 3), "   ");
    }

    #[test]
    fn numbers_are_short_and_exact_in_json() {
        assert_eq!(Value::Rate(0.31).show(), "0.3");
        assert_eq!(Value::Rate(0.0).show(), "0");
        assert_eq!(Value::Count(1_234_567).show(), "1.23 M");
        assert_eq!(Value::Seconds(0.00085).show(), "850 us");
        assert_eq!(Value::Seconds(7_801.0).show(), "2h 10m");
        assert_eq!(
            Value::number(Some(f64::NAN), Value::Percent),
            Value::Missing
        );
        let table = table();
        let rows = table.select(Table::sort_by(COLUMNS, 4), "");
        let json = table.to_json(&rows);
        assert_eq!(
            json[0],
            json!({"name": "db", "rule": "log:*", "in_per_s": null, "lag_bytes": 30})
        );
    }
}
