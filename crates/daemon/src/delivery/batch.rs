//! Entries by literal prefix, cut into records.

use std::collections::HashMap;

use millpond_bus::{BatchParts, Entry, append_entry};

use super::{NamePlaces, OVERHEAD_BYTES, Piece, Settings, literal_prefix};

/// A table with more prefixes than this is emptied by a flush; a smaller one keeps its memory, so that the
/// usual flush allocates nothing.
const PREFIXES_KEPT_MAX: usize = 64;

/// One record.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Where its entries end.
    end: usize,
    count: u32,
    first_time_ns: u64,
    last_time_ns: u64,
}

impl Cut {
    fn empty(end: usize) -> Self {
        Cut {
            end,
            count: 0,
            first_time_ns: u64::MAX,
            last_time_ns: 0,
        }
    }
}

/// The entries of one literal prefix, in the order they came.
#[derive(Debug)]
struct Group {
    prefix: Box<str>,
    entries: Vec<u8>,
    /// Records that are full, in order.
    full: Vec<Cut>,
    /// Where the last of them ends.
    open_start: usize,
    /// The record being filled.
    open: Cut,
    /// Time of the last event that a flush has handed out; 0 for none.
    flushed_time_ns: u64,
}

/// What appending did.
pub(super) struct Appended {
    /// Bytes that are pending in addition.
    pub(super) bytes: usize,
    /// The prefix has a full record.
    pub(super) full: bool,
    /// It is the first event of a prefix that was quiet for `max_delay`.
    pub(super) leading: bool,
}

/// The entries of a channel by literal prefix.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    by_prefix: HashMap<Box<str>, u32>,
    by_name: NamePlaces,
}

impl Groups {
    /// Appends an entry to the records of its prefix. A record ends before the entry that would take it over
    /// `max_events`, over `max_bytes` (of entries, as they lie in the record) or over a quarter of the
    /// outbox; an entry that is too large for a shared record goes alone.
    #[inline(always)]
    pub(super) fn append(&mut self, entry: &Entry<'_>, settings: &Settings) -> Appended {
        let place = match self.by_name.get(entry.name.id) {
            Some(place) => place,
            None => self.find(entry),
        };
        let group = &mut self.groups[place];
        let entry_bytes = entry.entry_bytes();
        let filled = group.entries.len() - group.open_start;
        let limit = settings.max_bytes.min(settings.entries_bytes_limit);
        let mut bytes = entry_bytes;
        let leading = group.entries.is_empty()
            && entry.time_ns.saturating_sub(group.flushed_time_ns) > settings.max_delay_ns;
        let is_over = group.open.count == settings.max_events || filled + entry_bytes > limit;
        if group.open.count == 0 {
            bytes += OVERHEAD_BYTES;
        } else if is_over {
            bytes += OVERHEAD_BYTES;
            group.full.push(group.open);
            group.open_start = group.entries.len();
            group.open = Cut::empty(group.open_start);
        }
        append_entry(&mut group.entries, entry);
        let open = &mut group.open;
        open.end = group.entries.len();
        open.count += 1;
        open.first_time_ns = open.first_time_ns.min(entry.time_ns);
        open.last_time_ns = open.last_time_ns.max(entry.time_ns);
        let full = group.open_start > 0
            || group.open.count >= settings.max_events
            || group.entries.len() >= settings.max_bytes;
        Appended {
            bytes,
            full,
            leading,
        }
    }

    #[cold]
    fn find(&mut self, entry: &Entry<'_>) -> usize {
        let prefix = literal_prefix(entry.name.text);
        let place = match self.by_prefix.get(prefix) {
            Some(&place) => place as usize,
            None => {
                let place = self.groups.len();
                self.groups.push(Group {
                    prefix: prefix.into(),
                    entries: Vec::new(),
                    full: Vec::new(),
                    open_start: 0,
                    open: Cut::empty(0),
                    flushed_time_ns: 0,
                });
                self.by_prefix.insert(prefix.into(), place as u32);
                place
            }
        };
        self.by_name.set(entry.name.id, place);
        place
    }

    /// Hands out every record and empties the table; how many entries there were.
    pub(super) fn emit(&mut self, settings: &Settings, out: &mut impl FnMut(Piece<'_>)) -> u64 {
        let mut entries = 0;
        let mut kept_bytes = 0;
        for group in &mut self.groups {
            kept_bytes += group.entries.capacity();
            if group.open.count == 0 {
                continue;
            }
            let mut start = 0;
            for cut in group.full.iter().chain([&group.open]) {
                entries += u64::from(cut.count);
                out(Piece::Batch(BatchParts {
                    class: settings.class,
                    prefix: &group.prefix,
                    count: cut.count,
                    first_time_ns: cut.first_time_ns,
                    last_time_ns: cut.last_time_ns,
                    entries: &group.entries[start..cut.end],
                }));
                start = cut.end;
            }
            group.entries.clear();
            group.full.clear();
            group.open_start = 0;
            group.flushed_time_ns = group.open.last_time_ns;
            group.open = Cut::empty(0);
        }
        // A doubling vector has at most twice what was pending; prefixes that take turns must not add up.
        let kept_bytes_max = 2 * settings
            .pending_bytes_limit
            .max(settings.record_bytes_limit);
        if self.groups.len() > PREFIXES_KEPT_MAX || kept_bytes > kept_bytes_max {
            *self = Groups {
                by_name: std::mem::take(&mut self.by_name),
                ..Groups::default()
            };
            self.by_name.clear();
        }
        entries
    }

    /// Bytes of memory that the table holds, roughly.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        let group = |group: &Group| {
            size_of::<Group>()
                + group.prefix.len()
                + group.entries.capacity()
                + group.full.capacity() * size_of::<Cut>()
        };
        self.groups.iter().map(group).sum::<usize>()
            + self
                .by_prefix
                .keys()
                .map(|key| key.len() + 32)
                .sum::<usize>()
    }
}
