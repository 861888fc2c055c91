//! `millpond query`: ask the files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use millpond_bus::Rule;
use millpond_logfile::{
    Counts, Cursor, Damage, Hit, LeftOut, Level, LevelSet, LogPosition, Order, Query,
    QueryProgress, QueryReport, Reader, SegmentId, TIME_BYTES, check_service_name,
};
use serde_json::{Map, Value, json};

use crate::Run;
use crate::args::Settings;
use crate::commands::following::{Following, Printed, Watch};
use crate::commands::histogram;
use crate::flags::{CountBy, QueryFlags};
use crate::outcome::{Failure, Outcome};
use crate::print::hits::{HitPrinter, HitStyle};
use crate::print::progress::{Output, Progress};
use crate::print::table::Table;
use crate::print::{self, stdout};
use crate::units::{now_ns, parse_time};

/// The newest lines are found newest first and printed the other way round: up to so many bytes of them are held,
/// for more the files are read twice.
const LAST_BYTES_MAX: usize = 16 << 20;

pub(crate) fn run(flags: &QueryFlags, settings: &Settings) -> Run {
    let query = plan(flags, settings)?;
    if flags.count || flags.histogram {
        let reader = open(settings)?;
        let query = of_services(query, &flags.service);
        return match flags.histogram {
            true => histogram::run(&reader, &query, flags, settings),
            false => count(&reader, &query, flags.by, settings),
        };
    }
    let asked = Asked {
        services: flags.service.clone(),
        query,
        last: flags.lines,
        newest_first: flags.newest_first,
        follow: flags.follow,
        cursor: flags.cursor.clone(),
        print_cursor: flags.print_cursor,
        // As they came, but where the daemon's own lines are what is asked for.
        unfold: flags.raw && !flags.source.iter().any(|source| source == Rule::OWN_SOURCE),
    };
    show(&asked, flags.raw, flags.utc, settings)
}

/// Lines to show.
pub(crate) struct Asked {
    /// Empty: all.
    pub(crate) services: Vec<String>,
    /// The conditions on a line; nothing else.
    pub(crate) query: Query,
    /// Only so many: the newest, or the first behind the cursor.
    pub(crate) last: Option<u64>,
    pub(crate) newest_first: bool,
    /// Go on with what is written later.
    pub(crate) follow: bool,
    /// Only what is behind it.
    pub(crate) cursor: Option<Cursor>,
    pub(crate) print_cursor: bool,
    /// Records in the place of lines: see `Query::unfold`.
    pub(crate) unfold: bool,
}

fn of_services(query: Query, services: &[String]) -> Query {
    services
        .iter()
        .fold(query, |query, service| query.service(service))
}

/// Prints the lines that are asked for, and those that are written later.
pub(crate) fn show(asked: &Asked, raw: bool, utc: bool, settings: &Settings) -> Run {
    // Watched before anything is read: what is written in between is not missed.
    let watch = match asked.follow {
        true => Some(Watch::start(&settings.logs, &asked.services)?),
        false => None,
    };
    let reader = open(settings)?;
    let query_progress = Arc::new(QueryProgress::default());
    let progress = Progress::for_output(|| Progress::of_query(&query_progress));
    let mut out = Output::new(&progress);
    let several = asked.services.len() != 1 && (asked.follow || reader.services().len() > 1);
    let mut printed = Printed {
        printer: printer(settings, raw, several, utc, !asked.newest_first),
        out: &mut out,
        lines: 0,
        left: None,
        left_out: LeftOut::default(),
    };
    let mut report = QueryReport::default();
    let cursor = match &asked.cursor {
        Some(cursor) => {
            printed.left = asked.last;
            if !asked.follow && !asked.services.is_empty() {
                // An error where one of them is not there.
                let nothing = of_services(Query::new(), &asked.services).limit(0);
                reader.run(&nothing, &mut |_| ControlFlow::Break(()))?;
            }
            cursor.clone()
        }
        None => {
            let known = known_services(asked, &reader)?;
            let mut query = of_services(asked.query.clone(), &known).progress(&query_progress);
            if asked.unfold {
                query = query.unfold();
            }
            let is_nothing = known.is_empty() && !asked.services.is_empty();
            // Lines behind this point are printed by following, or by the next query.
            let until = (asked.follow || asked.print_cursor)
                .then(|| reader.written_cursor(&of_services(Query::new(), &known)))
                .transpose()?;
            if !is_nothing {
                report = print_known(&reader, query, asked, until.as_ref(), &mut printed)?;
                warn_of_left_out(&report.left_out, settings);
            }
            until.filter(|_| !is_nothing).unwrap_or_default()
        }
    };
    progress.finish();
    let mut following = Following::new(settings, asked, cursor);
    let ended = match watch {
        Some(watch) => following.follow(watch, &mut printed),
        None if asked.cursor.is_some() => following.print_new(None, &mut printed),
        None => Ok(()),
    };
    let printed_all = printed.printer.end(printed.out);
    let (lines, flushed) = (printed.lines, printed_all.and(printed.out.flush()));
    let ended = ended.and(flushed.map_err(Failure::from));
    let concluded = match ended {
        Err(failure) if failure.is_broken_pipe() => return Err(failure),
        Err(failure) => Err(failure),
        Ok(()) => conclude(&report, &reader, settings),
    };
    if asked.print_cursor {
        // The last line, whatever else there is to say.
        if let Err(failure) = &concluded {
            print::error_line(settings.color, failure);
        }
        eprintln!("{}", following.cursor());
        if concluded.is_err() {
            return Ok(Outcome::Code(2));
        }
    }
    concluded?;
    match following.is_complete() {
        true => Ok(Outcome::found(lines > 0 || asked.follow)),
        false => Ok(Outcome::Code(2)),
    }
}

