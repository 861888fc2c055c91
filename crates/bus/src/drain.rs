//! The consumer's side: the lease, the lanes, the causal merge, the commit, and sleep.
//!
//! # Order
//! Each pass takes `T = now` before it reads any tail and takes only records with `time <= T`, merged by
//! time. If B read A's event before it published its own, A's commit came before B's stamp and so
//! before `T`, which means that this pass sees A's record too, and takes it first.
//!
//! # Trust
//! Every header is copied out and checked, every payload is copied out before anyone looks at it. A lane
//! with nonsense is quarantined: it stops being read, is reported once, and disturbs nobody else.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::FromZeros;

use crate::batch;
use crate::channel;
use crate::clock::{self, Clock};
use crate::commit::{self, CommitArea, LaneCommit, ServiceCommit};
use crate::control::Control;
use crate::doorbell;
use crate::error::{Error, ErrorKind};
use crate::figures::{DiskFigures, GroupFigures, Histogram, ServiceDisk, UpkeepFigures};
use crate::lane::{LaneInfo, LaneMemory};
use crate::layout::{CHANNELS_MAX, ConsumerText, FLAG_INLINE_NAME};
use crate::names;
use crate::object;
use crate::outbox::Outbox;
use crate::pattern::{Pattern, check_event_name};
use crate::region::{self, Pinned};
use crate::ring::{self, Damage, Reader, RingHeader};
use crate::rule::{Class, Rule, RuleTable};
use crate::stats::ConsumerInfo;
use crate::sync::atomic::Ordering;

mod attribution;
mod estate;
mod record;
mod registry;

pub(crate) use attribution::{ObjectKey, lock_holder, read_lock_table};
pub(crate) use registry::{SourceTotalsPlain, is_folded};

use attribution::Attribution;
use record::Recorder;
use registry::SourceNumbers;

/// A stamp further than this in the future is not waited for.
const FUTURE_MAX_NS: u64 = 1_000_000_000;
/// Eighths of a lane: more than the half that is kept.
const MARKS: usize = 5;
/// 20 ms before a consumer is told that there is one already: one that dies lets go of it as it goes.
const LEASE_REFUSALS: u32 = 40;
/// Five seconds for those who only look.
const LEASE_TRIES: u32 = 10_000;
const LEASE_PAUSE: Duration = Duration::from_micros(500);

/// Which lanes a pass is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Lanes of rules with a service: what they hold is released when it is in a file.
    Persisted,
    /// Lanes that subscribers read themselves: the consumer only keeps the books, and releases the oldest
    /// part when a lane is half full.
    Passthrough,
    /// All others: what they hold is released when it is in the outbox of their channel.
    Batched,
}

impl Scope {
    /// The scope of a rule's lanes.
    pub fn of(rule: &Rule) -> Self {
        match (&rule.service, rule.class) {
            (Some(_), _) => Scope::Persisted,
            (None, Class::Passthrough) => Scope::Passthrough,
            (None, _) => Scope::Batched,
        }
    }
}

/// A lane, as items name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// Its place in the directory: small, and used again after the lane is gone.
    pub slot: u32,
    /// Its number, which no other lane of the bus ever has.
    pub epoch: u64,
}

/// An event's name, and the number it is interned under (`u32::MAX`: not interned).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRef<'a> {
    /// Index for caches; the same number is always the same name while the bus exists.
    pub id: u32,
    /// The name.
    pub text: &'a str,
}

/// One event, copied out of its lane.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The lane it came through.
    pub lane: LaneId,
    /// The publisher's label.
    pub label: &'a str,
    /// The rule its lane was made under.
    pub rule: &'a Rule,
    /// Number of the rule's pattern: it has the subscribers and the outbox.
    pub channel: u32,
    /// Number of the publisher's label in the table of sources.
    pub source: u32,
    /// Real time of its publication in ns, monotone within a lane.
    pub time_ns: u64,
    /// Number within its lane; a missing number is a counted drop.
    pub sequence: u64,
    /// Level number, see [`crate::Level::from_u8`].
    pub level: u8,
    /// Flags of the record header.
    pub flags: u16,
    /// The event's name.
    pub name: NameRef<'a>,
    /// Hash of the payload's schema, 0 for plain bytes.
    pub schema_id: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// The bit that stands for its name where subscribers are rung.
    pub fn name_bit(&self) -> u64 {
        names::bit(self.name.text)
    }
}

/// Events that a publisher dropped: their numbers are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap<'a> {
    /// The lane.
    pub lane: LaneId,
    /// The publisher's label.
    pub label: &'a str,
    /// The rule its lane was made under.
    pub rule: &'a Rule,
    /// As [`Record::channel`].
    pub channel: u32,
    /// As [`Record::source`].
    pub source: u32,
    /// First missing number.
    pub first: u64,
    /// Last missing number.
    pub last: u64,
    /// Drops of this lane by cause, as its publisher has counted them so far: full, deadline, too long.
    pub dropped: [u64; 3],
}

/// What a pass hands to its visitor.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// An event.
    Record(Record<'a>),
    /// A loss.
    Gap(Gap<'a>),
}

/// What the visitor did with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken. In scope `Persisted` it is counted as written once its group is committed.
    Keep,
    /// Taken and refused for what it is; counted as rejected.
    Reject,
    /// Taken; another line stands for it. Counted as coalesced.
    Coalesce,
    /// Taken and kept out of the log by a rate limit or sampling; counted as suppressed.
    Suppress,
    /// Not taken: the pass ends here, and the item comes again in the next one.
    Stop,
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pass {
    /// Records taken.
    pub records: u64,
    /// The visitor stopped it.
    pub stopped: bool,
    /// A lane is more than half full with what is not committed: commit soon.
    pub pressure: bool,
}

/// How the consumer wants to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// Nothing is pending: the first event wakes it.
    UntilWork,
    /// Something is pending and due by itself: only thresholds wake it.
    UntilThreshold,
    /// The log sink takes nothing: events of persisted rules do not wake it.
    UntilDisk,
}

