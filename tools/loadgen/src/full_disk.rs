//! `full-disk`: no space left on the disk of the log for half a minute.
//!
//! The log directory is a small tmpfs. One service is at its quota and has sealed segments, three others have little.
//! Then somebody fills the disk, and takes whatever becomes free: the oldest sealed data of the one with the quota goes
//! first, then nothing can be written. Publishers never wait, what finds no room is counted, people are told once, and
//! when there is space again the daemon goes on without being started again.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, full_disk};
//! let report = full_disk::run(&full_disk::Options::ci(), &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// The service that has a quota.
const CULPRIT: &str = "gateway";
/// Of the lines, the culprit has so many in eleven.
const CULPRIT_SHARE: u64 = 8;
const SHARES: u64 = 11;
const OTHERS: u64 = 3;
/// What comes free is taken in pieces of this size, this often.
const BALLAST_BYTES: usize = 4 << 10;
const BALLAST_EVERY: Duration = Duration::from_millis(5);

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// Where the log is mounted, in a directory that is removed at the end; `None`: where the system has such.
    pub dir: Option<PathBuf>,
    /// Lines a second of all services together.
    pub per_second: u64,
    /// Size of the file system.
    pub disk_bytes: u64,
    /// Quota of the service that writes most.
    pub quota_bytes: u64,
    /// How long there is space, before and after.
    pub calm: Duration,
    /// How long there is none.
    pub full: Duration,
    /// Of each publisher's lane.
    pub lane_bytes: u32,
}

