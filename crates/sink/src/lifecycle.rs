//! The life of a segment: its states, the files that show them, and the steps between them.
//!
//! ```text
//!            first line                full, old, asked for,          committed, and the next
//!                                      too much is open               segment has begun
//!  (nothing) ----------> open -----------------------------> closed ---------------------------> sealing
//!                         ^                                  |  |  ^                                |   |
//!                         |        never committed, cut      |  |  |    failed, given up, crash     |   |
//!                         +----------------------------------+  |  +--------------------------------+   |
//!                                                               |                                       |
//!                                              over a limit     |                        renamed        |
//!                      removed <--------------------------------+---------------------- sealed <--------+
//! ```
//!
//! | step | what it does, in this order | a crash within leaves | the next start |
//! |---|---|---|---|
//! | begin | make `ID.log`, make `ID.idx`, point `current.log` to it | a segment without text; no or an old link | goes on |
//! | close | write text and entries, cut reserved space, sync, mark the index | a segment not marked closed | makes its index anew |
//! | seal | write `ID.log.zst.new`, sync, write `ID.filter` by way of `ID.filter.new`, rename to `ID.log.zst`, sync the directory, remove `ID.log` | `*.new` files; both forms of the text | removes `*.new`, seals again |
//! | remove | remove `ID.log` and `ID.log.zst`, then `ID.filter`, then `ID.idx` | index or filters without text | removes them |
//!
//! A step that fails is tried again after a while, and resumes where it stood: the time is kept per segment
//! ([`Segment::retry_at`]), so that one that cannot go does not keep the others. The writer thread makes all of these
//! steps but one: sealing has a thread of its own (`sealer`), which the writer hands one segment at a time. Which
//! segments go is decided in `retention`.
//!
//! **The cap over all.** What counts is what files occupy: text with the space reserved ahead of it, sealed text, index,
//! filters, a page for each directory, and for a seal in progress the most that it may write. Before each group the
//! writer removes closed segments until it fits. That there are enough of them is a matter of proportions: the open ones
//! have at most 3/8 of the cap together (the largest are closed early), a segment is closed at 1/8 of it, a group is at
//! most 1/32 of it, and three groups are under way; a segment being sealed has twice its text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millpond_logfile::{CURRENT_LINK, SegmentId, SegmentText};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::policy::{Policy, ServiceLimits};

/// Files, and what a directory has at least, occupy whole pages.
const PAGE_BYTES: u64 = 4 << 10;
/// What a step that failed waits before it is tried again, doubled each time.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A seal is copied back in pieces of this size.
const UNSEAL_BYTES: usize = 1 << 20;
/// What is added to `ID` for each file that a segment may have, in the order of removal: what holds text first.
const SUFFIXES: [&str; 8] = [
    ".log",
    ".log.zst",
    ".log.new",
    ".log.zst.new",
    ".filter",
    ".filter.new",
    ".idx",
    ".idx.new",
];
/// A file being made under another name: means nothing to the next start.
const NEW_SUFFIX: &str = ".new";

/// Where a segment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Text is appended.
    Open,
    /// It does not change any more.
    Closed,
    /// The sealer has it, and may use this much more of the disk.
    Sealing { reserved_bytes: u64 },
    /// There is only the compressed form.
    Sealed,
}

/// What is known of a segment without looking at its files.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) state: State,
    /// What its files occupy.
    pub(crate) disk_bytes: u64,
    /// Time of its last line, or later.
    pub(crate) last_ns: u64,
    /// The group that closed it.
    pub(crate) closed_in: u64,
    /// The next step is not tried before.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) failures: u32,
    /// Since when readers keep it from being removed.
    pub(crate) held_since: Option<Instant>,
}

impl Segment {
    pub(crate) fn new(state: State, disk_bytes: u64, last_ns: u64) -> Self {
        Segment {
            state,
            disk_bytes,
            last_ns,
            closed_in: 0,
            retry_at: None,
            failures: 0,
            held_since: None,
        }
    }

    /// What it counts against the limits.
    pub(crate) fn charged_bytes(&self) -> u64 {
        match self.state {
            State::Sealing { reserved_bytes } => self.disk_bytes + reserved_bytes,
            _ => self.disk_bytes,
        }
    }

    /// Whether the next step may be tried.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// A step has failed.
    pub(crate) fn fail(&mut self, now: Instant) {
        let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        self.retry_at = Some(now + wait.min(RETRY_MAX));
    }

