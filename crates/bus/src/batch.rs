//! Outbox records: what the consumer writes for subscribers, byte by byte.
//!
//! # Layout (all little-endian; each line is a multiple of 8 bytes)
//! ```text
//! the payload of a ring record of kind 3, a batch:
//!   0   count u32 | class u8 | 0 u8 | prefix_bytes u16          BatchHeader, 40 bytes
//!   8   first_time_ns u64 | last_time_ns u64                    of the entries' times, lowest and highest
//!  24   events_before u64                                       entries ever put in this outbox before it
//!  32   0 u64
//!  40   prefix text | 0 to 7 zeros                              literal prefix of all the names in it
//!   then `count` entries:
//!   0   length u32 | kind u8 | level u8 | flags u16             EntryHeader, 48 bytes; kind 1 event, 2 aggregate
//!   8   time_ns u64 | sequence u64 | name_id u32 | schema_id u32
//!  32   lane_epoch u64 | source u32 | replaced u32              source: index into the sources table
//!  48   payload | 0 to 7 zeros                                  `length` bytes; with flag bit 0 it begins with
//!                                                               the name: length u16, text
//! the payload of an entry of kind 2, an aggregate:
//!   0   count u64 | first_time_ns u64 | last_time_ns u64        AggregateHeader, 32 bytes
//!  24   stale u32 | fields u32                                  stale: 0 or 1
//!  32   `fields` times: min f64 | max f64 | mean f64 | last f64 numeric fields of the schema, in its order
//!
//! the payload of a ring record of kind 4, a gap: numbers that a publisher dropped
//!   0   lane_epoch u64 | first u64 | last u64 | source u32 | 0 u32      GapBody, 32 bytes; last is inclusive
//! ```
//! # Trust
//! Readers parse a *copy*: [`BatchView::parse`] checks every count, length and text of it once, so that
//! walking it afterwards costs a few loads per entry. Nonsense is an error value, never a panic.

use zerocopy::little_endian::{F64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::drain::{NameRef, Record};
use crate::event::Event;
use crate::layout::FLAG_INLINE_NAME;
use crate::level::Level;
use crate::names::INLINE_NAME_ID;
use crate::pattern::{NAME_BYTES_MAX, check_event_name};
use crate::rule::Class;

/// In front of a batch.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct BatchHeader {
    count: U32,
    class: u8,
    reserved_a: u8,
    prefix_bytes: U16,
    first_time_ns: U64,
    last_time_ns: U64,
    events_before: U64,
    reserved_b: U64,
}
/// Bytes of a batch in front of its prefix.
pub(crate) const BATCH_HEADER_BYTES: usize = size_of::<BatchHeader>();
const _: () = assert!(BATCH_HEADER_BYTES == 40);

/// In front of an entry.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct EntryHeader {
    length_bytes: U32,
    kind: u8,
    level: u8,
    flags: U16,
    time_ns: U64,
    sequence: U64,
    name_id: U32,
    schema_id: U32,
    lane_epoch: U64,
    source: U32,
    replaced: U32,
}
const ENTRY_HEADER_BYTES: usize = size_of::<EntryHeader>();
const _: () = assert!(ENTRY_HEADER_BYTES == 48);

/// In front of an aggregate's fields.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AggregateHeader {
    count: U64,
    first_time_ns: U64,
    last_time_ns: U64,
    stale: U32,
    fields: U32,
}
const AGGREGATE_HEADER_BYTES: usize = size_of::<AggregateHeader>();
const _: () = assert!(AGGREGATE_HEADER_BYTES == 32);

/// One numeric field of an aggregate.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AggregateField {
    min: F64,
    max: F64,
    mean: F64,
    last: F64,
}
const _: () = assert!(size_of::<AggregateField>() == 32);

const KIND_EVENT: u8 = 1;
const KIND_AGGREGATE: u8 = 2;

/// The most that a batch takes in front of its entries: its header and the longest prefix.
pub const BATCH_HEAD_BYTES_MAX: usize = BATCH_HEADER_BYTES + NAME_BYTES_MAX;
/// Most fields of an aggregate: what makes it fit into a quarter of the smallest outbox.
pub const AGGREGATE_FIELDS_MAX: usize = 128;

