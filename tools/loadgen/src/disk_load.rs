//! A steady load of logs while something happens to the disk: publishers that never wait, what they took for each
//! call, phase by phase, and what became of every line.

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Guarantee, Level, Overflow, Rule, RuleTable, SourceStats, Stats};
use millpond_logfile::{SegmentText, list_segments};
use serde::{Deserialize, Serialize};

use crate::clock::sleep_until_due;
use crate::criteria::{Criterion, LogAccount, balance_criterion};
use crate::day::Line;
use crate::error::Error;
use crate::files::{Found, Numbers};
use crate::latencies::{Latencies, Summary};
use crate::process::{Arguments, Host, Process, Talk};
use crate::stage::{Stage, log_account, rules_with};
use crate::text;
use crate::watch::{Seen, Watch};

/// One call of `publish` in so many is measured.
const MEASURE_EVERY: u64 = 8;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(120);
/// What the daemon may have beyond its rings.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// Files are read in pieces of this size; the kernel has them in pages of that.
const READ_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4 << 10;
/// The source of the lines.
const SOURCE: &str = "app";

/// The rule for logs: publishers never wait, and what finds no room is counted.
pub(crate) fn rules(lane_bytes: u32) -> Result<RuleTable, Error> {
    rules_with(vec![Rule {
        service: Some("*".to_owned()),
        overflow: Overflow::DropNewest,
        lane_bytes: lane_bytes as _,
        payload_bytes_limit: 1 << 10,
        max_events: 1 << 20,
        ..Rule::new("log:*".parse()?)
    }])
}

/// A service and its pace.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) per_second: u64,
}

/// The publishers, one process for each service.
pub(crate) struct Publishers {
    processes: Vec<(Service, Process)>,
    phases: Vec<&'static str>,
}

/// What one of them says in the end.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    published: u64,
    phases: Vec<Latencies>,
}

/// What all of them said.
pub(crate) struct Said {
    /// By service.
    pub(crate) published: Vec<(String, u64)>,
    /// By phase.
    pub(crate) publish: Vec<(String, Summary)>,
}

impl Publishers {
    pub(crate) fn start(host: &Host, stage: &Stage, services: &[Service]) -> Result<Self, Error> {
        let start = |service: &Service| -> Result<_, Error> {
            let process = host.start(
                "disk-publisher",
                &[
                    ("bus", &stage.name()),
                    ("service", &service.name),
                    ("rate", &service.per_second),
                ],
            )?;
            Ok((service.clone(), process))
        };
        Ok(Publishers {
            processes: services.iter().map(start).collect::<Result<_, _>>()?,
            phases: Vec::new(),
        })
    }

    /// From now on it is this phase; the first one starts them.
    pub(crate) fn phase(&mut self, name: &'static str) -> Result<(), Error> {
        self.phases.push(name);
        (self.processes.iter_mut()).try_for_each(|(_, process)| process.say("phase"))
    }

    /// Ends them, once what they have published is written.
    fn end(mut self) -> Result<Said, Error> {
        for (_, process) in &mut self.processes {
            process.say("stop")?;
        }
        let mut by_phase = vec![Latencies::default(); self.phases.len()];
        let mut published = Vec::new();
        for (service, process) in self.processes {
            let outcome: Outcome = process.result(END_LIMIT)?;
            published.push((service.name, outcome.published));
            for (sum, latencies) in by_phase.iter_mut().zip(outcome.phases) {
                sum.merge(latencies);
            }
        }
        let names = self.phases.iter().map(|&name| name.to_owned());
        let summaries = by_phase.iter().map(Latencies::summary);
        Ok(Said {
            published,
            publish: names.zip(summaries).collect(),
        })
    }
}

