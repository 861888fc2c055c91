//! What a publish costs while the consumer drains, beside a bare ring in the same run.
//!
//! The bare ring is the floor: one writer, one reader, a length and 64 bytes a record, no stamp, no sequence,
//! no statistics, no doorbell. Both rings have 4 MiB, the size of a log lane, and both readers let records
//! gather between looks. Each pair of measurements is interleaved, figures are medians of the rounds.
//!
//! Run: `cargo bench -p millpond-benches --bench publish`

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use millpond_benches::{Spread, is_tiny, machine, read_line, rounds, size, start_self};
use millpond_bus::{
    Bus, BusOptions, Class, Guarantee, Item, Level, Rule, RuleTable, Scope, Verdict,
};

const PAYLOAD_BYTES: usize = 64;
/// The reader lets a few records gather before it looks again; the same in both.
const FEW: u64 = 64;
const SPINS: u32 = 2000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "publisher") {
        let number = |offset: usize| args[at + offset].parse().expect("a number");
        return publisher_process(&args[at + 1], number(2), number(3));
    }
    let events = size(20_000_000);
    println!("{}", machine());
    println!(
        "{events} events of {PAYLOAD_BYTES} bytes; median (least to greatest) of {} rounds",
        rounds()
    );
    let mut figures: [Vec<f64>; 9] = Default::default();
    for _ in 0..rounds() {
        figures[0].push(bare_ring(events, 1, false));
        figures[7].push(bare_ring(events, 1, true));
        figures[1].push(bus_threads(events, 1, Class::Batch));
        figures[2].push(bare_ring(events, 16, false));
        figures[3].push(bus_threads(events, 16, Class::Batch));
        figures[4].push(bus_processes(events, 1));
        figures[5].push(bus_processes(events, 16));
        figures[6].push(bus_processes(events, 64));
        figures[8].push(bus_threads(events, 1, Class::Passthrough));
    }
    let names = [
        "bare ring, one by one, threads",
        "publish, one by one, threads",
        "bare ring, by 16, threads",
        "batch of 16, threads",
        "publish, one by one, processes",
        "batch of 16, processes",
        "batch of 64, processes",
        "bare ring with stamp, threads",
        "publish, passthrough, threads",
    ];
    println!("{:34} {:>8}  {:22} {:>8}", "", "ns/event", "", "M/s");
    let spreads = figures.map(Spread::of);
    for (name, spread) in names.iter().zip(&spreads) {
        println!("{name:34} {spread:32} {:8.1}", 1e3 / spread.median);
    }
    println!(
        "ratio publish / bare ring: {:.2}",
        spreads[1].median / spreads[0].median
    );
    println!(
        "ratio publish / bare ring with stamp: {:.2}",
        spreads[1].median / spreads[7].median
    );
    if is_tiny() {
        println!("(a tiny run: the figures mean nothing)");
    }
}

/// A ring without anything.
struct BareRing {
    tail: Line,
    head: Line,
    words: Vec<AtomicU64>,
}

#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

const RECORD_WORDS: u64 = 1 + PAYLOAD_BYTES as u64 / 8;
const BARE_WORDS: u64 = 1 << 19;

/// ns per event, writer's side.
fn bare_ring(events: u64, batch: u64, stamped: bool) -> f64 {
    let ring = Arc::new(BareRing {
        tail: Line::default(),
        head: Line::default(),
        words: (0..BARE_WORDS).map(|_| AtomicU64::new(0)).collect(),
    });
    let reader = {
        let ring = Arc::clone(&ring);
        std::thread::spawn(move || bare_read(&ring, events))
    };
    let payload = black_box([7u64; PAYLOAD_BYTES / 8]);
    let (mut tail, mut head) = (0, 0);
    let started = Instant::now();
    for event in 0..events {
        while tail + RECORD_WORDS - head > BARE_WORDS {
            head = ring.head.0.load(Ordering::Acquire);
            std::hint::spin_loop();
        }
        let at = |word: u64| &ring.words[((tail + word) % BARE_WORDS) as usize];
        let stamp = if stamped { counter() } else { 0 };
        at(0).store(PAYLOAD_BYTES as u64 ^ stamp << 32, Ordering::Relaxed);
        for (index, word) in payload.iter().enumerate() {
            at(1 + index as u64).store(*word, Ordering::Relaxed);
        }
        tail += RECORD_WORDS;
        if (event + 1).is_multiple_of(batch) {
            ring.tail.0.store(tail, Ordering::Release);
        }
    }
    ring.tail.0.store(tail, Ordering::Release);
    let elapsed = started.elapsed();
    reader.join().expect("the reader ends");
    elapsed.as_nanos() as f64 / events as f64
}

/// The processor's counter, as cheaply as it can be read.
fn counter() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a register that every x86-64 has.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

