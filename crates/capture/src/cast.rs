//! asciicast version 2, with exact bytes. The format: `docs/formats/cast.md`.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::pty::WindowSize;
use crate::session::Exit;

/// So far behind the file may be: for this long, where [`CastWriter::flush_due`] is heeded, or by so many bytes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of one event; a longer output is several.
const EVENT_BYTES: usize = 64 << 10;
/// A character has at most this many bytes.
const CHARACTER_BYTES: usize = 4;

/// What the first line of a cast says.
///
/// ```
/// use millpond_capture::{CastHeader, WindowSize};
/// let header = CastHeader { title: "web", ..CastHeader::default() };
/// assert_eq!(header.size, WindowSize { columns: 80, rows: 24 });
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CastHeader<'a> {
    /// Of the terminal, at the start.
    pub size: WindowSize,
    /// When it started, seconds of real time.
    pub timestamp: u64,
    /// What it is of: the service.
    pub title: &'a str,
    /// The command as typed; `None`: not known.
    pub command: Option<&'a str>,
    /// `TERM` and `SHELL`, where they are known.
    pub environment: &'a [(&'a str, &'a str)],
    /// Carriage returns were put before newlines for playing.
    pub is_pipe: bool,
}

/// Writes a cast.
///
/// Keeps what it writes in a buffer of its own and gives it to `out` in whole lines when 64 KiB are there, and
/// with the first event that comes 100 ms after the last time; see [`CastWriter::flush`]. It knows no clock: each
/// call says when, counted from the start. A time that goes back is taken as the last one.
///
/// When `out` fails, that is kept, nothing more is written, and [`CastWriter::finish`] tells.
///
/// ```
/// use std::time::Duration;
/// use millpond_capture::{CastHeader, CastWriter, Exit};
/// let header = CastHeader { title: "web", timestamp: 1_795_224_593, ..CastHeader::default() };
/// let mut cast = CastWriter::new(Vec::new(), &header);
/// cast.output(Duration::ZERO, b"listening\r\n");
/// // Not UTF-8: what plays, and the exact bytes.
/// cast.output(Duration::from_micros(1_500_000), b"\xffok");
/// cast.exit(Duration::from_secs(2), Exit::Code(0));
/// let text = String::from_utf8(cast.finish()?).expect("it is text");
/// let lines: Vec<&str> = text.lines().collect();
/// assert_eq!(lines[0], r#"{"version":2,"width":80,"height":24,"timestamp":1795224593,"title":"web","millpond":{"mode":"pty"}}"#);
/// assert_eq!(lines[1], r#"[0.000000,"o","listening\r\n"]"#);
/// assert_eq!(lines[2], "[1.500000,\"o\",\"\u{fffd}ok\"]");
/// assert_eq!(lines[3], r#"[1.500000,"b","/29r"]"#);
/// assert_eq!(lines[4], r#"[2.000000,"x","0"]"#);
/// # Ok::<(), millpond_capture::CastError>(())
/// ```
pub struct CastWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    /// The first bytes of a character that has not come to its end: at most three.
    held: Vec<u8>,
    /// The time of the last event, and of the last time that `out` was given something.
    last: Duration,
    flushed: Duration,
    taken_bytes: u64,
    failure: Option<io::Error>,
}

/// A cast is not complete.
///
/// ```
/// use std::io;
/// use millpond_capture::{CastHeader, CastWriter};
/// struct Full;
/// impl io::Write for Full {
///     fn write(&mut self, _: &[u8]) -> io::Result<usize> {
///         Err(io::ErrorKind::StorageFull.into())
///     }
///     fn flush(&mut self) -> io::Result<()> {
///         Ok(())
///     }
/// }
/// let cast = CastWriter::new(Full, &CastHeader::default());
/// let error = cast.finish().err().expect("there is no room");
/// assert_eq!(error.to_string(), "no storage space; 0 bytes of the cast are written");
/// ```
#[derive(Debug)]
pub struct CastError {
    source: io::Error,
    taken_bytes: u64,
}

impl CastError {
    /// So many bytes were taken by the file before.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }
}

impl From<CastError> for io::Error {
    /// The failure itself: a reader that has gone is a broken pipe.
    fn from(error: CastError) -> Self {
        error.source
    }
}

impl fmt::Display for CastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CastError {
            source,
            taken_bytes,
        } = self;
        write!(f, "{source}; {taken_bytes} bytes of the cast are written")
    }
}

