//! Where everything lies in the control segment and in a lane. `docs/formats/shm.md` is the picture;
//! the assertions here keep the two from drifting apart.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::clock::CalibrationPage;
use crate::commit_bell::CommitBellLine;
use crate::doorbell::DoorbellLine;
use crate::figures::HISTOGRAM_BUCKETS;
use crate::region::Shared;
use crate::ring::RingHeader;
use crate::rule::RuleEntry;
use crate::sync::atomic::{AtomicU32, AtomicU64};

/// Changes whenever a byte of shared memory changes its meaning. Both ends of a bus must agree.
pub(crate) const LAYOUT_VERSION: u32 = 6;
pub(crate) const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"mpondctl");
pub(crate) const LANE_MAGIC: u64 = u64::from_le_bytes(*b"mpondlan");
pub(crate) const OUTBOX_MAGIC: u64 = u64::from_le_bytes(*b"mpondobx");

/// Most rules of a bus.
pub(crate) const RULES_MAX: usize = crate::rule::RULES_MAX;
/// Most lanes of a bus at one time.
pub(crate) const LANES_MAX: usize = 1024;
/// Most interned event names; further names travel inside their records.
pub(crate) const NAMES_MAX: usize = 4096;
/// Most sources told apart in the statistics; further ones are counted together.
pub(crate) const SOURCES_MAX: usize = 1024;
/// Most services of one log directory that the commit point covers.
pub(crate) const SERVICES_MAX: usize = 1024;
/// Most patterns that the rules of a bus ever had.
pub(crate) const CHANNELS_MAX: usize = 512;
/// Most subscribers at one time.
pub(crate) const SUBSCRIBERS_MAX: usize = 256;
/// Most schemas of fixed-layout events.
pub(crate) const SCHEMAS_MAX: usize = 128;
/// Longest text of a schema, in bytes.
pub(crate) const SCHEMA_BYTES: usize = 4096;
/// Longest label of a publisher, in bytes.
pub(crate) const LABEL_BYTES: usize = 64;
/// Longest event name, in bytes.
pub(crate) const NAME_BYTES: usize = 128;
/// Longest path of a publisher's executable that is kept, in bytes: the end of a longer one.
pub(crate) const EXECUTABLE_BYTES: usize = 128;
/// Intervals kept of each source and service: one hour of 10 s each, one before to count the first from, and one
/// that is being overwritten.
pub(crate) const INTERVALS_MAX: usize = 362;
/// Blocks of history: one for each source, then one for each service.
pub(crate) const HISTORIES_MAX: usize = SOURCES_MAX + SERVICES_MAX;

/// The head of the control segment; everything in it is written before `ready`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ControlHeader {
    pub(crate) magic: U64,
    pub(crate) layout_version: U32,
    pub(crate) lanes_limit: U32,
    pub(crate) segment_bytes: U64,
    pub(crate) bus_bytes_limit: U64,
    pub(crate) created_ns: U64,
    pub(crate) creator_pid: U32,
    pub(crate) creator_uid: U32,
    pub(crate) boot_id: [u8; 16],
}
const _: () = assert!(size_of::<ControlHeader>() == 64);

/// Set last by the creator: 1 when everything before it can be read.
#[repr(C, align(128))]
pub(crate) struct ReadyLine {
    pub(crate) ready: AtomicU32,
}

/// What publishers ask of the consumer. Written by all of them, rarely.
#[repr(C, align(128))]
pub(crate) struct RequestLine {
    /// Grows with each request to flush.
    pub(crate) flush_requests: AtomicU64,
    /// Grows with each lane registered or closed.
    pub(crate) directory_changes: AtomicU64,
    /// The last epoch given to a lane.
    pub(crate) last_epoch: AtomicU64,
    /// Grows with each request to rotate every service.
    pub(crate) rotate_requests: AtomicU64,
    /// Grows with each request to read the configuration again.
    pub(crate) reload_requests: AtomicU64,
    /// One more than the highest slot that a subscriber ever took.
    pub(crate) subscribers_high: AtomicU64,
}