/// Lane positions and counters drained so far, to be committed later.
#[derive(Debug, Default)]
pub struct Mark {
    lanes: Vec<(usize, LaneCommit)>,
}

impl Mark {
    /// Both marks in one: of a lane that is in both, `later` says how far it is.
    #[must_use]
    pub fn merge(mut self, later: Mark) -> Mark {
        self.lanes
            .retain(|(slot, _)| later.lanes.iter().all(|(other, _)| other != slot));
        self.lanes.extend(later.lanes);
        self
    }
}

/// Something about a lane that people should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerNotice {
    /// A lane holds nonsense and is read no more.
    Quarantined {
        /// The publisher's label.
        label: String,
        /// Its process.
        pid: u32,
        /// What was found, where.
        damage: String,
    },
    /// A registered lane cannot be opened.
    Unreadable {
        /// Why.
        error: String,
    },
}

/// Wakes the consumer from any thread or process.
#[derive(Clone)]
pub struct Doorbell {
    control: Arc<Control>,
}

impl Doorbell {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        Doorbell { control }
    }

    /// Rings. One system call if the consumer sleeps, none if it is awake.
    pub fn ring(&self) {
        self.control.ring();
    }
}

/// What somebody wants who asked for a flush, the least first.
///
/// ```
/// use millpond_bus::FlushRequest;
/// assert!(FlushRequest::Room < FlushRequest::Written && FlushRequest::Written < FlushRequest::Durable);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlushRequest {
    /// Space in a lane that is full: a publisher waits for it, and not for a file.
    Room,
    /// What was published is to be in the file.
    Written,
    /// What was published is to be on the disk.
    Durable,
}

struct DrainLane {
    slot: usize,
    info: LaneInfo,
    descriptor: OwnedFd,
    ring: Pinned<RingHeader>,
    reader: Reader<LaneMemory>,
    scope: Scope,
    channel: u32,
    source: u32,
    /// The flush deadline of the rule, from the event's time on.
    max_delay_ns: u64,
    /// Passthrough lanes: where records start, an eighth of the lane apart, oldest first. The head goes to one of
    /// these when the lane is half full.
    marks: [u64; MARKS],
    /// Batched lanes: which of its two slots is true.
    bank: usize,
    /// What has been drained, committed or not. Its position and sequence are filled in by `mark`.
    counts: LaneCommit,
    committed_position: u64,
    committed_missing: u64,
    durable_position: u64,
    /// How far its publisher wanted to be written when that was looked at last.
    flush_seen_position: u64,
    /// The most bytes that waited in it, since that was told last.
    lag_bytes_recent: u64,
    /// Drained since the last mark.
    dirty: bool,
    quarantined: bool,
    /// Its publisher is dead, and we hold its sign of life.
    is_lock_taken: bool,
    wake_after_bytes: u64,
    wake_after_events: u64,
}

/// The consumer's side of a bus. Holds the lease: there is one at a time, in the whole system.
///
/// See the crate's front page for its use, and the crate `daemon` for the loop around it.
pub struct Drain {
    control: Arc<Control>,
    lease: OwnedFd,
    clock: Clock,
    barrier: bool,
    /// By directory slot.
    lanes: Vec<Option<Box<DrainLane>>>,
    /// Slots in use.
    open_slots: Vec<usize>,
    /// Those of lanes that are `dirty`: of a thousand that stand still nobody asks more than for news.
    dirty_slots: Vec<usize>,
    names: Vec<Option<Box<str>>>,
    scratch: Vec<u8>,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    area: CommitArea,
    /// By channel.
    outboxes: Vec<Option<Box<Outbox>>>,
    attribution: Attribution,
    recorder: Recorder,
    sources: SourceNumbers,
    directory_seen: u64,
    flush_seen: u64,
    rotate_seen: u64,
    reload_seen: u64,
    notices: Vec<ConsumerNotice>,
    /// Why lanes wait that could not be opened, while any do.
    shortage: Option<String>,
    /// Regions of this process that were lost when we looked last.
    losses_seen: u32,
}

/// True where the lease is ours now. Whoever looks for its holder (statistics, health) shares it for a moment where nobody
/// has it, longer where he is stopped just then. A consumer does not share it, so the two can be told apart: lookers are
/// waited for, a consumer is not.
fn take_lease(lease: &OwnedFd) -> bool {
    let mut refused = 0;
    for _ in 0..LEASE_TRIES {
        if object::try_lock(lease) {
            return true;
        }
        match object::try_lock_shared(lease) {
            true => object::unlock(lease),
            false => refused += 1,
        }
        // Two consumers that start at once see each other for a moment, too.
        if refused == LEASE_REFUSALS {
            return false;
        }
        std::thread::sleep(LEASE_PAUSE);
    }
    object::try_lock(lease)
}

impl Drain {
    pub(crate) fn open(control: Arc<Control>, registered: bool) -> Result<Self, Error> {
        let name = object::control_name(&control.bus);
        let lease = object::open_descriptor(&name)?;
        if !take_lease(&lease) {
            let info = ConsumerInfo::read(&control, true);
            let message = format!(
                "bus {:?} has a consumer already: process {}; stop it first, or use another bus",
                control.bus, info.pid
            );
            return Err(Error::new(ErrorKind::AlreadyRunning, message));
        }
        kill_point!("open.lease");
        let barrier = registered && doorbell::membarrier_all();
        let clock = Clock::new(control.calibration.clone());
        let line = &control.consumer;
        // ORDERING: Relaxed; for people and for the next publisher, nothing depends on the order.
        control
            .doorbell
            .fence_required
            .store(u32::from(!barrier), Ordering::Relaxed);
        line.pid.store(std::process::id(), Ordering::Relaxed);
        line.started_ns.store(clock.now_ns(), Ordering::Relaxed);
        let area = CommitArea::load(&control);
        let mut drain = Drain {
            lease,
            clock,
            barrier,
            lanes: (0..control.limits.lanes).map(|_| None).collect(),
            open_slots: Vec::new(),
            dirty_slots: Vec::new(),
            names: Vec::new(),
            scratch: Vec::new(),
            heap: BinaryHeap::new(),
            area,
            outboxes: (0..CHANNELS_MAX).map(|_| None).collect(),
            attribution: Attribution::default(),
            recorder: Recorder::default(),
            sources: SourceNumbers::default(),
            directory_seen: u64::MAX,
            flush_seen: 0,
            // ORDERING: Relaxed; an old request is not repeated for a new consumer.
            rotate_seen: line_value(&control.request.rotate_requests),
            reload_seen: line_value(&control.request.reload_requests),
            notices: Vec::new(),
            shortage: None,
            losses_seen: 0,
            control,
        };
        if drain.control.announce_rules() {
            channel::ring_all(&drain.control);
        }
        drain.housekeep();
        // Until the next sign of life it starts: recovery of a log takes as long as it takes, and is no hang.
        let line = &drain.control.consumer;
        // ORDERING: Relaxed; for people only.
        let started_ns = line.started_ns.load(Ordering::Relaxed);
        line.heartbeat_ns.store(started_ns, Ordering::Relaxed);
        // The one before us may have died between its last commit and the bell.
        drain.control.commit_bell.ring();
        Ok(drain)
    }

