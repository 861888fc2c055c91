//! Where a scenario plays: a bus of its own, a consumer in a process of its own, a place for its logs.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, BusOptions, Class, Overflow, Rule, RuleTable, Stats};
use millpond_daemon::Daemon;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::criteria::Account;
use crate::error::Error;
use crate::healthz;
use crate::process::{Arguments, Host, Process, Talk};

/// How long a consumer may take to write what it has.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long what is under way may take to arrive once the publishers rest.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const SETTLE_LOOK: Duration = Duration::from_millis(5);

/// How long the consumer's process may take to open a port.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// The line that asks for it.
const HEALTHZ: &str = "healthz";

/// Where `/healthz` is.
#[derive(Serialize, Deserialize)]
struct Open {
    port: u16,
}

/// A bus with its consumer; both are gone when it is dropped.
pub(crate) struct Stage {
    pub(crate) bus: Bus,
    consumer: Option<Process>,
    _logs: TempDir,
}

impl Stage {
    /// A new bus with these rules, and a consumer process.
    pub(crate) fn new(host: &Host, scenario: &str, rules: RuleTable) -> Result<Self, Error> {
        // ORDERING: Relaxed; the number only has to be unique in this process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{scenario}-{}-{number}", std::process::id());
        let options = BusOptions {
            rules,
            ..BusOptions::default()
        };
        let bus = Bus::attach(&name, &options)?;
        let logs = tempfile::Builder::new()
            .prefix("millpond-replay-")
            .tempdir()?;
        let mut stage = Stage {
            bus,
            consumer: None,
            _logs: logs,
        };
        // Started after the stage is there: what fails from here on is cleaned up.
        let logs_dir = stage._logs.path().display();
        let consumer = host.start("daemon", &[("bus", &name), ("logs", &logs_dir)])?;
        stage.consumer = Some(consumer);
        Ok(stage)
    }

    /// Has the consumer's process answer `/healthz`; on which port.
    pub(crate) fn open_healthz(&mut self) -> Result<u16, Error> {
        let gone = || Error::new("the consumer's process is gone");
        let consumer = self.consumer.as_mut().ok_or_else(gone)?;
        consumer.say(HEALTHZ)?;
        let open: Open = consumer.hear(OPEN_LIMIT)?;
        Ok(open.port)
    }

    pub(crate) fn name(&self) -> &str {
        self.bus.name()
    }

    /// Waits until nothing is under way any more. Publishers must rest.
    pub(crate) fn settle(&self) -> Result<Stats, Error> {
        let started = Instant::now();
        loop {
            let stats = self.bus.stats();
            let in_flight: u64 = stats.sources.iter().map(|source| source.in_flight).sum();
            if in_flight == 0 {
                return Ok(stats);
            }
            if started.elapsed() > SETTLE_LIMIT {
                return Err(Error::new(format!(
                    "{in_flight} events are still under way {SETTLE_LIMIT:?} after the last was published"
                )));
            }
            std::thread::sleep(SETTLE_LOOK);
        }
    }

    /// Ends the consumer, which drains and writes everything first.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        if let Some(mut consumer) = self.consumer.take() {
            consumer.say("stop")?;
            consumer.result::<Value>(STOP_LIMIT)?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It holds the lease until it is gone.
        drop(self.consumer.take());
        // What cannot be removed now is reported by `millpond doctor` later.
        let _ = self.bus.remove();
    }
}

/// The default rules with these before them, and without the defaults of the same patterns.
pub(crate) fn rules_with(rules: Vec<Rule>) -> Result<RuleTable, Error> {
    let taken: Vec<_> = rules.iter().map(|rule| rule.pattern.clone()).collect();
    let defaults = RuleTable::defaults();
    let others = defaults
        .iter()
        .filter(|rule| !taken.contains(&rule.pattern));
    Ok(RuleTable::new(
        rules.iter().chain(others).cloned().collect(),
    )?)
}

/// A rule that passes its events through at once, with publishers that wait for space rather than drop.
pub(crate) fn passthrough(pattern: &str) -> Result<Rule, Error> {
    Ok(Rule {
        class: Class::Passthrough,
        lane_bytes: 256 << 10,
        overflow: LOSSLESS,
        ..Rule::new(pattern.parse()?)
    })
}

/// A publisher waits longer than any scenario has a reason to.
pub(crate) const LOSSLESS: Overflow = Overflow::Block {
    deadline: Duration::from_secs(60),
};

/// An account from the publisher's own count and the counts in shared memory.
pub(crate) fn account(
    stats: &Stats,
    source: &str,
    prefix: &str,
    published: u64,
    received: Option<u64>,
    lagged: u64,
) -> Account {
    let of_source = stats.sources.iter().filter(|entry| entry.label == source);
    let (delivered, dropped) = of_source.fold((0, 0), |(delivered, dropped), entry| {
        (delivered + entry.delivered, dropped + entry.dropped.total())
    });
    Account {
        source: source.to_owned(),
        prefix: prefix.to_owned(),
        published,
        delivered,
        dropped,
        received,
        lagged,
    }
}

/// The consumer's process: `bus=NAME logs=DIR`. The line `healthz` opens that; any other stops it.
pub(crate) fn daemon_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let running = Daemon::builder(&bus, Path::new(arguments.text("logs")?)).spawn()?;
    talk.say(&json!({"ready": true}))?;
    let mut asked = talk.hear();
    if asked.as_ref().is_ok_and(|line| line == HEALTHZ) {
        let port = healthz::serve(bus)?;
        talk.say(&Open { port })?;
        asked = talk.hear();
    }
    running.stop()?;
    // Nobody is left to be told when the other side is gone.
    asked.and_then(|_| talk.say(&json!({"stopped": true})))
}
