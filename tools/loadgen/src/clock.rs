//! Clocks that two processes, or a thread before and after, can compare.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

fn ns(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds of the clock that all processes of a host share and that never steps.
///
/// ```
/// assert!(millpond_loadgen::monotonic_ns() <= millpond_loadgen::monotonic_ns());
/// ```
pub fn monotonic_ns() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds of processor time that this thread has used.
pub(crate) fn thread_cpu_ns() -> u64 {
    ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// Sleeps until event `number` is due, at so many a second since `started`; not at all where that is 0.
pub(crate) fn sleep_until_due(started: Instant, number: u64, per_second: u64) {
    if let Some(due_ns) = (number * 1_000_000_000).checked_div(per_second) {
        std::thread::sleep(Duration::from_nanos(due_ns).saturating_sub(started.elapsed()));
    }
}

/// Nanoseconds of processor time that this process has used, all its threads together, those that have ended too.
///
/// ```
/// assert!(millpond_loadgen::process_cpu_ns() > 0);
/// ```
pub fn process_cpu_ns() -> u64 {
    ns(clock_gettime(ClockId::ProcessCPUTime))
}

/// Nanoseconds since 1970.
pub(crate) fn real_ns() -> u64 {
    ns(clock_gettime(ClockId::Realtime))
}
