//! `debate`: processes that wait for each other's posts.
//!
//! Two processes post and wait in turns; then eight take part in a debate of four rounds, in which each
//! waits for the posts of all others before it goes on. Nobody polls: a position is taken before posting, and
//! a wait from there misses nothing. And a process that waits for nothing tells what processor time that cost.
//!
//! # Baselines
//! A table that is polled once a second, a condition variable within one process, a pair of pipes between
//! two. Both sides of the two and of these baselines have a processor each, so that all of them hand over
//! between the same two. (The floor, a bare futex hand-over, is in `benches/`: it needs shared memory of its own.)
//!
//! ```no_run
//! use millpond_loadgen::{all_met, debate};
//! let report = debate::run(&debate::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::criteria::{Account, Criterion, all_complete};
use crate::error::{Error, no_such_phase};
use crate::latencies::Summary;
use crate::process::Host;
use crate::text;

pub(crate) mod baselines;
mod meeting;
mod pair;
mod sleep;

pub use self::baselines::Baselines;
pub(crate) use self::{meeting::member_role, pair::debater_role, sleep::sleeper_role};

/// What `--only` takes.
const PHASES: &str = "pair, meeting, sleep, baselines";

/// How much of it; a part with a count of 0 is left out.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Rounds of post and wait between two processes.
    pub rounds: u64,
    /// Each round of this number also waits with a new subscription, from a position taken before its
    /// own post.
    pub fresh_every: u64,
    /// Processes of the debate.
    pub members: u64,
    /// Rounds of the debate.
    pub meeting_rounds: u64,
    /// How long the one waits who waits for nothing.
    pub sleep: Duration,
    /// Waits on the polled table, a second each.
    pub polls: u32,
    /// Rounds of the other baselines.
    pub baseline_rounds: u64,
}

impl Options {
    /// A few seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            rounds: 500,
            fresh_every: 10,
            members: 8,
            meeting_rounds: 4,
            sleep: Duration::from_secs(1),
            polls: 2,
            baseline_rounds: 500,
        }
    }

    /// 10,000 rounds, and a minute for the table.
    pub fn full() -> Self {
        Options {
            rounds: 10_000,
            sleep: Duration::from_secs(5),
            polls: 30,
            baseline_rounds: 10_000,
            ..Self::ci()
        }
    }

    /// Only one of the phases: `pair`, `meeting`, `sleep` or `baselines`.
    ///
    /// # Errors
    /// Names the phases there are, where `phase` is none of them.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        let mut one = Options {
            rounds: 0,
            members: 0,
            sleep: Duration::ZERO,
            polls: 0,
            baseline_rounds: 0,
            ..self.clone()
        };
        match phase {
            "pair" => one.rounds = self.rounds,
            "meeting" => one.members = self.members,
            "sleep" => one.sleep = self.sleep,
            "baselines" => {
                one.polls = self.polls;
                one.baseline_rounds = self.baseline_rounds;
            }
            _ => return Err(no_such_phase("debate", phase, PHASES)),
        }
        Ok(one)
    }
}

/// What came out; parts that were left out are `None`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Two processes in turns.
    pub pair: Option<Pair>,
    /// The debate.
    pub meeting: Option<Meeting>,
    /// Waiting for nothing.
    pub sleep: Option<Sleep>,
    /// The same by other means.
    pub baselines: Option<Baselines>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Two processes that post and wait in turns.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pair {
    /// Rounds asked for.
    pub rounds: u64,
    /// Posts that were received in their turn, of `2 * rounds`.
    pub received: u64,
    /// Waits with a new subscription from a position.
    pub fresh: u64,
    /// Of these, those that found the post they were for.
    pub fresh_received: u64,
    /// Times the two went to sleep.
    pub sleeps: u64,
    /// How often the two were woken.
    pub wakes: u64,
    /// One way, from the stamp of the post to the return of the wait, of waits that slept: what a wake-up
    /// takes.
    pub asleep: Summary,
    /// The same, of waits that found the post before they could sleep.
    pub awake: Summary,
    /// One for each of the two.
    pub accounts: Vec<Account>,
}

/// The debate.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Meeting {
    /// Processes.
    pub members: u64,
    /// Rounds.
    pub rounds: u64,
    /// Rounds that a member finished, over all members, of `members * rounds`.
    pub waits: u64,
    /// Posts of others received, of `waits * (members - 1)`.
    pub received: u64,
    /// One way, from the stamp of each post to its receipt.
    pub one_way: Summary,
    /// One for each member.
    pub accounts: Vec<Account>,
}

