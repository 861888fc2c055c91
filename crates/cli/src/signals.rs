//! Signals, as calls on a thread of their own.

use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::outcome::Failure;

/// What a signal asks for.
pub(crate) enum Asked {
    Stop,
    Rotate,
}

/// Calls `on_signal` for SIGTERM and SIGINT (stop) and SIGUSR1 (rotate). A second stop ends the process at
/// once.
pub(crate) fn watch(on_signal: impl Fn(Asked) + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
    thread::Builder::new()
        .name("millpond-signals".to_owned())
        .spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                match signal {
                    SIGUSR1 => on_signal(Asked::Rotate),
                    _ if stopping =>
                    {
                        #[expect(clippy::disallowed_methods, reason = "asked twice: leave at once")]
                        std::process::exit(2)
                    }
                    _ => {
                        stopping = true;
                        on_signal(Asked::Stop);
                    }
                }
            }
        })?;
    Ok(())
}