/// What the consumer says of itself. Consumer only.
#[repr(C, align(128))]
pub(crate) struct ConsumerLine {
    /// Real time of the last sign of life.
    pub(crate) heartbeat_ns: AtomicU64,
    pub(crate) started_ns: AtomicU64,
    pub(crate) pid: AtomicU32,
    /// Grows with each new rule table; its lowest bit says which bank is in force.
    pub(crate) rules_sequence: AtomicU32,
    /// Rules in each bank.
    pub(crate) rules_counts: [AtomicU32; 2],
    /// The commit point: its lowest bit says which bank is true for persisted lanes and services.
    pub(crate) generation: AtomicU64,
    /// Odd while `ConsumerText` is being rewritten.
    pub(crate) text_sequence: AtomicU64,
}

/// Words about the consumer for people. Consumer only, under `text_sequence`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ConsumerText {
    pub(crate) backend: [u8; 256],
    pub(crate) logs_dir: [u8; 512],
    pub(crate) trouble: [u8; 256],
}

/// A lane's registration: one word, so that a publisher that dies leaves no half of one.
///
/// `epoch << 8 | log2(capacity)`, 0 when free.
#[repr(C)]
pub(crate) struct DirectoryEntry {
    pub(crate) word: AtomicU64,
}

/// An interned name. The text is written while `state` is 1 and never changes after it is 2.
#[repr(C)]
pub(crate) struct NameSlot {
    /// 0 free, 1 being written, 2 ready.
    pub(crate) state: AtomicU32,
    pub(crate) length_bytes: AtomicU32,
    pub(crate) hash: AtomicU64,
    pub(crate) text: [AtomicU64; NAME_BYTES / 8],
}
const _: () = assert!(size_of::<NameSlot>() == 144);

/// A schema. Filled like a name: its text never changes after `state` is 2.
#[repr(C)]
pub(crate) struct SchemaSlot {
    /// 0 free, 1 being written, 2 ready.
    pub(crate) state: AtomicU32,
    pub(crate) id: AtomicU32,
    pub(crate) length_bytes: AtomicU32,
    pub(crate) reserved: AtomicU32,
    pub(crate) text: [AtomicU64; SCHEMA_BYTES / 8],
}
const _: () = assert!(size_of::<SchemaSlot>() == 16 + SCHEMA_BYTES);

/// How far the consumer has committed a lane. Two of these for each lane: see `ConsumerLine::generation`.
#[repr(C)]
pub(crate) struct LaneCommitSlot {
    /// The lane these numbers are about; another epoch means "nothing committed yet".
    pub(crate) epoch: AtomicU64,
    pub(crate) position: AtomicU64,
    pub(crate) sequence_next: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) missing: AtomicU64,
    pub(crate) delivered_bytes: AtomicU64,
    /// Events that a later one of their key, or an aggregate, stands for.
    pub(crate) coalesced: AtomicU64,
    /// Batched lanes: the slot is true once the tail of this outbox has come this far.
    pub(crate) outbox_epoch: AtomicU64,
    pub(crate) outbox_tail: AtomicU64,
    /// Events that a rate limit or sampling kept out of the log.
    pub(crate) suppressed: AtomicU64,
    pub(crate) reserved: [AtomicU64; 4],
}
const _: () = assert!(size_of::<LaneCommitSlot>() == 128);

/// How far a service's log is committed. Two of these for each service.
#[repr(C)]
pub(crate) struct ServiceCommitSlot {
    pub(crate) name: [AtomicU64; 8],
    pub(crate) segment_id: AtomicU64,
    pub(crate) length_bytes: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) segments: AtomicU64,
    /// Repeats taken and not told yet: count, first and last time, and what they repeat.
    pub(crate) repeats: AtomicU64,
    pub(crate) repeat_first_ns: AtomicU64,
    pub(crate) repeat_last_ns: AtomicU64,
    pub(crate) repeat_level: AtomicU64,
    pub(crate) repeat_source: [AtomicU64; LABEL_BYTES / 8],
    /// Suppressed lines taken and not told yet: count, first and last time.
    pub(crate) suppressed: AtomicU64,
    pub(crate) suppressed_first_ns: AtomicU64,
    pub(crate) suppressed_last_ns: AtomicU64,
    /// Pieces of text that redaction has replaced, ever.
    pub(crate) redacted: AtomicU64,
    /// Of everything before it, and the generation that makes it true.
    pub(crate) checksum: AtomicU64,
    pub(crate) reserved: [AtomicU64; 2],
}
const _: () = assert!(size_of::<ServiceCommitSlot>() == 256);

