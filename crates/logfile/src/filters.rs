//! Search filters of a sealed segment: which of its blocks cannot hold a text.
//!
//! `docs/formats/log.md`, *Filters*, has the picture. A block's filter is a set of the 4-byte pieces of its
//! messages, one hash each; the sets of up to 1,024 blocks, a *group*, lie bit-sliced, so that one short read
//! answers for all of them. In front of that a group has one set of its 6-byte pieces, so that a rare text
//! touches one or two pages of a segment that does not hold it. Nothing here is needed for an answer: a
//! filter only ever says that a text is not there.

use std::fs::File;
use std::io::{self, Write};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memchr::memchr_iter;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::Damage;
use crate::index::IndexEntry;
use crate::level::Level;
use crate::line::{ParsedLine, escape, parse_line, unescape};
use crate::name::SegmentId;

const FILTER_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"mpondflt";
/// Text below this has no filter: to search it costs less than to open one more file.
pub(crate) const FILTERED_BYTES_MIN: u64 = 128 << 10;

/// The file is made of pages, the last of them short, each ended by its checksum.
const PAGE_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;
const PAYLOAD_BYTES: usize = PAGE_BYTES - CRC_BYTES;

/// Pieces of text whose hash is in a block's filter.
pub(crate) const SHORT_GRAM_BYTES: usize = 4;
/// Pieces of text whose hash is in a group's map.
pub(crate) const LONG_GRAM_BYTES: usize = 6;
/// The first bytes of a word that was read as little-endian.
const SHORT_GRAM_MASK: u64 = (1 << (8 * SHORT_GRAM_BYTES)) - 1;
const LONG_GRAM_MASK: u64 = (1 << (8 * LONG_GRAM_BYTES)) - 1;
const HASH_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// A group is full with this many blocks, or this much text.
const GROUP_BLOCKS_MAX: u64 = 1024;
const GROUP_TEXT_BYTES: u64 = 128 << 20;
/// Bits of a block's filter per 16 bytes of text in an average block of its group: 5.5 %.
const ROWS_PER_16_BYTES: u64 = 7;
const ROWS_MIN: u64 = 64;
const ROWS_MAX: u64 = 1 << 20;
/// Text per bit of a group's map: 1.6 %.
const BYTES_PER_MAP_BIT: u64 = 8;
const GROUPS_MAX: u32 = 1 << 20;

/// What a filter file begins with.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    header_bytes: U32,
    segment_id: U64,
    text_bytes: U64,
    block_count: U32,
    group_count: U32,
    entries_crc: U32,
    zero: U32,
    time_min_ns: U64,
    time_max_ns: U64,
    source_mask: U64,
    level_counts: [U64; Level::COUNT],
    damaged_lines: U64,
}
const _: () = assert!(offset_of!(Header, segment_id) == 16);
const _: () = assert!(offset_of!(Header, block_count) == 32);
const _: () = assert!(offset_of!(Header, entries_crc) == 40);
const _: () = assert!(offset_of!(Header, time_min_ns) == 48);
const _: () = assert!(offset_of!(Header, level_counts) == 72);
const _: () = assert!(offset_of!(Header, damaged_lines) == 120);
const _: () = assert!(size_of::<Header>() == 128);

/// Where the filters of a group are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Group {
    first_block: U32,
    block_count: U32,
    row_count: U32,
    map_bits: U32,
    map_at: U64,
    rows_at: U64,
}
const _: () = assert!(size_of::<Group>() == 32);

impl Group {
    fn rows_bits(&self) -> u64 {
        u64::from(self.row_count.get()) * u64::from(self.block_count.get())
    }
}

