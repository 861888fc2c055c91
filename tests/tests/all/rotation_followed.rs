//! A hundred rotations with followers: each record once, whatever rotates, is sealed and goes behind them.

use millpond_loadgen::rotation::{Options, run};

use crate::scenarios::{check, host};

#[test]
fn followers_see_every_record_once_through_a_hundred_rotations() {
    let options = Options {
        host: host(),
        ..Options::ci()
    };
    check(
        "rotation",
        |progress| run(&options, progress),
        |report| &report.criteria,
    );
}
