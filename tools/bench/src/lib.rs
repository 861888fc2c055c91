//! Measures millpond on this machine: what `millpond bench` runs, and the report that peers are in, too.
//!
//! A [`Part`] is a kind of work, of which each [`Row`] is a case: so many publishers, such a payload, or the physical
//! floor of the same work. Rounds of all cases of a part are interleaved, and the case that begins changes from round to
//! round, so that what else the machine does happens to all of them. Rows are JSON lines, and the same type is what
//! `benches/compare` writes of others, so that one [`report`] holds all.
//!
//! Publishers, subscribers and the consumer are processes: the program that measures is started again for each of
//! them, and has to hand its arguments to [`role`].
//!
//! ```
//! assert!(millpond_bench::role(&[]).is_none()); // no role was asked for: go on as usual
//! assert_eq!(millpond_bench::Part::ALL.len(), 8);
//! ```

#![forbid(unsafe_code)]

mod machine;
mod parts;
mod plan;
pub mod report;
mod row;
mod usage;

pub use self::machine::{commit, machine};
pub use self::parts::role;
pub use self::plan::{Options, Part, Size, Step, run};
pub use self::row::{Figure, Guarantees, LatencyNs, Round, Row, Spread, Varied};
pub use millpond_loadgen::Error;
