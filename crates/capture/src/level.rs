//! Finding the level that a line of text claims for itself.

use std::sync::LazyLock;

use aho_corasick::Span;
use aho_corasick::packed::{Config, Searcher};
use millpond_bus::Level;

/// Levels stand near the start of a line, after its own time and source.
const LOOK_AT_BYTES: usize = 100;

const WORDS: [(&[u8], Level); 19] = [
    (b"fatal", Level::Fatal),
    (b"panic", Level::Fatal),
    (b"critical", Level::Fatal),
    (b"crit", Level::Fatal),
    (b"emerg", Level::Fatal),
    (b"alert", Level::Fatal),
    (b"error", Level::Error),
    (b"err", Level::Error),
    (b"severe", Level::Error),
    (b"failure", Level::Error),
    (b"warning", Level::Warn),
    (b"warn", Level::Warn),
    (b"notice", Level::Info),
    (b"info", Level::Info),
    (b"information", Level::Info),
    (b"debug", Level::Debug),
    (b"trace", Level::Trace),
    (b"verbose", Level::Debug),
    (b"note", Level::Info),
];

/// Lengths of the level words that begin with a letter: bit `length` of the entry `letter & 31`.
const LENGTHS: [u16; 32] = {
    let mut lengths = [0; 32];
    let mut at = 0;
    while at < WORDS.len() {
        let word = WORDS[at].0;
        lengths[(word[0] & 31) as usize] |= 1 << word.len();
        at += 1;
    }
    lengths
};

/// Shorter lines are looked at word by word.
const SHORT_BYTES: usize = 32;

/// How the words begin, in small letters: few enough that the search for all of them at once is exact enough.
/// `None` where the processor has no vectors for it.
static SEARCHER: LazyLock<Option<Searcher>> = LazyLock::new(|| {
    let has_beginning = |word: &[u8]| {
        let is_shorter = |other: &[u8]| other.len() < word.len() && word.starts_with(other);
        WORDS.iter().any(|(other, _)| is_shorter(other))
    };
    let words = WORDS.iter().map(|(word, _)| word);
    let needed = words.filter(|word| !has_beginning(word));
    Config::new().builder().extend(needed).build()
});

/// The level that a line names: the first level word in its first 100 bytes that is written as one, in
/// capitals (`ERROR`), in brackets (`[warn]`), before a colon (`error:`) or after `level=`. Else info.
///
/// Cost: some tens of nanoseconds, whatever the length of the line.
///
/// ```
/// use millpond_bus::Level;
/// use millpond_capture::detect_level;
///
/// assert_eq!(detect_level(b"12:00:01 [warn] disk is 91 % full"), Level::Warn);
/// assert_eq!(detect_level(b"error: no such file"), Level::Error);
/// assert_eq!(detect_level(b"0 errors, and no error in sight"), Level::Info);
/// ```
pub fn detect_level(line: &[u8]) -> Level {
    const SHORTEST_BYTES: usize = 3;
    if line.len() < SHORTEST_BYTES {
        return Level::Info;
    }
    let head = &line[..line.len().min(LOOK_AT_BYTES)];
    match &*SEARCHER {
        Some(searcher) if head.len() >= searcher.minimum_len().max(SHORT_BYTES) => {
            level_by_search(searcher, head)
        }
        _ => level_by_words(head),
    }
}

fn level_by_search(searcher: &Searcher, head: &[u8]) -> Level {
    let mut small = [0; LOOK_AT_BYTES];
    match (head.first_chunk(), &mut small) {
        // Of a length that the compiler knows, so that it makes vector code without a rest.
        (Some(head), small) => make_small::<LOOK_AT_BYTES>(head, small),
        (None, small) => {
            let (parts, rest) = head.as_chunks::<16>();
            let (small_parts, _) = small.as_chunks_mut::<16>();
            for (part, small) in parts.iter().zip(small_parts) {
                make_small(part, small);
            }
            for (byte, small) in rest.iter().zip(&mut small[16 * parts.len()..]) {
                *small = byte | 0x20;
            }
        }
    }
    let end = head.len();
    let mut start = 0;
    while let Some(found) = searcher.find_in(&small[..], Span { start, end }) {
        let is_letter = |byte: &&u8| byte.is_ascii_alphabetic();
        let (word, end) = (found.start(), found.end());
        start = end + head[end..].iter().take_while(is_letter).count();
        let is_inside = word > 0 && head[word - 1].is_ascii_alphabetic();
        if !is_inside && let Some(level) = level_of_word(head, word, start) {
            return level;
        }
    }
    Level::Info
}

/// Capitals become small letters, small letters stay, and nothing else becomes a letter.
#[inline(always)]
fn make_small<const COUNT: usize>(bytes: &[u8; COUNT], small: &mut [u8; COUNT]) {
    *small = bytes.map(|byte| byte | 0x20);
}

