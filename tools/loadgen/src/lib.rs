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
mod corpus;
mod criteria;
mod day;
mod disk;
mod disk_load;
mod error;
mod files;
mod latencies;
mod measured;
mod place;
pub mod plot;
mod process;
mod random;
mod stage;
mod terminal;
mod text;
mod visitor;
mod watch;

pub mod crash;
pub mod debate;
pub mod frozen_disk;
pub mod full_disk;
pub mod gpus;
pub mod last_value;
pub mod normal_day;
pub mod power_cut;
pub mod ptys;
pub mod rotation;
pub mod runaway;
pub mod selective_wake;
pub mod soak;
pub mod tower_start;
pub mod week;

pub use self::clock::{monotonic_ns, process_cpu_ns};
pub use self::criteria::{Account, Criterion, LogAccount, all_met};
pub use self::disk::{free_bytes, used_bytes};
pub use self::disk_load::ServiceOutcome;
pub use self::error::Error;
pub use self::latencies::{Latencies, Summary};
pub use self::measured::{Measured, measure};
pub use self::process::{Arguments, Host, Process, Talk, play_role, role};
pub use self::random::Random;
pub use self::terminal::{Terminal, without_carriage_returns};
