//! `millpond verify`: everything that says something about a log, checked against everything else.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use millpond_bus::inspect::{Holder, Inspection};
use millpond_bus::{Bus, ServiceCommit};
use millpond_logfile::{
    CURRENT_LINK, Damage, ErrorKind, SegmentId, SegmentText, check_service_name, list_segments,
    read_index, verify_segment,
};
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::commands::query::{open, time_range};
use crate::flags::VerifyFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::progress::Progress;
use crate::print::{DIM, RED, stdout};
use crate::units::human_size;

/// Held by the process that writes the directory; says who did last.
pub(super) const LOCK_FILE: &str = ".millpond.lock";

/// One thing that is not as it should be, and what to do.
struct Finding {
    damage: Damage,
    remedy: String,
}

#[derive(Default)]
struct Totals {
    services: u64,
    segments: u64,
    blocks: u64,
    text_bytes: u64,
    committed: u64,
    sources: u64,
    findings: Vec<Finding>,
}

pub(crate) fn run(flags: &VerifyFlags, settings: &Settings) -> Run {
    for name in &flags.service {
        check_service_name(name)?;
    }
    let (since_ns, _) = time_range(flags.since.as_deref(), None, flags.utc)?;
    let reader = open(settings)?;
    let is_unreadable = |name: &str| {
        let path = settings.logs.join(name);
        let mut ignored = reader.ignored().iter();
        ignored.any(|one| one.is_unreadable && one.path == path)
    };
    // What memory says comes before the files are read: they only grow.
    let memory = Memory::find(settings);
    let is_committed = |name: &str| {
        (memory.iter().flat_map(|memory| &memory.services)).any(|one| one.name == name)
    };
    if let Some(unknown) = flags.service.iter().find(|name| {
        !reader.services().contains(name) && !is_unreadable(name) && !is_committed(name)
    }) {
        return Err(Failure::new(format!(
            "no service {unknown:?} in {}",
            settings.logs.display()
        )));
    }
    let mut totals = Totals::default();
    let is_written = Holder::of_file(&settings.logs.join(LOCK_FILE)).is_somebody();
    for ignored in reader.ignored().iter().filter(|one| one.is_unreadable) {
        let name = ignored.path.file_name().unwrap_or_default();
        if flags.service.is_empty() || flags.service.iter().any(|service| **service == *name) {
            totals.add_unreadable(ignored.path.clone(), "directory", &ignored.why);
        }
    }
    let mut work = Vec::new();
    for service in reader.services() {
        if !flags.service.is_empty() && !flags.service.contains(service) {
            continue;
        }
        let dir = settings.logs.join(service);
        let segments = list_segments(&dir)?;
        if !segments.is_empty() {
            totals.services += 1;
        }
        let since = since_ns.map_or(0, |since_ns| first_since(&segments, since_ns));
        let newest = segments.last();
        work.extend(segments[since..].iter().map(|&id| {
            let is_open = newest == Some(&id) && id.log_path(&dir).exists();
            (dir.clone(), id, is_open)
        }));
        let gone = memory
            .as_ref()
            .map(|memory| memory.gone(settings))
            .unwrap_or_default();
        let lost = gone.iter().find(|(name, ..)| name == service);
        totals.check_directory(&dir, &segments, is_written, lost.map(|&(_, id, _)| id));
    }
    let bytes = || {
        let lengths = work.iter().map(|(dir, id, _)| text_length(dir, *id));
        lengths.sum()
    };
    let progress = Progress::of_bytes(bytes);
    for (dir, id, is_open) in &work {
        totals.check_segment(dir, *id, is_written, &progress);
        if !is_open {
            totals.check_index_is_there(dir, *id);
        }
    }
    progress.finish();
    if let Some(memory) = &memory {
        totals.check_commits(memory, &flags.service, settings);
        totals.check_counts(settings);
    }
    report(&totals, settings)
}

/// What the bus that writes here says.
pub(super) struct Memory {
    services: Vec<ServiceCommit>,
    /// Nobody writes: what is behind the commit point will be cut, and drained again.
    is_alive: bool,
}

impl Memory {
    /// `None` where there is no bus, or another one wrote here last.
    pub(super) fn find(settings: &Settings) -> Option<Self> {
        let owner = fs::read_to_string(settings.logs.join(LOCK_FILE)).ok()?;
        let inspection = Inspection::open(&settings.bus).ok()?;
        let control = inspection.control.as_ref()?;
        let is_ours = owner.lines().next() == Some(control.identity(&settings.bus).as_str());
        is_ours.then(|| Memory {
            services: control.committed_services().to_vec(),
            is_alive: inspection.lease.is_somebody(),
        })
    }

