//! The rings of a subscription, read without releasing anything.
//!
//! # Who sees what
//! - *Lanes* of direct rules are merged by time, as the consumer does: each pass takes `T = now` before it
//!   looks at the directory, the outboxes and the tails, in this order, so an effect never comes before its cause.
//! - *Outboxes* are read in order. Those of direct rules hold what lanes left behind when they went away:
//!   events that the subscription has had from the lane itself are dropped as duplicates, by lane and number. The
//!   others are *staged*, and merged with the lanes.
//!
//! # Trust
//! Headers and payloads are copied out, then it is checked that the writer has not been there meanwhile (P5 in
//! `ring`), then what they say is checked. A ring that holds nonsense is read no more, and counted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::position::{Position, RingPosition};
use super::sieve::Sieve;
use super::{At, Receiver, Since, Watch};
use crate::batch::{Batch, BatchView, GapBody};
use crate::channel;
use crate::clock::{self, Clock};
use crate::control::Control;
use crate::drain::{effective_time, split_inline_name};
use crate::event::{Dropped, Event, Lagged, OwnedEvent};
use crate::lane::{self, Lane, LaneMemory, RingKind};
use crate::layout::FLAG_INLINE_NAME;
use crate::level::Level;
use crate::names;
use crate::pattern::Pattern;
use crate::region;
use crate::ring::{KIND_BATCH, KIND_GAP, KIND_LANE_END, Reader, RecordHeader, RingMemory};
use crate::rule::Class;
use crate::sync::atomic::Ordering;

/// What is staged, as a place in the merge.
const STAGED: usize = usize::MAX;
/// Jumps to the oldest record in a row, before a ring counts as damaged.
const SKIPS_MAX: u32 = 1000;
/// Lanes that are gone are remembered, so that their estate is not taken for news; so many at most.
const ENDED_MAX: usize = 4096;

/// A lane that ends with more drops than this says nonsense.
const SEQUENCE_JUMP_MAX: u64 = 1 << 48;

/// A ring read from the side.
struct Tap {
    epoch: u64,
    channel: u32,
    pattern: String,
    reader: Reader<LaneMemory>,
    /// The number that comes next: of a lane's events, or of the events put in an outbox. `None`: whatever
    /// comes first is taken as such.
    expected: Option<u64>,
    /// Outbox: the sum of the last numbers of the lanes whose end we have read, and of those that ended before.
    ended_events: Option<u64>,
    /// Outbox: the part of it that belongs to ends which were overwritten.
    ends_missed: u64,
    /// What is missing up to the next record was overwritten, and not dropped by the publisher.
    lagging: bool,
    damaged: bool,
}

impl Tap {
    fn over(lane: Lane, channel: u32, limit: u32) -> Self {
        lane.memory.populate(false);
        Tap {
            epoch: lane.info.epoch,
            channel,
            pattern: lane.info.rule.pattern.as_str().to_owned(),
            reader: Reader::resume(lane.memory, limit, 0, 0),
            expected: None,
            ended_events: None,
            ends_missed: 0,
            lagging: false,
            damaged: false,
        }
    }

    /// Whether there is something that was not read.
    #[inline(always)]
    fn has_records(&self) -> bool {
        let line = &self.reader.header().publisher;
        // ORDERING: Acquire; a `true` is followed by reading what it is about.
        !self.damaged && line.tail_position.load(Ordering::Acquire) != self.reader.position()
    }

    /// The header of the next record below the tail last seen, checked.
    #[inline(always)]
    fn peek(&mut self) -> Option<RecordHeader> {
        if self.damaged {
            return None;
        }
        for _ in 0..SKIPS_MAX {
            let found = self.reader.peek();
            if self.reader.loss().is_some() {
                return self.give_up();
            }
            if self.reader.is_overwritten() {
                self.skip_overwritten();
                if self.damaged {
                    return None;
                }
                continue;
            }
            return match found {
                Ok(header) => header,
                Err(_) => self.give_up(),
            };
        }
        // A writer that is faster than we can jump is no writer.
        self.give_up()
    }

    /// Looks at the tail.
    #[inline(always)]
    fn refresh(&mut self) {
        if self.damaged {
            return;
        }
        for _ in 0..SKIPS_MAX {
            let seen = self.reader.refresh();
            if self.reader.is_overwritten() {
                self.skip_overwritten();
                if self.damaged {
                    return;
                }
                continue;
            }
            if seen.is_err() {
                self.give_up();
            }
            return;
        }
        self.give_up();
    }

