//! The processes of the run, the faults that are played on them, and what they say.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use millpond_bus::{Bus, BusOptions};
use millpond_logfile::{Cursor, list_segments};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::faults::{Fault, Played};
use super::load::{BURST_EVENTS, EARS, Ear, Kind, PARTS, Part, Promise, SERVICES, rules};
use super::roles::{Acked, NOT_CLOSED, Noticed, Told};
use crate::error::Error;
use crate::process::{Host, Process};
use crate::random::Random;
use crate::stage::{Keeping, temporary};

/// Longer than any flush waits.
const END_LIMIT: Duration = Duration::from_secs(100);
/// A role that cannot start now, such as a consumer on a full disk, may later.
const START_AGAIN: Duration = Duration::from_millis(200);
const STARTS_MAX: u32 = 100;
const FULL_FOR: Duration = Duration::from_secs(1);
const FAILURES_MAX: usize = 40;
/// More than the log may take, and little enough to be filled at once.
const SMALL_DISK_BYTES: u64 = 32 << 20;
const SEGMENT_BYTES: u64 = 256 << 10;
const LOG_BYTES: u64 = 8 << 20;
/// The consumer takes what is older than ten seconds for left behind.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);
/// No ring has so high a number.
pub(super) const PLANTED_EPOCH: u64 = 1 << 50;

/// Where the log goes: a small disk of its own, or a directory.
pub(super) struct Place {
    dir: TempDir,
    is_disk: bool,
}

