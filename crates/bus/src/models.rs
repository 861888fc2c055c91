//! loom models of the ring and the doorbell, with their broken variants.
//!
//! Each model explores every interleaving the memory model allows, over a ring of a few words. A broken
//! variant is the same model with one guarantee taken out; it must fail, which shows that the model can
//! see the guarantee. loom ends the process when it finds one, so each broken variant has a process of its
//! own. Run with `RUSTFLAGS="--cfg loom" cargo test -p millpond-bus --lib --release`.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

use crate::doorbell::{self, DoorbellLine};
use crate::ring::{KIND_EVENT, Reader, RecordHeader, RingHeader, RingMemory, Writer, release};
use crate::sync::atomic::{AtomicU64, Ordering};

const CAPACITY_BYTES: usize = 128;

/// Runs `model` in a child process, which must die of `finding`.
fn must_fail(test: &str, finding: &str, model: impl FnOnce()) {
    const CHILD: &str = "MILLPOND_BROKEN_MODEL";
    if std::env::var(CHILD).as_deref() == Ok(test) {
        return model();
    }
    let this = std::env::current_exe().expect("a test knows its own executable");
    let child = std::process::Command::new(this)
        .args(["--exact", &format!("models::{test}"), "--nocapture"])
        .env(CHILD, test)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("a test can start itself");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success(), "{test} went unnoticed");
    assert!(
        said.contains(finding),
        "{test} failed, but not of {finding:?}:\n{said}"
    );
}

/// A ring of words that loom watches: a read that races with a write fails the model.
struct Words {
    header: RingHeader,
    words: Vec<UnsafeCell<[u8; 8]>>,
}

impl Words {
    fn new() -> Arc<Self> {
        let words = (0..CAPACITY_BYTES / 8)
            .map(|_| UnsafeCell::new([0; 8]))
            .collect();
        Arc::new(Words {
            header: RingHeader::default(),
            words,
        })
    }
}

impl RingMemory for Arc<Words> {
    fn header(&self) -> &RingHeader {
        &self.header
    }

    fn capacity_bytes(&self) -> u64 {
        CAPACITY_BYTES as u64
    }

    fn copy_in(&self, index: usize, bytes: &[u8]) {
        for (offset, chunk) in bytes.chunks(8).enumerate() {
            self.words[index / 8 + offset].with_mut(|word| {
                // SAFETY: loom hands out the pointer for the closure and reports any concurrent access.
                unsafe { (&mut *word)[..chunk.len()].copy_from_slice(chunk) }
            });
        }
    }

    fn copy_out(&self, index: usize, bytes: &mut [u8]) {
        for (offset, chunk) in bytes.chunks_mut(8).enumerate() {
            self.words[index / 8 + offset].with(|word| {
                // SAFETY: as in `copy_in`.
                chunk.copy_from_slice(unsafe { &(&*word)[..chunk.len()] });
            });
        }
    }
}

fn publish(writer: &mut Writer<Arc<Words>>, value: u64) -> bool {
    let Some(slot) = writer.reserve(8) else {
        return false;
    };
    let mut header = RecordHeader::new_zeroed();
    header.kind = KIND_EVENT;
    header.length_bytes = U32::new(8);
    header.sequence = U64::new(writer.sequence_next());
    writer.write_payload(slot, 0, &value.to_le_bytes());
    writer.write_header(slot, &header);
    writer.stage(slot);
    writer.commit();
    true
}

fn take(reader: &mut Reader<Arc<Words>>) -> Option<u64> {
    reader.refresh().expect("the writer is honest");
    let header = reader.peek().expect("the writer is honest")?;
    let mut payload = [0; 8];
    reader.copy_payload(&mut payload);
    reader.advance(&header);
    Some(u64::from_le_bytes(payload))
}

/// P1 and P2: what is read is what was written, in order, also when the ring wraps and is reused.
#[test]
fn records_arrive_whole_and_in_order_while_the_ring_wraps() {
    loom::model(|| {
        let words = Words::new();
        let shared = Arc::clone(&words);
        let publisher = thread::spawn(move || {
            let mut writer = Writer::new(shared);
            let mut sent = 0;
            // 40 bytes a record in a ring of 128: the fourth has to wait for space and wraps.
            for _ in 0..5 {
                if publish(&mut writer, sent + 1) {
                    sent += 1;
                }
            }
            sent
        });
        let mut reader = Reader::resume(Arc::clone(&words), 32, 0, 0);
        let mut next = 1;
        for _ in 0..3 {
            if let Some(value) = take(&mut reader) {
                assert_eq!(value, next);
                next += 1;
                release(&words.header, reader.position());
            }
        }
        let sent = publisher.join().expect("the publisher ends");
        while let Some(value) = take(&mut reader) {
            assert_eq!(value, next);
            next += 1;
        }
        assert_eq!(next - 1, sent);
    });
}