    #[cold]
    fn give_up(&mut self) -> Option<RecordHeader> {
        self.damaged = true;
        None
    }

    #[cold]
    fn skip_overwritten(&mut self) {
        let before = self.reader.position();
        self.reader.resync();
        self.lagging = true;
        if self.reader.position() == before || self.reader.refresh().is_err() {
            // The head is behind what the writer says that it overwrites: one of them is nonsense.
            self.damaged = self.reader.is_overwritten() || self.reader.refresh().is_err();
            if self.damaged {
                self.reader.seek(before);
            }
        }
    }

    /// Copies the payload of the record that `peek` gave; false where it was overwritten meanwhile, and
    /// `peek` is to be asked again.
    #[inline(always)]
    fn copy_payload(&mut self, header: &RecordHeader, scratch: &mut Vec<u8>) -> bool {
        let length_bytes = header.length_bytes.get() as usize;
        if scratch.len() < length_bytes {
            scratch.resize(length_bytes.next_power_of_two(), 0);
        }
        self.reader.copy_payload(&mut scratch[..length_bytes]);
        if self.reader.loss().is_some() {
            self.damaged = true;
            return false;
        }
        if self.reader.is_overwritten() {
            self.skip_overwritten();
            return false;
        }
        true
    }

    /// Goes to the end of what is there now, by walking: only so is the number that comes next known.
    fn skip_to_tail(&mut self) {
        let line = &self.reader.header().publisher;
        // ORDERING: Acquire (P4), before the tail: what has these numbers is below the tail, or dropped.
        let sequence_next = line.sequence_next.load(Ordering::Acquire);
        self.reader.resync();
        self.refresh();
        let tail_position = self.reader.tail_seen();
        let mut next = None;
        while self.reader.position() < tail_position {
            let Some(header) = self.peek() else { break };
            next = Some(header.sequence.get() + 1);
            self.reader.advance(&header);
        }
        self.lagging = false;
        self.expected = Some(next.unwrap_or(sequence_next));
    }

    fn start_at(&mut self, start: &RingPosition) {
        self.reader.seek(start.position);
        self.expected = Some(start.sequence);
    }

    /// A ring that is younger than the subscription: everything that was ever in it is wanted.
    fn start_new(&mut self) {
        self.expected = Some(0);
        self.ended_events = Some(0);
    }

    /// The loss between what was expected and `found`.
    fn lagged(&self, expected: u64, found: u64) -> Lagged {
        Lagged {
            pattern: self.pattern.clone(),
            lane: self.epoch,
            from: expected,
            to: found,
            count: found - expected,
        }
    }
}

/// A lane: its publisher, and whether more can come.
struct LaneTap {
    tap: Tap,
    label: String,
    slot: usize,
    /// It is no longer in the directory.
    gone: bool,
    /// All that it left was seen.
    settled: bool,
}

/// An event that a lane left, on its way into the merge.
struct Staged {
    event: OwnedEvent,
    at: At,
}

impl LaneTap {
    /// The publisher is gone: what it dropped behind its last event is known only now.
    fn tell_last_drops<R: Receiver>(&mut self, sieve: &mut Sieve, watch: &mut Watch<'_, R>) {
        let line = &self.tap.reader.header().publisher;
        // ORDERING: Acquire (P4); its publisher writes no more.
        let next = line.sequence_next.load(Ordering::Acquire);
        let Some(expected) = self.tap.expected else {
            return;
        };
        if (1..=SEQUENCE_JUMP_MAX).contains(&next.saturating_sub(expected)) {
            self.miss(expected, next, sieve, watch);
            self.tap.expected = Some(next);
        }
    }

    /// Numbers `expected` to `next`, exclusive, are missing: overwritten before we came, or dropped.
    #[cold]
    fn miss<R: Receiver>(
        &self,
        expected: u64,
        next: u64,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) {
        let tap = &self.tap;
        if tap.lagging {
            let lagged = tap.lagged(expected, next);
            sieve.counts.lagged = sieve.counts.lagged.saturating_add(lagged.count);
            watch.lagged(lagged);
        } else {
            let dropped = Dropped {
                source: self.label.clone(),
                lane: tap.epoch,
                first: expected,
                last: next - 1,
            };
            sieve.counts.dropped = sieve.counts.dropped.saturating_add(dropped.count());
            watch.dropped(&dropped);
        }
    }
}

