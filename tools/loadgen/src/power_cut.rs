//! `power-cut`: the power fails while durable events are acknowledged.
//!
//! A log directory on an ext4, on a loop device, on a disk with a volatile write cache ([`VolatileDisk`]); a daemon
//! and publishers that write through it, rotate, seal and remove; acknowledgements are kept outside. At moments of
//! chance the power is cut: what the disk then holds (what was flushed, and a random part of what was not) is
//! mounted elsewhere, as after a reboot, recovered, and compared with the acknowledgements, while the load goes on.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, power_cut};
//! let report = power_cut::run(&power_cut::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```
//!
//! Where there is no loop device or no FUSE, a simulated disk runs in their place, and the report says so: what was
//! acknowledged stays, and of the rest any pages of text, any part of an index and any new name may be there. It
//! shows what recovery makes of such files, and takes the daemon's word for what it has synced.
//!
//! [`VolatileDisk`]: millpond_faultfs::VolatileDisk

mod check;
mod disk;
mod simulated;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, BusOptions, Guarantee, RuleTable};
use millpond_daemon::{Daemon, Notice, Policy, SealPolicy};
use millpond_faultfs::{BLOCK_BYTES, Cut, Kept, SECTOR_BYTES};
use serde::Serialize;

pub use self::check::Verdict;
use self::check::{Counts, Ledger, Rules, examine, text_bytes};
use self::disk::{Mounted, formatted, why_not};
use crate::criteria::Criterion;
use crate::day::Line;
use crate::error::{Error, no_such_phase};
use crate::latencies::Latencies;
use crate::process::Host;
use crate::random::Random;
use crate::stage::{Keeping, LOSSLESS, Stage, rules_with};
use crate::text;

/// The log directory, below the root of the file system: its parents are new too.
const LOGS: &str = "var/log/millpond";
/// The smallest that the sink takes: the most rotations for the least text.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Segments kept of each service.
const GENERATIONS: u32 = 5;
/// A disk, its file system and its load live for so many cuts.
const CUTS_PER_LAB: u64 = 20;
/// Between two cuts at most so many events are published.
const STRIDE_EVENTS: u64 = 12_000;
/// Then the power goes after at most so many writes and flushes of the disk.
const STRIDE_OPERATIONS: u64 = 100;
/// What is left of the cache: chosen from these.
const KEPT: [Kept; 8] = [
    Kept::Nothing,
    Kept::Everything,
    Kept::Prefix,
    Kept::Prefix,
    Kept::Prefix,
    Kept::Some,
    Kept::Some,
    Kept::Some,
];
/// Services that are new between two cuts.
const BIRTHS_PER_CUT: u64 = 2;
/// One cut of so many is followed by a second one, while the daemon that recovered from the first runs.
const SECOND_CUT_EVERY: u64 = 4;
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(1);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Power cuts, over all ways of writing.
    pub cuts: u64,
    /// Where mounts go, in directories that are removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
    /// Where random numbers start.
    pub seed: u64,
    /// The simulated disk, also where there are loop devices.
    pub simulated: bool,
}

impl Options {
    /// 8 cuts, a few seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            cuts: 8,
            dir: None,
            seed: 1,
            simulated: false,
        }
    }

    /// 200 cuts.
    pub fn full() -> Self {
        Options {
            cuts: 200,
            ..Self::ci()
        }
    }

    /// `simulated`: as it is where there are no loop devices.
    ///
    /// # Errors
    /// There is no other.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        match phase {
            "simulated" => Ok(Options {
                simulated: true,
                ..self
            }),
            _ => Err(no_such_phase("power-cut", phase, "simulated")),
        }
    }
}

