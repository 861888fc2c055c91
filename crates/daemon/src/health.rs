//! Whether a consumer is well, judged from what it leaves in shared memory and how far it says it is.

use std::time::Duration;

use millpond_bus::Bus;

use crate::life::{Life, Phase};

/// A consumer says once a second that it lives; a host under load may keep it waiting for some. One that has said
/// nothing for longer hangs.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(5);

/// What can be known of the consumer of this process without asking it.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::{Daemon, Health, Life};
/// # let dir = tempfile::tempdir()?;
/// # let logs_dir = dir.path();
/// let bus = Bus::attach(&format!("doc-health-{}", std::process::id()), &BusOptions::default())?;
/// let life = Life::default();
/// assert_eq!(Health::read(&bus, &life).waits_for(), ["the lease of the bus"]);
/// let running = Daemon::builder(&bus, logs_dir).life(&life).spawn()?;
/// assert!(Health::read(&bus, &life).waits_for().is_empty());
/// # running.stop()?;
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How far it is.
    pub phase: Phase,
    /// Its last sign of life, real time in ns on the clock of the bus; 0 before [`Phase::Running`].
    pub heartbeat_ns: u64,
    /// How long that is ago; zero before [`Phase::Running`].
    pub heartbeat_age: Duration,
    /// Whether the log is written. Not so: the disk is full, say. The writer goes on trying.
    pub can_write: bool,
    /// The consumer's words for what does not succeed, the gravest first; empty for nothing. Also while it can write:
    /// syncs, compression, a way of writing that it had to give up.
    pub trouble: String,
    /// Why the bus itself is not whole, where somebody has truncated or wiped its shared memory.
    pub damage: Option<String>,
}

impl Health {
    /// Looks. `bus` is best a mapping of its own. Costs some loads and, from [`Phase::Running`] on, four system calls;
    /// never waits for the consumer.
    pub fn read(bus: &Bus, life: &Life) -> Self {
        let phase = life.phase();
        let mut health = Health {
            phase,
            heartbeat_ns: 0,
            heartbeat_age: Duration::ZERO,
            can_write: life.can_write(),
            trouble: String::new(),
            damage: bus.check().err().map(|error| error.to_string()),
        };
        // Before, these words are those of the consumer that was here last.
        if phase >= Phase::Running
            && let Some(consumer) = bus.consumer()
        {
            let age_ns = bus.clock().now_ns().saturating_sub(consumer.heartbeat_ns);
            health.heartbeat_ns = consumer.heartbeat_ns;
            health.heartbeat_age = Duration::from_nanos(age_ns);
            health.trouble = consumer.trouble;
        }
        health
    }

    /// What only a restart mends: the consumer hangs, or its shared memory is gone. Empty while it starts and stops, however
    /// long that takes.
    pub fn deadly(&self) -> Vec<String> {
        let mut found: Vec<String> = self.damage.iter().cloned().collect();
        // It ends by itself or is ended: the last group may take its time.
        if self.phase == Phase::Running && self.heartbeat_age > HEARTBEAT_AGE_MAX {
            found.push(format!(
                "the consumer hangs: its last sign of life was {:.1} s ago, more than {} s",
                self.heartbeat_age.as_secs_f64(),
                HEARTBEAT_AGE_MAX.as_secs()
            ));
        }
        found
    }

    /// What is deadly, and that the log cannot be written, which a restart does not mend.
    pub fn problems(&self) -> Vec<String> {
        let mut found = self.deadly();
        if !self.can_write {
            found.push(match self.trouble.as_str() {
                "" => "the log cannot be written".to_owned(),
                trouble => format!("the log cannot be written: {trouble}"),
            });
        }
        found
    }

    /// What it waits for before it drains the bus into the log; empty when it does.
    pub fn waits_for(&self) -> Vec<String> {
        let phase = match self.phase {
            Phase::Lease => Some("the lease of the bus"),
            Phase::Rules => Some("its rules to be in force"),
            Phase::Recovery => Some("recovery of the log"),
            Phase::Running => None,
            Phase::Stopping => Some("the next daemon: this one is stopping"),
        };
        let phase = phase.map(str::to_owned);
        phase.into_iter().chain(self.problems()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Health {
        Health {
            phase: Phase::Running,
            heartbeat_ns: 7,
            heartbeat_age: HEARTBEAT_AGE_MAX,
            can_write: true,
            trouble: String::new(),
            damage: None,
        }
    }

    #[test]
    fn an_old_heartbeat_is_deadly_only_while_it_should_beat() {
        let mut health = running();
        assert!(health.waits_for().is_empty());
        health.heartbeat_age += Duration::from_nanos(1);
        assert_eq!(health.deadly().len(), 1);
        assert_eq!(health.problems(), health.deadly());
        assert_eq!(health.waits_for(), health.deadly());
        for phase in [Phase::Lease, Phase::Rules, Phase::Recovery, Phase::Stopping] {
            health.phase = phase;
            assert!(health.problems().is_empty(), "{phase}");
            assert_eq!(health.waits_for().len(), 1, "{phase}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_a_problem_and_not_deadly() {
        let health = Health {
            can_write: false,
            trouble: "no space left".to_owned(),
            ..running()
        };
        assert!(health.deadly().is_empty());
        assert_eq!(
            health.problems(),
            ["the log cannot be written: no space left"]
        );
        assert_eq!(health.waits_for(), health.problems());
    }

    #[test]
    fn what_is_tried_again_beside_the_writing_is_no_problem() {
        let health = Health {
            trouble: "web: cannot be compressed".to_owned(),
            ..running()
        };
        assert!(health.waits_for().is_empty());
    }

    #[test]
    fn a_bus_that_is_gone_is_deadly_in_every_phase() {
        let health = Health {
            phase: Phase::Recovery,
            damage: Some("truncated".to_owned()),
            ..running()
        };
        assert_eq!(health.deadly(), ["truncated"]);
    }
}