/// Numbers that a publisher dropped, as an outbox keeps them.
///
/// ```
/// let gap = millpond_bus::GapBody::new(3, 10, 19, 0);
/// assert_eq!((gap.lane_epoch(), gap.first(), gap.last(), gap.source()), (3, 10, 19, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GapBody {
    lane_epoch: U64,
    first: U64,
    last: U64,
    source: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<GapBody>() == 32);

impl GapBody {
    /// The numbers `first` to `last`, inclusive, of a lane; `source` is an index into the sources table.
    pub fn new(lane_epoch: u64, first: u64, last: u64, source: u32) -> Self {
        GapBody {
            lane_epoch: U64::new(lane_epoch),
            first: U64::new(first),
            last: U64::new(last),
            source: U32::new(source),
            reserved: U32::ZERO,
        }
    }

    /// Reads the payload of a gap record.
    ///
    /// # Errors
    /// Says what is wrong, for the report of a damaged outbox.
    pub fn parse(payload: &[u8]) -> Result<Self, &'static str> {
        let gap = GapBody::read_from_bytes(payload).map_err(|_| "length of a gap record")?;
        if gap.first() > gap.last() {
            return Err("numbers of a gap record");
        }
        Ok(gap)
    }

    /// Epoch of the lane.
    pub fn lane_epoch(&self) -> u64 {
        self.lane_epoch.get()
    }

    /// First missing number.
    pub fn first(&self) -> u64 {
        self.first.get()
    }

    /// Last missing number, inclusive.
    pub fn last(&self) -> u64 {
        self.last.get()
    }

    /// The publisher: an index into the sources table.
    pub fn source(&self) -> u32 {
        self.source.get()
    }
}

/// An entry to be written.
///
/// ```
/// use millpond_bus::{Entry, Level, NameRef, append_entry};
/// let mut entries = Vec::new();
/// let entry = Entry {
///     is_aggregate: false,
///     level: Level::Info as u8,
///     time_ns: 1,
///     sequence: 0,
///     name: NameRef { id: 17, text: "data:users:created" },
///     schema_id: 0,
///     lane_epoch: 1,
///     source: 0,
///     replaced: 0,
///     payload: b"seven b",
/// };
/// append_entry(&mut entries, &entry);
/// assert_eq!(entries.len(), entry.entry_bytes());
/// assert_eq!(entries.len(), 48 + 8);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The payload is one that [`append_aggregate`] wrote.
    pub is_aggregate: bool,
    /// Level number, see [`Level::from_u8`].
    pub level: u8,
    /// Real time of its publication in ns.
    pub time_ns: u64,
    /// Number within its lane.
    pub sequence: u64,
    /// Its name. One that is not interned (`id` is `u32::MAX`) travels in front of the payload.
    pub name: NameRef<'a>,
    /// Hash of the payload's schema, 0 for plain bytes.
    pub schema_id: u32,
    /// The lane it came through.
    pub lane_epoch: u64,
    /// Its publisher: an index into the sources table.
    pub source: u32,
    /// Class `conflate`: how many earlier values it stands for.
    pub replaced: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> From<&Record<'a>> for Entry<'a> {
    /// The entry of a drained event, as it is.
    #[inline(always)]
    fn from(record: &Record<'a>) -> Self {
        Entry {
            is_aggregate: false,
            level: record.level,
            time_ns: record.time_ns,
            sequence: record.sequence,
            name: record.name,
            schema_id: record.schema_id,
            lane_epoch: record.lane.epoch,
            source: record.source,
            replaced: 0,
            payload: record.payload,
        }
    }
}

impl Entry<'_> {
    fn inline_bytes(&self) -> usize {
        if self.name.id == INLINE_NAME_ID {
            2 + self.name.text.len()
        } else {
            0
        }
    }

    /// Bytes that it takes in a record, padding included.
    #[inline]
    pub fn entry_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES + (self.inline_bytes() + self.payload.len()).next_multiple_of(8)
    }
}

