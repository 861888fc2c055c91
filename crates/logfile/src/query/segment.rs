//! One segment as a query sees it: its text as far as it is written, cut into blocks by its index,
//! or by the text itself where no index can be believed.

use std::io;
use std::path::{Path, PathBuf};

use memchr::{memchr, memrchr};

use super::QueryReport;
use crate::block::{BLOCK_BYTES, BlockWriter};
use crate::error::Damage;
use crate::filters::Covered;
use crate::index::{ENTRY_BYTES, HEADER_BYTES, Index, IndexEntry, read_index_with};
use crate::name::SegmentId;
use crate::recover::block_entry;
use crate::sealed::{Frame, FrameReader, SealedFile, SegmentText};

/// Text without an index, up to this much, is taken apart before the query runs, so that its times
/// and levels are known as if it had one. The open segment always ends in such a piece, mostly
/// smaller than a block.
const INDEXED_HERE_BYTES: u64 = 1 << 20;
/// A text without a line end for so long is no log text, and is not read into memory.
const LINE_BYTES_MAX: u64 = 16 << 20;
/// Line ends are looked for in pieces of this size.
const PROBE_BYTES: u64 = 4 << 10;

/// Whole lines in a row.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) offset: u64,
    pub(super) length_bytes: u64,
    /// What is in it; `None` where nobody looked yet, so that it can be anything.
    pub(super) entry: Option<IndexEntry>,
}

impl Block {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.length_bytes
    }
}

impl From<IndexEntry> for Block {
    fn from(entry: IndexEntry) -> Self {
        Block {
            offset: entry.offset(),
            length_bytes: entry.length_bytes(),
            entry: Some(entry),
        }
    }
}

/// A segment, open for reading. Retention may delete the file meanwhile; we keep what we opened.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) path: PathBuf,
    pub(super) text: SegmentText,
    pub(super) blocks: Vec<Block>,
}

