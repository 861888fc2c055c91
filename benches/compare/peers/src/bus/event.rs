//! The events, the same for all: how they are made and how they are checked on arrival.
//!
//! ```text
//!   | number u64, from 1 | stamp u64, 0: none | sender u64 | 7 7 7 .. |    64 or 1024 bytes, little-endian
//! ```

use millpond_bus::{Bus, Clock};

use crate::peer::Fallible;
use crate::work::{End, Part, WARM, Work};

/// Under full load only one event in so many is stamped: reading a clock must not be what is measured.
const STAMP_EVERY: u64 = 256;
const SENDERS_MAX: usize = 8;
const PAYLOAD_BYTES_MAX: usize = 1024;
const FILLER: u8 = 7;

/// The clock that all stamps of a run come from.
///
/// # Errors
/// When the bus that our parent made for it is gone.
pub fn clock(work: &Work) -> Fallible<Clock> {
    Ok(Bus::open(&work.clock)?.clock())
}

/// Makes the events of one sender.
pub struct Outgoing {
    bytes: [u8; PAYLOAD_BYTES_MAX],
    payload_bytes: usize,
    stamp_every: u64,
    clock: Clock,
}

impl Outgoing {
    /// For this sender.
    pub fn new(end: &End<'_>, clock: Clock) -> Self {
        let mut bytes = [FILLER; PAYLOAD_BYTES_MAX];
        bytes[16..24].copy_from_slice(&(end.index as u64).to_le_bytes());
        Outgoing {
            bytes,
            payload_bytes: end.work.payload_bytes,
            stamp_every: match end.work.part {
                part if part.is_latency() => 1,
                Part::Publish => u64::MAX,
                _ => STAMP_EVERY,
            },
            clock,
        }
    }

    /// Event `number`, stamped now if it is one that is stamped.
    #[inline(always)]
    pub fn event(&mut self, number: u64) -> &[u8] {
        let is_stamped = self.stamp_every == 1 || number.is_multiple_of(self.stamp_every);
        let stamp = if is_stamped { self.clock.now_ns() } else { 0 };
        self.bytes[..8].copy_from_slice(&number.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&stamp.to_le_bytes());
        &self.bytes[..self.payload_bytes]
    }
}

/// Checks what one receiver gets: number, order and every byte.
pub struct Incoming {
    clock: Clock,
    payload_bytes: usize,
    filler_sum: u64,
    warm: u64,
    /// The last number of each sender.
    last: [u64; SENDERS_MAX],
    /// Events that came.
    pub received: u64,
    /// Sum of all words that came, and what it must be by their numbers.
    sums: (u64, u64),
    /// Times under way, in ns.
    pub times_ns: Vec<u64>,
    wrong: Option<String>,
}

impl Incoming {
    /// For one receiver of this work.
    pub fn new(work: &Work, clock: Clock) -> Self {
        let words = (work.payload_bytes / 8 - 3) as u64;
        Incoming {
            clock,
            payload_bytes: work.payload_bytes,
            filler_sum: u64::from_le_bytes([FILLER; 8]).wrapping_mul(words),
            warm: match work.part {
                Part::Wake | Part::WakePinned => WARM,
                Part::Busy => work.events / 10,
                _ => 0,
            },
            last: [0; SENDERS_MAX],
            received: 0,
            sums: (0, 0),
            times_ns: Vec::with_capacity(1 << 16),
            wrong: None,
        }
    }

    /// Looks at one event.
    #[inline(always)]
    pub fn take(&mut self, payload: &[u8]) {
        if payload.len() != self.payload_bytes {
            return self.is_wrong(format!("an event of {} bytes came", payload.len()));
        }
        let word = |index: usize| word(&payload[index * 8..]);
        let (number, stamp, sender) = (word(0), word(1), word(2));
        let Some(last) = self.last.get_mut(sender as usize) else {
            return self.is_wrong(format!("an event of sender {sender} came, there is none"));
        };
        if number <= *last {
            let last = *last;
            return self.is_wrong(format!("event {number} came after event {last}"));
        }
        *last = number;
        let rest = payload[24..].chunks_exact(8);
        let sum = rest.fold(0u64, |sum, bytes| sum.wrapping_add(self::word(bytes)));
        self.sums.0 = self.sums.0.wrapping_add(sum.wrapping_add(number));
        self.sums.1 = self
            .sums
            .1
            .wrapping_add(self.filler_sum.wrapping_add(number));
        self.received += 1;
        if stamp != 0 && number > self.warm {
            let now_ns = self.clock.now_ns();
            self.times_ns.push(now_ns.saturating_sub(stamp));
        }
    }

    #[cold]
    fn is_wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Whether the last event of all senders is here: nothing more comes.
    pub fn is_complete(&self, work: &Work) -> bool {
        self.last[..work.senders]
            .iter()
            .all(|last| *last == work.events)
    }

    /// What was wrong with the events, if anything was. Missing ones are not wrong: they are counted.
    ///
    /// # Errors
    /// The first that was too short or long, came twice or out of order, or had other bytes than were sent.
    pub fn check(&mut self) -> Fallible<()> {
        if self.sums.0 != self.sums.1 {
            self.is_wrong("the sum of what came is not that of what was sent".into());
        }
        self.wrong.take().map_or(Ok(()), |wrong| Err(wrong.into()))
    }
}

#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use millpond_bus::BusOptions;

    use super::*;
    use crate::peer::Speed;

    /// Runs with a clock and events of its own, under a name that no other test has.
    fn with_events(what: &str, test: impl FnOnce(&mut Incoming, &mut Outgoing, &Work)) {
        let name = format!("peers-test-{what}-{}", std::process::id());
        let bus = Bus::attach(&name, &BusOptions::default()).expect("shared memory can be had");
        let work = Work::new(Part::Throughput, Speed::Server, true, bus.name());
        let end = End {
            work: &work,
            place: "",
            channel: 0,
            index: 0,
        };
        let mut outgoing = Outgoing::new(&end, clock(&work).expect("it is there"));
        let mut incoming = Incoming::new(&work, clock(&work).expect("it is there"));
        test(&mut incoming, &mut outgoing, &work);
        bus.remove().expect("nobody uses it");
    }

    #[test]
    fn missing_events_are_counted_and_not_wrong() {
        with_events("missing", |incoming, outgoing, work| {
            let came = (1..=work.events).filter(|number| number % 10 != 3);
            let count = came.clone().count() as u64;
            came.for_each(|number| incoming.take(outgoing.event(number)));
            assert!(incoming.is_complete(work));
            assert_eq!(incoming.received, count);
            assert_eq!(incoming.times_ns.len() as u64, work.events / STAMP_EVERY);
            incoming
                .check()
                .expect("nothing is wrong with those that came");
        });
    }

    #[test]
    fn an_event_that_comes_twice_is_wrong() {
        with_events("twice", |incoming, outgoing, _| {
            incoming.take(outgoing.event(1));
            incoming.take(outgoing.event(1));
            let wrong = incoming.check().expect_err("it came twice").to_string();
            assert_eq!(wrong, "event 1 came after event 1");
        });
    }

    #[test]
    fn an_event_with_other_bytes_is_wrong() {
        with_events("bytes", |incoming, outgoing, _| {
            let mut payload = outgoing.event(1).to_vec();
            payload[63] ^= 1;
            incoming.take(&payload);
            let wrong = incoming.check().expect_err("a byte is another").to_string();
            assert_eq!(wrong, "the sum of what came is not that of what was sent");
        });
    }
}
