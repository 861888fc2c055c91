//! One writer, one releaser, variable-length records in a shared ring.
//!
//! # Layout (byte offsets from `RING_OFFSET` of a lane)
//! ```text
//!   0x000  tail_position u64 | sequence_next u64 | drop counters | flush request | closed |
//!          overwrite_position u64                                                             publisher only
//!   0x080  head_position u64 | drained_position u64 | durable_position u64 | quarantined      consumer only
//!   0x100  waiting u32                          BOTH: a waker must change the word that is slept on
//!
//!   data   | header 32 bytes | payload ... | zero to 7 bytes of padding |   records, 8-byte aligned
//! ```
//! # Invariants
//! - I1: `head_position <= drained_position <= tail_position <= head_position + capacity_bytes`.
//! - I2: positions count bytes since creation and never go back; only `position & (capacity_bytes - 1)`
//!   indexes the data.
//! - I3: a record below `tail_position` does not change until `head_position` passes it.
//! - I4: a record never wraps: where it would, a padding record fills the ring to its end.
//! - I5: each event takes one sequence number, whether it is written or dropped; every number below
//!   `sequence_next` belongs to a record below `tail_position` or to a counted drop.
//! # Ordering pairs
//! - P1 `tail_position`: Release in `commit` -> Acquire in `refresh`; carries the record bytes.
//! - P2 `head_position`: Release in `release` -> Acquire in `reserve`; carries "bytes copied out".
//! - P3 sleep and wake: see `doorbell`.
//! - P4 `sequence_next`: Release after `tail_position` -> Acquire before it; carries I5.
//! - P5 `overwrite_position`: stored before a Release fence and the bytes that follow -> loaded after the
//!   copy and an Acquire fence. Readers that release nothing (subscribers) learn from it whether what
//!   they copied was whole: bytes below `overwrite_position - capacity_bytes` may be anything.
//!
//! The code runs over any [`RingMemory`]: a lane in shared memory, or words that loom watches.

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Written by the publisher only. Its own pair of cache lines: hardware fetches 64-byte lines in pairs.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct PublisherLine {
    /// End of the last committed record.
    pub(crate) tail_position: AtomicU64,
    /// Number of the next event (I5).
    pub(crate) sequence_next: AtomicU64,
    pub(crate) dropped_full: AtomicU64,
    pub(crate) dropped_deadline: AtomicU64,
    pub(crate) dropped_too_long: AtomicU64,
    /// The publisher waits until everything below this position is written, or durable.
    pub(crate) flush_position: AtomicU64,
    /// 0 nothing asked, 1 written, 2 durable.
    pub(crate) flush_guarantee: AtomicU32,
    /// 1 once the publisher has detached in order.
    pub(crate) closed: AtomicU32,
    /// The writer may be writing anywhere below it (P5).
    pub(crate) overwrite_position: AtomicU64,
}

/// Written by the consumer only.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct ReaderLine {
    /// Bytes below it may be overwritten: what they held is committed.
    pub(crate) head_position: AtomicU64,
    /// How far the consumer has read; what lies between is in flight.
    pub(crate) drained_position: AtomicU64,
    pub(crate) drained_sequence: AtomicU64,
    /// Events below it are on the disk.
    pub(crate) durable_position: AtomicU64,
    /// Lowest bit: which commit bank is true for this lane, when its rule is not persisted.
    pub(crate) selector: AtomicU64,
    /// 1 once the consumer has found nonsense in the lane and reads it no more.
    pub(crate) quarantined: AtomicU32,
}

/// BOTH sides: the publisher says that it waits for space, the consumer changes the word to wake it.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct SpaceLine {
    pub(crate) waiting: AtomicU32,
}

