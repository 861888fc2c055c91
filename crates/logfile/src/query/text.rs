//! The text of a service as it is stored, across its segments, and what segments there are.

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use memchr::memchr;

use super::QueryReport;
use super::plan::open_segment;
use super::segment::{Segment, length_damage, unreadable};
use crate::error::{Damage, Error};
use crate::index::{Index, read_index};
use crate::line::parse_line;
use crate::name::{SegmentId, list_segments};
use crate::sealed::SegmentText;

/// Text is read in pieces of this size.
const PIECE_BYTES: u64 = 256 << 10;

/// What is in the way of a segment's text.
///
/// ```
/// assert_eq!(millpond_logfile::SegmentState::Sealed.name(), "sealed");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// Lines are appended to it.
    Open,
    /// It does not change any more.
    Closed,
    /// It does not change any more, and is compressed.
    Sealed,
}

impl SegmentState {
    /// `open`, `closed` or `sealed`.
    pub fn name(self) -> &'static str {
        match self {
            SegmentState::Open => "open",
            SegmentState::Closed => "closed",
            SegmentState::Sealed => "sealed",
        }
    }
}

/// A segment of a service, as [`Reader::segments`](super::Reader::segments) lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its id.
    pub id: SegmentId,
    /// The file that holds its text.
    pub path: PathBuf,
    /// Whether it is open, closed or sealed.
    pub state: SegmentState,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Bytes of the file that holds the text: fewer where it is sealed.
    pub file_bytes: u64,
    /// Bytes of its index and its search filters.
    pub sidecar_bytes: u64,
    /// Whole lines; `None` where the index does not cover the text and there is much of it.
    pub lines: Option<u64>,
    /// The earliest and the latest time of a line, in ns since 1970; `None` without lines, and where `lines` is.
    pub times_ns: Option<(u64, u64)>,
}

/// What became of [`Reader::text`](super::Reader::text).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TextReport {
    /// Bytes that were handed over.
    pub text_bytes: u64,
    /// What could not be read. Everything else was handed over.
    pub damage: Vec<Damage>,
    /// Segments that retention deleted meanwhile.
    pub deleted: Vec<PathBuf>,
    /// The visitor broke off.
    pub ended_early: bool,
}

/// The segments of a service, oldest first.
pub(super) fn segments(
    service_dir: &Path,
    report: &mut QueryReport,
) -> Result<Vec<SegmentInfo>, Error> {
    let open_from = open_segment(service_dir);
    let mut infos = Vec::new();
    for id in list_segments(service_dir)? {
        let is_open = open_from.is_some_and(|open| id >= open);
        let Some(segment) = Segment::open(service_dir, id, is_open, None, report) else {
            continue;
        };
        let state = match (is_open, segment.text.is_sealed()) {
            (_, true) => SegmentState::Sealed,
            (true, false) => SegmentState::Open,
            (false, false) => SegmentState::Closed,
        };
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut lines = Some(0);
        let mut times_ns: Option<(u64, u64)> = None;
        for block in &segment.blocks {
            let Some(entry) = &block.entry else {
                (lines, times_ns) = (None, None);
                break;
            };
            lines = lines.map(|lines| lines + entry.line_count());
            if entry.time_min_ns() <= entry.time_max_ns() {
                let (first, last) = times_ns.unwrap_or((u64::MAX, 0));
                times_ns = Some((
                    first.min(entry.time_min_ns()),
                    last.max(entry.time_max_ns()),
                ));
            }
        }
        infos.push(SegmentInfo {
            id,
            state,
            text_bytes: segment.text.length_bytes().unwrap_or_default(),
            file_bytes: size(&segment.path),
            sidecar_bytes: size(&id.index_path(service_dir)) + size(&id.filter_path(service_dir)),
            lines,
            times_ns,
            path: segment.path,
        });
    }
    Ok(infos)
}

/// Hands over the text of a service, byte for byte as stored; with a stretch of time, the lines of that time.
pub(super) fn copy(
    service_dir: &Path,
    times_ns: Option<Range<u64>>,
    visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<TextReport, Error> {
    let mut copy = Copy {
        lines: times_ns.map(|times_ns| Lines {
            times_ns,
            is_wanted: false,
            begun: Vec::new(),
        }),
        visit,
        report: TextReport::default(),
    };
    for id in list_segments(service_dir)? {
        if copy.segment(service_dir, id).is_break() {
            copy.report.ended_early = true;
            break;
        }
    }
    Ok(copy.report)
}

struct Copy<'v> {
    lines: Option<Lines>,
    visit: &'v mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    report: TextReport,
}

