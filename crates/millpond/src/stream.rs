//! Subscriptions as streams: one thread that reads, and a bounded channel.
//!
//! A subscription sleeps on a futex, which no reactor of an async runtime can wait for, so it gets a thread
//! that does little else. The channel is small on purpose: where the task is slow, the thread waits, and what
//! it cannot keep up with is told as lag by the rings (or waits in the log), and not collected in memory.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;

mod live;

use crate::replay::{LogSubscription, ReplayError, Replayed};

/// What a subscription gives, as a [`Stream`]. Dropping it ends its thread.
///
/// Ends behind the first error. Needs no runtime to be made, and any to be polled.
///
/// ```
/// use std::future::poll_fn;
/// use std::pin::Pin;
/// use futures_core::Stream;
/// use millpond::replay::{Replay, Replayed};
/// use millpond::{Bus, BusOptions, Daemon, EventStream, Level};
///
/// # let dir = tempfile::tempdir()?;
/// # let logs_dir = dir.path();
/// let bus = Bus::attach(&format!("doc-stream-{}", std::process::id()), &BusOptions::default())?;
/// let daemon = Daemon::builder(&bus, logs_dir).spawn()?;
/// let mut events = EventStream::from_log(Replay::new(&bus, logs_dir).open()?, 16)?;
///
/// let mut publisher = bus.publisher("web")?;
/// let topic = publisher.topic("log:web:rpc")?;
/// publisher.publish(topic, Level::Info, b"ready")?;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// // With the crate futures or tokio-stream: `events.next().await`.
/// let next = poll_fn(|context| Pin::new(&mut events).poll_next(context)).await;
/// assert!(matches!(next, Some(Ok(Replayed::Event(event))) if event.payload == b"ready"));
/// # });
/// # drop((publisher, events));
/// daemon.stop()?;
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct EventStream<T> {
    receiver: mpsc::Receiver<T>,
    /// Ends the wait of the thread.
    stop: Option<Box<dyn FnOnce() + Send>>,
}

impl<T> fmt::Debug for EventStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("waiting", &self.receiver.len())
            .finish_non_exhaustive()
    }
}

impl EventStream<Result<Replayed, ReplayError>> {
    /// What a log subscription gives, with at most `capacity` items (at least one) on their way.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn from_log(mut subscription: LogSubscription, capacity: usize) -> io::Result<Self> {
        let stop = subscription.stop_handle();
        let next = move || match subscription.recv() {
            Err(ReplayError::Stopped) => None,
            received => Some(received),
        };
        Self::spawn(capacity, next, move || stop.stop())
    }
}

impl<T, E> EventStream<Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    /// A thread that sends what `next` gives, until that is nothing or an error, or nobody receives.
    fn spawn(
        capacity: usize,
        mut next: impl FnMut() -> Option<Result<T, E>> + Send + 'static,
        stop: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        std::thread::Builder::new()
            .name("millpond-stream".to_owned())
            .spawn(move || {
                while let Some(item) = next() {
                    let is_last = item.is_err();
                    if sender.blocking_send(item).is_err() || is_last {
                        break;
                    }
                }
            })?;
        Ok(EventStream {
            receiver,
            stop: Some(Box::new(stop)),
        })
    }
}

impl<T> Stream for EventStream<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.receiver.poll_recv(context)
    }
}

impl<T> Drop for EventStream<T> {
    fn drop(&mut self) {
        // First the channel, then the wait: the thread may be in either.
        self.receiver.close();
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::mpsc as std_mpsc;

    async fn next<T>(stream: &mut EventStream<T>) -> Option<T> {
        poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn items_come_in_order_and_the_first_error_is_the_last_item() {
        let mut count = 0;
        let counter = move || {
            count += 1;
            Some(if count < 100 { Ok(count) } else { Err("over") })
        };
        let mut stream = EventStream::spawn(4, counter, || {}).expect("a thread");
        block_on(async {
            for expected in 1..100 {
                assert_eq!(next(&mut stream).await, Some(Ok(expected)));
            }
            assert_eq!(next(&mut stream).await, Some(Err("over")));
            assert_eq!(next(&mut stream).await, None);
        });
    }

    #[test]
    fn dropping_it_ends_a_thread_that_waits_and_one_that_sends() {
        for gives in [false, true] {
            let (ended, has_ended) = std_mpsc::channel::<()>();
            let (stop, stopped) = std_mpsc::channel::<()>();
            let wait = move || {
                let _ended = &ended;
                if gives {
                    return Some(Ok::<_, ()>(1));
                }
                stopped.recv().ok().and(None)
            };
            let stop = move || {
                let _ = stop.send(());
            };
            let stream = EventStream::spawn(1, wait, stop).expect("a thread");
            drop(stream);
            // Its end is the end of the closure, and of the sender in it.
            assert_eq!(has_ended.recv(), Err(std_mpsc::RecvError));
        }
    }
}