    /// Segments whose text is committed and gone: service, segment, bytes.
    ///
    /// Retention takes text that is closed before its index, and the link with it. Where nothing at all is left and
    /// something limits what is kept, it may have been that.
    pub(super) fn gone(&self, settings: &Settings) -> Vec<(&str, SegmentId, u64)> {
        let policy = &settings.policy;
        let is_limited = policy.retain_age_limit.is_some()
            || policy.service_bytes_limit.is_some()
            || policy.service_segments_limit.is_some()
            || !policy.services.is_empty();
        let is_gone = |commit: &&ServiceCommit| {
            let dir = settings.logs.join(&commit.name);
            let id = SegmentId::from_ns(commit.segment_id);
            let is_not_there = |path: PathBuf| {
                fs::symlink_metadata(path)
                    .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
            };
            let has_no_trace = !id.index_path(&dir).exists() && dir.exists();
            let text_is_gone =
                is_not_there(id.log_path(&dir)) && is_not_there(id.sealed_path(&dir));
            commit.length_bytes > 0 && text_is_gone && !(is_limited && has_no_trace)
        };
        let gone = self.services.iter().filter(is_gone);
        gone.map(|commit| {
            let id = SegmentId::from_ns(commit.segment_id);
            (commit.name.as_str(), id, commit.length_bytes)
        })
        .collect()
    }
}

/// The first segment that can hold a line of this time: the one that was open then.
fn first_since(segments: &[SegmentId], since_ns: u64) -> usize {
    let later = segments.partition_point(|id| id.as_ns() <= since_ns);
    later.saturating_sub(1)
}

/// The bytes of text of a segment; 0 where it cannot be read.
pub(super) fn text_length(dir: &Path, id: SegmentId) -> u64 {
    let text = SegmentText::open(dir, id).and_then(|text| text.length_bytes());
    text.unwrap_or(0)
}

fn found(path: PathBuf, what: &'static str, expected: String, found: String) -> Damage {
    Damage {
        path,
        offset: 0,
        what,
        expected,
        found,
    }
}

impl Totals {
    fn add(&mut self, damage: Damage, remedy: impl Into<String>) {
        self.findings.push(Finding {
            damage,
            remedy: remedy.into(),
        });
    }

    fn check_segment(&mut self, dir: &Path, id: SegmentId, is_written: bool, progress: &Progress) {
        let mut verified = verify_segment(dir, id);
        // Sealed or appended to in this very moment: what is damage is so the second time, too.
        if is_written && !matches!(&verified, Ok(report) if report.damage.is_empty()) {
            verified = verify_segment(dir, id);
        }
        let report = match verified {
            Ok(report) => report,
            // Retention removed it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound && is_written => return,
            Err(error) => {
                let path = error
                    .path()
                    .map_or_else(|| id.log_path(dir), Path::to_owned);
                // It names the path as well.
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let why = cause.unwrap_or_else(|| error.to_string());
                return self.add_unreadable(path, "file", &why);
            }
        };
        progress.add(report.text_bytes);
        self.segments += 1;
        self.blocks += report.blocks;
        self.text_bytes += report.text_bytes;
        // Index and filters then differ because the text does: made anew from it they would hide that.
        let is_text_damaged = report.damage.iter().any(|damage| !is_derived(damage));
        for damage in report.damage {
            let remedy = match is_text_damaged && is_derived(&damage) {
                true => BACKUP,
                false => remedy(&damage),
            };
            self.add(damage, remedy);
        }
    }

    /// Of a segment that is closed. An index goes after its text, so that one removed meanwhile is not missed.
    fn check_index_is_there(&mut self, dir: &Path, id: SegmentId) {
        let path = id.index_path(dir);
        if !path.exists() && SegmentText::open(dir, id).is_ok() {
            self.add(
                found(
                    path,
                    "index",
                    "one beside its text".into(),
                    "missing".into(),
                ),
                "stop the daemon, `millpond index rebuild`; or `millpond doctor --fix`",
            );
        }
    }

    fn add_unreadable(&mut self, path: PathBuf, what: &'static str, why: &str) {
        self.add(
            found(path, what, "readable".into(), format!("not: {why}")),
            "give this user the right to read it, or take it from a backup",
        );
    }

