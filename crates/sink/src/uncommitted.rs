//! How much text can be uncommitted, and commit points that ask for more to be removed.
//!
//! The commit point lies in shared memory, where every member of the bus may write, and the log does not. What a crash
//! leaves uncommitted is bounded by what is under way at a time, so a commit point that has more removed than that was
//! not written by a consumer: it is not believed, and all text stays. What may be uncommitted over all services:
//!
//! * [`GROUPS`] groups: [`IN_FLIGHT_MAX`] with the writer, and one more that a closing sink hands over;
//! * in each as much text as a group of the last writer held (the lock file says how much, which members cannot change),
//!   and as much beyond as the one line that made it full. How long that is, the text itself says;
//! * in each the lines that the daemon writes itself when the group goes, [`OWN_BYTES_MAX`];
//! * of a service at most one segment more for each group, since a write closes one at most. A segment that is begun in
//!   the place of one that somebody removed takes the place of that one here too.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use millpond_bus::ServiceCommit;
use millpond_logfile::{SegmentId, SegmentText, list_segments};

use crate::error::Error;
use crate::lifecycle::disk_bytes;
use crate::open::text_bytes;
use crate::sink::IN_FLIGHT_MAX;

/// Groups whose text may be in the files without being committed.
const GROUPS: usize = IN_FLIGHT_MAX + 1;
/// Gap lines, repeats, signs of life: what a group may have beyond its limit, all services and lanes together.
const OWN_BYTES_MAX: u64 = 1 << 20;
/// No line is longer: a message of 64 MiB, all of it escaped.
const LINE_BYTES_MAX: u64 = 257 << 20;
/// Text is looked through in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;

/// What the commit point has removed of one service.
#[derive(Debug)]
pub(crate) struct Asked {
    service: String,
    /// The segment that it names, and how much of that is to stay.
    open: SegmentId,
    length_bytes: u64,
    /// The stretches of text that are to go: segment, first byte, bytes.
    stretches: Vec<(SegmentId, u64, u64)>,
    /// Segments among them that go as a whole.
    segments: usize,
    bytes: u64,
}

/// Why a commit is not believed.
#[derive(Debug)]
pub(crate) struct Doubt {
    /// What it has removed.
    pub(crate) bytes: u64,
    pub(crate) why: String,
}

impl Asked {
    /// Looks at the files of a service. Changes nothing.
    pub(crate) fn of(logs_dir: &Path, commit: &ServiceCommit) -> Result<Self, Error> {
        let dir = logs_dir.join(&commit.name);
        let open = SegmentId::from_ns(commit.segment_id);
        let mut stretches = Vec::new();
        let mut segments = 0;
        for id in list_segments(&dir)?.into_iter().filter(|&id| id >= open) {
            let from = match id == open {
                true => commit.length_bytes,
                false => 0,
            };
            // Text that cannot be read counts as what its files take, where it would go with them.
            let bytes = match text_bytes(&dir, id) {
                Ok(bytes) => bytes.saturating_sub(from),
                Err(_) if id == open => 0,
                Err(_) => disk_bytes(&dir, id),
            };
            segments += usize::from(id != open);
            stretches.push((id, from, bytes));
        }
        Ok(Asked {
            service: commit.name.clone(),
            open,
            length_bytes: commit.length_bytes,
            bytes: stretches.iter().map(|(_, _, bytes)| bytes).sum(),
            stretches,
            segments,
        })
    }

    /// Without the lines that made groups full.
    fn bytes_in_groups(&self, logs_dir: &Path, limit: u64) -> u64 {
        if self.bytes > limit + GROUPS as u64 * LINE_BYTES_MAX {
            return self.bytes;
        }
        let dir = logs_dir.join(&self.service);
        let mut longest = [0; GROUPS];
        for &(id, from, bytes) in &self.stretches {
            // What cannot be read has no lines to be excused.
            let _ = longest_lines(&dir, id, from, bytes, &mut longest);
        }
        self.bytes.saturating_sub(longest.iter().sum())
    }

    fn doubt(&self, limit: u64) -> Doubt {
        let Asked {
            open,
            length_bytes,
            segments,
            bytes,
            ..
        } = self;
        Doubt {
            bytes: *bytes,
            why: format!(
                "the commit point in shared memory ends its log {length_bytes} bytes into segment {open}; what stands behind \
                 that, with {segments} later segments, is more than can be uncommitted ({limit} bytes over all services, \
                 {GROUPS} segments of each), so somebody has written there, and it is not believed. What was written last \
                 may be there twice"
            ),
        }
    }
}

/// The most that can be uncommitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    bytes: u64,
}

impl Bound {
    /// Where a group holds this much text.
    pub(crate) fn new(group_bytes: u64) -> Self {
        let group_bytes = group_bytes.saturating_add(OWN_BYTES_MAX);
        Bound {
            bytes: group_bytes.saturating_mul(GROUPS as u64),
        }
    }

    /// The services whose commits have more removed than can be uncommitted, and where it is their sum that does, those
    /// of the most. Reads text only where there is more of it than fits without a look.
    pub(crate) fn doubted(self, logs_dir: &Path, asked: Vec<Asked>) -> BTreeMap<String, Doubt> {
        let (mut left, many): (Vec<_>, Vec<_>) = (asked.into_iter())
            .map(|asked| (asked.bytes, asked))
            .partition(|(_, asked)| asked.segments <= GROUPS);
        let mut doubted: BTreeMap<String, Doubt> = (many.into_iter())
            .map(|(_, asked)| (asked.service.clone(), asked.doubt(self.bytes)))
            .collect();
        if sum(&left) > self.bytes {
            for (bytes, asked) in &mut left {
                *bytes = asked.bytes_in_groups(logs_dir, self.bytes);
            }
        }
        left.sort_by_key(|&(bytes, _)| bytes);
        while sum(&left) > self.bytes
            && let Some((_, asked)) = left.pop()
        {
            doubted.insert(asked.service.clone(), asked.doubt(self.bytes));
        }
        doubted
    }
}

fn sum(asked: &[(u64, Asked)]) -> u64 {
    (asked.iter()).fold(0, |sum, (bytes, _)| sum.saturating_add(*bytes))
}

/// Notes the lines of a stretch that are longer than those noted so far.
fn longest_lines(
    dir: &Path,
    id: SegmentId,
    from: u64,
    bytes: u64,
    longest: &mut [u64; GROUPS],
) -> io::Result<()> {
    let text = SegmentText::open(dir, id)?;
    let mut piece = Vec::new();
    let (mut at, end, mut line) = (from, from.saturating_add(bytes), 0);
    while at < end {
        piece.resize((end - at).min(PIECE_BYTES) as usize, 0);
        text.read_exact_at(&mut piece, at)?;
        at += piece.len() as u64;
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            line += part.len() as u64;
            if part.ends_with(b"\n") || at == end {
                note_longest(longest, line);
                line = 0;
            }
        }
    }
    Ok(())
}

/// The list is kept with the shortest first.
fn note_longest(longest: &mut [u64; GROUPS], line: u64) {
    if line > longest[0] {
        longest[0] = line;
        longest.sort_unstable();
    }
}
