//! A bus by its name: attach, and make publishers, the consumer's drain, or statistics from it.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::commit::{self, ServiceCommit};
use crate::control::{self, Control};
use crate::doorbell;
use crate::drain::{Doorbell, Drain};
use crate::error::{Error, ErrorKind};
use crate::history::History;
use crate::lane;
use crate::layout::LANES_MAX;
use crate::object::{self, Access};
use crate::publisher::Publisher;
use crate::rule::RuleTable;
use crate::schema::{self, Schema};
use crate::stats::{ConsumerInfo, Stats};
use crate::subscription::{self, Position, SubscribeOptions, Subscription};
use crate::sync::atomic::Ordering;

/// What a bus may use at most. Fixed by whoever creates it.
///
/// ```
/// let limits = millpond_bus::Limits::default();
/// assert_eq!(limits.bus_bytes, 256 << 20);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of shared memory for all lanes together.
    pub bus_bytes: u64,
    /// Lanes at one time; a publisher has one for each rule it publishes under. At most 1,024.
    pub lanes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            bus_bytes: 256 << 20,
            lanes: LANES_MAX as u32,
        }
    }
}

/// How to attach to a bus, and what to create it with where it does not exist yet.
///
/// ```
/// use millpond_bus::{BusOptions, RuleTable};
/// let options = BusOptions { rules: RuleTable::defaults(), ..BusOptions::default() };
/// assert!(options.rules.resolve("log:web").is_some());
/// ```
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// The prefix rules a new bus starts with. A bus that exists keeps its own.
    pub rules: RuleTable,
    /// The limits a new bus starts with.
    pub limits: Limits,
    /// A group whose members may attach too: objects get mode 0660 instead of 0600.
    pub group_id: Option<u32>,
}

impl Default for BusOptions {
    fn default() -> Self {
        BusOptions {
            rules: RuleTable::defaults(),
            limits: Limits::default(),
            group_id: None,
        }
    }
}

/// A bus this process is attached to. Cheap to clone; the mapping lives as long as any clone.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// let bus = Bus::attach(&format!("doc-bus-{}", std::process::id()), &BusOptions::default())?;
/// assert!(bus.consumer().is_none()); // nobody drains it yet
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
#[derive(Clone)]
pub struct Bus {
    control: Arc<Control>,
    /// Whether this process takes part in the consumer's memory barriers.
    registered: bool,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("name", &self.control.bus)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Attaches to the bus `name`, creating it with `options` where it does not exist.
    ///
    /// Costs about ten system calls and, on creation, the clearing of 3 MiB.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be used, `WrongOwner` and `WrongLayout` for an object that
    /// is not ours to use, `LimitReached` when shared memory is full.
    pub fn attach(name: &str, options: &BusOptions) -> Result<Self, Error> {
        let limits = options.limits;
        if limits.lanes == 0 || limits.lanes > LANES_MAX as u32 {
            let message = format!("lanes limit {} is outside 1 to {LANES_MAX}", limits.lanes);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let access = Access {
            group_id: options.group_id,
        };
        Ok(Self::over(Control::attach(
            name,
            access,
            &options.rules,
            limits,
        )?))
    }

    /// Attaches to a bus that must exist already, for reading statistics or publishing under its rules.
    ///
    /// # Errors
    /// `NotFound` where there is none; else as [`Bus::attach`].
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::open_shared(name, None)
    }

    /// As [`Bus::open`], for a bus that another user shares through a group: only objects of our own user and of
    /// this group are believed. Whoever owns the bus needs not name the group.
    ///
    /// ```
    /// use millpond_bus::{Bus, ErrorKind};
    /// let error = Bus::open_shared("no-such-bus-here", Some(100)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::NotFound);
    /// ```
    ///
    /// # Errors
    /// As [`Bus::open`].
    pub fn open_shared(name: &str, group_id: Option<u32>) -> Result<Self, Error> {
        Ok(Self::over(Control::open(name, Access { group_id })?))
    }

    fn over(control: Control) -> Self {
        Bus {
            control: Arc::new(control),
            registered: doorbell::register_membarrier(),
        }
    }

    /// The name it was attached by.
    pub fn name(&self) -> &str {
        &self.control.bus
    }