    /// A step was not tried, for a reason that passes.
    pub(crate) fn put_off(&mut self, now: Instant) {
        self.retry_at = Some(now + RETRY_MIN);
    }
}

/// The segments of one service.
#[derive(Debug)]
pub(crate) struct ServiceSegments {
    pub(crate) limits: ServiceLimits,
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    /// Of all of them.
    pub(crate) bytes: u64,
}

/// All segments of a directory, and sums over them.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) services: BTreeMap<String, ServiceSegments>,
    /// Closed and not sealed, by age.
    to_seal: BTreeSet<(SegmentId, String)>,
    /// What counts against the cap over all.
    pub(crate) total_bytes: u64,
    open_bytes: u64,
}

impl Catalog {
    /// The segments of a service, none at first.
    pub(crate) fn service(&mut self, policy: &Policy, service: &str) -> &mut ServiceSegments {
        if !self.services.contains_key(service) {
            self.total_bytes += PAGE_BYTES; // its directory
        }
        (self.services)
            .entry(service.to_owned())
            .or_insert_with(|| ServiceSegments {
                limits: policy.limits_of(service),
                segments: BTreeMap::new(),
                bytes: 0,
            })
    }

    /// Notes how a segment is now, new or known.
    pub(crate) fn set(&mut self, policy: &Policy, service: &str, id: SegmentId, segment: Segment) {
        self.forget(service, id);
        let (bytes, state) = (segment.charged_bytes(), segment.state);
        let of_service = self.service(policy, service);
        of_service.segments.insert(id, segment);
        of_service.bytes += bytes;
        self.total_bytes += bytes;
        match state {
            State::Open => self.open_bytes += bytes,
            State::Closed => {
                self.to_seal.insert((id, service.to_owned()));
            }
            State::Sealing { .. } | State::Sealed => {}
        }
    }

    /// Takes a segment out.
    pub(crate) fn forget(&mut self, service: &str, id: SegmentId) -> Option<Segment> {
        let of_service = self.services.get_mut(service)?;
        let segment = of_service.segments.remove(&id)?;
        let bytes = segment.charged_bytes();
        of_service.bytes -= bytes;
        self.total_bytes -= bytes;
        match segment.state {
            State::Open => self.open_bytes -= bytes,
            State::Closed => {
                self.to_seal.remove(&(id, service.to_owned()));
            }
            State::Sealing { .. } | State::Sealed => {}
        }
        Some(segment)
    }

    pub(crate) fn get(&self, service: &str, id: SegmentId) -> Option<&Segment> {
        self.services.get(service)?.segments.get(&id)
    }

    /// What may be changed without changing a sum: times, failures, holds.
    pub(crate) fn get_mut(&mut self, service: &str, id: SegmentId) -> Option<&mut Segment> {
        self.services.get_mut(service)?.segments.get_mut(&id)
    }

    /// The open segments to be closed so that those that stay have at most `limit` bytes, the largest first.
    pub(crate) fn too_large(&self, limit: u64) -> Vec<(String, SegmentId)> {
        if self.open_bytes <= limit {
            return Vec::new();
        }
        let mut open: Vec<_> = (self.services.iter())
            .filter_map(|(service, of_service)| {
                let (id, segment) = of_service.segments.last_key_value()?;
                (segment.state == State::Open).then_some((segment.disk_bytes, service, *id))
            })
            .collect();
        open.sort_unstable_by_key(|&(bytes, ..)| std::cmp::Reverse(bytes));
        let mut left = self.open_bytes;
        open.into_iter()
            .take_while(|&(bytes, ..)| {
                let wanted = left > limit;
                left = left.saturating_sub(bytes);
                wanted
            })
            .map(|(_, service, id)| (service.clone(), id))
            .collect()
    }

    /// Whether something waits to be sealed, perhaps for something else first.
    pub(crate) fn has_to_seal(&self) -> bool {
        !self.to_seal.is_empty()
    }

    /// The segment to be sealed next: the newest that can be, since the oldest are the next to be removed. Its
    /// closing must be committed, since what was not is cut off again after a crash; and a newer one must have
    /// begun, so that `current.log` leads to text.
    pub(crate) fn next_to_seal(
        &self,
        committed: u64,
        now: Instant,
    ) -> Option<(String, SegmentId, u64)> {
        self.to_seal.iter().rev().find_map(|(id, service)| {
            let segments = &self.services.get(service)?.segments;
            let segment = segments.get(id)?;
            let is_last = segments
                .last_key_value()
                .is_some_and(|(last, _)| last == id);
            let ready = !is_last && segment.closed_in <= committed && segment.is_ready(now);
            ready.then(|| (service.clone(), *id, segment.disk_bytes))
        })
    }
}

