//! The commit point: what is true after a crash, in two banks and one word.
//!
//! Everything that a commit makes true together (how long each service's log is, how far each lane is
//! taken, and the counters) is written to the bank that is not in force. Then one store flips
//! `generation`, whose lowest bit names the bank in force. Dying before the store leaves the old bank,
//! dying after it the new one; there is nothing in between.
//!
//! Passthrough lanes do not wait for the disk: each has a `selector` of its own for the same pair of slots.
//!
//! Batched lanes are taken when their events are in the outbox, so the outbox's tail decides: each slot says
//! which tail makes it true, and of the two the later one that is true counts. One store, the tail, thus
//! makes the records readable and the lanes taken, for any number of lanes; there is nothing in between in
//! which an event would be lost, or be there twice. Their `selector` is for statistics only.
//!
//! Ordering pair K1, `generation` (and `selector`): Release by the consumer after the bank -> Acquire by
//! whoever reads a bank, who looks again afterwards.

use crate::control::Control;
use crate::layout::{
    LANES_MAX, LaneCommitSlot, SERVICES_MAX, ServiceCommitSlot, load_text, store_text,
};
use crate::ring::PLAUSIBLE_MAX;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// Of the checksum of a service's slot: any odd numbers without a pattern.
const SUM_START: u64 = 0x9e37_79b9_7f4a_7c15;
const SUM_FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// How far one service's log is committed: the part of the file that is true after a crash.
///
/// ```
/// let commit = millpond_bus::ServiceCommit { name: "web".into(), ..Default::default() };
/// assert_eq!(commit.length_bytes, 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceCommit {
    /// The service, at most 64 bytes.
    pub name: String,
    /// Id of the open segment.
    pub segment_id: u64,
    /// Bytes of the open segment that are committed.
    pub length_bytes: u64,
    /// Lines ever committed, over all segments.
    pub lines: u64,
    /// Bytes of text ever committed, over all segments.
    pub bytes: u64,
    /// Segments opened so far.
    pub segments: u64,
    /// What reduction took from the lanes and no line has told yet.
    pub untold: Untold,
    /// Pieces of text ever replaced by redaction, also in lines that were then swallowed or suppressed.
    pub redacted: u64,
}

/// Lines that were taken from their lanes and stand in no file: repeats of the last line, and what a rate limit
/// kept out. It is committed with the rest, so that a consumer that dies tells the next one the counts.
///
/// ```
/// assert_eq!(millpond_bus::Untold::default().repeats, 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Untold {
    /// How often the last line came again.
    pub repeats: u64,
    /// When first, real time in ns.
    pub repeat_first_ns: u64,
    /// When last.
    pub repeat_last_ns: u64,
    /// The level of what repeats.
    pub repeat_level: u8,
    /// The source of what repeats, cut at 64 bytes.
    pub repeat_source: String,
    /// Lines that a rate limit or sampling kept out.
    pub suppressed: u64,
    /// When first, real time in ns.
    pub suppressed_first_ns: u64,
    /// When last.
    pub suppressed_last_ns: u64,
}

/// How far one lane is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LaneCommit {
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    pub(crate) sequence_next: u64,
    /// Events the consumer took.
    pub(crate) delivered: u64,
    /// Of these, events that are in a log file.
    pub(crate) written: u64,
    /// Of these, events refused for what they were (a service name that cannot be one, say).
    pub(crate) rejected: u64,
    /// Numbers missing in the sequence: events the publisher dropped.
    pub(crate) missing: u64,
    pub(crate) delivered_bytes: u64,
    /// Of those delivered, events that a later one or an aggregate stands for.
    pub(crate) coalesced: u64,
    /// Of those delivered, events that a rate limit or sampling kept out of the log.
    pub(crate) suppressed: u64,
}

impl LaneCommitSlot {
    pub(crate) fn store(&self, commit: &LaneCommit) {
        // ORDERING: Relaxed throughout; published by the Release flip (K1).
        let put = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        put(&self.epoch, commit.epoch);
        put(&self.position, commit.position);
        put(&self.sequence_next, commit.sequence_next);
        put(&self.delivered, commit.delivered);
        put(&self.written, commit.written);
        put(&self.rejected, commit.rejected);
        put(&self.missing, commit.missing);
        put(&self.delivered_bytes, commit.delivered_bytes);
        put(&self.coalesced, commit.coalesced);
        put(&self.suppressed, commit.suppressed);
    }

