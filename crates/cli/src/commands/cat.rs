//! `millpond cat`: the text of services as it is stored.

use std::io::{self, Write};
use std::ops::ControlFlow;

use jiff::tz::TimeZone;
use millpond_logfile::{QueryReport, Reader, SegmentInfo};
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::commands::query::{conclude_with, open, time_range, warn_of_damage};
use crate::commands::verify::text_length;
use crate::flags::CatFlags;
use crate::print::hits::local_time;
use crate::print::progress::{Output, Progress};
use crate::print::stdout;
use crate::print::table::Table;
use crate::units::utc;

pub(crate) fn run(flags: &CatFlags, settings: &Settings) -> Run {
    let (since_ns, until_ns) =
        time_range(flags.since.as_deref(), flags.until.as_deref(), flags.utc)?;
    let reader = open(settings)?;
    let services = match flags.all {
        true => reader.services(),
        false => &flags.service,
    };
    if flags.segments {
        return list_segments(&reader, services, flags.utc, settings);
    }
    let times_ns = (since_ns.is_some() || until_ns.is_some())
        .then(|| since_ns.unwrap_or(0)..until_ns.unwrap_or(u64::MAX));
    let progress =
        Progress::for_output(|| Progress::of_bytes(|| text_bytes_of(services, settings)));
    let mut out = Output::new(&progress);
    let mut failed: Option<io::Error> = None;
    let (mut text_bytes, mut damaged) = (0, 0);
    for service in services {
        let report = reader.text(service, times_ns.clone(), &mut |text| {
            failed = out.write_all(text).err();
            progress.add(text.len() as u64);
            match failed.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        text_bytes += report.text_bytes;
        damaged += warn_of_damage(&report.damage, &report.deleted, settings);
    }
    out.flush()?;
    progress.finish();
    conclude_with(damaged, &reader, text_bytes > 0, settings)
}

/// How much there is of these services, whatever part of it is asked for: for the progress alone.
fn text_bytes_of(services: &[String], settings: &Settings) -> u64 {
    let of_service = |service: &String| -> u64 {
        let dir = settings.logs.join(service);
        let segments = millpond_logfile::list_segments(&dir).unwrap_or_default();
        segments.into_iter().map(|id| text_length(&dir, id)).sum()
    };
    services.iter().map(of_service).sum()
}

fn list_segments(reader: &Reader, services: &[String], utc: bool, settings: &Settings) -> Run {
    let mut report = QueryReport::default();
    let mut out = stdout(settings.color);
    let zone = (!utc).then(TimeZone::system);
    let columns = [
        "service", "segment", "state", "text", "file", "index", "lines", "first", "last",
    ];
    let mut table = Table::new(&columns);
    let mut objects = Vec::new();
    let mut is_empty = true;
    for service in services {
        for info in reader.segments(service, &mut report)? {
            is_empty = false;
            match settings.json {
                true => objects.push(segment_json(service, &info)),
                false => table.row(segment_cells(service, &info, zone.as_ref())),
            }
        }
    }
    if settings.json {
        writeln!(out, "{}", json!({"version": 1, "segments": objects}))?;
    } else {
        table.print(&mut out)?;
    }
    out.flush()?;
    let damaged = warn_of_damage(&report.damage, &report.deleted, settings);
    conclude_with(damaged, reader, !is_empty, settings)
}

/// What is not known is `?`.
fn segment_cells(service: &str, info: &SegmentInfo, zone: Option<&TimeZone>) -> Vec<String> {
    let time = |time_ns: u64| {
        let local = zone.and_then(|zone| local_time(time_ns, zone));
        local.unwrap_or_else(|| utc(time_ns))
    };
    let times = info.times_ns.map(|(first, last)| (time(first), time(last)));
    let (first, last) = times.unwrap_or_else(|| ("?".to_owned(), "?".to_owned()));
    vec![
        service.to_owned(),
        info.id.to_string(),
        info.state.name().to_owned(),
        info.text_bytes.to_string(),
        info.file_bytes.to_string(),
        info.sidecar_bytes.to_string(),
        info.lines.map_or("?".to_owned(), |lines| lines.to_string()),
        first,
        last,
    ]
}

fn segment_json(service: &str, info: &SegmentInfo) -> Value {
    let (first, last) = info.times_ns.unzip();
    json!({
        "service": service,
        "segment": info.id.to_string(),
        "path": info.path.display().to_string(),
        "state": info.state.name(),
        "text_bytes": info.text_bytes,
        "file_bytes": info.file_bytes,
        "sidecar_bytes": info.sidecar_bytes,
        "lines": info.lines,
        "first_time": first.map(utc),
        "first_time_ns": first,
        "last_time": last.map(utc),
        "last_time_ns": last,
    })
}
