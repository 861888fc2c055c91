//! The crate that programs depend on: publish events, be the consumer yourself, read the logs.
//!
//! ```
//! use millpond::{Bus, BusOptions, Daemon, Guarantee, Level};
//!
//! # let dir = tempfile::tempdir()?;
//! # let logs_dir = dir.path();
//! let bus = Bus::attach(&format!("doc-facade-{}", std::process::id()), &BusOptions::default())?;
//! let daemon = Daemon::builder(&bus, logs_dir).spawn()?; // or run `millpond daemon` beside this program
//!
//! let mut publisher = bus.publisher("web")?;
//! let topic = publisher.topic("log:web:rpc")?;
//! publisher.publish(topic, Level::Info, b"listening on :8080")?;
//! publisher.flush(Guarantee::Written, None)?;
//! # drop(publisher);
//! daemon.stop()?;
//! # bus.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub use millpond_bus::{
    AggregateView, Batch, Bus, BusOptions, Claim, Class, Clock, ConflateKey, Counts, Dropped,
    Error, ErrorKind, Event, EventField, EventLayout, Field, FieldKind, FieldSummary, FlushError,
    Guarantee, Lagged, Level, Limits, OnLag, Overflow, OwnedEvent, Pattern, Position,
    PositionError, PublishBatch, PublishError, Publisher, RecvError, Rule, RuleTable, Schema,
    SchemaError, SchemaMismatch, Since, Stats, SubscribeOptions, Subscriber, Subscription,
    SubscriptionCounts, SubscriptionWaker, Topic, guard_truncated_objects,
};
pub use millpond_daemon::{Builder, Daemon, Policy, Running, SyncPolicy};
pub use millpond_derive::Event;
pub use zerocopy;

pub mod replay;
#[cfg(feature = "tokio")]
mod stream;

#[cfg(feature = "tokio")]
pub use self::stream::EventStream;

// The guide's code is compiled and run with the tests.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../../../docs/guide/from-a-broadcast-channel.md")]
mod guide {}

/// Reading log directories.
pub mod logs {
    pub use millpond_logfile::{
        CommittedEnd, Counts, Cursor, Damage, FollowReport, Followed, Follower, Gone, Hit, Level,
        LevelSet, LogPosition, Order, Query, QueryReport, Reader, ServiceCounts, SourcePattern,
    };
}