/// Whole pages for this many bytes.
pub(crate) fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES)
}

/// A seal writes at most this much beside the text: as much again where it does not compress, and the filters.
pub(crate) fn seal_bytes_max(text_bytes: u64) -> u64 {
    pages(text_bytes + text_bytes / 8) + 4 * PAGE_BYTES
}

/// Every file that a segment may have.
fn files_of(dir: &Path, id: SegmentId) -> impl Iterator<Item = PathBuf> {
    SUFFIXES
        .map(|suffix| dir.join(format!("{id}{suffix}")))
        .into_iter()
}

/// What the files of a segment occupy, in any state.
pub(crate) fn disk_bytes(dir: &Path, id: SegmentId) -> u64 {
    files_of(dir, id)
        .filter_map(|path| fs::symlink_metadata(path).ok())
        .map(|metadata| (metadata.blocks() * 512).max(pages(metadata.len())))
        .sum()
}

/// Step *remove*. Can be repeated.
pub(crate) fn remove_files(dir: &Path, id: SegmentId) -> io::Result<()> {
    for path in files_of(dir, id) {
        remove_if_there(&path)?;
        kill_point!("remove.file_gone");
    }
    let link = dir.join(CURRENT_LINK);
    let target = format!("{id}.log");
    if fs::read_link(&link).is_ok_and(|named| named == Path::new(&target)) {
        // It leads nowhere; the next segment makes it again.
        remove_if_there(&link)?;
    }
    Ok(())
}

/// Removes a file, or finds that it is gone.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Cleans up what steps that were cut short have left in a service's directory: files that were being made, and
/// index and filters of a text that is gone. Files that are none of ours stay.
pub(crate) fn clean_up(dir: &Path, segments: &[SegmentId]) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((id, suffix)) = name.to_str().and_then(split_name) else {
            continue;
        };
        let is_orphan =
            matches!(suffix, ".idx" | ".filter") && segments.binary_search(&id).is_err();
        if suffix.ends_with(NEW_SUFFIX) || is_orphan {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// The id and the rest of a name that one of our files may have.
fn split_name(name: &str) -> Option<(SegmentId, &'static str)> {
    SUFFIXES
        .iter()
        .find_map(|suffix| Some((name.strip_suffix(suffix)?.parse().ok()?, *suffix)))
}

/// Whether there is the plain form of a segment's text.
pub(crate) fn is_plain(dir: &Path, id: SegmentId) -> bool {
    id.log_path(dir).exists()
}

/// Back from *sealed* to *closed*: the text as it was, and no other form. For a segment that is to be cut. Can be
/// repeated.
pub(crate) fn unseal(dir: &Path, id: SegmentId) -> io::Result<()> {
    let log = id.log_path(dir);
    if !is_plain(dir, id) {
        let text = SegmentText::open(dir, id)?;
        let new = dir.join(format!("{id}.log{NEW_SUFFIX}"));
        let out = File::create(&new)?;
        let (mut offset, length) = (0, text.length_bytes()?);
        let mut piece = vec![0; UNSEAL_BYTES];
        while offset < length {
            let bytes = (length - offset).min(UNSEAL_BYTES as u64) as usize;
            text.read_exact_at(&mut piece[..bytes], offset)?;
            out.write_all_at(&piece[..bytes], offset)?;
            offset += bytes as u64;
        }
        out.sync_all()?;
        fs::rename(&new, &log)?;
        File::open(dir)?.sync_all()?;
    }
    remove_if_there(&id.sealed_path(dir))?;
    remove_if_there(&id.filter_path(dir))
}

/// Whether a reader holds the segment's text with a `flock`. A text that cannot be opened is held by nobody.
pub(crate) fn is_held(dir: &Path, id: SegmentId) -> bool {
    [id.log_path(dir), id.sealed_path(dir)].iter().any(|path| {
        File::open(path).is_ok_and(|file| {
            // Closing the file gives it back at once.
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
                == Err(Errno::WOULDBLOCK)
        })
    })
}