impl Copy<'_> {
    fn segment(&mut self, service_dir: &Path, id: SegmentId) -> ControlFlow<()> {
        // What is wrong with an index matters to queries; here it bounds what is read, and says what is missing. It is
        // read before the length: what it describes was written before it.
        let index_path = id.index_path(service_dir);
        let mut index = read_index(&index_path, Some(id)).unwrap_or_default();
        let opened =
            SegmentText::open(service_dir, id).and_then(|text| Ok((text.length_bytes()?, text)));
        let (length, text) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.report.deleted.push(id.log_path(service_dir));
                return ControlFlow::Continue(());
            }
            Err(error) => {
                let damage = unreadable(&id.log_path(service_dir), 0, &error);
                self.report.damage.push(damage);
                return ControlFlow::Continue(());
            }
        };
        let of_seek_table = text.sealed().and_then(|sealed| sealed.damage.clone());
        self.report.damage.extend(of_seek_table);
        let described = index.covered_bytes();
        if !index.cut(length) {
            self.report
                .damage
                .push(length_damage(index_path, length, described));
        }
        match &self.lines {
            None => self.range(&text, &index, 0..length)?,
            Some(lines) => {
                for range in lines.ranges(&index, length) {
                    self.range(&text, &index, range)?;
                    self.end_line()?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn range(&mut self, text: &SegmentText, index: &Index, range: Range<u64>) -> ControlFlow<()> {
        let mut piece = vec![0; PIECE_BYTES.min(range.end - range.start) as usize];
        let mut at = range.start;
        while at < range.end {
            let piece = &mut piece[..(range.end - at).min(PIECE_BYTES) as usize];
            match text.read_exact_at(piece, at) {
                Ok(()) => self.hand_over(piece)?,
                Err(_) => self.by_block(text, index, at, piece)?,
            }
            at += piece.len() as u64;
        }
        ControlFlow::Continue(())
    }

    /// A piece that cannot be read as a whole: all of it that can be.
    fn by_block(
        &mut self,
        text: &SegmentText,
        index: &Index,
        from: u64,
        piece: &mut [u8],
    ) -> ControlFlow<()> {
        let end = from + piece.len() as u64;
        let ends = index.entries.iter().map(|entry| entry.end());
        let mut at = from;
        for block_end in ends.filter(|&block_end| block_end > from).chain([end]) {
            let block_end = block_end.min(end);
            if block_end <= at {
                continue;
            }
            let part = &mut piece[..(block_end - at) as usize];
            match text.read_exact_at(part, at) {
                Ok(()) => self.hand_over(part)?,
                Err(error) => {
                    self.report.damage.push(unreadable(text.path(), at, &error));
                }
            }
            at = block_end;
        }
        ControlFlow::Continue(())
    }

    fn hand_over(&mut self, text: &[u8]) -> ControlFlow<()> {
        let Copy {
            lines,
            visit,
            report,
        } = self;
        let mut give = |text: &[u8]| {
            report.text_bytes += text.len() as u64;
            visit(text)
        };
        match lines {
            None => give(text),
            Some(lines) => lines.split(text, &mut give),
        }
    }

    /// Text without a line end at the end of a segment is a line of its own.
    fn end_line(&mut self) -> ControlFlow<()> {
        let begun = match &mut self.lines {
            Some(lines) if !lines.begun.is_empty() => std::mem::take(&mut lines.begun),
            _ => return ControlFlow::Continue(()),
        };
        let is_wanted = self.lines.as_mut().is_some_and(|lines| lines.wants(&begun));
        if is_wanted {
            self.report.text_bytes += begun.len() as u64;
            (self.visit)(&begun)?;
        }
        ControlFlow::Continue(())
    }
}

/// Lines of a stretch of time. A line that has no time belongs to the one in front of it.
struct Lines {
    times_ns: Range<u64>,
    is_wanted: bool,
    /// A line whose end was not met yet.
    begun: Vec<u8>,
}

impl Lines {
    /// The text that can hold wanted lines: of blocks the index says the times.
    fn ranges(&self, index: &Index, length: u64) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut add = |range: Range<u64>| match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        };
        for entry in &index.entries {
            let can_hold = entry.time_min_ns() < self.times_ns.end
                && entry.time_max_ns() >= self.times_ns.start;
            if can_hold || entry.damaged_lines() > 0 {
                add(entry.offset()..entry.end());
            }
        }
        if index.covered_bytes() < length {
            add(index.covered_bytes()..length);
        }
        ranges
    }

    fn wants(&mut self, line: &[u8]) -> bool {
        if let Ok(line) = parse_line(line) {
            self.is_wanted = self.times_ns.contains(&line.time_ns);
        }
        self.is_wanted
    }

    fn split(
        &mut self,
        text: &[u8],
        give: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut start = 0;
        while let Some(at) = memchr(b'\n', &text[start..]) {
            let line = &text[start..start + at + 1];
            start += at + 1;
            if self.begun.is_empty() {
                if self.wants(line) {
                    give(line)?;
                }
                continue;
            }
            let mut whole = std::mem::take(&mut self.begun);
            whole.extend_from_slice(line);
            if self.wants(&whole) {
                give(&whole)?;
            }
        }
        self.begun.extend_from_slice(&text[start..]);
        ControlFlow::Continue(())
    }
}