/// The live part of a lane.
#[derive(Default)]
#[repr(C)]
pub(crate) struct RingHeader {
    pub(crate) publisher: PublisherLine,
    pub(crate) reader: ReaderLine,
    pub(crate) space: SpaceLine,
}
#[cfg(not(loom))]
const _: () = {
    assert!(offset_of!(RingHeader, publisher) == 0x000);
    assert!(offset_of!(RingHeader, reader) == 0x080);
    assert!(offset_of!(RingHeader, space) == 0x100);
    assert!(size_of::<RingHeader>() == 0x180);
};

/// In front of each payload.
///
/// Aligned as it lies in a ring: a `peek` hands it out wrapped, and copies at odd offsets would have each
/// record wait for the stores that made the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub(crate) struct RecordHeader {
    /// Bytes of payload, without header and padding.
    pub(crate) length_bytes: U32,
    pub(crate) kind: u8,
    pub(crate) level: u8,
    pub(crate) flags: U16,
    pub(crate) time_ns: U64,
    pub(crate) sequence: U64,
    pub(crate) name_id: U32,
    pub(crate) schema_id: U32,
}
pub(crate) const HEADER_BYTES: usize = size_of::<RecordHeader>();
const _: () = assert!(HEADER_BYTES == 32);
const _: () = assert!(offset_of!(RecordHeader, time_ns) == 8);

/// A record with an event.
pub(crate) const KIND_EVENT: u8 = 1;
/// Fills the ring up to its end, where the next record would not fit in one piece. Only its first
/// eight bytes need to exist.
pub(crate) const KIND_PADDING: u8 = 2;
/// Outbox only: a consolidated record, see `batch`.
pub(crate) const KIND_BATCH: u8 = 3;
/// Outbox only: numbers that a publisher dropped.
pub(crate) const KIND_GAP: u8 = 4;
/// Outbox only: a lane is gone, and this was its last number.
pub(crate) const KIND_LANE_END: u8 = 5;
/// The overwrite is announced this part of the capacity ahead, so that it rarely has to be.
const ANNOUNCE_PART: u64 = 16;
const PADDING_HEADER_BYTES: u64 = 8;
/// As damage: somebody made the object shorter than what is in use.
const TRUNCATED: &str = "truncated object";
/// A jump of the sequence beyond this is nonsense, not loss.
const GAP_MAX: u64 = 1 << 48;
/// No ring gets so far, and no counter: at 10 GB a second it would take 14 years. What goes on from shared memory
/// behind it is nonsense, and sums of what is below it fit.
pub(crate) const PLAUSIBLE_MAX: u64 = 1 << 62;

/// What a ring lies in.
pub(crate) trait RingMemory {
    fn header(&self) -> &RingHeader;
    /// A power of two, at least 64.
    fn capacity_bytes(&self) -> u64;
    /// `index + bytes.len() <= capacity_bytes`, and both are multiples of 8 except the last copy of
    /// a payload.
    fn copy_in(&self, index: usize, bytes: &[u8]);
    /// As `copy_in` of both, `behind` where `bytes` ends.
    #[inline(always)]
    fn copy_in_both(&self, index: usize, bytes: &[u8], behind: &[u8]) {
        self.copy_in(index, bytes);
        self.copy_in(index + bytes.len(), behind);
    }
    /// As `copy_in`. What is copied may be torn by a hostile peer: look only at the copy.
    fn copy_out(&self, index: usize, bytes: &mut [u8]);
    /// Whether somebody has truncated the memory, and zeros stand there: also in what was just copied.
    #[inline(always)]
    fn is_lost(&self) -> bool {
        false
    }
}

/// Bytes that a record with this payload takes.
pub(crate) fn record_bytes(payload_bytes: usize) -> u64 {
    // Without `next_multiple_of`, which asks for the remainder first. No payload is near the end of all numbers.
    ((HEADER_BYTES + payload_bytes + 7) & !7) as u64
}

/// Reserved bytes, not yet readable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    start_position: u64,
    end_position: u64,
    /// Of the start.
    index: usize,
}