/// Appends an entry. Costs two copies into `entries`, which grows where it must.
#[inline(always)]
pub fn append_entry(entries: &mut Vec<u8>, entry: &Entry<'_>) {
    let inline_bytes = entry.inline_bytes();
    let length_bytes = inline_bytes + entry.payload.len();
    let header = EntryHeader {
        length_bytes: U32::new(length_bytes as u32),
        kind: if entry.is_aggregate {
            KIND_AGGREGATE
        } else {
            KIND_EVENT
        },
        level: entry.level,
        flags: U16::new(if inline_bytes > 0 {
            FLAG_INLINE_NAME
        } else {
            0
        }),
        time_ns: U64::new(entry.time_ns),
        sequence: U64::new(entry.sequence),
        name_id: U32::new(entry.name.id),
        schema_id: U32::new(entry.schema_id),
        lane_epoch: U64::new(entry.lane_epoch),
        source: U32::new(entry.source),
        replaced: U32::new(entry.replaced),
    };
    entries.reserve(ENTRY_HEADER_BYTES + length_bytes + 7);
    entries.extend_from_slice(header.as_bytes());
    if inline_bytes > 0 {
        entries.extend_from_slice(&(entry.name.text.len() as u16).to_le_bytes());
        entries.extend_from_slice(entry.name.text.as_bytes());
    }
    entries.extend_from_slice(entry.payload);
    let padding = length_bytes.next_multiple_of(8) - length_bytes;
    if padding > 0 {
        entries.extend_from_slice(&[0; 7][..padding]);
    }
}

/// Count, times and fields of an aggregate to be written.
///
/// ```
/// use millpond_bus::{AggregateView, FieldSummary, append_aggregate};
/// let mut payload = Vec::new();
/// let power = FieldSummary { min: 1.0, max: 3.0, mean: 2.0, last: 3.0 };
/// append_aggregate(&mut payload, 10, (100, 200), false, [power].into_iter());
/// let aggregate = AggregateView::parse(&payload).expect("just written");
/// assert_eq!(aggregate.count(), 10);
/// assert_eq!(aggregate.fields().next(), Some(power));
/// ```
pub fn append_aggregate(
    payload: &mut Vec<u8>,
    count: u64,
    times_ns: (u64, u64),
    stale: bool,
    fields: impl ExactSizeIterator<Item = FieldSummary>,
) {
    let header = AggregateHeader {
        count: U64::new(count),
        first_time_ns: U64::new(times_ns.0),
        last_time_ns: U64::new(times_ns.1),
        stale: U32::new(stale.into()),
        fields: U32::new(fields.len() as u32),
    };
    payload.extend_from_slice(header.as_bytes());
    for field in fields {
        let FieldSummary {
            min,
            max,
            mean,
            last,
        } = field;
        let field = AggregateField {
            min: F64::new(min),
            max: F64::new(max),
            mean: F64::new(mean),
            last: F64::new(last),
        };
        payload.extend_from_slice(field.as_bytes());
    }
}

/// A batch to be written, in three pieces: [`BatchParts::header`], [`BatchParts::prefix`], and `entries`.
///
/// ```
/// use millpond_bus::{BatchParts, Class};
/// let parts = BatchParts {
///     class: Class::Batch,
///     prefix: "data:users",
///     count: 0,
///     first_time_ns: 0,
///     last_time_ns: 0,
///     entries: &[],
/// };
/// let pieces = parts.header(0).len() + parts.prefix().as_ref().len() + parts.entries.len();
/// assert_eq!(parts.payload_bytes(), pieces);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BatchParts<'a> {
    /// The class of the rule.
    pub class: Class,
    /// Literal prefix of the names in it, at most 128 bytes.
    pub prefix: &'a str,
    /// How many entries there are.
    pub count: u32,
    /// Lowest time of them.
    pub first_time_ns: u64,
    /// Highest time of them.
    pub last_time_ns: u64,
    /// The entries, as [`append_entry`] writes them.
    pub entries: &'a [u8],
}

/// A prefix with its padding.
#[derive(Debug, Clone, Copy)]
pub struct PaddedPrefix {
    bytes: [u8; NAME_BYTES_MAX],
    length_bytes: usize,
}

impl AsRef<[u8]> for PaddedPrefix {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length_bytes]
    }
}

