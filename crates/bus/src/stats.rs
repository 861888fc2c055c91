//! Everything counted on a bus, read from shared memory without asking anyone.

use std::collections::BTreeMap;

use crate::commit::{self, LaneCommit};
use crate::control::Control;
use crate::drain::{self, Scope, SourceTotalsPlain};
use crate::figures::{self, ConsumerFigures, ServiceDisk};
use crate::lane::{self, Lane, RingKind};
use crate::layout::{SOURCES_MAX, load_text, text_of};
use crate::object;
use crate::origin::Origin;
use crate::ring::{RingHeader, RingMemory};
use crate::subscribers;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Drops by cause, in events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DropCounts {
    /// The lane was full and its rule drops the newest.
    pub full: u64,
    /// The lane stayed full until the deadline.
    pub deadline: u64,
    /// The payload exceeded the limit of the rule.
    pub too_long: u64,
    /// Quarantined with their lane, or uncounted by a publisher that died.
    pub other: u64,
}

impl DropCounts {
    /// All causes.
    pub fn total(&self) -> u64 {
        // What publishers count may be any number where one of them means harm.
        let some = self.full.saturating_add(self.deadline);
        some.saturating_add(self.too_long)
            .saturating_add(self.other)
    }

    /// Adds what others dropped, cause by cause.
    pub fn add(&mut self, more: &DropCounts) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.full, more.full);
        add(&mut self.deadline, more.deadline);
        add(&mut self.too_long, more.too_long);
        add(&mut self.other, more.other);
    }
}

/// The process that holds the consumer's lease, or held it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its process id; 0 when it has left in order.
    pub pid: u32,
    /// When it took the lease, real time in ns.
    pub started_ns: u64,
    /// Its last sign of life, real time in ns; `started_ns` while it starts, which with a log to recover may take long.
    pub heartbeat_ns: u64,
    /// Whether the lease is held now.
    pub alive: bool,
    /// The writer's backend and why it was chosen.
    pub backend: String,
    /// The log directory.
    pub logs_dir: String,
    /// What fails: writing, or only a sync, a seal or an index; empty for nothing.
    pub trouble: String,
    /// What it does, and how long that takes.
    pub figures: ConsumerFigures,
}

impl ConsumerInfo {
    /// Whether it has the lease and has not begun to drain: it recovers the log, say.
    pub fn is_starting(&self) -> bool {
        self.alive && self.heartbeat_ns == self.started_ns
    }

    pub(crate) fn read(control: &Control, alive: bool) -> Self {
        let text = control.load_text();
        let line = &control.consumer;
        ConsumerInfo {
            // ORDERING: Relaxed; for people only.
            pid: line.pid.load(Ordering::Relaxed),
            started_ns: get(&line.started_ns),
            heartbeat_ns: get(&line.heartbeat_ns),
            alive,
            backend: text_of(&text.backend),
            logs_dir: text_of(&text.logs_dir),
            trouble: text_of(&text.trouble),
            figures: figures::read(control),
        }
    }
}

/// One lane as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStats {
    /// Its number in the directory.
    pub lane: u32,
    /// Its number, which no other lane of the bus ever has.
    pub epoch: u64,
    /// The publisher's label.
    pub label: String,
    /// The process behind it.
    pub origin: Origin,
    /// When it was made, real time in ns.
    pub created_ns: u64,
    /// Pattern of the rule it was made under.
    pub pattern: String,
    /// Size of its ring.
    pub capacity_bytes: u64,
    /// Committed by the publisher and not yet released.
    pub lag_bytes: u64,
    /// The most bytes that ever waited in it, as the consumer saw it: at each pass, told once a second.
    pub lag_bytes_max: u64,
    /// Events offered by the publisher.
    pub published: u64,
    /// Events taken by the consumer and committed.
    pub delivered: u64,
    /// Of these, events in a log file.
    pub written: u64,
    /// Of these, events refused for what they are.
    pub rejected: u64,
    /// Of those delivered, events that a later one or an aggregate stands for.
    pub coalesced: u64,
    /// Of those delivered, events that a rate limit or sampling kept out of the log.
    pub suppressed: u64,
    /// Events dropped, by cause.
    pub dropped: DropCounts,
    /// `published - delivered - dropped`: in the lane, or taken and not yet committed.
    pub in_flight: u64,
    /// Payload bytes delivered.
    pub delivered_bytes: u64,
    /// The consumer found nonsense in it and reads it no more.
    pub quarantined: bool,
}