/// Cuts the blocks of a segment into groups. Looks at nothing but the index, so that filters made later are
/// the same to the bit.
fn groups_of(entries: &[IndexEntry]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut first, mut blocks, mut text_bytes) = (0, 0, 0);
    for (number, entry) in entries.iter().enumerate() {
        blocks += 1;
        text_bytes += entry.length_bytes();
        let is_full = blocks == GROUP_BLOCKS_MAX || text_bytes >= GROUP_TEXT_BYTES;
        if !is_full && number + 1 < entries.len() {
            continue;
        }
        let rows = (text_bytes / blocks * ROWS_PER_16_BYTES / 16).clamp(ROWS_MIN, ROWS_MAX);
        let map_bits = (text_bytes / BYTES_PER_MAP_BIT)
            .next_multiple_of(64)
            .max(64);
        groups.push(Group {
            first_block: U32::new(first),
            block_count: U32::new(blocks as u32),
            row_count: U32::new(rows as u32),
            map_bits: U32::new(map_bits as u32),
            map_at: U64::new(0),
            rows_at: U64::new(0),
        });
        first += blocks as u32;
        (blocks, text_bytes) = (0, 0);
    }
    let mut at = (size_of::<Header>() + groups.len() * size_of::<Group>()) as u64;
    for group in &mut groups {
        group.map_at = U64::new(at);
        at += u64::from(group.map_bits.get()) / 8;
        group.rows_at = U64::new(at);
        at += group.rows_bits().div_ceil(8);
    }
    groups
}

/// The place, below `places`, that stands for a piece of text.
fn place(gram: u64, places: u64) -> u64 {
    ((gram.wrapping_mul(HASH_FACTOR) >> 32) * places) >> 32
}

fn short_gram(bytes: [u8; SHORT_GRAM_BYTES]) -> u64 {
    u32::from_le_bytes(bytes).into()
}

fn long_gram(bytes: [u8; LONG_GRAM_BYTES]) -> u64 {
    let [a, b, c, d, e, f] = bytes;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// The pieces of `text` of a length, as numbers.
fn grams<const N: usize>(text: &[u8], number: fn([u8; N]) -> u64) -> impl Iterator<Item = u64> {
    text.windows(N)
        .filter_map(move |window| window.try_into().ok().map(number))
}

fn set_bit(bits: &mut [u64], at: u64) {
    bits[(at / 64) as usize] |= 1 << (at % 64);
}

/// Writes pages.
struct PageWriter<W> {
    out: W,
    page: Vec<u8>,
    number: u64,
}

fn page_crc(number: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), payload)
}

impl<W: Write> PageWriter<W> {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = PAYLOAD_BYTES - self.page.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.page.extend_from_slice(now);
            bytes = later;
            if self.page.len() == PAYLOAD_BYTES {
                self.end_page()?;
            }
        }
        Ok(())
    }

    fn end_page(&mut self) -> io::Result<()> {
        let crc = page_crc(self.number, &self.page);
        self.page.extend_from_slice(&crc.to_le_bytes());
        self.out.write_all(&self.page)?;
        self.page.clear();
        self.number += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.page.is_empty() {
            self.end_page()?;
        }
        Ok(self.out)
    }
}

/// Makes the filters of a segment from the text of its blocks, in order. Takes the memory of one group: 3.6 MiB
/// at blocks of 64 KiB.
pub(crate) struct FilterWriter<W> {
    pages: PageWriter<W>,
    groups: std::vec::IntoIter<Group>,
    open: Option<OpenGroup>,
    canonical: Vec<u8>,
}

struct OpenGroup {
    group: Group,
    blocks: u64,
    map: Vec<u64>,
    rows: Vec<u64>,
    /// The rows of the block at hand.
    block: Vec<u64>,
}

impl OpenGroup {
    fn new(group: Group) -> Self {
        let words = |bits: u64| vec![0; bits.div_ceil(64) as usize];
        OpenGroup {
            group,
            blocks: 0,
            map: words(group.map_bits.get().into()),
            rows: words(group.rows_bits()),
            block: words(group.row_count.get().into()),
        }
    }

