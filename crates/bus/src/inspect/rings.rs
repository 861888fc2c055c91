//! Lanes and outboxes, copied: positions, commits, and the records that are in them.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::IntoBytes;

use super::objects::LockTable;
use super::{Holder, ObjectKind, SharedObject, read_available, read_plain};
use crate::channel;
use crate::commit::{self, LaneCommit};
use crate::control::Control;
use crate::drain::{Scope, split_inline_name};
use crate::layout::{
    DATA_OFFSET, FLAG_INLINE_NAME, LANE_MAGIC, LAYOUT_VERSION, LaneHeader, OUTBOX_MAGIC,
    RING_OFFSET, text_of,
};
use crate::level::Level;
use crate::names;
use crate::region::{Pinned, Region};
use crate::ring::{
    Damage, HEADER_BYTES, KIND_BATCH, KIND_EVENT, KIND_GAP, KIND_LANE_END, KIND_PADDING, Reader,
    RecordHeader, RingHeader, RingMemory, record_bytes,
};
use crate::rule::Rule;
use crate::stats::DropCounts;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The largest ring that a rule can ask for.
const CAPACITY_BYTES_MAX: u64 = 1 << 30;
const CAPACITY_BYTES_MIN: u64 = 4096;
/// How far behind the tail a record is looked for that was claimed and never committed.
const UNFINISHED_BYTES_MAX: u64 = 256 << 10;
/// A ring without a header that nothing names is being made; after this long, its creator died over it.
const MAKING_AGE_MAX: Duration = Duration::from_secs(10);
/// How much of what is no record is shown.
const RAW_BYTES_MAX: usize = 64;
/// A ring that moved on while it was copied is copied again.
const COPIES_MAX: usize = 8;
/// A record claimed by a publisher that goes on stamping cannot be much older than its lane.
const UNFINISHED_RECORDS_MAX: usize = 64;

/// How far the consumer has committed a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitView {
    /// The lane it is about; another than the lane's own means that nothing is committed.
    pub epoch: u64,
    /// Everything below it is taken, in bytes since the lane was made.
    pub position: u64,
    /// The number that comes next.
    pub sequence_next: u64,
    /// Events taken.
    pub delivered: u64,
    /// Of these, events in a log file.
    pub written: u64,
    /// Of these, events refused for what they are.
    pub rejected: u64,
    /// Numbers missing.
    pub missing: u64,
}

impl From<LaneCommit> for CommitView {
    fn from(commit: LaneCommit) -> Self {
        CommitView {
            epoch: commit.epoch,
            position: commit.position,
            sequence_next: commit.sequence_next,
            delivered: commit.delivered,
            written: commit.written,
            rejected: commit.rejected,
            missing: commit.missing,
        }
    }
}

/// A lane or an outbox as its object says. Positions are bytes since it was made.
#[derive(Debug, Clone)]
pub struct RingView {
    /// Its object.
    pub object: SharedObject,
    /// Its number, which no other ring of the bus ever has.
    pub epoch: u64,
    /// Its place in the directory; `None` where nothing names it: an orphan.
    pub slot: Option<u32>,
    /// Who holds it: a lane's publisher. Nobody ever holds an outbox.
    pub holder: Holder,
    /// Process that made it, by its own word.
    pub publisher_pid: u32,
    /// Label of the publisher.
    pub label: String,
    /// When it was made, real time in ns.
    pub created_ns: u64,
    /// Size of its data.
    pub capacity_bytes: u64,
    /// The rule it was made under, where that can be read.
    pub rule: Option<Rule>,
    /// End of the last record that its writer committed.
    pub tail_position: u64,
    /// Number of the next event.
    pub sequence_next: u64,
    /// Drops that its writer has counted; `other` is 0.
    pub dropped: DropCounts,
    /// Its writer waits until what lies below is written or durable.
    pub flush_position: u64,
    /// Its writer has left in order.
    pub is_closed: bool,
    /// Its writer may be writing anywhere below.
    pub overwrite_position: u64,
    /// What lies below may be overwritten.
    pub head_position: u64,
    /// How far the consumer has read, committed or not.
    pub drained_position: u64,
    /// What lies below is on the disk.
    pub durable_position: u64,
    /// The consumer found nonsense in it, and reads it no more.
    pub is_quarantined: bool,
    /// Of lanes whose rule has no service: its lowest bit says which of the two slots counts for statistics.
    pub selector: u64,
    /// What is committed: of the two slots the one that counts.
    pub committed: CommitView,
    /// Both slots, whatever lane they are about.
    pub commits: [CommitView; 2],
    /// Which of them counts.
    pub bank: usize,
    /// What is wrong with its header.
    pub damage: Vec<String>,
}

