//! Following the log: its lines in order, from any point on, up to what is committed.
//!
//! The log *is* the outbox of a persisted rule: up to the committed length its text never changes, so there
//! is no seam between what was written long ago and what was written just now. A follower reads positions
//! that somebody else knows to be committed, and nothing beyond them.
//!
//! # Across rotations
//! A segment with a smaller id than the committed one is closed: all of its file is text. The next one is the
//! next id in the directory. While a segment is being read its file stays open, so that retention may
//! remove its name meanwhile. What is gone before it was read is reported, and reading goes on with the
//! oldest segment that is there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::index::read_index;
use crate::line::parse_line;
use crate::name::{SegmentId, check_service_name, list_segments};
use crate::query::Hit;

/// Text is read in pieces of this size, smaller ones where there are many services.
const CHUNK_BYTES: Range<usize> = 8 << 10..64 << 10;
/// The pieces of all services together.
const CHUNKS_BYTES: usize = 8 << 20;
/// Up to so many services keep the file open that they read.
const OPEN_FILES_MAX: usize = 64;
/// So much text without a line end counts as one damaged line.
const LINE_BYTES_MAX: usize = 256 << 20;

/// A point in the log of one service.
///
/// ```
/// use millpond_logfile::{LogPosition, SegmentId};
/// let position: LogPosition = "20261121T012953.000000000Z+4096".parse()?;
/// assert_eq!(position.offset, 4096);
/// assert!(position > LogPosition { segment_id: position.segment_id, offset: 17 });
/// # Ok::<(), millpond_logfile::CursorError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// The segment.
    pub segment_id: SegmentId,
    /// Bytes from its start; the start of a line.
    pub offset: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.segment_id, self.offset)
    }
}

impl std::str::FromStr for LogPosition {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let (segment, offset) = text.split_once('+')?;
            Some(LogPosition {
                segment_id: segment.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        parse().ok_or_else(|| CursorError::new(text))
    }
}

/// How far a service's log is committed, as whoever keeps the commit point knows it.
///
/// ```
/// let end = millpond_logfile::CommittedEnd { segment_id: 7, length_bytes: 45, segments: 1 };
/// assert_eq!(end.position().offset, 45);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedEnd {
    /// Id of the open segment, in ns.
    pub segment_id: u64,
    /// Bytes of it that are committed.
    pub length_bytes: u64,
    /// Segments that were ever opened, this one included: tells how many are gone.
    pub segments: u64,
}

impl CommittedEnd {
    /// The end as a point in the log.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            segment_id: SegmentId::from_ns(self.segment_id),
            offset: self.length_bytes,
        }
    }
}

/// How far each of several services has been read. It survives rotation, a restart and a reboot; as text it is
/// one word without spaces.
///
/// ```
/// use millpond_logfile::Cursor;
/// let cursor: Cursor = "c1:0,web=20261121T012953.000000000Z+4096".parse()?;
/// assert_eq!(cursor.positions["web"].offset, 4096);
/// assert_eq!(cursor.to_string().parse(), Ok(cursor));
/// # Ok::<(), millpond_logfile::CursorError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Lines before this time are not wanted, in nanoseconds since 1970: a service without a position
    /// starts here.
    pub since_ns: u64,
    /// Where to go on, by service.
    pub positions: BTreeMap<String, LogPosition>,
}

const CURSOR_VERSION: &str = "c1:";

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CURSOR_VERSION}{}", self.since_ns)?;
        self.positions
            .iter()
            .try_for_each(|(service, position)| write!(f, ",{service}={position}"))
    }
}

impl std::str::FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let mut parts = text.strip_prefix(CURSOR_VERSION)?.split(',');
            let since_ns = parts.next()?.parse().ok()?;
            let mut positions = BTreeMap::new();
            for part in parts {
                let (service, position) = part.split_once('=')?;
                check_service_name(service).ok()?;
                positions.insert(service.to_owned(), position.parse().ok()?);
            }
            Some(Cursor {
                since_ns,
                positions,
            })
        };
        parse().ok_or_else(|| CursorError::new(text))
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorError {
    text: String,
}