impl Slot {
    /// The same start, for a payload shorter than what was reserved.
    pub(crate) fn cut(self, payload_bytes: usize) -> Self {
        let end_position = self.start_position + record_bytes(payload_bytes);
        Slot {
            end_position: end_position.min(self.end_position),
            ..self
        }
    }
}

/// The publisher's half.
pub(crate) struct Writer<M> {
    memory: M,
    capacity_bytes: u64,
    /// What the shared `tail_position` says.
    tail_position: u64,
    /// End of what is reserved and staged, at or above `tail_position`.
    staged_position: u64,
    /// The last `head_position` seen. Reloaded only when it says "full".
    head_cached: u64,
    /// What the shared `overwrite_position` says.
    announced_position: u64,
    /// Up to here neither the head nor the announcement needs another look.
    limit_position: u64,
    /// What the shared `sequence_next` will say after the next commit.
    sequence_next: u64,
    staged_events: u64,
}

impl<M: RingMemory> Writer<M> {
    /// A writer over fresh memory: positions and sequence start at zero.
    pub(crate) fn new(memory: M) -> Self {
        let capacity_bytes = memory.capacity_bytes();
        Writer {
            memory,
            capacity_bytes,
            tail_position: 0,
            staged_position: 0,
            head_cached: 0,
            announced_position: 0,
            limit_position: 0,
            sequence_next: 0,
            staged_events: 0,
        }
    }

    /// A writer that goes on where an earlier one stopped.
    pub(crate) fn resume(memory: M, tail_position: u64, sequence_next: u64) -> Self {
        let line = &memory.header().publisher;
        // ORDERING: Relaxed; there is one writer, and the earlier one is dead.
        let announced_position = line
            .overwrite_position
            .load(Ordering::Relaxed)
            // No writer announces further: what is beyond was written by somebody else, and would have readers
            // take everything for overwritten.
            .clamp(
                tail_position,
                tail_position.saturating_add(memory.capacity_bytes()),
            );
        Writer {
            tail_position,
            staged_position: tail_position,
            head_cached: tail_position.saturating_sub(memory.capacity_bytes()),
            announced_position,
            sequence_next,
            ..Self::new(memory)
        }
    }

