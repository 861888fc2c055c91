//! Any bytes in the files that others write: configuration, services file, imports. What must hold stands at the
//! functions of `millpond_cli::hostile`; `cargo xtask fuzz` runs the same ones for longer.

use std::time::Duration;

use millpond_cli::hostile;
use millpond_tests::{Mutator, Random, Watchdog, setting};

fn play(name: &str, run: fn(&[u8]), seeds: Vec<Vec<u8>>) {
    let seconds = setting("MILLPOND_TEST_SECONDS", 2);
    let _watchdog = Watchdog::start(name, Duration::from_secs(300 + 2 * seconds));
    let mut mutator = Mutator::new(Random::seeded(), seeds);
    let runs = mutator.run_for(name, Duration::from_secs(seconds), run);
    eprintln!("{name}: {runs} inputs in {seconds} s");
}

#[test]
fn any_configuration() {
    play("config", hostile::config, hostile::config_seeds());
}

#[test]
fn any_services_file() {
    play("services", hostile::services, hostile::services_seeds());
}

#[test]
fn any_import() {
    play("import", hostile::import, hostile::import_seeds());
}