impl BatchParts<'_> {
    /// Length of the record's payload.
    pub fn payload_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.prefix.len().next_multiple_of(8) + self.entries.len()
    }

    /// The first piece. `events_before`: entries ever put in this outbox before this record.
    pub fn header(&self, events_before: u64) -> [u8; BATCH_HEADER_BYTES] {
        let header = BatchHeader {
            count: U32::new(self.count),
            class: self.class.number(),
            reserved_a: 0,
            prefix_bytes: U16::new(self.prefix.len() as u16),
            first_time_ns: U64::new(self.first_time_ns),
            last_time_ns: U64::new(self.last_time_ns),
            events_before: U64::new(events_before),
            reserved_b: U64::ZERO,
        };
        zerocopy::transmute!(header)
    }

    /// The second piece; the third is `entries`. A prefix is the part of an event name, so it fits.
    pub fn prefix(&self) -> PaddedPrefix {
        let mut bytes = [0; NAME_BYTES_MAX];
        let length = self.prefix.floor_char_boundary(NAME_BYTES_MAX);
        bytes[..length].copy_from_slice(&self.prefix.as_bytes()[..length]);
        PaddedPrefix {
            bytes,
            length_bytes: length.next_multiple_of(8),
        }
    }
}

/// A batch that has been checked, with names and sources as numbers: what subscriptions and inspectors
/// read. Subscribers get a [`Batch`].
///
/// ```
/// use millpond_bus::{BatchParts, BatchView, Class};
/// let parts = BatchParts {
///     class: Class::Batch,
///     prefix: "data:users",
///     count: 0,
///     first_time_ns: 0,
///     last_time_ns: 0,
///     entries: &[],
/// };
/// let payload = [&parts.header(7)[..], parts.prefix().as_ref(), parts.entries].concat();
/// let view = BatchView::parse(&payload)?;
/// assert_eq!((view.prefix(), view.events_before(), view.entries().count()), ("data:users", 7, 0));
/// # Ok::<(), &'static str>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    header: &'a BatchHeader,
    class: Class,
    prefix: &'a str,
    entries: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// Checks everything: counts, lengths, bounds, texts, aggregates. Costs a few loads per entry.
    ///
    /// `payload` is a copy of what the ring holds, so it does not change after the check.
    ///
    /// # Errors
    /// Says what is wrong, for the report of a damaged outbox.
    pub fn parse(payload: &'a [u8]) -> Result<Self, &'static str> {
        let (header, rest) =
            BatchHeader::ref_from_prefix(payload).map_err(|_| "length of a batch record")?;
        let class = Class::from_number(header.class).ok_or("class of a batch record")?;
        let prefix_bytes = usize::from(header.prefix_bytes.get());
        if prefix_bytes > NAME_BYTES_MAX {
            return Err("prefix length of a batch record");
        }
        let (prefix, entries) = rest
            .split_at_checked(prefix_bytes.next_multiple_of(8))
            .ok_or("prefix length of a batch record")?;
        let prefix = std::str::from_utf8(&prefix[..prefix_bytes])
            .map_err(|_| "prefix text of a batch record")?;
        check_event_name(prefix).map_err(|_| "prefix text of a batch record")?;
        let count = check_entries(entries)?;
        if count != u64::from(header.count.get()) {
            return Err("entry count of a batch record");
        }
        Ok(BatchView {
            header,
            class,
            prefix,
            entries,
        })
    }

    /// How many entries there are.
    pub fn count(&self) -> u32 {
        self.header.count.get()
    }

    /// The class of the rule.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The literal prefix of its names.
    pub fn prefix(&self) -> &'a str {
        self.prefix
    }

    /// Entries ever put in the outbox before this record.
    pub fn events_before(&self) -> u64 {
        self.header.events_before.get()
    }

    /// Events in its outbox up to its end. Estates of lanes do not count: their events have numbers of their own.
    pub(crate) fn events_after(&self) -> u64 {
        match self.class() {
            Class::Passthrough => self.events_before(),
            _ => self.events_before().saturating_add(self.count().into()),
        }
    }

    /// Time of its first event.
    pub fn first_time_ns(&self) -> u64 {
        self.header.first_time_ns.get()
    }

    /// Time of its last event.
    pub fn last_time_ns(&self) -> u64 {
        self.header.last_time_ns.get()
    }

    /// The entries in order.
    #[inline]
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            entries: self.entries,
            offset: 0,
        }
    }

    /// The entry at an offset that an [`EntryView`] of this batch gave.
    #[inline]
    pub fn entry_at(&self, offset: u32) -> Option<EntryView<'a>> {
        read_entry(self.entries, offset as usize).map(|(entry, _)| entry)
    }
}

