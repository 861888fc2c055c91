//! Following the log: its lines in order, from any point on, up to what is committed.
//!
//! The log *is* the outbox of a persisted rule: up to the committed length its text never changes, so there
//! is no seam between what was written long ago and what was written just now. A follower reads positions
//! that somebody else knows to be committed, and nothing beyond them.
//!
//! # Across rotations
//! A segment with a smaller id than the committed one is closed: all of its file is text. The next one is the
//! next id in the directory. While a segment is being read its file stays open, so that a seal may replace it and
//! retention remove its name meanwhile; a position means the same in both forms. What is gone before it was read is
//! reported, and reading goes on with the oldest segment that is there.

mod cursor;
#[cfg(test)]
mod tests;
mod track;
mod written;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use self::cursor::{CommittedEnd, Cursor, CursorError, LogPosition};
use self::track::{CHUNK_BYTES, Track};
pub use self::written::written_end;
use crate::error::Error;
use crate::query::Hit;

/// The pieces of text of all services together.
const CHUNKS_BYTES: usize = 8 << 20;
/// Up to so many services keep the file open that they read.
const OPEN_FILES_MAX: usize = 64;

/// Text that retention removed before it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The service.
    pub service: String,
    /// Where reading stood.
    pub from: LogPosition,
    /// Where it goes on.
    pub to: LogPosition,
    /// Segments that are gone. It may be more where reading began with a cursor into one of them, and where nobody
    /// counts them (`segments` of [`CommittedEnd`] is 0): 0 then says that some may be gone. The first of them may
    /// have been read in part.
    pub segments_min: u64,
    /// Bytes of text in them behind `from`, as far as that was ever seen: it may be more.
    pub bytes_min: u64,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Gone {
            service,
            from,
            to,
            segments_min,
            bytes_min,
        } = self;
        write!(f, "service {service}: retention ")?;
        match segments_min {
            0 => f.write_str("may have removed segments that nobody saw")?,
            1 => f.write_str("removed at least 1 segment that was not read to the end")?,
            _ => write!(
                f,
                "removed at least {segments_min} segments that were not read to the end"
            )?,
        }
        write!(f, ", between {from} and {to}: ")?;
        match bytes_min {
            0 => f.write_str("an unknown number of lines"),
            _ => write!(f, "{bytes_min} bytes or more, an unknown number of lines"),
        }
    }
}

/// What a follower comes across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed<'a> {
    /// A line.
    Line {
        /// The line and where it stands; of a record that a `repeat` line counts, where that line stands.
        hit: Hit<'a>,
        /// Behind it: where the next one starts, or within a `repeat` line that is unfolded.
        next: LogPosition,
    },
    /// Lines that are there no more.
    Gone(Gone),
}

/// What one [`Follower::read`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FollowReport {
    /// Lines handed to the visitor.
    pub lines: u64,
    /// Lines that are not of the format. They are left out.
    pub damaged_lines: u64,
    /// Everything up to the limit was read: there is no more before the limit grows.
    pub caught_up: bool,
}

/// Reads the logs of several services as one stream, each from a position of its own.
///
/// Lines of a service come in the order of its files, services are merged by time. Takes up to 64 KiB per
/// service, 8 MiB together, and a line. It holds no lock and needs no daemon.
///
/// ```
/// use std::ops::ControlFlow;
/// use millpond_logfile::{CommittedEnd, Cursor, Followed, Follower};
/// # let logs = tempfile::tempdir()?;
/// # std::fs::create_dir(logs.path().join("web"))?;
/// # let id: millpond_logfile::SegmentId = "20261121T012953.000000000Z".parse()?;
/// let text = "2026-11-21T01:29:53.000000001Z INFO  rpc one\n\
///             2026-11-21T01:29:53.000000002Z INFO  rpc two\n";
/// # std::fs::write(id.log_path(&logs.path().join("web")), text)?;
/// let mut follower = Follower::new(logs.path(), Cursor::default());
/// follower.add_service("web");
/// let mut read_to = |length_bytes: u64| {
///     let mut messages = Vec::new();
///     let end = CommittedEnd { segment_id: id.as_ns(), length_bytes, segments: 1 };
///     follower.read(&|_| Some(end), &mut |found| {
///         if let Followed::Line { hit, .. } = found {
///             messages.push(String::from_utf8_lossy(hit.message).into_owned());
///         }
///         ControlFlow::Continue(())
///     })?;
///     Ok::<_, millpond_logfile::Error>(messages)
/// };
/// assert_eq!(read_to(45)?, ["one"]); // one line is committed
/// assert_eq!(read_to(90)?, ["two"]); // and now the other
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Follower {
    logs_dir: PathBuf,
    since_ns: u64,
    /// Where services start that have not been added yet.
    starts: BTreeMap<String, LogPosition>,
    services: BTreeSet<String>,
    tracks: Vec<Track>,
    unfolds: bool,
}

