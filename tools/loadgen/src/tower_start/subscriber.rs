//! Those who listen, each a process: take what they asked for, and tell what they saw.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use millpond_bus::{
    Batch, Bus, Clock, Event, Lagged, RecvError, RuleTable, SubscribeOptions, Subscriber,
    SubscriptionWaker,
};
use serde::{Deserialize, Serialize};

use super::{LISTENERS, Listener, SOURCES};
use crate::error::Error;
use crate::latencies::{Latencies, Summary};
use crate::process::{Arguments, Talk};

/// It looks around this often when nothing comes at all.
const LOOK: Duration = Duration::from_secs(1);
/// What is still expected after so long without any event will not come.
const QUIET_LIMIT: Duration = Duration::from_secs(10);

/// Told at its end; lists are in the order of `SOURCES`, with nothing for those it did not ask for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) received: Vec<u64>,
    pub(super) lagged: Vec<u64>,
    pub(super) latencies: Vec<Summary>,
    pub(super) messages: u64,
    pub(super) largest_batch: u64,
    pub(super) lateness: Summary,
    pub(super) out_of_order: u64,
    pub(super) wakes: u64,
}

/// `bus=NAME listener=N`. The line `expect N` says how many events there are.
pub(crate) fn subscriber_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let number: usize = arguments.get("listener")?;
    let Some(listener) = LISTENERS.get(number) else {
        return Err(Error::new(format!("there is no listener {number}")));
    };
    let mut patterns = listener
        .sources
        .iter()
        .map(|&source| SOURCES[source].pattern);
    let first = patterns.next().unwrap_or("*");
    let mut options = SubscribeOptions::new(listener.name, first.parse()?);
    for pattern in patterns {
        options.patterns.push(pattern.parse()?);
    }
    let mut subscription = bus.subscribe(options)?;
    let mut audience = Audience::new(&bus, &bus.rules()?, listener);
    talk.ready()?;
    let expectations = hear_expectation(subscription.waker());

    let mut expected = None;
    let mut last_progress = (0, Instant::now());
    while expected.is_none_or(|expected| audience.total() < expected) {
        match subscription.run(&mut audience, Some(LOOK)) {
            Ok(_) | Err(RecvError::TimedOut | RecvError::Woken) => {}
            Err(error) => return Err(error.into()),
        }
        match expectations.try_recv() {
            Ok(told) => expected = Some(told?),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        if last_progress.0 != audience.total() || expected.is_none() {
            last_progress = (audience.total(), Instant::now());
        } else if last_progress.1.elapsed() > QUIET_LIMIT {
            break;
        }
    }
    talk.say(&audience.tell(subscription.counts().wakes))
}

/// Hears how many events there are, once.
fn hear_expectation(waker: SubscriptionWaker) -> Receiver<Result<u64, Error>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let told = Talk.hear().and_then(|line| {
            let number = line.strip_prefix("expect ").and_then(|n| n.parse().ok());
            number.ok_or_else(|| Error::new(format!("{line:?} is no `expect N`")))
        });
        // It has ended by itself where nobody listens.
        let _ = sender.send(told);
        waker.wake();
    });
    receiver
}

struct Audience {
    clock: Clock,
    /// Its sources, each with the pattern of its rule: that is what a lag names.
    rules: Vec<(usize, String)>,
    max_delay_ns: u64,
    received: Vec<u64>,
    lagged: Vec<u64>,
    latencies: Vec<Latencies>,
    messages: u64,
    largest_batch: u64,
    lateness: Latencies,
    /// Of the flood, by lane.
    last_sequence: HashMap<u64, u64>,
    out_of_order: u64,
}

impl Audience {
    fn new(bus: &Bus, rules: &RuleTable, listener: &Listener) -> Self {
        let rule_of = |name: &str| rules.resolve(name).map(|resolved| resolved.rule);
        let patterns = listener.sources.iter().map(|&source| {
            let rule = rule_of(&format!("{}:x", SOURCES[source].prefix));
            let pattern = rule.map_or_else(String::new, |rule| rule.pattern.to_string());
            (source, pattern)
        });
        let flood = rule_of("data:code_index:created");
        Audience {
            clock: bus.clock(),
            rules: patterns.collect(),
            max_delay_ns: flood.map_or(0, |rule| rule.max_delay.as_nanos() as u64),
            received: vec![0; SOURCES.len()],
            lagged: vec![0; SOURCES.len()],
            latencies: vec![Latencies::default(); SOURCES.len()],
            messages: 0,
            largest_batch: 0,
            lateness: Latencies::default(),
            last_sequence: HashMap::new(),
            out_of_order: 0,
        }
    }

    fn total(&self) -> u64 {
        self.received.iter().chain(&self.lagged).sum()
    }

    fn take(&mut self, event: &Event<'_>, now_ns: u64) {
        let source = SOURCES
            .iter()
            .position(|source| event.name.starts_with(source.prefix));
        let Some(source) = source else { return };
        self.received[source] += 1;
        if source > 0 {
            self.latencies[source].record(now_ns.saturating_sub(event.time_ns));
            return;
        }
        let before = self.last_sequence.insert(event.lane, event.sequence);
        self.out_of_order += u64::from(before.is_some_and(|before| before >= event.sequence));
    }

    fn tell(&self, wakes: u64) -> Told {
        Told {
            received: self.received.clone(),
            lagged: self.lagged.clone(),
            latencies: self.latencies.iter().map(Latencies::summary).collect(),
            messages: self.messages,
            largest_batch: self.largest_batch,
            lateness: self.lateness.summary(),
            out_of_order: self.out_of_order,
            wakes,
        }
    }
}

impl Subscriber for Audience {
    fn on_event(&mut self, event: &Event<'_>) {
        let now_ns = self.clock.now_ns();
        self.messages += 1;
        self.take(event, now_ns);
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        let now_ns = self.clock.now_ns();
        self.messages += 1;
        self.largest_batch = self.largest_batch.max(batch.len() as u64);
        if batch.prefix() == SOURCES[0].prefix {
            let due_ns = batch.first_time_ns() + self.max_delay_ns;
            self.lateness.record(now_ns.saturating_sub(due_ns));
        }
        for event in batch.events() {
            self.take(&event, now_ns);
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        let of_rule =
            |(source, rule): &(usize, String)| (*rule == lagged.pattern).then_some(*source);
        if let Some(source) = self.rules.iter().find_map(of_rule) {
            self.lagged[source] += lagged.count;
        }
    }
}