/// Walks all entries and checks each; how many there are.
fn check_entries(entries: &[u8]) -> Result<u64, &'static str> {
    if u32::try_from(entries.len()).is_err() {
        return Err("length of a batch record");
    }
    let mut count = 0;
    let mut offset = 0;
    while offset < entries.len() {
        let (entry, next) = read_entry(entries, offset).ok_or("entry length of a batch record")?;
        if entry.header.flags.get() & FLAG_INLINE_NAME != 0 {
            let (name, _) = split_inline_name(entry.body).ok_or("inline name of a batch record")?;
            check_event_name(name).map_err(|_| "inline name of a batch record")?;
        } else if entry.header.name_id.get() == INLINE_NAME_ID {
            return Err("name id of a batch record");
        }
        match entry.header.kind {
            KIND_EVENT => {}
            KIND_AGGREGATE if AggregateView::parse(entry.payload()).is_some() => {}
            KIND_AGGREGATE => return Err("aggregate of a batch record"),
            _ => return Err("entry kind of a batch record"),
        }
        offset = next;
        count += 1;
    }
    Ok(count)
}

/// The entry at `offset` and where the next one starts; `None` where it leaves `entries`.
#[inline(always)]
fn read_entry(entries: &[u8], offset: usize) -> Option<(EntryView<'_>, usize)> {
    let rest = entries.get(offset..)?;
    let (header, rest) = EntryHeader::ref_from_prefix(rest).ok()?;
    let length_bytes = header.length_bytes.get() as usize;
    let padded_bytes = length_bytes.next_multiple_of(8);
    if padded_bytes > rest.len() {
        return None;
    }
    let entry = EntryView {
        offset: offset as u32,
        header,
        body: &rest[..length_bytes],
    };
    Some((entry, offset + ENTRY_HEADER_BYTES + padded_bytes))
}

/// Splits `u16 length, name, payload`; the name is text, and not checked further.
pub(crate) fn split_inline_name(body: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (name, payload) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    Some((std::str::from_utf8(name).ok()?, payload))
}

/// The entries of a checked batch, in order.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    entries: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = EntryView<'a>;

    #[inline]
    fn next(&mut self) -> Option<EntryView<'a>> {
        let (entry, next) = read_entry(self.entries, self.offset)?;
        self.offset = next;
        Some(entry)
    }
}

/// One entry of a checked batch.
#[derive(Debug, Clone, Copy)]
pub struct EntryView<'a> {
    offset: u32,
    header: &'a EntryHeader,
    /// Inline name, if any, and payload.
    body: &'a [u8],
}

impl<'a> EntryView<'a> {
    /// Where it lies among the entries: what [`BatchView::entry_at`] takes.
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// Id of its name; `None` where the name travels with it.
    #[inline]
    pub fn name_id(&self) -> Option<u32> {
        (self.header.flags.get() & FLAG_INLINE_NAME == 0).then(|| self.header.name_id.get())
    }

    /// Its publisher: an index into the sources table.
    #[inline]
    pub fn source(&self) -> u32 {
        self.header.source.get()
    }

