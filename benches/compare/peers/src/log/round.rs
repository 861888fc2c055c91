//! One round: a process of its own, so that a peer that hangs can be killed with all that it started, and so that
//! processor time and memory are its alone.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use millpond_bus::Bus;
use millpond_peers::{Crew, LatencyNs, Round, Watch};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::lines::{Check, Lines};
use crate::peer::{Place, Result, Setup};
use crate::peers;

/// How often is looked whether a bus can be removed.
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

/// Runs `job` in a process of its own, which `watch` ends with all its programs.
///
/// # Errors
/// How it ended instead.
pub fn run(job: &Job, watch: &Watch) -> Result<Round> {
    let outcome = measure_there(job, watch);
    if outcome.is_err() {
        remove_bus(&job.setup.bus);
    }
    // Leaves the next round its disk.
    let _ = std::fs::remove_dir_all(&job.dir);
    outcome
}

fn measure_there(job: &Job, watch: &Watch) -> Result<Round> {
    std::fs::create_dir_all(job.dir.join("out"))?;
    let stderr = job.dir.join("stderr");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["round", &serde_json::to_string(job)?])
        .stderr(std::fs::File::create(&stderr)?);
    let mut crew = Crew::new(watch);
    crew.start(command)?;
    crew.close_inputs();
    match crew.hear()? {
        Some(Said::Done(round)) => Ok(round),
        Some(Said::Failed(why)) => Err(with_last_words(why, &stderr).into()),
        None => Err(with_last_words("it died".to_owned(), &stderr).into()),
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
        (seconds, Some(LatencyNs::of(times_ns)))
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

/// Of this process and of all that it has started and seen end.
fn cpu_seconds() -> Result<f64> {
    let mut micros = 0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        micros += usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    }
    Ok(micros as f64 / 1e6)
}
