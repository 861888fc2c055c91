//! Making a segment consistent after a crash, and its index from its text.
//!
//! The text is the truth. With a committed length (from shared memory, after `kill -9`) the text is cut
//! there; without one (after a power cut) it is cut behind its last whole line. The index is cut to what the
//! text bears out, then brought up to it. `docs/formats/log.md` goes through the cases. A sealed segment is
//! never cut: there its frames are the blocks, and search filters are made anew beside the index.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::{memchr, memchr_iter, memrchr};
use zerocopy::IntoBytes;

use crate::block::{BLOCK_BYTES, BlockWriter};
use crate::error::{Damage, Error};
use crate::filters::{Comparison, FILTERED_BYTES_MIN, FilterWriter, Filters};
use crate::index::{
    ENTRY_BYTES, EntryBuilder, HEADER_BYTES, Index, IndexEntry, IndexHeader, read_index,
};
use crate::line::{LineError, is_written_line, parse_whole_line, source_mask};
use crate::name::SegmentId;
use crate::sealed::{Form, FrameReader, SealedFile, SegmentText};

/// Text is read in pieces of this size, or of the longest line.
const READ_BYTES: usize = 1 << 20;
/// A stretch without a line end is cut into damaged lines of this size.
const LINE_BYTES_MAX: usize = 256 << 20;
/// Checksums are verified from the end backwards until this many blocks in a row fit: what a power cut tears
/// is near the end.
const SUSPECT_BLOCKS: usize = 64;
/// Filters are written in pieces of this size.
const FILTER_WRITE_BYTES: usize = 256 << 10;
/// How much of the text that is cut is looked at for the reason.
const CUT_PROBE_BYTES: u64 = 4 << 10;

/// A segment as recovery leaves it, ready to be appended to.
///
/// ```
/// use millpond_logfile::{BlockWriter, Level, SegmentId, Source, recover_segment};
///
/// # let dir = tempfile::tempdir()?;
/// # let service_dir = dir.path();
/// let id = SegmentId::from_ns(7);
/// let mut text = Vec::new();
/// BlockWriter::new().append(&mut text, 7, Level::Info, &Source::new("rpc"), b"listening");
/// let whole_bytes = text.len() as u64;
/// text.extend_from_slice(b"1970-01-01T00:00:00.00000"); // the power went here
/// std::fs::write(id.log_path(service_dir), &text)?;
///
/// let recovered = recover_segment(service_dir, id, None)?;
/// assert_eq!((recovered.length_bytes, recovered.cut_bytes), (whole_bytes, 25));
/// assert_eq!(recovered.why, "its last line has no end");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recovered {
    /// Goes on where the segment ends; its closed blocks are in `entries` already.
    pub block: BlockWriter,
    /// Length of the text that is kept.
    pub length_bytes: u64,
    /// The index: full blocks only.
    pub entries: Vec<IndexEntry>,
    /// Bytes of text that are cut.
    pub cut_bytes: u64,
    /// Why they are cut; empty when nothing is.
    pub why: String,
    /// Text that is missing: the committed length is beyond the end of the file.
    pub missing_bytes: u64,
    /// What was wrong with the index, and with the text that it covers. Repaired where that is possible.
    pub damage: Vec<Damage>,
    /// The segment is sealed: its text was left alone, and nothing can be appended to it. What follows needs
    /// a new segment.
    pub is_sealed: bool,
}