impl RingView {
    /// Bytes that wait for the consumer, records and padding.
    pub fn lag_bytes(&self) -> u64 {
        self.tail_position.saturating_sub(self.committed.position)
    }

    /// `None` where the object was removed since it was listed, as the consumer does with a lane that it has emptied,
    /// and where it is only being made.
    pub(super) fn read(
        object: &SharedObject,
        slot: Option<u32>,
        locks: &LockTable,
    ) -> Option<Self> {
        let mut head = vec![0; DATA_OFFSET];
        let mut object = object.clone();
        let read = File::open(&object.path).and_then(|file| {
            let read = read_available(&file, &mut head, 0)?;
            // It may have been listed before it had its length.
            object.length_bytes = file.metadata()?.len();
            Ok(read)
        });
        let header: LaneHeader = read_plain(&head);
        let ring = RingWords::read(&head);
        let mut damage = Vec::new();
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => damage.push(format!("cannot be read: {error}")),
            Ok(read) if read < DATA_OFFSET => {
                damage.push(format!(
                    "has {read} bytes, expected {DATA_OFFSET} and its data"
                ));
            }
            Ok(_) => check_header(&header, &object, &mut damage),
        }
        // A publisher makes its lane first, and has it named when the header is written.
        let is_in_the_making = slot.is_none() && !damage.is_empty() && ring.tail_position() == 0;
        if is_in_the_making && object.is_younger(MAKING_AGE_MAX) {
            return None;
        }
        let rule = Rule::try_from(&header.rule);
        if let (Err(error), true) = (&rule, damage.is_empty()) {
            damage.push(error.to_string());
        }
        Some(RingView {
            epoch: object.epoch,
            slot,
            holder: object.holder_in(locks),
            publisher_pid: header.publisher_pid.get(),
            label: text_of(&header.label),
            created_ns: header.created_ns.get(),
            capacity_bytes: header.capacity_bytes.get(),
            rule: rule.ok(),
            committed: CommitView::default(),
            commits: [CommitView::default(); 2],
            bank: 0,
            damage,
            ..ring.into_view(&object)
        })
    }

    /// Finds what counts, as the next consumer will.
    pub(super) fn read_commits(&mut self, control: &Control, outboxes: &[RingView]) {
        let (Some(slot), Some(rule)) = (self.slot, &self.rule) else {
            return;
        };
        let slot = slot as usize;
        self.commits = [0, 1].map(|bank| control.lane_commits[bank][slot].load().into());
        let flip = match Scope::of(rule) {
            Scope::Persisted => {
                // ORDERING: Relaxed; nobody writes to a copy.
                let generation = control.consumer.generation.load(Ordering::Relaxed);
                self.bank = (generation & 1) as usize;
                None
            }
            Scope::Passthrough => {
                self.bank = (self.selector & 1) as usize;
                None
            }
            Scope::Batched => {
                let pattern = rule.pattern.as_str();
                let channel = channel::all(control).find(|(_, known)| known.as_str() == pattern);
                let outbox = channel.and_then(|(channel, _)| {
                    outboxes.iter().find(|outbox| outbox.slot == Some(channel))
                });
                Some(outbox.map_or((0, 0), |outbox| (outbox.epoch, outbox.tail_position)))
            }
        };
        let committed = match flip {
            Some((outbox_epoch, tail)) => {
                let (committed, bank) =
                    commit::batched_lane(control, slot, self.epoch, outbox_epoch, tail);
                self.bank = bank;
                committed
            }
            None => {
                let committed = control.lane_commits[self.bank][slot].load();
                match committed.epoch == self.epoch {
                    true => committed,
                    false => LaneCommit {
                        epoch: self.epoch,
                        ..LaneCommit::default()
                    },
                }
            }
        };
        self.committed = committed.into();
    }

    fn payload_bytes_limit(&self) -> u32 {
        let limit = match (&self.rule, self.object.kind) {
            (Some(rule), ObjectKind::Lane) => u64::from(rule.payload_bytes_limit),
            _ => self.capacity_bytes,
        };
        limit.min(CAPACITY_BYTES_MAX) as u32
    }
}