/// A source: a publisher's label and a rule, over all its lanes, those that are gone included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStats {
    /// The publishers' label.
    pub label: String,
    /// Pattern of the rule.
    pub pattern: String,
    /// The process behind the lane that was seen last; it may be gone.
    pub origin: Origin,
    /// Lanes that live now.
    pub lanes_live: u64,
    /// Lanes that are gone.
    pub lanes_gone: u64,
    /// Events offered.
    pub published: u64,
    /// Events taken by the consumer and committed.
    pub delivered: u64,
    /// Of these, events in a log file.
    pub written: u64,
    /// Of these, events refused for what they are.
    pub rejected: u64,
    /// Of those delivered, events that a later one or an aggregate stands for.
    pub coalesced: u64,
    /// Of those delivered, events that a rate limit or sampling kept out of the log.
    pub suppressed: u64,
    /// Events dropped, by cause.
    pub dropped: DropCounts,
    /// `published - delivered - dropped`.
    pub in_flight: u64,
    /// Payload bytes delivered.
    pub delivered_bytes: u64,
    /// The most bytes that ever waited in one of its lanes.
    pub lag_bytes_max: u64,
}

/// A service's log, as committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStats {
    /// The service.
    pub name: String,
    /// Id of its open segment.
    pub segment_id: u64,
    /// Committed length of the open segment.
    pub segment_bytes: u64,
    /// Lines ever committed.
    pub lines: u64,
    /// Bytes of text ever committed.
    pub bytes: u64,
    /// Segments opened so far.
    pub segments: u64,
    /// Pieces of text that redaction replaced.
    pub redacted: u64,
    /// What it has of the disk, against its own limits; `None` until a consumer has said.
    pub disk: Option<ServiceDisk>,
}

/// A reading of a bus's statistics. Numbers of live lanes move while they are read; once publishers rest
/// and everything is committed, `published = delivered + dropped` holds exactly for each source.
///
/// ```
/// use millpond_bus::{Bus, BusOptions, Level};
/// let bus = Bus::attach(&format!("doc-stats-{}", std::process::id()), &BusOptions::default())?;
/// let mut publisher = bus.publisher("indexer")?;
/// let topic = publisher.topic("data:users:created")?;
/// publisher.publish(topic, Level::Info, b"{}")?;
/// let stats = bus.stats();
/// assert_eq!(stats.sources[0].published, 1);
/// assert_eq!(stats.sources[0].in_flight, 1);
/// # drop(publisher);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The bus.
    pub bus: String,
    /// When it was read, real time in ns.
    pub time_ns: u64,
    /// Bytes of shared memory in lanes.
    pub lanes_bytes: u64,
    /// The limit on those.
    pub lanes_bytes_limit: u64,
    /// The consumer, if there ever was one.
    pub consumer: Option<ConsumerInfo>,
    /// Lanes that exist.
    pub lanes: Vec<LaneStats>,
    /// Sources, live and gone.
    pub sources: Vec<SourceStats>,
    /// Services.
    pub services: Vec<ServiceStats>,
    /// Subscribers that are attached.
    pub subscribers: Vec<SubscriberStats>,
}

/// One subscriber.
///
/// ```
/// assert_eq!(millpond_bus::SubscriberStats::default().lagged, 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriberStats {
    /// Its label.
    pub label: String,
    /// Its process.
    pub pid: u32,
    /// What it asked for, its patterns with a space between them; cut at 128 bytes.
    pub pattern: String,
    /// Events it was given.
    pub delivered: u64,
    /// Events that came through its rings and were not for it.
    pub filtered: u64,
    /// Events that were overwritten before it read them.
    pub lagged: u64,
    /// Times it was woken.
    pub wakes: u64,
}

