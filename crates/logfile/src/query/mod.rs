//! Queries over a log directory: with files alone, while they are written, on a copy, on another machine.
//!
//! The plan: pick segments by name and index, pick blocks by time, level and source, read only those with
//! positioned reads, and look at single lines last. Text that no index covers is simply read.

mod count;
mod filter;
mod search;
mod segment;
mod stream;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::error::{Damage, Error};
use crate::level::Level;
use crate::line::unescape;
use crate::name::{SegmentId, check_service_name, list_services};

pub use self::count::Counts;
pub use self::filter::SourcePattern;

/// A set of levels.
///
/// ```
/// use millpond_logfile::{Level, LevelSet};
/// let set = LevelSet::at_least(Level::Warn);
/// assert!(set.contains(Level::Error) && !set.contains(Level::Info));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelSet(u8);

impl LevelSet {
    /// Every level.
    pub const ALL: LevelSet = LevelSet(0x3f);

    /// This level and the graver ones.
    pub fn at_least(level: Level) -> Self {
        LevelSet(Self::ALL.0 & (0xff << level as u8))
    }

    /// This level alone.
    pub fn only(level: Level) -> Self {
        LevelSet(1 << level as u8)
    }

    /// Whether `level` is in the set.
    #[inline]
    pub fn contains(self, level: Level) -> bool {
        self.0 >> level as u8 & 1 == 1
    }
}

/// The order of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the file has it; services merged by time.
    #[default]
    OldestFirst,
    /// The other way round.
    NewestFirst,
}

/// What is asked. Everything given must hold.
///
/// ```
/// use millpond_logfile::{Level, LevelSet, Order, Query};
/// let query = Query {
///     services: vec!["web".into()],
///     levels: LevelSet::at_least(Level::Error),
///     order: Order::NewestFirst,
///     limit: Some(20),
///     ..Query::default()
/// };
/// assert!(query.substrings.is_empty());
/// ```
#[derive(Debug, Clone)]
pub struct Query {
    /// These services; none: all.
    pub services: Vec<String>,
    /// Not before this time, in ns.
    pub since_ns: Option<u64>,
    /// Before this time, in ns.
    pub until_ns: Option<u64>,
    /// These levels.
    pub levels: LevelSet,
    /// One of these sources; none: all.
    pub sources: Vec<SourcePattern>,
    /// The message contains all of these, as written in the file: what needs an escape there is escaped
    /// before the search.
    pub substrings: Vec<Vec<u8>>,
    /// The message, as written in the file, matches.
    pub regex: Option<regex::bytes::Regex>,
    /// The order of the answer.
    pub order: Order,
    /// At most this many lines: the first in that order.
    pub limit: Option<usize>,
}

impl Default for Query {
    fn default() -> Self {
        Query {
            services: Vec::new(),
            since_ns: None,
            until_ns: None,
            levels: LevelSet::ALL,
            sources: Vec::new(),
            substrings: Vec::new(),
            regex: None,
            order: Order::OldestFirst,
            limit: None,
        }
    }
}

/// One line of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The service whose log it is in.
    pub service: &'a str,
    /// The segment.
    pub segment_id: SegmentId,
    /// Where it starts in the segment.
    pub offset: u64,
    /// Nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// The level.
    pub level: Level,
    /// The source token.
    pub source: &'a [u8],
    /// The message, escaped.
    pub message: &'a [u8],
    /// The whole line as the file has it, without its newline.
    pub line: &'a [u8],
}

impl Hit<'_> {
    /// Appends the very bytes that were logged.
    pub fn unescape_message(&self, out: &mut Vec<u8>) {
        unescape(self.message, out);
    }
}

/// How a query went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryReport {
    /// Lines in the answer.
    pub matched: u64,
    /// Bytes of text that were read.
    pub text_bytes_read: u64,
    /// What was found damaged on the way. The answer holds everything that could be read.
    pub damage: Vec<Damage>,
}

/// A log directory, to be asked.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # std::fs::create_dir(dir.path().join("web"))?;
/// # std::fs::write(dir.path().join("web/20261121T012953.123456789Z.log"),
/// #     "2026-11-21T01:29:53.123456789Z ERROR rpc cannot bind :8080\n")?;
/// # let logs_dir = dir.path();
/// use millpond_logfile::{Query, Reader};
/// use std::ops::ControlFlow;
///
/// let reader = Reader::open(logs_dir)?;
/// let query = Query { substrings: vec![b"bind".to_vec()], ..Query::default() };
/// let report = reader.run(&query, &mut |hit| {
///     println!("{}: {}", hit.service, String::from_utf8_lossy(hit.message));
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(report.matched, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    logs_dir: PathBuf,
    services: Vec<String>,
}

impl Reader {
    /// Lists the services of a log directory. Reads no log yet.
    ///
    /// # Errors
    /// The directory is not there or cannot be read.
    pub fn open(logs_dir: &Path) -> Result<Self, Error> {
        let services = list_services(logs_dir)?;
        Ok(Reader {
            logs_dir: logs_dir.to_owned(),
            services,
        })
    }

    /// The services, sorted by name.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// Hands every line of the answer to `visit`, in order, until it breaks.
    ///
    /// Memory stays below 64 MiB whatever the size of the logs. A search for text without a limit runs on
    /// all cores.
    ///
    /// # Errors
    /// A service that is not there, or a file that cannot be read. Damage in files is no error: it is in
    /// the report.
    pub fn run(
        &self,
        query: &Query,
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> Result<QueryReport, Error> {
        let mut report = QueryReport::default();
        if query.limit == Some(0) {
            return Ok(report);
        }
        let services = self.plan(query, &mut report)?;
        let filter = filter::Filter::new(query);
        let searched = if filter.has_text() && query.limit.is_none() {
            search::run(&services, &filter, query.order, visit, &mut report)?
        } else {
            false
        };
        if !searched {
            stream::run(&services, &filter, query, visit, &mut report)?;
        }
        Ok(report)
    }

    /// Counts the lines of the answer by service and level. Blocks that match as a whole are counted from
    /// their index entries, without touching the text.
    ///
    /// # Errors
    /// As [`Reader::run`].
    pub fn count(&self, query: &Query) -> Result<(Counts, QueryReport), Error> {
        let mut report = QueryReport::default();
        let services = self.plan(query, &mut report)?;
        let counts = count::run(&services, query, &mut report)?;
        Ok((counts, report))
    }

    /// Opens what the query needs of each service it names.
    fn plan(
        &self,
        query: &Query,
        report: &mut QueryReport,
    ) -> Result<Vec<segment::Service>, Error> {
        let names = match query.services.is_empty() {
            true => self.services.clone(),
            false => self.check_names(&query.services)?,
        };
        let mut services = Vec::with_capacity(names.len());
        for name in names {
            let dir = self.logs_dir.join(&name);
            services.push(segment::Service::open(
                name,
                &dir,
                query,
                &mut report.damage,
            )?);
        }
        Ok(services)
    }

    fn check_names(&self, wanted: &[String]) -> Result<Vec<String>, Error> {
        let mut names = wanted.to_vec();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            check_service_name(name).map_err(|error| Error::invalid(error.to_string()))?;
            if self.services.binary_search(name).is_err() {
                let known = match self.services.len() {
                    0 => "there is none yet".to_owned(),
                    1..=30 => format!("there are {}", self.services.join(", ")),
                    count => format!("there are {count} others"),
                };
                let directory = self.logs_dir.display();
                return Err(Error::invalid(format!(
                    "no service {name:?} in {directory}: {known}"
                )));
            }
        }
        Ok(names)
    }
}
