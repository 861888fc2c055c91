//! What one capture left, compared with what its command wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use memchr::memmem;
use millpond_logfile::unescape;
use serde::Serialize;

use super::Way;
use super::cast::Cast;
use super::child::Said;
use super::player::Played;
use crate::error::Error;
use crate::files::each_line;

/// What a capture says in the end on standard error, where the log lacks lines.
const WARNING: &[u8] = b"lines were dropped";

/// How one capture went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Part {
    /// Its service.
    pub service: String,
    /// How its command and its terminal were set.
    pub way: String,
    /// Bytes that the command wrote.
    pub wrote_bytes: u64,
    /// Lines that had to be in the log.
    pub lines: u64,
    /// Of these, those that are there, whole and in order.
    pub whole_lines: u64,
    /// Lines that are there and are none of these.
    pub wrong_lines: u64,
    /// The first of these.
    pub first_wrong: Option<String>,
    /// Progress bars, and lines that show one.
    pub bars: (u64, u64),
    /// Records of output in the log, pieces counted.
    pub records: u64,
    /// Records of the capture's own.
    pub notes: u64,
    /// Control characters in lines.
    pub control_characters: u64,
    /// Answers of the terminal in lines, in the raw stream.
    pub answers_found: (u64, u64),
    /// Cursor positions asked for, and answers read.
    pub answered: (u64, u64),
    /// Where the raw stream is not what the command wrote; `None`: it is.
    pub raw_differs: Option<String>,
    /// The same of what the terminal in front received.
    pub received_differs: Option<String>,
    /// Whether the capture has said, behind that, that the log lacks lines.
    pub warned: bool,
    /// Events of the raw stream that needed their exact bytes.
    pub inexact_events: u64,
    /// Sizes set.
    pub sizes: u64,
    /// Where the sizes differ; `None`: they are the same everywhere.
    pub sizes_differ: Option<String>,
    /// Code that the command ended with, that the capture ended with.
    pub exit_codes: (i32, i32),
    /// The last line of the capture's own, and whether output stands behind it.
    pub last_note: String,
    /// Code that the raw stream ends with.
    pub raw_exit: Option<String>,
    /// Records of output behind the last line of the capture's own.
    pub behind_the_end: u64,
    /// Losses that lines tell of.
    pub told_dropped: u64,
}

/// Compares. `place` is the prefix of the files that the child and the player left.
pub(super) fn verify(
    way: &Way,
    index: usize,
    place: &Path,
    service_dir: &Path,
    played: &Played,
) -> Result<Part, Error> {
    let file = |what: &str| place.with_extension(what);
    let copy = fs::read(file("copy"))?;
    let said: Said = serde_json::from_slice(&fs::read(file("json"))?)?;
    let mut part = Part {
        service: super::service(index),
        way: way.name(),
        wrote_bytes: said.wrote_bytes,
        lines: said.lines,
        answered: (said.asked, said.answered),
        exit_codes: (super::code(index), played.exit_code),
        ..Part::default()
    };
    let cast = Cast::read(&file("cast"))?;
    part.inexact_events = cast.inexact_events;
    part.raw_exit = cast.exit.clone();
    // A pipe has no newlines to translate: what plays the stream, and the terminal in front, get the same for them.
    let raw = match way.child {
        "raw" => copy,
        _ => with_carriage_returns(&copy),
    };
    part.raw_differs = difference(&cast.bytes, &raw);
    let received = fs::read(file("received"))?;
    let received = without_echoes(received, &played.answers);
    // Behind what the command wrote, the capture says what the log lacks.
    let (shown, behind) = received.split_at(raw.len().min(received.len()));
    part.warned = memmem::find(behind, WARNING).is_some();
    part.received_differs = match part.warned {
        true => difference(shown, &raw),
        false => difference(&received, &raw),
    };
    part.answers_found.1 = answers_in(&cast.bytes);
    if way.child != "pipe" {
        part.sizes = played.sizes.len() as u64;
        let (first, later) = (format!("{}x{}", cast.size.0, cast.size.1), &cast.sizes);
        let in_cast: Vec<&str> = [first.as_str()]
            .into_iter()
            .chain(later.iter().map(String::as_str))
            .collect();
        if said.sizes != played.sizes {
            part.sizes_differ = Some(format!(
                "set {:?}, the command saw {:?}",
                played.sizes, said.sizes
            ));
        } else if in_cast != played.sizes {
            part.sizes_differ = Some(format!(
                "set {:?}, the raw stream has {in_cast:?}",
                played.sizes
            ));
        }
    }
    let truth = fs::read(file("truth"))?;
    read_log(&mut part, &truth, service_dir)?;
    part.bars.0 = said.bars;
    Ok(part)
}

