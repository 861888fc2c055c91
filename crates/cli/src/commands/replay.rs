//! `millpond replay`: a scenario at a size of the user's choice, on this host, with its baselines.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use millpond_loadgen::{Criterion, all_met, debate, last_value, selective_wake, tower_start};
use serde::Serialize;

use crate::Run;
use crate::args::Settings;
use crate::outcome::{Failure, Outcome};
use crate::print::stdout;

#[derive(Debug, Args)]
pub(crate) struct ReplayFlags {
    /// Scenario to play
    #[arg(value_enum)]
    pub(crate) scenario: Scenario,
    /// How much of it: seconds, or as the scenario is written (minutes)
    #[arg(long, value_enum, default_value = "full", value_name = "SIZE")]
    pub(crate) size: Size,
    /// Play this phase alone: 100/s, 1000/s or unpaced of tower-start; snapshot or persona of last-value;
    /// pair, meeting, sleep or baselines of debate
    #[arg(long, value_name = "PHASE")]
    pub(crate) only: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// An indexer floods the bus while people talk and health is watched
    TowerStart,
    /// The newest reading wins, and what must not be merged is not
    LastValue,
    /// Processes that wait for each other's posts
    Debate,
    /// Many wait on one rule, each for what is meant for it alone
    SelectiveWake,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// Seconds
    Ci,
    /// As the scenario is written
    Full,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayRoleFlags {
    /// The role, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

pub(crate) fn run(flags: &ReplayFlags, settings: &Settings) -> Run {
    let mut progress = Progress {
        terminal: io::stderr().is_terminal(),
    };
    let say = &mut |what: &str| progress.say(what);
    // Scenarios have buses of their own: what is configured on this host changes nothing.
    macro_rules! play {
        ($scenario:ident) => {{
            let mut options = match flags.size {
                Size::Ci => $scenario::Options::ci(),
                Size::Full => $scenario::Options::full(),
            };
            if let Some(phase) = &flags.only {
                options = options.only(phase)?;
            }
            let report = $scenario::run(&options, say)?;
            progress.end();
            print(&report, &report.criteria, settings)
        }};
    }
    match flags.scenario {
        Scenario::TowerStart => play!(tower_start),
        Scenario::LastValue => play!(last_value),
        Scenario::Debate => play!(debate),
        Scenario::SelectiveWake => play!(selective_wake),
    }
}

fn print<R: Display + Serialize>(report: &R, criteria: &[Criterion], settings: &Settings) -> Run {
    let mut out = stdout(settings.color);
    match settings.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(report)?)?,
        false => write!(out, "{report}")?,
    }
    out.flush()?;
    Ok(Outcome::found(all_met(criteria)))
}

/// What is going on, on standard error: in place on a terminal, not at all elsewhere.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn say(&mut self, what: &str) {
        if self.terminal {
            // Nobody is left to hear that standard error is closed.
            let _ = write!(io::stderr(), "\r\x1b[K{what}");
        }
    }

    fn end(&mut self) {
        self.say("");
    }
}

/// One process of a scenario.
pub(crate) fn role(flags: &ReplayRoleFlags) -> Run {
    match millpond_loadgen::role(&flags.arguments) {
        Some(outcome) => outcome.map(|()| Outcome::Found).map_err(Failure::from),
        None => Err(Failure::new("no role given")),
    }
}