fn check_header(header: &LaneHeader, object: &SharedObject, damage: &mut Vec<String>) {
    let (magic, name) = match object.kind {
        ObjectKind::Outbox => (OUTBOX_MAGIC, "mpondobx"),
        _ => (LANE_MAGIC, "mpondlan"),
    };
    if header.magic.get() != magic {
        let found = header.magic.get().to_le_bytes();
        damage.push(format!(
            "at byte 0: magic is {}, expected {name}",
            found.escape_ascii()
        ));
        return;
    }
    if header.layout_version.get() != LAYOUT_VERSION {
        let found = header.layout_version.get();
        damage.push(format!(
            "at byte 8: layout version is {found}, expected {LAYOUT_VERSION}"
        ));
    }
    let capacity = header.capacity_bytes.get();
    let most = object
        .length_bytes
        .saturating_sub(DATA_OFFSET as u64)
        .min(CAPACITY_BYTES_MAX);
    if !capacity.is_power_of_two() || !(CAPACITY_BYTES_MIN..=most).contains(&capacity) {
        damage.push(format!(
            "at byte 24: capacity is {capacity}, expected a power of two from {CAPACITY_BYTES_MIN} to {most}"
        ));
    }
    if header.epoch.get() != object.epoch {
        damage.push(format!(
            "at byte 32: epoch is {:x}, expected {:x}",
            header.epoch.get(),
            object.epoch
        ));
    }
}

/// The live part of a ring's header.
struct RingWords {
    ring: Option<Pinned<RingHeader>>,
}

impl RingWords {
    fn read(head: &[u8]) -> Self {
        let ring = Region::heap(size_of::<RingHeader>()).and_then(|region| {
            region.copy_in(
                0,
                head.get(RING_OFFSET..RING_OFFSET + size_of::<RingHeader>())?,
            );
            region.pin(0)
        });
        RingWords { ring }
    }

    fn tail_position(&self) -> u64 {
        let tail = |ring: &RingHeader| {
            // ORDERING: Relaxed; nobody writes to a copy.
            ring.publisher.tail_position.load(Ordering::Relaxed)
        };
        self.ring.as_deref().map_or(0, tail)
    }

    fn into_view(self, object: &SharedObject) -> RingView {
        let zeros = RingHeader::default();
        let ring = self.ring.as_deref().unwrap_or(&zeros);
        // ORDERING: Relaxed throughout; nobody writes to a copy.
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let small = |word: &AtomicU32| word.load(Ordering::Relaxed);
        RingView {
            object: object.clone(),
            epoch: object.epoch,
            slot: None,
            holder: Holder::Unknown,
            publisher_pid: 0,
            label: String::new(),
            created_ns: 0,
            capacity_bytes: 0,
            rule: None,
            tail_position: word(&ring.publisher.tail_position),
            sequence_next: word(&ring.publisher.sequence_next),
            dropped: DropCounts {
                full: word(&ring.publisher.dropped_full),
                deadline: word(&ring.publisher.dropped_deadline),
                too_long: word(&ring.publisher.dropped_too_long),
                other: 0,
            },
            flush_position: word(&ring.publisher.flush_position),
            is_closed: small(&ring.publisher.closed) == 1,
            overwrite_position: word(&ring.publisher.overwrite_position),
            head_position: word(&ring.reader.head_position),
            drained_position: word(&ring.reader.drained_position),
            durable_position: word(&ring.reader.durable_position),
            is_quarantined: small(&ring.reader.quarantined) != 0,
            selector: word(&ring.reader.selector),
            committed: CommitView::default(),
            commits: [CommitView::default(); 2],
            bank: 0,
            damage: Vec::new(),
        }
    }
}

/// Part of a ring in memory of our own.
struct CopiedRing {
    ring: Pinned<RingHeader>,
    capacity_bytes: u64,
}

impl RingMemory for CopiedRing {
    fn header(&self) -> &RingHeader {
        &self.ring
    }

    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    fn copy_in(&self, index: usize, bytes: &[u8]) {
        self.ring.region().copy_in(DATA_OFFSET + index, bytes);
    }

    fn copy_out(&self, index: usize, bytes: &mut [u8]) {
        self.ring.region().copy_out(DATA_OFFSET + index, bytes);
    }
}

