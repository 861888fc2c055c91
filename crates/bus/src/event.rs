//! What subscribers get: events, and word of what they missed.

use std::sync::Arc;

use crate::batch::{AggregateView, Batch};
use crate::level::Level;
use crate::schema::{EventLayout, SchemaMismatch};

/// One event, as a subscriber sees it. It borrows from the subscription: keep it with [`Event::to_owned`].
///
/// ```
/// use millpond_bus::{Event, Level};
/// let event = Event { name: "data:users:created", payload: b"{\"id\":7}", ..Event::default() };
/// assert_eq!(event.level, Level::Info);
/// let kept = event.to_owned();
/// assert_eq!(kept.as_event(), event);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its name.
    pub name: &'a str,
    /// The label of its publisher.
    pub source: &'a str,
    /// Real time of its publication in ns. Of an aggregate: of its last event.
    pub time_ns: u64,
    /// How grave it is.
    pub level: Level,
    /// Epoch of the lane it came through: a number that no other lane of the bus ever has.
    pub lane: u64,
    /// Number in that lane; a missing number is a counted drop, or an event that was coalesced.
    pub sequence: u64,
    /// Hash of the payload's schema, 0 for plain bytes.
    pub schema_id: u32,
    /// Class `conflate`: how many earlier values this one stands for. Otherwise 0.
    pub replaced: u32,
    /// The payload is an aggregate: see [`Event::aggregate`].
    pub is_aggregate: bool,
    /// The payload.
    pub payload: &'a [u8],
}

impl Default for Event<'_> {
    /// An event without a name, at time 0.
    fn default() -> Self {
        Event {
            name: "",
            source: "",
            time_ns: 0,
            level: Level::Info,
            lane: 0,
            sequence: 0,
            schema_id: 0,
            replaced: 0,
            is_aggregate: false,
            payload: &[],
        }
    }
}

impl<'a> Event<'a> {
    /// A copy that can be kept. Allocates for the name, the source and the payload.
    pub fn to_owned(&self) -> OwnedEvent {
        self.to_owned_with(Arc::from(self.name), Arc::from(self.source))
    }

    /// As [`Event::to_owned`], with texts that the caller has already.
    pub(crate) fn to_owned_with(self, name: Arc<str>, source: Arc<str>) -> OwnedEvent {
        OwnedEvent {
            name,
            source,
            time_ns: self.time_ns,
            level: self.level,
            lane: self.lane,
            sequence: self.sequence,
            schema_id: self.schema_id,
            replaced: self.replaced,
            is_aggregate: self.is_aggregate,
            payload: self.payload.to_vec(),
        }
    }

    /// The payload as a `T`. A copy of the bytes; no system call.
    ///
    /// # Errors
    /// The event has another schema, or none. [`SchemaMismatch::with_found`] with what
    /// [`crate::Bus::schema`] says of [`Event::schema_id`] makes the message name both.
    pub fn decode<T: EventLayout>(&self) -> Result<T, SchemaMismatch> {
        T::decode(self.schema_id, self.payload)
    }

    /// What the payload of an aggregate says; `None` for every other event.
    pub fn aggregate(&self) -> Option<AggregateView<'a>> {
        self.is_aggregate
            .then(|| AggregateView::parse(self.payload))?
    }
}

/// An event that owns what it says.
///
/// ```
/// use millpond_bus::{Event, OwnedEvent};
/// let event: OwnedEvent = Event { name: "chat:room", payload: b"hi", ..Event::default() }.to_owned();
/// assert_eq!(event.as_event().name, "chat:room");
/// assert_eq!(event.payload, b"hi");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedEvent {
    /// Its name.
    pub name: Arc<str>,
    /// The label of its publisher.
    pub source: Arc<str>,
    /// As [`Event::time_ns`].
    pub time_ns: u64,
    /// How grave it is.
    pub level: Level,
    /// As [`Event::lane`].
    pub lane: u64,
    /// As [`Event::sequence`].
    pub sequence: u64,
    /// As [`Event::schema_id`].
    pub schema_id: u32,
    /// As [`Event::replaced`].
    pub replaced: u32,
    /// As [`Event::is_aggregate`].
    pub is_aggregate: bool,
    /// The payload.
    pub payload: Vec<u8>,
}

