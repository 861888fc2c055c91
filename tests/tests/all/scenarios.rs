//! The scenarios at a size for CI: what they count must be right, what they measure is printed.

use std::fmt::Display;
use std::time::Duration;

use millpond_loadgen::{Criterion, Host, debate, gpus, last_value, selective_wake, tower_start};
use millpond_tests::{Watchdog, setting};

use crate::support::turn;

pub(crate) fn host() -> Option<Host> {
    Some(Host::new(env!("CARGO_BIN_EXE_scenario_role"), &[]))
}

/// Plays one, prints its report, and asserts its criteria.
pub(crate) fn check<R: Display>(
    scenario: &str,
    run: impl FnOnce(&mut dyn FnMut(&str)) -> Result<R, millpond_loadgen::Error>,
    criteria: impl FnOnce(&R) -> &[Criterion],
) {
    let _turn = turn();
    let limit = 180 + 2 * setting("MILLPOND_TEST_KILLS", 5);
    let _watchdog = Watchdog::start(scenario, Duration::from_secs(limit));
    let report = match run(&mut |what| eprintln!("{what}")) {
        Ok(report) => report,
        Err(error) => panic!("{scenario}: {error}"),
    };
    println!("{report}");
    for criterion in criteria(&report) {
        assert!(criterion.met, "{scenario}: {}", criterion.text);
    }
}

#[test]
fn tower_start_loses_nothing() {
    let options = tower_start::Options {
        host: host(),
        ..tower_start::Options::ci()
    };
    check(
        "tower-start",
        |progress| tower_start::run(&options, progress),
        |report| &report.criteria,
    );
}

#[test]
fn last_value_ends_at_the_newest() {
    let options = last_value::Options {
        host: host(),
        ..last_value::Options::ci()
    };
    check(
        "last-value",
        |progress| last_value::run(&options, progress),
        |report| &report.criteria,
    );
}

#[test]
fn debate_misses_no_post() {
    let options = debate::Options {
        host: host(),
        ..debate::Options::ci()
    };
    check(
        "debate",
        |progress| debate::run(&options, progress),
        |report| &report.criteria,
    );
}

#[test]
fn selective_wake_gives_each_waiter_its_own() {
    let options = selective_wake::Options {
        host: host(),
        ..selective_wake::Options::ci()
    };
    check(
        "selective-wake",
        |progress| selective_wake::run(&options, progress),
        |report| &report.criteria,
    );
}

#[test]
fn gpus_are_consolidated_to_one_record_a_second_each() {
    let options = gpus::Options {
        host: host(),
        ..gpus::Options::ci()
    };
    check(
        "gpus",
        |progress| gpus::run(&options, progress),
        |report| &report.criteria,
    );
}