    #[inline]
    fn payload(&self) -> &'a [u8] {
        match self.name_id() {
            Some(_) => self.body,
            None => split_inline_name(self.body).map_or(&[], |(_, payload)| payload),
        }
    }

    /// What was written. The text of an interned name is empty: look it up by its number.
    pub fn entry(&self) -> Entry<'a> {
        let header = self.header;
        let inline = split_inline_name(self.body).unwrap_or_default();
        let (text, payload) = match self.name_id() {
            Some(_) => ("", self.body),
            None => inline,
        };
        Entry {
            is_aggregate: header.kind == KIND_AGGREGATE,
            level: header.level,
            time_ns: header.time_ns.get(),
            sequence: header.sequence.get(),
            name: NameRef {
                id: self.name_id().unwrap_or(INLINE_NAME_ID),
                text,
            },
            schema_id: header.schema_id.get(),
            lane_epoch: header.lane_epoch.get(),
            source: self.source(),
            replaced: header.replaced.get(),
            payload,
        }
    }

    /// The event. A name or source that `resolver` does not know is `?`, see [`Resolver::resolve`].
    #[inline]
    pub(crate) fn event<'e>(&self, resolver: &'e Resolver) -> Event<'e>
    where
        'a: 'e,
    {
        let header = self.header;
        let (name, payload) = match self.name_id() {
            Some(id) => (resolver.name(id).unwrap_or(UNKNOWN), self.body),
            None => split_inline_name(self.body).unwrap_or((UNKNOWN, &[])),
        };
        Event {
            name,
            source: resolver.source(self.source()).unwrap_or(UNKNOWN),
            time_ns: header.time_ns.get(),
            level: Level::from_u8(header.level),
            lane: header.lane_epoch.get(),
            sequence: header.sequence.get(),
            schema_id: header.schema_id.get(),
            replaced: header.replaced.get(),
            is_aggregate: header.kind == KIND_AGGREGATE,
            payload,
        }
    }
}

const UNKNOWN: &str = "?";

/// Names and sources that a subscription has looked up so far, by id.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    pub(crate) names: Vec<Option<Box<str>>>,
    pub(crate) sources: Vec<Option<Box<str>>>,
}

impl Resolver {
    #[inline]
    pub(crate) fn name(&self, id: u32) -> Option<&str> {
        self.names.get(id as usize)?.as_deref()
    }

    #[inline]
    pub(crate) fn source(&self, index: u32) -> Option<&str> {
        self.sources.get(index as usize)?.as_deref()
    }

    /// Learns every name and source of a batch that it does not know yet, so that handing the batch out
    /// needs no further look at shared memory. Asks only where something is new.
    ///
    /// `read_name` and `read_source` give `None` for a number outside their tables, so the lists stay as
    /// short as those.
    ///
    /// # Errors
    /// A name that is not there: the outbox holds nonsense. A source that is not there is `?`: its slot may
    /// have been given up.
    pub(crate) fn resolve(
        &mut self,
        view: &BatchView<'_>,
        read_name: &mut dyn FnMut(u32) -> Option<String>,
        read_source: &mut dyn FnMut(u32) -> Option<String>,
    ) -> Result<(), &'static str> {
        for entry in view.entries() {
            if let Some(id) = entry.name_id()
                && self.name(id).is_none()
            {
                let name = read_name(id).ok_or("name id of a batch record")?;
                learn(&mut self.names, id, name);
            }
            let source = entry.source();
            if self.source(source).is_none()
                && let Some(label) = read_source(source)
            {
                learn(&mut self.sources, source, label);
            }
        }
        Ok(())
    }
}

#[cold]
fn learn(texts: &mut Vec<Option<Box<str>>>, id: u32, text: String) {
    let index = id as usize;
    if texts.len() <= index {
        texts.resize(index + 1, None);
    }
    texts[index] = Some(text.into_boxed_str());
}

/// A consolidated record: the events of one literal prefix that the consumer put together.
///
/// Events that the subscription does not ask for, or filters out, are not in it.
///
/// ```
/// use millpond_bus::{Batch, Event, Subscriber};
/// /// Takes a batch as one: one transaction instead of a hundred.
/// struct Transactions(Vec<(String, usize)>);
/// impl Subscriber for Transactions {
///     fn on_event(&mut self, event: &Event<'_>) {
///         self.0.push((event.name.to_owned(), 1));
///     }
///     fn on_batch(&mut self, batch: &Batch<'_>) {
///         self.0.push((batch.name(), batch.len())); // ("data:users:batch", 100)
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    view: BatchView<'a>,
    resolver: &'a Resolver,
    /// Offsets of the entries that matched; `None`: all of them.
    kept: Option<&'a [u32]>,
}

