//! A log directory, ready to be asked.

use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::filter::Filter;
use super::histogram::{self, Buckets, Span};
use super::merge::Merge;
use super::plan::{Plan, SURVEYED_OPEN_MAX, Stream, new_streams, sift_ahead};
use super::scan::{Keep, Scanner};
use super::text::{self, SegmentInfo, TextReport};
use super::unfolded;
use super::wide::{MERGED_SERVICES_MAX, Wide};
use super::{Counts, Histogram, Hit, Order, Query, QueryReport, ServiceCounts};
use crate::error::Error;
use crate::follow::{Cursor, written_end};
use crate::name::{CURRENT_LINK, SegmentId, check_service_name};

/// Chunks of text are at most this large: larger ones fall out of the processor's cache between the
/// read and the search, smaller ones pay for more system calls.
const CHUNK_BYTES_MAX: u64 = 512 << 10;
const CHUNK_BYTES_MIN: u64 = 64 << 10;
/// The chunks of all services that are merged together.
const MERGED_BYTES: u64 = 8 << 20;

/// Something in a log directory that looks like ours and is not as ours are. It is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The file or directory.
    pub path: PathBuf,
    /// Why it is not read.
    pub why: String,
    /// The operating system does not let us read it: lines may be missing from every answer.
    pub is_unreadable: bool,
}

/// A log directory, ready to be asked. It needs no daemon and holds no lock: the files may be
/// written, rotated and deleted meanwhile.
///
/// ```
/// use std::ops::ControlFlow;
/// use millpond_logfile::{Level, LevelSet, Query, Reader};
///
/// # let logs = tempfile::tempdir()?;
/// # std::fs::create_dir(logs.path().join("web"))?;
/// # std::fs::write(
/// #     logs.path().join("web/20261121T012953.000000000Z.log"),
/// #     "2026-11-21T01:29:53.000000001Z INFO  rpc ready\n\
/// #      2026-11-21T01:29:53.000000002Z ERROR rpc no route\n",
/// # )?;
/// let reader = Reader::open(logs.path())?;
/// assert_eq!(reader.services(), ["web"]);
///
/// let errors = Query::new().service("web").levels(LevelSet::at_least(Level::Error));
/// let mut messages = Vec::new();
/// let report = reader.run(&errors, &mut |hit| {
///     messages.push(hit.message.to_vec());
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(messages, [b"no route"]);
/// assert!(report.damage.is_empty());
///
/// assert_eq!(reader.count(&Query::new())?.level(Level::Info), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) logs_dir: PathBuf,
    services: Vec<String>,
    ignored: Vec<Ignored>,
}

/// How a search ended: the services that were asked for, and the stream of each.
struct Outcome<'r> {
    services: Vec<&'r str>,
    streams: Vec<Stream>,
    report: QueryReport,
}