/// Totals of lanes that are gone. Two banks; `selector` says which is true.
#[repr(C)]
pub(crate) struct SourceTotals {
    /// The lane that was added last, so that a crash between adding and freeing adds it once.
    pub(crate) last_epoch: AtomicU64,
    pub(crate) lanes: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) dropped_full: AtomicU64,
    pub(crate) dropped_deadline: AtomicU64,
    pub(crate) dropped_too_long: AtomicU64,
    pub(crate) dropped_other: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) coalesced: AtomicU64,
    pub(crate) suppressed: AtomicU64,
}

/// Where the subscribers of one rule pattern are rung. BOTH: subscribers set bits, ringers take them away.
#[repr(C, align(128))]
pub(crate) struct ChannelBell {
    /// Name bits of subscribers that sleep.
    pub(crate) waiting: AtomicU64,
}
const _: () = assert!(size_of::<ChannelBell>() == 128);

/// The outbox of each channel, `epoch << 8 | log2(capacity)`, 0 for none. Consumer only.
#[repr(C)]
pub(crate) struct ChannelOutbox {
    pub(crate) word: AtomicU64,
}

/// One subscriber.
#[repr(C, align(128))]
pub(crate) struct SubscriberSlot {
    /// BOTH: 1 while it sleeps; whoever wakes it changes the word first.
    pub(crate) parked: AtomicU32,
    /// 2 once it is filled.
    pub(crate) state: AtomicU32,
    /// Which names it wants to be woken for: the bits of their hashes. Subscriber only, from here on.
    pub(crate) name_bits: AtomicU64,
    /// One bit for each channel that it listens to.
    pub(crate) channels: [AtomicU64; CHANNELS_MAX / 64],
    /// BOTH: whose slot it is: the number of the object whose lock is its sign of life. 0: free.
    pub(crate) epoch: AtomicU64,
    pub(crate) pid: AtomicU32,
    /// 1 when somebody asked it to return from its wait.
    pub(crate) woken: AtomicU32,
    pub(crate) label: [AtomicU64; LABEL_BYTES / 8],
    pub(crate) pattern: [AtomicU64; NAME_BYTES / 8],
    pub(crate) delivered: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) lagged: AtomicU64,
    pub(crate) wakes: AtomicU64,
}
const _: () = assert!(size_of::<SubscriberSlot>() == 384);

/// One source of events: a publisher's label and the rule it published under. Consumer only.
#[repr(C)]
pub(crate) struct SourceSlot {
    /// 0 free, 1 in use. Written after the texts.
    pub(crate) in_use: AtomicU32,
    pub(crate) selector: AtomicU32,
    pub(crate) label: [AtomicU64; LABEL_BYTES / 8],
    pub(crate) pattern: [AtomicU64; NAME_BYTES / 8],
    pub(crate) totals: [SourceTotals; 2],
}
const _: () = assert!(size_of::<SourceSlot>() == 8 + 64 + 128 + 208);

/// Who is behind a lane, or was behind the last lane of a source. Consumer only.
#[repr(C)]
pub(crate) struct OriginSlot {
    /// The lane that these words are about; 0 while they are being written.
    pub(crate) epoch: AtomicU64,
    pub(crate) started_ns: AtomicU64,
    pub(crate) lag_bytes_max: AtomicU64,
    pub(crate) pid: AtomicU32,
    pub(crate) uid: AtomicU32,
    /// 1 where the kernel has named the process, 0 where there is only the publisher's word.
    pub(crate) verified: AtomicU32,
    pub(crate) reserved: AtomicU32,
    pub(crate) executable: [AtomicU64; EXECUTABLE_BYTES / 8],
}
const _: () = assert!(size_of::<OriginSlot>() == 168);

