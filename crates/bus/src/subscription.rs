//! The subscriber's side: which rings to read, what to keep of them, and sleep.
//!
//! A subscription reads two kinds of rings and releases neither: the lanes of rules that are delivered
//! directly, and the outboxes of all rules it asked for. Nobody waits for it; where it was too slow, it
//! learns how much it missed. See `taps` for the rings and `sieve` for the choice of events.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::control::Control;
use crate::error::{Error, ErrorKind};
use crate::event::{Dropped, Event, Lagged, OwnedEvent, Subscriber};
use crate::lane;
use crate::pattern::Pattern;
use crate::subscribers::{self, Seat};
use crate::sync::atomic::{AtomicU64, Ordering};

mod position;
mod sieve;
mod taps;

pub use self::position::{Position, PositionError};
use self::sieve::{Sieve, Texts};
use self::taps::Taps;

/// No wait is longer than this without another look, whatever became of its wake-up.
const WAIT_SLICE: Duration = Duration::from_secs(1);
/// Events that a `recv` takes out of the rings at a time.
const QUEUE_EVENTS_MAX: u64 = 1024;
/// A busy poll looks at its deadline after this many looks at the rings.
const SPINS_PER_CLOCK: u32 = 256;

/// Where a subscription starts.
///
/// ```
/// assert_eq!(millpond_bus::Since::default(), millpond_bus::Since::Now);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Since {
    /// With what is published from now on.
    #[default]
    Now,
    /// With everything that is still in memory.
    Oldest,
    /// Right after a position: what came since is delivered before the first sleep.
    Position(Position),
    /// With what is still in memory and younger than this: real time in ns.
    TimeNs(u64),
}

/// What happens when events were overwritten before they were read.
///
/// ```
/// assert_eq!(millpond_bus::OnLag::default(), millpond_bus::OnLag::Skip);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLag {
    /// The subscriber is told, and it goes on with the oldest event there is.
    #[default]
    Skip,
    /// Reading ends with [`RecvError::Lagged`]; reading again goes on as with `Skip`.
    End,
}

/// What a subscription is to be.
///
/// ```
/// use millpond_bus::{Since, SubscribeOptions};
/// let options = SubscribeOptions {
///     since: Since::Oldest,
///     ..SubscribeOptions::new("dashboard", "data:*".parse()?)
/// };
/// assert!(!options.busy_poll);
/// # Ok::<(), millpond_bus::PatternError>(())
/// ```
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    /// Names the subscriber in statistics.
    pub label: String,
    /// The events it wants: those whose name matches any of these. At least one.
    pub patterns: Vec<Pattern>,
    /// Where it starts. Default: now.
    pub since: Since,
    /// What happens when it is too slow. Default: it is told, and goes on.
    pub on_lag: OnLag,
    /// Waits without sleeping: a core for a microsecond. Default: false.
    pub busy_poll: bool,
}

impl SubscribeOptions {
    /// One pattern, and the defaults.
    pub fn new(label: &str, pattern: Pattern) -> Self {
        SubscribeOptions {
            label: label.to_owned(),
            patterns: vec![pattern],
            since: Since::default(),
            on_lag: OnLag::default(),
            busy_poll: false,
        }
    }
}

/// Why nothing was received.
///
/// ```
/// assert_eq!(millpond_bus::RecvError::TimedOut.to_string(), "no event came in time");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// Time is up.
    TimedOut,
    /// [`SubscriptionWaker::wake`] was called.
    Woken,
    /// Events were missed, and the subscription is one that ends then.
    Lagged(Lagged),
    /// Shared memory could not be read.
    Failed(Error),
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::TimedOut => f.write_str("no event came in time"),
            RecvError::Woken => f.write_str("the wait was ended by another thread"),
            RecvError::Lagged(lagged) => lagged.fmt(f),
            RecvError::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecvError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecvError::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// What a subscription has done so far.
///
/// ```
/// assert_eq!(millpond_bus::SubscriptionCounts::default().delivered, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SubscriptionCounts {
    /// Events given to the subscriber.
    pub delivered: u64,
    /// Earlier values that conflated ones stood for.
    pub replaced: u64,
    /// Events that did not match, or that the filter refused.
    pub filtered: u64,
    /// Events that were overwritten before they were read.
    pub lagged: u64,
    /// Events that their publishers dropped.
    pub dropped: u64,
    /// Second copies that were left out.
    pub duplicates: u64,
    /// Rings given up because what they held was nonsense.
    pub damaged: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Times it was woken by somebody, and not by the time.
    pub wakes: u64,
}

/// Ends a subscription's wait from another thread.
#[derive(Clone)]
pub struct SubscriptionWaker {
    control: Arc<Control>,
    index: usize,
    epoch: u64,
}