    /// What lies in a service's directory beside its segments, and the link to the open one.
    /// Index and filters of text that was `lost` are no leftovers, but its last trace.
    fn check_directory(
        &mut self,
        dir: &Path,
        segments: &[SegmentId],
        is_written: bool,
        lost: Option<SegmentId>,
    ) {
        let doctor = "`millpond doctor --fix` removes it, and so does the next start of the daemon";
        for leftover in Leftover::find(dir, segments) {
            let is_trace = lost.is_some_and(|id| {
                leftover.path == id.index_path(dir) || leftover.path == id.filter_path(dir)
            });
            // A daemon that runs is making it, or about to remove it.
            if is_written || is_trace {
                continue;
            }
            let (expected, what) = leftover.words();
            let path = leftover.path;
            self.add(found(path, "file", expected.into(), what.into()), doctor);
        }
        if let Some(link) = CurrentLink::find(dir, segments).problem(is_written) {
            self.add(
                found(dir.join(CURRENT_LINK), "link", link.expected, link.found),
                link.remedy,
            );
        }
    }

    fn check_commits(&mut self, memory: &Memory, wanted: &[String], settings: &Settings) {
        for commit in &memory.services {
            if !wanted.is_empty() && !wanted.contains(&commit.name) {
                continue;
            }
            self.committed += 1;
            let gone = memory.gone(settings);
            if let Some((name, id, bytes)) = gone.iter().find(|(name, ..)| *name == commit.name) {
                let path = id.log_path(&settings.logs.join(name));
                self.add(
                    found(
                        path,
                        "text",
                        format!("{bytes} bytes, as committed"),
                        "gone".into(),
                    ),
                    gone_words(name, *id, *bytes) + ": take it from a backup",
                );
                continue;
            }
            let dir = settings.logs.join(&commit.name);
            let id = SegmentId::from_ns(commit.segment_id);
            let expected = format!("at least {} bytes, as committed", commit.length_bytes);
            let length = SegmentText::open(&dir, id).and_then(|text| text.length_bytes());
            let is_short = match &length {
                Ok(length) => *length < commit.length_bytes,
                // Begun and not committed, or removed by retention when it was closed.
                Err(_) => false,
            };
            if let (true, Ok(length)) = (is_short, length) {
                let path = id.log_path(&dir);
                let damage = found(
                    path,
                    "length of the text",
                    expected,
                    format!("{length} bytes"),
                );
                let next = match memory.is_alive {
                    true => "text was lost under the daemon: take it from a backup",
                    false => {
                        "the next daemon goes on behind what is there, and says what is missing"
                    }
                };
                self.add(damage, next);
            }
        }
    }

    /// The identity of the counters, of each source.
    fn check_counts(&mut self, settings: &Settings) {
        let Ok(bus) = Bus::open(&settings.bus) else {
            return;
        };
        let rules = bus.rules().ok();
        let path = PathBuf::from(format!("/dev/shm/millpond.{}.control", settings.bus));
        for source in bus.stats().sources {
            self.sources += 1;
            let name = format!("{} {}", source.label, source.pattern);
            let accounted = source
                .delivered
                .saturating_add(source.dropped.total())
                .saturating_add(source.in_flight);
            let remedy = "a counter in shared memory is wrong: `millpond dump` shows them";
            if accounted != source.published {
                let (expected, is) = (format!("{} {name}", source.published), accounted);
                self.add(
                    found(
                        path.clone(),
                        "delivered + dropped + in flight",
                        expected,
                        is.to_string(),
                    ),
                    remedy,
                );
            }
            let is_logged = rules.as_ref().is_some_and(|rules| {
                let mut rules = rules.iter();
                rules.any(|rule| rule.pattern.as_str() == source.pattern && rule.service.is_some())
            });
            let written = source
                .written
                .saturating_add(source.rejected)
                .saturating_add(source.coalesced)
                .saturating_add(source.suppressed);
            if is_logged && written != source.delivered {
                let expected = format!("{} {name}", source.delivered);
                self.add(
                    found(
                        path.clone(),
                        "written + rejected + coalesced + suppressed",
                        expected,
                        written.to_string(),
                    ),
                    remedy,
                );
            }
        }
    }

