//! Interned event names: a bounded table in the control segment, shared by all publishers.
//!
//! A slot is taken with one compare-and-swap and filled by the taker. A taker that dies in between costs
//! one slot, which everyone steps over. When no slot is left, names travel inside their records.
//!
//! Ordering pair N1, `state`: Release by the taker after the text -> Acquire by every reader.

use crate::layout::{
    NAME_BYTES, NAMES_MAX, NameSlot, SOURCES_MAX, SourceSlot, load_text, store_text,
};
use crate::region::Pinned;
use crate::sync::atomic::Ordering;

/// In a record header: the name stands in front of the payload.
pub(crate) const INLINE_NAME_ID: u32 = u32::MAX;
const FREE: u32 = 0;
const TAKEN: u32 = 1;
const READY: u32 = 2;
/// How many slots a name may be away from its hash before it travels inline.
const PROBES_MAX: usize = 64;

/// The id of `name`, adding it where it is new; [`INLINE_NAME_ID`] when there is no room. Lock-free, for
/// set-up and not for the publish path.
pub(crate) fn intern<const N: usize>(names: &Pinned<[NameSlot; N]>, name: &str) -> u32 {
    let hash = hash(name);
    let start = hash as usize % N;
    for probe in 0..PROBES_MAX {
        let id = (start + probe) % N;
        let slot = &names[id];
        // ORDERING: Acquire on failure (N1), to read the text of whoever holds the slot.
        let taken = slot
            .state
            .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Acquire);
        match taken {
            Ok(_) => {
                kill_point!("publisher.name_taken");
                // ORDERING: Relaxed; published by the Release below (N1).
                slot.hash.store(hash, Ordering::Relaxed);
                slot.length_bytes
                    .store(name.len() as u32, Ordering::Relaxed);
                store_text(&slot.text, name);
                // ORDERING: Release (N1).
                slot.state.store(READY, Ordering::Release);
                return id as u32;
            }
            // ORDERING: Relaxed; N1 was the failed exchange.
            Err(READY) if slot.hash.load(Ordering::Relaxed) == hash => {
                if text(names, id as u32).as_deref() == Some(name) {
                    return id as u32;
                }
            }
            // Another name, or one being written: at worst the same name gets two ids, which is harmless.
            Err(_) => {}
        }
    }
    INLINE_NAME_ID
}

/// The name with this id, if it is there and is a valid event name. The copy is checked, not the table.
pub(crate) fn read(names: &Pinned<[NameSlot; NAMES_MAX]>, id: u32) -> Option<String> {
    let name = text(names, id)?;
    crate::pattern::check_event_name(&name).ok()?;
    Some(name)
}

/// The text with this id, if it is there.
pub(crate) fn text<const N: usize>(names: &Pinned<[NameSlot; N]>, id: u32) -> Option<String> {
    let slot = names.get(id as usize)?;
    // ORDERING: Acquire (N1).
    if slot.state.load(Ordering::Acquire) != READY {
        return None;
    }
    // ORDERING: Relaxed; covered by N1.
    let length_bytes = slot.length_bytes.load(Ordering::Relaxed) as usize;
    if length_bytes > NAME_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(NAME_BYTES);
    for word in &slot.text {
        // ORDERING: Relaxed; covered by N1.
        bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    bytes.truncate(length_bytes);
    String::from_utf8(bytes).ok()
}

/// The label of the source with this number, if it is there.
pub(crate) fn source(sources: &Pinned<[SourceSlot; SOURCES_MAX]>, index: u32) -> Option<String> {
    let slot = sources.get(index as usize)?;
    // ORDERING: Acquire; the texts were stored before the mark.
    (slot.in_use.load(Ordering::Acquire) == 1).then(|| load_text(&slot.label))
}

/// The bit that stands for a name where subscribers say what they want to be woken for.
pub(crate) fn bit(name: &str) -> u64 {
    1 << (hash(name) >> 58)
}

/// FNV-1a: the table needs spread, not secrecy.
pub(crate) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    fn table() -> Pinned<[NameSlot; NAMES_MAX]> {
        let region = Region::heap(size_of::<[NameSlot; NAMES_MAX]>()).expect("heap");
        region.pin(0).expect("fits")
    }

    #[test]
    fn a_name_keeps_its_id_and_text() {
        let names = table();
        let first = intern(&names, "data:users:created");
        assert_eq!(intern(&names, "data:users:created"), first);
        assert_eq!(read(&names, first).as_deref(), Some("data:users:created"));
        assert_ne!(intern(&names, "data:users:deleted"), first);
    }

    #[test]
    fn a_full_table_sends_names_inline_and_a_dead_taker_blocks_nobody() {
        let names = table();
        for slot in names.iter() {
            // ORDERING: one thread.
            slot.state.store(TAKEN, Ordering::Relaxed);
        }
        assert_eq!(intern(&names, "a:b"), INLINE_NAME_ID);
        assert_eq!(read(&names, 0), None);
        assert_eq!(read(&names, u32::MAX), None);
    }
}
