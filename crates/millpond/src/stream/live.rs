//! A live subscription as a stream.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millpond_bus::{OwnedEvent, RecvError, Subscription};

use super::EventStream;

impl EventStream<Result<OwnedEvent, RecvError>> {
    /// What a subscription gives, with at most `capacity` events (at least one) on their way.
    ///
    /// A task that is slower than that makes the subscription lag: with `OnLag::Skip` it is counted, with
    /// `OnLag::End` it is the last item.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(mut subscription: Subscription, capacity: usize) -> io::Result<Self> {
        let waker = subscription.waker();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let next = move || {
            loop {
                match subscription.recv() {
                    // A waker of somebody else's.
                    // ORDERING: Acquire; set before the wake that we have seen.
                    Err(RecvError::Woken) if !is_stopped.load(Ordering::Acquire) => {}
                    Err(RecvError::Woken) => return None,
                    received => return Some(received),
                }
            }
        };
        Self::spawn(capacity, next, move || {
            // ORDERING: Release; before the wake.
            stopped.store(true, Ordering::Release);
            waker.wake();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_core::Stream;
    use millpond_bus::{Bus, BusOptions, Level, SubscribeOptions};
    use std::future::poll_fn;
    use std::pin::Pin;

    #[test]
    fn events_of_a_bus_come_as_a_stream() {
        let name = format!("test-stream-{}", std::process::id());
        let bus = Bus::attach(&name, &BusOptions::default()).expect("a bus");
        let options = SubscribeOptions::new("reader", "chat:*".parse().expect("a pattern"));
        let subscription = bus.subscribe(options).expect("a subscription");
        let mut stream = EventStream::new(subscription, 8).expect("a thread");
        let mut publisher = bus.publisher("writer").expect("a publisher");
        let topic = publisher.topic("chat:room").expect("a topic");
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        for number in 0..100_u32 {
            let payload = number.to_string();
            publisher
                .publish(topic, Level::Info, payload.as_bytes())
                .expect("space");
            let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
            let next = runtime.block_on(next);
            let event = next.expect("more").expect("an event");
            assert_eq!(event.payload, payload.as_bytes());
        }
        drop((stream, publisher));
        bus.remove().expect("nobody uses it");
    }
}
