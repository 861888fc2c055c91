//! A query made ready to run: which blocks can hold a match, and which lines of a text do.

use std::cmp::Reverse;

use memchr::memmem::{self, Finder};
use memchr::{memchr, memchr_iter, memrchr};
use regex::bytes::Regex;

use super::pattern::MessageRegex;
use super::{LevelSet, Query, SourcePattern};
use crate::filters::{Contents, Needles};
use crate::level::Level;
use crate::line::{LineError, ParsedLine, escape, parse_line, unescape};

/// The level's place in a line.
const LEVEL: std::ops::Range<usize> = 31..36;
/// Where the source starts in a line.
pub(super) const SOURCE_AT: usize = LEVEL.end + 1;

/// A text that comes more often, by [`rarity_of_any`], shows too many lines: the regex engine passes over text
/// faster than lines are taken apart.
const RARITY_MIN: u32 = 10;
/// More texts than this exclude little.
const ALSO_MAX: usize = 3;

/// How candidate lines are found in a text. Only they are taken apart.
#[derive(Debug, Clone)]
enum Driver {
    /// Every line is one.
    EveryLine,
    /// Some are.
    Candidates {
        finds: Finds,
        /// Lines with an escape are candidates too: what the escape stands for may match.
        or_escaped: bool,
        /// What a candidate without escapes must hold besides.
        also: Vec<Finder<'static>>,
    },
}

/// What shows a candidate.
#[derive(Debug, Clone)]
enum Finds {
    /// These bytes.
    Literal(Box<Finder<'static>>),
    /// A match of this, which never crosses a line end.
    Pattern(Regex),
}

impl Finds {
    /// A position in the first candidate from `from` on.
    fn find(&self, text: &[u8], from: usize) -> Option<usize> {
        match self {
            Finds::Literal(finder) => Some(from + finder.find(&text[from..])?),
            // A match may end where the text does.
            Finds::Pattern(regex) => Some(regex.shortest_match_at(text, from)?.min(text.len() - 1)),
        }
    }
}

/// The conditions of a query. Cloned per thread: a regex shared between threads waits for itself.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    since_ns: u64,
    /// Inclusive, unlike the query's, so that the greatest time can be asked for.
    last_ns: u64,
    /// No time can match.
    is_void: bool,
    levels: LevelSet,
    sources: Vec<SourcePattern>,
    source_mask: u64,
    substrings: Vec<Finder<'static>>,
    regexes: Vec<Regex>,
    driver: Driver,
    /// What a line must hold, as search filters see it.
    needles: Needles,
}

impl Filter {
    pub(super) fn new(query: &Query) -> Self {
        let sources = query.sources.clone();
        let source_mask = match sources.as_slice() {
            [] => u64::MAX,
            patterns => patterns
                .iter()
                .fold(0, |mask, pattern| mask | pattern.mask()),
        };
        Filter {
            since_ns: query.since_ns.unwrap_or(0),
            last_ns: query
                .until_ns
                .map_or(u64::MAX, |until_ns| until_ns.saturating_sub(1)),
            is_void: query.until_ns == Some(0),
            levels: query.levels,
            sources,
            source_mask,
            substrings: query
                .substrings
                .iter()
                .map(|bytes| Finder::new(bytes).into_owned())
                .collect(),
            regexes: query
                .regexes
                .iter()
                .map(|regex| regex.exact.clone())
                .collect(),
            driver: driver(&query.substrings, &query.regexes),
            needles: needles(&query.substrings, &query.regexes),
        }
    }

    /// What search filters are asked for.
    pub(super) fn needles(&self) -> &Needles {
        &self.needles
    }

    /// Whether a line of this block, or segment, can match. Never wrong when it says no.
    pub(super) fn admits(&self, block: &impl Contents) -> bool {
        let any_level = Level::ALL
            .iter()
            .any(|&level| self.levels.contains(level) && block.level_count(level) > 0);
        // Lines that are not of the format have no level and no time, but are to be reported.
        (any_level || block.damaged_lines() > 0)
            && !self.is_void
            && block.time_min_ns() <= self.last_ns
            && block.time_max_ns() >= self.since_ns
            && block.source_mask() & self.source_mask != 0
    }

