//! Making a segment consistent after a crash, and its index from its text.
//!
//! The text is the truth. With a committed length (from shared memory, after `kill -9`) the text is cut
//! there; without one (after a power cut) it is cut at the end of its last whole line. The index is cut to
//! what the text bears out, then brought up to it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use zerocopy::IntoBytes;

use crate::block::BlockWriter;
use crate::error::{Damage, Error};
use crate::index::{ENTRY_BYTES, HEADER_BYTES, Index, IndexEntry, IndexHeader, read_index};
use crate::line::parse_line;
use crate::name::SegmentId;

/// Text is read in pieces of this size.
const READ_BYTES: usize = 1 << 20;
/// Blocks at the end whose checksum is verified: what a power cut can have torn.
const SUSPECT_BLOCKS: usize = 64;

/// A segment made consistent, ready to be appended to.
///
/// ```no_run
/// use millpond_logfile::{SegmentId, recover_segment};
/// let id: SegmentId = "20261121T012953.123456789Z".parse().expect("an id");
/// let recovered = recover_segment("logs/web".as_ref(), id, None)?;
/// if recovered.cut_bytes > 0 {
///     eprintln!("{} bytes cut: {}", recovered.cut_bytes, recovered.why);
/// }
/// # Ok::<(), millpond_logfile::Error>(())
/// ```
#[derive(Debug)]
pub struct Recovered {
    /// Goes on where the segment ends; its closed blocks are in the index file already.
    pub block: BlockWriter,
    /// Length of the text that was kept.
    pub length_bytes: u64,
    /// Entries in the index file.
    pub entries: u64,
    /// Bytes of text that were cut.
    pub cut_bytes: u64,
    /// Why they were cut; empty when nothing was.
    pub why: String,
    /// Text that is missing: the committed length was beyond the end of the file.
    pub missing_bytes: u64,
    /// What was wrong with the index, if anything.
    pub index_damage: Option<Damage>,
}

/// Recovers the open segment `id` in `service_dir`, repairing text and index on disk.
///
/// `committed_bytes` is the length that the commit point names; `None` where there is none.
///
/// # Errors
/// A file cannot be read, cut or written.
pub fn recover_segment(
    service_dir: &Path,
    id: SegmentId,
    committed_bytes: Option<u64>,
) -> Result<Recovered, Error> {
    let path = id.log_path(service_dir);
    let failed = |operation| {
        let path = path.clone();
        move |error| Error::io(operation, &path, error)
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed("open"))?;
    let found_bytes = file.metadata().map_err(failed("stat"))?.len();
    let limit = committed_bytes.unwrap_or(found_bytes).min(found_bytes);
    let index_path = id.index_path(service_dir);
    let mut index = read_index(&index_path, Some(id))?;
    if !index.cut(limit) && committed_bytes.is_none() && index.damage.is_none() {
        index.damage = Some(Damage {
            path: index_path.clone(),
            offset: HEADER_BYTES as u64,
            what: "text covered by the index",
            expected: format!("at most {limit} bytes"),
            found: "more".into(),
        });
    }
    if committed_bytes.is_none() {
        drop_torn_blocks(&file, &path, &mut index)?;
    }
    let covered = index.covered_bytes();
    let mut block = BlockWriter::at(covered);
    let scanned = scan(&file, &path, covered, limit, &mut block)?;
    let (kept, why) = match committed_bytes {
        Some(_) if scanned.end == limit => (limit, "it was written and never committed"),
        _ => (scanned.end, scanned.why),
    };
    let cut_bytes = found_bytes - kept;
    if cut_bytes > 0 {
        file.set_len(kept).map_err(failed("cut"))?;
    }
    let mut entries = index.entries;
    entries.append(&mut block.take_entries());
    write_index(&index_path, id, false, &entries)?;
    Ok(Recovered {
        block,
        length_bytes: kept,
        entries: entries.len() as u64,
        cut_bytes,
        why: if cut_bytes > 0 {
            why.to_owned()
        } else {
            String::new()
        },
        missing_bytes: committed_bytes.map_or(0, |committed| committed.saturating_sub(found_bytes)),
        index_damage: index.damage,
    })
}

/// Drops entries at the end whose text is not what they say: blocks of a file that a power cut tore.
fn drop_torn_blocks(file: &File, path: &Path, index: &mut Index) -> Result<(), Error> {
    let first = index.entries.len().saturating_sub(SUSPECT_BLOCKS);
    let mut text = Vec::new();
    for number in first..index.entries.len() {
        let entry = &index.entries[number];
        text.resize(entry.length_bytes() as usize, 0);
        file.read_exact_at(&mut text, entry.offset())
            .map_err(|error| Error::io("read", path, error))?;
        if crc32c::crc32c(&text) != entry.text_crc() {
            index.entries.truncate(number);
            break;
        }
    }
    Ok(())
}

/// How far a scan came, and what stopped it.
struct Scanned {
    end: u64,
    why: &'static str,
}

