//! What a log directory must be after a power cut, against what was acknowledged outside of it.

use std::collections::BTreeMap;
use std::ops::{AddAssign, ControlFlow};
use std::path::Path;

use millpond_logfile::{
    Level, LevelSet, Query, Reader, SegmentText, Told, list_segments, list_services, verify_segment,
};
use serde::Serialize;

use crate::day::Line;
use crate::error::Error;
use crate::files::each_line;

/// Notes kept of what is wrong.
const NOTES_MAX: usize = 20;

/// What is known of one source in one service, outside the disk. Its events are numbered from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Events below this number were acknowledged as durable.
    pub(super) acknowledged: u64,
    /// Events below this number may have been published.
    pub(super) published: u64,
    /// How often each of them was, one behind the other.
    pub(super) times: u64,
}

/// By service and source.
pub(super) type Ledger = BTreeMap<(String, String), Counts>;

/// How strict to be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    /// Segments that are kept of each service; `None`: all.
    pub(super) generations: Option<u32>,
    /// Text that was not acknowledged may be damaged: pages of it may be missing.
    pub(super) may_be_torn: bool,
}

/// What was found; everything but the first three must be 0.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Lines of events.
    pub lines: u64,
    /// Events that had been acknowledged as durable, of those that retention has not removed.
    pub acknowledged: u64,
    /// Lines with a hole in them, all of them behind the last acknowledged event of their service.
    pub torn: u64,
    /// Acknowledged events that are not there.
    pub lost: u64,
    /// Events that are there more often than they were published.
    pub doubled: u64,
    /// Lines that were never published as they stand there, halves of lines too.
    pub strange: u64,
    /// Lines of a source before an earlier one.
    pub disordered: u64,
    /// Where index and text, or queries and text, do not agree, and cuts that were not told.
    pub disagreements: u64,
    /// Some of what is wrong.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Whether all is as it must be.
    pub fn is_good(&self) -> bool {
        self.lost + self.doubled + self.strange + self.disordered + self.disagreements == 0
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(what.into());
        }
    }

    pub(super) fn disagree(&mut self, what: impl Into<String>) {
        self.disagreements += 1;
        self.note(what);
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Verdict) {
        self.lines += other.lines;
        self.acknowledged += other.acknowledged;
        self.torn += other.torn;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.strange += other.strange;
        self.disordered += other.disordered;
        self.disagreements += other.disagreements;
        for what in other.notes {
            self.note(what);
        }
    }
}

/// A line as the files have it.
#[derive(Debug, PartialEq, Eq)]
struct Plain {
    time_ns: u64,
    level: Level,
    source: Vec<u8>,
    message: Vec<u8>,
}

/// The events of one source, as the files have them.
#[derive(Debug, Default)]
struct Events {
    /// Number and how often, ascending.
    found: Vec<(u64, u64)>,
    /// A torn line stands behind the last of them: what a repeat line counts may be that one.
    is_unsure: bool,
}

/// Examines a directory that nobody writes to.
pub(super) fn examine(logs: &Path, ledger: &Ledger, rules: Rules) -> Result<Verdict, Error> {
    let mut verdict = Verdict::default();
    let reader = Reader::open(logs)?;
    let mut services: BTreeMap<String, Vec<Plain>> = BTreeMap::new();
    let mut events: BTreeMap<(String, String), Events> = BTreeMap::new();
    for service in list_services(logs)? {
        let dir = logs.join(&service);
        let lines = read_service(&dir, &service, rules, &mut events, &mut verdict)?;
        for id in list_segments(&dir)? {
            let report = verify_segment(&dir, id)?;
            let damage = report.damage.iter();
            // A torn line is told too, and it is counted above.
            let others = damage.filter(|damage| !damage.what.contains("damaged line"));
            for damage in others {
                verdict.disagree(format!("{service}: {damage}"));
            }
        }
        ask(&reader, &service, &lines, rules, &mut verdict)?;
        services.insert(service, lines);
    }
    for (key, counts) in ledger {
        let nothing = Events::default();
        let found = events.get(key).unwrap_or(&nothing);
        let segments = list_segments(&logs.join(&key.0)).map_or(0, |ids| ids.len() as u64);
        // The open segment has no file before its first line.
        let is_trimmed = (rules.generations).is_some_and(|kept| segments + 1 >= u64::from(kept));
        judge(key, *counts, found, is_trimmed, &mut verdict);
    }
    for (service, source) in events.keys().filter(|key| !ledger.contains_key(*key)) {
        verdict.strange += 1;
        verdict.note(format!("{service}: nobody has published as {source:?}"));
    }
    Ok(verdict)
}

