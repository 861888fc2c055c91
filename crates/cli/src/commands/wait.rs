//! `millpond wait`: sleep until an event comes, print it, end.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use millpond_bus::{Bus, OwnedEvent, RecvError, Subscription};
use serde_json::json;

use crate::Run;
use crate::args::Settings;
use crate::commands::subscribe::{options, printer, say_not_json, subscribe, time_left};
use crate::flags::WaitFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::{self, data_stdout};
use crate::signals;
use crate::units::format_duration;

/// Exit code when the time is up, as with timeout(1).
const TIMED_OUT: u8 = 124;
/// What a shell adds to the number of a signal that ended a command.
const SIGNALLED: u8 = 128;

pub(crate) fn run(flags: &WaitFlags, settings: &Settings) -> Run {
    if flags.print_position {
        return print_position(&settings.attach()?, settings);
    }
    let options = options("wait", &flags.patterns, &flags.select)?;
    let bus = settings.attach()?;
    let (mut subscription, not_json) = subscribe(&bus, options, &flags.select, settings)?;
    let signal = Arc::new(AtomicU8::new(0));
    let (waker, asked) = (subscription.waker(), Arc::clone(&signal));
    signals::watch_stop(move |number| {
        // ORDERING: Release; seen by the loop below once it is woken.
        asked.store(number, Ordering::Release);
        waker.wake();
    })?;
    // Too far away to be a time is no deadline.
    let deadline = flags
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let found = first(&mut subscription, deadline, &signal);
    say_not_json(&not_json, settings);
    let lagged = subscription.counts().lagged;
    if lagged > 0 {
        let message = format!(
            "{lagged} events were overwritten before they could be read; one that was waited for may have been among \
             them"
        );
        print::warning_line(settings.color, &message);
    }
    // ORDERING: Acquire; as above.
    let signal = signal.load(Ordering::Acquire);
    match found? {
        Some(event) => {
            let position = subscription.position().to_string();
            let mut out = data_stdout();
            let mut printer = printer(&bus, flags.select.utc, settings);
            printer.event(&mut out, &event.as_event(), Some(&position))?;
            out.flush()?;
            Ok(Outcome::Found)
        }
        None if signal != 0 => Ok(Outcome::Code(SIGNALLED + signal)),
        None => {
            let waited = flags.timeout.map_or_else(String::new, format_duration);
            let patterns = flags.patterns.join(" ");
            let message = format!("nothing matched {patterns} within {waited}");
            print::warning_line(settings.color, &message);
            Ok(Outcome::Code(TIMED_OUT))
        }
    }
}

/// The first event; `None` when the time is up, or somebody asked us to end.
fn first(
    subscription: &mut Subscription,
    deadline: Option<Instant>,
    signal: &AtomicU8,
) -> Result<Option<OwnedEvent>, Failure> {
    // ORDERING: Acquire; set before the wake.
    while signal.load(Ordering::Acquire) == 0 {
        let received = match time_left(deadline) {
            Some(Some(left)) => subscription.recv_timeout(left),
            Some(None) => subscription.recv(),
            // With no time at all it still looks at what is there.
            None => return Ok(subscription.try_recv()?),
        };
        match received {
            Ok(event) => return Ok(Some(event)),
            Err(RecvError::TimedOut | RecvError::Woken) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
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
