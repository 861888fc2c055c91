//! The publishing side: topics, claims, batches, overflow, and waiting for what was published.
//!
//! The publish path does not allocate, format, log or make a system call; what it may wait for is space
//! in its own lane, when its rule says `block`.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zerocopy::FromZeros;
use zerocopy::little_endian::{U16, U32, U64};

use crate::channel;
use crate::clock::Clock;
use crate::control::Control;
use crate::doorbell;
use crate::error::{Error, ErrorKind};
use crate::lane::{self, Lane, LaneMemory, RingKind};
use crate::layout::DATA_OFFSET;
use crate::level::Level;
use crate::names::{self, INLINE_NAME_ID};
use crate::object;
use crate::pattern::check_event_name;
use crate::region;
use crate::ring::{KIND_EVENT, RecordHeader, RingMemory, Slot, Writer};
use crate::rule::{Class, Overflow, Rule, RuleTable};
use crate::sync::atomic::{Ordering, fence};

mod claim;
mod fixed;
mod space;

pub use claim::{Claim, PublishBatch};

/// A wait looks again at least this often, whatever became of its wake-up.
const WAIT_SLICE: Duration = Duration::from_millis(500);

/// Where an event goes: made once per event name by [`Publisher::topic`], then used for each publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    publisher_id: u64,
    /// Place of its target: targets move to other lanes when the rules change, topics stay.
    index: u32,
}

/// Where the events of a topic go under the rules in force.
#[derive(Debug, Clone, Copy)]
struct Target {
    lane: u32,
    name_id: u32,
    /// Schema of its events, 0 for plain bytes.
    schema_id: u32,
    /// What subscribers of this name are waiting with, see `channel`; 0 where they do not read the lane themselves.
    bit: u64,
}

/// Why an event was not published. Every one of these is counted as a drop of its lane, with its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The lane is full and its rule drops the newest.
    Full,
    /// The lane stayed full until the deadline of its rule passed.
    DeadlinePassed,
    /// The payload exceeds the limit of the rule.
    TooLong {
        /// What was to be published.
        length_bytes: usize,
        /// What the rule allows.
        limit_bytes: u32,
    },
    /// The consumer found nonsense in this lane and reads it no more.
    Quarantined,
    /// Another process has truncated or wiped the memory of this lane or of the bus. Not counted where others see it:
    /// there is no memory left to count in. What the lane held and nobody had taken is gone. Attach again.
    Lost,
    /// The topic was made by another publisher. Not counted: there is no lane to count it in.
    ForeignTopic,
    /// The topic was made for events of another type. Not counted: nothing was offered under this topic.
    WrongSchema,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Full => f.write_str("the lane is full; the event is counted as dropped"),
            PublishError::DeadlinePassed => f.write_str(
                "the lane stayed full until the deadline; the event is counted as dropped",
            ),
            PublishError::TooLong {
                length_bytes,
                limit_bytes,
            } => write!(
                f,
                "payload of {length_bytes} bytes exceeds the {limit_bytes}-byte limit of its rule: raise \
                 `payload-bytes-limit` or split it"
            ),
            PublishError::Quarantined => f.write_str(
                "the consumer has quarantined this lane because of damage; attach again",
            ),
            PublishError::Lost => f.write_str(
                "another process has truncated or wiped the shared memory of this lane or of its bus; attach again",
            ),
            PublishError::ForeignTopic => f.write_str("the topic belongs to another publisher"),
            PublishError::WrongSchema => f.write_str(
                "the topic is for events of another type: make it with `event_topic` of this type",
            ),
        }
    }
}

impl std::error::Error for PublishError {}

/// How far an event has come, when a flush returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// In the file (or, for a rule that is not persisted, taken by the consumer).
    Written,
    /// On the disk.
    Durable,
}