/// Copies the header of a ring, and its data from `from` for at most `length_bytes`. The caller has checked the capacity.
fn copy_ring(ring: &RingView, from: u64, length_bytes: u64) -> io::Result<CopiedRing> {
    let capacity_bytes = ring.capacity_bytes;
    let file = File::open(&ring.object.path)?;
    let length_bytes = length_bytes.min(capacity_bytes);
    let first = from & (capacity_bytes - 1);
    let to_end = length_bytes.min(capacity_bytes - first);
    // Pages that nobody touches take no memory.
    let region = Region::heap(DATA_OFFSET + capacity_bytes as usize)
        .ok_or(io::Error::from(io::ErrorKind::OutOfMemory))?;
    for _ in 0..COPIES_MAX {
        let copy = |index: u64, length: u64| -> io::Result<()> {
            let mut bytes = vec![0; (1 << 20).min(length as usize)];
            let mut done = 0;
            while done < length {
                let part = (length - done).min(bytes.len() as u64) as usize;
                bytes[..part].fill(0);
                let at = DATA_OFFSET as u64 + index + done;
                read_available(&file, &mut bytes[..part], at)?;
                region.copy_in(at as usize, &bytes[..part]);
                done += part as u64;
            }
            Ok(())
        };
        copy(first, to_end)?;
        copy(0, length_bytes - to_end)?;
        let mut head = vec![0; DATA_OFFSET];
        read_available(&file, &mut head, 0)?;
        region.copy_in(0, &head);
        let overwritten = ring_of(&region)?
            .publisher
            .overwrite_position
            // ORDERING: Relaxed; nobody writes to a copy.
            .load(Ordering::Relaxed);
        if overwritten <= from.saturating_add(capacity_bytes) {
            break;
        }
    }
    Ok(CopiedRing {
        ring: ring_of(&region)?,
        capacity_bytes,
    })
}

fn ring_of(region: &Arc<Region>) -> io::Result<Pinned<RingHeader>> {
    // It is longer than a ring's header.
    region
        .pin(RING_OFFSET)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A record that was copied out of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedRecord {
    /// Where it starts, in bytes since the ring was made.
    pub position: u64,
    /// What it is: `event`, or in an outbox `batch`, `gap` or `lane end`.
    pub kind: &'static str,
    /// Real time in ns.
    pub time_ns: u64,
    /// Its number in the lane.
    pub sequence: u64,
    /// Its level.
    pub level: Level,
    /// The event's name; `#ID` where that cannot be found.
    pub name: String,
    /// Hash of the payload's schema, 0 for plain bytes.
    pub schema_id: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Records of one ring, oldest first. After the first thing that cannot be a record there is one more item, which says
/// what it is.
pub struct Records<'i> {
    reader: Option<Reader<CopiedRing>>,
    control: Option<&'i Control>,
    problem: Option<String>,
    /// Where what was asked for ends.
    end: u64,
}

impl std::fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("problem", &self.problem)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl<'i> Records<'i> {
    pub(super) fn undrained(ring: &RingView, control: Option<&'i Control>) -> Self {
        let nothing = |problem: Option<String>| Records {
            reader: None,
            control,
            problem,
            end: 0,
        };
        if let Some(damage) = ring.damage.first() {
            // Where nothing was ever published nothing is lost.
            let is_empty = ring.tail_position == 0 && ring.sequence_next == 0;
            return nothing((!is_empty).then(|| damage.clone()));
        }
        let is_outbox = ring.object.kind == ObjectKind::Outbox;
        let from = match (is_outbox, control) {
            (true, _) | (_, None) => ring.head_position,
            (false, Some(_)) => ring.committed.position,
        };
        let (tail, capacity) = (ring.tail_position, ring.capacity_bytes);
        if tail == from {
            return nothing(None);
        }
        if tail.wrapping_sub(from) > capacity || !(tail | from).is_multiple_of(8) {
            let limit = from.saturating_add(capacity);
            return nothing(Some(format!(
                "tail position is {tail}, expected a multiple of 8 from {from} to {limit}"
            )));
        }
        let memory = match copy_ring(ring, from, tail - from) {
            Ok(memory) => memory,
            // The consumer has taken what was in it, and removed it, since its header was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing(None),
            Err(error) => return nothing(Some(format!("cannot be read: {error}"))),
        };
        let sequence = match from == ring.committed.position {
            true => ring.committed.sequence_next,
            false => 0,
        };
        let reader = Reader::resume(memory, ring.payload_bytes_limit(), from, sequence);
        let mut reader = match is_outbox {
            true => reader.of_outbox(),
            false => reader,
        };
        let problem = reader.refresh().err().map(|damage| words(&damage));
        Records {
            reader: problem.is_none().then_some(reader),
            control,
            problem,
            end: tail,
        }
    }
}

impl Iterator for Records<'_> {
    /// A record, or in words what is in the place of one.
    type Item = Result<InspectedRecord, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(problem) = self.problem.take() {
            return Some(Err(RecordError(problem)));
        }
        let reader = self
            .reader
            .as_mut()
            .filter(|reader| reader.position() < self.end)?;
        let header = match reader.peek() {
            Ok(header) => header?,
            Err(damage) => {
                self.reader = None;
                return Some(Err(RecordError(words(&damage))));
            }
        };
        let mut payload = vec![0; header.length_bytes.get() as usize];
        reader.copy_payload(&mut payload);
        let position = reader.position();
        reader.advance(&header);
        Some(Ok(record(&header, position, payload, self.control)))
    }
}