/// Recovers the open segment `id` in `service_dir`: cuts its text and replaces its index.
///
/// `committed_bytes` is the length that the commit point names; `None` where there is none. Reads what the
/// index does not cover, and the last 4 MiB of what it does. Can be repeated: done twice, the second finds
/// nothing to do. Of a segment that is sealed only the index is brought up to the text.
///
/// # Errors
/// A file cannot be read, cut or written.
pub fn recover_segment(
    service_dir: &Path,
    id: SegmentId,
    committed_bytes: Option<u64>,
) -> Result<Recovered, Error> {
    let path = id.log_path(service_dir);
    if let Some(text) = open_sealed(service_dir, id)? {
        let recovered = examine_sealed(&text, service_dir, id, committed_bytes)?;
        write_index(&id.index_path(service_dir), id, true, &recovered.entries)?;
        return Ok(recovered);
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| Error::io("open", &path, error))?;
    let recovered = examine(&file, service_dir, id, committed_bytes)?;
    // First the index: killed in between, we leave one that ends early. A text that is cut already would look complete,
    // and an index that is marked closed and goes on behind it would be believed.
    write_index(&id.index_path(service_dir), id, false, &recovered.entries)?;
    if recovered.cut_bytes > 0 {
        file.set_len(recovered.length_bytes)
            .map_err(|error| Error::io("cut", &path, error))?;
        kill_point!("recover.text_cut");
    }
    Ok(recovered)
}

/// What [`recover_segment`] would do. Changes nothing.
///
/// # Errors
/// A file cannot be read.
pub fn inspect_segment(
    service_dir: &Path,
    id: SegmentId,
    committed_bytes: Option<u64>,
) -> Result<Recovered, Error> {
    let path = id.log_path(service_dir);
    if let Some(text) = open_sealed(service_dir, id)? {
        return examine_sealed(&text, service_dir, id, committed_bytes);
    }
    let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
    examine(&file, service_dir, id, committed_bytes)
}

/// The text of a segment, if only its sealed form is there.
fn open_sealed(service_dir: &Path, id: SegmentId) -> Result<Option<SegmentText>, Error> {
    let text = match SegmentText::open(service_dir, id) {
        Ok(text) => text,
        // The plain form is missed by name.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", &id.log_path(service_dir), error)),
    };
    Ok(Some(text).filter(SegmentText::is_sealed))
}

fn examine_sealed(
    text: &SegmentText,
    service_dir: &Path,
    id: SegmentId,
    committed_bytes: Option<u64>,
) -> Result<Recovered, Error> {
    let index_path = id.index_path(service_dir);
    let mut index = read_index(&index_path, Some(id))?;
    let length_bytes = text
        .length_bytes()
        .map_err(|error| Error::io("stat", text.path(), error))?;
    let mut damage: Vec<Damage> = index.damage.take().into_iter().collect();
    damage.extend(ahead_of_text(&index, &index_path, length_bytes));
    if index.covered_bytes() != length_bytes {
        let read = read_text(text, &index.entries, true)?;
        index.entries = read.entries;
        damage.extend(read.damage);
    }
    let mut block = Vec::new();
    let mut fitting = 0;
    for entry in index.entries.iter().rev() {
        if fitting == SUSPECT_BLOCKS {
            break;
        }
        block.resize(entry.length_bytes() as usize, 0);
        let found = text
            .read_exact_at(&mut block, entry.offset())
            .map(|()| crc32c::crc32c(&block));
        match found {
            Ok(found) if found == entry.text_crc() => fitting += 1,
            Ok(found) => damage.push(wrong_checksum(text.path(), entry, found)),
            Err(error) => damage.push(Damage {
                path: text.path().to_owned(),
                offset: entry.offset(),
                what: "text",
                expected: "readable".into(),
                found: error.to_string(),
            }),
        }
    }
    Ok(Recovered {
        block: BlockWriter::at(length_bytes),
        length_bytes,
        entries: index.entries,
        cut_bytes: 0,
        why: String::new(),
        missing_bytes: committed_bytes
            .map_or(0, |committed| committed.saturating_sub(length_bytes)),
        damage,
        is_sealed: true,
    })
}

