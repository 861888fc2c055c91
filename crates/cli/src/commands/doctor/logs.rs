//! The log directory: who writes it, what steps that were cut short have left, and how the indexes look.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use millpond_bus::inspect::Holder;
use millpond_logfile::{
    CURRENT_LINK, SegmentId, list_segments, list_services, rebuild_index, verify_segment,
};

use super::{Check, Fix, Settings};
use crate::commands::verify::{
    CurrentLink, IndexState, LOCK_FILE, Leftover, LeftoverKind, Memory, gone_words, look_at_indexes,
};
use crate::outcome::Failure;

pub(super) fn check(settings: &Settings, checks: &mut Vec<Check>) {
    let Ok(services) = list_services(&settings.logs) else {
        return;
    };
    let lock = settings.logs.join(LOCK_FILE);
    let holder = Holder::of_file(&lock);
    let is_written = holder.is_somebody();
    checks.push(match holder {
        Holder::Process(pid) => Check::ok("writer", format!("process {pid}")),
        Holder::Somebody => Check::ok("writer", "a process that the kernel does not name"),
        Holder::Unknown => Check::warn(
            "writer",
            format!("{} cannot be opened", lock.display()),
            "run as the user that writes there",
        ),
        Holder::Nobody => Check::ok("writer", format!("nobody{}", last_owner(&lock))),
    });
    let before = checks.len();
    let memory = Memory::find(settings);
    let gone = memory
        .as_ref()
        .map(|memory| memory.gone(settings))
        .unwrap_or_default();
    for &(service, id, bytes) in &gone {
        checks.push(Check::fail(
            "logs",
            gone_words(service, id, bytes),
            "take it from a backup, before the next daemon starts",
        ));
    }
    for service in &services {
        let dir = settings.logs.join(service);
        let Ok(segments) = list_segments(&dir) else {
            checks.push(Check::fail(
                "logs",
                format!("{} cannot be read", dir.display()),
                "give this user the right to read it",
            ));
            continue;
        };
        // Of text that was lost it is the last trace.
        let is_trace = |path: &Path| {
            gone.iter().any(|&(lost, id, _)| {
                lost == service
                    && [id.index_path(&dir), id.filter_path(&dir)].contains(&path.to_owned())
            })
        };
        let found = Leftover::find(&dir, &segments).into_iter();
        let found = found.filter(|leftover| !is_trace(&leftover.path));
        leftovers(&dir, found, is_written, checks);
        current_link(&dir, &segments, is_written, checks);
        indexes(&dir, &segments, is_written, checks);
    }
    if checks.len() == before {
        let found = format!("{} services, nothing left over", services.len());
        checks.push(Check::ok("logs", found));
    }
}

/// The bus that wrote there last, in words.
fn last_owner(lock: &Path) -> String {
    let text = fs::read_to_string(lock).unwrap_or_default();
    let bus = text.split(' ').next().filter(|bus| !bus.is_empty());
    bus.map_or(String::new(), |bus| format!("; bus {bus:?} did last"))
}

fn remove(path: PathBuf) -> impl FnOnce() -> Result<(), Failure> {
    move || match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::new(format!(
            "cannot remove {}: {error}",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn leftovers(
    dir: &Path,
    found: impl Iterator<Item = Leftover>,
    is_written: bool,
    checks: &mut Vec<Check>,
) {
    // Of a daemon that runs they are work in progress.
    if is_written {
        return;
    }
    for leftover in found {
        let (_, what) = leftover.words();
        let shown = leftover.path.display().to_string();
        let remedy = "it holds nothing that is not elsewhere; the next daemon removes it";
        let check = Check::warn("logs", format!("{shown}: {what}"), remedy);
        let path = leftover.path;
        checks.push(check.with_fix(match leftover.kind {
            LeftoverKind::New | LeftoverKind::WithoutText => {
                Fix::of_logs(format!("remove {shown}"), remove(path))
            }
            LeftoverKind::BothForms => {
                let dir = dir.to_owned();
                Fix::of_logs(format!("remove {shown}, it is sealed again"), move || {
                    remove_sealed(&dir, path)
                })
            }
        }));
    }
}

/// The plain form is the truth, if it is whole.
fn remove_sealed(dir: &Path, path: PathBuf) -> Result<(), Failure> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(id) = name.and_then(SegmentId::of_text_file) else {
        return Err(Failure::new(format!("{} names no segment", path.display())));
    };
    let report = verify_segment(dir, id)?;
    if let Some(damage) = report.damage.first() {
        return Err(Failure::new(format!(
            "the plain form is damaged ({damage}), so both stay: keep a copy of the sealed one"
        )));
    }
    remove(path)()
}

fn current_link(dir: &Path, segments: &[SegmentId], is_written: bool, checks: &mut Vec<Check>) {
    let link = CurrentLink::find(dir, segments);
    let Some(problem) = link.problem(is_written) else {
        return;
    };
    let path = dir.join(CURRENT_LINK);
    let shown = path.display();
    let found = format!(
        "{shown} is {}, expected {}",
        problem.found, problem.expected
    );
    let check = Check::warn("logs", found, problem.remedy);
    checks.push(match link {
        CurrentLink::Missing(newest) | CurrentLink::Wrong { newest, .. } => {
            let what = format!("let {shown} name {newest}.log");
            check.with_fix(Fix::of_logs(what, move || point_to(&path, newest)))
        }
        CurrentLink::Good | CurrentLink::NoLink => check,
    });
}

/// In one step, as the daemon does it.
fn point_to(link: &Path, newest: SegmentId) -> Result<(), Failure> {
    let new = link.with_file_name(".current.new");
    remove(new.clone())()?;
    symlink(format!("{newest}.log"), &new)
        .and_then(|()| fs::rename(&new, link))
        .map_err(|error| Failure::new(format!("cannot make {}: {error}", link.display())))
}

fn indexes(dir: &Path, segments: &[SegmentId], is_written: bool, checks: &mut Vec<Check>) {
    for (id, state) in look_at_indexes(dir, segments) {
        let shown = id.index_path(dir).display().to_string();
        let is_newest = segments.last() == Some(&id);
        let check = match &state {
            IndexState::Good => continue,
            // A segment that is open, or just being closed.
            IndexState::NotClosed | IndexState::Missing if is_written => continue,
            IndexState::Missing => Check::warn(
                "logs",
                format!("{shown} is missing"),
                "queries read all of its text; `--fix` or `millpond index rebuild` makes it anew",
            ),
            IndexState::NotClosed => Check::warn(
                "logs",
                format!("{shown} was never marked closed"),
                "queries read all of its text; the next daemon makes it anew",
            ),
            IndexState::Damaged(why) => Check::warn(
                "logs",
                why.clone(),
                "answers stay right, and come slower; `millpond verify` looks at everything",
            ),
            IndexState::Ahead => {
                checks.push(Check::fail(
                    "logs",
                    format!("{shown} speaks of text that is not there"),
                    "text is missing: take it from a backup; `millpond index rebuild` accepts what is there",
                ));
                continue;
            }
        };
        if is_written {
            checks.push(check);
            continue;
        }
        // Of the segment that may be open again the next daemon makes it anew, from what is committed.
        if is_newest && state != IndexState::Missing {
            checks.push(check);
            continue;
        }
        let (dir, what) = (dir.to_owned(), format!("make {shown} anew from its text"));
        checks.push(check.with_fix(Fix::of_logs(what, move || {
            rebuild_index(&dir, id, false)?;
            Ok(())
        })));
    }
}
