//! `--once`: what the screen shows, as text or JSON, for scripts.

use std::io::{self, Write};

use anstyle::Style;
use jiff::tz::TimeZone;
use millpond_bus::DropCounts;
use serde_json::{Value as Json, json};

use super::head;
use super::model::{Model, View};
use super::table::{Sort, Tone};
use crate::print::{BOLD, DIM, PLAIN, RED, YELLOW};

/// What is asked for of it.
pub(super) struct Asked<'a> {
    /// All of them where it is `None`.
    pub(super) view: Option<View>,
    pub(super) sort: Option<Sort>,
    pub(super) filter: &'a str,
    /// `1s`
    pub(super) every: &'a str,
    pub(super) columns: usize,
}

impl Asked<'_> {
    fn views(&self) -> impl Iterator<Item = View> {
        let asked = self.view;
        let views = View::ALL.into_iter();
        views.filter(move |view| asked.is_none_or(|asked| asked == *view))
    }

    fn sort(&self, view: View) -> Sort {
        let asked = self.sort.filter(|_| self.view == Some(view));
        let first = || view.sort(None);
        let none = Sort {
            column: usize::MAX,
            is_descending: false,
        };
        asked.or_else(first).unwrap_or(none)
    }
}

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => PLAIN,
        Tone::Quiet => DIM,
        Tone::Strong => BOLD,
        Tone::Warn => YELLOW,
        Tone::Bad => RED,
    }
}

/// The lines above and the tables; those without a row are left out, where nobody asks for them.
pub(super) fn print_text(
    out: &mut dyn Write,
    model: &Model,
    asked: &Asked<'_>,
    zone: &TimeZone,
) -> io::Result<()> {
    for line in head::lines(model, asked.every, zone) {
        for piece in line {
            let style = style(piece.tone);
            write!(out, "{style}{}{style:#}", piece.text)?;
        }
        writeln!(out)?;
    }
    for view in asked.views() {
        let (table, sort) = (model.table(view), asked.sort(view));
        let rows = table.select(sort, asked.filter);
        if rows.is_empty() && asked.view.is_none() {
            continue;
        }
        let fitted = table.fit(&rows, asked.columns, sort);
        writeln!(out, "\n{DIM}{}{DIM:#}", table.title_text(&fitted, sort))?;
        for row in rows {
            let style = style(row.tone);
            writeln!(out, "{style}{}{style:#}", table.row_text(&fitted, row))?;
        }
    }
    Ok(())
}

/// Everything as one object: `docs/guide/json.md` describes the keys.
pub(super) fn to_json(model: &Model, asked: &Asked<'_>) -> Json {
    let totals = &model.totals;
    let mut value = json!({
        "version": 1,
        "bus": model.bus,
        "time_ns": model.time_ns,
        "seconds": model.seconds,
        "daemon": {
            "state": model.daemon.name(),
            "pid": model.consumer.as_ref().map(|consumer| consumer.pid),
            "started_ns": model.consumer.as_ref().map(|consumer| consumer.started_ns),
            "heartbeat_ns": model.consumer.as_ref().map(|consumer| consumer.heartbeat_ns),
            "trouble": model.consumer.as_ref().map(|consumer| &consumer.trouble),
        },
        "lanes": model.lanes,
        "lanes_quarantined": model.lanes_quarantined,
        "lanes_bytes": model.lanes_bytes,
        "lanes_bytes_limit": model.lanes_bytes_limit,
        "totals": {
            "published": totals.published,
            "delivered": totals.delivered,
            "written": totals.written,
            "rejected": totals.rejected,
            "dropped": dropped(&totals.dropped),
            "in_flight": totals.in_flight,
            "lag_bytes": totals.lag_bytes,
            "published_per_s": totals.published_per_s,
            "delivered_per_s": totals.delivered_per_s,
            "written_per_s": totals.written_per_s,
            "bytes_per_s": totals.bytes_per_s,
            "dropped_per_s": totals.dropped_per_s,
            "rejected_per_s": totals.rejected_per_s,
        },
        "disk": model.brief.and_then(|brief| brief.disk).map(|disk| json!({
            "bytes": disk.bytes,
            "bytes_limit": disk.bytes_limit,
            "free_bytes": disk.free_bytes,
            "keep_free_bytes": disk.keep_free_bytes,
        })),
    });
    for view in asked.views() {
        let table = model.table(view);
        let rows = table.select(asked.sort(view), asked.filter);
        let key = match view {
            // The state of it has that name.
            View::Daemon => "figures",
            view => view.name(),
        };
        value[key] = table.to_json(&rows);
    }
    value
}

fn dropped(dropped: &DropCounts) -> Json {
    json!({
        "full": dropped.full,
        "deadline": dropped.deadline,
        "too_long": dropped.too_long,
        "other": dropped.other,
        "total": dropped.total(),
    })
}
