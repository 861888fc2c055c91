//! The word that everything rings, and the protocol around it. Both ends stand here, side by side.
//!
//! # Protocol
//! ```text
//!   publisher                              consumer
//!   store tail (Release)                   store parked = 1, 2 or 3
//!   barrier A                              barrier B
//!   load parked --- 0: done                look at every tail --- something there: parked = 0, go on
//!     else swap parked to 0, wake          futex wait while parked is unchanged
//! ```
//! # Ordering pair P3 (store buffering)
//! A and B must both order the store above before the load below, or a wake-up is lost: the publisher
//! misses `parked` while the consumer misses the tail. Release and Acquire do not give this. B is
//! `membarrier(GLOBAL_EXPEDITED)` where the kernel has it, which runs a full barrier on every CPU that runs
//! a registered process, and then A only has to stop the compiler. Otherwise both are SeqCst fences.
//!
//! The word is changed *before* the wake call, so that a wake between the last look and the sleep makes
//! the sleep return at once. The futex is a shared one (not process-private).

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};

/// The consumer is awake: nobody needs to ring.
pub(crate) const AWAKE: u32 = 0;
/// The consumer sleeps with nothing pending: ring for anything.
pub(crate) const PARKED: u32 = 1;
/// The consumer will wake by itself for what is pending: ring only for a threshold.
pub(crate) const PARKED_WITH_DEADLINE: u32 = 2;
/// As 2, and the log sink is full: publishers of persisted rules cannot help by ringing.
pub(crate) const PARKED_FOR_DISK: u32 = 3;

/// Shared by all: read by publishers after each commit, written by the consumer when it parks.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct DoorbellLine {
    /// BOTH: the consumer parks, a waker must change the word.
    pub(crate) parked: AtomicU32,
    /// 1 while barrier A must be a real fence. Written by the consumer when it comes up, and by a
    /// subscriber that cannot use membarrier.
    pub(crate) fence_required: AtomicU32,
    /// When the consumer wakes by itself, while `parked` is 2 or 3: real time in ns. Consumer only.
    pub(crate) parked_until_ns: AtomicU64,
    /// Grows with each new rule table. Consumer only; here because publishers read this line anyway.
    pub(crate) rules_generation: AtomicU32,
}

impl DoorbellLine {
    /// Publisher, after a commit: barrier A, then how the consumer sleeps.
    #[inline(always)]
    pub(crate) fn parked_after_commit(&self, registered: bool) -> u32 {
        // ORDERING: Relaxed; the consumer sets it before it first parks. A publisher that reads an old 0
        // may lose one wake-up, which the consumer's bounded wait covers.
        if registered && self.fence_required.load(Ordering::Relaxed) == 0 {
            // ORDERING: P3, barrier A: membarrier on the other side makes it a real one when it counts.
            compiler_fence(Ordering::SeqCst);
        } else {
            // ORDERING: P3, barrier A. The tail store and the load below must not swap.
            fence(Ordering::SeqCst);
        }
        // ORDERING: Relaxed; ordered against the tail by barrier A.
        self.parked.load(Ordering::Relaxed)
    }

    /// Takes the parked mark away; true if the caller must now wake the sleeper.
    pub(crate) fn unpark(&self) -> bool {
        // ORDERING: AcqRel; of several ringers exactly one sees the mark and makes the call.
        self.parked.swap(AWAKE, Ordering::AcqRel) != AWAKE
    }

    /// Consumer: announces sleep and runs barrier B. After this, look at every tail once more.
    pub(crate) fn set_parked(&self, state: u32, until_ns: u64, barrier: impl FnOnce()) {
        // ORDERING: Relaxed; carried by the Release below.
        self.parked_until_ns.store(until_ns, Ordering::Relaxed);
        // ORDERING: Release; whoever sees the mark sees the time. Barrier B orders it before the loads that
        // follow.
        self.parked.store(state, Ordering::Release);
        barrier();
    }

    /// Consumer: awake again, whoever woke it.
    pub(crate) fn set_awake(&self) {
        // ORDERING: Relaxed; a publisher that still sees the old mark only makes a useless call.
        self.parked.store(AWAKE, Ordering::Relaxed);
    }
}

/// Subscriber: announces its sleep to the ringers of one channel. `parked` is its own word, set first. Barrier B
/// follows, then a look at every tail.
pub(crate) fn announce<'b>(
    parked: &AtomicU32,
    waiting: impl IntoIterator<Item = &'b AtomicU64>,
    bits: u64,
) {
    // ORDERING: Relaxed; carried by the exchanges below.
    parked.store(1, Ordering::Relaxed);
    for waiting in waiting {
        // ORDERING: Release; whoever takes our bits away has seen `parked`.
        waiting.fetch_or(bits, Ordering::Release);
    }
}

/// Ringer: takes the bits away; false where none was set. Behind this it wakes every sleeper that has one of
/// them, see [`unpark_subscriber`].
pub(crate) fn take_bits(waiting: &AtomicU64, bits: u64) -> bool {
    // ORDERING: AcqRel; a subscriber whose bits are seen here has set `parked` before, and is seen after.
    waiting.fetch_and(!bits, Ordering::AcqRel) & bits != 0
}

/// Ringer: takes a sleeper's mark away; true if the caller must now wake it.
pub(crate) fn unpark_subscriber(parked: &AtomicU32) -> bool {
    // ORDERING: Relaxed load, ordered by `take_bits`; AcqRel exchange: of several ringers one makes the call.
    parked.load(Ordering::Relaxed) == 1 && parked.swap(0, Ordering::AcqRel) == 1
}

/// Barrier B (and A) where membarrier is missing.
pub(crate) fn full_fence() {
    // ORDERING: P3.
    fence(Ordering::SeqCst);
}

#[cfg(not(loom))]
pub(crate) use os::{membarrier_all, register_membarrier, sleep, wake};

#[cfg(not(loom))]
mod os {
    use std::time::Duration;

    use rustix::thread::futex;
    use rustix::thread::{MembarrierCommand, membarrier};

    use crate::sync::atomic::AtomicU32;

    /// Asks the kernel to include this process in `GLOBAL_EXPEDITED` barriers. Once per process is enough.
    pub(crate) fn register_membarrier() -> bool {
        membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok()
    }

    /// Barrier B: a full barrier on every CPU that runs a registered process. One system call.
    pub(crate) fn membarrier_all() -> bool {
        membarrier(MembarrierCommand::GlobalExpedited).is_ok()
    }

    /// Sleeps while `word` is `expected`, at most `timeout`. One system call.
    pub(crate) fn sleep(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
        let timeout = timeout.map(|timeout| futex::Timespec {
            tv_sec: timeout.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        // Every outcome (woken, changed, timed out, interrupted) means the same to the caller: look again.
        let _ = futex::wait(word, futex::Flags::empty(), expected, timeout.as_ref());
    }

    /// Wakes every sleeper on `word`. The caller has changed the word.
    pub(crate) fn wake(word: &AtomicU32) {
        // It fails only for a bad address, which a reference is not.
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    }
}
