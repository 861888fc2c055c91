//! The slots in which subscribers sleep.
//!
//! A subscriber keeps an object in shared memory locked, as publishers do with their lanes, and then takes a slot: one
//! compare-and-swap puts the number of the object there. One more takes it away, by the subscriber as it leaves or by
//! anyone who finds that nobody holds the object. In between there is no state that a process could die in and leave
//! the slot to nobody. Numbers are never used again, so no one frees the slot of a later subscriber.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::channel;
use crate::control::Control;
use crate::doorbell;
use crate::error::{Error, ErrorKind};
use crate::lane;
use crate::layout::{CHANNELS_MAX, SUBSCRIBERS_MAX, SubscriberSlot, store_text};
use crate::object;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Being filled, or given back.
const NOT_READY: u32 = 0;
const READY: u32 = 2;

/// A slot of our own; dropping it gives it back.
pub(crate) struct Seat {
    control: Arc<Control>,
    index: usize,
    epoch: u64,
    /// Where we listen.
    channels: Vec<u32>,
    name_bits: u64,
    has_barrier: bool,
    /// Holding it open holds the lock.
    _descriptor: OwnedFd,
}

impl Seat {
    /// Takes a slot. A few system calls.
    pub(crate) fn take(
        control: Arc<Control>,
        label: &str,
        pattern: &str,
        has_barrier: bool,
    ) -> Result<Self, Error> {
        let (epoch, object) = lane::create_object(&control, 8, |epoch| {
            object::subscriber_name(&control.bus, epoch)
        })?;
        let name = object::subscriber_name(&control.bus, epoch);
        object::try_lock(&object.descriptor);
        kill_point!("subscriber.object");
        let taken = take_free(&control, epoch).or_else(|| {
            free_dead(&control);
            take_free(&control, epoch)
        });
        let Some(index) = taken else {
            object::unlink(&name);
            let message = format!(
                "bus {:?} has its {SUBSCRIBERS_MAX} subscribers: stop some of them",
                control.bus
            );
            return Err(Error::new(ErrorKind::LimitReached, message));
        };
        kill_point!("subscriber.slot_taken");
        let slot = &control.subscribers[index];
        // ORDERING: Relaxed throughout; published by the Release of `state` below.
        let put = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        // Its last holder may have died with it.
        slot.state.store(NOT_READY, Ordering::Relaxed);
        slot.parked.store(0, Ordering::Relaxed);
        slot.woken.store(0, Ordering::Relaxed);
        slot.pid.store(std::process::id(), Ordering::Relaxed);
        put(&slot.name_bits, 0);
        for word in &slot.channels {
            put(word, 0);
        }
        for count in [&slot.delivered, &slot.filtered, &slot.lagged, &slot.wakes] {
            put(count, 0);
        }
        store_text(&slot.label, label);
        store_text(&slot.pattern, pattern);
        // ORDERING: Release; everything above before the mark.
        slot.state.store(READY, Ordering::Release);
        kill_point!("subscriber.ready");
        if !has_barrier {
            // ORDERING: Relaxed; publishers that miss it for a moment are covered by our bounded wait.
            control.doorbell.fence_required.store(1, Ordering::Relaxed);
        }
        Ok(Seat {
            control,
            index,
            epoch,
            channels: Vec::new(),
            name_bits: 0,
            has_barrier,
            _descriptor: object.descriptor,
        })
    }