/// What the power was cut of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// Nothing yet.
    #[default]
    NotPlayed,
    /// An ext4 on a loop device on a disk with a volatile write cache.
    LoopDevice,
    /// A simulated disk: why.
    Simulated(String),
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What the power was cut of.
    pub kind: Kind,
    /// Power cuts, those during a recovery too.
    pub cuts: u64,
    /// By what was kept of the disk's cache.
    pub cuts_by_kept: BTreeMap<String, u64>,
    /// Events published, over all loads.
    pub published: u64,
    /// Flushes that the disks have seen.
    pub flushes: u64,
    /// Sectors in the disks' caches when the power was cut.
    pub cached_sectors: u64,
    /// Those that were there afterwards.
    pub kept_sectors: u64,
    /// Segments that were sealed text when the power was cut, over all cuts.
    pub sealed_segments: u64,
    /// Bytes that recovery cut, and told.
    pub cut_bytes: u64,
    /// From the start of a daemon to its log being open.
    pub recovery: Latencies,
    /// What was found after all cuts together.
    pub verdict: Verdict,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// One way of writing.
#[derive(Debug, Clone, Copy)]
struct Scheme {
    name: &'static str,
    sync_interval_ms: u64,
    plain: bool,
    /// Further options of the mount.
    mount: &'static str,
    /// What a disk writes whole.
    sector_bytes: usize,
}

const SCHEMES: [Scheme; 4] = [
    Scheme {
        name: "sync always",
        sync_interval_ms: 0,
        plain: false,
        mount: "",
        sector_bytes: BLOCK_BYTES,
    },
    Scheme {
        name: "sync interval 20ms",
        sync_interval_ms: 20,
        plain: false,
        mount: "",
        sector_bytes: BLOCK_BYTES,
    },
    Scheme {
        name: "sync always, pwrite, data=writeback",
        sync_interval_ms: 0,
        plain: true,
        mount: ",data=writeback",
        sector_bytes: SECTOR_BYTES,
    },
    Scheme {
        name: "sync interval 1s, pwrite",
        sync_interval_ms: 1000,
        plain: true,
        mount: "",
        sector_bytes: SECTOR_BYTES,
    },
];

impl Scheme {
    fn keeping(&self) -> Keeping {
        Keeping {
            segment_bytes: Some(SEGMENT_BYTES),
            total_bytes: Some(0),
            generations: Some(GENERATIONS),
            sync_interval_ms: Some(self.sync_interval_ms),
            plain: self.plain,
            ..Keeping::default()
        }
    }

    /// The same, but nothing goes and nothing is sealed: what recovery did can then be counted.
    fn quiet_policy(&self) -> Policy {
        Policy {
            service_segments_limit: None,
            seal: SealPolicy::Never,
            ..self.keeping().policy()
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            generations: Some(GENERATIONS),
            // Also with data=ordered: that orders blocks that are new. A line that goes into a block that is there
            // already can be in the file's length before it is in the block.
            may_be_torn: true,
        }
    }
}

fn log_rules() -> Result<RuleTable, Error> {
    let mut log = RuleTable::defaults()
        .iter()
        .find(|rule| rule.service.is_some())
        .cloned()
        .ok_or_else(|| Error::new("no default rule is logged"))?;
    log.overflow = LOSSLESS;
    rules_with(vec![log])
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none. That there are no loop devices
/// here is none either: the report says so.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let mut report = Report::default();
    let why = match options.simulated {
        true => Some("it was asked for".to_owned()),
        false => why_not(options.dir.as_deref()),
    };
    match why {
        Some(why) => {
            simulated::run(options, &mut report, progress)?;
            report.kind = Kind::Simulated(why);
        }
        None => {
            run_on_loop_device(options, &mut report, progress)?;
            report.kind = Kind::LoopDevice;
        }
    }
    report.criteria = judge(&report, options);
    Ok(report)
}

fn run_on_loop_device(
    options: &Options,
    report: &mut Report,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let mut random = Random::new(options.seed);
    let labs = options
        .cuts
        .div_ceil(CUTS_PER_LAB)
        .max(SCHEMES.len() as u64);
    let mut done = 0;
    for number in 0..labs {
        let scheme = SCHEMES[number as usize % SCHEMES.len()];
        let cuts = (options.cuts - done).div_ceil(labs - number);
        let lab = Lab::start(&host, options.dir.as_deref(), scheme, &mut random)?;
        for _ in 0..cuts {
            done += 1;
            progress(&format!(
                "power-cut: {done} of {}, {}",
                options.cuts, scheme.name
            ));
            lab.cut(&mut random, report, done % SECOND_CUT_EVERY == 0)?;
        }
        lab.end(report)?;
    }
    Ok(())
}