impl Follower {
    /// A follower that goes on where `cursor` stands. A service without a position starts with the first line
    /// whose time is not before the cursor's: the default cursor is the start of everything.
    ///
    /// Touches no file.
    pub fn new(logs_dir: &Path, cursor: Cursor) -> Self {
        Follower {
            logs_dir: logs_dir.to_owned(),
            since_ns: cursor.since_ns,
            starts: cursor.positions,
            services: BTreeSet::new(),
            tracks: Vec::new(),
            unfolds: false,
        }
    }

    /// Gives each record that a `repeat` line counts as a line of its own in its place: the line that repeats, at the
    /// time of the first, and then of the last of these records. A cursor may stand between two of them.
    ///
    /// The `repeat` line itself is given only where the line that it repeats is not there any more. Keeps a copy of
    /// the last line of each service.
    #[must_use]
    pub fn unfold(mut self) -> Self {
        self.unfolds = true;
        for track in &mut self.tracks {
            track.unfolds = true;
        }
        self
    }

    /// Follows this service too; nothing new for one that is followed already. Its directory need not exist.
    pub fn add_service(&mut self, service: &str) {
        if !self.services.insert(service.to_owned()) {
            return;
        }
        let position = self.starts.remove(service);
        let dir = self.logs_dir.join(service);
        let mut track = Track::new(service, dir, position);
        track.unfolds = self.unfolds;
        self.tracks.push(track);
    }

    /// How far each service has been read: behind the last line that was visited.
    pub fn cursor(&self) -> Cursor {
        let mut positions = self.starts.clone();
        for track in &self.tracks {
            if let Some(position) = track.position {
                positions.insert(track.service.clone(), position);
            }
        }
        Cursor {
            since_ns: self.since_ns,
            positions,
        }
    }

    /// Hands the lines up to `limit` to `visit`, until that breaks off; the line it broke off at counts as
    /// read.
    ///
    /// `limit` says for a service how far its log is committed; `None`: nothing is. It is asked once per
    /// service and call, and must never go back.
    ///
    /// # Errors
    /// A directory or file that is there and cannot be read, or holds less text than is committed. What was
    /// visited before is not visited again.
    pub fn read(
        &mut self,
        limit: &dyn Fn(&str) -> Option<CommittedEnd>,
        visit: &mut dyn FnMut(Followed<'_>) -> ControlFlow<()>,
    ) -> Result<FollowReport, Error> {
        let mut report = FollowReport::default();
        let keep_open = self.tracks.len() <= OPEN_FILES_MAX;
        // By time, then by service.
        let mut heads = BinaryHeap::with_capacity(self.tracks.len());
        let share = CHUNKS_BYTES / self.tracks.len().max(1);
        let chunk_bytes = share.clamp(CHUNK_BYTES.start, CHUNK_BYTES.end);
        for (index, track) in self.tracks.iter_mut().enumerate() {
            track.chunk_bytes = chunk_bytes;
            let end = limit(&track.service);
            track.limit = end.as_ref().map(CommittedEnd::position);
            track.segments_ever = end.map_or(0, |end| end.segments);
            if let Some(key) = track.next(self.since_ns, keep_open, &mut report)? {
                heads.push(Reverse((key, index)));
            }
        }
        while let Some(Reverse((key, index))) = heads.pop() {
            let track = &mut self.tracks[index];
            report.lines += u64::from(track.gone.is_none());
            if track.take(key, visit).is_break() {
                return Ok(report);
            }
            if let Some(key) = track.next(self.since_ns, keep_open, &mut report)? {
                heads.push(Reverse((key, index)));
            }
        }
        report.caught_up = true;
        Ok(report)
    }
}