    /// End of what is staged.
    pub(crate) fn staged_position(&self) -> u64 {
        self.staged_position
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    pub(crate) fn tail_position(&self) -> u64 {
        self.tail_position
    }

    pub(crate) fn sequence_next(&self) -> u64 {
        self.sequence_next
    }

    /// Room for a payload behind everything staged; `None` when the ring is full. No system call.
    #[inline(always)]
    pub(crate) fn reserve(&mut self, payload_bytes: usize) -> Option<Slot> {
        let record_bytes = record_bytes(payload_bytes);
        let index = self.index(self.staged_position);
        if record_bytes > self.capacity_bytes - index as u64 {
            return self.reserve_from_start(record_bytes);
        }
        let end_position = self.staged_position + record_bytes;
        if end_position > self.limit_position && !self.has_room(end_position) {
            return None;
        }
        Some(Slot {
            start_position: self.staged_position,
            end_position,
            index,
        })
    }

    /// The record would wrap: it begins where the ring does, and padding fills the rest.
    #[cold]
    fn reserve_from_start(&mut self, record_bytes: u64) -> Option<Slot> {
        let index = self.index(self.staged_position);
        let padding = self.capacity_bytes - index as u64;
        let start_position = self.staged_position + padding;
        let end_position = start_position + record_bytes;
        if end_position > self.limit_position && !self.has_room(end_position) {
            return None;
        }
        self.write_padding(index, padding);
        Some(Slot {
            start_position,
            end_position,
            index: 0,
        })
    }

    #[cold]
    fn has_room(&mut self, end_position: u64) -> bool {
        // ORDERING: Acquire (P2). What the consumer has released it has copied out.
        let head_position = self
            .memory
            .header()
            .reader
            .head_position
            .load(Ordering::Acquire);
        // A consumer that writes nonsense may cost us records, not make us overrun our own arithmetic.
        self.head_cached = head_position.clamp(self.head_cached, self.tail_position);
        let end_allowed = self.head_cached + self.capacity_bytes;
        if end_position > end_allowed {
            return false;
        }
        if end_position > self.announced_position {
            let ahead = end_position + self.capacity_bytes / ANNOUNCE_PART;
            self.announced_position = ahead.min(end_allowed);
            let line = &self.memory.header().publisher;
            // ORDERING: Relaxed store, then a Release fence (P5): announced before any byte is written.
            line.overwrite_position
                .store(self.announced_position, Ordering::Relaxed);
            fence(Ordering::Release);
        }
        self.limit_position = self.announced_position.min(end_allowed);
        true
    }

    fn write_padding(&self, index: usize, padding: u64) {
        let mut head = [0; PADDING_HEADER_BYTES as usize];
        head[..4].copy_from_slice(&((padding - PADDING_HEADER_BYTES) as u32).to_le_bytes());
        head[4] = KIND_PADDING;
        self.memory.copy_in(index, &head);
    }

    #[inline(always)]
    pub(crate) fn write_header(&self, slot: Slot, header: &RecordHeader) {
        self.memory.copy_in(slot.index, header.as_bytes());
    }

    /// Header and payload at once: bounds are looked at once.
    #[inline(always)]
    pub(crate) fn write_record(&self, slot: Slot, header: &RecordHeader, payload: &[u8]) {
        debug_assert!(
            slot.start_position + (HEADER_BYTES + payload.len()) as u64 <= slot.end_position
        );
        self.memory
            .copy_in_both(slot.index, header.as_bytes(), payload);
    }

    /// Copies `bytes` to `offset` inside the payload. The caller keeps within what it reserved.
    #[inline(always)]
    pub(crate) fn write_payload(&self, slot: Slot, offset: usize, bytes: &[u8]) {
        debug_assert!(
            slot.start_position + (HEADER_BYTES + offset + bytes.len()) as u64 <= slot.end_position
        );
        self.memory
            .copy_in(slot.index + HEADER_BYTES + offset, bytes);
    }

    /// Adds a written record to what the next commit makes readable.
    #[inline(always)]
    pub(crate) fn stage(&mut self, slot: Slot) {
        self.staged_position = slot.end_position;
        self.sequence_next += 1;
        self.staged_events += 1;
    }

    /// Makes everything staged readable.
    #[inline(always)]
    pub(crate) fn commit(&mut self) {
        self.tail_position = self.staged_position;
        self.staged_events = 0;
        let line = &self.memory.header().publisher;
        // ORDERING: Release (P1). The record bytes become visible before the new tail does.
        line.tail_position
            .store(self.tail_position, Ordering::Release);
        kill_point!("publisher.tail_stored");
        // ORDERING: Release (P4). Whoever sees this number sees the tail that covers it.
        line.sequence_next
            .store(self.sequence_next, Ordering::Release);
    }

    /// Forgets what is staged. Drops counted since stay counted.
    pub(crate) fn abort(&mut self) {
        self.staged_position = self.tail_position;
        self.sequence_next -= self.staged_events;
        self.staged_events = 0;
    }

    /// Gives a sequence number to an event that is dropped; the caller counts the cause first.
    pub(crate) fn skip_sequence(&mut self) {
        self.sequence_next += 1;
        if self.staged_events == 0 {
            // ORDERING: Release (P4). Nothing is staged, so every number below is accounted for.
            self.memory
                .header()
                .publisher
                .sequence_next
                .store(self.sequence_next, Ordering::Release);
        }
    }

    #[inline(always)]
    fn index(&self, position: u64) -> usize {
        (position & (self.capacity_bytes - 1)) as usize
    }
}

/// Nonsense found in a ring: the writer is broken or hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) position: u64,
    pub(crate) what: &'static str,
    pub(crate) found: u64,
    pub(crate) limit: u64,
}

