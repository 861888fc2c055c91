//! How readers of the log wait for the next commit: one word, and the protocol around it.
//!
//! # Protocol
//! ```text
//!   word = commits << 1 | waiting            both in one word, so there is one order of all changes to it
//!
//!   reader                                   consumer
//!   seen = commits                           flip `generation` (K1)
//!   look at everything                       word: commits + 1, waiting = 0, in one step
//!   set waiting --- commits != seen: go on   waiting was 1: futex wake, all
//!   futex wait while word = seen | waiting
//! ```
//! A reader that sets `waiting` before the consumer's step is woken, and if it does not sleep yet, the word
//! that it wants to sleep on has changed. One that sets it after the step sees the new count and does not
//! sleep. Two words, a count and a flag, would not do: a ringer that is late could take away the flag of a
//! reader that has seen its commit and waits for the next one.
//!
//! A reader that dies leaves `waiting` behind, which costs one needless wake.
//!
//! # Ordering pair K2
//! The consumer's step (Release) -> the reader's load of `commits` (Acquire); carries the flip before it.

use std::time::Duration;

use crate::doorbell;
use crate::sync::atomic::{AtomicU32, Ordering};

const WAITING: u32 = 1;

/// The word that readers of the log sleep on. BOTH: the consumer counts in it, readers mark that they wait.
#[repr(C, align(128))]
pub(crate) struct CommitBellLine {
    word: AtomicU32,
}

impl CommitBellLine {
    /// Commits so far, in 31 bits. Read it before looking at what is committed.
    pub(crate) fn commits(&self) -> u32 {
        // ORDERING: Acquire (K2).
        self.word.load(Ordering::Acquire) >> 1
    }

    /// Consumer, after a flip; and whoever wants sleeping readers to look around. A system call only if
    /// somebody waits.
    pub(crate) fn ring(&self) {
        // Setting the lowest bit and adding one clears it and adds one to the count above it.
        let next = |word: u32| Some((word | WAITING).wrapping_add(1));
        // ORDERING: Release (K2); Relaxed for the failed rounds, which carry nothing.
        let before = self
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, next);
        if before.is_ok_and(|word| word & WAITING != 0) {
            doorbell::wake(&self.word);
        }
    }

    /// Sleeps while the count is `seen`, at most `timeout`. May return early; look again.
    pub(crate) fn wait(&self, seen: u32, timeout: Option<Duration>) {
        let asleep = seen << 1 | WAITING;
        // ORDERING: Relaxed; the word has one order of changes, and the caller loads it with Acquire before
        // it looks at anything.
        if self.word.fetch_or(WAITING, Ordering::Relaxed) | WAITING == asleep {
            doorbell::sleep(&self.word, asleep, timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::AtomicU64;
    use std::sync::Arc;

    fn line() -> CommitBellLine {
        CommitBellLine {
            word: AtomicU32::new(0),
        }
    }

    #[test]
    fn a_ring_counts_and_takes_the_mark_away() {
        let bell = line();
        bell.ring();
        assert_eq!(bell.commits(), 1);
        bell.wait(0, None); // the count has moved on: no sleep
        assert_eq!(bell.word.load(Ordering::Relaxed), 1 << 1 | WAITING);
        bell.ring();
        assert_eq!(bell.word.load(Ordering::Relaxed), 2 << 1);
    }

    #[test]
    fn the_count_wraps() {
        let bell = line();
        bell.word.store(u32::MAX, Ordering::Relaxed);
        bell.ring();
        assert_eq!(bell.commits(), 0);
    }

    /// Each value is stored, then rung for; waiters without a timeout see the last one, or hang.
    #[test]
    fn no_wake_is_lost() {
        const ROUNDS: u64 = 20_000;
        let (bell, value) = (Arc::new(line()), Arc::new(AtomicU64::new(0)));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let (bell, value) = (Arc::clone(&bell), Arc::clone(&value));
                std::thread::spawn(move || {
                    loop {
                        let seen = bell.commits();
                        if value.load(Ordering::Relaxed) == ROUNDS {
                            return;
                        }
                        bell.wait(seen, None);
                    }
                })
            })
            .collect();
        for round in 1..=ROUNDS {
            value.store(round, Ordering::Relaxed);
            bell.ring();
        }
        for waiter in waiters {
            waiter.join().expect("a waiter");
        }
    }
}
