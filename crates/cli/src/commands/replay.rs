//! `millpond replay`: a scenario at a size of the user's choice, on this host, with its baselines.

use std::fmt::Display;
use std::io::Write;

use millpond_loadgen::{
    Criterion, all_met, crash, debate, frozen_disk, full_disk, gpus, last_value, normal_day,
    power_cut, ptys, rotation, runaway, selective_wake, tower_start, week,
};
use serde::Serialize;

use crate::Run;
use crate::args::Settings;
use crate::flags::{ReplayFlags, RoleFlags, Scenario, Size};
use crate::outcome::{Failure, Outcome};
use crate::print::progress::Progress;
use crate::print::stdout;

pub(crate) fn run(flags: &ReplayFlags, settings: &Settings) -> Run {
    let progress = Progress::in_words();
    let say = &mut |what: &str| progress.say(what);
    // Scenarios have buses of their own: what is configured on this host changes nothing.
    macro_rules! play {
        ($scenario:ident) => {
            play!($scenario, |_| {})
        };
        // With flags that the options have under the same names.
        ($scenario:ident, $($flag:ident),+) => {
            play!($scenario, |options| {
                $(options.$flag = flags.$flag.clone();)+
            })
        };
        ($scenario:ident, $more:expr) => {{
            let mut options = match &flags.size {
                Size::Ci => $scenario::Options::ci(),
                Size::Full => $scenario::Options::full(),
                Size::Bytes(_) if flags.scenario != Scenario::Week => {
                    return Err(Failure::new(
                        "--size: only week has sizes in bytes; the others are `ci` or `full`",
                    ));
                }
                Size::Bytes(_) => $scenario::Options::full(),
            };
            let more: &dyn Fn(&mut $scenario::Options) = &$more;
            more(&mut options);
            if let Some(phase) = &flags.only {
                options = options.only(phase)?;
            }
            let played = $scenario::run(&options, say);
            progress.finish();
            let report = played?;
            print(&report, &report.criteria, settings)
        }};
    }
    match flags.scenario {
        Scenario::TowerStart => play!(tower_start),
        Scenario::LastValue => play!(last_value),
        Scenario::Debate => play!(debate),
        Scenario::SelectiveWake => play!(selective_wake),
        Scenario::NormalDay => play!(normal_day, dir),
        Scenario::Runaway => play!(runaway, |options| {
            options.dir = flags.dir.clone();
            // Where this program is not known, the library alone is asked.
            options.millpond = std::env::current_exe().ok();
        }),
        Scenario::Rotation => play!(rotation, dir),
        Scenario::Crash => play!(crash, dir, seed),
        Scenario::FrozenDisk => play!(frozen_disk, dir),
        Scenario::FullDisk => play!(full_disk, dir),
        Scenario::PowerCut => play!(power_cut, dir, seed),
        Scenario::Gpus => play!(gpus),
        Scenario::Ptys => play!(ptys, dir, seed),
        Scenario::Week => play!(week, |options| {
            if let Size::Bytes(sizes) = &flags.size {
                options.sizes = sizes.clone();
            }
            options.dir = flags.dir.clone();
            options.corpus = flags.corpus.clone();
            options.seed = flags.seed;
        }),
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

/// One process of a scenario.
pub(crate) fn role(flags: &RoleFlags) -> Run {
    match millpond_loadgen::role(&flags.arguments) {
        Some(outcome) => outcome.map(|()| Outcome::Found).map_err(Failure::from),
        None => Err(Failure::new("no role given")),
    }
}