/// A lane that is gone.
struct Ended {
    /// The number after the last one that we had.
    next: u64,
    /// Where its end is told; `None`: not known yet.
    channel: Option<u32>,
    /// All that it left was read. A consumer that died may have left it twice, so it is not forgotten.
    settled: bool,
}

pub(super) struct Taps {
    control: Arc<Control>,
    clock: Clock,
    patterns: Vec<Pattern>,
    since: Since,
    /// When reading started, and the last number given to a ring before that.
    start_ns: u64,
    start_epoch: u64,
    /// When we last looked for rings: of one that we do not know, everything is younger.
    followed_ns: u64,
    /// The rings that were there at the start have been found.
    started: bool,
    lanes: Vec<LaneTap>,
    outboxes: Vec<Tap>,
    /// By time.
    staged: VecDeque<Staged>,
    /// Channels whose pattern overlaps with ours.
    channels: Vec<u32>,
    /// Lanes of the directory that we read, or know not to.
    known: HashSet<u64>,
    /// Lanes that are gone.
    ended: HashMap<u64, Ended>,
    ended_order: VecDeque<u64>,
    directory_seen: u64,
    rules_seen: u32,
    heap: BinaryHeap<Reverse<(u64, usize)>>,
    scratch: Vec<u8>,
    kept: Vec<u32>,
    /// A loss that was found behind events which had to be given first.
    kept_lag: Option<Lagged>,
    /// Regions of this process that were lost when we looked last.
    losses_seen: u32,
}

impl Taps {
    /// Finds the rings and where to start in them.
    pub(super) fn open(control: Arc<Control>, patterns: Vec<Pattern>, since: Since) -> Self {
        let clock = Clock::new(control.calibration.clone());
        // ORDERING: Relaxed; lanes with later numbers are seen as new, whatever else is seen of them.
        let start_epoch = control.request.last_epoch.load(Ordering::Relaxed);
        let mut taps = Taps {
            start_ns: clock.now_ns(),
            followed_ns: 0,
            clock,
            start_epoch,
            started: false,
            lanes: Vec::new(),
            outboxes: Vec::new(),
            staged: VecDeque::new(),
            channels: Vec::new(),
            known: HashSet::new(),
            ended: HashMap::new(),
            ended_order: VecDeque::new(),
            directory_seen: 0,
            rules_seen: 0,
            heap: BinaryHeap::new(),
            scratch: Vec::new(),
            kept: Vec::new(),
            kept_lag: None,
            losses_seen: 0,
            control,
            patterns,
            since,
        };
        if let Since::Position(position) = &taps.since {
            taps.start_ns = position.time_ns;
            for (&epoch, ring) in &position.rings {
                let next = ring.sequence;
                let settled = false;
                let ended = Ended {
                    next,
                    channel: None,
                    settled,
                };
                taps.ended.insert(epoch, ended);
            }
        }
        taps.follow();
        taps.started = true;
        taps
    }

    /// The channels to listen to.
    pub(super) fn channels(&self) -> &[u32] {
        &self.channels
    }

    /// Whether rings have come or gone, or the rules have changed, since [`Taps::follow`].
    #[inline(always)]
    pub(super) fn has_changed(&self) -> bool {
        // ORDERING: Relaxed; `follow` looks again.
        let directory = self
            .control
            .request
            .directory_changes
            .load(Ordering::Relaxed);
        let rules = self
            .control
            .doorbell
            .rules_generation
            .load(Ordering::Relaxed);
        directory != self.directory_seen || rules != self.rules_seen
    }

    /// Gives up the rings that were truncated; how many. A load, while nothing was ever lost.
    pub(super) fn count_lost(&mut self) -> u64 {
        let losses = region::losses();
        if losses == self.losses_seen {
            return 0;
        }
        self.losses_seen = losses;
        let mut outboxes = 0;
        for tap in &mut self.outboxes {
            if !tap.damaged && tap.reader.loss().is_some() {
                tap.damaged = true;
                outboxes += 1;
            }
        }
        for lane in &mut self.lanes {
            lane.tap.damaged |= lane.tap.reader.loss().is_some();
        }
        outboxes + self.count_damaged()
    }

    /// Whether some ring holds what was not read.
    #[inline]
    pub(super) fn has_records(&self) -> bool {
        self.kept_lag.is_some()
            || !self.staged.is_empty()
            || self.outboxes.iter().any(Tap::has_records)
            || self.lanes.iter().any(|lane| lane.tap.has_records())
    }

