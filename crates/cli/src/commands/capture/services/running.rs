//! The services while they run: one thread for each command, one that decides.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use millpond_bus::Bus;
use millpond_capture::{Capture, Controller, Ending, Error, ErrorKind, Exit, Front};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGKILL};

use super::file::{Service, Services};
use super::order::is_after;
use super::restart::{Next, Restarts};
use super::told::{End, Happened, Teller};
use crate::args::Settings;
use crate::outcome::{Failure, Outcome};
use crate::signals;

/// How often a command that is being started is looked at. It takes a millisecond or so.
const START_LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// A command that takes longer to be started, as from a network that hangs, holds the others up no longer.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Signals that are one too many for those that do not end even when they are killed.
const SIGNALS_LIMIT: u32 = 3;

/// A signal so soon behind another is the same one: a wrapper passes on what the terminal has sent to all.
const SAME_SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// What the thread that decides is told.
enum Message {
    Ended {
        place: usize,
        /// For the next run; `None`: it was lost in a panic.
        capture: Option<Box<Capture>>,
        result: Result<Ending, Error>,
    },
    /// Somebody wants it all to stop.
    Signal(i32),
}

/// Where a service is.
enum State {
    /// Its turn has not come.
    Queued,
    Running(Process),
    /// Until it is started again.
    Pausing {
        until: Instant,
        number: u32,
    },
    /// For good.
    Ended,
}

/// A command that runs, or is being started.
struct Process {
    controller: Controller,
    began: Instant,
    /// Whether it was seen to run.
    has_started: bool,
    stop: Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    NotAsked,
    Asked { kill_at: Instant },
    Killed,
}

struct Run {
    state: State,
    /// Its place on the bus, while no thread has it.
    capture: Option<Box<Capture>>,
    restarts: Restarts,
    /// How it ended last, and whether that was in order.
    is_in_order: bool,
}

/// All services of a file.
pub(super) struct Running<'s> {
    bus: Bus,
    services: &'s [Service],
    order: &'s [usize],
    /// What each is started after.
    after: Vec<Vec<usize>>,
    runs: Vec<Run>,
    /// Those whose turn to be started has not come.
    queue: VecDeque<usize>,
    /// Nothing is started any more.
    is_stopping: bool,
    /// SIGINT and SIGTERM that came, and when the last one did.
    signals: u32,
    signalled: Option<Instant>,
    told: Teller<'s>,
    sender: Sender<Message>,
    messages: Receiver<Message>,
}

impl<'s> Running<'s> {
    /// Takes the signals, and a place on the bus for every service: where there is none for one of them, nothing is
    /// started, rather than something that nobody logs. Nothing is started yet.
    pub(super) fn new(
        bus: &Bus,
        services: &'s Services,
        settings: &'s Settings,
    ) -> Result<Self, Failure> {
        let order = services.order.as_slice();
        let services = services.services.as_slice();
        let told = Teller::new(bus, services.iter().map(Service::name), settings)?;
        let (sender, messages) = channel();
        let to_us = sender.clone();
        signals::watch_each_stop(move |signal| {
            // Once nobody listens, we are at our end anyway.
            let _ = to_us.send(Message::Signal(signal));
        })?;
        let queued = |service: &Service| -> Result<Run, Failure> {
            Ok(Run {
                state: State::Queued,
                capture: Some(open(bus, service)?),
                restarts: Restarts::default(),
                is_in_order: true,
            })
        };
        Ok(Running {
            bus: bus.clone(),
            services,
            order,
            after: services.iter().map(|one| one.after.clone()).collect(),
            runs: services.iter().map(queued).collect::<Result<_, _>>()?,
            queue: order.iter().copied().collect(),
            is_stopping: false,
            signals: 0,
            signalled: None,
            told,
            sender,
            messages,
        })
    }

    /// Runs them until nothing runs and nothing will be started again.
    pub(super) fn run_all(mut self) -> Outcome {
        loop {
            self.look();
            let is_ended = |run: &Run| matches!(run.state, State::Ended);
            if self.runs.iter().all(is_ended) {
                break;
            }
            match self.wait() {
                Some(Message::Ended {
                    place,
                    capture,
                    result,
                }) => {
                    self.runs[place].capture = capture;
                    self.ended(place, result);
                }
                Some(Message::Signal(signal)) => self.signalled(signal),
                None => {}
            }
            if self.signals >= SIGNALS_LIMIT {
                self.told
                    .warn("signalled again: leaving, whatever still runs");
                break;
            }
        }
        let failed = |run: &&Run| !run.is_in_order || !matches!(run.state, State::Ended);
        let failed: Vec<&str> = (self.runs.iter().zip(self.services))
            .filter(|(run, _)| failed(run))
            .map(|(_, service)| service.name())
            .collect();
        let code = u8::from(!failed.is_empty());
        self.told.done(code, &failed);
        Outcome::Code(code)
    }

