//! `millpond subscribe`: events as they come, and those that are still there.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use millpond::replay::{Cursor, LogSubscription, Replayed};
use millpond_bus::{
    Batch, Bus, Dropped, Event, Lagged, OnLag, Pattern, Position, RecvError, Since,
    SubscribeOptions, Subscriber, Subscription,
};

use crate::Run;
use crate::args::Settings;
use crate::commands::consumer_watch::ConsumerWatch;
use crate::commands::logged;
use crate::conditions::Conditions;
use crate::flags::{LagPolicy, SelectFlags, SubscribeFlags};
use crate::outcome::{Failure, Outcome};
use crate::print::events::{EventPrinter, EventStyle};
use crate::print::{self, data_stdout};
use crate::signals;
use crate::units::parse_time;

pub(crate) fn run(flags: &SubscribeFlags, settings: &Settings) -> Run {
    let selection = Selection::new(&flags.patterns, &flags.select)?;
    let bus = settings.attach()?;
    let must = flags.select.replay || flags.print_cursor;
    let log = logged::open(&bus, &selection, must, settings)?;
    let conditions = Conditions::new(
        &bus,
        flags.select.conditions.clone(),
        flags.select.where_not_json,
    );
    let not_json = conditions.not_json_count();
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
    let stopped = Arc::new(AtomicBool::new(false));
    let mut watch = ConsumerWatch::new(&bus, &selection.patterns, log.is_some(), settings)?;
    let ended = match log {
        Some(mut log) => {
            let handle = log.stop_handle();
            stop_with(&stopped, move || handle.stop())?;
            let mut following = Following {
                deadline,
                stopped: &stopped,
                watch: &mut watch,
            };
            let ended = follow_log(&mut log, &mut shown, conditions, flags, &mut following);
            let ended = ended.and(shown.out.flush().map_err(Failure::from));
            let is_heard = !matches!(&ended, Err(failure) if failure.is_broken_pipe());
            if flags.print_cursor && is_heard {
                eprintln!("{}", log.cursor());
            }
            ended
        }
        None => {
            let mut options = selection.options("subscribe");
            options.on_lag = match flags.on_lag {
                LagPolicy::Skip => OnLag::Skip,
                LagPolicy::End => OnLag::End,
            };
            options.busy_poll = flags.busy_poll;
            let mut subscription = subscribe(&bus, options, conditions)?;
            let waker = subscription.waker();
            stop_with(&stopped, move || waker.wake())?;
            let mut following = Following {
                deadline,
                stopped: &stopped,
                watch: &mut watch,
            };
            follow(&mut subscription, &mut shown, &mut following)
        }
    };
    say_not_json(&not_json, settings);
    ended?;
    // ORDERING: Acquire; as above.
    let was_stopped = stopped.load(Ordering::Acquire);
    if shown.lines == 0 && !was_stopped {
        watch.say();
    }
    Ok(Outcome::found(shown.lines > 0 || was_stopped))
}

/// Ends by signal, and when nobody reads our output any more: an event may be long in coming.
fn stop_with(
    stopped: &Arc<AtomicBool>,
    wake: impl Fn() + Clone + Send + 'static,
) -> Result<(), Failure> {
    let stopping = Arc::clone(stopped);
    let stop = move || {
        // ORDERING: Release; seen by the loop once it is woken.
        stopping.store(true, Ordering::Release);
        wake();
    };
    signals::watch_output(stop.clone())?;
    signals::watch_stop(move |_| stop())
}

/// Until when, and what is looked at in between.
struct Following<'f, 's> {
    deadline: Option<Instant>,
    stopped: &'f AtomicBool,
    watch: &'f mut ConsumerWatch<'s>,
}

impl Following<'_, '_> {
    /// How long the next wait may take: `None` when it is time to end.
    fn next_wait(&self, shown: &Shown<'_>) -> Option<Option<Duration>> {
        // ORDERING: Acquire; set before the wake.
        if shown.left == Some(0) || self.stopped.load(Ordering::Acquire) {
            return None;
        }
        Some(self.watch.slice(time_left(self.deadline)?))
    }
}

