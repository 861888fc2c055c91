//! Text of a segment, plain or sealed, read the same way.
//!
//! `docs/formats/log.md`, *Sealed segments*: one zstd frame per index block, then the seek table of the zstd
//! seekable format in a frame that other readers skip. Offsets are those of the text, before and after.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use zstd::bulk::Decompressor;
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

use crate::error::Damage;
use crate::name::SegmentId;

/// What a zstd frame begins with.
const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// The frame that holds the checksum of the seek table, just in front of it. Our own: others skip it.
const CHECK_MAGIC: u32 = 0x184D_2A5D;
/// The frame that holds the seek table, and what ends it: the zstd seekable format, version 0.1.0.
const TABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const SKIPPABLE_HEADER_BYTES: usize = 8;
const SEEK_FOOTER_BYTES: usize = 9;
/// A file that claims more frames than this is not ours.
const FRAMES_MAX: usize = 16 << 20;
/// A frame that claims more text than this is not ours: a block is at most one line more than 64 KiB.
const FRAME_TEXT_BYTES_MAX: u64 = 320 << 20;
/// Read from the end of the file at first: the seek table of 128 MiB of text.
const TAIL_BYTES: u64 = 16 << 10;
/// Compressed frames are read in pieces of this size, or one by one.
const READ_BYTES: u64 = 1 << 20;

/// One frame in the seek table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SeekEntry {
    compressed_bytes: U32,
    text_bytes: U32,
}
const _: () = assert!(size_of::<SeekEntry>() == 8);

/// The frame in front of the seek table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CheckFrame {
    magic: U32,
    payload_bytes: U32,
    text_bytes: U64,
    /// Of `text_bytes` and the whole frame of the seek table.
    crc: U32,
}
const _: () = assert!(size_of::<CheckFrame>() == 20);

impl CheckFrame {
    fn new(text_bytes: u64, table_frame: &[u8]) -> Self {
        let text_bytes = U64::new(text_bytes);
        let crc = crc32c::crc32c_append(crc32c::crc32c(text_bytes.as_bytes()), table_frame);
        CheckFrame {
            magic: U32::new(CHECK_MAGIC),
            payload_bytes: U32::new((size_of::<Self>() - SKIPPABLE_HEADER_BYTES) as u32),
            text_bytes,
            crc: U32::new(crc),
        }
    }
}

/// Collects the sizes of frames while a sealed file is written.
#[derive(Default)]
pub(crate) struct SeekTable {
    entries: Vec<SeekEntry>,
    text_bytes: u64,
}

impl SeekTable {
    pub(crate) fn push(&mut self, compressed_bytes: usize, text_bytes: usize) -> io::Result<()> {
        let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        self.entries.push(SeekEntry {
            compressed_bytes: U32::new(size(compressed_bytes)?),
            text_bytes: U32::new(size(text_bytes)?),
        });
        self.text_bytes += text_bytes as u64;
        Ok(())
    }

    /// What stands behind the last frame of text.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let table = self.entries.as_bytes();
        let mut frame = Vec::with_capacity(table.len() + 64);
        frame.extend_from_slice(&TABLE_MAGIC.to_le_bytes());
        frame.extend_from_slice(&((table.len() + SEEK_FOOTER_BYTES) as u32).to_le_bytes());
        frame.extend_from_slice(table);
        frame.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        frame.push(0);
        frame.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        [CheckFrame::new(self.text_bytes, &frame).as_bytes(), &frame].concat()
    }
}

/// A frame's place in both worlds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    file_offset: u64,
    file_bytes: u32,
    pub(crate) text_offset: u64,
    pub(crate) text_bytes: u32,
}

impl Frame {
    pub(crate) fn text_end(&self) -> u64 {
        self.text_offset + u64::from(self.text_bytes)
    }

    fn file_end(&self) -> u64 {
        self.file_offset + u64::from(self.file_bytes)
    }
}

/// A frame that cannot be read.
pub(crate) struct BadFrame {
    pub(crate) number: usize,
    frame: Frame,
    why: String,
}

impl BadFrame {
    /// The text that is lost.
    pub(crate) fn text(&self) -> Range<u64> {
        self.frame.text_offset..self.frame.text_end()
    }

    pub(crate) fn damage(&self, path: &Path) -> Damage {
        let text = self.text();
        Damage {
            path: path.to_owned(),
            offset: text.start,
            what: "frame",
            expected: format!(
                "block {} of the text, {} bytes, in {} bytes of the file from byte {} on",
                self.number,
                text.end - text.start,
                self.frame.file_bytes,
                self.frame.file_offset
            ),
            found: self.why.clone(),
        }
    }
}

