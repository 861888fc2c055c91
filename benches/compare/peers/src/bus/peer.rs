//! What a peer is: how its two ends are made and used.
//!
//! Loops are generic over it, so that a send of 12 ns does not pay for a call through a table.

use std::any::Any;
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;
use millpond_peers::Guarantees;
pub use millpond_peers::{Fallible, kernel, locked};

use crate::control::Control;
use crate::drive;
use crate::event::Outgoing;
use crate::work::{End, Part, Work};

/// How much a peer moves, roughly: decides how many events it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// Rings in memory: tens of millions a second.
    Memory,
    /// A system call an event: about a million a second.
    Syscall,
    /// Through a program of its own: some 100,000 a second.
    Server,
}

/// Whether a peer can do a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It can.
    Yes,
    /// It cannot, and the table says why.
    No(&'static str),
    /// It is not meant for this: a floor of other work. No row.
    Apart,
}

/// What keeps events in the kernel or in memory of its own, and lets senders wait.
pub const KEPT: Guarantees = Guarantees {
    crash_safe: true,
    ..IN_PROCESS
};
/// What lets senders wait, and goes with its process.
pub const IN_PROCESS: Guarantees = Guarantees {
    bounded: true,
    blocking: true,
    lossy: false,
    crash_safe: false,
    durable: false,
};

/// What a peer is.
#[derive(Debug, Clone)]
pub struct About {
    /// Its name in rows.
    pub name: &'static str,
    /// Whether it is a physical floor, and nothing that one could use instead.
    pub is_floor: bool,
    /// Whether its ends are threads of one process.
    pub is_in_process: bool,
    /// How many events it gets.
    pub speed: Speed,
    /// What it promises.
    pub guarantees: Guarantees,
}

impl About {
    /// One between processes that makes a system call an event, keeps what it has taken, and lets senders wait.
    pub fn new(name: &'static str) -> Self {
        About {
            name,
            is_floor: false,
            is_in_process: false,
            speed: Speed::Syscall,
            guarantees: KEPT,
        }
    }

    /// A floor of what memory can do, between processes.
    pub fn floor(name: &'static str) -> Self {
        About {
            is_floor: true,
            speed: Speed::Memory,
            ..About::new(name)
        }
    }
}

/// What was made for one round, and goes when this is dropped.
pub struct Place {
    /// What the ends are told.
    pub address: String,
    /// Processes whose time and memory count, beside those of senders and receivers.
    pub servers: Vec<u32>,
    /// What removes the rest, by being dropped.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub keep: Box<dyn Any + Send>,
}

impl Place {
    /// A place without a server.
    pub fn new(address: impl Into<String>, keep: impl Any + Send) -> Self {
        Place {
            address: address.into(),
            servers: Vec::new(),
            keep: Box::new(keep),
        }
    }
}

/// The end that sends.
pub trait Sender {
    /// Hands over one event; waits for space where the peer does that.
    fn send(&mut self, payload: &[u8]) -> Fallible<()>;

    /// Hands over many. For peers that are told to take several at once.
    fn send_all(&mut self, numbers: RangeInclusive<u64>, events: &mut Outgoing) -> Fallible<()> {
        for number in numbers {
            self.send(events.event(number))?;
        }
        Ok(())
    }

    /// Lets go of what is held back.
    fn flush(&mut self) -> Fallible<()> {
        Ok(())
    }
}

/// The end that receives.
pub trait Receiver {
    /// Gives what there is to `take`. Where nothing is there, sleeps or looks again for about `patience`, as the peer
    /// does that; with none it looks once. Those that lose nothing may wait longer.
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64>;

    /// All senders are done.
    fn sent(&mut self) -> Fallible<()> {
        Ok(())
    }

    /// When the last event arrived, where that is not the moment it was received.
    fn arrived_ns(&self) -> Option<u64> {
        None
    }

    /// What the events take on the disk, where that is where they are.
    fn disk_bytes(&self) -> Option<u64> {
        None
    }
}

/// One way to get events from here to there.
pub trait Peer: Sync {
    /// The end that sends.
    type Sender: Sender;
    /// The end that receives.
    type Receiver: Receiver;

    /// What it is.
    fn about(&self) -> About;

