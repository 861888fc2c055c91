//! What a service manager is told of a daemon, where there is one: ready, status, reload, stop, and that it lives.
//!
//! All of it goes out from one thread, since a message waits for a manager that does not read: the consumer never does.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use millpond_bus::Bus;
use millpond_daemon::{Health, Life};
use sd_notify::NotifyState;

use crate::flags::Color;
use crate::outcome::Failure;
use crate::print;

/// Messages that wait for the manager. What comes while so many wait is left out; it has stopped reading then.
const WAITING_MAX: usize = 64;
/// A consumer beats once a second, and may be late: a watchdog that barks earlier ends daemons that are well.
const WATCHDOG_MIN: Duration = Duration::from_secs(5);
/// The longest between two looks whether it lives.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// What is left to tell at the end has this long to go out.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Something to tell.
enum Told {
    Status(String),
    Ready(String),
    /// Since when, in the manager's time.
    Reloading(NotifyState<'static>),
    Reloaded,
    Stopping,
    /// Nothing more.
    End,
}

/// The thread that tells. Without a manager (`NOTIFY_SOCKET` is not set) there is none, and nothing costs anything.
#[derive(Default)]
pub(crate) struct Systemd {
    teller: Teller,
    /// Disconnected when the thread has told everything.
    is_over: Option<Receiver<()>>,
}

/// Tells it from any thread, without waiting.
#[derive(Clone, Default)]
pub(crate) struct Teller(Option<SyncSender<Told>>);

impl Systemd {
    /// `bus` is a mapping of its own, `life` that of the consumer: the watchdog is kept quiet only while that moves.
    pub(crate) fn start(bus: Bus, life: &Life, color: Color) -> Result<Self, Failure> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Systemd::default());
        }
        let watchdog = sd_notify::watchdog_enabled();
        if let Some(watchdog) = watchdog.filter(|&watchdog| watchdog < WATCHDOG_MIN) {
            let warning = format!(
                "the watchdog of the service manager barks after {watchdog:?}, and a consumer says once a second that it \
                 lives: set WatchdogSec to {WATCHDOG_MIN:?} or more"
            );
            print::warning_line(color, &warning);
        }
        let (sender, told) = mpsc::sync_channel(WAITING_MAX);
        let mut manager = Manager {
            bus,
            life: life.clone(),
            look_interval: watchdog.map(|watchdog| (watchdog / 4).min(LOOK_INTERVAL_MAX)),
            heartbeat_ns: 0,
            color,
            is_stopping: false,
            has_failed: false,
        };
        let (over, is_over) = mpsc::channel();
        std::thread::Builder::new()
            .name("millpond-systemd".to_owned())
            .spawn(move || {
                manager.tell_all(&told);
                drop(over);
            })?;
        Ok(Systemd {
            teller: Teller(Some(sender)),
            is_over: Some(is_over),
        })
    }

    pub(crate) fn teller(&self) -> Teller {
        self.teller.clone()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.teller.tell(Told::End);
        if let Some(is_over) = self.is_over.take() {
            // Not for ever: it may be the manager that hangs.
            let _ = is_over.recv_timeout(END_PATIENCE);
        }
    }
}

impl Teller {
    /// What it does now, in one line.
    pub(crate) fn status(&self, words: String) {
        self.tell(Told::Status(words));
    }

    /// It does what it is there for.
    pub(crate) fn ready(&self, words: String) {
        self.tell(Told::Ready(words));
    }

    /// It was asked to read its configuration again, now.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.tell(Told::Reloading(now));
        }
    }

    /// It has, or it keeps to the old one.
    pub(crate) fn reloaded(&self) {
        self.tell(Told::Reloaded);
    }

    /// It was asked to stop.
    pub(crate) fn stopping(&self) {
        self.tell(Told::Stopping);
    }

    fn tell(&self, told: Told) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(told);
        }
    }
}

struct Manager {
    bus: Bus,
    life: Life,
    look_interval: Option<Duration>,
    /// The one that the watchdog was told of last.
    heartbeat_ns: u64,
    color: Color,
    is_stopping: bool,
    has_failed: bool,
}

impl Manager {
    fn tell_all(&mut self, told: &Receiver<Told>) {
        loop {
            let next = match self.look_interval {
                Some(interval) => told.recv_timeout(interval),
                None => told.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(Told::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(told) => self.notify(&told),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.keep_watchdog_quiet();
        }
    }

    fn notify(&mut self, told: &Told) {
        match told {
            Told::Status(words) => self.send(&[NotifyState::Status(&one_line(words))]),
            Told::Ready(words) => {
                let words = one_line(words);
                self.send(&[NotifyState::Ready, NotifyState::Status(&words)]);
            }
            Told::Reloading(now) => self.send(&[NotifyState::Reloading, now.clone()]),
            Told::Reloaded => self.send(&[NotifyState::Ready]),
            Told::Stopping if !std::mem::replace(&mut self.is_stopping, true) => self.send(&[
                NotifyState::Stopping,
                NotifyState::Status("writing what is left"),
            ]),
            Told::Stopping | Told::End => {}
        }
    }

    /// A heartbeat that has not moved since is no sign of life; none at all (0) is not one either.
    fn keep_watchdog_quiet(&mut self) {
        if self.look_interval.is_none() {
            return;
        }
        let heartbeat_ns = Health::read(&self.bus, &self.life).heartbeat_ns;
        if heartbeat_ns != 0 && heartbeat_ns != self.heartbeat_ns {
            self.heartbeat_ns = heartbeat_ns;
            self.send(&[NotifyState::Watchdog]);
        }
    }

    fn send(&mut self, state: &[NotifyState<'_>]) {
        let Err(error) = sd_notify::notify(state) else {
            return;
        };
        // Once: it goes on being so.
        if !std::mem::replace(&mut self.has_failed, true) {
            let warning = format!("the service manager at NOTIFY_SOCKET cannot be told: {error}");
            print::warning_line(self.color, &warning);
        }
    }
}

/// A message is lines of `KEY=value`: what is said of a file must not become another of them.
fn one_line(words: &str) -> String {
    words.replace(|character: char| character.is_control(), " ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_status_cannot_become_another_message() {
        assert_eq!(super::one_line("a\nREADY=1"), "a READY=1");
    }
}