/// The services that are asked for and there, for who follows; for everyone else all must be there.
fn known_services(asked: &Asked, reader: &Reader) -> Result<Vec<String>, Failure> {
    let mut known = asked.services.clone();
    for service in &known {
        check_service_name(service)?;
    }
    if asked.follow {
        known.retain(|service| reader.services().contains(service));
    }
    Ok(known)
}

/// Prints what is there already, up to a point in the log.
fn print_known(
    reader: &Reader,
    query: Query,
    asked: &Asked,
    until: Option<&Cursor>,
    printed: &mut Printed<'_>,
) -> Result<QueryReport, Failure> {
    let order = match asked.newest_first || asked.last.is_some() {
        true => Order::Newest,
        false => Order::Oldest,
    };
    let mut query = query.order(order);
    if let (Some(last), None) = (asked.last, until) {
        query = query.limit(last);
    }
    let is_before = |hit: &Hit<'_>| {
        until.is_none_or(|until| {
            let end = until.positions.get(hit.service);
            end.is_some_and(|&end| hit.position() < end)
        })
    };
    match asked.last {
        Some(last) if !asked.newest_first => print_last(reader, query, last, &is_before, printed),
        _ => print_each(reader, &query, asked.last, &is_before, printed),
    }
}

/// Opens the log directory; says what to do where there is none.
pub(crate) fn open(settings: &Settings) -> Result<Reader, Failure> {
    Reader::open(&settings.logs).map_err(|error| {
        Failure::new(format!(
            "{error}; name another with `--logs DIR` or MILLPOND_LOGS"
        ))
    })
}

fn printer(
    settings: &Settings,
    raw: bool,
    with_service: bool,
    utc: bool,
    joins: bool,
) -> HitPrinter {
    let style = if raw {
        HitStyle::Raw
    } else if settings.json {
        HitStyle::Json
    } else {
        let zone = (!utc)
            .then(TimeZone::system)
            .filter(|zone| *zone != TimeZone::UTC);
        HitStyle::Text {
            coloured: print::is_coloured(settings.color),
            with_service,
            zone,
        }
    };
    HitPrinter::new(style, joins)
}

/// The times of `--since` and `--until`.
pub(crate) fn time_range(
    since: Option<&str>,
    until: Option<&str>,
    utc: bool,
) -> Result<(Option<u64>, Option<u64>), Failure> {
    let time = |flag: &str, text: Option<&str>| -> Result<Option<u64>, Failure> {
        text.map(|text| parse_time(text, utc))
            .transpose()
            .map_err(|why| Failure::new(format!("{flag} {why}")))
    };
    let (since_ns, until_ns) = (time("--since", since)?, time("--until", until)?);
    if let (Some(since_ns), Some(until_ns)) = (since_ns, until_ns)
        && since_ns >= until_ns
    {
        let (since, until) = (since.unwrap_or_default(), until.unwrap_or_default());
        return Err(Failure::new(format!(
            "--since {since} is not before --until {until}"
        )));
    }
    Ok((since_ns, until_ns))
}

fn plan(flags: &QueryFlags, settings: &Settings) -> Result<Query, Failure> {
    let (since_ns, until_ns) =
        time_range(flags.since.as_deref(), flags.until.as_deref(), flags.utc)?;
    let now_ns = now_ns();
    if let (Some(since), Some(since_ns)) = (&flags.since, since_ns)
        && since_ns > now_ns
    {
        let message = format!("--since {since} is in the future; write the date where it is past");
        print::warning_line(settings.color, &message);
    }
    let level = |text: &String| text.parse::<Level>().map_err(Failure::new);
    let levels = match (&flags.level, &flags.only_level) {
        (Some(text), _) => LevelSet::at_least(level(text)?),
        (None, Some(text)) => LevelSet::of(&[level(text)?]),
        (None, None) => LevelSet::ALL,
    };
    let mut query = Query::new().levels(levels);
    query = flags
        .source
        .iter()
        .fold(query, |query, source| query.source(source));
    query = flags
        .grep
        .iter()
        .fold(query, |query, text| query.contains(text.as_bytes()));
    query = since_ns.into_iter().fold(query, Query::since_ns);
    query = until_ns.into_iter().fold(query, Query::until_ns);
    match &flags.regex {
        Some(regex) => Ok(query.regex(regex)?),
        None => Ok(query),
    }
}

