//! Count, min, max, mean and last per name and numeric field, and a mark when a name falls silent.
//!
//! A window ends at the next multiple of `max_delay` (whole seconds, say); only the bound on bytes ends it
//! earlier. `max_events` and `max_bytes` cut its records.
//!
//! A name is *silent* when its last event is `SILENT_WINDOWS` windows old. That is reported once, with the
//! next flush of the channel, or by a flush of its own where nothing else is pending.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use millpond_bus::{
    AGGREGATE_FIELDS_MAX, BATCH_HEAD_BYTES_MAX, Entry, FieldSummary, LaneId, NameRef, Verdict,
    append_aggregate,
};

use super::{NamePlaces, OVERHEAD_BYTES, Pending, Schema, SchemaLookup};

/// A name without events for this many windows is reported as stale.
const SILENT_WINDOWS: u64 = 3;
/// Most names that are remembered from one window to the next.
pub(super) const NAMES_KEPT_MAX: usize = 1024;
/// An entry's header and an aggregate's.
const FIXED_BYTES: usize = 48 + 32;
/// What a field takes in an entry, and as much for its tables here.
const FIELD_BYTES: usize = 2 * 32;

/// What is known of one field.
#[derive(Debug, Clone, Copy)]
struct FieldFold {
    min: f64,
    max: f64,
    sum: f64,
    /// Values that are numbers: NaN is counted in the event, not in the field.
    numbers: u64,
    last: f64,
}

impl FieldFold {
    const EMPTY: FieldFold = FieldFold {
        min: f64::NAN,
        max: f64::NAN,
        sum: 0.0,
        numbers: 0,
        last: f64::NAN,
    };

    fn add(&mut self, value: f64) {
        self.last = value;
        if !value.is_nan() {
            // `min` and `max` of a NaN and a number are the number.
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.sum += value;
            self.numbers += 1;
        }
    }

    fn summary(&self) -> FieldSummary {
        let mean = self.sum / self.numbers as f64;
        FieldSummary {
            min: self.min,
            max: self.max,
            // A mean is between the two, whatever rounding or an overflowing sum say. NaN stays NaN.
            mean: if self.numbers == 0 {
                f64::NAN
            } else {
                mean.max(self.min).min(self.max)
            },
            last: self.last,
        }
    }

    fn stale(&self) -> FieldSummary {
        FieldSummary {
            min: self.last,
            max: self.last,
            mean: self.last,
            last: self.last,
        }
    }
}

/// The events of one name and schema in a window, and its last event after that.
#[derive(Debug)]
struct Fold {
    key: Box<str>,
    name_id: u32,
    schema_id: u32,
    schema: Arc<Schema>,
    /// Events of this window; 0: none, it is only remembered.
    count: u64,
    first_time_ns: u64,
    fields: Vec<FieldFold>,
    // Of the last event:
    last_time_ns: u64,
    lane: LaneId,
    sequence: u64,
    source: u32,
    level: u8,
}

/// Digits of the schema's number in front of the name: a name may change its schema.
const KEY_PREFIX_BYTES: usize = 8;

impl Fold {
    fn name(&self) -> &str {
        &self.key[KEY_PREFIX_BYTES..]
    }

    fn entry<'a>(&'a self, payload: &'a [u8]) -> Entry<'a> {
        Entry {
            is_aggregate: true,
            level: self.level,
            time_ns: self.last_time_ns,
            sequence: self.sequence,
            name: NameRef {
                id: self.name_id,
                text: self.name(),
            },
            schema_id: self.schema_id,
            lane_epoch: self.lane.epoch,
            source: self.source,
            replaced: 0,
            payload,
        }
    }

    fn silent_ns(&self, max_delay_ns: u64) -> u64 {
        self.last_time_ns
            .saturating_add(max_delay_ns.saturating_mul(SILENT_WINDOWS))
    }
}

/// The names of a channel.
#[derive(Debug)]
pub(super) struct Windows {
    folds: Vec<Fold>,
    by_key: HashMap<Box<str>, u32>,
    by_name: NamePlaces,
    /// When the first remembered name will have been silent for long enough; `u64::MAX`: none is remembered.
    stale_ns: u64,
    key: String,
    payload: Vec<u8>,
}

impl Default for Windows {
    fn default() -> Self {
        Windows {
            folds: Vec::new(),
            by_key: HashMap::new(),
            by_name: NamePlaces::default(),
            stale_ns: u64::MAX,
            key: String::new(),
            payload: Vec::new(),
        }
    }
}

impl Windows {
    pub(super) fn stale_ns(&self) -> u64 {
        self.stale_ns
    }

