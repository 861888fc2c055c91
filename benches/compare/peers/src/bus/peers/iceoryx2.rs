//! iceoryx2: publish-subscribe over shared memory, and its events for those that sleep.
//!
//! Overflow is off and the publisher retries, so that nothing is lost; payloads have a fixed type, samples are loaned
//! and written in place, as its documentation does it. Publish-subscribe has no wait of its own: a receiver that may
//! sleep waits for an event, which the sender sends after each sample; under load receivers poll.

use std::time::Duration;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::peer::{
    About, Fallible, Peer, Place, Receiver, Sender, Sized2, locked, look_again, sized,
};
use crate::work::{End, Part, Work};

/// More than any work has of them.
const PORTS: usize = 8;

/// The peer.
pub struct Iceoryx2;

impl Peer for Iceoryx2 {
    type Sender = Sized2<Publishes<64>, Publishes<1024>>;
    type Receiver = Sized2<Receives<64>, Receives<1024>>;

    fn about(&self) -> About {
        About::new("iceoryx2")
    }

    fn version(&self) -> Result<String, String> {
        Ok(locked("iceoryx2"))
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        Ok(Place::new(
            format!("millpond-peers-{}", std::process::id()),
            (),
        ))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Self::Sender> {
        Ok(match end.work.payload_bytes {
            64 => Sized2::Small(Publishes::new(end)?),
            _ => Sized2::Large(Publishes::new(end)?),
        })
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Self::Receiver> {
        Ok(match end.work.payload_bytes {
            64 => Sized2::Small(Receives::new(end)?),
            _ => Sized2::Large(Receives::new(end)?),
        })
    }
}

type Service = ipc::Service;
type Samples<const N: usize> =
    iceoryx2::service::port_factory::publish_subscribe::PortFactory<Service, [u8; N], ()>;
type Events = iceoryx2::service::port_factory::event::PortFactory<Service>;

fn samples<const N: usize>(end: &End<'_>, node: &Node<Service>) -> Fallible<Samples<N>> {
    let name = format!("{}-{}", end.place, end.channel);
    let service = node
        .service_builder(&name.as_str().try_into()?)
        .publish_subscribe::<[u8; N]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(end.work.depth())
        .max_publishers(PORTS)
        .max_subscribers(PORTS)
        .max_nodes(2 * PORTS)
        .open_or_create()?;
    Ok(service)
}

fn node() -> Fallible<Node<Service>> {
    set_log_level(LogLevel::Error);
    Ok(NodeBuilder::new().create::<Service>()?)
}

/// The event service of a channel, where receivers sleep.
fn events(end: &End<'_>, node: &Node<Service>) -> Fallible<Option<Events>> {
    if !matches!(end.work.part, Part::Wake | Part::WakePinned) {
        return Ok(None);
    }
    let name = format!("{}-{}", end.place, end.channel);
    let service = node
        .service_builder(&name.as_str().try_into()?)
        .event()
        .open_or_create()?;
    Ok(Some(service))
}

/// The side that publishes.
pub struct Publishes<const N: usize> {
    publisher: Publisher<Service, [u8; N], ()>,
    notifier: Option<Notifier<Service>>,
    _node: Node<Service>,
}

impl<const N: usize> Publishes<N> {
    fn new(end: &End<'_>) -> Fallible<Self> {
        let node = node()?;
        let publisher = samples(end, &node)?
            .publisher_builder()
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let notifier = match events(end, &node)? {
            Some(events) => Some(events.notifier_builder().create()?),
            None => None,
        };
        Ok(Publishes {
            publisher,
            notifier,
            _node: node,
        })
    }
}

impl<const N: usize> Sender for Publishes<N> {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        self.publisher
            .loan_uninit()?
            .write_payload(sized::<N>(payload)?)
            .send()?;
        if let Some(notifier) = &self.notifier {
            notifier.notify()?;
        }
        Ok(())
    }
}

/// The side that subscribes.
pub struct Receives<const N: usize> {
    subscriber: Subscriber<Service, [u8; N], ()>,
    listener: Option<Listener<Service>>,
    _node: Node<Service>,
}

impl<const N: usize> Receives<N> {
    fn new(end: &End<'_>) -> Fallible<Self> {
        let node = node()?;
        let subscriber = samples(end, &node)?
            .subscriber_builder()
            .buffer_size(end.work.depth())
            .create()?;
        let listener = match events(end, &node)? {
            Some(events) => Some(events.listener_builder().create()?),
            None => None,
        };
        Ok(Receives {
            subscriber,
            listener,
            _node: node,
        })
    }
}

impl<const N: usize> Receiver for Receives<N> {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let mut look = || {
            let mut seen = 0;
            while let Some(sample) = self.subscriber.receive()? {
                take(sample.payload());
                seen += 1;
            }
            Ok(seen)
        };
        let Some(listener) = &self.listener else {
            return look_again(patience, look);
        };
        listener.timed_wait(|_| {}, patience)?;
        look()
    }
}
