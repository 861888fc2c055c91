//! The soak in small: each kind of fault once, and everything is there afterwards.

use millpond_loadgen::soak::{Options, run};
use millpond_tests::Random;

use crate::scenarios::{check, host};

#[test]
fn each_fault_once_loses_nothing_and_leaves_nothing() {
    let options = Options {
        host: host(),
        seed: Random::seeded().below(u64::MAX),
        ..Options::ci()
    };
    check(
        "soak",
        |progress| run(&options, progress),
        |report| &report.criteria,
    );
}