impl fmt::Debug for SubscriptionWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionWaker")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl SubscriptionWaker {
    /// Makes the wait that is under way, or the next one, return. At most one system call.
    pub fn wake(&self) {
        subscribers::wake(&self.control, self.index, self.epoch);
    }
}

/// Receives events. `Send`, not `Sync`: one thread reads it.
///
/// Events of passthrough and persisted rules come one by one, in causal order over all their publishers.
/// Events of the other classes come in consolidated records; within the records of one prefix the order is
/// causal too.
///
/// ```
/// use millpond_bus::{Bus, BusOptions, Event, Level, SubscribeOptions};
/// use std::time::Duration;
/// let bus = Bus::attach(&format!("doc-sub-{}", std::process::id()), &BusOptions::default())?;
///
/// let mut replies = bus.subscribe(SubscribeOptions::new("asker", "chat:reply:*".parse()?))?
///     .filter(|event: &Event<'_>| event.level >= Level::Info);
///
/// let mut publisher = bus.publisher("answerer")?;
/// let topic = publisher.topic("chat:reply:7")?;
/// publisher.publish(topic, Level::Info, b"42")?;
///
/// let reply = replies.recv_timeout(Duration::from_secs(10))?;
/// assert_eq!((&*reply.name, &reply.payload[..]), ("chat:reply:7", &b"42"[..]));
/// assert!(replies.try_recv()?.is_none());
/// # drop((publisher, replies));
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Two threads cannot share one:
///
/// ```compile_fail
/// fn must_be_sync<T: Sync>() {}
/// must_be_sync::<millpond_bus::Subscription>();
/// ```
pub struct Subscription {
    control: Arc<Control>,
    seat: Seat,
    taps: Taps,
    sieve: Sieve,
    on_lag: OnLag,
    busy_poll: bool,
    queue: VecDeque<Queued>,
    not_sync: PhantomData<std::cell::Cell<()>>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("bus", &self.control.bus)
            .field("counts", &self.sieve.counts)
            .finish_non_exhaustive()
    }
}

