//! The lines that every peer is given, and the check that all of them came back.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::peer::Result;

/// Bytes of a message; with time, level and source as millpond writes them a line of [`LINE_BYTES`].
pub const MESSAGE_BYTES: usize = 86;
/// Bytes of a line as programs that take lines are given it, its newline with it.
pub const LINE_BYTES: usize = 128;
/// Lines that are given at once to a program that takes text: 64 KiB, what a pipe holds.
pub const CHUNK_LINES: usize = 512;

const NUMBER_BYTES: usize = 10;
/// Messages differ in this many ways, and by their number: no two are the same. A multiple of every chunk.
const BLOCK_LINES: usize = 8192;
const PREFIX: &[u8] = b"2026-11-21T01:29:53.123456789Z INFO  out ";

/// Messages, one after the other. Making one costs some ns: its number is written into a message that is there.
pub struct Lines {
    messages: Vec<u8>,
    /// The same as lines of text; made when first asked for.
    text: Vec<u8>,
    next: u64,
    end: u64,
}

impl Lines {
    /// Messages `first` to `end`, which is not one of them.
    pub fn new(first: u64, end: u64) -> Self {
        let mut messages = Vec::with_capacity(BLOCK_LINES * MESSAGE_BYTES);
        for index in 0..BLOCK_LINES as u64 {
            let start = messages.len();
            messages.extend_from_slice(b"0000000000");
            let mut word = index;
            while messages.len() - start < MESSAGE_BYTES {
                word = mix(word);
                messages.extend_from_slice(format!(" {word:016x}").as_bytes());
            }
            messages.truncate(start + MESSAGE_BYTES);
        }
        Lines {
            messages,
            text: Vec::new(),
            next: first,
            end,
        }
    }

    /// The messages before they have numbers: programs in C put them in themselves.
    pub fn block(&self) -> &[u8] {
        &self.messages
    }

    /// How many are to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.next
    }

    /// The next message.
    pub fn next_message(&mut self) -> Option<&[u8]> {
        let number = self.next;
        if number == self.end {
            return None;
        }
        self.next += 1;
        Some(self.message(number))
    }

    /// Message `number`.
    pub fn message(&mut self, number: u64) -> &[u8] {
        let start = number as usize % BLOCK_LINES * MESSAGE_BYTES;
        let message = &mut self.messages[start..start + MESSAGE_BYTES];
        put_number(message, number);
        message
    }

    /// The next `count` messages as lines of text, or those that are left. `count` divides 8,192, and stays the same.
    pub fn next_text(&mut self, count: usize) -> Option<&[u8]> {
        if self.text.is_empty() {
            for message in self.messages.chunks_exact(MESSAGE_BYTES) {
                self.text.extend_from_slice(PREFIX);
                self.text.extend_from_slice(message);
                self.text.push(b'\n');
            }
        }
        let count = self.remaining().min(count as u64) as usize;
        if count == 0 {
            return None;
        }
        let start = self.next as usize % BLOCK_LINES * LINE_BYTES;
        let text = &mut self.text[start..start + count * LINE_BYTES];
        for line in text.chunks_exact_mut(LINE_BYTES) {
            put_number(&mut line[PREFIX.len()..], self.next);
            self.next += 1;
        }
        Some(text)
    }
}

fn put_number(message: &mut [u8], mut number: u64) {
    for digit in message[..NUMBER_BYTES].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// SplitMix64: the same words everywhere, that no compressor likes.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What came back: each message once, every byte of it, in order.
pub struct Check {
    lines: Lines,
    expected: u64,
    /// One bit a message.
    seen: Vec<u64>,
    found: u64,
    repeated: u64,
    damaged: u64,
    disordered: u64,
    last: Option<u64>,
    is_ordered: bool,
}

impl Check {
    /// Of messages 0 to `expected`, which is not one of them.
    pub fn new(expected: u64) -> Self {
        Check {
            lines: Lines::new(0, expected),
            expected,
            seen: vec![0; expected as usize / 64 + 1],
            found: 0,
            repeated: 0,
            damaged: 0,
            disordered: 0,
            last: None,
            is_ordered: true,
        }
    }

    /// Several publishers wrote at the same time: only each of them has an order.
    pub fn allow_any_order(&mut self) {
        self.is_ordered = false;
    }

    /// A stored line without its newline: whatever the peer put in front, it ends in the message.
    pub fn line(&mut self, line: &[u8]) {
        let message = &line[line.len().saturating_sub(MESSAGE_BYTES)..];
        let digits = message.get(..NUMBER_BYTES).unwrap_or_default();
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok());
        let Some(number) = number.filter(|&number: &u64| number < self.expected) else {
            self.damaged += 1;
            return;
        };
        if message != self.lines.message(number) {
            self.damaged += 1;
            return;
        }
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if self.seen[word] & bit != 0 {
            self.repeated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.found += 1;
        if self.is_ordered && self.last.is_some_and(|last| last > number) {
            self.disordered += 1;
        }
        self.last = Some(number);
    }

    /// Every line of a text file.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        self.reader(BufReader::with_capacity(1 << 20, file))
    }

    /// Every line that `reader` has.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn reader(&mut self, mut reader: impl BufRead) -> Result<()> {
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            self.line(&line);
            line.clear();
        }
        Ok(())
    }

    /// How many did not come back.
    ///
    /// # Errors
    /// Where something came back that was not handed in, or twice, or out of order: that is no loss but a fault.
    pub fn finish(self) -> Result<u64> {
        let faults = [
            (self.repeated, "twice"),
            (self.damaged, "damaged"),
            (self.disordered, "out of order"),
        ];
        let told: Vec<String> = faults
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if told.is_empty() {
            return Ok(self.expected - self.found);
        }
        let (found, expected) = (self.found, self.expected);
        Err(format!(
            "of {expected} lines {found} came back, and {}",
            told.join(", ")
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_come_back() {
        let mut check = Check::new(9000);
        let mut lines = Lines::new(0, 9000);
        while let Some(text) = lines.next_text(CHUNK_LINES) {
            assert!(text.len().is_multiple_of(LINE_BYTES));
            check.reader(text).expect("it is in memory");
        }
        assert_eq!(check.finish().expect("no fault"), 0);
    }

    #[test]
    fn a_missing_line_is_lost_and_a_changed_one_a_fault() {
        let mut lines = Lines::new(0, 3);
        let (mut lossy, mut faulty) = (Check::new(3), Check::new(3));
        for number in 0..3 {
            let mut message = lines.message(number).to_vec();
            if number != 1 {
                lossy.line(&message);
            }
            message[MESSAGE_BYTES - 1] ^= u8::from(number == 1);
            faulty.line(&message);
        }
        assert_eq!(lossy.finish().expect("no fault"), 1);
        let fault = faulty
            .finish()
            .expect_err("a byte is not as it was")
            .to_string();
        assert_eq!(fault, "of 3 lines 2 came back, and 1 damaged");
    }

    #[test]
    fn the_same_line_twice_and_an_earlier_one_later_are_faults() {
        let mut lines = Lines::new(0, 3);
        let mut check = Check::new(3);
        for number in [0, 2, 1, 1] {
            check.line(lines.message(number));
        }
        let fault = check.finish().expect_err("two faults").to_string();
        assert_eq!(fault, "of 3 lines 3 came back, and 1 twice, 1 out of order");
    }
}
