//! Statistics as JSON: `docs/guide/json.md` describes the keys.

use std::time::Duration;

use millpond_bus::{ConsumerFigures, DropCounts, Histogram, History, Interval, Stats, sum_since};
use serde_json::{Value, json};

use super::users::Users;
use super::window::{Loudest, Window};

/// Everything there is, as one object with `"version": 1`; with `since` also the history of that long.
///
/// Costs about 1 KiB for each source and lane. Reads `/etc/passwd` once, for the names of users.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::report::stats_json;
/// let bus = Bus::attach(&format!("doc-json-{}", std::process::id()), &BusOptions::default())?;
/// let value = stats_json(&bus.stats(), &bus.history(), None);
/// assert_eq!(value["version"], 1);
/// assert_eq!(value["bus"], bus.name());
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
pub fn stats_json(stats: &Stats, history: &History, since: Option<Duration>) -> Value {
    let users = &mut Users::default();
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
                "pid": source.origin.pid,
                "uid": source.origin.uid,
                "user": users.name(source.origin.uid),
                "executable": source.origin.executable,
                "process_started_ns": source.origin.started_ns,
                "verified": source.origin.is_verified,
                "lanes_live": source.lanes_live,
                "lanes_gone": source.lanes_gone,
                "published": source.published,
                "delivered": source.delivered,
                "written": source.written,
                "rejected": source.rejected,
                "coalesced": source.coalesced,
                "suppressed": source.suppressed,
                "dropped": dropped(&source.dropped),
                "in_flight": source.in_flight,
                "delivered_bytes": source.delivered_bytes,
                "lag_bytes_max": source.lag_bytes_max,
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
                "pid": lane.origin.pid,
                "uid": lane.origin.uid,
                "user": users.name(lane.origin.uid),
                "executable": lane.origin.executable,
                "process_started_ns": lane.origin.started_ns,
                "verified": lane.origin.is_verified,
                "rule": lane.pattern,
                "capacity_bytes": lane.capacity_bytes,
                "lag_bytes": lane.lag_bytes,
                "lag_bytes_max": lane.lag_bytes_max,
                "published": lane.published,
                "delivered": lane.delivered,
                "written": lane.written,
                "rejected": lane.rejected,
                "coalesced": lane.coalesced,
                "suppressed": lane.suppressed,
                "dropped": dropped(&lane.dropped),
                "in_flight": lane.in_flight,
                "delivered_bytes": lane.delivered_bytes,
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
                "redacted": service.redacted,
                "disk": service.disk.map(|disk| json!({
                    "bytes": disk.bytes,
                    "bytes_limit": disk.bytes_limit,
                    "segments": disk.segments,
                    "segments_limit": disk.segments_limit,
                    "age_limit_ns": disk.age_limit_ns,
                })),
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
            "figures": figures_json(&consumer.figures),
        })
    });
    let loudest = Loudest::find(stats, history, since).and_then(|loudest| {
        // The history was read later: it may have one more.
        let source = stats.sources.get(loudest.source)?;
        Some(json!({
            "label": source.label,
            "rule": source.pattern,
            "window": loudest.window,
            "published": loudest.sum.published,
            "published_by_all": loudest.published_by_all,
            "dropped": loudest.sum.dropped,
        }))
    });
    let mut value = json!({
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
        "loudest": loudest,
    });
    if let Some(since) = since {
        value["history"] = history_json(history, since);
    }
    value
}

fn figures_json(figures: &ConsumerFigures) -> Value {
    let upkeep = &figures.upkeep;
    json!({
        "group_events": histogram_json(&figures.group_events),
        "group_bytes": histogram_json(&figures.group_bytes),
        "write_ns": histogram_json(&figures.write_ns),
        "sync_ns": histogram_json(&figures.sync_ns),
        "commit_delay_ns": histogram_json(&figures.commit_delay_ns),
        "batch_events": histogram_json(&figures.batch_events),
        "cpu_ns": figures.cpu_ns,
        "memory_bytes": figures.memory_bytes,
        "upkeep": {
            "write_failures": upkeep.write_failures,
            "seal_failures": upkeep.seal_failures,
            "sealed_segments": upkeep.sealed_segments,
            "sealed_saved_bytes": upkeep.sealed_saved_bytes,
            "trimmed_segments": upkeep.trimmed_segments,
            "trimmed_bytes": upkeep.trimmed_bytes,
        },
        "disk": figures.disk.map(|disk| json!({
            "time_ns": disk.time_ns,
            "bytes": disk.bytes,
            "bytes_limit": disk.bytes_limit,
            "free_bytes": disk.free_bytes,
            "keep_free_bytes": disk.keep_free_bytes,
            "file_system_bytes": disk.file_system_bytes,
            "unsynced_segments": disk.unsynced_segments,
        })),
    })
}

/// Of the buckets those that are not empty, each by its largest value; `null` for the last.
fn histogram_json(histogram: &Histogram) -> Value {
    let buckets: Vec<Value> = (histogram.buckets.iter().enumerate())
        .filter(|(_, count)| **count > 0)
        .map(|(bucket, count)| json!({"le": Histogram::bound(bucket), "count": count}))
        .collect();
    json!({
        "count": histogram.count,
        "sum": histogram.sum,
        "p50": histogram.percentile(50.0),
        "p99": histogram.percentile(99.0),
        "buckets": buckets,
    })
}

/// Sources and services over the window, those that produced most first.
fn history_json(history: &History, since: Duration) -> Value {
    let window = Window::of(history, since);
    let entry = |key: &str, name: &str, intervals: &[Interval]| {
        let sum = sum_since(intervals, window.since_ns);
        let late = |interval: &&Interval| window.holds(interval);
        let intervals: Vec<Value> = intervals.iter().filter(late).map(interval_json).collect();
        json!({
            key: name,
            "total": counts_json(&sum),
            "published_per_s": window.per_second(sum.published),
            "written_per_s": window.per_second(sum.written),
            "bytes_per_s": window.per_second(sum.bytes),
            "intervals": intervals,
        })
    };
    let mut sources: Vec<(u64, Value)> = history
        .sources
        .iter()
        .map(|source| {
            let sum = sum_since(&source.intervals, window.since_ns);
            let mut value = entry("label", &source.label, &source.intervals);
            value["rule"] = json!(source.pattern);
            (sum.published, value)
        })
        .collect();
    let mut services: Vec<(u64, Value)> = history
        .services
        .iter()
        .map(|service| {
            let sum = sum_since(&service.intervals, window.since_ns);
            (
                sum.written,
                entry("name", &service.name, &service.intervals),
            )
        })
        .collect();
    let sorted = |list: &mut Vec<(u64, Value)>| -> Vec<Value> {
        list.sort_by_key(|(produced, _)| std::cmp::Reverse(*produced));
        list.drain(..).map(|(_, value)| value).collect()
    };
    json!({
        "since_ns": window.since_ns,
        "seconds": window.seconds,
        "interval_ns": history.interval_ns,
        "sources": sorted(&mut sources),
        "services": sorted(&mut services),
    })
}

fn counts_json(interval: &Interval) -> Value {
    json!({
        "published": interval.published,
        "delivered": interval.delivered,
        "written": interval.written,
        "rejected": interval.rejected,
        "dropped": interval.dropped,
        "coalesced": interval.coalesced,
        "suppressed": interval.suppressed,
        "bytes": interval.bytes,
        "lag_bytes_max": interval.lag_bytes_max,
    })
}

fn interval_json(interval: &Interval) -> Value {
    let mut value = counts_json(interval);
    value["start_ns"] = json!(interval.start_ns);
    value
}