fn with_carriage_returns(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 17 / 16);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// Takes out the echo of each answer, where it is there: the kernel shows the escape character as `^[`.
fn without_echoes(bytes: Vec<u8>, answers: &[String]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    for answer in answers {
        let echo = format!("^[{answer}");
        if let Some(at) = memmem::find(rest, echo.as_bytes()) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + echo.len()..];
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Answers, and echoes of them: no command of ours writes such.
fn answers_in(bytes: &[u8]) -> u64 {
    let echoes = memmem::find_iter(bytes, b"^[").count() as u64;
    let mut count = echoes;
    for at in memmem::find_iter(bytes, b"\x1b[") {
        let parameters = &bytes[at + 2..bytes.len().min(at + 16)];
        let end = parameters
            .iter()
            .position(|byte| !byte.is_ascii_digit() && *byte != b';');
        count += u64::from(end.is_some_and(|end| end > 0 && parameters[end] == b'R'));
    }
    count
}

/// Where the first difference is, and what is there.
///
/// ```
/// use millpond_loadgen::ptys::difference;
/// assert_eq!(difference(b"same", b"same"), None);
/// assert!(difference(b"abc", b"abd").is_some_and(|text| text.contains("byte 2")));
/// ```
pub fn difference(found: &[u8], wanted: &[u8]) -> Option<String> {
    if found == wanted {
        return None;
    }
    let pairs = found.iter().zip(wanted);
    let at = pairs.take_while(|(one, other)| one == other).count();
    let shown = |bytes: &[u8]| {
        let start = at.saturating_sub(24);
        let shown = &bytes[start..bytes.len().min(at + 40)];
        String::from_utf8_lossy(shown).into_owned()
    };
    Some(format!(
        "at byte {at} of {} ({} wanted): {:?}, wanted {:?}",
        found.len(),
        wanted.len(),
        shown(found),
        shown(wanted)
    ))
}

fn read_log(part: &mut Part, truth: &[u8], service_dir: &Path) -> Result<(), Error> {
    let wanted: Vec<&[u8]> = truth
        .strip_suffix(b"\n")
        .unwrap_or(truth)
        .split(|&byte| byte == b'\n')
        .collect();
    let mut pieces: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut next = 0;
    let mut damaged = 0_u64;
    let mut line_of = |part: &mut Part, text: &[u8]| {
        let control = text.iter().filter(|&&byte| byte < 0x20 || byte == 0x7f);
        part.control_characters += control.count() as u64;
        part.answers_found.0 += answers_in(text);
        part.bars.1 += u64::from(text.starts_with(b"bar "));
        // The second word is its number.
        let number = std::str::from_utf8(text).ok().and_then(|text| {
            let number: usize = text.split(' ').nth(1)?.parse().ok()?;
            (number >= next && wanted.get(number) == Some(&text.as_bytes())).then_some(number)
        });
        match number {
            Some(number) => {
                next = number + 1;
                part.whole_lines += 1;
            }
            None => {
                part.wrong_lines += 1;
                let shown = &text[..text.len().min(160)];
                (part.first_wrong)
                    .get_or_insert_with(|| String::from_utf8_lossy(shown).into_owned());
            }
        }
    };
    each_line(service_dir, &mut |line| {
        let Ok(line) = line else {
            damaged += 1;
            return;
        };
        match line.source {
            b"millpond" => part.told_dropped += told(line.message, &part.service),
            b"capture" => {
                part.notes += 1;
                part.last_note = String::from_utf8_lossy(line.message).into_owned();
                part.behind_the_end = 0;
            }
            source => {
                part.records += 1;
                part.behind_the_end += 1;
                let goes_on = source.ends_with(b"+");
                let source = source.strip_suffix(b"+").unwrap_or(source);
                let mut text = pieces.remove(source).unwrap_or_default();
                unescape(line.message, &mut text);
                match goes_on {
                    true => drop(pieces.insert(source.to_owned(), text)),
                    false => line_of(part, &text),
                }
            }
        }
    })?;
    // What was lost before the consumer knew whose it was.
    let fallback = service_dir.with_file_name("millpond");
    if fallback.is_dir() {
        each_line(&fallback, &mut |line| {
            if let Ok(line) = line {
                part.told_dropped += told(line.message, &part.service);
            }
        })?;
    }
    // A line that was never ended.
    for text in pieces.into_values() {
        line_of(part, &text);
    }
    part.wrong_lines += damaged;
    Ok(())
}

/// How many losses of a capture's lines a line of millpond's own tells of.
fn told(message: &[u8], service: &str) -> u64 {
    let text = String::from_utf8_lossy(message);
    let rest = text.strip_prefix(&format!("gap source=capture:{service} "));
    let count = rest.and_then(|rest| {
        let mut words = rest.split(' ');
        words.find_map(|word| word.strip_prefix("count=")?.parse().ok())
    });
    count.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_taken_out_and_answers_are_found() {
        let bytes = b"one ^[[3;4Rtwo".to_vec();
        let out = without_echoes(bytes, &["[3;4R".to_owned(), "[5;6R".to_owned()]);
        assert_eq!(out, b"one two");
        assert_eq!(answers_in(b"\x1b[3;4R \x1b[31mred ^[[3;4R \x1b[R"), 2);
        assert_eq!(with_carriage_returns(b"a\nb"), b"a\r\nb");
    }
}
