//! One round: a process of its own, so that a peer that hangs can be killed with all that it started, and so that
//! processor time and memory are its alone.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use millpond_bus::Bus;
use millpond_peers::{LatencyNs, Round};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::lines::{Check, Lines};
use crate::peer::{Place, Result, Setup};
use crate::peers;

/// How often the watchdog looks whether it was itself told to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What was killed needs a moment to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a round is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Name of the peer.
    pub peer: String,
    /// Whether each line is to be durable.
    pub is_durable: bool,
    /// How many lines.
    pub lines: u64,
    /// A new directory for it alone.
    pub dir: PathBuf,
    /// What all rounds share.
    pub setup: Setup,
}

/// What a round says at its end.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Done(Round),
    Failed(String),
}

/// How a round ended that has no figures.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It went wrong, in words.
    Failed(String),
    /// It was killed after this long.
    Hung(Duration),
    /// The comparison itself was told to end.
    Interrupted,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Failed(why) => write!(f, "failed: {why}"),
            Trouble::Hung(limit) => write!(f, "hung: killed after {} s", limit.as_secs()),
            Trouble::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// Runs `job` in a process of its own, which is killed with all its programs after `limit`, or when `interrupted`.
///
/// # Errors
/// How it ended instead.
pub fn run(
    job: &Job,
    limit: Duration,
    interrupted: &AtomicBool,
) -> std::result::Result<Round, Trouble> {
    let outcome = watch(job, limit, interrupted);
    if outcome.is_err() {
        remove_bus(&job.setup.bus);
    }
    // Leaves the next round its disk.
    let _ = std::fs::remove_dir_all(&job.dir);
    outcome
}

fn watch(
    job: &Job,
    limit: Duration,
    interrupted: &AtomicBool,
) -> std::result::Result<Round, Trouble> {
    use std::io::Read;
    use std::os::unix::process::CommandExt;

    let failed = |error: &dyn std::fmt::Display| Trouble::Failed(error.to_string());
    std::fs::create_dir_all(job.dir.join("out")).map_err(|error| failed(&error))?;
    let stderr = job.dir.join("stderr");
    let errors = std::fs::File::create(&stderr).map_err(|error| failed(&error))?;
    let text = serde_json::to_string(job).map_err(|error| failed(&error))?;
    let this = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut child = Command::new(this)
        .args(["round", &text])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&error))?;
    let group = Pid::from_child(&child);
    let (sender, receiver) = channel();
    let output = child.stdout.take();
    std::thread::spawn(move || {
        let mut said = String::new();
        let read = output.map(|mut output| output.read_to_string(&mut said));
        // Nobody waits any more where it was killed.
        let _ = sender.send(read.map(|_| said).unwrap_or_default());
    });
    let started = Instant::now();
    let said = loop {
        match receiver.recv_timeout(LOOK_INTERVAL) {
            Ok(said) => break Ok(said),
            Err(RecvTimeoutError::Disconnected) => break Ok(String::new()),
            Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                break Err(Trouble::Interrupted);
            }
            Err(RecvTimeoutError::Timeout) if started.elapsed() > limit => {
                break Err(Trouble::Hung(limit));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    // Also where it ended well: no program of a round outlives it.
    let _ = kill_process_group(group, Signal::KILL);
    let _ = child.wait();
    let said = said?;
    match serde_json::from_str(said.trim()) {
        Ok(Said::Done(round)) => Ok(round),
        Ok(Said::Failed(why)) => Err(Trouble::Failed(with_last_words(why, &stderr))),
        Err(_) => Err(Trouble::Failed(with_last_words(
            "it died".to_owned(),
            &stderr,
        ))),
    }
}

/// The last line that the peer's programs wrote to standard error tells more than we know.
fn with_last_words(why: String, stderr: &std::path::Path) -> String {
    let errors = std::fs::read(stderr).unwrap_or_default();
    let text = String::from_utf8_lossy(&errors);
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{why} ({})", line.trim()),
        None => why,
    }
}

/// A round that was killed has left its bus.
fn remove_bus(name: &str) {
    let started = Instant::now();
    while let Ok(bus) = Bus::open(name) {
        // In use until the daemon that we killed is gone.
        if bus.remove().is_ok() || started.elapsed() > PATIENCE {
            return;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Does what [`run`] has asked for, in the process that it started, and says on standard output how it went.
pub fn run_here(text: &str) {
    let said = match measure(text) {
        Ok(round) => Said::Done(round),
        Err(error) => Said::Failed(error.to_string()),
    };
    println!("{}", serde_json::to_string(&said).unwrap_or_default());
}

fn measure(text: &str) -> Result<Round> {
    // Whoever started us may be killed: then so are we, and with us, what is tied to us.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let job: Job = serde_json::from_str(text)?;
    let peers = peers::all();
    let mut named = peers.iter().filter(|peer| peer.name() == job.peer);
    let peer = named.next().ok_or("no such peer")?;
    let mut place = Place::new(job.dir, job.setup);
    let mut lines = Lines::new(0, job.lines);
    let cpu_before = cpu_seconds()?;
    let (seconds, latency_ns) = if job.is_durable {
        let times_ns = peer.write_durably(&mut place, &mut lines)?;
        let seconds = times_ns.iter().sum::<u64>() as f64 / 1e9;
        (seconds, Some(latencies(times_ns)))
    } else {
        (peer.write(&mut place, &mut lines)?.as_secs_f64(), None)
    };
    let cpu_seconds = cpu_seconds()? - cpu_before;
    place.note_memory();
    let disk_bytes = place.disk_bytes();
    let mut check = Check::new(job.lines);
    peer.read_back(&place, &mut check)?;
    Ok(Round {
        events: job.lines,
        seconds,
        latency_ns,
        cpu_seconds,
        memory_bytes: Some(place.memory_bytes()),
        disk_bytes: Some(disk_bytes),
        lost: check.finish()?,
    })
}

fn latencies(mut times_ns: Vec<u64>) -> LatencyNs {
    times_ns.sort_unstable();
    let at = |share: f64| {
        let index = (times_ns.len() as f64 * share) as usize;
        let last = times_ns.len().saturating_sub(1);
        times_ns.get(index.min(last)).copied().unwrap_or_default()
    };
    LatencyNs {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

/// Of this process and of all that it has started and seen end.
fn cpu_seconds() -> Result<f64> {
    let mut micros = 0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        micros += usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    }
    Ok(micros as f64 / 1e6)
}
