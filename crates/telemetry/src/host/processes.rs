//! The processes behind the lanes of a bus.
//!
//! A pid alone names nobody: the process may be gone and its number another's. So a process is taken for the
//! publisher only if it was started when the publisher's process was; its directory in `/proc` is opened once and
//! everything is read through it, and what is read of a directory whose process is gone is an error, never another
//! process's figures.

use std::collections::HashMap;

use millpond_bus::Stats;
use procfs::ProcError;
use procfs::process::Process;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::counters::Memory;
use super::events::HostProcess;
use super::source::Source;
use super::{HostTime, Named, PROCESSES_MAX, parts};

/// Start times are told as real time, by whoever looked, to a hundredth of a second; between two looks the real clock
/// may have been set by a little. No pid comes round again as fast as this.
const START_SLACK_NS: u64 = 2_000_000_000;

/// A process that has lanes on a bus.
///
/// ```
/// use millpond_telemetry::host::HostPublisher;
/// # let bus = millpond_bus::Bus::attach(&format!("doc-host-publisher-{}", std::process::id()), &Default::default())?;
/// let mut publisher = bus.publisher("indexer")?;
/// // Its first topic gives it a lane.
/// publisher.topic("data:files:created")?;
/// let all = HostPublisher::attached(&bus.stats());
/// assert_eq!(all[0].pid, std::process::id());
/// # drop(publisher);
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPublisher {
    /// Its process id, as the consumer's process sees it.
    pub pid: u32,
    /// When the process was started, real time in ns; 0 where the consumer has not found out.
    pub started_ns: u64,
    /// When the first of its lanes was made, real time in ns: the process is older than that.
    pub attached_ns: u64,
}

impl HostPublisher {
    /// The processes behind the lanes that exist, each once, by pid. No system call.
    pub fn attached(stats: &Stats) -> Vec<HostPublisher> {
        let mut all: HashMap<(u32, u64), HostPublisher> = HashMap::new();
        for lane in stats.lanes.iter().filter(|lane| lane.origin.pid != 0) {
            let (pid, started_ns) = (lane.origin.pid, lane.origin.started_ns);
            let publisher = all.entry((pid, started_ns)).or_insert(HostPublisher {
                pid,
                started_ns,
                attached_ns: lane.created_ns,
            });
            publisher.attached_ns = publisher.attached_ns.min(lane.created_ns);
        }
        let mut all: Vec<HostPublisher> = all.into_values().collect();
        // Where one lane's process is known and another's of the same pid is not yet, the known one comes first.
        all.sort_by_key(|it| (it.pid, std::cmp::Reverse(it.started_ns)));
        all
    }

    /// Whether a process that was started then is this one.
    fn is_started_at(&self, started_ns: u64) -> bool {
        match self.started_ns {
            0 => started_ns <= self.attached_ns.saturating_add(START_SLACK_NS),
            known => known.abs_diff(started_ns) <= START_SLACK_NS,
        }
    }
}

/// Why there are no figures of a process.
enum Missing {
    /// It is gone, or its pid is another's by now: nothing to tell.
    Gone,
    /// It lives, and `/proc` does not show it to us.
    Hidden,
    Broken(String),
}

/// `host:process:<pid>`.
#[derive(Debug, Default)]
pub(super) struct ProcessesPart {
    /// By pid and start in ticks since the host was started, which no setting of a clock moves: ns of processor time.
    memory: Memory<(u32, u64), u64>,
    /// Those that were taken for the publisher once: whatever the real clock does later, they are.
    known: Memory<(u32, u64), HostPublisher>,
}

impl ProcessesPart {
    pub(super) fn read(
        &mut self,
        source: &Source,
        time: HostTime,
        publishers: &[HostPublisher],
        processes: &mut Vec<Named<HostProcess>>,
    ) -> Result<(), String> {
        let since_boot_ns = since_boot_ns();
        let (mut hidden, mut left_out, mut broken) = (0, 0, None);
        let mut last_pid = None;
        for publisher in publishers {
            if last_pid == Some(publisher.pid) {
                continue;
            }
            if processes.len() >= PROCESSES_MAX {
                left_out += 1;
                continue;
            }
            match self.one(source, time, since_boot_ns, publisher) {
                Ok(event) => {
                    last_pid = Some(publisher.pid);
                    let name = format!("host:process:{}", publisher.pid);
                    processes.push(Named { name, event });
                }
                Err(Missing::Gone) => {}
                Err(Missing::Hidden) => hidden += 1,
                Err(Missing::Broken(why)) => broken = Some(why),
            }
        }
        self.memory.turn();
        self.known.turn();
        let proc_dir = source.proc_dir.display();
        match broken {
            Some(why) => Err(why),
            None if hidden > 0 && !source.proc_dir.join("self").exists() => Err(format!(
                "no procfs at {proc_dir}: mount it there, or in a container, do not mask it"
            )),
            None if hidden > 0 => Err(format!(
                "{hidden} processes that publish are hidden from us: {proc_dir} is mounted with hidepid; run as \
                 their user, or in the group that its option gid= names"
            )),
            None => parts::told(left_out, PROCESSES_MAX, "processes that publish"),
        }
    }

    fn one(
        &mut self,
        source: &Source,
        time: HostTime,
        since_boot_ns: u64,
        publisher: &HostPublisher,
    ) -> Result<HostProcess, Missing> {
        let missing = |error: ProcError| missing(error, publisher.pid);
        let dir = source.proc_dir.join(publisher.pid.to_string());
        let process = Process::new_with_root(dir).map_err(missing)?;
        let stat = process.stat().map_err(missing)?;
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let age_ns = since_boot_ns.saturating_sub(stat.starttime.saturating_mul(tick_ns));
        let started_ns = time.real_ns.saturating_sub(age_ns);
        let key = (publisher.pid, stat.starttime);
        let is_known = self.known.get(&key) == Some(*publisher);
        if !is_known && !publisher.is_started_at(started_ns) {
            return Err(Missing::Gone);
        }
        self.known.replace(key, time.monotonic_ns, *publisher);
        let cpu_ns = stat
            .utime
            .saturating_add(stat.stime)
            .saturating_mul(tick_ns);
        let (before, interval) = self.memory.replace(key, time.monotonic_ns, cpu_ns);
        Ok(HostProcess {
            sampled_ns: time.real_ns,
            interval_ns: interval.ns,
            started_ns,
            cpu_ratio: interval.times(before, cpu_ns),
            cpu_total_ns: cpu_ns,
            rss_bytes: stat.rss.saturating_mul(rustix::param::page_size() as u64),
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            // Not ours to see where it is another user's.
            fds: process.fd_count().map_or(f64::NAN, |fds| fds as f64),
        })
    }
}

fn since_boot_ns() -> u64 {
    let since_boot = clock_gettime(ClockId::Boottime);
    since_boot.tv_sec as u64 * 1_000_000_000 + since_boot.tv_nsec as u64
}

fn missing(error: ProcError, pid: u32) -> Missing {
    match error {
        // With hidepid the directory is not there (2), or it is and its files are shut (1).
        ProcError::NotFound(_) => match lives(pid) {
            true => Missing::Hidden,
            false => Missing::Gone,
        },
        ProcError::PermissionDenied(_) => Missing::Hidden,
        // It went between the opening of its directory and the reading.
        ProcError::Io(error, _) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
            Missing::Gone
        }
        error => Missing::Broken(format!("process {pid} cannot be read: {error}")),
    }
}

/// Whether there is a process, ours to signal or not.
fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(Errno::SRCH)))
}