    /// The next message; `None` when something is due.
    fn wait(&self) -> Option<Message> {
        let due = self.runs.iter().filter_map(|run| match &run.state {
            State::Running(process) => process.due(),
            State::Pausing { until, .. } => Some(*until),
            State::Queued | State::Ended => None,
        });
        let timeout = due
            .min()
            .map(|due| due.saturating_duration_since(Instant::now()));
        match timeout {
            None => self.messages.recv().ok(),
            // Never disconnected: we hold a sender ourselves.
            Some(timeout) => self.messages.recv_timeout(timeout).ok(),
        }
    }

    /// Does what is due.
    fn look(&mut self) {
        let now = Instant::now();
        for place in 0..self.runs.len() {
            match &mut self.runs[place].state {
                State::Running(process) => {
                    if let Some(happened) = process.look(now) {
                        self.tell(place, &happened);
                    }
                }
                State::Pausing { until, .. } if *until <= now => self.start(place),
                State::Queued | State::Pausing { .. } | State::Ended => {}
            }
        }
        if self.is_stopping {
            return self.ask_to_stop();
        }
        // One after the other, so that a service finds those there that it is started after.
        while !self.is_any_starting(now) {
            match self.queue.pop_front() {
                Some(place) => self.start(place),
                None => break,
            }
        }
    }

    fn is_any_starting(&self, now: Instant) -> bool {
        let is_starting = |run: &Run| match &run.state {
            State::Running(process) => process.is_starting(now),
            _ => false,
        };
        self.runs.iter().any(is_starting)
    }

    fn start(&mut self, place: usize) {
        let service = &self.services[place];
        let sender = self.sender.clone();
        let capture = match self.runs[place].capture.take() {
            Some(capture) => Ok(capture),
            None => open(&self.bus, service),
        };
        let started = capture.and_then(|capture| {
            let controller = Controller::new()?;
            let ours = controller.clone();
            thread::Builder::new()
                .name(format!("capture-{}", service.name()))
                .spawn(move || {
                    let (capture, result) = run_once(capture, &ours);
                    // The receiver is gone only where all is left behind.
                    let _ = sender.send(Message::Ended {
                        place,
                        capture,
                        result,
                    });
                })
                .map_err(|error| {
                    let why = format!("no thread for it: {error}");
                    Error::new(ErrorKind::Other, why)
                })?;
            Ok(controller)
        });
        match started {
            Ok(controller) => {
                self.runs[place].state = State::Running(Process {
                    controller,
                    began: Instant::now(),
                    has_started: false,
                    stop: Stop::NotAsked,
                });
            }
            Err(error) => self.ended(place, Err(error)),
        }
    }

    fn ended(&mut self, place: usize, result: Result<Ending, Error>) {
        let service = &self.services[place];
        let (mut process_id, mut stop, mut has_started) = (None, Stop::NotAsked, false);
        if let State::Running(process) = &self.runs[place].state {
            process_id = process.controller.process_id();
            (stop, has_started) = (process.stop, process.has_started);
        }
        if process_id.is_some() && !has_started {
            // It was over before we looked.
            self.tell(place, &Happened::Started { process_id });
        }
        let end = match &result {
            Ok(ending) => End::Exited(ending.exit, ending.duration),
            Err(error) if process_id.is_some() => End::Lost(error.to_string()),
            Err(error) => End::NotStarted(error.to_string()),
        };
        let run = &mut self.runs[place];
        run.is_in_order = match &result {
            Ok(ending) => is_in_order(ending.exit, stop, service),
            Err(_) => false,
        };
        let next = match self.is_stopping {
            true => Next::Nothing,
            false => (run.restarts).next(&service.restart, end.is_failure(), end.ran()),
        };
        let happened = match next {
            Next::Nothing => {
                run.state = State::Ended;
                Happened::Ended(end)
            }
            Next::GiveUp { restarts } => {
                run.state = State::Ended;
                run.is_in_order = false;
                Happened::GaveUp { end, restarts }
            }
            Next::Restart { number, delay } => {
                keep_recording(service.spec.raw_to.as_deref());
                // A delay that a clock cannot hold is none that passes.
                let now = Instant::now();
                let until = now
                    .checked_add(delay)
                    .unwrap_or(now + Duration::from_secs(1 << 32));
                run.state = State::Pausing { until, number };
                Happened::Restarting { end, number, delay }
            }
        };
        self.tell(place, &happened);
    }

