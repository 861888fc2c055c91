//! Floors of latency: one cache line that two processes hand over, polled, or slept on with a futex.
//!
//! One event at a time: its number is the line's first word and is written last. An event that was not read in time
//! is overwritten, and counted as lost by its reader like any other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::thread::futex;

use crate::memory::Memory;
use crate::peer::{About, Fallible, Fit, KEPT, Peer, Place, Receiver, Sender, look_again};
use crate::work::{End, Part, Work};

/// Two lines a channel: the event, and the futex.
const LINES: usize = 2;
const MEMORY_BYTES: usize = 4096;

/// Both sides poll, or the reader sleeps.
pub struct Line {
    /// Whether it sleeps.
    pub sleeps: bool,
}

impl Peer for Line {
    type Sender = Writer;
    type Receiver = Reader;

    fn about(&self) -> About {
        let mut guarantees = KEPT;
        guarantees.blocking = false;
        let name = match self.sleeps {
            false => "bare cache line",
            true => "bare futex",
        };
        About {
            guarantees,
            ..About::floor(name)
        }
    }

    fn fit(&self, part: Part) -> Fit {
        let is_its_work = match self.sleeps {
            false => part == Part::Busy,
            true => matches!(part, Part::Wake | Part::WakePinned),
        };
        if is_its_work { Fit::Yes } else { Fit::Apart }
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let memory = Memory::make(MEMORY_BYTES)?;
        Ok(Place::new(memory.name().to_owned(), memory))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Writer> {
        Ok(Writer {
            end: Bound::new(end)?,
            sleeps: self.sleeps,
        })
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Reader> {
        Ok(Reader {
            end: Bound::new(end)?,
            last: 0,
            sleeps: self.sleeps,
        })
    }
}

/// One channel's lines.
struct Bound {
    memory: Memory,
    line: usize,
}

impl Bound {
    fn new(end: &End<'_>) -> Fallible<Self> {
        let memory = Memory::open(end.place)?;
        Ok(Bound {
            memory,
            line: end.channel * LINES,
        })
    }
}

/// The side that writes.
pub struct Writer {
    end: Bound,
    sleeps: bool,
}

impl Sender for Writer {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        let words = self.end.memory.words(self.end.line);
        let word = |bytes: &[u8]| {
            bytes
                .first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        for (to, bytes) in words.iter().zip(payload.chunks_exact(8)).skip(1) {
            // ORDERING: Relaxed; published by the number.
            to.store(word(bytes), Ordering::Relaxed);
        }
        let number = word(payload);
        // ORDERING: Release, pairs with the reader's Acquire; carries the other words.
        words[0].store(number, Ordering::Release);
        if self.sleeps {
            let bell = self.end.memory.futex(self.end.line + 1);
            // ORDERING: Release; the bell comes after the event. The wake is a system call and orders the rest.
            bell.store(number as u32, Ordering::Release);
            futex::wake(bell, futex::Flags::empty(), 1)?;
        }
        Ok(())
    }
}

/// The side that reads.
pub struct Reader {
    end: Bound,
    last: u64,
    sleeps: bool,
}

impl Receiver for Reader {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        if self.sleeps {
            let bell = self.end.memory.futex(self.end.line + 1);
            let timeout = rustix::thread::futex::Timespec::try_from(patience)?;
            // It may have been woken for nothing, or not have slept: looking again does no harm.
            let _ = futex::wait(
                bell,
                futex::Flags::empty(),
                self.last as u32,
                Some(&timeout),
            );
            return Ok(self.look(take));
        }
        look_again(patience, || Ok(self.look(take)))
    }
}

impl Reader {
    #[inline(always)]
    fn look(&mut self, take: &mut impl FnMut(&[u8])) -> u64 {
        let words = self.end.memory.words(self.end.line);
        // ORDERING: Acquire, pairs with the writer's Release.
        let number = words[0].load(Ordering::Acquire);
        if number == self.last {
            return 0;
        }
        self.last = number;
        let mut payload = [0; 64];
        for (bytes, word) in payload.chunks_exact_mut(8).zip(words) {
            // ORDERING: Relaxed; below the Acquire, and the writer waits for the answer, or a millisecond.
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        take(&payload);
        1
    }
}
