//! The lines above the table: the bus, its daemon, sums, writing, disk, GPUs. Pieces of text, each with how much
//! somebody should look at it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::figures::Brief;
use super::looks::NoBus;
use super::model::{Daemon, Model, View};
use super::table::{Tone, Value, clean, rate_text, seconds_text};
use crate::units::{human_count, human_size};

/// Part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) tone: Tone,
}

pub(super) type Line = Vec<Piece>;

fn piece(tone: Tone, text: impl Into<String>) -> Piece {
    Piece {
        text: text.into(),
        tone,
    }
}

fn plain(text: impl Into<String>) -> Piece {
    piece(Tone::Plain, text)
}

fn strong(text: impl Into<String>) -> Piece {
    piece(Tone::Strong, text)
}

/// A point in time on the clock on the wall, with the day where that is not today.
pub(super) fn clock(time_ns: u64, now_ns: u64, zone: &TimeZone) -> String {
    let at = |ns: u64| {
        let time = Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
        time.to_zoned(zone.clone())
    };
    let (time, now) = (at(time_ns), at(now_ns));
    let form = match time.date() == now.date() {
        true => "%H:%M:%S",
        false => "%Y-%m-%d %H:%M:%S",
    };
    time.strftime(form).to_string()
}

/// `12:03:04 (2m 5s ago)`
fn since(time_ns: u64, now_ns: u64, zone: &TimeZone) -> String {
    let ago = now_ns.saturating_sub(time_ns) / 1_000_000_000;
    let ago = match ago < 60 {
        true => format!("{ago} s"),
        false => seconds_text(ago as f64),
    };
    format!("{} ({ago} ago)", clock(time_ns, now_ns, zone))
}

/// Where there is no bus.
pub(super) fn no_bus(none: &NoBus, zone: &TimeZone) -> Vec<Line> {
    let when = since(none.since_ns, none.time_ns, zone);
    let bus = &none.bus;
    let (head, next) = match (&none.why, none.was_there) {
        (Some(_), _) => (format!("BUS {bus:?} CANNOT BE READ since {when}"), None),
        (None, true) => (
            format!("BUS {bus:?} WAS REMOVED {when}"),
            Some("What was counted on it is gone. The next one of that name is shown as it comes."),
        ),
        (None, false) => (
            format!("NO BUS {bus:?}, waiting since {when}"),
            Some("It is made by its daemon or its first publisher, and shown as it comes."),
        ),
    };
    let mut lines = vec![vec![piece(Tone::Bad, head)]];
    lines.extend(none.why.iter().map(|why| vec![plain(why.clone())]));
    lines.extend(next.map(|next| vec![plain(next)]));
    lines
}

/// Everything above the table; `every` is how often it is looked at.
pub(super) fn lines(model: &Model, every: &str, zone: &TimeZone) -> Vec<Line> {
    let mut lines = vec![first(model, every, zone)];
    lines.extend(daemon(model, zone));
    lines.extend(trouble(model));
    lines.push(events(model));
    if let Some(brief) = &model.brief {
        lines.push(writing(brief));
        lines.extend(disk(brief));
    }
    lines.extend(gpus(model));
    lines
}

fn first(model: &Model, every: &str, zone: &TimeZone) -> Line {
    let mut line = vec![
        strong(format!("bus {}", model.bus)),
        plain(format!(
            "  {}  every {every}  {} lanes, {} of {}",
            clock(model.time_ns, model.time_ns, zone),
            model.lanes,
            human_size(model.lanes_bytes),
            human_size(model.lanes_bytes_limit)
        )),
    ];
    if model.lanes_quarantined > 0 {
        let count = model.lanes_quarantined;
        line.push(piece(Tone::Bad, format!("  {count} IN QUARANTINE")));
    }
    line
}

/// The daemon; where it does not run, what to do is a line of its own, so that a command is never cut.
fn daemon(model: &Model, zone: &TimeZone) -> Vec<Line> {
    let bus = &model.bus;
    let start = format!("start `millpond daemon --bus {bus}`");
    let loud = |tone, what: String, remedy: String| {
        vec![
            vec![piece(tone, what)],
            vec![piece(tone, format!("  -> {remedy}"))],
        ]
    };
    let Some(consumer) = &model.consumer else {
        return loud(Tone::Warn, "NO DAEMON has run here yet".to_owned(), start);
    };
    let pid = consumer.pid;
    let since = since(consumer.heartbeat_ns, model.time_ns, zone);
    match model.daemon {
        Daemon::Hangs(state) => {
            let (why, remedy) = match state {
                Some('T' | 't') => ("was stopped", format!("`kill -CONT {pid}`")),
                Some('D') => ("waits for a device", "look at the disk".to_owned()),
                _ => ("does nothing", format!("see `millpond doctor --bus {bus}`")),
            };
            let what = format!("DAEMON HANGS since {since}: process {pid} {why}");
            loud(Tone::Bad, what, remedy)
        }
        Daemon::Died => {
            let what = format!("DAEMON DIED {since}: process {pid} is gone");
            loud(Tone::Bad, what, start)
        }
        Daemon::Stopped | Daemon::Never => {
            let what = format!("NO DAEMON since {since}: it was stopped");
            loud(Tone::Bad, what, start)
        }
        Daemon::Runs => {
            let up_ns = model.time_ns.saturating_sub(consumer.started_ns);
            let mut text = format!("{pid}, up {}", seconds_text((up_ns / 1_000_000_000) as f64));
            if let Some(brief) = &model.brief {
                if let Some(percent) = brief.cpu_percent {
                    text.push_str(&format!(", cpu {percent:.1} %"));
                }
                if brief.memory_bytes > 0 {
                    text.push_str(&format!(", {}", human_size(brief.memory_bytes)));
                }
            }
            let backend = consumer.backend.split([' ', ':', ',']).next();
            text.push_str(&format!(
                ", {}, logs {}",
                clean(backend.unwrap_or_default()),
                clean(&consumer.logs_dir)
            ));
            vec![vec![strong("daemon "), plain(text)]]
        }
    }
}

