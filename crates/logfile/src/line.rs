//! One record, one line: time, level, source, message. Lossless, and safe to print on a terminal.
//!
//! ```text
//! 2026-11-21T01:29:53.123456789Z INFO  pty:out listening on 0.0.0.0:8080
//! 0                              31    37      then a space, the message, and a newline
//! ```
//!
//! Writing a line is the hottest code of the consumer: the second is formatted once and kept, the
//! source is escaped once per source, a clean message is found so without a branch per byte, and the
//! buffer grows at most once per line.

use std::fmt;

use crate::level::Level;
use crate::time::{NS_PER_SECOND, TIME_BYTES, format_nanoseconds, format_second, parse_time};

const LEVEL_OFFSET: usize = TIME_BYTES + 1;
const SOURCE_OFFSET: usize = LEVEL_OFFSET + Level::TOKEN_BYTES + 1;
/// A source that fits here, its space included, is copied with the columns before it: one copy of
/// known size is cheaper than two of unknown size.
const SHORT_SOURCE_BYTES: usize = 32;
/// Messages are looked through in pieces of this size. Measured for 80 bytes: 32 takes 4.9 ns, 16 takes
/// 8.1, the whole slice at once 8.7, eight bytes at a time in a `u64` 12.3.
const CLEAN_CHUNK_BYTES: usize = 32;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A source token, escaped once and used for many lines.
///
/// ```
/// use millpond_logfile::Source;
/// assert_eq!(Source::new("pty:out").token(), b"pty:out");
/// assert_eq!(Source::new("two words").token(), b"two\\x20words");
/// assert_eq!(Source::new("").token(), b"-");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    token: Vec<u8>,
    /// The token and the space behind it, filled up with spaces; not used where they do not fit.
    short: [u8; SHORT_SOURCE_BYTES],
    mask: u64,
}

impl Source {
    /// The token for `name`: bytes outside `!` to `~`, and `\`, are escaped; an empty name is `-`.
    pub fn new(name: &str) -> Self {
        let mut token = Vec::with_capacity(name.len());
        for &byte in name.as_bytes() {
            match byte {
                b'\\' => token.extend_from_slice(b"\\\\"),
                b'!'..=b'~' => token.push(byte),
                _ => push_hex(&mut token, byte),
            }
        }
        if token.is_empty() {
            token.push(b'-');
        }
        let mut short = [b' '; SHORT_SOURCE_BYTES];
        if let Some(place) = short.get_mut(..token.len()) {
            place.copy_from_slice(&token);
        }
        let mask = source_mask(&token);
        Source { token, short, mask }
    }

    /// The bytes that stand in a line.
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    pub(crate) fn mask(&self) -> u64 {
        self.mask
    }
}

/// The bit of the index's source set that stands for this token.
pub(crate) fn source_mask(token: &[u8]) -> u64 {
    1 << (crc32c::crc32c(token) % 64)
}

/// Formats lines. Keeps the text of the last second, since most lines share it.
///
/// ```
/// use millpond_logfile::{Level, LineWriter, Source};
/// let mut out = Vec::new();
/// LineWriter::new().write(&mut out, 0, Level::Error, &Source::new("rpc"), b"a\nb\x1b[0m");
/// assert_eq!(out, b"1970-01-01T00:00:00.000000000Z ERROR rpc a\\nb\\x1b[0m\n");
/// ```
#[derive(Debug, Clone)]
pub struct LineWriter {
    second: u64,
    text: [u8; 20],
}

impl Default for LineWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl LineWriter {
    /// A writer that has formatted nothing yet.
    pub fn new() -> Self {
        LineWriter {
            second: 0,
            text: format_second(0),
        }
    }

