//! Whether a consumer still says that it lives, and what to do where it does not.

use std::fs;

use millpond_daemon::HEARTBEAT_AGE_MAX;

/// What became of the heartbeat.
pub(crate) enum Beat {
    /// `1.3 s` since the last one.
    Regular { age: String },
    /// It has taken the lease `1.3 s` ago, and recovers the log.
    Starting { age: String },
    /// It holds the lease, and says nothing.
    Silent(Silence),
}

/// Why it is silent.
pub(crate) struct Silence {
    /// `STOPPED`, for the beginning of a line.
    pub(crate) word: &'static str,
    pub(crate) found: String,
    pub(crate) remedy: String,
}

/// Whether a sign of life is so old that the consumer must be taken for hung.
pub(crate) fn is_old(age_ns: u64) -> bool {
    u128::from(age_ns) > HEARTBEAT_AGE_MAX.as_nanos()
}

/// Looks at the heartbeat of the process that holds the lease, and at the process.
pub(crate) fn look(pid: u32, started_ns: u64, heartbeat_ns: u64, now_ns: u64) -> Beat {
    let age_ns = now_ns.saturating_sub(heartbeat_ns);
    let age = format!("{}.{} s", age_ns / 1_000_000_000, age_ns / 100_000_000 % 10);
    if heartbeat_ns == started_ns {
        return Beat::Starting { age };
    }
    if !is_old(age_ns) {
        return Beat::Regular { age };
    }
    Beat::Silent(silence(pid, &age, process_state(pid)))
}

fn silence(pid: u32, age: &str, state: Option<char>) -> Silence {
    match state {
        Some('T' | 't') => Silence {
            word: "STOPPED",
            found: format!("process {pid} is stopped; its last sign of life was {age} ago"),
            remedy: format!("somebody sent it SIGSTOP, or a debugger holds it: `kill -CONT {pid}`"),
        },
        Some('D') => Silence {
            word: "STUCK",
            found: format!("process {pid} waits for a device; its last sign of life was {age} ago"),
            remedy: "look at the disk; events wait in shared memory".to_owned(),
        },
        state => Silence {
            word: "HANGS",
            found: format!(
                "process {pid} (state {}) hangs; its last sign of life was {age} ago",
                state.unwrap_or('?')
            ),
            remedy: format!(
                "`kill -9 {pid}` and start another: nothing committed is lost. First `millpond dump`, and a \
                 core of it (`gcore {pid}`), for a report"
            ),
        },
    }
}

/// The letter that the kernel has for it.
pub(crate) fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}
