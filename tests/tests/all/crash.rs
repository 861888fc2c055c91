//! Kills of consumers, publishers and subscribers at random moments: nothing acknowledged is lost, nothing is there
//! twice, and nobody has to help.

use millpond_loadgen::crash::{Options, run};
use millpond_tests::{Random, setting};

use crate::scenarios::{check, host};

#[test]
fn whoever_is_killed_nothing_is_lost_and_nothing_is_left() {
    let ci = Options::ci();
    let options = Options {
        host: host(),
        kills: setting("MILLPOND_TEST_KILLS", ci.kills),
        seed: Random::seeded().below(u64::MAX),
        ..ci
    };
    check(
        "crash",
        |progress| run(&options, progress),
        |report| &report.criteria,
    );
}
