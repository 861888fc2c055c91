//! One service's log, read from front to back.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use super::{FollowReport, Followed, Gone, LogPosition};
use crate::error::{Error, ErrorKind};
use crate::index::{IndexEntry, read_index};
use crate::line::parse_line;
use crate::name::{SegmentId, list_segments};
use crate::query::Hit;
use crate::sealed::SegmentText;
use crate::told::Told;
use crate::unfold::{LastLine, Repeat};

/// Text is read in pieces of this size, smaller ones where there are many services.
pub(super) const CHUNK_BYTES: Range<usize> = 256..64 << 10;
/// So much text without a line end counts as one damaged line.
const LINE_BYTES_MAX: usize = 256 << 20;

/// One service's log, read from front to back.
pub(super) struct Track {
    pub(super) service: String,
    dir: PathBuf,
    /// Start of the text in `buffer`; `None` until the service has a log.
    pub(super) position: Option<LogPosition>,
    /// Where the segment before it was left.
    came_from: Option<LogPosition>,
    pub(super) limit: Option<LogPosition>,
    /// Segments ever opened, up to the one of the limit.
    pub(super) segments_ever: u64,
    /// Of these, the number of the one at `position`, from 1, if it was seen there.
    ordinal: Option<u64>,
    /// The segment that is being read, in the form it had when it was opened.
    text: Option<(SegmentId, SegmentText)>,
    pub(super) chunk_bytes: usize,
    /// Text from `position` on: `buffer[taken..]`.
    pub(super) buffer: Vec<u8>,
    taken: usize,
    /// Bytes of `buffer[taken..]` that hold no line end.
    searched: usize,
    /// Length of the line that `next` has found.
    line_bytes: usize,
    /// The times of the lines so far, so that a line is never merged in front of the one before it.
    time_ns: u64,
    /// Segments from `position` on that have been seen in the directory, and their lengths then.
    seen: BTreeMap<SegmentId, Seen>,
    seen_at: Option<SegmentId>,
    /// A segment and the one that was opened next: seen side by side in the directory.
    successor: Option<(SegmentId, SegmentId)>,
    /// Found missing, not yet told.
    pub(super) gone: Option<Gone>,
    /// Nothing was read yet.
    is_new: bool,
    /// `repeat` lines are given as the records that they count.
    pub(super) unfolds: bool,
    last_line: LastLine,
    /// The `repeat` line at `position`, some of whose records may have been given.
    repeat: Option<Repeat>,
}

