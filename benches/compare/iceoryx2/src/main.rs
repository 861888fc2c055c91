//! iceoryx2 at the work of `benches/subscribe.rs`: waking a sleeping process with 64 bytes, and handing 64
//! bytes to a polling one. One round a call, so that a shell loop can interleave it with ours.
//!
//! Run: `cargo run --release -- wake pinned`, `-- wake free`, `-- busy`

#![forbid(unsafe_code)]

use std::time::Duration;

use iceoryx2::prelude::*;
use millpond_benches::{cpu_ns, percentiles, pin, read_line, start_self};
use millpond_bus::{Bus, BusOptions, Clock};

/// The stamp, and what fills up to 64 bytes.
type Payload = [u64; 8];
type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const WARM: u64 = 20;
const WAKE_EVENTS: u64 = 1000;
/// A receiver that is kept from its core for a while misses nothing.
const BUFFER: usize = 1024;
const BUSY_EVENTS: u64 = 50_000;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    set_log_level(LogLevel::Error);
    match args[..] {
        ["wake", place] => wake(place),
        ["busy"] => busy(),
        ["wake-receiver", place, name] => wake_receiver(place, name),
        ["busy-receiver", name] => busy_receiver(name),
        _ => Err("usage: compare-iceoryx2 wake pinned | wake free | busy".into()),
    }
}

/// The clock that millpond's events are stamped with.
fn clock() -> Fallible<Clock> {
    let bus = Bus::attach(&format!("iox-{}", std::process::id()), &BusOptions::default())?;
    let clock = bus.clock();
    bus.remove()?;
    Ok(clock)
}

type Node = iceoryx2::node::Node<ipc::Service>;
type Sender = iceoryx2::port::publisher::Publisher<ipc::Service, Payload, ()>;
type Receiver = iceoryx2::port::subscriber::Subscriber<ipc::Service, Payload, ()>;

fn node() -> Fallible<Node> {
    Ok(NodeBuilder::new().create::<ipc::Service>()?)
}

fn sender(node: &Node, name: &str) -> Fallible<Sender> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<Payload>()
        .subscriber_max_buffer_size(BUFFER)
        .open_or_create()?;
    Ok(service.publisher_builder().create()?)
}

fn receiver(node: &Node, name: &str) -> Fallible<Receiver> {
    let service = node
        .service_builder(&name.try_into()?)
        .publish_subscribe::<Payload>()
        .subscriber_max_buffer_size(BUFFER)
        .open_or_create()?;
    Ok(service.subscriber_builder().buffer_size(BUFFER).create()?)
}

fn send(sender: &Sender, stamp_ns: u64) -> Fallible<()> {
    let sample = sender.loan_uninit()?;
    sample.write_payload([stamp_ns; 8]).send()?;
    Ok(())
}

fn wake(place: &str) -> Fallible<()> {
    let clock = clock()?;
    let name = format!("bench-wake-{}", std::process::id());
    let node = node()?;
    let sender = sender(&node, &name)?;
    let events = node
        .service_builder(&name.as_str().try_into()?)
        .event()
        .open_or_create()?;
    let notifier = events.notifier_builder().create()?;
    let (mut child, mut output) = start_self(&["wake-receiver".into(), place.into(), name]);
    read_line(&mut output);
    pin((place == "pinned").then_some(0));
    for _ in 0..WARM + WAKE_EVENTS {
        std::thread::sleep(Duration::from_millis(1));
        send(&sender, clock.now_ns())?;
        notifier.notify()?;
    }
    println!("iceoryx2 wake {place} {}", read_line(&mut output));
    child.wait()?;
    Ok(())
}

fn wake_receiver(place: &str, name: &str) -> Fallible<()> {
    pin((place == "pinned").then_some(1));
    let clock = clock()?;
    let node = node()?;
    let receiver = receiver(&node, name)?;
    let events = node
        .service_builder(&name.try_into()?)
        .event()
        .open_or_create()?;
    let listener = events.listener_builder().create()?;
    println!("ready");
    let cpu = cpu_ns(std::process::id());
    let mut times_ns = Vec::new();
    while (times_ns.len() as u64) < WARM + WAKE_EVENTS {
        if listener.timed_wait(|_| {}, Duration::from_secs(5))? == 0 {
            return Err("iceoryx2: nothing came for 5 s".into());
        }
        while let Some(sample) = receiver.receive()? {
            times_ns.push(clock.now_ns().saturating_sub(sample[0]));
        }
    }
    print(times_ns, WARM, cpu);
    Ok(())
}

fn busy() -> Fallible<()> {
    let clock = clock()?;
    let name = format!("bench-busy-{}", std::process::id());
    let node = node()?;
    let sender = sender(&node, &format!("{name}-ping"))?;
    let replies = receiver(&node, &format!("{name}-pong"))?;
    let (mut child, mut output) = start_self(&["busy-receiver".into(), name]);
    read_line(&mut output);
    pin(Some(0));
    for _ in 0..BUSY_EVENTS {
        send(&sender, clock.now_ns())?;
        while replies.receive()?.is_none() {
            std::hint::spin_loop();
        }
    }
    println!("iceoryx2 busy {}", read_line(&mut output));
    child.wait()?;
    Ok(())
}

fn busy_receiver(name: &str) -> Fallible<()> {
    pin(Some(1));
    let clock = clock()?;
    let node = node()?;
    let receiver = receiver(&node, &format!("{name}-ping"))?;
    let sender = sender(&node, &format!("{name}-pong"))?;
    println!("ready");
    let cpu = cpu_ns(std::process::id());
    let mut times_ns = Vec::new();
    while (times_ns.len() as u64) < BUSY_EVENTS {
        if let Some(sample) = receiver.receive()? {
            times_ns.push(clock.now_ns().saturating_sub(sample[0]));
            drop(sample);
            send(&sender, 0)?;
        } else {
            std::hint::spin_loop();
        }
    }
    print(times_ns, BUSY_EVENTS / 10, cpu);
    Ok(())
}

/// p50, p99, p99.9, max and processor time for each event, all in ns, as `subscribe` has them.
fn print(mut times_ns: Vec<u64>, warm: u64, cpu_before_ns: u64) {
    let each_ns = (cpu_ns(std::process::id()) - cpu_before_ns) / times_ns.len() as u64;
    times_ns.drain(..warm as usize);
    let [p50, p99, p999, max] = percentiles(times_ns);
    println!("{p50} {p99} {p999} {max} {each_ns}");
}