    fn signalled(&mut self, signal: i32) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            self.start_no_more();
        }
        let now = Instant::now();
        let is_same = |last: Instant| now.duration_since(last) < SAME_SIGNAL_INTERVAL;
        // A terminal that goes hangs up through the kernel, and once more through the shell.
        if signal == SIGHUP || self.signalled.is_some_and(is_same) {
            return;
        }
        self.signalled = Some(now);
        self.signals += 1;
        if self.signals == 2 {
            self.kill_all();
        }
    }

    fn start_no_more(&mut self) {
        self.queue.clear();
        for place in 0..self.runs.len() {
            match self.runs[place].state {
                State::Queued => self.runs[place].state = State::Ended,
                State::Pausing { number, .. } => {
                    self.runs[place].state = State::Ended;
                    self.tell(place, &Happened::NotRestarted { number });
                }
                State::Running(_) | State::Ended => {}
            }
        }
    }

    fn kill_all(&mut self) {
        for place in 0..self.runs.len() {
            let killed = match &mut self.runs[place].state {
                State::Running(process) if process.stop != Stop::Killed => {
                    process.kill();
                    true
                }
                _ => false,
            };
            if killed {
                let why = "signalled twice";
                self.tell(place, &Happened::Killed { why });
            }
        }
    }

    /// Asks those to end on whom nothing that runs was started.
    fn ask_to_stop(&mut self) {
        let order = self.order;
        let now = Instant::now();
        for &place in order.iter().rev() {
            let is_needed = |(later, run): (usize, &Run)| {
                matches!(run.state, State::Running(_)) && is_after(&self.after, later, place)
            };
            if self.runs.iter().enumerate().any(is_needed) {
                continue;
            }
            let service = &self.services[place];
            let State::Running(process) = &mut self.runs[place].state else {
                continue;
            };
            // A signal that comes before the command does would be lost.
            if process.stop != Stop::NotAsked || process.is_starting(now) {
                continue;
            }
            process.controller.signal(service.stop_signal);
            // One that was stopped with Ctrl-Z or SIGSTOP hears it only then.
            process.controller.signal(SIGCONT);
            let far = Duration::from_secs(1 << 32);
            let kill_at = now.checked_add(service.stop_timeout).unwrap_or(now + far);
            process.stop = Stop::Asked { kill_at };
            let (signal, timeout) = (service.stop_signal, service.stop_timeout);
            self.tell(place, &Happened::Stopping { signal, timeout });
        }
    }

    fn tell(&mut self, place: usize, happened: &Happened) {
        self.told
            .tell((place, self.services[place].name()), happened);
    }
}

impl Process {
    /// When it has to be looked at.
    fn due(&self) -> Option<Instant> {
        match self.stop {
            // It may not have been asked to stop because of this.
            Stop::NotAsked if !self.has_started => Some(Instant::now() + START_LOOK_INTERVAL),
            Stop::Asked { kill_at } => Some(kill_at),
            Stop::NotAsked | Stop::Killed => None,
        }
    }

    fn is_starting(&self, now: Instant) -> bool {
        !self.has_started && now < self.began + START_PATIENCE
    }

    fn look(&mut self, now: Instant) -> Option<Happened> {
        if !self.has_started
            && let process_id @ Some(_) = self.controller.process_id()
        {
            self.has_started = true;
            return Some(Happened::Started { process_id });
        }
        match self.stop {
            Stop::Asked { kill_at } if kill_at <= now => {
                self.kill();
                Some(Happened::Killed {
                    why: "it still ran when its stop-timeout was over",
                })
            }
            _ => None,
        }
    }

    fn kill(&mut self) {
        self.controller.signal(SIGKILL);
        self.stop = Stop::Killed;
    }
}

/// Takes its place on the bus.
fn open(bus: &Bus, service: &Service) -> Result<Box<Capture>, Error> {
    Capture::open(bus, service.spec.clone()).map(Box::new)
}

/// Runs a command to its end; whatever happens, there is a result.
fn run_once(
    mut capture: Box<Capture>,
    controller: &Controller,
) -> (Option<Box<Capture>>, Result<Ending, Error>) {
    let run = AssertUnwindSafe(|| capture.run(Front::Nobody, controller));
    match catch_unwind(run) {
        Ok(result) => (Some(capture), result),
        // Nobody knows what state it is in.
        Err(_) => {
            let why = "its capture has panicked, which is a mistake in millpond";
            (None, Err(Error::new(ErrorKind::Other, why)))
        }
    }
}

/// Ended with 0; or by what we asked it to end with, which shells and runtimes say as 128 and the signal.
fn is_in_order(exit: Exit, stop: Stop, service: &Service) -> bool {
    let by_us = || i32::from(exit.code()) == 128 + service.stop_signal;
    exit == Exit::Code(0) || (stop != Stop::NotAsked && by_us())
}

/// The next start writes over a recording: that of the run before, which may be of a crash, is kept.
fn keep_recording(path: Option<&Path>) {
    if let Some(path) = path {
        let mut kept = path.as_os_str().to_owned();
        kept.push(".1");
        // Where it cannot be renamed it is written over, as by the next `millpond capture`.
        let _ = std::fs::rename(path, kept);
    }
}