/// `bus=NAME service=NAME rate=N`. Each line `phase` begins the next phase; any other ends it.
pub(crate) fn publisher_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let service = arguments.text("service")?;
    let rate: u64 = arguments.get("rate")?;
    let mut publisher = bus.publisher(service)?;
    let topic = publisher.topic(&format!("log:{service}:{SOURCE}"))?;
    talk.ready()?;
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || {
        // Ends with whoever started us, or with us.
        while let Ok(line) = Talk.hear() {
            if sender.send(line == "phase").is_err() {
                return;
            }
        }
    });
    // The first line has been heard: it is `phase`.
    let mut phases = vec![Latencies::default()];
    let (mut line, mut number) = (Line::new(), 0);
    let started = Instant::now();
    loop {
        sleep_until_due(started, number, rate);
        match said.try_recv() {
            Err(TryRecvError::Empty) => {}
            Ok(true) => phases.push(Latencies::default()),
            Ok(false) | Err(TryRecvError::Disconnected) => break,
        }
        let (level, payload): (Level, &[u8]) = line.of(service, number);
        let before = Instant::now();
        // A drop is counted by the publisher, and part of the account.
        let _ = publisher.publish(topic, level, payload);
        if number.is_multiple_of(MEASURE_EVERY)
            && let Some(latencies) = phases.last_mut()
        {
            latencies.record(before.elapsed().as_nanos() as u64);
        }
        number += 1;
    }
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    let published = publisher.counts().published;
    talk.say(&Outcome { published, phases })
}

/// What a service has in its files, beside its account.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServiceOutcome {
    /// Its account.
    pub account: LogAccount,
    /// Its lines in the files.
    pub lines: u64,
    /// Numbers that are missing between the first and the last of them.
    pub missing: u64,
    /// Lines that are there twice, or not in order.
    pub again: u64,
    /// Losses that lines of the log tell of.
    pub told_lost: u64,
    /// How many such lines there are.
    pub gap_lines: u64,
}

pub(crate) fn outcomes(
    logs_dir: &Path,
    stats: &Stats,
    said: &Said,
) -> Result<Vec<ServiceOutcome>, Error> {
    let outcome = |(service, published): &(String, u64)| -> Result<_, Error> {
        let found = Found::read(&logs_dir.join(service))?;
        let numbers: Numbers = found.numbers.get(SOURCE).copied().unwrap_or_default();
        let (told_lost, gap_lines) = found.told("gap");
        Ok(ServiceOutcome {
            account: log_account(stats, service, *published),
            lines: numbers.lines,
            missing: numbers.missing,
            again: numbers.again + found.damaged,
            told_lost,
            gap_lines,
        })
    };
    said.published.iter().map(outcome).collect()
}

/// What must be so whatever the disk does. `keeps_all`: of these services nothing was removed.
pub(crate) fn judge(
    services: &[ServiceOutcome],
    keeps_all: &dyn Fn(&str) -> bool,
    seen: &Seen,
) -> Vec<Criterion> {
    let accounts: Vec<LogAccount> = services.iter().map(|one| one.account.clone()).collect();
    let mut criteria = vec![balance_criterion(&accounts)];
    let again: u64 = services.iter().map(|one| one.again).sum();
    criteria.push(Criterion::new(
        format!("{again} lines are there twice, out of order or damaged"),
        again == 0,
    ));
    for one in services.iter().filter(|one| keeps_all(&one.account.source)) {
        let account = &one.account;
        criteria.push(Criterion::new(
            format!(
                "{}: {} lines in the files are the {} that were kept; {} dropped, told in {} gap lines as {}",
                account.source, one.lines, account.written, account.dropped, one.gap_lines, one.told_lost
            ),
            one.lines == account.written
                && one.missing <= account.dropped
                && one.told_lost == account.dropped,
        ));
    }
    let memory = seen.anonymous_bytes;
    criteria.push(Criterion::new(
        format!(
            "the daemon has at most {} beyond its rings, in {} looks: {}",
            text::bytes(MEMORY_BYTES_MAX),
            seen.looks,
            text::bytes(memory)
        ),
        memory <= MEMORY_BYTES_MAX,
    ));
    criteria
}

/// What the consumer says keeps it from writing, looked at all the time: each time it began, and the first words.
pub(crate) struct Troubles {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Troubles {
    pub(crate) fn watch(stage: &Stage) -> Self {
        let bus = stage.bus.clone();
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let (mut told, mut is_in_trouble) = (Vec::new(), false);
            while stopped.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                let trouble = bus.consumer().map(|info| info.trouble).unwrap_or_default();
                if !trouble.is_empty() && !is_in_trouble {
                    told.push(trouble.clone());
                }
                is_in_trouble = !trouble.is_empty();
            }
            told
        });
        Troubles { stop, thread }
    }

    /// What it has told so far and until now.
    fn end(self) -> Result<Vec<String>, Error> {
        let _ = self.stop.send(());
        (self.thread.join()).map_err(|_| Error::new("the watch panicked"))
    }
}