impl CursorError {
    fn new(text: &str) -> Self {
        CursorError {
            text: text.chars().take(80).collect(),
        }
    }
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no log cursor: they look like c1:0,web=20261121T012953.123456789Z+4096",
            self.text
        )
    }
}

impl std::error::Error for CursorError {}

/// Text that retention removed before it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The service.
    pub service: String,
    /// Where reading stood.
    pub from: LogPosition,
    /// Where it goes on.
    pub to: LogPosition,
    /// Segments that are gone. It may be more where reading began with a cursor into one of them. The first of
    /// them may have been read in part.
    pub segments_min: u64,
    /// Bytes of text in them behind `from`, as far as that was ever seen: it may be more.
    pub bytes_min: u64,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "service {}: retention removed at least {} segments with {} unread bytes between {} and {}",
            self.service, self.segments_min, self.bytes_min, self.from, self.to
        )
    }
}

/// What a follower comes across.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed<'a> {
    /// A line.
    Line {
        /// The line and where it stands.
        hit: Hit<'a>,
        /// Where the next one starts.
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
    tracks: Vec<Track>,
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
            tracks: Vec::new(),
        }
    }

    /// Follows this service too; nothing new for one that is followed already. Its directory need not exist.
    pub fn add_service(&mut self, service: &str) {
        if self.tracks.iter().any(|track| track.service == service) {
            return;
        }
        let position = self.starts.remove(service);
        let dir = self.logs_dir.join(service);
        self.tracks.push(Track::new(service, dir, position));
        let share = CHUNKS_BYTES / self.tracks.len();
        let chunk_bytes = share.clamp(CHUNK_BYTES.start, CHUNK_BYTES.end);
        for track in &mut self.tracks {
            track.chunk_bytes = chunk_bytes;
        }
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
        for (index, track) in self.tracks.iter_mut().enumerate() {
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

/// One service's log, read from front to back.
struct Track {
    service: String,
    dir: PathBuf,
    /// Start of the text in `buffer`; `None` until the service has a log.
    position: Option<LogPosition>,
    limit: Option<LogPosition>,
    /// Segments ever opened, up to the one of the limit.
    segments_ever: u64,
    /// Of these, the number of the one at `position`, from 1, if it was seen there.
    ordinal: Option<u64>,
    file: Option<(SegmentId, File)>,
    chunk_bytes: usize,
    /// Text from `position` on: `buffer[taken..]`.
    buffer: Vec<u8>,
    taken: usize,
    /// Bytes of `buffer[taken..]` that hold no line end.
    searched: usize,
    /// Length of the line that `next` has found.
    line_bytes: usize,
    /// The times of the lines so far, so that a line is never merged in front of the one before it.
    time_ns: u64,
    /// Segments from `position` on that have been seen in the directory, and their lengths then.
    seen: BTreeMap<SegmentId, u64>,
    seen_at: Option<SegmentId>,
    /// Found missing, not yet told.
    gone: Option<Gone>,
    /// Nothing was read yet.
    is_new: bool,
}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Track")
            .field("service", &self.service)
            .field("position", &self.position)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Track {
    fn new(service: &str, dir: PathBuf, position: Option<LogPosition>) -> Self {
        Track {
            service: service.to_owned(),
            dir,
            is_new: true,
            position,
            limit: None,
            segments_ever: 0,
            ordinal: None,
            file: None,
            chunk_bytes: CHUNK_BYTES.end,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            line_bytes: 0,
            time_ns: 0,
            seen: BTreeMap::new(),
            seen_at: None,
            gone: None,
        }
    }

    /// The time under which the next item is merged; `None` when everything up to the limit is read.
    fn next(
        &mut self,
        since_ns: u64,
        keep_open: bool,
        report: &mut FollowReport,
    ) -> Result<Option<u64>, Error> {
        let Some(limit) = self.limit else {
            return Ok(None);
        };
        self.survey(limit)?;
        loop {
            if self.gone.is_some() {
                return Ok(Some(self.time_ns));
            }
            let Some(position) = self.start(since_ns, limit)? else {
                return Ok(None);
            };
            if let Some(line_bytes) = self.find_line() {
                let line = &self.buffer[self.taken..self.taken + line_bytes];
                match parse_line(line) {
                    Ok(parsed) if parsed.time_ns >= since_ns => {
                        self.line_bytes = line_bytes;
                        self.time_ns = self.time_ns.max(parsed.time_ns);
                        return Ok(Some(self.time_ns));
                    }
                    outcome => {
                        report.damaged_lines += u64::from(outcome.is_err());
                        self.skip(line_bytes);
                    }
                }
                continue;
            }
            let buffered = (self.buffer.len() - self.taken) as u64;
            let end = self.end(position, limit)?;
            if self.gone.is_some() {
                continue;
            }
            if position.offset + buffered < end {
                self.fill(end)?;
                if !keep_open {
                    self.file = None;
                }
                continue;
            }
            if position.segment_id >= limit.segment_id {
                self.rest();
                return Ok(None);
            }
            // The segment is closed: what is left has no line end, and never will.
            report.damaged_lines += u64::from(buffered > 0);
            self.advance(limit)?;
        }
    }

    /// Hands over what `next` has found.
    fn take(
        &mut self,
        key: u64,
        visit: &mut dyn FnMut(Followed<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(gone) = self.gone.take() {
            return visit(Followed::Gone(gone));
        }
        let (Some(at), range) = (self.position, self.taken..self.taken + self.line_bytes) else {
            return ControlFlow::Continue(());
        };
        self.skip(self.line_bytes);
        let Some(next) = self.position else {
            return ControlFlow::Continue(());
        };
        let line = &self.buffer[range];
        match parse_line(line) {
            Ok(parsed) => visit(Followed::Line {
                hit: Hit {
                    service: &self.service,
                    segment_id: at.segment_id,
                    offset: at.offset,
                    time_ns: parsed.time_ns,
                    level: parsed.level,
                    source: parsed.source,
                    message: parsed.message,
                    line,
                },
                next,
            }),
            // `next` has parsed it under this key.
            Err(error) => {
                debug_assert!(false, "a line at {at} with key {key}: {error}");
                ControlFlow::Continue(())
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.taken += bytes;
        self.searched = 0;
        if let Some(position) = &mut self.position {
            position.offset += bytes as u64;
        }
    }

    fn move_to(&mut self, position: LogPosition) {
        self.position = Some(position);
        self.buffer.clear();
        (self.taken, self.searched) = (0, 0);
        self.seen = self.seen.split_off(&position.segment_id);
        if self
            .file
            .as_ref()
            .is_some_and(|(id, _)| *id != position.segment_id)
        {
            self.file = None;
        }
    }

    /// Nothing to read for now: keeps little memory.
    fn rest(&mut self) {
        self.buffer.clear();
        (self.taken, self.searched) = (0, 0);
        self.buffer.shrink_to(self.chunk_bytes);
    }

    /// Length of the next line, its end included, as far as it is buffered.
    fn find_line(&mut self) -> Option<usize> {
        let text = &self.buffer[self.taken..];
        match memchr::memchr(b'\n', &text[self.searched..]) {
            Some(at) => Some(self.searched + at + 1),
            None if text.len() >= LINE_BYTES_MAX => Some(text.len()),
            None => {
                self.searched = text.len();
                None
            }
        }
    }

    /// How far the segment may be read. Notes it as gone if it is.
    fn end(&mut self, position: LogPosition, limit: LogPosition) -> Result<u64, Error> {
        if position.segment_id == limit.segment_id {
            return Ok(limit.offset);
        }
        if position.segment_id > limit.segment_id {
            return Ok(0);
        }
        match self.open(position.segment_id)? {
            Some(file) => match file.metadata() {
                Ok(metadata) => Ok(metadata.len()),
                Err(error) => Err(self.failed(position.segment_id, error)),
            },
            None => {
                self.note_gone(position, limit)?;
                Ok(0)
            }
        }
    }

    fn failed(&self, id: SegmentId, error: io::Error) -> Error {
        Error::io("read", &id.log_path(&self.dir), error)
    }

    fn open(&mut self, id: SegmentId) -> Result<Option<&File>, Error> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != id) {
            self.file = match File::open(id.log_path(&self.dir)) {
                Ok(file) => Some((id, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.failed(id, error)),
            };
        }
        Ok(self.file.as_ref().map(|(_, file)| file))
    }

    /// Reads on behind what is buffered, not beyond `end`.
    fn fill(&mut self, end: u64) -> Result<(), Error> {
        let Some(position) = self.position else {
            return Ok(());
        };
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let from = position.offset + self.buffer.len() as u64;
        // A long line doubles its buffer, so that it is not copied again and again.
        let wanted = self.chunk_bytes.max(self.buffer.len()) as u64;
        let count = wanted.min(end - from) as usize;
        if self.open(position.segment_id)?.is_none() {
            // The open segment was removed: what it held is gone once there is a next one.
            let limit = self.limit.unwrap_or(position);
            return self.note_gone(position, limit);
        }
        let kept = self.buffer.len();
        self.buffer.resize(kept + count, 0);
        let outcome = match &self.file {
            Some((_, file)) => file.read_exact_at(&mut self.buffer[kept..], from),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        outcome.map_err(|error| {
            self.buffer.truncate(kept);
            self.failed(position.segment_id, error)
        })
    }

    /// Looks at the directory whenever the committed segment is another one, so that a loss can be told.
    fn survey(&mut self, limit: LogPosition) -> Result<(), Error> {
        if self.seen_at == Some(limit.segment_id) {
            return Ok(());
        }
        let from = self.position.map(|position| position.segment_id);
        for id in self.segments(limit)? {
            if Some(id) >= from
                && let Ok(metadata) = fs::metadata(id.log_path(&self.dir))
            {
                self.seen.insert(id, metadata.len());
            }
        }
        self.seen_at = Some(limit.segment_id);
        Ok(())
    }

    /// The segments that are there and hold committed text, oldest first.
    fn segments(&self, limit: LogPosition) -> Result<Vec<SegmentId>, Error> {
        match list_segments(&self.dir) {
            Ok(mut segments) => {
                segments.retain(|&id| id <= limit.segment_id);
                Ok(segments)
            }
            // Committed, and nothing written yet.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// On to the next segment that is there.
    fn advance(&mut self, limit: LogPosition) -> Result<(), Error> {
        let Some(position) = self.position else {
            return Ok(());
        };
        self.go_to_next(position, true, limit)
    }

    /// Goes on behind the segment at `position`, which was read or is gone.
    fn go_to_next(
        &mut self,
        position: LogPosition,
        was_read: bool,
        limit: LogPosition,
    ) -> Result<(), Error> {
        let segments = self.segments(limit)?;
        let at = segments.partition_point(|&id| id <= position.segment_id);
        // The committed one need not have a file yet.
        let next = segments.get(at).copied().unwrap_or(limit.segment_id);
        let ordinal = self.ordinal_at(&segments, next, limit);
        self.gone = self.missing(position, was_read, next, ordinal);
        self.move_to(LogPosition {
            segment_id: next,
            offset: 0,
        });
        self.ordinal = Some(ordinal);
        Ok(())
    }

    /// The number of segment `id`. Retention takes the oldest, so all behind it are there.
    fn ordinal_at(&self, segments: &[SegmentId], id: SegmentId, limit: LogPosition) -> u64 {
        let behind = segments
            .iter()
            .filter(|&&other| other > id && other < limit.segment_id)
            .count() as u64;
        let is_last = u64::from(id == limit.segment_id);
        (self.segments_ever + is_last).saturating_sub(behind + 1)
    }

    /// The segment at `position` is not there.
    fn note_gone(&mut self, position: LogPosition, limit: LogPosition) -> Result<(), Error> {
        if position.segment_id >= limit.segment_id {
            // Nothing to go on with yet. The limit will grow into another segment.
            self.limit = None;
            return Ok(());
        }
        self.go_to_next(position, false, limit)
    }

    /// What is gone between `from` and segment `next`, the one at `from` included unless it was read.
    fn missing(
        &self,
        from: LogPosition,
        was_read: bool,
        next: SegmentId,
        next_ordinal: u64,
    ) -> Option<Gone> {
        let unread = u64::from(!was_read);
        let between = match self.ordinal {
            Some(ordinal) => next_ordinal.saturating_sub(ordinal + 1),
            None => 0,
        };
        let segments_min = between + unread;
        let mut bytes_min = 0;
        for (&id, &length) in self.seen.range(from.segment_id..next) {
            if id != from.segment_id {
                bytes_min += length;
            } else if !was_read {
                bytes_min += length.saturating_sub(from.offset);
            }
        }
        (segments_min > 0).then(|| Gone {
            service: self.service.clone(),
            from,
            to: LogPosition {
                segment_id: next,
                offset: 0,
            },
            segments_min,
            bytes_min,
        })
    }

    /// Where to read: for a service that is new here, the first block that may hold a line of `since_ns` or
    /// later.
    fn start(&mut self, since_ns: u64, limit: LogPosition) -> Result<Option<LogPosition>, Error> {
        if self.limit.is_none() {
            return Ok(None);
        }
        if !self.is_new {
            return Ok(self.position);
        }
        let segments = self.segments(limit)?;
        if let Some(position) = &mut self.position {
            if position.segment_id == limit.segment_id {
                // A power cut took the end of the log, and the cursor was made before it.
                position.offset = position.offset.min(limit.offset);
            }
        } else {
            let position = match segments.first() {
                None => LogPosition {
                    segment_id: limit.segment_id,
                    offset: 0,
                },
                Some(&first) if since_ns == 0 => LogPosition {
                    segment_id: first,
                    offset: 0,
                },
                Some(_) => self.find_time(&segments, since_ns, limit)?,
            };
            self.move_to(position);
        }
        if let Some(position) = self.position {
            let id = position.segment_id;
            let is_there = segments.contains(&id) || id == limit.segment_id;
            self.ordinal = is_there.then(|| self.ordinal_at(&segments, id, limit));
        }
        self.is_new = false;
        Ok(self.position)
    }

    fn find_time(
        &self,
        segments: &[SegmentId],
        since_ns: u64,
        limit: LogPosition,
    ) -> Result<LogPosition, Error> {
        // Segments opened at or before that time; what the last of them holds may be later.
        let opened = segments.partition_point(|id| id.as_ns() <= since_ns);
        let mut at = opened.saturating_sub(1);
        // A stamp is taken before its record is drained, and a clock may have been ahead: look back.
        while at > 0 {
            let index = read_index(
                &segments[at - 1].index_path(&self.dir),
                Some(segments[at - 1]),
            )?;
            let is_before = |entry: &crate::IndexEntry| entry.time_max_ns() < since_ns;
            if index.closed && index.entries.iter().all(is_before) {
                break;
            }
            at -= 1;
        }
        let segment_id = segments[at];
        let mut index = read_index(&segment_id.index_path(&self.dir), Some(segment_id))?;
        if segment_id == limit.segment_id {
            index.cut(limit.offset);
        }
        let wanted = |entry: &crate::IndexEntry| entry.time_max_ns() >= since_ns;
        let offset = match index.entries.iter().find(|&entry| wanted(entry)) {
            Some(entry) => entry.offset(),
            None => index.covered_bytes(),
        };
        Ok(LogPosition { segment_id, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockWriter, Level, Source, rebuild_index};

    /// A log directory whose lines are numbers, in the order of their times.
    struct Log {
        logs: tempfile::TempDir,
    }

    /// As if every segment that ever was had a number of its own from 1 on.
    fn end((segment_id, length_bytes): (u64, u64)) -> CommittedEnd {
        CommittedEnd {
            segment_id,
            length_bytes,
            segments: segment_id,
        }
    }

    fn at(segment: u64, offset: u64) -> LogPosition {
        LogPosition {
            segment_id: SegmentId::from_ns(segment),
            offset,
        }
    }

    impl Log {
        fn new() -> Self {
            Log {
                logs: tempfile::tempdir().expect("a directory"),
            }
        }

        fn dir(&self, service: &str) -> PathBuf {
            self.logs.path().join(service)
        }

        /// Appends a line per number, which is its time too; returns the length of the segment then.
        fn append(&self, service: &str, segment: u64, numbers: Range<u64>) -> u64 {
            let dir = self.dir(service);
            fs::create_dir_all(&dir).expect("a service");
            let path = SegmentId::from_ns(segment).log_path(&dir);
            let mut text = fs::read(&path).unwrap_or_default();
            let mut block = BlockWriter::new();
            let mut new = Vec::new();
            for number in numbers {
                let message = number.to_string();
                let source = Source::new("s");
                block.append(&mut new, number, Level::Info, &source, message.as_bytes());
            }
            text.extend_from_slice(&new);
            fs::write(&path, &text).expect("a segment");
            text.len() as u64
        }

        fn index(&self, service: &str, segment: u64) {
            let id = SegmentId::from_ns(segment);
            rebuild_index(&self.dir(service), id, false).expect("an index");
        }

        fn remove(&self, service: &str, segment: u64) {
            let path = SegmentId::from_ns(segment).log_path(&self.dir(service));
            fs::remove_file(path).expect("a segment");
        }

        fn follower(&self, cursor: Cursor, services: &[&str]) -> Follower {
            let mut follower = Follower::new(self.logs.path(), cursor);
            services
                .iter()
                .for_each(|service| follower.add_service(service));
            follower
        }
    }

    /// Everything up to `limit`, at most `most` items at a call.
    fn read_by(follower: &mut Follower, limit: (u64, u64), most: usize) -> (Vec<u64>, Vec<Gone>) {
        let (mut numbers, mut losses) = (Vec::new(), Vec::new());
        loop {
            let mut left = most;
            let report = follower
                .read(&|_| Some(end(limit)), &mut |found| {
                    match found {
                        Followed::Line { hit, .. } => {
                            let text = std::str::from_utf8(hit.message).expect("a number");
                            numbers.push(text.parse().expect("a number"));
                        }
                        Followed::Gone(gone) => losses.push(gone),
                    }
                    left -= 1;
                    match left {
                        0 => ControlFlow::Break(()),
                        _ => ControlFlow::Continue(()),
                    }
                })
                .expect("readable");
            assert_eq!(report.damaged_lines, 0);
            if report.caught_up {
                return (numbers, losses);
            }
        }
    }

    fn read(follower: &mut Follower, limit: (u64, u64)) -> (Vec<u64>, Vec<Gone>) {
        read_by(follower, limit, usize::MAX)
    }

    fn numbers(range: Range<u64>) -> (Vec<u64>, Vec<Gone>) {
        (range.collect(), Vec::new())
    }

    #[test]
    fn what_is_not_committed_is_not_read() {
        let log = Log::new();
        let committed = log.append("web", 1, 10..20);
        log.append("web", 1, 20..30);
        log.append("web", 2, 30..40);
        let mut follower = log.follower(Cursor::default(), &["web"]);
        let nothing = follower.read(&|_| None, &mut |_| unreachable!());
        assert!(nothing.expect("readable").caught_up);
        assert_eq!(read(&mut follower, (1, committed)), numbers(10..20));
        assert_eq!(read(&mut follower, (1, committed)), numbers(0..0));
        assert_eq!(follower.cursor().positions["web"], at(1, committed));
    }

    #[test]
    fn rotations_leave_no_seam_wherever_reading_breaks_off() {
        for most in [1, 2, 7, usize::MAX] {
            let log = Log::new();
            let mut follower = log.follower(Cursor::default(), &["web"]);
            let first = log.append("web", 1, 10..2010);
            assert_eq!(read_by(&mut follower, (1, first), most), numbers(10..2010));
            log.append("web", 1, 2010..2020);
            log.append("web", 2, 2020..2021);
            // Committed, but its file is not there yet.
            assert_eq!(read_by(&mut follower, (3, 0), most), numbers(2010..2021));
            let last = log.append("web", 3, 2021..2030);
            assert_eq!(read_by(&mut follower, (3, last), most), numbers(2021..2030));
        }
    }

    #[test]
    fn a_cursor_goes_on_behind_the_last_line_that_was_visited() {
        let log = Log::new();
        log.append("web", 1, 10..50);
        let end = log.append("web", 2, 50..90);
        let mut cursor = Cursor::default();
        let mut all = Vec::new();
        while all.len() < 80 {
            let text = cursor.to_string();
            let mut follower = log.follower(text.parse().expect("a cursor"), &["web"]);
            let step = |found: Followed<'_>| {
                if let Followed::Line { hit, .. } = found {
                    all.push(hit.time_ns);
                }
                ControlFlow::Break(())
            };
            let mut step = step;
            follower
                .read(&|_| Some(self::end((2, end))), &mut step)
                .expect("readable");
            cursor = follower.cursor();
        }
        assert_eq!(all, (10..90).collect::<Vec<u64>>());
    }

    #[test]
    fn a_segment_that_is_being_read_may_be_removed() {
        let log = Log::new();
        log.append("web", 1, 0..10_000);
        let end = log.append("web", 2, 10_000..10_010);
        let mut follower = log.follower(Cursor::default(), &["web"]);
        let mut seen = 0;
        let mut few = |_: Followed<'_>| {
            seen += 1;
            match seen {
                10 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        follower
            .read(&|_| Some(self::end((2, end))), &mut few)
            .expect("readable");
        log.remove("web", 1);
        assert_eq!(read(&mut follower, (2, end)), numbers(10..10_010));
    }

    #[test]
    fn what_retention_took_is_told_and_the_rest_is_read() {
        let log = Log::new();
        let first = log.append("web", 1, 10..20);
        let mut follower = log.follower(Cursor::default(), &["web"]);
        assert_eq!(read(&mut follower, (1, first)), numbers(10..20));
        let second = log.append("web", 2, 20..30);
        let third = log.append("web", 3, 30..35);
        let (_, losses) = read_by(
            &mut log.follower(Cursor::default(), &["web"]),
            (3, third),
            1,
        );
        assert_eq!(losses, []);
        // Seen before it went: its bytes are known.
        let seen = follower.read(
            &|_| Some(self::end((3, 0))),
            &mut |_| ControlFlow::Break(()),
        );
        assert!(!seen.expect("readable").caught_up);
        follower.tracks[0].file = None;
        follower.tracks[0].move_to(at(1, first));
        log.remove("web", 1);
        log.remove("web", 2);
        let (read_now, losses) = read(&mut follower, (3, third));
        assert_eq!(read_now, (30..35).collect::<Vec<u64>>());
        let [gone] = losses.as_slice() else {
            panic!("{losses:?}")
        };
        assert_eq!((gone.from, gone.to), (at(1, first), at(3, 0)));
        assert_eq!(gone.bytes_min, second);
        assert!(gone.to_string().contains("web"), "{gone}");
    }

    #[test]
    fn segments_that_came_and_went_unseen_are_counted() {
        let log = Log::new();
        let first = log.append("web", 1, 10..20);
        let mut follower = log.follower(Cursor::default(), &["web"]);
        assert_eq!(read(&mut follower, (1, first)), numbers(10..20));
        log.remove("web", 1);
        log.append("web", 5, 50..60);
        let end = log.append("web", 6, 60..70);
        let (read_now, losses) = read(&mut follower, (6, end));
        assert_eq!(read_now, (50..70).collect::<Vec<u64>>());
        assert_eq!(losses.len(), 1);
        assert_eq!((losses[0].segments_min, losses[0].bytes_min), (3, 0));
    }

    #[test]
    fn a_cursor_into_a_removed_segment_is_told_and_goes_on() {
        let log = Log::new();
        let end = log.append("web", 7, 70..80);
        let cursor = Cursor {
            since_ns: 0,
            positions: BTreeMap::from([("web".to_owned(), at(3, 45))]),
        };
        let mut follower = log.follower(cursor, &["web"]);
        let (read_now, losses) = read(&mut follower, (7, end));
        assert_eq!(read_now, (70..80).collect::<Vec<u64>>());
        assert_eq!(losses.len(), 1);
        assert_eq!((losses[0].from, losses[0].to), (at(3, 45), at(7, 0)));
        assert_eq!((losses[0].segments_min, losses[0].bytes_min), (1, 0));
    }

    #[test]
    fn a_cursor_behind_a_cut_goes_on_at_the_cut() {
        let log = Log::new();
        let cut = log.append("web", 1, 10..20);
        let cursor = Cursor {
            since_ns: 0,
            positions: BTreeMap::from([("web".to_owned(), at(1, cut + 450))]),
        };
        let mut follower = log.follower(cursor, &["web"]);
        assert_eq!(read(&mut follower, (1, cut)), numbers(0..0));
        let end = log.append("web", 1, 20..40);
        assert_eq!(read(&mut follower, (1, end)), numbers(20..40));
    }

    #[test]
    fn a_time_starts_at_its_first_line_with_and_without_indexes() {
        for with_indexes in [false, true] {
            let log = Log::new();
            let mut end = 0;
            for segment in 0..4 {
                let first = 10_000 * segment;
                end = log.append("web", first + 1, first + 1..first + 10_001);
                if with_indexes {
                    log.index("web", first + 1);
                }
            }
            for since_ns in [1, 2, 9_999, 10_000, 10_001, 25_000, 39_999, 40_000] {
                let cursor = Cursor {
                    since_ns,
                    positions: BTreeMap::new(),
                };
                let mut follower = log.follower(cursor, &["web"]);
                let found = read(&mut follower, (30_001, end));
                assert_eq!(found, numbers(since_ns..40_001), "since {since_ns}");
            }
        }
    }

    #[test]
    fn services_are_merged_by_time() {
        let log = Log::new();
        let mut end = 0;
        for number in 0..50 {
            let service = ["web", "db", "api"][number as usize % 3];
            end = log.append(service, 1, number + 100..number + 101).max(end);
        }
        let mut follower = log.follower(Cursor::default(), &["web", "db", "api"]);
        let limit = |service: &str| {
            let path = SegmentId::from_ns(1).log_path(&log.dir(service));
            Some(self::end((1, fs::metadata(path).expect("a segment").len())))
        };
        let mut times = Vec::new();
        follower
            .read(&limit, &mut |found| {
                if let Followed::Line { hit, .. } = found {
                    times.push(hit.time_ns);
                }
                ControlFlow::Continue(())
            })
            .expect("readable");
        assert_eq!(times, (100..150).collect::<Vec<u64>>());
    }

    #[test]
    fn damaged_and_long_lines_stop_nothing() {
        let log = Log::new();
        log.append("web", 1, 10..12);
        let path = SegmentId::from_ns(1).log_path(&log.dir("web"));
        let mut text = fs::read(&path).expect("a segment");
        text.extend_from_slice(
            b"what somebody typed
",
        );
        text.extend_from_slice(&vec![b'x'; 300_000]);
        text.extend_from_slice(
            b"
",
        );
        fs::write(&path, &text).expect("a segment");
        let last = log.append("web", 1, 12..14);
        let mut follower = log.follower(Cursor::default(), &["web"]);
        let mut times = Vec::new();
        let report = follower
            .read(&|_| Some(self::end((1, last))), &mut |found| {
                if let Followed::Line { hit, .. } = found {
                    times.push(hit.time_ns);
                }
                ControlFlow::Continue(())
            })
            .expect("readable");
        assert_eq!(times, [10, 11, 12, 13]);
        assert_eq!(report.damaged_lines, 2);
        assert!(follower.tracks[0].buffer.capacity() <= CHUNK_BYTES.end);
    }

    #[test]
    fn less_text_than_committed_is_an_error_that_names_the_file() {
        let log = Log::new();
        let end = log.append("web", 1, 10..12);
        let mut follower = log.follower(Cursor::default(), &["web"]);
        let outcome = follower.read(&|_| Some(self::end((1, end + 45))), &mut |_| {
            ControlFlow::Continue(())
        });
        let message = outcome.expect_err("too short").to_string();
        assert!(
            message.contains("19700101T000000.000000001Z.log"),
            "{message}"
        );
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in [
            "",
            "c1:",
            "c2:0",
            "c1:0,web",
            "c1:0,../x=1+2",
            "c1:0,web=x+1",
        ] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