impl std::error::Error for CastError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl<W: Write> fmt::Debug for CastWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CastWriter")
            .field("taken_bytes", &self.taken_bytes)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl<W: Write> CastWriter<W> {
    /// With the header in its buffer.
    pub fn new(out: W, header: &CastHeader<'_>) -> Self {
        let mut buffer = Vec::with_capacity(2 * BUFFER_BYTES);
        push_header(&mut buffer, header);
        CastWriter {
            out,
            buffer,
            held: Vec::with_capacity(CHARACTER_BYTES),
            last: Duration::ZERO,
            flushed: Duration::ZERO,
            taken_bytes: 0,
            failure: None,
        }
    }

    /// Bytes that a terminal is given. Cut anywhere: a character that has not come to its end waits for the rest.
    pub fn output(&mut self, at: Duration, bytes: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        let time = self.time(at);
        for part in bytes.chunks(EVENT_BYTES - CHARACTER_BYTES) {
            self.push_output(time, part);
            self.flush_full();
        }
        self.flush_if_due();
    }

    /// The terminal has this size from now on.
    pub fn resize(&mut self, at: Duration, size: WindowSize) {
        let WindowSize { columns, rows } = size;
        // A terminal without a size is none that could be played on.
        if columns > 0 && rows > 0 {
            self.event(at, b'r', &format!("{columns}x{rows}"));
        }
    }

    /// A place with a name.
    pub fn marker(&mut self, at: Duration, text: &str) {
        self.event(at, b'm', text);
    }

    /// The command has ended. What it left of a character goes in front.
    pub fn exit(&mut self, at: Duration, exit: Exit) {
        self.push_held(at);
        self.event(at, b'x', &exit.code().to_string());
    }

    /// In how long [`CastWriter::flush`] is due, at this time; `None` where there is nothing to flush.
    pub fn flush_due(&self, at: Duration) -> Option<Duration> {
        let due = self.flushed + FLUSH_INTERVAL;
        (!self.buffer.is_empty()).then(|| due.saturating_sub(at))
    }

    /// Gives `out` what is in the buffer. A failure is kept for [`CastWriter::finish`].
    pub fn flush(&mut self) {
        self.flushed = self.last;
        if self.failure.is_some() {
            return;
        }
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => {
                    self.failure = Some(io::ErrorKind::WriteZero.into());
                    break;
                }
                Ok(count) => {
                    rest = &rest[count..];
                    self.taken_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
        }
        if self.failure.is_none()
            && let Err(error) = self.out.flush()
        {
            self.failure = Some(error);
        }
        self.buffer.clear();
    }

    /// What has failed so far.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// Writes what is left, and gives `out` back.
    ///
    /// # Errors
    /// What kept the cast from being complete, with how much of it is there.
    pub fn finish(mut self) -> Result<W, CastError> {
        self.push_held(self.last);
        self.flush();
        let taken_bytes = self.taken_bytes;
        match self.failure {
            None => Ok(self.out),
            Some(source) => Err(CastError {
                source,
                taken_bytes,
            }),
        }
    }

    fn time(&mut self, at: Duration) -> Duration {
        self.last = self.last.max(at);
        self.last
    }

    fn event(&mut self, at: Duration, code: u8, text: &str) {
        if self.failure.is_none() {
            let time = self.time(at);
            push_text_event(&mut self.buffer, time, code, text);
            self.flush_if_due();
        }
    }

    /// One event, two where it is not UTF-8, none where it is less than a character.
    fn push_output(&mut self, time: Duration, bytes: &[u8]) {
        if self.held.is_empty() {
            let whole = bytes.len() - incomplete_bytes(bytes);
            push_output_event(&mut self.buffer, time, &bytes[..whole]);
            self.held.extend_from_slice(&bytes[whole..]);
            return;
        }
        let mut joined = std::mem::take(&mut self.held);
        joined.extend_from_slice(bytes);
        let whole = joined.len() - incomplete_bytes(&joined);
        push_output_event(&mut self.buffer, time, &joined[..whole]);
        joined.drain(..whole);
        self.held = joined;
    }

    /// The end of a character will not come.
    fn push_held(&mut self, at: Duration) {
        let time = self.time(at);
        let held = std::mem::take(&mut self.held);
        push_output_event(&mut self.buffer, time, &held);
    }

    fn flush_full(&mut self) {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    fn flush_if_due(&mut self) {
        if self.flush_due(self.last) == Some(Duration::ZERO) {
            self.flush();
        }
    }
}

/// How many bytes at the end are the start of a character that goes on behind it: 0 to 3.
fn incomplete_bytes(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(CHARACTER_BYTES - 1)..];
    let Some(lead) = tail.iter().rposition(|byte| byte & 0xC0 == 0xC0) else {
        return 0;
    };
    match std::str::from_utf8(&tail[lead..]) {
        // Good so far, and too short.
        Err(error) if error.error_len().is_none() && error.valid_up_to() == 0 => tail.len() - lead,
        _ => 0,
    }
}

