//! Housekeeping: lanes that come, lanes whose publisher is gone, and the totals that outlive them.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};

use super::{
    ConsumerNotice, Drain, DrainLane, MARKS, Scope, clock, commit, line_value, object, ring,
};
use crate::channel;
use crate::commit::LaneCommit;
use crate::control::Control;
use crate::error::{Error, ErrorKind};
use crate::lane::{self, Lane, RingKind};
use crate::layout::{SOURCES_MAX, SourceSlot, SourceTotals, load_text, store_text};
use crate::object::Listed;
use crate::ring::Reader;
use crate::stats::LaneCounts;
use crate::subscribers;
use crate::sync::atomic::{AtomicU64, Ordering};

/// An object without a directory entry is a creator at work, or its remains; after this long, remains.
const ORPHAN_AGE: Duration = Duration::from_secs(10);

/// So many lanes are read however few file handles there are.
const LANES_ALWAYS: usize = 2;

/// Gives the lane back where its handles leave too few for the log files: what is read has to be written, or no lane
/// ever comes to its end.
fn spare_handles(lane: Lane) -> Result<Lane, Error> {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(lane);
    };
    // The lowest free number is taken each time, so a number tells how many there are below it.
    let number = lane.descriptor.as_raw_fd() as u64;
    if number < limit.saturating_sub((limit / 4).clamp(14, 256)) {
        return Ok(lane);
    }
    let message = format!(
        "{number} file handles are in use, and the rest of the {limit} that this process may have is for log files: \
         raise `ulimit -n`"
    );
    Err(Error::new(ErrorKind::LimitReached, message))
}

impl Drain {
    /// Looks after everything that is not an event: new lanes, dead publishers, the clock, the heartbeat.
    ///
    /// Call it about once a second and when [`Drain::directory_changed`]. Costs two system calls a lane, for new lanes a
    /// reading of `/proc/locks` and some microseconds each, and once a second some loads and stores a source.
    ///
    /// True where a publisher has closed its lane and something in it is not committed yet: call again soon,
    /// so that lanes of publishers that come and go quickly do not add up.
    pub fn housekeep(&mut self) -> bool {
        clock::recalibrate(&self.control.calibration);
        self.beat();
        self.open_new_lanes();
        self.attribute();
        self.remove_dead_lanes();
        self.record_history();
        self.open_lanes().any(DrainLane::is_closed)
    }

    /// Says that the consumer is alive.
    pub fn beat(&mut self) {
        let now_ns = self.clock.now_ns();
        // ORDERING: Relaxed; for people only.
        self.control
            .consumer
            .heartbeat_ns
            .store(now_ns, Ordering::Relaxed);
    }

    /// Whether lanes have come or gone since the last [`Drain::housekeep`].
    pub fn directory_changed(&self) -> bool {
        line_value(&self.control.request.directory_changes) != self.directory_seen
    }

    fn open_new_lanes(&mut self) {
        // ORDERING: Acquire; entries made before this number are seen below.
        self.directory_seen = self
            .control
            .request
            .directory_changes
            .load(Ordering::Acquire);
        let (mut shortage, mut is_out_of_handles) = (None, false);
        for slot in 0..self.lanes.len() {
            // ORDERING: Acquire; pairs with the Release that registered the lane.
            let word = self.control.directory[slot].word.load(Ordering::Acquire);
            if word == 0 || self.lanes[slot].is_some() || is_out_of_handles {
                continue;
            }
            if self.open_lanes().any(|lane| lane.info.epoch == word >> 8) {
                // Somebody has written it here too. Read twice, its events would be taken twice.
                self.clear_entry(slot, word);
                continue;
            }
            let opened = lane::open(
                &self.control.bus,
                RingKind::Lane,
                word >> 8,
                self.control.access,
            );
            let spared = opened.and_then(|lane| match self.open_lanes().count() {
                0..LANES_ALWAYS => Ok(lane),
                _ => spare_handles(lane),
            });
            is_out_of_handles = spared.as_ref().is_err_and(Error::is_shortage);
            match spared.and_then(|lane| self.adopt(slot, lane)) {
                Ok(()) => self.finish_fold(slot),
                Err(error) => {
                    // No file handle for it, no room for its outbox: nothing is wrong with the lane, so it waits.
                    if error.is_shortage() {
                        shortage.get_or_insert(error.to_string());
                        continue;
                    }
                    // Removed by an earlier consumer that died before it cleared the entry, or unusable:
                    // either way nothing can be read from it.
                    if error.kind() != crate::ErrorKind::NotFound {
                        let error = error.to_string();
                        self.notices.push(ConsumerNotice::Unreadable { error });
                        object::unlink(&object::lane_name(&self.control.bus, word >> 8));
                    }
                    self.clear_entry(slot, word);
                }
            }
        }
        // Once, however many wait and however long.
        if self.shortage.is_none()
            && let Some(error) = &shortage
        {
            let error = format!("a lane waits until it can be read: {error}");
            self.notices.push(ConsumerNotice::Unreadable { error });
        }
        self.shortage = shortage;
    }

