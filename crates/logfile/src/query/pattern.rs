//! A regex over messages, and its looser twin that finds candidate lines in whole blocks of text.
//!
//! Taking every line apart to match its message costs more than the match. So a second regex runs
//! over the text of many lines at once, where the regex engine's literal prefilters pay, and only
//! lines it points at are taken apart. For that it must match wherever the first one does, and
//! never across a line end: newlines are taken out of its literals and classes, and anchors, which
//! speak of the message's ends, are dropped. Word boundaries may stay, since what surrounds a
//! message (a space, a newline) is as little a word character as the end of a text.

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{
    Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look,
};

use crate::error::Error;

/// A compiled regex and the pattern that finds its candidates.
#[derive(Debug, Clone)]
pub(super) struct MessageRegex {
    /// Decides, on a message.
    pub(super) exact: Regex,
    /// Matches in every line, written without escapes, whose message `exact` matches; never across
    /// lines.
    pub(super) candidates: Option<Regex>,
}

impl MessageRegex {
    pub(super) fn new(pattern: &str) -> Result<Self, Error> {
        let unusable = |error: regex::Error| {
            Error::invalid(format!("regex {pattern:?} cannot be used: {error}"))
        };
        let exact = RegexBuilder::new(pattern).build().map_err(unusable)?;
        let hir = ParserBuilder::new().utf8(false).build().parse(pattern).ok();
        let candidates = hir.and_then(|hir| Regex::new(&within_a_line(hir).to_string()).ok());
        Ok(MessageRegex { exact, candidates })
    }
}

fn within_a_line(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(Class::Unicode(mut class)) => {
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(mut class)) => {
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Look(
            Look::Start | Look::End | Look::StartLF | Look::EndLF | Look::StartCRLF | Look::EndCRLF,
        ) => Hir::empty(),
        HirKind::Look(boundary) => Hir::look(boundary),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(within_a_line(*repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(capture) => within_a_line(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(within_a_line).collect()),
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.into_iter().map(within_a_line).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_found_wherever_the_pattern_matches_and_within_one_line() {
        let patterns = [
            "a",
            "^a",
            "a$",
            r"\Aab\z",
            "(?m)^b$",
            "^$",
            "",
            r"a\s+b",
            "a[^x]*b",
            "(a|b\n|^c)d?",
            r"\bab\b",
            r"\Ba",
            "(?i)AB",
            "(?s)a.b",
            r"(?-u:\xff)",
            r"[^a]{2}",
            r"\w+ \w+",
            "(ab)+$|^(ba)*",
            r"a{3}",
        ];
        let messages = [
            "", "a", "b", "ab", "a b", "ab ba", "aab", "xay", "cd", "bd", "a.b", "aaa", "x",
            "AB Ab", "é a",
        ];
        for pattern in patterns {
            let regex = MessageRegex::new(pattern).unwrap();
            let candidates = regex.candidates.expect(pattern);
            for message in messages {
                let text = format!("2026Z INFO  s {message}\n");
                let exact = regex.exact.is_match(message.as_bytes());
                assert!(
                    !exact || candidates.is_match(text.as_bytes()),
                    "{pattern:?} on {message:?}"
                );
                let found = candidates.find(text.as_bytes());
                assert!(
                    found.is_none_or(|found| !found.as_bytes().contains(&b'\n')),
                    "{pattern:?}"
                );
            }
        }
    }

    #[test]
    fn a_pattern_that_is_not_understood_is_named() {
        let error = MessageRegex::new("a(").unwrap_err();
        assert!(
            error.to_string().starts_with("regex \"a(\" cannot be used"),
            "{error}"
        );
    }
}
