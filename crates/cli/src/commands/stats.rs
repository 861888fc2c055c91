//! `millpond stats`: everything counted on the bus, totals first, problems and who makes them next.

mod json;
mod users;
mod window;

use std::cmp::Reverse;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use millpond_bus::{
    Bus, DropCounts, History, Interval, Origin, SourceStats, Stats, prometheus_text, sum_since,
};

use self::users::Users;
use self::window::{Loudest, Window};
use crate::Run;
use crate::args::Settings;
use crate::flags::{StatsBy, StatsFlags, StatsFormat};
use crate::outcome::{Failure, Outcome};
use crate::print::table::Table;
use crate::print::{BOLD, GREEN, RED, YELLOW, stdout};
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
    let mut users = Users::default();
    match format {
        StatsFormat::Json => {
            let value = json::to_json(&stats, &history, flags.since, &mut users);
            writeln!(out, "{value}")?;
        }
        _ => Text {
            stats: &stats,
            history: &history,
            flags,
            users,
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
            sources
                .map(|source| source.dropped.total() + source.rejected)
                .sum()
        }
        Some(since) => {
            let since_ns = Window::of(history, since).since_ns;
            let sources = history.sources.iter();
            sources
                .map(|source| sum_since(&source.intervals, since_ns))
                .map(|sum| sum.dropped + sum.rejected)
                .sum()
        }
    }
}

struct Text<'s> {
    stats: &'s Stats,
    history: &'s History,
    flags: &'s StatsFlags,
    users: Users,
}

impl Text<'_> {
    fn print(mut self, out: &mut dyn Write) -> Result<(), Failure> {
        print_head(out, self.stats)?;
        self.print_loudest(out)?;
        print_problems(out, self.stats)?;
        print_lagging(out, self.stats)?;
        match (self.flags.by, self.flags.since) {
            (None, None) => {
                self.print_sources(out)?;
                self.print_services(out)?;
                print_subscribers(out, self.stats)
            }
            (Some(StatsBy::Source), None) => self.print_sources(out),
            (Some(StatsBy::Service), None) => self.print_services(out),
            (Some(StatsBy::Lane), _) => self.print_lanes(out),
            (Some(StatsBy::Service), Some(since)) => self.print_services_since(out, since),
            (_, Some(since)) => self.print_sources_since(out, since),
        }
    }

    /// Who it was, where something was lost or is behind.
    fn print_loudest(&mut self, out: &mut dyn Write) -> Result<(), Failure> {
        let Some(loudest) = Loudest::find(self.stats, self.history, self.flags.since) else {
            return Ok(());
        };
        let source = &self.stats.sources[loudest.source];
        let sum = &loudest.sum;
        let share = 100.0 * sum.published as f64 / loudest.published_by_all.max(1) as f64;
        let suppressed = match sum.suppressed {
            0 => String::new(),
            count => format!(", {} suppressed", human_count(count as f64)),
        };
        writeln!(
            out,
            "{RED}loudest {}{RED:#}: {} under {} ({}): {share:.0} % of {} events, {} dropped{suppressed}",
            loudest.window,
            source.label,
            source.pattern,
            describe(&source.origin, &mut self.users),
            human_count(loudest.published_by_all as f64),
            human_count(sum.dropped as f64),
        )?;
        Ok(())
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
        Ok(table.print(out)?)
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
        Ok(table.print(out)?)
    }

    fn print_services(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut table = Table::new(&["service", "lines", "text", "segments", "redacted"]);
        let mut services: Vec<_> = self.stats.services.iter().collect();
        services.sort_by_key(|service| Reverse(service.lines));
        for service in services {
            table.row(vec![
                service.name.clone(),
                service.lines.to_string(),
                human_size(service.bytes),
                service.segments.to_string(),
                service.redacted.to_string(),
            ]);
        }
        writeln!(out)?;
        Ok(table.print(out)?)
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
        Ok(table.print(out)?)
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
        Ok(table.print(out)?)
    }
}