impl Place {
    /// A file system of its own in a directory that goes away; where that may not be mounted, the directory, and
    /// why.
    pub(super) fn new(dir: Option<&Path>) -> Result<(Self, Option<String>), Error> {
        let dir = temporary(dir)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={SMALL_DISK_BYTES}"))
            .arg("millpond-soak")
            .arg(dir.path())
            .output();
        let why = match mounted {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("mount cannot be started: {error}")),
        };
        let is_disk = why.is_none();
        Ok((Place { dir, is_disk }, why))
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }

    /// Takes all the room there is.
    fn fill(&self) -> Result<(), Error> {
        let Ok(file) = File::create(self.filler()) else {
            // Full already, by what was written.
            return Ok(());
        };
        let room = rustix::fs::statvfs(self.dir.path()).map_err(std::io::Error::from)?;
        let flags = rustix::fs::FallocateFlags::empty();
        let mut bytes = room.f_bavail * room.f_frsize;
        let mut at = 0;
        // Others write meanwhile: what does not go at once goes by halves.
        while bytes >= room.f_frsize {
            match rustix::fs::fallocate(&file, flags, at, bytes) {
                Ok(()) => at += bytes,
                Err(rustix::io::Errno::NOSPC) => bytes /= 2,
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn empty(&self) {
        // It is not there where nothing was filled.
        let _ = fs::remove_file(self.filler());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_disk {
            // What is still mounted afterwards is told by what cannot be removed.
            let _ = Command::new("umount").arg(self.dir.path()).status();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Consumer,
    Publisher(&'static Part),
    Subscriber(&'static Ear),
    Follower { is_witness: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Consumer,
    Publishers,
    Subscribers,
    Followers,
}

impl Who {
    fn label(&self) -> &'static str {
        match self {
            Who::Consumer => "consumer",
            Who::Publisher(part) => part.label,
            Who::Subscriber(ear) => ear.label,
            Who::Follower { is_witness: true } => "witness-log",
            Who::Follower { is_witness: false } => "follower",
        }
    }

    fn group(&self) -> Group {
        match self {
            Who::Consumer => Group::Consumer,
            Who::Publisher(_) => Group::Publishers,
            Who::Subscriber(_) => Group::Subscribers,
            Who::Follower { .. } => Group::Followers,
        }
    }

    fn is_witness(&self) -> bool {
        match self {
            Who::Subscriber(ear) => ear.is_witness,
            Who::Follower { is_witness } => *is_witness,
            _ => false,
        }
    }
}

/// A part that somebody plays, or is about to.
struct Slot {
    who: Who,
    process: Option<Process>,
    /// Processes that it has had.
    starts: u64,
    start_at: Option<Instant>,
    start_failures: u32,
    resume_at: Option<Instant>,
    ending_since: Option<Instant>,
}

impl Slot {
    fn is_playing(&self) -> bool {
        self.process.is_some() && self.resume_at.is_none() && self.ending_since.is_none()
    }
}

/// How the bus came back after a consumer had been killed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Recovery {
    /// Since the start of the run, in seconds.
    pub time_s: f64,
    /// From the kill to the first commit of the next consumer, pauses included.
    pub from_kill_ns: u64,
    /// From the start of that consumer's process to its first commit.
    pub from_start_ns: u64,
}

struct Recovering {
    killed: Instant,
    started: Option<Instant>,
    commits: u64,
}

/// What everybody has said.
#[derive(Default)]
pub(super) struct Books {
    /// Of publishers, by `LABEL INCARNATION`.
    pub(super) acked: BTreeMap<String, Acked>,
    /// Of witnesses and of the follower, by label.
    pub(super) told: BTreeMap<&'static str, Told>,
    /// Of subscribers that faults are played on, by label and incarnation.
    pub(super) victims: BTreeMap<(&'static str, u64), Told>,
    /// The consumer's notices, how often each; numbers in them left out.
    pub(super) notices: BTreeMap<String, u64>,
    /// What must not happen.
    pub(super) failures: Vec<String>,
}

pub(super) struct Troupe<'p> {
    pub(super) bus: Bus,
    pub(super) books: Books,
    pub(super) recoveries: Vec<Recovery>,
    pub(super) played: Vec<Played>,
    host: Host,
    place: &'p Place,
    keeping: String,
    slots: Vec<Slot>,
    cursors: BTreeMap<&'static str, String>,
    recovering: Option<Recovering>,
    room_at: Option<Instant>,
    /// When the disk was filled last.
    full_at: Option<Instant>,
    random: Random,
    started: Instant,
    /// Pauses are so much shorter than they normally are.
    haste: u32,
}

impl<'p> Troupe<'p> {
    /// A bus with everybody on it: first those who read, so that they miss nothing.
    pub(super) fn new(host: Host, place: &'p Place, seed: u64, haste: u32) -> Result<Self, Error> {
        let name = format!("soak-{}", std::process::id());
        let options = BusOptions {
            rules: rules(false)?,
            ..BusOptions::default()
        };
        let keeping = Keeping {
            segment_bytes: Some(SEGMENT_BYTES),
            total_bytes: Some(LOG_BYTES),
            ..Keeping::default()
        };
        let parties = [Who::Consumer]
            .into_iter()
            .chain(EARS.iter().map(Who::Subscriber))
            .chain([true, false].map(|is_witness| Who::Follower { is_witness }))
            .chain(PARTS.iter().map(Who::Publisher));
        let slots = parties.map(|who| Slot {
            who,
            process: None,
            starts: 0,
            start_at: None,
            start_failures: 0,
            resume_at: None,
            ending_since: None,
        });
        let mut troupe = Troupe {
            bus: Bus::attach(&name, &options)?,
            books: Books::default(),
            recoveries: Vec::new(),
            played: Vec::new(),
            host,
            place,
            keeping: serde_json::to_string(&keeping)?,
            slots: slots.collect(),
            cursors: BTreeMap::new(),
            recovering: None,
            room_at: None,
            full_at: None,
            random: Random::new(seed),
            started: Instant::now(),
            haste: haste.max(1),
        };
        for slot in 0..troupe.slots.len() {
            troupe.start(slot);
        }
        if let Some(failure) = troupe.books.failures.first() {
            return Err(Error::new(failure.clone()));
        }
        troupe.started = Instant::now();
        Ok(troupe)
    }

    pub(super) fn time_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Which consumer it is, and its process while it has one.
    pub(super) fn consumer(&self) -> (u64, Option<u32>) {
        let slot = &self.slots[0];
        (slot.starts, slot.process.as_ref().map(Process::pid))
    }

    fn fail(&mut self, what: String) {
        if self.books.failures.len() < FAILURES_MAX {
            let time_s = self.time_s();
            self.books.failures.push(format!("{time_s:.1} s: {what}"));
        }
    }

    fn start(&mut self, index: usize) {
        let logs_dir = self.place.logs();
        let (bus, logs) = (self.bus.name().to_owned(), logs_dir.display());
        let slot = &mut self.slots[index];
        slot.start_at = None;
        let label = slot.who.label();
        let host = &self.host;
        let before = Instant::now();
        let outcome = match slot.who {
            Who::Consumer => host.start(
                "soak-daemon",
                &[("bus", &bus), ("logs", &logs), ("keeping", &self.keeping)],
            ),
            Who::Publisher(part) => host.start(
                "soak-publisher",
                &[
                    ("bus", &bus),
                    ("label", &label),
                    ("event", &part.event),
                    ("kind", &part.kind),
                    ("rate", &part.rate),
                    ("bursts", &part.bursts),
                    ("incarnation", &slot.starts),
                ],
            ),
            Who::Subscriber(ear) => host.start(
                "soak-subscriber",
                &[
                    ("bus", &bus),
                    ("label", &label),
                    ("patterns", &ear.patterns),
                    ("slow_ms", &(ear.slow_ms / u64::from(self.haste))),
                ],
            ),
            Who::Follower { .. } => {
                let start = Cursor::default().to_string();
                let cursor = self.cursors.get(label).unwrap_or(&start);
                host.start(
                    "soak-follower",
                    &[("bus", &bus), ("logs", &logs), ("cursor", cursor)],
                )
            }
        };
        match outcome {
            Ok(process) => {
                slot.process = Some(process);
                slot.starts += 1;
                slot.start_failures = 0;
                if let (Who::Consumer, Some(recovering)) = (slot.who, &mut self.recovering) {
                    recovering.started = Some(before);
                }
            }
            Err(error) => {
                slot.start_failures += 1;
                let again = slot.start_failures < STARTS_MAX && self.room_at.is_some();
                slot.start_at = Some(Instant::now() + START_AGAIN);
                if !again {
                    self.fail(format!("{label} does not start: {error}"));
                }
            }
        }
    }

    /// Takes down what the process of a slot has said.
    fn hear(&mut self, index: usize, lines: Vec<String>) {
        let slot = &self.slots[index];
        let (who, incarnation) = (slot.who, slot.starts.saturating_sub(1));
        for line in lines {
            // A process that was killed while it spoke leaves half a line.
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if let Some(why) = value.get("failed").and_then(Value::as_str) {
                self.fail(format!("{} failed: {why}", who.label()));
                continue;
            }
            let outcome = match who {
                Who::Consumer => serde_json::from_value(value).map(|said: Noticed| {
                    if said.notice.starts_with(NOT_CLOSED) && self.full_at.is_none_or(is_long_ago) {
                        self.fail(format!("with room on its disk: {}", said.notice));
                    }
                    let kind = said.notice.replace(|c: char| c.is_ascii_digit(), "#");
                    *self.books.notices.entry(kind).or_default() += 1;
                }),
                Who::Publisher(part) => serde_json::from_value(value).map(|acked: Acked| {
                    let key = format!("{} {incarnation}", part.label);
                    self.books.acked.insert(key, acked);
                }),
                Who::Subscriber(ear) if ear.is_witness => serde_json::from_value(value)
                    .map(|told: Told| self.books.told.entry(ear.label).or_default().join(told)),
                Who::Subscriber(ear) => serde_json::from_value(value).map(|told: Told| {
                    let key = (ear.label, incarnation);
                    self.books.victims.entry(key).or_default().join(told);
                }),
                Who::Follower { .. } => serde_json::from_value(value).map(|told: Told| {
                    // What it said and where it stands are one line: both count, or none.
                    if let Some(cursor) = &told.cursor {
                        self.cursors.insert(who.label(), cursor.clone());
                    }
                    self.books.told.entry(who.label()).or_default().join(told);
                }),
            };
            if let Err(error) = outcome {
                self.fail(format!("{} said {line:?}: {error}", who.label()));
            }
        }
    }

    /// Everything that is due.
    pub(super) fn tick(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.room_at) {
            self.place.empty();
            self.room_at = None;
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if is_due(slot.resume_at)
                && let Some(process) = &slot.process
            {
                process.signal(Signal::CONT)?;
                slot.resume_at = None;
            }
            if let Some(process) = &mut slot.process {
                let (said, has_ended) = (process.said(), process.has_ended()?);
                let (was_asked, since) = (slot.ending_since.is_some(), slot.ending_since);
                self.hear(index, said);
                if has_ended {
                    self.down(index, Duration::ZERO)?;
                    if !was_asked {
                        let label = self.slots[index].who.label();
                        self.fail(format!("{label} ended by itself"));
                    }
                } else if since.is_some_and(|since| since.elapsed() > END_LIMIT) {
                    let label = self.slots[index].who.label();
                    self.fail(format!("{label} does not end within {END_LIMIT:?}"));
                    self.down(index, Duration::ZERO)?;
                }
            }
            if is_due(self.slots[index].start_at) {
                self.start(index);
            }
        }
        self.look_for_commit();
        Ok(())
    }

    fn look_for_commit(&mut self) {
        let Some(recovering) = &self.recovering else {
            return;
        };
        if let Some(started) = recovering.started
            && self.bus.commits() != recovering.commits
        {
            let recovery = Recovery {
                time_s: self.time_s(),
                from_kill_ns: recovering.killed.elapsed().as_nanos() as u64,
                from_start_ns: started.elapsed().as_nanos() as u64,
            };
            self.recoveries.push(recovery);
            self.recovering = None;
        }
    }

    /// Kills the process of a slot, where it has not ended, and has it started again after a pause.
    fn down(&mut self, index: usize, pause: Duration) -> Result<(), Error> {
        let slot = &mut self.slots[index];
        let Some(mut process) = slot.process.take() else {
            return Ok(());
        };
        let was_asked = slot.ending_since.take().is_some();
        slot.resume_at = None;
        slot.start_at = Some(Instant::now() + pause);
        let (who, killed) = (slot.who, Instant::now());
        let said = process.kill()?;
        self.hear(index, said);
        if matches!(who, Who::Consumer) && !was_asked {
            self.recovering = Some(Recovering {
                killed,
                started: None,
                commits: self.bus.commits(),
            });
        }
        Ok(())
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        let ms = from_ms + self.random.below(to_ms - from_ms);
        Duration::from_millis(ms) / self.haste
    }

    /// One of those that play, have no fault on them, and may have one.
    fn choose(&mut self, group: Group, keep: impl Fn(&Who) -> bool) -> Option<usize> {
        let may = |slot: &Slot| {
            let who = &slot.who;
            slot.is_playing() && who.group() == group && !who.is_witness() && keep(who)
        };
        let choice: Vec<usize> = (0..self.slots.len())
            .filter(|&index| may(&self.slots[index]))
            .collect();
        let number = self.random.below(choice.len() as u64) as usize;
        choice.get(number).copied()
    }

    /// Plays a fault; `None` where there is nobody to play it on now.
    pub(super) fn play(&mut self, fault: Fault) -> Result<Option<Played>, Error> {
        let group = match fault {
            Fault::ConsumerKilled
            | Fault::ConsumerStopped
            | Fault::ConsumerEnded
            | Fault::BothKilled => Some(Group::Consumer),
            Fault::PublisherKilled | Fault::PublisherStopped | Fault::PublisherEnded => {
                Some(Group::Publishers)
            }
            Fault::SubscriberKilled | Fault::SubscriberStopped | Fault::SubscriberEnded => {
                Some(Group::Subscribers)
            }
            Fault::FollowerKilled | Fault::FollowerStopped | Fault::FollowerEnded => {
                Some(Group::Followers)
            }
            _ => None,
        };
        let index = match group {
            None => None,
            Some(group) => match self.choose(group, |_| true) {
                None => return Ok(None),
                index => index,
            },
        };
        let time_s = self.time_s();
        let mut on = index.map_or(String::new(), |index| {
            self.slots[index].who.label().to_owned()
        });
        match (fault, index) {
            (
                Fault::ConsumerKilled
                | Fault::PublisherKilled
                | Fault::SubscriberKilled
                | Fault::FollowerKilled,
                Some(index),
            ) => {
                let pause = match self.random.below(2) {
                    0 => Duration::ZERO,
                    _ => self.pause(0, 3000),
                };
                self.down(index, pause)?;
            }
            (Fault::BothKilled, Some(index)) => {
                let Some(other) = self.choose(Group::Publishers, |_| true) else {
                    return Ok(None);
                };
                let pause = self.pause(0, 3000);
                self.down(other, pause)?;
                let pause = self.pause(0, 3000);
                self.down(index, pause)?;
                on = format!("consumer and {}", self.slots[other].who.label());
            }
            (
                Fault::ConsumerStopped
                | Fault::PublisherStopped
                | Fault::SubscriberStopped
                | Fault::FollowerStopped,
                Some(index),
            ) => {
                let pause = self.pause(100, 3000);
                let slot = &mut self.slots[index];
                if let Some(process) = &slot.process {
                    process.signal(Signal::STOP)?;
                    slot.resume_at = Some(Instant::now() + pause);
                }
            }
            (
                Fault::ConsumerEnded
                | Fault::PublisherEnded
                | Fault::SubscriberEnded
                | Fault::FollowerEnded,
                Some(index),
            ) => self.ask_to_end(index)?,
            (Fault::Rotation, _) => self.bus.request_rotation(),
            (Fault::Reload, _) => self.bus.request_reload(),
            (Fault::Overflow, _) => match self.overflow()? {
                Some(label) => on = label.to_owned(),
                None => return Ok(None),
            },
            (Fault::Leftovers, _) => on = self.plant()?,
            (Fault::DiskFull, _) => {
                if self.room_at.is_some() {
                    return Ok(None);
                }
                self.place.fill()?;
                self.full_at = Some(Instant::now());
                self.room_at = Some(Instant::now() + FULL_FOR);
            }
            (Fault::FilesDeleted, _) => match self.delete_file()? {
                Some(file) => on = file,
                None => return Ok(None),
            },
            (_, None) => return Ok(None),
        }
        let played = Played { time_s, fault, on };
        self.played.push(played.clone());
        Ok(Some(played))
    }

    /// Whether a fault can be played at all here.
    pub(super) fn can_play(&self, fault: Fault) -> bool {
        fault != Fault::DiskFull || self.place.is_disk
    }

    fn ask_to_end(&mut self, index: usize) -> Result<(), Error> {
        let slot = &mut self.slots[index];
        if let Some(process) = &slot.process {
            process.signal(Signal::TERM)?;
            slot.ending_since = Some(Instant::now());
        }
        Ok(())
    }

    fn overflow(&mut self) -> Result<Option<&'static str>, Error> {
        let drops = |who: &Who| matches!(who, Who::Publisher(part) if part.promise == Promise::LoggedOrDropped);
        let Some(index) = self.choose(Group::Publishers, drops) else {
            return Ok(None);
        };
        let slot = &mut self.slots[index];
        if let Some(process) = &mut slot.process {
            process.say(&format!("burst {BURST_EVENTS}"))?;
        }
        Ok(Some(slot.who.label()))
    }

    /// What a creator leaves that dies before it has registered what it made.
    fn plant(&mut self) -> Result<String, Error> {
        let kind = ["lane", "subscriber", "outbox"][self.random.below(3) as usize];
        let epoch = PLANTED_EPOCH + self.random.below(1 << 40);
        let name = format!("{kind}.{epoch:x}");
        let path = format!("/dev/shm/millpond.{}.{name}", self.bus.name());
        let file = File::create(path)?;
        file.set_len(64 << 10)?;
        file.set_modified(SystemTime::now() - LEFTOVER_AGE)?;
        Ok(name)
    }

    /// Deletes the index or the filters of some segment; the file's name.
    fn delete_file(&mut self) -> Result<Option<String>, Error> {
        let mut files = Vec::new();
        for service in SERVICES {
            let dir = self.place.logs().join(service);
            // The service may not have written yet.
            for id in list_segments(&dir).unwrap_or_default() {
                files.extend([id.index_path(&dir), id.filter_path(&dir)]);
            }
        }
        files.retain(|file| file.exists());
        let number = self.random.below(files.len() as u64) as usize;
        let Some(path) = files.get(number) else {
            return Ok(None);
        };
        // Retention may be first.
        let _ = fs::remove_file(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Some(name.into_owned()))
    }

    /// Whether nothing that was begun is still to be ended.
    pub(super) fn is_whole(&self) -> bool {
        let whole = self.slots.iter().all(Slot::is_playing);
        whole && self.room_at.is_none() && self.recovering.is_none()
    }

    /// Ticks until it is so.
    pub(super) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut is_so: impl FnMut(&mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let started = Instant::now();
        while !is_so(self)? {
            if started.elapsed() > limit {
                let message = format!("{what} is not so after {limit:?}");
                self.fail(message.clone());
                return Err(Error::new(message));
            }
            self.tick()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn end_group(&mut self, group: Group) -> Result<(), Error> {
        let members: Vec<usize> = (0..self.slots.len())
            .filter(|&index| self.slots[index].who.group() == group)
            .collect();
        for &index in &members {
            self.ask_to_end(index)?;
        }
        // As `until`, but nobody is to be started again.
        let started = Instant::now();
        for index in members {
            loop {
                let slot = &mut self.slots[index];
                let Some(process) = &mut slot.process else {
                    break;
                };
                if process.has_ended()? {
                    self.down(index, Duration::ZERO)?;
                    self.slots[index].start_at = None;
                    break;
                }
                if started.elapsed() > END_LIMIT {
                    let label = slot.who.label();
                    self.fail(format!("{label} does not end within {END_LIMIT:?}"));
                    slot_abandoned(&mut self.slots[index]);
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    pub(super) fn end_publishers(&mut self) -> Result<(), Error> {
        self.end_group(Group::Publishers)
    }

    pub(super) fn end_readers(&mut self) -> Result<(), Error> {
        self.end_group(Group::Subscribers)?;
        self.end_group(Group::Followers)
    }

    pub(super) fn end_consumer(&mut self) -> Result<(), Error> {
        self.end_group(Group::Consumer)
    }

    /// Names of the last events of a publisher, by what they are conflated by.
    pub(super) fn last_of(part: &Part, incarnation: u64, offered: u64) -> Vec<(String, u64)> {
        let names = match part.kind {
            Kind::Keys => super::load::KEYS,
            _ => 1,
        };
        (0..names)
            .filter_map(|name| {
                let last = (0..offered).rev().take(names as usize);
                let last = last.into_iter().find(|number| number % names == name)?;
                Some((format!("{}.{name} {incarnation}", part.label), last))
            })
            .collect()
    }
}

/// Whether a disk that was full then has nothing to do with what happens now.
fn is_long_ago(full_at: Instant) -> bool {
    full_at.elapsed() > FULL_FOR * 5
}

fn slot_abandoned(slot: &mut Slot) {
    slot.process = None;
    slot.start_at = None;
    slot.ending_since = None;
}

impl Drop for Troupe<'_> {
    fn drop(&mut self) {
        // The consumer holds the lease until it is gone.
        self.slots.clear();
        self.place.empty();
        // What cannot be removed now is reported by `millpond doctor` later.
        let _ = self.bus.remove();
    }
}
