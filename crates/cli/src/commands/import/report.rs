//! What an import says: the look at the input, the summary, and what may become of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use millpond_logfile::{list_segments, list_services};
use serde_json::{Value, json};

use crate::args::Settings;
use crate::commands::import::mapping::{Naming, Record, level_of};
use crate::commands::import::now_text;
use crate::commands::import::state::{Counts, ServiceState, State};
use crate::outcome::Failure;
use crate::print::stdout;
use crate::print::table::Table;
use crate::units::{format_size, human_count, human_size, utc};

/// Rejected rows that are remembered by name; all are counted.
const REJECTED_MAX: usize = 1000;
/// So many of them are printed; `--json` has the rest.
const REJECTED_SHOWN: usize = 10;
/// Different names of one service, and different unknown levels, that are remembered.
const NAMES_MAX: usize = 16;
/// Columns in front of a message, about.
const LINE_HEAD_BYTES: u64 = 44;

/// What is in the input.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) counts: Counts,
    pub(super) services: BTreeMap<String, Found>,
    /// What the log will have, about.
    text_bytes: u64,
}

/// What the input has for one service.
#[derive(Debug)]
pub(super) struct Found {
    rows: u64,
    first_ns: u64,
    last_ns: u64,
    latest_ns: u64,
    /// As it is called in the input.
    names: BTreeSet<Vec<u8>>,
}

impl Survey {
    pub(super) fn count(
        &mut self,
        record: &Record,
        naming: &Naming,
        sorted: bool,
        rejected: &mut Vec<(i64, &'static str)>,
    ) {
        self.counts.rows += 1;
        let Some(time_ns) = record.time.and_then(|time| u64::try_from(time).ok()) else {
            let why = record.why_no_time;
            *self.counts.rejected.entry(why.to_owned()).or_default() += 1;
            if rejected.len() < REJECTED_MAX {
                rejected.push((record.place, why));
            }
            return;
        };
        self.text_bytes += LINE_HEAD_BYTES + record.content_bytes;
        if level_of(&record.level).is_none() {
            let levels = &mut self.counts.unknown_levels;
            let text: String = String::from_utf8_lossy(&record.level)
                .chars()
                .take(40)
                .collect();
            match levels.len() < NAMES_MAX || levels.contains_key(&text) {
                true => *levels.entry(text).or_default() += 1,
                false => *levels.entry("(others)".to_owned()).or_default() += 1,
            }
        }
        let name = naming.service_name(&record.service);
        let found = self.services.entry(name).or_insert_with(|| Found {
            rows: 0,
            first_ns: time_ns,
            last_ns: time_ns,
            latest_ns: time_ns,
            names: BTreeSet::new(),
        });
        found.rows += 1;
        found.first_ns = found.first_ns.min(time_ns);
        found.latest_ns = found.latest_ns.max(time_ns);
        if time_ns < found.last_ns && !sorted {
            self.counts.backward_steps += 1;
        }
        found.last_ns = time_ns;
        if found.names.len() < NAMES_MAX && !found.names.contains(&record.service) {
            found.names.insert(record.service.clone());
        }
    }

    pub(super) fn into_state(self, input: String, bound: i64) -> State {
        let mut state = State::new(input, bound, now_text());
        state.counts = self.counts;
        for (name, found) in self.services {
            let service = ServiceState {
                first_ns: found.first_ns,
                segment_id: found.first_ns,
                length_bytes: 0,
                lines: 0,
                bytes: 0,
                segments: 1,
            };
            state.services.insert(name, service);
        }
        state
    }

    /// What whoever imports this should know before.
    pub(super) fn warnings(&self, settings: &Settings, label: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, found) in &self.services {
            if found.names.len() > 1 {
                let names: Vec<String> = found
                    .names
                    .iter()
                    .map(|name| format!("{:?}", String::from_utf8_lossy(name)))
                    .collect();
                warnings.push(format!(
                    "several become service {name}: {}; their messages say `{label}=..`",
                    names.join(", ")
                ));
            }
        }
        let too_much = [
            ("total-bytes", settings.policy.total_bytes_limit),
            ("service-bytes", settings.policy.service_bytes_limit),
        ];
        for (key, limit) in too_much {
            if let Some(limit) = limit.filter(|&limit| limit < self.text_bytes) {
                warnings.push(format!(
                    "about {} of text are more than {key} = {} allows: the daemon will remove the oldest segments at its \
                     next start; raise `{key}` before",
                    human_size(self.text_bytes),
                    format_size(limit)
                ));
            }
        }
        warnings
    }

    pub(super) fn print(
        &self,
        settings: &Settings,
        description: &str,
        earlier: Option<&State>,
    ) -> Result<(), Failure> {
        let mut out = stdout(settings.color);
        if settings.json {
            let services: Vec<Value> = self
                .services
                .iter()
                .map(|(name, found)| {
                    json!({
                        "service": name,
                        "rows": found.rows,
                        "first": utc(found.first_ns),
                        "last": utc(found.latest_ns),
                        "names": found.names.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>(),
                    })
                })
                .collect();
            let mut value = counts_json(&self.counts);
            value["dry_run"] = json!(true);
            value["found"] = json!(description);
            value["services"] = json!(services);
            value["written"] = json!(0);
            value["would_write"] = json!(self.counts.rows - self.counts.rejected_total());
            value["resumes_at"] = json!(earlier.map(|state| state.counts.written));
            writeln!(out, "{value}")?;
            out.flush()?;
            return Ok(());
        }
        writeln!(out, "{description}\n")?;
        let mut table = Table::new(&["service", "rows", "first", "last"]);
        for (name, found) in &self.services {
            table.row(vec![
                name.clone(),
                found.rows.to_string(),
                utc(found.first_ns),
                utc(found.latest_ns),
            ]);
        }
        table.print(&mut out)?;
        let rows = self.counts.rows;
        let rejected = self.counts.rejected_total();
        let text = human_size(self.text_bytes);
        writeln!(
            out,
            "\n{rows} rows: {} would be written (about {text}), {rejected} rejected",
            rows - rejected
        )?;
        print_odd(&mut out, &self.counts)?;
        if let Some(state) = earlier {
            let written = state.counts.written;
            writeln!(
                out,
                "{written} rows are in the log already: it would go on behind them"
            )?;
        }
        writeln!(out, "nothing was written: dry run")?;
        out.flush()?;
        Ok(())
    }
}

