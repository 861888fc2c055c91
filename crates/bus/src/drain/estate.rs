//! What a lane that goes away leaves to subscribers.
//!
//! Subscribers read passthrough and persisted lanes themselves. A publisher may be gone before one of them
//! has even seen its lane: `millpond publish` lives for a millisecond. So the history of a passthrough lane
//! goes to the outbox of its channel before the lane is removed, and behind it, for every such lane, its
//! last number. A subscriber drops what it has had already, by lane and number, and learns what it missed.
//!
//! A consumer that dies in between does it again at its next start; subscribers drop the second copy too.

use super::{ConsumerNotice, Drain, DrainLane, Scope, line_value, names};
use crate::batch::{BatchParts, Entry, append_entry};
use crate::channel;
use crate::control::Control;
use crate::error::Error;
use crate::layout::FLAG_INLINE_NAME;
use crate::outbox::Outbox;
use crate::pattern::literal_prefix;
use crate::ring::Reader;
use crate::rule::Class;

use super::{NameRef, split_inline_name};

impl Drain {
    pub(super) fn leave_estate(&mut self, lane: &DrainLane) {
        let wanted = match lane.scope {
            Scope::Batched => false,
            Scope::Passthrough => true,
            Scope::Persisted => channel::has_listeners(&self.control, lane.channel),
        };
        if !wanted || lane.quarantined {
            return;
        }
        if let Err(error) = self.try_leave_estate(lane) {
            let error = error.to_string();
            self.notices.push(ConsumerNotice::Unreadable { error });
        }
    }

    fn try_leave_estate(&mut self, lane: &DrainLane) -> Result<(), Error> {
        let time_ns = self.clock.now_ns();
        let control = std::sync::Arc::clone(&self.control);
        let outbox = self.open_outbox(lane.channel, &lane.info.rule)?;
        let mut bits = 0;
        if lane.scope == Scope::Passthrough {
            bits = copy_history(&control, lane, outbox);
        }
        let end = lane.reader.sequence_next();
        // Fits: `copy_history` leaves room.
        outbox.push_lane_end(lane.info.epoch, end, lane.source, time_ns);
        kill_point!("consumer.estate_staged");
        bits |= outbox.commit();
        kill_point!("consumer.estate_left");
        crate::doorbell::full_fence();
        self.ring_channel(lane.channel, bits);
        Ok(())
    }
}

/// Copies what lies between head and tail, oldest first, newest kept where not all of it fits.
fn copy_history(control: &Control, lane: &DrainLane, outbox: &mut Outbox) -> u64 {
    let head_position = line_value(&lane.ring.reader.head_position);
    let mut reader = Reader::resume(
        lane.reader.memory().clone(),
        lane.info.rule.payload_bytes_limit,
        head_position,
        0,
    );
    let mut chunk = Chunk::default();
    let mut payload = Vec::new();
    let limit_bytes = outbox.payload_bytes_limit() / 2;
    let mut bits = 0;
    // Its writer is gone, so nothing changes any more; what is nonsense ends the copy.
    while let Ok(Some(header)) = reader.refresh().and_then(|_| reader.peek()) {
        payload.resize(header.length_bytes.get() as usize, 0);
        reader.copy_payload(&mut payload);
        reader.advance(&header);
        let id = header.name_id.get();
        let interned;
        let (name, payload) = if header.flags.get() & FLAG_INLINE_NAME == 0 {
            let Some(text) = names::read(&control.names, id) else {
                break;
            };
            interned = text;
            let text = interned.as_str();
            (NameRef { id, text }, &payload[..])
        } else {
            match split_inline_name(&payload) {
                Some(split) => split,
                None => break,
            }
        };
        let entry = Entry {
            is_aggregate: false,
            level: header.level,
            time_ns: header.time_ns.get(),
            sequence: header.sequence.get(),
            name,
            schema_id: header.schema_id.get(),
            lane_epoch: lane.info.epoch,
            source: lane.source,
            replaced: 0,
            payload,
        };
        let prefix = literal_prefix(name.text);
        if chunk.prefix != prefix || chunk.entries.len() + entry.entry_bytes() > limit_bytes {
            chunk.push_to(outbox);
            chunk = Chunk {
                prefix: prefix.to_owned(),
                first_time_ns: entry.time_ns,
                ..Chunk::default()
            };
        }
        append_entry(&mut chunk.entries, &entry);
        chunk.count += 1;
        chunk.last_time_ns = entry.time_ns;
        chunk.bits |= names::bit(name.text);
        bits |= chunk.bits;
    }
    chunk.push_to(outbox);
    bits
}

#[derive(Default)]
struct Chunk {
    prefix: String,
    entries: Vec<u8>,
    count: u32,
    first_time_ns: u64,
    last_time_ns: u64,
    bits: u64,
}

impl Chunk {
    fn push_to(&self, outbox: &mut Outbox) {
        if self.count == 0 {
            return;
        }
        let parts = BatchParts {
            class: Class::Passthrough,
            prefix: &self.prefix,
            count: self.count,
            first_time_ns: self.first_time_ns,
            last_time_ns: self.last_time_ns,
            entries: &self.entries,
        };
        if !outbox.push(&parts, self.bits) {
            // As much is staged as may be: what is there is true by itself, so let it be seen.
            outbox.commit();
            // Fits now: a chunk is an eighth of the ring at most.
            let _ = outbox.push(&parts, self.bits);
        }
    }
}