fn bare_read(ring: &BareRing, events: u64) {
    let (mut head, mut seen, mut sum) = (0, 0, 0);
    while seen < events {
        let tail = ring.tail.0.load(Ordering::Acquire);
        let before = seen;
        while head < tail {
            for word in 0..RECORD_WORDS {
                let at = ((head + word) % BARE_WORDS) as usize;
                sum = u64::wrapping_add(sum, ring.words[at].load(Ordering::Relaxed));
            }
            head += RECORD_WORDS;
            seen += 1;
        }
        ring.head.0.store(head, Ordering::Release);
        if seen - before < FEW {
            (0..SPINS).for_each(|_| std::hint::spin_loop());
        }
    }
    black_box(sum);
}

fn new_bus(class: Class) -> Bus {
    let name = format!("bench-publish-{}", std::process::id());
    let rule = Rule {
        class,
        lane_bytes: 4 << 20,
        ..Rule::new("data:*".parse().expect("a pattern"))
    };
    let rules = RuleTable::new(vec![rule]).expect("one good rule");
    let options = BusOptions {
        rules,
        ..BusOptions::default()
    };
    Bus::attach(&name, &options).expect("shared memory can be had")
}

/// Publishes and returns ns per event.
fn publish_all(bus: &Bus, events: u64, batch: u64) -> f64 {
    let mut publisher = bus.publisher("bench").expect("a label");
    let topic = publisher.topic("data:bench").expect("a rule matches");
    let payload = black_box([7u8; PAYLOAD_BYTES]);
    let started = Instant::now();
    if batch == 1 {
        for _ in 0..events {
            publisher
                .publish(topic, Level::Info, &payload)
                .expect("the consumer drains");
        }
    } else {
        for _ in 0..events.div_ceil(batch) {
            let mut many = publisher.batch(topic).expect("our topic");
            for _ in 0..batch {
                many.push(Level::Info, &payload)
                    .expect("the consumer drains");
            }
            many.commit();
        }
    }
    let elapsed = started.elapsed();
    publisher
        .flush(Guarantee::Written, None)
        .expect("the consumer drains");
    elapsed.as_nanos() as f64 / events as f64
}

/// Drains until told to stop; returns the records seen.
fn drain_until(bus: &Bus, class: Class, stop: &AtomicBool) -> u64 {
    let mut drain = bus.drain().expect("the only consumer");
    let channel = drain.channel(&"data:*".parse().expect("a pattern"));
    let channel = channel.expect("the rule's");
    let scope = match class {
        Class::Passthrough => Scope::Passthrough,
        _ => Scope::Batched,
    };
    let mut records = 0;
    let mut sum = 0u64;
    while !stop.load(Ordering::Acquire) {
        let pass = drain.pass(scope, &mut |item: Item<'_>| {
            if let Item::Record(record) = item {
                sum += u64::from(record.payload[0]);
            }
            Verdict::Keep
        });
        records += pass.records;
        if drain.directory_changed() {
            drain.housekeep();
        }
        if pass.records > 0 {
            match scope {
                Scope::Passthrough => drain.commit_passthrough(),
                // Nothing is handed on: what is measured is the way to the consumer.
                _ => drain.commit_batched(channel, &[]),
            }
        }
        if pass.records < FEW {
            (0..SPINS).for_each(|_| std::hint::spin_loop());
        }
    }
    assert_eq!(sum, records * 7, "what was drained is what was published");
    records
}

fn bus_threads(events: u64, batch: u64, class: Class) -> f64 {
    let bus = new_bus(class);
    let stop = AtomicBool::new(false);
    let cost = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| drain_until(&bus, class, &stop));
        let cost = publish_all(&bus, events, batch);
        stop.store(true, Ordering::Release);
        let drained = consumer.join().expect("the consumer ends");
        assert!(drained >= events, "nothing is lost");
        cost
    });
    bus.remove().expect("nobody uses it");
    cost
}

/// As `bus_threads`, with the publisher in a process of its own. It waits until everything is drained.
fn bus_processes(events: u64, batch: u64) -> f64 {
    let bus = new_bus(Class::Batch);
    let stop = AtomicBool::new(false);
    let cost = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| drain_until(&bus, Class::Batch, &stop));
        let (mut child, mut output) = start_self(&[
            "publisher".into(),
            bus.name().into(),
            events.to_string(),
            batch.to_string(),
        ]);
        let cost: f64 = read_line(&mut output).parse().expect("a figure");
        child.wait().expect("the helper ends");
        stop.store(true, Ordering::Release);
        let drained = consumer.join().expect("the consumer ends");
        assert!(drained >= events, "nothing is lost");
        cost
    });
    bus.remove().expect("nobody uses it");
    cost
}

fn publisher_process(bus: &str, events: u64, batch: u64) {
    let bus = Bus::open(bus).expect("our parent made it");
    println!("{}", publish_all(&bus, events, batch));
}