    /// The rules in force from now on. Publishers that are attached follow with their next event: where a
    /// topic's rule has changed it goes to a new lane, and the old one is drained. Subscribers follow too.
    ///
    /// # Errors
    /// `LimitReached` when the bus has had too many patterns; the old rules stay in force.
    pub fn install_rules(&mut self, rules: &RuleTable) -> Result<(), Error> {
        for rule in rules.iter() {
            channel::of_pattern(&self.control, &rule.pattern)?;
        }
        self.control.install_rules(rules);
        channel::ring_all(&self.control);
        Ok(())
    }

    /// True once for each request to read the configuration again.
    pub fn reload_requested(&mut self) -> bool {
        // ORDERING: Acquire; pairs with the Release of whoever asks.
        let requests = self.control.request.reload_requests.load(Ordering::Acquire);
        std::mem::replace(&mut self.reload_seen, requests) != requests
    }

    /// The outbox of a channel: there is one wherever a batched lane was found. What is pushed there can be
    /// read after [`Drain::commit_batched`].
    pub fn outbox(&mut self, channel: u32) -> Option<&mut Outbox> {
        self.outboxes.get_mut(channel as usize)?.as_deref_mut()
    }

    /// By channel, the longest record that its outbox holds: an outbox keeps its size whatever becomes of its
    /// rule.
    pub fn outbox_limits(&self) -> impl Iterator<Item = (u32, usize)> + '_ {
        let outboxes = (0..).zip(&self.outboxes);
        outboxes.filter_map(|(channel, outbox)| {
            Some((channel, outbox.as_deref()?.payload_bytes_limit()))
        })
    }

    /// The number of a rule's pattern, where some rule has or had it.
    pub fn channel(&self, pattern: &Pattern) -> Option<u32> {
        channel::of_pattern(&self.control, pattern).ok()
    }

    /// Batched channels with lanes of which something was drained and not committed.
    pub fn uncommitted_channels(&self) -> Vec<u32> {
        let mut channels: Vec<u32> = self
            .dirty_lanes()
            .filter(|lane| lane.scope == Scope::Batched)
            .map(|lane| lane.channel)
            .collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// The outbox of a channel, made where there is none yet: a few system calls then.
    fn open_outbox(&mut self, channel: u32, rule: &Rule) -> Result<&mut Outbox, Error> {
        let Some(place) = self.outboxes.get_mut(channel as usize) else {
            let message = format!("channel {channel} is outside 0 to {CHANNELS_MAX}");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        };
        if place.is_none() {
            let outbox = Outbox::open(&self.control, channel, rule, self.clock.now_ns())?;
            *place = Some(Box::new(outbox));
        }
        // The borrow checker does not see that `place` is filled; this look costs nothing beside a flush.
        self.outboxes[channel as usize]
            .as_deref_mut()
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "no outbox".to_owned()))
    }

    /// Whether the bus is whole: its memory may have been truncated, or wiped, by a process that may write to it. Lanes
    /// that were truncated are given up, with a notice.
    ///
    /// After an error nothing is committed any more: a consumer that comes later goes on where the last commit was,
    /// if the bus is still there. A few loads.
    ///
    /// # Errors
    /// `Lost`, with the object and what to do.
    pub fn check(&mut self) -> Result<(), Error> {
        let losses = region::losses();
        if losses != self.losses_seen {
            self.give_up_lost_lanes();
            let mut outboxes = self.outboxes.iter().flatten();
            if let Some(lost) = outboxes.find(|outbox| outbox.is_lost()) {
                let name = object::outbox_name(&self.control.bus, lost.epoch());
                let message = format!(
                    "/dev/shm{name} was truncated while it was in use: a process that may write to it did that; start \
                     the consumer again, which makes a new one"
                );
                return Err(Error::new(ErrorKind::Lost, message));
            }
            self.losses_seen = losses;
        }
        self.control.check()
    }

    /// What they held is gone. Nobody else is affected.
    #[cold]
    fn give_up_lost_lanes(&mut self) {
        for &slot in &self.open_slots {
            if let Some(lane) = self.lanes[slot].as_deref_mut()
                && !lane.quarantined
                && let Some(damage) = lane.reader.loss()
            {
                quarantine(lane, damage, &mut self.notices);
            }
        }
    }

    /// The services and lengths of the last commit, also one of an earlier consumer.
    pub fn committed_services(&self) -> &[ServiceCommit] {
        self.area.services()
    }

    /// The bus's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A handle that wakes this consumer, for its own writer thread and signal handlers.
    pub fn doorbell(&self) -> Doorbell {
        Doorbell::new(Arc::clone(&self.control))
    }

    /// Reads everything that is there, in causal order, until the visitor stops it.
    ///
    /// Never blocks, makes no system call, and allocates only for a longer payload than any before.
    pub fn pass(&mut self, scope: Scope, visit: &mut impl FnMut(Item<'_>) -> Verdict) -> Pass {
        let mut pass = Pass::default();
        if !self
            .open_lanes()
            .any(|lane| lane.scope == scope && lane.has_news())
        {
            return pass;
        }
        // Before any tail is read: see the module's front page.
        let cut_ns = self.clock.cut_ns();
        self.heap.clear();
        for &slot in &self.open_slots {
            let Some(lane) = self.lanes[slot].as_mut() else {
                continue;
            };
            if lane.scope != scope || !lane.has_news() {
                continue;
            }
            let was_dirty = lane.dirty;
            match lane.next_time(cut_ns) {
                Ok(Some(time_ns)) => self.heap.push(Reverse((time_ns, slot))),
                Ok(None) => lane.visit_trailing_gap(visit),
                Err(damage) => quarantine(lane, damage, &mut self.notices),
            }
            if lane.dirty && !was_dirty {
                self.dirty_slots.push(slot);
            }
        }
        while let Some(Reverse((_, slot))) = self.heap.pop() {
            let bound_ns = self
                .heap
                .peek()
                .map_or(cut_ns, |Reverse((time_ns, _))| *time_ns);
            let Some(lane) = self.lanes[slot].as_mut() else {
                continue;
            };
            let mut context = RunContext {
                names: &mut self.names,
                control: &self.control,
                scratch: &mut self.scratch,
                cut_ns,
                bound_ns,
                records: &mut pass.records,
            };
            let was_dirty = lane.dirty;
            match lane.run(&mut context, visit) {
                Ok(RunEnd::Empty) => {}
                Ok(RunEnd::Later(time_ns)) if time_ns <= cut_ns => {
                    self.heap.push(Reverse((time_ns, slot)));
                }
                Ok(RunEnd::Later(_)) => {}
                Ok(RunEnd::Stopped) => pass.stopped = true,
                Err(damage) => quarantine(lane, damage, &mut self.notices),
            }
            if lane.dirty && !was_dirty {
                self.dirty_slots.push(slot);
            }
            if pass.stopped {
                break;
            }
        }
        for lane in self.dirty_lanes() {
            pass.pressure |= lane.publish_progress() && lane.scope == scope;
        }
        // Whatever the visitor publishes from here on is stamped after what it has just seen.
        clock::load_fence();
        pass
    }

    /// What has been drained of the lanes in `scope` since their last mark.
    pub fn mark(&mut self, scope: Scope) -> Mark {
        let mut lanes = Vec::new();
        for &slot in &self.dirty_slots {
            if let Some(lane) = self.lanes[slot].as_mut()
                && lane.scope == scope
            {
                lane.dirty = false;
                lanes.push((slot, lane.snapshot()));
            }
        }
        self.forget_clean();
        Mark { lanes }
    }

    /// Makes a group true: the services' new lengths and the lanes' positions, in one store. Then releases
    /// the lanes and wakes whoever waited for that.
    ///
    /// `durable` says that the group is on the disk as well. Costs a few microseconds. Returns how many events it made
    /// true; `None`, and nothing is true, on a bus that is not whole, see [`Drain::check`].
    pub fn commit(&mut self, mark: Mark, services: &[ServiceCommit], durable: bool) -> Option<u64> {
        if self.control.check().is_err() {
            return None;
        }
        for service in services {
            // The sink refuses services beyond the same limit, so there is a slot.
            self.area.set_service(service);
        }
        let mut events = 0u64;
        for &(slot, commit) in &mark.lanes {
            let more = self.area.set_lane(slot, commit);
            events = events.saturating_add(more);
        }
        let lanes = &self.lanes;
        let is_persisted = |slot: usize| match &lanes[slot] {
            Some(lane) => lane.scope == Scope::Persisted,
            None => false,
        };
        self.area.flip(&self.control, is_persisted);
        kill_point!("consumer.flipped");
        // Without a commit point nothing may be overwritten in its lane.
        if self.control.check().is_err() {
            return None;
        }
        self.control.commit_bell.ring();
        kill_point!("consumer.bell_rung");
        self.release(&mark, durable);
        Some(events)
    }

    /// Counts a group of the log in the figures that [`crate::ConsumerInfo::figures`] shows, behind its commit. Four
    /// histograms, a few nanoseconds each.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions, GroupFigures};
    /// let bus = Bus::attach(&format!("doc-figures-{}", std::process::id()), &BusOptions::default())?;
    /// let drain = bus.drain()?;
    /// drain.count_group(&GroupFigures { events: 3, bytes: 300, write_ns: 9_000, delay_ns: None });
    /// let figures = bus.consumer().expect("it runs").figures;
    /// assert_eq!(figures.group_bytes.sum, 300);
    /// # drop(drain);
    /// # bus.remove()?;
    /// # Ok::<(), millpond_bus::Error>(())
    /// ```
    pub fn count_group(&self, group: &GroupFigures) {
        self.control.figures.count_group(group);
    }

    /// Counts syncs, each by its length in ns. As [`Drain::count_group`].
    pub fn count_syncs(&self, syncs_ns: &Histogram) {
        self.control.figures.count_syncs(syncs_ns);
    }

    /// Counts a record with so many events that was pushed to an outbox, behind its commit. As [`Drain::count_group`].
    pub fn count_batch(&self, events: u64) {
        self.control.figures.count_batch(events);
    }

    /// Adds what was done beside writing since the last call. As [`Drain::count_group`].
    pub fn count_upkeep(&self, more: &UpkeepFigures) {
        self.control.figures.count_upkeep(more);
    }

    /// Tells what the log has of the disk, and each service of it; for about once a second. Costs a few microseconds
    /// for a hundred services. Those that are not committed yet are left out.
    pub fn tell_disk<'s>(
        &self,
        disk: &DiskFigures,
        services: impl Iterator<Item = (&'s str, ServiceDisk)>,
    ) {
        self.control.figures.tell_disk(disk);
        let places: HashMap<&str, usize> = (self.area.services().iter().enumerate())
            .map(|(slot, service)| (service.name.as_str(), slot))
            .collect();
        for (name, of_service) in services {
            if let Some(&slot) = places.get(name) {
                self.control.service_disks[slot].store(name, &of_service);
            }
        }
    }

    /// Makes everything that was pushed to the outbox of `channel` readable, and with the same store commits
    /// the lanes whose events it stands for. Then releases those lanes, and wakes whoever waited.
    ///
    /// `coalesced`: by lane, how many drained events a later one or an aggregate stands for.
    pub fn commit_batched(&mut self, channel: u32, coalesced: &[(LaneId, u64)]) {
        let Some(outbox) = self.outboxes[channel as usize].as_deref_mut() else {
            return;
        };
        // What was pushed into zeros nobody can read: it stays in its lanes.
        if outbox.is_lost() || self.control.check().is_err() {
            return;
        }
        for (id, count) in coalesced {
            if let Some(lane) = self.lanes[id.slot as usize].as_mut()
                && lane.info.epoch == id.epoch
            {
                lane.counts.coalesced += count;
            }
        }
        let mut mark = Mark::default();
        for &slot in &self.dirty_slots {
            let Some(lane) = self.lanes[slot].as_mut() else {
                continue;
            };
            if lane.channel != channel || lane.scope != Scope::Batched {
                continue;
            }
            lane.dirty = false;
            lane.bank ^= 1;
            let commit = lane.snapshot();
            let place = &self.control.lane_commits[lane.bank][slot];
            place.store_batched(&commit, outbox.epoch(), outbox.staged_position());
            mark.lanes.push((slot, commit));
        }
        kill_point!("consumer.lanes_staged");
        let bits = outbox.commit();
        kill_point!("consumer.outbox_tail");
        if outbox.is_lost() || self.control.check().is_err() {
            return;
        }
        for (slot, _) in &mark.lanes {
            if let Some(lane) = &self.lanes[*slot] {
                // For statistics only: the outbox's tail has decided already.
                // ORDERING: Release (K1).
                lane.ring
                    .reader
                    .selector
                    .store(lane.bank as u64, Ordering::Release);
            }
        }
        self.forget_clean();
        kill_point!("consumer.batch_told");
        self.release(&mark, true);
        self.ring_channel(channel, bits);
    }

    /// Wakes the subscribers of these names. The caller has run a full fence after its last store.
    fn ring_channel(&self, channel: u32, bits: u64) {
        let waiting = &self.control.bells[channel as usize].waiting;
        // ORDERING: Relaxed; ordered by the fence in `wake_waiting` (P3).
        if waiting.load(Ordering::Relaxed) & bits != 0 {
            channel::ring(&self.control, channel, bits);
        }
    }

    /// Takes everything from passthrough lanes and commits it; how many records. Subscribers have it from the lanes
    /// themselves, so payloads are not copied: it only keeps the books.
    pub fn take_passthrough(&mut self) -> u64 {
        let mut records = 0;
        let mut is_dirty = false;
        for &slot in &self.open_slots {
            let Some(lane) = self.lanes[slot].as_deref_mut() else {
                continue;
            };
            if lane.scope != Scope::Passthrough || !lane.has_news() {
                continue;
            }
            let (before, was_dirty) = (lane.counts.delivered, lane.dirty);
            if let Err(damage) = lane.skim() {
                quarantine(lane, damage, &mut self.notices);
            }
            lane.publish_progress();
            records += lane.counts.delivered - before;
            is_dirty |= lane.dirty;
            if lane.dirty && !was_dirty {
                self.dirty_slots.push(slot);
            }
        }
        if is_dirty {
            self.commit_passthrough();
        }
        records
    }

    /// Commits what was taken from passthrough lanes.
    pub fn commit_passthrough(&mut self) {
        kill_point!("consumer.passthrough_taken");
        let mark = self.mark(Scope::Passthrough);
        for (slot, commit) in &mark.lanes {
            if let Some(lane) = &self.lanes[*slot] {
                commit::flip_lane(&self.control, *slot, &lane.ring.reader.selector, commit);
            }
        }
        kill_point!("consumer.passthrough_flipped");
        self.release(&mark, true);
    }

    fn release(&mut self, mark: &Mark, durable: bool) {
        for (slot, commit) in &mark.lanes {
            let Some(lane) = self.lanes[*slot].as_mut() else {
                continue;
            };
            lane.committed_position = commit.position;
            lane.committed_missing = commit.missing;
            if durable {
                lane.mark_durable(commit.position);
            }
            if let Some(position) = lane.release_position(commit.position) {
                ring::release(&lane.ring, position);
            }
        }
        kill_point!("consumer.released");
        self.wake_waiting(mark.lanes.iter().map(|(slot, _)| *slot));
    }

    /// Everything committed so far is on the disk.
    pub fn mark_durable(&mut self) {
        for &slot in &self.open_slots {
            if let Some(lane) = self.lanes[slot].as_mut() {
                lane.mark_durable(lane.committed_position);
            }
        }
        self.wake_waiting(self.open_slots.iter().copied());
    }

    fn wake_waiting(&self, slots: impl Iterator<Item = usize>) {
        // One fence orders all the position stores before all the looks at `waiting` (P3).
        doorbell::full_fence();
        for slot in slots {
            let Some(lane) = &self.lanes[slot] else {
                continue;
            };
            let waiting = &lane.ring.space.waiting;
            // ORDERING: Relaxed; ordered by the fence above (P3).
            if waiting.load(Ordering::Relaxed) != 0 {
                // ORDERING: Relaxed; the word is changed before the wake, the wake is a system call.
                waiting.store(0, Ordering::Relaxed);
                doorbell::wake(waiting);
            }
        }
    }

    /// Once for each time somebody asked for a flush: the most that anyone wants.
    pub fn flush_requested(&mut self) -> Option<FlushRequest> {
        // ORDERING: Acquire; the flush positions were stored before.
        let requests = self.control.request.flush_requests.load(Ordering::Acquire);
        if requests == self.flush_seen {
            return None;
        }
        self.flush_seen = requests;
        let mut most = FlushRequest::Room;
        for &slot in &self.open_slots {
            if let Some(lane) = &mut self.lanes[slot] {
                most = most.max(lane.flush_requested());
            }
        }
        Some(most)
    }

    /// True once for each request to rotate.
    pub fn rotation_requested(&mut self) -> bool {
        // ORDERING: Acquire; pairs with the Release of whoever asks.
        let requests = self.control.request.rotate_requests.load(Ordering::Acquire);
        std::mem::replace(&mut self.rotate_seen, requests) != requests
    }

    /// Whether anything drained waits for a mark and commit in `scope`.
    pub fn has_uncommitted(&self, scope: Scope) -> bool {
        self.dirty_lanes().any(|lane| lane.scope == scope)
    }

    fn dirty_lanes(&self) -> impl Iterator<Item = &DrainLane> {
        self.dirty_slots
            .iter()
            .filter_map(|&slot| self.lanes[slot].as_deref())
    }

    /// Lanes that were marked stand in the list no more.
    fn forget_clean(&mut self) {
        let lanes = &self.lanes;
        self.dirty_slots
            .retain(|&slot| lanes[slot].as_ref().is_some_and(|lane| lane.dirty));
    }

    fn open_lanes(&self) -> impl Iterator<Item = &DrainLane> {
        self.open_slots
            .iter()
            .filter_map(|&slot| self.lanes[slot].as_deref())
    }

    /// Sleeps until someone rings, at most `timeout`. `is_ready` is asked after the announcement, so that a
    /// thread which makes it true and then rings is never missed. Two system calls.
    pub fn park(&mut self, sleep: Sleep, timeout: Duration, is_ready: impl FnOnce() -> bool) {
        let state = match sleep {
            Sleep::UntilWork => doorbell::PARKED,
            Sleep::UntilThreshold => doorbell::PARKED_WITH_DEADLINE,
            Sleep::UntilDisk => doorbell::PARKED_FOR_DISK,
        };
        let barrier = self.barrier;
        let until_ns = (self.clock.now_ns()).saturating_add(timeout.as_nanos() as u64);
        self.control.doorbell.set_parked(state, until_ns, || {
            if !(barrier && doorbell::membarrier_all()) {
                doorbell::full_fence();
            }
        });
        if !is_ready() && !self.is_due(sleep, until_ns) {
            doorbell::sleep(&self.control.doorbell.parked, state, Some(timeout));
        }
        self.control.doorbell.set_awake();
    }

    /// The look after the announcement: everything that a publisher may have missed to ring for.
    fn is_due(&self, sleep: Sleep, until_ns: u64) -> bool {
        let request = &self.control.request;
        // The clock that `until_ns` is of: the real one may have been set back.
        let now_ns = self.clock.now_ns();
        line_value(&request.directory_changes) != self.directory_seen
            || line_value(&request.flush_requests) != self.flush_seen
            || line_value(&request.rotate_requests) != self.rotate_seen
            || line_value(&request.reload_requests) != self.reload_seen
            || self.open_lanes().any(|lane| match (lane.scope, sleep) {
                (Scope::Persisted, Sleep::UntilDisk) => false,
                (Scope::Passthrough, _) => lane.is_over_threshold(),
                // It came after the pass, and may be the one that does not wait: see `ring_if_due`.
                (Scope::Batched, _) => lane.has_records(),
                (_, Sleep::UntilWork) => lane.has_records(),
                _ => lane.is_over_threshold() || lane.is_due_before(now_ns, until_ns),
            })
    }

    /// What people should be told since the last call.
    pub fn take_notices(&mut self) -> Vec<ConsumerNotice> {
        std::mem::take(&mut self.notices)
    }

    /// Texts that statistics show beside the consumer: the writer's backend and why, the log directory, and
    /// what troubles it (empty for nothing). Cut at 256, 512 and 256 bytes.
    pub fn describe(&mut self, backend: &str, logs_dir: &str, trouble: &str) {
        let mut text = ConsumerText::new_zeroed();
        let fill = |field: &mut [u8], value: &str| {
            let length = value.floor_char_boundary(field.len());
            field[..length].copy_from_slice(&value.as_bytes()[..length]);
        };
        fill(&mut text.backend, backend);
        fill(&mut text.logs_dir, logs_dir);
        fill(&mut text.trouble, trouble);
        self.control.store_text(&text);
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // ORDERING: Relaxed; for people only, the lease itself is the lock.
        self.control.consumer.pid.store(0, Ordering::Relaxed);
        object::unlock(&self.lease);
    }
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain")
            .field("bus", &self.control.bus)
            .field("lanes", &self.open_slots.len())
            .finish_non_exhaustive()
    }
}