    /// Tells this bus from every other one, also from a later one of the same name.
    pub fn identity(&self) -> String {
        control::identity(&self.control.bus, self.control.created_ns)
    }

    /// The limits it was created with.
    pub fn limits(&self) -> Limits {
        self.control.limits
    }

    /// A new publisher. `label` names it in statistics and gap lines; several may share one.
    ///
    /// Makes no lane yet: that happens at the first [`Publisher::topic`] of each rule.
    ///
    /// # Errors
    /// `InvalidInput` for a label that cannot be used.
    pub fn publisher(&self, label: &str) -> Result<Publisher, Error> {
        lane::check_label(label)?;
        Publisher::new(Arc::clone(&self.control), label, self.registered)
    }

    /// Subscribes to events. Maps the rings that are there: a few system calls for each lane of the bus.
    ///
    /// # Errors
    /// `InvalidInput` for a label that cannot be used or no pattern, `LimitReached` when the bus has 256
    /// subscribers.
    pub fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, Error> {
        Subscription::open(Arc::clone(&self.control), self.registered, options)
    }

    /// The position after everything that has been published so far: take it, then ask, then subscribe from
    /// it, and no answer can be missed.
    ///
    /// Costs a few system calls and a walk over what each directly delivered lane holds.
    pub fn position(&self) -> Position {
        subscription::position_now(&self.control)
    }

    /// Asks the consumer to read its configuration again, and wakes it.
    pub fn request_reload(&self) {
        // ORDERING: Release; read with Acquire by the consumer. Carries nothing but itself.
        self.control
            .request
            .reload_requests
            .fetch_add(1, Ordering::Release);
        self.control.ring();
    }

    /// Takes the consumer's lease and everything that waits in the lanes.
    ///
    /// # Errors
    /// `AlreadyRunning` while another process (or another drain of this one) is the consumer.
    pub fn drain(&self) -> Result<Drain, Error> {
        Drain::open(Arc::clone(&self.control), self.registered)
    }

    /// Whether the bus is whole: a process that may write to its shared memory can also truncate it, or wipe it. Numbers
    /// that were read from it meanwhile are worth nothing then. A few loads.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions};
    /// let bus = Bus::attach(&format!("doc-check-{}", std::process::id()), &BusOptions::default())?;
    /// bus.check()?;
    /// # bus.remove()?;
    /// # Ok::<(), millpond_bus::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Lost`, with the object and what to do.
    pub fn check(&self) -> Result<(), Error> {
        self.control.check()
    }

    /// The rules in force.
    ///
    /// # Errors
    /// `WrongLayout` when the table in shared memory is damaged.
    pub fn rules(&self) -> Result<RuleTable, Error> {
        self.control.rules()
    }

    /// The bus's clock: real time in nanoseconds, the same line in every process.
    pub fn clock(&self) -> Clock {
        Clock::new(self.control.calibration.clone())
    }

    /// The consumer, if one holds the lease now. Costs four system calls.
    pub fn consumer(&self) -> Option<ConsumerInfo> {
        object::is_locked(&object::control_name(&self.control.bus))
            .then(|| ConsumerInfo::read(&self.control, true))
    }