    /// Stores what is true once the outbox `epoch` has come to `tail`.
    pub(crate) fn store_batched(&self, commit: &LaneCommit, epoch: u64, tail: u64) {
        self.store(commit);
        // ORDERING: Relaxed; published by the Release store of the outbox's tail.
        self.outbox_epoch.store(epoch, Ordering::Relaxed);
        self.outbox_tail.store(tail, Ordering::Relaxed);
    }

    pub(crate) fn load(&self) -> LaneCommit {
        // ORDERING: Relaxed throughout; after the Acquire of the flip word (K1).
        let get = |word: &AtomicU64| word.load(Ordering::Relaxed);
        // The consumer counts on from here, and others may have written here.
        let count = |word| get(word).min(PLAUSIBLE_MAX);
        LaneCommit {
            epoch: get(&self.epoch),
            position: get(&self.position),
            sequence_next: get(&self.sequence_next),
            delivered: count(&self.delivered),
            written: count(&self.written),
            rejected: count(&self.rejected),
            missing: count(&self.missing),
            delivered_bytes: count(&self.delivered_bytes),
            coalesced: count(&self.coalesced),
            suppressed: count(&self.suppressed),
        }
    }
}

impl ServiceCommitSlot {
    /// `generation` is the one that will make it true.
    fn store(&self, commit: &ServiceCommit, generation: u64) {
        // ORDERING: Relaxed throughout; published by the Release flip (K1).
        let put = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        store_text(&self.name, &commit.name);
        put(&self.segment_id, commit.segment_id);
        put(&self.length_bytes, commit.length_bytes);
        put(&self.lines, commit.lines);
        put(&self.bytes, commit.bytes);
        put(&self.segments, commit.segments);
        let untold = &commit.untold;
        put(&self.repeats, untold.repeats);
        put(&self.repeat_first_ns, untold.repeat_first_ns);
        put(&self.repeat_last_ns, untold.repeat_last_ns);
        put(&self.repeat_level, untold.repeat_level.into());
        store_text(&self.repeat_source, &untold.repeat_source);
        put(&self.suppressed, untold.suppressed);
        put(&self.suppressed_first_ns, untold.suppressed_first_ns);
        put(&self.suppressed_last_ns, untold.suppressed_last_ns);
        put(&self.redacted, commit.redacted);
        put(&self.checksum, self.sum(generation));
    }

    /// Makes it speak of no service, with a look first: it seldom does.
    fn clear(&self) {
        // ORDERING: Relaxed; as in `store`.
        if self.name[0].load(Ordering::Relaxed) != 0 {
            store_text(&self.name, "");
        }
    }

    /// What the checksum should be. It finds strays, and not whoever wants to be believed: for that there is a bound on
    /// what the sink removes.
    fn sum(&self, generation: u64) -> u64 {
        let numbers = [
            &self.segment_id,
            &self.length_bytes,
            &self.lines,
            &self.bytes,
            &self.segments,
            &self.repeats,
            &self.repeat_first_ns,
            &self.repeat_last_ns,
            &self.repeat_level,
            &self.suppressed,
            &self.suppressed_first_ns,
            &self.suppressed_last_ns,
            &self.redacted,
        ];
        let words = (self.name.iter()).chain(numbers).chain(&self.repeat_source);
        // ORDERING: Relaxed; of our own stores, or after the Acquire of the flip word (K1).
        words.fold(generation ^ SUM_START, |sum, word| {
            let mixed = (sum ^ word.load(Ordering::Relaxed)).wrapping_mul(SUM_FACTOR);
            mixed ^ mixed >> 32
        })
    }

    /// Whether it is as the consumer of this generation left it.
    fn is_whole(&self, generation: u64) -> bool {
        // ORDERING: Relaxed; after the Acquire of the flip word (K1).
        self.checksum.load(Ordering::Relaxed) == self.sum(generation)
    }