/// The consumer's half. It believes nothing that it has not compared with what it knows.
pub(crate) struct Reader<M> {
    memory: M,
    capacity_bytes: u64,
    payload_bytes_limit: u32,
    position: u64,
    /// The last tail seen and found plausible.
    tail_seen: u64,
    sequence_next: u64,
    is_outbox: bool,
}

impl<M: RingMemory> Reader<M> {
    /// A reader that goes on at a committed position.
    pub(crate) fn resume(
        memory: M,
        payload_bytes_limit: u32,
        position: u64,
        sequence_next: u64,
    ) -> Self {
        let capacity_bytes = memory.capacity_bytes();
        Reader {
            memory,
            capacity_bytes,
            payload_bytes_limit,
            position,
            tail_seen: position,
            sequence_next,
            is_outbox: false,
        }
    }

    /// The same reader for a ring that the consumer writes: it holds other kinds of records.
    pub(crate) fn of_outbox(self) -> Self {
        Reader {
            is_outbox: true,
            ..self
        }
    }

    #[cold]
    fn is_outbox_kind(&self, kind: u8) -> bool {
        self.is_outbox && matches!(kind, KIND_BATCH | KIND_GAP | KIND_LANE_END)
    }

    pub(crate) fn header(&self) -> &RingHeader {
        self.memory.header()
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Whether the writer may have overwritten what was last copied from the current position on (P5).
    #[inline(always)]
    pub(crate) fn is_overwritten(&self) -> bool {
        // ORDERING: Acquire fence (P5): the copies before it come before the load.
        fence(Ordering::Acquire);
        let line = &self.memory.header().publisher;
        // ORDERING: Relaxed; ordered by the fence.
        let overwrite_position = line.overwrite_position.load(Ordering::Relaxed);
        overwrite_position > self.position.saturating_add(self.capacity_bytes)
    }

    /// Goes on at the oldest record that is surely whole: the head, which the writer never passes.
    pub(crate) fn resync(&mut self) {
        // ORDERING: Acquire; the records from there on are visible.
        let head_position = self
            .memory
            .header()
            .reader
            .head_position
            .load(Ordering::Acquire);
        self.position = self.position.max(head_position);
        self.tail_seen = self.position;
        self.sequence_next = 0;
    }

    /// Goes on at `position`, which is where a record starts.
    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position;
        self.tail_seen = position;
        self.sequence_next = 0;
    }

    /// Everything below has been seen by `refresh`.
    pub(crate) fn tail_seen(&self) -> u64 {
        self.tail_seen
    }

    /// Everything below has been read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The number that the next record must have if nothing was dropped.
    pub(crate) fn sequence_next(&self) -> u64 {
        self.sequence_next
    }