    fn to_json(&self) -> Value {
        let damage: Vec<Value> = self
            .findings
            .iter()
            .map(|Finding { damage, remedy }| {
                json!({
                    "path": damage.path.display().to_string(),
                    "offset": damage.offset,
                    "what": damage.what,
                    "expected": damage.expected,
                    "found": damage.found,
                    "remedy": remedy,
                })
            })
            .collect();
        json!({
            "version": 1,
            "services": self.services,
            "segments": self.segments,
            "blocks": self.blocks,
            "text_bytes": self.text_bytes,
            "committed_services": self.committed,
            "sources": self.sources,
            "damaged": self.findings.len(),
            "damage": damage,
        })
    }
}

/// What is said of a segment that was committed and is not there.
pub(super) fn gone_words(service: &str, id: SegmentId, bytes: u64) -> String {
    format!("text of {service} segment {id} is gone: {bytes} bytes were committed")
}

/// What to do about text that is not what it was.
const BACKUP: &str = "take the segment from a backup; every other block is read";

/// Whether it is in a file that can be made anew from the text.
fn is_derived(damage: &Damage) -> bool {
    let name = damage.path.to_string_lossy();
    name.ends_with(".idx") || name.ends_with(".filter")
}

/// What to do about damage in a segment's files.
fn remedy(damage: &Damage) -> &'static str {
    match damage.what {
        // The text is short, not the index long.
        "text covered by the index" | "length of the text" => {
            "text is missing: take it from a backup; `millpond index rebuild` accepts what is there"
        }
        // The doctor looks at no filters.
        _ if damage.path.extension().is_some_and(|end| end == "filter") => {
            "stop the daemon, `millpond index rebuild`"
        }
        _ if is_derived(damage) => {
            "stop the daemon, `millpond index rebuild`; or `millpond doctor --fix`"
        }
        "first damaged line of the block" => {
            "the line was written by hand, or its bytes are lost: every other line is read"
        }
        _ => BACKUP,
    }
}

fn report(totals: &Totals, settings: &Settings) -> Run {
    let mut out = stdout(settings.color);
    let damaged = totals.findings.len();
    if settings.json {
        writeln!(out, "{}", totals.to_json())?;
    } else {
        for Finding { damage, remedy } in &totals.findings {
            writeln!(out, "{RED}damage{RED:#} {damage}")?;
            writeln!(out, "  {DIM}{remedy}{DIM:#}")?;
        }
        let Totals {
            services,
            segments,
            blocks,
            text_bytes,
            committed,
            sources,
            ..
        } = totals;
        let text = human_size(*text_bytes);
        writeln!(
            out,
            "verified {services} services, {segments} segments, {blocks} blocks, {text} of text"
        )?;
        if *committed > 0 || *sources > 0 {
            writeln!(
                out,
                "against memory: {committed} services committed, {sources} sources counted"
            )?;
        }
        writeln!(out, "{damaged} damaged")?;
    }
    out.flush()?;
    if damaged > 0 {
        return Err(Failure::new(format!("{damaged} damaged places")));
    }
    Ok(Outcome::found(totals.segments > 0))
}

/// A file beside the segments that should not be there, or not stay.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) path: PathBuf,
    pub(super) kind: LeftoverKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftoverKind {
    /// A file that was being made under another name.
    New,
    /// Index or filters of a text that is gone.
    WithoutText,
    /// The sealed form of a text that is there in the plain form, too.
    BothForms,
}

impl Leftover {
    /// All of a service's directory. Files with names of others are none.
    pub(super) fn find(dir: &Path, segments: &[SegmentId]) -> Vec<Self> {
        let mut found = Vec::new();
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some(kind) = kind_of(dir, name, segments) else {
                continue;
            };
            found.push(Leftover {
                path: entry.path(),
                kind,
            });
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    /// What should be, and what is.
    pub(super) fn words(&self) -> (&'static str, &'static str) {
        match self.kind {
            LeftoverKind::New => ("none of this name", "left by a step that was cut short"),
            LeftoverKind::WithoutText => ("the text beside it", "an index or filters alone"),
            LeftoverKind::BothForms => ("one form of the text", "the sealed form beside the plain"),
        }
    }
}

fn kind_of(dir: &Path, name: &str, segments: &[SegmentId]) -> Option<LeftoverKind> {
    if name == ".current.new" {
        return Some(LeftoverKind::New);
    }
    let made = [".log.new", ".log.zst.new", ".filter.new", ".idx.new"];
    let id = |suffix: &str| name.strip_suffix(suffix)?.parse::<SegmentId>().ok();
    if made.iter().any(|suffix| id(suffix).is_some()) {
        return Some(LeftoverKind::New);
    }
    if let Some(id) = id(".idx").or_else(|| id(".filter")) {
        let is_alone = segments.binary_search(&id).is_err();
        return is_alone.then_some(LeftoverKind::WithoutText);
    }
    let id = id(".log.zst")?;
    id.log_path(dir).exists().then_some(LeftoverKind::BothForms)
}

/// `current.log`, as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CurrentLink {
    /// It names the newest segment, or there is nothing to name.
    Good,
    /// It is not there.
    Missing(SegmentId),
    /// It names something that is not the newest segment.
    Wrong { named: String, newest: SegmentId },
    /// It is no link.
    NoLink,
}