    /// Looks for rings that are new, or gone. A few system calls for each of them.
    pub(super) fn follow(&mut self) {
        self.followed_ns = self.clock.now_ns();
        // ORDERING: Acquire; what was registered before these numbers is seen below.
        self.directory_seen = self
            .control
            .request
            .directory_changes
            .load(Ordering::Acquire);
        let rules_seen = self
            .control
            .doorbell
            .rules_generation
            .load(Ordering::Acquire);
        if !self.started || rules_seen != self.rules_seen {
            self.rules_seen = rules_seen;
            let wanted = |pattern: &Pattern| self.patterns.iter().any(|own| own.overlaps(pattern));
            self.channels = channel::all(&self.control)
                .filter(|(_, pattern)| wanted(pattern))
                .map(|(channel, _)| channel)
                .collect();
        }
        // The outboxes first: what a lane leaves there between the two looks is then still to be read.
        self.follow_outboxes();
        self.follow_lanes();
    }

    fn follow_outboxes(&mut self) {
        for index in 0..self.channels.len() {
            let channel = self.channels[index];
            // ORDERING: Acquire; pairs with the Release that registered the outbox.
            let word = self.control.outboxes[channel as usize]
                .word
                .load(Ordering::Acquire);
            let epoch = word >> 8;
            let known = |tap: &Tap| tap.epoch == epoch;
            if epoch == 0 || self.outboxes.iter().any(known) {
                continue;
            }
            // One that was damaged is replaced by another.
            self.outboxes.retain(|tap| tap.channel != channel);
            let opened = lane::open(
                &self.control.bus,
                RingKind::Outbox,
                epoch,
                self.control.access,
            );
            let Ok(lane) = opened else { continue };
            let limit = lane.memory.capacity_bytes() as u32;
            let mut tap = Tap::over(lane, channel, limit);
            tap.reader = tap.reader.of_outbox();
            match &self.since {
                Since::Position(position) => match position.rings.get(&epoch) {
                    Some(start) => tap.start_at(start),
                    None => tap.start_new(),
                },
                _ if epoch > self.start_epoch => tap.start_new(),
                Since::Now if !self.started => {
                    tap.reader.resync();
                    tap.refresh();
                    let tail_position = tap.reader.tail_seen();
                    // ORDERING: Relaxed; the tail was read before, with Acquire.
                    let ended_events = &tap.reader.header().publisher.dropped_full;
                    tap.ended_events = Some(ended_events.load(Ordering::Relaxed));
                    tap.expected = events_in(&mut tap, tail_position, &mut self.scratch);
                }
                _ => tap.reader.resync(),
            }
            self.outboxes.push(tap);
        }
    }

    fn follow_lanes(&mut self) {
        let control = Arc::clone(&self.control);
        for lane in &mut self.lanes {
            // ORDERING: Acquire; what its publisher did comes before it was cleared.
            let word = control.directory[lane.slot].word.load(Ordering::Acquire);
            lane.gone |= word >> 8 != lane.tap.epoch;
        }
        let known = std::mem::take(&mut self.known);
        for (slot, entry) in control.directory.iter().enumerate() {
            // ORDERING: Acquire; pairs with the Release that registered the lane.
            let epoch = entry.word.load(Ordering::Acquire) >> 8;
            if epoch != 0 && (known.contains(&epoch) || self.open_lane(slot, epoch)) {
                self.known.insert(epoch);
            }
        }
    }

    /// Maps a lane and starts to read it, if it is one of ours; false if it cannot be mapped now.
    fn open_lane(&mut self, slot: usize, epoch: u64) -> bool {
        let opened = lane::open(
            &self.control.bus,
            RingKind::Lane,
            epoch,
            self.control.access,
        );
        // Gone in the meantime, and what it had is in the outbox; or too many open files.
        let Ok(lane) = opened else { return false };
        let rule = &lane.info.rule;
        let wanted = self.patterns.iter().any(|own| own.overlaps(&rule.pattern));
        let channel = match rule.is_direct() && wanted {
            true => channel::of_pattern(&self.control, &rule.pattern).ok(),
            false => None,
        };
        let Some(channel) = channel else { return true };
        let label = lane.info.label.clone();
        let limit = rule.payload_bytes_limit;
        let mut tap = Tap::over(lane, channel, limit);
        match &self.since {
            Since::Position(position) => match position.rings.get(&epoch) {
                Some(start) => tap.start_at(start),
                None => tap.start_new(),
            },
            _ if epoch > self.start_epoch => tap.start_new(),
            Since::Now if !self.started => tap.skip_to_tail(),
            _ => tap.reader.resync(),
        }
        self.lanes.push(LaneTap {
            tap,
            label,
            slot,
            gone: false,
            settled: false,
        });
        true
    }

