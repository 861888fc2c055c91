//! The plot: rows per second and worst commit by rows per commit, as SVG that reads on light and on dark ground.

use std::fmt::Write as _;

use crate::page::Measured;
use crate::store::{Journal, Sizes, Store, Sync, Synchronous};

const PANEL_WIDTH: f64 = 470.0;
const PANEL_HEIGHT: f64 = 330.0;
/// Room for the labels of a panel.
const LEFT: f64 = 62.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 48.0;
const LEGEND_HEIGHT: f64 = 96.0;

/// What a panel shows.
struct Panel<'a> {
    title: &'static str,
    unit: &'static str,
    x: f64,
    y: f64,
    reader: bool,
    figure: &'a dyn Fn(&Measured) -> Option<f64>,
}

/// Middle tones: they stand out from white and from black.
fn colour(store: Store) -> &'static str {
    match store {
        Store::Table(Journal::Wal, _) => "#3b82c4",
        Store::Table(Journal::Delete, _) => "#d9822b",
        Store::Table(Journal::Memory, _) => "#9a6fd0",
        Store::Text(_) => "#2f9e5f",
    }
}

/// Durable at every commit is a full line, at times a dashed one, never a dotted one.
fn dashes(store: Store) -> &'static str {
    match store {
        Store::Table(_, Synchronous::Full) | Store::Text(Sync::Always) => "none",
        Store::Table(_, Synchronous::Normal) | Store::Text(Sync::Interval) => "7 4",
        Store::Table(_, Synchronous::Off) | Store::Text(Sync::Never) => "2 3",
    }
}

/// The whole plot.
pub(crate) fn svg(measured: &[Measured], sizes: &Sizes) -> String {
    let rate = |entry: &Measured| Some(entry.rows_per_s().median);
    let worst = |entry: &Measured| entry.worst_commit_ms();
    let [width, height] = [2.0 * PANEL_WIDTH, 2.0 * PANEL_HEIGHT + LEGEND_HEIGHT];
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <title>SQLite and millpond as log sinks: rows per second and worst commit by rows per commit</title>\n\
         <style>text {{ fill: #57606a }} .grid {{ stroke: #8b949e; stroke-opacity: 0.3 }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #b1bac4 }} }}</style>\n"
    );
    let panels = [
        ("Rows per second, nobody reads", 0.0, 0.0, false),
        ("Rows per second, one reads", PANEL_WIDTH, 0.0, true),
        ("Worst commit, ms, nobody reads", 0.0, PANEL_HEIGHT, false),
        (
            "Worst commit, ms, one reads",
            PANEL_WIDTH,
            PANEL_HEIGHT,
            true,
        ),
    ];
    for (title, x, y, reader) in panels {
        let is_rate = y == 0.0;
        let panel = Panel {
            title,
            unit: if is_rate { "rows/s" } else { "ms" },
            x,
            y,
            reader,
            figure: if is_rate { &rate } else { &worst },
        };
        draw_panel(&mut out, &panel, measured, sizes);
    }
    draw_legend(&mut out, 2.0 * PANEL_HEIGHT);
    out.push_str("</svg>\n");
    out
}

fn add(out: &mut String, element: std::fmt::Arguments<'_>) {
    out.write_fmt(element).expect("a string takes everything");
    out.push('\n');
}

fn draw_panel(out: &mut String, panel: &Panel<'_>, measured: &[Measured], sizes: &Sizes) {
    // Both panels of a kind have one scale: they are there to be compared.
    let figures: Vec<f64> = measured
        .iter()
        .filter_map(panel.figure)
        .filter(|&figure| figure > 0.0)
        .collect();
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = figures.iter().copied().fold(0.0, f64::max);
    if figures.is_empty() {
        return;
    }
    let [low, high] = [least.log10().floor(), greatest.log10().ceil()];
    let high = high.max(low + 1.0);
    // One place for each batch, and one for rows that nobody waits for.
    let places = sizes.batches.len();
    let step = (PANEL_WIDTH - LEFT - RIGHT) / (places as f64 + 0.4);
    let x_of = |place: usize| panel.x + LEFT + step * (place as f64 + 0.4);
    let [top, bottom] = [panel.y + TOP, panel.y + PANEL_HEIGHT - BOTTOM];
    let y_of = |figure: f64| bottom - (figure.log10() - low) / (high - low) * (bottom - top);
    let [left, right] = [panel.x + LEFT, panel.x + PANEL_WIDTH - RIGHT];
    add(
        out,
        format_args!(
            "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
            panel.y + 22.0,
            panel.title
        ),
    );
    for decade in low as i32..=high as i32 {
        let y = y_of(10f64.powi(decade));
        let label = decade_label(decade);
        add(
            out,
            format_args!(
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                left - 6.0,
                y + 4.0
            ),
        );
    }
    for (place, batch) in sizes.batches.iter().enumerate() {
        add(
            out,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{batch}</text>",
                x_of(place),
                bottom + 18.0
            ),
        );
    }
    if panel.unit == "rows/s" {
        add(
            out,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">none</text>",
                x_of(places),
                bottom + 18.0
            ),
        );
    }
    add(
        out,
        format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">rows per commit</text>\
         <text transform=\"translate({:.1} {:.1}) rotate(-90)\" text-anchor=\"middle\">{} (log scale)</text>",
            (left + right) / 2.0,
            bottom + 38.0,
            panel.x + 14.0,
            (top + bottom) / 2.0,
            panel.unit
        ),
    );
    for store in Store::all() {
        let mut points = Vec::new();
        for entry in measured {
            let cell = &entry.cell;
            let figure = (panel.figure)(entry).filter(|&figure| figure > 0.0);
            let (true, Some(figure)) = (cell.store == store && cell.reader == panel.reader, figure)
            else {
                continue;
            };
            let place = match cell.batch {
                Some(rows) => sizes.batches.iter().position(|&known| known == rows),
                None => Some(places),
            };
            points.extend(place.map(|place| (place, x_of(place), y_of(figure))));
        }
        draw_line(out, store, &points, places);
    }
}