fn judge(report: &Report, options: &Options) -> Vec<Criterion> {
    let verdict = &report.verdict;
    let nothing = |count: u64, what: &str| Criterion::new(format!("{count} {what}"), count == 0);
    vec![
        Criterion::new(
            format!("{} power cuts, {} wanted", report.cuts, options.cuts),
            report.cuts >= options.cuts,
        ),
        Criterion::new(
            format!(
                "{} acknowledged events were looked for",
                verdict.acknowledged
            ),
            verdict.acknowledged > 0,
        ),
        nothing(verdict.lost, "of them are lost"),
        nothing(verdict.doubled, "events are doubled"),
        nothing(verdict.disordered, "lines stand before an earlier one"),
        nothing(verdict.strange, "lines were never published as they stand"),
        nothing(
            verdict.disagreements,
            "times index, queries or what was told of a cut do not agree with the text",
        ),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::NotPlayed => return writeln!(f, "power-cut: not played"),
            Kind::Simulated(why) => writeln!(f, "power-cut: a simulated disk, since {why}")?,
            Kind::LoopDevice => writeln!(
                f,
                "power-cut: ext4 on a loop device on a disk with a volatile write cache"
            )?,
        }
        let verdict = &self.verdict;
        let recovery = self.recovery.summary();
        writeln!(
            f,
            "  {} cuts ({:?}), {} events published, {} flushes; {} of {} cached sectors kept",
            self.cuts,
            self.cuts_by_kept,
            self.published,
            self.flushes,
            self.kept_sectors,
            self.cached_sectors
        )?;
        writeln!(
            f,
            "  {} lines read, {} acknowledged events looked for, {} sealed segments seen, {} bytes cut and told, \
             {} torn lines",
            verdict.lines, verdict.acknowledged, self.sealed_segments, self.cut_bytes, verdict.torn
        )?;
        writeln!(
            f,
            "  recovery: median {}, most {}",
            text::duration(recovery.p50_ns),
            text::duration(recovery.max_ns)
        )?;
        for what in &verdict.notes {
            writeln!(f, "  wrong: {what}")?;
        }
        text::criteria(f, &self.criteria)
    }
}

/// What the publishers keep, outside the disk.
#[derive(Debug, Default)]
struct Oracle {
    ledger: Mutex<Ledger>,
    stop: AtomicBool,
    /// Services that may be begun.
    births: AtomicU64,
}

impl Oracle {
    /// Whoever panicked with it has counted an event more or less; the thread's end tells of the panic.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self) -> u64 {
        let ledger = self.lock();
        ledger
            .values()
            .map(|counts| counts.published * counts.times)
            .sum()
    }
}

/// A disk with its file system, a daemon and a load.
struct Lab {
    stage: Stage,
    publishers: Vec<JoinHandle<Result<(), Error>>>,
    oracle: Arc<Oracle>,
    mounted: Mounted,
    scheme: Scheme,
    dir: Option<PathBuf>,
}

