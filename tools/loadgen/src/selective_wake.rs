//! `selective-wake`: many wait on one rule, each for what is meant for it alone.
//!
//! 64 waiters, each a thread with a subscription of its own, in a few processes. 1,000 messages on one rule,
//! of which each waiter gets 1 in 100, by `metadata.handoff_target` of the payload. Each must get exactly its
//! own; how often they were woken for it is counted.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, selective_wake};
//! let report = selective_wake::run(&selective_wake::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::criteria::{Account, Criterion, all_complete};
use crate::error::{Error, no_such_phase};
use crate::latencies::Summary;
use crate::process::Host;
use crate::text;

mod play;

pub(crate) use self::play::waiters_role;

/// One message in so many is for a given waiter.
const TARGETS: u64 = 100;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Waiters, at most 100; what is meant for the others is for nobody.
    pub waiters: u64,
    /// Processes that they are spread over.
    pub processes: u64,
    /// Messages on their rule.
    pub messages: u64,
    /// Pause after each message, so that the waiters sleep again.
    pub pause: Duration,
}

impl Options {
    /// 64 waiters, 1,000 messages in about three seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            waiters: 64,
            processes: 4,
            messages: 1000,
            pause: Duration::from_millis(2),
        }
    }

    /// The same, ten times as slow: every waiter sleeps before each message.
    pub fn full() -> Self {
        Options {
            pause: Duration::from_millis(20),
            ..Self::ci()
        }
    }

    /// It has one phase, `wake`.
    ///
    /// # Errors
    /// Where `phase` is another one.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        match phase {
            "wake" => Ok(self),
            _ => Err(no_such_phase("selective-wake", phase, "wake")),
        }
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Waiters.
    pub waiters: u64,
    /// Messages published on their rule, without the last one that ends it.
    pub messages: u64,
    /// Messages that were for one of the waiters.
    pub expected: u64,
    /// Messages received, over all waiters.
    pub matched: u64,
    /// Waiters that got exactly what was for them, in order.
    pub exact: u64,
    /// Messages that a filter kept from its waiter, over all waiters.
    pub filtered: u64,
    /// Wake-ups, over all waiters.
    pub wakes: u64,
    /// From the stamp of a message to its receipt by the waiter it was for.
    pub one_way: Summary,
    /// The one who published.
    pub accounts: Vec<Account>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// More waiters than 100, and what kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    progress(&format!(
        "selective-wake: {} waiters, {} messages",
        options.waiters, options.messages
    ));
    let mut report = play::run(&host, options)?;
    report.criteria = judge(&report);
    Ok(report)
}

fn judge(report: &Report) -> Vec<Criterion> {
    let Report {
        waiters,
        expected,
        matched,
        exact,
        ..
    } = *report;
    vec![
        Criterion::new(
            "every message is accounted for, none dropped",
            all_complete(&report.accounts),
        ),
        Criterion::new(
            format!("{exact} of {waiters} waiters got exactly their own, in order"),
            waiters > 0 && exact == waiters && matched == expected,
        ),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "selective-wake: {} waiters on one rule, {} messages, {} of them for a waiter",
            self.waiters, self.messages, self.expected
        )?;
        writeln!(
            f,
            "  {} wake-ups for {} messages matched ({:.1} each), {} filtered out",
            self.wakes,
            self.matched,
            self.wakes as f64 / self.matched.max(1) as f64,
            self.filtered
        )?;
        text::accounts(f, &self.accounts)?;
        text::latencies(f, &[("to its waiter", self.one_way)])?;
        text::criteria(f, &self.criteria)
    }
}