fn read_subscribers(control: &Control) -> Vec<SubscriberStats> {
    control
        .subscribers
        .iter()
        .filter(|slot| subscribers::is_in_use(slot))
        .map(|slot| SubscriberStats {
            label: load_text(&slot.label),
            // ORDERING: Relaxed; covered by the Acquire of `is_in_use`.
            pid: slot.pid.load(Ordering::Relaxed),
            pattern: load_text(&slot.pattern),
            delivered: get(&slot.delivered),
            filtered: get(&slot.filtered),
            lagged: get(&slot.lagged),
            wakes: get(&slot.wakes),
        })
        .collect()
}

impl Stats {
    /// What was dropped under each rule, by cause, over all of its sources; rules without a source are not there.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions, Level};
    /// let bus = Bus::attach(&format!("doc-rules-{}", std::process::id()), &BusOptions::default())?;
    /// let mut publisher = bus.publisher("indexer")?;
    /// let topic = publisher.topic("log:web")?;
    /// publisher.publish(topic, Level::Info, b"{}")?;
    /// let stats = bus.stats();
    /// let by_rule = stats.dropped_by_rule();
    /// assert_eq!(by_rule.len(), 1);
    /// assert_eq!(by_rule["log:*"].total(), 0);
    /// # drop(publisher);
    /// # bus.remove()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dropped_by_rule(&self) -> BTreeMap<&str, DropCounts> {
        let mut by_rule: BTreeMap<&str, DropCounts> = BTreeMap::new();
        for source in &self.sources {
            let sum = by_rule.entry(&source.pattern).or_default();
            sum.add(&source.dropped);
        }
        by_rule
    }

    pub(crate) fn read(control: &Control) -> Self {
        let (lanes, sources) = read_lanes_and_sources(control);
        let alive = object::is_locked(&object::control_name(&control.bus));
        let consumer = ConsumerInfo::read(control, alive);
        Stats {
            bus: control.bus.clone(),
            time_ns: crate::clock::realtime_ns(),
            lanes_bytes: lanes.iter().map(|lane| lane.capacity_bytes).sum(),
            lanes_bytes_limit: control.limits.bus_bytes,
            consumer: (consumer.started_ns != 0).then_some(consumer),
            sources,
            lanes,
            services: read_services(control),
            subscribers: read_subscribers(control),
        }
    }
}

fn get(word: &AtomicU64) -> u64 {
    // ORDERING: Relaxed; statistics may be a moment old.
    word.load(Ordering::Relaxed)
}

/// So often something is read anew that changes while it is read.
const READS_MAX: u32 = 1000;

/// Reads lanes and totals until no lane went from the ones to the others meanwhile: each is counted once.
fn read_lanes_and_sources(control: &Control) -> (Vec<LaneStats>, Vec<SourceStats>) {
    let folds = || -> u64 {
        let slots = control.sources.iter();
        // ORDERING: Acquire; what is read after it is not older.
        let selectors = slots.map(|slot| u64::from(slot.selector.load(Ordering::Acquire)));
        selectors.sum()
    };
    let mut before = folds();
    // A member that writes there without end must not hold up whoever asks: the last reading is as good as its bus.
    let mut tries = READS_MAX;
    loop {
        let mut lanes = read_lanes(control);
        // One that is in the totals already, and not yet out of the directory.
        lanes.retain(|lane| !is_folded(control, lane.epoch));
        let sources = read_sources(control, &lanes);
        let after = folds();
        tries -= 1;
        if before == after || tries == 0 {
            return (lanes, sources);
        }
        before = after;
    }
}

fn is_folded(control: &Control, epoch: u64) -> bool {
    let mut sources = control.sources.iter();
    sources.any(|slot| drain::is_folded(slot, epoch))
}

