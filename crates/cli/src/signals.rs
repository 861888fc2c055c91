//! Signals, as calls on a thread of their own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use millpond_capture::Controller;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{
    SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::exfiltrator::Exfiltrator;
use signal_hook::iterator::exfiltrator::raw::WithRawSiginfo;
use signal_hook::iterator::{Signals, SignalsInfo};

use crate::outcome::Failure;

/// Of a signal that the kernel sent, such as for Ctrl-C; those of processes have other codes.
const SI_KERNEL: i32 = 0x80;

/// A watch of this module decides what becomes of the process when it shall stop.
static STOP_IS_WATCHED: AtomicBool = AtomicBool::new(false);

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

/// For what has something to put in order on the screen before it ends: calls `before`, then does what the signal does by
/// itself. SIGTERM and SIGINT, but for one that this process was started to ignore. Where another watch looks after them,
/// what becomes of the process is for that one to say.
pub(crate) fn watch_default(before: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let mut wanted = vec![SIGTERM, SIGINT];
    wanted.retain(|&signal| !is_ignored(signal));
    call(Signals::new(&wanted)?, move |signal| {
        before();
        // ORDERING: Relaxed; set long before a signal comes, or the signal came first.
        if !STOP_IS_WATCHED.load(Ordering::Relaxed) {
            // It fails for signals that have no default, which these are not.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    })
}

/// For a captured command: signals are passed on to it, however often they come; it says what becomes of them. A
/// changed size, and going on after a stop, are for the capture to look at.
///
/// `shares_terminal`: it is in our process group, so that a terminal that sends us a signal has sent it one too.
pub(crate) fn watch_for_command(
    controller: &Controller,
    shares_terminal: bool,
) -> Result<(), Failure> {
    let passed_on = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
    // SIGCHLD: a process that was started with it ignored would not be told what becomes of the command.
    let looked_at = [SIGWINCH, SIGCONT, SIGCHLD];
    let signals = SignalsInfo::<WithRawSiginfo>::new(passed_on.iter().chain(&looked_at))?;
    // ORDERING: Relaxed; see `watch_default`.
    STOP_IS_WATCHED.store(true, Ordering::Relaxed);
    let controller = controller.clone();
    call(signals, move |info| match info.si_signo {
        SIGWINCH | SIGCONT | SIGCHLD => controller.look(),
        SIGINT | SIGQUIT if shares_terminal && info.si_code == SI_KERNEL => {}
        signal => controller.signal(signal),
    })
}

/// For what stops in order and takes its time: calls `on_stop` with each SIGTERM, SIGINT and SIGHUP, also with
/// further ones. SIGHUP that this process was started to ignore, as by nohup, stays ignored.
pub(crate) fn watch_each_stop(on_stop: impl Fn(i32) + Send + 'static) -> Result<(), Failure> {
    // SIGCHLD: see `watch_for_command`.
    let mut wanted = vec![SIGTERM, SIGINT, SIGCHLD];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let signals = Signals::new(wanted)?;
    // ORDERING: Relaxed; see `watch_default`.
    STOP_IS_WATCHED.store(true, Ordering::Relaxed);
    call(signals, move |signal| {
        if signal != SIGCHLD {
            on_stop(signal);
        }
    })
}

/// What a signal means to a command that has the whole screen.
pub(crate) enum OnScreen {
    Stop,
    /// Somebody asks it to stop for a while, and it has to give the terminal back first.
    Suspend,
    /// It was stopped, and is not any more.
    Continued,
}

/// For a command that has the whole screen: nothing of these ends it, however often, before it has given the terminal back.
pub(crate) fn watch_screen(on_signal: impl Fn(OnScreen) + Send + 'static) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGTSTP, SIGCONT])?;
    // ORDERING: Relaxed; see `watch_default`.
    STOP_IS_WATCHED.store(true, Ordering::Relaxed);
    call(signals, move |signal| match signal {
        SIGTSTP => on_signal(OnScreen::Suspend),
        SIGCONT => on_signal(OnScreen::Continued),
        _ => on_signal(OnScreen::Stop),
    })
}

/// Stops this process as Ctrl-Z would; returns when it is continued.
pub(crate) fn stop_ourselves() -> Result<(), Failure> {
    Ok(signal_hook::low_level::emulate_default_handler(SIGTSTP)?)
}

/// Whether this process ignores a signal: by the mask that the kernel shows.
fn is_ignored(signal: i32) -> bool {
    let ignored = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    ignored().is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
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

/// A second stop ends the process at once.
fn spawn(signals: Signals, on_signal: impl Fn(i32) + Send + 'static) -> Result<(), Failure> {
    let mut stopping = false;
    // ORDERING: Relaxed; see `watch_default`.
    STOP_IS_WATCHED.store(true, Ordering::Relaxed);
    call(signals, move |signal| {
        if matches!(signal, SIGTERM | SIGINT) && std::mem::replace(&mut stopping, true) {
            #[expect(clippy::disallowed_methods, reason = "asked twice: leave at once")]
            std::process::exit(2)
        }
        on_signal(signal);
    })
}

fn call<E: Exfiltrator>(
    mut signals: SignalsInfo<E>,
    mut on_signal: impl FnMut(E::Output) + Send + 'static,
) -> Result<(), Failure>
where
    SignalsInfo<E>: Send + 'static,
{
    thread::Builder::new()
        .name("millpond-signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                on_signal(signal);
            }
        })?;
    Ok(())
}
