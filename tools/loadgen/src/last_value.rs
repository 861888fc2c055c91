//! `last-value`: the newest reading wins, and what must not be merged is not.
//!
//! `serving:snapshot` says *not ready* and 1 ms later *ready*, over and over, on a `conflate` rule: whoever
//! subscribes ends at *ready* each time. Then `persona:act` comes in bursts of 8 on a lossless `batch` rule: all 8
//! arrive, in order, each time.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, last_value};
//! let report = last_value::run(&last_value::Options::ci(), &mut |what| eprintln!("{what}"))?;
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

pub(crate) use self::play::{publisher_role, subscriber_role};

/// Acts of a burst.
const BURST: u64 = 8;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Times that readiness comes and goes.
    pub rounds: u64,
    /// Bursts of 8 acts.
    pub bursts: u64,
    /// `max_delay` of the `conflate` rule. Short, for each round waits for it.
    pub window: Duration,
    /// Pause between two bursts.
    pub pause: Duration,
}

impl Options {
    /// About two seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            rounds: 200,
            bursts: 200,
            window: Duration::from_millis(5),
            pause: Duration::from_millis(5),
        }
    }

    /// 10,000 rounds and as many bursts: about two minutes.
    pub fn full() -> Self {
        Options {
            rounds: 10_000,
            bursts: 10_000,
            ..Self::ci()
        }
    }

    /// Only one of the phases: `snapshot` or `persona`.
    ///
    /// # Errors
    /// Names the phases there are, where `phase` is none of them.
    pub fn only(mut self, phase: &str) -> Result<Self, Error> {
        match phase {
            "snapshot" => self.bursts = 0,
            "persona" => self.rounds = 0,
            _ => return Err(no_such_phase("last-value", phase, "snapshot, persona")),
        }
        Ok(self)
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Rounds of not ready and ready.
    pub rounds: u64,
    /// Rounds at whose end the subscriber stood at *ready*.
    pub ended_ready: u64,
    /// Values received.
    pub values: u64,
    /// Earlier values that those stand for.
    pub replaced: u64,
    /// Values that were older than one received before.
    pub went_back: u64,
    /// From the stamp of *ready* to its receipt: the window is part of it.
    pub ready: Summary,
    /// Bursts of 8 acts.
    pub bursts: u64,
    /// Bursts that arrived as 8 of 8, in order.
    pub whole_bursts: u64,
    /// Acts received.
    pub acts: u64,
    /// Acts that came out of their order.
    pub out_of_order: u64,
    /// Batches they came in.
    pub batches: u64,
    /// One for each rule.
    pub accounts: Vec<Account>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    progress(&format!(
        "last-value: {} rounds, {} bursts",
        options.rounds, options.bursts
    ));
    let mut report = play::run(&host, options)?;
    report.criteria = judge(&report);
    Ok(report)
}

fn judge(report: &Report) -> Vec<Criterion> {
    let Report {
        rounds,
        ended_ready,
        values,
        replaced,
        went_back,
        bursts,
        whole_bursts,
        ..
    } = *report;
    let mut criteria = vec![Criterion::new(
        "the account of each prefix balances, nothing lost",
        all_complete(&report.accounts),
    )];
    if rounds > 0 {
        criteria.push(Criterion::new(
            format!("{ended_ready} of {rounds} rounds ended at ready"),
            ended_ready == rounds,
        ));
        criteria.push(Criterion::new(
            format!(
                "{} published = {values} received + {replaced} replaced",
                2 * rounds
            ),
            values + replaced == 2 * rounds,
        ));
        criteria.push(Criterion::new(
            format!("no value after a newer one ({went_back} were)"),
            went_back == 0,
        ));
    }
    if bursts > 0 {
        criteria.push(Criterion::new(
            format!("{whole_bursts} of {bursts} bursts arrived as 8 of 8, in order"),
            whole_bursts == bursts && report.out_of_order == 0,
        ));
    }
    criteria
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "last-value: {} rounds of not ready and ready: {} values, {} replaced",
            self.rounds, self.values, self.replaced
        )?;
        writeln!(
            f,
            "            {} bursts of {BURST}: {} acts in {} batches",
            self.bursts, self.acts, self.batches
        )?;
        text::accounts(f, &self.accounts)?;
        text::latencies(f, &[("ready, with window", self.ready)])?;
        text::criteria(f, &self.criteria)
    }
}
