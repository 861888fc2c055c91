//! disruptor: one ring inside one process that every receiver reads; its documented `EventPoller` on threads of our own,
//! so that all receivers wait in the same way.

use std::time::Duration;

use disruptor::{
    BusySpin, EventPoller, MultiConsumerBarrier, MultiProducer, MultiProducerBarrier, Polling,
    Producer, SingleConsumerBarrier, SingleProducer, SingleProducerBarrier,
};
use millpond_peers::Guarantees;

use crate::peer::{
    About, Ends, Fallible, Fit, Peer, Place, Receiver, Sender, Sized2, Speed, locked, look_again,
    sized,
};
use crate::work::{End, Part, Work};

/// The peer.
pub struct Disruptor;

static SENDERS: Ends<<Disruptor as Peer>::Sender> = Ends::new();
static RECEIVERS: Ends<<Disruptor as Peer>::Receiver> = Ends::new();

impl Peer for Disruptor {
    type Sender = Sized2<Publishes<64>, Publishes<1024>>;
    type Receiver = Sized2<Polls<64>, Polls<1024>>;

    fn about(&self) -> About {
        About {
            name: "disruptor (in process)",
            is_in_process: true,
            speed: Speed::Memory,
            guarantees: Guarantees {
                bounded: true,
                blocking: true,
                ..Guarantees::default()
            },
        }
    }

    fn version(&self) -> Result<String, String> {
        locked("disruptor")
    }

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::Wake | Part::WakePinned => {
                Fit::No("its receivers poll, or sleep for a fixed time: nobody wakes them")
            }
            _ => Fit::Yes,
        }
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        for channel in 0..2 {
            if work.payload_bytes == 64 {
                ring(channel, work, Sized2::Small, Sized2::Small);
            } else {
                ring(channel, work, Sized2::Large, Sized2::Large);
            }
        }
        Ok(Place::new("ring", ()))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Self::Sender> {
        SENDERS.take(end)
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Self::Receiver> {
        RECEIVERS.take(end)
    }
}

fn ring<const N: usize>(
    channel: usize,
    work: &Work,
    sender: fn(Publishes<N>) -> <Disruptor as Peer>::Sender,
    receiver: fn(Polls<N>) -> <Disruptor as Peer>::Receiver,
) {
    let depth = work.depth();
    let first = || [0; N];
    if work.senders > 1 {
        let builder = disruptor::build_multi_producer(depth, first, BusySpin);
        let (poller, builder) = builder.new_event_poller();
        let producer = builder.build();
        for index in 0..work.senders {
            SENDERS.put(channel, index, sender(Publishes::Shared(producer.clone())));
        }
        RECEIVERS.put(channel, 0, receiver(Polls::OfMany(poller)));
        return;
    }
    let builder = disruptor::build_single_producer(depth, first, BusySpin);
    let (poller, builder) = builder.new_event_poller();
    RECEIVERS.put(channel, 0, receiver(Polls::OfOne(poller)));
    if work.receivers == 1 {
        SENDERS.put(channel, 0, sender(Publishes::ToOne(builder.build())));
        return;
    }
    let (poller, mut builder) = builder.new_event_poller();
    RECEIVERS.put(channel, 1, receiver(Polls::OfOne(poller)));
    for index in 2..work.receivers {
        let (poller, more) = builder.new_event_poller();
        RECEIVERS.put(channel, index, receiver(Polls::OfOne(poller)));
        builder = more;
    }
    SENDERS.put(channel, 0, sender(Publishes::ToMany(builder.build())));
}

/// A producer, by who shares the ring with it.
pub enum Publishes<const N: usize> {
    /// One and one.
    ToOne(SingleProducer<[u8; N], SingleConsumerBarrier>),
    /// One to many.
    ToMany(SingleProducer<[u8; N], MultiConsumerBarrier>),
    /// Many to one.
    Shared(MultiProducer<[u8; N], SingleConsumerBarrier>),
}

impl<const N: usize> Sender for Publishes<N> {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        let payload = sized::<N>(payload)?;
        let put = |event: &mut [u8; N]| *event = payload;
        match self {
            Publishes::ToOne(producer) => producer.publish(put),
            Publishes::ToMany(producer) => producer.publish(put),
            Publishes::Shared(producer) => producer.publish(put),
        }
        Ok(())
    }
}

/// A poller, by how many publish.
pub enum Polls<const N: usize> {
    /// One.
    OfOne(EventPoller<[u8; N], SingleProducerBarrier>),
    /// Several.
    OfMany(EventPoller<[u8; N], MultiProducerBarrier>),
}

impl<const N: usize> Receiver for Polls<N> {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        look_again(patience, || {
            let mut seen = 0;
            let mut each = |event: &[u8; N]| {
                take(event);
                seen += 1;
            };
            let outcome = match self {
                Polls::OfOne(poller) => poller
                    .poll()
                    .map(|mut events| (&mut events).for_each(&mut each)),
                Polls::OfMany(poller) => poller
                    .poll()
                    .map(|mut events| (&mut events).for_each(&mut each)),
            };
            match outcome {
                Ok(()) | Err(Polling::NoEvents | Polling::Shutdown) => Ok(seen),
            }
        })
    }
}
