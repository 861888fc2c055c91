//! What there was before: a message per event to every task, and the coalescing that dropped.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};

use super::payload::Payloads;
use crate::clock::sleep_until_due;
use crate::error::Error;

const CHANNEL_EVENTS: usize = 1024;
const SUBSCRIBERS: u64 = 8;
/// What a task does with an event: parse it, look something up, write a frame.
const WORK: Duration = Duration::from_micros(50);
const WINDOW: Duration = Duration::from_millis(50);

/// `tokio::sync::broadcast(1024)`, a message per event, 8 tasks that take 50 us for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Broadcast {
    /// Events sent.
    pub sent: u64,
    /// Tasks that subscribed.
    pub subscribers: u64,
    /// Messages that reached a task, over all tasks.
    pub delivered: u64,
    /// Messages that tasks were too slow for (`RecvError::Lagged`), over all tasks.
    pub lagged: u64,
    /// How often a task found nothing and was woken later, over all tasks.
    pub wakes: u64,
    /// From the first event sent to the last one received.
    pub elapsed_ns: u64,
}

impl Broadcast {
    /// Whether every message reached every task or is counted as missed by it.
    pub fn balances(&self) -> bool {
        self.delivered + self.lagged == self.sent * self.subscribers
    }
}

/// Every event that comes within 50 ms of one with the same prefix that was let through is dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coalescing {
    /// Events sent.
    pub sent: u64,
    /// Events dropped.
    pub lost: u64,
}

impl Coalescing {
    /// Events dropped, out of 100.
    pub fn lost_percent(&self) -> f64 {
        100.0 * self.lost as f64 / self.sent.max(1) as f64
    }
}

/// What dropped instead of batching: by the first two segments of the name.
#[derive(Default)]
struct Gate {
    last: HashMap<String, Instant>,
}

impl Gate {
    fn lets_through(&mut self, name: &str, now: Instant) -> bool {
        let end = name
            .match_indices(':')
            .nth(1)
            .map_or(name.len(), |(end, _)| end);
        match self.last.get_mut(&name[..end]) {
            Some(last) if now.duration_since(*last) < WINDOW => false,
            Some(last) => {
                *last = now;
                true
            }
            None => {
                self.last.insert(name[..end].to_owned(), now);
                true
            }
        }
    }
}

struct Message {
    name: String,
    payload: Vec<u8>,
}

#[derive(Default)]
struct Taken {
    delivered: u64,
    lagged: u64,
    wakes: u64,
}

/// Both, with the same events at the same times.
pub(super) fn run(events: u64, rate: u64) -> Result<(Broadcast, Coalescing), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    let (sender, _) = broadcast::channel::<Arc<Message>>(CHANNEL_EVENTS);
    let tasks: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| runtime.spawn(subscribe(sender.subscribe())))
        .collect();
    let mut gate = Gate::default();
    let mut payloads = Payloads::new();
    let mut coalescing = Coalescing::default();
    let started = Instant::now();
    for number in 0..events {
        sleep_until_due(started, number, rate);
        let name = "data:code_index:created".to_owned();
        coalescing.sent += 1;
        coalescing.lost += u64::from(!gate.lets_through(&name, Instant::now()));
        let payload = payloads.of(number).to_vec();
        // It fails when nobody subscribes; the tasks do until the channel closes.
        let _ = sender.send(Arc::new(Message { name, payload }));
    }
    drop(sender);
    let mut broadcast = Broadcast {
        sent: events,
        subscribers: SUBSCRIBERS,
        ..Broadcast::default()
    };
    for task in tasks {
        let taken = runtime
            .block_on(task)
            .map_err(|error| Error::new(format!("a task of the broadcast failed: {error}")))?;
        broadcast.delivered += taken.delivered;
        broadcast.lagged += taken.lagged;
        broadcast.wakes += taken.wakes;
    }
    broadcast.elapsed_ns = started.elapsed().as_nanos() as u64;
    Ok((broadcast, coalescing))
}

async fn subscribe(mut receiver: broadcast::Receiver<Arc<Message>>) -> Taken {
    let mut taken = Taken::default();
    loop {
        let wakes = &mut taken.wakes;
        let mut receive = pin!(receiver.recv());
        let received = std::future::poll_fn(|context| {
            let polled = receive.as_mut().poll(context);
            *wakes += u64::from(polled.is_pending());
            polled
        })
        .await;
        match received {
            Ok(message) => {
                taken.delivered += 1;
                work(&message);
            }
            Err(RecvError::Lagged(missed)) => taken.lagged += missed,
            Err(RecvError::Closed) => return taken,
        }
    }
}

/// Keeps the processor for as long as a handler does.
fn work(message: &Message) {
    let until = Instant::now() + WORK;
    std::hint::black_box((&message.name, &message.payload));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_100_a_second_the_gate_drops_four_of_five() {
        let mut gate = Gate::default();
        let start = Instant::now();
        let passed = (0..100u32)
            .filter(|&number| {
                let now = start + Duration::from_millis(10) * number;
                gate.lets_through("data:code_index:created", now)
            })
            .count();
        assert_eq!(passed, 20);
    }

    #[test]
    fn each_prefix_has_a_gate_of_its_own() {
        let mut gate = Gate::default();
        let now = Instant::now();
        assert!(gate.lets_through("data:users:created", now));
        assert!(!gate.lets_through("data:users:deleted", now));
        assert!(gate.lets_through("data:rooms:created", now));
    }

    #[test]
    fn every_message_of_the_broadcast_is_accounted_for() {
        let (broadcast, coalescing) = run(3000, 0).expect("a runtime");
        assert!(broadcast.balances(), "{broadcast:?}");
        assert_eq!(coalescing.sent, 3000);
    }
}
