//! The shared-memory event bus of millpond: publishers write fixed-layout events into rings of their own,
//! one consumer drains them in causal order, and nobody makes a system call while both are awake.
//!
//! ```
//! use millpond_bus::{Bus, BusOptions, Item, Level, Scope, Verdict};
//!
//! let name = format!("doc-{}", std::process::id());
//! let bus = Bus::attach(&name, &BusOptions::default())?;
//!
//! let mut publisher = bus.publisher("greeter")?;
//! let topic = publisher.topic("log:web")?;
//! publisher.publish(topic, Level::Info, b"hello")?;
//!
//! let mut drain = bus.drain()?;
//! let mut seen = Vec::new();
//! drain.pass(Scope::Persisted, &mut |item: Item<'_>| {
//!     if let Item::Record(record) = item {
//!         seen.push((record.name.text.to_owned(), record.payload.to_vec()));
//!     }
//!     Verdict::Keep
//! });
//! assert_eq!(seen, [("log:web".to_owned(), b"hello".to_vec())]);
//! # drop((publisher, drain));
//! # bus.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The layout of shared memory is in `docs/formats/shm.md`, the whole picture in `docs/ARCHITECTURE.md`.

// Under loom only the ring and the doorbell are compiled, so much of them has no caller.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[cfg(not(target_os = "linux"))]
compile_error!("millpond runs on Linux only: it is built on futex, membarrier and /dev/shm");

/// A place where the crash lab may kill this process; nothing without the feature `kill-points`.
macro_rules! kill_point {
    ($label:literal) => {
        #[cfg(feature = "kill-points")]
        millpond_kill_points::pass($label);
    };
}

mod doorbell;
mod ring;
mod sync;

// The ring and the doorbell are what loom checks; everything else needs an operating system.
#[cfg(not(loom))]
mod batch;
#[cfg(not(loom))]
mod bus;
#[cfg(not(loom))]
mod channel;
#[cfg(not(loom))]
mod clock;
#[cfg(not(loom))]
mod commit;
#[cfg(not(loom))]
mod commit_bell;
#[cfg(not(loom))]
mod control;
#[cfg(not(loom))]
mod drain;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod figures;
#[cfg(not(loom))]
mod history;
#[cfg(not(loom))]
pub mod inspect;
#[cfg(not(loom))]
mod lane;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod level;
#[cfg(not(loom))]
mod names;
#[cfg(not(loom))]
mod object;
#[cfg(not(loom))]
mod origin;
#[cfg(not(loom))]
mod outbox;
#[cfg(not(loom))]
mod pattern;
#[cfg(not(loom))]
mod prometheus;
#[cfg(not(loom))]
mod publisher;
#[cfg(not(loom))]
mod region;
#[cfg(not(loom))]
mod rule;
#[cfg(not(loom))]
mod schema;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod subscribers;
#[cfg(not(loom))]
mod subscription;

#[cfg(all(test, loom))]
mod models;

#[cfg(not(loom))]
pub use self::{
    batch::{
        AGGREGATE_FIELDS_MAX, AggregateView, BATCH_HEAD_BYTES_MAX, Batch, BatchParts, BatchView,
        Entries, Entry, EntryView, FieldSummary, GapBody, PaddedPrefix, append_aggregate,
        append_entry,
    },
    bus::{Bus, BusOptions, Limits},
    clock::{Clock, ClockSource},
    commit::{ServiceCommit, Untold},
    drain::{
        ConsumerNotice, Doorbell, Drain, FlushRequest, Gap, Item, LaneId, Mark, NameRef, Pass,
        Record, Scope, Sleep, Verdict,
    },
    error::{Error, ErrorKind},
    event::{Dropped, Event, Lagged, OwnedEvent, Subscriber},
    figures::{
        ConsumerFigures, DiskFigures, GroupFigures, HISTOGRAM_BUCKETS, Histogram, ServiceDisk,
        UpkeepFigures,
    },
    history::{History, Interval, ServiceHistory, SourceHistory, sum_since},
    level::Level,
    origin::Origin,
    outbox::Outbox,
    pattern::{NameError, Pattern, PatternError, check_event_name, literal_prefix},
    prometheus::prometheus_text,
    publisher::{
        Claim, Counts, FlushError, Guarantee, PublishBatch, PublishError, Publisher, Topic,
    },
    region::guard_truncated_objects,
    rule::{Class, ConflateKey, Explanation, Overflow, Resolved, Rule, RuleError, RuleTable},
    schema::{EventField, EventLayout, Field, FieldKind, Schema, SchemaError, SchemaMismatch},
    stats::{
        ConsumerInfo, DropCounts, LaneStats, ServiceStats, SourceStats, Stats, SubscriberStats,
    },
    subscription::{
        OnLag, Position, PositionError, RecvError, Since, SubscribeOptions, Subscription,
        SubscriptionCounts, SubscriptionWaker,
    },
};