/// Brings the index of a segment that is not appended to any more up to its text, where it ends early: an index is
/// never synced, and a power cut may take what was written of it last. What is there of a plain segment's index is
/// believed, and stays.
///
/// Reads what the index does not cover; of a sealed segment everything, unless it covers all. Can be repeated.
///
/// ```
/// use millpond_logfile::{
///     BlockWriter, Level, SegmentId, Source, complete_index, rebuild_index, verify_segment,
/// };
///
/// # let dir = tempfile::tempdir()?;
/// # let service_dir = dir.path();
/// let id = SegmentId::from_ns(7);
/// let mut text = Vec::new();
/// BlockWriter::new().append(&mut text, 7, Level::Info, &Source::new("rpc"), b"listening");
/// std::fs::write(id.log_path(service_dir), &text)?;
/// rebuild_index(service_dir, id, false)?;
///
/// std::fs::write(id.index_path(service_dir), "")?; // the power went here
/// complete_index(service_dir, id)?;
/// assert!(verify_segment(service_dir, id)?.damage.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A file cannot be read or written, or the index goes on behind the text.
pub fn complete_index(service_dir: &Path, id: SegmentId) -> Result<(), Error> {
    match open_sealed(service_dir, id)? {
        Some(_) => recover_segment(service_dir, id, None).map(drop),
        None => complete_plain_index(service_dir, id).map(drop),
    }
}

/// The index of a closed segment that is to be sealed; an index that ends early is completed first.
pub(crate) fn complete_plain_index(
    service_dir: &Path,
    id: SegmentId,
) -> Result<Vec<IndexEntry>, Error> {
    let (path, index_path) = (id.log_path(service_dir), id.index_path(service_dir));
    let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
    let length_bytes = length_of(&file, &path)?;
    let mut index = read_index(&index_path, Some(id))?;
    if let Some(ahead) = ahead_of_text(&index, &index_path, length_bytes) {
        // Sealed, the segment would not tell any more that text is missing.
        return Err(Error::invalid(format!(
            "{} is not sealed, since text of it is missing: {ahead}; `millpond index rebuild` accepts what is \
             there",
            path.display()
        )));
    }
    let covered = index.covered_bytes();
    if index.closed && last_line_end(&file, &path, covered..length_bytes, true)? == covered {
        return Ok(index.entries);
    }
    if covered < length_bytes {
        let full_blocks = index
            .entries
            .iter()
            .take_while(|entry| entry.length_bytes() >= BLOCK_BYTES);
        index.entries.truncate(full_blocks.count());
    }
    let covered = index.covered_bytes();
    let mut block = BlockWriter::at(covered);
    for_each_piece(&file, &path, covered..length_bytes, |_, text| {
        for line in lines_of(text) {
            block.account(text, line.start, line.end);
        }
        block.fold(text);
    })?;
    block.finish(&[]);
    index.entries.append(&mut block.take_entries());
    write_index(&index_path, id, true, &index.entries)?;
    Ok(index.entries)
}

fn examine(
    file: &File,
    service_dir: &Path,
    id: SegmentId,
    committed_bytes: Option<u64>,
) -> Result<Recovered, Error> {
    let (path, index_path) = (id.log_path(service_dir), id.index_path(service_dir));
    let found_bytes = length_of(file, &path)?;
    let limit = committed_bytes.unwrap_or(found_bytes).min(found_bytes);
    let mut index = read_index(&index_path, Some(id))?;
    let mut damage: Vec<Damage> = index.damage.take().into_iter().collect();
    damage.extend(ahead_of_text(&index, &index_path, found_bytes));
    index.cut(limit);
    // Only the last block of a closed segment is not full. This one is open (again), and the block with it.
    let full_blocks = index
        .entries
        .iter()
        .take_while(|entry| entry.length_bytes() >= BLOCK_BYTES);
    index.entries.truncate(full_blocks.count());
    damage.extend(drop_torn_blocks(file, &path, &mut index)?);

    let covered = index.covered_bytes();
    let is_all_there = committed_bytes.is_some_and(|committed| committed <= found_bytes);
    let length_bytes = last_line_end(file, &path, covered..limit, is_all_there)?;
    let mut block = BlockWriter::at(covered);
    for_each_piece(file, &path, covered..length_bytes, |_, text| {
        for line in lines_of(text) {
            block.account(text, line.start, line.end);
        }
        block.fold(text);
    })?;

    let mut entries = index.entries;
    entries.append(&mut block.take_entries());
    let why = if length_bytes == found_bytes {
        String::new()
    } else if is_all_there && length_bytes == limit {
        "it was written and never committed".to_owned()
    } else {
        reason_to_cut(file, &path, length_bytes..limit)?.to_owned()
    };
    Ok(Recovered {
        block,
        length_bytes,
        entries,
        cut_bytes: found_bytes - length_bytes,
        why,
        missing_bytes: committed_bytes.map_or(0, |committed| committed.saturating_sub(found_bytes)),
        damage,
        is_sealed: false,
    })
}

