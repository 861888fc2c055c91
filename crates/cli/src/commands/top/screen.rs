//! A frame: the lines above, the table, the keys. Of any size; what has no room is left out.

use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::head::{self, Piece};
use super::looks::Shown;
use super::model::{Model, View};
use super::table::{Tone, cut, picture, rate_text};
use super::ui::Ui;
use crate::units::format_duration;

/// With this many rows there is room for a picture of the bus.
const CHART_ROWS_MIN: u16 = 40;
const CHART_ROWS: u16 = 6;

const HELP: &str = "\
\x201-6  Tab       tables: sources, services, rules, subscribers, GPUs, daemon
 < >  ← →       sort by another column; r: the other way around
 /              only rows that hold a text; Enter keeps it, Esc takes it back
 space          pause, and go on
 + -            look more often, less often
 ↑ ↓ PgUp PgDn  scroll; Home, End
 Ctrl-L         draw everything anew
 Ctrl-Z         back to the shell; `fg` comes back here
 q  Ctrl-C      leave

 in/s      events that publishers offer           drop/s   lost, for any cause
 lag       bytes that wait in its lanes           fill     of its fullest lane
 full      lost: lane full, the newest dropped    late     lost: deadline is over
 long      lost: over the limit of the rule       other    lost: died, quarantined
 merged/s  a later one or an aggregate stands for them
 limited/s kept out of the log by a rate limit or sampling
 p50, p99  of the last minute: writes, syncs, events in a group or batch

 red: loses now, or cannot be read; yellow: is behind, or has lost before";

/// How things look: in colours, or without any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) is_coloured: bool,
}

impl Theme {
    fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        match (tone, self.is_coloured) {
            (Tone::Plain, _) => plain,
            (Tone::Quiet, _) => plain.add_modifier(Modifier::DIM),
            (Tone::Strong, _) => plain.add_modifier(Modifier::BOLD),
            (Tone::Warn, true) => plain.fg(Color::Yellow),
            (Tone::Warn, false) => plain.add_modifier(Modifier::BOLD),
            (Tone::Bad, true) => plain.fg(Color::Red).add_modifier(Modifier::BOLD),
            (Tone::Bad, false) => plain.add_modifier(Modifier::REVERSED),
        }
    }
}

/// What has to be known of a frame for the next key: rows of the table that are shown, and that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) rows_shown: usize,
    pub(super) rows: usize,
}

/// Draws all of it.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    shown: &Shown,
    ui: &Ui,
    theme: Theme,
    zone: &TimeZone,
) -> Page {
    let area = frame.area();
    let mut canvas = Canvas {
        frame,
        area,
        row: 0,
        theme,
    };
    let page = match shown {
        Shown::Bus(model) => {
            for line in head::lines(model, &format_duration(ui.interval), zone) {
                canvas.pieces(&line);
            }
            if area.height >= CHART_ROWS_MIN {
                canvas.chart(model);
            }
            canvas.table(model, ui)
        }
        Shown::NoBus(none) => {
            for line in head::no_bus(none, zone) {
                canvas.pieces(&line);
            }
            Page::default()
        }
    };
    canvas.foot(ui);
    if ui.has_help {
        canvas.help();
    }
    page
}

struct Canvas<'c, 'f> {
    frame: &'c mut Frame<'f>,
    area: Rect,
    /// The next one to draw in.
    row: u16,
    theme: Theme,
}

impl Canvas<'_, '_> {
    /// Room for `rows` more rows, the last of the screen left out; less where there is less.
    fn take(&mut self, rows: u16) -> Option<Rect> {
        let left = self.area.height.saturating_sub(1 + self.row);
        let height = rows.min(left);
        let area = Rect::new(self.area.x, self.area.y + self.row, self.area.width, height);
        self.row += height;
        (height > 0).then_some(area)
    }

