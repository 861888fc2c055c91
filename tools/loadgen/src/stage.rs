//! Where a scenario plays: a bus of its own, a consumer in a process of its own, a place for its logs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, BusOptions, Class, Overflow, Rule, RuleTable, SourceStats, Stats};
use millpond_daemon::http::Listener;
use millpond_daemon::{BackendChoice, Daemon, Life, Policy, ServicePolicy, SyncPolicy};
use millpond_logfile::CommittedEnd;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::clock::process_cpu_ns;
use crate::criteria::{Account, LogAccount};
use crate::error::Error;
use crate::process::{Arguments, Host, Process, Talk};

/// How long a consumer may take to write what it has.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long what is under way may take to arrive once the publishers rest.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const SETTLE_LOOK: Duration = Duration::from_millis(5);

/// How long the consumer's process may take to open a port.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// The line that asks for it.
const PAGES: &str = "pages";

/// Where its pages are.
#[derive(Serialize, Deserialize)]
struct Open {
    address: SocketAddr,
}

/// A bus with its consumer; both are gone when it is dropped.
pub(crate) struct Stage {
    pub(crate) bus: Bus,
    consumer: Option<Process>,
    logs_dir: PathBuf,
    keeping: String,
    _logs: Option<TempDir>,
}

/// How the consumer of a stage writes. What is `None` is left as the daemon has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Keeping {
    /// A segment is closed at this size.
    pub(crate) segment_bytes: Option<u64>,
    /// Limit over all services; 0: none.
    pub(crate) total_bytes: Option<u64>,
    /// Segments kept of each service.
    pub(crate) generations: Option<u32>,
    /// A service that pays first when it is over so many bytes.
    pub(crate) quota: Option<(String, u64)>,
    /// How often text is forced to the disk, in ms; 0: always.
    pub(crate) sync_interval_ms: Option<u64>,
    /// Without io_uring.
    pub(crate) plain: bool,
}

impl Keeping {
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy {
            // What is counted here must not depend on how full the disk of this host is.
            keep_free_bytes: Some(0),
            service_segments_limit: self.generations,
            ..Policy::default()
        };
        if let Some(bytes) = self.segment_bytes {
            policy.segment_bytes_limit = bytes;
            // A group larger than a segment would make segments of the size of groups.
            let group_bytes = bytes.clamp(64 << 10, policy.group_bytes_limit as u64);
            policy.group_bytes_limit = group_bytes as usize;
        }
        if let Some(bytes) = self.total_bytes {
            policy.total_bytes_limit = Some(bytes).filter(|&bytes| bytes > 0);
        }
        if let Some(interval_ms) = self.sync_interval_ms {
            policy.sync = match interval_ms {
                0 => SyncPolicy::Always,
                _ => SyncPolicy::Interval(Duration::from_millis(interval_ms)),
            };
        }
        if self.plain {
            policy.backend = BackendChoice::Pwrite;
        }
        if let Some((service, bytes)) = &self.quota {
            let quota = ServicePolicy {
                bytes_limit: Some(*bytes),
                ..ServicePolicy::default()
            };
            policy.services.insert(service.clone(), quota);
        }
        policy
    }
}

/// What a consumer says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stopped {
    /// Processor time of its process, from start to end.
    pub(crate) cpu_ns: u64,
}

impl Stage {
    /// A new bus with these rules, and a consumer process.
    pub(crate) fn new(host: &Host, scenario: &str, rules: RuleTable) -> Result<Self, Error> {
        let logs = temporary(None)?;
        let logs_dir = logs.path().to_owned();
        let keeping = Keeping::default();
        let mut stage = Self::keeping(host, scenario, rules, &keeping, &logs_dir)?;
        stage._logs = Some(logs);
        Ok(stage)
    }

    /// The same, with a log directory of the caller's, and a consumer that keeps what `keeping` says.
    pub(crate) fn keeping(
        host: &Host,
        scenario: &str,
        rules: RuleTable,
        keeping: &Keeping,
        logs_dir: &Path,
    ) -> Result<Self, Error> {
        // ORDERING: Relaxed; the number only has to be unique in this process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{scenario}-{}-{number}", std::process::id());
        let options = BusOptions {
            rules,
            ..BusOptions::default()
        };
        let bus = Bus::attach(&name, &options)?;
        let mut stage = Stage {
            bus,
            consumer: None,
            logs_dir: logs_dir.to_owned(),
            keeping: serde_json::to_string(keeping)?,
            _logs: None,
        };
        // Started after the stage is there: what fails from here on is cleaned up.
        stage.start_consumer(host)?;
        Ok(stage)
    }