    /// Gives what there is, up to about `events_max` events.
    pub(super) fn poll<R: Receiver>(
        &mut self,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
        events_max: u64,
    ) {
        if let Some(lagged) = self.kept_lag.take() {
            watch.lagged = Some(lagged);
            return;
        }
        if !self.has_records() {
            return;
        }
        let events_max = sieve.counts.delivered.saturating_add(events_max);
        // Before anything is looked at: see the module's front page.
        let cut_ns = self.clock.cut_ns();
        if self.has_changed() {
            self.follow();
        }
        for index in 0..self.outboxes.len() {
            if self.outboxes[index].has_records() {
                self.poll_outbox(index, sieve, watch, events_max);
            }
            if watch.has_ended() {
                return;
            }
        }
        self.poll_lanes(cut_ns, sieve, watch, events_max);
        if self.lanes.iter().any(|lane| lane.gone) {
            self.end_lanes(sieve, watch);
        }
    }

    /// A loss to be told at the next poll.
    pub(super) fn keep_lag(&mut self, lagged: Lagged) {
        self.kept_lag = Some(lagged);
    }

    fn poll_lanes<R: Receiver>(
        &mut self,
        cut_ns: u64,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
        events_max: u64,
    ) {
        self.heap.clear();
        if let Some(staged) = self.staged.front() {
            let time_ns = effective_time(staged.event.time_ns, cut_ns);
            self.heap.push(Reverse((time_ns, STAGED)));
        }
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.tap.refresh();
            if let Some(header) = lane.tap.peek() {
                let time_ns = effective_time(header.time_ns.get(), cut_ns);
                if time_ns <= cut_ns {
                    self.heap.push(Reverse((time_ns, index)));
                }
            }
        }
        while let Some(Reverse((_, index))) = self.heap.pop() {
            let bound_ns = self
                .heap
                .peek()
                .map_or(cut_ns, |Reverse((time_ns, _))| *time_ns);
            if index == STAGED {
                self.give_staged(bound_ns, cut_ns, sieve, watch);
                if watch.has_ended() || sieve.counts.delivered >= events_max {
                    return;
                }
                continue;
            }
            let lane = &mut self.lanes[index];
            let next = loop {
                let Some(header) = lane.tap.peek() else {
                    break None;
                };
                let time_ns = effective_time(header.time_ns.get(), cut_ns);
                if time_ns > bound_ns {
                    break Some(time_ns);
                }
                if lane.tap.copy_payload(&header, &mut self.scratch) {
                    deliver(lane, &header, &self.scratch, sieve, watch);
                }
                if watch.has_ended() || sieve.counts.delivered >= events_max {
                    return;
                }
            };
            match next {
                Some(time_ns) if time_ns <= cut_ns => self.heap.push(Reverse((time_ns, index))),
                _ => {}
            }
        }
        sieve.counts.damaged += self.count_damaged();
        // Whatever the subscriber publishes from here on is stamped after what it has just seen.
        clock::load_fence();
    }

    /// Gives what was staged, up to `bound_ns`.
    fn give_staged<R: Receiver>(
        &mut self,
        bound_ns: u64,
        cut_ns: u64,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) {
        while let Some(staged) = self.staged.front() {
            let time_ns = effective_time(staged.event.time_ns, cut_ns);
            if time_ns > bound_ns {
                if time_ns <= cut_ns {
                    self.heap.push(Reverse((time_ns, STAGED)));
                }
                return;
            }
            sieve.counts.delivered += 1;
            watch.receiver.event(&staged.event.as_event(), staged.at);
            self.staged.pop_front();
        }
    }

    /// Removes lanes that are damaged from the books; how many.
    fn count_damaged(&mut self) -> u64 {
        let mut damaged = 0;
        let mut index = 0;
        while index < self.lanes.len() {
            if self.lanes[index].tap.damaged {
                let tap = self.lanes.swap_remove(index).tap;
                // What it leaves is not taken for news from the start.
                let next = tap.expected.unwrap_or(0);
                self.remember(tap.epoch, next, tap.channel, false);
                damaged += 1;
            } else {
                index += 1;
            }
        }
        damaged
    }

    /// Lets go of lanes that are gone and read to their end.
    fn end_lanes<R: Receiver>(&mut self, sieve: &mut Sieve, watch: &mut Watch<'_, R>) {
        let mut index = 0;
        while index < self.lanes.len() {
            let lane = &self.lanes[index];
            if lane.gone && !lane.tap.has_records() {
                let mut lane = self.lanes.swap_remove(index);
                lane.tell_last_drops(sieve, watch);
                let next = lane.tap.expected.unwrap_or(0);
                self.remember(lane.tap.epoch, next, lane.tap.channel, lane.settled);
            } else {
                index += 1;
            }
        }
    }

    fn remember(&mut self, epoch: u64, next: u64, channel: u32, settled: bool) {
        let ended = Ended {
            next,
            channel: Some(channel),
            settled,
        };
        if self.ended.insert(epoch, ended).is_none() {
            self.ended_order.push_back(epoch);
            if self.ended_order.len() > ENDED_MAX
                && let Some(oldest) = self.ended_order.pop_front()
            {
                self.ended.remove(&oldest);
            }
        }
    }

    /// The number that the lane's next event must have to be news; `None`: unknown, see `start_ns`.
    fn expected_of(&self, epoch: u64) -> Option<u64> {
        match self.ended.get(&epoch) {
            Some(ended) => Some(ended.next),
            None if epoch > self.start_epoch => Some(0),
            None => None,
        }
    }

    fn tapped(&mut self, epoch: u64) -> Option<&mut LaneTap> {
        self.lanes.iter_mut().find(|lane| lane.tap.epoch == epoch)
    }

    fn poll_outbox<R: Receiver>(
        &mut self,
        index: usize,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
        events_max: u64,
    ) {
        self.outboxes[index].refresh();
        let mut scratch = std::mem::take(&mut self.scratch);
        while !watch.has_ended() && sieve.counts.delivered < events_max {
            let tap = &mut self.outboxes[index];
            let Some(header) = tap.peek() else { break };
            if !tap.copy_payload(&header, &mut scratch) {
                continue;
            }
            let payload = &scratch[..header.length_bytes.get() as usize];
            let start = tap.reader.position();
            tap.reader.advance(&header);
            let read = match header.kind {
                KIND_BATCH => self.read_batch(index, start, payload, sieve, watch),
                KIND_GAP => self.read_gap(payload, sieve, watch),
                KIND_LANE_END => self.read_lane_end(index, payload, sieve, watch),
                _ => Ok(()),
            };
            if read.is_err() {
                self.outboxes[index].damaged = true;
            }
        }
        let outbox = &self.outboxes[index];
        if outbox.ends_missed > 0 && !outbox.has_records() && !watch.has_ended() {
            self.tell_missed_ends(index, sieve, watch);
        }
        // It had records when we came, so it was whole then.
        sieve.counts.damaged += u64::from(self.outboxes[index].damaged);
        self.scratch = scratch;
    }

    fn read_batch<R: Receiver>(
        &mut self,
        index: usize,
        start: u64,
        payload: &[u8],
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) -> Result<(), &'static str> {
        let view = BatchView::parse(payload)?;
        sieve.resolve(&view)?;
        let tap = &mut self.outboxes[index];
        let before = view.events_before();
        if let Some(expected) = tap.expected
            && before > expected
        {
            let lagged = tap.lagged(expected, before);
            sieve.counts.lagged = sieve.counts.lagged.saturating_add(lagged.count);
            watch.lagged(lagged);
        }
        // Entries of a record that was given in part, before the position we started at.
        let skipped = tap
            .expected
            .map_or(0, |expected| expected.saturating_sub(before));
        tap.lagging = false;
        tap.expected = Some(view.events_after());
        let at = At {
            ring: tap.epoch,
            position: start,
            sequence: before,
            is_estate: false,
        };
        if view.class() == Class::Passthrough {
            self.read_estate(index, at, &view, sieve, watch);
            return Ok(());
        }
        let mut kept = std::mem::take(&mut self.kept);
        let all = sieve.sift(&view, skipped, &mut kept);
        if !kept.is_empty() {
            sieve.counts.delivered += kept.len() as u64;
            let batch = Batch::new(view, &sieve.resolver, (!all).then_some(&kept[..]));
            if view.class() == Class::Conflate {
                let replaced = batch.events().map(|event| u64::from(event.replaced));
                sieve.counts.replaced = sieve.counts.replaced.saturating_add(replaced.sum::<u64>());
            }
            watch.receiver.batch(&batch, at);
        }
        self.kept = kept;
        Ok(())
    }

    /// What a lane left: events that we have not had from the lane itself, and will not get from it.
    fn read_estate<R: Receiver>(
        &mut self,
        index: usize,
        at: At,
        view: &BatchView<'_>,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) {
        let at = At {
            is_estate: true,
            ..at
        };
        for entry in view.entries() {
            let resolver = std::mem::take(&mut sieve.resolver);
            let event = entry.event(&resolver);
            let (lane, sequence) = (event.lane, event.sequence);
            let expected = self.expected_of(lane);
            let is_news = match expected {
                // We have it mapped, and read it to its end.
                _ if self.tapped(lane).is_some() => false,
                Some(expected) => sequence >= expected,
                None => {
                    !matches!(self.since, Since::Now | Since::Position(_))
                        || event.time_ns > self.start_ns
                }
            };
            if is_news {
                if let Some(expected) = expected
                    && sequence > expected
                {
                    let lagged = Lagged {
                        lane,
                        ..self.outboxes[index].lagged(expected, sequence)
                    };
                    sieve.counts.lagged = sieve.counts.lagged.saturating_add(lagged.count);
                    watch.lagged(lagged);
                }
                let channel = self.outboxes[index].channel;
                self.remember(lane, sequence.saturating_add(1), channel, false);
                if sieve.keeps(entry.name_id(), &event) {
                    let event = event.to_owned();
                    self.staged.push_back(Staged { event, at });
                }
            } else {
                sieve.counts.duplicates += 1;
            }
            sieve.resolver = resolver;
        }
        // Few, and mostly in order already.
        let by_time = |staged: &Staged| staged.event.time_ns;
        self.staged.make_contiguous().sort_by_key(by_time);
    }

    fn read_gap<R: Receiver>(
        &mut self,
        payload: &[u8],
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) -> Result<(), &'static str> {
        let gap = GapBody::parse(payload)?;
        let source = names::source(&self.control.sources, gap.source());
        let source = source.unwrap_or_else(|| "?".to_owned());
        let dropped = Dropped {
            source,
            lane: gap.lane_epoch(),
            first: gap.first(),
            last: gap.last(),
        };
        sieve.counts.dropped = sieve.counts.dropped.saturating_add(dropped.count());
        watch.dropped(&dropped);
        Ok(())
    }

    /// A lane is gone: did we have everything?
    fn read_lane_end<R: Receiver>(
        &mut self,
        index: usize,
        payload: &[u8],
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) -> Result<(), &'static str> {
        let end = GapBody::parse(payload)?;
        let (lane, next) = (end.lane_epoch(), end.first());
        let outbox = &mut self.outboxes[index];
        let channel = outbox.channel;
        if let Some(before) = outbox.ended_events {
            let missed = end.last().saturating_sub(next).saturating_sub(before);
            outbox.ends_missed = outbox.ends_missed.saturating_add(missed);
        }
        outbox.ended_events = Some(end.last());
        // We still have it: the rest comes from the lane itself.
        if let Some(tapped) = self.tapped(lane) {
            tapped.settled = true;
            return Ok(());
        }
        if let Some(expected) = self.expected_of(lane)
            && expected < next
        {
            let lagged = Lagged {
                lane,
                ..self.outboxes[index].lagged(expected, next)
            };
            sieve.counts.lagged = sieve.counts.lagged.saturating_add(lagged.count);
            watch.lagged(lagged);
        }
        self.remember(lane, next, channel, true);
        Ok(())
    }

    /// The outbox was read to its end, and some lanes' ends were overwritten in it before. Those of lanes that we
    /// know are no loss; what is left belongs to lanes that we never saw.
    #[cold]
    fn tell_missed_ends<R: Receiver>(
        &mut self,
        index: usize,
        sieve: &mut Sieve,
        watch: &mut Watch<'_, R>,
    ) {
        let outbox = &mut self.outboxes[index];
        let (channel, mut unknown) = (outbox.channel, std::mem::take(&mut outbox.ends_missed));
        // It is no longer in the directory, so its end was told, and we have not read it: it was overwritten.
        for lane in &mut self.lanes {
            if lane.gone && !lane.settled && lane.tap.channel == channel {
                lane.settled = true;
                let line = &lane.tap.reader.header().publisher;
                // ORDERING: Acquire (P4); its publisher writes no more.
                unknown = unknown.saturating_sub(line.sequence_next.load(Ordering::Acquire));
            }
        }
        for ended in self.ended.values_mut() {
            if !ended.settled && ended.channel == Some(channel) {
                ended.settled = true;
                unknown = unknown.saturating_sub(ended.next);
            }
        }
        if unknown > 0 {
            let lagged = Lagged {
                count: unknown,
                ..self.outboxes[index].lagged(0, unknown)
            };
            sieve.counts.lagged = sieve.counts.lagged.saturating_add(unknown);
            watch.lagged(lagged);
        }
    }

    pub(super) fn position(&self) -> Position {
        let lanes = self.lanes.iter().map(|lane| &lane.tap);
        let mut rings: BTreeMap<u64, RingPosition> = lanes
            .chain(&self.outboxes)
            .map(|tap| {
                let ring = RingPosition {
                    position: tap.reader.position(),
                    sequence: tap.expected.unwrap_or(0),
                };
                (tap.epoch, ring)
            })
            .collect();
        for Staged { event, at } in self.staged.iter().rev() {
            let ring = |position, sequence| RingPosition { position, sequence };
            rings.insert(at.ring, ring(at.position, at.sequence));
            rings.insert(event.lane, ring(0, event.sequence));
        }
        // What they left may still be to come.
        for (&epoch, ended) in self.ended.iter().filter(|(_, ended)| !ended.settled) {
            rings.entry(epoch).or_insert(RingPosition {
                position: 0,
                sequence: ended.next,
            });
        }
        Position {
            time_ns: self.followed_ns,
            rings,
        }
    }
}

