//! Who is behind a new lane: asked of the kernel, off the path of events, at a bounded cost.
//!
//! The lock on a lane's object is its publisher's sign of life, and `/proc/locks` tells who holds it. Reading
//! that costs as much as there are locks in the system, so it is read once for all lanes that are new, and at
//! most a twentieth of the time goes to it: when a thousand publishers come a second, some wait for the next
//! reading. Those that are gone by then keep what they said of themselves.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use rustix::time::{ClockId, clock_gettime};

use super::{Drain, DrainLane};
use crate::clock::realtime_ns;
use crate::control::Control;
use crate::origin::{Origin, printable_end};

/// Of the time goes at most one part in so many to looking.
const BUSY_SHARE: u64 = 20;
/// The longest pause: where the clock has jumped meanwhile, the difference is no cost.
const PAUSE_MAX_NS: u64 = 10_000_000_000;
/// The table is read in pieces and may change in between: a lock that is not there is looked for again.
const LOOKS_MAX: u32 = 2;

/// A lane that nobody has looked behind yet.
struct Stranger {
    slot: usize,
    epoch: u64,
    source: usize,
    object: ObjectKey,
    /// What is known: the owner of the object, and the publisher's word.
    claimed: Origin,
    looks: u32,
}

/// A file, as `/proc/locks` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectKey {
    major: u32,
    minor: u32,
    inode: u64,
}

impl ObjectKey {
    pub(crate) fn of(device: u64, inode: u64) -> Self {
        ObjectKey {
            major: rustix::fs::major(device),
            minor: rustix::fs::minor(device),
            inode,
        }
    }
}

#[derive(Default)]
pub(super) struct Attribution {
    strangers: Vec<Stranger>,
    next_look_ns: u64,
}

impl Attribution {
    /// A lane was found. What it says of itself is noted at once, what the kernel says follows.
    pub(super) fn meet(&mut self, control: &Control, lane: &DrainLane) {
        let place = &control.origins[lane.slot];
        let source_place = &control.source_origins[lane.source as usize];
        match place.load() {
            // An earlier consumer has looked, and the publisher may be gone now.
            Some((epoch, origin)) if epoch == lane.info.epoch && origin.is_verified => return,
            Some((epoch, _)) if epoch == lane.info.epoch => {}
            _ => place.reset_lag(),
        }
        let Some((object, uid)) = object_key(&lane.descriptor) else {
            return;
        };
        let claimed = Origin {
            pid: lane.info.publisher_pid,
            uid,
            ..Origin::default()
        };
        place.store(lane.info.epoch, &claimed);
        source_place.store(lane.info.epoch, &claimed);
        self.strangers.push(Stranger {
            slot: lane.slot,
            epoch: lane.info.epoch,
            source: lane.source as usize,
            object,
            claimed,
            looks: 0,
        });
    }
}

impl Drain {
    /// Looks behind the lanes that are new.
    pub(super) fn attribute(&mut self) {
        let attribution = &mut self.attribution;
        let begun_ns = self.clock.now_ns();
        if attribution.strangers.is_empty() || begun_ns < attribution.next_look_ns {
            return;
        }
        let lanes = &self.lanes;
        attribution.strangers.retain(|stranger| {
            let lane = lanes[stranger.slot].as_ref();
            lane.is_some_and(|lane| lane.info.epoch == stranger.epoch)
        });
        let table = read_lock_table();
        let mut processes = Processes::default();
        let control = &self.control;
        attribution.strangers.retain_mut(|stranger| {
            stranger.looks += 1;
            let lane = lanes[stranger.slot].as_ref();
            // The lock of a publisher that is gone may be ours by now.
            let is_ours = lane.is_some_and(|lane| lane.is_lock_taken);
            let holder = lock_holder(&table, stranger.object).filter(|_| !is_ours);
            let mut origin = stranger.claimed.clone();
            origin.is_verified = holder.is_some();
            origin.pid = holder.unwrap_or(origin.pid);
            // A claim may name anybody: at least the user must be right.
            if let Some(process) = processes.get(origin.pid)
                && (origin.is_verified || process.uid == origin.uid)
            {
                origin.executable.clone_from(&process.executable);
                origin.started_ns = process.started_ns;
            }
            control.origins[stranger.slot].store(stranger.epoch, &origin);
            let source_place = &control.source_origins[stranger.source];
            // A later lane of the source may have been met meanwhile.
            if source_place
                .load()
                .is_none_or(|(epoch, _)| epoch == stranger.epoch)
            {
                source_place.store(stranger.epoch, &origin);
            }
            !origin.is_verified && stranger.looks < LOOKS_MAX
        });
        let ended_ns = self.clock.now_ns();
        attribution.next_look_ns = next_look_ns(begun_ns, ended_ns);
    }
}

fn next_look_ns(begun_ns: u64, ended_ns: u64) -> u64 {
    let cost_ns = ended_ns.saturating_sub(begun_ns);
    ended_ns + cost_ns.saturating_mul(BUSY_SHARE).min(PAUSE_MAX_NS)
}

fn object_key(descriptor: &OwnedFd) -> Option<(ObjectKey, u32)> {
    let stat = rustix::fs::fstat(descriptor).ok()?;
    Some((ObjectKey::of(stat.st_dev, stat.st_ino), stat.st_uid))
}