impl Options {
    /// About ten seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            dir: None,
            per_second: 11_000,
            disk_bytes: 32 << 20,
            quota_bytes: 4 << 20,
            calm: Duration::from_secs(3),
            full: Duration::from_secs(4),
            lane_bytes: 128 << 10,
        }
    }

    /// 30 s without space, on a disk of 256 MiB.
    pub fn full() -> Self {
        Options {
            disk_bytes: 256 << 20,
            quota_bytes: 32 << 20,
            calm: Duration::from_secs(30),
            full: Duration::from_secs(30),
            lane_bytes: 1 << 20,
            ..Self::ci()
        }
    }

    /// There are no phases that can be played alone.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("full-disk", phase, "none"))
    }
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What `publish` took, by phase.
    pub publish: Vec<(String, Summary)>,
    /// Each service; the one with the quota first.
    pub services: Vec<ServiceOutcome>,
    /// What the daemon told people, each time that it began to.
    pub told: Vec<String>,
    /// How long there was no space.
    pub full_ns: u64,
    /// From the first free byte until everything that was kept was in the files.
    pub recovery_ns: u64,
    /// What the others took of the disk.
    pub ballast_bytes: u64,
    /// The most memory of its own that the daemon had.
    pub anonymous_bytes: u64,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// A file system in memory. Unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Result<Self, Error> {
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(at)
            .stdin(Stdio::null())
            .output()?;
        match output.status.success() {
            true => Ok(SmallDisk(at.to_owned())),
            false => Err(Error::new(format!(
                "no tmpfs can be mounted, and full-disk needs one, as root: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still uses it is about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Takes what is free, all the time, until the given time is over; how much that was.
fn fill(
    path: &Path,
    full: Duration,
    during: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut ballast = File::create(path)?;
    let (started, mut bytes, mut has_looked) = (Instant::now(), 0, false);
    // In large pieces first, then to the last page.
    let mut piece = vec![7; 1 << 20];
    while started.elapsed() < full {
        match ballast.write(&piece) {
            Ok(taken) => bytes += taken as u64,
            Err(_) if piece.len() > BALLAST_BYTES => piece.truncate(BALLAST_BYTES),
            Err(_) => std::thread::sleep(BALLAST_EVERY),
        }
        if !has_looked && started.elapsed() > full / 2 {
            has_looked = true;
            during()?;
        }
    }
    Ok(bytes)
}

/// Plays it. Needs the right to mount a tmpfs.
///
/// # Errors
/// What kept it from being played to its end; criteria that are not met are none.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let directory = temporary(options.dir.as_deref())?;
    let disk = SmallDisk::mount(directory.path(), options.disk_bytes)?;
    let logs = disk.0.join("logs");
    let keeping = Keeping {
        total_bytes: Some(0),
        quota: Some((CULPRIT.to_owned(), options.quota_bytes)),
        ..Keeping::default()
    };
    let stage = Stage::keeping(&host, "full", rules(options.lane_bytes)?, &keeping, &logs)?;
    let mut services = vec![Service {
        name: CULPRIT.to_owned(),
        per_second: options.per_second * CULPRIT_SHARE / SHARES,
    }];
    services.extend((0..OTHERS).map(|number| Service {
        name: format!("svc-{number:02}"),
        per_second: options.per_second / SHARES,
    }));
    let mut publishers = Publishers::start(&host, &stage, &services)?;
    let watch = Watch::start(stage.consumer_pid(), &logs)?;
    let mut report = Report::default();
    say("full-disk: there is space");
    publishers.phase("before")?;
    std::thread::sleep(options.calm);
    let sealed = || segments(&logs, ".log.zst");
    wait_until("the service with the quota has sealed segments", || {
        sealed() > 1
    })?;
    let sealed_before = sealed();
    let first_before = first_number(&logs)?;
    say(&format!("full-disk: none for {:?}", options.full));
    publishers.phase("no space")?;
    let before = stage.bus.stats();
    let troubles = Troubles::watch(&stage);
    let began = Instant::now();
    let ballast = disk.0.join("ballast");
    let (mut during, mut readable) = (stage.bus.stats(), 0);
    report.ballast_bytes = fill(&ballast, options.full, &mut || {
        // Asking goes on, and so does reading.
        during = stage.bus.stats();
        readable = lines_now(&logs, "svc-00")?;
        Ok(())
    })?;
    let sealed_full = sealed();
    let at_the_end = stage.bus.stats();
    std::fs::remove_file(&ballast)?;
    report.full_ns = began.elapsed().as_nanos() as u64;
    let freed = Instant::now();
    publishers.phase("after")?;
    wait_until_written(&stage, &at_the_end)?;
    report.recovery_ns = freed.elapsed().as_nanos() as u64;
    say("full-disk: there is space again");
    std::thread::sleep(options.calm);
    let ended = end(stage, publishers, troubles, watch)?;
    let first_after = first_number(&logs)?;
    report.services = outcomes(&logs, &ended.stats, &ended.said)?;
    report.publish = ended.said.publish;
    report.told = ended.told;
    report.anonymous_bytes = ended.seen.anonymous_bytes;
    let mut criteria = judge(&report.services, &|service| service != CULPRIT, &ended.seen);
    let culprit = &report.services[0];
    criteria.push(Criterion::new(
        format!(
            "{CULPRIT}, over its quota, paid: {sealed_before} sealed segments before and {sealed_full} when the disk \
             was full, its first line was {first_before} and is {first_after}; {} numbers are missing since, of {} \
             dropped",
            culprit.missing, culprit.account.dropped
        ),
        sealed_full < sealed_before
            && first_after > first_before
            && culprit.missing <= culprit.account.dropped,
    ));
    let published = growth(&before, &during, |of| of.published);
    let dropped = growth(&before, &at_the_end, |of| of.dropped.total());
    criteria.push(Criterion::new(
        format!(
            "while there was no space the statistics counted {published} published, {dropped} were dropped, and \
             {readable} lines of one service could be read"
        ),
        published > 0 && dropped > 0 && readable > 0,
    ));
    criteria.push(Criterion::new(
        format!(
            "people were told {} times that there is no space",
            report.told.len()
        ),
        report.told.len() == 1 && report.told[0].contains("No space"),
    ));
    criteria.push(ended.recovered);
    report.criteria = criteria;
    Ok(report)
}

/// Files of the service with the quota whose names end like this.
fn segments(logs_dir: &Path, suffix: &str) -> usize {
    let entries = std::fs::read_dir(logs_dir.join(CULPRIT))
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(suffix))
        .count()
}

/// The number of the oldest line that the service with the quota still has.
fn first_number(logs_dir: &Path) -> Result<u64, Error> {
    let mut first = None;
    let read = crate::files::each_line(&logs_dir.join(CULPRIT), &mut |line| {
        if first.is_none()
            && let Ok(line) = line
        {
            let message = String::from_utf8_lossy(line.message);
            first = message.split(' ').nth(1).and_then(|word| word.parse().ok());
        }
    });
    // Segments come and go meanwhile: the first line is all that is wanted.
    match (first, read) {
        (Some(first), _) => Ok(first),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(Error::new(format!("{CULPRIT} has no line"))),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "full-disk: {} without space; {} after there was some all that was kept was in the files",
            text::duration(self.full_ns),
            text::duration(self.recovery_ns)
        )?;
        writeln!(
            f,
            "  others took {} of the disk; daemon: {} of its own",
            text::bytes(self.ballast_bytes),
            text::bytes(self.anonymous_bytes)
        )?;
        display(f, &self.told, &self.publish, &self.services, &self.criteria)
    }
}
