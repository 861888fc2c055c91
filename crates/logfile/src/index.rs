//! The sidecar index: a header and one fixed-size entry per block. Derived from the text, never needed.
//!
//! `docs/formats/log.md` has the picture and the meaning of each field; the assertions here hold the code to
//! it. Little-endian, each part ended by a checksum of its own.

use std::fs;
use std::mem::offset_of;
use std::path::Path;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Damage, Error};
use crate::level::Level;
use crate::name::SegmentId;

/// Version of the index format: the major one in the low 16 bits, the minor one above.
pub const INDEX_VERSION: u32 = 1;
/// The bits of the version that must be ours. A newer minor version may set flags, fill what is reserved and
/// lengthen entries at their end.
const MAJOR_MASK: u32 = 0xffff;
/// Size of the header.
pub const HEADER_BYTES: usize = 64;
/// Size of an entry.
pub const ENTRY_BYTES: usize = 96;
/// Entries of a newer minor version are at most this long.
const ENTRY_BYTES_MAX: u32 = 4096;
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
const _: () = assert!(offset_of!(IndexHeader, magic) == 0);
const _: () = assert!(offset_of!(IndexHeader, version) == 8);
const _: () = assert!(offset_of!(IndexHeader, entry_bytes) == 12);
const _: () = assert!(offset_of!(IndexHeader, segment_id) == 16);
const _: () = assert!(offset_of!(IndexHeader, flags) == 24);
const _: () = assert!(offset_of!(IndexHeader, reserved) == 28);
const _: () = assert!(offset_of!(IndexHeader, crc) == 60);
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
const _: () = assert!(offset_of!(IndexEntry, offset) == 0);
const _: () = assert!(offset_of!(IndexEntry, time_min_ns) == 8);
const _: () = assert!(offset_of!(IndexEntry, time_max_ns) == 16);
const _: () = assert!(offset_of!(IndexEntry, source_mask) == 24);
const _: () = assert!(offset_of!(IndexEntry, length_bytes) == 32);
const _: () = assert!(offset_of!(IndexEntry, line_count) == 36);
const _: () = assert!(offset_of!(IndexEntry, level_counts) == 40);
const _: () = assert!(offset_of!(IndexEntry, damaged_lines) == 64);
const _: () = assert!(offset_of!(IndexEntry, text_crc) == 68);
const _: () = assert!(offset_of!(IndexEntry, reserved) == 72);
const _: () = assert!(offset_of!(IndexEntry, crc) == 92);
const _: () = assert!(size_of::<IndexEntry>() == ENTRY_BYTES);

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

    /// The first thing that this entry, read from an index, says other than `truth`, made from the text: what,
    /// what the text says, what the index says.
    pub(crate) fn difference(&self, truth: &Self) -> Option<(&'static str, String, String)> {
        let say = |entry: &Self| {
            let levels = Level::ALL.map(|level| entry.level_count(level));
            [
                ("end of the block", entry.end().to_string()),
                ("lines of the block", entry.line_count().to_string()),
                ("lines by level", format!("{levels:?}")),
                ("damaged lines", entry.damaged_lines().to_string()),
                (
                    "earliest time of the block",
                    format!("{} ns", entry.time_min_ns()),
                ),
                (
                    "latest time of the block",
                    format!("{} ns", entry.time_max_ns()),
                ),
                (
                    "sources of the block",
                    format!("{:016x}", entry.source_mask()),
                ),
            ]
        };
        let pairs = say(truth).into_iter().zip(say(self));
        pairs
            .map(|((what, expected), (_, found))| (what, expected, found))
            .find(|(_, expected, found)| expected != found)
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

    /// Counts a line that has no time and no level; the block's times stay what they were.
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
            // A line is bounded far below this (see `docs/formats/log.md`); were it not, the entry would
            // be refused for its gap, not believed.
            length_bytes: U32::new(u32::try_from(self.length_bytes).unwrap_or(u32::MAX)),
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

/// Reads an index, up to the first thing in it that cannot be right. A missing file is an empty index; so is
/// one of another major version, or of another segment than `segment_id`, with a word in `damage`. Bytes behind the
/// last whole entry are an entry that is being written.
///
/// # Errors
/// The file exists and cannot be read.
pub fn read_index(path: &Path, segment_id: Option<SegmentId>) -> Result<Index, Error> {
    read_index_with(path, segment_id, None)
}

/// As [`read_index`]. Where the checksum of all entries together is known, and is what they have, they are not looked at
/// one by one: that is a tenth of the work.
pub(crate) fn read_index_with(
    path: &Path,
    segment_id: Option<SegmentId>,
    entries_crc: Option<u32>,
) -> Result<Index, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Index::default()),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    Ok(parse_index(path, &bytes, segment_id, entries_crc))
}

