//! What comes out at the other end: how long a sleeping subscriber takes to wake and a polling one to see an
//! event, how fast batches are dispatched, and what many subscribers, rules and idle lanes cost.
//!
//! Beside each figure stands the floor in the same run: a bare futex, a pipe, a Unix socket, a bare cache line.
//! All of them connect two processes. Figures are medians over rounds whose order rotates.
//! `MILLPOND_BENCH_PARTS=wake,busy,dispatch,rules,lanes` runs some of the parts. `compare/peers` gives the work of the
//! first three to others.
//!
//! Run: `cargo bench -p millpond-benches --bench subscribe`

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millpond_benches::{
    Spread, commit, cpu_ns, is_tiny, machine, percentiles, pin, read_line, rounds, size, start_self,
};
use millpond_bus::{
    Batch, Bus, BusOptions, Class, Clock, Dropped, Event, Guarantee, Item, Lagged, Level, Limits,
    Overflow, Publisher, Rule, RuleTable, Scope, SubscribeOptions, Subscriber, Subscription, Topic,
    Verdict,
};
use millpond_daemon::{Daemon, Policy};
use rustix::thread::futex;
use shared_memory::{Shmem, ShmemConf};

const PAYLOAD: [u8; 64] = [7; 64];
/// A sleeping receiver gets this many events first, which do not count.
const WARM: u64 = 20;
const PACE: Duration = Duration::from_millis(1);
/// Publishes timed together.
const BURST: u64 = 64;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "role") {
        return role(&args[at + 1..]);
    }
    let parts = std::env::var("MILLPOND_BENCH_PARTS").unwrap_or_default();
    let wanted = |part: &str| parts.is_empty() || parts.split(',').any(|known| known == part);
    println!("{}, commit {}", machine(), commit());
    println!(
        "{} rounds; medians of the rounds (least to greatest)",
        rounds()
    );
    if wanted("wake") {
        wake();
    }
    if wanted("busy") {
        busy();
    }
    if wanted("dispatch") {
        dispatch();
    }
    if wanted("rules") {
        rules();
    }
    if wanted("lanes") {
        lanes();
    }
    if is_tiny() {
        println!("(a tiny run: the figures mean nothing)");
    }
}

/// What a helper process does.
fn role(args: &[String]) {
    let number = |index: usize| args[index].parse().expect("a number");
    match args[0].as_str() {
        "wake" => wake_receiver(&args[1], &args[2], number(3), &args[4]),
        "busy" => busy_receiver(&args[1], number(2), &args[3]),
        "daemon" => daemon_process(&args[1], Path::new(&args[2])),
        "publisher" => dispatch_publisher(&args[1], number(2), number(3)),
        "subscriber" => dispatch_subscriber(&args[1], number(2)),
        other => panic!("no such role: {other}"),
    }
}