impl Subscription {
    pub(crate) fn open(
        control: Arc<Control>,
        has_barrier: bool,
        options: SubscribeOptions,
    ) -> Result<Self, Error> {
        lane::check_label(&options.label)?;
        if options.patterns.is_empty() {
            let message = "a subscription needs at least one pattern, such as `data:*`".to_owned();
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let shown: Vec<&str> = options.patterns.iter().map(Pattern::as_str).collect();
        let shown = shown.join(" ");
        let seat = Seat::take(Arc::clone(&control), &options.label, &shown, has_barrier)?;
        let mut subscription = Subscription {
            sieve: Sieve::new(
                Arc::clone(&control),
                options.patterns.clone(),
                &options.since,
            ),
            taps: Taps::open(Arc::clone(&control), options.patterns, options.since),
            control,
            seat,
            on_lag: options.on_lag,
            busy_poll: options.busy_poll,
            queue: VecDeque::new(),
            not_sync: PhantomData,
        };
        subscription.listen();
        Ok(subscription)
    }

    /// Leaves out events for which `keep` says no, before they are delivered. Replaces an earlier filter.
    #[must_use]
    pub fn filter(mut self, keep: impl FnMut(&Event<'_>) -> bool + Send + 'static) -> Self {
        self.sieve.filter = Some(Box::new(keep));
        self
    }

    /// Gives everything there is to `subscriber`; how many events that was.
    ///
    /// Never waits. No system call, except where a publisher or a rule is new.
    ///
    /// # Errors
    /// `Lagged` for a subscription with [`OnLag::End`]; what was delivered before stays delivered.
    pub fn poll(&mut self, subscriber: &mut impl Subscriber) -> Result<u64, RecvError> {
        // Counted as delivered when a `recv` took them out of the rings.
        let queued = self.queue.len() as u64;
        while let Some(event) = self.queue.pop_front() {
            subscriber.on_event(&event.event.as_event());
        }
        let before = self.sieve.counts.delivered;
        let outcome = self.poll_rings(&mut Direct(subscriber), u64::MAX);
        outcome.map(|()| queued + self.sieve.counts.delivered - before)
    }

    fn poll_rings(
        &mut self,
        receiver: &mut impl Receiver,
        events_max: u64,
    ) -> Result<(), RecvError> {
        if self.taps.has_changed() {
            self.taps.follow();
            self.listen();
        }
        let mut watch = Watch {
            receiver,
            ends: self.on_lag == OnLag::End,
            lagged: None,
        };
        self.taps.poll(&mut self.sieve, &mut watch, events_max);
        let lagged = watch.lagged;
        self.sieve.counts.damaged += self.taps.count_lost();
        self.show_counts();
        // What came out of whole rings is given first. A bus that was wiped would never wake us again.
        self.control.check().map_err(RecvError::Failed)?;
        lagged.map_or(Ok(()), |lagged| Err(RecvError::Lagged(lagged)))
    }

    fn listen(&mut self) {
        let channels = self.taps.channels();
        if channels != self.seat.channels() {
            let (channels, bits) = (channels.to_vec(), self.sieve.name_bits());
            self.seat.listen(channels, bits);
        }
    }

    /// What statistics show of this subscription.
    fn show_counts(&self) {
        let (slot, counts) = (self.seat.slot(), &self.sieve.counts);
        // ORDERING: Relaxed; numbers that say only themselves.
        let put = |word: &AtomicU64, value| word.store(value, Ordering::Relaxed);
        put(&slot.delivered, counts.delivered);
        put(&slot.filtered, counts.filtered);
        put(&slot.lagged, counts.lagged);
        put(&slot.wakes, counts.wakes);
    }

    /// Sleeps until there may be something to read; false when `timeout` passed first, or somebody called
    /// [`SubscriptionWaker::wake`]. `None` waits for ever.
    ///
    /// Sleeps on a futex and is woken by events of the rules it asked for only, and of these only by the names
    /// it asked for, where none of its patterns has a `*`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> bool {
        matches!(self.wait_for_news(timeout), Wait::News)
    }

    fn wait_for_news(&mut self, timeout: Option<Duration>) -> Wait {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.taps.has_changed() {
                self.taps.follow();
                self.listen();
            }
            if !self.queue.is_empty() || self.taps.has_records() || self.control.check().is_err() {
                return Wait::News;
            }
            if self.seat.take_woken() {
                return Wait::Woken;
            }
            let left = match deadline {
                None => WAIT_SLICE,
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => left,
                    _ => return Wait::TimedOut,
                },
            };
            if self.busy_poll {
                self.spin();
                continue;
            }
            let slice = left.min(WAIT_SLICE);
            let taps = &self.taps;
            let before = Instant::now();
            self.seat
                .park(slice, || taps.has_changed() || taps.has_records());
            self.sieve.counts.sleeps += 1;
            if before.elapsed() < slice {
                self.sieve.counts.wakes += 1;
            }
        }
    }

    /// Looks at the rings for a while.
    fn spin(&self) {
        for _ in 0..SPINS_PER_CLOCK {
            if self.taps.has_records() || self.taps.has_changed() {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Delivers what there is, or sleeps until something comes and delivers that; how many events.
    ///
    /// # Errors
    /// `TimedOut` when nothing came, `Woken`, or as [`Subscription::poll`].
    pub fn run(
        &mut self,
        subscriber: &mut impl Subscriber,
        timeout: Option<Duration>,
    ) -> Result<u64, RecvError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let events = self.poll(subscriber)?;
            if events > 0 {
                return Ok(events);
            }
            self.wait_until(deadline)?;
        }
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match self.wait_for_news(left) {
            Wait::News => Ok(()),
            Wait::TimedOut => Err(RecvError::TimedOut),
            Wait::Woken => Err(RecvError::Woken),
        }
    }

    /// The next event, if there is one. Allocates for it.
    ///
    /// Losses are counted, and end a subscription with [`OnLag::End`]; to be told of each, use
    /// [`Subscription::poll`].
    ///
    /// # Errors
    /// As [`Subscription::poll`].
    pub fn try_recv(&mut self) -> Result<Option<OwnedEvent>, RecvError> {
        if let Some(queued) = self.queue.pop_front() {
            return Ok(Some(queued.event));
        }
        let mut collector = Collector {
            queue: std::mem::take(&mut self.queue),
            texts: self.sieve.take_texts(),
        };
        let outcome = self.poll_rings(&mut collector, QUEUE_EVENTS_MAX);
        self.sieve.give_texts(collector.texts);
        self.queue = collector.queue;
        match self.queue.pop_front() {
            Some(queued) => {
                // A loss that ends the subscription ends it behind what came before it.
                if let Err(RecvError::Lagged(lagged)) = outcome {
                    self.taps.keep_lag(lagged);
                }
                Ok(Some(queued.event))
            }
            None => outcome.map(|()| None),
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// `Woken`, or as [`Subscription::poll`].
    pub fn recv(&mut self) -> Result<OwnedEvent, RecvError> {
        self.recv_until(None)
    }

    /// Waits for the next event, at most `timeout`.
    ///
    /// # Errors
    /// `TimedOut`, `Woken`, or as [`Subscription::poll`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<OwnedEvent, RecvError> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<OwnedEvent, RecvError> {
        loop {
            if let Some(event) = self.try_recv()? {
                return Ok(event);
            }
            self.wait_until(deadline)?;
        }
    }

    /// All events from now on, waiting for each. Ends with the first error.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<OwnedEvent, RecvError>> + '_ {
        let mut ended = false;
        std::iter::from_fn(move || {
            (!ended).then(|| {
                let received = self.recv();
                ended = received.is_err();
                received
            })
        })
    }

    /// Right behind what it has given: a later subscription with the same patterns can go on there.
    pub fn position(&self) -> Position {
        let mut position = self.taps.position();
        // What was taken out of the rings and not given yet is still to come. The first of each ring counts.
        for queued in self.queue.iter().rev() {
            let At {
                ring,
                position: start,
                sequence,
                is_estate,
            } = queued.at;
            position.set(ring, start, sequence);
            if is_estate {
                position.set(queued.event.lane, 0, queued.event.sequence);
            }
        }
        position
    }

    /// What it has done so far.
    pub fn counts(&self) -> SubscriptionCounts {
        self.sieve.counts
    }

    /// Ends its waits from another thread.
    pub fn waker(&self) -> SubscriptionWaker {
        SubscriptionWaker {
            control: Arc::clone(&self.control),
            index: self.seat.index(),
            // ORDERING: Relaxed; our own.
            epoch: self.seat.slot().epoch.load(Ordering::Relaxed),
        }
    }
}