impl Lab {
    fn start(
        host: &Host,
        dir: Option<&Path>,
        scheme: Scheme,
        random: &mut Random,
    ) -> Result<Self, Error> {
        let mounted = Mounted::new(dir, formatted(dir)?, scheme.mount)?;
        let logs = mounted.path().join(LOGS);
        let stage = Stage::keeping(host, "power-cut", log_rules()?, &scheme.keeping(), &logs)?;
        let oracle = Arc::new(Oracle::default());
        let load = |service: &'static str, source, burst_events, flush_every, times| Load {
            bus: stage.bus.clone(),
            oracle: Arc::clone(&oracle),
            service,
            source,
            burst_events,
            flush_every,
            times,
        };
        let loads = [
            load("web", "web-0", 40, 1, 1),
            load("web", "web-1", 40, 1, 1),
            // Much that is not acknowledged yet.
            load("loose", "rarely", 60, 8, 1),
            // Lines that stand for others.
            load("again", "thrice", 5, 1, 3),
        ];
        let mut publishers = Vec::new();
        for load in loads {
            let random = Random::new(random.below(u64::MAX));
            publishers.push(std::thread::spawn(move || load.run(random)));
        }
        let births = load("born", "child", 1, 1, 1);
        publishers.push(std::thread::spawn(move || births.bear()));
        Ok(Lab {
            stage,
            publishers,
            oracle,
            mounted,
            scheme,
            dir: dir.map(Path::to_owned),
        })
    }

    /// Lets the load go on for a while.
    fn let_run(&self, events: u64) -> Result<(), Error> {
        let target = self.oracle.published() + events;
        let started = Instant::now();
        while self.oracle.published() < target {
            if let Some(ended) = self.publishers.iter().position(JoinHandle::is_finished) {
                return Err(Error::new(format!("publisher {ended} has ended")));
            }
            if started.elapsed() > PROGRESS_LIMIT {
                let published = self.oracle.published();
                return Err(Error::new(format!(
                    "{published} events of {target} were published within {PROGRESS_LIMIT:?}"
                )));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Cuts the power at a moment of chance, and looks at what is there.
    fn cut(&self, random: &mut Random, report: &mut Report, twice: bool) -> Result<(), Error> {
        // ORDERING: Relaxed; a number that says only itself.
        self.oracle
            .births
            .fetch_add(BIRTHS_PER_CUT, Ordering::Relaxed);
        self.let_run(1 + random.below(STRIDE_EVENTS))?;
        let (cut, mut ledger) = self.cut_disk(random, report)?;
        // What was acknowledged before the cut must be there; what is there must have been published by now.
        for (key, counts) in self.oracle.lock().iter() {
            let known = ledger.entry(key.clone()).or_default();
            (known.published, known.times) = (counts.published, counts.times);
        }
        let second = self.recover(cut, &mut ledger, "after", report, |mounted, report| {
            let kept = twice.then(|| choose(random))?;
            let mut below = |end| random.below(end);
            let cut = mounted
                .disk()
                .cut(kept, self.scheme.sector_bytes, &mut below);
            note_cut(&cut, kept, report);
            Some(cut)
        })?;
        if let Some(cut) = second {
            self.recover(cut, &mut ledger, "after-that", report, |_, _| None)?;
        }
        Ok(())
    }

    /// Cuts the power between two operations of the disk; with what was acknowledged until then.
    fn cut_disk(&self, random: &mut Random, report: &mut Report) -> Result<(Cut, Ledger), Error> {
        let kept = choose(random);
        let (sender, cuts) = mpsc::channel();
        let mut of_cut = Random::new(random.below(u64::MAX));
        let (oracle, sector_bytes) = (Arc::clone(&self.oracle), self.scheme.sector_bytes);
        let operations = random.below(STRIDE_OPERATIONS);
        self.mounted.disk().after(operations, move |disk| {
            let ledger = oracle.lock().clone();
            let cut = disk.cut(kept, sector_bytes, &mut |end| of_cut.below(end));
            // Nobody listens any more when the load was given up.
            let _ = sender.send((cut, ledger));
        });
        let (cut, ledger) = cuts
            .recv_timeout(PROGRESS_LIMIT)
            .map_err(|_| Error::new(format!("the disk was hardly used for {PROGRESS_LIMIT:?}")))?;
        note_cut(&cut, kept, report);
        Ok((cut, ledger))
    }

    /// The next boot: the file system is mounted, the log is recovered, one more event of `label` is written. `while_up`
    /// is called once that is acknowledged.
    fn recover(
        &self,
        cut: Cut,
        ledger: &mut Ledger,
        label: &str,
        report: &mut Report,
        while_up: impl FnOnce(&Mounted, &mut Report) -> Option<Cut>,
    ) -> Result<Option<Cut>, Error> {
        let (kept, of) = (cut.kept_sectors, cut.cached_sectors);
        let mounted = Mounted::new(self.dir.as_deref(), cut.image, self.scheme.mount)?;
        let logs = mounted.path().join(LOGS);
        let policy = self.scheme.quiet_policy();
        let (mut verdict, second) = boot(&logs, policy, label, report, |report| {
            while_up(&mounted, report)
        })?;
        ledger.insert(("web".to_owned(), label.to_owned()), ONE);
        verdict += examine(&logs, ledger, self.scheme.rules())?;
        if !verdict.is_good() {
            let (name, cuts) = (self.scheme.name, report.cuts);
            report
                .verdict
                .note(format!("cut {cuts}, {name}, {kept} of {of} sectors kept:"));
        }
        report.verdict += verdict;
        mounted.close()?;
        Ok(second)
    }

    /// Stops the load and the daemon in order: then everything is there.
    fn end(self, report: &mut Report) -> Result<(), Error> {
        // ORDERING: Relaxed; a flag that says only itself.
        self.oracle.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            match publisher.join() {
                Ok(outcome) => outcome?,
                Err(_) => return Err(Error::new("a publisher has panicked")),
            }
        }
        self.stage.close()?;
        let ledger = self.oracle.lock().clone();
        report.published += self.oracle.published();
        report.flushes += self.mounted.disk().flushes();
        let logs = self.mounted.path().join(LOGS);
        let rules = Rules {
            may_be_torn: false,
            ..self.scheme.rules()
        };
        report.verdict += examine(&logs, &ledger, rules)?;
        self.mounted.close()
    }
}

/// The next boot: shared memory is gone with the power, so the log is recovered for another bus. Then one event of
/// `label` is published and acknowledged, and `while_up` is called before the daemon is stopped.
fn boot<T>(
    logs: &Path,
    policy: Policy,
    label: &str,
    report: &mut Report,
    while_up: impl FnOnce(&mut Report) -> Option<T>,
) -> Result<(Verdict, Option<T>), Error> {
    let before = text_bytes(logs)?;
    report.sealed_segments += count_sealed(logs);
    let bus = FreshBus::new()?;
    let started = Instant::now();
    let mut daemon = Daemon::builder(&bus.0, logs).policy(policy).open()?;
    report.recovery.record(started.elapsed().as_nanos() as u64);
    let told = daemon.take_notices();
    let after = text_bytes(logs)?;
    let mut verdict = Verdict::default();
    report.cut_bytes += compare_cuts(&before, &after, &told, &mut verdict);
    let stop = daemon.stop_handle();
    let found = std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            daemon.run(&mut |_| {});
            daemon.close()
        });
        let published = publish_one(&bus.0, label);
        let found = published.map(|()| while_up(report));
        stop.stop();
        match running.join() {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Error::new("the daemon has panicked")),
        }
        found
    })?;
    Ok((verdict, found))
}