fn start_role(args: &[&str]) -> (Child, std::io::BufReader<std::process::ChildStdout>) {
    let all = ["role"].iter().chain(args);
    start_self(&all.map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
}

fn numbers(line: &str) -> Vec<f64> {
    let texts = line.split_whitespace();
    texts.map(|text| text.parse().expect("a figure")).collect()
}

/// Medians of rounds, each with the same columns.
fn show(name: &str, rounds: &[Vec<f64>], scale: f64) {
    let column = |index: usize| {
        let figures = rounds.iter().map(|round| round[index] / scale);
        Spread::of(figures.collect())
    };
    let [p50, p99, p999, max, cpu] = [0, 1, 2, 3, 4].map(column);
    println!(
        "{name:34} {p50:32} {:9.1} {:9.1} {:9.1} {:12.1}",
        p99.median, p999.median, max.median, cpu.median
    );
}

fn median_of(rounds: &[Vec<f64>], column: usize) -> f64 {
    Spread::of(rounds.iter().map(|round| round[column]).collect()).median
}

fn show_title(title: &str, unit: &str) {
    println!("\n{title}");
    println!(
        "{:34} {:>8}  {:22} {:>9} {:>9} {:>9} {:>12}",
        unit, "p50", "", "p99", "p99.9", "max", "cpu/event"
    );
}

// ------------------------------------------------------------------------------------------ buses

fn passthrough_rule(pattern: &str) -> Rule {
    Rule {
        class: Class::Passthrough,
        // Without a consumer nobody releases: all events of a round must fit.
        lane_bytes: 16 << 20,
        ..Rule::new(pattern.parse().expect("a pattern"))
    }
}

fn new_bus(what: &str, rules: Vec<Rule>, limits: Limits) -> Bus {
    let name = format!("bench-{what}-{}", std::process::id());
    let options = BusOptions {
        rules: RuleTable::new(rules).expect("good rules"),
        limits,
        ..BusOptions::default()
    };
    Bus::attach(&name, &options).expect("shared memory can be had")
}

struct DaemonProcess {
    child: Child,
    _logs: tempfile::TempDir,
}

impl DaemonProcess {
    fn start(bus: &Bus) -> Self {
        let logs = tempfile::tempdir().expect("a place for the logs");
        let path = logs.path().display().to_string();
        let (child, mut output) = start_role(&["daemon", bus.name(), &path]);
        read_line(&mut output);
        DaemonProcess { child, _logs: logs }
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("the daemon ends");
    }
}

fn daemon_process(bus: &str, logs: &Path) {
    pin(None);
    let bus = Bus::open(bus).expect("our parent made it");
    let running = Daemon::builder(&bus, logs)
        .policy(Policy::default())
        .spawn()
        .expect("the daemon starts");
    println!("ready");
    // Our parent closes our input when we may go.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("our input can be read");
    running.stop().expect("everything is written");
}

fn subscribe(bus: &Bus, name: &str, busy_poll: bool) -> Subscription {
    let pattern = name.parse().expect("a pattern");
    bus.subscribe(SubscribeOptions {
        busy_poll,
        ..SubscribeOptions::new("bench", pattern)
    })
    .expect("room for a subscriber")
}

// ------------------------------------------------------------------------------------- bare memory

/// Two cache lines in shared memory that two processes hand to and fro.
struct Lines {
    memory: Shmem,
}

impl Lines {
    fn make() -> Self {
        let memory = ShmemConf::new().size(4096).create();
        Lines {
            memory: memory.expect("a page of shared memory"),
        }
    }

    fn open(name: &str) -> Self {
        let memory = ShmemConf::new().os_id(name).open();
        Lines {
            memory: memory.expect("our parent made it"),
        }
    }

    fn name(&self) -> &str {
        self.memory.get_os_id()
    }

    fn word(&self, line: usize) -> &AtomicU64 {
        assert!(line < 8);
        // SAFETY: the page is mapped and zeroed, aligned, lives as long as `self`, and all that anyone does
        // with it is atomic; line 7 ends below 4096.
        let word = unsafe { self.memory.as_ptr().add(line * 256) };
        // SAFETY: aligned, zeroed at creation, and only ever used as an atomic.
        unsafe { &*word.cast::<AtomicU64>() }
    }

    fn futex(&self) -> &AtomicU32 {
        // SAFETY: as in `word`; nobody uses line 8 as a longer word.
        let word = unsafe { self.memory.as_ptr().add(8 * 256) };
        // SAFETY: as above.
        unsafe { &*word.cast::<AtomicU32>() }
    }
}

// -------------------------------------------------------------------------------------------- wake

const WAYS: [&str; 5] = [
    "bare futex",
    "pipe",
    "unix socket",
    "millpond, no daemon",
    "millpond, daemon",
];

fn wake() {
    let count = if is_tiny() { 30 } else { 1000 };
    for place in ["pinned", "free"] {
        let mut figures: [Vec<Vec<f64>>; WAYS.len()] = Default::default();
        for round in 0..rounds() {
            for at in 0..WAYS.len() {
                let way = (round + at) % WAYS.len();
                figures[way].push(wake_round(WAYS[way], place, count));
            }
        }
        let how = match place {
            "pinned" => "sender on core 0, receiver on core 1",
            _ => "left to the scheduler",
        };
        let title = format!("wake: one way to a sleeping process, 1,000 events/s, {how}");
        show_title(&title, "us");
        for (name, rounds) in WAYS.iter().zip(&figures) {
            show(name, rounds, 1e3);
        }
        let floor = median_of(&figures[0], 0);
        for way in 1..WAYS.len() {
            let each = figures[way].iter().zip(&figures[0]);
            let ratios = Spread::of(each.map(|(ours, futex)| ours[0] / futex[0]).collect());
            println!(
                "ratio {} / bare futex, p50: {:.2}; round by round {:.2} ({:.2} to {:.2})",
                WAYS[way],
                median_of(&figures[way], 0) / floor,
                ratios.median,
                ratios.min,
                ratios.max
            );
        }
    }
}

/// Sends `count` stamps, one each millisecond; what the receiver says of them.
fn wake_round(way: &str, place: &str, count: u64) -> Vec<f64> {
    let bus = new_bus("wake", vec![passthrough_rule("ping:*")], Limits::default());
    let clock = bus.clock();
    let lines = Lines::make();
    let dir = tempfile::tempdir().expect("a place for a socket");
    let socket = dir.path().join("socket").display().to_string();
    let name = match way {
        "bare futex" => lines.name(),
        "unix socket" => &socket,
        _ => bus.name(),
    };
    let daemon = (way == "millpond, daemon").then(|| DaemonProcess::start(&bus));
    // A lane that is there before the subscriber is the usual case.
    let mut publisher = bus.publisher("bench").expect("a label");
    let topic = publisher.topic("ping:wake").expect("a rule matches");
    let (mut child, mut output) = start_role(&["wake", way, place, &count.to_string(), name]);
    let mut pipe = child.stdin.take().expect("its input was asked for");
    read_line(&mut output);
    let mut stream = (way == "unix socket").then(|| {
        let stream = UnixStream::connect(&socket);
        stream.expect("the receiver listens")
    });
    pin((place == "pinned").then_some(0));
    for number in 1..=count + WARM {
        std::thread::sleep(PACE);
        let stamp = || clock.now_ns().to_le_bytes();
        match (way, stream.as_mut()) {
            ("bare futex", _) => {
                lines.word(0).store(clock.now_ns(), Ordering::Relaxed);
                lines.futex().store(number as u32, Ordering::Release);
                futex::wake(lines.futex(), futex::Flags::empty(), 1).expect("a good address");
            }
            ("pipe", _) => pipe.write_all(&stamp()).expect("the receiver reads"),
            (_, Some(stream)) => stream.write_all(&stamp()).expect("the receiver reads"),
            _ => drop(
                publisher
                    .publish(topic, Level::Info, &PAYLOAD)
                    .expect("room"),
            ),
        }
    }
    pin(None);
    let figures = numbers(&read_line(&mut output));
    child.wait().expect("the receiver ends");
    if let Some(daemon) = daemon {
        daemon.stop();
    }
    drop(publisher);
    bus.remove().expect("nobody uses it");
    figures
}

fn wake_receiver(way: &str, place: &str, count: u64, name: &str) {
    pin((place == "pinned").then_some(1));
    let total = count + WARM;
    let mut seen = Times::new(total);
    match way {
        "bare futex" => {
            let clock = some_clock();
            let lines = Lines::open(name);
            println!("ready");
            for number in 0..total as u32 {
                while lines.futex().load(Ordering::Acquire) == number {
                    let _ = futex::wait(lines.futex(), futex::Flags::empty(), number, None);
                }
                seen.add(clock.now_ns(), lines.word(0).load(Ordering::Relaxed));
            }
        }
        "pipe" => {
            let clock = some_clock();
            println!("ready");
            read_stamps(&mut std::io::stdin().lock(), &clock, &mut seen);
        }
        "unix socket" => {
            let clock = some_clock();
            let listener = UnixListener::bind(name).expect("a fresh path");
            println!("ready");
            let (mut stream, _) = listener.accept().expect("our parent connects");
            read_stamps(&mut stream, &clock, &mut seen);
        }
        _ => {
            let bus = Bus::open(name).expect("our parent made it");
            let clock = bus.clock();
            let mut subscription = subscribe(&bus, "ping:*", false);
            println!("ready");
            while seen.left > 0 {
                let mut take = |event: &Event<'_>| seen.add(clock.now_ns(), event.time_ns);
                subscription.run(&mut take, None).expect("no loss");
            }
        }
    }
    seen.print(WARM);
}

/// A clock as a bus has it, for those that need no bus.
fn some_clock() -> Clock {
    let bus = new_bus("clock", vec![passthrough_rule("*")], Limits::default());
    let clock = bus.clock();
    bus.remove().expect("nobody uses it");
    clock
}

fn read_stamps(from: &mut impl Read, clock: &Clock, seen: &mut Times) {
    while seen.left > 0 {
        let mut stamp = [0; 8];
        from.read_exact(&mut stamp).expect("our parent writes");
        seen.add(clock.now_ns(), u64::from_le_bytes(stamp));
    }
}

/// How long each event was under way.
struct Times {
    all_ns: Vec<u64>,
    left: u64,
    cpu_ns: u64,
}

impl Times {
    fn new(total: u64) -> Self {
        Times {
            all_ns: Vec::with_capacity(total as usize),
            left: total,
            cpu_ns: cpu_ns(std::process::id()),
        }
    }

    fn add(&mut self, now_ns: u64, stamp_ns: u64) {
        self.all_ns.push(now_ns.saturating_sub(stamp_ns));
        self.left = self.left.saturating_sub(1);
    }

    /// What our parent reads: percentiles without the first `warm`, and our processor time for each event.
    fn print(mut self, warm: u64) {
        let cpu_ns = cpu_ns(std::process::id()) - self.cpu_ns;
        let events = self.all_ns.len() as u64;
        self.all_ns.drain(..warm as usize);
        let [p50, p99, p999, max] = percentiles(self.all_ns);
        println!("{p50} {p99} {p999} {max} {}", cpu_ns / events);
    }
}

// -------------------------------------------------------------------------------------------- busy

const POLLED: [&str; 2] = ["bare cache line", "millpond"];

fn busy() {
    let count = if is_tiny() { 1000 } else { 50_000 };
    let mut figures: [Vec<Vec<f64>>; POLLED.len()] = Default::default();
    for round in 0..rounds() {
        for at in 0..POLLED.len() {
            let way = (round + at) % POLLED.len();
            figures[way].push(busy_round(POLLED[way], count));
        }
    }
    show_title(
        "busy: one way between two processes that poll, to and fro, cores 0 and 1",
        "ns",
    );
    for (name, rounds) in POLLED.iter().zip(&figures) {
        show(name, rounds, 1.0);
    }
    println!(
        "ratio millpond / bare cache line, p50: {:.2}",
        median_of(&figures[1], 0) / median_of(&figures[0], 0)
    );
}

fn busy_round(way: &str, count: u64) -> Vec<f64> {
    let rules = vec![passthrough_rule("ping:*"), passthrough_rule("pong:*")];
    let bus = new_bus("busy", rules, Limits::default());
    let clock = bus.clock();
    let lines = Lines::make();
    let bare = way == POLLED[0];
    let name = if bare { lines.name() } else { bus.name() };
    let mut publisher = bus.publisher("bench").expect("a label");
    let topic = publisher.topic("ping:busy").expect("a rule matches");
    let mut replies = subscribe(&bus, "pong:*", true);
    let (mut child, mut output) = start_role(&["busy", way, &count.to_string(), name]);
    read_line(&mut output);
    pin(Some(0));
    for number in 1..=count {
        if bare {
            lines.word(0).store(clock.now_ns(), Ordering::Release);
            while lines.word(1).load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
        } else {
            publisher
                .publish(topic, Level::Info, &PAYLOAD)
                .expect("room");
            let events = replies.run(&mut |_: &Event<'_>| {}, None);
            assert_eq!(events.expect("no loss"), 1);
        }
    }
    pin(None);
    let figures = numbers(&read_line(&mut output));
    child.wait().expect("the receiver ends");
    drop((publisher, replies));
    bus.remove().expect("nobody uses it");
    figures
}

fn busy_receiver(way: &str, count: u64, name: &str) {
    pin(Some(1));
    let mut seen = Times::new(count);
    if way == POLLED[0] {
        let clock = some_clock();
        let lines = Lines::open(name);
        println!("ready");
        let mut last = 0;
        for number in 1..=count {
            let stamp = loop {
                let stamp = lines.word(0).load(Ordering::Acquire);
                if stamp != last {
                    break stamp;
                }
                std::hint::spin_loop();
            };
            seen.add(clock.now_ns(), stamp);
            last = stamp;
            lines.word(1).store(number, Ordering::Release);
        }
    } else {
        let bus = Bus::open(name).expect("our parent made it");
        let clock = bus.clock();
        let mut publisher = bus.publisher("bench").expect("a label");
        let topic = publisher.topic("pong:busy").expect("a rule matches");
        let mut subscription = subscribe(&bus, "ping:*", true);
        println!("ready");
        while seen.left > 0 {
            let mut take = |event: &Event<'_>| seen.add(clock.now_ns(), event.time_ns);
            subscription.run(&mut take, None).expect("no loss");
            publisher
                .publish(topic, Level::Info, &PAYLOAD)
                .expect("room");
        }
    }
    seen.print(count / 10);
}

// ---------------------------------------------------------------------------------------- dispatch

/// Subscribers, and events a publisher commits at once.
const DISPATCHES: [(usize, u64); 5] = [(0, 1), (1, 1), (8, 1), (1, 64), (0, 64)];

fn dispatch() {
    let events = size(20_000_000);
    let mut figures: [Vec<Dispatched>; DISPATCHES.len()] = Default::default();
    for round in 0..rounds() {
        for at in 0..DISPATCHES.len() {
            let case = (round + at) % DISPATCHES.len();
            let (subscribers, batch) = DISPATCHES[case];
            figures[case].push(dispatch_round(events, subscribers, batch));
        }
    }
    println!(
        "\ndispatch: {events} events of 64 bytes, publisher -> daemon -> subscribers' on_batch"
    );
    println!(
        "{:34} {:>8}  {:22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "M events/s",
        "median",
        "",
        "lagged %",
        "pub ns",
        "pub p10",
        "pub cpu",
        "dmn cpu",
        "sub cpu"
    );
    for ((subscribers, batch), rounds) in DISPATCHES.iter().zip(&figures) {
        let of = |pick: fn(&Dispatched) -> f64| Spread::of(rounds.iter().map(pick).collect());
        let rate = of(|round| round.rate / 1e6);
        println!(
            "{:34} {rate:32} {:9.3} {:9.1} {:9.1} {:9.1} {:9.1} {:9.1}",
            format!("{subscribers} subscribers, publishes by {batch}"),
            of(|round| round.lagged_percent).median,
            of(|round| round.publish_ns).median,
            of(|round| round.burst_ns).median,
            of(|round| round.publisher_cpu_ns).median,
            of(|round| round.daemon_cpu_ns).median,
            of(|round| round.subscriber_cpu_ns).median,
        );
    }
    for case in 1..3 {
        let ratio = |pick: fn(&Dispatched) -> f64| {
            let each = figures[case].iter().zip(&figures[0]);
            Spread::of(
                each.map(|(with, without)| pick(with) / pick(without))
                    .collect(),
            )
        };
        let (burst, cpu) = (ratio(|r| r.burst_ns), ratio(|r| r.publisher_cpu_ns));
        println!(
            "publisher with {} / without subscribers: p10 of bursts {:.2} ({:.2} to {:.2}), cpu {:.2} ({:.2} to {:.2})",
            DISPATCHES[case].0, burst.median, burst.min, burst.max, cpu.median, cpu.min, cpu.max
        );
    }
}

struct Dispatched {
    /// From the first publish to the last event at the (last) subscriber; without one, in the outbox.
    rate: f64,
    lagged_percent: f64,
    publish_ns: f64,
    burst_ns: f64,
    publisher_cpu_ns: f64,
    daemon_cpu_ns: f64,
    subscriber_cpu_ns: f64,
}

fn dispatch_round(events: u64, subscribers: usize, batch: u64) -> Dispatched {
    let rule = Rule {
        lane_bytes: 16 << 20,
        outbox_bytes: 16 << 20,
        max_events: 2000,
        max_bytes: 1 << 20,
        overflow: Overflow::Block {
            deadline: Duration::from_secs(60),
        },
        ..Rule::new("data:*".parse().expect("a pattern"))
    };
    let bus = new_bus("dispatch", vec![rule], Limits::default());
    let daemon = DaemonProcess::start(&bus);
    let text = events.to_string();
    let mut children: Vec<_> = (0..subscribers)
        .map(|_| start_role(&["subscriber", bus.name(), &text]))
        .collect();
    for (_, output) in &mut children {
        read_line(output);
    }
    let cpu_before = cpu_ns(daemon.child.id());
    let (mut child, mut output) = start_role(&["publisher", bus.name(), &text, &batch.to_string()]);
    let published = numbers(&read_line(&mut output));
    child.wait().expect("the publisher ends");
    let (started_ns, flushed_ns) = (published[0], published[1]);
    let (mut ended_ns, mut lagged, mut subscriber_cpu) = (0f64, 0.0, 0.0);
    for (child, output) in &mut children {
        let line = numbers(&read_line(output));
        ended_ns = ended_ns.max(line[0]);
        lagged += line[1];
        subscriber_cpu += line[2];
        child.wait().expect("the subscriber ends");
    }
    if subscribers == 0 {
        ended_ns = flushed_ns;
    }
    let daemon_cpu = cpu_ns(daemon.child.id()) - cpu_before;
    daemon.stop();
    bus.remove().expect("nobody uses it");
    let each = events as f64;
    let of_all = each * subscribers.max(1) as f64;
    Dispatched {
        // `f64` holds these times to about 256 ns.
        rate: (each - lagged / subscribers.max(1) as f64) / (ended_ns - started_ns) * 1e9,
        lagged_percent: lagged / of_all * 100.0,
        publish_ns: published[2] / each,
        burst_ns: published[3],
        publisher_cpu_ns: published[4] / each,
        daemon_cpu_ns: daemon_cpu as f64 / each,
        subscriber_cpu_ns: subscriber_cpu / of_all,
    }
}

fn dispatch_publisher(bus: &str, events: u64, batch: u64) {
    let bus = Bus::open(bus).expect("our parent made it");
    let clock = bus.clock();
    let mut publisher = bus.publisher("bench").expect("a label");
    let topic = publisher.topic("data:bench").expect("a rule matches");
    let mut bursts_ns = Vec::with_capacity((events / BURST) as usize + 1);
    let cpu_before = cpu_ns(std::process::id());
    let started_ns = clock.now_ns();
    let mut last_ns = started_ns;
    for _ in 0..events / BURST {
        publish_burst(&mut publisher, topic, batch, BURST);
        let now_ns = clock.now_ns();
        bursts_ns.push(now_ns - last_ns);
        last_ns = now_ns;
    }
    publish_burst(&mut publisher, topic, batch, events % BURST);
    let ended_ns = clock.now_ns();
    let cpu = cpu_ns(std::process::id()) - cpu_before;
    publisher
        .flush(Guarantee::Written, None)
        .expect("the daemon delivers");
    assert_eq!(publisher.counts().dropped(), 0, "nothing is lost");
    // Bursts that had to wait for space are not what a publish costs.
    bursts_ns.sort_unstable();
    let free_ns = bursts_ns.get(bursts_ns.len() / 10).copied().unwrap_or(0);
    println!(
        "{started_ns} {} {} {} {cpu}",
        clock.now_ns(),
        ended_ns - started_ns,
        free_ns as f64 / BURST as f64
    );
}

#[inline]
fn publish_burst(publisher: &mut Publisher, topic: Topic, batch: u64, events: u64) {
    if batch == 1 {
        for _ in 0..events {
            publisher
                .publish(topic, Level::Info, black_box(&PAYLOAD))
                .expect("the daemon drains");
        }
    } else if events > 0 {
        let mut many = publisher.batch(topic).expect("our topic");
        for _ in 0..events {
            many.push(Level::Info, black_box(&PAYLOAD))
                .expect("the daemon drains");
        }
        many.commit();
    }
}

/// Looks at every event of every batch.
#[derive(Default)]
struct Taker {
    events: u64,
    sum: u64,
    lagged: u64,
    dropped: u64,
}

impl Subscriber for Taker {
    fn on_event(&mut self, event: &Event<'_>) {
        self.events += 1;
        self.sum += u64::from(event.payload[63]);
    }

    fn on_batch(&mut self, batch: &Batch<'_>) {
        for event in batch.events() {
            self.sum += u64::from(event.payload[63]);
            self.events += 1;
        }
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        self.lagged += lagged.count;
    }

    fn on_dropped(&mut self, dropped: &Dropped) {
        self.dropped += dropped.count();
    }
}

fn dispatch_subscriber(bus: &str, events: u64) {
    let bus = Bus::open(bus).expect("our parent made it");
    let clock = bus.clock();
    let mut subscription = subscribe(&bus, "data:*", false);
    let mut taker = Taker::default();
    println!("ready");
    let cpu_before = cpu_ns(std::process::id());
    while taker.events + taker.lagged + taker.dropped < events {
        subscription
            .run(&mut taker, Some(Duration::from_secs(60)))
            .expect("events come");
    }
    let ended_ns = clock.now_ns();
    assert_eq!(taker.sum, taker.events * 7, "what came is what was sent");
    let cpu = cpu_ns(std::process::id()) - cpu_before;
    println!("{ended_ns} {} {cpu}", taker.lagged);
}

// ------------------------------------------------------------------------------- rules and idle lanes

fn rules() {
    let events = size(5_000_000);
    let counts = [1, 16, 256];
    let mut figures: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds() {
        for at in 0..counts.len() {
            let case = (round + at) % counts.len();
            figures[case].push(rules_round(events, counts[case]));
        }
    }
    println!("\nrules: publish to the last of so many, consumer draining");
    println!("{:34} {:>8}", "ns/event", "median");
    for (count, figures) in counts.iter().zip(&figures) {
        let spread = Spread::of(figures.clone());
        println!("{:34} {spread}", format!("{count} rules"));
    }
    let medians = figures.map(|figures| Spread::of(figures).median);
    println!("ratio 256 / 1: {:.2}", medians[2] / medians[0]);
}

fn rules_round(events: u64, count: usize) -> f64 {
    let rule = |number: usize| Rule {
        lane_bytes: 4 << 20,
        ..Rule::new(format!("data{number}:*").parse().expect("a pattern"))
    };
    let rules = (0..count).map(rule).collect();
    let bus = new_bus("rules", rules, Limits::default());
    let stop = AtomicBool::new(false);
    let cost = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            let mut drain = bus.drain().expect("the only consumer");
            while !stop.load(Ordering::Acquire) {
                let pass = drain.pass(Scope::Batched, &mut |_| Verdict::Keep);
                if drain.directory_changed() {
                    drain.housekeep();
                }
                for channel in drain.uncommitted_channels() {
                    drain.commit_batched(channel, &[]);
                }
                if pass.records < BURST {
                    (0..2000).for_each(|_| std::hint::spin_loop());
                }
            }
        });
        let mut publisher = bus.publisher("bench").expect("a label");
        let topic = publisher.topic(&format!("data{}:bench", count - 1));
        let topic = topic.expect("a rule matches");
        let started = Instant::now();
        publish_burst(&mut publisher, topic, 1, events);
        let elapsed = started.elapsed();
        publisher
            .flush(Guarantee::Written, None)
            .expect("the consumer drains");
        stop.store(true, Ordering::Release);
        consumer.join().expect("the consumer ends");
        elapsed.as_nanos() as f64 / events as f64
    });
    bus.remove().expect("nobody uses it");
    cost
}