/// An index may end before its text. It must not go on behind it.
fn ahead_of_text(index: &Index, index_path: &Path, text_bytes: u64) -> Option<Damage> {
    let number = index
        .entries
        .partition_point(|entry| entry.end() <= text_bytes);
    (number < index.entries.len()).then(|| Damage {
        path: index_path.to_owned(),
        offset: (HEADER_BYTES + number * ENTRY_BYTES) as u64,
        what: "text covered by the index",
        expected: format!("at most {text_bytes} bytes"),
        found: format!("{} bytes", index.covered_bytes()),
    })
}

/// Drops the entries from the first whose text is not what they say. Looks from the end backwards, until
/// [`SUSPECT_BLOCKS`] in a row fit.
fn drop_torn_blocks(file: &File, path: &Path, index: &mut Index) -> Result<Vec<Damage>, Error> {
    let mut damage = Vec::new();
    let mut text = Vec::new();
    let mut fitting = 0;
    for (number, entry) in index.entries.clone().iter().enumerate().rev() {
        if fitting == SUSPECT_BLOCKS {
            break;
        }
        text.resize(entry.length_bytes() as usize, 0);
        read_at(file, path, &mut text, entry.offset())?;
        let found = crc32c::crc32c(&text);
        if found == entry.text_crc() {
            fitting += 1;
        } else {
            fitting = 0;
            index.entries.truncate(number);
            damage.push(wrong_checksum(path, entry, found));
        }
    }
    damage.reverse();
    Ok(damage)
}

fn wrong_checksum(path: &Path, entry: &IndexEntry, found: u32) -> Damage {
    Damage {
        path: path.to_owned(),
        offset: entry.offset(),
        what: "checksum of the block",
        expected: format!("{:08x}", entry.text_crc()),
        found: format!("{found:08x}"),
    }
}

/// Where the last line of `range` ends that can have been written as it stands, or, with `any_line`, the last
/// of whatever kind.
fn last_line_end(
    file: &File,
    path: &Path,
    range: Range<u64>,
    any_line: bool,
) -> Result<u64, Error> {
    let mut last = range.start;
    for_each_piece(file, path, range, |offset, text| {
        let mut end = text.len();
        while end > 0 {
            let start = memrchr(b'\n', &text[..end - 1]).map_or(0, |newline| newline + 1);
            if any_line || is_written_line(&text[start..end]) {
                last = offset + end as u64;
                break;
            }
            end = start;
        }
    })?;
    Ok(last)
}

/// What is wrong with `cut`, from its end.
fn reason_to_cut(file: &File, path: &Path, cut: Range<u64>) -> Result<&'static str, Error> {
    let from = cut.start.max(cut.end.saturating_sub(CUT_PROBE_BYTES));
    let mut text = vec![0; (cut.end - from) as usize];
    read_at(file, path, &mut text, from)?;
    Ok(if memchr(0, &text).is_some() {
        "it ends in bytes that were never written"
    } else if text.ends_with(b"\n") {
        "it ends in text that is no log line"
    } else {
        "its last line has no end"
    })
}

