//! One record, one line: time, level, source, message. Lossless, and safe to print on a terminal.

use std::fmt;

use crate::level::Level;
use crate::time::{TIME_BYTES, format_nanoseconds, format_second, parse_time};

const NS_PER_SECOND: u64 = 1_000_000_000;
/// Where the source starts: after time, space, level, space.
const SOURCE_OFFSET: usize = TIME_BYTES + 1 + 5 + 1;
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
        let mask = source_mask(&token);
        Source { token, mask }
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
        let mut head = [b' '; SOURCE_OFFSET];
        head[..20].copy_from_slice(&self.text);
        head[20..30].copy_from_slice(&format_nanoseconds((time_ns % NS_PER_SECOND) as u32));
        head[31..36].copy_from_slice(level.token().as_bytes());
        out.reserve(SOURCE_OFFSET + source.token.len() + message.len() + 2);
        out.extend_from_slice(&head);
        out.extend_from_slice(&source.token);
        out.push(b' ');
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

/// Only ASCII that stands for itself. Without branches in the loop, so that it vectorises.
#[inline]
fn is_clean(message: &[u8]) -> bool {
    let odd = |byte: u8| {
        (u8::from(byte < b' ') & u8::from(byte != b'\t'))
            | u8::from(byte >= 0x7f)
            | u8::from(byte == b'\\')
    };
    message.iter().fold(0, |found, &byte| found | odd(byte)) == 0
}

#[cold]
fn escape_odd(message: &[u8], out: &mut Vec<u8>) {
    for chunk in message.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(at) =
            rest.find(|character: char| character == '\\' || must_escape(character))
        {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            let character = rest[at..].chars().next().unwrap_or('\\');
            match character {
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                _ => {
                    let bytes = &rest.as_bytes()[at..at + character.len_utf8()];
                    bytes.iter().for_each(|&byte| push_hex(out, byte));
                }
            }
            rest = &rest[at + character.len_utf8()..];
        }
        out.extend_from_slice(rest.as_bytes());
        chunk.invalid().iter().for_each(|&byte| push_hex(out, byte));
    }
}

fn must_escape(character: char) -> bool {
    character.is_control() && character != '\t'
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

/// Takes a line apart. A newline at its end is not part of the message.
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
    let level = Level::from_token(&head[31..36]).ok_or(LineError {
        what: "it has no level",
    })?;
    if head[30] != b' ' || head[36] != b' ' {
        return Err(LineError {
            what: "its columns are not apart",
        });
    }
    let rest = &line[SOURCE_OFFSET..];
    let space = memchr::memchr(b' ', rest).ok_or(LineError {
        what: "it has no source",
    })?;
    Ok(ParsedLine {
        time_ns,
        level,
        source: &rest[..space],
        message: &rest[space + 1..],
    })
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
