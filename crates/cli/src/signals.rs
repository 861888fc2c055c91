//! Signals, as calls on a thread of their own.

use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::outcome::Failure;

/// What a signal asks for.
pub(crate) enum Asked {
    Stop,
    Rotate,
    Reload,
}

/// For a daemon: calls `on_signal` for SIGTERM and SIGINT (stop), SIGUSR1 (rotate) and SIGHUP (reload). A
/// second stop ends the process at once.
pub(crate) fn watch(on_signal: impl Fn(Asked) + Send + 'static) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP])?;
    spawn(signals, move |signal| match signal {
        SIGUSR1 => on_signal(Asked::Rotate),
        SIGHUP => on_signal(Asked::Reload),
        _ => on_signal(Asked::Stop),
    })
}

/// For what only runs until it is stopped: calls `on_stop` with the number of the signal. A second one ends
/// the process at once.
pub(crate) fn watch_stop(on_stop: impl Fn(u8) + Send + 'static) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT])?;
    spawn(signals, move |signal| {
        on_stop(u8::try_from(signal).unwrap_or_default());
    })
}

/// Calls `on_closed` when nobody can read our standard output any more: with a pipe whose reader has ended.
pub(crate) fn watch_output(on_closed: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new()
        .name("millpond-output".to_owned())
        .spawn(move || {
            let stdout = std::io::stdout();
            // Asked for nothing, it tells of the other end alone; of a file, never.
            let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
            while let Err(Errno::INTR) = poll(&mut ends, None) {}
            if ends[0]
                .revents()
                .intersects(PollFlags::ERR | PollFlags::HUP)
            {
                on_closed();
            }
        })?;
    Ok(())
}

fn spawn(mut signals: Signals, on_signal: impl Fn(i32) + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new()
        .name("millpond-signals".to_owned())
        .spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                if matches!(signal, SIGTERM | SIGINT) && std::mem::replace(&mut stopping, true) {
                    #[expect(clippy::disallowed_methods, reason = "asked twice: leave at once")]
                    std::process::exit(2)
                }
                on_signal(signal);
            }
        })?;
    Ok(())
}
