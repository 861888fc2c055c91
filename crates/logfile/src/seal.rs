//! Making a closed segment smaller, step by step, so that a crash between any two costs nothing.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use zstd::bulk::Compressor;

use crate::block::BLOCK_BYTES;
use crate::error::Error;
use crate::filters::{FILTERED_BYTES_MIN, FilterWriter};
use crate::index::IndexEntry;
use crate::name::SegmentId;
use crate::recover::complete_plain_index;
use crate::sealed::{FrameReader, SealedFile, SeekTable, SegmentText};

const WRITE_BYTES: usize = 256 << 10;

/// How a segment was sealed.
///
/// ```no_run
/// # fn show(sealed: millpond_logfile::SealedSegment) {
/// println!("{} bytes of text in {}", sealed.text_bytes, sealed.file_bytes);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealedSegment {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Bytes of the compressed file.
    pub file_bytes: u64,
    /// Bytes of index and filters beside it.
    pub sidecar_bytes: u64,
}

/// Replaces a closed segment's text by its sealed form, and adds search filters. Text that cannot be read back
/// the same is not removed. Every step can be repeated: after a crash, call it again. A segment that is sealed
/// already is left as it is. Queries go on meanwhile.
///
/// An index that ends early is completed first. A block whose text does not match its checksum is sealed as it
/// is, and its index entry is kept, so that it is reported as before.
///
/// `go_on` is asked before each block is written and before each is read back; `Ok(None)` when it says no, and
/// the text is as it was then.
///
/// Blocks on the disk: reads the text once, writes about a seventh of it, reads that back, and syncs. Takes 10
/// MiB of memory, or three times the longest line.
///
/// # Errors
/// A file cannot be read or written, what was written reads otherwise, or the index goes on behind the text.
pub fn seal_segment(
    service_dir: &Path,
    id: SegmentId,
    level: i32,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<SealedSegment>, Error> {
    let log_path = id.log_path(service_dir);
    let failed = |error| Error::io("seal", &log_path, error);
    if fs::exists(&log_path).map_err(failed)? {
        let text = SegmentText::open(service_dir, id)
            .map_err(|error| Error::io("read", &log_path, error))?;
        let entries = complete_plain_index(service_dir, id)?;
        kill_point!("seal.index_completed");
        if !seal(&text, &entries, service_dir, id, level, go_on).map_err(failed)? {
            return Ok(None);
        }
    }
    let sealed_path = id.sealed_path(service_dir);
    let sealed =
        SealedFile::open(&sealed_path).map_err(|error| Error::io("read", &sealed_path, error))?;
    let bytes_of = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    Ok(Some(SealedSegment {
        text_bytes: sealed.text_bytes(),
        file_bytes: sealed.file_bytes,
        sidecar_bytes: bytes_of(&id.index_path(service_dir))
            + bytes_of(&id.filter_path(service_dir)),
    }))
}

/// Writes both files under other names, checks, renames, and removes the text. False when it was told to stop.
fn seal(
    text: &SegmentText,
    entries: &[IndexEntry],
    service_dir: &Path,
    id: SegmentId,
    level: i32,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<bool> {
    let (sealed_path, filter_path) = (id.sealed_path(service_dir), id.filter_path(service_dir));
    let new_path = service_dir.join(format!("{id}.log.zst.new"));
    let new_filter_path = service_dir.join(format!("{id}.filter.new"));
    let is_filtered = text.length_bytes()? >= FILTERED_BYTES_MIN;
    let mut write = || -> io::Result<bool> {
        let filter = is_filtered
            .then(|| File::create(&new_filter_path))
            .transpose()?;
        let new = File::create(&new_path)?;
        let Some(checksums) = write_sealed(text, entries, id, &new, filter.as_ref(), level, go_on)?
        else {
            return Ok(false);
        };
        kill_point!("seal.written");
        new.sync_all()?;
        filter.iter().try_for_each(File::sync_all)?;
        kill_point!("seal.synced");
        read_back(&new_path, &checksums, go_on)
    };
    match write() {
        Ok(true) => {}
        stopped => {
            // What is left of a seal that was given up means nothing; the next one starts anew.
            let _ = fs::remove_file(&new_path);
            let _ = fs::remove_file(&new_filter_path);
            return stopped;
        }
    }
    kill_point!("seal.read_back");
    if is_filtered {
        fs::rename(&new_filter_path, &filter_path)?;
        kill_point!("seal.filter_renamed");
    }
    fs::rename(&new_path, &sealed_path)?;
    kill_point!("seal.text_renamed");
    File::open(service_dir)?.sync_all()?;
    kill_point!("seal.directory_synced");
    fs::remove_file(text.path())?;
    kill_point!("seal.text_removed");
    Ok(true)
}

/// The frames of a text: its blocks, then what no line end ends, in pieces.
fn frames(entries: &[IndexEntry], length_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let covered = entries.last().map_or(0, IndexEntry::end);
    let blocks = entries.iter().map(|entry| entry.offset()..entry.end());
    let tail = (covered..length_bytes).step_by(BLOCK_BYTES as usize);
    blocks.chain(tail.map(move |from| from..length_bytes.min(from + BLOCK_BYTES)))
}

/// Writes the sealed form and the filters. Returns the checksum of the text of each frame; `None` when it was
/// told to stop.
fn write_sealed(
    text: &SegmentText,
    entries: &[IndexEntry],
    id: SegmentId,
    new: &File,
    filter: Option<&File>,
    level: i32,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<Option<Vec<u32>>> {
    let length_bytes = text.length_bytes()?;
    let covered = entries.last().map_or(0, IndexEntry::end);
    let buffered = |file| BufWriter::with_capacity(WRITE_BYTES, file);
    let mut filters = filter
        .map(|file| FilterWriter::new(buffered(file), id, entries, covered < length_bytes))
        .transpose()?;
    let mut compressor = Compressor::new(level)?;
    compressor.include_checksum(true)?;
    let mut out = buffered(new);
    let mut table = SeekTable::default();
    let mut checksums = Vec::with_capacity(entries.len());
    let (mut block, mut frame) = (Vec::new(), Vec::new());
    for range in frames(entries, length_bytes) {
        if !go_on() {
            return Ok(None);
        }
        block.resize((range.end - range.start) as usize, 0);
        text.read_exact_at(&mut block, range.start)?;
        frame.resize(zstd::zstd_safe::compress_bound(block.len()), 0);
        let length = compressor.compress_to_buffer(&block, frame.as_mut_slice())?;
        out.write_all(&frame[..length])?;
        table.push(length, block.len())?;
        checksums.push(crc32c::crc32c(&block));
        if let Some(filters) = &mut filters
            && range.start < covered
        {
            filters.add_block(Some(&block))?;
        }
    }
    out.write_all(&table.to_bytes())?;
    out.flush()?;
    if let Some(filters) = filters {
        filters.finish()?.flush()?;
    }
    Ok(Some(checksums))
}

/// Reads a file that was just written, and compares it with the text that it was made from. False when it was
/// told to stop.
fn read_back(path: &Path, checksums: &[u32], go_on: &mut dyn FnMut() -> bool) -> io::Result<bool> {
    let written = SealedFile::open(path)?;
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if let Some(damage) = &written.damage {
        return Err(wrong(damage.to_string()));
    }
    if written.frames.len() != checksums.len() {
        let frames = written.frames.len();
        let wanted = checksums.len();
        return Err(wrong(format!(
            "{frames} frames were written, {wanted} wanted"
        )));
    }
    let mut reader = FrameReader::default();
    let mut text = Vec::new();
    for (number, &expected) in checksums.iter().enumerate() {
        if !go_on() {
            return Ok(false);
        }
        written
            .read_frame(&mut reader, number, &mut text)
            .map_err(|bad| wrong(bad.damage(path).to_string()))?;
        let found = crc32c::crc32c(&text);
        if found != expected {
            return Err(wrong(format!(
                "block {number} reads back with checksum {found:08x}, expected {expected:08x}"
            )));
        }
    }
    Ok(true)
}
