//! Room in a lane, asked for before publishing: for a publisher that would rather wait than drop.

use std::time::{Duration, Instant};

use crate::doorbell;
use crate::level::Level;
use crate::names::INLINE_NAME_ID;
use crate::publisher::{PublishError, Publisher, Target, Topic, wait_slice};
use crate::ring::RingMemory;
use crate::sync::atomic::Ordering;

impl Publisher {
    /// Whether an event with a payload of this size can be published now without waiting and without a
    /// drop. Nothing is reserved, and nothing counted.
    ///
    /// Costs a comparison while the lane has room, and one look at shared memory when it seems full. True
    /// too where room is not what is missing (the payload exceeds the limit, the lane is quarantined or lost, the
    /// topic is another publisher's): [`Publisher::publish`] says then what is.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions, Level};
    /// let bus = Bus::attach(&format!("doc-room-{}", std::process::id()), &BusOptions::default())?;
    /// let mut publisher = bus.publisher("importer")?;
    /// let topic = publisher.topic("data:rows")?;
    /// let mut published = 0;
    /// while publisher.has_room(topic, 1000) {
    ///     publisher.publish(topic, Level::Info, &[0; 1000])?;
    ///     published += 1;
    /// }
    /// assert!(published > 1000, "a lane holds 1 MiB by default");
    /// assert_eq!(publisher.counts().dropped(), 0);
    /// # drop(publisher);
    /// # bus.remove()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn has_room(&mut self, topic: Topic, payload_bytes: usize) -> bool {
        let Ok(target) = self.find(topic) else {
            return true;
        };
        let name_bytes = match target.name_id {
            INLINE_NAME_ID => 2 + self.names[topic.index as usize].len(),
            _ => 0,
        };
        let bytes = payload_bytes.saturating_add(name_bytes);
        let lane = &mut self.lanes[target.lane as usize];
        bytes > lane.payload_bytes_limit as usize
            // A slot that is not staged is not taken.
            || lane.writer.reserve(bytes).is_some()
            || lane.is_quarantined()
            || lane.writer.memory().is_lost()
    }

    /// As [`Publisher::publish`], but never waits, whatever the rule says about a full lane: for a publisher
    /// that stands in somebody's way, such as between a program and its terminal.
    ///
    /// ```
    /// use millpond_bus::{Bus, BusOptions, Level, PublishError};
    /// let bus = Bus::attach(&format!("doc-try-{}", std::process::id()), &BusOptions::default())?;
    /// let mut publisher = bus.publisher("terminal")?;
    /// let topic = publisher.topic("log:web:pty:out")?;
    /// let mut published = 0;
    /// // Nobody drains: the rule would have each wait for 100 ms.
    /// while publisher.try_publish(topic, Level::Info, &[0; 1000]).is_ok() {
    ///     published += 1;
    /// }
    /// assert_eq!(publisher.counts().published, published + 1);
    /// assert_eq!(publisher.counts().dropped_full, 1);
    /// # drop(publisher);
    /// # bus.remove()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Full` where there is no room now; else as [`Publisher::publish`]. Each is counted.
    #[inline]
    pub fn try_publish(
        &mut self,
        topic: Topic,
        level: Level,
        payload: &[u8],
    ) -> Result<u64, PublishError> {
        match self.has_room(topic, payload.len()) {
            true => self.publish(topic, level, payload),
            false => Err(self.drop_newest(self.find(topic)?.lane)),
        }
    }

    /// Waits until an event with a payload of this size can be published without a drop, whatever the rule
    /// says about a full lane; `false` when that took longer than `timeout`. Nothing is counted.
    ///
    /// Asks the consumer to flush at once, then sleeps on a futex. True too where waiting does not help, as
    /// with [`Publisher::has_room`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use millpond_bus::{Bus, BusOptions, Level};
    /// let bus = Bus::attach(&format!("doc-space-{}", std::process::id()), &BusOptions::default())?;
    /// let mut publisher = bus.publisher("importer")?;
    /// let topic = publisher.topic("data:rows")?;
    /// while publisher.wait_for_space(topic, 1000, Duration::from_millis(1)) {
    ///     publisher.publish(topic, Level::Info, &[0; 1000])?;
    /// }
    /// // Full, and there is no consumer: nothing was lost by finding out.
    /// assert_eq!(publisher.counts().dropped(), 0);
    /// # drop(publisher);
    /// # bus.remove()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_space(
        &mut self,
        topic: Topic,
        payload_bytes: usize,
        timeout: Duration,
    ) -> bool {
        if self.has_room(topic, payload_bytes) {
            return true;
        }
        // Too far away to be a time is no deadline.
        let deadline = Instant::now().checked_add(timeout);
        self.request_flush();
        let Ok(Target { lane, .. }) = self.find(topic) else {
            return true;
        };
        loop {
            let space = &self.lanes[lane as usize].header().space;
            // ORDERING: Relaxed; the fence orders it before the look at the head (P3).
            space.waiting.store(1, Ordering::Relaxed);
            doorbell::full_fence();
            if self.has_room(topic, payload_bytes) {
                return true;
            }
            if self.lanes[lane as usize].is_cut() || self.control.check().is_err() {
                return true;
            }
            let Some(slice) = wait_slice(deadline) else {
                return false;
            };
            let space = &self.lanes[lane as usize].header().space;
            doorbell::sleep(&space.waiting, 1, Some(slice));
            // A consumer that started in the meantime has not seen the request.
            self.request_flush();
        }
    }
}
