//! Where samples go.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use millpond_bus::{Error as BusError, EventLayout, Level, PublishError, Publisher, Topic};

use crate::state::State;

/// Takes what the sampler has. Nothing that happens behind it stops the sampler.
///
/// ```
/// use millpond_bus::EventLayout;
/// use millpond_telemetry::{Output, State};
/// struct Count(usize);
/// impl Output for Count {
///     fn event<T: EventLayout>(&mut self, _name: &str, _event: &T) {
///         self.0 += 1;
///     }
///     fn state(&mut self, _state: &State) {}
/// }
/// let mut count = Count(0);
/// count.event("gpu:0:process:7", &millpond_telemetry::gpu::GpuProcess { sampled_ns: 0, pid: 7, memory_used_bytes: 0.0 });
/// assert_eq!(count.0, 1);
/// ```
pub trait Output {
    /// One event of fixed layout.
    fn event<T: EventLayout>(&mut self, name: &str, event: &T);

    /// Something works again, or does not any more.
    fn state(&mut self, state: &State);
}

/// A publisher whose bus was lost is made anew at most this often.
const REATTACH_INTERVAL: Duration = Duration::from_secs(1);
/// Topics of one publisher. Names of processes never come back, so from time to time it begins anew.
const TOPICS_MAX: usize = 2048;

/// Events to a bus. Never waits: where a lane is full, the event is dropped and counted, whatever the rule says, since a
/// sample that waits is an old one. Where the bus is lost it attaches again, once a second, and counts what was
/// published to nobody.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_telemetry::{BusOutput, Output, State};
/// let bus = Bus::attach(&format!("doc-output-{}", std::process::id()), &BusOptions::default())?;
/// let publisher = bus.publisher("telemetry")?;
/// let mut output = BusOutput::new(publisher, || bus.publisher("telemetry"));
/// output.state(&State::new("gpu:driver", "ok"));
/// assert_eq!((output.published(), output.dropped()), (1, 0));
/// # drop(output);
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
pub struct BusOutput<A> {
    attach: A,
    publisher: Option<Publisher>,
    topics: HashMap<String, Topic>,
    attach_next: Option<Instant>,
    /// Of publishers that are gone.
    published_before: u64,
    dropped_before: u64,
    unpublished: u64,
    refused: Option<String>,
}

impl<A> fmt::Debug for BusOutput<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusOutput")
            .field("topics", &self.topics.len())
            .field("unpublished", &self.unpublished)
            .finish_non_exhaustive()
    }
}

impl<A: FnMut() -> Result<Publisher, E>, E: Display> BusOutput<A> {
    /// Publishes with `publisher`, and with what `attach` makes where that is of no use any more.
    pub fn new(publisher: Publisher, attach: A) -> Self {
        BusOutput {
            attach,
            publisher: Some(publisher),
            topics: HashMap::new(),
            attach_next: None,
            published_before: 0,
            dropped_before: 0,
            unpublished: 0,
            refused: None,
        }
    }

    /// Events offered to the bus.
    pub fn published(&self) -> u64 {
        let now = self.publisher.as_ref().map(Publisher::counts);
        self.published_before + now.map_or(0, |counts| counts.published)
    }

    /// Of those, dropped.
    pub fn dropped(&self) -> u64 {
        let now = self.publisher.as_ref().map(Publisher::counts);
        self.dropped_before + now.map_or(0, |counts| counts.dropped())
    }

    /// Events that no bus could be offered: it was lost, or refused their names.
    pub fn unpublished(&self) -> u64 {
        self.unpublished
    }

    fn give_up(&mut self, why: &dyn Display) {
        tracing::warn!(%why, "publishing anew");
        self.published_before = self.published();
        self.dropped_before = self.dropped();
        self.publisher = None;
        self.topics.clear();
    }

    fn publisher(&mut self) -> Option<&mut Publisher> {
        if self.topics.len() >= TOPICS_MAX {
            self.give_up(&"a name for each of many processes");
        }
        if self.publisher.is_none() {
            let now = Instant::now();
            if self.attach_next.is_some_and(|next| now < next) {
                return None;
            }
            self.attach_next = Some(now + REATTACH_INTERVAL);
            match (self.attach)() {
                Ok(publisher) => self.publisher = Some(publisher),
                Err(error) => tracing::warn!(%error, "no bus to publish to"),
            }
        }
        self.publisher.as_mut()
    }

    fn publish(
        &mut self,
        name: &str,
        level: Level,
        payload: &[u8],
        make: impl FnOnce(&mut Publisher) -> Result<Topic, BusError>,
    ) {
        let topic = match self.topics.get(name) {
            Some(&topic) => topic,
            None => match self.publisher().map(make) {
                Some(Ok(topic)) => {
                    self.topics.insert(name.to_owned(), topic);
                    topic
                }
                Some(Err(error)) => {
                    self.refuse(name, &error);
                    return;
                }
                None => {
                    self.unpublished += 1;
                    return;
                }
            },
        };
        let Some(publisher) = &mut self.publisher else {
            self.unpublished += 1;
            return;
        };
        match publisher.try_publish(topic, level, payload) {
            // The bus counts these.
            Ok(_) | Err(PublishError::Full | PublishError::DeadlinePassed) => {}
            Err(PublishError::TooLong { .. }) => {}
            Err(error) => {
                self.unpublished += 1;
                self.give_up(&error);
            }
        }
    }

    #[cold]
    fn refuse(&mut self, name: &str, error: &BusError) {
        self.unpublished += 1;
        let why = error.to_string();
        if self.refused.as_ref() != Some(&why) {
            tracing::warn!(name, why, "not published");
            self.refused = Some(why);
        }
    }
}

impl<A: FnMut() -> Result<Publisher, E>, E: Display> Output for BusOutput<A> {
    fn event<T: EventLayout>(&mut self, name: &str, event: &T) {
        self.publish(name, Level::Info, event.as_bytes(), |publisher| {
            publisher.event_topic_named::<T>(name)
        });
    }

    fn state(&mut self, state: &State) {
        let level = match state.is_good() {
            true => Level::Info,
            false => Level::Warn,
        };
        let name = state.event_name();
        // Strings and numbers: there is nothing in it that is not JSON.
        let payload = serde_json::to_vec(state).unwrap_or_default();
        self.publish(&name, level, &payload, |publisher| publisher.topic(&name));
    }
}
