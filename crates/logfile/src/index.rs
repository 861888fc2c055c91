//! The sidecar index: a header and one fixed-size entry per block. Derived from the text, never needed.

use std::fs;
use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Damage, Error};
use crate::level::Level;
use crate::name::SegmentId;

/// Version of the index format.
pub const INDEX_VERSION: u32 = 1;
/// Size of the header.
pub const HEADER_BYTES: usize = 64;
/// Size of an entry.
pub const ENTRY_BYTES: usize = 96;
const MAGIC: [u8; 8] = *b"mpondidx";
const FLAG_CLOSED: u32 = 1;

/// The head of an index file.
///
/// ```
/// use millpond_logfile::{IndexHeader, SegmentId};
/// let header = IndexHeader::new(SegmentId::from_ns(7), false);
/// assert_eq!(header.to_bytes().len(), millpond_logfile::HEADER_BYTES);
/// ```
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndexHeader {
    magic: [u8; 8],
    version: U32,
    entry_bytes: U32,
    segment_id: U64,
    flags: U32,
    reserved: [u8; 32],
    crc: U32,
}
const _: () = assert!(size_of::<IndexHeader>() == HEADER_BYTES);

impl IndexHeader {
    /// The header for a segment; `closed` once nothing will be added to it.
    pub fn new(segment_id: SegmentId, closed: bool) -> Self {
        let mut header = IndexHeader {
            magic: MAGIC,
            version: U32::new(INDEX_VERSION),
            entry_bytes: U32::new(ENTRY_BYTES as u32),
            segment_id: U64::new(segment_id.as_ns()),
            flags: U32::new(if closed { FLAG_CLOSED } else { 0 }),
            reserved: [0; 32],
            crc: U32::new(0),
        };
        header.crc = U32::new(header.checksum());
        header
    }

    /// The bytes of the header.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(*self)
    }

    /// Whether the segment was closed in order.
    pub fn is_closed(&self) -> bool {
        self.flags.get() & FLAG_CLOSED != 0
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[..HEADER_BYTES - 4])
    }
}

/// What the index knows of one block of text.
///
/// ```
/// use millpond_logfile::{BlockWriter, Level, Source};
/// let (mut block, mut text) = (BlockWriter::new(), Vec::new());
/// block.append(&mut text, 7, Level::Warn, &Source::new("rpc"), b"slow");
/// block.finish(&text);
/// let entry = block.take_entries()[0];
/// assert_eq!((entry.line_count(), entry.time_min_ns()), (1, 7));
/// assert_eq!(entry.level_count(Level::Warn), 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndexEntry {
    offset: U64,
    time_min_ns: U64,
    time_max_ns: U64,
    source_mask: U64,
    length_bytes: U32,
    line_count: U32,
    level_counts: [U32; Level::COUNT],
    damaged_lines: U32,
    text_crc: U32,
    reserved: [u8; 20],
    crc: U32,
}
const _: () = assert!(size_of::<IndexEntry>() == ENTRY_BYTES);
const _: () = assert!(std::mem::offset_of!(IndexEntry, level_counts) == 40);
const _: () = assert!(std::mem::offset_of!(IndexEntry, text_crc) == 68);

impl IndexEntry {
    /// The bytes of the entry.
    pub fn to_bytes(&self) -> [u8; ENTRY_BYTES] {
        zerocopy::transmute!(*self)
    }

    /// Where the block starts in the segment.
    pub fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Bytes of the block.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes.get().into()
    }

    /// Where the next block starts.
    pub fn end(&self) -> u64 {
        self.offset().saturating_add(self.length_bytes())
    }

    /// Lines in the block.
    pub fn line_count(&self) -> u64 {
        self.line_count.get().into()
    }

    /// The earliest time in the block; `u64::MAX` where no line could be read.
    pub fn time_min_ns(&self) -> u64 {
        self.time_min_ns.get()
    }

    /// The latest time in the block; 0 where no line could be read.
    pub fn time_max_ns(&self) -> u64 {
        self.time_max_ns.get()
    }

    /// Lines of this level.
    pub fn level_count(&self, level: Level) -> u64 {
        self.level_counts[level as usize].get().into()
    }

    /// Lines that are not of this format. They have no level and no time.
    pub fn damaged_lines(&self) -> u64 {
        self.damaged_lines.get().into()
    }

    /// A bit per source in the block, by hash: a source whose bit is not set is not there.
    pub fn source_mask(&self) -> u64 {
        self.source_mask.get()
    }

    /// CRC-32C of the block's text.
    pub fn text_crc(&self) -> u32 {
        self.text_crc.get()
    }

    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[..ENTRY_BYTES - 4])
    }
}

/// A block's numbers while it is being filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryBuilder {
    pub(crate) offset: u64,
    pub(crate) length_bytes: u64,
    time_min_ns: u64,
    time_max_ns: u64,
    source_mask: u64,
    line_count: u32,
    level_counts: [u32; Level::COUNT],
    damaged_lines: u32,
}

