//! Which processor a thread runs on.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Puts this thread on the processor of a side, 0 or 1. The scheduler may put two that take turns on one
/// processor or on two, and a hand-over costs several times as much across: what is compared has to be placed alike.
///
/// Where there is only one, both sides are on it.
pub(crate) fn pin(side: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&processor| allowed.is_set(processor))
        .collect();
    let Some(&processor) = processors.get(side).or(processors.first()) else {
        return Ok(());
    };
    let mut one = CpuSet::new();
    one.set(processor);
    Ok(sched_setaffinity(None, &one)?)
}