/// What is wrong with `current.log`.
pub(super) struct LinkProblem {
    pub(super) expected: String,
    pub(super) found: String,
    pub(super) remedy: String,
}

impl CurrentLink {
    pub(super) fn find(dir: &Path, segments: &[SegmentId]) -> Self {
        // Sealed, the newest was closed in order; what is written next mends the link.
        let newest = segments.last().filter(|id| id.log_path(dir).exists());
        let link = dir.join(CURRENT_LINK);
        let is_link = fs::symlink_metadata(&link).map(|metadata| metadata.is_symlink());
        match (is_link, newest) {
            (Ok(false), _) => CurrentLink::NoLink,
            (_, None) => CurrentLink::Good,
            (Err(_), Some(&newest)) => CurrentLink::Missing(newest),
            (Ok(true), Some(&newest)) => {
                let target = fs::read_link(&link).unwrap_or_default();
                match target == Path::new(&format!("{newest}.log")) {
                    true => CurrentLink::Good,
                    false => CurrentLink::Wrong {
                        named: target.display().to_string(),
                        newest,
                    },
                }
            }
        }
    }

    /// In words. While a daemon writes, the link may be a moment behind.
    pub(super) fn problem(&self, is_written: bool) -> Option<LinkProblem> {
        let mend = "`millpond doctor --fix` mends it, and so does the next line";
        match self {
            CurrentLink::Good => None,
            CurrentLink::NoLink => Some(LinkProblem {
                expected: "a link to the open segment".into(),
                found: "a file that is no link".into(),
                remedy: "move it elsewhere: somebody has put it there".into(),
            }),
            _ if is_written => None,
            CurrentLink::Missing(newest) => Some(LinkProblem {
                expected: format!("{newest}.log"),
                found: "nothing".into(),
                remedy: mend.into(),
            }),
            CurrentLink::Wrong { named, newest } => Some(LinkProblem {
                expected: format!("{newest}.log"),
                found: named.clone(),
                remedy: mend.into(),
            }),
        }
    }
}

/// What a quick look at the indexes of a service tells: without reading its text.
pub(super) fn look_at_indexes(
    dir: &Path,
    segments: &[SegmentId],
) -> BTreeMap<SegmentId, IndexState> {
    let mut states = BTreeMap::new();
    for (number, &id) in segments.iter().enumerate() {
        let is_newest = number + 1 == segments.len();
        let is_open = is_newest && id.log_path(dir).exists();
        if !is_open && !id.index_path(dir).exists() {
            states.insert(id, IndexState::Missing);
            continue;
        }
        let state = match read_index(&id.index_path(dir), Some(id)) {
            Err(error) => IndexState::Damaged(error.to_string()),
            Ok(index) => {
                let length = text_length(dir, id);
                match index.damage {
                    Some(damage) => IndexState::Damaged(damage.to_string()),
                    None if index.covered_bytes() > length => IndexState::Ahead,
                    // The last, unfinished block of an open segment has no entry.
                    None if is_newest && !index.closed => IndexState::Good,
                    None if !index.closed => IndexState::NotClosed,
                    None if index.covered_bytes() < length => IndexState::Damaged(format!(
                        "{}: it is closed and covers {} of {length} bytes",
                        id.index_path(dir).display(),
                        index.covered_bytes()
                    )),
                    None => IndexState::Good,
                }
            }
        };
        if state != IndexState::Good {
            states.insert(id, state);
        }
    }
    states
}

/// How an index looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IndexState {
    Good,
    /// It says something that cannot be: what.
    Damaged(String),
    /// It speaks of text that is not there.
    Ahead,
    /// A crash came before its segment was marked closed.
    NotClosed,
    /// It is not there.
    Missing,
}
