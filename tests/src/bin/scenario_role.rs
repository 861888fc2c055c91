//! The processes of the scenarios: see `millpond_loadgen::Host`.

use std::process::ExitCode;
use std::time::Duration;

use millpond_tests::{Watchdog, setting};

fn main() -> ExitCode {
    let limit = 300 + 2 * setting("MILLPOND_TEST_KILLS", 5);
    let _watchdog = Watchdog::start("a process of a scenario", Duration::from_secs(limit));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match millpond_loadgen::role(&arguments) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("scenario_role: {error}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("scenario_role: no role given");
            ExitCode::FAILURE
        }
    }
}