impl OwnedEvent {
    /// The same event, borrowed.
    pub fn as_event(&self) -> Event<'_> {
        Event {
            name: &self.name,
            source: &self.source,
            time_ns: self.time_ns,
            level: self.level,
            lane: self.lane,
            sequence: self.sequence,
            schema_id: self.schema_id,
            replaced: self.replaced,
            is_aggregate: self.is_aggregate,
            payload: &self.payload,
        }
    }
}

/// The subscriber was too slow: events were overwritten before it read them.
///
/// ```
/// let lagged = millpond_bus::Lagged { pattern: "data:*".into(), lane: 3, from: 640, to: 650, count: 10 };
/// assert_eq!(lagged.to_string(), "missed 10 events of rule \"data:*\": numbers 640 to 649 of ring 3");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lagged {
    /// The rule whose events it missed.
    pub pattern: String,
    /// Epoch of the ring it read: a lane's, or the outbox's.
    pub lane: u64,
    /// The first event it missed: by its number in the lane, or in the order of the outbox.
    pub from: u64,
    /// The event it goes on with. Exclusive.
    pub to: u64,
    /// How many events it missed. Of a lane: at most; events that the publisher dropped meanwhile are in it.
    pub count: u64,
}

impl std::fmt::Display for Lagged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Lagged {
            pattern,
            lane,
            from,
            to,
            count,
        } = self;
        let last = to.saturating_sub(1);
        write!(
            f,
            "missed {count} events of rule {pattern:?}: numbers {from} to {last} of ring {lane}"
        )
    }
}

/// A publisher dropped events of its own: nobody gets them, and it has counted why.
///
/// ```
/// let dropped = millpond_bus::Dropped { source: "gpu0".into(), lane: 3, first: 10, last: 19 };
/// assert_eq!(dropped.count(), 10);
/// assert_eq!(dropped.to_string(), "\"gpu0\" dropped 10 events: numbers 10 to 19 of lane 3");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The publisher's label.
    pub source: String,
    /// Epoch of its lane.
    pub lane: u64,
    /// First missing number.
    pub first: u64,
    /// Last missing number. Inclusive.
    pub last: u64,
}

impl Dropped {
    /// How many events it dropped.
    pub fn count(&self) -> u64 {
        (self.last.saturating_sub(self.first)).saturating_add(1)
    }
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (source, count) = (&self.source, self.count());
        let (first, last, lane) = (self.first, self.last, self.lane);
        write!(
            f,
            "{source:?} dropped {count} events: numbers {first} to {last} of lane {lane}"
        )
    }
}

/// What takes events. A closure does; code that knows nothing of batches gets their events one by one.
///
/// It is called on the thread that polls the subscription, and blocks nobody but itself while it works: a
/// subscriber that takes too long misses events, and is told how many.
///
/// ```
/// use millpond_bus::{Event, Lagged, Subscriber};
///
/// #[derive(Default)]
/// struct Newest { name: String, missed: u64 }
/// impl Subscriber for Newest {
///     fn on_event(&mut self, event: &Event<'_>) {
///         event.name.clone_into(&mut self.name);
///     }
///     fn on_lagged(&mut self, lagged: &Lagged) {
///         self.missed += lagged.count;
///     }
/// }
///
/// let mut newest = Newest::default();
/// newest.on_event(&Event { name: "chat:room", ..Event::default() });
/// assert_eq!(newest.name, "chat:room");
///
/// let mut count = 0;
/// let mut closure = |_: &Event<'_>| count += 1;
/// closure.on_event(&Event::default());
/// assert_eq!(count, 1);
/// ```
pub trait Subscriber {
    /// An event.
    fn on_event(&mut self, event: &Event<'_>);

    /// A consolidated record. Unless it is overridden, each of its events goes to [`Subscriber::on_event`],
    /// in order.
    fn on_batch(&mut self, batch: &Batch<'_>) {
        for event in batch.events() {
            self.on_event(&event);
        }
    }

    /// Events were overwritten before they could be read.
    fn on_lagged(&mut self, lagged: &Lagged) {
        let _ = lagged;
    }

    /// A publisher dropped events.
    fn on_dropped(&mut self, dropped: &Dropped) {
        let _ = dropped;
    }
}

impl<F: FnMut(&Event<'_>)> Subscriber for F {
    fn on_event(&mut self, event: &Event<'_>) {
        self(event);
    }
}
