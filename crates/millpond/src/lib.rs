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
    Bus, BusOptions, Claim, Class, Clock, Counts, Error, ErrorKind, EventField, EventLayout, Field,
    FieldKind, FlushError, Guarantee, Level, Limits, Overflow, Pattern, PublishBatch, PublishError,
    Publisher, Rule, RuleTable, Schema, SchemaError, SchemaMismatch, Stats, Topic,
};
pub use millpond_daemon::{Builder, Daemon, Policy, Running, SyncPolicy};
pub use millpond_derive::Event;
pub use zerocopy;

/// Reading log directories.
pub mod logs {
    pub use millpond_logfile::{
        Counts, Damage, Hit, Level, LevelSet, Order, Query, QueryReport, Reader, ServiceCounts,
        SourcePattern,
    };
}
