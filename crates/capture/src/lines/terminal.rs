//! The view [`Terminal`](super::View::Terminal): which bytes are text, and on which line they are.
//!
//! | what comes | what becomes of it |
//! |---|---|
//! | text, tab, C0 not named below, U+0080..U+009F | kept |
//! | NUL, BEL, SO, SI, DEL | dropped |
//! | `\r`, backspace, CSI C D a j G `` ` `` I Z, K, J 0, X P @ b | done on the cells of the line |
//! | CSI A B E F H f d e k L M S T, J 1 2 3; ESC D E M | ends the line, unless it is empty |
//! | ESC 7 / CSI s / CSI ?1048h, then one of the line above | a status: see below |
//! | CSI ?47h ?1047h ?1049h .. `l` | the alternate screen: left out and counted |
//! | CSI r | ends the line; the status is over |
//! | ESC c | ends the line, and leaves the alternate screen |
//! | every other sequence and string | stripped |
//!
//! A *status* is what stands at the bottom of the screen while lines scroll by above it (apt): saved cursor, somewhere
//! else, text, restored cursor. It is not in the lines; its last state is a line of its own when the part of the screen
//! that scrolls is set anew, or at the end. A newline within it shows that it was none: it becomes a line then.

use std::convert::Infallible;

use super::cells::{Line, Out};
use super::escapes::{Action, Sequences, Step};
use super::{Note, scan};

const ESC: u8 = 0x1b;
const ERASE_RIGHT: &[u8] = b"\x1b[K";

#[derive(Debug)]
pub(super) struct Terminal {
    sequences: Sequences,
    line: Line,
    /// Written while the cursor is saved and elsewhere.
    status: Line,
    in_status: bool,
    /// The last state of the status that was something.
    status_shown: Vec<u8>,
    /// The status is over, and becomes a line when the one that is being written has ended.
    is_status_due: bool,
    /// The alternate screen is on.
    is_full_screen: bool,
    screen_bytes: u64,
    note: Note,
}

impl Terminal {
    pub(super) fn new(piece_bytes: usize) -> Self {
        Terminal {
            sequences: Sequences::new(),
            line: Line::new(piece_bytes),
            status: Line::new(piece_bytes),
            in_status: false,
            status_shown: Vec::new(),
            is_status_due: false,
            is_full_screen: false,
            screen_bytes: 0,
            note: Note::default(),
        }
    }

    pub(super) fn set_columns(&mut self, columns: usize) {
        self.line.set_columns(columns);
        self.status.set_columns(columns);
    }

    pub(super) fn is_full_screen(&self) -> bool {
        self.is_full_screen
    }

    pub(super) fn take_note(&mut self) -> Option<Note> {
        let note = std::mem::take(&mut self.note);
        (note != Note::default()).then_some(note)
    }

    pub(super) fn has_text(&self) -> bool {
        self.line.has_text()
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.line.held_bytes() + self.status.held_bytes() + self.status_shown.capacity()
    }

    /// Whether a line that comes now would be given out as it is.
    #[inline]
    pub(super) fn is_fresh(&self) -> bool {
        self.line.is_fresh()
            && self.sequences.is_outside()
            && !self.in_status
            && !self.is_full_screen
            && !self.is_status_due
    }

    /// Takes in `bytes` up to the first newline behind which [`Terminal::is_fresh`]; gives back how many that were.
    pub(super) fn push_line<E>(&mut self, bytes: &[u8], out: &mut impl Out<E>) -> Result<usize, E> {
        let mut at = 0;
        while at < bytes.len() {
            let was_full_screen = self.is_full_screen;
            let taken = self.push_some(&bytes[at..], out)?;
            at += taken;
            if was_full_screen {
                self.screen_bytes += taken as u64;
                self.count_screen();
            } else if taken == 1 && bytes[at - 1] == b'\n' && self.is_fresh() {
                break;
            }
        }
        Ok(at)
    }

    fn push_some<E>(&mut self, bytes: &[u8], out: &mut impl Out<E>) -> Result<usize, E> {
        if !self.sequences.is_outside() {
            return match self.sequences.step(bytes) {
                Step::Taken(count) => Ok(count),
                Step::Cancelled => Ok(0),
                Step::Control(byte) => self.control(byte, out).map(|()| 1),
                Step::Ended(count, action) => self.act(action, out).map(|()| count),
            };
        }
        if self.is_full_screen {
            let text_bytes = memchr::memchr(ESC, bytes).unwrap_or(bytes.len());
            if text_bytes == 0 {
                self.sequences.begin();
                return Ok(1);
            }
            return Ok(text_bytes);
        }
        let text_bytes = scan::text_bytes(bytes);
        if text_bytes > 0 {
            self.write(&bytes[..text_bytes], out)?;
            return Ok(text_bytes);
        }
        if let Some(colour_bytes) = scan::colour_bytes(bytes) {
            return Ok(colour_bytes);
        }
        // What `grep` puts behind every colour.
        if bytes.starts_with(ERASE_RIGHT) {
            self.act(Action::EraseRight, out)?;
            return Ok(ERASE_RIGHT.len());
        }
        self.control(bytes[0], out)?;
        Ok(1)
    }