/// Idle lanes, and the bytes of the lane that is drained.
const IDLE: [(usize, u32); 6] = [
    (1, 64 << 10),
    (100, 64 << 10),
    (1000, 64 << 10),
    (1, 1 << 20),
    (100, 1 << 20),
    (1000, 1 << 20),
];

fn lanes() {
    let mut figures: [Vec<f64>; IDLE.len()] = Default::default();
    for round in 0..rounds() {
        for at in 0..IDLE.len() {
            let case = (round + at) % IDLE.len();
            figures[case].push(lanes_round(size(4_000_000), IDLE[case].0, IDLE[case].1));
        }
    }
    println!("\nidle lanes: draining one full lane, single thread, pass and commit; batched rule");
    println!("{:34} {:>8}", "ns/event", "median");
    for ((idle, bytes), figures) in IDLE.iter().zip(&figures) {
        let spread = Spread::of(figures.clone());
        println!(
            "{:34} {spread}",
            format!("{idle} idle lanes, {} KiB at a time", bytes / 1024)
        );
    }
    let medians = figures.map(|figures| Spread::of(figures).median);
    println!(
        "ratio 1,000 / 1 idle: {:.2} by 64 KiB, {:.2} by 1 MiB",
        medians[2] / medians[0],
        medians[5] / medians[3]
    );
}

