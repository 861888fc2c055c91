//! The floors: the least that memory, two cores and the kernel need for the same work.
//!
//! Both ends of a floor are threads of one process: words that two processes share need `unsafe` here. What a cache line
//! or a futex costs between two cores is the same.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_bus::Clock;
use millpond_loadgen::Error;
use rustix::thread::futex;

use super::bus::{FEW, PAYLOAD_BYTES, SPINS};
use super::place::Pinned;
use super::wake::{PACE, WARM};

const PAYLOAD_WORDS: usize = PAYLOAD_BYTES / 8;
const RECORD_WORDS: u64 = 1 + PAYLOAD_WORDS as u64;
/// 4 MiB, as the lanes beside it.
const RING_WORDS: u64 = 1 << 19;
const COPY_BYTES: usize = 4 << 20;

#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// One writer, one reader, a length and 64 bytes a record: no sequence, no statistics, no doorbell.
pub(super) struct BareRing {
    tail: Line,
    head: Line,
    words: Vec<AtomicU64>,
}

/// How long events took through the ring.
pub(super) struct Passed {
    /// The writer, from its first to its last.
    pub(super) writing: Duration,
    /// Until the reader had the last.
    pub(super) whole: Duration,
}

impl BareRing {
    pub(super) fn new() -> Self {
        BareRing {
            tail: Line::default(),
            head: Line::default(),
            words: (0..RING_WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Moves `events` to a reading thread, `batch` with one commit.
    pub(super) fn pass(
        events: u64,
        batch: u64,
        stamp: impl FnMut() -> u64,
    ) -> Result<Passed, Error> {
        let ring = Arc::new(Self::new());
        let reader = {
            let ring = Arc::clone(&ring);
            spawn("reader", move || {
                ring.read(events);
                Ok(())
            })?
        };
        let started = Instant::now();
        ring.write(events, batch, stamp);
        let writing = started.elapsed();
        join(reader)?;
        Ok(Passed {
            writing,
            whole: started.elapsed(),
        })
    }

    /// Writes to its end, however often that is around; the reader may take what is left later.
    pub(super) fn write(&self, events: u64, batch: u64, mut stamp: impl FnMut() -> u64) {
        let payload = black_box([7u64; PAYLOAD_WORDS]);
        // ORDERING: Relaxed; the writer's own.
        let mut tail = self.tail.0.load(Ordering::Relaxed);
        // ORDERING: Acquire; the reader has read what it gave back.
        let mut head = self.head.0.load(Ordering::Acquire);
        for event in 0..events {
            while tail + RECORD_WORDS - head > RING_WORDS {
                // ORDERING: Acquire, as above.
                head = self.head.0.load(Ordering::Acquire);
                spin_loop();
            }
            // ORDERING: Relaxed for all words; the tail publishes them.
            let at = |word: u64| &self.words[((tail + word) % RING_WORDS) as usize];
            at(0).store(PAYLOAD_BYTES as u64 ^ stamp() << 32, Ordering::Relaxed);
            for (index, word) in payload.iter().enumerate() {
                at(1 + index as u64).store(*word, Ordering::Relaxed);
            }
            tail += RECORD_WORDS;
            if (event + 1).is_multiple_of(batch) {
                // ORDERING: Release; the words before the tail.
                self.tail.0.store(tail, Ordering::Release);
            }
        }
        // ORDERING: Release, as above.
        self.tail.0.store(tail, Ordering::Release);
    }

    /// Reads so many, and polls for those that are not there yet.
    pub(super) fn read(&self, events: u64) {
        // ORDERING: Relaxed; the reader's own.
        let mut head = self.head.0.load(Ordering::Relaxed);
        let (mut seen, mut sum) = (0, 0);
        while seen < events {
            // ORDERING: Acquire; the words before the tail.
            let tail = self.tail.0.load(Ordering::Acquire);
            let before = seen;
            while head < tail {
                for word in 0..RECORD_WORDS {
                    let at = ((head + word) % RING_WORDS) as usize;
                    // ORDERING: Relaxed; the tail has published them.
                    sum = u64::wrapping_add(sum, self.words[at].load(Ordering::Relaxed));
                }
                head += RECORD_WORDS;
                seen += 1;
            }
            // ORDERING: Release; the words have been read.
            self.head.0.store(head, Ordering::Release);
            // As the consumer beside it: a few records gather before it looks again.
            if seen - before < FEW && seen < events {
                (0..SPINS).for_each(|_| spin_loop());
            }
        }
        black_box(sum);
    }
}

/// Copies of one piece, each to the place behind the last in 4 MiB.
pub(super) fn copies(count: u64, bytes: usize) -> Duration {
    let piece = black_box(vec![7u8; bytes]);
    let mut buffer = vec![0u8; COPY_BYTES.max(bytes)];
    let places = buffer.len() / bytes;
    let started = Instant::now();
    let mut left = count;
    while left > 0 {
        for place in buffer
            .chunks_exact_mut(bytes)
            .take(left.min(places as u64) as usize)
        {
            place.copy_from_slice(black_box(&piece));
        }
        left -= left.min(places as u64);
    }
    let elapsed = started.elapsed();
    black_box(&buffer);
    elapsed
}

/// One way from core to core, to and fro, through two cache lines, in ns.
pub(super) fn cache_line(
    count: u64,
    clocks: [Clock; 2],
    cores: [usize; 2],
) -> Result<Vec<u64>, Error> {
    let lines = Arc::new([Line::default(), Line::default()]);
    let [here, there] = clocks;
    let receiver = {
        let lines = Arc::clone(&lines);
        spawn("receiver", move || {
            let _pinned = Pinned::to(cores[1])?;
            let mut times_ns = Vec::with_capacity(count as usize);
            let mut last = 0;
            for number in 1..=count {
                last = loop {
                    // ORDERING: Acquire; pairs with the sender's store.
                    let stamp = lines[0].0.load(Ordering::Acquire);
                    if stamp != last {
                        break stamp;
                    }
                    spin_loop();
                };
                times_ns.push(there.now_ns().saturating_sub(last));
                // ORDERING: Release; the sender waits for it.
                lines[1].0.store(number, Ordering::Release);
            }
            Ok(times_ns)
        })?
    };
    let _pinned = Pinned::to(cores[0])?;
    for number in 1..=count {
        // ORDERING: Release; the receiver waits for it.
        lines[0].0.store(here.now_ns(), Ordering::Release);
        // ORDERING: Acquire; pairs with the receiver's store.
        while lines[1].0.load(Ordering::Acquire) != number {
            if receiver.is_finished() {
                break;
            }
            spin_loop();
        }
    }
    join(receiver)
}

/// One way to a thread that sleeps on a futex, in ns; `None` leaves both threads to the scheduler.
pub(super) fn futex_wake(
    count: u64,
    clocks: [Clock; 2],
    cores: Option<[usize; 2]>,
) -> Result<Vec<u64>, Error> {
    let words = Arc::new((Line::default(), AtomicU32::new(0)));
    let [here, there] = clocks;
    let total = count + WARM;
    // As between processes, which a private futex would save a little of.
    let flags = futex::Flags::empty();
    let receiver = {
        let words = Arc::clone(&words);
        spawn("receiver", move || {
            let _pinned = cores.map(|cores| Pinned::to(cores[1])).transpose()?;
            let mut times_ns = Vec::with_capacity(total as usize);
            for number in 0..total as u32 {
                // ORDERING: Acquire; the stamp before the number.
                while words.1.load(Ordering::Acquire) == number {
                    // Whatever ended it, the word is looked at again.
                    let _ = futex::wait(&words.1, flags, number, None);
                }
                // ORDERING: Relaxed; see above.
                let stamp_ns = words.0.0.load(Ordering::Relaxed);
                times_ns.push(there.now_ns().saturating_sub(stamp_ns));
            }
            times_ns.drain(..WARM as usize);
            Ok(times_ns)
        })?
    };
    let _pinned = cores.map(|cores| Pinned::to(cores[0])).transpose()?;
    for number in 1..=total as u32 {
        std::thread::sleep(PACE);
        // ORDERING: Relaxed; the number publishes it.
        words.0.0.store(here.now_ns(), Ordering::Relaxed);
        // ORDERING: Release; the stamp before the number.
        words.1.store(number, Ordering::Release);
        futex::wake(&words.1, flags, 1).map_err(std::io::Error::from)?;
    }
    join(receiver)
}

/// A thread with a name.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<JoinHandle<Result<T, Error>>, Error> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    Ok(builder.spawn(work)?)
}

/// What a thread leaves.
pub(super) fn join<T>(thread: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    let name = thread.thread().name().unwrap_or("thread").to_owned();
    let broken = |_| Error::new(format!("the {name}'s thread panicked"));
    thread.join().map_err(broken)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_written_around_and_read_to_its_end() {
        let ring = BareRing::new();
        let fill = RING_WORDS / RECORD_WORDS;
        for _ in 0..3 {
            ring.write(fill, 16, || 1);
            ring.read(fill);
        }
        // ORDERING: Relaxed; one thread.
        let head = ring.head.0.load(Ordering::Relaxed);
        assert_eq!(head, 3 * fill * RECORD_WORDS);
        assert_eq!(ring.tail.0.load(Ordering::Relaxed), head);
    }
}
