//! The report as pages: what is said once, in Markdown and in HTML.

use std::fs;
use std::path::Path;

use millpond_loadgen::Error;
use millpond_loadgen::plot::escaped;

use super::columns::Column;
use super::growth::{self, slug};
use super::verdict::{self, Outcome, trouble};
use super::words::{meaning, ratio, varied, varied_value};
use super::works::{Curve, PartOf, Side, Work, parts, side, spread, value};
use super::{Head, ROWS_FILE};
use crate::row::Row;

const TITLE: &str = "millpond side by side";
const TINY: &str = "A tiny run: it shows that everything runs. Its figures mean nothing.";
const HOW_TO_READ: [&str; 6] = [
    "Rounds of all who do the same work are interleaved, and the one that begins changes from round to round. `median` is \
     that of the rounds, `range` the least and the greatest of them.",
    "`vs millpond`: how many times as fast as millpond's first row of that table, by pairs of rounds where both have as \
     many. Who wins is said of the best row of each side, and only where their ranges do not overlap.",
    "p50, p99, p99.9: medians of what each round has; max: the greatest of all rounds. CPU is that of all processes that \
     took part: `CPU s/M` a million events, `CPU s/GB` 10^9 bytes, `CPU ms` the whole. MiB is the sum of their greatest \
     resident memory, in which shared pages count for each. `disk`: what is left on the disk.",
    "`lost`: events that did not arrive, of all rounds; told to the reader or not, as the promises say.",
    "A floor is what the machine itself needs, and nothing that one could use instead. Peers `in process` have threads in \
     the place of processes: no second process, nothing that outlives a crash.",
    "A knee is where the cost is first above 1.5 times its least, behind that least.",
];
const STYLE: &str = "\
:root{color-scheme:light}
body{font:16px/1.45 system-ui,sans-serif;max-width:76rem;margin:0 auto;padding:1rem;color:#1b1f24;background:#fff}
h1{font-size:1.6rem}h2{margin-top:2.2rem;border-bottom:1px solid #ccd}h3{font-size:1.05rem;margin:1.6rem 0 .4rem}
nav a{display:inline-block;padding:.35rem .6rem;margin:.15rem .1rem;background:#eef1f8;border-radius:.4rem;text-decoration:none}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.86rem;white-space:nowrap}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e4e6ee}
th.t,td.t{text-align:left}td.r{white-space:normal;min-width:14rem;text-align:left}
td:first-child,th:first-child{position:sticky;left:0;background:#fff;white-space:normal;min-width:8rem}
tr.ours td{font-weight:600}tr.floor td{color:#666;font-style:italic}
svg{width:100%;min-width:34rem;max-width:56rem;height:auto}
pre{overflow-x:auto;background:#f4f5f9;padding:.6rem}
.warn{background:#fff3cd;padding:.6rem;border-radius:.4rem}
";

/// A page that stands beside the report.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Other {
    file: String,
    title: String,
}

impl Other {
    /// Its title is its first heading, or else its name.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default();
        let file = name.to_string_lossy().into_owned();
        let text = fs::read(path)
            .map_err(|error| Error::new(format!("{} cannot be read: {error}", path.display())))?;
        let text = String::from_utf8_lossy(&text);
        let title = text.lines().find_map(|line| line.strip_prefix("# "));
        let title = title.unwrap_or(&file).to_owned();
        Ok(Other { file, title })
    }
}

/// How a line of a table is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Ours,
    Floor,
    Plain,
}

struct Line {
    look: Look,
    cells: Vec<String>,
}

enum Block {
    /// With its level, 2 or 3.
    Heading(u8, String),
    Text(String),
    Warning(String),
    List(Vec<String>),
    /// Text, and where it leads.
    Links(Vec<(String, String)>),
    Table {
        header: Vec<String>,
        is_text: Vec<bool>,
        lines: Vec<Line>,
    },
    Plot {
        file: String,
        words: String,
        svg: String,
    },
    Code(Vec<String>),
}

/// Everything there is to say.
pub(super) struct Page(Vec<Block>);

impl Page {
    pub(super) fn of(heads: &[Head], rows: &[Row], others: &[Other]) -> Self {
        let parts = parts(rows);
        let mut page = Page(Vec::new());
        page.put_head(heads, rows);
        page.put_winners(&parts);
        for part in &parts {
            page.0.push(Block::Heading(2, part.name.to_owned()));
            part.works.iter().for_each(|work| page.put_work(work));
            part.curves
                .iter()
                .for_each(|curve| page.put_curve(part.name, curve));
        }
        page.put_end(heads, rows, others);
        page
    }

    fn put_head(&mut self, heads: &[Head], rows: &[Row]) {
        if heads.iter().any(|head| head.is_tiny) {
            self.0.push(Block::Warning(TINY.to_owned()));
        }
        let measured = heads.iter().map(|head| {
            let commit = head.commit.as_deref().unwrap_or("unknown");
            format!(
                "{}: {}; millpond {}, commit {commit}",
                head.date, head.machine, head.version
            )
        });
        let measured: Vec<_> = measured.collect();
        self.0.push(match measured.is_empty() {
            true => {
                Block::Text("The rows do not say when and where they were measured.".to_owned())
            }
            false => Block::List(measured),
        });
        let counts = rows.iter().map(|row| row.rounds.len());
        let counts: Vec<_> = counts.filter(|&count| count > 0).collect();
        if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
            let rounds = match least == most {
                true => format!("{} each", varied("rounds", *least as u64)),
                false => format!("{least} to {most} rounds each"),
            };
            let hint = match *least < 3 {
                true => "; fewer than three say nothing about spread",
                false => "",
            };
            self.0
                .push(Block::Text(format!("{} rows, {rounds}{hint}.", rows.len())));
        }
        self.0.push(Block::Heading(2, "How to read it".to_owned()));
        self.0
            .push(Block::List(HOW_TO_READ.map(str::to_owned).to_vec()));
    }

    /// One line for each piece of work that both millpond and others have done.
    fn put_winners(&mut self, parts: &[PartOf<'_>]) {
        let mut lines = Vec::new();
        for part in parts {
            for work in &part.works {
                let cells = match verdict::outcome(work) {
                    Outcome::Alone => continue,
                    Outcome::Close { ours, other } => (
                        "too close to tell".to_owned(),
                        String::new(),
                        format!("{}, {}", ours.peer, other.peer),
                        Look::Plain,
                    ),
                    Outcome::Won {
                        winner,
                        next,
                        factor,
                    } => (
                        winner.peer.clone(),
                        ratio(factor),
                        next.peer.clone(),
                        match side(winner) {
                            Side::Millpond => Look::Ours,
                            _ => Look::Plain,
                        },
                    ),
                };
                let (winner, factor, than, look) = cells;
                let (part, work) = (part.name.to_owned(), work.words.to_owned());
                lines.push(Line {
                    look,
                    cells: vec![part, work, winner, factor, than],
                });
            }
        }
        if lines.is_empty() {
            return;
        }
        self.0.push(Block::Heading(2, "Who wins where".to_owned()));
        let header = [
            "part",
            "work",
            "wins",
            "by",
            "than the best of the other side",
        ];
        self.0.push(Block::Table {
            header: header.map(str::to_owned).to_vec(),
            is_text: vec![true; header.len()],
            lines,
        });
    }

    fn put_work(&mut self, work: &Work<'_>) {
        self.0.push(Block::Heading(3, work.words.to_owned()));
        let columns = Column::of(work);
        let lines = work.rows.iter().map(|row| Line {
            look: match side(row) {
                Side::Millpond => Look::Ours,
                Side::Floor => Look::Floor,
                _ => Look::Plain,
            },
            cells: columns
                .iter()
                .map(|column| column.cell(work, row))
                .collect(),
        });
        let title = |column: &Column| column.title(work.figure).to_owned();
        self.0
            .push(Block::Text(format!("Figure: {}.", meaning(work.figure))));
        self.0.push(Block::Table {
            header: columns.iter().map(title).collect(),
            is_text: columns.iter().map(|column| column.is_text()).collect(),
            lines: lines.collect(),
        });
        // Of those without any figure the table has the reason.
        let broken = work.rows.iter().filter(|row| spread(row).is_some());
        let broken = broken.filter_map(|row| {
            let rounds = varied("rounds", row.rounds.len() as u64);
            trouble(row).map(|why| format!("{} {why}, after {rounds}.", row.peer))
        });
        let said: Vec<_> = verdict::sentences(work).into_iter().chain(broken).collect();
        if !said.is_empty() {
            self.0.push(Block::Text(said.join(" ")));
        }
    }

    fn put_curve(&mut self, part: &str, curve: &Curve<'_>) {
        let what = growth::cost_words(curve.figure);
        self.0.push(Block::Heading(
            3,
            format!("{part} by {}: {what}", curve.name),
        ));
        for (file, svg) in growth::plots(part, curve) {
            let words = format!("{what} by {}", curve.name);
            self.0.push(Block::Plot { file, words, svg });
        }
        let names = growth::names(curve);
        let lines = growth::values(curve).into_iter().map(|at| {
            let of = curve.series.iter().map(|series| {
                let mut points = series.points.iter();
                let point = points.find(|row| value(row) == at);
                point.map_or(String::new(), |row| growth::cell(row))
            });
            let cells = std::iter::once(varied_value(curve.name, at)).chain(of);
            Line {
                look: Look::Plain,
                cells: cells.collect(),
            }
        });
        self.0.push(Block::Table {
            is_text: vec![false; names.len() + 1],
            lines: lines.collect(),
            header: std::iter::once(curve.name.to_owned())
                .chain(names)
                .collect(),
        });
        if let Some(work) = growth::only_work(curve) {
            self.0.push(Block::Text(format!("Work: {work}.")));
        }
        self.0.push(Block::List(growth::sentences(curve)));
    }

    fn put_end(&mut self, heads: &[Head], rows: &[Row], others: &[Other]) {
        let mut absent: Vec<(String, usize)> = Vec::new();
        for row in rows {
            let Some(why) = trouble(row) else { continue };
            let line = format!("{} {why}", row.peer);
            match absent.iter_mut().find(|(known, _)| *known == line) {
                Some((_, count)) => *count += 1,
                None => absent.push((line, 1)),
            }
        }
        if !absent.is_empty() {
            self.0
                .push(Block::Heading(2, "What did not run".to_owned()));
            let lines = absent.into_iter().map(|(line, count)| match count {
                1 => line,
                count => format!("{line} ({count} rows)"),
            });
            self.0.push(Block::List(lines.collect()));
        }
        let mut versions: Vec<(&str, &str)> = Vec::new();
        for row in rows.iter().filter(|row| !row.version.is_empty()) {
            // What stands behind the comma is how it is used.
            let name = row.peer.split(',').next().unwrap_or(&row.peer);
            if !versions.contains(&(name, &row.version)) {
                versions.push((name, &row.version));
            }
        }
        versions.sort_unstable();
        if !versions.is_empty() {
            self.0.push(Block::Heading(2, "Versions".to_owned()));
            let cells = versions.into_iter().map(|(name, version)| Line {
                look: Look::Plain,
                cells: vec![name.to_owned(), version.to_owned()],
            });
            self.0.push(Block::Table {
                header: ["who", "version"].map(str::to_owned).to_vec(),
                is_text: vec![true; 2],
                lines: cells.collect(),
            });
        }
        if !others.is_empty() {
            self.0
                .push(Block::Heading(2, "More in this directory".to_owned()));
            let links = others
                .iter()
                .map(|other| (other.title.clone(), other.file.clone()));
            self.0.push(Block::Links(links.collect()));
        }
        self.0
            .push(Block::Heading(2, "How to do it again".to_owned()));
        self.0.push(Block::Text(format!(
            "In a checkout, `cargo xtask report` measures all of it, peers with it, and makes this report. Its rows are in \
             `{ROWS_FILE}`, an object a line. What of them is millpond's own:"
        )));
        let again = format!("millpond bench --only-report --rows {ROWS_FILE} --report .");
        let commands = heads.iter().map(|head| head.command.clone());
        self.0.push(Block::Code(
            commands
                .chain([format!("{again}   # the pages, from the rows")])
                .collect(),
        ));
    }

    /// Names and texts of the pictures.
    pub(super) fn plots(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.0.iter().filter_map(|block| match block {
            Block::Plot { file, svg, .. } => Some((file.clone(), svg.clone())),
            _ => None,
        })
    }

    /// For a reader of files, or of a repository.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("# {TITLE}\n");
        for block in &self.0 {
            text.push('\n');
            match block {
                Block::Heading(level, words) => {
                    let marks = "#".repeat(usize::from(*level));
                    text += &format!("{marks} {}\n", marked(words));
                }
                Block::Text(words) => text += &format!("{}\n", marked(words)),
                Block::Warning(words) => text += &format!("**{}**\n", marked(words)),
                Block::List(lines) => {
                    for line in lines {
                        text += &format!("- {}\n", marked(line));
                    }
                }
                Block::Links(links) => {
                    for (words, target) in links {
                        text += &format!("- [{}]({target})\n", marked(words));
                    }
                }
                Block::Table {
                    header,
                    is_text,
                    lines,
                } => text += &markdown_table(header, is_text, lines),
                Block::Plot { file, words, .. } => {
                    text += &format!("![{}]({file})\n", marked(words))
                }
                Block::Code(lines) => text += &format!("```sh\n{}\n```\n", lines.join("\n")),
            }
        }
        text
    }

    /// One file with everything in it, for a phone too.
    pub(super) fn html(&self) -> String {
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{TITLE}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{TITLE}</h1>\n<nav>"
        );
        for block in &self.0 {
            if let Block::Heading(2, words) = block {
                let name = escaped(words);
                text += &format!("<a href=\"#{}\">{name}</a>", slug(words));
            }
        }
        text += "</nav>\n";
        for block in &self.0 {
            text += &match block {
                Block::Heading(2, words) => {
                    format!("<h2 id=\"{}\">{}</h2>\n", slug(words), coded(words))
                }
                Block::Heading(level, words) => format!("<h{level}>{}</h{level}>\n", coded(words)),
                Block::Text(words) => format!("<p>{}</p>\n", coded(words)),
                Block::Warning(words) => format!("<p class=\"warn\">{}</p>\n", coded(words)),
                Block::List(lines) => {
                    let lines = lines
                        .iter()
                        .map(|line| format!("<li>{}</li>\n", coded(line)));
                    format!("<ul>\n{}</ul>\n", lines.collect::<String>())
                }
                Block::Links(links) => {
                    let links = links.iter().map(|(words, target)| {
                        let target = escaped(target).replace('"', "&quot;");
                        format!("<li><a href=\"{target}\">{}</a></li>\n", coded(words))
                    });
                    format!("<ul>\n{}</ul>\n", links.collect::<String>())
                }
                Block::Table {
                    header,
                    is_text,
                    lines,
                } => html_table(header, is_text, lines),
                Block::Plot { svg, .. } => format!("<div class=\"wide\">\n{svg}</div>\n"),
                Block::Code(lines) => {
                    format!("<pre>{}</pre>\n", escaped(&lines.join("\n")))
                }
            };
        }
        text += "</body>\n</html>\n";
        text
    }
}

/// Text in which nothing means something to Markdown, but for code between backticks.
fn marked(words: &str) -> String {
    let mut text = String::new();
    let mut is_code = false;
    for character in words.chars() {
        match character {
            '`' => is_code = !is_code,
            '\n' | '\r' => {
                text.push(' ');
                continue;
            }
            '*' | '[' | ']' if !is_code => text.push('\\'),
            // Inside of code, too: a table ends its cells with them.
            '|' => text.push('\\'),
            '<' if !is_code => {
                text += "&lt;";
                continue;
            }
            _ => {}
        }
        text.push(character);
    }
    text
}

/// The same for HTML: what is between backticks is code.
fn coded(words: &str) -> String {
    let mut text = String::new();
    let pieces: Vec<&str> = words.split('`').collect();
    for (at, piece) in pieces.iter().enumerate() {
        // A backtick without its other half is one.
        let is_code = at % 2 == 1 && at + 1 < pieces.len();
        match is_code {
            true => text += &format!("<code>{}</code>", escaped(piece)),
            false if at % 2 == 1 => text += &format!("`{}", escaped(piece)),
            false => text += &escaped(piece),
        }
    }
    text
}

fn markdown_table(header: &[String], is_text: &[bool], lines: &[Line]) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<_> = cells.collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut header.iter().map(|cell| marked(cell)));
    let marks = is_text.iter().map(|&is_text| match is_text {
        true => "---".to_owned(),
        false => "---:".to_owned(),
    });
    text += &line(&mut marks.into_iter());
    for Line { look, cells } in lines {
        let mut cells = cells.iter().enumerate().map(|(at, cell)| {
            let cell = marked(cell);
            match look {
                Look::Ours if at == 0 => format!("**{cell}**"),
                Look::Floor if at == 0 => format!("*{cell}*"),
                _ => cell,
            }
        });
        text += &line(&mut cells);
    }
    text
}

fn html_table(header: &[String], is_text: &[bool], lines: &[Line]) -> String {
    /// A reason, and no figure.
    const LONG: usize = 40;
    let class = |at: usize, cell: &str| match is_text.get(at) {
        Some(true) => " class=\"t\"",
        _ if cell.chars().count() > LONG => " class=\"r\"",
        _ => "",
    };
    let mut text = "<div class=\"wide\"><table>\n<tr>".to_owned();
    for (at, cell) in header.iter().enumerate() {
        text += &format!("<th{}>{}</th>", class(at, ""), coded(cell));
    }
    text += "</tr>\n";
    for Line { look, cells } in lines {
        text += match look {
            Look::Ours => "<tr class=\"ours\">",
            Look::Floor => "<tr class=\"floor\">",
            Look::Plain => "<tr>",
        };
        for (at, cell) in cells.iter().enumerate() {
            text += &format!("<td{}>{}</td>", class(at, cell), coded(cell));
        }
        text += "</tr>\n";
    }
    text + "</table></div>\n"
}
