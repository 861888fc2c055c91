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
use regex_syntax::hir::literal::{Extractor, Literal};
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
    /// What every message that matches holds: of each clause at least one text.
    pub(super) required: Vec<Vec<Vec<u8>>>,
    /// What every match begins with, if that is one of a few texts.
    pub(super) prefixes: Vec<Vec<u8>>,
}

/// A choice between more texts than this excludes little.
const CHOICES_MAX: usize = 32;
/// Of a longer pattern only so many parts are looked at together with what follows them.
const PARTS_MAX: usize = 16;

impl MessageRegex {
    pub(super) fn new(pattern: &str) -> Result<Self, Error> {
        let unusable = |error: regex::Error| {
            Error::invalid(format!("regex {pattern:?} cannot be used: {error}"))
        };
        let exact = RegexBuilder::new(pattern).build().map_err(unusable)?;
        let hir = ParserBuilder::new().utf8(false).build().parse(pattern).ok();
        let required = hir.as_ref().map(required).unwrap_or_default();
        let prefixes = hir
            .as_ref()
            .and_then(|hir| begins_with(std::slice::from_ref(hir)))
            .unwrap_or_default();
        let candidates = hir.and_then(|hir| Regex::new(&within_a_line(hir).to_string()).ok());
        Ok(MessageRegex {
            exact,
            candidates,
            required,
            prefixes,
        })
    }
}

/// The texts that a match cannot be without. Each clause speaks of one place in the pattern.
fn required(hir: &Hir) -> Vec<Vec<Vec<u8>>> {
    match hir.kind() {
        HirKind::Literal(literal) => vec![vec![literal.0.to_vec()]],
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Concat(parts) => {
            let each = parts.iter().flat_map(required);
            // Parts that follow each other may make a longer text than each alone.
            let from =
                (0..parts.len().min(PARTS_MAX)).filter_map(|part| begins_with(&parts[part..]));
            each.chain(from).collect()
        }
        HirKind::Alternation(branches) => {
            // Every branch must have something to show, or nothing is required.
            let shortest = |clause: &Vec<Vec<u8>>| clause.iter().map(Vec::len).min();
            let longest = |branch| required(branch).into_iter().max_by_key(shortest);
            let clauses: Option<Vec<_>> = branches.iter().map(longest).collect();
            let choice: Vec<_> = clauses.unwrap_or_default().into_iter().flatten().collect();
            match choice.len() {
                1..=CHOICES_MAX => vec![choice],
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// The texts, one of which every match of these parts begins with, if they are few and not empty.
fn begins_with(parts: &[Hir]) -> Option<Vec<Vec<u8>>> {
    let texts = Extractor::new().extract(&Hir::concat(parts.to_vec()));
    let texts = texts.literals()?;
    let is_usable = |text: &Literal| !text.as_bytes().is_empty();
    ((1..=CHOICES_MAX).contains(&texts.len()) && texts.iter().all(is_usable))
        .then(|| texts.iter().map(|text| text.as_bytes().to_vec()).collect())
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
    fn what_a_match_cannot_be_without() {
        let cases: [(&str, &[&[&str]]); 13] = [
            ("timeout", &[&["timeout"]]),
            ("time(out)+", &[&["time"], &["out"], &["timeout"], &["out"]]),
            (
                r"status=\d+ after",
                &[&["status="], &[" after"], &["status="], &[" after"]],
            ),
            (
                "(?:foo|bar)baz",
                &[&["foo", "bar"], &["baz"], &["foobaz", "barbaz"], &["baz"]],
            ),
            ("foobar|foobaz", &[&["foobar", "foobaz"]]),
            ("time(out)?", &[&["time"], &["timeout", "time"]]),
            ("(abc)+|x.*y", &[&["abc", "y"]]),
            ("abc|", &[]),
            ("abc|[0-9]", &[]),
            ("(?i)ab", &[&["AB", "Ab", "aB", "ab"], &["B", "b"]]),
            ("(?i)[a-z]b", &[&["B", "b"]]),
            ("^$", &[]),
            ("(?:abc){0,3}", &[]),
        ];
        for (pattern, expected) in cases {
            let regex = MessageRegex::new(pattern).unwrap();
            let required: Vec<Vec<String>> = regex
                .required
                .iter()
                .map(|clause| {
                    let text = |text: &Vec<u8>| String::from_utf8(text.clone()).unwrap();
                    clause.iter().map(text).collect()
                })
                .collect();
            assert_eq!(required, expected, "{pattern}");
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