/// P1 taken out: the tail is stored without Release. loom must see the race on the record bytes.
#[test]
fn broken_commit_without_release_is_caught() {
    must_fail(
        "broken_commit_without_release_is_caught",
        "Causality violation",
        || {
            loom::model(|| {
                let words = Words::new();
                let shared = Arc::clone(&words);
                let publisher = thread::spawn(move || {
                    shared.copy_in(0, &7u64.to_le_bytes());
                    // ORDERING: wrong on purpose.
                    shared
                        .header
                        .publisher
                        .tail_position
                        .store(8, Ordering::Relaxed);
                });
                // ORDERING: as in `refresh`.
                if words.header.publisher.tail_position.load(Ordering::Acquire) == 8 {
                    let mut bytes = [0; 8];
                    words.copy_out(0, &mut bytes);
                }
                publisher.join().expect("the publisher ends");
            })
        },
    );
}

/// P2 taken out: space is given back without Release. loom must see the writer run into the reader.
#[test]
fn broken_release_without_release_is_caught() {
    must_fail(
        "broken_release_without_release_is_caught",
        "Causality violation",
        || {
            loom::model(|| {
                let words = Words::new();
                let shared = Arc::clone(&words);
                let consumer = thread::spawn(move || {
                    let mut bytes = [0; 8];
                    shared.copy_out(0, &mut bytes);
                    // ORDERING: wrong on purpose.
                    shared
                        .header
                        .reader
                        .head_position
                        .store(8, Ordering::Relaxed);
                });
                // ORDERING: as in `reserve`.
                if words.header.reader.head_position.load(Ordering::Acquire) == 8 {
                    words.copy_in(0, &9u64.to_le_bytes());
                }
                consumer.join().expect("the consumer ends");
            })
        },
    );
}

/// A ring of words that may be read while they are written, as shared memory is: what a reader that releases
/// nothing copies can be torn, and it must know.
struct TornWords {
    header: RingHeader,
    words: Vec<AtomicU64>,
}

impl RingMemory for Arc<TornWords> {
    fn header(&self) -> &RingHeader {
        &self.header
    }

    fn capacity_bytes(&self) -> u64 {
        64
    }