/// Of a source that has published one event.
const ONE: Counts = Counts {
    acknowledged: 1,
    published: 1,
    times: 1,
};

fn choose(random: &mut Random) -> Kept {
    KEPT[random.below(KEPT.len() as u64) as usize]
}

fn note_cut(cut: &Cut, kept: Kept, report: &mut Report) {
    report.cuts += 1;
    *report.cuts_by_kept.entry(format!("{kept:?}")).or_default() += 1;
    report.cached_sectors += cut.cached_sectors;
    report.kept_sectors += cut.kept_sectors;
}

fn count_sealed(logs: &Path) -> u64 {
    let services = millpond_logfile::list_services(logs).unwrap_or_default();
    let sealed = services.iter().flat_map(|service| {
        let dir = logs.join(service);
        let ids = millpond_logfile::list_segments(&dir).unwrap_or_default();
        ids.into_iter()
            .filter(move |id| !id.log_path(&dir).exists())
    });
    sealed.count() as u64
}

/// What recovery cut must be what it told; how much that is.
fn compare_cuts(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    told: &[Notice],
    verdict: &mut Verdict,
) -> u64 {
    let mut cuts: BTreeMap<&str, u64> = BTreeMap::new();
    for notice in told {
        let Notice::Recovered(text) = notice else {
            continue;
        };
        // `web: cut 17 bytes from ..`
        let cut = text.split_once(": cut ").and_then(|(service, rest)| {
            let bytes: u64 = rest.split(' ').next()?.parse().ok()?;
            Some((service, bytes))
        });
        match cut {
            Some((service, bytes)) => *cuts.entry(service).or_default() += bytes,
            None => verdict.disagree(format!("recovery tells of something else: {text}")),
        }
    }
    for (service, &bytes) in before {
        let left = after.get(service).copied().unwrap_or_default();
        let told = cuts.get(service.as_str()).copied().unwrap_or_default();
        if bytes != left + told {
            verdict.disagree(format!(
                "{service}: {bytes} bytes before recovery, {left} behind it, {told} told"
            ));
        }
    }
    cuts.values().sum()
}