    fn line(&mut self, line: Line<'_>) {
        if let Some(area) = self.take(1) {
            self.frame.render_widget(line, area);
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) {
        let spans = pieces.iter().map(|piece| {
            let style = self.theme.style(piece.tone);
            Span::styled(piece.text.as_str(), style)
        });
        let line: Line<'_> = spans.collect();
        self.line(line);
    }

    /// What was published and dropped in the last minutes, high enough to see waves.
    fn chart(&mut self, model: &Model) {
        let columns = usize::from(self.area.width);
        let parts = &model.published_parts;
        let parts = &parts[parts.len().saturating_sub(columns)..];
        let highest = parts.iter().copied().fold(0.0, f64::max);
        let title = format!(
            "events in per second, 10 s each; highest {}/s",
            rate_text(highest)
        );
        let quiet = self.theme.style(Tone::Quiet);
        self.line(Line::styled(title, quiet));
        let rows = CHART_ROWS - 2;
        for row in 0..rows {
            // Each row is a picture of what sticks out above the ones below it.
            let step = highest / f64::from(rows);
            let floor = step * f64::from(rows - 1 - row);
            let mut above: Vec<f64> = parts
                .iter()
                .map(|part| (part - floor).clamp(0.0, step))
                .collect();
            // The scale of a full row; it is beside the screen.
            above.insert(0, step);
            let text = picture(&above, above.len());
            let text: String = text.chars().skip(1).collect();
            self.line(Line::raw(text));
        }
        let dropped = &model.dropped_parts;
        let dropped = &dropped[dropped.len().saturating_sub(columns)..];
        let bad = self
            .theme
            .style(match dropped.iter().any(|&part| part > 0.0) {
                true => Tone::Bad,
                false => Tone::Quiet,
            });
        let marks: String = dropped
            .iter()
            .map(|&part| if part > 0.0 { 'x' } else { '·' })
            .collect();
        self.line(Line::styled(marks, bad));
    }

    fn table(&mut self, model: &Model, ui: &Ui) -> Page {
        let columns = usize::from(self.area.width);
        let table = model.table(ui.view);
        let rows = table.select(ui.sort(), &ui.filter);
        self.tabs(model, ui, rows.len());
        let fitted = table.fit(&rows, columns, ui.sort());
        let bold = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
        let title = table.title_text(&fitted, ui.sort());
        self.line(Line::styled(title, bold));
        let left = self.area.height.saturating_sub(1 + self.row);
        let page = Page {
            rows_shown: left.into(),
            rows: rows.len(),
        };
        let offset = ui.offset.min(rows.len().saturating_sub(page.rows_shown));
        for row in rows.iter().skip(offset).take(left.into()) {
            let text = table.row_text(&fitted, row);
            self.line(Line::styled(text, self.theme.style(row.tone)));
        }
        if rows.is_empty() {
            let quiet = self.theme.style(Tone::Quiet);
            self.line(Line::styled(nothing(ui, table.rows.len()), quiet));
        }
        page
    }

    fn tabs(&mut self, model: &Model, ui: &Ui, shown: usize) {
        let mut spans = Vec::new();
        for (number, view) in (1..).zip(View::ALL) {
            let count = match view {
                View::Daemon => String::new(),
                _ => format!(" {}", model.table(view).rows.len()),
            };
            let style = match view == ui.view {
                true => Style::new().add_modifier(Modifier::REVERSED),
                false => self.theme.style(Tone::Quiet),
            };
            // The one that is shown is told by more than its colours.
            let (left, right) = if view == ui.view {
                ("[", "]")
            } else {
                (" ", " ")
            };
            // Where there is little room, the first letters of the others do.
            let name = match self.area.width < 76 && view != ui.view {
                true => &view.name()[..3],
                false => view.name(),
            };
            spans.push(Span::styled(
                format!("{left}{number} {name}{count}{right}"),
                style,
            ));
        }
        if !ui.filter.is_empty() {
            let text = format!(" {shown} with {:?}", ui.filter);
            spans.insert(0, Span::styled(text, self.theme.style(Tone::Strong)));
        }
        self.line(Line::from(spans));
    }

    fn foot(&mut self, ui: &Ui) {
        let Some(row) = self.area.height.checked_sub(1) else {
            return;
        };
        let area = Rect::new(self.area.x, self.area.y + row, self.area.width, 1);
        let line = if ui.typing.is_some() {
            Line::from(format!(
                "filter: {}_   Enter keeps it, Esc takes it back",
                ui.filter
            ))
        } else {
            let keys = "? help  q quit  / filter  < > sort  r reverse  1-6 Tab tables  space pause";
            let mut spans = Vec::new();
            if ui.is_paused {
                let style = Style::new().add_modifier(Modifier::REVERSED);
                spans.push(Span::styled("PAUSED", style));
                spans.push(Span::raw("  "));
            }
            spans.push(Span::styled(keys, self.theme.style(Tone::Quiet)));
            Line::from(spans)
        };
        self.frame.render_widget(Clear, area);
        self.frame.render_widget(line, area);
    }

    fn help(&mut self) {
        let wanted = HELP.lines().map(|line| line.chars().count()).max();
        let wanted = u16::try_from(wanted.unwrap_or(0) + 3).unwrap_or(u16::MAX);
        let rows = u16::try_from(HELP.lines().count() + 2).unwrap_or(u16::MAX);
        let (width, height) = (wanted.min(self.area.width), rows.min(self.area.height));
        let area = Rect::new(
            self.area.x + (self.area.width - width) / 2,
            self.area.y + (self.area.height - height) / 2,
            width,
            height,
        );
        let inner = usize::from(width.saturating_sub(2));
        let text: Text<'_> = HELP
            .lines()
            .map(|line| Line::raw(cut(line, inner)))
            .collect();
        let frame = Block::bordered().title(" millpond top: any key closes this ");
        self.frame.render_widget(Clear, area);
        self.frame
            .render_widget(Paragraph::new(text).block(frame), area);
    }
}

/// Why there is no row.
fn nothing(ui: &Ui, rows: usize) -> String {
    if rows > 0 {
        return format!("nothing holds {:?}; Esc shows all {rows} rows", ui.filter);
    }
    match ui.view {
        View::Sources => "nothing has been published here yet",
        View::Services => "nothing has been written here yet",
        View::Rules => "the rules of this bus cannot be read",
        View::Subscribers => "nobody subscribes",
        View::Gpus => "no samples of GPUs: `millpond telemetry` publishes them",
        View::Daemon => "no daemon has told how it does",
    }
    .to_owned()
}