fn push_header(out: &mut Vec<u8>, header: &CastHeader<'_>) {
    let mut size = header.size;
    if size.columns == 0 || size.rows == 0 {
        size = WindowSize::default();
    }
    let WindowSize { columns, rows } = size;
    let timestamp = header.timestamp;
    out.extend_from_slice(
        format!(r#"{{"version":2,"width":{columns},"height":{rows},"timestamp":{timestamp}"#)
            .as_bytes(),
    );
    out.extend_from_slice(br#","title":"#);
    push_string(out, header.title);
    if let Some(command) = header.command {
        out.extend_from_slice(br#","command":"#);
        push_string(out, command);
    }
    for (index, (name, value)) in header.environment.iter().enumerate() {
        out.extend_from_slice(if index == 0 { br#","env":{"# } else { b"," });
        push_string(out, name);
        out.push(b':');
        push_string(out, value);
    }
    if !header.environment.is_empty() {
        out.push(b'}');
    }
    let mode = if header.is_pipe { "pipe" } else { "pty" };
    out.extend_from_slice(format!(",\"millpond\":{{\"mode\":\"{mode}\"}}}}\n").as_bytes());
}

fn push_output_event(out: &mut Vec<u8>, time: Duration, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        push_text_event(out, time, b'o', text);
        return;
    }
    push_event_start(out, time, b'o');
    out.push(b'"');
    push_lossy(out, bytes);
    out.extend_from_slice(b"\"]\n");
    push_event_start(out, time, b'b');
    out.push(b'"');
    let start = out.len();
    // Padded groups of four characters for three bytes.
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    // It has exactly the room that it needs.
    out.truncate(start + written.unwrap_or_default());
    out.extend_from_slice(b"\"]\n");
}

/// What stands for each byte in a string, and how many bytes that is: itself, its escape, or U+FFFD.
const SHOWN: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'\n' => [b'\\', b'n', 0, 0, 0, 0, 0, 2],
            b'\r' => [b'\\', b'r', 0, 0, 0, 0, 0, 2],
            b'\t' => [b'\\', b't', 0, 0, 0, 0, 0, 2],
            code @ (b'"' | b'\\') => [b'\\', code, 0, 0, 0, 0, 0, 2],
            code @ 0..0x20 => {
                let digits = *b"0123456789abcdef";
                let (high, low) = (digits[(code >> 4) as usize], digits[(code & 15) as usize]);
                [b'\\', b'u', b'0', b'0', high, low, 0, 6]
            }
            code @ 0x20..0x80 => [code, 0, 0, 0, 0, 0, 0, 1],
            0x80.. => [0xef, 0xbf, 0xbd, 0, 0, 0, 0, 3],
        };
        byte += 1;
    }
    table
};

/// Bytes that are no text: by a table, since what is clean in them is short. U+FFFD for each byte that is no part of
/// a character.
fn push_lossy(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut to = out.len();
    // An escape has six bytes, and eight are copied.
    out.resize(to + 6 * bytes.len() + 2, 0);
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        // Of random bytes few are the start of a character that goes on: one condition, mostly false.
        let next = bytes.get(at + 1).copied().unwrap_or(0);
        if (byte >= 0xC2) & (next & 0xC0 == 0x80)
            && let Some(character) = character_at(&bytes[at..])
        {
            out[to..to + character.len()].copy_from_slice(character);
            to += character.len();
            at += character.len();
            continue;
        }
        let shown = &SHOWN[usize::from(byte)];
        out[to..to + 8].copy_from_slice(shown);
        to += usize::from(shown[7]);
        at += 1;
    }
    out.truncate(to);
}

/// The character of more than one byte at the start, if there is one.
fn character_at(bytes: &[u8]) -> Option<&[u8]> {
    let length = match bytes[0] {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return None,
    };
    let character = bytes.get(..length)?;
    std::str::from_utf8(character).is_ok().then_some(character)
}

fn push_text_event(out: &mut Vec<u8>, time: Duration, code: u8, text: &str) {
    push_event_start(out, time, code);
    push_string(out, text);
    out.extend_from_slice(b"]\n");
}

/// `[12.345678,"o",`
fn push_event_start(out: &mut Vec<u8>, time: Duration, code: u8) {
    let (seconds, micros) = (time.as_secs(), time.subsec_micros());
    let code = char::from(code);
    // Writing to memory does not fail.
    let _ = write!(out, "[{seconds}.{micros:06},\"{code}\",");
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + rest.len() / 8);
    loop {
        let clean = clean_bytes(rest);
        out.extend_from_slice(&rest[..clean]);
        let Some(&byte) = rest.get(clean) else { return };
        rest = &rest[clean + 1..];
        let shown = &SHOWN[usize::from(byte)];
        out.extend_from_slice(&shown[..usize::from(shown[7])]);
    }
}

/// How many bytes at the start need no escape.
fn clean_bytes(bytes: &[u8]) -> usize {
    let needs_escape = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let mut words = bytes.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        // `chunks_exact` gives eight.
        let Ok(word) = word.try_into() else { break };
        let found = escapes_in(u64::from_le_bytes(word));
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = words.remainder();
    at + tail
        .iter()
        .position(|&byte| needs_escape(byte))
        .unwrap_or(tail.len())
}

/// The top bit of each byte that needs an escape; only the lowest of them is sure. Eight bytes at a time, since most
/// need none.
fn escapes_in(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let zero_in = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let control = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
    control | zero_in(word ^ (ONES * u64::from(b'"'))) | zero_in(word ^ (ONES * u64::from(b'\\')))
}

#[cfg(test)]
mod tests;