enum Wait {
    News,
    TimedOut,
    Woken,
}

/// Where an event lay.
#[derive(Debug, Clone, Copy)]
struct At {
    /// Epoch of the ring it was read from.
    ring: u64,
    /// Where its record starts.
    position: u64,
    /// Its number in that ring: see `RingPosition::sequence`.
    sequence: u64,
    /// It was left by a lane that is gone.
    is_estate: bool,
}

/// What takes events out of the rings: a subscriber, or the queue of `try_recv`.
trait Receiver {
    fn event(&mut self, event: &Event<'_>, at: At);
    /// `at` is of the record's first entry.
    fn batch(&mut self, batch: &Batch<'_>, at: At);
    fn lagged(&mut self, lagged: &Lagged);
    fn dropped(&mut self, dropped: &Dropped);
}

/// Hands everything on.
struct Direct<'s, S>(&'s mut S);

impl<S: Subscriber> Receiver for Direct<'_, S> {
    #[inline]
    fn event(&mut self, event: &Event<'_>, _: At) {
        self.0.on_event(event);
    }

    fn batch(&mut self, batch: &Batch<'_>, _: At) {
        self.0.on_batch(batch);
    }

    fn lagged(&mut self, lagged: &Lagged) {
        self.0.on_lagged(lagged);
    }

    fn dropped(&mut self, dropped: &Dropped) {
        self.0.on_dropped(dropped);
    }
}

/// An event that was taken out of its ring and not given yet.
struct Queued {
    event: OwnedEvent,
    at: At,
}

/// Keeps events for later.
struct Collector {
    queue: VecDeque<Queued>,
    texts: Texts,
}

impl Receiver for Collector {
    fn event(&mut self, event: &Event<'_>, at: At) {
        let (name, source) = (self.texts.share(event.name), self.texts.share(event.source));
        let event = event.to_owned_with(name, source);
        self.queue.push_back(Queued { event, at });
    }

    fn batch(&mut self, batch: &Batch<'_>, at: At) {
        for (index, event) in batch.numbered_events() {
            let sequence = at.sequence.saturating_add(index);
            self.event(&event, At { sequence, ..at });
        }
    }

    fn lagged(&mut self, _: &Lagged) {}

    fn dropped(&mut self, _: &Dropped) {}
}

/// The receiver, and the first loss where that ends the reading.
struct Watch<'s, R> {
    receiver: &'s mut R,
    ends: bool,
    lagged: Option<Lagged>,
}

impl<R: Receiver> Watch<'_, R> {
    fn lagged(&mut self, lagged: Lagged) {
        if self.ends && self.lagged.is_none() {
            self.lagged = Some(lagged);
        } else {
            self.receiver.lagged(&lagged);
        }
    }

    fn dropped(&mut self, dropped: &Dropped) {
        self.receiver.dropped(dropped);
    }

    /// Whether reading is to stop here.
    fn has_ended(&self) -> bool {
        self.lagged.is_some()
    }
}

/// The position after everything that has been published.
pub(crate) fn position_now(control: &Arc<Control>) -> Position {
    let all = vec![Pattern::literal("*")];
    Taps::open(Arc::clone(control), all, Since::Now).position()
}
