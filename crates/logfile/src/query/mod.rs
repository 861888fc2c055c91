//! Questions to a log directory: which lines, in which order, and how many.
//!
//! ```text
//!   Query --> Stream (one per service)      plan.rs     segments and blocks that can hold a hit
//!               `--> Chunk: adjacent blocks segment.rs  from the index, or from the text without
//!                      `--> Hits            scan.rs     one positioned read, one search
//!             all streams --> visitor       merge.rs    by time, on as many threads as pay
//!                                           wide.rs     the same for very many services
//!             all chunks  --> buckets       histogram.rs
//!             merged lines --> records      unfolded.rs   what `repeat` lines count
//! ```
//!
//! The index only ever says what need *not* be read; every line that is returned was read and
//! checked, so an answer is the same with an index, with a broken one, and with none.

mod filter;
mod histogram;
mod merge;
mod pattern;
mod plan;
mod progress;
mod reader;
mod scan;
mod segment;
mod text;
mod unfolded;
mod wide;

use std::path::PathBuf;
use std::sync::Arc;

use self::filter::Filter;
pub use self::progress::QueryProgress;
pub use self::reader::{Ignored, Reader};
pub use self::text::{SegmentInfo, SegmentState, TextReport};
use crate::error::{Damage, Error};
use crate::follow::LogPosition;
use crate::level::Level;
use crate::line::{Source, source_mask, unescape};
use crate::name::SegmentId;
use crate::unfold::LeftOut;

/// A set of levels.
///
/// ```
/// use millpond_logfile::{Level, LevelSet};
/// assert!(LevelSet::at_least(Level::Warn).contains(Level::Fatal));
/// assert!(!LevelSet::of(&[Level::Info, Level::Warn]).contains(Level::Fatal));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelSet(u8);

impl LevelSet {
    /// Every level.
    pub const ALL: LevelSet = LevelSet((1 << Level::COUNT) - 1);

    /// These levels.
    pub fn of(levels: &[Level]) -> Self {
        LevelSet(levels.iter().fold(0, |set, &level| set | 1 << level as u8))
    }

    /// This level and the graver ones.
    pub fn at_least(level: Level) -> Self {
        LevelSet(Self::ALL.0 & !((1 << level as u8) - 1))
    }

    /// Whether `level` is in the set.
    pub fn contains(self, level: Level) -> bool {
        self.0 & 1 << level as u8 != 0
    }
}

impl Default for LevelSet {
    fn default() -> Self {
        Self::ALL
    }
}

/// The order of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// From the past to the present.
    #[default]
    Oldest,
    /// From the present to the past. With a limit: the last lines.
    Newest,
}

/// A source, or with a trailing `*` all sources that start alike.
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
    /// The pattern for `text`, written as the source is named (not as a line escapes it).
    pub fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some("") => SourcePattern {
                token: Vec::new(),
                is_prefix: true,
            },
            Some(start) => SourcePattern {
                token: Source::new(start).token().into(),
                is_prefix: true,
            },
            None => SourcePattern {
                token: Source::new(text).token().into(),
                is_prefix: false,
            },
        }
    }

    /// Whether a source, as it stands in a line, is meant.
    pub fn matches(&self, token: &[u8]) -> bool {
        if self.is_prefix {
            token.starts_with(&self.token)
        } else {
            token == self.token
        }
    }

    /// The bits of a block's source set that a match can have set.
    fn mask(&self) -> u64 {
        if self.is_prefix {
            u64::MAX
        } else {
            source_mask(&self.token)
        }
    }
}

/// Which lines, and in which order. Everything that is asked for must hold; what is not asked for
/// may be anything.
///
/// Substrings and regexes look at the *message* only, and at the very bytes that were published: an
/// escape counts as the byte it stands for. Without escapes that is the text of the line after its
/// source, as `grep` sees it.
///
/// ```
/// use millpond_logfile::{Level, LevelSet, Order, Query};
/// let query = Query::new()
///     .service("web")
///     .levels(LevelSet::at_least(Level::Error))
///     .source("pty:*")
///     .contains("timeout")
///     .regex(r"after \d+ ms$")?
///     .order(Order::Newest)
///     .limit(200);
/// # let _ = query;
/// # Ok::<(), millpond_logfile::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Query {
    services: Vec<String>,
    since_ns: Option<u64>,
    until_ns: Option<u64>,
    levels: LevelSet,
    sources: Vec<SourcePattern>,
    substrings: Vec<Vec<u8>>,
    regexes: Vec<pattern::MessageRegex>,
    order: Order,
    limit: Option<u64>,
    verify: bool,
    unfolds: bool,
    progress: Arc<QueryProgress>,
}