fn lanes_round(events: u64, idle: usize, lane_bytes: u32) -> f64 {
    let rule = |pattern: &str, lane_bytes| Rule {
        lane_bytes,
        payload_bytes_limit: 4 << 10,
        overflow: Overflow::DropNewest,
        max_events: 1 << 20,
        ..Rule::new(pattern.parse().expect("a pattern"))
    };
    let rules = vec![rule("idle:*", 64 << 10), rule("busy:*", lane_bytes)];
    let limits = Limits {
        bus_bytes: 512 << 20,
        lanes: 1024,
    };
    let bus = new_bus("lanes", rules, limits);
    let silent: Vec<_> = (0..idle)
        .map(|number| {
            let mut publisher = bus.publisher(&format!("idle{number}")).expect("a label");
            publisher.topic("idle:bench").expect("a rule matches");
            publisher
        })
        .collect();
    let mut publisher = bus.publisher("busy").expect("a label");
    let topic = publisher.topic("busy:bench").expect("a rule matches");
    let mut drain = bus.drain().expect("the only consumer");
    let channel = drain.channel(&"busy:*".parse().expect("a pattern"));
    let channel = channel.expect("a channel");
    // Records of 96 bytes; not quite full, so that nothing is dropped.
    let burst = u64::from(lane_bytes) / 96 - 8;
    let (mut spent, mut records, mut sum) = (Duration::ZERO, 0, 0);
    while records < events {
        publish_burst(&mut publisher, topic, 64, burst);
        let started = Instant::now();
        let pass = drain.pass(Scope::Batched, &mut |item: Item<'_>| {
            if let Item::Record(record) = item {
                sum += u64::from(record.payload[63]);
            }
            Verdict::Keep
        });
        drain.commit_batched(channel, &[]);
        spent += started.elapsed();
        assert_eq!(pass.records, burst, "everything is taken at once");
        records += pass.records;
    }
    assert_eq!(sum, records * 7, "what was drained is what was published");
    drop((drain, publisher, silent));
    bus.remove().expect("nobody uses it");
    spent.as_nanos() as f64 / records as f64
}
