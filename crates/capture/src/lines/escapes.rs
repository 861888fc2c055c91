//! Escape sequences: where they end, and what of them moves the cursor.
//!
//! [`vte`] reads `ESC x` and `CSI ..` sequences, from their ESC to their last byte; text never goes through it, so
//! bytes that are no UTF-8 stay what they are. Strings (OSC, DCS, APC, PM, SOS: titles, links, pictures) are skipped
//! here, because `vte` keeps the whole of an OSC and they may be of any length.
//!
//! Bytes of 0x80 and more end a sequence without effect and are text: a sequence that was cut off does not eat the
//! words behind it. Other control characters within a sequence do what they do outside, as on a terminal.

use vte::{Params, Parser, Perform};

const ESC: u8 = 0x1b;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const BEL: u8 = 0x07;

/// What a sequence asks for. Everything that only changes how things look is `Nothing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// To this column, from 0.
    Column(usize),
    Left(usize),
    Right(usize),
    Tabs(usize),
    BackTabs(usize),
    /// From the cursor to the end of the line (and what is below it).
    EraseRight,
    /// From the start of the line to the cursor, with it.
    EraseLeft,
    EraseLine,
    /// This many characters from the cursor on become blanks.
    EraseChars(usize),
    DeleteChars(usize),
    InsertBlanks(usize),
    /// The character before the cursor this many times more.
    Repeat(usize),
    /// To another line, or other lines come here.
    Vertical,
    /// The part of the screen that scrolls; the cursor goes to the corner.
    Region,
    Save,
    Restore,
    ScreenOn,
    ScreenOff,
    Reset,
}

/// What a byte within a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This many bytes were of the sequence; it goes on.
    Taken(usize),
    /// So many bytes, the last of them its last.
    Ended(usize, Action),
    /// A control character that does here what it does outside; the sequence goes on.
    Control(u8),
    /// The next byte is not of a sequence.
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    /// Behind ESC, which `vte` has not seen yet.
    Escape,
    /// Behind `ESC (` and the like.
    Intermediate,
    Csi,
    /// In a string. `ends_at_bell`: OSC. `ends_at_line`: a title as `screen` has it, `ESC k`, which other terminals
    /// do not know and would not wait for.
    String {
        ends_at_bell: bool,
        ends_at_line: bool,
    },
}

/// Where in a sequence the stream is.
pub(super) struct Sequences {
    state: State,
    parser: Parser,
}