    /// A consumer process, ready: the first one, or one for another that was killed.
    pub(crate) fn start_consumer(&mut self, host: &Host) -> Result<(), Error> {
        let (name, logs_dir) = (self.bus.name(), self.logs_dir.display());
        let arguments: [(&str, &dyn std::fmt::Display); 3] = [
            ("bus", &name),
            ("logs", &logs_dir),
            ("keeping", &self.keeping),
        ];
        let consumer = host.start("daemon", &arguments)?;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// SIGKILL; returns when the consumer is gone.
    pub(crate) fn kill_consumer(&mut self) -> Result<(), Error> {
        match self.consumer.take() {
            Some(mut consumer) => consumer.kill().map(drop),
            None => Ok(()),
        }
    }

    /// Has the consumer's process serve its pages; where.
    pub(crate) fn open_pages(&mut self) -> Result<SocketAddr, Error> {
        let gone = || Error::new("the consumer's process is gone");
        let consumer = self.consumer.as_mut().ok_or_else(gone)?;
        consumer.say(PAGES)?;
        let open: Open = consumer.hear(OPEN_LIMIT)?;
        Ok(open.address)
    }

    /// The consumer's process.
    pub(crate) fn consumer_pid(&self) -> u32 {
        self.consumer.as_ref().map_or(0, Process::pid)
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
    pub(crate) fn close(mut self) -> Result<Stopped, Error> {
        let gone = || Error::new("the consumer's process is gone");
        let mut consumer = self.consumer.take().ok_or_else(gone)?;
        consumer.say("stop")?;
        consumer.result(STOP_LIMIT)
    }
}

/// A directory that goes away, in `dir` or where the system has such things.
pub(crate) fn temporary(dir: Option<&Path>) -> Result<TempDir, Error> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("millpond-replay-");
    Ok(match dir {
        Some(dir) => builder.tempdir_in(dir)?,
        None => builder.tempdir()?,
    })
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It holds the lease until it is gone.
        drop(self.consumer.take());
        // What cannot be removed now is reported by `millpond doctor` later.
        let _ = self.bus.remove();
    }
}

/// How far the log of each service may be read.
pub(crate) fn committed_ends(bus: &Bus) -> BTreeMap<String, CommittedEnd> {
    let services = bus.committed_services().into_iter();
    services
        .map(|commit| {
            let end = CommittedEnd {
                segment_id: commit.segment_id,
                length_bytes: commit.length_bytes,
                segments: commit.segments,
            };
            (commit.name, end)
        })
        .collect()
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

/// The whole account of a source whose events are logged; `published` by its own count.
pub(crate) fn log_account(stats: &Stats, source: &str, published: u64) -> LogAccount {
    let entries = stats.sources.iter().filter(|entry| entry.label == source);
    LogAccount {
        published,
        ..counted_account(source, entries)
    }
}

/// The same of these entries alone, `published` as the bus has counted it.
pub(crate) fn counted_account<'s>(
    source: &str,
    entries: impl Iterator<Item = &'s SourceStats>,
) -> LogAccount {
    let mut account = LogAccount {
        source: source.to_owned(),
        ..LogAccount::default()
    };
    for entry in entries {
        account.published += entry.published;
        account.counted += entry.published;
        account.delivered += entry.delivered;
        account.dropped += entry.dropped.total();
        account.written += entry.written;
        account.rejected += entry.rejected;
        account.coalesced += entry.coalesced;
        account.suppressed += entry.suppressed;
    }
    account
}

/// The consumer's process: `bus=NAME logs=DIR keeping=JSON`. The line `pages` opens those; any other stops it.
pub(crate) fn daemon_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let life = Life::default();
    let running = Daemon::builder(&bus, Path::new(arguments.text("logs")?))
        .policy(serde_json::from_str::<Keeping>(arguments.text("keeping")?)?.policy())
        .life(&life)
        .spawn()?;
    talk.say(&json!({"ready": true}))?;
    let mut asked = talk.hear();
    let mut server = None;
    if asked.as_ref().is_ok_and(|line| line == PAGES) {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.address();
        server = Some(listener.serve(Bus::open(bus.name())?, &life)?);
        talk.say(&Open { address })?;
        asked = talk.hear();
    }
    running.stop()?;
    drop(server);
    // Nobody is left to be told when the other side is gone.
    let cpu_ns = process_cpu_ns();
    asked.and_then(|_| talk.say(&Stopped { cpu_ns }))
}