impl Query {
    /// Every line of every service, oldest first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lines of this service; called again, of that one too.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.services.push(name.into());
        self
    }

    /// Lines of this time (nanoseconds since 1970) and later.
    #[must_use]
    pub fn since_ns(mut self, time_ns: u64) -> Self {
        self.since_ns = Some(time_ns);
        self
    }

    /// Lines before this time, which itself is not part of the answer.
    #[must_use]
    pub fn until_ns(mut self, time_ns: u64) -> Self {
        self.until_ns = Some(time_ns);
        self
    }

    /// Lines of these levels.
    #[must_use]
    pub fn levels(mut self, levels: LevelSet) -> Self {
        self.levels = levels;
        self
    }

    /// Lines of this source (a trailing `*` stands for any ending); called again, of that one too.
    #[must_use]
    pub fn source(mut self, pattern: &str) -> Self {
        self.sources.push(SourcePattern::new(pattern));
        self
    }

    /// Lines whose message holds these bytes; called again, those too.
    #[must_use]
    pub fn contains(mut self, substring: impl Into<Vec<u8>>) -> Self {
        self.substrings.push(substring.into());
        self
    }

    /// Lines whose message matches; called again, that one too. Matching takes linear time,
    /// whatever the pattern.
    ///
    /// # Errors
    /// The pattern is not understood, or is too large.
    pub fn regex(mut self, pattern: &str) -> Result<Self, Error> {
        self.regexes.push(pattern::MessageRegex::new(pattern)?);
        Ok(self)
    }

    /// The order of the answer.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// At most this many lines, the first in the order of the answer.
    #[must_use]
    pub fn limit(mut self, lines: u64) -> Self {
        self.limit = Some(lines);
        self
    }

    /// Asks for records in the place of lines: a `repeat` line is given as the records that it counts, which are hits
    /// with the line that repeats (and the position of the `repeat` line). All other lines of the source `millpond` are
    /// left out, and counted in [`QueryReport::left_out`].
    ///
    /// Conditions, order and limit are those of the records. A `repeat` line counts at its own time, with all of its
    /// records, also where the line that repeats is earlier than what was asked for. Services are merged by the times
    /// of lines; with [`Order::Newest`], repeats come where the line that repeats does. Where there are `repeat` lines,
    /// substrings and regexes do without search filters. [`Reader::run`] alone goes by it.
    #[must_use]
    pub fn unfold(mut self) -> Self {
        self.unfolds = true;
        self
    }

    /// Tells here how far it has come, for another thread to show while it runs.
    #[must_use]
    pub fn progress(mut self, progress: &Arc<QueryProgress>) -> Self {
        self.progress = Arc::clone(progress);
        self
    }

    fn at_any_time(mut self) -> Self {
        (self.since_ns, self.until_ns) = (None, None);
        self
    }

    /// Decides for single lines.
    pub fn matcher(&self) -> LineMatcher {
        LineMatcher {
            filter: Filter::new(self),
            scratch: Vec::new(),
        }
    }

    /// Compares the checksum of every block that is read. Without this only blocks that yield a
    /// line are compared, so that no line comes from a damaged block unreported.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }
}

/// Decides for single lines whether they are what a query asks for: for who has the lines already, such as from a
/// [`Follower`](crate::Follower). Services, order and limit are not its business.
///
/// ```
/// use millpond_logfile::{Level, LevelSet, Query};
/// let mut errors = Query::new().levels(LevelSet::at_least(Level::Error)).matcher();
/// assert!(errors.matches(b"2026-11-21T01:29:53.000000001Z ERROR rpc no route\n"));
/// assert!(!errors.matches(b"2026-11-21T01:29:53.000000002Z INFO  rpc ready\n"));
/// ```
#[derive(Debug)]
pub struct LineMatcher {
    filter: Filter,
    scratch: Vec<u8>,
}

impl LineMatcher {
    /// Whether the line, as it is stored, matches. A line that is not of the format does not.
    pub fn matches(&mut self, line: &[u8]) -> bool {
        let mut is_match = false;
        self.filter.scan(line, &mut self.scratch, |_, _, line| {
            is_match |= line.is_ok();
        });
        is_match
    }
}

/// A line that matches. Source and message are as written, escapes and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The service.
    pub service: &'a str,
    /// The segment that holds the line.
    pub segment_id: SegmentId,
    /// Where the line starts in the segment, in bytes.
    pub offset: u64,
    /// Nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// The level.
    pub level: Level,
    /// The source token.
    pub source: &'a [u8],
    /// The message, escaped: safe to print.
    pub message: &'a [u8],
    /// The whole line with its newline.
    pub line: &'a [u8],
}

