//! Publishing in pieces and in batches.

use super::{PublishError, Publisher, Target, Topic};
use crate::layout::FLAG_INLINE_NAME;
use crate::level::Level;
use crate::names::INLINE_NAME_ID;
use crate::ring::Slot;

/// Reserved room in a lane, written in pieces. See [`Publisher::claim`].
///
/// ```
/// # use millpond_bus::{Bus, BusOptions, Level};
/// # let bus = Bus::attach(&format!("doc-claim-{}", std::process::id()), &BusOptions::default())?;
/// # let mut publisher = bus.publisher("indexer")?;
/// let topic = publisher.topic("log:web")?;
/// let mut claim = publisher.claim(topic, Level::Info, 64)?; // at most 64 bytes
/// assert!(claim.append(b"GET "));
/// assert!(claim.append(b"/index.html"));
/// claim.commit(); // 15 bytes are published
/// # drop(publisher);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Claim<'p> {
    pub(super) publisher: &'p mut Publisher,
    pub(super) target: Target,
    pub(super) slot: Slot,
    pub(super) level: Level,
    pub(super) written_bytes: usize,
    pub(super) capacity_bytes: usize,
}

impl Claim<'_> {
    /// Appends `bytes` to the payload; false, and nothing done, where they exceed what was claimed.
    #[must_use]
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.capacity_bytes - self.written_bytes;
        if fits {
            self.copy(bytes);
        }
        fits
    }

    /// `bytes` fit: the caller has checked or claimed for them.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        let lane = &self.publisher.lanes[self.target.lane as usize];
        lane.writer
            .write_payload(self.slot, self.written_bytes, bytes);
        self.written_bytes += bytes.len();
    }

    /// Publishes what was appended and returns its sequence number.
    #[inline]
    pub fn commit(self) -> u64 {
        let time_ns = self.publisher.clock.stamp_ns();
        let flags = if self.target.name_id == INLINE_NAME_ID {
            FLAG_INLINE_NAME
        } else {
            0
        };
        let lane = &mut self.publisher.lanes[self.target.lane as usize];
        let slot = self.slot.cut(self.written_bytes);
        let sequence = lane.finish(
            slot,
            self.written_bytes,
            time_ns,
            self.level,
            self.target,
            flags,
        );
        lane.writer.commit();
        self.publisher.after_commit(self.target);
        sequence
    }
}

/// Many events with one stamp and one commit. See [`Publisher::batch`].
///
/// When the lane fills up in the middle, what is staged is committed so that it can be drained, and the
/// batch goes on as its rule says. Dropping the batch gives back what is not committed.
pub struct PublishBatch<'p> {
    pub(super) publisher: &'p mut Publisher,
    pub(super) topic: Topic,
    pub(super) target: Target,
    pub(super) time_ns: u64,
    pub(super) staged: usize,
}

impl PublishBatch<'_> {
    /// Adds one event.
    ///
    /// # Errors
    /// This event is dropped and counted, the others of the batch are not touched.
    #[inline]
    pub fn push(&mut self, level: Level, payload: &[u8]) -> Result<(), PublishError> {
        let lane = &mut self.publisher.lanes[self.target.lane as usize];
        let fits = payload.len() <= lane.payload_bytes_limit as usize;
        if self.target.name_id == INLINE_NAME_ID || !fits {
            return self.push_alone(level, payload);
        }
        let Some(slot) = lane.writer.reserve(payload.len()) else {
            return self.push_when_full(level, payload);
        };
        self.stage(slot, level, payload);
        Ok(())
    }

    #[inline(always)]
    fn stage(&mut self, slot: Slot, level: Level, payload: &[u8]) {
        let lane = &mut self.publisher.lanes[self.target.lane as usize];
        lane.writer.write_payload(slot, 0, payload);
        lane.finish(slot, payload.len(), self.time_ns, level, self.target, 0);
        self.staged += 1;
    }

    #[cold]
    fn push_when_full(&mut self, level: Level, payload: &[u8]) -> Result<(), PublishError> {
        self.commit_staged();
        let slot = self.publisher.reserve(self.target, payload.len())?;
        self.time_ns = self.publisher.clock.stamp_ns();
        self.stage(slot, level, payload);
        Ok(())
    }

    #[cold]
    fn push_alone(&mut self, level: Level, payload: &[u8]) -> Result<(), PublishError> {
        self.commit_staged();
        let published = self.publisher.publish(self.topic, level, payload);
        self.follow();
        published.map(|_| ())
    }

    fn commit_staged(&mut self) {
        if self.staged > 0 {
            self.publisher.lanes[self.target.lane as usize]
                .writer
                .commit();
            self.publisher.after_commit(self.target);
            self.staged = 0;
            self.follow();
        }
    }

    /// After a commit the rules may have moved the topic to another lane.
    fn follow(&mut self) {
        if let Ok(target) = self.publisher.find(self.topic) {
            self.target = target;
        }
    }

    /// Makes everything pushed readable.
    #[inline]
    pub fn commit(mut self) {
        self.commit_staged();
    }
}

impl Drop for PublishBatch<'_> {
    fn drop(&mut self) {
        if self.staged > 0 {
            self.publisher.lanes[self.target.lane as usize]
                .writer
                .abort();
        }
    }
}