/// How often each magnitude was seen, see `Histogram`. Consumer only.
#[repr(C, align(128))]
pub(crate) struct HistogramLine {
    pub(crate) buckets: [AtomicU64; HISTOGRAM_BUCKETS],
    pub(crate) sum: AtomicU64,
}
const _: () = assert!(size_of::<HistogramLine>() == 384);

/// What the consumer says of its work. Consumer only; it outlives each of them.
#[repr(C, align(128))]
pub(crate) struct FiguresPage {
    pub(crate) group_events: HistogramLine,
    pub(crate) group_bytes: HistogramLine,
    pub(crate) write_ns: HistogramLine,
    pub(crate) sync_ns: HistogramLine,
    pub(crate) commit_delay_ns: HistogramLine,
    pub(crate) batch_events: HistogramLine,
    pub(crate) cpu_ns: AtomicU64,
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) write_failures: AtomicU64,
    pub(crate) seal_failures: AtomicU64,
    pub(crate) sealed_segments: AtomicU64,
    pub(crate) sealed_saved_bytes: AtomicU64,
    pub(crate) trimmed_segments: AtomicU64,
    pub(crate) trimmed_bytes: AtomicU64,
    /// 0 until the rest of the disk has been told.
    pub(crate) disk_time_ns: AtomicU64,
    pub(crate) disk_bytes: AtomicU64,
    /// `u64::MAX` for none.
    pub(crate) disk_bytes_limit: AtomicU64,
    pub(crate) disk_free_bytes: AtomicU64,
    pub(crate) disk_keep_free_bytes: AtomicU64,
    pub(crate) disk_file_system_bytes: AtomicU64,
    pub(crate) disk_unsynced_segments: AtomicU64,
    pub(crate) reserved: AtomicU64,
}
const _: () = assert!(size_of::<FiguresPage>() == 6 * 384 + 16 * 8);

/// What a service has of the disk, by its slot in the commit point. Consumer only.
#[repr(C)]
pub(crate) struct ServiceDiskSlot {
    /// Of the name of the service that this is about; 0 for none.
    pub(crate) name_hash: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Limits are `u64::MAX` for none.
    pub(crate) bytes_limit: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) segments_limit: AtomicU64,
    pub(crate) age_limit_ns: AtomicU64,
    pub(crate) reserved: [AtomicU64; 2],
}
const _: () = assert!(size_of::<ServiceDiskSlot>() == 64);

/// The counters of a source or service at the end of one interval, as they were seen last in it.
#[repr(C)]
pub(crate) struct IntervalSlot {
    /// Real time in ns, divided by the length of an interval.
    pub(crate) number: AtomicU32,
    pub(crate) lag_bytes_max: AtomicU32,
    pub(crate) published: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) coalesced: AtomicU64,
    pub(crate) suppressed: AtomicU64,
    pub(crate) bytes: AtomicU64,
}
const _: () = assert!(size_of::<IntervalSlot>() == 72);

/// The last hour of one source or service. Allocated when it is first needed, see `HistoryMark`.
#[repr(C, align(4096))]
pub(crate) struct HistoryBlock {
    /// Intervals ever begun; the newest is at `begun - 1`, modulo their number. Only intervals in which
    /// something happened are begun.
    pub(crate) begun: AtomicU64,
    pub(crate) reserved: [AtomicU64; 7],
    pub(crate) intervals: [IntervalSlot; INTERVALS_MAX],
}
const _: () = assert!(size_of::<HistoryBlock>() == 7 * 4096);

/// Whether a block of history has memory. Nobody touches one that has not.
#[repr(C)]
pub(crate) struct HistoryMark {
    pub(crate) allocated: AtomicU32,
}

