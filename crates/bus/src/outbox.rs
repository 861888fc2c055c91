//! The consumer's side of an outbox: a ring that it alone writes, and never waits for readers of.
//!
//! Records are staged one after the other and become readable with one store, the ring's tail. That store
//! also commits the lanes whose events they hold: see `commit`.
//!
//! The head is the oldest whole record. It moves on before anything is overwritten, record by record, so
//! that a reader who was too slow, or who comes late, has a place to start.

use std::os::fd::OwnedFd;

use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

use crate::batch::{BatchParts, BatchView, GapBody};
use crate::control::Control;
use crate::error::{Error, ErrorKind};
use crate::lane::{self, Lane, LaneMemory, RingKind};
use crate::object;
use crate::ring::{
    self, Damage, KIND_BATCH, KIND_GAP, KIND_LANE_END, PLAUSIBLE_MAX, Reader, RecordHeader,
    RingMemory, Writer, record_bytes,
};
use crate::rule::{Class, Rule};
use crate::sync::atomic::Ordering;

/// A record takes at most this part of the ring, and a flush at most three of four.
const RECORD_PART: u64 = 4;

/// What the consumer hands to subscribers of one rule. See [`crate::Drain::outbox`].
pub struct Outbox {
    writer: Writer<LaneMemory>,
    oldest: Reader<LaneMemory>,
    capacity_bytes: u64,
    epoch: u64,
    /// Entries ever pushed.
    events: u64,
    /// Sum of the last numbers of the lanes whose end was pushed, so that whoever misses one can tell.
    ended_events: u64,
    /// The lane whose end was pushed last, 0 for none: it is counted once, however often its end is pushed.
    last_ended: u64,
    /// Names of what is staged, for the bell.
    name_bits: u64,
    _descriptor: OwnedFd,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("epoch", &self.epoch)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// The outbox that an earlier consumer left in `channel`, or a new one with the size that `rule` says.
    pub(crate) fn open(
        control: &Control,
        channel: u32,
        rule: &Rule,
        now_ns: u64,
    ) -> Result<Self, Error> {
        let word = &control.outboxes[channel as usize].word;
        // ORDERING: Relaxed; only consumers write it, and there is one at a time.
        let epoch = word.load(Ordering::Relaxed) >> 8;
        if epoch != 0 {
            match Self::resume(control, epoch) {
                Ok(outbox) => return Ok(outbox),
                // Damaged or gone: readers of the old one are told that it ended, by the new number.
                Err(_) => object::unlink(&object::outbox_name(&control.bus, epoch)),
            }
        }
        let capacity_bytes = u64::from(rule.outbox_bytes);
        control.check_budget(capacity_bytes)?;
        let made = lane::create(control, RingKind::Outbox, "(consumer)", rule, now_ns)?;
        let epoch = made.info.epoch;
        let outbox = Self::over(made, 0, 0, 0);
        kill_point!("consumer.outbox_object");
        // ORDERING: Release; the object is complete before it can be found.
        word.store(
            epoch << 8 | u64::from(capacity_bytes.trailing_zeros()),
            Ordering::Release,
        );
        kill_point!("consumer.outbox_entered");
        // ORDERING: Release; the word before the number that announces it.
        control
            .request
            .directory_changes
            .fetch_add(1, Ordering::Release);
        Ok(outbox)
    }