    /// The matches in this block, or segment, by level, where what is known of it can say.
    pub(super) fn tally(&self, block: &impl Contents) -> Option<[u64; Level::COUNT]> {
        let is_whole = self.sources.is_empty()
            && self.substrings.is_empty()
            && self.regexes.is_empty()
            && block.damaged_lines() == 0
            && block.time_min_ns() >= self.since_ns
            && block.time_max_ns() <= self.last_ns;
        is_whole.then(|| {
            Level::ALL.map(|level| {
                if self.levels.contains(level) {
                    block.level_count(level)
                } else {
                    0
                }
            })
        })
    }

    /// Calls `found` with the place of each matching line, and of each candidate that is no line of
    /// the format.
    pub(super) fn scan<'t>(
        &self,
        text: &'t [u8],
        scratch: &mut Vec<u8>,
        mut found: impl FnMut(usize, usize, Result<ParsedLine<'t>, LineError>),
    ) {
        let mut check = |start: usize, end: usize, shown_at: Option<usize>| {
            let line = self.check(&text[start..end], shown_at, scratch);
            if let Some(line) = line.transpose() {
                found(start, end, line);
            }
        };
        match &self.driver {
            Driver::EveryLine => {
                let mut start = 0;
                for end in memchr_iter(b'\n', text).map(|newline| newline + 1) {
                    check(start, end, None);
                    start = end;
                }
                if start < text.len() {
                    check(start, text.len(), None);
                }
            }
            Driver::Candidates {
                finds,
                or_escaped,
                also,
            } => {
                // Both stay valid until the search has passed them.
                let mut matched = None;
                let mut escaped = (!or_escaped).then_some(usize::MAX);
                let candidate = |from: usize| {
                    let matched = *next(&mut matched, from, || finds.find(text, from));
                    let escaped = *next(&mut escaped, from, || {
                        Some(from + memchr(b'\\', &text[from..])?)
                    });
                    Some(matched.min(escaped)).filter(|&at| at < usize::MAX)
                };
                let only = self.only_literal(finds);
                each_line(text, candidate, |start, end, at| {
                    let line = &text[start..end];
                    let holds = |finder: &Finder<'_>| finder.find(line).is_some();
                    if also.iter().all(holds) || memchr(b'\\', line).is_some() {
                        let shows = |literal: &[u8]| text[at..].starts_with(literal);
                        check(start, end, only.is_some_and(shows).then_some(at - start));
                    }
                });
            }
        }
    }

    /// The text that a message must hold, where that is all that is asked of messages, and it is what candidates are
    /// found by.
    fn only_literal<'f>(&'f self, finds: &'f Finds) -> Option<&'f [u8]> {
        match (finds, self.substrings.as_slice()) {
            (Finds::Literal(found), [only])
                if self.regexes.is_empty() && found.needle() == only.needle() =>
            {
                Some(only.needle())
            }
            _ => None,
        }
    }

    /// The line's parts if it matches. `shown_at`: where the line shows all that is asked of a message.
    fn check<'t>(
        &self,
        line: &'t [u8],
        shown_at: Option<usize>,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<ParsedLine<'t>>, LineError> {
        // The level stands at a fixed place: looked at first, it spares most lines being taken
        // apart.
        let level = line.get(LEVEL).and_then(Level::from_token);
        if level.is_some_and(|level| !self.levels.contains(level)) {
            return Ok(None);
        }
        let line = parse_line(line)?;
        let message_at = SOURCE_AT + line.source.len() + 1;
        let is_shown = shown_at.is_some_and(|at| at >= message_at);
        let matches = (self.since_ns..=self.last_ns).contains(&line.time_ns)
            && !self.is_void
            && (self.sources.is_empty()
                || self
                    .sources
                    .iter()
                    .any(|pattern| pattern.matches(line.source)))
            && self.message_matches(line.message, is_shown, scratch);
        Ok(matches.then_some(line))
    }

    /// `is_shown`: all that is asked for stands there as it is written, which only means something without escapes.
    fn message_matches(&self, message: &[u8], is_shown: bool, scratch: &mut Vec<u8>) -> bool {
        if self.substrings.is_empty() && self.regexes.is_empty() {
            return true;
        }
        let raw = if memchr(b'\\', message).is_some() {
            scratch.clear();
            unescape(message, scratch);
            scratch.as_slice()
        } else if is_shown {
            return true;
        } else {
            message
        };
        self.substrings
            .iter()
            .all(|finder| finder.find(raw).is_some())
            && self.regexes.iter().all(|regex| regex.is_match(raw))
    }
}