/// What is in the place of a record, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError(String);

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RecordError {}

fn words(damage: &Damage) -> String {
    let Damage {
        position,
        what,
        found,
        limit,
    } = damage;
    format!("{what} at position {position} is {found}, expected at most {limit}")
}

fn record(
    header: &RecordHeader,
    position: u64,
    payload: Vec<u8>,
    control: Option<&Control>,
) -> InspectedRecord {
    let id = header.name_id.get();
    let unnamed = || format!("#{id}");
    let (name, payload) = match header.flags.get() & FLAG_INLINE_NAME == 0 {
        true => {
            let known = control.and_then(|control| names::read(&control.names, id));
            (known.unwrap_or_else(unnamed), payload)
        }
        false => match split_inline_name(&payload) {
            Some((name, rest)) => (name.text.to_owned(), rest.to_vec()),
            None => (unnamed(), payload),
        },
    };
    let (kind, name) = match header.kind {
        KIND_BATCH => ("batch", String::new()),
        KIND_GAP => ("gap", String::new()),
        KIND_LANE_END => ("lane end", String::new()),
        _ => ("event", name),
    };
    InspectedRecord {
        position,
        kind,
        time_ns: header.time_ns.get(),
        sequence: header.sequence.get(),
        level: Level::from_u8(header.level),
        name,
        schema_id: header.schema_id.get(),
        payload,
    }
}

/// What lies behind the tail of a lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Records that are whole and were never committed: their publisher died in between, or is about to commit them.
    pub records: Vec<InspectedRecord>,
    /// The bytes behind those, at most 64, where they are neither zeros nor an older record. They may be a claim that was
    /// being filled, or what is left of records that were drained long ago.
    pub bytes: Vec<u8>,
}

/// Looks behind the tail. A record is plausible if it has the number that comes next, and fits.
pub(super) fn unfinished(ring: &RingView, control: Option<&Control>) -> Unfinished {
    let mut found = Unfinished::default();
    let (tail, capacity) = (ring.tail_position, ring.capacity_bytes);
    if !ring.damage.is_empty() || !tail.is_multiple_of(8) {
        return found;
    }
    let Ok(memory) = copy_ring(ring, tail, UNFINISHED_BYTES_MAX) else {
        return found;
    };
    let end = tail.saturating_add(UNFINISHED_BYTES_MAX.min(capacity));
    let (mut position, mut sequence) = (tail, ring.sequence_next);
    while found.records.len() < UNFINISHED_RECORDS_MAX && end - position >= HEADER_BYTES as u64 {
        let index = position & (capacity - 1);
        let to_end = capacity - index;
        let mut head = [0; HEADER_BYTES];
        let length = head.len().min(to_end as usize);
        memory.copy_out(index as usize, &mut head[..length]);
        let header: RecordHeader = read_plain(&head);
        let length_bytes = u64::from(header.length_bytes.get());
        if header.kind == KIND_PADDING && length_bytes + 8 == to_end && position + to_end < end {
            position += to_end;
            continue;
        }
        let is_next = header.kind == KIND_EVENT
            && length == HEADER_BYTES
            && header.sequence.get() == sequence
            && header.time_ns.get() >= ring.created_ns
            && length_bytes <= u64::from(ring.payload_bytes_limit())
            && record_bytes(length_bytes as usize) <= to_end.min(end - position);
        if !is_next {
            break;
        }
        let mut payload = vec![0; length_bytes as usize];
        memory.copy_out(index as usize + HEADER_BYTES, &mut payload);
        found
            .records
            .push(record(&header, position, payload, control));
        position += record_bytes(length_bytes as usize);
        sequence += 1;
    }
    found.bytes = raw_bytes(&memory, position, end, sequence);
    found
}

/// The first bytes at `position`, unless they are zeros or a record that is older than number `sequence`.
fn raw_bytes(memory: &CopiedRing, position: u64, end: u64, sequence: u64) -> Vec<u8> {
    let index = position & (memory.capacity_bytes - 1);
    let length = (memory.capacity_bytes - index)
        .min(end - position)
        .min(RAW_BYTES_MAX as u64) as usize;
    let mut bytes = vec![0; length];
    memory.copy_out(index as usize, &mut bytes);
    let header: RecordHeader = read_plain(&bytes);
    let is_older = matches!(header.kind, KIND_EVENT | KIND_PADDING)
        && header.sequence.get() < sequence
        && header.as_bytes().len() <= length;
    match is_older || bytes.iter().all(|&byte| byte == 0) {
        true => Vec::new(),
        false => bytes,
    }
}