/// Word by word: for short lines, and where the processor has no vectors for the search.
fn level_by_words(head: &[u8]) -> Level {
    let mut at = 0;
    while let Some(byte) = head.get(at) {
        if !byte.is_ascii_alphabetic() {
            at += 1;
            continue;
        }
        let start = at;
        while head.get(at).is_some_and(u8::is_ascii_alphabetic) {
            at += 1;
        }
        // Most words are no level by their first letter and length.
        let length = at - start;
        if length < 16
            && LENGTHS[usize::from(byte & 31)] >> length & 1 == 1
            && let Some(level) = level_of_word(head, start, at)
        {
            return level;
        }
    }
    Level::Info
}

fn level_of_word(head: &[u8], start: usize, end: usize) -> Option<Level> {
    let word = &head[start..end];
    let (_, level) = WORDS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(word))?;
    let before = start.checked_sub(1).map(|at| head[at]);
    let after = head.get(end).copied();
    // `error_count` and `no-error` are names, not levels.
    let is_part =
        |byte: Option<u8>| byte.is_some_and(|byte| byte == b'_' || byte == b'-' || byte == b'/');
    if is_part(before) || is_part(after) {
        return None;
    }
    let capitals = word.iter().all(u8::is_ascii_uppercase);
    let bracketed =
        matches!(before, Some(b'[' | b'<' | b'(')) && matches!(after, Some(b']' | b'>' | b')'));
    let labels = after == Some(b':') || after == Some(b'[');
    let assigned = matches!(before, Some(b'=' | b'"')) && {
        let key = &head[..start];
        [
            &b"level="[..],
            b"lvl=",
            b"severity=",
            b"level\":\"",
            b"level=\"",
            b"severity\":\"",
        ]
        .iter()
        .any(|prefix| key.ends_with(prefix))
    };
    (capitals || bracketed || labels || assigned).then_some(*level)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels_as_programs_write_them() {
        let cases: [(&str, Level); 15] = [
            ("2026-11-21 01:29:53 ERROR cannot bind", Level::Error),
            (
                "[Sun Dec 04 04:47:44 2005] [error] mod_jk child",
                Level::Error,
            ),
            ("[  0.000000] Kernel command line", Level::Info),
            ("error[E0308]: mismatched types", Level::Error),
            ("warning: unused variable: `x`", Level::Warn),
            (
                "081109 203518 143 INFO dfs.DataNode: receiving",
                Level::Info,
            ),
            ("level=warn msg=slow", Level::Warn),
            (r#"{"level":"debug","msg":"x"}"#, Level::Debug),
            ("FATAL:  database is shutting down", Level::Fatal),
            ("0 errors, 3 warnings", Level::Info),
            ("error_count=0", Level::Info),
            ("GET /error/404.html", Level::Info),
            ("the error was ours", Level::Info),
            ("npm ERR! code E404", Level::Error),
            ("", Level::Info),
        ];
        for (line, level) in cases {
            assert_eq!(detect_level(line.as_bytes()), level, "{line}");
        }
    }

    /// Byte by byte, as it was first written.
    fn detect_level_bytewise(line: &[u8]) -> Level {
        let head = &line[..line.len().min(LOOK_AT_BYTES)];
        let mut at = 0;
        while at < head.len() {
            if !head[at].is_ascii_alphabetic() {
                at += 1;
                continue;
            }
            let length = head[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_alphabetic())
                .count();
            if let Some(level) = level_of_word(head, at, at + length) {
                return level;
            }
            at += length;
        }
        Level::Info
    }

    fn mixed_case(word: &[u8]) -> Vec<u8> {
        let mut word = word.to_ascii_uppercase();
        word[0].make_ascii_lowercase();
        word
    }

    fn head() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            prop::sample::select(&WORDS[..]).prop_map(|(word, _)| word.to_vec()),
            prop::sample::select(&WORDS[..]).prop_map(|(word, _)| word.to_ascii_uppercase()),
            prop::sample::select(&WORDS[..]).prop_map(|(word, _)| mixed_case(word)),
            prop::sample::select(
                &[
                    "[",
                    "]",
                    ":",
                    "(",
                    ")",
                    "<",
                    ">",
                    "level=",
                    "severity\":\"",
                    "\"",
                    "_",
                    "-",
                    "/",
                    " ",
                    " "
                ][..]
            )
            .prop_map(|text| text.as_bytes().to_vec()),
            "[ -~]{0,30}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn answers_are_those_of_the_bytewise_one(line in head()) {
            prop_assert_eq!(detect_level(&line), detect_level_bytewise(&line));
        }
    }
}