    /// Goes on where the last consumer committed.
    fn adopt(&mut self, slot: usize, lane: Lane) -> Result<(), Error> {
        let ring = lane.memory.share();
        lane.memory.populate(false);
        let rule = &lane.info.rule;
        let scope = Scope::of(rule);
        let channel = channel::of_pattern(&self.control, &rule.pattern)?;
        let (committed, bank) = match scope {
            Scope::Persisted => {
                let flip = &self.control.consumer.generation;
                (commit::lane(&self.control, slot, lane.info.epoch, flip), 0)
            }
            Scope::Passthrough => {
                let flip = &ring.reader.selector;
                (commit::lane(&self.control, slot, lane.info.epoch, flip), 0)
            }
            Scope::Batched => {
                let outbox = self.open_outbox(channel, rule)?;
                let (epoch, tail) = (outbox.epoch(), outbox.tail_position());
                commit::batched_lane(&self.control, slot, lane.info.epoch, epoch, tail)
            }
        };
        let source = (self.sources).number(&self.control, &lane.info.label, rule.pattern.as_str());
        // The last consumer may have died between its commit and the release. What passthrough lanes keep
        // behind that is history.
        if scope != Scope::Passthrough {
            ring::release(&ring, committed.position);
        }
        match scope {
            // What was committed before us counts no more.
            Scope::Persisted => _ = self.area.set_lane(slot, committed),
            // Statistics go by it, and the last consumer may have died before it told them.
            // ORDERING: Release (K1).
            Scope::Batched => {
                ring.reader.selector.store(bank as u64, Ordering::Release);
                // A commit that was never finished must not come true with a later tail.
                commit::forget(&self.control, slot, bank ^ 1);
                if committed.position == 0 {
                    commit::forget(&self.control, slot, bank);
                }
            }
            Scope::Passthrough => {}
        }
        let (wake_after_bytes, wake_after_events) = rule.ring_after();
        let reader = Reader::resume(
            lane.memory,
            rule.payload_bytes_limit,
            committed.position,
            committed.sequence_next,
        );
        let mut made = DrainLane {
            slot,
            wake_after_bytes,
            wake_after_events,
            scope,
            channel,
            source,
            max_delay_ns: rule.max_delay.as_nanos().min(1 << 60) as u64,
            marks: [committed.position; MARKS],
            bank,
            counts: committed,
            committed_position: committed.position,
            committed_missing: committed.missing,
            durable_position: 0,
            flush_seen_position: 0,
            lag_bytes_recent: 0,
            dirty: false,
            quarantined: false,
            is_lock_taken: false,
            descriptor: lane.descriptor,
            info: lane.info,
            reader,
            ring,
        };
        made.publish_progress();
        if scope != Scope::Persisted {
            // Its publisher may wait for what an earlier consumer has taken.
            made.mark_durable(committed.position);
        }
        self.attribution.meet(&self.control, &made);
        self.lanes[slot] = Some(Box::new(made));
        self.open_slots.push(slot);
        kill_point!("open.lane_adopted");
        Ok(())
    }

    /// Removes the lanes of publishers that have closed or died, once everything in them is committed.
    fn remove_dead_lanes(&mut self) {
        let mut removed = false;
        for index in 0..self.open_slots.len() {
            let slot = self.open_slots[index];
            let Some(lane) = self.lanes[slot].as_deref_mut() else {
                continue;
            };
            if lane.is_finished() {
                self.fold(slot);
                removed = true;
            }
        }
        if removed {
            let lanes = &self.lanes;
            self.open_slots.retain(|&slot| lanes[slot].is_some());
            self.dirty_slots.retain(|&slot| lanes[slot].is_some());
        }
        self.remove_orphans();
    }

