//! One look at a bus: everything that is read, in one place, and nothing that is made of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, ErrorKind, History, Rule, Stats};

use super::gpus::{Gpu, Gpus};
use crate::args::Settings;
use crate::commands::heartbeat::process_state;
use crate::outcome::Failure;
use crate::units::now_ns;

/// The history is in parts of 10 s: it is not read at each look.
const HISTORY_INTERVAL: Duration = Duration::from_secs(5);

/// What a look found.
#[derive(Debug, Clone)]
pub(super) enum Reading {
    Present(Box<Snapshot>),
    Absent(Absent),
}

/// No bus, or none that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Absent {
    /// When it was looked for, real time in ns.
    pub(super) time_ns: u64,
    pub(super) bus: String,
    /// `None`: there is none.
    pub(super) why: Option<String>,
}

/// A bus as it was.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// Tells it from an earlier bus of the same name.
    pub(super) identity: String,
    /// On a clock that nobody sets.
    pub(super) taken: Instant,
    pub(super) stats: Stats,
    pub(super) history: Arc<History>,
    /// The rules in force; empty where they cannot be read.
    pub(super) rules: Arc<Vec<Rule>>,
    pub(super) gpus: Vec<Gpu>,
    /// The letter that the kernel has for the consumer's process.
    pub(super) process_state: Option<char>,
}

/// Looks at one bus, again and again: also at one that comes, goes, and comes again.
pub(super) struct Reader {
    name: String,
    group_id: Option<u32>,
    open: Option<Open>,
}

struct Open {
    bus: Bus,
    identity: String,
    history: Arc<History>,
    rules: Arc<Vec<Rule>>,
    history_read: Instant,
    gpus: Gpus,
}

impl Reader {
    pub(super) fn new(settings: &Settings) -> Self {
        Self::of(&settings.bus, settings.group_id)
    }

    pub(super) fn of(name: &str, group_id: Option<u32>) -> Self {
        Reader {
            name: name.to_owned(),
            group_id,
            open: None,
        }
    }

    /// A look; where there is no bus, that is what was seen.
    pub(super) fn look(&mut self) -> Reading {
        let absent = |why: Option<String>| {
            Reading::Absent(Absent {
                time_ns: now_ns(),
                bus: self.name.clone(),
                why,
            })
        };
        match Bus::open_shared(&self.name, self.group_id) {
            Ok(found) => match self.look_at(found) {
                Ok(snapshot) => Reading::Present(Box::new(snapshot)),
                Err(failure) => {
                    self.open = None;
                    Reading::Absent(Absent {
                        time_ns: now_ns(),
                        bus: self.name.clone(),
                        why: Some(failure.to_string()),
                    })
                }
            },
            Err(error) => {
                let why = (error.kind() != ErrorKind::NotFound).then(|| error.to_string());
                let reading = absent(why);
                self.open = None;
                reading
            }
        }
    }

    /// `found` is what has the name now: another bus than the one before, where that was removed and made again.
    fn look_at(&mut self, found: Bus) -> Result<Snapshot, Failure> {
        let identity = found.identity();
        let is_new = self
            .open
            .as_ref()
            .is_none_or(|open| open.identity != identity);
        if is_new {
            self.open = Some(Open::new(found, identity)?);
        }
        match &mut self.open {
            Some(open) => open.look(),
            None => Err(Failure::new("the bus is gone")),
        }
    }
}

impl Open {
    fn new(bus: Bus, identity: String) -> Result<Self, Failure> {
        bus.check()?;
        Ok(Open {
            history: Arc::new(bus.history()),
            rules: rules(&bus),
            history_read: Instant::now(),
            gpus: Gpus::default(),
            identity,
            bus,
        })
    }

    fn look(&mut self) -> Result<Snapshot, Failure> {
        if self.history_read.elapsed() >= HISTORY_INTERVAL {
            self.history = Arc::new(self.bus.history());
            self.rules = rules(&self.bus);
            self.history_read = Instant::now();
        }
        let taken = Instant::now();
        let stats = self.bus.stats();
        let gpus = self.gpus.read(&self.bus, &stats);
        // Numbers of a bus that was wiped meanwhile are worth nothing.
        self.bus.check()?;
        let consumer = stats.consumer.as_ref();
        let process_state = consumer
            .filter(|consumer| consumer.alive)
            .and_then(|consumer| process_state(consumer.pid));
        Ok(Snapshot {
            identity: self.identity.clone(),
            taken,
            stats,
            history: Arc::clone(&self.history),
            rules: Arc::clone(&self.rules),
            gpus,
            process_state,
        })
    }
}

fn rules(bus: &Bus) -> Arc<Vec<Rule>> {
    let table = bus.rules();
    Arc::new(table.map_or(Vec::new(), |table| table.iter().cloned().collect()))
}