fn print_each(
    reader: &Reader,
    query: &Query,
    lines_max: Option<u64>,
    is_wanted: &dyn Fn(&Hit<'_>) -> bool,
    printed: &mut Printed<'_>,
) -> Result<QueryReport, Failure> {
    let mut failed: Option<io::Error> = None;
    let mut left = lines_max.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(QueryReport::default());
    }
    let report = reader.run(query, &mut |hit| {
        if !is_wanted(&hit) {
            return ControlFlow::Continue(());
        }
        failed = printed.printer.print(printed.out, &hit).err();
        printed.lines += 1;
        left -= 1;
        match failed.is_some() || left == 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => {
            printed.out.flush()?;
            Ok(report)
        }
    }
}

/// What is printed of a line, held until those before it are found.
struct HeldLine {
    service: Box<str>,
    position: (SegmentId, u64),
    time_ns: u64,
    level: Level,
    /// The time as it stands in the line, the source, the message.
    bytes: Box<[u8]>,
    source_bytes: usize,
}

impl HeldLine {
    fn new(hit: &Hit<'_>) -> Self {
        HeldLine {
            service: hit.service.into(),
            position: (hit.segment_id, hit.offset),
            time_ns: hit.time_ns,
            level: hit.level,
            bytes: [&hit.line[..TIME_BYTES], hit.source, hit.message]
                .concat()
                .into(),
            source_bytes: hit.source.len(),
        }
    }

    /// For a printer, which looks at nothing of the line but its time, source and message.
    fn hit(&self) -> Hit<'_> {
        let (segment_id, offset) = self.position;
        let (source, message) = self.bytes[TIME_BYTES..].split_at(self.source_bytes);
        Hit {
            service: &self.service,
            segment_id,
            offset,
            time_ns: self.time_ns,
            level: self.level,
            source,
            message,
            line: &self.bytes,
        }
    }
}