    fn write<E>(&mut self, run: &[u8], out: &mut impl Out<E>) -> Result<(), E> {
        if self.in_status {
            let Ok(()) = self.status.write(run, &mut drop_piece);
            return Ok(());
        }
        self.line.write(run, out)
    }

    fn control<E>(&mut self, byte: u8, out: &mut impl Out<E>) -> Result<(), E> {
        if self.is_full_screen {
            return Ok(());
        }
        match byte {
            ESC => {
                self.sequences.begin();
                Ok(())
            }
            b'\n' => self.newline(out),
            b'\r' if self.in_status => {
                self.status.carriage_return();
                Ok(())
            }
            b'\r' => {
                self.line.carriage_return();
                Ok(())
            }
            0x08 => self.act(Action::Left(1), out),
            // NUL, BEL, SO and SI, DEL: no terminal shows them.
            0x00 | 0x07 | 0x0e | 0x0f | 0x7f => Ok(()),
            _ => self.write(&[byte], out),
        }
    }

    fn newline<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if std::mem::take(&mut self.in_status) {
            self.line.end_if_begun(out)?;
            self.status.end_if_begun(out)?;
        } else {
            self.line.end(out)?;
        }
        self.give_due_status(out)
    }

    fn act<E>(&mut self, action: Action, out: &mut impl Out<E>) -> Result<(), E> {
        if self.is_full_screen {
            if matches!(action, Action::ScreenOff | Action::Reset) {
                self.is_full_screen = false;
            }
            return Ok(());
        }
        match action {
            Action::Nothing | Action::ScreenOff => Ok(()),
            Action::Vertical | Action::Region => {
                if self.in_status {
                    self.close_status();
                } else if self.line.has_saved() {
                    self.in_status = true;
                } else {
                    self.end_line(out)?;
                }
                if action == Action::Region && !self.status_shown.is_empty() {
                    self.is_status_due = true;
                    if !self.line.is_begun() {
                        self.give_due_status(out)?;
                    }
                }
                Ok(())
            }
            Action::Save if self.in_status => Ok(()),
            Action::Save => {
                self.line.save();
                Ok(())
            }
            Action::Restore => {
                if std::mem::take(&mut self.in_status) {
                    self.close_status();
                }
                self.line.restore(out)
            }
            Action::ScreenOn => {
                self.leave_status();
                self.is_full_screen = true;
                self.screen_bytes = 0;
                self.end_line(out)
            }
            Action::Reset => {
                self.leave_status();
                self.end_line(out)
            }
            _ if self.in_status => {
                let Ok(()) = self.status.act(action, &mut drop_piece);
                Ok(())
            }
            _ => self.line.act(action, out),
        }
    }

    fn end_line<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        self.line.end_if_begun(out)?;
        self.give_due_status(out)
    }

    /// Keeps what the status is now, if it is anything.
    fn close_status(&mut self) {
        if self.status.is_begun() {
            self.status.take_into(&mut self.status_shown);
        } else {
            let Ok(()) = self.status.end_if_begun(&mut drop_piece);
        }
    }

    fn leave_status(&mut self) {
        if std::mem::take(&mut self.in_status) {
            self.close_status();
        }
    }

    fn give_due_status<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        if !std::mem::take(&mut self.is_status_due) {
            return Ok(());
        }
        let result = out(&self.status_shown, false);
        self.status_shown.clear();
        result
    }

    /// The alternate screen was on before the last bytes: is it over?
    fn count_screen(&mut self) {
        if !self.is_full_screen {
            self.note.full_screens += 1;
            self.note.bytes += std::mem::take(&mut self.screen_bytes);
        }
    }

    pub(super) fn flush<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        self.line.flush(out)
    }

    pub(super) fn finish<E>(&mut self, out: &mut impl Out<E>) -> Result<(), E> {
        self.sequences = Sequences::new();
        self.leave_status();
        if std::mem::take(&mut self.is_full_screen) {
            self.count_screen();
        }
        self.is_status_due = !self.status_shown.is_empty();
        self.end_line(out)
    }
}

/// A status is one line at most; of a longer one the end is kept.
fn drop_piece(_piece: &[u8], _is_continued: bool) -> Result<(), Infallible> {
    Ok(())
}