fn line_value(word: &crate::sync::atomic::AtomicU64) -> u64 {
    // ORDERING: Relaxed; a number that says only itself.
    word.load(Ordering::Relaxed)
}

fn quarantine(lane: &mut DrainLane, damage: Damage, notices: &mut Vec<ConsumerNotice>) {
    lane.quarantined = true;
    // ORDERING: Relaxed; a flag that says only itself.
    lane.ring.reader.quarantined.store(1, Ordering::Relaxed);
    notices.push(ConsumerNotice::Quarantined {
        label: lane.info.label.clone(),
        pid: lane.info.publisher_pid,
        damage: match lane.ring.region().is_lost() {
            true => format!(
                "somebody truncated it while it was in use; events before position {} were taken",
                damage.position
            ),
            false => format!(
                "{} {} at position {}, limit {}",
                damage.what, damage.found, damage.position, damage.limit
            ),
        },
    });
}

/// What `DrainLane::run` needs of its `Drain`.
struct RunContext<'a> {
    names: &'a mut Vec<Option<Box<str>>>,
    control: &'a Control,
    scratch: &'a mut Vec<u8>,
    cut_ns: u64,
    bound_ns: u64,
    records: &'a mut u64,
}

/// What one run took; kept in registers while it lasts.
#[derive(Default)]
struct Tally {
    delivered: u64,
    delivered_bytes: u64,
    rejected: u64,
    coalesced: u64,
    suppressed: u64,
}