    /// A consumer that died between the count of a lane and its removal leaves that to us, before another lane of the
    /// same source is counted: the source remembers only the last one.
    fn finish_fold(&mut self, slot: usize) {
        let Some(lane) = &self.lanes[slot] else {
            return;
        };
        if is_folded(&self.control.sources[lane.source as usize], lane.info.epoch) {
            self.fold(slot);
            self.open_slots.retain(|&other| other != slot);
        }
    }

    /// Adds the lane's numbers to its source, then removes it. Each step can be repeated, as long as no other lane of the
    /// source is counted in between: the source remembers which lane it took last.
    fn fold(&mut self, slot: usize) {
        let Some(lane) = self.lanes[slot].take() else {
            return;
        };
        self.leave_estate(&lane);
        self.recorder.keep_lag(&self.control, &lane);
        let totals = SourceTotalsPlain::of(&lane);
        let source = &self.control.sources[lane.source as usize];
        fold_source(source, lane.info.epoch, &totals);
        kill_point!("consumer.lane_counted");
        object::unlink(&object::lane_name(&self.control.bus, lane.info.epoch));
        kill_point!("consumer.lane_unlinked");
        self.area.set_lane(slot, LaneCommit::default());
        // ORDERING: Relaxed; the word does not change while the lane is ours.
        let word = self.control.directory[slot].word.load(Ordering::Relaxed);
        self.clear_entry(slot, word);
        kill_point!("consumer.lane_cleared");
    }

    fn clear_entry(&self, slot: usize, word: u64) {
        let entry = &self.control.directory[slot].word;
        // ORDERING: AcqRel; a publisher that takes the slot next comes after everything done with it.
        let _ = entry.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Removes objects that nothing names and no process holds: their creator died before it could register
    /// them. Frees the slots of subscribers that are gone.
    fn remove_orphans(&mut self) {
        for Listed {
            name,
            kind,
            epoch,
            entry,
        } in object::list(&self.control.bus)
        {
            // An entry that appears meanwhile belongs to a young object.
            let is_named = match kind.as_str() {
                "lane" => self.is_lane(epoch),
                "outbox" => self.is_outbox(epoch),
                "subscriber" => self.is_subscriber(epoch),
                _ => true,
            };
            // A wiped directory names nothing at all: see `Drain::check`.
            let is_orphan = !is_named && is_old(&entry) && !object::is_locked(&name);
            if is_orphan && self.control.check().is_ok() {
                object::unlink(&name);
            }
        }
        subscribers::free_dead(&self.control);
    }

    fn is_lane(&self, epoch: u64) -> bool {
        let entries = self.control.directory.iter();
        // ORDERING: Relaxed; see the caller.
        entries
            .map(|entry| entry.word.load(Ordering::Relaxed))
            .any(|word| word >> 8 == epoch)
    }

    fn is_outbox(&self, epoch: u64) -> bool {
        let entries = self.control.outboxes.iter();
        // ORDERING: Relaxed; only we write them.
        entries
            .map(|entry| entry.word.load(Ordering::Relaxed))
            .any(|word| word >> 8 == epoch)
    }

    fn is_subscriber(&self, epoch: u64) -> bool {
        let slots = self.control.subscribers.iter();
        // ORDERING: Relaxed; see the caller.
        slots
            .map(|slot| slot.epoch.load(Ordering::Relaxed))
            .any(|other| other == epoch)
    }
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    match modified.map(|modified| SystemTime::now().duration_since(modified)) {
        Ok(Ok(age)) => age > ORPHAN_AGE,
        _ => false,
    }
}

impl DrainLane {
    /// Its publisher has said that nothing will come any more.
    fn is_closed(&self) -> bool {
        // ORDERING: Acquire; everything the publisher did comes before its mark.
        self.ring.publisher.closed.load(Ordering::Acquire) == 1
    }

    /// Nothing will come any more, and everything that came is committed (or given up).
    fn is_finished(&mut self) -> bool {
        let closed = self.is_closed();
        self.is_lock_taken |= !closed && object::try_lock(&self.descriptor);
        let gone = closed || self.is_lock_taken;
        if gone && !closed && !self.quarantined && self.has_records() {
            // Keep the lock: the publisher is dead, and what it left is still to be drained.
            return false;
        }
        gone && (self.quarantined || self.is_committed())
    }