    /// Looks at the tail; returns the bytes that wait. Costs one load of a line the writer owns.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) -> Result<u64, Damage> {
        // ORDERING: Acquire (P1). The bytes below the tail are visible.
        let tail = self
            .memory
            .header()
            .publisher
            .tail_position
            .load(Ordering::Acquire);
        // Where we stand may be a head that a hostile peer wrote, at the very end of all numbers too.
        let lag = tail.wrapping_sub(self.position);
        if tail < self.position
            || lag > self.capacity_bytes
            || !(tail | self.position).is_multiple_of(8)
        {
            let limit = self.position.saturating_add(self.capacity_bytes);
            return Err(self.damage("tail position", tail, limit));
        }
        self.tail_seen = tail;
        Ok(lag)
    }

    /// The header of the next record below the tail last seen, checked against every bound.
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Result<Option<RecordHeader>, Damage> {
        loop {
            let waiting = self.tail_seen - self.position;
            if waiting == 0 {
                return Ok(None);
            }
            let index = self.position & (self.capacity_bytes - 1);
            let to_end = self.capacity_bytes - index;
            let within = waiting.min(to_end);
            if within < HEADER_BYTES as u64 {
                self.skip_padding(index, to_end, waiting)?;
                continue;
            }
            let mut header = RecordHeader::new_zeroed();
            self.memory.copy_out(index as usize, header.as_mut_bytes());
            if header.kind != KIND_EVENT && !self.is_outbox_kind(header.kind) {
                self.skip_padding(index, to_end, waiting)?;
                continue;
            }
            let length_bytes = header.length_bytes.get();
            if length_bytes > self.payload_bytes_limit
                || record_bytes(length_bytes as usize) > within
            {
                let limit = within.min(self.payload_bytes_limit.into());
                return Err(self.damage("record length", length_bytes.into(), limit));
            }
            let sequence = header.sequence.get();
            let next = self.sequence_next;
            // The last of all numbers has none behind it.
            if sequence == u64::MAX || sequence < next || sequence - next > GAP_MAX {
                return Err(self.damage("sequence number", sequence, self.sequence_next));
            }
            return Ok(Some(header));
        }
    }

    #[cold]
    fn skip_padding(&mut self, index: u64, to_end: u64, waiting: u64) -> Result<(), Damage> {
        let mut head = [0; PADDING_HEADER_BYTES as usize];
        self.memory.copy_out(index as usize, &mut head);
        let length = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        if head[4] != KIND_PADDING {
            return Err(self.damage("record kind", head[4].into(), KIND_PADDING.into()));
        }
        if length + PADDING_HEADER_BYTES != to_end || to_end > waiting {
            return Err(self.damage("padding length", length, to_end));
        }
        self.position += to_end;
        Ok(())
    }

    /// Copies the payload of the record that `peek` just gave. A reader that releases nothing asks
    /// `is_overwritten` afterwards.
    #[inline(always)]
    pub(crate) fn copy_payload(&self, bytes: &mut [u8]) {
        let index = (self.position & (self.capacity_bytes - 1)) as usize + HEADER_BYTES;
        self.memory.copy_out(index, bytes);
    }

    /// What to say of memory that was truncated; `None` of memory that was not. Asked behind a copy, the answer is
    /// about what was copied too.
    #[inline(always)]
    pub(crate) fn loss(&self) -> Option<Damage> {
        (self.memory.is_lost()).then(|| self.damage(TRUNCATED, self.position, self.tail_seen))
    }

    /// Steps over the record that `peek` gave as `header`.
    #[inline(always)]
    pub(crate) fn advance(&mut self, header: &RecordHeader) {
        self.position += record_bytes(header.length_bytes.get() as usize);
        self.sequence_next = header.sequence.get() + 1;
    }

    /// Goes on as if everything below `sequence` had been seen: the caller has counted the gap.
    pub(crate) fn skip_to(&mut self, sequence: u64) {
        self.sequence_next = sequence;
    }

    /// The writer's next number, if there are drops behind the last record and nothing else to read.
    #[inline]
    pub(crate) fn trailing_gap(&self) -> Option<u64> {
        let line = &self.memory.header().publisher;
        // ORDERING: Acquire (P4), before the tail: all numbers below have their record below the tail.
        let sequence_next = line.sequence_next.load(Ordering::Acquire);
        // ORDERING: Acquire (P1).
        let tail = line.tail_position.load(Ordering::Acquire);
        let missing = sequence_next.saturating_sub(self.sequence_next);
        (tail == self.position && (1..=GAP_MAX).contains(&missing)).then_some(sequence_next)
    }

    fn damage(&self, what: &'static str, found: u64, limit: u64) -> Damage {
        Damage {
            position: self.position,
            what,
            found,
            limit,
        }
    }
}

/// Lets the writer overwrite everything below `position`.
#[inline(always)]
pub(crate) fn release(header: &RingHeader, position: u64) {
    // ORDERING: Release (P2). Our copies out of these bytes happen before the writer reuses them.
    header
        .reader
        .head_position
        .store(position, Ordering::Release);
}
