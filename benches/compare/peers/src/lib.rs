//! What the comparisons share: rows as `millpond bench` has them, the order of rounds, the watchdog, versions.

#![forbid(unsafe_code)]

mod crew;
mod found;
mod runner;

pub use self::crew::{Crew, Watch};
pub use self::found::{first_line, kernel, locked, version_of};
pub use self::runner::{Case, Comparison, Flags, Found, Measure, Size, run};
pub use millpond_bench::{Figure, Guarantees, LatencyNs, Round, Row};

/// Any failure, in words.
pub type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