/// Rejected rows, levels and steps that need a word.
fn print_odd(out: &mut dyn Write, counts: &Counts) -> Result<(), Failure> {
    for (why, count) in &counts.rejected {
        writeln!(out, "rejected {count}: {why}")?;
    }
    for row in counts.rejected_rows.iter().take(REJECTED_SHOWN) {
        writeln!(out, "  {row}")?;
    }
    let more = counts
        .rejected_total()
        .saturating_sub(REJECTED_SHOWN as u64);
    if more > 0 {
        writeln!(out, "  and {more} more (`--json` names {REJECTED_MAX})")?;
    }
    for (level, count) in &counts.unknown_levels {
        writeln!(
            out,
            "unknown level {level:?} as INFO: {count} (the message says `level=..`)"
        )?;
    }
    if counts.backward_steps > 0 {
        let steps = counts.backward_steps;
        writeln!(
            out,
            "earlier than the one before: {steps} (left in the order of the input)"
        )?;
    }
    Ok(())
}

fn counts_json(counts: &Counts) -> Value {
    json!({
        "version": 1,
        "read": counts.rows,
        "written": counts.written,
        "rejected": counts.rejected_total(),
        "rejected_by_reason": counts.rejected,
        "rejected_rows": counts.rejected_rows,
        "unknown_levels": counts.unknown_levels,
        "backward_steps": counts.backward_steps,
        "lines": counts.lines,
        "text_bytes": counts.text_bytes,
    })
}

/// What this run did.
pub(super) struct Done {
    pub(super) resumed_at: Option<u64>,
    pub(super) written_now: u64,
    pub(super) seconds: f64,
}

pub(super) fn print_summary(
    state: &State,
    done: &Done,
    settings: &Settings,
) -> Result<(), Failure> {
    let mut out = stdout(settings.color);
    let per_s = done.written_now as f64 / done.seconds.max(1e-9);
    let counts = &state.counts;
    if settings.json {
        let mut value = counts_json(counts);
        value["finished"] = json!(state.finished);
        value["resumed_at"] = json!(done.resumed_at);
        value["written_by_this_run"] = json!(done.written_now);
        value["seconds"] = json!(done.seconds);
        value["rows_per_s"] = json!(per_s);
        value["services"] = json!(state.services.keys().collect::<Vec<_>>());
        writeln!(out, "{value}")?;
        out.flush()?;
        return Ok(());
    }
    let Counts { rows, written, .. } = counts;
    let rejected = counts.rejected_total();
    let read = match state.finished {
        Some(_) => format!("read {rows} rows"),
        None => format!("read {} of {rows} rows", written + rejected),
    };
    writeln!(
        out,
        "{read}: {written} written to {} services ({} of text), {rejected} rejected",
        state.services.len(),
        human_size(counts.text_bytes)
    )?;
    print_odd(&mut out, counts)?;
    let rate = human_count(per_s);
    let seconds = done.seconds;
    writeln!(
        out,
        "{} rows in {seconds:.1} s, {rate} rows/s",
        done.written_now
    )?;
    out.flush()?;
    Ok(())
}

pub(super) fn print_finished(
    state: &State,
    settings: &Settings,
    state_path: &Path,
) -> Result<(), Failure> {
    let mut out = stdout(settings.color);
    if settings.json {
        let mut value = counts_json(&state.counts);
        value["finished"] = json!(state.finished);
        value["already_finished"] = json!(true);
        value["services"] = json!(state.services.keys().collect::<Vec<_>>());
        writeln!(out, "{value}")?;
    } else {
        writeln!(
            out,
            "{} was imported at {}: {} rows, {} written, {} rejected; nothing to do (to import it again, remove its services and {})",
            state.input,
            state.finished.as_deref().unwrap_or_default(),
            state.counts.rows,
            state.counts.written,
            state.counts.rejected_total(),
            state_path.display()
        )?;
    }
    out.flush()?;
    Ok(())
}

/// Whether the daemon will remove some of what is in the directory now.
pub(super) fn retention_warning(settings: &Settings) -> Result<Option<String>, Failure> {
    let Some(limit) = settings.policy.total_bytes_limit else {
        return Ok(None);
    };
    let mut total: u64 = 0;
    for service in list_services(&settings.logs)? {
        let dir = settings.logs.join(service);
        for id in list_segments(&dir)? {
            let text = id.log_path(&dir).metadata();
            let text = text.or_else(|_| id.sealed_path(&dir).metadata())?;
            total += text.len();
        }
    }
    Ok((total > limit).then(|| {
        format!(
            "{} has {} now, more than total-bytes = {} allows: the daemon will remove the oldest segments at its next start; \
             raise `total-bytes` before",
            settings.logs.display(),
            human_size(total),
            format_size(limit)
        )
    }))
}
