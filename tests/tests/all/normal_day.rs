//! 24 services at a size for CI: nothing lost, nothing twice, and a consumer that stays small.

use millpond_loadgen::normal_day::{Options, run};

use crate::scenarios::{check, host};

#[test]
fn a_normal_day_loses_nothing_and_the_daemon_stays_small() {
    let options = Options {
        host: host(),
        ..Options::ci()
    };
    check(
        "normal-day",
        |progress| run(&options, progress),
        |report| &report.criteria,
    );
}