/// `points` are place, x and y. What stands at `unconfirmed` is a mark of its own.
fn draw_line(out: &mut String, store: Store, points: &[(usize, f64, f64)], unconfirmed: usize) {
    let colour = colour(store);
    let line: Vec<String> = points
        .iter()
        .filter(|(place, _, _)| *place != unconfirmed)
        .map(|(_, x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    add(
        out,
        format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{}\" points=\"{}\"><title>{}</title></polyline>",
            dashes(store),
            line.join(" "),
            store.name()
        ),
    );
    for (place, x, y) in points {
        let radius = if *place == unconfirmed { 5.0 } else { 2.5 };
        let fill = if *place == unconfirmed {
            "none"
        } else {
            colour
        };
        add(
            out,
            format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"><title>{}</title></circle>",
                store.name()
            ),
        );
    }
}

fn draw_legend(out: &mut String, top: f64) {
    let stores = Store::all();
    for (index, store) in stores.iter().enumerate() {
        let x = LEFT + (index / 3) as f64 * 215.0;
        let y = top + 14.0 + (index % 3) as f64 * 20.0;
        add(
            out,
            format_args!(
                "<line x1=\"{x:.0}\" x2=\"{:.0}\" y1=\"{y:.0}\" y2=\"{y:.0}\" stroke=\"{}\" stroke-width=\"2\" \
             stroke-dasharray=\"{}\"/><text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                x + 40.0,
                colour(*store),
                dashes(*store),
                x + 48.0,
                y + 4.0,
                store.name()
            ),
        );
    }
    let note = "Full line: durable at every commit; dashed: at times; dotted: never. Rings: nobody waits for rows.";
    add(
        out,
        format_args!(
            "<text x=\"{LEFT:.0}\" y=\"{:.0}\">{note}</text>",
            top + 82.0
        ),
    );
}

fn decade_label(decade: i32) -> String {
    match decade {
        6.. => format!("{} M", 10u64.pow(decade as u32 - 6)),
        3..6 => format!("{} k", 10u64.pow(decade as u32 - 3)),
        0..3 => 10u64.pow(decade as u32).to_string(),
        _ => format!("{:.*}", -decade as usize, 10f64.powi(decade)),
    }
}
