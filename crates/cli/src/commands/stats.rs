//! `millpond stats`: everything counted on the bus, totals first, problems and who makes them next.

mod figures;
mod head;
mod problems;

use std::cmp::Reverse;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use millpond_bus::{
    Bus, History, Interval, Origin, RuleTable, SourceStats, Stats, prometheus_text, sum_since,
};
use millpond_daemon::report::{Users, Window, stats_json};

use self::problems::Facts;
use crate::Run;
use crate::args::Settings;
use crate::flags::{StatsBy, StatsFlags, StatsFormat};
use crate::outcome::{Failure, Outcome};
use crate::print::table::Table;
use crate::print::{known_columns, stdout};
use crate::units::{format_duration, human_count, human_size};

pub(crate) fn run(flags: &StatsFlags, settings: &Settings) -> Run {
    let default = match settings.json {
        true => StatsFormat::Json,
        false => StatsFormat::Text,
    };
    let format = flags.format.unwrap_or(default);
    check(flags, format)?;
    let bus = Bus::open_shared(&settings.bus, settings.group_id)?;
    let mut out = stdout(settings.color);
    let stats = bus.stats();
    bus.check()?;
    if format == StatsFormat::Prometheus {
        out.write_all(prometheus_text(&stats).as_bytes())?;
        out.flush()?;
        return Ok(Outcome::Found);
    }
    let history = bus.history();
    bus.check()?;
    // Remedies go without what is in force where they cannot be read.
    let rules = bus.rules().ok();
    match format {
        StatsFormat::Json => {
            let value = stats_json(&stats, &history, flags.since);
            writeln!(out, "{value}")?;
        }
        _ => Text {
            stats: &stats,
            rules: rules.as_ref(),
            width: known_columns(),
            history: &history,
            flags,
            users: Users::default(),
        }
        .print(&mut out)?,
    }
    out.flush()?;
    Ok(Outcome::found(lost(&stats, &history, flags.since) == 0))
}

fn check(flags: &StatsFlags, format: StatsFormat) -> Result<(), Failure> {
    if flags.by == Some(StatsBy::Lane) && flags.since.is_some() {
        return Err(Failure::new(
            "--since does not go with --by lane: the history is kept by source and by service; use one of these",
        ));
    }
    if format == StatsFormat::Prometheus && (flags.by.is_some() || flags.since.is_some()) {
        return Err(Failure::new(
            "--by and --since do not go with --format prometheus, which has all counters as they are: leave them out",
        ));
    }
    Ok(())
}

/// Events dropped or rejected, ever or in the window.
fn lost(stats: &Stats, history: &History, since: Option<Duration>) -> u64 {
    match since {
        None => {
            let sources = stats.sources.iter();
            sources.fold(0, |sum: u64, source| {
                sum.saturating_add(source.dropped.total())
                    .saturating_add(source.rejected)
            })
        }
        Some(since) => {
            let since_ns = Window::of(history, since).since_ns;
            let sources = history.sources.iter();
            sources
                .map(|source| sum_since(&source.intervals, since_ns))
                .fold(0, |sum: u64, of| {
                    sum.saturating_add(of.dropped).saturating_add(of.rejected)
                })
        }
    }
}

struct Text<'s> {
    stats: &'s Stats,
    rules: Option<&'s RuleTable>,
    /// Of a line; `None` where it may be as long as it likes.
    width: Option<usize>,
    history: &'s History,
    flags: &'s StatsFlags,
    users: Users,
}

