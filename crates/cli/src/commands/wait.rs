//! `millpond wait`: sleep until an event comes, print it, end.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use millpond::replay::{LogEvent, LogSubscription, Replayed};
use millpond_bus::{Bus, OwnedEvent, RecvError, Subscription};
use serde_json::json;

use crate::Run;
use crate::args::Settings;
use crate::commands::consumer_watch::ConsumerWatch;
use crate::commands::logged;
use crate::commands::subscribe::{Selection, printer, say_not_json, subscribe, time_left};
use crate::conditions::Conditions;
use crate::flags::WaitFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::{self, data_stdout};
use crate::signals;
use crate::units::{format_duration, now_ns};

/// Exit code when the time is up, as with timeout(1).
const TIMED_OUT: u8 = 124;
/// What a shell adds to the number of a signal that ended a command.
const SIGNALLED: u8 = 128;

pub(crate) fn run(flags: &WaitFlags, settings: &Settings) -> Run {
    if flags.print_position {
        return print_position(&settings.attach()?, settings);
    }
    let selection = Selection::new(&flags.patterns, &flags.select)?;
    let bus = settings.attach()?;
    let log = logged::open(&bus, &selection, flags.select.replay, settings)?;
    let conditions = Conditions::new(
        &bus,
        flags.select.conditions.clone(),
        flags.select.where_not_json,
    );
    let not_json = conditions.not_json_count();
    let mut waiting = Waiting {
        // Too far away to be a time is no deadline.
        deadline: flags
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout)),
        signal: Arc::new(AtomicU8::new(0)),
        watch: ConsumerWatch::new(&bus, &selection.patterns, log.is_some(), settings)?,
    };
    let mut out = data_stdout();
    let mut printer = printer(&bus, flags.select.utc, settings);
    let found = match log {
        Some(mut log) => {
            let handle = log.stop_handle();
            waiting.stop_with(move || handle.stop())?;
            let found = waiting.first_of_log(&mut log, conditions, settings);
            say_not_json(&not_json, settings);
            let found = found?;
            if let Some(event) = &found {
                printer.log_event(&mut out, event, &|| log.cursor().to_string(), true)?;
            }
            found.is_some()
        }
        None => {
            let mut subscription = subscribe(&bus, selection.options("wait"), conditions)?;
            let waker = subscription.waker();
            waiting.stop_with(move || waker.wake())?;
            let found = waiting.first(&mut subscription);
            say_not_json(&not_json, settings);
            say_lagged(subscription.counts().lagged, settings);
            let found = found?;
            if let Some(event) = &found {
                let position = subscription.position().to_string();
                printer.event(&mut out, &event.as_event(), Some(&position))?;
            }
            found.is_some()
        }
    };
    // ORDERING: Acquire; stored before the wait was ended.
    let signal = waiting.signal.load(Ordering::Acquire);
    if found {
        out.flush()?;
        return Ok(Outcome::Found);
    }
    if signal != 0 {
        return Ok(Outcome::Code(SIGNALLED + signal));
    }
    waiting.watch.say();
    let waited = flags.timeout.map_or_else(String::new, format_duration);
    let patterns = flags.patterns.join(" ");
    let message = format!("nothing matched {patterns} within {waited}");
    print::warning_line(settings.color, &message);
    Ok(Outcome::Code(TIMED_OUT))
}

fn say_lagged(lagged: u64, settings: &Settings) {
    if lagged > 0 {
        let message = format!(
            "{lagged} events were overwritten before they could be read; one that was waited for may have been among \
             them"
        );
        print::warning_line(settings.color, &message);
    }
}

/// What ends a wait.
struct Waiting<'s> {
    deadline: Option<Instant>,
    /// The signal that asked us to end.
    signal: Arc<AtomicU8>,
    watch: ConsumerWatch<'s>,
}

impl Waiting<'_> {
    fn stop_with(&self, wake: impl Fn() + Send + 'static) -> Result<(), Failure> {
        let asked = Arc::clone(&self.signal);
        signals::watch_stop(move |number| {
            // ORDERING: Release; seen by the loop once it is woken.
            asked.store(number, Ordering::Release);
            wake();
        })
    }

    fn is_stopped(&self) -> bool {
        // ORDERING: Acquire; set before the wake.
        self.signal.load(Ordering::Acquire) != 0
    }

    /// The first event; `None` when the time is up, or somebody asked us to end.
    fn first(&mut self, subscription: &mut Subscription) -> Result<Option<OwnedEvent>, Failure> {
        while !self.is_stopped() {
            let received = match time_left(self.deadline).map(|left| self.watch.slice(left)) {
                Some(Some(left)) => subscription.recv_timeout(left),
                Some(None) => subscription.recv(),
                // With no time at all it still looks at what is there.
                None => return Ok(subscription.try_recv()?),
            };
            match received {
                Ok(event) => return Ok(Some(event)),
                Err(RecvError::TimedOut | RecvError::Woken) => self.watch.look(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// As [`Waiting::first`], out of the log.
    fn first_of_log(
        &mut self,
        log: &mut LogSubscription,
        mut conditions: Conditions,
        settings: &Settings,
    ) -> Result<Option<LogEvent>, Failure> {
        let mut ended_ns = u64::MAX;
        while !self.is_stopped() {
            let left = time_left(self.deadline);
            if left.is_none() {
                ended_ns = ended_ns.min(now_ns());
            }
            let timeout = match left {
                Some(left) => self.watch.slice(left),
                None => Some(Duration::ZERO),
            };
            match logged::next(log, timeout)? {
                Some(Replayed::Event(event)) if conditions.keep(&logged::as_event(&event)) => {
                    return Ok(Some(event));
                }
                // What came later than the end is not there.
                Some(Replayed::Event(event)) if event.time_ns > ended_ns => return Ok(None),
                Some(Replayed::Event(_)) => {}
                Some(Replayed::Dropped(dropped)) => {
                    print::warning_line(settings.color, &logged::dropped_line(&dropped));
                }
                Some(Replayed::Gone(gone)) => print::warning_line(settings.color, &gone),
                None if left.is_none() => return Ok(None),
                None => self.watch.look(),
            }
        }
        Ok(None)
    }
}

/// For scripts that look at something first, and then wait for what happens from then on.
fn print_position(bus: &Bus, settings: &Settings) -> Run {
    let position = bus.position().to_string();
    let mut out = data_stdout();
    if settings.json {
        writeln!(out, "{}", json!({ "version": 1, "position": position }))?;
    } else {
        writeln!(out, "{position}")?;
    }
    out.flush()?;
    Ok(Outcome::Found)
}
