//! Lines from bytes.
//!
//! [`LineSplitter`] gives out what the caller's buffer holds as slices of it; bytes are copied only where a line spans
//! two calls, or where the terminal view changes it. The parts: `scan` finds the bytes that are more than text,
//! `terminal` knows what they do, `escapes` where sequences end, `cells` is the line that the cursor moves on.

mod cells;
mod escapes;
mod scan;
mod terminal;
#[cfg(test)]
mod tests;

use cells::Out;
use terminal::Terminal;

/// A longer line goes out in pieces of this size.
pub const PIECE_BYTES: usize = 16 << 10;

/// Longest piece that can be asked for: places within a line are counted with 32 bits.
const PIECE_BYTES_LIMIT: usize = 1 << 28;

/// What of a stream becomes its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// What a person would have read on a terminal: without escape sequences, a line that was written over and over
    /// in its last state. Bytes that are no UTF-8 stay.
    #[default]
    Terminal,
    /// Every byte.
    Exact,
}

/// What [`LineSplitter::take_note`] tells: what is not in the lines, because it was no line.
///
/// ```
/// use millpond_capture::{LineSplitter, Note, PIECE_BYTES, View};
///
/// let mut splitter = LineSplitter::new(View::Terminal, PIECE_BYTES);
/// let out = &mut |_: &[u8], _| Ok::<_, std::convert::Infallible>(());
/// splitter.push(b"\x1b[?1049h an editor", out)?;
/// assert!(splitter.is_full_screen());
/// splitter.push(b"\x1b[?1049l", out)?;
/// assert_eq!(splitter.take_note(), Some(Note { full_screens: 1, bytes: 18 }));
/// assert_eq!(splitter.take_note(), None);
/// # Ok::<_, std::convert::Infallible>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Note {
    /// So many times a full-screen program (an editor, a pager) has ended: it left the alternate screen.
    pub full_screens: u64,
    /// So many bytes these have written there, escape sequences with them.
    pub bytes: u64,
}

/// Cuts a stream into lines. However the stream is cut into calls of [`LineSplitter::push`], the pieces are the same.
///
/// `out(bytes, is_continued)` is called for each piece; `is_continued`: the line goes on with the next piece. A piece
/// has no newline, and at most `piece_bytes`; in the terminal view a piece that is full ends between two characters.
///
/// * [`View::Exact`]: the pieces, with `\n` behind each that is not continued, are the stream.
/// * [`View::Terminal`]: `\r` and what else moves the cursor within a line is done; a line ends with `\n`, and where
///   the cursor leaves it; escape sequences are out. Where a piece of a line is out it cannot be written over any
///   more: a `\r` ends that line then, maybe with an empty last piece. Wrapping is not done: lines are as wide as
///   they are.
///
/// It fails only with what `out` fails with. Memory, whatever comes: at most `piece_bytes` in the exact view and twice
/// that in the terminal view as long as nothing is written over; then 20 times, for a line of nothing but tabs 140
/// times. Cost: a search for the newlines, and in the terminal view one for control characters; a line with colours in
/// it is copied once; a line that is written over is handled by the character (tens of nanoseconds each).
///
/// ```
/// use millpond_capture::{LineSplitter, PIECE_BYTES, View};
///
/// let mut splitter = LineSplitter::new(View::Terminal, PIECE_BYTES);
/// let mut lines = Vec::new();
/// let mut out = |piece: &[u8], is_continued: bool| {
///     lines.push((String::from_utf8_lossy(piece).into_owned(), is_continued));
///     Ok::<_, std::convert::Infallible>(())
/// };
/// splitter.push(b"fetching  10%\rfetching 100%\n\x1b[32mdone\x1b", &mut out)?;
/// splitter.push(b"[0m\r\n", &mut out)?;
/// splitter.finish(&mut out)?;
/// assert_eq!(lines, [("fetching 100%".into(), false), ("done".into(), false)]);
/// # Ok::<_, std::convert::Infallible>(())
/// ```
#[derive(Debug)]
pub struct LineSplitter {
    piece_bytes: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// With the start of the line that has not ended, at most `piece_bytes` of it.
    Exact(Vec<u8>),
    Terminal(Box<Terminal>),
}

impl LineSplitter {
    /// At the start of a stream. `piece_bytes`: at least 1, at most 256 MiB; what is outside of that is taken as the
    /// nearest within.
    pub fn new(view: View, piece_bytes: usize) -> Self {
        let piece_bytes = piece_bytes.clamp(1, PIECE_BYTES_LIMIT);
        let kind = match view {
            View::Exact => Kind::Exact(Vec::new()),
            View::Terminal => Kind::Terminal(Box::new(Terminal::new(piece_bytes))),
        };
        LineSplitter { piece_bytes, kind }
    }

