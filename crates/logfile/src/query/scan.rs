//! One read and one search: a chunk of text in, its hits out.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use super::filter::{Filter, SOURCE_AT};
use super::progress::Underway;
use super::segment::{Segment, unreadable};
use super::{Hit, Order};
use crate::error::Damage;
use crate::level::Level;
use crate::line::{LineError, ParsedLine};
use crate::sealed::FrameReader;

/// The kernel copies file text to a buffer that starts 16 bytes into a page, as the allocator likes
/// to place large ones, at two thirds of the speed of a page-aligned one.
const BUFFER_ALIGNMENT: usize = 4096;

/// Consecutive blocks of a segment, read and searched at once.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) segment: Arc<Segment>,
    pub(super) underway: Arc<Underway>,
    pub(super) blocks: Range<usize>,
    /// No hit of this service, from this chunk on, sorts before this key.
    pub(super) bound: u64,
}

impl Chunk {
    pub(super) fn range(&self) -> Range<u64> {
        let blocks = &self.segment.blocks[self.blocks.clone()];
        let start = blocks.first().map_or(0, |block| block.offset);
        start..blocks.last().map_or(start, |block| block.end())
    }
}

/// Reusable memory for text.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Room for `length` bytes. What was in it may still be there.
    fn room(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.len() < length + BUFFER_ALIGNMENT {
            self.bytes = vec![0; length + BUFFER_ALIGNMENT];
            self.start = self
                .bytes
                .as_ptr()
                .align_offset(BUFFER_ALIGNMENT)
                .min(BUFFER_ALIGNMENT);
        }
        self.length = length;
        &mut self.bytes[self.start..self.start + length]
    }

    pub(super) fn is_unused(&self) -> bool {
        self.bytes.is_empty()
    }

    fn text(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

/// What to keep of a line that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// The line.
    Lines,
    /// Its level, counted.
    Tally,
}

/// Everything a thread needs to scan chunks: its own filter and its own memory.
#[derive(Debug)]
pub(super) struct Scanner {
    pub(super) filter: Filter,
    pub(super) order: Order,
    pub(super) keep: Keep,
    /// Compare the checksum of blocks without hits too.
    pub(super) verify: bool,
    pub(super) buffer: Buffer,
    unescaped: Vec<u8>,
    frames: FrameReader,
    /// Parts of the chunk that cannot be read.
    lost: Vec<Range<usize>>,
}

/// A line of [`Hits`].
#[derive(Debug, Clone, Copy)]
struct HitLine {
    time_ns: u64,
    /// Where it starts in the chunk.
    at: u32,
    /// Where it starts in the text of the hits.
    kept_at: u32,
    length: u32,
    /// Where the message starts in the line.
    message_at: u32,
    level: Level,
}

/// The hits of one chunk, in the order of the answer.
#[derive(Debug)]
pub(super) struct Hits {
    chunk: Chunk,
    offset: u64,
    text: Buffer,
    lines: Vec<HitLine>,
    /// Hits by level, where only the tally was asked for.
    pub(super) tally: [u64; Level::COUNT],
    pub(super) text_bytes_read: u64,
    pub(super) damage: Vec<Damage>,
}

impl Hits {
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn time_ns(&self, number: usize) -> u64 {
        self.lines[number].time_ns
    }

    pub(super) fn hit<'h>(&'h self, number: usize, service: &'h str) -> Hit<'h> {
        let found = &self.lines[number];
        let line = &self.text.text()[found.kept_at as usize..][..found.length as usize];
        let message_at = found.message_at as usize;
        let message = &line[message_at..];
        Hit {
            service,
            segment_id: self.chunk.segment.id,
            offset: self.offset + u64::from(found.at),
            time_ns: found.time_ns,
            level: found.level,
            source: &line[SOURCE_AT..message_at - 1],
            message: message.strip_suffix(b"\n").unwrap_or(message),
            line,
        }
    }

    /// Memory held, for the bound on what is held in all.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.text.bytes.len() + self.lines.capacity() * size_of::<HitLine>()
    }

    /// The memory of the text, if it is the whole chunk's and so worth using again.
    pub(super) fn into_buffer(self) -> Option<Buffer> {
        (self.text.length as u64 == self.text_bytes_read).then_some(self.text)
    }
}

impl Scanner {
    pub(super) fn new(filter: Filter, order: Order, keep: Keep, verify: bool) -> Self {
        Scanner {
            filter,
            order,
            keep,
            verify,
            buffer: Buffer::default(),
            unescaped: Vec::new(),
            frames: FrameReader::default(),
            lost: Vec::new(),
        }
    }

    /// For another thread.
    pub(super) fn twin(&self) -> Self {
        Self::new(self.filter.clone(), self.order, self.keep, self.verify)
    }