impl Reader {
    /// Lists the services of a log directory: those of its directories that hold segments.
    ///
    /// # Errors
    /// The directory is not there or cannot be read.
    pub fn open(logs_dir: &Path) -> Result<Self, Error> {
        let failed = |error| Error::io("read the log directory", logs_dir, error);
        let mut reader = Reader {
            logs_dir: logs_dir.to_owned(),
            services: Vec::new(),
            ignored: Vec::new(),
        };
        for entry in fs::read_dir(logs_dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                reader.add_service(path);
            }
        }
        reader.services.sort_unstable();
        reader.ignored.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(reader)
    }

    fn add_service(&mut self, dir: PathBuf) {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                return self.ignored.push(Ignored {
                    path: dir,
                    why: error.to_string(),
                    is_unreadable: true,
                });
            }
        };
        let mut has_segments = false;
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let Some(name) = file_name
                .to_str()
                .filter(|name| name.ends_with(".log") || name.ends_with(".log.zst"))
            else {
                continue;
            };
            if SegmentId::of_text_file(name).is_some() {
                has_segments = true;
            } else if name != CURRENT_LINK {
                let why = "its name is not the id of a segment".to_owned();
                self.ignored.push(Ignored {
                    path: entry.path(),
                    why,
                    is_unreadable: false,
                });
            }
        }
        let name = dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        match check_service_name(&name) {
            Ok(()) if has_segments => self.services.push(name),
            Err(error) if has_segments => {
                self.ignored.push(Ignored {
                    path: dir,
                    why: error.to_string(),
                    is_unreadable: false,
                });
            }
            _ => {}
        }
    }

    /// The services, sorted by name.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// What looked like ours and was left out.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// Hands every line that matches to `visit`, until that breaks off or the limit is reached.
    ///
    /// Lines of one service come in the order of its files (or the very reverse). Services are
    /// merged by time; at the same time, by name. A line whose time is before that of the line in
    /// front of it comes right after that line.
    ///
    /// Takes less than 64 MiB of memory, whatever the length of the files and the number of services (with more
    /// than 256 of them, an answer of much text is made in several passes). Large searches run on several
    /// threads; `visit` is called on this one.
    ///
    /// # Errors
    /// A service that is not there, or whose directory cannot be read. Files that are damaged,
    /// unreadable or gone are no error: they are in the report, and everything else is in the
    /// answer.
    pub fn run(
        &self,
        query: &Query,
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> Result<QueryReport, Error> {
        if query.unfolds {
            return unfolded::run(self, query, visit);
        }
        let mut services = self.select(query)?;
        if query.order == Order::Newest {
            services.reverse();
        }
        if services.len() <= MERGED_SERVICES_MAX {
            let outcome = self.search(
                services,
                query,
                Keep::Lines,
                query.order,
                query.limit,
                visit,
            )?;
            return Ok(outcome.report);
        }
        let plan = plan(query, Keep::Lines, query.order, CHUNK_BYTES_MAX);
        let mut scanner = Scanner::new(plan.filter.clone(), plan.order, plan.keep, query.verify);
        let wide = Wide {
            logs_dir: &self.logs_dir,
            plan: &plan,
            services: &services,
            limit: query.limit,
        };
        let mut report = wide.run(&mut scanner, visit)?;
        sort_damage(&mut report);
        Ok(report)
    }

    /// Where the text of each service that is asked for ends now, behind its last whole line: a cursor for what is
    /// written later. A service that cannot be read is left out.
    ///
    /// Opens one file of each service.
    ///
    /// # Errors
    /// A service that is not there.
    pub fn written_cursor(&self, query: &Query) -> Result<Cursor, Error> {
        let ends = self.select(query)?.into_iter().filter_map(|service| {
            let end = written_end(&self.logs_dir.join(service)).ok()??;
            Some((service.to_owned(), end.position()))
        });
        Ok(Cursor {
            since_ns: 0,
            positions: ends.collect(),
        })
    }

    /// The segments of a service, oldest first. What is wrong with them, or gone, is added to `report`.
    ///
    /// # Errors
    /// A service that is not there, or cannot be read.
    pub fn segments(
        &self,
        service: &str,
        report: &mut QueryReport,
    ) -> Result<Vec<SegmentInfo>, Error> {
        text::segments(&self.service_dir(service)?, report)
    }

    /// Hands the text of a service to `visit`, byte for byte as it is stored, its segments one after the other,
    /// whichever form they have, until that breaks off. The pieces need not end where lines do.
    ///
    /// With `times_ns` only lines of that time are handed over; a line that has none belongs to the one in front.
    /// Takes less than 1 MiB of memory, and a line.
    ///
    /// # Errors
    /// A service that is not there, or whose directory cannot be read. Segments that are damaged, unreadable or
    /// gone are in the report.
    pub fn text(
        &self,
        service: &str,
        times_ns: Option<Range<u64>>,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<TextReport, Error> {
        text::copy(&self.service_dir(service)?, times_ns, visit)
    }

    fn service_dir(&self, service: &str) -> Result<PathBuf, Error> {
        let found = self.select(&Query::new().service(service))?;
        Ok(self
            .logs_dir
            .join(found.first().copied().unwrap_or(service)))
    }

    /// Counts the lines that match, by time and level, in buckets of `bucket_ns`. Order and limit do not matter.
    ///
    /// Blocks that match as a whole and lie in one bucket are counted by the index, without touching their text.
    ///
    /// # Errors
    /// As for [`Reader::run`]; and more than [`Histogram::BUCKETS_MAX`] buckets from the first line to the last.
    pub fn histogram(&self, query: &Query, bucket_ns: u64) -> Result<Histogram, Error> {
        if bucket_ns == 0 {
            return Err(Error::invalid(
                "buckets of no length hold nothing: use 1s or more".to_owned(),
            ));
        }
        let (buckets, report) = self.count_into(query, Buckets::new(bucket_ns))?;
        buckets.into_histogram(report)
    }

    /// The times of the earliest and of the latest line that matches; `None` if none does.
    ///
    /// Cheap where whole blocks match, as [`Reader::count`].
    ///
    /// # Errors
    /// As for [`Reader::run`].
    pub fn time_span(&self, query: &Query) -> Result<Option<(u64, u64)>, Error> {
        Ok(self.count_into(query, Span::default())?.0.times)
    }

    fn count_into<C: histogram::Count + Clone>(
        &self,
        query: &Query,
        into: C,
    ) -> Result<(C, QueryReport), Error> {
        let services = self.select(query)?;
        let plan = plan(query, Keep::Lines, Order::Oldest, CHUNK_BYTES_MAX);
        let scanner = Scanner::new(plan.filter.clone(), plan.order, plan.keep, query.verify);
        histogram::count(&self.logs_dir, &services, &plan, scanner, into)
    }

    /// Counts the lines that match. Order and limit do not matter.
    ///
    /// Blocks that match as a whole are counted by the index, without touching their text: that is
    /// all of them but the first and last, unless the query asks for sources, substrings or
    /// regexes.
    ///
    /// # Errors
    /// As for [`Reader::run`].
    pub fn count(&self, query: &Query) -> Result<Counts, Error> {
        let nobody = &mut |_: Hit<'_>| ControlFlow::Continue(());
        let mut counts = Counts::default();
        // Some services at a time: each stream of them may hold a file.
        for services in self.select(query)?.chunks(MERGED_SERVICES_MAX) {
            let services = services.to_vec();
            let outcome = self.search(services, query, Keep::Tally, Order::Oldest, None, nobody)?;
            let streams = outcome.services.into_iter().zip(outcome.streams);
            counts
                .services
                .extend(streams.map(|(service, stream)| ServiceCounts {
                    service: service.to_owned(),
                    by_level: stream.tally,
                }));
            counts.report.add(outcome.report);
        }
        counts.report.matched = counts.total();
        Ok(counts)
    }

    fn search<'r>(
        &self,
        services: Vec<&'r str>,
        query: &Query,
        keep: Keep,
        order: Order,
        limit: Option<u64>,
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome<'r>, Error> {
        let share = MERGED_BYTES / (services.len() as u64).max(1);
        let chunk_bytes_max = share.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let plan = plan(query, keep, order, chunk_bytes_max);
        let mut report = QueryReport::default();
        let mut streams = new_streams(&self.logs_dir, &services, &plan)?;
        // Who wants the first lines of one service only may need one segment only.
        if streams.len() > 1 || limit.is_none() {
            sift_ahead(&mut streams, &plan, &mut report);
        }
        if streams.len() > 1 && keep == Keep::Lines {
            let mut open_max = SURVEYED_OPEN_MAX;
            for stream in &mut streams {
                stream.survey(&plan, &mut open_max, &mut report);
            }
        }
        let scanner = Scanner::new(plan.filter.clone(), order, keep, query.verify);
        let merge = Merge {
            plan: &plan,
            services: services.clone(),
            streams,
            limit,
            report,
        };
        let (streams, mut report) = merge.run(scanner, visit);
        sort_damage(&mut report);
        Ok(Outcome {
            services,
            streams,
            report,
        })
    }

    /// The services that are asked for, sorted by name.
    fn select(&self, query: &Query) -> Result<Vec<&str>, Error> {
        let known: Vec<&str> = self.services.iter().map(String::as_str).collect();
        if query.services.is_empty() {
            return Ok(known);
        }
        let is_known = |name: &str| known.binary_search(&name).is_ok();
        if let Some(unknown) = query.services.iter().find(|name| !is_known(name)) {
            let dir = self.logs_dir.join(unknown);
            let is_it = |ignored: &&Ignored| ignored.is_unreadable && ignored.path == dir;
            if let Some(Ignored { path, why, .. }) = self.ignored.iter().find(is_it) {
                return Err(Error::invalid(format!(
                    "cannot read {}: {why}",
                    path.display()
                )));
            }
            let logs_dir = self.logs_dir.display();
            let others = nearest(unknown, &known);
            return Err(Error::invalid(format!(
                "no service {unknown:?} in {logs_dir}: {others}"
            )));
        }
        let wanted = |name: &&str| query.services.iter().any(|service| service == name);
        Ok(known.into_iter().filter(wanted).collect())
    }
}