// SAFETY: structures of atomics only; padding is never read.
unsafe impl Shared for ReadyLine {}
// SAFETY: as above.
unsafe impl Shared for OriginSlot {}
// SAFETY: as above.
unsafe impl Shared for HistoryBlock {}
// SAFETY: as above.
unsafe impl Shared for HistoryMark {}
// SAFETY: as above.
unsafe impl Shared for FiguresPage {}
// SAFETY: as above.
unsafe impl Shared for ServiceDiskSlot {}
// SAFETY: as above.
unsafe impl Shared for DoorbellLine {}
// SAFETY: as above.
unsafe impl Shared for RingHeader {}
// SAFETY: as above.
unsafe impl Shared for RequestLine {}
// SAFETY: as above.
unsafe impl Shared for ConsumerLine {}
// SAFETY: as above.
unsafe impl Shared for DirectoryEntry {}
// SAFETY: as above.
unsafe impl Shared for NameSlot {}
// SAFETY: as above.
unsafe impl Shared for SchemaSlot {}
// SAFETY: as above.
unsafe impl Shared for LaneCommitSlot {}
// SAFETY: as above.
unsafe impl Shared for ServiceCommitSlot {}
// SAFETY: as above.
unsafe impl Shared for SourceSlot {}
// SAFETY: as above.
unsafe impl Shared for ChannelBell {}
// SAFETY: as above.
unsafe impl Shared for ChannelOutbox {}
// SAFETY: as above.
unsafe impl Shared for SubscriberSlot {}
// SAFETY: a single atomic, see `commit_bell`.
unsafe impl Shared for CommitBellLine {}
// SAFETY: a structure of atomics, see `clock`.
unsafe impl Shared for CalibrationPage {}
// SAFETY: arrays of what may be shared may be shared.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

pub(crate) const READY_OFFSET: usize = 0x080;
pub(crate) const DOORBELL_OFFSET: usize = 0x100;
pub(crate) const REQUEST_OFFSET: usize = 0x180;
pub(crate) const CONSUMER_OFFSET: usize = 0x200;
pub(crate) const CALIBRATION_OFFSET: usize = 0x280;
pub(crate) const TEXT_OFFSET: usize = 0x400;
pub(crate) const COMMIT_BELL_OFFSET: usize = 0x800;
pub(crate) const RULES_OFFSET: usize = 0x1000;
pub(crate) const DIRECTORY_OFFSET: usize =
    page(RULES_OFFSET + 2 * RULES_MAX * size_of::<RuleEntry>());
pub(crate) const NAMES_OFFSET: usize =
    page(DIRECTORY_OFFSET + LANES_MAX * size_of::<DirectoryEntry>());
pub(crate) const SOURCES_OFFSET: usize = page(NAMES_OFFSET + NAMES_MAX * size_of::<NameSlot>());
pub(crate) const LANE_COMMITS_OFFSET: usize =
    page(SOURCES_OFFSET + SOURCES_MAX * size_of::<SourceSlot>());
pub(crate) const SERVICE_COMMITS_OFFSET: usize =
    page(LANE_COMMITS_OFFSET + 2 * LANES_MAX * size_of::<LaneCommitSlot>());
pub(crate) const SCHEMAS_OFFSET: usize =
    page(SERVICE_COMMITS_OFFSET + 2 * SERVICES_MAX * size_of::<ServiceCommitSlot>());
pub(crate) const CHANNELS_OFFSET: usize =
    page(SCHEMAS_OFFSET + SCHEMAS_MAX * size_of::<SchemaSlot>());
pub(crate) const BELLS_OFFSET: usize = page(CHANNELS_OFFSET + CHANNELS_MAX * size_of::<NameSlot>());
pub(crate) const OUTBOXES_OFFSET: usize =
    page(BELLS_OFFSET + CHANNELS_MAX * size_of::<ChannelBell>());
pub(crate) const SUBSCRIBERS_OFFSET: usize =
    page(OUTBOXES_OFFSET + CHANNELS_MAX * size_of::<ChannelOutbox>());
pub(crate) const ORIGINS_OFFSET: usize =
    page(SUBSCRIBERS_OFFSET + SUBSCRIBERS_MAX * size_of::<SubscriberSlot>());
