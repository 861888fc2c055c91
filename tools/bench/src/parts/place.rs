//! Which cores threads run on.

use millpond_loadgen::Error;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two cores that this process may run on, for a sender and a receiver; `None`: it has only one.
pub(super) fn two_cores() -> Result<Option<[usize; 2]>, Error> {
    let allowed = sched_getaffinity(None).map_err(std::io::Error::from)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    Ok(cores
        .next()
        .zip(cores.next())
        .map(|(one, other)| [one, other]))
}

/// Keeps this thread on one core until it is dropped.
pub(super) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(super) fn to(core: usize) -> Result<Self, Error> {
        let before = sched_getaffinity(None).map_err(std::io::Error::from)?;
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).map_err(std::io::Error::from)?;
        Ok(Pinned { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // These cores were allowed before; where they are not any more, the thread stays where it is.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_kept_on_a_core_and_let_go() {
        let allowed = || sched_getaffinity(None).expect("the system tells");
        let before = allowed();
        let Some(cores) = two_cores().expect("the system tells") else {
            eprintln!("skipped: there is only one core");
            return;
        };
        for core in cores {
            let pinned = Pinned::to(core).expect("a core that is allowed");
            assert_eq!(allowed().count(), 1);
            assert!(allowed().is_set(core));
            drop(pinned);
            assert_eq!(allowed(), before);
        }
    }
}