    /// Walks what is there: it must be whole, and says how many events there were.
    fn resume(control: &Control, epoch: u64) -> Result<Self, Error> {
        let lane = lane::open(&control.bus, RingKind::Outbox, epoch, control.access)?;
        let name = object::outbox_name(&control.bus, epoch);
        let damaged = |damage: Damage| {
            let message = format!(
                "outbox {name}: {} {} at position {}",
                damage.what, damage.found, damage.position
            );
            Error::new(ErrorKind::WrongLayout, message)
        };
        lane.memory.populate(true);
        let header = lane.memory.header();
        // ORDERING: Relaxed; as below.
        let tail = header.publisher.tail_position.load(Ordering::Relaxed);
        if tail > PLAUSIBLE_MAX {
            return Err(damaged(Damage {
                position: 0,
                what: "tail position",
                found: tail,
                limit: PLAUSIBLE_MAX,
            }));
        }
        // ORDERING: Relaxed; there is one writer, and the earlier one is dead.
        let head_position = header.reader.head_position.load(Ordering::Relaxed);
        let limit = lane.memory.capacity_bytes() as u32;
        let mut reader = Reader::resume(lane.memory.clone(), limit, head_position, 0).of_outbox();
        reader.refresh().map_err(damaged)?;
        let mut events = 0;
        // ORDERING: Relaxed; as above. Where a lane's end is still there, it says so itself.
        let mut ended_events = header.publisher.dropped_full.load(Ordering::Relaxed);
        let mut last_ended = 0;
        let mut payload = Vec::new();
        while let Some(record) = reader.peek().map_err(damaged)? {
            if record.kind == KIND_BATCH {
                payload.resize(record.length_bytes.get() as usize, 0);
                reader.copy_payload(&mut payload);
                let view = BatchView::parse(&payload).map_err(|what| {
                    Error::new(ErrorKind::WrongLayout, format!("{name}: {what}"))
                })?;
                events = view.events_after();
            }
            if record.kind == KIND_LANE_END {
                payload.resize(record.length_bytes.get() as usize, 0);
                reader.copy_payload(&mut payload);
                let end = GapBody::parse(&payload).map_err(|what| {
                    Error::new(ErrorKind::WrongLayout, format!("{name}: {what}"))
                })?;
                ended_events = end.last();
                last_ended = end.lane_epoch();
            }
            reader.advance(&record);
        }
        let (tail_position, sequence_next) = (reader.position(), reader.sequence_next());
        let mut outbox = Self::over(lane, tail_position, sequence_next, events);
        outbox.oldest.seek(head_position);
        outbox.ended_events = ended_events;
        outbox.last_ended = last_ended;
        Ok(outbox)
    }

    fn over(lane: Lane, tail_position: u64, sequence_next: u64, events: u64) -> Self {
        let capacity_bytes = lane.memory.capacity_bytes();
        let limit = capacity_bytes as u32;
        Outbox {
            oldest: Reader::resume(lane.memory.clone(), limit, tail_position, 0).of_outbox(),
            writer: Writer::resume(lane.memory, tail_position, sequence_next),
            capacity_bytes,
            epoch: lane.info.epoch,
            events,
            ended_events: 0,
            last_ended: 0,
            name_bits: 0,
            _descriptor: lane.descriptor,
        }
    }

