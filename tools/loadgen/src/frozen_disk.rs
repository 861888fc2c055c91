//! `frozen-disk`: the log directory on a file system that stops for a minute, and then takes 300 ms for each sync.
//!
//! Four services log 11,000 lines a second on a rule that drops what finds no room. The disk is slow to sync, then it
//! is as ever, then every change of it stops; then it thaws. Publishers never wait, the daemon keeps what it has room
//! for and counts the rest, says so once, and writes what it kept without being started again.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, frozen_disk};
//! let report = frozen_disk::run(&frozen_disk::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use millpond_faultfs::{FaultFs, Frozen, Operation};
use serde::Serialize;

use crate::criteria::Criterion;
use crate::disk_load::{
    Publishers, Service, ServiceOutcome, Troubles, display, end, growth, judge, lines_now,
    outcomes, rules, wait_until, wait_until_written,
};
use crate::error::{Error, no_such_phase};
use crate::latencies::Summary;
use crate::process::Host;
use crate::stage::{Keeping, Stage, temporary};
use crate::text;
use crate::watch::Watch;

const SYNC_DELAY: Duration = Duration::from_millis(300);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Where the log goes, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
    /// Services, each a process.
    pub services: u64,
    /// Lines a second of all of them together.
    pub per_second: u64,
    /// How long the disk is as ever: before, and after.
    pub calm: Duration,
    /// How long each sync takes 300 ms.
    pub slow: Duration,
    /// How long nothing is written.
    pub frozen: Duration,
    /// Of each publisher's lane.
    pub lane_bytes: u32,
    /// A segment is closed at this size; what the daemon keeps is a few times this, at most three groups of 4 MiB.
    pub segment_bytes: u64,
}

impl Options {
    /// About ten seconds, with small lanes, so that they are full.
    pub fn ci() -> Self {
        Options {
            host: None,
            dir: None,
            services: 4,
            per_second: 11_000,
            calm: Duration::from_secs(1),
            slow: Duration::from_secs(2),
            frozen: Duration::from_millis(4_500),
            lane_bytes: 128 << 10,
            segment_bytes: 512 << 10,
        }
    }

    /// 60 s frozen, 20 s of slow syncs.
    pub fn full() -> Self {
        Options {
            calm: Duration::from_secs(5),
            slow: Duration::from_secs(20),
            frozen: Duration::from_secs(60),
            lane_bytes: 1 << 20,
            segment_bytes: 16 << 20,
            ..Self::ci()
        }
    }