    /// Its version, as it says itself; where it is the kernel's, that.
    ///
    /// # Errors
    /// Why it cannot be run here: what is missing, and what to install.
    fn version(&self) -> Result<String, String> {
        Ok(kernel())
    }

    /// Whether it can do this work.
    fn fit(&self, part: Part) -> Fit {
        let _ = part;
        Fit::Yes
    }

    /// Makes what both ends need: servers, directories. In the process of the ends where these are threads.
    fn open(&self, work: &Work) -> Fallible<Place>;

    /// The end that sends. All receivers are there.
    fn sender(&self, end: &End<'_>) -> Fallible<Self::Sender>;

    /// The end that receives.
    fn receiver(&self, end: &End<'_>) -> Fallible<Self::Receiver>;

    /// Whether somebody receives; without, only the sender is measured.
    fn has_receiver(&self) -> bool {
        true
    }

    /// The program that sends, where it is not this one. It says what [`crate::run::Said`] says, as this one does.
    fn command(&self, end: &End<'_>) -> Option<Command> {
        let _ = end;
        None
    }
}

/// A peer without its types.
pub trait AnyPeer: Sync {
    /// As [`Peer::about`].
    fn about(&self) -> About;
    /// As [`Peer::version`].
    fn version(&self) -> Result<String, String>;
    /// As [`Peer::fit`].
    fn fit(&self, part: Part) -> Fit;
    /// As [`Peer::open`].
    fn open(&self, work: &Work) -> Fallible<Place>;
    /// As [`Peer::has_receiver`].
    fn has_receiver(&self) -> bool;
    /// As [`Peer::command`].
    fn command(&self, end: &End<'_>) -> Option<Command>;
    /// Does what a sender does.
    fn send(&self, end: &End<'_>, control: &Control) -> Fallible<()>;
    /// Does what a receiver does.
    fn receive(&self, end: &End<'_>, control: &Control) -> Fallible<()>;
}

impl<P: Peer> AnyPeer for P {
    fn about(&self) -> About {
        Peer::about(self)
    }

    fn version(&self) -> Result<String, String> {
        Peer::version(self)
    }

    fn fit(&self, part: Part) -> Fit {
        Peer::fit(self, part)
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        Peer::open(self, work)
    }

    fn has_receiver(&self) -> bool {
        Peer::has_receiver(self)
    }

    fn command(&self, end: &End<'_>) -> Option<Command> {
        Peer::command(self, end)
    }

    fn send(&self, end: &End<'_>, control: &Control) -> Fallible<()> {
        match end.work.part {
            Part::Busy => drive::ping(self, end, control),
            _ => drive::send(self, end, control),
        }
    }

    fn receive(&self, end: &End<'_>, control: &Control) -> Fallible<()> {
        match end.work.part {
            Part::Busy => drive::pong(self, end, control),
            _ => drive::receive(self, end, control),
        }
    }
}

/// For peers whose events are of a type with a fixed size: 64 bytes or 1 KiB.
pub enum Sized2<S, L> {
    /// 64 bytes.
    Small(S),
    /// 1 KiB.
    Large(L),
}

impl<S: Sender, L: Sender> Sender for Sized2<S, L> {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        match self {
            Sized2::Small(sender) => sender.send(payload),
            Sized2::Large(sender) => sender.send(payload),
        }
    }
}

impl<S: Receiver, L: Receiver> Receiver for Sized2<S, L> {
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        match self {
            Sized2::Small(receiver) => receiver.receive(patience, take),
            Sized2::Large(receiver) => receiver.receive(patience, take),
        }
    }
}

/// The payload as a value of its size.
///
/// # Errors
/// When it has another size.
#[inline(always)]
pub fn sized<const BYTES: usize>(payload: &[u8]) -> Fallible<[u8; BYTES]> {
    Ok(payload.try_into()?)
}

/// How those wait that have no sleep of their own: spin, then let others run.
pub fn look_again(patience: Duration, mut look: impl FnMut() -> Fallible<u64>) -> Fallible<u64> {
    let seen = look()?;
    if seen > 0 || patience.is_zero() {
        return Ok(seen);
    }
    let (backoff, started) = (Backoff::new(), Instant::now());
    loop {
        backoff.snooze();
        let seen = look()?;
        if seen > 0 || backoff.is_completed() && started.elapsed() > patience {
            return Ok(seen);
        }
    }
}