fn plan(query: &Query, keep: Keep, order: Order, chunk_bytes_max: u64) -> Plan {
    Plan {
        filter: Filter::new(query),
        order,
        keep,
        chunk_bytes_max,
        progress: Arc::clone(&query.progress),
    }
}

/// By file and place, however the threads came upon it.
fn sort_damage(report: &mut QueryReport) {
    report
        .damage
        .sort_by(|a, b| (&a.path, a.offset).cmp(&(&b.path, b.offset)));
}

/// A few of the names that are there, the most alike first.
fn nearest(name: &str, known: &[&str]) -> String {
    const SHOWN_MAX: usize = 3;
    let mut names = known.to_vec();
    names.sort_by_cached_key(|known| distance(name, known));
    match names.as_slice() {
        [] => "there are no services".to_owned(),
        [only] => format!("the only one is {only:?}"),
        names => {
            let shown: Vec<String> = names
                .iter()
                .take(SHOWN_MAX)
                .map(|name| format!("{name:?}"))
                .collect();
            format!("the nearest of {} are {}", names.len(), shown.join(", "))
        }
    }
}

/// How many bytes have to be put in, taken out, changed or swapped with the next to make one name
/// of the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    // cost[i][j]: from the first i bytes of one to the first j of the other.
    let mut cost = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            if i == 0 || j == 0 {
                cost[i][j] = i + j;
                continue;
            }
            let is_changed = usize::from(from[i - 1] != to[j - 1]);
            let one_off = cost[i - 1][j].min(cost[i][j - 1]) + 1;
            cost[i][j] = one_off.min(cost[i - 1][j - 1] + is_changed);
            if i > 1 && j > 1 && from[i - 2..i] == [to[j - 1], to[j - 2]] {
                cost[i][j] = cost[i][j].min(cost[i - 2][j - 2] + 1);
            }
        }
    }
    cost[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_the_edits() {
        for (from, to, edits) in [
            ("", "", 0),
            ("web", "web", 0),
            ("wbe", "web", 1),
            ("we", "web", 1),
            ("", "ab", 2),
        ] {
            assert_eq!(distance(from, to), edits, "{from} {to}");
            assert_eq!(distance(to, from), edits, "{to} {from}");
        }
    }
}
