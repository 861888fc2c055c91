//! The processes of the scenarios: see `millpond_loadgen::Host`.

use std::process::ExitCode;
use std::time::Duration;

use millpond_tests::Watchdog;

fn main() -> ExitCode {
    let _watchdog = Watchdog::start("a process of a scenario", Duration::from_secs(300));
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