/// What keeps the daemon from writing, also where it is dead by now.
fn trouble(model: &Model) -> Option<Line> {
    let consumer = model.consumer.as_ref()?;
    let text = format!("TROUBLE: {}", clean(&consumer.trouble));
    (!consumer.trouble.is_empty()).then(|| vec![piece(Tone::Bad, text)])
}

fn per_s(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", rate_text(rate)))
}

fn events(model: &Model) -> Line {
    let totals = &model.totals;
    let dropped = totals.dropped.total();
    let lost = dropped.saturating_add(totals.rejected);
    let tone = match (model.is_losing(), lost) {
        (true, _) => Tone::Bad,
        (false, 0) => Tone::Plain,
        (false, _) => Tone::Warn,
    };
    let mut text = format!(
        "dropped {}, {} ever",
        per_s(totals.dropped_per_s),
        human_count(dropped as f64)
    );
    if totals.rejected > 0 {
        text.push_str(&format!(
            ", refused {}",
            human_count(totals.rejected as f64)
        ));
    }
    vec![
        strong("events "),
        plain(format!("in {}  ", per_s(totals.published_per_s))),
        piece(tone, text),
        plain(format!(
            "  waiting {}, {}",
            human_count(totals.in_flight as f64),
            human_size(totals.lag_bytes),
        )),
        plain(format!("  log {}", per_s(totals.written_per_s))),
    ]
}

fn writing(brief: &Brief) -> Line {
    let time = |spread: Option<(f64, f64)>| match spread {
        Some((p50, p99)) => format!("{} / {}", seconds_text(p50), seconds_text(p99)),
        None => "-".to_owned(),
    };
    let count = |spread: Option<(u64, u64)>| match spread {
        Some((p50, p99)) => format!("{} / {}", human_count(p50 as f64), human_count(p99 as f64)),
        None => "-".to_owned(),
    };
    let mut line = vec![
        strong("p50/p99 "),
        plain(format!("write {}", time(brief.write_seconds))),
        plain(format!("  sync {}", time(brief.sync_seconds))),
        plain(format!("  group {}", count(brief.group_events))),
        plain(format!("  batch {}", count(brief.batch_events))),
    ];
    if brief.failures > 0 {
        let text = format!("  {} failed", human_count(brief.failures as f64));
        line.push(piece(Tone::Warn, text));
    }
    line
}

fn disk(brief: &Brief) -> Option<Line> {
    let disk = brief.disk.as_ref()?;
    let used = match disk.bytes_limit {
        Some(limit) if limit > 0 => format!(
            "{} of {} ({:.0} %)",
            human_size(disk.bytes),
            human_size(limit),
            100.0 * disk.bytes as f64 / limit as f64
        ),
        _ => format!("{}, no limit", human_size(disk.bytes)),
    };
    let tone = match disk.free_bytes < disk.keep_free_bytes {
        true => Tone::Bad,
        false => Tone::Plain,
    };
    let (free, kept) = (
        human_size(disk.free_bytes),
        human_size(disk.keep_free_bytes),
    );
    Some(vec![
        strong("disk "),
        plain(format!("{used}  ")),
        piece(tone, format!("{free} free")),
        plain(format!(" (kept free {kept})")),
    ])
}

/// Each in a few words; the rest of it is in its table.
fn gpus(model: &Model) -> Option<Line> {
    let table = model.table(View::Gpus);
    if table.rows.is_empty() {
        return None;
    }
    let mut line = vec![strong("gpu ")];
    for (place, row) in table.rows.iter().enumerate() {
        let at = |key: &str| {
            let index = table.columns.iter().position(|column| column.key == key);
            index.map_or(&Value::Missing, |index| &row.cells[index])
        };
        let gap = if place == 0 { "" } else { "  " };
        let text = format!(
            "{gap}{}: {} {} {} °C {} W",
            at("gpu").show(),
            at("utilization_percent").show(),
            at("memory_used_bytes").show(),
            at("temperature_celsius").show(),
            at("power_watts").show(),
        );
        line.push(piece(row.tone, text));
        if row.tone == Tone::Warn {
            line.push(piece(
                Tone::Warn,
                format!(" ({} old)", at("age_seconds").show()),
            ));
        }
    }
    Some(line)
}
