//! Says so when nobody delivers what a subscriber waits for.

use std::time::{Duration, Instant};

use millpond_bus::{Bus, Pattern, Rule};

use crate::args::Settings;
use crate::commands::explain::carrying;
use crate::outcome::Failure;
use crate::print;

/// A daemon that is just being started is no news.
const PATIENCE: Duration = Duration::from_secs(1);

/// Looks once, after a while, whether the consumer runs that the events need; says so if not.
pub(crate) struct ConsumerWatch<'s> {
    bus: Bus,
    /// What to say. `None`: the events need no consumer, or it was said, or one runs.
    message: Option<String>,
    due: Instant,
    settings: &'s Settings,
}

impl<'s> ConsumerWatch<'s> {
    /// For events that match these; `is_log`: they are waited for in the log.
    pub(crate) fn new(
        bus: &Bus,
        patterns: &[Pattern],
        is_log: bool,
        settings: &'s Settings,
    ) -> Result<Self, Failure> {
        let rules = bus.rules()?;
        let mut message = None;
        for pattern in patterns {
            let carrying = carrying(&rules, pattern);
            if carrying.is_empty() {
                let message = format!("no rule carries {pattern:?}", pattern = pattern.as_str());
                print::warning_line(settings.color, &message);
            }
            let needs_it = |rule: &&&Rule| is_log || !rule.is_direct();
            if message.is_none()
                && let Some(rule) = carrying.iter().find(needs_it)
            {
                message = Some(silence(rule, bus.name(), is_log));
            }
        }
        Ok(ConsumerWatch {
            bus: bus.clone(),
            message,
            due: Instant::now() + PATIENCE,
            settings,
        })
    }

    /// How long to wait at a time, where one may wait for `left`.
    pub(crate) fn slice(&self, left: Option<Duration>) -> Option<Duration> {
        if self.message.is_none() {
            return left;
        }
        let until_due = self.due.saturating_duration_since(Instant::now());
        Some(left.map_or(until_due, |left| left.min(until_due)))
    }

    /// To be called after each wait.
    pub(crate) fn look(&mut self) {
        if self.message.is_some() && Instant::now() >= self.due {
            self.say();
        }
    }

    /// Nothing came until the end: says it now, where it was not due yet.
    pub(crate) fn say(&mut self) {
        if let Some(message) = self.message.take()
            && self.bus.consumer().is_none()
        {
            print::warning_line(self.settings.color, &message);
        }
    }
}

fn silence(rule: &Rule, bus: &str, is_log: bool) -> String {
    let (pattern, class) = (&rule.pattern, rule.class.name());
    let why = match is_log {
        true => format!("events of rule \"{pattern}\" are written to the log by it"),
        false => format!("events of rule \"{pattern}\" ({class}) are delivered by it"),
    };
    format!("no consumer on bus {bus:?}, and {why}: start `millpond daemon --bus {bus}`")
}