    fn copy_in(&self, index: usize, bytes: &[u8]) {
        for (offset, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // ORDERING: Relaxed; plain bytes.
            self.words[index / 8 + offset].store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    }

    fn copy_out(&self, index: usize, bytes: &mut [u8]) {
        for (offset, chunk) in bytes.chunks_mut(8).enumerate() {
            // ORDERING: Relaxed; plain bytes.
            let word = self.words[index / 8 + offset].load(Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Two payload words per record, written behind an announcement; the reader copies them meanwhile.
fn reader_from_the_side(asks: bool) {
    loom::model(move || {
        let ring = Arc::new(TornWords {
            header: RingHeader::default(),
            words: (0..8).map(|_| AtomicU64::new(1)).collect(),
        });
        // A record of two ones is there from the start, and fills the ring.
        let mut writer = Writer::new(Arc::clone(&ring));
        let slot = writer.reserve(32).expect("an empty ring");
        writer.stage(slot);
        writer.commit();
        release(&ring.header, 64);
        let reader = Reader::resume(Arc::clone(&ring), 32, 0, 0);
        let overwriter = thread::spawn(move || {
            let slot = writer.reserve(32).expect("it was released");
            writer.write_payload(slot, 0, &[2; 16]);
        });
        let mut copy = [0; 16];
        ring.copy_out(32, &mut copy);
        if !(asks && reader.is_overwritten()) {
            assert_eq!([&copy[..8], &copy[8..]].map(|word| word[0]), [1, 1], "torn");
        }
        overwriter.join().expect("the writer ends");
    });
}

/// P5: a copy that is not reported as overwritten is whole.
#[test]
fn a_torn_copy_is_reported() {
    reader_from_the_side(true);
}

/// P5 taken out: the reader does not ask.
#[test]
fn broken_reader_that_does_not_ask_is_caught() {
    let test = "broken_reader_that_does_not_ask_is_caught";
    must_fail(test, "torn", || reader_from_the_side(false));
}

/// The kernel's futex in loom's terms: compare and sleep are one step.
#[derive(Default)]
struct Futex {
    lock: Mutex<()>,
    sleepers: Condvar,
}

impl Futex {
    fn sleep(&self, line: &DoorbellLine, expected: u32) {
        let guard = self
            .lock
            .lock()
            .expect("no model panics while it holds the lock");
        // ORDERING: SeqCst; the kernel compares under its own lock.
        if line.parked.load(Ordering::SeqCst) == expected {
            drop(
                self.sleepers
                    .wait(guard)
                    .expect("no model panics while it holds the lock"),
            );
        }
    }

    fn wake(&self) {
        let _guard = self
            .lock
            .lock()
            .expect("no model panics while it holds the lock");
        self.sleepers.notify_all();
    }
}

/// What is taken out of the protocol.
#[derive(Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    Fence,
    WordChange,
}

/// One event, one sleeper: loom reports a deadlock if a wake-up can be lost.
fn sleeper(without: Without) {
    loom::model(move || {
        let words = Words::new();
        let line = Arc::new(DoorbellLine::default());
        let futex = Arc::new(Futex::default());
        let publisher = {
            let (words, line, futex) = (Arc::clone(&words), Arc::clone(&line), Arc::clone(&futex));
            thread::spawn(move || {
                let mut writer = Writer::new(words);
                assert!(publish(&mut writer, 1));
                let parked = match without {
                    // ORDERING: wrong on purpose.
                    Without::Fence => line.parked.load(Ordering::Relaxed),
                    _ => line.parked_after_commit(false),
                };
                if parked != doorbell::AWAKE {
                    if without == Without::WordChange || line.unpark() {
                        futex.wake();
                    }
                }
            })
        };
        let mut reader = Reader::resume(Arc::clone(&words), 32, 0, 0);
        line.set_parked(doorbell::PARKED, 0, || {
            if without != Without::Fence {
                doorbell::full_fence();
            }
        });
        if reader.refresh() == Ok(0) {
            futex.sleep(&line, doorbell::PARKED);
        }
        line.set_awake();
        assert_eq!(take(&mut reader), Some(1));
        publisher.join().expect("the publisher ends");
    });
}

/// What is taken out of the subscribers' protocol.
#[derive(Clone, Copy, PartialEq)]
enum Missing {
    Nothing,
    Fence,
    /// The bits are set before the sleeper's own mark.
    Order,
}

/// Two publishers, one subscriber that sleeps until it has had both events: loom reports a deadlock if one of
/// the ringers takes bits away without waking who set them.
fn subscriber(missing: Missing) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let lanes = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let waiting = Arc::new(AtomicU64::new(0));
        let line = Arc::new(DoorbellLine::default()); // `parked` of its slot
        let futex = Arc::new(Futex::default());
        let publishers = lanes.clone().map(|tail| {
            let (waiting, line, futex) =
                (Arc::clone(&waiting), Arc::clone(&line), Arc::clone(&futex));
            thread::spawn(move || {
                // ORDERING: as in `commit`.
                tail.store(1, Ordering::Release);
                if missing != Missing::Fence {
                    doorbell::full_fence();
                }
                // ORDERING: as in `after_commit`.
                if waiting.load(Ordering::Relaxed) & 1 != 0
                    && doorbell::take_bits(&waiting, 1)
                    && doorbell::unpark_subscriber(&line.parked)
                {
                    futex.wake();
                }
            })
        });
        // ORDERING: as in `refresh`.
        let has_all = || lanes.iter().all(|tail| tail.load(Ordering::Acquire) == 1);
        while !has_all() {
            match missing {
                Missing::Order => {
                    // ORDERING: wrong on purpose.
                    waiting.fetch_or(1, Ordering::Release);
                    line.parked.store(1, Ordering::Relaxed);
                }
                _ => doorbell::announce(&line.parked, [&*waiting], 1),
            }
            if missing != Missing::Fence {
                doorbell::full_fence();
            }
            if !has_all() {
                futex.sleep(&line, 1);
            }
            // ORDERING: as in `park`.
            line.parked.store(0, Ordering::Relaxed);
        }
        for publisher in publishers {
            publisher.join().expect("the publisher ends");
        }
    });
}

/// The bells of channels: no wake-up of a subscriber is lost between two ringers.
#[test]
fn no_wake_up_of_a_subscriber_is_lost() {
    subscriber(Missing::Nothing);
}

/// The barriers taken out.
#[test]
fn broken_bell_without_fences_is_caught() {
    let test = "broken_bell_without_fences_is_caught";
    must_fail(test, "deadlock", || subscriber(Missing::Fence));
}

/// The order of mark and bits reversed: a ringer takes the bits before it can see the sleeper.
#[test]
fn broken_bell_with_bits_before_the_mark_is_caught() {
    let test = "broken_bell_with_bits_before_the_mark_is_caught";
    must_fail(test, "deadlock", || subscriber(Missing::Order));
}

/// P3: whatever the order, the consumer finds the event or is woken for it.
#[test]
fn no_wake_up_is_lost() {
    sleeper(Without::Nothing);
}

/// P3 taken out: store buffering loses the wake-up.
#[test]
fn broken_doorbell_without_fences_is_caught() {
    let test = "broken_doorbell_without_fences_is_caught";
    must_fail(test, "deadlock", || sleeper(Without::Fence));
}

/// The word is not changed before the wake: a wake between the last look and the sleep is lost.
#[test]
fn broken_doorbell_without_word_change_is_caught() {
    let test = "broken_doorbell_without_word_change_is_caught";
    must_fail(test, "deadlock", || sleeper(Without::WordChange));
}