/// Calls `visit` with the offset and the text of pieces of `range`, each made of whole lines. What follows the
/// last line end is left out.
fn for_each_piece(
    file: &File,
    path: &Path,
    range: Range<u64>,
    mut visit: impl FnMut(u64, &[u8]),
) -> Result<(), Error> {
    let mut offset = range.start;
    let mut text = Vec::new();
    loop {
        let kept = text.len();
        let unread = range.end - offset - kept as u64;
        let wanted = unread.min(READ_BYTES.min(LINE_BYTES_MAX - kept) as u64) as usize;
        if wanted == 0 {
            return Ok(());
        }
        text.resize(kept + wanted, 0);
        read_at(file, path, &mut text[kept..], offset + kept as u64)?;
        let end = match memrchr(b'\n', &text[kept..]) {
            Some(newline) => kept + newline + 1,
            None if text.len() == LINE_BYTES_MAX => LINE_BYTES_MAX,
            None => continue,
        };
        visit(offset, &text[..end]);
        text.drain(..end);
        offset += end as u64;
    }
}

/// The lines of a piece, newlines included; a piece without one is a line.
fn lines_of(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let cut = (text.last() != Some(&b'\n')).then_some(text.len());
    let mut start = 0;
    memchr_iter(b'\n', text)
        .map(|newline| newline + 1)
        .chain(cut)
        .map(move |end| std::mem::replace(&mut start, end)..end)
}

fn length_of(file: &File, path: &Path) -> Result<u64, Error> {
    let metadata = file
        .metadata()
        .map_err(|error| Error::io("stat", path, error))?;
    Ok(metadata.len())
}

fn read_at(file: &File, path: &Path, text: &mut [u8], offset: u64) -> Result<(), Error> {
    file.read_exact_at(text, offset)
        .map_err(|error| Error::io("read", path, error))
}

/// Writes an index whole: under another name, then in place. Not synced, since it can be made again.
fn write_index(
    path: &Path,
    id: SegmentId,
    closed: bool,
    entries: &[IndexEntry],
) -> Result<(), Error> {
    let new = path.with_extension("idx.new");
    let header = IndexHeader::new(id, closed).to_bytes();
    fs::write(&new, [&header[..], entries.as_bytes()].concat()).map_err(|error| {
        // Best effort: on a full disk the half of an index should not take what is left.
        let _ = fs::remove_file(&new);
        Error::io("write", &new, error)
    })?;
    kill_point!("recover.index_written");
    fs::rename(&new, path).map_err(|error: io::Error| Error::io("replace", path, error))?;
    kill_point!("recover.index_replaced");
    Ok(())
}

/// What [`rebuild_index`] made.
///
/// ```
/// use millpond_logfile::{BlockWriter, Level, SegmentId, Source, rebuild_index};
///
/// # let dir = tempfile::tempdir()?;
/// # let service_dir = dir.path();
/// let id = SegmentId::from_ns(7);
/// let mut text = Vec::new();
/// BlockWriter::new().append(&mut text, 7, Level::Info, &Source::new("rpc"), b"listening");
/// text.extend_from_slice(b"written by hand\n");
/// std::fs::write(id.log_path(service_dir), &text)?;
///
/// let report = rebuild_index(service_dir, id, false)?;
/// assert_eq!((report.blocks, report.lines, report.damaged_lines), (1, 2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildReport {
    /// Blocks in the new index.
    pub blocks: u64,
    /// Lines they hold.
    pub lines: u64,
    /// Bytes of text read.
    pub text_bytes: u64,
    /// Lines that are not of this format. They are counted, and stop nothing. A block of a sealed segment that
    /// cannot be read counts as one.
    pub damaged_lines: u64,
}