/// A wait for what does not come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sleep {
    /// How long it took.
    pub waited_ns: u64,
    /// Processor time that the waiting thread used meanwhile.
    pub cpu_ns: u64,
    /// Whether it ended because something seemed to be there.
    pub woken: bool,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let mut report = Report::default();
    wait(&host, options, &mut report, progress)?;
    if options.baseline_rounds > 0 {
        let (polls, rounds) = (options.polls, options.baseline_rounds);
        report.baselines = Some(baselines::run(&host, polls, rounds, progress)?);
    }
    report.criteria = judge(&report);
    Ok(report)
}

fn wait(
    host: &Host,
    options: &Options,
    report: &mut Report,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let rules = crate::stage::rules_with(vec![crate::stage::passthrough("debate:*")?])?;
    let stage = crate::stage::Stage::new(host, "debate", rules)?;
    if options.rounds > 0 {
        progress(&format!("debate: two processes, {} rounds", options.rounds));
        report.pair = Some(pair::run(host, &stage, options)?);
    }
    if options.members > 0 {
        let (members, rounds) = (options.members, options.meeting_rounds);
        progress(&format!("debate: {members} processes, {rounds} rounds"));
        report.meeting = Some(meeting::run(host, &stage, members, rounds)?);
    }
    if !options.sleep.is_zero() {
        progress(&format!(
            "debate: a wait of {:?} for nothing",
            options.sleep
        ));
        report.sleep = Some(sleep::run(host, &stage, options.sleep)?);
    }
    stage.close()?;
    Ok(())
}

fn judge(report: &Report) -> Vec<Criterion> {
    let mut criteria = Vec::new();
    let mut complete = |what: &str, accounts: &[Account]| {
        criteria.push(Criterion::new(
            format!("{what}: every post is accounted for, none dropped"),
            all_complete(accounts),
        ));
    };
    if let Some(pair) = &report.pair {
        complete("pair", &pair.accounts);
    }
    if let Some(meeting) = &report.meeting {
        complete("meeting", &meeting.accounts);
    }
    if let Some(pair) = &report.pair {
        let (received, posts) = (pair.received, 2 * pair.rounds);
        criteria.push(Criterion::new(
            format!("pair: {received} of {posts} posts received, each in its turn"),
            received == posts,
        ));
        let (found, fresh) = (pair.fresh_received, pair.fresh);
        criteria.push(Criterion::new(
            format!("pair: {found} of {fresh} waits from an earlier position found the post"),
            found == fresh,
        ));
    }
    if let Some(meeting) = &report.meeting {
        let Meeting {
            members,
            rounds,
            waits,
            received,
            ..
        } = *meeting;
        criteria.push(Criterion::new(
            format!(
                "meeting: {waits} of {} waits ended with all posts",
                members * rounds
            ),
            waits == members * rounds && received == waits * members.saturating_sub(1),
        ));
    }
    if let Some(sleep) = &report.sleep {
        criteria.push(Criterion::new(
            "sleep: nothing woke the one who waits for nothing",
            !sleep.woken,
        ));
    }
    criteria
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = Vec::new();
        if let Some(pair) = &self.pair {
            writeln!(
                f,
                "debate: two processes, {} rounds, {} sleeps, {} wake-ups",
                pair.rounds, pair.sleeps, pair.wakes
            )?;
            text::accounts(f, &pair.accounts)?;
            rows.push(("wait that slept", pair.asleep));
            rows.push(("wait that did not", pair.awake));
        }
        if let Some(meeting) = &self.meeting {
            writeln!(
                f,
                "debate: {} processes, {} rounds, {} posts received in {} waits",
                meeting.members, meeting.rounds, meeting.received, meeting.waits
            )?;
            rows.push(("debate, all posts", meeting.one_way));
        }
        if let Some(sleep) = &self.sleep {
            writeln!(
                f,
                "processor time of a wait of {}: {}",
                text::duration(sleep.waited_ns),
                text::duration(sleep.cpu_ns)
            )?;
        }
        if let Some(baselines) = &self.baselines {
            rows.push(("polled table, 1 s", baselines.sqlite_polling));
            rows.push(("condvar, in process", baselines.in_process));
            rows.push(("pipes, 2 processes", baselines.pipes));
        }
        text::latencies(f, &rows)?;
        text::criteria(f, &self.criteria)
    }
}