    /// Appends one line to `out`. Allocates only when `out` has to grow.
    #[inline]
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        time_ns: u64,
        level: Level,
        source: &Source,
        message: &[u8],
    ) {
        let second = time_ns / NS_PER_SECOND;
        if second != self.second {
            self.second = second;
            self.text = format_second(second);
        }
        let mut head = [b' '; SOURCE_OFFSET + SHORT_SOURCE_BYTES];
        head[..20].copy_from_slice(&self.text);
        head[20..TIME_BYTES].copy_from_slice(&format_nanoseconds((time_ns % NS_PER_SECOND) as u32));
        head[LEVEL_OFFSET..SOURCE_OFFSET - 1].copy_from_slice(&level.token_bytes());
        head[SOURCE_OFFSET..].copy_from_slice(&source.short);

        out.reserve(head.len() + source.token.len() + message.len() + 2);
        let start = out.len();
        out.extend_from_slice(&head);
        if source.token.len() < SHORT_SOURCE_BYTES {
            out.truncate(start + SOURCE_OFFSET + source.token.len() + 1);
        } else {
            out.truncate(start + SOURCE_OFFSET);
            out.extend_from_slice(&source.token);
            out.push(b' ');
        }
        escape(message, out);
        out.push(b'\n');
    }
}

/// Appends `message` with everything escaped that would break a line or a terminal: `\\`, `\n`, `\r`, and
/// `\xNN` for other control bytes (tab stays), for C1 controls, and for bytes that are not UTF-8.
///
/// ```
/// let mut out = Vec::new();
/// millpond_logfile::escape(b"caf\xc3\xa9 \xff\r\n", &mut out);
/// assert_eq!(out, "café \\xff\\r\\n".as_bytes());
/// ```
#[inline]
pub fn escape(message: &[u8], out: &mut Vec<u8>) {
    if is_clean(message) {
        out.extend_from_slice(message);
    } else {
        escape_odd(message, out);
    }
}

/// Whether all of `message` is ASCII that stands for itself. No branches within a chunk, so that it
/// becomes a handful of vector instructions; the last chunk overlaps the one before it.
#[inline]
fn is_clean(message: &[u8]) -> bool {
    let (chunks, _) = message.as_chunks::<CLEAN_CHUNK_BYTES>();
    let Some(last) = message.last_chunk::<CLEAN_CHUNK_BYTES>() else {
        return odd_bytes(message) == 0;
    };
    let odd = odd_bytes(last);
    chunks.iter().fold(odd, |odd, chunk| odd | odd_bytes(chunk)) == 0
}

/// Not 0 if `bytes` holds control bytes but tab, DEL, a backslash, or anything beyond ASCII (which is
/// negative as `i8`).
#[inline(always)]
fn odd_bytes(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |odd, &byte| {
        odd | (u8::from((byte as i8) < b' ' as i8) & u8::from(byte != b'\t'))
            | u8::from(byte == 0x7f)
            | u8::from(byte == b'\\')
    })
}

/// Bytes of valid UTF-8 that need a second look.
static NEEDS_LOOK: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = byte != b'\t' as usize;
        byte += 1;
    }
    table[0x7f] = true;
    table[b'\\' as usize] = true;
    table[C1_LEAD as usize] = true;
    table
};
/// First byte of the C1 controls U+0080 to U+009F in UTF-8, and of U+00A0 to U+00BF, which are text.
const C1_LEAD: u8 = 0xc2;

#[inline(never)]
fn escape_odd(message: &[u8], out: &mut Vec<u8>) {
    // Text of other alphabets comes this way too, and is valid as a whole: one fast check, one copy.
    if let Ok(text) = std::str::from_utf8(message) {
        return escape_text(text.as_bytes(), out);
    }
    for chunk in message.utf8_chunks() {
        escape_text(chunk.valid().as_bytes(), out);
        chunk.invalid().iter().for_each(|&byte| push_hex(out, byte));
    }
}

/// `text` is valid UTF-8.
fn escape_text(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = text.iter().position(|&byte| NEEDS_LOOK[usize::from(byte)]) {
        out.extend_from_slice(&text[..at]);
        let looked_at = match text[at..] {
            [C1_LEAD, second @ 0x80..=0x9f, ..] => {
                push_hex(out, C1_LEAD);
                push_hex(out, second);
                2
            }
            [C1_LEAD, second, ..] => {
                out.extend_from_slice(&[C1_LEAD, second]);
                2
            }
            [b'\\', ..] => {
                out.extend_from_slice(b"\\\\");
                1
            }
            [b'\n', ..] => {
                out.extend_from_slice(b"\\n");
                1
            }
            [b'\r', ..] => {
                out.extend_from_slice(b"\\r");
                1
            }
            [byte, ..] => {
                push_hex(out, byte);
                1
            }
            [] => 0,
        };
        text = &text[at + looked_at..];
    }
    out.extend_from_slice(text);
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
    out.extend_from_slice(&[b'\\', b'x', HEX[high], HEX[low]]);
}

