//! From `repeat` lines back to the records that they count.
//!
//! A `repeat` line stands for its service's last line that an event made. That line may be far in front of it, in
//! another segment, or removed by retention; then nobody can say what it was.

use std::io;
use std::path::Path;

use memchr::memrchr;

use crate::error::Error;
use crate::follow::LogPosition;
use crate::level::Level;
use crate::line::{ParsedLine, parse_line, unescape};
use crate::name::{SegmentId, list_segments};
use crate::sealed::SegmentText;
use crate::time::{TIME_BYTES, format_time};
use crate::told::Told;

/// Looked at at a time on the way back.
const LOOK_BACK_BYTES: u64 = 64 << 10;
/// A source of this length may have been cut: nothing is decided by its name alone.
const CUT_SOURCE_BYTES: usize = 64;
/// A line that repeats is far shorter: the daemon remembers messages of up to 4 KiB, and an escape is four bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// What a `repeat` line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) level: Level,
    pub(crate) source: Vec<u8>,
    pub(crate) count: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
}

impl Repeat {
    /// Whether the line is one, and what it says.
    pub(crate) fn read(level: Level, source: &[u8], message: &[u8]) -> Option<Self> {
        if source != Told::SOURCE {
            return None;
        }
        let mut plain = Vec::with_capacity(message.len());
        unescape(message, &mut plain);
        match Told::parse(&plain)? {
            Told::Repeat {
                source,
                count,
                first_ns,
                last_ns,
            } => Some(Repeat {
                level,
                source: source.to_vec(),
                count,
                first_ns,
                last_ns,
            }),
            Told::Suppressed { .. } => None,
        }
    }

    /// When the record with this number, from 0, was published, as far as the line says: of those between the first
    /// and the last it knows no more than that.
    pub(crate) fn time_ns(&self, number: u64) -> u64 {
        match number {
            0 => self.first_ns,
            _ => self.last_ns,
        }
    }

    /// Whether the source alone tells a line that it repeats from others.
    pub(crate) fn is_source_whole(&self) -> bool {
        self.source.len() < CUT_SOURCE_BYTES
    }

    fn is_of(&self, line: &ParsedLine<'_>) -> bool {
        let is_source = match self.is_source_whole() {
            true => line.source == self.source,
            false => line.source.starts_with(&self.source),
        };
        line.level == self.level && is_source
    }
}

/// The last line of a service that an event made.
#[derive(Debug, Default)]
pub(crate) struct LastLine {
    /// Empty: not known.
    line: Vec<u8>,
    /// Behind it, and behind lines of the daemon that follow it.
    end: Option<(SegmentId, u64)>,
}

impl LastLine {
    /// An event's line.
    #[inline]
    pub(crate) fn remember(&mut self, line: &[u8], at: LogPosition) {
        self.line.clear();
        if line.len() <= LINE_BYTES_MAX {
            self.line.extend_from_slice(line);
        }
        self.end = Some((at.segment_id, at.offset + line.len() as u64));
    }

    /// A line of the daemon.
    pub(crate) fn pass(&mut self, line_bytes: usize, at: LogPosition) {
        if self.is_in_front_of(at) {
            self.end = Some((at.segment_id, at.offset + line_bytes as u64));
        }
    }

    pub(crate) fn is_in_front_of(&self, position: LogPosition) -> bool {
        self.end == Some((position.segment_id, position.offset))
    }

    pub(crate) fn forget(&mut self) {
        self.line.clear();
        self.end = None;
    }

    /// Whether it is the line that repeats. Where nobody says that it stands right in front of the `repeat` line at
    /// `position`, the files are asked what does.
    pub(crate) fn find(
        &mut self,
        repeat: &Repeat,
        is_in_front: bool,
        service_dir: &Path,
        position: LogPosition,
    ) -> Result<bool, Error> {
        if !is_in_front {
            self.line.clear();
            line_before(service_dir, position, &mut self.line)?;
            self.end = Some((position.segment_id, position.offset));
        }
        Ok(self.is_of(repeat))
    }

    fn is_of(&self, repeat: &Repeat) -> bool {
        parse_line(&self.line).is_ok_and(|line| repeat.is_of(&line))
    }

    /// The line as if it had been written at this time.
    pub(crate) fn at(&mut self, time_ns: u64) -> &[u8] {
        if let Some(time) = self.line.get_mut(..TIME_BYTES) {
            time.copy_from_slice(&format_time(time_ns));
        }
        &self.line
    }
}

/// Appends to `found` the last line in front of `position` that an event made, if there is one.
fn line_before(
    service_dir: &Path,
    position: LogPosition,
    found: &mut Vec<u8>,
) -> Result<(), Error> {
    let segments = list_segments(service_dir)?;
    let at = segments.partition_point(|&id| id <= position.segment_id);
    for &id in segments[..at].iter().rev() {
        let text = match SegmentText::open(service_dir, id) {
            Ok(text) => text,
            // Removed meanwhile, and with it all in front of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &id.log_path(service_dir), error)),
        };
        let failed = |error| Error::io("read", text.path(), error);
        let end = match id == position.segment_id {
            true => position.offset,
            false => text.length_bytes().map_err(failed)?,
        };
        if last_line(&text, end, found).map_err(failed)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Looks for it in front of `end`. True: no need to look further.
fn last_line(text: &SegmentText, mut end: u64, found: &mut Vec<u8>) -> io::Result<bool> {
    let mut look_bytes = LOOK_BACK_BYTES;
    let mut buffer = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(look_bytes);
        buffer.resize((end - from) as usize, 0);
        text.read_exact_at(&mut buffer, from)?;
        let mut rest = buffer.as_slice();
        while let Some(body) = rest.strip_suffix(b"\n") {
            let start = match memrchr(b'\n', body) {
                Some(newline) => newline + 1,
                None if from == 0 => 0,
                None => break,
            };
            let line = &rest[start..];
            match parse_line(line) {
                Ok(parsed) if parsed.source == Told::SOURCE => {}
                Ok(_) => {
                    found.extend_from_slice(line);
                    return Ok(true);
                }
                // It may have been the one.
                Err(_) => return Ok(true),
            }
            rest = &rest[..start];
        }
        if rest.len() == buffer.len() {
            // Not one whole line: it is longer than one that repeats, or what is there is no text of lines.
            if buffer.len() > LINE_BYTES_MAX || from == 0 {
                return Ok(true);
            }
            look_bytes *= 2;
        }
        end = from + rest.len() as u64;
    }
    Ok(false)
}

/// Records that a log counts and does not have: what an answer of records leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LeftOut {
    /// Dropped before they came to the log, by `gap` lines.
    pub dropped: u64,
    /// Kept out by a rate limit or sampling, by `suppressed` lines.
    pub suppressed: u64,
    /// Repeats of a line that is not there any more, by `repeat` lines.
    pub repeated: u64,
}

impl LeftOut {
    /// Adds what a line of the source [`Told::SOURCE`] counts; `message` as it stands in the line.
    pub fn add(&mut self, message: &[u8]) {
        let mut words = message.split(|&byte| byte == b' ');
        let sum = match words.next() {
            Some(b"gap") => &mut self.dropped,
            Some(b"suppressed") => &mut self.suppressed,
            Some(b"repeat") => &mut self.repeated,
            _ => return,
        };
        let count = words
            .find_map(|word| word.strip_prefix(b"count="))
            .and_then(|count| std::str::from_utf8(count).ok()?.parse::<u64>().ok());
        *sum = sum.saturating_add(count.unwrap_or(0));
    }
}
