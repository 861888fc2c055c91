//! Channels: one for each rule pattern, with the bell that wakes its subscribers.
//!
//! # Protocol (the doorbell's, with a set of names in the place of one mark)
//! ```text
//!   ringer (publisher or consumer)            subscriber
//!   store tail (Release)                      slot.parked = 1
//!   barrier A                                 waiting |= its name bits     in each of its channels
//!   load waiting --- none of the name's       barrier B
//!        bits: done                           look at every tail --- something there: parked = 0, go on
//!   else waiting &= !bits (AcqRel), and wake  futex wait while parked is 1
//!        every parked slot that has them
//! ```
//! A ringer takes away only the bits for which it then wakes *every* sleeper, so nobody sleeps behind a bit
//! that is gone. A subscriber of one exact name sets one bit of 64; one with a `*` sets them all. A bit left
//! behind by one who is awake again, or dead, costs a ringer one look at the slots.
//!
//! The pairs are those of `doorbell`: barrier A after the tail and before `waiting`, barrier B after
//! `waiting` and before the tails.

use crate::control::Control;
use crate::doorbell;
use crate::error::{Error, ErrorKind};
use crate::layout::{CHANNELS_MAX, SUBSCRIBERS_MAX, SubscriberSlot};
use crate::names::{self, INLINE_NAME_ID};
use crate::pattern::Pattern;
use crate::subscribers;
use crate::sync::atomic::Ordering;

/// The channel of a pattern, made where it is new.
pub(crate) fn of_pattern(control: &Control, pattern: &Pattern) -> Result<u32, Error> {
    let channel = names::intern(&control.channels, pattern.as_str());
    if channel == INLINE_NAME_ID {
        let message = format!(
            "bus {:?} has had {CHANNELS_MAX} rule patterns and takes no new one: {pattern:?} would be another; \
             stop its processes and remove the bus",
            control.bus,
            pattern = pattern.as_str(),
        );
        return Err(Error::new(ErrorKind::LimitReached, message));
    }
    Ok(channel)
}

/// Every channel there is, with its pattern. What cannot be a pattern is left out.
pub(crate) fn all(control: &Control) -> impl Iterator<Item = (u32, Pattern)> + '_ {
    (0..CHANNELS_MAX as u32).filter_map(|channel| {
        let text = names::text(&control.channels, channel)?;
        Some((channel, text.parse().ok()?))
    })
}

/// Wakes the subscribers of `channel` that sleep and want one of the names in `bits`. The caller has stored
/// its tail and run barrier A, and has seen some of the bits in `waiting`.
///
/// One system call for each of them.
#[cold]
pub(crate) fn ring(control: &Control, channel: u32, bits: u64) {
    let Some(bell) = control.bells.get(channel as usize) else {
        return;
    };
    if !doorbell::take_bits(&bell.waiting, bits) {
        return;
    }
    // ORDERING: Relaxed; it was raised before any of these slots first slept.
    let high = control.request.subscribers_high.load(Ordering::Relaxed);
    for slot in control
        .subscribers
        .iter()
        .take((high as usize).min(SUBSCRIBERS_MAX))
    {
        // ORDERING: Relaxed; stored before the bits that were taken.
        if listens_to(slot, channel) && slot.name_bits.load(Ordering::Relaxed) & bits != 0 {
            wake(slot);
        }
    }
}

/// Wakes everybody: the rules have changed.
pub(crate) fn ring_all(control: &Control) {
    doorbell::full_fence();
    for slot in control.subscribers.iter() {
        wake(slot);
    }
}

/// Wakes one subscriber if it sleeps.
pub(crate) fn wake(slot: &SubscriberSlot) {
    if doorbell::unpark_subscriber(&slot.parked) {
        doorbell::wake(&slot.parked);
    }
}

/// Whether a live subscriber may want what goes through `channel`.
pub(crate) fn has_listeners(control: &Control, channel: u32) -> bool {
    control
        .subscribers
        .iter()
        .any(|slot| subscribers::is_in_use(slot) && listens_to(slot, channel))
}

fn listens_to(slot: &SubscriberSlot, channel: u32) -> bool {
    let (word, bit) = (channel as usize / 64, channel % 64);
    // ORDERING: Relaxed; see the callers.
    slot.channels
        .get(word)
        .is_some_and(|word| word.load(Ordering::Relaxed) >> bit & 1 == 1)
}