/// Makes the index of a segment anew from its text alone, the same to the bit as the one written live.
/// `is_open`: its last, unfinished block gets no entry, as while it is being written. Of a sealed segment the
/// search filters are made anew too, and a block that cannot be read keeps its entry.
///
/// Not for a segment that a daemon is writing: it would go on writing the index that this one replaces.
///
/// # Errors
/// The text cannot be read, or the index cannot be written.
pub fn rebuild_index(
    service_dir: &Path,
    id: SegmentId,
    is_open: bool,
) -> Result<RebuildReport, Error> {
    let text = open_text(service_dir, id)?;
    let known = match text.is_sealed() {
        true => read_index(&id.index_path(service_dir), Some(id))?.entries,
        false => Vec::new(),
    };
    let read = read_text(&text, &known, !is_open)?;
    let entries = &read.entries;
    let closed = !is_open || text.is_sealed();
    write_index(&id.index_path(service_dir), id, closed, entries)?;
    if let Some(sealed) = text.sealed() {
        write_filters(sealed, entries, service_dir, id)?;
    }
    Ok(RebuildReport {
        blocks: entries.len() as u64,
        lines: entries.iter().map(IndexEntry::line_count).sum(),
        text_bytes: read.text_bytes,
        damaged_lines: entries.iter().map(IndexEntry::damaged_lines).sum(),
    })
}

/// Makes the filters of a sealed segment anew: under another name, then in place.
fn write_filters(
    sealed: &SealedFile,
    entries: &[IndexEntry],
    service_dir: &Path,
    id: SegmentId,
) -> Result<(), Error> {
    let path = id.filter_path(service_dir);
    let new = path.with_extension("filter.new");
    if sealed.text_bytes() < FILTERED_BYTES_MIN {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path, error))
            }
            _ => Ok(()),
        };
    }
    let write = || -> io::Result<()> {
        let out = io::BufWriter::with_capacity(FILTER_WRITE_BYTES, File::create(&new)?);
        make_filters(out, sealed, entries, id)?.flush()
    };
    write().map_err(|error| {
        // Best effort, as with an index.
        let _ = fs::remove_file(&new);
        Error::io("write", &new, error)
    })?;
    fs::rename(&new, &path).map_err(|error| Error::io("replace", &path, error))
}

/// Writes to `out` what the filters of a sealed segment should be.
fn make_filters<W: Write>(
    out: W,
    sealed: &SealedFile,
    entries: &[IndexEntry],
    id: SegmentId,
) -> io::Result<W> {
    let covered = entries.last().map_or(0, IndexEntry::end);
    let mut filters = FilterWriter::new(out, id, entries, covered < sealed.text_bytes())?;
    let mut reader = FrameReader::default();
    let mut text = Vec::new();
    for number in 0..entries.len().min(sealed.frames.len()) {
        let read = sealed.read_frame(&mut reader, number, &mut text);
        filters.add_block(read.is_ok().then_some(&text))?;
    }
    filters.finish()
}

/// Whether the filters that are there are those that should be. None at all only cost time.
fn verify_filters(
    sealed: &SealedFile,
    entries: &[IndexEntry],
    service_dir: &Path,
    id: SegmentId,
) -> Result<Option<Damage>, Error> {
    let path = id.filter_path(service_dir);
    match Filters::open(service_dir, id) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(None),
        Err(damage) => return Ok(Some(damage)),
    }
    let compare = || {
        let file = Comparison::new(File::open(&path)?);
        make_filters(file, sealed, entries, id)?.finish()
    };
    let differs_at = compare().map_err(|error| Error::io("read", &path, error))?;
    Ok(differs_at.map(|offset| Damage {
        path,
        offset,
        what: "filter",
        expected: "as the text has it".into(),
        found: "something else".into(),
    }))
}

/// What the text itself says.
struct TextRead {
    entries: Vec<IndexEntry>,
    text_bytes: u64,
    /// Up to the end of the last line.
    lines_bytes: u64,
    /// The damaged lines, at most one a block.
    damage: Vec<Damage>,
}

fn open_text(service_dir: &Path, id: SegmentId) -> Result<SegmentText, Error> {
    SegmentText::open(service_dir, id)
        .map_err(|error| Error::io("open", &id.log_path(service_dir), error))
}