/// Keeps `cached` while it lies ahead of `from`, else searches anew; `usize::MAX` for nothing more.
fn next(cached: &mut Option<usize>, from: usize, search: impl FnOnce() -> Option<usize>) -> &usize {
    if cached.is_none_or(|at| at < from) {
        *cached = Some(search().unwrap_or(usize::MAX));
    }
    cached.get_or_insert(usize::MAX)
}

/// Calls `check` with the bounds of each line that holds a candidate position, and the first of them, once per line.
fn each_line(
    text: &[u8],
    mut candidate: impl FnMut(usize) -> Option<usize>,
    mut check: impl FnMut(usize, usize, usize),
) {
    let mut from = 0;
    while from < text.len() {
        let Some(at) = candidate(from) else { break };
        let start = memrchr(b'\n', &text[from..at]).map_or(from, |newline| from + newline + 1);
        let end = memchr(b'\n', &text[at..]).map_or(text.len(), |newline| at + newline + 1);
        check(start, end, at);
        from = end;
    }
}

/// The cheapest way to the candidates: by the rarest texts that every match must show, else by the first regex.
fn driver(substrings: &[Vec<u8>], regexes: &[MessageRegex]) -> Driver {
    let mut ways: Vec<Way> = Vec::new();
    for bytes in substrings {
        ways.extend(Way::new(vec![as_written(bytes)], false));
    }
    for regex in regexes {
        for clause in &regex.required {
            ways.extend(Way::new(
                clause.iter().map(|text| plain_part(text)).collect(),
                true,
            ));
        }
    }
    // The first of the rarest.
    ways.sort_by_key(|way| Reverse(way.rarity));
    let of_regex = regexes
        .iter()
        .filter_map(|regex| Some((regex.candidates.as_ref()?, begins_with_rarity(regex))))
        .next();
    let best = ways.first();
    let is_rare = |way: &&Way| way.rarity >= RARITY_MIN || !way.or_escaped;
    let finds = match (best.filter(is_rare), of_regex) {
        // The regex engine finds what a match begins with as fast, and then needs no line taken apart.
        (Some(way), Some((regex, rarity))) if way.or_escaped && rarity >= way.rarity => {
            Some(Finds::Pattern(regex.clone()))
        }
        (Some(way), _) => way.finds(),
        (None, Some((regex, _))) => Some(Finds::Pattern(regex.clone())),
        (None, None) => None,
    };
    let Some(finds) = finds else {
        return Driver::EveryLine;
    };
    let or_escaped = match (&finds, best) {
        (Finds::Literal(_), Some(way)) => way.or_escaped,
        _ => true,
    };
    let mut also: Vec<&[u8]> = Vec::new();
    if let Finds::Literal(found) = &finds {
        for way in &ways {
            let [text] = way.texts.as_slice() else {
                continue;
            };
            let is_new = [found.needle()]
                .iter()
                .chain(&also)
                .all(|known| memmem::find(known, text).is_none());
            if is_new && way.rarity >= RARITY_MIN && also.len() < ALSO_MAX {
                also.push(text);
            }
        }
    }
    Driver::Candidates {
        finds,
        or_escaped,
        also: also
            .into_iter()
            .map(|text| Finder::new(text).into_owned())
            .collect(),
    }
}