impl Segment {
    /// Opens a segment and finds its blocks. `None`, and a word in the report, if it cannot be
    /// read. `filters_cover`: what its filters are made for, where they were asked.
    pub(super) fn open(
        service_dir: &Path,
        id: SegmentId,
        is_open: bool,
        filters_cover: Option<&Covered>,
        report: &mut QueryReport,
    ) -> Option<Segment> {
        let path = id.log_path(service_dir);
        let text = match SegmentText::open(service_dir, id) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.deleted.push(path);
                return None;
            }
            Err(error) => {
                report.add_damage(unreadable(&path, 0, &error));
                return None;
            }
        };
        let mut segment = Segment {
            id,
            path: text.path().to_owned(),
            text,
            blocks: Vec::new(),
        };
        if let Err(error) = segment.find_blocks(service_dir, is_open, filters_cover, report) {
            report.add_damage(unreadable(&segment.path, 0, &error));
        }
        Some(segment)
    }

    /// Whether filters that are made for so much text in so many blocks are made for this text.
    pub(super) fn admits_filters(&self, filters_cover: &Covered, report: &mut QueryReport) -> bool {
        let Covered {
            text_bytes, blocks, ..
        } = *filters_cover;
        let end = blocks
            .checked_sub(1)
            .and_then(|last| self.blocks.get(last))
            .map_or(0, Block::end);
        if end == text_bytes {
            return true;
        }
        report.add_damage(Damage {
            path: self.path.with_file_name(format!("{}.filter", self.id)),
            offset: 0,
            what: "text covered by the filter",
            expected: format!("{end} bytes in {blocks} blocks"),
            found: format!("{text_bytes} bytes"),
        });
        false
    }

    fn find_blocks(
        &mut self,
        service_dir: &Path,
        is_open: bool,
        filters_cover: Option<&Covered>,
        report: &mut QueryReport,
    ) -> io::Result<()> {
        let index_path = self.id.index_path(service_dir);
        // The index before the length: what it describes was written before it.
        // Only a sealed text has been measured against the entries that its filters are made for.
        let is_sealed = self.text.is_sealed();
        let entries_crc = filters_cover.filter(|_| is_sealed).map(|by| by.entries_crc);
        let read = read_index_with(&index_path, Some(self.id), entries_crc);
        let mut index = read.unwrap_or_else(|error| Index {
            damage: Some(Damage {
                path: index_path.clone(),
                offset: 0,
                what: "index",
                expected: "a readable file".into(),
                found: error.to_string(),
            }),
            ..Index::default()
        });
        let length = self.text.length_bytes()?;
        if let Some(sealed) = self.text.sealed() {
            sealed
                .damage
                .iter()
                .for_each(|damage| report.add_damage(damage.clone()));
            let same = by_frames(&index, sealed);
            if let Some(entry) = index.entries.get(same) {
                report.add_damage(Damage {
                    path: index_path.clone(),
                    offset: (HEADER_BYTES + same * ENTRY_BYTES) as u64,
                    what: "block of the index",
                    expected: match sealed.frames.get(same) {
                        Some(frame) => format!("{} to {}", frame.text_offset, frame.text_end()),
                        None => format!("no more, as there are {same} frames"),
                    },
                    found: format!("{} to {}", entry.offset(), entry.end()),
                });
                index.entries.truncate(same);
            }
        }
        index
            .damage
            .take()
            .into_iter()
            .for_each(|damage| report.add_damage(damage));
        let described = index.covered_bytes();
        if !index.cut(length) {
            report.add_damage(length_damage(index_path.clone(), length, described));
        }
        let mut covered = index.covered_bytes();
        // Each frame is a block, and its length is checked when it is read.
        if !is_sealed && covered > 0 && self.byte_at(covered - 1)? != b'\n' {
            report.add_damage(Damage {
                path: index_path,
                offset: covered - 1,
                what: "end of the last block by the index",
                expected: "a line end in the text".into(),
                found: "the middle of a line".into(),
            });
            index.entries.clear();
            covered = 0;
        }
        self.blocks = index.entries.into_iter().map(Block::from).collect();

        let end = match self.last_line_end(covered, length) {
            // The frame that cannot be read is reported by who needs it.
            Err(_) if is_sealed => length,
            end => end?,
        };
        if end < length && !is_open {
            report.add_damage(Damage {
                path: self.path.clone(),
                offset: end,
                what: "last line",
                expected: "a line end".into(),
                found: format!("{} bytes without one", length - end),
            });
        }
        if !is_open {
            report.unindexed_bytes += end - covered;
        }
        if is_sealed {
            self.add_frames(end);
            Ok(())
        } else if end - covered <= INDEXED_HERE_BYTES {
            self.index_text(covered, end)
        } else {
            self.cut_text(covered, end, report)
        }
    }

    /// Adds the frames up to `end` that the index does not describe. Of a few everything is found out that it
    /// would say.
    fn add_frames(&mut self, end: u64) {
        let Some(sealed) = self.text.sealed() else {
            return;
        };
        let covered = self.blocks.last().map_or(0, Block::end);
        let is_indexed_here = end - covered <= INDEXED_HERE_BYTES;
        let mut reader = FrameReader::default();
        let mut text = Vec::new();
        for (number, frame) in sealed.frames.iter().enumerate().skip(self.blocks.len()) {
            if frame.text_offset >= end {
                break;
            }
            let is_read =
                is_indexed_here && sealed.read_frame(&mut reader, number, &mut text).is_ok();
            self.blocks.push(Block {
                offset: frame.text_offset,
                length_bytes: frame.text_bytes.into(),
                entry: is_read
                    .then(|| block_entry(&self.path, frame.text_offset, &text, &mut Vec::new())),
            });
        }
    }

    /// Adds the blocks of `from..end`, with everything an index would say of them.
    fn index_text(&mut self, from: u64, end: u64) -> io::Result<()> {
        let mut text = vec![0; (end - from) as usize];
        self.text.read_exact_at(&mut text, from)?;
        let mut block = BlockWriter::at(from);
        let mut start = 0;
        for line_end in memchr::memchr_iter(b'\n', &text).map(|newline| newline + 1) {
            block.account(&text, start, line_end);
            start = line_end;
        }
        block.finish(&text);
        self.blocks
            .extend(block.take_entries().into_iter().map(Block::from));
        Ok(())
    }

    /// Adds blocks of `from..end`, of which only the bounds are known.
    fn cut_text(&mut self, from: u64, end: u64, report: &mut QueryReport) -> io::Result<()> {
        let mut start = from;
        while start < end {
            let nominal = start + BLOCK_BYTES;
            let block_end = if nominal < end {
                self.line_end(nominal - 1, end)?
            } else {
                end
            };
            let mut cut = block_end;
            if block_end - start > LINE_BYTES_MAX {
                cut = self.last_line_end(start, nominal)?;
                report.add_damage(Damage {
                    path: self.path.clone(),
                    offset: cut,
                    what: "line",
                    expected: format!("at most {LINE_BYTES_MAX} bytes"),
                    found: format!("{} bytes", block_end - cut),
                });
            }
            if cut > start {
                self.blocks.push(Block {
                    offset: start,
                    length_bytes: cut - start,
                    entry: None,
                });
            }
            start = block_end;
        }
        Ok(())
    }

    /// Where the line ends that holds the byte at `from`, searching up to `end`.
    fn line_end(&self, from: u64, end: u64) -> io::Result<u64> {
        let mut piece = [0; PROBE_BYTES as usize];
        let mut at = from;
        while at < end {
            let piece = &mut piece[..(end - at).min(PROBE_BYTES) as usize];
            self.text.read_exact_at(piece, at)?;
            if let Some(newline) = memchr(b'\n', piece) {
                return Ok(at + newline as u64 + 1);
            }
            at += piece.len() as u64;
        }
        Ok(end)
    }

    /// Where the last whole line of `from..end` ends; `from` if there is none.
    fn last_line_end(&self, from: u64, end: u64) -> io::Result<u64> {
        let mut piece = [0; PROBE_BYTES as usize];
        let mut at = end;
        while at > from {
            let piece = &mut piece[..(at - from).min(PROBE_BYTES) as usize];
            at -= piece.len() as u64;
            self.text.read_exact_at(piece, at)?;
            if let Some(newline) = memrchr(b'\n', piece) {
                return Ok(at + newline as u64 + 1);
            }
        }
        Ok(from)
    }

    fn byte_at(&self, offset: u64) -> io::Result<u8> {
        let mut byte = [0];
        self.text.read_exact_at(&mut byte, offset)?;
        Ok(byte[0])
    }
}

/// How many entries of the index speak of the same blocks as the frames do. What it says beyond is of no use.
fn by_frames(index: &Index, sealed: &SealedFile) -> usize {
    let is_same = |(entry, frame): &(&IndexEntry, &Frame)| {
        (entry.offset(), entry.end()) == (frame.text_offset, frame.text_end())
    };
    let pairs = index.entries.iter().zip(&sealed.frames);
    pairs.take_while(is_same).count()
}

/// The index describes more text than there is: text is gone.
pub(super) fn length_damage(index_path: PathBuf, length: u64, described: u64) -> Damage {
    Damage {
        path: index_path,
        offset: 0,
        what: "length of the text by its index",
        expected: length.to_string(),
        found: described.to_string(),
    }
}

/// The operating system does not give the text at `offset`, or there is less of it than there was.
pub(super) fn unreadable(path: &Path, offset: u64, error: &io::Error) -> Damage {
    Damage {
        path: path.to_owned(),
        offset,
        what: "text",
        expected: "readable".into(),
        found: error.to_string(),
    }
}
