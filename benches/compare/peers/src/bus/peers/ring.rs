//! Floor: a bare ring in shared memory. A position for each side and the payload's words: no length, no stamp, no
//! sequence, no statistics, no doorbell.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_utils::Backoff;

use crate::event::Outgoing;
use crate::memory::Memory;
use crate::peer::{About, Fallible, Fit, Peer, Place, Receiver, Sender, look_again};
use crate::work::{End, Part, QUEUE_BYTES, Work};

const TAIL_LINE: usize = 0;
const HEAD_LINE: usize = 1;
const DATA_LINE: usize = 2;
const DATA_BYTES_FROM: usize = DATA_LINE * 128;
const WORDS: usize = QUEUE_BYTES / 8;
/// The reader lets a few events gather before it looks again.
const FEW: u64 = 64;
const SPINS: u32 = 2000;

/// The floor.
pub struct Ring {
    /// Events made readable at once.
    pub by: u64,
}

impl Peer for Ring {
    type Sender = Writer;
    type Receiver = Reader;

    fn about(&self) -> About {
        About::floor(match self.by {
            1 => "bare ring",
            _ => "bare ring, by 16",
        })
    }

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::Throughput | Part::Throughput1k | Part::Publish => Fit::Yes,
            _ => Fit::Apart,
        }
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let memory = Memory::make(DATA_BYTES_FROM + QUEUE_BYTES)?;
        Ok(Place::new(memory.name().to_owned(), memory))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Writer> {
        let memory = Memory::open(end.place)?;
        Ok(Writer {
            memory,
            tail: 0,
            head: 0,
            by: self.by,
        })
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Reader> {
        let memory = Memory::open(end.place)?;
        let polls = end.work.part.polls();
        Ok(Reader {
            memory,
            head: 0,
            payload_bytes: end.work.payload_bytes,
            polls,
        })
    }
}

/// The side that writes.
pub struct Writer {
    memory: Memory,
    tail: u64,
    head: u64,
    by: u64,
}

impl Writer {
    #[inline(always)]
    fn put(&mut self, payload: &[u8]) {
        let words = (payload.len() / 8) as u64;
        if self.tail + words - self.head > WORDS as u64 {
            self.wait_for(words);
        }
        let data = &self.memory.words(DATA_LINE)[..WORDS];
        let start = (self.tail % WORDS as u64) as usize;
        let place = &data[start..start + words as usize];
        for (word, bytes) in place.iter().zip(payload.chunks_exact(8)) {
            let value = bytes
                .first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes));
            // ORDERING: Relaxed; published by the Release in `publish`.
            word.store(value, Ordering::Relaxed);
        }
        self.tail += words;
    }

    #[inline(always)]
    fn publish(&self) {
        // ORDERING: Release, pairs with the reader's Acquire; carries the words.
        self.memory.words(TAIL_LINE)[0].store(self.tail, Ordering::Release);
    }

    #[cold]
    fn wait_for(&mut self, words: u64) {
        self.publish();
        let backoff = Backoff::new();
        while self.tail + words - self.head > WORDS as u64 {
            // ORDERING: Acquire, pairs with the reader's Release: it has read what is overwritten next.
            self.head = self.memory.words(HEAD_LINE)[0].load(Ordering::Acquire);
            backoff.snooze();
        }
    }
}

impl Sender for Writer {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        self.put(payload);
        self.publish();
        Ok(())
    }

    fn send_all(&mut self, numbers: RangeInclusive<u64>, events: &mut Outgoing) -> Fallible<()> {
        let by = self.by;
        for number in numbers {
            self.put(events.event(number));
            if number.is_multiple_of(by) {
                self.publish();
            }
        }
        self.publish();
        Ok(())
    }
}

/// The side that reads.
pub struct Reader {
    memory: Memory,
    head: u64,
    payload_bytes: usize,
    polls: bool,
}

impl Receiver for Reader {
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let seen = look_again(patience, || Ok(self.look(take)))?;
        if seen < FEW && !self.polls {
            (0..SPINS).for_each(|_| std::hint::spin_loop());
        }
        Ok(seen)
    }
}

impl Reader {
    fn look(&mut self, take: &mut impl FnMut(&[u8])) -> u64 {
        let words = self.payload_bytes / 8;
        let data = &self.memory.words(DATA_LINE)[..WORDS];
        let mut payload = [0; 1024];
        let mut seen = 0;
        // ORDERING: Acquire, pairs with the writer's Release.
        let tail = self.memory.words(TAIL_LINE)[0].load(Ordering::Acquire);
        while self.head < tail {
            let start = (self.head % WORDS as u64) as usize;
            let place = &data[start..start + words];
            for (bytes, word) in payload.chunks_exact_mut(8).zip(place) {
                // ORDERING: Relaxed; below the tail.
                bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
            }
            take(&payload[..self.payload_bytes]);
            self.head += words as u64;
            seen += 1;
        }
        // ORDERING: Release, pairs with the writer's Acquire: what is below has been read.
        self.memory.words(HEAD_LINE)[0].store(self.head, Ordering::Release);
        seen
    }
}