/// Shows what comes until there is a reason to end.
fn follow(
    subscription: &mut Subscription,
    shown: &mut Shown<'_>,
    following: &mut Following<'_, '_>,
) -> Result<(), Failure> {
    while let Some(timeout) = following.next_wait(shown) {
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
        following.watch.look();
    }
    Ok(())
}

/// As [`follow`], out of the log.
fn follow_log(
    log: &mut LogSubscription,
    shown: &mut Shown<'_>,
    mut conditions: Conditions,
    flags: &SubscribeFlags,
    following: &mut Following<'_, '_>,
) -> Result<(), Failure> {
    let color = shown.settings.color;
    while let Some(timeout) = following.next_wait(shown) {
        let item = match logged::next(log, Some(Duration::ZERO))? {
            Some(item) => Some(item),
            None => {
                // All that there is was given: now somebody may wait for it.
                shown.out.flush()?;
                let item = logged::next(log, timeout)?;
                following.watch.look();
                item
            }
        };
        match item {
            None => {}
            Some(Replayed::Event(event)) if conditions.keep(&logged::as_event(&event)) => {
                let cursor = || log.cursor().to_string();
                let printed = shown
                    .printer
                    .log_event(&mut shown.out, &event, &cursor, false);
                shown.count(printed);
            }
            Some(Replayed::Event(_)) => {}
            Some(Replayed::Dropped(dropped)) => {
                print::warning_line(color, &logged::dropped_line(&dropped));
            }
            Some(Replayed::Gone(gone)) if flags.on_lag == LagPolicy::Skip => {
                print::warning_line(color, &gone);
            }
            Some(Replayed::Gone(gone)) => return Err(Failure::new(gone.to_string())),
        }
        if let Some(error) = shown.failed.take() {
            return Err(error.into());
        }
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
pub(crate) struct Selection {
    /// At least one.
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) start: Start,
    pub(crate) utc: bool,
}

/// Where to begin.
pub(crate) enum Start {
    Now,
    Oldest,
    TimeNs(u64),
    /// In memory.
    Position(Position),
    /// In the log.
    Cursor(Cursor),
}

impl Selection {
    pub(crate) fn new(patterns: &[String], flags: &SelectFlags) -> Result<Self, Failure> {
        let patterns = patterns
            .iter()
            .map(|text| text.parse::<Pattern>())
            .collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() {
            return Err(Failure::new("no pattern: name one, such as 'data:*'"));
        }
        let start = match flags.since.as_deref() {
            None => Start::Now,
            Some(text) => start(text, flags.utc)?,
        };
        Ok(Selection {
            patterns,
            start,
            utc: flags.utc,
        })
    }

    /// For a subscription in memory.
    pub(crate) fn options(&self, label: &str) -> SubscribeOptions {
        let mut options = SubscribeOptions::new(label, self.patterns[0].clone());
        options.patterns.clone_from(&self.patterns);
        options.since = match &self.start {
            // Nobody gets here with a cursor.
            Start::Now | Start::Cursor(_) => Since::Now,
            Start::Oldest => Since::Oldest,
            Start::TimeNs(time_ns) => Since::TimeNs(*time_ns),
            Start::Position(position) => Since::Position(position.clone()),
        };
        options
    }
}

fn start(text: &str, utc: bool) -> Result<Start, Failure> {
    match text {
        "now" => Ok(Start::Now),
        "oldest" => Ok(Start::Oldest),
        _ if text.starts_with("p1:") => Ok(Start::Position(text.parse()?)),
        _ if text.starts_with("c1:") => Ok(Start::Cursor(text.parse()?)),
        _ => parse_time(text, utc).map(Start::TimeNs).map_err(|why| {
            Failure::new(format!(
                "--since {why}; or a log cursor (c1:..), a position (p1:..), `oldest`, or `now`"
            ))
        }),
    }
}

/// Subscribes, with the conditions in front.
pub(crate) fn subscribe(
    bus: &Bus,
    options: SubscribeOptions,
    mut conditions: Conditions,
) -> Result<Subscription, Failure> {
    let subscription = bus.subscribe(options)?;
    if conditions.is_empty() {
        return Ok(subscription);
    }
    Ok(subscription.filter(move |event| conditions.keep(event)))
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