/// The newest lines, the oldest of them first.
fn print_last(
    reader: &Reader,
    query: Query,
    lines_max: u64,
    is_wanted: &dyn Fn(&Hit<'_>) -> bool,
    printed: &mut Printed<'_>,
) -> Result<QueryReport, Failure> {
    let mut lines: Vec<HeldLine> = Vec::new();
    let mut held_bytes = 0;
    // For the case that they are too many to be held: of each service its first and its last line, and how many
    // records of the first, which may be one that counts more.
    let mut bounds: BTreeMap<String, (LogPosition, LogPosition, u64)> = BTreeMap::new();
    let mut since_ns = u64::MAX;
    let mut left = lines_max;
    if left == 0 {
        return Ok(QueryReport::default());
    }
    let report = reader.run(&query, &mut |hit: Hit<'_>| {
        if !is_wanted(&hit) {
            return ControlFlow::Continue(());
        }
        match bounds.get_mut(hit.service) {
            Some((first, _, records)) if *first == hit.position() => *records += 1,
            Some((first, _, records)) => (*first, *records) = (hit.position(), 1),
            None => {
                let bound = (hit.position(), hit.position(), 1);
                bounds.insert(hit.service.to_owned(), bound);
            }
        }
        since_ns = since_ns.min(hit.time_ns);
        if held_bytes <= LAST_BYTES_MAX {
            let line = HeldLine::new(&hit);
            held_bytes += size_of::<HeldLine>() + line.service.len() + line.bytes.len();
            lines.push(line);
            if held_bytes > LAST_BYTES_MAX {
                lines = Vec::new();
            }
        }
        left -= 1;
        match left == 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    if held_bytes > LAST_BYTES_MAX {
        let bounds = RefCell::new(bounds);
        let is_one = |hit: &Hit<'_>| {
            let mut bounds = bounds.borrow_mut();
            let Some((first, last, records)) = bounds.get_mut(hit.service) else {
                return false;
            };
            if *first == hit.position() {
                let is_one = *records > 0;
                *records = records.saturating_sub(1);
                return is_one;
            }
            (*first..=*last).contains(&hit.position())
        };
        let query = query
            .order(Order::Oldest)
            .limit(u64::MAX)
            .since_ns(since_ns);
        print_each(reader, &query, None, &is_one, printed)?;
        return Ok(report);
    }
    for line in lines.iter().rev() {
        printed.printer.print(printed.out, &line.hit())?;
    }
    printed.lines += lines.len() as u64;
    printed.out.flush()?;
    Ok(report)
}

fn count(reader: &Reader, query: &Query, by: CountBy, settings: &Settings) -> Run {
    let query_progress = Arc::new(QueryProgress::default());
    let progress = Progress::of_query(&query_progress);
    let counts = reader.count(&query.clone().progress(&query_progress))?;
    progress.finish();
    let mut out = stdout(settings.color);
    if settings.json {
        writeln!(out, "{}", counts_json(&counts))?;
    } else {
        match by {
            CountBy::Total => writeln!(out, "{}", counts.total())?,
            CountBy::Level => {
                let mut table = Table::new(&["level", "lines"]);
                for level in Level::ALL.into_iter().rev() {
                    table.row(vec![
                        level.name().to_owned(),
                        counts.level(level).to_string(),
                    ]);
                }
                table.print(&mut out)?;
            }
            CountBy::Service => {
                let mut table = Table::new(&["service", "lines"]);
                for counts in &counts.services {
                    table.row(vec![counts.service.clone(), counts.total().to_string()]);
                }
                table.print(&mut out)?;
            }
        }
    }
    out.flush()?;
    let outcome = conclude(&counts.report, reader, settings)?;
    Ok(if counts.total() == 0 {
        Outcome::Nothing
    } else {
        outcome
    })
}

fn counts_json(counts: &Counts) -> Value {
    let by_level = |of: &dyn Fn(Level) -> u64| -> Map<String, Value> {
        Level::ALL
            .into_iter()
            .map(|level| (level.name().to_owned(), of(level).into()))
            .collect()
    };
    let services: Map<String, Value> = counts
        .services
        .iter()
        .map(|counts| {
            (
                counts.service.clone(),
                by_level(&|level| counts.level(level)).into(),
            )
        })
        .collect();
    json!({
        "version": 1,
        "total": counts.total(),
        "levels": by_level(&|level| counts.level(level)),
        "services": services,
    })
}

/// Says what the lines of the daemon count that are not part of the output.
pub(crate) fn warn_of_left_out(left_out: &LeftOut, settings: &Settings) {
    let parts = [
        (left_out.dropped, "dropped before they came to the log"),
        (left_out.suppressed, "kept out by a rate limit or a sample"),
        (
            left_out.repeated,
            "repeats of a line that is not there any more",
        ),
    ];
    for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
        let message = format!(
            "{count} records are not in this output: {what} (`millpond query --source millpond` shows where)"
        );
        print::warning_line(settings.color, &message);
    }
}

/// Damage goes to standard error and into the exit code; what could be read has been printed.
pub(crate) fn conclude(report: &QueryReport, reader: &Reader, settings: &Settings) -> Run {
    let damaged = warn_of_damage(&report.damage, &report.deleted, settings);
    let damaged = damaged + report.damage_left_out;
    conclude_with(damaged, reader, report.matched > 0, settings)
}

/// Says what is damaged, and what went meanwhile. Returns how many places are damaged.
pub(crate) fn warn_of_damage(damage: &[Damage], deleted: &[PathBuf], settings: &Settings) -> u64 {
    for damage in damage {
        print::warning_line(settings.color, damage);
    }
    for path in deleted {
        let message = format!("{} was removed by retention meanwhile", path.display());
        print::warning_line(settings.color, &message);
    }
    damage.len() as u64
}

/// The end of a command that reads the log directory.
pub(crate) fn conclude_with(
    damaged: u64,
    reader: &Reader,
    is_found: bool,
    settings: &Settings,
) -> Run {
    let mut unreadable = 0;
    for ignored in reader
        .ignored()
        .iter()
        .filter(|ignored| ignored.is_unreadable)
    {
        unreadable += 1;
        let (path, why) = (ignored.path.display(), &ignored.why);
        print::warning_line(settings.color, &format!("cannot read {path}: {why}"));
    }
    if damaged > 0 {
        return Err(Failure::new(format!(
            "{damaged} damaged places; everything else was read (see `millpond verify`, and `millpond index \
             rebuild` where only an index is damaged)"
        )));
    }
    if unreadable > 0 {
        return Err(Failure::new(format!(
            "services that cannot be read: {unreadable}; everything else was read"
        )));
    }
    if reader.services().is_empty() {
        let (logs, foreign) = (settings.logs.display(), reader.ignored().len());
        let message = match foreign {
            0 => format!("there are no services in {logs}"),
            _ => format!(
                "{logs} is no log directory of ours: {foreign} logs in it have names that are not segment ids"
            ),
        };
        print::warning_line(settings.color, &message);
    }
    Ok(Outcome::found(is_found))
}