enum RunEnd {
    Empty,
    Later(u64),
    Stopped,
}

impl DrainLane {
    fn id(&self) -> LaneId {
        LaneId {
            slot: self.slot as u32,
            epoch: self.info.epoch,
        }
    }

    /// The time of the next record, if there is one that `cut_ns` allows.
    fn next_time(&mut self, cut_ns: u64) -> Result<Option<u64>, Damage> {
        let waiting = self.reader.refresh()?;
        self.note_lag();
        if waiting == 0 {
            return Ok(None);
        }
        Ok(self
            .reader
            .peek()?
            .map(|header| effective_time(header.time_ns.get(), cut_ns))
            .filter(|&t| t <= cut_ns))
    }

    /// What waits as of the tail last seen: not taken, or taken and not committed.
    #[inline(always)]
    fn note_lag(&mut self) {
        let lag_bytes = (self.reader.tail_seen()).saturating_sub(self.committed_position);
        self.lag_bytes_recent = self.lag_bytes_recent.max(lag_bytes);
    }

    /// Steps over everything that is there.
    fn skim(&mut self) -> Result<(), Damage> {
        self.reader.refresh()?;
        self.note_lag();
        while let Some(header) = self.reader.peek()? {
            let sequence = header.sequence.get();
            if let Some(damage) = self.reader.loss() {
                return Err(damage);
            }
            let missing = sequence.saturating_sub(self.reader.sequence_next());
            self.counts.missing = self.counts.missing.saturating_add(missing);
            self.counts.delivered += 1;
            self.counts.delivered_bytes += u64::from(header.length_bytes.get());
            self.reader.advance(&header);
            self.note_mark();
            self.dirty = true;
        }
        if let Some(next) = self.reader.trailing_gap() {
            let missing = next.saturating_sub(self.reader.sequence_next());
            self.counts.missing = self.counts.missing.saturating_add(missing);
            self.reader.skip_to(next);
            self.dirty = true;
        }
        Ok(())
    }