    fn is_committed(&self) -> bool {
        !self.dirty
            && !self.has_records()
            && self.committed_position == self.reader.position()
            && self.committed_missing == self.counts.missing
            && line_value(&self.ring.publisher.sequence_next) <= self.reader.sequence_next()
    }
}

/// Numbers of a source, in plain memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SourceTotalsPlain {
    pub(crate) lanes: u64,
    pub(crate) published: u64,
    pub(crate) delivered: u64,
    pub(crate) written: u64,
    pub(crate) rejected: u64,
    pub(crate) dropped_full: u64,
    pub(crate) dropped_deadline: u64,
    pub(crate) dropped_too_long: u64,
    pub(crate) dropped_other: u64,
    pub(crate) bytes: u64,
    pub(crate) coalesced: u64,
    pub(crate) suppressed: u64,
}

impl SourceTotalsPlain {
    /// A finished lane: what was published and is neither delivered nor dropped by a known cause was
    /// dropped by another one (quarantine, or a publisher that died while it counted).
    fn of(lane: &DrainLane) -> Self {
        let line = &lane.ring.publisher;
        let published = line_value(&line.sequence_next).max(lane.reader.sequence_next());
        let mut totals = SourceTotalsPlain {
            lanes: 1,
            published,
            delivered: lane.counts.delivered,
            written: lane.counts.written,
            rejected: lane.counts.rejected,
            dropped_full: line_value(&line.dropped_full),
            dropped_deadline: line_value(&line.dropped_deadline),
            dropped_too_long: line_value(&line.dropped_too_long),
            dropped_other: 0,
            bytes: lane.counts.delivered_bytes,
            coalesced: lane.counts.coalesced,
            suppressed: lane.counts.suppressed,
        };
        totals.settle();
        totals
    }

    /// Makes the identity hold: known causes never exceed what is missing, the rest is "other".
    pub(crate) fn settle(&mut self) {
        let mut missing = self.published.saturating_sub(self.delivered);
        for dropped in [
            &mut self.dropped_full,
            &mut self.dropped_deadline,
            &mut self.dropped_too_long,
        ] {
            *dropped = (*dropped).min(missing);
            missing -= *dropped;
        }
        self.dropped_other = missing;
    }

    /// Adds what is counted so far of a lane that lives.
    pub(crate) fn add_live(&mut self, counts: &LaneCounts) {
        let committed = &counts.committed;
        let mut live = SourceTotalsPlain {
            lanes: 0,
            published: counts.published - counts.in_flight.min(counts.published),
            delivered: committed.delivered,
            written: committed.written,
            rejected: committed.rejected,
            dropped_full: counts.dropped.full,
            dropped_deadline: counts.dropped.deadline,
            dropped_too_long: counts.dropped.too_long,
            dropped_other: counts.dropped.other,
            bytes: committed.delivered_bytes,
            coalesced: committed.coalesced,
            suppressed: committed.suppressed,
        };
        // As it will be when the lane is gone: a publisher may claim more drops than there are numbers missing.
        live.settle();
        live.published = counts.published;
        self.add(&live);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // A publisher may write any numbers.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.lanes, other.lanes);
        add(&mut self.published, other.published);
        add(&mut self.delivered, other.delivered);
        add(&mut self.written, other.written);
        add(&mut self.rejected, other.rejected);
        add(&mut self.dropped_full, other.dropped_full);
        add(&mut self.dropped_deadline, other.dropped_deadline);
        add(&mut self.dropped_too_long, other.dropped_too_long);
        add(&mut self.dropped_other, other.dropped_other);
        add(&mut self.bytes, other.bytes);
        add(&mut self.coalesced, other.coalesced);
        add(&mut self.suppressed, other.suppressed);
    }

    fn load(slot: &SourceTotals) -> Self {
        SourceTotalsPlain {
            lanes: line_value(&slot.lanes),
            published: line_value(&slot.published),
            delivered: line_value(&slot.delivered),
            written: line_value(&slot.written),
            rejected: line_value(&slot.rejected),
            dropped_full: line_value(&slot.dropped_full),
            dropped_deadline: line_value(&slot.dropped_deadline),
            dropped_too_long: line_value(&slot.dropped_too_long),
            dropped_other: line_value(&slot.dropped_other),
            bytes: line_value(&slot.bytes),
            coalesced: line_value(&slot.coalesced),
            suppressed: line_value(&slot.suppressed),
        }
    }