    /// Reads a chunk and finds its hits. What cannot be read, or is not of the format, is in
    /// `damage`.
    pub(super) fn scan(&mut self, chunk: Chunk) -> Hits {
        let range = chunk.range();
        let mut hits = Hits {
            chunk,
            offset: range.start,
            text: Buffer::default(),
            lines: Vec::new(),
            tally: [0; Level::COUNT],
            text_bytes_read: 0,
            damage: Vec::new(),
        };
        let room = self.buffer.room((range.end - range.start) as usize);
        let Segment { text, path, .. } = &*hits.chunk.segment;
        self.lost.clear();
        let read = text.read_frames_at(&mut self.frames, room, range.start, &mut |bad| {
            hits.damage.push(bad.damage(path));
            let lost = bad.text();
            let (from, to) = (lost.start.max(range.start), lost.end.min(range.end));
            self.lost
                .push((from - range.start) as usize..(to - range.start) as usize);
        });
        if let Err(error) = read {
            hits.damage.push(match error.kind() {
                ErrorKind::UnexpectedEof => shorter(&hits.chunk, range.end),
                _ => unreadable(&hits.chunk.segment.path, range.start, &error),
            });
            return hits;
        }
        hits.text_bytes_read = range.end - range.start;
        hits.chunk.underway.add_text(hits.text_bytes_read);
        self.search(&mut hits);
        self.compare_checksums(&mut hits);
        self.hand_over_text(&mut hits);
        if self.order == Order::Newest {
            hits.lines.reverse();
        }
        hits
    }

    fn search(&mut self, hits: &mut Hits) {
        let text = self.buffer.text();
        let mut wrong: Option<(usize, LineError, u64)> = None;
        let Hits { lines, tally, .. } = hits;
        let mut from = 0;
        for lost in self
            .lost
            .iter()
            .cloned()
            .chain(std::iter::once(text.len()..text.len()))
        {
            let part = &text[from..lost.start];
            let found = |start: usize, end: usize, line: Result<ParsedLine<'_>, LineError>| {
                let (start, end) = (from + start, from + end);
                match line {
                    Ok(line) if self.keep == Keep::Lines => {
                        lines.push(hit_line(text, start, end, &line))
                    }
                    Ok(line) => tally[line.level as usize] += 1,
                    Err(error) => wrong.get_or_insert((start, error, 0)).2 += 1,
                }
            };
            self.filter.scan(part, &mut self.unescaped, found);
            from = lost.end;
        }
        if let Some((start, error, count)) = wrong {
            hits.damage.push(Damage {
                path: hits.chunk.segment.path.clone(),
                offset: hits.offset + start as u64,
                what: "line",
                expected: "time, level, source and message".into(),
                found: format!("{error} ({count} such lines nearby)"),
            });
        }
    }

    /// Compares blocks that yielded a line, so that none comes from a damaged block unreported.
    fn compare_checksums(&self, hits: &mut Hits) {
        let Hits {
            chunk,
            lines,
            damage,
            offset,
            ..
        } = hits;
        let mut lines = lines
            .iter()
            .map(|line| *offset + u64::from(line.at))
            .peekable();
        for block in &chunk.segment.blocks[chunk.blocks.clone()] {
            let mut has_hits = false;
            while lines.next_if(|&at| at < block.end()).is_some() {
                has_hits = true;
            }
            let Some(entry) = block.entry.filter(|_| has_hits || self.verify) else {
                continue;
            };
            let start = (block.offset - *offset) as usize;
            if self.lost.iter().any(|lost| lost.contains(&start)) {
                continue;
            }
            let found = crc32c::crc32c(&self.buffer.text()[start..][..block.length_bytes as usize]);
            if found != entry.text_crc() {
                damage.push(Damage {
                    path: chunk.segment.path.clone(),
                    offset: block.offset,
                    what: "checksum of the block",
                    expected: format!("{:08x}", entry.text_crc()),
                    found: format!("{found:08x}"),
                });
            }
        }
    }

    /// Few hits are copied out and the buffer is kept; many hits take the buffer with them.
    fn hand_over_text(&mut self, hits: &mut Hits) {
        let kept: usize = hits.lines.iter().map(|line| line.length as usize).sum();
        if kept * 2 > self.buffer.length {
            hits.text = std::mem::take(&mut self.buffer);
        } else if kept > 0 {
            let mut bytes = Vec::with_capacity(kept);
            for line in &mut hits.lines {
                line.kept_at = bytes.len() as u32;
                bytes.extend_from_slice(
                    &self.buffer.text()[line.at as usize..][..line.length as usize],
                );
            }
            hits.text = Buffer {
                bytes,
                start: 0,
                length: kept,
            };
        }
    }
}

fn hit_line(text: &[u8], start: usize, end: usize, line: &ParsedLine<'_>) -> HitLine {
    let newline = usize::from(text[end - 1] == b'\n');
    HitLine {
        time_ns: line.time_ns,
        at: start as u32,
        kept_at: start as u32,
        length: (end - start) as u32,
        message_at: (end - start - newline - line.message.len()) as u32,
        level: line.level,
    }
}

/// The file ends before the text that it had when we looked.
fn shorter(chunk: &Chunk, end: u64) -> Damage {
    Damage {
        path: chunk.segment.path.clone(),
        offset: end,
        what: "text",
        expected: "as long as when the query began".into(),
        found: "shorter".into(),
    }
}