fn read_service(
    dir: &Path,
    service: &str,
    rules: Rules,
    events: &mut BTreeMap<(String, String), Events>,
    verdict: &mut Verdict,
) -> Result<Vec<Plain>, Error> {
    let mut lines = Vec::new();
    let mut expected = Line::new();
    let outcome = each_line(dir, &mut |line| {
        let Ok(line) = line else {
            if rules.may_be_torn {
                verdict.torn += 1;
                let of_service = events.iter_mut().filter(|(key, _)| key.0 == service);
                of_service.for_each(|(_, known)| known.is_unsure = true);
            } else {
                verdict.strange += 1;
                verdict.note(format!("{service}: a damaged line"));
            }
            return;
        };
        let source = String::from_utf8_lossy(line.source).into_owned();
        let message = String::from_utf8_lossy(line.message).into_owned();
        lines.push(Plain {
            time_ns: line.time_ns,
            level: line.level,
            source: line.source.to_vec(),
            message: line.message.to_vec(),
        });
        if line.source == Told::SOURCE {
            let told = Told::parse(line.message);
            let Some(Told::Repeat { source, count, .. }) = told else {
                verdict.strange += 1;
                verdict.note(format!("{service}: {message:?}"));
                return;
            };
            let source = String::from_utf8_lossy(source).into_owned();
            let known = events.entry((service.to_owned(), source)).or_default();
            // Retention may have removed the line that this one counts.
            if let Some((_, times)) = known.found.last_mut()
                && !known.is_unsure
            {
                *times += count;
            }
            return;
        }
        verdict.lines += 1;
        let number = message.split(' ').nth(1).and_then(|word| word.parse().ok());
        let is_ours = number.is_some_and(|number| {
            let (level, text) = expected.of(&source, number);
            text == line.message && level as u8 == line.level as u8
        });
        let Some(number) = number.filter(|_| is_ours) else {
            verdict.strange += 1;
            verdict.note(format!("{service}: {source} {message:?}"));
            return;
        };
        let known = events
            .entry((service.to_owned(), source.clone()))
            .or_default();
        known.is_unsure = false;
        match known.found.last() {
            Some(&(last, _)) if last == number => {
                verdict.doubled += 1;
                verdict.note(format!("{service}: {source} {number} stands there twice"));
            }
            Some(&(last, _)) if last > number => {
                verdict.disordered += 1;
                verdict.note(format!("{service}: {source} {number} behind {last}"));
            }
            _ => known.found.push((number, 1)),
        }
    });
    if let Err(error) = outcome {
        verdict.strange += 1;
        verdict.note(error.to_string());
    }
    Ok(lines)
}

/// What of one source is there, against what must be.
fn judge(
    (service, source): &(String, String),
    counts: Counts,
    events: &Events,
    is_trimmed: bool,
    verdict: &mut Verdict,
) {
    let first = events.found.first().map_or(0, |&(number, _)| number);
    let from = if is_trimmed { first } else { 0 };
    let mut wanted = from;
    let mut lose = |numbers: u64, times: u64, what: &str| {
        if numbers > 0 && times > 0 {
            verdict.lost += numbers * times;
            verdict.note(format!("{service}: {source}: {numbers} x {times} {what}"));
        }
    };
    for &(number, times) in &events.found {
        let end = number.min(counts.acknowledged);
        lose(
            end.saturating_sub(wanted),
            counts.times,
            "lost before a line",
        );
        if number < counts.acknowledged {
            lose(1, counts.times.saturating_sub(times), "repeats lost");
        }
        wanted = number + 1;
    }
    let end = counts.acknowledged.saturating_sub(wanted);
    lose(end, counts.times, "lost at the end");
    verdict.acknowledged += counts.acknowledged.saturating_sub(from) * counts.times;
    for &(number, times) in &events.found {
        let more = times.saturating_sub(counts.times);
        verdict.doubled += more;
        if more > 0 {
            verdict.note(format!("{service}: {source} {number}: {times} times"));
        }
        if number >= counts.published {
            verdict.strange += 1;
            let end = counts.published;
            verdict.note(format!("{service}: {source} {number}, published: {end}"));
        }
    }
}

/// Answers of queries against what was read line by line.
fn ask(
    reader: &Reader,
    service: &str,
    lines: &[Plain],
    rules: Rules,
    verdict: &mut Verdict,
) -> Result<(), Error> {
    type Wanted = fn(&Plain) -> bool;
    let all = || Query::new().service(service);
    let grave = LevelSet::at_least(Level::Warn);
    let contains: Wanted = |line| {
        let needle = b"7 GET /api";
        line.message
            .windows(needle.len())
            .any(|part| part == needle)
    };
    let queries: [(&str, Query, Wanted); 4] = [
        ("all", all(), |_| true),
        ("grave", all().levels(grave), |line| {
            line.level >= Level::Warn
        }),
        ("contains", all().contains("7 GET /api"), contains),
        ("verified", all().verify(true).source("millpond"), |line| {
            line.source == Told::SOURCE
        }),
    ];
    for (name, query, wanted) in queries {
        let mut expected = lines.iter().filter(|line| wanted(line));
        let (mut found, mut right) = (0, 0);
        let report = reader.run(&query, &mut |hit| {
            found += 1;
            let is_next = expected.next().is_some_and(|line| {
                (line.time_ns, &*line.source, &*line.message)
                    == (hit.time_ns, hit.source, hit.message)
            });
            right += u64::from(is_next);
            ControlFlow::Continue(())
        })?;
        if right < found || expected.next().is_some() {
            verdict.disagree(format!(
                "{service}: {right} of {found} answers of {name:?} are right"
            ));
        }
        if !rules.may_be_torn && !report.damage.is_empty() {
            verdict.disagree(format!("{service}: {name:?}: {}", report.damage[0]));
        }
    }
    let counted = reader.count(&all())?.total();
    if counted != lines.len() as u64 {
        let read = lines.len();
        verdict.disagree(format!(
            "{service}: {counted} lines are counted, {read} read"
        ));
    }
    Ok(())
}

/// Bytes of text of each service.
pub(super) fn text_bytes(logs: &Path) -> Result<BTreeMap<String, u64>, Error> {
    let mut bytes = BTreeMap::new();
    if !logs.exists() {
        return Ok(bytes);
    }
    for service in list_services(logs)? {
        let dir = logs.join(&service);
        let mut sum = 0;
        for id in list_segments(&dir)? {
            sum += SegmentText::open(&dir, id)?.length_bytes()?;
        }
        bytes.insert(service, sum);
    }
    Ok(bytes)
}