/// Reads all of a text. `known` is what an index says of a sealed one, for blocks that cannot be read.
fn read_text(text: &SegmentText, known: &[IndexEntry], is_closed: bool) -> Result<TextRead, Error> {
    match text.form() {
        Form::Sealed(sealed) => Ok(read_frames(sealed, text.path(), known)),
        Form::Plain(file) => read_plain(file, text.path(), is_closed),
    }
}

/// Reads the frames of a sealed text, which are its blocks.
fn read_frames(sealed: &SealedFile, path: &Path, known: &[IndexEntry]) -> TextRead {
    let mut reader = FrameReader::default();
    let mut text = Vec::new();
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(sealed.frames.len());
    let mut damage: Vec<Damage> = sealed.damage.iter().cloned().collect();
    // Up to the last block that is certainly one, and what is wrong so far.
    let (mut blocks, mut damages) = (0, damage.len());
    for (number, frame) in sealed.frames.iter().enumerate() {
        let entry = match sealed.read_frame(&mut reader, number, &mut text) {
            Ok(()) => block_entry(path, frame.text_offset, &text, &mut damage),
            Err(bad) => {
                damage.push(bad.damage(path));
                text.clear();
                let bounds = |entry: &&IndexEntry| {
                    (entry.offset(), entry.end()) == (frame.text_offset, frame.text_end())
                };
                known
                    .get(number)
                    .filter(bounds)
                    .copied()
                    .unwrap_or_else(|| {
                        let mut lost = EntryBuilder::at(frame.text_offset);
                        lost.add_damaged_line(frame.text_bytes as usize);
                        lost.build(0)
                    })
            }
        };
        entries.push(entry);
        // What follows the last line end is no block.
        if text.len() as u64 > BLOCK_BYTES || text.is_empty() || memchr(b'\n', &text).is_some() {
            (blocks, damages) = (entries.len(), damage.len());
        }
    }
    entries.truncate(blocks);
    damage.truncate(damages);
    TextRead {
        lines_bytes: entries.last().map_or(0, IndexEntry::end),
        text_bytes: sealed.text_bytes(),
        entries,
        damage,
    }
}

/// The entry of a block as a frame holds it, and its first damaged line.
pub(crate) fn block_entry(
    path: &Path,
    offset: u64,
    text: &[u8],
    damage: &mut Vec<Damage>,
) -> IndexEntry {
    let mut block = EntryBuilder::at(offset);
    let mut is_damaged = false;
    for line in lines_of(text) {
        let length = line.len();
        match parse_whole_line(&text[line.clone()]) {
            Ok(parsed) => {
                let mask = source_mask(parsed.source);
                block.add_line(length, parsed.time_ns, parsed.level, mask);
            }
            Err(error) => {
                block.add_damaged_line(length);
                if !std::mem::replace(&mut is_damaged, true) {
                    damage.push(damaged_line(path, offset + line.start as u64, &error));
                }
            }
        }
    }
    block.build(crc32c::crc32c(text))
}

fn damaged_line(path: &Path, offset: u64, error: &LineError) -> Damage {
    Damage {
        path: path.to_owned(),
        offset,
        what: "first damaged line of the block",
        expected: "time, level, source and message".into(),
        found: error.to_string(),
    }
}

fn read_plain(file: &File, path: &Path, is_closed: bool) -> Result<TextRead, Error> {
    let text_bytes = length_of(file, path)?;
    let mut block = BlockWriter::new();
    let mut damage = Vec::new();
    let mut damaged_block = None;
    for_each_piece(file, path, 0..text_bytes, |offset, text| {
        for line in lines_of(text) {
            let in_block = block.open_offset();
            let Some(error) = block.account(text, line.start, line.end) else {
                continue;
            };
            if damaged_block.replace(in_block) != Some(in_block) {
                damage.push(damaged_line(path, offset + line.start as u64, &error));
            }
        }
        block.fold(text);
    })?;
    if is_closed {
        block.finish(&[]);
    }
    Ok(TextRead {
        entries: block.take_entries(),
        text_bytes,
        lines_bytes: block.length_bytes(),
        damage,
    })
}