impl Text<'_> {
    fn print(mut self, out: &mut dyn Write) -> Result<(), Failure> {
        let width = self.width.unwrap_or(usize::MAX);
        head::print(self.stats, width, out)?;
        if let Some(consumer) = &self.stats.consumer {
            figures::print(&consumer.figures, width, out)?;
        }
        let facts = Facts {
            stats: self.stats,
            history: self.history,
            since: self.flags.since,
            rules: self.rules,
        };
        let problems = facts.problems(&mut self.users);
        writeln!(out)?;
        problems::print(&problems, self.width.unwrap_or(usize::MAX), out)?;
        match (self.flags.by, self.flags.since) {
            (None, None) => {
                self.print_sources(out)?;
                self.print_services(out)?;
                self.print_subscribers(out)
            }
            (Some(StatsBy::Source), None) => self.print_sources(out),
            (Some(StatsBy::Service), None) => self.print_services(out),
            (Some(StatsBy::Lane), _) => self.print_lanes(out),
            (Some(StatsBy::Service), Some(since)) => self.print_services_since(out, since),
            (_, Some(since)) => self.print_sources_since(out, since),
        }
    }

    fn print_sources(&mut self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut table = Table::new(
            &[
                &[
                    "source",
                    "rule",
                    "lanes",
                    "published",
                    "written",
                    "coalesced",
                    "suppressed",
                    "dropped",
                    "in flight",
                    "bytes",
                    "peak lag",
                ][..],
                &ORIGIN_COLUMNS,
            ]
            .concat(),
        );
        let mut sources: Vec<&SourceStats> = self.stats.sources.iter().collect();
        sources.sort_by_key(|source| Reverse(source.published));
        for source in sources {
            let mut row = vec![
                source.label.clone(),
                source.pattern.clone(),
                source.lanes_live.to_string(),
                source.published.to_string(),
                source.written.to_string(),
                source.coalesced.to_string(),
                source.suppressed.to_string(),
                source.dropped.total().to_string(),
                source.in_flight.to_string(),
                human_size(source.delivered_bytes),
                human_size(source.lag_bytes_max),
            ];
            row.extend(origin_cells(&source.origin, &mut self.users));
            table.row(row);
        }
        writeln!(out)?;
        Ok(table.print_within(out, self.width, &LEAST)?)
    }

    fn print_lanes(&mut self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut table = Table::new(
            &[
                &[
                    "lane",
                    "source",
                    "rule",
                    "published",
                    "written",
                    "coalesced",
                    "suppressed",
                    "dropped",
                    "in flight",
                    "bytes",
                    "lag",
                    "peak lag",
                ][..],
                &ORIGIN_COLUMNS,
            ]
            .concat(),
        );
        let mut lanes: Vec<_> = self.stats.lanes.iter().collect();
        lanes.sort_by_key(|lane| Reverse(lane.published));
        for lane in lanes {
            let mut row = vec![
                lane.lane.to_string(),
                lane.label.clone(),
                lane.pattern.clone(),
                lane.published.to_string(),
                lane.written.to_string(),
                lane.coalesced.to_string(),
                lane.suppressed.to_string(),
                lane.dropped.total().to_string(),
                lane.in_flight.to_string(),
                human_size(lane.delivered_bytes),
                human_size(lane.lag_bytes),
                human_size(lane.lag_bytes_max),
            ];
            row.extend(origin_cells(&lane.origin, &mut self.users));
            table.row(row);
        }
        writeln!(out)?;
        Ok(table.print_within(out, self.width, &LEAST)?)
    }

    fn print_services(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut table = Table::new(&[
            "service", "lines", "text", "segments", "redacted", "disk", "quota",
        ]);
        let mut services: Vec<_> = self.stats.services.iter().collect();
        services.sort_by_key(|service| Reverse(service.lines));
        for service in services {
            table.row(vec![
                service.name.clone(),
                service.lines.to_string(),
                human_size(service.bytes),
                service.segments.to_string(),
                service.redacted.to_string(),
                (service.disk).map_or("-".to_owned(), |disk| human_size(disk.bytes)),
                (service.disk.and_then(|disk| disk.bytes_limit)).map_or("-".to_owned(), human_size),
            ]);
        }
        writeln!(out)?;
        Ok(table.print_within(out, self.width, &LEAST)?)
    }

    fn print_subscribers(&self, out: &mut dyn Write) -> Result<(), Failure> {
        if self.stats.subscribers.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            "subscriber",
            "process",
            "patterns",
            "delivered",
            "missed",
            "wakes",
        ]);
        for subscriber in &self.stats.subscribers {
            table.row(vec![
                subscriber.label.clone(),
                subscriber.pid.to_string(),
                subscriber.pattern.clone(),
                subscriber.delivered.to_string(),
                subscriber.lagged.to_string(),
                subscriber.wakes.to_string(),
            ]);
        }
        writeln!(out)?;
        Ok(table.print_within(out, self.width, &["process", "wakes", "patterns"])?)
    }

    fn print_sources_since(&mut self, out: &mut dyn Write, since: Duration) -> Result<(), Failure> {
        let window = Window::of(self.history, since);
        let mut header = [
            &[
                "source",
                "rule",
                "published",
                "per s",
                "written",
                "coalesced",
                "suppressed",
                "dropped",
                "bytes",
                "peak lag",
            ][..],
            &ORIGIN_COLUMNS,
        ]
        .concat();
        let has_pictures = io::stdout().is_terminal();
        if has_pictures {
            header.insert(4, "published over time");
        }
        let mut table = Table::new(&header);
        let nobody = Origin::default();
        let mut rows: Vec<_> = self
            .history
            .sources
            .iter()
            .enumerate()
            .map(|(index, source)| (index, source, sum_since(&source.intervals, window.since_ns)))
            .filter(|(_, _, sum)| *sum != Interval::default())
            .collect();
        rows.sort_by_key(|(_, _, sum)| Reverse(sum.published));
        for (index, source, sum) in rows {
            let mut row = vec![
                source.label.clone(),
                source.pattern.clone(),
                sum.published.to_string(),
                human_count(window.per_second(sum.published)),
                sum.written.to_string(),
                sum.coalesced.to_string(),
                sum.suppressed.to_string(),
                sum.dropped.to_string(),
                human_size(sum.bytes),
                human_size(sum.lag_bytes_max),
            ];
            if has_pictures {
                row.insert(4, window.sparkline(&source.intervals, |one| one.published));
            }
            let known = self.stats.sources.get(index);
            let origin = known.map_or(&nobody, |source| &source.origin);
            row.extend(origin_cells(origin, &mut self.users));
            table.row(row);
        }
        writeln!(out, "\nin the last {}:", format_duration(since))?;
        Ok(table.print_within(out, self.width, &LEAST)?)
    }

    fn print_services_since(&self, out: &mut dyn Write, since: Duration) -> Result<(), Failure> {
        let window = Window::of(self.history, since);
        let mut header = vec!["service", "lines", "per s", "text", "text per s"];
        let has_pictures = io::stdout().is_terminal();
        if has_pictures {
            header.push("lines over time");
        }
        let mut table = Table::new(&header);
        let services = self.history.services.iter();
        let mut rows: Vec<_> = services
            .map(|service| (service, sum_since(&service.intervals, window.since_ns)))
            .filter(|(_, sum)| *sum != Interval::default())
            .collect();
        rows.sort_by_key(|(_, sum)| Reverse(sum.written));
        for (service, sum) in rows {
            let mut row = vec![
                service.name.clone(),
                sum.written.to_string(),
                human_count(window.per_second(sum.written)),
                human_size(sum.bytes),
                human_size(window.per_second(sum.bytes) as u64),
            ];
            if has_pictures {
                row.push(window.sparkline(&service.intervals, |one| one.written));
            }
            table.row(row);
        }
        writeln!(out, "\nin the last {}:", format_duration(since))?;
        Ok(table.print_within(out, self.width, &LEAST)?)
    }
}

/// What goes first where a line has too little room.
const LEAST: [&str; 18] = [
    "executable",
    "user",
    "process",
    "lanes",
    "segments",
    "redacted",
    "bytes",
    "text per s",
    "lag",
    "published over time",
    "lines over time",
    "coalesced",
    "suppressed",
    "peak lag",
    "rule",
    "written",
    "per s",
    "in flight",
];

/// The columns of [`origin_cells`].
const ORIGIN_COLUMNS: [&str; 3] = ["process", "user", "executable"];

/// Process, user and executable; `?` behind a process that only its own word names.
fn origin_cells(origin: &Origin, users: &mut Users) -> [String; 3] {
    if origin.pid == 0 {
        return ["-", "-", "-"].map(str::to_owned);
    }
    let doubt = if origin.is_verified { "" } else { "?" };
    let executable = match origin.executable.is_empty() {
        true => "-".to_owned(),
        false => origin.executable.clone(),
    };
    [
        format!("{}{doubt}", origin.pid),
        users.name(origin.uid),
        executable,
    ]
}