/// Why a text is no line of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineError {
    what: &'static str,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a log line: {}", self.what)
    }
}

impl std::error::Error for LineError {}

/// The parts of a line, as written: source and message are still escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsedLine<'a> {
    /// Nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// The level.
    pub level: Level,
    /// The source token.
    pub source: &'a [u8],
    /// The message, escaped.
    pub message: &'a [u8],
}

/// Takes a line apart. A newline at its end is not part of the message. A line with a zero byte is none: those are
/// escaped, and where one stands as it is, a disk has lost what was written there.
///
/// # Errors
/// Says which part is not as the format wants it.
///
/// ```
/// let line = millpond_logfile::parse_line(b"1970-01-01T00:00:00.000000007Z WARN  rpc slow\n")?;
/// assert_eq!((line.time_ns, line.source, line.message), (7, &b"rpc"[..], &b"slow"[..]));
/// # Ok::<(), millpond_logfile::LineError>(())
/// ```
pub fn parse_line(line: &[u8]) -> Result<ParsedLine<'_>, LineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let head = line.get(..SOURCE_OFFSET).ok_or(LineError {
        what: "it is too short",
    })?;
    let time_ns = parse_time(&head[..TIME_BYTES]).ok_or(LineError {
        what: "it has no time",
    })?;
    let level = Level::from_token(&head[LEVEL_OFFSET..SOURCE_OFFSET - 1]).ok_or(LineError {
        what: "it has no level",
    })?;
    if head[LEVEL_OFFSET - 1] != b' ' || head[SOURCE_OFFSET - 1] != b' ' {
        return Err(LineError {
            what: "its columns are not apart",
        });
    }
    let rest = &line[SOURCE_OFFSET..];
    let space = memchr::memchr(b' ', rest).ok_or(LineError {
        what: "it has no source",
    })?;
    if memchr::memchr(0, rest).is_some() {
        return Err(LineError {
            what: "bytes of it were never written",
        });
    }
    Ok(ParsedLine {
        time_ns,
        level,
        source: &rest[..space],
        message: &rest[space + 1..],
    })
}

/// As [`parse_line`], for a line that was read from a file: without its newline it is none.
pub(crate) fn parse_whole_line(line: &[u8]) -> Result<ParsedLine<'_>, LineError> {
    match line.last() {
        Some(b'\n') => parse_line(line),
        _ => Err(LineError {
            what: "it has no end",
        }),
    }
}

/// Whether a line can have come from [`LineWriter`]: whole, of the format, and without anything that would
/// have been escaped.
pub(crate) fn is_written_line(line: &[u8]) -> bool {
    let is_text = |line: &[u8]| {
        std::str::from_utf8(line)
            .is_ok_and(|line| !line.contains(|char: char| char.is_control() && char != '\t'))
    };
    parse_whole_line(line).is_ok() && line.strip_suffix(b"\n").is_some_and(is_text)
}

/// Appends the bytes that an escaped text stands for. What is no escape sequence is kept as it is.
///
/// ```
/// let mut out = Vec::new();
/// millpond_logfile::unescape(br"a\\b\n\xff", &mut out);
/// assert_eq!(out, b"a\\b\n\xff");
/// ```
pub fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        let (byte, length) = match &text[at + 1..] {
            [b'\\', ..] => (b'\\', 2),
            [b'n', ..] => (b'\n', 2),
            [b'r', ..] => (b'\r', 2),
            [b'x', high, low, ..] => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => (b'\\', 1),
            },
            _ => (b'\\', 1),
        };
        out.push(byte);
        text = &text[at + length..];
    }
    out.extend_from_slice(text);
}

fn hex_digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}