/// `/proc/locks`; empty where the kernel hides it.
pub(crate) fn read_lock_table() -> Vec<(ObjectKey, u32)> {
    let mut text = String::with_capacity(64 << 10);
    let read = fs::File::open("/proc/locks").and_then(|mut file| file.read_to_string(&mut text));
    match read {
        Ok(_) => text.lines().filter_map(parse_lock).collect(),
        Err(_) => Vec::new(),
    }
}

/// `1: FLOCK  ADVISORY  WRITE 1234 00:1b:286643 0 EOF`: device in hex, inode in decimal. Only exclusive locks of
/// whole files that are held; those who wait for one have `->` in front.
fn parse_lock(line: &str) -> Option<(ObjectKey, u32)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    if words.next() != Some("FLOCK") || words.next().is_none() || words.next() != Some("WRITE") {
        return None;
    }
    let pid = words.next()?.parse().ok().filter(|&pid| pid > 0)?;
    let mut parts = words.next()?.split(':');
    let mut hex = || u32::from_str_radix(parts.next()?, 16).ok();
    let (major, minor) = (hex()?, hex()?);
    let object = ObjectKey {
        major,
        minor,
        inode: parts.next()?.parse().ok()?,
    };
    Some((object, pid))
}

pub(crate) fn lock_holder(table: &[(ObjectKey, u32)], object: ObjectKey) -> Option<u32> {
    let mut found = table.iter().filter(|(key, _)| *key == object);
    found.next().map(|&(_, pid)| pid)
}

struct Process {
    uid: u32,
    executable: String,
    started_ns: u64,
}

/// What has been read in one look: a process often has several lanes.
#[derive(Default)]
struct Processes {
    known: Vec<(u32, Option<Process>)>,
}

impl Processes {
    fn get(&mut self, pid: u32) -> Option<&Process> {
        let index = match self.known.iter().position(|(known, _)| *known == pid) {
            Some(index) => index,
            None => {
                self.known.push((pid, read_process(pid)));
                self.known.len() - 1
            }
        };
        self.known[index].1.as_ref()
    }
}

fn read_process(pid: u32) -> Option<Process> {
    let dir = format!("/proc/{pid}");
    let uid = fs::metadata(&dir).ok()?.uid();
    let executable = match fs::read_link(format!("{dir}/exe")) {
        Ok(path) => path.to_string_lossy().into_owned(),
        // Another user's: the short name is open to everybody.
        Err(_) => fs::read_to_string(format!("{dir}/comm")).unwrap_or_default(),
    };
    let stat = fs::read_to_string(format!("{dir}/stat")).unwrap_or_default();
    Some(Process {
        uid,
        executable: printable_end(executable.trim_end_matches('\n')),
        started_ns: start_ticks(&stat).map_or(0, start_ns),
    })
}

/// Field 22 of `/proc/PID/stat`. The name in field 2 may hold anything, also spaces and brackets.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Clock ticks since the system was started, as real time.
fn start_ns(ticks: u64) -> u64 {
    let since_boot = clock_gettime(ClockId::Boottime);
    let since_boot_ns = since_boot.tv_sec as u64 * 1_000_000_000 + since_boot.tv_nsec as u64;
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let age_ns = since_boot_ns.saturating_sub(ticks.saturating_mul(tick_ns));
    realtime_ns().saturating_sub(age_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_during_a_look_does_not_put_the_next_one_off_for_ever() {
        let (begun_ns, latest_ns) = (1_000_000_000, 1 << 62);
        assert_eq!(next_look_ns(begun_ns, begun_ns + 5), begun_ns + 5 + 100);
        assert_eq!(next_look_ns(begun_ns, latest_ns), latest_ns + PAUSE_MAX_NS);
        assert_eq!(next_look_ns(latest_ns, begun_ns), begun_ns);
    }

    #[test]
    fn only_locks_that_are_held_on_whole_files_are_taken_from_the_table() {
        let object = ObjectKey {
            major: 0,
            minor: 0x1b,
            inode: 286_643,
        };
        let held = "1: FLOCK  ADVISORY  WRITE 3578 00:1b:286643 0 EOF";
        assert_eq!(parse_lock(held), Some((object, 3578)));
        for other in [
            "1: -> FLOCK  ADVISORY  WRITE 3579 00:1b:286643 0 EOF",
            "4: FLOCK  ADVISORY  READ 2816 fe:00:672 0 EOF",
            "5: POSIX  ADVISORY  WRITE 77 00:1b:286643 0 EOF",
            "6: OFDLCK ADVISORY  WRITE -1 00:1b:286643 0 EOF",
            "7: FLOCK  ADVISORY  WRITE -1 00:1b:286643 0 EOF",
            "7: FLOCK  ADVISORY  WRITE 7 zz:1b:286643 0 EOF",
            "",
        ] {
            assert_eq!(parse_lock(other), None, "{other}");
        }
    }

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let stat = "77 (a) b (c)) S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9";
        assert_eq!(start_ticks(stat), Some(123_456));
        assert_eq!(start_ticks("77 (cut"), None);
    }

    #[test]
    fn this_process_is_known() {
        let process = read_process(std::process::id()).expect("it lives");
        assert!(!process.executable.is_empty());
        assert!(process.started_ns > 0 && process.started_ns <= realtime_ns());
    }
}