    /// Whether a publisher holds the lane with this epoch (see [`crate::Event::lane`], [`crate::LaneStats::epoch`]):
    /// false once it has closed or its process has died, whether a consumer has noticed or not. Costs four system
    /// calls.
    ///
    /// What the lane held is for subscribers to read all the same, from the lane or from what it left.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions, Level};
    /// let bus = Bus::attach(&format!("doc-live-{}", std::process::id()), &BusOptions::default())?;
    /// let mut publisher = bus.publisher("terminal")?;
    /// let topic = publisher.topic("pty:web:out")?;
    /// publisher.publish(topic, Level::Info, b"$ ")?;
    /// let lane = bus.stats().lanes[0].epoch;
    /// assert!(bus.is_lane_live(lane));
    /// drop(publisher);
    /// assert!(!bus.is_lane_live(lane));
    /// # bus.remove()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_lane_live(&self, epoch: u64) -> bool {
        object::is_locked(&object::lane_name(&self.control.bus, epoch))
    }

    /// Everything counted on this bus, read from shared memory alone: works when the consumer hangs or is
    /// dead. Maps each lane for a moment.
    pub fn stats(&self) -> Stats {
        Stats::read(&self.control)
    }

    /// What each source and service did in the last hour, read from shared memory alone: works when the
    /// consumer hangs or is dead. Costs [`Bus::stats`] and 28 KiB of copies for each of them.
    pub fn history(&self) -> History {
        History::read(&self.control)
    }

    /// The schema with this id, as a record header names it; `None` where no publisher has registered one.
    ///
    /// Copies and parses up to 4 KiB: keep the result, a schema of an id never changes.
    pub fn schema(&self, id: u32) -> Option<Arc<Schema>> {
        schema::read(&self.control.schemas, id).map(Arc::new)
    }

    /// A handle that wakes the consumer from any thread.
    pub fn doorbell(&self) -> Doorbell {
        Doorbell::new(Arc::clone(&self.control))
    }

    /// How far the log of each service is committed, all as of the same commit: the parts of the files that
    /// stay, whoever dies. Works while no consumer runs. Copies about 128 bytes per service.
    pub fn committed_services(&self) -> Vec<ServiceCommit> {
        commit::services_now(&self.control)
    }

    /// A number that changes with each commit: read it, look at [`Bus::committed_services`], then hand it to
    /// [`Bus::wait_for_commit`]. It wraps after 31 bits; a load of one word.
    pub fn commits(&self) -> u64 {
        self.control.commit_bell.commits().into()
    }

    /// Sleeps until there is a commit after `seen`, at most `timeout`, and returns what [`Bus::commits`] is
    /// then. It may come back early with `seen` itself: look again, and wait again.
    ///
    /// Burns nothing while it sleeps, and waits on for the next consumer where this one dies. Costs two
    /// system calls, none if there was a commit already.
    ///
    /// ```
    /// # use millpond_bus::{Bus, BusOptions};
    /// # use std::time::Duration;
    /// # let bus = Bus::attach(&format!("doc-commits-{}", std::process::id()), &BusOptions::default())?;
    /// let seen = bus.commits();
    /// if bus.committed_services().is_empty() {
    ///     let now = bus.wait_for_commit(seen, Some(Duration::from_millis(1)));
    ///     assert_eq!(now, seen); // nobody commits on this bus
    /// }
    /// # bus.remove()?;
    /// # Ok::<(), millpond_bus::Error>(())
    /// ```
    pub fn wait_for_commit(&self, seen: u64, timeout: Option<Duration>) -> u64 {
        let bell = &self.control.commit_bell;
        // What is no count of ours is no count now: no sleep.
        if u64::from(bell.commits()) == seen {
            bell.wait(seen as u32, timeout);
        }
        self.commits()
    }

    /// Ends [`Bus::wait_for_commit`] wherever somebody waits, in all processes: for a thread that is to stop.
    pub fn wake_commit_waiters(&self) {
        self.control.commit_bell.ring();
    }

    /// Asks the consumer to start a new segment for every service, and wakes it.
    pub fn request_rotation(&self) {
        // ORDERING: Release; read with Acquire by the consumer. Carries nothing but itself.
        self.control
            .request
            .rotate_requests
            .fetch_add(1, Ordering::Release);
        self.control.ring();
    }

    /// Removes every object of this bus from the system. Processes that are attached keep their mapping,
    /// but nobody finds them any more: for tests, demos and clean-up after the last process.
    ///
    /// # Errors
    /// `AlreadyRunning` while a consumer holds the lease.
    pub fn remove(&self) -> Result<(), Error> {
        if let Some(consumer) = self.consumer() {
            let message = format!(
                "bus {:?} is in use by process {}: stop it before removing the bus",
                self.control.bus, consumer.pid
            );
            return Err(Error::new(ErrorKind::AlreadyRunning, message));
        }
        // Also what nothing names, since whoever made it died before it was entered.
        for found in object::list(&self.control.bus) {
            if ["lane", "outbox", "subscriber"].contains(&found.kind.as_str()) {
                object::unlink(&found.name);
            }
        }
        object::unlink(&object::control_name(&self.control.bus));
        Ok(())
    }
}
