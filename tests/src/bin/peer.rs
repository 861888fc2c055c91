//! A process on the bus for tests: it says `ready`, does its part, and in the end says one line of JSON.
//!
//! `peer role=publish bus=B rules=R label=L event=NAME [keys=N] [size=BYTES] [rate=PER_SECOND] [seconds=N]
//! [count=N] [batch=N] [flush=0]`: payloads are a number, then the label. With `keys`, the names are `NAME0` ...
//!
//! `peer role=subscribe bus=B rules=R label=L pattern=P [never=1] [busy=1]`: reads until its stdin closes, then
//! what is left; `never`: only then.
//!
//! `peer role=question|answer|witness bus=B rules=R prefix=P rounds=N [inside=1]`: `question` publishes numbers,
//! `answer` says the same ones back (`inside`: from within the delivery), `witness` sees that nothing is
//! answered before it was asked.
//!
//! `peer role=wait|post bus=B rules=R class=pass|batch rounds=N [brief=1]`: `wait` asks and waits for the reply,
//! `post` replies; `brief`: with a publisher of its own for each event.
//!
//! `peer role=sample bus=B rules=R`: publishes an event of fixed layout.
//!
//! With `kill_at=LABEL [kill_after=N]` it is killed there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millpond_bus::{
    Batch, Bus, Dropped, Event, Guarantee, Lagged, Level, OwnedEvent, Publisher, Since,
    SubscribeOptions, Subscriber, Subscription, Topic,
};
use millpond_tests::{Arguments, GpuSample, Watchdog, arm, options, setting};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// Lines of `wrong` that are kept.
const WRONG_MAX: usize = 5;
/// Questions that wait for their answer.
const OPEN_QUESTIONS_MAX: u64 = 32;

fn main() -> ExitCode {
    let limit = 150
        + 5 * setting("MILLPOND_TEST_KILLS", 5)
        + 2 * setting("MILLPOND_TEST_SECONDS", 2)
        + setting("MILLPOND_TEST_ROUNDS", 0) / 50;
    let arguments = Arguments::read();
    arm(&arguments);
    let role = arguments.text("role");
    let _watchdog = Watchdog::start(&format!("peer {role}"), Duration::from_secs(limit));
    let outcome = match role {
        "publish" => publish(&arguments),
        "subscribe" => subscribe(&arguments),
        "question" => question(&arguments),
        "answer" => answer(&arguments),
        "witness" => witness(&arguments),
        "wait" => wait(&arguments),
        "post" => post(&arguments),
        "sample" => sample(&arguments),
        other => Err(format!("role={other}").into()),
    };
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed {error}");
            ExitCode::FAILURE
        }
    }
}

fn attach(arguments: &Arguments) -> Result<Bus, Failure> {
    // As the command does.
    millpond_bus::guard_truncated_objects()?;
    Ok(Bus::attach(
        arguments.text("bus"),
        &options(arguments.text("rules")),
    )?)
}

fn say_ready() -> Result<(), Failure> {
    println!("ready");
    Ok(std::io::stdout().flush()?)
}

/// True once stdin is closed.
fn stdin_closed(then: impl FnOnce() + Send + 'static) -> Arc<AtomicBool> {
    let closed = Arc::new(AtomicBool::new(false));
    let mark = Arc::clone(&closed);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        // ORDERING: Release; pairs with the Acquire of `is_set`.
        mark.store(true, Ordering::Release);
        then();
    });
    closed
}

fn is_set(mark: &AtomicBool) -> bool {
    // ORDERING: Acquire; see `stdin_closed`.
    mark.load(Ordering::Acquire)
}

fn number_of(payload: &[u8]) -> u64 {
    let first = payload.first_chunk::<8>().copied();
    u64::from_le_bytes(first.unwrap_or([0xff; 8]))
}

