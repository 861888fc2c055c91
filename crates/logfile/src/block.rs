//! Lines appended to an open segment, accounted block by block.

use crate::index::{EntryBuilder, IndexEntry};
use crate::level::Level;
use crate::line::{LineError, LineWriter, Source, parse_whole_line, source_mask};

/// A block ends with the line that brings it to this many bytes. The rule looks at nothing but the text, so
/// that an index made later from the text is the same to the bit.
pub const BLOCK_BYTES: u64 = 64 << 10;

/// Formats the lines of one open segment, and keeps the numbers for its index.
///
/// The text goes to buffers of the caller, which may be handed away between lines: call
/// [`BlockWriter::fold`] before, so that the checksum has seen every byte.
///
/// ```
/// use millpond_logfile::{BlockWriter, Level, Source};
/// let (mut block, mut text) = (BlockWriter::new(), Vec::new());
/// let source = Source::new("rpc");
/// for number in 0..2000 {
///     block.append(&mut text, number, Level::Info, &source, b"GET /index.html");
/// }
/// assert_eq!(block.length_bytes(), text.len() as u64);
/// assert_eq!(block.take_entries().len(), 1); // one full block, the second is still open
/// ```
#[derive(Debug, Clone)]
pub struct BlockWriter {
    lines: LineWriter,
    open: EntryBuilder,
    /// Checksum of the open block, as far as it was folded.
    crc: u32,
    /// Where in the caller's buffer the bytes start that the checksum has not seen.
    unfolded_from: usize,
    entries: Vec<IndexEntry>,
}

impl Default for BlockWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl BlockWriter {
    /// For a segment that is empty.
    pub fn new() -> Self {
        Self::at(0)
    }

    /// For a segment whose blocks end at `offset`; the open block is fed with [`BlockWriter::account`].
    pub(crate) fn at(offset: u64) -> Self {
        BlockWriter {
            lines: LineWriter::new(),
            open: EntryBuilder::at(offset),
            crc: 0,
            unfolded_from: 0,
            entries: Vec::new(),
        }
    }

    /// Appends one line to `out`. Allocates only when `out` or the list of closed blocks has to grow.
    ///
    /// A message is at most 64 MiB, so that a line stays below what the index takes for one.
    #[inline]
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        time_ns: u64,
        level: Level,
        source: &Source,
        message: &[u8],
    ) {
        let start = out.len();
        self.lines.write(out, time_ns, level, source, message);
        self.open
            .add_line(out.len() - start, time_ns, level, source.mask());
        if self.open.length_bytes >= BLOCK_BYTES {
            self.close(out);
        }
    }

    /// Accounts a line that is in `out[start..end]` already, newline included. Returns what is wrong with it
    /// if it is damaged.
    pub(crate) fn account(&mut self, out: &[u8], start: usize, end: usize) -> Option<LineError> {
        let length = end - start;
        let damage = match parse_whole_line(&out[start..end]) {
            Ok(line) => {
                let mask = source_mask(line.source);
                self.open.add_line(length, line.time_ns, line.level, mask);
                None
            }
            Err(error) => {
                self.open.add_damaged_line(length);
                Some(error)
            }
        };
        if self.open.length_bytes >= BLOCK_BYTES {
            self.close(&out[..end]);
        }
        damage
    }

    /// Where the open block begins.
    pub(crate) fn open_offset(&self) -> u64 {
        self.open.offset
    }

    #[cold]
    fn close(&mut self, out: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, &out[self.unfolded_from..]);
        self.unfolded_from = out.len();
        self.entries.push(self.open.build(self.crc));
        self.open = EntryBuilder::at(self.length_bytes());
        self.crc = 0;
    }

    /// The buffer goes away: takes what the checksum has not seen. The next `append` uses an empty one.
    pub fn fold(&mut self, out: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, &out[self.unfolded_from..]);
        self.unfolded_from = 0;
    }

    /// Closes the open block, full or not: the segment ends here. Folds `out` too.
    pub fn finish(&mut self, out: &[u8]) {
        if self.open.length_bytes > 0 {
            self.close(out);
        }
        self.unfolded_from = 0;
    }

    /// Length of the segment with everything appended.
    pub fn length_bytes(&self) -> u64 {
        self.open.offset + self.open.length_bytes
    }

    /// The blocks closed since the last call.
    pub fn take_entries(&mut self) -> Vec<IndexEntry> {
        std::mem::take(&mut self.entries)
    }
}