/// A bus that goes away.
struct FreshBus(Bus);

impl FreshBus {
    fn new() -> Result<Self, Error> {
        // ORDERING: Relaxed; the number only has to be unique in this process.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("power-back-{}-{number}", std::process::id());
        let options = BusOptions {
            rules: log_rules()?,
            ..BusOptions::default()
        };
        Ok(FreshBus(Bus::attach(&name, &options)?))
    }
}

impl Drop for FreshBus {
    fn drop(&mut self) {
        // What cannot be removed now is reported by `millpond doctor` later.
        let _ = self.0.remove();
    }
}

fn publish_one(bus: &Bus, label: &str) -> Result<(), Error> {
    let mut publisher = bus.publisher(label)?;
    let topic = publisher.topic(&format!("log:web:{label}"))?;
    let mut line = Line::new();
    let (level, payload) = line.of(label, 0);
    publisher.publish(topic, level, payload)?;
    Ok(publisher.flush(Guarantee::Durable, Some(FLUSH_LIMIT))?)
}

/// What one publisher does, on a thread of its own.
struct Load {
    bus: Bus,
    oracle: Arc<Oracle>,
    service: &'static str,
    source: &'static str,
    /// Events of a burst, at most.
    burst_events: u64,
    /// A burst of so many is followed by a flush.
    flush_every: u64,
    /// How often each event is published.
    times: u64,
}

impl Load {
    fn is_over(&self) -> bool {
        // ORDERING: Relaxed; a flag that says only itself.
        self.oracle.stop.load(Ordering::Relaxed)
    }

    fn note(&self, service: &str, change: impl FnOnce(&mut Counts)) {
        let mut ledger = self.oracle.lock();
        let key = (service.to_owned(), self.source.to_owned());
        let counts = ledger.entry(key).or_default();
        counts.times = self.times;
        change(counts);
    }

    /// Bursts of chance, each `flush_every`-th of them acknowledged.
    fn run(self, mut random: Random) -> Result<(), Error> {
        let mut publisher = self.bus.publisher(self.source)?;
        let topic = publisher.topic(&format!("log:{}:{}", self.service, self.source))?;
        let mut line = Line::new();
        let mut number = 0;
        loop {
            let is_over = self.is_over();
            for _ in 0..=random.below(self.burst_events) {
                self.note(self.service, |counts| counts.published = number + 1);
                let (level, payload) = line.of(self.source, number);
                for _ in 0..self.times {
                    publisher.publish(topic, level, payload)?;
                }
                number += 1;
            }
            if is_over || random.below(self.flush_every) == 0 {
                publisher.flush(Guarantee::Durable, Some(FLUSH_LIMIT))?;
                self.note(self.service, |counts| counts.acknowledged = number);
            }
            if is_over {
                return Ok(());
            }
        }
    }

    /// One event in each of ever more services, all of them acknowledged.
    fn bear(self) -> Result<(), Error> {
        let mut publisher = self.bus.publisher(self.source)?;
        let mut line = Line::new();
        let mut born = 0;
        while !self.is_over() {
            // ORDERING: Relaxed; a number that says only itself.
            if born == self.oracle.births.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                continue;
            }
            let service = format!("{}-{born}", self.service);
            let topic = publisher.topic(&format!("log:{service}:{}", self.source))?;
            self.note(&service, |counts| counts.published = 1);
            let (level, payload) = line.of(self.source, 0);
            publisher.publish(topic, level, payload)?;
            publisher.flush(Guarantee::Durable, Some(FLUSH_LIMIT))?;
            self.note(&service, |counts| counts.acknowledged = 1);
            born += 1;
        }
        Ok(())
    }
}
