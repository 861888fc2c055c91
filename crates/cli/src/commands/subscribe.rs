//! `millpond subscribe`: events as they come, and those that are still there.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use millpond_bus::{
    Batch, Bus, Dropped, Event, Lagged, OnLag, Pattern, RecvError, Since, SubscribeOptions,
    Subscriber, Subscription,
};

use crate::Run;
use crate::args::Settings;
use crate::commands::explain::carrying;
use crate::conditions::Conditions;
use crate::flags::{LagPolicy, SelectFlags, SubscribeFlags};
use crate::outcome::{Failure, Outcome};
use crate::print::events::{EventPrinter, EventStyle};
use crate::print::{self, data_stdout};
use crate::signals;
use crate::units::parse_time;

pub(crate) fn run(flags: &SubscribeFlags, settings: &Settings) -> Run {
    let mut options = options("subscribe", &flags.patterns, &flags.select)?;
    options.on_lag = match flags.on_lag {
        LagPolicy::Skip => OnLag::Skip,
        LagPolicy::End => OnLag::End,
    };
    options.busy_poll = flags.busy_poll;
    let bus = settings.attach()?;
    let (mut subscription, not_json) = subscribe(&bus, options, &flags.select, settings)?;
    let stopped = Arc::new(AtomicBool::new(false));
    let (waker, stopping) = (subscription.waker(), Arc::clone(&stopped));
    signals::watch_stop(move |_| {
        // ORDERING: Release; seen by the loop below once it is woken.
        stopping.store(true, Ordering::Release);
        waker.wake();
    })?;
    let mut shown = Shown {
        printer: printer(&bus, flags.select.utc, settings),
        out: data_stdout(),
        batches: flags.batches || settings.json,
        left: flags.lines,
        lines: 0,
        settings,
        failed: None,
    };
    // Too far away to be a time is no deadline.
    let deadline = flags
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let ended = follow(&mut subscription, &mut shown, deadline, &stopped);
    say_not_json(&not_json, settings);
    ended?;
    // ORDERING: Acquire; as above.
    let was_stopped = stopped.load(Ordering::Acquire);
    Ok(Outcome::found(shown.lines > 0 || was_stopped))
}

/// Shows what comes until there is a reason to end.
fn follow(
    subscription: &mut Subscription,
    shown: &mut Shown<'_>,
    deadline: Option<Instant>,
    stopped: &AtomicBool,
) -> Result<(), Failure> {
    // ORDERING: Acquire; set before the wake.
    while shown.left != Some(0) && !stopped.load(Ordering::Acquire) {
        let Some(timeout) = time_left(deadline) else {
            return Ok(());
        };
        match subscription.run(shown, timeout) {
            Ok(_) | Err(RecvError::TimedOut | RecvError::Woken) => {}
            Err(error) => {
                // What came before it is shown.
                shown.out.flush()?;
                return Err(error.into());
            }
        }
        if let Some(error) = shown.failed.take() {
            return Err(error.into());
        }
        shown.out.flush()?;
    }
    Ok(())
}

/// How long a wait may take: `None` when the deadline has passed, `Some(None)` without one.
pub(crate) fn time_left(deadline: Option<Instant>) -> Option<Option<Duration>> {
    let Some(deadline) = deadline else {
        return Some(None);
    };
    let left = deadline.checked_duration_since(Instant::now())?;
    (!left.is_zero()).then_some(Some(left))
}

/// What was typed, checked before anything is opened.
pub(crate) fn options(
    label: &str,
    patterns: &[String],
    flags: &SelectFlags,
) -> Result<SubscribeOptions, Failure> {
    let patterns = patterns
        .iter()
        .map(|text| text.parse::<Pattern>())
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = patterns.first() else {
        return Err(Failure::new("no pattern: name one, such as 'data:*'"));
    };
    let mut options = SubscribeOptions::new(label, first.clone());
    options.patterns = patterns;
    options.since = match flags.since.as_deref() {
        None => Since::Now,
        Some(text) => since(text, flags.utc)?,
    };
    Ok(options)
}

