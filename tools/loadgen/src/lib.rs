//! The scenarios of millpond: loads taken from real systems, with their baselines in the same run.
//!
//! Each module is a scenario: `Options` says how much, `run` plays it with processes of its own, and the
//! `Report` holds what was counted and measured. What is a count has a [`Criterion`] that is met or not; what
//! is a time is only reported. `Display` is a table for people, `Serialize` the same for programs.
//!
//! Publishers, subscribers and the consumer are processes: the program that runs a scenario is started
//! again for each of them, and has to hand its arguments to [`role`]. See [`Host`].
//!
//! ```
//! use millpond_loadgen::{Latencies, role};
//!
//! assert!(role(&[]).is_none()); // no role was asked for: go on as usual
//!
//! let mut latencies = Latencies::default();
//! (1..=1000).for_each(|ns| latencies.record(ns));
//! assert_eq!(latencies.summary().p99_ns, 990);
//! ```

#![forbid(unsafe_code)]

mod clock;
mod criteria;
mod error;
mod healthz;
mod latencies;
mod place;
mod process;
mod stage;
mod text;

pub mod debate;
pub mod last_value;
pub mod selective_wake;
pub mod tower_start;

pub use self::criteria::{Account, Criterion, all_met};
pub use self::error::Error;
pub use self::latencies::{Latencies, Summary};
pub use self::process::{Host, role};