impl Hit<'_> {
    /// Where the line starts.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            segment_id: self.segment_id,
            offset: self.offset,
            records: 0,
        }
    }

    /// Appends the message as it was published, escapes undone.
    pub fn raw_message(&self, out: &mut Vec<u8>) {
        unescape(self.message, out);
    }
}

/// How a query went, besides its lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueryReport {
    /// Lines handed to the visitor.
    pub matched: u64,
    /// The limit was reached, or the visitor broke off: there may be more.
    pub ended_early: bool,
    /// What was not as it should be in the files that were read. Everything readable was returned
    /// all the same.
    pub damage: Vec<Damage>,
    /// Damage beyond the first [`QueryReport::DAMAGE_MAX`], counted only.
    pub damage_left_out: u64,
    /// Segments that retention deleted between listing and reading.
    pub deleted: Vec<PathBuf>,
    /// Of [`Query::unfold`]: what lines that were left out count.
    pub left_out: LeftOut,
    /// Bytes of text that were searched.
    pub text_bytes_read: u64,
    /// Bytes of closed segments that no index describes: `millpond index rebuild` makes them fast.
    pub unindexed_bytes: u64,
}

impl QueryReport {
    /// How many instances of damage a report lists.
    pub const DAMAGE_MAX: usize = 1000;

    /// Adds the report of another part of the same query.
    fn add(&mut self, other: QueryReport) {
        self.matched += other.matched;
        self.ended_early |= other.ended_early;
        self.damage_left_out += other.damage_left_out;
        self.text_bytes_read += other.text_bytes_read;
        self.unindexed_bytes += other.unindexed_bytes;
        self.deleted.extend(other.deleted);
        other
            .damage
            .into_iter()
            .for_each(|damage| self.add_damage(damage));
    }

    fn add_damage(&mut self, damage: Damage) {
        if self.damage.len() < Self::DAMAGE_MAX {
            self.damage.push(damage);
        } else {
            self.damage_left_out += 1;
        }
    }
}

/// How many lines match, by service and level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// One entry per service asked for, sorted by name.
    pub services: Vec<ServiceCounts>,
    /// How the counting went. `matched` is the total.
    pub report: QueryReport,
}

impl Counts {
    /// Lines of all services and levels.
    pub fn total(&self) -> u64 {
        self.services.iter().map(ServiceCounts::total).sum()
    }

    /// Lines of this level in all services.
    pub fn level(&self, level: Level) -> u64 {
        self.services.iter().map(|counts| counts.level(level)).sum()
    }
}

/// How many lines of one service match, by level.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceCounts {
    /// The service.
    pub service: String,
    by_level: [u64; Level::COUNT],
}

impl ServiceCounts {
    /// Lines of all levels.
    pub fn total(&self) -> u64 {
        self.by_level.iter().sum()
    }

    /// Lines of this level.
    pub fn level(&self, level: Level) -> u64 {
        self.by_level[level as usize]
    }
}

/// How many lines match, by time and level.
///
/// ```
/// # let logs = tempfile::tempdir()?;
/// # std::fs::create_dir(logs.path().join("web"))?;
/// # std::fs::write(
/// #     logs.path().join("web/20261121T012953.000000000Z.log"),
/// #     "2026-11-21T01:29:53.000000001Z INFO  rpc ready\n\
/// #      2026-11-21T01:30:07.000000002Z ERROR rpc no route\n",
/// # )?;
/// use millpond_logfile::{Level, Query, Reader};
/// let minute_ns = 60_000_000_000;
/// let histogram = Reader::open(logs.path())?.histogram(&Query::new(), minute_ns)?;
/// assert_eq!(histogram.buckets.len(), 2);
/// assert_eq!(histogram.buckets[1].level(Level::Error), 1);
/// assert_eq!(histogram.buckets[1].start_ns - histogram.buckets[0].start_ns, minute_ns);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Histogram {
    /// How long a bucket is.
    pub bucket_ns: u64,
    /// The buckets that hold lines, the earliest first. Each starts at a multiple of its length since 1970.
    pub buckets: Vec<HistogramBucket>,
    /// How the counting went. `matched` is the total.
    pub report: QueryReport,
}

impl Histogram {
    /// From the first to the last, at most so many buckets.
    pub const BUCKETS_MAX: u64 = 4096;
}

/// The lines of one stretch of time, by level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistogramBucket {
    /// When it starts, in ns since 1970.
    pub start_ns: u64,
    by_level: [u64; Level::COUNT],
}

impl HistogramBucket {
    /// Lines of all levels.
    pub fn total(&self) -> u64 {
        self.by_level.iter().sum()
    }

    /// Lines of this level.
    pub fn level(&self, level: Level) -> u64 {
        self.by_level[level as usize]
    }
}