/// What [`verify_segment`] found.
///
/// ```
/// use millpond_logfile::{BlockWriter, Level, SegmentId, Source, rebuild_index, verify_segment};
///
/// # let dir = tempfile::tempdir()?;
/// # let service_dir = dir.path();
/// let id = SegmentId::from_ns(7);
/// let mut text = Vec::new();
/// BlockWriter::new().append(&mut text, 7, Level::Info, &Source::new("rpc"), b"listening");
/// std::fs::write(id.log_path(service_dir), &text)?;
/// rebuild_index(service_dir, id, false)?;
/// assert!(verify_segment(service_dir, id)?.damage.is_empty());
///
/// let flipped = String::from_utf8(text)?.replace("listening", "glistening");
/// std::fs::write(id.log_path(service_dir), flipped)?;
/// assert!(!verify_segment(service_dir, id)?.damage.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks of the index whose text was read and compared.
    pub blocks: u64,
    /// Bytes of text, indexed or not.
    pub text_bytes: u64,
    /// Everything that does not agree: damaged lines first, then index against text.
    pub damage: Vec<Damage>,
}

/// Compares an index with its text, block by block, and each line with the format; of a sealed segment also
/// the search filters. Changes nothing.
///
/// An index that ends before its text is normal, unless it says that the segment was closed; one that goes on
/// behind it is damage.
///
/// # Errors
/// A file cannot be read.
pub fn verify_segment(service_dir: &Path, id: SegmentId) -> Result<VerifyReport, Error> {
    let index_path = id.index_path(service_dir);
    // The index before the text: what it describes was written before it.
    let index = read_index(&index_path, Some(id))?;
    let text = open_text(service_dir, id)?;
    let path = text.path().to_owned();
    let truth = read_text(&text, &index.entries, index.closed)?;
    let at_end = |what, expected, found| Damage {
        path: path.clone(),
        offset: truth.lines_bytes,
        what,
        expected,
        found,
    };

    let mut damage = truth.damage;
    for (number, (entry, of_text)) in index.entries.iter().zip(&truth.entries).enumerate() {
        if let Some((what, expected, found)) = entry.difference(of_text) {
            damage.push(Damage {
                path: index_path.clone(),
                offset: (HEADER_BYTES + number * ENTRY_BYTES) as u64,
                what,
                expected,
                found,
            });
        }
        if entry.end() != of_text.end() {
            break; // from here on the two speak of different blocks
        }
        if entry.text_crc() != of_text.text_crc() {
            damage.push(wrong_checksum(&path, entry, of_text.text_crc()));
        }
    }
    damage.extend(ahead_of_text(&index, &index_path, truth.text_bytes));
    if index.closed && index.covered_bytes() < truth.lines_bytes {
        let (covered, found) = (index.covered_bytes(), truth.lines_bytes);
        let expected = format!("{covered} bytes, as its closed index says");
        damage.push(at_end(
            "length of the text",
            expected,
            format!("{found} bytes"),
        ));
    }
    if index.closed && truth.lines_bytes < truth.text_bytes {
        let found = format!("{} bytes without one", truth.text_bytes - truth.lines_bytes);
        damage.push(at_end("last line", "a line end".into(), found));
    }
    if let Some(sealed) = text.sealed() {
        let is_complete = index.covered_bytes() == truth.lines_bytes;
        let entries = if is_complete {
            &index.entries
        } else {
            &truth.entries
        };
        damage.extend(verify_filters(sealed, entries, service_dir, id)?);
    }
    damage.extend(index.damage);
    Ok(VerifyReport {
        blocks: index.entries.len() as u64,
        text_bytes: truth.text_bytes,
        damage,
    })
}
