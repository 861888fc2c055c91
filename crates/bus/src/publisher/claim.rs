//! Publishing in pieces and in batches.

use std::time::Duration;

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
///
/// ```
/// # use std::time::Duration;
/// # use millpond_bus::{Bus, BusOptions, Level};
/// # let bus = Bus::attach(&format!("doc-batch-{}", std::process::id()), &BusOptions::default())?;
/// # let mut publisher = bus.publisher("importer")?;
/// let (row, note) = (publisher.topic("data:rows")?, publisher.topic("data:notes")?);
/// let mut batch = publisher.batch(row)?;
/// for number in 0..1000_u32 {
///     // Rather wait than drop.
///     while !batch.has_room(4) && !batch.wait_for_space(4, Duration::from_secs(1)) {}
///     batch.push(Level::Info, &number.to_le_bytes())?;
/// }
/// batch.set_topic(note)?;
/// batch.push(Level::Info, b"that is all")?;
/// batch.commit();
/// assert_eq!(publisher.counts().published, 1001);
/// # drop(publisher);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        lane.write(slot, payload, self.time_ns, level, self.target);
        self.staged += 1;
        kill_point!("publisher.batch_staged");
        self.publisher.check_loss(self.target.lane)
    }

    #[cold]
    fn push_when_full(&mut self, level: Level, payload: &[u8]) -> Result<(), PublishError> {
        self.commit_staged();
        let slot = self.publisher.reserve(self.target, payload.len())?;
        self.time_ns = self.publisher.clock.stamp_ns();
        let lane = &mut self.publisher.lanes[self.target.lane as usize];
        lane.write(slot, payload, self.time_ns, level, self.target);
        self.staged += 1;
        kill_point!("publisher.batch_staged");
        Ok(())
    }

    #[cold]
    fn push_alone(&mut self, level: Level, payload: &[u8]) -> Result<(), PublishError> {
        self.commit_staged();
        let published = self.publisher.publish(self.topic, level, payload);
        self.follow();
        published.map(|_| ())
    }

    /// As [`PublishBatch::push`], but never waits, whatever the rule says about a full lane, as
    /// [`Publisher::try_publish`]. What was pushed before is committed where there is no room, so that it can be
    /// drained. `level` is asked for only where there is room. So much is left free behind it: `spare_bytes`, for what
    /// has to fit later.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions, Level, PublishError};
    /// let bus = Bus::attach(&format!("doc-try-push-{}", std::process::id()), &BusOptions::default())?;
    /// let mut publisher = bus.publisher("terminal")?;
    /// let topic = publisher.topic("log:web:pty:out")?;
    /// let mut batch = publisher.batch(topic)?;
    /// let mut pushed = 0;
    /// // Nobody drains: the rule would have each wait for 100 ms.
    /// while batch.try_push(|| Level::Info, &[0; 1000], 0).is_ok() {
    ///     pushed += 1;
    /// }
    /// assert_eq!(batch.try_push(|| Level::Info, &[0; 1000], 0), Err(PublishError::Full));
    /// batch.commit();
    /// assert_eq!(publisher.counts().published, pushed + 2);
    /// assert_eq!(publisher.counts().dropped_full, 2);
    /// # drop(publisher);
    /// # bus.remove()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Full` where there is no room now; else as [`PublishBatch::push`]. Each is counted.
    #[inline]
    pub fn try_push(
        &mut self,
        level: impl FnOnce() -> Level,
        payload: &[u8],
        spare_bytes: usize,
    ) -> Result<(), PublishError> {
        match self.has_room(payload.len() + spare_bytes) {
            true => self.push(level(), payload),
            false => Err(self.drop_newest()),
        }
    }

    #[cold]
    fn drop_newest(&mut self) -> PublishError {
        if self.staged > 0 {
            self.commit_staged();
            // An event is not older than what was readable before it.
            self.time_ns = self.publisher.clock.stamp_ns();
        }
        self.publisher.drop_newest(self.target.lane)
    }

    fn commit_staged(&mut self) {
        if self.staged > 0 {
            self.publisher.lanes[self.target.lane as usize]
                .writer
                .commit();
            kill_point!("publisher.committed");
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

    /// Whether [`PublishBatch::push`] of a payload of this size would neither wait nor drop. As
    /// [`Publisher::has_room`].
    #[inline]
    pub fn has_room(&mut self, payload_bytes: usize) -> bool {
        let lane = &mut self.publisher.lanes[self.target.lane as usize];
        let is_plain = self.target.name_id != INLINE_NAME_ID
            && payload_bytes <= lane.payload_bytes_limit as usize;
        match is_plain {
            // A slot that is not staged is not taken. With a full lane each look is one at shared memory: one is
            // enough.
            true => lane.writer.reserve(payload_bytes).is_some() || lane.is_quarantined(),
            false => self.publisher.has_room(self.topic, payload_bytes),
        }
    }

    /// Commits what was pushed, since nothing of it would be drained before, and waits for room as
    /// [`Publisher::wait_for_space`] does. What comes next has a stamp of its own.
    pub fn wait_for_space(&mut self, payload_bytes: usize, timeout: Duration) -> bool {
        self.commit_staged();
        let has_room = self
            .publisher
            .wait_for_space(self.topic, payload_bytes, timeout);
        self.time_ns = self.publisher.clock.stamp_ns();
        has_room
    }

    /// The events that come next are of this topic. What was pushed is committed first where the topic is one of
    /// another lane (the order of all events is the order of their pushes), and in a passthrough lane, where a commit
    /// wakes the subscribers of one name.
    ///
    /// # Errors
    /// `ForeignTopic` for a topic of another publisher; the batch goes on as it was.
    #[inline]
    pub fn set_topic(&mut self, topic: Topic) -> Result<(), PublishError> {
        let target = self.publisher.find(topic)?;
        let is_direct = self.publisher.lanes[self.target.lane as usize].direct;
        if self.staged > 0 && (target.lane != self.target.lane || is_direct) {
            self.commit_staged();
            // An event is not older than what was readable before it.
            self.time_ns = self.publisher.clock.stamp_ns();
        }
        self.topic = topic;
        self.follow();
        Ok(())
    }

    /// The publisher, to be asked.
    pub fn publisher(&self) -> &Publisher {
        self.publisher
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
