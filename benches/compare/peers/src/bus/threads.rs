//! Peers whose ends are threads of one process: made together, fetched by their threads.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::peer::{
    About, Fallible, Fit, IN_PROCESS, Peer, Place, Receiver, Sender, Sized2, Speed, locked,
};
use crate::work::{End, Part, Work};

/// The senders and the receivers of a channel, by their numbers.
pub type Made<S, R> = (Vec<S>, Vec<R>);

/// A channel inside one process, for events of `N` bytes.
pub trait Local: Sync + 'static {
    /// The end that sends.
    type Sender<const N: usize>: Sender + Send;
    /// The end that receives.
    type Receiver<const N: usize>: Receiver + Send;
    /// Its name in rows.
    const NAME: &'static str;
    /// The crate that it is.
    const CRATE: &'static str;
    /// Whether a sender waits while there is no room; else receivers are told what they missed.
    const IS_BLOCKING: bool = true;

    /// Whether it can do this work.
    fn fit(&self, part: Part) -> Fit {
        let _ = part;
        Fit::Yes
    }

    /// Makes all ends of one channel.
    fn make<const N: usize>(
        &self,
        work: &Work,
    ) -> Fallible<Made<Self::Sender<N>, Self::Receiver<N>>>;
}

type SenderOf<L> = Sized2<<L as Local>::Sender<64>, <L as Local>::Sender<1024>>;
type ReceiverOf<L> = Sized2<<L as Local>::Receiver<64>, <L as Local>::Receiver<1024>>;

/// A peer that lives inside one process.
pub struct Threads<L: Local> {
    local: L,
    senders: Ends<SenderOf<L>>,
    receivers: Ends<ReceiverOf<L>>,
}

impl<L: Local> Threads<L> {
    /// Without ends as yet.
    pub const fn new(local: L) -> Self {
        Threads {
            local,
            senders: Ends::new(),
            receivers: Ends::new(),
        }
    }
}

impl<L: Local> Peer for Threads<L> {
    type Sender = SenderOf<L>;
    type Receiver = ReceiverOf<L>;

    fn about(&self) -> About {
        let mut guarantees = IN_PROCESS;
        guarantees.blocking = L::IS_BLOCKING;
        About {
            is_in_process: true,
            speed: Speed::Memory,
            guarantees,
            ..About::new(L::NAME)
        }
    }

    fn version(&self) -> Result<String, String> {
        Ok(locked(L::CRATE))
    }

    fn fit(&self, part: Part) -> Fit {
        self.local.fit(part)
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        for channel in 0..2 {
            if work.payload_bytes == 64 {
                let (senders, receivers) = self.local.make::<64>(work)?;
                self.senders.put(channel, senders, Sized2::Small);
                self.receivers.put(channel, receivers, Sized2::Small);
            } else {
                let (senders, receivers) = self.local.make::<1024>(work)?;
                self.senders.put(channel, senders, Sized2::Large);
                self.receivers.put(channel, receivers, Sized2::Large);
            }
        }
        Ok(Place::new("threads", ()))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Self::Sender> {
        self.senders.take(end)
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Self::Receiver> {
        self.receivers.take(end)
    }
}

/// Ends by channel and number, until their threads fetch them.
struct Ends<T>(Mutex<BTreeMap<(usize, usize), T>>);

impl<T> Ends<T> {
    const fn new() -> Self {
        Ends(Mutex::new(BTreeMap::new()))
    }

    fn put<E>(&self, channel: usize, made: Vec<E>, sized: fn(E) -> T) {
        let mut ends = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        let made = made.into_iter().enumerate();
        ends.extend(made.map(|(index, end)| ((channel, index), sized(end))));
    }

    fn take(&self, end: &End<'_>) -> Fallible<T> {
        let mut ends = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        let found = ends.remove(&(end.channel, end.index));
        found.ok_or_else(|| "this end is not there".into())
    }
}