/// Texts, one of which a line shows if its message matches.
struct Way {
    texts: Vec<Vec<u8>>,
    rarity: u32,
    /// Or it shows an escape.
    or_escaped: bool,
}

impl Way {
    /// `None` if one of the texts is empty: every line shows that.
    fn new(texts: Vec<Vec<u8>>, or_escaped: bool) -> Option<Self> {
        let is_usable = !texts.is_empty() && texts.iter().all(|text| !text.is_empty());
        is_usable.then(|| Way {
            rarity: rarity_of_any(&texts),
            texts,
            or_escaped,
        })
    }

    fn finds(&self) -> Option<Finds> {
        if let [text] = self.texts.as_slice() {
            return Some(Finds::Literal(Box::new(Finder::new(text).into_owned())));
        }
        let any = |text: &Vec<u8>| text.iter().map(|byte| format!(r"\x{byte:02x}")).collect();
        let any: Vec<String> = self.texts.iter().map(any).collect();
        let regex = Regex::new(&format!("(?-u:{})", any.join("|"))).ok()?;
        Some(Finds::Pattern(regex))
    }
}

/// How rare a text is that the regex engine can look for by itself.
fn begins_with_rarity(regex: &MessageRegex) -> u32 {
    match regex.prefixes.as_slice() {
        [] => 0,
        prefixes => rarity_of_any(prefixes),
    }
}

/// How rare one of `texts` is: about the logarithm to base 2 of the bytes from one to the next.
fn rarity_of_any(texts: &[Vec<u8>]) -> u32 {
    let rarity = |text: &Vec<u8>| text.iter().map(|&byte| rarity_of(byte)).sum::<u32>();
    let least = texts.iter().map(rarity).min().unwrap_or(0);
    least.saturating_sub(texts.len().next_power_of_two().trailing_zeros())
}

/// The same for a byte of a message.
fn rarity_of(byte: u8) -> u32 {
    match byte {
        b' ' => 3,
        b'a' | b'e' | b'i' | b'n' | b'o' | b'r' | b's' | b't' => 4,
        b'a'..=b'z' | b'0'..=b'9' => 5,
        b'.' | b',' | b':' | b'/' | b'=' | b'-' | b'_' | b'"' => 6,
        b'A'..=b'Z' => 7,
        _ => 8,
    }
}

/// What lines that match hold, of each clause at least one text.
fn needles(substrings: &[Vec<u8>], regexes: &[MessageRegex]) -> Needles {
    let of_substrings = substrings
        .iter()
        .flat_map(|bytes| written_parts(bytes).map(|part| vec![part]));
    let of_regexes = regexes.iter().flat_map(|regex| &regex.required);
    let clauses = of_regexes.map(|clause| clause.iter().map(|bytes| as_written(bytes)).collect());
    Needles::new(of_substrings.chain(clauses))
}

/// What a message that holds `substring` shows for it in its line: the longest part of that.
fn as_written(substring: &[u8]) -> Vec<u8> {
    written_parts(substring)
        .max_by_key(Vec::len)
        .unwrap_or_default()
}

/// The longest part of `text` that stands for itself in every line that has no escape, whoever wrote it.
fn plain_part(text: &[u8]) -> Vec<u8> {
    let is_odd = |char: char| char == '\\' || (char.is_control() && char != '\t');
    let chunks = text.utf8_chunks();
    let parts = chunks.flat_map(|chunk| chunk.valid().split(is_odd));
    parts
        .max_by_key(|part| part.len())
        .unwrap_or_default()
        .into()
}

/// What a message that holds `substring` shows for it in its line.
///
/// How a byte is written depends on its neighbours only within a UTF-8 sequence. Of a substring
/// that is not UTF-8, the parts that are must do: their neighbours may belong to a sequence in
/// one message and not in another.
fn written_parts(substring: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    substring.utf8_chunks().map(|chunk| {
        let mut written = Vec::new();
        escape(chunk.valid().as_bytes(), &mut written);
        written
    })
}