fn parse_index(
    path: &Path,
    bytes: &[u8],
    segment_id: Option<SegmentId>,
    entries_crc: Option<u32>,
) -> Index {
    let damage = |offset: usize, what, expected: String, found: String| Damage {
        path: path.to_owned(),
        offset: offset as u64,
        what,
        expected,
        found,
    };
    let nothing = |damage| Index {
        damage: Some(damage),
        ..Index::default()
    };
    let Ok((header, entries)) = IndexHeader::read_from_prefix(bytes) else {
        let (expected, found) = (
            format!("{HEADER_BYTES} bytes"),
            format!("{} bytes", bytes.len()),
        );
        return nothing(damage(0, "index header", expected, found));
    };
    if let Some((offset, what, expected, found)) = header.objection(segment_id) {
        return nothing(damage(offset, what, expected, found));
    }
    let mut index = Index {
        closed: header.is_closed(),
        ..Index::default()
    };
    let stride = header.entry_bytes.get() as usize;
    if stride == ENTRY_BYTES
        && entries_crc.is_some_and(|expected| crc32c::crc32c(entries) == expected)
        && let Ok(entries) = <[IndexEntry]>::ref_from_bytes(entries)
    {
        index.entries = entries.to_vec();
        return index;
    }
    index.entries.reserve_exact(entries.len() / stride);
    for (number, bytes) in entries.chunks_exact(stride).enumerate() {
        let Ok((entry, _)) = IndexEntry::read_from_prefix(bytes) else {
            break;
        };
        if let Some((offset, what, expected, found)) = entry.objection(index.covered_bytes()) {
            let at = HEADER_BYTES + number * stride + offset;
            index.damage = Some(damage(at, what, expected, found));
            break;
        }
        index.entries.push(entry);
    }
    index
}