/// Why a flush returned without its guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushError {
    /// Time is up.
    TimedOut {
        /// Bytes of records that are still under way.
        pending_bytes: u64,
    },
    /// A lane was quarantined: what was in it is lost and counted.
    Quarantined,
    /// Another process has truncated or wiped the memory of a lane or of the bus: see [`PublishError::Lost`].
    Lost,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlushError::TimedOut { pending_bytes } => {
                write!(f, "timed out with {pending_bytes} bytes still under way")
            }
            FlushError::Quarantined => f.write_str("a lane was quarantined"),
            FlushError::Lost => f.write_str(
                "another process has truncated or wiped the shared memory of a lane or of its bus",
            ),
        }
    }
}

impl std::error::Error for FlushError {}

/// What a publisher has done so far, over all its lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events offered: those in the lanes and those dropped.
    pub published: u64,
    /// Dropped because a lane was full.
    pub dropped_full: u64,
    /// Dropped because a deadline passed.
    pub dropped_deadline: u64,
    /// Dropped because the payload was too long.
    pub dropped_too_long: u64,
}

impl Counts {
    /// All drops of all causes.
    pub fn dropped(&self) -> u64 {
        self.dropped_full + self.dropped_deadline + self.dropped_too_long
    }
}

struct PublisherLane {
    writer: Writer<LaneMemory>,
    last_time_ns: u64,
    dropped_full: u64,
    dropped_deadline: u64,
    dropped_too_long: u64,
    payload_bytes_limit: u32,
    ring_after_events: u64,
    ring_after_bytes: u64,
    /// The consumer must not sleep longer than this past an event.
    max_delay_ns: u64,
    /// Time of the last event for which the consumer was found asleep.
    asleep_ns: u64,
    /// Its events are collected, and the first one after a pause is not.
    batched: bool,
    persisted: bool,
    /// Subscribers read it themselves, and we ring them.
    direct: bool,
    channel: u32,
    overflow: Overflow,
    rule: Rule,
    /// Left for another lane when the rules changed. The consumer drains and removes it.
    retired: bool,
    /// Holding it open holds the liveness lock.
    descriptor: OwnedFd,
}

/// Publishes events; one per thread that publishes.
///
/// `Send`, not `Sync`: a lane has one writer.
///
/// ```
/// use millpond_bus::{Bus, BusOptions, Level};
/// let bus = Bus::attach(&format!("doc-pub-{}", std::process::id()), &BusOptions::default())?;
/// let mut publisher = bus.publisher("indexer")?;
/// let created = publisher.topic("data:users:created")?;
/// publisher.publish(created, Level::Info, br#"{"id":1}"#)?;
///
/// let mut batch = publisher.batch(created)?; // one stamp, one commit
/// for id in 2..10 {
///     batch.push(Level::Info, format!(r#"{{"id":{id}}}"#).as_bytes())?;
/// }
/// batch.commit();
/// assert_eq!(publisher.counts().published, 9);
/// # drop(publisher);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Two threads cannot share one:
///
/// ```compile_fail
/// fn must_be_sync<T: Sync>() {}
/// must_be_sync::<millpond_bus::Publisher>();
/// ```
pub struct Publisher {
    id: u64,
    control: Arc<Control>,
    label: String,
    rules: RuleTable,
    /// The generation of `rules`.
    rules_generation: u32,
    clock: Clock,
    registered: bool,
    lanes: Vec<PublisherLane>,
    targets: Vec<Target>,
    /// The names of the targets.
    names: Vec<Box<str>>,
    /// Regions of this process that were lost when we looked last.
    losses_seen: u32,
    not_sync: PhantomData<std::cell::Cell<()>>,
}

impl Publisher {
    pub(crate) fn new(control: Arc<Control>, label: &str, registered: bool) -> Result<Self, Error> {
        // ORDERING: Acquire; before the table, so that a change in between is seen at the first publish.
        let rules_generation = control.doorbell.rules_generation.load(Ordering::Acquire);
        let rules = control.rules()?;
        let id = control.next_epoch(false)?;
        let clock = Clock::new(control.calibration.clone());
        Ok(Publisher {
            id,
            control,
            label: label.to_owned(),
            rules,
            rules_generation,
            clock,
            registered,
            lanes: Vec::new(),
            targets: Vec::new(),
            names: Vec::new(),
            losses_seen: region::losses(),
            not_sync: PhantomData,
        })
    }

