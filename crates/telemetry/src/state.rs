//! What works and what does not: told when it changes, and again from time to time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::gpu::Device;

/// How one thing that is sampled is doing. Published as `telemetry:state:THING`, with this as JSON.
///
/// ```
/// let state = millpond_telemetry::State::new("gpu:3", "lost").because("device fell off the bus");
/// assert_eq!(state.event_name(), "telemetry:state:gpu:3");
/// assert!(!state.is_good());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// `gpu:driver`, `gpu:INDEX`, or `host:` and a part of it.
    pub thing: String,
    /// `ok`; `absent`: there is no library; `gone`: no driver, or a GPU that it does not list any more; `lost`: a GPU that
    /// does not answer any more; `failed`.
    pub state: &'static str,
    /// Since when: ns since 1970 by the clock of the bus.
    pub since_ns: u64,
    /// Why, and where there is one, the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it is tried again, counted from the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<f64>,
    /// Of `gpu:driver`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_version: Option<String>,
    /// Of a GPU: what it is.
    #[serde(flatten)]
    pub device: Option<Device>,
}

impl State {
    /// A state without a reason; `since_ns` is filled in by the sampler.
    pub fn new(thing: impl Into<String>, state: &'static str) -> Self {
        State {
            thing: thing.into(),
            state,
            since_ns: 0,
            reason: None,
            retry_in_seconds: None,
            driver_version: None,
            device: None,
        }
    }

    /// The same with a reason.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub(crate) fn retried_in(mut self, wait: Duration) -> Self {
        self.retry_in_seconds = Some(wait.as_secs_f64());
        self
    }

    /// The name of its event.
    pub fn event_name(&self) -> String {
        format!("telemetry:state:{}", self.thing)
    }

    /// Whether all is well with it.
    pub fn is_good(&self) -> bool {
        self.state == "ok"
    }

    fn says_the_same(&self, other: &State) -> bool {
        self.state == other.state
            && self.reason == other.reason
            && self.device == other.device
            && self.driver_version == other.driver_version
    }
}

/// The states of everything, by thing.
#[derive(Debug, Default)]
pub(crate) struct States {
    known: BTreeMap<String, State>,
    /// Changed, or due to be said again.
    unsaid: Vec<State>,
    restated_at: Duration,
}

impl States {
    /// Notes how a thing is doing now. Said where it is another state, or for another reason.
    pub(crate) fn note(&mut self, mut state: State, now_ns: u64) {
        let before = self.known.get(&state.thing);
        let is_news = !before.is_some_and(|before| before.says_the_same(&state));
        // Another reason for the same state does not begin it anew.
        let went_on = before.filter(|before| before.state == state.state);
        state.since_ns = went_on.map_or(now_ns, |before| before.since_ns);
        if is_news {
            self.unsaid.push(state.clone());
        }
        self.known.insert(state.thing.clone(), state);
    }

    /// Says for the last time that the things of which `is_gone` says so are gone, and forgets them.
    pub(crate) fn retire(&mut self, reason: &str, now_ns: u64, is_gone: impl Fn(&str) -> bool) {
        let gone = self.known.values().filter(|state| is_gone(&state.thing));
        let gone: Vec<State> = gone.cloned().collect();
        for before in gone {
            let thing = before.thing.clone();
            let state = State {
                device: before.device,
                ..State::new(before.thing, "gone").because(reason)
            };
            self.note(state, now_ns);
            self.known.remove(&thing);
        }
    }

    pub(crate) fn get(&self, thing: &str) -> Option<&State> {
        self.known.get(thing)
    }

    /// What is to be said now. Once in `interval` that is everything, for whoever has come since.
    pub(crate) fn take_unsaid(&mut self, at: Duration, interval: Duration) -> Vec<State> {
        if at.saturating_sub(self.restated_at) >= interval {
            self.restated_at = at;
            let mut said = std::mem::take(&mut self.unsaid);
            // The last word on what was forgotten is in no other place.
            said.retain(|state| !self.known.contains_key(&state.thing));
            said.extend(self.known.values().cloned());
            return said;
        }
        std::mem::take(&mut self.unsaid)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &State> {
        self.known.values()
    }
}

/// When to try again: each time twice as long as before, up to a limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    wait: Duration,
    pub(crate) retry_at: Duration,
}

impl Backoff {
    pub(crate) fn start(at: Duration, first: Duration) -> Self {
        Backoff {
            wait: first,
            retry_at: at + first,
        }
    }

    pub(crate) fn again(&mut self, at: Duration, limit: Duration) {
        self.wait = (self.wait * 2).min(limit);
        self.retry_at = at + self.wait;
    }

    pub(crate) fn wait(&self) -> Duration {
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_state_is_said_once_and_again_after_a_while() {
        let mut states = States::default();
        let lost = || State::new("gpu:3", "lost").because("fell off");
        states.note(lost(), 10);
        states.note(lost().retried_in(MINUTE), 20);
        let said = states.take_unsaid(Duration::ZERO, MINUTE);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].since_ns, 10);
        states.note(State::new("gpu:3", "lost").because("needs a reset"), 30);
        let said = states.take_unsaid(Duration::ZERO, MINUTE);
        assert_eq!((said.len(), said[0].since_ns), (1, 10));
        states.note(State::new("gpu:3", "ok"), 40);
        let said = states.take_unsaid(Duration::ZERO, MINUTE);
        assert_eq!((said.len(), said[0].since_ns), (1, 40));
        assert!(states.take_unsaid(Duration::ZERO, MINUTE).is_empty());
        assert_eq!(states.take_unsaid(MINUTE, MINUTE).len(), 1);
    }

    #[test]
    fn the_last_word_on_a_thing_is_said_also_where_all_is_said_again() {
        for at in [Duration::ZERO, MINUTE] {
            let mut states = States::default();
            states.note(State::new("gpu:0", "ok"), 10);
            states.note(State::new("gpu:1", "ok"), 10);
            states.take_unsaid(Duration::ZERO, MINUTE);
            states.retire("not listed", 20, |thing| thing == "gpu:1");
            let said = states.take_unsaid(at, MINUTE);
            assert_eq!(
                (said[0].thing.as_str(), said[0].state, said[0].since_ns),
                ("gpu:1", "gone", 20)
            );
            assert_eq!(states.all().count(), 1);
        }
    }

    #[test]
    fn waits_double_up_to_their_limit() {
        let mut backoff = Backoff::start(Duration::ZERO, Duration::from_secs(1));
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(backoff.wait().as_secs());
            backoff.again(backoff.retry_at, MINUTE);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
