//! Reduction: what of a service's records becomes a line, and the lines that tell of the rest.
//!
//! Nothing goes without a line. What is swallowed is counted here, told by a line of the daemon, and until then
//! committed with the positions of the lanes that it came from ([`Untold`]): a consumer that dies tells the next
//! one. A count thus stands in a line or in the commit point, never in both and never in none, since both become
//! true with the same store.

use millpond_bus::{Rule, ServiceCommit, Verdict};
use millpond_logfile::{Level, Source};
use millpond_sink::{ServiceId, Sink};

mod bucket;
mod service;
mod settings;
#[cfg(test)]
mod tests;

use self::service::{Entry, Lines, ServiceState};
pub use self::settings::{RateLimit, Redaction, RedactionError, Reduction, Reductions};

/// It is looked this often whether something is to be told.
const LOOK_NS: u64 = 100_000_000;

/// A service of the sink, as a place for lines.
struct ServiceLines<'a> {
    sink: &'a mut Sink,
    service: ServiceId,
}

impl Lines for ServiceLines<'_> {
    #[inline]
    fn append(&mut self, time_ns: u64, level: Level, source: &Source, message: &[u8]) {
        self.sink
            .append(self.service, time_ns, level, source, message);
    }
}

/// A service, and whether it stands in `Reducers::active`.
#[derive(Debug)]
struct Place {
    state: ServiceState,
    is_active: bool,
}

/// The reduction of all services.
#[derive(Debug)]
pub(crate) struct Reducers {
    settings: Reductions,
    /// By [`ServiceId::index`].
    places: Vec<Place>,
    /// Services of which something is untold, or was until now.
    active: Vec<ServiceId>,
    /// The oldest change that is not in a group yet.
    changed_since_ns: Option<u64>,
    next_look_ns: u64,
    own: Source,
}

impl Reducers {
    pub(crate) fn new(settings: Reductions) -> Self {
        Reducers {
            settings,
            places: Vec::new(),
            active: Vec::new(),
            changed_since_ns: None,
            next_look_ns: 0,
            own: Source::new(Rule::OWN_SOURCE),
        }
    }

    /// Takes what an earlier consumer has committed as untold, so that it is told now. Before anything is
    /// committed: a service that is new to the sink would be committed without it.
    pub(crate) fn restore(&mut self, committed: &[ServiceCommit], sink: &mut Sink, now_ns: u64) {
        for commit in committed {
            if commit.untold.repeats + commit.untold.suppressed == 0 {
                continue;
            }
            // Its name was good enough for a log before.
            let Ok(service) = sink.service(&commit.name, now_ns) else {
                continue;
            };
            // The directory may be new to the sink, or have been written to by another bus meanwhile.
            sink.set_untold(service, commit.untold.clone());
            self.place(service, sink).state.restore(&commit.untold);
            self.note_change(service, now_ns);
        }
    }

    /// Goes by these settings from the next record on.
    pub(crate) fn configure(&mut self, settings: Reductions, sink: &mut Sink, now_ns: u64) {
        for index in 0..self.places.len() {
            let service = sink.service_at(index);
            let reduction = settings.of(sink.service_name(service));
            let state = &mut self.places[index].state;
            let mut lines = ServiceLines { sink, service };
            state.configure(reduction, &self.own, &mut lines);
            if state.has_changed {
                self.changed_since_ns.get_or_insert(now_ns);
            }
        }
        self.settings = settings;
    }

    /// Writes a record as a line of `service`, or counts it; what the lane's books say of it.
    #[inline]
    pub(crate) fn take(
        &mut self,
        sink: &mut Sink,
        service: ServiceId,
        time_ns: u64,
        level: Level,
        source: &Source,
        message: &[u8],
    ) -> Verdict {
        if service.index() >= self.places.len() {
            self.place(service, sink);
        }
        let place = &mut self.places[service.index()];
        let entry = Entry {
            time_ns,
            level,
            source,
            message,
        };
        let mut lines = ServiceLines { sink, service };
        let verdict = place.state.take(entry, &self.own, &mut lines);
        if place.state.has_changed && (!place.is_active || self.changed_since_ns.is_none()) {
            self.note_change(service, time_ns);
        }
        verdict
    }

    #[cold]
    fn place(&mut self, service: ServiceId, sink: &Sink) -> &mut Place {
        for index in self.places.len()..=service.index() {
            let name = sink.service_name(sink.service_at(index));
            self.places.push(Place {
                state: ServiceState::new(self.settings.of(name)),
                is_active: false,
            });
        }
        &mut self.places[service.index()]
    }

    #[cold]
    fn note_change(&mut self, service: ServiceId, time_ns: u64) {
        self.changed_since_ns.get_or_insert(time_ns);
        let place = &mut self.places[service.index()];
        if !std::mem::replace(&mut place.is_active, true) {
            self.active.push(service);
        }
    }

    /// Since when something has changed that no group has.
    pub(crate) fn changed_since_ns(&self) -> Option<u64> {
        self.changed_since_ns
    }

    /// When the next line is to be told.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        let states = self.active.iter().map(|id| &self.places[id.index()].state);
        let due_ns = states.filter_map(ServiceState::due_ns).min()?;
        Some(due_ns.max(self.next_look_ns))
    }

    /// Writes the lines that are due. The sink has room.
    #[inline]
    pub(crate) fn tell_due(&mut self, sink: &mut Sink, now_ns: u64) {
        if !self.active.is_empty() && now_ns >= self.next_look_ns {
            self.next_look_ns = now_ns + LOOK_NS;
            self.tell_until(sink, now_ns);
        }
    }

    /// Writes everything that is untold, due or not.
    pub(crate) fn tell_all(&mut self, sink: &mut Sink) {
        self.tell_until(sink, u64::MAX);
    }

    fn tell_until(&mut self, sink: &mut Sink, now_ns: u64) {
        for &service in &self.active {
            let state = &mut self.places[service.index()].state;
            let mut lines = ServiceLines { sink, service };
            state.tell_due(now_ns, &self.own, &mut lines);
            if state.has_changed {
                self.changed_since_ns.get_or_insert(now_ns);
            }
        }
    }

    /// Makes what has changed a part of the group that is submitted next.
    pub(crate) fn hand_over(&mut self, sink: &mut Sink) {
        if self.changed_since_ns.take().is_none() {
            return;
        }
        let places = &mut self.places;
        self.active.retain(|&service| {
            let place = &mut places[service.index()];
            if let Some((untold, redacted)) = place.state.take_change() {
                sink.set_untold(service, untold);
                if redacted > 0 {
                    sink.add_redacted(service, redacted);
                }
            }
            place.is_active = place.state.due_ns().is_some();
            place.is_active
        });
    }
}
