//! `millpond index`: indexes made anew.

use std::io::Write;
use std::path::Path;

use millpond_logfile::{CURRENT_LINK, SegmentId, check_service_name, list_segments, rebuild_index};
use millpond_sink::DirectoryLock;
use serde_json::json;

use crate::Run;
use crate::args::Settings;
use crate::commands::query::open;
use crate::commands::verify::text_length;
use crate::flags::IndexAction;
use crate::outcome::{Failure, Outcome};
use crate::print::progress::Progress;
use crate::print::stdout;
use crate::units::human_size;

pub(crate) fn run(action: &IndexAction, settings: &Settings) -> Run {
    let IndexAction::Rebuild { service: wanted } = action;
    for name in wanted {
        check_service_name(name)?;
    }
    let reader = open(settings)?;
    let services: Vec<&String> = reader
        .services()
        .iter()
        .filter(|service| wanted.is_empty() || wanted.contains(service))
        .collect();
    if let Some(unknown) = wanted.iter().find(|name| !reader.services().contains(name)) {
        return Err(Failure::new(format!(
            "no service {unknown:?} in {}",
            settings.logs.display()
        )));
    }
    // A daemon would go on writing the index file that was replaced, and the new one would fall behind.
    let lock = DirectoryLock::take(&settings.logs).map_err(|error| {
        Failure::new(format!(
            "{error} (indexes are rebuilt only while nobody writes there)"
        ))
    })?;
    let mut work = Vec::new();
    for service in services {
        let dir = settings.logs.join(service);
        work.extend(list_segments(&dir)?.into_iter().map(|id| (dir.clone(), id)));
    }
    let bytes = || work.iter().map(|(dir, id)| text_length(dir, *id)).sum();
    let progress = Progress::of_bytes(bytes);
    let mut totals = Totals::default();
    for (dir, id) in &work {
        totals.rebuild(dir, *id)?;
        progress.set(totals.text_bytes);
    }
    drop(lock);
    progress.finish();
    let mut out = stdout(settings.color);
    if settings.json {
        writeln!(out, "{}", totals.to_json())?;
    } else {
        let Totals {
            segments,
            blocks,
            text_bytes,
        } = &totals;
        let text = human_size(*text_bytes);
        writeln!(
            out,
            "rebuilt {segments} segments, {blocks} blocks, {text} of text"
        )?;
    }
    out.flush()?;
    Ok(Outcome::found(totals.segments > 0))
}

#[derive(Default)]
struct Totals {
    segments: u64,
    blocks: u64,
    text_bytes: u64,
}

impl Totals {
    fn rebuild(&mut self, dir: &Path, id: SegmentId) -> Result<(), Failure> {
        let is_open = std::fs::read_link(dir.join(CURRENT_LINK))
            .is_ok_and(|target| target == Path::new(&format!("{id}.log")));
        let report = rebuild_index(dir, id, is_open)?;
        self.segments += 1;
        self.blocks += report.blocks;
        self.text_bytes += report.text_bytes;
        Ok(())
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "version": 1,
            "segments": self.segments,
            "blocks": self.blocks,
            "text_bytes": self.text_bytes,
        })
    }
}
