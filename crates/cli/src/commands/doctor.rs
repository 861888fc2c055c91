//! `millpond doctor`: is everything here that millpond needs, and what to do where it is not.

use std::io::Write;
use std::path::Path;

use millpond_bus::{Bus, ErrorKind};
use millpond_daemon::{BackendChoice, Policy};
use millpond_sink::Sink;
use rustix::process::{Resource, getrlimit};
use rustix::thread::MembarrierCommand;
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::outcome::Outcome;
use crate::print::{GREEN, RED, YELLOW, stdout};
use crate::units::human_size;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

struct Check {
    what: &'static str,
    state: State,
    found: String,
    remedy: String,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Check {
            what,
            state: State::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn warn(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check {
            what,
            state: State::Warn,
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    fn fail(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Check {
            what,
            state: State::Fail,
            found: found.into(),
            remedy: remedy.into(),
        }
    }
}

pub(crate) fn run(settings: &Settings) -> Run {
    let checks = [
        kernel(),
        io_uring(),
        membarrier(),
        clocksource(),
        shared_memory(settings),
        open_files(),
        locked_memory(),
        logs_dir(&settings.logs, settings),
        bus(settings),
    ];
    let mut out = stdout(settings.color);
    if settings.json {
        let list: Vec<Value> = checks
            .iter()
            .map(|check| {
                let state = match check.state {
                    State::Ok => "ok",
                    State::Warn => "warn",
                    State::Fail => "fail",
                };
                json!({ "check": check.what, "state": state, "found": check.found, "remedy": check.remedy })
            })
            .collect();
        writeln!(out, "{}", json!({ "version": 1, "checks": list }))?;
    } else {
        for check in &checks {
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
        }
    }
    out.flush()?;
    Ok(Outcome::found(
        checks.iter().all(|check| check.state != State::Fail),
    ))
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

fn open_files() -> Check {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < 256 => Check::warn(
            "open files",
            limit.to_string(),
            "raise it with `ulimit -n`: few services stay open",
        ),
        Some(limit) => Check::ok("open files", limit.to_string()),
        None => Check::ok("open files", "unlimited"),
    }
}

fn locked_memory() -> Check {
    let found = match getrlimit(Resource::Memlock).current {
        Some(limit) => human_size(limit),
        None => "unlimited".to_owned(),
    };
    Check::ok(
        "locked memory",
        format!("{found} (buffers are not registered, so any limit will do)"),
    )
}

fn logs_dir(dir: &Path, settings: &Settings) -> Check {
    let shown = dir.display();
    let existing = dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
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

fn bus(settings: &Settings) -> Check {
    let name = &settings.bus;
    match Bus::open(name) {
        Ok(bus) => match bus.consumer() {
            Some(consumer) => Check::ok(
                "bus",
                format!("{name:?}, consumer is process {}", consumer.pid),
            ),
            None => {
                let remedy =
                    format!("start `millpond daemon --bus {name}`; events wait in shared memory");
                Check::warn("bus", format!("{name:?} has no consumer"), remedy)
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::ok("bus", format!("{name:?} does not exist yet"))
        }
        Err(error) => Check::fail("bus", error.to_string(), String::new()),
    }
}
