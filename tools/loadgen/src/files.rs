//! What the files hold, read with nothing but the line format, so that no query can hide what is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use millpond_logfile::{LineError, ParsedLine, SegmentText, list_segments, parse_line};
use serde::{Deserialize, Serialize};

use crate::error::Error;

const READ_BYTES: u64 = 1 << 20;

/// Visits every line of a service, in the order of its files, sealed or not.
pub(crate) fn each_line(
    service_dir: &Path,
    visit: &mut dyn FnMut(Result<ParsedLine<'_>, LineError>),
) -> Result<(), Error> {
    let mut buffer: Vec<u8> = Vec::new();
    for id in list_segments(service_dir)? {
        let text = SegmentText::open(service_dir, id)?;
        let end = text.length_bytes()?;
        let mut offset = 0;
        buffer.clear();
        while offset < end {
            let kept = buffer.len();
            let wanted = READ_BYTES.min(end - offset);
            buffer.resize(kept + wanted as usize, 0);
            text.read_exact_at(&mut buffer[kept..], offset)?;
            offset += wanted;
            let whole = match buffer.iter().rposition(|&byte| byte == b'\n') {
                Some(last) => last + 1,
                None => continue,
            };
            for line in buffer[..whole].split_inclusive(|&byte| byte == b'\n') {
                visit(parse_line(line));
            }
            buffer.drain(..whole);
        }
        if !buffer.is_empty() {
            return Err(Error::new(format!(
                "{}: {} bytes at its end are no line",
                text.path().display(),
                buffer.len()
            )));
        }
    }
    Ok(())
}

/// The numbers that the lines of one source carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Numbers {
    pub(crate) lines: u64,
    first: Option<u64>,
    next: u64,
    /// Numbers that are missing between the first and the last.
    pub(crate) missing: u64,
    /// Lines that are there again, or behind a later one.
    pub(crate) again: u64,
}

impl Numbers {
    pub(crate) fn add(&mut self, number: u64) {
        self.lines += 1;
        if self.first.is_none() {
            self.first = Some(number);
            self.next = number;
        }
        match number.checked_sub(self.next) {
            Some(missing) => {
                self.missing += missing;
                self.next = number + 1;
            }
            None => self.again += 1,
        }
    }

    /// Goes on with what the same reader saw later.
    pub(crate) fn join(&mut self, later: &Numbers) {
        let Some(first) = later.first else {
            return;
        };
        if self.first.is_none() {
            *self = *later;
            return;
        }
        self.lines += later.lines;
        self.missing += later.missing + first.saturating_sub(self.next);
        self.again += later.again + self.next.min(later.next).saturating_sub(first);
        self.next = self.next.max(later.next);
    }

    /// Whether this number came, and none behind it.
    pub(crate) fn is_last(&self, number: u64) -> bool {
        self.next == number + 1
    }

    /// Of 0 to `count - 1`, how many are not there; more than those may be.
    pub(crate) fn lacks_of(&self, count: u64) -> u64 {
        self.missing + self.first.unwrap_or(0) + count.saturating_sub(self.next)
    }

    /// Whether 0 to `count - 1` are there, once each and in order.
    pub(crate) fn are_all_of(&self, count: u64) -> bool {
        let whole = self.missing == 0 && self.again == 0 && self.lines == count;
        whole && (count == 0 || self.first == Some(0))
    }
}

/// What was found in the files of a service.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// By source token.
    pub(crate) numbers: BTreeMap<String, Numbers>,
    /// Messages of lines that millpond wrote itself.
    pub(crate) own: Vec<String>,
    /// Lines that carry no number.
    pub(crate) other: u64,
    /// Lines not of the format.
    pub(crate) damaged: u64,
}

impl Found {
    /// Reads a service whose messages are `WORD NUMBER ..`, where they carry a number.
    pub(crate) fn read(service_dir: &Path) -> Result<Self, Error> {
        let mut found = Found::default();
        each_line(service_dir, &mut |line| {
            let Ok(line) = line else {
                found.damaged += 1;
                return;
            };
            let (source, message) = (text(line.source), text(line.message));
            if source == OWN_SOURCE {
                found.own.push(message.to_owned());
                return;
            }
            match message.split(' ').nth(1).map(str::parse) {
                Some(Ok(number)) => match found.numbers.get_mut(source) {
                    Some(numbers) => numbers.add(number),
                    None => {
                        let mut numbers = Numbers::default();
                        numbers.add(number);
                        found.numbers.insert(source.to_owned(), numbers);
                    }
                },
                _ => found.other += 1,
            }
        })?;
        Ok(found)
    }

    /// Sum of the counts of millpond's own lines of one kind, and how many lines those are.
    pub(crate) fn told(&self, kind: &str) -> (u64, u64) {
        let counts = self.own.iter().filter_map(|message| {
            let mut words = message.split(' ');
            let is_kind = words.next() == Some(kind);
            let mut counts = words.filter_map(|word| word.strip_prefix("count=")?.parse().ok());
            is_kind.then(|| counts.next()).flatten()
        });
        counts.fold((0, 0), |(sum, lines), count: u64| (sum + count, lines + 1))
    }
}

/// The source of lines that tell what happened to others.
const OWN_SOURCE: &str = "millpond";

/// What we publish is ASCII; anything else matches nothing.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_repeats_are_counted() {
        let numbers = |list: &[u64]| {
            let mut numbers = Numbers::default();
            list.iter().for_each(|&number| numbers.add(number));
            numbers
        };
        assert!(numbers(&[0, 1, 2]).are_all_of(3));
        assert!(numbers(&[]).are_all_of(0));
        assert!(!numbers(&[1, 2]).are_all_of(2));
        assert_eq!(numbers(&[0, 3]).missing, 2);
        assert_eq!(numbers(&[0, 1, 1, 2]).again, 1);
        assert_eq!(numbers(&[2, 3, 5]).lacks_of(8), 2 + 1 + 2);
    }

    #[test]
    fn what_is_seen_in_parts_is_what_is_seen_at_once() {
        let numbers = |list: &[u64]| {
            let mut numbers = Numbers::default();
            list.iter().for_each(|&number| numbers.add(number));
            numbers
        };
        let mut joined = numbers(&[0, 1, 3]);
        joined.join(&Numbers::default());
        joined.join(&numbers(&[5, 6]));
        assert_eq!(joined, numbers(&[0, 1, 3, 5, 6]));
        joined.join(&numbers(&[6, 7]));
        assert_eq!((joined.again, joined.lacks_of(8)), (1, 2));
    }

    #[test]
    fn what_millpond_tells_is_summed_up() {
        let found = Found {
            own: [
                "repeat source=a count=12 first=x",
                "repeat source=a count=3",
                "gap count=7",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..Found::default()
        };
        assert_eq!(found.told("repeat"), (15, 2));
        assert_eq!(found.told("gap"), (7, 1));
    }
}