    fn load(&self) -> ServiceCommit {
        // ORDERING: Relaxed throughout; after the Acquire of the flip word (K1).
        let get = |word: &AtomicU64| word.load(Ordering::Relaxed);
        // As of a lane.
        let count = |word| get(word).min(PLAUSIBLE_MAX);
        ServiceCommit {
            name: load_text(&self.name),
            segment_id: get(&self.segment_id),
            length_bytes: count(&self.length_bytes),
            lines: count(&self.lines),
            bytes: count(&self.bytes),
            segments: count(&self.segments),
            untold: Untold {
                repeats: count(&self.repeats),
                repeat_first_ns: get(&self.repeat_first_ns),
                repeat_last_ns: get(&self.repeat_last_ns),
                repeat_level: get(&self.repeat_level) as u8,
                repeat_source: load_text(&self.repeat_source),
                suppressed: count(&self.suppressed),
                suppressed_first_ns: get(&self.suppressed_first_ns),
                suppressed_last_ns: get(&self.suppressed_last_ns),
            },
            redacted: count(&self.redacted),
        }
    }
}

/// The consumer's private picture of the commit area: what to write into the next bank.
pub(crate) struct CommitArea {
    services: Vec<ServiceCommit>,
    /// Persisted lanes by slot. Written whole into each bank; a lane that is gone has epoch 0.
    lanes: Vec<LaneCommit>,
}

impl CommitArea {
    /// The committed state as the last consumer left it, without the services whose slots are not as it left them.
    pub(crate) fn load(control: &Control) -> Self {
        // ORDERING: Acquire (K1).
        let generation = control.consumer.generation.load(Ordering::Acquire);
        // Of a slot that somebody else has written to nothing is known. It may also be empty now, so all are looked at.
        let services = (control.service_commits[(generation & 1) as usize].iter())
            .filter(|slot| slot.is_whole(generation))
            .map(ServiceCommitSlot::load)
            .filter(|commit| !commit.name.is_empty())
            .collect();
        CommitArea {
            services,
            lanes: vec![LaneCommit::default(); LANES_MAX],
        }
    }

    pub(crate) fn services(&self) -> &[ServiceCommit] {
        &self.services
    }

    /// Notes a lane's new state; how many events it has taken since the last one.
    pub(crate) fn set_lane(&mut self, slot: usize, commit: LaneCommit) -> u64 {
        let before = std::mem::replace(&mut self.lanes[slot], commit);
        match before.epoch == commit.epoch {
            true => commit.delivered.saturating_sub(before.delivered),
            false => commit.delivered,
        }
    }

    /// Notes a service's new state; false when there is no slot left for a new service.
    pub(crate) fn set_service(&mut self, commit: &ServiceCommit) -> bool {
        match self
            .services
            .iter()
            .position(|service| service.name == commit.name)
        {
            Some(index) => commit.clone_into(&mut self.services[index]),
            None if self.services.len() == SERVICES_MAX => return false,
            None => self.services.push(commit.clone()),
        }
        true
    }

    /// Writes the bank that is not in force and puts it in force with one store.
    ///
    /// `is_ours` tells which lane slots the flip decides about; the others are left alone.
    pub(crate) fn flip(&self, control: &Control, is_ours: impl Fn(usize) -> bool) {
        let generation = &control.consumer.generation;
        // ORDERING: Relaxed; the consumer is the only writer.
        let next = generation.load(Ordering::Relaxed).wrapping_add(1);
        let bank = (next & 1) as usize;
        // ORDERING: Release fence. Whoever sees a word of this bank change sees as well, when it looks again,
        // that the other bank was in force: the reader's Acquire fence is the other end.
        fence(Ordering::Release);
        let used = control.limits.lanes as usize;
        for (slot, commit) in self.lanes.iter().enumerate().take(used) {
            if is_ours(slot) {
                control.lane_commits[bank][slot].store(commit);
            }
        }
        for (slot, commit) in self.services.iter().enumerate() {
            control.service_commits[bank][slot].store(commit, next);
        }
        // A service that was not whole may have been taken out: the list ends here.
        if let Some(behind) = control.service_commits[bank].get(self.services.len()) {
            behind.clear();
        }
        kill_point!("consumer.bank_written");
        // ORDERING: Release (K1). Everything in the bank before the word that makes it true.
        generation.store(next, Ordering::Release);
    }
}

/// The bank that a flip word has in force.
pub(crate) fn bank(word: &AtomicU64) -> usize {
    // ORDERING: Acquire (K1).
    (word.load(Ordering::Acquire) & 1) as usize
}