impl<'a> Batch<'a> {
    /// `resolver` knows the names and sources of `view`; `kept` are offsets of its entries, in order.
    pub(crate) fn new(
        view: BatchView<'a>,
        resolver: &'a Resolver,
        kept: Option<&'a [u32]>,
    ) -> Self {
        Batch {
            view,
            resolver,
            kept,
        }
    }

    /// The class of its rule.
    pub fn class(&self) -> Class {
        self.view.class()
    }

    /// What the names of its events have in common: all segments but the last.
    pub fn prefix(&self) -> &'a str {
        self.view.prefix()
    }

    /// `PREFIX:batch`. Allocates.
    pub fn name(&self) -> String {
        format!("{}:batch", self.prefix())
    }

    /// How many events it has that matched.
    pub fn len(&self) -> usize {
        match self.kept {
            Some(kept) => kept.len(),
            None => self.view.count() as usize,
        }
    }

    /// Whether none matched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time of the first event of the whole record, those that did not match included.
    pub fn first_time_ns(&self) -> u64 {
        self.view.first_time_ns()
    }

    /// Time of the last event of the whole record, those that did not match included.
    pub fn last_time_ns(&self) -> u64 {
        self.view.last_time_ns()
    }

    /// The events that matched, each with its place among all entries of the record.
    pub(crate) fn numbered_events(&self) -> impl Iterator<Item = (u64, Event<'a>)> + use<'a> {
        let (resolver, mut kept) = (self.resolver, self.kept);
        (0..)
            .zip(self.view.entries())
            .filter_map(move |(index, entry)| {
                if let Some(offsets) = &mut kept {
                    let (first, rest) = offsets.split_first()?;
                    if *first != entry.offset() {
                        return None;
                    }
                    *offsets = rest;
                }
                Some((index, entry.event(resolver)))
            })
    }

    /// The events that matched, in order. Does not allocate.
    #[inline]
    pub fn events(&self) -> impl Iterator<Item = Event<'a>> + use<'a> {
        let (view, resolver) = (self.view, self.resolver);
        let (all, kept) = match self.kept {
            None => (Some(view.entries()), None),
            Some(kept) => (None, Some(kept)),
        };
        let kept = kept
            .into_iter()
            .flatten()
            .filter_map(move |&offset| view.entry_at(offset));
        all.into_iter()
            .flatten()
            .chain(kept)
            .map(move |entry| entry.event(resolver))
    }
}

/// Min, max, mean and last of a numeric field over the events of an aggregate.
///
/// See [`append_aggregate`] for an example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FieldSummary {
    /// The lowest value.
    pub min: f64,
    /// The highest value.
    pub max: f64,
    /// The mean value.
    pub mean: f64,
    /// The value of the last event.
    pub last: f64,
}

/// What an aggregate says.
///
/// See [`append_aggregate`] for an example; subscribers get one from [`Event::aggregate`].
#[derive(Debug, Clone, Copy)]
pub struct AggregateView<'a> {
    header: &'a AggregateHeader,
    fields: &'a [AggregateField],
}

impl<'a> AggregateView<'a> {
    /// Checks the payload of an aggregate; `None` where it is none.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (header, rest) = AggregateHeader::ref_from_prefix(payload).ok()?;
        let fields = <[AggregateField]>::ref_from_bytes(rest).ok()?;
        let plausible = fields.len() == header.fields.get() as usize && header.stale.get() <= 1;
        plausible.then_some(AggregateView { header, fields })
    }

    /// How many events it stands for; 0 for a name that fell silent.
    pub fn count(&self) -> u64 {
        self.header.count.get()
    }

    /// Time of the first event.
    pub fn first_time_ns(&self) -> u64 {
        self.header.first_time_ns.get()
    }

    /// Time of the last event.
    pub fn last_time_ns(&self) -> u64 {
        self.header.last_time_ns.get()
    }

    /// The name fell silent: there were no events in the last windows, the values are the last known.
    pub fn stale(&self) -> bool {
        self.header.stale.get() != 0
    }

    /// The numeric fields, in the order of the schema.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = FieldSummary> + use<'a> {
        self.fields.iter().map(|field| FieldSummary {
            min: field.min.get(),
            max: field.max.get(),
            mean: field.mean.get(),
            last: field.last.get(),
        })
    }
}

#[cfg(test)]
mod tests;