    /// The hot loop of a seal. Both pieces that begin at a byte come from one load, as long as eight bytes follow.
    fn add(&mut self, message: &[u8]) {
        let (row_count, map_bits) = (self.group.row_count.get(), self.group.map_bits.get());
        let (block, map) = (&mut self.block[..], &mut self.map[..]);
        let mut add_short = |gram| set_bit(block, place(gram, row_count.into()));
        let mut add_long = |gram| set_bit(map, place(gram, map_bits.into()));
        for word in grams(message, u64::from_le_bytes) {
            add_short(word & SHORT_GRAM_MASK);
            add_long(word & LONG_GRAM_MASK);
        }
        // Those that begin where fewer follow.
        let rest = &message[message.len().saturating_sub(size_of::<u64>() - 1)..];
        grams(rest, short_gram).for_each(add_short);
        grams(rest, long_gram).for_each(add_long);
    }

    fn add_line(&mut self, line: &[u8], canonical: &mut Vec<u8>) {
        let Ok(ParsedLine { message, .. }) = parse_line(line) else {
            // A damaged line is reported by whoever finds it, so it must be found.
            return self.add(line);
        };
        self.add(message);
        let is_plain = |&byte: &u8| matches!(byte, b'\t' | b' '..=b'~') && byte != b'\\';
        if !message.iter().all(is_plain) {
            // Needles are looked for as we would write them. Others may have written the same otherwise.
            let mut raw = Vec::with_capacity(message.len());
            unescape(message, &mut raw);
            canonical.clear();
            escape(&raw, canonical);
            if canonical != message {
                self.add(canonical);
            }
        }
    }

    fn end_block(&mut self) {
        let block_count = u64::from(self.group.block_count.get());
        for (number, word) in self.block.iter_mut().enumerate() {
            let mut rest = std::mem::take(word);
            while rest != 0 {
                let row = number as u64 * 64 + u64::from(rest.trailing_zeros());
                if row < self.group.row_count.get().into() {
                    set_bit(&mut self.rows, row * block_count + self.blocks);
                }
                rest &= rest - 1;
            }
        }
        self.blocks += 1;
    }
}

impl<W: Write> FilterWriter<W> {
    /// Begins a file. `entries` is the whole index; `has_tail` says that text follows which no line end ends.
    pub(crate) fn new(
        out: W,
        id: SegmentId,
        entries: &[IndexEntry],
        has_tail: bool,
    ) -> io::Result<Self> {
        let groups = groups_of(entries);
        let header = header_of(id, entries, groups.len(), has_tail);
        let mut pages = PageWriter {
            out,
            page: Vec::with_capacity(PAGE_BYTES),
            number: 0,
        };
        pages.write(header.as_bytes())?;
        pages.write(groups.as_bytes())?;
        Ok(FilterWriter {
            pages,
            groups: groups.into_iter(),
            open: None,
            canonical: Vec::new(),
        })
    }

    /// Adds the text of the next block; `None` where it cannot be read, so that it can hold anything.
    pub(crate) fn add_block(&mut self, text: Option<&[u8]>) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let group = self.groups.next().ok_or(io::ErrorKind::InvalidInput)?;
                self.open.insert(OpenGroup::new(group))
            }
        };
        match text {
            Some(text) => {
                let mut start = 0;
                for end in memchr_iter(b'\n', text).map(|newline| newline + 1) {
                    open.add_line(&text[start..end], &mut self.canonical);
                    start = end;
                }
                open.add_line(&text[start..], &mut self.canonical);
            }
            None => {
                open.block.fill(u64::MAX);
                open.map.fill(u64::MAX);
            }
        }
        open.end_block();
        if open.blocks == u64::from(open.group.block_count.get()) {
            let map_bytes = open.group.map_bits.get() as usize / 8;
            let rows_bytes = open.group.rows_bits().div_ceil(8) as usize;
            self.pages.write(&open.map.as_bytes()[..map_bytes])?;
            self.pages.write(&open.rows.as_bytes()[..rows_bytes])?;
            self.open = None;
        }
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(self) -> io::Result<W> {
        self.pages.finish()
    }
}