/// Decodes frames. Each thread has its own, and uses its memory again.
#[derive(Default)]
pub(crate) struct FrameReader {
    decompressor: Option<Decompressor<'static>>,
    compressed: Vec<u8>,
    /// Text of a frame of which a part was wanted.
    part: Vec<u8>,
    /// Whose text that is, for as long as the reader stays with one file.
    part_of: Option<usize>,
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader").finish_non_exhaustive()
    }
}

fn decode(
    decompressor: &mut Option<Decompressor<'static>>,
    compressed: &[u8],
    out: &mut [u8],
) -> io::Result<()> {
    let decompressor = match decompressor {
        Some(decompressor) => decompressor,
        None => decompressor.insert(Decompressor::new()?),
    };
    let length = decompressor.decompress_to_buffer(compressed, out)?;
    if length != out.len() {
        return Err(invalid(format!(
            "{length} bytes of text, where the seek table says {}",
            out.len()
        )));
    }
    Ok(())
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A sealed file that is open.
pub(crate) struct SealedFile {
    file: File,
    pub(crate) frames: Vec<Frame>,
    pub(crate) file_bytes: u64,
    /// What is wrong with its seek table; the frames were found without it then.
    pub(crate) damage: Option<Damage>,
    reader: Mutex<FrameReader>,
}

impl SealedFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let mut sealed = SealedFile {
            file,
            frames: Vec::new(),
            file_bytes,
            damage: None,
            reader: Mutex::default(),
        };
        match sealed.read_table() {
            Ok(frames) => sealed.frames = frames,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                sealed.frames = sealed.walk()?;
                sealed.damage = Some(Damage {
                    path: path.to_owned(),
                    offset: sealed.frames.last().map_or(0, Frame::file_end),
                    what: "seek table",
                    expected: "one that fits its checksum and its frames".into(),
                    found: format!("{error}; {} frames without it", sealed.frames.len()),
                });
            }
            Err(error) => return Err(error),
        }
        Ok(sealed)
    }

    /// The frames by the seek table; `InvalidData` where it cannot be believed.
    fn read_table(&self) -> io::Result<Vec<Frame>> {
        let tail_bytes = self.file_bytes.min(TAIL_BYTES);
        let mut tail = vec![0; tail_bytes as usize];
        self.file
            .read_exact_at(&mut tail, self.file_bytes - tail_bytes)?;
        let Some((_, &[c0, c1, c2, c3, descriptor, ref magic @ ..])) =
            tail.split_last_chunk::<SEEK_FOOTER_BYTES>()
        else {
            return Err(invalid("a file that ends before one"));
        };
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        if u32::from_le_bytes(*magic) != SEEKABLE_MAGIC || descriptor != 0 || count > FRAMES_MAX {
            return Err(invalid("a file that does not end in one"));
        }
        let table_bytes =
            SKIPPABLE_HEADER_BYTES + count * size_of::<SeekEntry>() + SEEK_FOOTER_BYTES;
        let wanted = (size_of::<CheckFrame>() + table_bytes).min(self.file_bytes as usize);
        if wanted < table_bytes {
            return Err(invalid("one that is longer than the file"));
        }
        if tail.len() < wanted {
            tail.resize(wanted, 0);
            self.file
                .read_exact_at(&mut tail, self.file_bytes - wanted as u64)?;
        }
        let (before, table_frame) = tail.split_at(tail.len() - table_bytes);
        let table_at = self.file_bytes - table_bytes as u64;
        let entries = &table_frame[SKIPPABLE_HEADER_BYTES..table_bytes - SEEK_FOOTER_BYTES];
        let mut frames: Vec<Frame> = Vec::with_capacity(count);
        let (mut file_offset, mut text_offset) = (0, 0);
        for bytes in entries.chunks_exact(size_of::<SeekEntry>()) {
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
        // A file that another tool made may have the table alone.
        let check_at = table_at.checked_sub(size_of::<CheckFrame>() as u64);
        if Some(file_offset) == check_at {
            let expected = CheckFrame::new(text_offset, table_frame);
            if !before.ends_with(expected.as_bytes()) {
                return Err(invalid("one that its checksum does not fit"));
            }
        } else if file_offset != table_at {
            return Err(invalid("one that does not fit its frames"));
        }
        Ok(frames)
    }

    /// The frames as they follow each other in the file, up to the first that is none. Reads all of it.
    fn walk(&self) -> io::Result<Vec<Frame>> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut window = Vec::new();
        let (mut file_offset, mut text_offset) = (0, 0);
        while file_offset < self.file_bytes && frames.len() < FRAMES_MAX {
            let mut wanted = 128 << 10;
            let frame = loop {
                let length = (self.file_bytes - file_offset).min(wanted);
                window.resize(length as usize, 0);
                self.file.read_exact_at(&mut window, file_offset)?;
                if !window.starts_with(&FRAME_MAGIC.to_le_bytes()) {
                    break None;
                }
                match find_frame_compressed_size(&window) {
                    Ok(file_bytes) => {
                        let text_bytes = get_frame_content_size(&window).ok().flatten();
                        break text_bytes.map(|text_bytes| (file_bytes, text_bytes));
                    }
                    Err(_) if length < wanted || wanted > FRAME_TEXT_BYTES_MAX => break None,
                    Err(_) => wanted *= 4,
                }
            };
            let Some((file_bytes, text_bytes)) =
                frame.filter(|frame| frame.1 <= FRAME_TEXT_BYTES_MAX)
            else {
                break;
            };
            let frame = Frame {
                file_offset,
                file_bytes: file_bytes as u32,
                text_offset,
                text_bytes: text_bytes as u32,
            };
            (file_offset, text_offset) = (frame.file_end(), frame.text_end());
            frames.push(frame);
        }
        Ok(frames)
    }

    pub(crate) fn text_bytes(&self) -> u64 {
        self.frames.last().map_or(0, Frame::text_end)
    }

    /// Fills `out` with the text at `offset`. A frame that cannot be read goes to `bad`, and its text is
    /// whatever was in `out`.
    fn read(
        &self,
        reader: &mut FrameReader,
        out: &mut [u8],
        offset: u64,
        bad: &mut dyn FnMut(BadFrame),
    ) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.text_bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut next = self
            .frames
            .partition_point(|frame| frame.text_end() <= offset);
        let past = self.frames.partition_point(|frame| frame.text_offset < end);
        while next < past {
            let group = next..self.group_end(next, past);
            next = group.end;
            if group.len() == 1 && reader.part_of == Some(group.start) {
                let frame = &self.frames[group.start];
                copy_part(frame, &reader.part, out, offset);
                continue;
            }
            let from = self.frames[group.start].file_offset;
            let bytes = self.frames[group.end - 1].file_end() - from;
            reader.compressed.resize(bytes as usize, 0);
            let is_read = self.file.read_exact_at(&mut reader.compressed, from);
            for number in group.clone() {
                let frame = self.frames[number];
                let done = match &is_read {
                    Ok(()) => {
                        let at = (frame.file_offset - from) as usize;
                        self.decode_frame(reader, number, at, out, offset)
                    }
                    // One sector that is gone should cost one frame.
                    Err(_) if group.len() > 1 => {
                        reader.compressed.resize(frame.file_bytes as usize, 0);
                        self.file
                            .read_exact_at(&mut reader.compressed, frame.file_offset)
                            .and_then(|()| self.decode_frame(reader, number, 0, out, offset))
                    }
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                };
                if let Err(error) = done {
                    bad(BadFrame {
                        number,
                        frame,
                        why: error.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Replaces `text` by that of a frame.
    pub(crate) fn read_frame(
        &self,
        reader: &mut FrameReader,
        number: usize,
        text: &mut Vec<u8>,
    ) -> Result<(), BadFrame> {
        let frame = self.frames[number];
        let too_long = u64::from(frame.text_bytes) > FRAME_TEXT_BYTES_MAX;
        text.resize(
            if too_long {
                0
            } else {
                frame.text_bytes as usize
            },
            0,
        );
        reader.part_of = None;
        reader.compressed.resize(frame.file_bytes as usize, 0);
        self.file
            .read_exact_at(&mut reader.compressed, frame.file_offset)
            .and_then(|()| decode(&mut reader.decompressor, &reader.compressed, text))
            .map_err(|error| BadFrame {
                number,
                frame,
                why: error.to_string(),
            })
    }

    /// How many frames from `next` on are read at once.
    fn group_end(&self, next: usize, past: usize) -> usize {
        let from = self.frames[next].file_offset;
        let fits = |frame: &Frame| frame.file_end() - from <= READ_BYTES;
        let more = self.frames[next..past].partition_point(fits);
        next + more.max(1)
    }

    /// Decodes a frame whose compressed form is at `at` in the reader's memory.
    fn decode_frame(
        &self,
        reader: &mut FrameReader,
        number: usize,
        at: usize,
        out: &mut [u8],
        offset: u64,
    ) -> io::Result<()> {
        let frame = &self.frames[number];
        let compressed = &reader.compressed[at..at + frame.file_bytes as usize];
        let end = offset + out.len() as u64;
        if frame.text_offset >= offset && frame.text_end() <= end {
            let part =
                &mut out[(frame.text_offset - offset) as usize..][..frame.text_bytes as usize];
            return decode(&mut reader.decompressor, compressed, part);
        }
        if u64::from(frame.text_bytes) > FRAME_TEXT_BYTES_MAX {
            return Err(invalid(format!("{} bytes of text", frame.text_bytes)));
        }
        reader.part_of = None;
        reader.part.resize(frame.text_bytes as usize, 0);
        decode(&mut reader.decompressor, compressed, &mut reader.part)?;
        reader.part_of = Some(number);
        copy_part(frame, &reader.part, out, offset);
        Ok(())
    }
}

/// Copies what `out`, the text from `offset` on, wants of a frame.
fn copy_part(frame: &Frame, text: &[u8], out: &mut [u8], offset: u64) {
    let from = offset.max(frame.text_offset);
    let to = (offset + out.len() as u64).min(frame.text_end());
    let part = &text[(from - frame.text_offset) as usize..(to - frame.text_offset) as usize];
    out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
}

/// The text of a segment, open for reading, whichever form it has. Retention may delete the file, and a seal
/// replace it, meanwhile: what was opened stays readable.
///
/// ```
/// use millpond_logfile::{
///     BlockWriter, Level, SegmentId, SegmentText, Source, rebuild_index, seal_segment,
/// };
///
/// # let dir = tempfile::tempdir()?;
/// # let service_dir = dir.path();
/// let id = SegmentId::from_ns(7);
/// let mut line = Vec::new();
/// BlockWriter::new().append(&mut line, 7, Level::Info, &Source::new("rpc"), b"listening");
/// std::fs::write(id.log_path(service_dir), &line)?;
/// rebuild_index(service_dir, id, false)?;
/// seal_segment(service_dir, id, 3, &mut || true)?;
///
/// let text = SegmentText::open(service_dir, id)?;
/// assert!(text.is_sealed());
/// let mut level = [0; 4];
/// text.read_exact_at(&mut level, 31)?;
/// assert_eq!(&level, b"INFO");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SegmentText {
    path: PathBuf,
    form: Form,
}

pub(crate) enum Form {
    Plain(File),
    Sealed(Box<SealedFile>),
}

impl fmt::Debug for SegmentText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentText")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SegmentText {
    /// Opens a segment's text: the plain file, or where it is sealed the other one. Of a sealed file whose
    /// seek table is damaged the frames are found by reading all of it.
    ///
    /// # Errors
    /// `NotFound` where neither is there.
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
                let form = Form::Sealed(Box::new(SealedFile::open(&path)?));
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

    /// The sealed form, if it is that.
    pub(crate) fn sealed(&self) -> Option<&SealedFile> {
        match &self.form {
            Form::Plain(_) => None,
            Form::Sealed(sealed) => Some(sealed),
        }
    }

    pub(crate) fn form(&self) -> &Form {
        &self.form
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

    /// Fills `out` with the text at `offset`. Reads that follow each other within a block are cheap in the
    /// sealed form too: the block that was read last in part is kept.
    ///
    /// # Errors
    /// `UnexpectedEof` where there is less text, `InvalidData` where a frame is damaged.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let sealed = match &self.form {
            Form::Plain(file) => return file.read_exact_at(out, offset),
            Form::Sealed(sealed) => sealed,
        };
        let mut reader = sealed.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first_bad = None;
        sealed.read(&mut reader, out, offset, &mut |bad| {
            first_bad.get_or_insert(bad);
        })?;
        match first_bad {
            None => Ok(()),
            Some(bad) => Err(invalid(bad.damage(&self.path).to_string())),
        }
    }

    /// As [`SegmentText::read_exact_at`], with the caller's decoder and whatever of it can be read: a frame
    /// that is damaged goes to `bad`, and what was in `out` stays for it.
    pub(crate) fn read_frames_at(
        &self,
        reader: &mut FrameReader,
        out: &mut [u8],
        offset: u64,
        bad: &mut dyn FnMut(BadFrame),
    ) -> io::Result<()> {
        match &self.form {
            Form::Plain(file) => file.read_exact_at(out, offset),
            Form::Sealed(sealed) => {
                // The reader may come from another file.
                reader.part_of = None;
                sealed.read(reader, out, offset, bad)
            }
        }
    }
}