    pub(super) fn offer(
        &mut self,
        lane: LaneId,
        entry: &Entry<'_>,
        schemas: SchemaLookup<'_>,
        pending: &mut Pending,
    ) -> Verdict {
        let known = self.by_name.get(entry.name.id);
        let known = known.filter(|&place| self.folds[place].schema_id == entry.schema_id);
        let place = match known {
            Some(place) => Some(place),
            None => self.find(lane, entry, schemas, pending),
        };
        let usable = place
            .filter(|&place| self.folds[place].schema.size_bytes as usize == entry.payload.len());
        let Some(place) = usable else {
            let verdict = pending.append(entry);
            pending.counts.not_aggregated += u64::from(verdict == Verdict::Keep);
            return verdict;
        };
        let fold = &mut self.folds[place];
        if fold.count == 0 {
            let bytes = cost(entry, fold.fields.len());
            if !pending.has_room(bytes) {
                return Verdict::Stop;
            }
            pending.bytes += bytes;
            fold.first_time_ns = entry.time_ns;
            fold.fields.fill(FieldFold::EMPTY);
        } else {
            // The last one so far is the entry no more.
            pending.coalesced.add(fold.lane);
        }
        pending.note_time(entry.time_ns);
        for (field, known) in fold.schema.numeric_fields().zip(&mut fold.fields) {
            known.add(
                fold.schema
                    .read_f64(field, entry.payload)
                    .unwrap_or(f64::NAN),
            );
        }
        fold.count += 1;
        fold.first_time_ns = fold.first_time_ns.min(entry.time_ns);
        fold.last_time_ns = entry.time_ns;
        fold.lane = lane;
        fold.sequence = entry.sequence;
        fold.source = entry.source;
        fold.level = entry.level;
        Verdict::Keep
    }

    /// The place of a name and schema, made where it is new; `None` where the schema is of no use.
    #[cold]
    fn find(
        &mut self,
        lane: LaneId,
        entry: &Entry<'_>,
        schemas: SchemaLookup<'_>,
        pending: &Pending,
    ) -> Option<usize> {
        if entry.schema_id == 0 {
            return None;
        }
        self.key.clear();
        let _ = write!(self.key, "{:08x}{}", entry.schema_id, entry.name.text);
        let place = match self.by_key.get(self.key.as_str()) {
            Some(&place) => place as usize,
            None => {
                let schema = schemas(entry.schema_id)?;
                let fields = schema.numeric_fields().count();
                let largest = BATCH_HEAD_BYTES_MAX + cost(entry, fields);
                if fields == 0
                    || fields > AGGREGATE_FIELDS_MAX
                    || largest > pending.settings.record_bytes_limit
                    || schema.size_bytes as usize != entry.payload.len()
                {
                    return None;
                }
                let place = self.folds.len();
                self.by_key.insert(self.key.as_str().into(), place as u32);
                self.folds.push(Fold {
                    key: self.key.as_str().into(),
                    name_id: entry.name.id,
                    schema_id: entry.schema_id,
                    schema,
                    count: 0,
                    first_time_ns: 0,
                    fields: vec![FieldFold::EMPTY; fields],
                    last_time_ns: entry.time_ns,
                    lane,
                    sequence: 0,
                    source: 0,
                    level: 0,
                });
                place
            }
        };
        self.by_name.set(entry.name.id, place);
        Some(place)
    }

    /// Moves the aggregates of the window, in the order their names were first seen, to where records are made
    /// of them, and after them the marks of names that have been silent for long enough, as many as fit.
    pub(super) fn flush(&mut self, now_ns: u64, pending: &mut Pending) {
        let max_delay_ns = pending.settings.max_delay_ns;
        let mut kept: Vec<Fold> = Vec::with_capacity(self.folds.len());
        let mut silent: Vec<Fold> = Vec::new();
        for mut fold in std::mem::take(&mut self.folds) {
            if fold.count > 0 {
                let fields = fold.fields.iter().map(FieldFold::summary);
                self.payload.clear();
                let times_ns = (fold.first_time_ns, fold.last_time_ns);
                append_aggregate(&mut self.payload, fold.count, times_ns, false, fields);
                let entry = fold.entry(&self.payload);
                pending.groups.append(&entry, &pending.settings);
                fold.count = 0;
                kept.push(fold);
            } else if fold.silent_ns(max_delay_ns) <= now_ns {
                silent.push(fold);
            } else {
                kept.push(fold);
            }
        }
        for fold in silent {
            self.payload.clear();
            let fields = fold.fields.iter().map(FieldFold::stale);
            let times_ns = (fold.first_time_ns, fold.last_time_ns);
            append_aggregate(&mut self.payload, 0, times_ns, true, fields);
            let entry = fold.entry(&self.payload);
            let bytes = entry.entry_bytes() + OVERHEAD_BYTES;
            if !pending.has_room(bytes) {
                // Its turn comes with the next flush, which is due at once.
                kept.push(fold);
                continue;
            }
            pending.bytes += bytes;
            pending.groups.append(&entry, &pending.settings);
            pending.counts.stale += 1;
        }
        if kept.len() > NAMES_KEPT_MAX {
            // Those heard of last are the ones worth missing.
            kept.sort_by_key(|fold| std::cmp::Reverse(fold.last_time_ns));
            kept.truncate(NAMES_KEPT_MAX);
        }
        self.stale_ns = kept
            .iter()
            .map(|fold| fold.silent_ns(max_delay_ns))
            .min()
            .unwrap_or(u64::MAX);
        self.by_key.clear();
        self.by_name.clear();
        for (place, fold) in kept.iter().enumerate() {
            self.by_key.insert(fold.key.clone(), place as u32);
        }
        self.folds = kept;
    }
}

/// What a name costs that is new in its window.
fn cost(entry: &Entry<'_>, fields: usize) -> usize {
    // A name that is not interned travels with the entry.
    FIXED_BYTES + 2 + entry.name.text.len() + 7 + fields * FIELD_BYTES + OVERHEAD_BYTES
}