    /// Of the bank that is in force.
    pub(crate) fn load_in_force(slot: &SourceSlot) -> Self {
        // ORDERING: Acquire; the totals were stored before the selector.
        let bank = slot.selector.load(Ordering::Acquire) & 1;
        Self::load(&slot.totals[bank as usize])
    }

    fn store(&self, slot: &SourceTotals, last_epoch: u64) {
        // ORDERING: Relaxed throughout; published by the Release store of `selector`.
        let put = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        put(&slot.last_epoch, last_epoch);
        put(&slot.lanes, self.lanes);
        put(&slot.published, self.published);
        put(&slot.delivered, self.delivered);
        put(&slot.written, self.written);
        put(&slot.rejected, self.rejected);
        put(&slot.dropped_full, self.dropped_full);
        put(&slot.dropped_deadline, self.dropped_deadline);
        put(&slot.dropped_too_long, self.dropped_too_long);
        put(&slot.dropped_other, self.dropped_other);
        put(&slot.bytes, self.bytes);
        put(&slot.coalesced, self.coalesced);
        put(&slot.suppressed, self.suppressed);
    }
}

/// Whether the lane `epoch` is the last one that was added to its source.
pub(crate) fn is_folded(slot: &SourceSlot, epoch: u64) -> bool {
    // ORDERING: Acquire; the totals were stored before the selector.
    let bank = slot.selector.load(Ordering::Acquire) & 1;
    line_value(&slot.totals[bank as usize].last_epoch) == epoch
}

/// Adds a lane's totals to its source, once, whatever happens in between.
fn fold_source(slot: &SourceSlot, epoch: u64, totals: &SourceTotalsPlain) {
    if is_folded(slot, epoch) {
        return;
    }
    // ORDERING: Relaxed; the consumer is the only writer.
    let selector = slot.selector.load(Ordering::Relaxed);
    let current = &slot.totals[(selector & 1) as usize];
    let mut sum = SourceTotalsPlain::load(current);
    sum.add(totals);
    let next = selector.wrapping_add(1);
    sum.store(&slot.totals[(next & 1) as usize], epoch);
    // ORDERING: Release; the totals before the word that puts them in force.
    slot.selector.store(next, Ordering::Release);
}

/// The slots of sources, remembered: publishers come and go under the same labels, and the table has a thousand
/// texts to compare.
#[derive(Default)]
pub(super) struct SourceNumbers {
    known: HashMap<(String, String), u32>,
}

impl SourceNumbers {
    fn number(&mut self, control: &Control, label: &str, pattern: &str) -> u32 {
        let key = (label.to_owned(), pattern.to_owned());
        if let Some(&number) = self.known.get(&key) {
            return number;
        }
        let number = source_index(control, label, pattern);
        // Those that share the last slot may be any number.
        if (number as usize) < SOURCES_MAX - 1 {
            self.known.insert(key, number);
        }
        number
    }
}

/// The slot of this source: its own, a free one, or the last one for all that came too late.
fn source_index(control: &Control, label: &str, pattern: &str) -> u32 {
    let last = SOURCES_MAX - 1;
    for (index, slot) in control.sources[..last].iter().enumerate() {
        // ORDERING: Relaxed; the consumer is the only writer.
        if slot.in_use.load(Ordering::Relaxed) == 0 {
            name_source(slot, label, pattern);
            return index as u32;
        }
        if load_text(&slot.label) == label && load_text(&slot.pattern) == pattern {
            return index as u32;
        }
    }
    // ORDERING: Relaxed; as above.
    if control.sources[last].in_use.load(Ordering::Relaxed) == 0 {
        name_source(&control.sources[last], "(other)", "*");
    }
    last as u32
}

fn name_source(slot: &SourceSlot, label: &str, pattern: &str) {
    store_text(&slot.label, label);
    store_text(&slot.pattern, pattern);
    // ORDERING: Release; the texts before the mark.
    slot.in_use.store(1, Ordering::Release);
}