fn read_lanes(control: &Control) -> Vec<LaneStats> {
    control
        .directory
        .iter()
        .enumerate()
        .filter_map(|(slot, entry)| {
            // ORDERING: Acquire; pairs with the Release that registered the lane.
            let word = entry.word.load(Ordering::Acquire);
            let lane = (word != 0)
                .then(|| lane::open(&control.bus, RingKind::Lane, word >> 8, control.access).ok())
                .flatten()?;
            Some(lane_stats(control, slot, &lane))
        })
        .collect()
}

/// What is counted of one lane.
pub(crate) struct LaneCounts {
    pub(crate) committed: LaneCommit,
    pub(crate) published: u64,
    pub(crate) dropped: DropCounts,
    pub(crate) in_flight: u64,
    pub(crate) lag_bytes: u64,
}

/// The counts of the lane `epoch` in `slot`, from shared memory alone.
pub(crate) fn lane_counts(
    control: &Control,
    slot: usize,
    epoch: u64,
    scope: Scope,
    header: &RingHeader,
) -> LaneCounts {
    let flip = if scope == Scope::Persisted {
        &control.consumer.generation
    } else {
        &header.reader.selector
    };
    // Committed first: the publisher's numbers only grow meanwhile, so nothing comes out negative.
    let committed = commit::lane(control, slot, epoch, flip);
    let line = &header.publisher;
    // ORDERING: Acquire (P4): numbers below it are in the lane or in the drop counters.
    let published = line
        .sequence_next
        .load(Ordering::Acquire)
        .max(committed.sequence_next);
    // ORDERING: Relaxed; a flag that says only itself.
    let quarantined = header.reader.quarantined.load(Ordering::Relaxed) != 0;
    let known = [
        &line.dropped_full,
        &line.dropped_deadline,
        &line.dropped_too_long,
    ]
    .map(get);
    // A publisher may write any numbers.
    let known_sum = known.into_iter().fold(0, u64::saturating_add);
    let missing = published.saturating_sub(committed.delivered);
    let in_flight = match quarantined {
        true => 0,
        false => missing.saturating_sub(known_sum.max(committed.missing)),
    };
    let other = missing.saturating_sub(known_sum.saturating_add(in_flight));
    LaneCounts {
        committed,
        published,
        dropped: DropCounts {
            full: known[0],
            deadline: known[1],
            too_long: known[2],
            other,
        },
        in_flight,
        // What passthrough lanes keep behind what is taken is history, not lag.
        lag_bytes: get(&line.tail_position).saturating_sub(match scope {
            Scope::Passthrough => get(&header.reader.durable_position),
            _ => get(&header.reader.head_position),
        }),
    }
}

fn lane_stats(control: &Control, slot: usize, lane: &Lane) -> LaneStats {
    let header = lane.memory.header();
    let epoch = lane.info.epoch;
    let scope = Scope::of(&lane.info.rule);
    let counts = lane_counts(control, slot, epoch, scope, header);
    let committed = counts.committed;
    let place = &control.origins[slot];
    let (origin, lag_bytes_max) = match place.load() {
        Some((of, origin)) if of == epoch => (origin, place.lag_bytes_max()),
        // No consumer has seen it yet: the publisher's word.
        _ => {
            let origin = Origin {
                pid: lane.info.publisher_pid,
                uid: lane.info.publisher_uid,
                ..Origin::default()
            };
            (origin, 0)
        }
    };
    LaneStats {
        lane: slot as u32,
        epoch,
        label: lane.info.label.clone(),
        origin,
        created_ns: lane.info.created_ns,
        pattern: lane.info.rule.pattern.as_str().to_owned(),
        capacity_bytes: lane.memory.capacity_bytes(),
        lag_bytes: counts.lag_bytes,
        lag_bytes_max: lag_bytes_max.max(counts.lag_bytes),
        published: counts.published,
        delivered: committed.delivered,
        written: committed.written,
        rejected: committed.rejected,
        coalesced: committed.coalesced,
        suppressed: committed.suppressed,
        dropped: counts.dropped,
        in_flight: counts.in_flight,
        delivered_bytes: committed.delivered_bytes,
        // ORDERING: Relaxed; a flag that says only itself.
        quarantined: header.reader.quarantined.load(Ordering::Relaxed) != 0,
    }
}

