//! What a child writes: made from a seed, with what the log has to make of it.

use crate::random::Random;

const WORDS: [&str; 16] = [
    "accepted",
    "listening",
    "Übertragung",
    "retry",
    "köln",
    "日本語",
    "queue",
    "🦀",
    "done",
    "e\u{301}tat",
    "naïve",
    "checksum",
    "mirror",
    "→",
    "segment",
    "flush",
];
/// A line of 1 MiB, its newline included.
const BIG_BYTES: usize = 1 << 20;
const BAR_COLUMNS: usize = 40;

/// Bytes for the terminal, and the lines that have to be in the log for them.
pub(super) struct Script {
    random: Random,
    /// The next line has this number.
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    /// Text of the lines that were ended, each with a newline.
    pub(super) lines: Vec<u8>,
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        Script {
            random: Random::new(seed),
            number: 0,
            bytes: Vec::new(),
            lines: Vec::new(),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    /// A line that begins with its kind and its number, so that no two are alike.
    fn numbered(&mut self, kind: &str, text: &str, newline: bool) {
        let number = self.next_number();
        let line = format!("{kind} {number} {text}");
        self.bytes.extend_from_slice(line.as_bytes());
        self.lines.extend_from_slice(line.as_bytes());
        self.lines.push(b'\n');
        if newline {
            self.bytes.push(b'\n');
        }
    }

    /// At least so many bytes of lines: plain ones, and one in four with colours and a title.
    pub(super) fn lines_of(&mut self, bytes: usize) {
        let enough = self.bytes.len() + bytes;
        while self.bytes.len() < enough {
            let words = 1 + self.random.below(14) as usize;
            let mut text = String::new();
            for _ in 0..words {
                text.push_str(WORDS[self.random.below(WORDS.len() as u64) as usize]);
                text.push(' ');
            }
            text.push('.');
            match self.random.below(4) {
                0 => self.coloured(&text),
                _ => self.numbered("line", &text, true),
            }
        }
    }

    fn coloured(&mut self, text: &str) {
        let number = self.next_number();
        let colour = 31 + self.random.below(6);
        let bytes = format!(
            "\x1b[1;{colour}mline {number}\x1b[0m \x1b]0;title {number} é\x07{text}\x1b(B\x1b[K\n"
        );
        self.bytes.extend_from_slice(bytes.as_bytes());
        let line = format!("line {number} {text}\n");
        self.lines.extend_from_slice(line.as_bytes());
    }

    /// One line of 1 MiB.
    pub(super) fn big_line(&mut self) {
        let head = format!("big {} ", self.number).len();
        let mut text = String::with_capacity(BIG_BYTES);
        let mut part = 0_u64;
        while text.len() < BIG_BYTES - head - 1 {
            // Numbers, so that no two pieces are alike; characters, so that pieces cut them.
            text.push_str(&format!("{part:x}é漢🦀"));
            part += 1;
        }
        while head + text.len() + 1 > BIG_BYTES {
            text.pop();
        }
        while head + text.len() + 1 < BIG_BYTES {
            text.push('x');
        }
        self.numbered("big", &text, true);
    }

    /// The frames of a progress bar, each written over the one before; a newline behind the last.
    pub(super) fn bar(&mut self, frames: usize) -> Vec<Vec<u8>> {
        let number = self.next_number();
        let clears = self.random.below(2) == 0;
        let mut drawn = Vec::new();
        for frame in 1..=frames {
            let full = BAR_COLUMNS * frame / frames;
            let percent = 100 * frame / frames;
            let (done, left) = ("█".repeat(full), " ".repeat(BAR_COLUMNS - full));
            // Without clearing, each frame is as wide as the one that it covers.
            let clear = if clears { "\x1b[K" } else { "" };
            let mut bytes = format!(
                "\r{clear}bar {number} [\x1b[32m{done}\x1b[0m{left}] {percent:>3}% of a file"
            );
            if frame == frames {
                bytes.push('\n');
                let line = format!("bar {number} [{done}{left}] {percent:>3}% of a file\n");
                self.lines.extend_from_slice(line.as_bytes());
            }
            drawn.push(bytes.into_bytes());
        }
        drawn
    }

    /// The size that the terminal has.
    pub(super) fn size(&mut self, size: &str) {
        self.numbered("size", &format!("{size}."), true);
    }

    /// The last line, without a newline.
    pub(super) fn end(&mut self) {
        self.numbered("end", "without a newline", false);
    }

    /// Cuts what is to be written into calls of `write`: some short, many in the middle of a character or an
    /// escape sequence.
    pub(super) fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut parts = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = match self.random.below(8) {
                0 => 8,
                _ => 8192,
            };
            let mut length = 1 + self.random.below(most) as usize;
            if self.random.below(2) == 0
                && let Some(at) =
                    (rest.iter().skip(length - 1)).position(|&b| b >= 0x80 || b == 0x1b)
            {
                length += at;
            }
            let (part, after) = rest.split_at(length.min(rest.len()));
            parts.push(part);
            rest = after;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_and_the_big_line_is_a_mebibyte() {
        let make = || {
            let mut script = Script::new(5);
            script.lines_of(1000);
            script.big_line();
            (script.bytes, script.lines)
        };
        assert_eq!(make(), make());
        let mut script = Script::new(5);
        script.big_line();
        assert_eq!(script.bytes.len(), BIG_BYTES);
        assert_eq!(script.bytes, script.lines);
    }

    #[test]
    fn a_bar_is_one_line_and_what_is_cut_is_all_there() {
        let mut script = Script::new(6);
        let frames = script.bar(15);
        assert_eq!(frames.len(), 15);
        assert_eq!(script.lines.split(|&byte| byte == b'\n').count(), 2);
        let bytes = frames.concat();
        assert_eq!(script.cut(&bytes).concat(), bytes);
    }
}
