//! `millpond query`: ask the files.

use std::io::Write;
use std::ops::ControlFlow;

use jiff::tz::TimeZone;
use millpond_logfile::{Counts, Hit, Level, LevelSet, Order, Query, QueryReport, Reader};
use serde_json::{Map, Value, json};

use crate::Run;
use crate::args::Settings;
use crate::flags::{CountBy, QueryFlags};
use crate::outcome::{Failure, Outcome};
use crate::print::hits::{HitPrinter, HitStyle};
use crate::print::table::Table;
use crate::print::{self, data_stdout, stdout};
use crate::units::parse_time;

pub(crate) fn run(flags: &QueryFlags, settings: &Settings) -> Run {
    let query = plan(flags)?;
    let reader = open(settings)?;
    if flags.count {
        return count(&reader, &query, flags.by, settings);
    }
    let several = flags.service.len() != 1 && reader.services().len() > 1;
    let printer = printer(settings, flags.raw, several, flags.utc);
    let reverse = flags.lines.is_some() && !flags.newest_first;
    let report = if reverse {
        print_last(&reader, &query, printer)?
    } else {
        print_all(&reader, &query, printer)?
    };
    conclude(&report, settings)
}

/// Opens the log directory; says what to do where there is none.
pub(crate) fn open(settings: &Settings) -> Result<Reader, Failure> {
    Reader::open(&settings.logs).map_err(|error| {
        Failure::new(format!(
            "{error}; name another with `--logs DIR` or MILLPOND_LOGS"
        ))
    })
}

pub(crate) fn printer(settings: &Settings, raw: bool, with_service: bool, utc: bool) -> HitPrinter {
    HitPrinter::new(if raw {
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
    })
}

fn plan(flags: &QueryFlags) -> Result<Query, Failure> {
    let time = |text: &Option<String>| -> Result<Option<u64>, Failure> {
        text.as_deref()
            .map(|text| parse_time(text, flags.utc))
            .transpose()
            .map_err(Failure::new)
    };
    let (since_ns, until_ns) = (time(&flags.since)?, time(&flags.until)?);
    if let (Some(since), Some(until)) = (since_ns, until_ns)
        && since >= until
    {
        let texts = (flags.since.as_deref(), flags.until.as_deref());
        let (since, until) = (texts.0.unwrap_or_default(), texts.1.unwrap_or_default());
        return Err(Failure::new(format!(
            "--since {since} is not before --until {until}"
        )));
    }
    let level = |text: &String| text.parse::<Level>().map_err(Failure::new);
    let levels = match (&flags.level, &flags.only_level) {
        (Some(text), _) => LevelSet::at_least(level(text)?),
        (None, Some(text)) => LevelSet::of(&[level(text)?]),
        (None, None) => LevelSet::ALL,
    };
    let newest = flags.newest_first || flags.lines.is_some();
    let mut query =
        Query::new()
            .levels(levels)
            .order(if newest { Order::Newest } else { Order::Oldest });
    query = flags
        .service
        .iter()
        .fold(query, |query, service| query.service(service));
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
    query = flags.lines.into_iter().fold(query, Query::limit);
    match &flags.regex {
        Some(regex) => Ok(query.regex(regex)?),
        None => Ok(query),
    }
}

fn print_all(
    reader: &Reader,
    query: &Query,
    mut printer: HitPrinter,
) -> Result<QueryReport, Failure> {
    let mut out = data_stdout();
    let mut failed = None;
    let report = reader.run(query, &mut |hit| match printer.print(&mut out, &hit) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => {
            out.flush()?;
            Ok(report)
        }
    }
}

/// The newest lines, the oldest of them first: found newest first, printed the other way round.
fn print_last(
    reader: &Reader,
    query: &Query,
    mut printer: HitPrinter,
) -> Result<QueryReport, Failure> {
    let mut printed: Vec<Vec<u8>> = Vec::new();
    let mut failed = None;
    let report = reader.run(query, &mut |hit: Hit<'_>| {
        let mut line = Vec::new();
        match printer.print(&mut line, &hit) {
            Ok(()) => {
                printed.push(line);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let mut out = data_stdout();
    for line in printed.iter().rev() {
        out.write_all(line)?;
    }
    out.flush()?;
    Ok(report)
}

fn count(reader: &Reader, query: &Query, by: CountBy, settings: &Settings) -> Run {
    let counts = reader.count(query)?;
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
    let outcome = conclude(&counts.report, settings)?;
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

/// Damage goes to standard error and into the exit code; what could be read has been printed.
pub(crate) fn conclude(report: &QueryReport, settings: &Settings) -> Run {
    for damage in &report.damage {
        print::warning_line(settings.color, damage);
    }
    for path in &report.deleted {
        let message = format!("{} was removed by retention meanwhile", path.display());
        print::warning_line(settings.color, &message);
    }
    let damaged = report.damage.len() as u64 + report.damage_left_out;
    if damaged > 0 {
        return Err(Failure::new(format!(
            "{damaged} damaged places; everything else was read (see `millpond index verify`, and `millpond \
             index rebuild` where only an index is damaged)"
        )));
    }
    Ok(Outcome::found(report.matched > 0))
}