    /// Whether somebody truncated it: what is pushed goes nowhere, and [`crate::Drain::check`] says so.
    pub fn is_lost(&self) -> bool {
        self.oldest.memory().is_lost()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Everything below is readable.
    pub(crate) fn tail_position(&self) -> u64 {
        self.writer.tail_position()
    }

    /// Everything below will be readable with the next commit.
    pub(crate) fn staged_position(&self) -> u64 {
        self.writer.staged_position()
    }

    /// Size of the ring.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// The longest payload of a record, in bytes: a quarter of the ring, less its header.
    pub fn payload_bytes_limit(&self) -> usize {
        (self.capacity_bytes / RECORD_PART) as usize - ring::HEADER_BYTES
    }

    /// Stages a consolidated record. `name_bits`: see [`crate::Record::name_bit`]; a bit for each name in it.
    ///
    /// False, and nothing staged, where the record is too long, or too much is staged already: commit first.
    #[must_use]
    pub fn push(&mut self, parts: &BatchParts<'_>, name_bits: u64) -> bool {
        let header = parts.header(self.events);
        let prefix = parts.prefix();
        let pieces = [&header[..], prefix.as_ref(), parts.entries];
        let pushed = self.push_record(KIND_BATCH, parts.last_time_ns, &pieces);
        if pushed {
            // What a lane left behind is accounted for by the numbers of its lane.
            if parts.class != Class::Passthrough {
                self.events = self.events.saturating_add(parts.count.into());
            }
            self.name_bits |= name_bits;
        }
        pushed
    }

    /// Stages word of events that a publisher dropped. As [`Outbox::push`].
    #[must_use]
    pub fn push_gap(&mut self, gap: &GapBody, time_ns: u64) -> bool {
        let pushed = self.push_record(KIND_GAP, time_ns, &[zerocopy::IntoBytes::as_bytes(gap)]);
        self.name_bits |= if pushed { u64::MAX } else { 0 };
        pushed
    }

    /// Stages word that the lane `epoch` is gone: its numbers go up to `sequence_next`, exclusive.
    pub(crate) fn push_lane_end(
        &mut self,
        epoch: u64,
        sequence_next: u64,
        source: u32,
        time_ns: u64,
    ) -> bool {
        // Whoever was killed between this and the removal of the lane leaves it to us to do both again.
        let added = match self.last_ended == epoch {
            true => 0,
            false => sequence_next,
        };
        let ended_events = self.ended_events.saturating_add(added);
        let end = GapBody::new(epoch, sequence_next, ended_events, source);
        let pushed = self.push_record(
            KIND_LANE_END,
            time_ns,
            &[zerocopy::IntoBytes::as_bytes(&end)],
        );
        if pushed {
            self.ended_events = ended_events;
            self.last_ended = epoch;
        }
        pushed
    }

    fn push_record(&mut self, kind: u8, time_ns: u64, pieces: &[&[u8]]) -> bool {
        let length_bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let staged_bytes = self.writer.staged_position() - self.writer.tail_position();
        if length_bytes > self.payload_bytes_limit()
            || staged_bytes + 2 * record_bytes(length_bytes) > self.capacity_bytes / 4 * 3
        {
            return false;
        }
        self.make_room(length_bytes);
        let Some(slot) = self.writer.reserve(length_bytes) else {
            return false;
        };
        let mut header = RecordHeader::new_zeroed();
        header.length_bytes = U32::new(length_bytes as u32);
        header.kind = kind;
        header.time_ns = U64::new(time_ns);
        header.sequence = U64::new(self.writer.sequence_next());
        self.writer.write_header(slot, &header);
        let mut offset = 0;
        for piece in pieces {
            self.writer.write_payload(slot, offset, piece);
            offset += piece.len();
        }
        self.writer.stage(slot);
        kill_point!("consumer.outbox_written");
        true
    }

    /// Gives the oldest records up, until a record of this size and the padding in front of it fit.
    fn make_room(&mut self, length_bytes: usize) {
        let end_position = self.writer.staged_position() + 2 * record_bytes(length_bytes);
        let floor_position = end_position.saturating_sub(self.capacity_bytes);
        if self.oldest.position() >= floor_position {
            return;
        }
        // Some more at once, so that this is rare.
        let floor_position = floor_position + self.capacity_bytes / 8;
        let tail_position = self.writer.tail_position();
        while self.oldest.position() < floor_position {
            let step = self.oldest.refresh().and_then(|_| self.oldest.peek());
            match step {
                Ok(Some(header)) => self.oldest.advance(&header),
                Ok(None) => break,
                // A reader with write access has spoilt what it can read anyway: start after it.
                Err(_) => self.oldest.seek(tail_position),
            }
        }
        ring::release(self.oldest.header(), self.oldest.position());
    }

    /// Makes everything staged readable; the bits of its names. No system call.
    pub(crate) fn commit(&mut self) -> u64 {
        // ORDERING: Relaxed; published by the tail. For subscribers that start behind the last lane's end.
        self.oldest
            .header()
            .publisher
            .dropped_full
            .store(self.ended_events, Ordering::Relaxed);
        self.writer.commit();
        std::mem::take(&mut self.name_bits)
    }
}

#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use super::*;
    use crate::bus::{Bus, BusOptions};
    use crate::object::Access;

    /// A consumer that is killed between this and the removal of the lane leaves its end to the next one, again.
    #[test]
    fn end_of_a_lane_that_is_pushed_again_counts_once() {
        let name = format!("test-outbox-end-{}", std::process::id());
        let bus = Bus::attach(&name, &BusOptions::default()).expect("a bus");
        let control = Control::open(&name, Access::default()).expect("its control segment");
        let rule = Rule {
            outbox_bytes: 64 << 10,
            payload_bytes_limit: 1 << 10,
            ..Rule::new("chat:*".parse().expect("a pattern"))
        };
        let open = || Outbox::open(&control, 0, &rule, 7).expect("an outbox");
        let mut first = open();
        assert!(first.push_lane_end(5, 100, 1, 7));
        first.commit();
        assert!(first.push_lane_end(6, 30, 1, 7));
        first.commit();
        let epoch = first.epoch();
        drop(first);
        let mut second = Outbox::resume(&control, epoch).expect("as it was left");
        assert!(second.push_lane_end(6, 30, 1, 8));
        second.commit();
        assert_eq!(second.ended_events, 130);
        assert!(second.push_lane_end(9, 4, 1, 8));
        second.commit();
        drop(second);
        let third = open();
        let header = third.oldest.header();
        // ORDERING: Relaxed; one thread.
        let told = header.publisher.dropped_full.load(Ordering::Relaxed);
        assert_eq!((third.ended_events, told), (134, 134));
        drop(third);
        bus.remove().expect("nobody else uses it");
    }
}