    /// Resolves an event name: which rule applies, which lane carries it. Keep the topic and reuse it.
    ///
    /// The first topic of a rule makes its lane: a few system calls, and the clearing of the lane's memory.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none or that no rule matches, `LimitReached` when the bus has no
    /// room for another lane.
    pub fn topic(&mut self, event_name: &str) -> Result<Topic, Error> {
        check_event_name(event_name)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, error.to_string()))?;
        let target = self.target(event_name)?;
        self.targets.push(target);
        self.names.push(event_name.into());
        Ok(Topic {
            publisher_id: self.id,
            index: self.targets.len() as u32 - 1,
        })
    }

    /// The lane that `event_name` goes to under the rules in force, made where it is new.
    fn target(&mut self, event_name: &str) -> Result<Target, Error> {
        let Some(resolved) = self.rules.resolve(event_name) else {
            let message = format!("no rule matches the event name {event_name:?}: add one for `*`");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        };
        let rule = resolved.rule.clone();
        let known = |lane: &PublisherLane| !lane.retired && lane.rule == rule;
        let lane = match self.lanes.iter().position(known) {
            Some(lane) => lane,
            None => {
                let mut made = self.register_lane(&rule)?;
                // Over a change of the rules, too, time does not go back.
                let times = self.lanes.iter().map(|lane| lane.last_time_ns);
                made.last_time_ns = times.max().unwrap_or(0);
                self.lanes.push(made);
                self.lanes.len() - 1
            }
        };
        let bit = match self.lanes[lane].direct {
            true => names::bit(event_name),
            false => 0,
        };
        Ok(Target {
            lane: lane as u32,
            name_id: names::intern(&self.control.names, event_name),
            schema_id: 0,
            bit,
        })
    }

    /// The rules have changed: each topic goes where they say from its next event on. What is in a lane that
    /// no topic uses any more is drained as before.
    #[cold]
    fn follow_rules(&mut self) {
        // ORDERING: Acquire; the table was written before the number.
        self.rules_generation = self
            .control
            .doorbell
            .rules_generation
            .load(Ordering::Acquire);
        let Ok(rules) = self.control.rules() else {
            return;
        };
        self.rules = rules;
        for index in 0..self.targets.len() {
            let name = std::mem::take(&mut self.names[index]);
            // Where there is no rule or no room for it now, the old lane goes on: nothing is lost.
            if let Ok(target) = self.target(&name) {
                let schema_id = self.targets[index].schema_id;
                self.targets[index] = Target {
                    schema_id,
                    ..target
                };
            }
            self.names[index] = name;
        }
        let mut retired = false;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let is_used = |target: &Target| target.lane as usize == index;
            if !lane.retired && !self.targets.iter().any(is_used) {
                lane.retire();
                retired = true;
            }
        }
        if retired {
            self.announce_directory_change();
        }
    }

    fn announce_directory_change(&self) {
        // ORDERING: Release; what has changed comes before the number that announces it.
        self.control
            .request
            .directory_changes
            .fetch_add(1, Ordering::Release);
        self.control.ring();
    }

    /// Creates a lane and enters it in the directory with one compare-and-swap.
    fn register_lane(&self, rule: &Rule) -> Result<PublisherLane, Error> {
        let control = &self.control;
        let channel = channel::of_pattern(control, &rule.pattern)?;
        control.check_budget(u64::from(rule.lane_bytes))?;
        let created_ns = self.clock.now_ns();
        let made = lane::create(control, RingKind::Lane, &self.label, rule, created_ns)?;
        let epoch = made.info.epoch;
        kill_point!("publisher.lane_object");
        let word = epoch << 8 | u64::from(rule.lane_bytes.trailing_zeros());
        let free = control
            .directory
            .iter()
            .take(control.limits.lanes as usize)
            .position(|entry| {
                // ORDERING: Release on success: the lane's header is complete before it can be found.
                entry
                    .word
                    .compare_exchange(0, word, Ordering::Release, Ordering::Relaxed)
                    .is_ok()
            });
        if free.is_none() {
            object::unlink(&object::lane_name(&control.bus, epoch));
            let message = format!(
                "bus {:?} has its {} lanes in use: stop some publishers, or raise `lanes`",
                control.bus, control.limits.lanes
            );
            return Err(Error::new(ErrorKind::LimitReached, message));
        }
        kill_point!("publisher.lane_entered");
        self.announce_directory_change();
        kill_point!("publisher.lane_announced");
        Ok(PublisherLane::over(made, rule, channel))
    }

    /// Publishes one event and returns its sequence number within its lane.
    ///
    /// Costs a stamp and a copy of the payload; no system call while the consumer is awake. May wait where
    /// the rule says `block` and the lane is full.
    ///
    /// # Errors
    /// The event is dropped and counted; see [`PublishError`] for the causes.
    #[inline]
    pub fn publish(
        &mut self,
        topic: Topic,
        level: Level,
        payload: &[u8],
    ) -> Result<u64, PublishError> {
        let target = self.find(topic)?;
        if target.name_id == INLINE_NAME_ID {
            return self.publish_inline(topic, level, payload);
        }
        // The lane is looked up once, and the way of a lane without room apart: behind a copy into shared memory the
        // compiler would look it up again.
        let lane = &mut self.lanes[target.lane as usize];
        if payload.len() > lane.payload_bytes_limit as usize {
            return Err(lane.drop_too_long(payload.len()));
        }
        let Some(slot) = lane.writer.reserve(payload.len()) else {
            return self.publish_when_full(target, level, payload);
        };
        kill_point!("publisher.claimed");
        let sequence = lane.write(slot, payload, self.clock.stamp_ns(), level, target);
        kill_point!("publisher.written");
        lane.writer.commit();
        kill_point!("publisher.committed");
        self.after_commit(target);
        kill_point!("publisher.woken");
        self.check_loss(target.lane)?;
        Ok(sequence)
    }

    #[cold]
    fn publish_when_full(
        &mut self,
        target: Target,
        level: Level,
        payload: &[u8],
    ) -> Result<u64, PublishError> {
        let slot = self.reserve_when_full(target.lane, payload.len())?;
        kill_point!("publisher.claimed");
        let time_ns = self.clock.stamp_ns();
        let lane = &mut self.lanes[target.lane as usize];
        let sequence = lane.write(slot, payload, time_ns, level, target);
        kill_point!("publisher.written");
        lane.writer.commit();
        kill_point!("publisher.committed");
        self.after_commit(target);
        kill_point!("publisher.woken");
        self.check_loss(target.lane)?;
        Ok(sequence)
    }

    /// What was just written may have gone into zeros. A load, while nothing was ever lost.
    #[inline(always)]
    fn check_loss(&mut self, lane: u32) -> Result<(), PublishError> {
        match region::losses() == self.losses_seen {
            true => Ok(()),
            false => self.look_for_loss(lane),
        }
    }

    #[cold]
    fn look_for_loss(&mut self, lane: u32) -> Result<(), PublishError> {
        let losses = region::losses();
        if self.is_lost(lane) {
            return Err(PublishError::Lost);
        }
        // It was of somebody else in this process, unless another lane of ours is concerned.
        if !self.lanes.iter().any(|lane| lane.writer.memory().is_lost()) {
            self.losses_seen = losses;
        }
        Ok(())
    }

    /// Whether nobody will ever read what goes to this lane.
    fn is_lost(&self, lane: u32) -> bool {
        self.lanes[lane as usize].writer.memory().is_lost() || self.control.check().is_err()
    }

    /// The rare form, with the name in front of the payload.
    #[cold]
    fn publish_inline(
        &mut self,
        topic: Topic,
        level: Level,
        payload: &[u8],
    ) -> Result<u64, PublishError> {
        let mut claim = self.claim(topic, level, payload.len())?;
        claim.copy(payload);
        Ok(claim.commit())
    }

    /// Reserves room for a payload of at most `length_bytes`, to be written in pieces straight into the
    /// lane. Nothing is published until [`Claim::commit`]; dropping the claim gives the room back.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn claim(
        &mut self,
        topic: Topic,
        level: Level,
        length_bytes: usize,
    ) -> Result<Claim<'_>, PublishError> {
        let target = self.find(topic)?;
        self.check_loss(target.lane)?;
        let name = if target.name_id == INLINE_NAME_ID {
            self.names[topic.index as usize].clone()
        } else {
            Box::default()
        };
        let prefix_bytes = if name.is_empty() { 0 } else { 2 + name.len() };
        let slot = self.reserve(target, prefix_bytes + length_bytes)?;
        let mut claim = Claim {
            publisher: self,
            target,
            slot,
            level,
            written_bytes: 0,
            capacity_bytes: prefix_bytes + length_bytes,
        };
        if prefix_bytes > 0 {
            claim.copy(&(name.len() as u16).to_le_bytes());
            claim.copy(name.as_bytes());
        }
        Ok(claim)
    }

    /// Starts a batch: its events share one stamp, and become readable with one commit.
    ///
    /// # Errors
    /// `ForeignTopic` for a topic of another publisher.
    pub fn batch(&mut self, topic: Topic) -> Result<PublishBatch<'_>, PublishError> {
        let target = self.find(topic)?;
        let time_ns = self.clock.stamp_ns();
        Ok(PublishBatch {
            publisher: self,
            topic,
            target,
            time_ns,
            staged: 0,
        })
    }

    /// Waits until everything published so far has the guarantee. `None` waits for ever.
    ///
    /// Asks the consumer to flush at once, then sleeps on a futex.
    ///
    /// # Errors
    /// `TimedOut` says how much is still under way: it is not lost, and a later flush can wait for it.
    pub fn flush(
        &mut self,
        guarantee: Guarantee,
        timeout: Option<Duration>,
    ) -> Result<(), FlushError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        for lane in &self.lanes {
            let line = &lane.header().publisher;
            let wanted = match guarantee {
                Guarantee::Written => 1,
                Guarantee::Durable => 2,
            };
            // ORDERING: Relaxed; announced by the Release increment in `request_flush`.
            line.flush_guarantee.store(wanted, Ordering::Relaxed);
            line.flush_position
                .store(lane.writer.tail_position(), Ordering::Relaxed);
        }
        self.request_flush();
        for lane in &self.lanes {
            self.wait_for_lane(lane, guarantee, deadline)?;
        }
        Ok(())
    }

    fn wait_for_lane(
        &self,
        lane: &PublisherLane,
        guarantee: Guarantee,
        deadline: Option<Instant>,
    ) -> Result<(), FlushError> {
        let target = lane.writer.tail_position();
        let header = lane.header();
        loop {
            // ORDERING: Relaxed; the fence below orders it before the look at the positions (P3).
            header.space.waiting.store(1, Ordering::Relaxed);
            doorbell::full_fence();
            // What is not persisted has no disk to wait for, and is released later than it is taken.
            let written = guarantee == Guarantee::Written && lane.persisted;
            let line = &header.reader;
            let reached = if written {
                &line.head_position
            } else {
                &line.durable_position
            };
            // ORDERING: Acquire (P2).
            let reached = reached.load(Ordering::Acquire);
            if reached >= target {
                return Ok(());
            }
            if lane.is_quarantined() {
                return Err(FlushError::Quarantined);
            }
            if lane.is_cut() || self.control.check().is_err() {
                return Err(FlushError::Lost);
            }
            let Some(slice) = wait_slice(deadline) else {
                return Err(FlushError::TimedOut {
                    pending_bytes: target - reached,
                });
            };
            doorbell::sleep(&header.space.waiting, 1, Some(slice));
            // A consumer that started in the meantime has not seen the request.
            self.request_flush();
        }
    }

    fn request_flush(&self) {
        // ORDERING: Release; the flush positions before the number that announces them.
        self.control
            .request
            .flush_requests
            .fetch_add(1, Ordering::Release);
        self.control.ring();
    }

    /// What this publisher has done so far. Reads private memory only.
    pub fn counts(&self) -> Counts {
        self.lanes
            .iter()
            .fold(Counts::default(), |sum, lane| Counts {
                published: sum.published + lane.writer.sequence_next(),
                dropped_full: sum.dropped_full + lane.dropped_full,
                dropped_deadline: sum.dropped_deadline + lane.dropped_deadline,
                dropped_too_long: sum.dropped_too_long + lane.dropped_too_long,
            })
    }

    /// The longest payload that this topic's rule allows, in bytes.
    pub fn payload_bytes_limit(&self, topic: Topic) -> u32 {
        let Ok(target) = self.find(topic) else {
            return 0;
        };
        let name_bytes = if target.name_id == INLINE_NAME_ID {
            2 + self.names[topic.index as usize].len() as u32
        } else {
            0
        };
        let limit = self.lanes[target.lane as usize].payload_bytes_limit;
        limit.saturating_sub(name_bytes)
    }

    #[inline(always)]
    fn find(&self, topic: Topic) -> Result<Target, PublishError> {
        match self.targets.get(topic.index as usize) {
            Some(target) if topic.publisher_id == self.id => Ok(*target),
            _ => Err(PublishError::ForeignTopic),
        }
    }

    #[inline(always)]
    fn reserve(&mut self, target: Target, payload_bytes: usize) -> Result<Slot, PublishError> {
        let lane = &mut self.lanes[target.lane as usize];
        if payload_bytes > lane.payload_bytes_limit as usize {
            return Err(lane.drop_too_long(payload_bytes));
        }
        match lane.writer.reserve(payload_bytes) {
            Some(slot) => Ok(slot),
            None => self.reserve_when_full(target.lane, payload_bytes),
        }
    }

    /// The lane is full: what the rule says about it.
    #[cold]
    fn reserve_when_full(&mut self, lane: u32, payload_bytes: usize) -> Result<Slot, PublishError> {
        let lane_index = lane as usize;
        let deadline = match self.lanes[lane_index].overflow {
            Overflow::DropNewest => return Err(self.drop_newest(lane)),
            Overflow::Block { deadline } => Instant::now() + deadline,
        };
        self.request_flush();
        loop {
            let lane = &mut self.lanes[lane_index];
            // ORDERING: Relaxed; the fence orders it before the look at the head (P3).
            lane.header().space.waiting.store(1, Ordering::Relaxed);
            doorbell::full_fence();
            if let Some(slot) = lane.writer.reserve(payload_bytes) {
                return Ok(slot);
            }
            if lane.is_quarantined() {
                lane.writer.skip_sequence();
                return Err(PublishError::Quarantined);
            }
            if lane.is_cut() || self.control.check().is_err() {
                return Err(PublishError::Lost);
            }
            let lane = &mut self.lanes[lane_index];
            let Some(slice) = wait_slice(Some(deadline)) else {
                return Err(lane.drop_deadline());
            };
            doorbell::sleep(&lane.header().space.waiting, 1, Some(slice));
            self.control.ring();
        }
    }

    /// The lane is full, and the event is not waited for.
    #[cold]
    fn drop_newest(&mut self, lane: u32) -> PublishError {
        if self.is_lost(lane) {
            return PublishError::Lost;
        }
        // Whoever drops must at least have told a sleeping consumer.
        if self.control.doorbell.parked_after_commit(self.registered) != doorbell::AWAKE {
            self.request_flush();
        }
        self.lanes[lane as usize].drop_full()
    }

    #[inline(always)]
    fn after_commit(&mut self, target: Target) {
        let control = &self.control;
        let parked = control.doorbell.parked_after_commit(self.registered);
        if target.bit != 0 {
            let lane = &self.lanes[target.lane as usize];
            let waiting = &control.bells[lane.channel as usize].waiting;
            // ORDERING: Relaxed; ordered against the tail by barrier A in `parked_after_commit`.
            if waiting.load(Ordering::Relaxed) & target.bit != 0 {
                channel::ring(control, lane.channel, target.bit);
            }
        }
        if parked != doorbell::AWAKE {
            self.ring_if_due(target.lane, parked);
        }
        // ORDERING: Relaxed; `follow_rules` looks again.
        if self
            .control
            .doorbell
            .rules_generation
            .load(Ordering::Relaxed)
            != self.rules_generation
        {
            self.follow_rules();
        }
    }

    /// The consumer sleeps: wake it for the first event, for a threshold, or for what must not wait.
    #[cold]
    fn ring_if_due(&mut self, lane: u32, parked: u32) {
        let lane = &mut self.lanes[lane as usize];
        let asleep_ns = std::mem::replace(&mut lane.asleep_ns, lane.last_time_ns);
        let is_leading = lane.batched && lane.last_time_ns - asleep_ns > lane.max_delay_ns;
        if parked == doorbell::PARKED_FOR_DISK && lane.persisted {
            return;
        }
        // What subscribers take from the lane themselves need not wake the consumer.
        let subscribed = lane.direct && !lane.persisted;
        if parked != doorbell::PARKED || subscribed {
            let line = &lane.header().reader;
            // ORDERING: Relaxed; a stale position only rings a little early.
            let drained_position = line.drained_position.load(Ordering::Relaxed);
            let drained_sequence = line.drained_sequence.load(Ordering::Relaxed);
            let lag_bytes = lane.writer.tail_position().saturating_sub(drained_position);
            let lag_events = lane.writer.sequence_next().saturating_sub(drained_sequence);
            let is_late = || {
                // ORDERING: Acquire fence; the time was stored before the mark that we have seen.
                fence(Ordering::Acquire);
                let until_ns = &self.control.doorbell.parked_until_ns;
                // ORDERING: Relaxed; ordered by the fence.
                lane.last_time_ns.saturating_add(lane.max_delay_ns)
                    < until_ns.load(Ordering::Relaxed)
            };
            if lag_bytes < lane.ring_after_bytes
                && lag_events < lane.ring_after_events
                && !is_leading
                && (subscribed || !is_late())
            {
                return;
            }
        }
        if self.control.doorbell.unpark() {
            doorbell::wake(&self.control.doorbell.parked);
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        for lane in &mut self.lanes {
            lane.retire();
        }
        kill_point!("publisher.retired");
        if !self.lanes.is_empty() {
            self.announce_directory_change();
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("bus", &self.control.bus)
            .field("label", &self.label)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl PublisherLane {
    fn over(lane: Lane, rule: &Rule, channel: u32) -> Self {
        let (ring_after_bytes, ring_after_events) = rule.ring_after();
        PublisherLane {
            ring_after_bytes,
            writer: Writer::new(lane.memory),
            last_time_ns: 0,
            dropped_full: 0,
            dropped_deadline: 0,
            dropped_too_long: 0,
            payload_bytes_limit: rule.payload_bytes_limit,
            ring_after_events,
            max_delay_ns: rule.max_delay.as_nanos().min(1 << 60) as u64,
            asleep_ns: 0,
            batched: rule.class == Class::Batch && rule.service.is_none(),
            persisted: rule.service.is_some(),
            direct: rule.is_direct(),
            channel,
            overflow: rule.overflow,
            rule: rule.clone(),
            retired: false,
            descriptor: lane.descriptor,
        }
    }

    fn header(&self) -> &crate::ring::RingHeader {
        self.writer.memory().header()
    }

    /// Nothing will be published here any more.
    fn retire(&mut self) {
        self.retired = true;
        // ORDERING: Release; everything this lane will ever hold comes before it.
        self.header().publisher.closed.store(1, Ordering::Release);
    }

    /// Writes a record, and stages it.
    #[inline(always)]
    fn write(
        &mut self,
        slot: Slot,
        payload: &[u8],
        time_ns: u64,
        level: Level,
        target: Target,
    ) -> u64 {
        let header = self.record_header(payload.len(), time_ns, level, target, 0);
        self.writer.write_record(slot, &header, payload);
        self.writer.stage(slot);
        header.sequence.get()
    }

    /// Writes the header of a record whose payload is in place, and stages it.
    #[inline(always)]
    fn finish(
        &mut self,
        slot: Slot,
        length_bytes: usize,
        time_ns: u64,
        level: Level,
        target: Target,
        flags: u16,
    ) -> u64 {
        let header = self.record_header(length_bytes, time_ns, level, target, flags);
        self.writer.write_header(slot, &header);
        self.writer.stage(slot);
        header.sequence.get()
    }

    #[inline(always)]
    fn record_header(
        &mut self,
        length_bytes: usize,
        time_ns: u64,
        level: Level,
        target: Target,
        flags: u16,
    ) -> RecordHeader {
        // The clock may be corrected between two events; within a lane time never goes back.
        self.last_time_ns = self.last_time_ns.max(time_ns);
        let mut header = RecordHeader::new_zeroed();
        header.length_bytes = U32::new(length_bytes as u32);
        header.kind = KIND_EVENT;
        header.level = level as u8;
        header.flags = U16::new(flags);
        header.time_ns = U64::new(self.last_time_ns);
        header.sequence = U64::new(self.writer.sequence_next());
        header.name_id = U32::new(target.name_id);
        header.schema_id = U32::new(target.schema_id);
        header
    }

    /// Whether the object is shorter than it was, or was for a moment. Where it was cut behind what we touch, or while we
    /// did not touch it, the consumer alone has noticed, and cannot tell us. One system call: for those who wait anyway.
    fn is_cut(&self) -> bool {
        let length_bytes =
            rustix::fs::fstat(&self.descriptor).map_or(0, |stat| stat.st_size as u64);
        let memory = self.writer.memory();
        memory.is_lost()
            || memory.is_wiped()
            || length_bytes < self.writer.memory().capacity_bytes() + DATA_OFFSET as u64
    }

    fn is_quarantined(&self) -> bool {
        // ORDERING: Relaxed; a flag that says only itself.
        self.header().reader.quarantined.load(Ordering::Relaxed) != 0
    }

    #[cold]
    fn drop_too_long(&mut self, length_bytes: usize) -> PublishError {
        self.dropped_too_long += 1;
        // ORDERING: Relaxed; published by the Release of `sequence_next` that follows (P4).
        self.header()
            .publisher
            .dropped_too_long
            .store(self.dropped_too_long, Ordering::Relaxed);
        self.writer.skip_sequence();
        PublishError::TooLong {
            length_bytes,
            limit_bytes: self.payload_bytes_limit,
        }
    }

    fn drop_full(&mut self) -> PublishError {
        self.dropped_full += 1;
        // ORDERING: Relaxed; as in `drop_too_long`.
        self.header()
            .publisher
            .dropped_full
            .store(self.dropped_full, Ordering::Relaxed);
        self.writer.skip_sequence();
        if self.is_quarantined() {
            PublishError::Quarantined
        } else {
            PublishError::Full
        }
    }

    fn drop_deadline(&mut self) -> PublishError {
        self.dropped_deadline += 1;
        // ORDERING: Relaxed; as in `drop_too_long`.
        self.header()
            .publisher
            .dropped_deadline
            .store(self.dropped_deadline, Ordering::Relaxed);
        self.writer.skip_sequence();
        PublishError::DeadlinePassed
    }
}

/// How long to sleep before looking again; `None` when the deadline has passed.
fn wait_slice(deadline: Option<Instant>) -> Option<Duration> {
    let Some(deadline) = deadline else {
        return Some(WAIT_SLICE);
    };
    let left = deadline.checked_duration_since(Instant::now())?;
    (!left.is_zero()).then_some(left.min(WAIT_SLICE))
}
