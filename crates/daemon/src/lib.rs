//! The one consumer of a bus: drains it, routes what is to be kept into the log, and makes it true.
//!
//! The `millpond daemon` command is this crate and a signal handler. A program that wants no second
//! process embeds it:
//!
//! ```
//! use millpond_bus::{Bus, BusOptions, Guarantee, Level};
//! use millpond_daemon::Daemon;
//!
//! # let dir = tempfile::tempdir()?;
//! # let logs_dir = dir.path();
//! let bus = Bus::attach(&format!("doc-daemon-{}", std::process::id()), &BusOptions::default())?;
//! let daemon = Daemon::builder(&bus, logs_dir).spawn()?;
//!
//! let mut publisher = bus.publisher("greeter")?;
//! let topic = publisher.topic("log:web:rpc")?;
//! publisher.publish(topic, Level::Info, b"listening on :8080")?;
//! publisher.flush(Guarantee::Written, None)?;
//!
//! let text = std::fs::read_to_string(logs_dir.join("web/current.log"))?;
//! assert!(text.ends_with("INFO  rpc listening on :8080\n"));
//! daemon.stop()?;
//! # drop(publisher);
//! # bus.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

/// A place where the crash lab may kill this process; nothing without the feature `kill-points`.
macro_rules! kill_point {
    ($label:literal) => {
        #[cfg(feature = "kill-points")]
        millpond_kill_points::pass($label);
    };
}

mod consumer;
mod delivery;
mod error;
mod gaps;
mod health;
#[cfg(feature = "http")]
pub mod http;
mod life;
mod reduce;
pub mod report;
mod router;
mod schemas;
mod subscribers;

pub use self::consumer::{Builder, Configuration, Daemon, Notice, Running, Step, StopHandle};
pub use self::error::Error;
pub use self::health::{HEARTBEAT_AGE_MAX, Health};
pub use self::life::{Life, Phase};
pub use self::reduce::{RateLimit, Redaction, RedactionError, Reduction, Reductions};
pub use millpond_sink::{BackendChoice, Policy, SealPolicy, ServicePolicy, SyncPolicy};
