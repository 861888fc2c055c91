//! `subscribe` and `wait` out of the log: everything from a point on, then live, from files that never change.

use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use millpond::replay::{
    LogDropped, LogEvent, LogSubscription, Replay, ReplayError, ReplaySince, Replayed,
};
use millpond_bus::{Bus, Event, Pattern, Rule, RuleTable, Since, SubscribeOptions};

use crate::args::Settings;
use crate::commands::explain::carrying;
use crate::commands::subscribe::{Selection, Start};
use crate::outcome::Failure;
use crate::print;
use crate::print::hits::local_time;
use crate::units::{format_duration, now_ns, utc};

/// Longest text about the consumer's log directory; a longer one was cut.
const LOGS_DIR_TEXT_BYTES: usize = 512;

/// Opens the log where what was asked for can be read there, and has to be or had better be: where it begins
/// in the past, or was asked for by `--replay` or a cursor. `None`: memory it is.
pub(crate) fn open(
    bus: &Bus,
    selection: &Selection,
    must: bool,
    settings: &Settings,
) -> Result<Option<LogSubscription>, Failure> {
    let must = must || matches!(selection.start, Start::Cursor(_));
    let since = match &selection.start {
        Start::Position(_) if must => {
            let message = "--since: a position (p1:..) is one in memory, and the log has cursors (c1:..): begin \
                           with a time or `oldest`, and go on with the cursor of what came last";
            return Err(Failure::new(message));
        }
        Start::Position(_) => return Ok(None),
        Start::Now if !must => return Ok(None),
        Start::Now => ReplaySince::TimeNs(now_ns()),
        Start::Oldest => ReplaySince::Oldest,
        Start::TimeNs(time_ns) => ReplaySince::TimeNs(*time_ns),
        Start::Cursor(cursor) => ReplaySince::Cursor(cursor.clone()),
    };
    let rules = bus.rules()?;
    let (logged, other) = sort_rules(&rules, &selection.patterns);
    if must && !other.is_empty() {
        return Err(refusal(&rules, &other));
    }
    if logged.is_empty() || !other.is_empty() {
        if !logged.is_empty() {
            let memory = how_far_back(bus, selection)?;
            let message = format!(
                "events of rule {} are not logged, so all are read from memory: {memory}. For all that the log \
                 has, ask for events of rule {} alone (`--replay` insists on the log)",
                shown(&other),
                shown(&logged)
            );
            print::warning_line(settings.color, &message);
        }
        return Ok(None);
    }
    let mut replay = Replay::new(bus, &logs_dir(bus, settings)).since(since);
    for pattern in &selection.patterns {
        replay = replay.pattern(pattern.clone());
    }
    match replay.open() {
        Ok(subscription) => Ok(Some(subscription)),
        Err(error @ ReplayError::Unnameable(_)) if !must => {
            let memory = how_far_back(bus, selection)?;
            print::warning_line(
                settings.color,
                &format!("{error}. Read from memory: {memory}"),
            );
            Ok(None)
        }
        Err(error @ ReplayError::OtherDirectory { .. }) => Err(Failure::new(format!(
            "{error}: leave out `--logs`, or name that one"
        ))),
        Err(error) => Err(error.into()),
    }
}

/// The rules that can carry what the patterns ask for: those that are logged, and the others.
fn sort_rules<'r>(rules: &'r RuleTable, patterns: &[Pattern]) -> (Vec<&'r Rule>, Vec<&'r Rule>) {
    let mut all: Vec<&Rule> = Vec::new();
    for rule in patterns.iter().flat_map(|pattern| carrying(rules, pattern)) {
        if all.iter().all(|known| known.pattern != rule.pattern) {
            all.push(rule);
        }
    }
    all.into_iter().partition(|rule| rule.service.is_some())
}

fn refusal(rules: &RuleTable, other: &[&Rule]) -> Failure {
    let logged: Vec<&Rule> = rules.iter().filter(|rule| rule.service.is_some()).collect();
    let remedy = match logged.is_empty() {
        true => "no rule of this bus is logged: give one a `service`".to_owned(),
        false => format!(
            "ask for events of rule {} alone, or give that rule a `service`",
            shown(&logged)
        ),
    };
    Failure::new(format!(
        "events of rule {} are asked for, and not logged: {remedy}",
        shown(other)
    ))
}

fn shown(rules: &[&Rule]) -> String {
    let quoted: Vec<String> = rules
        .iter()
        .map(|rule| format!("\"{}\"", rule.pattern))
        .collect();
    quoted.join(", ")
}

/// Where the log is: what was named, else where the consumer of this bus writes or last wrote.
fn logs_dir(bus: &Bus, settings: &Settings) -> PathBuf {
    let written = || {
        let dir = bus.stats().consumer?.logs_dir;
        (!dir.is_empty() && dir.len() < LOGS_DIR_TEXT_BYTES).then(|| PathBuf::from(dir))
    };
    match settings.is_logs_dir_named() {
        true => settings.logs.clone(),
        false => written().unwrap_or_else(|| settings.logs.clone()),
    }
}

/// What memory still has, in words. The first event of a subscription is the oldest of them all.
fn how_far_back(bus: &Bus, selection: &Selection) -> Result<String, Failure> {
    let mut options = SubscribeOptions::new("how-far-back", selection.patterns[0].clone());
    options.patterns.clone_from(&selection.patterns);
    options.since = Since::Oldest;
    let Some(event) = bus.subscribe(options)?.try_recv()? else {
        return Ok("it has none of these events now".to_owned());
    };
    let zone = match selection.utc {
        true => TimeZone::UTC,
        false => TimeZone::system(),
    };
    let at = local_time(event.time_ns, &zone).unwrap_or_else(|| utc(event.time_ns));
    let seconds = now_ns().saturating_sub(event.time_ns) / 1_000_000_000;
    let ago = format_duration(Duration::from_secs(seconds.max(1)));
    Ok(format!(
        "the oldest event there is of {at} ({ago} ago), and what a busy publisher has overwritten is missing"
    ))
}

/// An event of the log as one that a filter can look at. The log keeps no publisher, lane or number.
pub(crate) fn as_event(event: &LogEvent) -> Event<'_> {
    Event {
        name: &event.name,
        time_ns: event.time_ns,
        level: event.level,
        payload: &event.payload,
        ..Event::default()
    }
}

/// What was lost, as one line.
pub(crate) fn dropped_line(dropped: &LogDropped) -> String {
    let LogDropped {
        service,
        source,
        lane,
        count,
        first,
        last,
        cause,
    } = dropped;
    format!(
        "{source:?} dropped {count} events: numbers {first} to {last} of lane {lane} (service {service}, {cause})"
    )
}

/// The next item, after a wait of at most `timeout`; `None` when that has passed, or somebody stopped it.
pub(crate) fn next(
    subscription: &mut LogSubscription,
    timeout: Option<Duration>,
) -> Result<Option<Replayed>, Failure> {
    let next = match timeout {
        None => subscription.recv(),
        Some(timeout) => subscription.recv_timeout(timeout),
    };
    match next {
        Ok(item) => Ok(Some(item)),
        Err(ReplayError::TimedOut | ReplayError::Stopped) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
