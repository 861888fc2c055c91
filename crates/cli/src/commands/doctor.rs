//! `millpond doctor`: is everything here that millpond needs, what is left of what died, and what to do about it.

mod consumer;
mod limits;
mod logs;
mod memory;

use std::io::{self, Write};
use std::path::Path;

use millpond_daemon::{BackendChoice, Policy};
use millpond_sink::{DirectoryLock, Sink};
use rustix::thread::MembarrierCommand;
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::flags::DoctorFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::progress::Progress;
use crate::print::{DIM, GREEN, RED, YELLOW, stdout};
use crate::units::human_size;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

/// Something that can be done and loses nothing.
struct Fix {
    what: String,
    /// It changes the log directory: only while nobody writes there.
    needs_lock: bool,
    act: Box<dyn FnOnce() -> Result<(), Failure>>,
    outcome: Option<Result<(), String>>,
}

impl Fix {
    fn of_memory(
        what: impl Into<String>,
        act: impl FnOnce() -> Result<(), Failure> + 'static,
    ) -> Self {
        Fix {
            what: what.into(),
            needs_lock: false,
            act: Box::new(act),
            outcome: None,
        }
    }

    fn of_logs(
        what: impl Into<String>,
        act: impl FnOnce() -> Result<(), Failure> + 'static,
    ) -> Self {
        Fix {
            needs_lock: true,
            ..Fix::of_memory(what, act)
        }
    }
}

struct Check {
    what: &'static str,
    state: State,
    found: String,
    remedy: String,
    fixes: Vec<Fix>,
}

impl Check {
    fn new(
        what: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Check {
            what,
            state,
            found: found.into(),
            remedy: remedy.into(),
            fixes: Vec::new(),
        }
    }

    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Check::new(what, State::Ok, found, "")
    }

    fn warn(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check::new(what, State::Warn, found, remedy)
    }

    fn fail(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check::new(what, State::Fail, found, remedy)
    }

    fn with_fix(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }

    /// Something does not work, and nothing that was done here has mended it.
    fn is_failing(&self) -> bool {
        let is_mended = !self.fixes.is_empty()
            && (self.fixes.iter()).all(|fix| matches!(fix.outcome, Some(Ok(()))));
        self.state == State::Fail && !is_mended
    }

    fn to_json(&self) -> Value {
        let state = match self.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "fail",
        };
        let fixes: Vec<Value> = self
            .fixes
            .iter()
            .map(|fix| {
                let (state, why) = match &fix.outcome {
                    None => ("possible", None),
                    Some(Ok(())) => ("done", None),
                    Some(Err(why)) => ("failed", Some(why)),
                };
                json!({ "fix": fix.what, "state": state, "why": why })
            })
            .collect();
        json!({
            "check": self.what,
            "state": state,
            "found": self.found,
            "remedy": self.remedy,
            "fixes": fixes,
        })
    }
}

pub(crate) fn run(flags: &DoctorFlags, settings: &Settings) -> Run {
    let progress = Progress::in_words();
    let mut checks = vec![kernel(), io_uring(), membarrier(), clocksource()];
    checks.push(shared_memory(settings));
    let consumer = consumer::check(settings, &mut checks);
    limits::check(settings, consumer, &mut checks);
    checks.push(logs_dir(&settings.logs, settings));
    progress.say("looking at the logs");
    logs::check(settings, &mut checks);
    progress.say("looking at shared memory");
    memory::check(settings, &mut checks)?;
    let fixable: usize = checks.iter().map(|check| check.fixes.len()).sum();
    if flags.fix && !flags.dry_run {
        fix(&mut checks, settings, &progress);
    }
    progress.finish();
    let mut out = stdout(settings.color);
    if settings.json {
        let list: Vec<Value> = checks.iter().map(Check::to_json).collect();
        writeln!(out, "{}", json!({ "version": 1, "checks": list }))?;
    } else {
        for check in &checks {
            print(&mut out, check, flags)?;
        }
        if fixable > 0 && !flags.fix {
            writeln!(
                out,
                "{fixable} of it can be mended here: `millpond doctor --fix`, first with `--dry-run`"
            )?;
        }
        if fixable == 0 && flags.fix {
            let words = match checks.iter().any(|check| check.state != State::Ok) {
                true => "nothing that `--fix` may mend",
                false => "nothing to fix",
            };
            writeln!(out, "{words}")?;
        }
    }
    out.flush()?;
    Ok(Outcome::found(!checks.iter().any(Check::is_failing)))
}