    /// There are no phases that can be played alone.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("frozen-disk", phase, "none"))
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What `publish` took, by phase.
    pub publish: Vec<(String, Summary)>,
    /// Each service.
    pub services: Vec<ServiceOutcome>,
    /// What the daemon told people, each time that it began to.
    pub told: Vec<String>,
    /// From the thaw until everything that was kept was in the files.
    pub recovery_ns: u64,
    /// How long nothing was written.
    pub frozen_ns: u64,
    /// Calls to the file system that waited for the thaw, or for a sync.
    pub waited: u64,
    /// The most memory of its own that the daemon had.
    pub anonymous_bytes: u64,
    /// Shared memory that it has touched.
    pub shared_bytes: u64,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it. Needs `/dev/fuse`, and the right to mount.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let (backing, logs) = (
        temporary(options.dir.as_deref())?,
        temporary(options.dir.as_deref())?,
    );
    let disk = FaultFs::mount(backing.path(), logs.path())
        .map_err(|error| Error::new(format!("{error}: frozen-disk needs /dev/fuse, as root")))?;
    let keeping = Keeping {
        segment_bytes: Some(options.segment_bytes),
        total_bytes: Some(0),
        ..Keeping::default()
    };
    let stage = Stage::keeping(
        &host,
        "frozen",
        rules(options.lane_bytes)?,
        &keeping,
        logs.path(),
    )?;
    let service = |number| Service {
        name: format!("svc-{number:02}"),
        per_second: options.per_second / options.services.max(1),
    };
    let services: Vec<Service> = (0..options.services).map(service).collect();
    let mut publishers = Publishers::start(&host, &stage, &services)?;
    let watch = Watch::start(stage.consumer_pid(), backing.path())?;
    let mut report = Report::default();
    let faults = disk.faults();
    say("frozen-disk: a disk as ever");
    publishers.phase("before")?;
    std::thread::sleep(options.calm);
    say("frozen-disk: 300 ms for each sync");
    faults.delay(Operation::Sync, SYNC_DELAY);
    publishers.phase("syncs of 300 ms")?;
    std::thread::sleep(options.slow);
    let waited_for_syncs = faults.waited();
    faults.delay(Operation::Sync, Duration::ZERO);
    publishers.phase("between")?;
    std::thread::sleep(options.calm);
    say(&format!("frozen-disk: frozen for {:?}", options.frozen));
    publishers.phase("frozen")?;
    let before = stage.bus.stats();
    let troubles = Troubles::watch(&stage);
    let frozen = Instant::now();
    faults.freeze(Frozen::Changes);
    std::thread::sleep(options.frozen);
    // It is told within a few seconds; a busy machine may need longer.
    wait_until("the trouble is told", || {
        (stage.bus.consumer()).is_some_and(|info| !info.trouble.is_empty())
    })?;
    // Asking goes on, and so does reading.
    let during = stage.bus.stats();
    let readable = lines_now(logs.path(), &services[0].name)?;
    stage.bus.request_rotation();
    let frozen_calls = faults.waiting();
    say("frozen-disk: thawed");
    faults.thaw();
    report.frozen_ns = frozen.elapsed().as_nanos() as u64;
    let thawed = Instant::now();
    publishers.phase("after")?;
    // All that was in the lanes and the groups then.
    wait_until_written(&stage, &during)?;
    report.recovery_ns = thawed.elapsed().as_nanos() as u64;
    say("frozen-disk: a disk as ever");
    std::thread::sleep(options.calm);
    let ended = end(stage, publishers, troubles, watch)?;
    report.services = outcomes(logs.path(), &ended.stats, &ended.said)?;
    report.publish = ended.said.publish;
    report.told = ended.told;
    report.waited = faults.waited();
    report.anonymous_bytes = ended.seen.anonymous_bytes;
    report.shared_bytes = ended.seen.shared_bytes;
    let mut criteria = judge(&report.services, &|_| true, &ended.seen);
    let published = growth(&before, &during, |of| of.published);
    let dropped = growth(&before, &during, |of| of.dropped.total());
    criteria.push(Criterion::new(
        format!(
            "{waited_for_syncs} syncs took longer, and {frozen_calls} calls waited for the thaw"
        ),
        waited_for_syncs > 0 && frozen_calls > 0,
    ));
    criteria.push(Criterion::new(
        format!(
            "while it was frozen the statistics counted {published} published and {dropped} dropped, and {readable} \
             lines of one service could be read"
        ),
        published > 0 && dropped > 0 && readable > 0,
    ));
    let asked = ended
        .stats
        .services
        .iter()
        .filter(|of| of.segments >= 2)
        .count() as u64;
    criteria.push(Criterion::new(
        format!("{asked} services have a new segment, as was asked for while it was frozen"),
        asked == options.services,
    ));
    criteria.push(Criterion::new(
        format!(
            "people were told {} times that the disk does not answer",
            report.told.len()
        ),
        report.told.len() == 1 && report.told[0].contains("does not answer"),
    ));
    criteria.push(ended.recovered);
    report.criteria = criteria;
    Ok(report)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "frozen-disk: {} without a write; {} after the thaw all that was kept was in the files",
            text::duration(self.frozen_ns),
            text::duration(self.recovery_ns)
        )?;
        writeln!(
            f,
            "  daemon: {} of its own, {} shared; {} calls of the disk waited",
            text::bytes(self.anonymous_bytes),
            text::bytes(self.shared_bytes),
            self.waited
        )?;
        display(f, &self.told, &self.publish, &self.services, &self.criteria)
    }
}
