//! Finding the level that a line of text claims for itself.

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

/// The level that a line names: the first level word in its first 100 bytes that is written as one, in
/// capitals (`ERROR`), in brackets (`[warn]`), before a colon (`error:`) or after `level=`. Else info.
pub(crate) fn detect(line: &[u8]) -> Level {
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
            assert_eq!(detect(line.as_bytes()), level, "{line}");
        }
    }
}
