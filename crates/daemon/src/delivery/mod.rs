//! Collects the events of batched channels and writes them as consolidated records.
//!
//! A *channel* is one pattern of the rule table. Its events wait here, in bounded memory, until its flush is
//! due; a flush hands out everything that the channel has pending, one or more records per literal prefix
//! (the name without its last segment). Nothing here knows the bus or the clock: records come in,
//! pieces go out, and the time is said by the caller.
//!
//! # Accounts
//! Over any stretch that ends with a flush, for each lane:
//! `taken by offer = coalesced + entries written`, where an entry belongs to the lane whose event it carries:
//! - batch: each event is an entry; nothing is coalesced;
//! - conflate: each replaced event is coalesced, counted to *its own* lane; the last one is the entry;
//! - aggregate: an entry stands for all of its events and names the last one's lane; every other event is
//!   coalesced, counted to its own lane.
//!
//! The one kind of entry that no event became is the mark of a name that fell silent (a stale aggregate,
//! count 0): it belongs to no lane's account and is counted in [`ChannelCounts::stale`].
//!
//! # Bounds
//! What a channel has pending, with its overhead, stays below a quarter of its outbox and 1 MiB. At that cap
//! `offer` answers `Stop`: the record stays in its lane, and the channel is due at once.

mod aggregate;
mod batch;
mod conflate;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millpond_bus::{
    BATCH_HEAD_BYTES_MAX, BatchParts, Class, ConflateKey, Entry, Gap, GapBody, LaneId, Record,
    Rule, Schema, Verdict, literal_prefix,
};

use self::aggregate::Windows;
use self::batch::Groups;
use self::conflate::Latest;

/// Most bytes that a channel has pending, whatever the size of its outbox.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// What a record, a key or a name costs beside its entries: the heads of its record in the outbox (200 bytes
/// at most), its text, and the tables here.
const OVERHEAD_BYTES: usize = 512;
/// Leading events flush a channel so many times in `max_delay` at most.
const LEADING_PART: u64 = 10;
/// A ring's record header.
const RECORD_HEADER_BYTES: usize = 32;
/// What a gap takes in an outbox.
const GAP_BYTES: usize = RECORD_HEADER_BYTES + size_of::<GapBody>();

/// Finds a schema by its number.
pub(crate) type SchemaLookup<'a> = &'a dyn Fn(u32) -> Option<Arc<Schema>>;

/// What a flush hands out, to be put into the outbox in this order.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A consolidated record.
    Batch(BatchParts<'a>),
    /// Numbers that a publisher dropped.
    Gap(GapBody),
}

/// What happened to the events of a channel beside being delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ChannelCounts {
    /// Entries that flushes wrote, stale marks included.
    pub(crate) entries: u64,
    /// Conflate: events without the key, which were keyed by their name.
    pub(crate) not_keyed: u64,
    /// Aggregate: events without a usable schema, which were delivered as they are.
    pub(crate) not_aggregated: u64,
    /// Aggregate: names reported as silent.
    pub(crate) stale: u64,
    /// Events that a quarter of the outbox does not hold: refused.
    pub(crate) too_long: u64,
}

/// What of a rule the collectors go by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    class: Class,
    key: ConflateKey,
    /// Longest payload of one record in the outbox.
    record_bytes_limit: usize,
    /// The same for its entries alone; for each event, so it is kept.
    entries_bytes_limit: usize,
    pending_bytes_limit: usize,
    max_events: u32,
    max_bytes: usize,
    max_delay_ns: u64,
}