/// Does it all. What changes logs is done under the lock of the directory, so that no daemon writes meanwhile.
fn fix(checks: &mut [Check], settings: &Settings, progress: &Progress) {
    let wants_lock = checks
        .iter()
        .any(|check| check.fixes.iter().any(|fix| fix.needs_lock));
    let lock = wants_lock.then(|| {
        DirectoryLock::take(&settings.logs).map_err(|error| {
            format!("{error} (what a step has left there is removed by the daemon when it starts)")
        })
    });
    for fix in checks.iter_mut().flat_map(|check| &mut check.fixes) {
        let refused = match (&lock, fix.needs_lock) {
            (Some(Err(why)), true) => Some(why.clone()),
            _ => None,
        };
        progress.say(fix.what.clone());
        let act = std::mem::replace(&mut fix.act, Box::new(|| Ok(())));
        fix.outcome = Some(match refused {
            Some(why) => Err(why),
            None => act().map_err(|failure| failure.to_string()),
        });
    }
}

fn print(out: &mut dyn Write, check: &Check, flags: &DoctorFlags) -> io::Result<()> {
    let (style, word) = match check.state {
        State::Ok => (GREEN, "ok  "),
        State::Warn => (YELLOW, "warn"),
        State::Fail => (RED, "fail"),
    };
    writeln!(
        out,
        "{style}{word}{style:#} {}: {}",
        check.what, check.found
    )?;
    if !check.remedy.is_empty() {
        writeln!(out, "     {}", check.remedy)?;
    }
    for fix in &check.fixes {
        let what = &fix.what;
        match &fix.outcome {
            Some(Ok(())) => writeln!(out, "     {GREEN}fixed{GREEN:#} {what}")?,
            Some(Err(why)) => writeln!(out, "     {RED}not fixed{RED:#} {what}: {why}")?,
            None if flags.fix => writeln!(out, "     {YELLOW}would{YELLOW:#} {what}")?,
            None => writeln!(out, "     {DIM}--fix: {what}{DIM:#}")?,
        }
    }
    Ok(())
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    Check::ok("kernel", uname.release().to_string_lossy())
}

/// Opens a sink in a temporary place that insists on io_uring: the real thing, not a guess.
fn io_uring() -> Check {
    let policy = Policy {
        backend: BackendChoice::Uring,
        ..Policy::default()
    };
    let opened = tempfile::tempdir()
        .map_err(|error| error.to_string())
        .and_then(|dir| {
            Sink::open(dir.path(), policy, "doctor", &[], 0, || {}).map_err(|e| e.to_string())
        });
    match opened {
        Ok(_) => Check::ok("io_uring", "available"),
        Err(error) => Check::warn("io_uring", error, "the daemon writes with pwrite instead"),
    }
}

fn membarrier() -> Check {
    let commands = rustix::thread::membarrier_query();
    if commands.contains_command(MembarrierCommand::GlobalExpedited) {
        Check::ok("membarrier", "available")
    } else {
        let remedy = "publishers use a fence instead, about 20 ns an event";
        Check::warn("membarrier", "not available", remedy)
    }
}

fn clocksource() -> Check {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(path).unwrap_or_default();
    match source.trim() {
        "tsc" => Check::ok("clock", "tsc"),
        other => Check::warn(
            "clock",
            other,
            "stamps use clock_gettime instead, about 20 ns an event",
        ),
    }
}

fn shared_memory(settings: &Settings) -> Check {
    let remedy = "make room, or mount /dev/shm larger, or lower `bus-bytes`";
    match rustix::fs::statvfs("/dev/shm") {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} free in /dev/shm", human_size(free));
            let wanted = settings.limits.bus_bytes;
            match free >= wanted {
                true => Check::ok("shared memory", found),
                false => Check::warn(
                    "shared memory",
                    format!("{found}, a bus may use {}", human_size(wanted)),
                    remedy,
                ),
            }
        }
        Err(errno) => Check::fail(
            "shared memory",
            format!("/dev/shm: {errno}"),
            "mount a tmpfs there",
        ),
    }
}

fn logs_dir(dir: &Path, settings: &Settings) -> Check {
    let shown = dir.display();
    let existing = dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    if !existing.is_dir() {
        return Check::fail(
            "log directory",
            format!("{} is no directory", existing.display()),
            "choose another with `--logs`",
        );
    }
    if !writable {
        let remedy = "give this user the right to write there, or choose another with `--logs`";
        return Check::fail(
            "log directory",
            format!("{shown} cannot be written"),
            remedy,
        );
    }
    let free =
        rustix::fs::statvfs(existing).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let found = format!("{shown}, {} free", human_size(free));
    match settings.policy.total_bytes_limit {
        Some(limit) if limit > free => {
            let remedy = format!(
                "`total-bytes` is {}: lower it, or make room",
                human_size(limit)
            );
            Check::warn("log directory", found, remedy)
        }
        _ => Check::ok("log directory", found),
    }
}