/// Waits until it is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Error> {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > LOOK_LIMIT {
            return Err(Error::new(format!(
                "still not after {LOOK_LIMIT:?}: {what}"
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Waits until what was published by then is in the files, or was dropped.
pub(crate) fn wait_until_written(stage: &Stage, then: &Stats) -> Result<(), Error> {
    wait_until("what was kept is written", || {
        let now = stage.bus.stats();
        (then.sources.iter()).all(|then| {
            let now = now.sources.iter().find(|now| now.label == then.label);
            now.is_some_and(|now| now.written + now.dropped.total() >= then.published)
        })
    })
}

/// How much a count of all sources has grown.
pub(crate) fn growth(before: &Stats, after: &Stats, of: fn(&SourceStats) -> u64) -> u64 {
    let sum = |stats: &Stats| stats.sources.iter().map(of).sum::<u64>();
    sum(after) - sum(before)
}

/// A load at its end.
pub(crate) struct Ended {
    pub(crate) said: Said,
    pub(crate) stats: Stats,
    /// What the daemon told people, each time that it began to.
    pub(crate) told: Vec<String>,
    pub(crate) seen: Seen,
    /// That the consumer is well again, and still the process that it was.
    pub(crate) recovered: Criterion,
}

/// Ends the publishers, lets everything come to rest, and stops the consumer.
pub(crate) fn end(
    stage: Stage,
    publishers: Publishers,
    troubles: Troubles,
    watch: Watch,
) -> Result<Ended, Error> {
    let pid = stage.consumer_pid();
    let said = publishers.end()?;
    let stats = stage.settle()?;
    wait_until("no trouble is told", || {
        (stage.bus.consumer()).is_some_and(|info| info.trouble.is_empty())
    })?;
    let recovered = recovery_criterion(&stage, pid);
    let told = troubles.end()?;
    stage.close()?;
    let seen = watch.end()?;
    Ok(Ended {
        said,
        stats,
        told,
        seen,
        recovered,
    })
}

/// What both scenarios print behind their own first lines.
pub(crate) fn display(
    f: &mut fmt::Formatter<'_>,
    told: &[String],
    publish: &[(String, Summary)],
    services: &[ServiceOutcome],
    criteria: &[Criterion],
) -> fmt::Result {
    for told in told {
        writeln!(f, "  told: {told}")?;
    }
    let rows: Vec<_> = (publish.iter())
        .map(|(phase, summary)| (phase.as_str(), *summary))
        .collect();
    text::latencies(f, &rows)?;
    let accounts: Vec<_> = services.iter().map(|one| one.account.clone()).collect();
    text::log_accounts(f, &accounts)?;
    text::criteria(f, criteria)
}

/// Whether the consumer's process is still the one that was started, and in no trouble any more.
fn recovery_criterion(stage: &Stage, pid: u32) -> Criterion {
    let consumer = stage.bus.consumer();
    let is_well = (consumer.as_ref())
        .is_some_and(|info| info.alive && info.pid == pid && info.trouble.is_empty());
    Criterion::new(
        format!("process {pid} goes on without a restart, in no trouble"),
        is_well,
    )
}

/// Lines in files that can be read now, whatever the disk does: all but the last page of each segment. That one may be
/// part of a write, and the kernel lets nobody read it until the disk has answered.
pub(crate) fn lines_now(logs_dir: &Path, service: &str) -> Result<u64, Error> {
    let dir = logs_dir.join(service);
    let (mut lines, mut piece) = (0, vec![0; READ_BYTES as usize]);
    for id in list_segments(&dir)? {
        let text = match SegmentText::open(&dir, id) {
            // Removed, or sealed, since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            text => text?,
        };
        let end = text.length_bytes()? / PAGE_BYTES * PAGE_BYTES;
        let mut offset = 0;
        while offset < end {
            let bytes = (end - offset).min(READ_BYTES) as usize;
            text.read_exact_at(&mut piece[..bytes], offset)?;
            lines += piece[..bytes].iter().filter(|&&byte| byte == b'\n').count() as u64;
            offset += bytes as u64;
        }
    }
    Ok(lines)
}
