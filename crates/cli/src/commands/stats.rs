//! `millpond stats`: everything counted on the bus, totals first, problems next.

use std::io::Write;

use millpond_bus::{Bus, DropCounts, SourceStats, Stats};
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::outcome::{Failure, Outcome};
use crate::print::table::Table;
use crate::print::{BOLD, GREEN, RED, YELLOW, stdout};
use crate::units::human_size;

pub(crate) fn run(settings: &Settings) -> Run {
    let stats = Bus::open(&settings.bus)?.stats();
    let mut out = stdout(settings.color);
    if settings.json {
        writeln!(out, "{}", to_json(&stats))?;
    } else {
        print(&mut out, &stats)?;
    }
    out.flush()?;
    let lost: u64 = stats
        .sources
        .iter()
        .map(|source| source.dropped.total() + source.rejected)
        .sum();
    Ok(Outcome::found(lost == 0))
}

fn print(out: &mut dyn Write, stats: &Stats) -> Result<(), Failure> {
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
        "events: published {} = delivered {} + dropped {} + in flight {}; written {}",
        sum(|source| source.published),
        sum(|source| source.delivered),
        sum(|source| source.dropped.total()),
        sum(|source| source.in_flight),
        sum(|source| source.written)
    )?;
    print_problems(out, stats)?;
    print_lagging(out, stats)?;
    let mut table = Table::new(&[
        "source",
        "rule",
        "lanes",
        "published",
        "written",
        "dropped",
        "in flight",
    ]);
    for source in &stats.sources {
        table.row(vec![
            source.label.clone(),
            source.pattern.clone(),
            source.lanes_live.to_string(),
            source.published.to_string(),
            source.written.to_string(),
            source.dropped.total().to_string(),
            source.in_flight.to_string(),
        ]);
    }
    writeln!(out)?;
    table.print(out)?;
    let mut table = Table::new(&["service", "lines", "text", "segments"]);
    for service in &stats.services {
        table.row(vec![
            service.name.clone(),
            service.lines.to_string(),
            human_size(service.bytes),
            service.segments.to_string(),
        ]);
    }
    writeln!(out)?;
    table.print(out)?;
    print_subscribers(out, stats)?;
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
        writeln!(out, "{RED}not writing{RED:#}: {trouble}")?;
    }
    for lane in stats.lanes.iter().filter(|lane| lane.quarantined) {
        writeln!(
            out,
            "{RED}quarantined{RED:#}: lane of {} (process {})",
            lane.label, lane.pid
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

pub(crate) fn to_json(stats: &Stats) -> Value {
    let dropped = |dropped: &DropCounts| {
        json!({
            "full": dropped.full,
            "deadline": dropped.deadline,
            "too_long": dropped.too_long,
            "other": dropped.other,
            "total": dropped.total(),
        })
    };
    let sources: Vec<Value> = stats
        .sources
        .iter()
        .map(|source| {
            json!({
                "label": source.label,
                "rule": source.pattern,
                "lanes_live": source.lanes_live,
                "lanes_gone": source.lanes_gone,
                "published": source.published,
                "delivered": source.delivered,
                "written": source.written,
                "rejected": source.rejected,
                "dropped": dropped(&source.dropped),
                "in_flight": source.in_flight,
                "delivered_bytes": source.delivered_bytes,
            })
        })
        .collect();
    let lanes: Vec<Value> = stats
        .lanes
        .iter()
        .map(|lane| {
            json!({
                "lane": lane.lane,
                "label": lane.label,
                "pid": lane.pid,
                "uid": lane.uid,
                "rule": lane.pattern,
                "capacity_bytes": lane.capacity_bytes,
                "lag_bytes": lane.lag_bytes,
                "published": lane.published,
                "delivered": lane.delivered,
                "written": lane.written,
                "rejected": lane.rejected,
                "dropped": dropped(&lane.dropped),
                "in_flight": lane.in_flight,
                "quarantined": lane.quarantined,
            })
        })
        .collect();
    let services: Vec<Value> = stats
        .services
        .iter()
        .map(|service| {
            json!({
                "name": service.name,
                "segment_id": service.segment_id,
                "segment_bytes": service.segment_bytes,
                "lines": service.lines,
                "bytes": service.bytes,
                "segments": service.segments,
            })
        })
        .collect();
    let subscribers: Vec<Value> = stats
        .subscribers
        .iter()
        .map(|subscriber| {
            json!({
                "label": subscriber.label,
                "pid": subscriber.pid,
                "pattern": subscriber.pattern,
                "delivered": subscriber.delivered,
                "lagged": subscriber.lagged,
                "wakes": subscriber.wakes,
            })
        })
        .collect();
    let consumer = stats.consumer.as_ref().map(|consumer| {
        json!({
            "pid": consumer.pid,
            "alive": consumer.alive,
            "started_ns": consumer.started_ns,
            "heartbeat_ns": consumer.heartbeat_ns,
            "backend": consumer.backend,
            "logs_dir": consumer.logs_dir,
            "trouble": consumer.trouble,
        })
    });
    json!({
        "version": 1,
        "bus": stats.bus,
        "time_ns": stats.time_ns,
        "lanes_bytes": stats.lanes_bytes,
        "lanes_bytes_limit": stats.lanes_bytes_limit,
        "consumer": consumer,
        "sources": sources,
        "lanes": lanes,
        "services": services,
        "subscribers": subscribers,
    })
}
