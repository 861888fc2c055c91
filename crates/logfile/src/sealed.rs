//! Closed segments as seekable zstd, and text read the same way from either form.
//!
//! `docs/formats/log.md`, *Sealed segments*: one zstd frame per index block, then the seek table of the zstd
//! seekable format in a frame that other readers skip. Offsets are those of the text, before and after.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zstd::bulk::{Compressor, Decompressor};

use crate::error::Error;
use crate::index::read_index;
use crate::name::SegmentId;

/// The frame that holds the seek table, and what ends it: the zstd seekable format, version 0.1.0.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const SKIPPABLE_HEADER_BYTES: usize = 8;
const SEEK_FOOTER_BYTES: usize = 9;
/// A file that claims more frames than this is not ours.
const FRAMES_MAX: usize = 16 << 20;

/// One frame in the seek table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SeekEntry {
    compressed_bytes: U32,
    text_bytes: U32,
}
const _: () = assert!(size_of::<SeekEntry>() == 8);

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

/// Replaces a closed segment's text by its sealed form. Text that cannot be read back the same is not
/// removed. Every step can be repeated: after a crash, call it again. A segment that is sealed already is
/// left as it is. Queries go on meanwhile.
///
/// `go_on` is asked after each block; `Ok(None)` when it says no, and nothing has changed then.
///
/// Blocks on the disk: reads the text once, writes about an eighth of it, and syncs.
///
/// # Errors
/// A file cannot be read or written.
pub fn seal_segment(
    service_dir: &Path,
    id: SegmentId,
    level: i32,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Option<SealedSegment>, Error> {
    let (log_path, sealed_path) = (id.log_path(service_dir), id.sealed_path(service_dir));
    let index_bytes = || fs::metadata(id.index_path(service_dir)).map_or(0, |m| m.len());
    let sealed = |sealed: &SealedFile| SealedSegment {
        text_bytes: sealed.text_bytes(),
        file_bytes: sealed.file_bytes,
        sidecar_bytes: index_bytes(),
    };
    let text = match File::open(&log_path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = SealedFile::open(&sealed_path)
                .map_err(|error| Error::io("read", &sealed_path, error))?;
            return Ok(Some(sealed(&file)));
        }
        Err(error) => return Err(Error::io("read", &log_path, error)),
    };
    let new_path = service_dir.join(format!("{id}.log.zst.new"));
    let written = write_sealed(&text, service_dir, id, &new_path, level, go_on)
        .map_err(|error| Error::io("seal", &log_path, error))?;
    let Some(()) = written else {
        // What is left of a seal that was given up means nothing; the next one starts anew.
        let _ = fs::remove_file(&new_path);
        return Ok(None);
    };
    let finish = || -> io::Result<SealedSegment> {
        fs::rename(&new_path, &sealed_path)?;
        File::open(service_dir)?.sync_all()?;
        let file = SealedFile::open(&sealed_path)?;
        fs::remove_file(&log_path)?;
        Ok(sealed(&file))
    };
    finish()
        .map(Some)
        .map_err(|error| Error::io("seal", &log_path, error))
}

