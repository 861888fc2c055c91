//! disruptor: one ring inside one process that every receiver reads; its documented `EventPoller` on threads of our own,
//! so that all receivers wait in the same way.

use std::time::Duration;

use disruptor::{
    BusySpin, EventPoller, MultiConsumerBarrier, MultiProducer, MultiProducerBarrier, Polling,
    Producer, SingleConsumerBarrier, SingleProducer, SingleProducerBarrier,
};

use crate::peer::{Fallible, Fit, Receiver, Sender, look_again, sized};
use crate::threads::{Local, Made};
use crate::work::{Part, Work};

/// The peer.
pub struct Disruptor;

impl Local for Disruptor {
    type Sender<const N: usize> = Publishes<N>;
    type Receiver<const N: usize> = Polls<N>;
    const NAME: &'static str = "disruptor, in process";
    const CRATE: &'static str = "disruptor";

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::Wake | Part::WakePinned => {
                Fit::No("its receivers poll, or sleep for a fixed time: nobody wakes them")
            }
            _ => Fit::Yes,
        }
    }

    fn make<const N: usize>(&self, work: &Work) -> Fallible<Made<Publishes<N>, Polls<N>>> {
        let depth = work.depth();
        let first = || [0; N];
        if work.senders > 1 {
            let builder = disruptor::build_multi_producer(depth, first, BusySpin);
            let (poller, builder) = builder.new_event_poller();
            let producer = builder.build();
            let senders = (0..work.senders).map(|_| Publishes::Shared(producer.clone()));
            return Ok((senders.collect(), vec![Polls::OfMany(poller)]));
        }
        let builder = disruptor::build_single_producer(depth, first, BusySpin);
        let (poller, builder) = builder.new_event_poller();
        let mut receivers = vec![Polls::OfOne(poller)];
        if work.receivers == 1 {
            return Ok((vec![Publishes::ToOne(builder.build())], receivers));
        }
        let (poller, mut builder) = builder.new_event_poller();
        receivers.push(Polls::OfOne(poller));
        for _ in 2..work.receivers {
            let (poller, more) = builder.new_event_poller();
            receivers.push(Polls::OfOne(poller));
            builder = more;
        }
        Ok((vec![Publishes::ToMany(builder.build())], receivers))
    }
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