fn header_of(id: SegmentId, entries: &[IndexEntry], group_count: usize, has_tail: bool) -> Header {
    let sum = |of: &dyn Fn(&IndexEntry) -> u64| U64::new(entries.iter().map(of).sum());
    let time_min = entries.iter().map(IndexEntry::time_min_ns).min();
    let time_max = entries.iter().map(IndexEntry::time_max_ns).max();
    let sources = entries.iter().map(IndexEntry::source_mask);
    Header {
        magic: MAGIC,
        version: U32::new(FILTER_VERSION),
        header_bytes: U32::new(size_of::<Header>() as u32),
        segment_id: U64::new(id.as_ns()),
        text_bytes: U64::new(entries.last().map_or(0, IndexEntry::end)),
        block_count: U32::new(entries.len() as u32),
        group_count: U32::new(group_count as u32),
        entries_crc: U32::new(crc32c::crc32c(entries.as_bytes())),
        zero: U32::new(0),
        time_min_ns: U64::new(time_min.unwrap_or(u64::MAX)),
        time_max_ns: U64::new(time_max.unwrap_or(0)),
        source_mask: U64::new(sources.fold(0, |all, mask| all | mask)),
        level_counts: Level::ALL.map(|level| sum(&|entry| entry.level_count(level))),
        // Who counts without opening the text would not see that its last line has no end.
        damaged_lines: U64::new(
            entries.iter().map(IndexEntry::damaged_lines).sum::<u64>() + u64::from(has_tail),
        ),
    }
}

/// What blocks, or a whole segment, hold: enough to leave them out or to count them.
pub(crate) trait Contents {
    fn time_min_ns(&self) -> u64;
    fn time_max_ns(&self) -> u64;
    fn source_mask(&self) -> u64;
    fn level_count(&self, level: Level) -> u64;
    fn damaged_lines(&self) -> u64;
}

impl Contents for IndexEntry {
    fn time_min_ns(&self) -> u64 {
        self.time_min_ns()
    }
    fn time_max_ns(&self) -> u64 {
        self.time_max_ns()
    }
    fn source_mask(&self) -> u64 {
        self.source_mask()
    }
    fn level_count(&self, level: Level) -> u64 {
        self.level_count(level)
    }
    fn damaged_lines(&self) -> u64 {
        self.damaged_lines()
    }
}

impl Contents for Filters {
    fn time_min_ns(&self) -> u64 {
        self.header.time_min_ns.get()
    }
    fn time_max_ns(&self) -> u64 {
        self.header.time_max_ns.get()
    }
    fn source_mask(&self) -> u64 {
        self.header.source_mask.get()
    }
    fn level_count(&self, level: Level) -> u64 {
        self.header.level_counts[level as usize].get()
    }
    fn damaged_lines(&self) -> u64 {
        self.header.damaged_lines.get()
    }
}

/// A text to look for, as pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Literal {
    long: Vec<u64>,
    short: Vec<u64>,
}

impl Literal {
    /// More pieces than this hardly exclude more.
    const GRAMS_MAX: usize = 16;

    fn new(text: &[u8]) -> Self {
        Literal {
            long: rarest(text, long_gram),
            short: rarest(text, short_gram),
        }
    }
}

/// Some pieces of `text`, those first that are likely to be rare: what is not of small letters and spaces.
fn rarest<const N: usize>(text: &[u8], number: fn([u8; N]) -> u64) -> Vec<u64> {
    let commonness = |window: &[u8]| {
        let common = |byte: &&u8| byte.is_ascii_lowercase() || **byte == b' ';
        window.iter().filter(common).count()
    };
    let mut windows: Vec<(usize, u64)> = text
        .windows(N)
        .filter_map(|window| Some((commonness(window), number(window.try_into().ok()?))))
        .collect();
    windows.sort_by_key(|&(commonness, _)| commonness);
    let mut rarest: Vec<u64> = Vec::new();
    for (_, gram) in windows {
        if rarest.len() < Literal::GRAMS_MAX && !rarest.contains(&gram) {
            rarest.push(gram);
        }
    }
    rarest
}