/// Accounts the whole lines of `from..to` to `block`. Stops at a line with NUL bytes, which is what a torn
/// file system leaves where data never arrived, and at a last line without its newline.
fn scan(
    file: &File,
    path: &Path,
    from: u64,
    to: u64,
    block: &mut BlockWriter,
) -> Result<Scanned, Error> {
    let mut text = Vec::with_capacity(READ_BYTES);
    let mut at = from;
    while at < to {
        let kept = text.len();
        let wanted = (to - at).min(READ_BYTES as u64) as usize;
        text.resize(kept + wanted, 0);
        file.read_exact_at(&mut text[kept..], at)
            .map_err(|error| Error::io("read", path, error))?;
        at += wanted as u64;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &text).map(|newline| newline + 1) {
            if memchr::memchr(0, &text[start..end]).is_some() {
                return Ok(Scanned {
                    end: block.length_bytes(),
                    why: "it holds bytes that were never written",
                });
            }
            block.account(&text, start, end);
            start = end;
        }
        block.fold(&text[..start]);
        text.drain(..start);
    }
    let why = "its last line has no end";
    Ok(Scanned {
        end: block.length_bytes(),
        why,
    })
}

/// Writes an index whole: under another name, then in place.
fn write_index(
    path: &Path,
    id: SegmentId,
    closed: bool,
    entries: &[IndexEntry],
) -> Result<(), Error> {
    let new = path.with_extension("idx.new");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES);
    bytes.extend_from_slice(&IndexHeader::new(id, closed).to_bytes());
    bytes.extend_from_slice(entries.as_bytes());
    fs::write(&new, &bytes).map_err(|error| Error::io("write", &new, error))?;
    fs::rename(&new, path).map_err(|error| Error::io("replace", path, error))
}

/// What [`rebuild_index`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildReport {
    /// Blocks in the new index.
    pub blocks: u64,
    /// Lines they hold.
    pub lines: u64,
    /// Bytes of text read.
    pub text_bytes: u64,
    /// Lines that are not of this format.
    pub damaged_lines: u64,
}

/// Makes the index of a segment anew from its text alone. `is_open`: its last, unfinished block gets no
/// entry, as in the index of a segment that is being written.
///
/// # Errors
/// The text cannot be read, or the index cannot be written.
pub fn rebuild_index(
    service_dir: &Path,
    id: SegmentId,
    is_open: bool,
) -> Result<RebuildReport, Error> {
    let (entries, text_bytes) = index_of_text(service_dir, id, is_open)?;
    write_index(&id.index_path(service_dir), id, !is_open, &entries)?;
    Ok(RebuildReport {
        blocks: entries.len() as u64,
        lines: entries.iter().map(IndexEntry::line_count).sum(),
        text_bytes,
        damaged_lines: entries.iter().map(IndexEntry::damaged_lines).sum(),
    })
}

fn index_of_text(
    service_dir: &Path,
    id: SegmentId,
    is_open: bool,
) -> Result<(Vec<IndexEntry>, u64), Error> {
    let path = id.log_path(service_dir);
    let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
    let length = file
        .metadata()
        .map_err(|error| Error::io("stat", &path, error))?
        .len();
    let mut block = BlockWriter::new();
    scan(&file, &path, 0, length, &mut block)?;
    if !is_open {
        block.finish(&[]);
    }
    Ok((block.take_entries(), length))
}

/// What [`verify_segment`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks whose text was read and compared.
    pub blocks: u64,
    /// Bytes of text, indexed or not.
    pub text_bytes: u64,
    /// Everything that does not agree.
    pub damage: Vec<Damage>,
}

/// Compares an index with its text, block by block, and each line with the format. Changes nothing.
///
/// An index that ends before its text is normal; one that goes on behind it is damage.
///
/// # Errors
/// A file cannot be read.
pub fn verify_segment(service_dir: &Path, id: SegmentId) -> Result<VerifyReport, Error> {
    let path = id.log_path(service_dir);
    let index = read_index(&id.index_path(service_dir), Some(id))?;
    let (truth, text_bytes) = index_of_text(service_dir, id, !index.closed)?;
    let mut damage: Vec<Damage> = index.damage.into_iter().collect();
    for (number, entry) in index.entries.iter().enumerate() {
        let found = truth.get(number);
        if found != Some(entry) {
            damage.push(Damage {
                path: path.clone(),
                offset: entry.offset(),
                what: "checksum of the block",
                expected: format!("{:08x}", entry.text_crc()),
                found: found.map_or("no such block".into(), |truth| {
                    format!("{:08x}", truth.text_crc())
                }),
            });
        }
    }
    damage.extend(damaged_lines(&path, &truth)?);
    Ok(VerifyReport {
        blocks: index.entries.len() as u64,
        text_bytes,
        damage,
    })
}

/// The lines that are not of this format, at most one report per block.
fn damaged_lines(path: &Path, entries: &[IndexEntry]) -> Result<Vec<Damage>, Error> {
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let mut damage = Vec::new();
    for entry in entries.iter().filter(|entry| entry.damaged_lines() > 0) {
        let mut text = vec![0; entry.length_bytes() as usize];
        file.read_exact_at(&mut text, entry.offset())
            .map_err(|error| Error::io("read", path, error))?;
        let mut offset = entry.offset();
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            if let Err(error) = parse_line(line) {
                damage.push(Damage {
                    path: path.to_owned(),
                    offset,
                    what: "line",
                    expected: "time, level, source and message".into(),
                    found: format!(
                        "{error} ({} such lines in this block)",
                        entry.damaged_lines()
                    ),
                });
                break;
            }
            offset += line.len() as u64;
        }
    }
    Ok(damage)
}