fn since(text: &str, utc: bool) -> Result<Since, Failure> {
    match text {
        "now" => Ok(Since::Now),
        "oldest" => Ok(Since::Oldest),
        _ if text.starts_with("p1:") => Ok(Since::Position(text.parse()?)),
        _ => parse_time(text, utc).map(Since::TimeNs).map_err(|why| {
            Failure::new(format!(
                "--since {why}; or a position (p1:..), `oldest`, or `now`"
            ))
        }),
    }
}

/// Subscribes, with the conditions in front; the number is of payloads that were not JSON.
pub(crate) fn subscribe(
    bus: &Bus,
    options: SubscribeOptions,
    flags: &SelectFlags,
    settings: &Settings,
) -> Result<(Subscription, Arc<AtomicU64>), Failure> {
    warn_of_silence(bus, &options.patterns, settings)?;
    let mut conditions = Conditions::new(bus, flags.conditions.clone(), flags.where_not_json);
    let not_json = conditions.not_json_count();
    let subscription = bus.subscribe(options)?;
    if flags.conditions.is_empty() {
        return Ok((subscription, not_json));
    }
    let subscription = subscription.filter(move |event| conditions.keep(event));
    Ok((subscription, not_json))
}

/// Says so where nothing can come: no rule, or a rule whose events the consumer delivers and no consumer.
fn warn_of_silence(bus: &Bus, patterns: &[Pattern], settings: &Settings) -> Result<(), Failure> {
    let rules = bus.rules()?;
    let has_consumer = bus.consumer().is_some();
    for pattern in patterns {
        let carrying = carrying(&rules, pattern);
        if carrying.is_empty() {
            let message = format!("no rule carries {pattern:?}", pattern = pattern.as_str());
            print::warning_line(settings.color, &message);
        }
        if let Some(rule) = carrying.iter().find(|rule| !rule.is_direct())
            && !has_consumer
        {
            let (class, name) = (rule.class.name(), bus.name());
            let message = format!(
                "no consumer on bus {name:?}, and rule \"{}\" ({class}) is delivered by it: start `millpond daemon \
                 --bus {name}`",
                rule.pattern
            );
            print::warning_line(settings.color, &message);
            return Ok(());
        }
    }
    Ok(())
}

pub(crate) fn printer(bus: &Bus, utc: bool, settings: &Settings) -> EventPrinter {
    let style = if settings.json {
        EventStyle::Json
    } else {
        EventStyle::Text {
            coloured: print::is_coloured(settings.color),
            zone: (!utc)
                .then(TimeZone::system)
                .filter(|zone| *zone != TimeZone::UTC),
        }
    };
    EventPrinter::new(style, bus)
}

pub(crate) fn say_not_json(count: &AtomicU64, settings: &Settings) {
    // ORDERING: Relaxed; a number for people.
    let count = count.load(Ordering::Relaxed);
    if count > 0 {
        let message = format!(
            "{count} payloads were not JSON, so `--where` could not look into them (see `--where-not-json`)"
        );
        print::warning_line(settings.color, &message);
    }
}

/// Prints what it is given.
struct Shown<'s> {
    printer: EventPrinter,
    out: io::BufWriter<io::Stdout>,
    batches: bool,
    /// Lines still to print.
    left: Option<u64>,
    lines: u64,
    settings: &'s Settings,
    failed: Option<io::Error>,
}

impl Shown<'_> {
    fn has_ended(&self) -> bool {
        self.failed.is_some() || self.left == Some(0)
    }

    fn count(&mut self, printed: io::Result<()>) {
        self.failed = printed.err();
        self.lines += 1;
        self.left = self.left.map(|left| left - 1);
    }
}

impl Subscriber for Shown<'_> {
    fn on_event(&mut self, event: &Event<'_>) {
        if !self.has_ended() {
            let printed = self.printer.event(&mut self.out, event, None);
            self.count(printed);
        }
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        if !self.batches {
            batch.events().for_each(|event| self.on_event(&event));
        } else if !self.has_ended() && !batch.is_empty() {
            let printed = self.printer.batch(&mut self.out, batch);
            self.count(printed);
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        print::warning_line(self.settings.color, lagged);
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        print::warning_line(self.settings.color, dropped);
    }
}