fn write_sealed(
    text: &File,
    service_dir: &Path,
    id: SegmentId,
    path: &Path,
    level: i32,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<Option<()>> {
    let index = read_index(&id.index_path(service_dir), Some(id)).map_err(io::Error::other)?;
    let length = text.metadata()?.len();
    if index.covered_bytes() != length {
        return Err(io::Error::other(
            "its index does not cover it; `millpond index rebuild` makes a new one",
        ));
    }
    let mut compressor = Compressor::new(level)?;
    compressor.include_checksum(true)?;
    let mut out = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut table: Vec<SeekEntry> = Vec::with_capacity(index.entries.len());
    let mut block = Vec::new();
    for entry in &index.entries {
        if !go_on() {
            return Ok(None);
        }
        block.resize(entry.length_bytes() as usize, 0);
        text.read_exact_at(&mut block, entry.offset())?;
        let frame = compressor.compress(&block)?;
        out.write_all(&frame)?;
        let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        table.push(SeekEntry {
            compressed_bytes: U32::new(size(frame.len())?),
            text_bytes: U32::new(size(block.len())?),
        });
    }
    let table_bytes = size_of_val(table.as_slice()) + SEEK_FOOTER_BYTES;
    out.write_all(&SKIPPABLE_MAGIC.to_le_bytes())?;
    out.write_all(&(table_bytes as u32).to_le_bytes())?;
    out.write_all(table.as_bytes())?;
    out.write_all(&(table.len() as u32).to_le_bytes())?;
    out.write_all(&[0])?;
    out.write_all(&SEEKABLE_MAGIC.to_le_bytes())?;
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(Some(()))
}

/// A frame's place in both worlds.
#[derive(Debug, Clone, Copy)]
struct Frame {
    file_offset: u64,
    file_bytes: u32,
    text_offset: u64,
    text_bytes: u32,
}

/// A sealed file that is open.
struct SealedFile {
    file: File,
    frames: Vec<Frame>,
    file_bytes: u64,
    /// The frame that was read last: neighbouring reads meet in one.
    last: Mutex<LastFrame>,
}

#[derive(Default)]
struct LastFrame {
    number: Option<usize>,
    text: Vec<u8>,
}

impl SealedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let torn = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut footer = [0; SEEK_FOOTER_BYTES];
        let footer_at = file_bytes.checked_sub(SEEK_FOOTER_BYTES as u64);
        file.read_exact_at(&mut footer, footer_at.ok_or_else(|| torn("no seek table"))?)?;
        let [c0, c1, c2, c3, descriptor, magic @ ..] = footer;
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        if u32::from_le_bytes(magic) != SEEKABLE_MAGIC || descriptor != 0 || count > FRAMES_MAX {
            return Err(torn("no seek table at its end"));
        }
        let table_bytes = count * size_of::<SeekEntry>();
        let table_at = file_bytes
            .checked_sub((SKIPPABLE_HEADER_BYTES + table_bytes + SEEK_FOOTER_BYTES) as u64)
            .ok_or_else(|| torn("a seek table longer than the file"))?;
        let mut table = vec![0; SKIPPABLE_HEADER_BYTES + table_bytes];
        file.read_exact_at(&mut table, table_at)?;
        let mut frames: Vec<Frame> = Vec::with_capacity(count);
        let (mut file_offset, mut text_offset) = (0, 0);
        for bytes in table[SKIPPABLE_HEADER_BYTES..].chunks_exact(size_of::<SeekEntry>()) {
            let Ok(entry) = SeekEntry::read_from_bytes(bytes) else {
                break;
            };
            let (file_bytes, text_bytes) = (entry.compressed_bytes.get(), entry.text_bytes.get());
            frames.push(Frame {
                file_offset,
                file_bytes,
                text_offset,
                text_bytes,
            });
            file_offset += u64::from(file_bytes);
            text_offset += u64::from(text_bytes);
        }
        if file_offset != table_at {
            return Err(torn("a seek table that does not fit its frames"));
        }
        Ok(SealedFile {
            file,
            frames,
            file_bytes,
            last: Mutex::default(),
        })
    }

    fn text_bytes(&self) -> u64 {
        self.frames
            .last()
            .map_or(0, |frame| frame.text_offset + u64::from(frame.text_bytes))
    }

    fn read_frame(&self, frame: &Frame, out: &mut [u8]) -> io::Result<()> {
        let mut compressed = vec![0; frame.file_bytes as usize];
        self.file
            .read_exact_at(&mut compressed, frame.file_offset)?;
        let length = Decompressor::new()?.decompress_to_buffer(&compressed, out)?;
        if length != out.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a frame of another length than its seek table says",
            ));
        }
        Ok(())
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.text_bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let first = self
            .frames
            .partition_point(|frame| frame.text_offset + u64::from(frame.text_bytes) <= offset);
        for (number, frame) in self.frames.iter().enumerate().skip(first) {
            let frame_end = frame.text_offset + u64::from(frame.text_bytes);
            if frame.text_offset >= end {
                break;
            }
            let (from, to) = (offset.max(frame.text_offset), end.min(frame_end));
            let part = &mut out[(from - offset) as usize..(to - offset) as usize];
            if to - from == u64::from(frame.text_bytes) {
                self.read_frame(frame, part)?;
                continue;
            }
            let mut last = self
                .last
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if last.number != Some(number) {
                last.number = None;
                last.text.resize(frame.text_bytes as usize, 0);
                self.read_frame(frame, &mut last.text)?;
                last.number = Some(number);
            }
            let at = (from - frame.text_offset) as usize;
            part.copy_from_slice(&last.text[at..at + part.len()]);
        }
        Ok(())
    }
}

/// The text of a segment, open for reading, whichever form it has. Retention may delete the file, and a seal
/// replace it, meanwhile: what was opened stays readable.
pub struct SegmentText {
    path: PathBuf,
    form: Form,
}

enum Form {
    Plain(File),
    Sealed(SealedFile),
}

impl std::fmt::Debug for SegmentText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentText")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SegmentText {
    /// Opens a segment's text: the plain file, or where it is sealed the other one.
    ///
    /// # Errors
    /// `NotFound` where neither is there, `InvalidData` where a sealed file cannot be one.
    pub fn open(service_dir: &Path, id: SegmentId) -> io::Result<Self> {
        let path = id.log_path(service_dir);
        match File::open(&path) {
            Ok(file) => {
                let form = Form::Plain(file);
                Ok(SegmentText { path, form })
            }
            // The sealed form is there before the plain one goes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = id.sealed_path(service_dir);
                let form = Form::Sealed(SealedFile::open(&path)?);
                Ok(SegmentText { path, form })
            }
            Err(error) => Err(error),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is the sealed form, which does not change any more.
    pub fn is_sealed(&self) -> bool {
        matches!(self.form, Form::Sealed(_))
    }

    /// Bytes of text, now.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn length_bytes(&self) -> io::Result<u64> {
        match &self.form {
            Form::Plain(file) => Ok(file.metadata()?.len()),
            Form::Sealed(sealed) => Ok(sealed.text_bytes()),
        }
    }

    /// Fills `out` with the text at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where there is less text, `InvalidData` where a frame is damaged.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.form {
            Form::Plain(file) => file.read_exact_at(out, offset),
            Form::Sealed(sealed) => sealed.read_exact_at(out, offset),
        }
    }
}
