//! The last value per key.
//!
//! A window is `max_delay` long, from the first event that is pending; only the bounds on keys and bytes end
//! it earlier. (`max_events` and `max_bytes` cut its records. If they ended it, a channel with more keys
//! than `max_events` would never conflate anything.)

use std::collections::HashMap;
use std::fmt::Write;

use millpond_bus::{ConflateKey, Entry, LaneId, NameRef, Verdict};

use super::{NamePlaces, OVERHEAD_BYTES, Pending, SchemaLookup, literal_prefix};

/// Most keys that are pending at a time; at this many the channel is flushed.
pub(super) const KEYS_MAX: usize = 4096;
/// A table with more keys than this is emptied by a flush; a smaller one keeps its memory.
const KEYS_KEPT_MAX: usize = 64;
/// Longest value that is a key, as text. What is longer is no name of a thing, and would not be paid for by
/// `OVERHEAD_BYTES`.
const KEY_TEXT_BYTES_MAX: usize = 128;

/// The last event of a key.
#[derive(Debug)]
struct Value {
    /// Its place among all events of the window; 0: none of this window.
    order: u64,
    lane: LaneId,
    level: u8,
    time_ns: u64,
    sequence: u64,
    name_id: u32,
    name: String,
    schema_id: u32,
    source: u32,
    replaced: u32,
    payload: Vec<u8>,
}

impl Value {
    fn entry(&self) -> Entry<'_> {
        Entry {
            is_aggregate: false,
            level: self.level,
            time_ns: self.time_ns,
            sequence: self.sequence,
            name: NameRef {
                id: self.name_id,
                text: &self.name,
            },
            schema_id: self.schema_id,
            lane_epoch: self.lane.epoch,
            source: self.source,
            replaced: self.replaced,
            payload: &self.payload,
        }
    }
}

/// The last event per key of a channel.
#[derive(Debug, Default)]
pub(super) struct Latest {
    values: Vec<Value>,
    by_key: HashMap<Box<str>, u32>,
    /// Where the key is the name.
    by_name: NamePlaces,
    /// Events of this window so far.
    events: u64,
    key: String,
}

impl Latest {
    pub(super) fn offer(
        &mut self,
        lane: LaneId,
        entry: &Entry<'_>,
        schemas: SchemaLookup<'_>,
        pending: &mut Pending,
    ) -> Verdict {
        if !pending.has_room(entry.entry_bytes() + OVERHEAD_BYTES) {
            return Verdict::Stop;
        }
        let by_name = pending.settings.key == ConflateKey::Name;
        let known = by_name.then(|| self.by_name.get(entry.name.id)).flatten();
        let (place, keyed) = match known {
            Some(place) => (place, true),
            None => {
                let keyed = self.make_key(entry, &pending.settings.key, schemas);
                let place = match self.by_key.get(self.key.as_str()) {
                    Some(&place) => place as usize,
                    None if self.values.len() == KEYS_MAX => {
                        pending.due_ns = 0;
                        return Verdict::Stop;
                    }
                    None => self.insert(lane),
                };
                if by_name {
                    self.by_name.set(entry.name.id, place);
                }
                (place, keyed)
            }
        };
        // Counted where the event is taken: one that has to wait is seen again.
        pending.counts.not_keyed += u64::from(!keyed);
        self.events += 1;
        let value = &mut self.values[place];
        if value.order == 0 {
            pending.bytes += OVERHEAD_BYTES;
            value.replaced = 0;
        } else {
            pending.bytes -= value.entry().entry_bytes();
            pending.coalesced.add(value.lane);
            value.replaced = value.replaced.saturating_add(1);
        }
        pending.bytes += entry.entry_bytes();
        pending.note_time(entry.time_ns);
        value.order = self.events;
        value.lane = lane;
        value.level = entry.level;
        value.time_ns = entry.time_ns;
        value.sequence = entry.sequence;
        value.schema_id = entry.schema_id;
        value.source = entry.source;
        if value.name_id != entry.name.id || entry.name.text != value.name {
            value.name_id = entry.name.id;
            entry.name.text.clone_into(&mut value.name);
        }
        value.payload.clear();
        value.payload.extend_from_slice(entry.payload);
        Verdict::Keep
    }

    fn insert(&mut self, lane: LaneId) -> usize {
        let place = self.values.len();
        self.by_key.insert(self.key.as_str().into(), place as u32);
        self.values.push(Value {
            order: 0,
            lane,
            level: 0,
            time_ns: 0,
            sequence: 0,
            name_id: u32::MAX,
            name: String::new(),
            schema_id: 0,
            source: 0,
            replaced: 0,
            payload: Vec::new(),
        });
        place
    }

    /// Writes the event's key to `self.key`; false where it has none and goes by its name. The first byte
    /// keeps the two kinds apart.
    fn make_key(
        &mut self,
        entry: &Entry<'_>,
        key: &ConflateKey,
        schemas: SchemaLookup<'_>,
    ) -> bool {
        let text = &mut self.key;
        text.clear();
        // No name has a line feed in it, so prefix and value cannot run into each other.
        let _ = writeln!(text, "k{}", literal_prefix(entry.name.text));
        let start = text.len();
        let found = match key {
            ConflateKey::Name => None,
            ConflateKey::Pointer(pointer) => push_json(text, pointer, entry.payload),
            ConflateKey::Field(field) => push_field(text, field, entry, schemas),
        };
        if found.is_some() && text.len() - start <= KEY_TEXT_BYTES_MAX {
            return true;
        }
        text.clear();
        text.push('n');
        text.push_str(entry.name.text);
        *key == ConflateKey::Name
    }

    /// Moves the values, in the order of their last events, to where records are made of them.
    pub(super) fn flush(&mut self, pending: &mut Pending) {
        let mut order: Vec<u32> = (0..self.values.len() as u32)
            .filter(|&place| self.values[place as usize].order > 0)
            .collect();
        order.sort_unstable_by_key(|&place| self.values[place as usize].order);
        let mut kept_bytes = 0;
        for place in order {
            let value = &mut self.values[place as usize];
            pending.groups.append(&value.entry(), &pending.settings);
            value.order = 0;
        }
        for value in &self.values {
            kept_bytes += value.payload.capacity();
        }
        self.events = 0;
        if self.values.len() > KEYS_KEPT_MAX
            || kept_bytes > 2 * pending.settings.pending_bytes_limit
        {
            self.values = Vec::new();
            self.by_key = HashMap::new();
            self.by_name.clear();
        }
    }
}

/// The JSON text of what the pointer points to. `null` is no key.
fn push_json(text: &mut String, pointer: &str, payload: &[u8]) -> Option<()> {
    let json: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let value = json.pointer(pointer).filter(|value| !value.is_null())?;
    write!(text, "{value}").ok()
}

/// The bytes of a field: as a number, two large ids could look the same.
fn push_field(
    text: &mut String,
    field: &str,
    entry: &Entry<'_>,
    schemas: SchemaLookup<'_>,
) -> Option<()> {
    if entry.schema_id == 0 {
        return None;
    }
    let schema = schemas(entry.schema_id)?;
    if entry.payload.len() != schema.size_bytes as usize {
        return None;
    }
    let field = schema.fields.iter().find(|known| known.name == field)?;
    let start = field.offset as usize;
    let end = start.checked_add(usize::try_from(field.size_bytes()).ok()?)?;
    for byte in entry.payload.get(start..end)? {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(())
}
