//! `dump --json`, version 1.

use millpond_bus::ServiceCommit;
use millpond_bus::inspect::{
    CommitView, ControlView, Holder, InspectedRecord, Inspection, ObjectKind, RingView, Unfinished,
    Usage,
};
use millpond_logfile::SegmentId;
use serde_json::{Value, json};

use super::{hex, parked_words};
use crate::flags::DumpFlags;
use crate::units::utc;

/// The whole page, and how many places of the rings in it are damaged.
pub(super) fn of(
    inspection: &Inspection,
    lanes: &[&RingView],
    flags: &DumpFlags,
) -> (Value, usize) {
    let mut damaged = 0;
    let lanes: Vec<Value> = lanes
        .iter()
        .map(|lane| ring(inspection, lane, flags.records, &mut damaged))
        .collect();
    let outboxes: Vec<Value> = match flags.lane {
        Some(_) => Vec::new(),
        None => inspection
            .outboxes
            .iter()
            .map(|outbox| ring(inspection, outbox, 0, &mut damaged))
            .collect(),
    };
    let value = json!({
        "version": 1,
        "bus": inspection.bus,
        "dir": inspection.dir.display().to_string(),
        "lease": holder(inspection.lease),
        "control": inspection.control.as_ref().map(control),
        "lanes": lanes,
        "outboxes": outboxes,
        "damage": inspection.damage,
    });
    (value, damaged)
}

fn holder(holder: Holder) -> Value {
    let held = match holder {
        Holder::Nobody => Some(false),
        Holder::Process(_) | Holder::Somebody => Some(true),
        Holder::Unknown => None,
    };
    json!({ "held": held, "pid": holder.pid() })
}

fn usage(usage: Usage) -> Value {
    json!({ "used": usage.used, "limit": usage.limit })
}

fn control(control: &ControlView) -> Value {
    let consumer = &control.consumer;
    let rules: Vec<Value> = control
        .rules
        .iter()
        .flat_map(|rules| rules.iter())
        .map(|rule| {
            json!({
                "pattern": rule.pattern.as_str(),
                "class": rule.class.name(),
                "service": rule.service,
            })
        })
        .collect();
    let subscribers: Vec<Value> = control
        .subscribers
        .iter()
        .map(|subscriber| {
            json!({
                "label": subscriber.label,
                "pid": subscriber.pid,
                "pattern": subscriber.pattern,
                "parked": subscriber.is_parked,
                "holder": holder(subscriber.holder),
                "delivered": subscriber.delivered,
                "lagged": subscriber.lagged,
            })
        })
        .collect();
    json!({
        "layout_version": control.layout_version,
        "created_ns": control.created_ns,
        "creator_pid": control.creator_pid,
        "creator_uid": control.creator_uid,
        "this_boot": control.is_this_boot,
        "ready": control.is_ready,
        "doorbell": parked_words(control.parked),
        "parked_until_ns": control.parked_until_ns,
        "flush_requests": control.flush_requests,
        "rotate_requests": control.rotate_requests,
        "reload_requests": control.reload_requests,
        "consumer": {
            "pid": consumer.pid,
            "started_ns": consumer.started_ns,
            "heartbeat_ns": consumer.heartbeat_ns,
            "backend": consumer.backend,
            "logs_dir": consumer.logs_dir,
            "trouble": consumer.trouble,
        },
        "generation": control.generation,
        "bank": control.bank(),
        "rules": rules,
        "services": control.services.each_ref().map(|bank| services(bank)),
        "subscribers": subscribers,
        "names": usage(control.names),
        "schemas": usage(control.schemas),
        "patterns": usage(control.channels),
        "sources": usage(control.sources),
    })
}

fn services(commits: &[ServiceCommit]) -> Vec<Value> {
    let one = |commit: &ServiceCommit| {
        json!({
            "name": commit.name,
            "segment": SegmentId::from_ns(commit.segment_id).to_string(),
            "length_bytes": commit.length_bytes,
            "lines": commit.lines,
            "bytes": commit.bytes,
            "segments": commit.segments,
        })
    };
    commits.iter().map(one).collect()
}

fn commit(commit: &CommitView) -> Value {
    json!({
        "epoch": format!("{:x}", commit.epoch),
        "position": commit.position,
        "sequence_next": commit.sequence_next,
        "delivered": commit.delivered,
        "written": commit.written,
        "rejected": commit.rejected,
        "missing": commit.missing,
    })
}

fn record(record: &InspectedRecord) -> Value {
    let text = std::str::from_utf8(&record.payload);
    json!({
        "position": record.position,
        "kind": record.kind,
        "time": utc(record.time_ns),
        "time_ns": record.time_ns,
        "level": format!("{:?}", record.level).to_lowercase(),
        "name": record.name,
        "sequence": record.sequence,
        "schema": record.schema_id,
        "payload": text.ok(),
        "payload_hex": text.is_err().then(|| hex(&record.payload)),
    })
}

fn ring(inspection: &Inspection, ring: &RingView, records: u64, damaged: &mut usize) -> Value {
    let (mut count, mut shown) = (0_u64, Vec::new());
    let mut damage = ring.damage.clone();
    for found in inspection.undrained(ring) {
        match found {
            Ok(found) => {
                count += 1;
                if count <= records {
                    shown.push(record(&found));
                }
            }
            Err(error) => damage.push(error.to_string()),
        }
    }
    damage.dedup();
    *damaged += damage.len();
    // Nobody dies in the middle of an outbox: the next consumer goes on at its tail.
    let unfinished = match ring.object.kind {
        ObjectKind::Lane => inspection.unfinished(ring),
        _ => Unfinished::default(),
    };
    json!({
        "lane": format!("{:x}", ring.epoch),
        "object": ring.object.path.display().to_string(),
        "registered": ring.slot.is_some(),
        "slot": ring.slot,
        "label": ring.label,
        "publisher_pid": ring.publisher_pid,
        "holder": holder(ring.holder),
        "closed": ring.is_closed,
        "created_ns": ring.created_ns,
        "rule": ring.rule.as_ref().map(|rule| rule.pattern.as_str()),
        "capacity_bytes": ring.capacity_bytes,
        "head_position": ring.head_position,
        "drained_position": ring.drained_position,
        "durable_position": ring.durable_position,
        "tail_position": ring.tail_position,
        "sequence_next": ring.sequence_next,
        "dropped": {
            "full": ring.dropped.full,
            "deadline": ring.dropped.deadline,
            "too_long": ring.dropped.too_long,
        },
        "quarantined": ring.is_quarantined,
        "committed": commit(&ring.committed),
        "bank": ring.bank,
        "commits": ring.commits.each_ref().map(commit),
        "undrained": count,
        "records": shown,
        "uncommitted": unfinished.records.iter().map(record).collect::<Vec<_>>(),
        "uncommitted_hex": hex(&unfinished.bytes),
        "damage": damage,
    })
}
