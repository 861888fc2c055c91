//! The power fails while durable events are acknowledged: nothing of those is lost.

use std::time::Duration;

use millpond_loadgen::power_cut::{Kind, Options, run};
use millpond_tests::{Watchdog, seed, setting};

use crate::scenarios::host;
use crate::support::turn;

fn play(options: Options) {
    let options = Options {
        host: host(),
        cuts: setting("MILLPOND_TEST_CUTS", options.cuts),
        seed: seed(),
        ..options
    };
    let _turn = turn();
    let limit = Duration::from_secs(180 + 4 * options.cuts);
    let _watchdog = Watchdog::start("power-cut", limit);
    let report = match run(&options, &mut |what| eprintln!("{what}")) {
        Ok(report) => report,
        Err(error) => panic!("power-cut: {error}"),
    };
    match &report.kind {
        Kind::Simulated(why) if !options.simulated => {
            eprintln!("skipped: no ext4 on a loop device, a simulated disk ran: {why}");
        }
        kind => eprintln!("the power was cut of: {kind:?}"),
    }
    println!("{report}");
    for criterion in &report.criteria {
        assert!(criterion.met, "power-cut: {}", criterion.text);
    }
}

#[test]
fn power_cut_takes_nothing_that_was_acknowledged_as_durable() {
    play(Options::ci());
}

/// Runs everywhere, and tears what an ext4 keeps in order.
#[test]
fn power_cut_of_a_simulated_disk_takes_nothing_either() {
    play(Options {
        simulated: true,
        cuts: 12,
        ..Options::ci()
    });
}