/// A segment as it was when the directory was looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    length_bytes: u64,
    /// It does not grow any more.
    is_sealed: bool,
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
    pub(super) fn new(service: &str, dir: PathBuf, position: Option<LogPosition>) -> Self {
        Track {
            service: service.to_owned(),
            dir,
            is_new: true,
            position,
            limit: None,
            segments_ever: 0,
            ordinal: None,
            text: None,
            came_from: None,
            chunk_bytes: CHUNK_BYTES.end,
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            line_bytes: 0,
            time_ns: 0,
            seen: BTreeMap::new(),
            seen_at: None,
            successor: None,
            gone: None,
            unfolds: false,
            last_line: LastLine::default(),
            repeat: None,
        }
    }

    /// The time under which the next item is merged; `None` when everything up to the limit is read.
    pub(super) fn next(
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
                        self.unfold(line_bytes)?;
                        return Ok(Some(self.time_ns));
                    }
                    outcome => {
                        report.damaged_lines += u64::from(outcome.is_err());
                        // Earlier than what is wanted, or damaged: what stands in front of a `repeat` line is
                        // looked for then.
                        self.last_line.forget();
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
                    self.text = None;
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
    pub(super) fn take(
        &mut self,
        key: u64,
        visit: &mut dyn FnMut(Followed<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if let Some(gone) = self.gone.take() {
            self.last_line.forget();
            return visit(Followed::Gone(gone));
        }
        let (Some(at), range) = (self.position, self.taken..self.taken + self.line_bytes) else {
            return ControlFlow::Continue(());
        };
        let repeated_ns = self.take_repeat();
        if repeated_ns.is_none() {
            self.skip(self.line_bytes);
        }
        let Some(next) = self.position else {
            return ControlFlow::Continue(());
        };
        let line = match repeated_ns {
            Some(time_ns) => self.last_line.at(time_ns),
            None => &self.buffer[range],
        };
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

    /// Looks whether the line that was found is a `repeat` line, and what it repeats.
    fn unfold(&mut self, line_bytes: usize) -> Result<(), Error> {
        let (Some(position), true) = (self.position, self.unfolds && self.repeat.is_none()) else {
            return Ok(());
        };
        let line = &self.buffer[self.taken..self.taken + line_bytes];
        let Ok(parsed) = parse_line(line) else {
            return Ok(());
        };
        if parsed.source != Told::SOURCE {
            self.last_line.remember(line, position);
            return Ok(());
        }
        // All of its records may have been given, where the cursor was made of another text.
        if let Some(repeat) = Repeat::read(parsed.level, parsed.source, parsed.message)
            && position.records < repeat.count
        {
            let is_in_front = self.last_line.is_in_front_of(position);
            let last_line = &mut self.last_line;
            let is_found = last_line.find(&repeat, is_in_front, &self.dir, position)?;
            self.repeat = is_found.then_some(repeat);
        }
        self.last_line.pass(line_bytes, position);
        Ok(())
    }

    /// Takes the next record of a `repeat` line, behind the last one the line. Its time.
    fn take_repeat(&mut self) -> Option<u64> {
        let (repeat, position) = (self.repeat.as_ref()?, self.position.as_mut()?);
        let time_ns = repeat.time_ns(position.records);
        position.records += 1;
        if position.records >= repeat.count {
            self.repeat = None;
            self.skip(self.line_bytes);
        }
        Some(time_ns)
    }

    fn skip(&mut self, bytes: usize) {
        self.taken += bytes;
        self.searched = 0;
        if let Some(position) = &mut self.position {
            position.offset += bytes as u64;
            position.records = 0;
        }
    }

    pub(super) fn move_to(&mut self, position: LogPosition) {
        self.position = Some(position);
        self.repeat = None;
        self.buffer.clear();
        (self.taken, self.searched) = (0, 0);
        self.seen = self.seen.split_off(&position.segment_id);
        if self
            .text
            .as_ref()
            .is_some_and(|(id, _)| *id != position.segment_id)
        {
            self.text = None;
        }
    }

    /// Forgets what it has open.
    #[cfg(test)]
    pub(super) fn close(&mut self) {
        self.text = None;
    }

    /// Of so many services that memory is short; few of them have something to read at a time.
    fn is_one_of_many(&self) -> bool {
        self.chunk_bytes < CHUNK_BYTES.end
    }

    /// Nothing to read for now: keeps little memory.
    fn rest(&mut self) {
        self.buffer.clear();
        (self.taken, self.searched) = (0, 0);
        if self.is_one_of_many() {
            self.buffer = Vec::new();
        } else {
            self.buffer.shrink_to(self.chunk_bytes);
        }
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
            Some(text) => match text.length_bytes() {
                Ok(length_bytes) => Ok(length_bytes),
                Err(error) => Err(self.failed(position.segment_id, error)),
            },
            None => {
                self.note_gone(position, limit)?;
                Ok(0)
            }
        }
    }

    fn failed(&self, id: SegmentId, error: io::Error) -> Error {
        let path = match &self.text {
            Some((open, text)) if *open == id => text.path().to_owned(),
            _ => id.log_path(&self.dir),
        };
        Error::io("read", &path, error)
    }

    fn open(&mut self, id: SegmentId) -> Result<Option<&SegmentText>, Error> {
        if self.text.as_ref().is_none_or(|(open, _)| *open != id) {
            self.text = match SegmentText::open(&self.dir, id) {
                Ok(text) => Some((id, text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.failed(id, error)),
            };
        }
        Ok(self.text.as_ref().map(|(_, text)| text))
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
        let outcome = match &self.text {
            Some((_, text)) => text.read_exact_at(&mut self.buffer[kept..], from),
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
        let segments = self.segments(limit)?;
        if let Some(at) = from
            && let Ok(number) = segments.binary_search(&at)
        {
            let next = segments.get(number + 1);
            self.successor = next.map(|&next| (at, next)).or(self.successor);
        }
        if self.is_one_of_many() && from == Some(limit.segment_id) {
            // At the end of the log, as most of them are.
            self.seen = BTreeMap::new();
            self.seen_at = Some(limit.segment_id);
            return Ok(());
        }
        for id in segments {
            let is_final = self.seen.get(&id).is_some_and(|seen| seen.is_sealed);
            if Some(id) >= from
                && !is_final
                && let Ok(text) = SegmentText::open(&self.dir, id)
                && let Ok(length_bytes) = text.length_bytes()
            {
                let is_sealed = text.is_sealed();
                let seen = Seen {
                    length_bytes,
                    is_sealed,
                };
                self.seen.insert(id, seen);
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
        // Retention takes the oldest first: while this one is there, so are all behind it.
        let is_next = segments.contains(&position.segment_id)
            || self.successor == Some((position.segment_id, next));
        self.gone = self.missing(position, was_read, next, ordinal, is_next);
        self.came_from = was_read.then_some(position);
        self.move_to(LogPosition {
            segment_id: next,
            offset: 0,
            records: 0,
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
        is_next: bool,
    ) -> Option<Gone> {
        let unread = u64::from(!was_read);
        let between = match self.ordinal {
            Some(ordinal) => next_ordinal.saturating_sub(ordinal + 1),
            None => 0,
        };
        let (mut seen_between, mut bytes_min) = (0, 0);
        for (&id, seen) in self.seen.range(from.segment_id..next) {
            if id != from.segment_id {
                seen_between += 1;
                bytes_min += seen.length_bytes;
            } else if !was_read {
                bytes_min += seen.length_bytes.saturating_sub(from.offset);
            }
        }
        let segments_min = between.max(seen_between) + unread;
        // Without a count of the segments, some may have come and gone unseen.
        let is_unsure = self.segments_ever == 0 && !is_next;
        (segments_min > 0 || is_unsure).then(|| Gone {
            service: self.service.clone(),
            from,
            to: LogPosition {
                segment_id: next,
                offset: 0,
                records: 0,
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
            self.go_back(limit);
            return Ok(self.position);
        }
        let segments = self.segments(limit)?;
        if let Some(position) = &mut self.position {
            if position.segment_id == limit.segment_id {
                // A power cut took the end of the log, and the cursor was made before it.
                *position = limit.min(*position);
            }
        } else {
            let position = match segments.first() {
                None => LogPosition {
                    segment_id: limit.segment_id,
                    offset: 0,
                    records: 0,
                },
                Some(&first) if since_ns == 0 => LogPosition {
                    segment_id: first,
                    offset: 0,
                    records: 0,
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

    /// A segment that was begun and never committed goes with the daemon that was killed; the next one goes on with
    /// the segment before it. A limit that knows what is committed never shows such a segment.
    fn go_back(&mut self, limit: LogPosition) {
        let is_undone = self
            .position
            .is_some_and(|position| position.segment_id > limit.segment_id);
        if is_undone
            && let Some(came_from) = self.came_from
            && came_from.segment_id == limit.segment_id
        {
            self.move_to(came_from);
        }
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
            let is_before = |entry: &IndexEntry| entry.time_max_ns() < since_ns;
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
        let wanted = |entry: &IndexEntry| entry.time_max_ns() >= since_ns;
        let offset = match index.entries.iter().find(|&entry| wanted(entry)) {
            Some(entry) => entry.offset(),
            None => index.covered_bytes(),
        };
        Ok(LogPosition {
            segment_id,
            offset,
            records: 0,
        })
    }
}