/// Gives an event of a lane to the subscriber, if it is one for it.
#[inline]
fn deliver<R: Receiver>(
    lane: &mut LaneTap,
    header: &RecordHeader,
    scratch: &[u8],
    sieve: &mut Sieve,
    watch: &mut Watch<'_, R>,
) {
    let tap = &mut lane.tap;
    let sequence = header.sequence.get();
    let at = At {
        ring: tap.epoch,
        position: tap.reader.position(),
        sequence,
        is_estate: false,
    };
    tap.reader.advance(header);
    if let Some(expected) = tap.expected {
        if sequence < expected {
            // Read before: the head, where we had to go on, is behind the position that we started at.
            sieve.counts.duplicates += 1;
            return;
        }
        if sequence > expected {
            lane.miss(expected, sequence, sieve, watch);
        }
    }
    let tap = &mut lane.tap;
    tap.lagging = false;
    tap.expected = Some(sequence + 1);
    let bytes = &scratch[..header.length_bytes.get() as usize];
    let id = header.name_id.get();
    let event = |name, payload| Event {
        name,
        source: &lane.label,
        time_ns: header.time_ns.get(),
        level: Level::from_u8(header.level),
        lane: tap.epoch,
        sequence,
        schema_id: header.schema_id.get(),
        replaced: 0,
        is_aggregate: false,
        payload,
    };
    if header.flags.get() & FLAG_INLINE_NAME != 0 {
        let Some((name, payload)) = split_inline_name(bytes) else {
            tap.damaged = true;
            return;
        };
        let event = event(name.text, payload);
        if sieve.keeps(None, &event) {
            sieve.counts.delivered += 1;
            watch.receiver.event(&event, at);
        }
        return;
    }
    if !sieve.knows_name(id) {
        tap.damaged = true;
        return;
    }
    let resolver = std::mem::take(&mut sieve.resolver);
    if let Some(name) = resolver.name(id) {
        let event = event(name, bytes);
        if sieve.keeps(Some(id), &event) {
            sieve.counts.delivered += 1;
            watch.receiver.event(&event, at);
        }
    }
    sieve.resolver = resolver;
}

/// How many events were put in an outbox before `tail_position`; reads on to there.
fn events_in(tap: &mut Tap, tail_position: u64, scratch: &mut Vec<u8>) -> Option<u64> {
    let mut events = (tail_position == 0).then_some(0);
    while tap.reader.position() < tail_position {
        let Some(header) = tap.peek() else { break };
        if !tap.copy_payload(&header, scratch) {
            continue;
        }
        if header.kind == KIND_BATCH
            && let Ok(view) = BatchView::parse(&scratch[..header.length_bytes.get() as usize])
        {
            events = Some(view.events_after());
        }
        tap.reader.advance(&header);
    }
    tap.lagging = false;
    events
}