fn publish(arguments: &Arguments) -> Result<Value, Failure> {
    let bus = attach(arguments)?;
    let (label, event) = (arguments.text("label"), arguments.text("event"));
    let mut publisher = bus.publisher(label)?;
    let topics: Vec<Topic> = match arguments.number("keys") {
        None => vec![publisher.topic(event)?],
        Some(keys) => (0..keys)
            .map(|key| publisher.topic(&format!("{event}{key}")))
            .collect::<Result<_, _>>()?,
    };
    let closed = stdin_closed(|| {});
    let start = Instant::now();
    let end = arguments
        .number("seconds")
        .map(|seconds| start + Duration::from_secs(seconds));
    let count = arguments.number("count").unwrap_or(u64::MAX);
    let rate = arguments.number("rate");
    let batch = arguments.number("batch").unwrap_or(0);
    let mut payload = [&[0; 8], label.as_bytes()].concat();
    let size = arguments.number("size").unwrap_or(32) as usize;
    payload.resize(size.max(payload.len()), b'x');
    say_ready()?;
    let (mut number, mut refused) = (0u64, 0u64);
    while number < count {
        if number.is_multiple_of(16) {
            if is_set(&closed) || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if let Some(rate) = rate {
                let due = start + Duration::from_nanos(number * 1_000_000_000 / rate.max(1));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        let topic = topics[(number % topics.len() as u64) as usize];
        if batch > 0 {
            let mut group = publisher.batch(topic)?;
            for _ in 0..batch.min(count - number) {
                payload[..8].copy_from_slice(&number.to_le_bytes());
                number += 1;
                refused += u64::from(group.push(Level::Info, &payload).is_err());
            }
            group.commit();
        } else {
            payload[..8].copy_from_slice(&number.to_le_bytes());
            number += 1;
            refused += u64::from(publisher.publish(topic, Level::Info, &payload).is_err());
        }
    }
    let flushed = match arguments.number("flush") {
        Some(0) => "not asked".to_owned(),
        _ => match publisher.flush(Guarantee::Written, None) {
            Ok(()) => "done".to_owned(),
            Err(error) => error.to_string(),
        },
    };
    let counts = publisher.counts();
    Ok(json!({
        "offered": number, "refused": refused, "published": counts.published,
        "dropped": counts.dropped(), "flush": flushed,
    }))
}

/// Checks what it is given.
#[derive(Default)]
struct Books {
    events: u64,
    batches: u64,
    lagged: u64,
    dropped: u64,
    replaced: u64,
    /// By lane: the number that comes next at the earliest.
    next: BTreeMap<u64, u64>,
    /// By label: which numbers came.
    came: BTreeMap<String, Vec<u64>>,
    /// By name: the last number.
    last: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Books {
    fn complain(&mut self, wrong: String) {
        if self.wrong.len() < WRONG_MAX {
            self.wrong.push(wrong);
        }
    }

    fn note(&mut self, event: &Event<'_>) {
        self.events += 1;
        self.replaced += u64::from(event.replaced);
        let next = self.next.entry(event.lane).or_default();
        let expected = std::mem::replace(next, event.sequence + 1);
        if event.sequence < expected {
            let Event {
                name,
                lane,
                sequence,
                ..
            } = *event;
            self.complain(format!(
                "{name} lane {lane}: {sequence} after {}",
                expected - 1
            ));
        }
        let number = number_of(event.payload);
        let label = event.payload.get(8..).unwrap_or_default();
        if number > 1 << 40 || !label.starts_with(event.source.as_bytes()) {
            let (name, source) = (event.name, event.source);
            self.complain(format!("{name} of {source}: payload {number} {label:?}"));
            return;
        }
        if !self.came.contains_key(event.source) {
            self.came.insert(event.source.to_owned(), Vec::new());
        }
        if let Some(came) = self.came.get_mut(event.source) {
            let (word, bit) = (number as usize / 64, number % 64);
            if came.len() <= word {
                came.resize((word + 1).next_power_of_two(), 0);
            }
            if came[word] >> bit & 1 == 1 {
                let (source, lane, sequence) = (event.source, event.lane, event.sequence);
                let wrong = format!("{number} of {source} twice: lane {lane}, number {sequence}");
                self.complain(wrong);
            } else {
                came[word] |= 1 << bit;
            }
        }
        match self.last.get_mut(event.name) {
            Some(last) => *last = number,
            None => {
                self.last.insert(event.name.to_owned(), number);
            }
        }
    }
}

impl Subscriber for Books {
    fn on_event(&mut self, event: &Event<'_>) {
        self.note(event);
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        self.batches += 1;
        let prefix = batch.prefix();
        for event in batch.events() {
            if millpond_bus::literal_prefix(event.name) != prefix {
                self.complain(format!("{} in a record of {prefix}", event.name));
            }
            self.note(&event);
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        self.lagged += lagged.count;
        if lagged.to - lagged.from != lagged.count {
            self.complain(lagged.to_string());
        }
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        self.dropped += dropped.count();
    }
}

fn subscribe(arguments: &Arguments) -> Result<Value, Failure> {
    let bus = attach(arguments)?;
    let mut subscription = bus.subscribe(SubscribeOptions {
        busy_poll: arguments.number("busy") == Some(1),
        ..SubscribeOptions::new(arguments.text("label"), arguments.text("pattern").parse()?)
    })?;
    let waker = subscription.waker();
    let closed = stdin_closed(move || waker.wake());
    let mut books = Books::default();
    say_ready()?;
    let never = arguments.number("never") == Some(1);
    while !is_set(&closed) {
        if never {
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        }
        subscription.poll(&mut books)?;
        subscription.wait(None);
    }
    // Everything is flushed, so what is not there now never comes.
    loop {
        subscription.poll(&mut books)?;
        if !subscription.wait(Some(Duration::ZERO)) {
            break;
        }
    }
    let counts = subscription.counts();
    if (books.events, books.lagged, books.dropped)
        != (counts.delivered, counts.lagged, counts.dropped)
    {
        books.complain(format!(
            "was told {} events, {} missed: {counts:?}",
            books.events, books.lagged
        ));
    }
    let distinct: u64 = books
        .came
        .values()
        .flatten()
        .map(|word| u64::from(word.count_ones()))
        .sum();
    Ok(json!({
        "delivered": books.events, "batches": books.batches, "lagged": books.lagged, "distinct": distinct,
        "dropped": books.dropped, "replaced": books.replaced, "duplicates": counts.duplicates,
        "damaged": counts.damaged, "filtered": counts.filtered, "last": books.last, "wrong": books.wrong,
        "wakes": counts.wakes, "sleeps": counts.sleeps,
    }))
}

fn one(bus: &Bus, label: &str, pattern: &str) -> Result<Subscription, Failure> {
    Ok(bus.subscribe(SubscribeOptions::new(label, pattern.parse()?))?)
}

fn question(arguments: &Arguments) -> Result<Value, Failure> {
    let (bus, prefix) = (attach(arguments)?, arguments.text("prefix"));
    let rounds = arguments.number("rounds").unwrap_or(0);
    let mut answers = one(&bus, "question", &format!("{prefix}:answer"))?;
    let mut publisher = bus.publisher("question")?;
    let topic = publisher.topic(&format!("{prefix}:question"))?;
    say_ready()?;
    // Whoever listens has said so before our stdin closes.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mut answered = 0;
    for number in 0..rounds {
        while number - answered >= OPEN_QUESTIONS_MAX {
            answers.recv()?;
            answered += 1;
        }
        publisher.publish(topic, Level::Info, &u64::to_le_bytes(number))?;
    }
    while answered < rounds {
        answers.recv()?;
        answered += 1;
    }
    Ok(json!({ "asked": rounds, "lagged": answers.counts().lagged }))
}

fn answer(arguments: &Arguments) -> Result<Value, Failure> {
    let (bus, prefix) = (attach(arguments)?, arguments.text("prefix"));
    let rounds = arguments.number("rounds").unwrap_or(0);
    let mut questions = one(&bus, "answer", &format!("{prefix}:question"))?;
    let mut publisher = bus.publisher("answer")?;
    let topic = publisher.topic(&format!("{prefix}:answer"))?;
    say_ready()?;
    let mut answered = 0;
    if arguments.number("inside") == Some(1) {
        while answered < rounds {
            let mut refused = None;
            questions.run(
                &mut |event: &Event<'_>| {
                    let outcome = publisher.publish(topic, Level::Info, event.payload);
                    refused = refused.or(outcome.err());
                    answered += 1;
                },
                None,
            )?;
            refused.map_or(Ok(()), Err)?;
        }
    } else {
        while answered < rounds {
            let event = questions.recv()?;
            publisher.publish(topic, Level::Info, &event.payload)?;
            answered += 1;
        }
    }
    Ok(json!({ "answered": answered, "lagged": questions.counts().lagged }))
}

fn witness(arguments: &Arguments) -> Result<Value, Failure> {
    let (bus, prefix) = (attach(arguments)?, arguments.text("prefix"));
    let rounds = arguments.number("rounds").unwrap_or(0);
    let mut all = one(&bus, "witness", &format!("{prefix}:*"))?;
    say_ready()?;
    let (mut asked, mut answered, mut early) = (0, 0, 0);
    while answered < rounds {
        all.run(
            &mut |event: &Event<'_>| {
                let number = number_of(event.payload);
                if event.name.ends_with(":question") {
                    asked = number + 1;
                } else {
                    answered += 1;
                    early += u64::from(number >= asked);
                }
            },
            None,
        )?;
    }
    let counts = all.counts();
    Ok(json!({ "asked": asked, "answered": answered, "early": early, "lagged": counts.lagged }))
}

/// Publishes one event: through a lasting publisher, or through one of its own.
struct Voice {
    bus: Bus,
    name: String,
    label: &'static str,
    lasting: Option<(Publisher, Topic)>,
}

impl Voice {
    fn new(bus: &Bus, label: &'static str, name: &str, brief: bool) -> Result<Self, Failure> {
        let mut voice = Voice {
            bus: bus.clone(),
            name: name.to_owned(),
            label,
            lasting: None,
        };
        if !brief {
            voice.lasting = Some(voice.make()?);
        }
        Ok(voice)
    }

    fn make(&self) -> Result<(Publisher, Topic), Failure> {
        let mut publisher = self.bus.publisher(self.label)?;
        let topic = publisher.topic(&self.name)?;
        Ok((publisher, topic))
    }

    fn say(&mut self, number: u64) -> Result<(), Failure> {
        let payload = number.to_le_bytes();
        match &mut self.lasting {
            Some((publisher, topic)) => publisher.publish(*topic, Level::Info, &payload)?,
            None => {
                let (mut publisher, topic) = self.make()?;
                publisher.publish(topic, Level::Info, &payload)?
            }
        };
        Ok(())
    }
}

fn wait(arguments: &Arguments) -> Result<Value, Failure> {
    let bus = attach(arguments)?;
    let (class, rounds) = (
        arguments.text("class"),
        arguments.number("rounds").unwrap_or(0),
    );
    let brief = arguments.number("brief") == Some(1);
    let pattern = format!("{class}:reply:*");
    let mut lasting = one(&bus, "lasting", &pattern)?;
    let mut voice = Voice::new(&bus, "waiter", "pass:request:x", brief)?;
    let (mut wrong, mut slow) = (Vec::new(), 0u64);
    let mut longest = Duration::ZERO;
    let mut kept: BTreeSet<u64> = BTreeSet::new();
    say_ready()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for round in 0..rounds {
        // Check, then wait: from where the bus stood before the request.
        let is_new = round % 2 == 0;
        let position = is_new.then(|| bus.position().to_string());
        let start = Instant::now();
        voice.say(round)?;
        if let Some(position) = position {
            let mut once = bus.subscribe(SubscribeOptions {
                since: Since::Position(position.parse()?),
                ..SubscribeOptions::new("once", pattern.parse()?)
            })?;
            let reply: OwnedEvent = once.recv()?;
            let number = number_of(&reply.payload);
            if number != round {
                wrong.push(format!("round {round}: a new one got {number}"));
            }
            if let Some(more) = once.try_recv()? {
                wrong.push(format!("round {round}: then {}", number_of(&more.payload)));
            }
        }
        // Rounds before it are through, so nothing else may be under way.
        let number = number_of(&lasting.recv()?.payload);
        if number != round || !kept.insert(number) {
            wrong.push(format!("round {round}: the lasting one got {number}"));
        }
        let took = start.elapsed();
        longest = longest.max(took);
        slow += u64::from(took > Duration::from_millis(900));
        if wrong.len() > WRONG_MAX {
            break;
        }
    }
    let counts = lasting.counts();
    Ok(json!({
        "rounds": kept.len(), "wrong": wrong, "slow": slow, "longest_us": longest.as_micros() as u64,
        "lagged": counts.lagged, "duplicates": counts.duplicates, "delivered": counts.delivered,
    }))
}

fn post(arguments: &Arguments) -> Result<Value, Failure> {
    let bus = attach(arguments)?;
    let (class, rounds) = (
        arguments.text("class"),
        arguments.number("rounds").unwrap_or(0),
    );
    let brief = arguments.number("brief") == Some(1);
    let mut requests = one(&bus, "poster", "pass:request:*")?;
    let mut voice = Voice::new(&bus, "poster", &format!("{class}:reply:x"), brief)?;
    say_ready()?;
    let mut wrong = Vec::new();
    for round in 0..rounds {
        let number = number_of(&requests.recv()?.payload);
        if number != round {
            wrong.push(format!("round {round}: asked for {number}"));
        }
        voice.say(number)?;
    }
    // The reply is taken before we go: else it would be in our lane only.
    let counts = requests.counts();
    Ok(
        json!({ "rounds": rounds, "wrong": wrong, "lagged": counts.lagged, "duplicates": counts.duplicates }),
    )
}

fn sample(arguments: &Arguments) -> Result<Value, Failure> {
    let bus = attach(arguments)?;
    let mut publisher = bus.publisher("gpu")?;
    let topic = publisher.event_topic::<GpuSample>()?;
    let event = GpuSample {
        power_mw: 700_000,
        fan_rpm: 4_200,
    };
    publisher.publish_event(topic, Level::Info, &event)?;
    Ok(json!({ "published": publisher.counts().published }))
}
