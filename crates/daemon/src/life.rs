//! How far a consumer has come: what it shares with whoever watches it from another thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// What a consumer does, in the order in which it does it.
///
/// ```
/// use millpond_daemon::Phase;
/// assert!(Phase::Recovery < Phase::Running);
/// assert_eq!(Phase::Recovery.to_string(), "recovery");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes the consumer's lease of the bus.
    Lease,
    /// It puts its rules in force.
    Rules,
    /// It makes the log directory consistent.
    Recovery,
    /// It drains the bus.
    Running,
    /// It was asked to stop, and writes what it has.
    Stopping,
}

impl Phase {
    const ALL: [Phase; 5] = [
        Phase::Lease,
        Phase::Rules,
        Phase::Recovery,
        Phase::Running,
        Phase::Stopping,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Lease => "lease",
            Phase::Rules => "rules",
            Phase::Recovery => "recovery",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
        })
    }
}

/// A handle on how far a consumer is, for other threads of its process: give it to [`crate::Builder::life`], and keep a
/// clone. Two words; looking costs a load.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::{Daemon, Life, Phase};
/// # let dir = tempfile::tempdir()?;
/// # let logs_dir = dir.path();
/// let bus = Bus::attach(&format!("doc-life-{}", std::process::id()), &BusOptions::default())?;
/// let life = Life::default();
/// assert_eq!(life.phase(), Phase::Lease);
/// let running = Daemon::builder(&bus, logs_dir).life(&life).spawn()?;
/// assert_eq!(life.phase(), Phase::Running); // recovered
/// running.stop()?;
/// assert_eq!(life.phase(), Phase::Stopping);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Life(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Place in `Phase::ALL`. Written by the consumer alone.
    phase: AtomicU8,
    /// The writer cannot write. Written by the consumer alone.
    is_stuck: AtomicBool,
}

impl Life {
    /// What the consumer does now.
    pub fn phase(&self) -> Phase {
        // ORDERING: Acquire; whoever sees a phase sees what the consumer did in those before, the lease above all.
        let place = self.0.phase.load(Ordering::Acquire);
        Phase::ALL[usize::from(place).min(Phase::ALL.len() - 1)]
    }

    /// Whether the writer writes, as far as it has been tried; looked at about once a second.
    pub fn can_write(&self) -> bool {
        // ORDERING: Relaxed; a flag that says only itself.
        !self.0.is_stuck.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        // ORDERING: Release; see `phase`.
        self.0.phase.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn set_can_write(&self, can_write: bool) {
        // ORDERING: Relaxed; a flag that says only itself.
        self.0.is_stuck.store(!can_write, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_comes_back_as_it_was_entered() {
        let life = Life::default();
        for phase in Phase::ALL {
            life.clone().enter(phase);
            assert_eq!(life.phase(), phase);
        }
    }
}