/// What cannot be right: offset of the field, what it is, what was expected, what was found.
type Objection = (usize, &'static str, String, String);

impl IndexHeader {
    fn objection(&self, segment_id: Option<SegmentId>) -> Option<Objection> {
        if self.magic != MAGIC {
            let (expected, found) = (MAGIC.escape_ascii(), self.magic.escape_ascii());
            return Some((
                0,
                "magic of the index",
                expected.to_string(),
                found.to_string(),
            ));
        }
        if self.crc.get() != self.checksum() {
            let at = offset_of!(IndexHeader, crc);
            let (expected, found) = hex(self.checksum(), self.crc.get());
            return Some((at, "checksum of the index header", expected, found));
        }
        let (version, entry_bytes) = (self.version.get(), self.entry_bytes.get());
        let is_ours = version & MAJOR_MASK == INDEX_VERSION & MAJOR_MASK
            && (entry_bytes == ENTRY_BYTES as u32
                || (version > INDEX_VERSION
                    && (ENTRY_BYTES as u32..=ENTRY_BYTES_MAX).contains(&entry_bytes)));
        if !is_ours {
            let layout = |version: u32, entry_bytes| {
                let (major, minor) = (version & MAJOR_MASK, version >> 16);
                format!("{major}.{minor} with entries of {entry_bytes} bytes")
            };
            return Some((
                offset_of!(IndexHeader, version),
                "index version",
                layout(INDEX_VERSION, ENTRY_BYTES as u32),
                layout(version, entry_bytes),
            ));
        }
        let named = SegmentId::from_ns(self.segment_id.get());
        let wanted = segment_id.filter(|&id| id != named)?;
        let at = offset_of!(IndexHeader, segment_id);
        Some((
            at,
            "segment id in the index",
            wanted.to_string(),
            named.to_string(),
        ))
    }
}

impl IndexEntry {
    fn objection(&self, covered_bytes: u64) -> Option<Objection> {
        if self.crc.get() != self.checksum() {
            let at = offset_of!(IndexEntry, crc);
            let (expected, found) = hex(self.checksum(), self.crc.get());
            return Some((at, "checksum of the index entry", expected, found));
        }
        if self.offset() != covered_bytes {
            let (expected, found) = (covered_bytes.to_string(), self.offset().to_string());
            return Some((0, "block offset in the index", expected, found));
        }
        let at = offset_of!(IndexEntry, length_bytes);
        (self.length_bytes() == 0).then(|| {
            (
                at,
                "block length in the index",
                "1 or more".into(),
                "0".into(),
            )
        })
    }
}

fn hex(expected: u32, found: u32) -> (String, String) {
    (format!("{expected:08x}"), format!("{found:08x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64) -> IndexEntry {
        let mut builder = EntryBuilder::at(offset);
        builder.add_line(100, 7, Level::Warn, 1);
        builder.add_line(50, 5, Level::Info, 4);
        builder.add_damaged_line(10);
        builder.build(0xabcd)
    }

    fn read(bytes: &[u8]) -> Index {
        parse_index(
            Path::new("test.idx"),
            bytes,
            Some(SegmentId::from_ns(9)),
            None,
        )
    }

    fn good() -> Vec<u8> {
        let header = IndexHeader::new(SegmentId::from_ns(9), true);
        [
            &header.to_bytes()[..],
            entry(0).as_bytes(),
            entry(160).as_bytes(),
        ]
        .concat()
    }

    #[test]
    fn an_entry_says_what_its_lines_were() {
        let entry = entry(0);
        assert_eq!(
            (entry.line_count(), entry.damaged_lines(), entry.end()),
            (3, 1, 160)
        );
        assert_eq!((entry.time_min_ns(), entry.time_max_ns()), (5, 7));
        assert_eq!((entry.source_mask(), entry.text_crc()), (5, 0xabcd));
        assert_eq!(
            (
                entry.level_count(Level::Warn),
                entry.level_count(Level::Trace)
            ),
            (1, 0)
        );
        assert_eq!(entry.difference(&entry), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let index = read(&good());
        assert_eq!(
            (index.closed, index.entries.len(), index.damage),
            (true, 2, None)
        );
    }

    #[test]
    fn no_bit_can_flip_unseen() {
        let good = good();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let index = read(&bad);
            let kept = (bit / 8).saturating_sub(HEADER_BYTES) / ENTRY_BYTES;
            assert_eq!(index.entries.len(), kept, "bit {bit}");
            assert!(index.damage.is_some(), "bit {bit}");
        }
    }

    #[test]
    fn entries_of_a_known_checksum_are_what_they_are_one_by_one() {
        let good = good();
        let known = Some(crc32c::crc32c(&good[HEADER_BYTES..]));
        let read_known = |bytes: &[u8]| {
            let id = Some(SegmentId::from_ns(9));
            parse_index(Path::new("test.idx"), bytes, id, known)
        };
        assert_eq!(read_known(&good).entries, read(&good).entries);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (index, expected) = (read_known(&bad), read(&bad));
            assert_eq!(index.entries, expected.entries, "bit {bit}");
            assert_eq!(index.damage, expected.damage, "bit {bit}");
        }
        let cut = &good[..good.len() - 1];
        assert_eq!(read_known(cut).entries, read(cut).entries);
    }

    #[test]
    fn an_index_cut_anywhere_is_read_as_far_as_it_goes() {
        let good = good();
        for length in 0..good.len() {
            let index = read(&good[..length]);
            let whole = length.saturating_sub(HEADER_BYTES) / ENTRY_BYTES;
            assert_eq!(index.entries.len(), whole, "{length} bytes");
            assert_eq!(
                index.damage.is_some(),
                length < HEADER_BYTES,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn blocks_that_do_not_follow_each_other_are_not_believed() {
        let header = IndexHeader::new(SegmentId::from_ns(9), false).to_bytes();
        for offset in [0, 159, 161] {
            let index =
                read(&[&header[..], entry(0).as_bytes(), entry(offset).as_bytes()].concat());
            assert_eq!(index.entries.len(), 1);
            let damage = index.damage.unwrap();
            assert_eq!(
                (damage.offset, damage.what),
                (160, "block offset in the index")
            );
            assert_eq!(damage.expected, "160");
        }
        let empty = EntryBuilder::at(0).build(0);
        let damage = read(&[&header[..], empty.as_bytes()].concat())
            .damage
            .unwrap();
        assert_eq!(damage.what, "block length in the index");
    }

    /// An index as a later version might write it.
    fn foreign(version: u32, entry_bytes: usize) -> Vec<u8> {
        let mut header = IndexHeader::new(SegmentId::from_ns(9), true);
        header.version = U32::new(version);
        header.entry_bytes = U32::new(entry_bytes as u32);
        header.flags = U32::new(0xff);
        header.reserved = [7; 32];
        header.crc = U32::new(header.checksum());
        let mut bytes = header.to_bytes().to_vec();
        for offset in [0, 160] {
            let mut entry = entry(offset);
            entry.reserved = [3; 20];
            entry.crc = U32::new(entry.checksum());
            bytes.extend_from_slice(entry.as_bytes());
            bytes.resize(bytes.len() + entry_bytes - ENTRY_BYTES, 0xee);
        }
        bytes
    }

    #[test]
    fn a_newer_minor_version_is_read_and_a_newer_major_one_is_not() {
        for entry_bytes in [ENTRY_BYTES, ENTRY_BYTES + 32] {
            let index = read(&foreign(5 << 16 | INDEX_VERSION, entry_bytes));
            assert_eq!((index.closed, index.entries.len()), (true, 2));
            assert_eq!(index.damage, None);
            assert_eq!(index.entries[1].offset(), 160);
        }
        for (version, entry_bytes) in [
            (2, ENTRY_BYTES),
            (1 << 16 | 2, ENTRY_BYTES),
            (INDEX_VERSION, ENTRY_BYTES + 32),
        ] {
            let index = read(&foreign(version, entry_bytes));
            assert_eq!(index.entries.len(), 0);
            let damage = index.damage.expect("it is said");
            assert_eq!(damage.what, "index version");
            assert_eq!(damage.expected, "1.0 with entries of 96 bytes");
        }
    }

    #[test]
    fn the_index_of_another_segment_is_none() {
        let header = IndexHeader::new(SegmentId::from_ns(8), false);
        let damage = read(&header.to_bytes()).damage.unwrap();
        assert_eq!(damage.what, "segment id in the index");
        assert_eq!(damage.found, SegmentId::from_ns(8).to_string());
    }
}