    /// Visits records up to `bound_ns`.
    #[inline]
    fn run(
        &mut self,
        context: &mut RunContext<'_>,
        visit: &mut impl FnMut(Item<'_>) -> Verdict,
    ) -> Result<RunEnd, Damage> {
        let mut tally = Tally::default();
        let end = self.run_and_tally(context, &mut tally, visit);
        self.counts.delivered += tally.delivered;
        self.counts.delivered_bytes += tally.delivered_bytes;
        self.counts.rejected += tally.rejected;
        self.counts.coalesced += tally.coalesced;
        self.counts.suppressed += tally.suppressed;
        if self.scope == Scope::Persisted {
            let reduced = tally.coalesced + tally.suppressed;
            self.counts.written += tally.delivered - tally.rejected - reduced;
        }
        self.dirty |= tally.delivered > 0;
        *context.records += tally.delivered;
        end
    }

    #[inline(always)]
    fn run_and_tally(
        &mut self,
        context: &mut RunContext<'_>,
        tally: &mut Tally,
        visit: &mut impl FnMut(Item<'_>) -> Verdict,
    ) -> Result<RunEnd, Damage> {
        loop {
            let Some(header) = self.reader.peek()? else {
                return Ok(RunEnd::Empty);
            };
            let time_ns = effective_time(header.time_ns.get(), context.cut_ns);
            if time_ns > context.bound_ns {
                return Ok(RunEnd::Later(time_ns));
            }
            if header.sequence.get() > self.reader.sequence_next()
                && !self.visit_gap(header.sequence.get(), visit)
            {
                return Ok(RunEnd::Stopped);
            }
            let length_bytes = header.length_bytes.get() as usize;
            if context.scratch.len() < length_bytes {
                context.scratch.resize(length_bytes.next_power_of_two(), 0);
            }
            let bytes = &mut context.scratch[..length_bytes];
            self.reader.copy_payload(bytes);
            if let Some(damage) = self.reader.loss() {
                return Err(damage);
            }
            let bytes = &*bytes;
            let damage = |what, found: u32| Damage {
                position: self.reader.position(),
                what,
                found: found.into(),
                limit: 0,
            };
            let (name, payload) = if header.flags.get() & FLAG_INLINE_NAME == 0 {
                let id = header.name_id.get();
                let text = known_name(context.names, context.control, id)
                    .ok_or_else(|| damage("name id", id))?;
                (NameRef { id, text }, bytes)
            } else {
                split_inline_name(bytes).ok_or_else(|| damage("inline name", 0))?
            };
            let record = Record {
                lane: self.id(),
                label: &self.info.label,
                rule: &self.info.rule,
                channel: self.channel,
                source: self.source,
                time_ns,
                sequence: header.sequence.get(),
                level: header.level,
                flags: header.flags.get(),
                name,
                schema_id: header.schema_id.get(),
                payload,
            };
            match visit(Item::Record(record)) {
                Verdict::Keep => {}
                Verdict::Reject => tally.rejected += 1,
                Verdict::Coalesce => tally.coalesced += 1,
                Verdict::Suppress => tally.suppressed += 1,
                Verdict::Stop => return Ok(RunEnd::Stopped),
            }
            tally.delivered += 1;
            tally.delivered_bytes += length_bytes as u64;
            self.reader.advance(&header);
        }
    }

    /// Reports the numbers below `next` as missing; false if the visitor stopped.
    #[cold]
    fn visit_gap(&mut self, next: u64, visit: &mut impl FnMut(Item<'_>) -> Verdict) -> bool {
        let first = self.reader.sequence_next();
        let line = &self.ring.publisher;
        let gap = Gap {
            lane: self.id(),
            label: &self.info.label,
            rule: &self.info.rule,
            channel: self.channel,
            source: self.source,
            first,
            last: next.saturating_sub(1),
            dropped: [
                line_value(&line.dropped_full),
                line_value(&line.dropped_deadline),
                line_value(&line.dropped_too_long),
            ],
        };
        if visit(Item::Gap(gap)) == Verdict::Stop {
            return false;
        }
        self.counts.missing = self
            .counts
            .missing
            .saturating_add(next.saturating_sub(first));
        self.reader.skip_to(next);
        self.dirty = true;
        true
    }

    /// The lane is empty: are there drops behind its last record?
    fn visit_trailing_gap(&mut self, visit: &mut impl FnMut(Item<'_>) -> Verdict) {
        if let Some(next) = self.reader.trailing_gap() {
            self.visit_gap(next, visit);
        }
    }

    /// Tells the publisher how far we have read; true when over half of the lane is not released.
    fn publish_progress(&self) -> bool {
        let line = &self.ring.reader;
        // ORDERING: Relaxed; the publisher only uses it to decide whether to ring.
        line.drained_position
            .store(self.reader.position(), Ordering::Relaxed);
        line.drained_sequence
            .store(self.reader.sequence_next(), Ordering::Relaxed);
        self.reader.position() - self.committed_position > self.wake_after_bytes
    }

    fn snapshot(&self) -> LaneCommit {
        LaneCommit {
            epoch: self.info.epoch,
            position: self.reader.position(),
            sequence_next: self.reader.sequence_next(),
            ..self.counts
        }
    }

    /// Of this lane alone. A position is `Written` once: later requests, of others or for space, find it seen.
    fn flush_requested(&mut self) -> FlushRequest {
        let line = &self.ring.publisher;
        // ORDERING: Relaxed; covered by the Acquire of the caller.
        let guarantee = line.flush_guarantee.load(Ordering::Relaxed);
        let position = line_value(&line.flush_position);
        let is_new = position > std::mem::replace(&mut self.flush_seen_position, position);
        match guarantee {
            2 if position > self.durable_position => FlushRequest::Durable,
            1 | 2 if is_new => FlushRequest::Written,
            _ => FlushRequest::Room,
        }
    }

    fn mark_durable(&mut self, position: u64) {
        self.durable_position = self.durable_position.max(position);
        // ORDERING: Release; a publisher that sees it may tell others that its events are on the disk.
        self.ring
            .reader
            .durable_position
            .store(self.durable_position, Ordering::Release);
    }

    fn has_records(&self) -> bool {
        !self.quarantined
            && line_value(&self.ring.publisher.tail_position) != self.reader.position()
    }

    /// Records to read, or numbers to account for.
    #[inline(always)]
    fn has_news(&self) -> bool {
        let line = &self.ring.publisher;
        !self.quarantined
            && (line_value(&line.sequence_next) != self.reader.sequence_next()
                || line_value(&line.tail_position) != self.reader.position())
    }

    fn is_over_threshold(&self) -> bool {
        if !self.has_records() {
            return false;
        }
        let line = &self.ring.publisher;
        let lag_bytes = line_value(&line.tail_position).wrapping_sub(self.reader.position());
        let lag_events = line_value(&line.sequence_next).wrapping_sub(self.reader.sequence_next());
        lag_bytes >= self.wake_after_bytes || lag_events >= self.wake_after_events
    }

    /// Whether what has come since the last pass is due before the consumer would wake by itself.
    fn is_due_before(&self, now_ns: u64, until_ns: u64) -> bool {
        // What has come since is younger than the pass, and that was just now.
        self.has_records() && now_ns.saturating_add(self.max_delay_ns) < until_ns
    }

    /// Where the head goes when everything below `position` is committed; `None`: nowhere.
    ///
    /// Passthrough lanes keep up to half of what they held as history, for subscribers that come later:
    /// only where a record starts can one start to read.
    fn release_position(&mut self, position: u64) -> Option<u64> {
        if self.scope != Scope::Passthrough {
            return Some(position);
        }
        let half = u64::from(self.info.rule.lane_bytes) / 2;
        let head_position = line_value(&self.ring.reader.head_position);
        if position - head_position.min(position) <= half {
            return None;
        }
        let within = |&mark: &u64| mark <= position && position - mark <= half;
        Some(self.marks.into_iter().find(within).unwrap_or(position))
    }

    /// Remembers where a record starts, every eighth of a lane: what is kept of a flood that came in one pass begins
    /// at one of these.
    #[inline(always)]
    fn note_mark(&mut self) {
        let position = self.reader.position();
        if position - self.marks[MARKS - 1] >= u64::from(self.info.rule.lane_bytes) / 8 {
            self.marks.rotate_left(1);
            self.marks[MARKS - 1] = position;
        }
    }
}

/// A record's time; one far in the future counts as now, so that a wrong clock cannot stall its lane.
#[inline(always)]
pub(crate) fn effective_time(time_ns: u64, cut_ns: u64) -> u64 {
    if time_ns > cut_ns.saturating_add(FUTURE_MAX_NS) {
        cut_ns
    } else {
        time_ns
    }
}

/// The text of an interned name, read and checked at its first use.
#[inline(always)]
fn known_name<'n>(
    names: &'n mut Vec<Option<Box<str>>>,
    control: &Control,
    id: u32,
) -> Option<&'n str> {
    let known = names.get(id as usize).is_some_and(Option::is_some);
    if !known {
        learn_name(names, control, id)?;
    }
    names.get(id as usize)?.as_deref()
}

#[cold]
fn learn_name(names: &mut Vec<Option<Box<str>>>, control: &Control, id: u32) -> Option<()> {
    let name = names::read(&control.names, id)?;
    let index = id as usize;
    if names.len() <= index {
        names.resize(index + 1, None);
    }
    names[index] = Some(name.into_boxed_str());
    Some(())
}

/// Splits `u16 length, name, payload`.
pub(crate) fn split_inline_name(bytes: &[u8]) -> Option<(NameRef<'_>, &[u8])> {
    let (text, payload) = batch::split_inline_name(bytes)?;
    check_event_name(text).ok()?;
    Some((NameRef { id: u32::MAX, text }, payload))
}