/// What a line must hold, as written in the file: of each clause at least one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needles {
    clauses: Vec<Vec<Literal>>,
}

impl Needles {
    /// Clauses of which a filter can say nothing are left out.
    pub(crate) fn new(clauses: impl IntoIterator<Item = Vec<Vec<u8>>>) -> Self {
        let usable = |clause: &Vec<Vec<u8>>| {
            !clause.is_empty() && clause.iter().all(|text| text.len() >= SHORT_GRAM_BYTES)
        };
        let literals =
            |clause: Vec<Vec<u8>>| clause.iter().map(|text| Literal::new(text)).collect();
        Needles {
            clauses: clauses.into_iter().filter(usable).map(literals).collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }
}

/// Blocks of a segment, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockSet {
    words: Vec<u64>,
}

impl BlockSet {
    fn none(blocks: u64) -> Self {
        BlockSet {
            words: vec![0; blocks.div_ceil(64) as usize],
        }
    }

    fn all(blocks: u64) -> Self {
        let mut set = BlockSet::none(blocks);
        set.words.fill(u64::MAX);
        if let Some(last) = set.words.last_mut()
            && !blocks.is_multiple_of(64)
        {
            *last = (1 << (blocks % 64)) - 1;
        }
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Their numbers, the smallest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.words.iter().enumerate();
        words.flat_map(|(number, &word)| {
            let some = |rest: u64| (rest != 0).then_some(rest);
            std::iter::successors(some(word), move |rest| some(rest & (rest - 1)))
                .map(move |rest| number * 64 + rest.trailing_zeros() as usize)
        })
    }

    fn keep(&mut self, other: &BlockSet) {
        let pairs = self.words.iter_mut().zip(&other.words);
        pairs.for_each(|(word, other)| *word &= other);
    }

    fn add(&mut self, other: &BlockSet) {
        let pairs = self.words.iter_mut().zip(&other.words);
        pairs.for_each(|(word, other)| *word |= other);
    }
}

/// What the filters of a segment are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) text_bytes: u64,
    pub(crate) blocks: usize,
    /// CRC-32C of the entries of the index.
    pub(crate) entries_crc: u32,
}

/// The filters of a segment, open. Pages are read, and checked, when they are needed.
pub(crate) struct Filters {
    path: PathBuf,
    file: File,
    header: Header,
    groups: Vec<Group>,
    page: Vec<u8>,
    page_number: Option<u64>,
}