pub(crate) const SOURCE_ORIGINS_OFFSET: usize =
    page(ORIGINS_OFFSET + LANES_MAX * size_of::<OriginSlot>());
pub(crate) const FIGURES_OFFSET: usize =
    page(SOURCE_ORIGINS_OFFSET + SOURCES_MAX * size_of::<OriginSlot>());
pub(crate) const SERVICE_DISKS_OFFSET: usize = page(FIGURES_OFFSET + size_of::<FiguresPage>());
pub(crate) const HISTORY_MARKS_OFFSET: usize =
    page(SERVICE_DISKS_OFFSET + SERVICES_MAX * size_of::<ServiceDiskSlot>());
/// All that is allocated when the segment is made; what follows is allocated block by block.
pub(crate) const CONTROL_ALLOCATED_BYTES: usize =
    page(HISTORY_MARKS_OFFSET + HISTORIES_MAX * size_of::<HistoryMark>());
pub(crate) const HISTORIES_OFFSET: usize = CONTROL_ALLOCATED_BYTES;
pub(crate) const CONTROL_BYTES: usize =
    HISTORIES_OFFSET + HISTORIES_MAX * size_of::<HistoryBlock>();

const fn page(offset: usize) -> usize {
    offset.next_multiple_of(4096)
}

const _: () = assert!(CALIBRATION_OFFSET + size_of::<CalibrationPage>() <= TEXT_OFFSET);
const _: () = assert!(TEXT_OFFSET + size_of::<ConsumerText>() <= COMMIT_BELL_OFFSET);
const _: () = assert!(COMMIT_BELL_OFFSET + size_of::<CommitBellLine>() <= RULES_OFFSET);

/// The head of a lane: written before the lane is registered, never after.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct LaneHeader {
    pub(crate) magic: U64,
    pub(crate) layout_version: U32,
    pub(crate) publisher_pid: U32,
    pub(crate) publisher_uid: U32,
    pub(crate) label_bytes: U32,
    pub(crate) capacity_bytes: U64,
    pub(crate) epoch: U64,
    pub(crate) created_ns: U64,
    pub(crate) label: [u8; LABEL_BYTES],
    pub(crate) rule: RuleEntry,
}

pub(crate) const RING_OFFSET: usize = 0x400;
pub(crate) const DATA_OFFSET: usize = 0x1000;
const _: () = assert!(size_of::<LaneHeader>() <= RING_OFFSET);
const _: () = assert!(RING_OFFSET + size_of::<RingHeader>() <= DATA_OFFSET);

/// The event's name stands in front of the payload: u16 length, text. Used when the name table is full.
pub(crate) const FLAG_INLINE_NAME: u16 = 1;

/// Copies text into shared words, zero filled, cut at the size of `words`.
pub(crate) fn store_text(words: &[AtomicU64], text: &str) {
    let bytes = text.as_bytes();
    for (index, word) in words.iter().enumerate() {
        let mut chunk = [0; 8];
        let start = (index * 8).min(bytes.len());
        let end = (start + 8).min(bytes.len());
        chunk[..end - start].copy_from_slice(&bytes[start..end]);
        // ORDERING: Relaxed; the caller publishes the text with a Release store of its state word.
        word.store(
            u64::from_le_bytes(chunk),
            crate::sync::atomic::Ordering::Relaxed,
        );
    }
}

/// Reads text stored by [`store_text`]; what is not UTF-8 is replaced.
pub(crate) fn load_text(words: &[AtomicU64]) -> String {
    let mut bytes = Vec::with_capacity(words.len() * 8);
    for word in words {
        // ORDERING: Relaxed; the caller has read the state word with Acquire.
        bytes.extend_from_slice(
            &word
                .load(crate::sync::atomic::Ordering::Relaxed)
                .to_le_bytes(),
        );
    }
    text_of(&bytes)
}

/// The text in a zero-filled field. What is not UTF-8 is replaced, and so are control characters: any member of the bus
/// can write here, and what is read is shown on terminals.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    let shown = |character: char| match character.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    };
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().map(shown).collect()
}