/// `pid 123, /usr/bin/node, user deploy`
fn describe(origin: &Origin, users: &mut Users) -> String {
    if origin.pid == 0 {
        return "process unknown".to_owned();
    }
    let mut text = format!("pid {}", origin.pid);
    if !origin.executable.is_empty() {
        text.push_str(&format!(", {}", origin.executable));
    }
    text.push_str(&format!(", user {}", users.name(origin.uid)));
    if !origin.is_verified {
        text.push_str(", by its own word");
    }
    text
}

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

fn print_head(out: &mut dyn Write, stats: &Stats) -> Result<(), Failure> {
    let sum = |of: fn(&SourceStats) -> u64| stats.sources.iter().map(of).sum::<u64>();
    writeln!(
        out,
        "{BOLD}bus {}{BOLD:#}: {} lanes, {} of {} shared memory",
        stats.bus,
        stats.lanes.len(),
        human_size(stats.lanes_bytes),
        human_size(stats.lanes_bytes_limit)
    )?;
    match &stats.consumer {
        Some(consumer) if consumer.alive => writeln!(
            out,
            "consumer: process {}, {}, logs {}",
            consumer.pid, consumer.backend, consumer.logs_dir
        )?,
        _ => writeln!(
            out,
            "{YELLOW}consumer: none{YELLOW:#}; start `millpond daemon --bus {}`",
            stats.bus
        )?,
    }
    writeln!(
        out,
        "events: published {} = delivered {} + dropped {} + in flight {}; written {}, coalesced {}, suppressed {}",
        sum(|source| source.published),
        sum(|source| source.delivered),
        sum(|source| source.dropped.total()),
        sum(|source| source.in_flight),
        sum(|source| source.written),
        sum(|source| source.coalesced),
        sum(|source| source.suppressed)
    )?;
    Ok(())
}

/// Subscribers that missed events: their own loss, so it is said and not an exit code.
fn print_lagging(out: &mut dyn Write, stats: &Stats) -> Result<(), Failure> {
    for subscriber in stats.subscribers.iter().filter(|one| one.lagged > 0) {
        writeln!(
            out,
            "{YELLOW}missed{YELLOW:#}: {} events by subscriber {} (process {}), which was too slow",
            subscriber.lagged, subscriber.label, subscriber.pid
        )?;
    }
    Ok(())
}

fn print_subscribers(out: &mut dyn Write, stats: &Stats) -> Result<(), Failure> {
    if stats.subscribers.is_empty() {
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
    for subscriber in &stats.subscribers {
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
    table.print(out)?;
    Ok(())
}

fn print_problems(out: &mut dyn Write, stats: &Stats) -> Result<(), Failure> {
    let trouble = stats
        .consumer
        .as_ref()
        .map_or("", |consumer| &consumer.trouble);
    if !trouble.is_empty() {
        writeln!(out, "{RED}trouble{RED:#}: {trouble}")?;
    }
    for lane in stats.lanes.iter().filter(|lane| lane.quarantined) {
        writeln!(
            out,
            "{RED}quarantined{RED:#}: lane of {} (process {})",
            lane.label, lane.origin.pid
        )?;
    }
    let mut lossy: Vec<_> = stats
        .sources
        .iter()
        .filter(|source| source.dropped.total() + source.rejected > 0)
        .collect();
    lossy.sort_by_key(|source| std::cmp::Reverse(source.dropped.total() + source.rejected));
    for source in &lossy {
        let DropCounts {
            full,
            deadline,
            too_long,
            other,
        } = source.dropped;
        writeln!(
            out,
            "{RED}lost{RED:#}: {} under {}: lane full {full}, deadline {deadline}, too long {too_long}, other \
             {other}, rejected {}",
            source.label, source.pattern, source.rejected
        )?;
    }
    if trouble.is_empty() && lossy.is_empty() {
        writeln!(out, "{GREEN}nothing lost{GREEN:#}")?;
    }
    Ok(())
}