impl std::fmt::Debug for Sequences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequences")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Sequences {
    pub(super) fn new() -> Self {
        Sequences {
            state: State::Outside,
            parser: Parser::new(),
        }
    }

    pub(super) fn is_outside(&self) -> bool {
        self.state == State::Outside
    }

    /// An ESC came.
    pub(super) fn begin(&mut self) {
        self.state = State::Escape;
    }

    /// Takes in `bytes`, not empty, as far as they are of one kind. Only within a sequence.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        let byte = bytes[0];
        match self.state {
            State::Outside => Step::Cancelled,
            State::String {
                ends_at_bell,
                ends_at_line,
            } => self.step_string(bytes, ends_at_bell, ends_at_line),
            _ if byte == ESC => {
                self.cancel();
                self.state = State::Escape;
                Step::Taken(1)
            }
            _ if byte == CAN || byte == SUB => {
                self.cancel();
                Step::Ended(1, Action::Nothing)
            }
            _ if byte >= 0x80 => {
                self.cancel();
                Step::Cancelled
            }
            _ if byte < 0x20 => Step::Control(byte),
            _ if byte == 0x7f => Step::Taken(1),
            State::Escape => self.step_escape(byte),
            State::Intermediate | State::Csi => {
                let is_csi = self.state == State::Csi;
                let last = if is_csi { 0x40 } else { 0x30 };
                let length = bytes
                    .iter()
                    .position(|byte| !(0x20..last).contains(byte))
                    .unwrap_or(bytes.len());
                match bytes.get(length) {
                    Some(&byte) if (last..0x7f).contains(&byte) => {
                        self.state = State::Outside;
                        Step::Ended(length + 1, self.read(&bytes[..=length]))
                    }
                    _ => {
                        self.read(&bytes[..length]);
                        Step::Taken(length)
                    }
                }
            }
        }
    }

    fn step_escape(&mut self, byte: u8) -> Step {
        let string = |ends_at_bell, ends_at_line| State::String {
            ends_at_bell,
            ends_at_line,
        };
        self.state = match byte {
            b']' => string(true, false),
            b'P' | b'X' | b'^' | b'_' => string(false, false),
            b'k' => string(true, true),
            b'[' => State::Csi,
            0x20..=0x2f => State::Intermediate,
            _ => State::Outside,
        };
        match self.state {
            State::String { .. } => Step::Taken(1),
            State::Outside => Step::Ended(1, self.read(&[ESC, byte])),
            _ => {
                self.read(&[ESC, byte]);
                Step::Taken(1)
            }
        }
    }

    fn step_string(&mut self, bytes: &[u8], ends_at_bell: bool, ends_at_line: bool) -> Step {
        let end = if ends_at_line {
            bytes
                .iter()
                .position(|byte| matches!(*byte, ESC | BEL | CAN | SUB | b'\n' | b'\r'))
        } else {
            let end = memchr::memchr3(ESC, CAN, SUB, bytes);
            let before = &bytes[..end.unwrap_or(bytes.len())];
            let bell = if ends_at_bell {
                memchr::memchr(BEL, before)
            } else {
                None
            };
            bell.or(end)
        };
        let Some(end) = end else {
            return Step::Taken(bytes.len());
        };
        match bytes[end] {
            // `ESC \` ends a string; so does any other sequence that begins.
            ESC => {
                self.state = State::Escape;
                Step::Taken(end + 1)
            }
            b'\n' | b'\r' if end == 0 => {
                self.state = State::Outside;
                Step::Cancelled
            }
            b'\n' | b'\r' => Step::Taken(end),
            _ => {
                self.state = State::Outside;
                Step::Ended(end + 1, Action::Nothing)
            }
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Action {
        let mut reading = Reading(Action::Nothing);
        self.parser.advance(&mut reading, bytes);
        reading.0
    }

    fn cancel(&mut self) {
        self.state = State::Outside;
        self.read(&[CAN]);
    }
}

struct Reading(Action);

impl Perform for Reading {
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, last: char) {
        if ignore {
            return;
        }
        let mut numbers = params.iter().map(|param| param[0]);
        self.0 = match intermediates {
            [] => plain_csi(numbers.next().unwrap_or(0), params, last),
            [b'?'] => match last {
                'h' | 'l' => numbers
                    .map(|number| private_mode(number, last == 'h'))
                    .find(|action| *action != Action::Nothing)
                    .unwrap_or(Action::Nothing),
                // Selective erase: of what was written as erasable, which nobody does.
                'K' | 'J' => plain_csi(numbers.next().unwrap_or(0), params, last),
                _ => Action::Nothing,
            },
            _ => Action::Nothing,
        };
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        if !intermediates.is_empty() {
            return;
        }
        self.0 = match byte {
            b'7' => Action::Save,
            b'8' => Action::Restore,
            b'D' | b'E' | b'M' => Action::Vertical,
            b'c' => Action::Reset,
            _ => Action::Nothing,
        };
    }
}

fn plain_csi(number: u16, params: &Params, last: char) -> Action {
    let count = usize::from(number.max(1));
    match (last, number) {
        ('G' | '`', _) => Action::Column(count - 1),
        ('C' | 'a', _) => Action::Right(count),
        ('D' | 'j', _) => Action::Left(count),
        ('I', _) => Action::Tabs(count),
        ('Z', _) => Action::BackTabs(count),
        ('K' | 'J', 0) => Action::EraseRight,
        ('K', 1) => Action::EraseLeft,
        ('K', 2) => Action::EraseLine,
        ('X', _) => Action::EraseChars(count),
        ('P', _) => Action::DeleteChars(count),
        ('@', _) => Action::InsertBlanks(count),
        ('b', _) => Action::Repeat(count),
        // Who clears the screen has shown before what was on it: it stays a line.
        ('J', 1..=3)
        | ('A' | 'B' | 'E' | 'F' | 'H' | 'f' | 'd' | 'e' | 'k' | 'L' | 'M' | 'S' | 'T', _) => {
            Action::Vertical
        }
        ('r', _) => Action::Region,
        ('s', 0) if params.len() <= 1 => Action::Save,
        ('u', 0) if params.len() <= 1 => Action::Restore,
        _ => Action::Nothing,
    }
}

fn private_mode(number: u16, is_set: bool) -> Action {
    match (number, is_set) {
        (47 | 1047 | 1049, true) => Action::ScreenOn,
        (47 | 1047 | 1049, false) => Action::ScreenOff,
        (1048, true) => Action::Save,
        (1048, false) => Action::Restore,
        _ => Action::Nothing,
    }
}