impl Settings {
    fn of(rule: &Rule) -> Self {
        let quarter = rule.outbox_bytes as usize / 4;
        let record_bytes_limit = quarter.saturating_sub(RECORD_HEADER_BYTES);
        Settings {
            // A rule that is delivered directly has no records of its own here: what still comes was published
            // before it was in force, and goes out in batches. A record of class passthrough would be taken
            // for what a lane has left behind.
            class: match rule.is_direct() {
                true => Class::Batch,
                false => rule.class,
            },
            key: rule.conflate_key.clone(),
            record_bytes_limit,
            entries_bytes_limit: record_bytes_limit.saturating_sub(BATCH_HEAD_BYTES_MAX),
            pending_bytes_limit: quarter.min(PENDING_BYTES_MAX),
            max_events: rule.max_events,
            max_bytes: rule.max_bytes as usize,
            max_delay_ns: u64::try_from(rule.max_delay.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// The same, for an outbox that holds records up to `record_bytes_limit`: it keeps its size when the rule
    /// gets another one.
    fn within(mut self, record_bytes_limit: usize) -> Self {
        let quarter = record_bytes_limit.saturating_add(RECORD_HEADER_BYTES);
        self.record_bytes_limit = self.record_bytes_limit.min(record_bytes_limit);
        self.entries_bytes_limit = self.record_bytes_limit.saturating_sub(BATCH_HEAD_BYTES_MAX);
        self.pending_bytes_limit = self.pending_bytes_limit.min(quarter);
        self
    }
}

/// Events per lane. A lane may be in the list more than once, where its slot was used again in between.
#[derive(Debug, Default)]
struct LaneCounts {
    list: Vec<(LaneId, u64)>,
    /// By directory slot: where in `list` to look first.
    places: Vec<u32>,
}

impl LaneCounts {
    #[inline]
    fn add(&mut self, lane: LaneId) {
        let slot = lane.slot as usize;
        if let Some(&place) = self.places.get(slot)
            && let Some((known, count)) = self.list.get_mut(place as usize)
            && *known == lane
        {
            *count += 1;
            return;
        }
        if self.places.len() <= slot {
            self.places.resize(slot + 1, u32::MAX);
        }
        self.places[slot] = self.list.len() as u32;
        self.list.push((lane, 1));
    }
}

/// What makes a channel's consolidated records.
#[derive(Debug)]
enum Collector {
    Batch,
    Conflate(Latest),
    Aggregate(Windows),
}

impl Collector {
    fn new(class: Class) -> Self {
        match class {
            Class::Passthrough | Class::Batch => Collector::Batch,
            Class::Conflate => Collector::Conflate(Latest::default()),
            Class::Aggregate => Collector::Aggregate(Windows::default()),
        }
    }
}

/// What the collectors share.
#[derive(Debug)]
struct Pending {
    settings: Settings,
    /// Entries on their way into records.
    groups: Groups,
    /// What is pending takes, overhead included.
    bytes: usize,
    /// When it has to go; `u64::MAX` while nothing is pending.
    due_ns: u64,
    /// When the last flush was.
    flushed_ns: u64,
    coalesced: LaneCounts,
    counts: ChannelCounts,
}

impl Pending {
    /// Whether a further `bytes` fit. What comes first always does: `offer` refuses what no record holds.
    /// Where they do not fit, the channel is due.
    fn has_room(&mut self, bytes: usize) -> bool {
        let fits = self.bytes == 0 || self.bytes + bytes <= self.settings.pending_bytes_limit;
        if !fits {
            self.due_ns = 0;
        }
        fits
    }

    /// The delay runs from the first event that is pending. Windows of aggregates end at multiples of it, so that a source
    /// with a steady rate has one record in each of them (but for an event that is drained behind the end of its window), and
    /// those of several channels are of the same time.
    fn note_time(&mut self, time_ns: u64) {
        let delay_ns = self.settings.max_delay_ns;
        let since_last_ns = match self.settings.class {
            Class::Aggregate => time_ns.checked_rem(delay_ns).unwrap_or(0),
            _ => 0,
        };
        let due_ns = (time_ns - since_last_ns).saturating_add(delay_ns);
        self.due_ns = self.due_ns.min(due_ns);
    }

    /// The first event of a quiet prefix does not wait for others: at once, unless the channel was flushed just
    /// now. So a trickle is prompt, and a flood of prefixes that are all new is still collected.
    fn leading_due_ns(&self, time_ns: u64) -> u64 {
        let pause_ns = self.settings.max_delay_ns / LEADING_PART;
        time_ns.max(self.flushed_ns.saturating_add(pause_ns))
    }

    /// An event that becomes an entry as it is; a full record makes the channel due.
    #[inline(always)]
    fn append(&mut self, entry: &Entry<'_>) -> Verdict {
        if !self.has_room(entry.entry_bytes() + OVERHEAD_BYTES) {
            return Verdict::Stop;
        }
        let appended = self.groups.append(entry, &self.settings);
        self.bytes += appended.bytes;
        if appended.full {
            self.due_ns = 0;
            return Verdict::Keep;
        }
        self.note_time(entry.time_ns);
        if appended.leading && self.settings.class == Class::Batch {
            self.due_ns = self.due_ns.min(self.leading_due_ns(entry.time_ns));
        }
        Verdict::Keep
    }
}

#[derive(Debug)]
struct Channel {
    pending: Pending,
    collector: Collector,
    /// Numbers that publishers dropped.
    gaps: Vec<(LaneId, GapBody)>,
    /// Settings that take effect at the next flush.
    settings_next: Option<Settings>,
    /// Of the last flush.
    flushed: LaneCounts,
}

/// The collectors of all channels.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    channels: Vec<Option<Box<Channel>>>,
    /// Those that are there: numbers are spread over hundreds, and each step asks which is due.
    used: Vec<u32>,
    /// By channel: the longest record that its outbox holds. A channel beyond the end has none yet.
    limits: Vec<usize>,
}

impl Delivery {
    pub(crate) fn new() -> Self {
        Delivery::default()
    }

    /// Puts a rule in force for a channel: at once, or with the next flush where something is pending.
    ///
    /// A channel that was never told goes by the rule of the first record that it sees. Lanes outlive reloads:
    /// the channel's rule, not that of the record's lane, decides.
    pub(crate) fn set_rule(&mut self, channel: u32, rule: &Rule) {
        let settings = Settings::of(rule).within(self.limit(channel));
        let channel = self.channel(channel, rule);
        if channel.pending.settings == settings {
            channel.settings_next = None;
        } else if channel.pending.bytes == 0 {
            channel.apply(settings);
        } else {
            channel.settings_next = Some(settings);
            channel.pending.due_ns = 0;
        }
    }

    /// Takes an event: copies what it needs. `Stop`: the channel is full and has to be flushed first.
    /// `Reject`: a quarter of the outbox does not hold it.
    #[inline]
    pub(crate) fn offer(&mut self, record: &Record<'_>, schemas: SchemaLookup<'_>) -> Verdict {
        self.channel(record.channel, record.rule)
            .offer(record, schemas)
    }

    /// Takes a loss. `Stop` as in [`Delivery::offer`].
    pub(crate) fn offer_gap(&mut self, gap: &Gap<'_>, now_ns: u64) -> Verdict {
        self.channel(gap.channel, gap.rule).offer_gap(gap, now_ns)
    }

    #[inline(always)]
    fn channel(&mut self, channel: u32, rule: &Rule) -> &mut Channel {
        let index = channel as usize;
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        let (limits, used) = (&self.limits, &mut self.used);
        self.channels[index].get_or_insert_with(|| new_channel(limits, used, channel, rule))
    }

    /// What [`Delivery::set_limit`] has said.
    pub(crate) fn limit(&self, channel: u32) -> usize {
        let limit = self.limits.get(channel as usize);
        limit.copied().unwrap_or(usize::MAX)
    }

    /// Says what the outbox of a channel holds, before anything is offered for it.
    pub(crate) fn set_limit(&mut self, channel: u32, record_bytes_limit: usize) {
        let index = channel as usize;
        if self.limits.len() <= index {
            self.limits.resize(index + 1, usize::MAX);
        }
        self.limits[index] = record_bytes_limit;
        if let Some(Some(channel)) = self.channels.get_mut(index) {
            let settings = &mut channel.pending.settings;
            *settings = settings.clone().within(record_bytes_limit);
            let next = channel.settings_next.take();
            channel.settings_next = next.map(|next| next.within(record_bytes_limit));
        }
    }

    /// When the next channel has to be flushed; `None` while nothing is pending and no name can go stale.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.used()
            .map(|(_, channel)| channel.due_ns())
            .min()
            .filter(|&due_ns| due_ns != u64::MAX)
    }

    /// A channel that has to be flushed now.
    pub(crate) fn next_due(&self, now_ns: u64) -> Option<u32> {
        self.position(|channel| channel.due_ns() <= now_ns)
    }

    /// A channel that has anything pending, due or not: for a stop, or for somebody who waits for a flush.
    pub(crate) fn next_pending(&self) -> Option<u32> {
        self.position(|channel| channel.pending.bytes > 0)
    }

    /// Whether the channel has anything pending.
    pub(crate) fn is_pending(&self, channel: u32) -> bool {
        match self.channels.get(channel as usize) {
            Some(Some(channel)) => channel.pending.bytes > 0,
            _ => false,
        }
    }

    fn position(&self, wanted: impl Fn(&Channel) -> bool) -> Option<u32> {
        let found = self.used().find(|(_, channel)| wanted(channel));
        found.map(|(number, _)| number)
    }

    fn used(&self) -> impl Iterator<Item = (u32, &Channel)> {
        let channel = |number: u32| self.channels[number as usize].as_deref();
        self.used
            .iter()
            .filter_map(move |&number| Some((number, channel(number)?)))
    }

    /// Hands out everything that the channel has pending, and the marks of names that fell silent. Gaps come
    /// first: they are older than what follows them in their lane.
    ///
    /// Returns how many events were coalesced, by lane; a lane may be there more than once. Afterwards
    /// nothing is pending.
    pub(crate) fn flush(
        &mut self,
        channel: u32,
        now_ns: u64,
        out: &mut impl FnMut(Piece<'_>),
    ) -> &[(LaneId, u64)] {
        match self.channels.get_mut(channel as usize) {
            Some(Some(channel)) => channel.flush(now_ns, out),
            _ => &[],
        }
    }

    /// What was counted for a channel so far.
    pub(crate) fn counts(&self, channel: u32) -> ChannelCounts {
        match self.channels.get(channel as usize) {
            Some(Some(channel)) => channel.pending.counts,
            _ => ChannelCounts::default(),
        }
    }
}

/// Out of line: every event asks for its channel.
#[cold]
#[inline(never)]
fn new_channel(limits: &[usize], used: &mut Vec<u32>, channel: u32, rule: &Rule) -> Box<Channel> {
    used.push(channel);
    let limit = limits.get(channel as usize).copied();
    let limit = limit.unwrap_or(usize::MAX);
    Box::new(Channel::new(Settings::of(rule).within(limit)))
}

impl Channel {
    fn new(settings: Settings) -> Self {
        Channel {
            collector: Collector::new(settings.class),
            pending: Pending {
                settings,
                groups: Groups::default(),
                bytes: 0,
                due_ns: u64::MAX,
                flushed_ns: 0,
                coalesced: LaneCounts::default(),
                counts: ChannelCounts::default(),
            },
            gaps: Vec::new(),
            settings_next: None,
            flushed: LaneCounts::default(),
        }
    }

    fn apply(&mut self, settings: Settings) {
        // Another key or class: what is remembered from earlier windows means nothing any more.
        let same = self.pending.settings.class == settings.class
            && self.pending.settings.key == settings.key;
        if !same {
            self.collector = Collector::new(settings.class);
        }
        self.pending.settings = settings;
    }

    // Inlined into the pass: an entry that goes through memory waits for the stores that made it.
    #[inline(always)]
    fn offer(&mut self, record: &Record<'_>, schemas: SchemaLookup<'_>) -> Verdict {
        let pending = &mut self.pending;
        // An entry for each: one for all three would be written to memory for those that are called.
        if Entry::from(record).entry_bytes() > pending.settings.entries_bytes_limit {
            pending.counts.too_long += 1;
            return Verdict::Reject;
        }
        match &mut self.collector {
            Collector::Batch => pending.append(&Entry::from(record)),
            Collector::Conflate(latest) => {
                latest.offer(record.lane, &Entry::from(record), schemas, pending)
            }
            Collector::Aggregate(windows) => {
                windows.offer(record.lane, &Entry::from(record), schemas, pending)
            }
        }
    }

    fn offer_gap(&mut self, gap: &Gap<'_>, now_ns: u64) -> Verdict {
        let body = GapBody::new(gap.lane.epoch, gap.first, gap.last, gap.source);
        let mut last = self.gaps.last_mut();
        if let Some((lane, known)) = &mut last
            && *lane == gap.lane
            && known.last().checked_add(1) == Some(gap.first)
        {
            *known = GapBody::new(gap.lane.epoch, known.first(), gap.last, gap.source);
            return Verdict::Keep;
        }
        if !self.pending.has_room(GAP_BYTES) {
            return Verdict::Stop;
        }
        self.pending.bytes += GAP_BYTES;
        self.pending.note_time(now_ns);
        self.gaps.push((gap.lane, body));
        Verdict::Keep
    }

    fn due_ns(&self) -> u64 {
        match &self.collector {
            Collector::Aggregate(windows) if self.pending.bytes == 0 => windows.stale_ns(),
            _ => self.pending.due_ns,
        }
    }

    fn flush(&mut self, now_ns: u64, out: &mut impl FnMut(Piece<'_>)) -> &[(LaneId, u64)] {
        for (_, gap) in self.gaps.drain(..) {
            out(Piece::Gap(gap));
        }
        let pending = &mut self.pending;
        match &mut self.collector {
            Collector::Batch => {}
            Collector::Conflate(latest) => latest.flush(pending),
            Collector::Aggregate(windows) => windows.flush(now_ns, pending),
        }
        let settings = &pending.settings;
        pending.counts.entries += pending.groups.emit(settings, out);
        pending.bytes = 0;
        pending.due_ns = u64::MAX;
        pending.flushed_ns = now_ns;
        self.flushed.list.clear();
        std::mem::swap(&mut self.flushed, &mut pending.coalesced);
        if let Some(settings) = self.settings_next.take() {
            self.apply(settings);
        }
        &self.flushed.list
    }
}

/// For each interned name, the place in a table that was found for it last.
///
/// Every other way to find it hashes the name's text. Names that are not interned have no place here.
#[derive(Debug, Default)]
struct NamePlaces {
    places: Vec<(u32, u32)>,
    /// Places of earlier generations are void.
    generation: u32,
}

impl NamePlaces {
    /// As many as a bus has interned names; a larger number is not remembered.
    const NAMES_MAX: usize = 4096;

    #[inline]
    fn get(&self, name_id: u32) -> Option<usize> {
        let &(generation, place) = self.places.get(name_id as usize)?;
        (generation == self.generation.wrapping_add(1)).then_some(place as usize)
    }

    fn set(&mut self, name_id: u32, place: usize) {
        let index = name_id as usize;
        if index >= Self::NAMES_MAX {
            return;
        }
        if self.places.len() <= index {
            self.places.resize(index + 1, (0, 0));
        }
        self.places[index] = (self.generation.wrapping_add(1), place as u32);
    }

    fn clear(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        // Before a number comes again.
        if self.generation == u32::MAX {
            self.places.clear();
            self.generation = 0;
        }
    }
}