    /// How wide the terminal is: what moves the cursor to the right gets no further than its last column. 512 until
    /// then; text may be wider in any case. 0 (a terminal that does not know) changes nothing.
    pub fn set_columns(&mut self, columns: u16) {
        if let Kind::Terminal(terminal) = &mut self.kind
            && columns > 0
        {
            terminal.set_columns(usize::from(columns));
        }
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// What `out` returned; the rest of `bytes` is lost then.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        out: &mut impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.kind {
            Kind::Exact(pending) => push_exact(pending, self.piece_bytes, bytes, out),
            Kind::Terminal(terminal) => push_terminal(terminal, self.piece_bytes, bytes, out),
        }
    }

    /// Whether [`LineSplitter::flush`] would give out anything.
    pub fn has_partial(&self) -> bool {
        match &self.kind {
            Kind::Exact(pending) => !pending.is_empty(),
            Kind::Terminal(terminal) => terminal.has_text(),
        }
    }

    /// Gives out the line that has not ended yet, as one that goes on. For a line that stood for a while: a question
    /// that waits for its answer.
    ///
    /// # Errors
    /// What `out` returned.
    pub fn flush<E>(
        &mut self,
        out: &mut impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.kind {
            Kind::Exact(pending) if pending.is_empty() => Ok(()),
            Kind::Exact(pending) => give(pending, true, out),
            Kind::Terminal(terminal) => terminal.flush(out),
        }
    }

    /// The stream has ended, and another may begin. In the exact view a last line without newline is a piece that goes
    /// on; in the terminal view it is a line, and so is a status at the bottom of the screen in its last state.
    ///
    /// # Errors
    /// What `out` returned.
    pub fn finish<E>(
        &mut self,
        out: &mut impl FnMut(&[u8], bool) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.kind {
            Kind::Exact(_) => self.flush(out),
            Kind::Terminal(terminal) => terminal.finish(out),
        }
    }

    /// Whether a full-screen program is on: what it writes is not in the lines, and is told by
    /// [`LineSplitter::take_note`] when it has ended.
    pub fn is_full_screen(&self) -> bool {
        match &self.kind {
            Kind::Exact(_) => false,
            Kind::Terminal(terminal) => terminal.is_full_screen(),
        }
    }

    /// What was left out since the last call and is over.
    pub fn take_note(&mut self) -> Option<Note> {
        match &mut self.kind {
            Kind::Exact(_) => None,
            Kind::Terminal(terminal) => terminal.take_note(),
        }
    }

    /// Memory that is held now.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        match &self.kind {
            Kind::Exact(pending) => pending.capacity(),
            Kind::Terminal(terminal) => terminal.held_bytes(),
        }
    }
}

fn push_exact<E>(
    pending: &mut Vec<u8>,
    piece_bytes: usize,
    bytes: &[u8],
    out: &mut impl Out<E>,
) -> Result<(), E> {
    let mut start = 0;
    while let Some(length) = scan::newline(&bytes[start..]) {
        let line = &bytes[start..start + length];
        start += length + 1;
        if pending.is_empty() && line.len() <= piece_bytes {
            out(line, false)?;
            continue;
        }
        let rest = give_full_pieces(pending, piece_bytes, line, out)?;
        if pending.is_empty() {
            out(rest, false)?;
        } else {
            pending.extend_from_slice(rest);
            give(pending, false, out)?;
        }
    }
    let rest = give_full_pieces(pending, piece_bytes, &bytes[start..], out)?;
    pending.extend_from_slice(rest);
    Ok(())
}

/// Gives out what is too much for one piece; the rest, with what is pending then, is not.
fn give_full_pieces<'a, E>(
    pending: &mut Vec<u8>,
    piece_bytes: usize,
    mut part: &'a [u8],
    out: &mut impl Out<E>,
) -> Result<&'a [u8], E> {
    while pending.len() + part.len() > piece_bytes {
        let (first, rest) = part.split_at(piece_bytes - pending.len());
        part = rest;
        if pending.is_empty() {
            out(first, true)?;
        } else {
            pending.extend_from_slice(first);
            give(pending, true, out)?;
        }
    }
    Ok(part)
}

fn give<E>(pending: &mut Vec<u8>, is_continued: bool, out: &mut impl Out<E>) -> Result<(), E> {
    let result = out(pending, is_continued);
    pending.clear();
    result
}

fn push_terminal<E>(
    terminal: &mut Terminal,
    piece_bytes: usize,
    mut bytes: &[u8],
    out: &mut impl Out<E>,
) -> Result<(), E> {
    while !bytes.is_empty() {
        if terminal.is_fresh() {
            // Whole lines without anything but text: as they are.
            let plain = &bytes[..scan::plain_bytes(bytes)];
            let mut start = 0;
            while let Some(length) = scan::newline(&plain[start..]) {
                let end = start + length;
                let line = &plain[start..end];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if line.len() > piece_bytes {
                    break;
                }
                start = end + 1;
                out(line, false)?;
            }
            bytes = &bytes[start..];
        }
        let taken = terminal.push_line(bytes, out)?;
        bytes = &bytes[taken..];
    }
    Ok(())
}
