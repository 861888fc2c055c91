//! The pieces of work, and what one process (or thread) is told of its share.

use std::time::Duration;

use millpond_peers::Figure;
use serde::{Deserialize, Serialize};

use crate::peer::Speed;

/// What every queue that has a settable size gets, in bytes of payload; millpond's lanes and outboxes have this size too.
pub const QUEUE_BYTES: usize = 4 << 20;
/// Publishes timed together.
pub const BURST: u64 = 64;
/// Between two bursts: the receiver catches up.
pub const PAUSE: Duration = Duration::from_micros(20);
/// A sleeping receiver gets this many events first, which do not count.
pub const WARM: u64 = 20;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// One to one, as fast as it goes, 64 bytes.
    Throughput,
    /// The same with 1 KiB.
    Throughput1k,
    /// What a publish costs while the receiver polls: bursts with pauses, so that nobody waits for space.
    Publish,
    /// One way to a sleeping receiver, 1,000 events a second, left to the scheduler.
    Wake,
    /// The same, sender on core 0, receiver on core 1.
    WakePinned,
    /// One way while both poll, to and fro, on cores 0 and 1.
    Busy,
    /// Each event to four receivers.
    FanOut,
    /// Four senders, one receiver.
    FanIn,
}

impl Part {
    /// All, in the order of the table.
    pub const ALL: [Part; 8] = [
        Part::Throughput,
        Part::Throughput1k,
        Part::Publish,
        Part::Wake,
        Part::WakePinned,
        Part::Busy,
        Part::FanOut,
        Part::FanIn,
    ];

    /// Its word on the command line and in rows.
    pub fn name(self) -> &'static str {
        match self {
            Part::Throughput => "throughput",
            Part::Throughput1k => "throughput-1k",
            Part::Publish => "publish",
            Part::Wake => "wake",
            Part::WakePinned => "wake-pinned",
            Part::Busy => "busy",
            Part::FanOut => "fan-out",
            Part::FanIn => "fan-in",
        }
    }

    /// What is done, in words.
    pub fn words(self) -> &'static str {
        match self {
            Part::Throughput => "64 B, 1 sender to 1 receiver, as fast as it goes",
            Part::Throughput1k => "1 KiB, 1 sender to 1 receiver, as fast as it goes",
            Part::Publish => "64 B, time in the sender, bursts of 64, the receiver polls",
            Part::Wake => "64 B to a sleeping receiver, 1,000 events/s, left to the scheduler",
            Part::WakePinned => "64 B to a sleeping receiver, 1,000 events/s, cores 0 and 1",
            Part::Busy => "64 B one way, to and fro, both poll, cores 0 and 1",
            Part::FanOut => "64 B, 1 sender, each event to 4 receivers, each arrival counts",
            Part::FanIn => "64 B, 4 senders to 1 receiver",
        }
    }

    /// Whether the figure is a time and not a rate.
    pub fn is_latency(self) -> bool {
        matches!(self, Part::Wake | Part::WakePinned | Part::Busy)
    }

    /// What its rows are about.
    pub fn figure(self) -> Figure {
        match self {
            Part::Publish => Figure::Cost,
            part if part.is_latency() => Figure::Latency,
            _ => Figure::Rate,
        }
    }

    /// Whether receivers look again and again and never sleep.
    pub fn polls(self) -> bool {
        matches!(self, Part::Publish | Part::Busy)
    }

    /// Whether sender and receiver are kept on cores 0 and 1.
    pub fn is_pinned(self) -> bool {
        matches!(self, Part::WakePinned | Part::Busy)
    }
}

/// One piece of work as all its processes know it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// Its kind.
    pub part: Part,
    /// Length of each payload: 64 or 1024.
    pub payload_bytes: usize,
    /// How many send.
    pub senders: usize,
    /// How many receive; each event goes to every one of them.
    pub receivers: usize,
    /// Events of each sender.
    pub events: u64,
    /// The bus whose clock all stamps come from.
    pub clock: String,
}

impl Work {
    /// The work of a part for a peer of this speed. Faster ones get more events, so that each round takes about as long.
    pub fn new(part: Part, speed: Speed, is_tiny: bool, clock: &str) -> Self {
        let (senders, receivers) = match part {
            Part::FanOut => (1, 4),
            Part::FanIn => (4, 1),
            _ => (1, 1),
        };
        let most: u64 = match speed {
            Speed::Memory => 20_000_000,
            Speed::Syscall => 2_000_000,
            Speed::Server => 500_000,
        };
        let divisor = if is_tiny { 500 } else { 1 };
        let events = match part {
            Part::Throughput => most / divisor,
            Part::Throughput1k | Part::FanOut => most / 4 / divisor,
            Part::FanIn => most / senders as u64 / divisor,
            Part::Publish => BURST * if is_tiny { 100 } else { 20_000 },
            Part::Wake | Part::WakePinned => WARM + if is_tiny { 50 } else { 1000 },
            Part::Busy => {
                if is_tiny {
                    1000
                } else {
                    50_000
                }
            }
        };
        Work {
            part,
            payload_bytes: if part == Part::Throughput1k { 1024 } else { 64 },
            senders,
            receivers,
            events,
            clock: clock.to_owned(),
        }
    }

    /// Events that fit into a queue of the size that all have.
    pub fn depth(&self) -> usize {
        QUEUE_BYTES / self.payload_bytes
    }

    /// Events that one receiver is to get.
    pub fn expected(&self) -> u64 {
        self.events * self.senders as u64
    }
}

/// Where one sender or receiver stands.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The work it is part of.
    pub work: &'a Work,
    /// What `open` said: a directory, a name, a path.
    pub place: &'a str,
    /// 0; 1 is the way back of [`Part::Busy`].
    pub channel: usize,
    /// Its number among the senders or receivers.
    pub index: usize,
}

impl End<'_> {
    /// A name of its own for receiver `index` of this channel.
    pub fn name(&self, index: usize) -> String {
        format!("{}-{index}", self.channel)
    }
}