impl Filters {
    /// Opens the filters of a segment. `None` where there are none, or of a version that is not known.
    ///
    /// # Errors
    /// Why they cannot be believed.
    pub(crate) fn open(service_dir: &Path, id: SegmentId) -> Result<Option<Self>, Damage> {
        let path = id.filter_path(service_dir);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, 0, &error)),
        };
        let mut filters = Filters {
            path,
            file,
            header: Header::new_zeroed(),
            groups: Vec::new(),
            page: Vec::new(),
            page_number: None,
        };
        let mut header = Header::new_zeroed();
        filters.read(0, header.as_mut_bytes())?;
        if header.magic != MAGIC {
            let (expected, found) = (MAGIC.escape_ascii(), header.magic.escape_ascii());
            return Err(filters.objection("magic of the filter", expected, found));
        }
        if header.version.get() != FILTER_VERSION {
            return Ok(None);
        }
        if header.segment_id.get() != id.as_ns() {
            let found = SegmentId::from_ns(header.segment_id.get());
            return Err(filters.objection("segment id in the filter", id, found));
        }
        filters.header = header;
        Ok(Some(filters))
    }

    /// The text that the filters speak of.
    pub(crate) fn covers(&self) -> Covered {
        Covered {
            text_bytes: self.header.text_bytes.get(),
            blocks: self.header.block_count.get() as usize,
            entries_crc: self.header.entries_crc.get(),
        }
    }

    /// The blocks that can hold all of `needles`.
    ///
    /// # Errors
    /// Why the filters cannot be believed.
    pub(crate) fn blocks(&mut self, needles: &Needles) -> Result<BlockSet, Damage> {
        self.read_groups()?;
        let Covered { blocks, .. } = self.covers();
        let mut found = BlockSet::none(blocks as u64);
        for group in self.groups.clone() {
            if !self.map_admits(&group, needles)? {
                continue;
            }
            let in_group = self.blocks_of(&group, needles)?;
            let first = group.first_block.get() as usize;
            for block in in_group.iter() {
                set_bit(&mut found.words, (first + block) as u64);
            }
        }
        Ok(found)
    }

    fn read_groups(&mut self) -> Result<(), Damage> {
        if !self.groups.is_empty() {
            return Ok(());
        }
        let count = self.header.group_count.get();
        if count > GROUPS_MAX {
            let limit = format!("at most {GROUPS_MAX}");
            return Err(self.objection("groups of the filter", limit, count));
        }
        let mut groups = vec![Group::new_zeroed(); count as usize];
        self.read(size_of::<Header>() as u64, groups.as_mut_bytes())?;
        let mut covered = 0;
        for group in &groups {
            let Group {
                first_block,
                block_count,
                row_count,
                map_bits,
                ..
            } = group;
            let is_usable = block_count.get() > 0 && row_count.get() > 0 && map_bits.get() > 0;
            if !is_usable || u64::from(first_block.get()) != covered {
                let expected = format!("a group that begins with block {covered}");
                return Err(self.objection("group of the filter", expected, first_block));
            }
            covered += u64::from(block_count.get());
        }
        let Covered { blocks, .. } = self.covers();
        if covered != blocks as u64 {
            return Err(self.objection("blocks of the filter", blocks, covered));
        }
        self.groups = groups;
        Ok(())
    }

    /// Whether any block of the group can hold the needles, by its map alone.
    fn map_admits(&mut self, group: &Group, needles: &Needles) -> Result<bool, Damage> {
        for clause in &needles.clauses {
            let mut any = false;
            for literal in clause {
                if self.map_holds(group, literal)? {
                    any = true;
                    break;
                }
            }
            if !any {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn map_holds(&mut self, group: &Group, literal: &Literal) -> Result<bool, Damage> {
        for &gram in &literal.long {
            let bit = place(gram, group.map_bits.get().into());
            let mut byte = [0];
            self.read(group.map_at.get() + bit / 8, &mut byte)?;
            if byte[0] & (1 << (bit % 8)) == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn blocks_of(&mut self, group: &Group, needles: &Needles) -> Result<BlockSet, Damage> {
        let blocks = u64::from(group.block_count.get());
        let mut found = BlockSet::all(blocks);
        for clause in &needles.clauses {
            let mut any = BlockSet::none(blocks);
            for literal in clause {
                // What other clauses exclude need not be looked for.
                let mut with_literal = found.clone();
                for &gram in &literal.short {
                    if with_literal.is_empty() {
                        break;
                    }
                    with_literal.keep(&self.row(group, gram)?);
                }
                any.add(&with_literal);
            }
            found.keep(&any);
            if found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// The blocks of a group that have a piece of text, or another with the same hash.
    fn row(&mut self, group: &Group, gram: u64) -> Result<BlockSet, Damage> {
        let blocks = u64::from(group.block_count.get());
        let first_bit = place(gram, group.row_count.get().into()) * blocks;
        let (first, last) = (first_bit / 8, (first_bit + blocks - 1) / 8);
        let mut bytes = vec![0; (last - first + 1) as usize];
        self.read(group.rows_at.get() + first, &mut bytes)?;
        let mut row = BlockSet::none(blocks);
        let shift = first_bit % 8;
        let bytes_at = |at: usize| u64::from(bytes.get(at).copied().unwrap_or(0));
        for (number, word) in row.words.iter_mut().enumerate() {
            let at = number * 8;
            let low = (0..8).fold(0, |low, byte| low | bytes_at(at + byte) << (8 * byte));
            *word = match shift {
                0 => low,
                shift => low >> shift | bytes_at(at + 8) << (64 - shift),
            };
        }
        // The next row begins within the last word.
        row.keep(&BlockSet::all(blocks));
        Ok(row)
    }

    /// Reads what stands at `at`, checksums left out.
    fn read(&mut self, mut at: u64, mut out: &mut [u8]) -> Result<(), Damage> {
        while !out.is_empty() {
            let number = at / PAYLOAD_BYTES as u64;
            self.load(number)?;
            let from = (at % PAYLOAD_BYTES as u64) as usize;
            let payload = self.page.get(from..).unwrap_or_default();
            if payload.is_empty() {
                let expected = format!("{} more bytes", out.len());
                return Err(self.damage(number, "end of the filter", expected, "none"));
            }
            let length = payload.len().min(out.len());
            let (now, later) = out.split_at_mut(length);
            now.copy_from_slice(&payload[..length]);
            out = later;
            at += length as u64;
        }
        Ok(())
    }

    fn load(&mut self, number: u64) -> Result<(), Damage> {
        if self.page_number == Some(number) {
            return Ok(());
        }
        self.page_number = None;
        self.page.resize(PAGE_BYTES, 0);
        let mut length = 0;
        while length < PAGE_BYTES {
            let offset = number.saturating_mul(PAGE_BYTES as u64) + length as u64;
            match self.file.read_at(&mut self.page[length..], offset) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&self.path, offset, &error)),
            }
        }
        self.page.truncate(length);
        let Some((payload, &crc)) = self.page.split_last_chunk::<CRC_BYTES>() else {
            let found = format!("{length} bytes");
            return Err(self.damage(number, "page of the filter", "a whole one", found));
        };
        let (expected, found) = (page_crc(number, payload), u32::from_le_bytes(crc));
        if expected != found {
            let (expected, found) = (format!("{expected:08x}"), format!("{found:08x}"));
            return Err(self.damage(number, "checksum of the filter", expected, found));
        }
        self.page.truncate(length - CRC_BYTES);
        self.page_number = Some(number);
        Ok(())
    }

    fn objection(
        &self,
        what: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Damage {
        self.damage(0, what, expected, found)
    }

    fn damage(
        &self,
        page: u64,
        what: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Damage {
        Damage {
            path: self.path.clone(),
            offset: page.saturating_mul(PAGE_BYTES as u64),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

fn unreadable(path: &Path, offset: u64, error: &io::Error) -> Damage {
    Damage {
        path: path.to_owned(),
        offset,
        what: "filter",
        expected: "a readable file".into(),
        found: error.to_string(),
    }
}

/// Takes what would be written, and compares it with a file that is there.
pub(crate) struct Comparison {
    file: io::BufReader<File>,
    compared_bytes: u64,
    /// Where the file first differs.
    pub(crate) differs_at: Option<u64>,
}

impl Comparison {
    pub(crate) fn new(file: File) -> Self {
        Comparison {
            file: io::BufReader::with_capacity(256 << 10, file),
            compared_bytes: 0,
            differs_at: None,
        }
    }

    /// Nothing more comes: the file must end here too.
    pub(crate) fn finish(mut self) -> io::Result<Option<u64>> {
        let more = io::Read::read(&mut self.file, &mut [0])? > 0;
        let at_end = more.then_some(self.compared_bytes);
        Ok(self.differs_at.or(at_end))
    }
}

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.differs_at.is_none() {
            let mut found = vec![0; bytes.len()];
            let same = match io::Read::read_exact(&mut self.file, &mut found) {
                Ok(()) => bytes.iter().zip(&found).position(|(a, b)| a != b),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(0),
                Err(error) => return Err(error),
            };
            self.differs_at = same.map(|at| self.compared_bytes + at as u64);
            self.compared_bytes += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