    pub(crate) fn slot(&self) -> &SubscriberSlot {
        &self.control.subscribers[self.index]
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Listens to these channels, for names with these bits.
    pub(crate) fn listen(&mut self, channels: Vec<u32>, name_bits: u64) {
        let slot = self.slot();
        for (index, word) in slot.channels.iter().enumerate() {
            let in_word = channels
                .iter()
                .filter(|&&channel| channel as usize / 64 == index);
            let bits = in_word.fold(0, |bits, channel| bits | 1 << (channel % 64));
            // ORDERING: Relaxed; published by the exchange on `waiting` in `park`.
            word.store(bits, Ordering::Relaxed);
        }
        // ORDERING: Relaxed; as above.
        slot.name_bits.store(name_bits, Ordering::Relaxed);
        self.channels = channels;
        self.name_bits = name_bits;
    }

    pub(crate) fn channels(&self) -> &[u32] {
        &self.channels
    }

    /// Sleeps until somebody rings, at most `timeout`. `has_news` is asked after the announcement. Two system
    /// calls. True if it slept and was not timed out.
    pub(crate) fn park(&self, timeout: Duration, has_news: impl FnOnce() -> bool) {
        let slot = self.slot();
        let bells = self
            .channels
            .iter()
            .map(|&channel| &self.control.bells[channel as usize].waiting);
        doorbell::announce(&slot.parked, bells, self.name_bits);
        if !(self.has_barrier && doorbell::membarrier_all()) {
            doorbell::full_fence();
        }
        // ORDERING: Acquire; what was to be seen by whoever asked us to wake.
        if slot.woken.load(Ordering::Acquire) == 0 && !has_news() {
            kill_point!("subscriber.parked");
            doorbell::sleep(&slot.parked, 1, Some(timeout));
        }
        // ORDERING: Relaxed; a ringer that still sees the old mark only makes a useless call.
        slot.parked.store(0, Ordering::Relaxed);
    }

    /// Whether somebody asked us to return; once for each time.
    pub(crate) fn take_woken(&self) -> bool {
        // ORDERING: Acquire; as in `park`.
        self.slot().woken.swap(0, Ordering::Acquire) == 1
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let slot = self.slot();
        // ORDERING: Relaxed; ringers that still see the channels only make a useless call.
        for word in &slot.channels {
            word.store(0, Ordering::Relaxed);
        }
        // ORDERING: Relaxed; carried by the exchange that frees the slot. Without the object it may be somebody else's
        // at once.
        slot.state.store(NOT_READY, Ordering::Relaxed);
        object::unlink(&object::subscriber_name(&self.control.bus, self.epoch));
        kill_point!("subscriber.leaving");
        free(slot, self.epoch);
    }
}

/// Asks the subscriber in slot `index`, if it is still the one with `epoch`, to return from its wait.
pub(crate) fn wake(control: &Control, index: usize, epoch: u64) {
    let Some(slot) = control.subscribers.get(index) else {
        return;
    };
    // ORDERING: Relaxed; a slot that changes hands meanwhile is woken once for nothing.
    if slot.epoch.load(Ordering::Relaxed) == epoch {
        // ORDERING: Release; pairs with the Acquire in `park`.
        slot.woken.store(1, Ordering::Release);
        doorbell::full_fence();
        channel::wake(slot);
    }
}

fn take_free(control: &Control, epoch: u64) -> Option<usize> {
    let taken = control.subscribers.iter().position(|slot| {
        // ORDERING: AcqRel; after everything that its last holder did, and our object before the number of it.
        slot.epoch
            .compare_exchange(0, epoch, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    })?;
    // ORDERING: Relaxed; raised before the slot is first slept in, and carried by that exchange.
    control
        .request
        .subscribers_high
        .fetch_max(taken as u64 + 1, Ordering::Relaxed);
    Some(taken)
}

/// Takes the slot from the subscriber with this number, if it is still that one's.
fn free(slot: &SubscriberSlot, epoch: u64) {
    // ORDERING: Release; the next holder comes after everything done before. Of several that clean up, one succeeds.
    let _ = slot
        .epoch
        .compare_exchange(epoch, 0, Ordering::Release, Ordering::Relaxed);
}

/// Whether somebody subscribes from this slot, dead or alive.
pub(crate) fn is_in_use(slot: &SubscriberSlot) -> bool {
    // ORDERING: Acquire; everything in the slot was stored before the mark.
    let is_ready = slot.state.load(Ordering::Acquire) == READY;
    // ORDERING: Relaxed; who died has left its mark in a slot that is free.
    is_ready && slot.epoch.load(Ordering::Relaxed) != 0
}

/// Frees the slots whose holders are gone. Four system calls for each slot in use.
pub(crate) fn free_dead(control: &Control) {
    for slot in control.subscribers.iter() {
        // ORDERING: Acquire; its object was made and locked before.
        let epoch = slot.epoch.load(Ordering::Acquire);
        if epoch == 0 {
            continue;
        }
        let name = object::subscriber_name(&control.bus, epoch);
        if object::is_locked(&name) {
            continue;
        }
        object::unlink(&name);
        kill_point!("consumer.subscriber_freed");
        free(slot, epoch);
    }
}

const _: () = assert!(CHANNELS_MAX.is_multiple_of(64));