impl EntryBuilder {
    pub(crate) fn at(offset: u64) -> Self {
        EntryBuilder {
            offset,
            length_bytes: 0,
            time_min_ns: u64::MAX,
            time_max_ns: 0,
            source_mask: 0,
            line_count: 0,
            level_counts: [0; Level::COUNT],
            damaged_lines: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn add_line(&mut self, length: usize, time_ns: u64, level: Level, mask: u64) {
        self.length_bytes += length as u64;
        self.line_count += 1;
        self.time_min_ns = self.time_min_ns.min(time_ns);
        self.time_max_ns = self.time_max_ns.max(time_ns);
        self.level_counts[level as usize] += 1;
        self.source_mask |= mask;
    }

    pub(crate) fn add_damaged_line(&mut self, length: usize) {
        self.length_bytes += length as u64;
        self.line_count += 1;
        self.damaged_lines += 1;
    }

    pub(crate) fn build(&self, text_crc: u32) -> IndexEntry {
        let mut entry = IndexEntry {
            offset: U64::new(self.offset),
            time_min_ns: U64::new(self.time_min_ns),
            time_max_ns: U64::new(self.time_max_ns),
            source_mask: U64::new(self.source_mask),
            length_bytes: U32::new(self.length_bytes as u32),
            line_count: U32::new(self.line_count),
            level_counts: self.level_counts.map(U32::new),
            damaged_lines: U32::new(self.damaged_lines),
            text_crc: U32::new(text_crc),
            reserved: [0; 20],
            crc: U32::new(0),
        };
        entry.crc = U32::new(entry.checksum());
        entry
    }
}

/// An index file as far as it can be believed.
///
/// ```no_run
/// let index = millpond_logfile::read_index("web/20261121T012953.123456789Z.idx".as_ref(), None)?;
/// println!("{} blocks, {} of text", index.entries.len(), index.covered_bytes());
/// # Ok::<(), millpond_logfile::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// Whether its header says that the segment is closed.
    pub closed: bool,
    /// Its entries, contiguous from offset 0, each with a valid checksum.
    pub entries: Vec<IndexEntry>,
    /// What ended the list early.
    pub damage: Option<Damage>,
}

impl Index {
    /// Bytes of text that the entries cover.
    pub fn covered_bytes(&self) -> u64 {
        self.entries.last().map_or(0, IndexEntry::end)
    }

    /// Keeps the entries that lie within `length_bytes` of text; false if any lay beyond.
    pub(crate) fn cut(&mut self, length_bytes: u64) -> bool {
        let kept = self
            .entries
            .partition_point(|entry| entry.end() <= length_bytes);
        let all = kept == self.entries.len();
        self.entries.truncate(kept);
        all
    }
}

/// Reads an index, up to the first thing in it that cannot be right. A missing file is an empty index.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read_index(path: &Path, segment_id: Option<SegmentId>) -> Result<Index, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Index::default()),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let damage = |offset: usize, what, expected: String, found: String| {
        Some(Damage {
            path: path.to_owned(),
            offset: offset as u64,
            what,
            expected,
            found,
        })
    };
    let Ok((header, rest)) = IndexHeader::read_from_prefix(&bytes) else {
        let found = format!("{} bytes", bytes.len());
        let damage = damage(0, "index header", format!("{HEADER_BYTES} bytes"), found);
        return Ok(Index {
            damage,
            ..Index::default()
        });
    };
    let wrong = if header.magic != MAGIC || header.crc.get() != header.checksum() {
        damage(0, "index header", "a valid one".into(), "garbage".into())
    } else if header.version.get() != INDEX_VERSION
        || header.entry_bytes.get() != ENTRY_BYTES as u32
    {
        damage(
            8,
            "index version",
            INDEX_VERSION.to_string(),
            header.version.get().to_string(),
        )
    } else {
        let named = SegmentId::from_ns(header.segment_id.get());
        segment_id.filter(|&id| id != named).and_then(|id| {
            damage(
                16,
                "segment id in the index",
                id.to_string(),
                named.to_string(),
            )
        })
    };
    if wrong.is_some() {
        return Ok(Index {
            damage: wrong,
            ..Index::default()
        });
    }
    let mut index = Index {
        closed: header.is_closed(),
        ..Index::default()
    };
    for (number, bytes) in rest.chunks_exact(ENTRY_BYTES).enumerate() {
        let Ok(entry) = IndexEntry::read_from_bytes(bytes) else {
            break;
        };
        let at = HEADER_BYTES + number * ENTRY_BYTES;
        if entry.crc.get() != entry.checksum() {
            let (expected, found) = (entry.checksum(), entry.crc.get());
            let texts = (format!("{expected:08x}"), format!("{found:08x}"));
            index.damage = damage(at, "checksum of the index entry", texts.0, texts.1);
            break;
        }
        if entry.offset() != index.covered_bytes() || entry.length_bytes() == 0 {
            let (expected, found) = (
                index.covered_bytes().to_string(),
                entry.offset().to_string(),
            );
            index.damage = damage(at, "block offset in the index", expected, found);
            break;
        }
        index.entries.push(entry);
    }
    Ok(index)
}
