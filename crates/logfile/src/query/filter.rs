//! Which lines match, cheapest question first.

use memchr::memmem::Finder;

use super::{LevelSet, Query};
use crate::line::{ParsedLine, Source, escape, parse_line, source_mask};

/// A source, or with a trailing `*` every source that starts so.
///
/// ```
/// use millpond_logfile::SourcePattern;
/// assert!(SourcePattern::new("pty:*").matches(b"pty:out"));
/// assert!(!SourcePattern::new("pty").matches(b"pty:out"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePattern {
    token: Vec<u8>,
    is_prefix: bool,
}

impl SourcePattern {
    /// The pattern for this text; it is escaped as source tokens are.
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some("") => SourcePattern {
                token: Vec::new(),
                is_prefix: true,
            },
            Some(prefix) => SourcePattern {
                token: Source::new(prefix).token().to_vec(),
                is_prefix: true,
            },
            None => SourcePattern {
                token: Source::new(text).token().to_vec(),
                is_prefix: false,
            },
        }
    }

    /// Whether a source token matches.
    pub fn matches(&self, token: &[u8]) -> bool {
        if self.is_prefix {
            token.starts_with(&self.token)
        } else {
            token == self.token
        }
    }

    /// The bits of a block's source set of which one must be set.
    pub(super) fn mask(&self) -> u64 {
        if self.is_prefix {
            u64::MAX
        } else {
            source_mask(&self.token)
        }
    }
}

/// A query made ready for looking at lines.
pub(super) struct Filter<'q> {
    since_ns: u64,
    until_ns: u64,
    levels: LevelSet,
    sources: &'q [SourcePattern],
    /// The longest first: it is the one searched for in whole chunks.
    finders: Vec<Finder<'static>>,
    regex: Option<&'q regex::bytes::Regex>,
}

impl<'q> Filter<'q> {
    pub(super) fn new(query: &'q Query) -> Self {
        let mut needles: Vec<Vec<u8>> = query
            .substrings
            .iter()
            .map(|needle| {
                let mut escaped = Vec::new();
                escape(needle, &mut escaped);
                escaped
            })
            .filter(|needle| !needle.is_empty())
            .collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        Filter {
            since_ns: query.since_ns.unwrap_or(0),
            until_ns: query.until_ns.unwrap_or(u64::MAX),
            levels: query.levels,
            sources: &query.sources,
            finders: needles
                .iter()
                .map(|needle| Finder::new(needle).into_owned())
                .collect(),
            regex: query.regex.as_ref(),
        }
    }

    /// Whether it looks for text.
    pub(super) fn has_text(&self) -> bool {
        !self.finders.is_empty() || self.regex.is_some()
    }

    /// Visits the lines of `text` that match, with where they start. Returns early when `visit` says so.
    ///
    /// `text` is whole lines. With a substring, lines without it are never even delimited.
    pub(super) fn each_match<'t>(
        &self,
        text: &'t [u8],
        mut visit: impl FnMut(usize, &'t [u8], ParsedLine<'t>) -> bool,
    ) {
        let mut from = 0;
        while from < text.len() {
            // A line is only worth delimiting where the text could be.
            let candidate = match (self.finders.first(), self.regex) {
                (Some(finder), _) => finder.find(&text[from..]),
                (None, Some(regex)) => regex.find(&text[from..]).map(|found| found.start()),
                (None, None) => Some(0),
            };
            let Some(candidate) = candidate.map(|at| from + at) else {
                return;
            };
            let start = match candidate == from {
                true => from,
                false => {
                    memchr::memrchr(b'\n', &text[from..candidate]).map_or(from, |at| from + at + 1)
                }
            };
            // A regex may match across a newline (`\s`): look at the line the match starts in.
            let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at + 1);
            if let Ok(line) = parse_line(&text[start..end])
                && self.matches(&line)
                && !visit(start, &text[start..end], line)
            {
                return;
            }
            from = end;
        }
    }

    pub(super) fn matches(&self, line: &ParsedLine<'_>) -> bool {
        (self.since_ns..self.until_ns).contains(&line.time_ns)
            && self.levels.contains(line.level)
            && (self.sources.is_empty()
                || self
                    .sources
                    .iter()
                    .any(|pattern| pattern.matches(line.source)))
            && self
                .finders
                .iter()
                .all(|finder| finder.find(line.message).is_some())
            && self.regex.is_none_or(|regex| regex.is_match(line.message))
    }
}