fn read_sources(control: &Control, lanes: &[LaneStats]) -> Vec<SourceStats> {
    let mut sources: Vec<SourceStats> = control
        .sources
        .iter()
        .enumerate()
        // ORDERING: Acquire; the texts were stored before the mark.
        .filter(|(_, slot)| slot.in_use.load(Ordering::Acquire) == 1)
        .map(|(index, slot)| {
            let place = &control.source_origins[index];
            let totals = SourceTotalsPlain::load_in_force(slot);
            SourceStats {
                label: load_text(&slot.label),
                pattern: load_text(&slot.pattern),
                origin: place.load().map(|(_, origin)| origin).unwrap_or_default(),
                lanes_live: 0,
                lanes_gone: totals.lanes,
                published: totals.published,
                delivered: totals.delivered,
                written: totals.written,
                rejected: totals.rejected,
                coalesced: totals.coalesced,
                suppressed: totals.suppressed,
                dropped: DropCounts {
                    full: totals.dropped_full,
                    deadline: totals.dropped_deadline,
                    too_long: totals.dropped_too_long,
                    other: totals.dropped_other,
                },
                in_flight: 0,
                delivered_bytes: totals.bytes,
                lag_bytes_max: place.lag_bytes_max(),
            }
        })
        .collect();
    for lane in lanes {
        let known = sources
            .iter()
            .position(|source| source.label == lane.label && source.pattern == lane.pattern);
        // Where every place is taken, the consumer counts it among the others.
        let is_full = known.is_none() && sources.len() >= SOURCES_MAX;
        let known = known.or(is_full.then_some(SOURCES_MAX - 1));
        let index = known.unwrap_or_else(|| {
            sources.push(SourceStats::empty(&lane.label, &lane.pattern));
            sources.len() - 1
        });
        sources[index].add_live(lane);
    }
    sources
}

impl SourceStats {
    fn empty(label: &str, pattern: &str) -> Self {
        SourceStats {
            label: label.to_owned(),
            pattern: pattern.to_owned(),
            origin: Origin::default(),
            lanes_live: 0,
            lanes_gone: 0,
            published: 0,
            delivered: 0,
            written: 0,
            rejected: 0,
            coalesced: 0,
            suppressed: 0,
            dropped: DropCounts::default(),
            in_flight: 0,
            delivered_bytes: 0,
            lag_bytes_max: 0,
        }
    }

    fn add_live(&mut self, lane: &LaneStats) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        self.lanes_live += 1;
        if self.origin == Origin::default() {
            self.origin = lane.origin.clone();
        }
        self.lag_bytes_max = self.lag_bytes_max.max(lane.lag_bytes_max);
        add(&mut self.published, lane.published);
        add(&mut self.delivered, lane.delivered);
        add(&mut self.written, lane.written);
        add(&mut self.rejected, lane.rejected);
        add(&mut self.coalesced, lane.coalesced);
        add(&mut self.suppressed, lane.suppressed);
        self.dropped.add(&lane.dropped);
        add(&mut self.in_flight, lane.in_flight);
        add(&mut self.delivered_bytes, lane.delivered_bytes);
    }
}

fn read_services(control: &Control) -> Vec<ServiceStats> {
    let mut tries = READS_MAX;
    loop {
        let bank = commit::bank(&control.consumer.generation);
        let services = commit::services(control, bank);
        tries -= 1;
        if commit::bank(&control.consumer.generation) == bank || tries == 0 {
            return services
                .into_iter()
                .enumerate()
                .map(|(slot, commit)| ServiceStats {
                    disk: figures::read_service(control, slot, &commit.name),
                    name: commit.name,
                    segment_id: commit.segment_id,
                    segment_bytes: commit.length_bytes,
                    lines: commit.lines,
                    bytes: commit.bytes,
                    segments: commit.segments,
                    redacted: commit.redacted,
                })
                .collect();
        }
    }
}