/// The services committed in `bank`. Slots are filled in order and never emptied.
pub(crate) fn services(control: &Control, bank: usize) -> Vec<ServiceCommit> {
    control.service_commits[bank]
        .iter()
        .map(ServiceCommitSlot::load)
        .take_while(|commit| !commit.name.is_empty())
        .collect()
}

/// The services of one commit, all of the same one. Retries while commits come in; there are at most a few
/// hundred a second.
pub(crate) fn services_now(control: &Control) -> Vec<ServiceCommit> {
    let generation = &control.consumer.generation;
    loop {
        // ORDERING: Acquire (K1).
        let before = generation.load(Ordering::Acquire);
        let services = services(control, (before & 1) as usize);
        // ORDERING: Acquire fence; the copies above come before the second look.
        fence(Ordering::Acquire);
        // ORDERING: Relaxed; ordered by the fence. The bank that was copied is only written to after the
        // word has moved on.
        if generation.load(Ordering::Relaxed) == before {
            return services;
        }
    }
}

/// Commits one lane that is not persisted: its own slot pair, its own flip word.
pub(crate) fn flip_lane(control: &Control, slot: usize, selector: &AtomicU64, commit: &LaneCommit) {
    // ORDERING: Relaxed; the consumer is the only writer.
    let next = selector.load(Ordering::Relaxed).wrapping_add(1);
    control.lane_commits[(next & 1) as usize][slot].store(commit);
    // ORDERING: Release (K1).
    selector.store(next, Ordering::Release);
}

/// What is committed of the lane in `slot`, if that slot still speaks of `epoch`.
pub(crate) fn lane(control: &Control, slot: usize, epoch: u64, flip: &AtomicU64) -> LaneCommit {
    loop {
        let bank = bank(flip);
        let commit = control.lane_commits[bank][slot].load();
        // A second flip during the copy would have rewritten this bank; the consumer flips at most a few
        // hundred times a second, so this ends.
        if self::bank(flip) == bank {
            let ours = commit.epoch == epoch;
            return if ours {
                commit
            } else {
                LaneCommit {
                    epoch,
                    ..LaneCommit::default()
                }
            };
        }
    }
}

/// What is committed of a batched lane, and in which of its two slots, when its outbox stands at `tail`.
///
/// Without a slot that is true for this outbox (it was lost, and made anew) the one that has taken less
/// counts: rather once more than never.
pub(crate) fn batched_lane(
    control: &Control,
    slot: usize,
    epoch: u64,
    outbox_epoch: u64,
    tail: u64,
) -> (LaneCommit, usize) {
    let candidates = [0, 1].map(|bank| {
        let place = &control.lane_commits[bank][slot];
        // ORDERING: Relaxed; the only writer is a consumer, and we are the consumer now.
        let reached = place.outbox_tail.load(Ordering::Relaxed);
        let same = place.outbox_epoch.load(Ordering::Relaxed) == outbox_epoch;
        (place.load(), same, reached)
    });
    let ours = |bank: usize| candidates[bank].0.epoch == epoch;
    let holds = |bank: usize| ours(bank) && candidates[bank].1 && candidates[bank].2 <= tail;
    let chosen = match (holds(0), holds(1)) {
        // The same tail twice: a commit that had nothing to put in the outbox.
        (true, true) => {
            let age = |bank: usize| (candidates[bank].2, candidates[bank].0.sequence_next);
            usize::from(age(1) > age(0))
        }
        (true, false) => 0,
        (false, true) => 1,
        // The first flush of this lane was never finished, or its outbox is gone.
        (false, false) => {
            let fresh = LaneCommit {
                epoch,
                ..LaneCommit::default()
            };
            let lost = [0, 1]
                .into_iter()
                .filter(|&bank| ours(bank) && !candidates[bank].1);
            return match lost.min_by_key(|&bank| candidates[bank].0.position) {
                Some(bank) => (candidates[bank].0, bank),
                None => (fresh, 0),
            };
        }
    };
    (candidates[chosen].0, chosen)
}

/// Makes a slot speak of no lane.
pub(crate) fn forget(control: &Control, slot: usize, bank: usize) {
    // ORDERING: Relaxed; only consumers look at it, one after the other.
    control.lane_commits[bank][slot]
        .epoch
        .store(0, Ordering::Relaxed);
}
