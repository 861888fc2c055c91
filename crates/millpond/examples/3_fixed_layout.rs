//! Publishes numbers as a struct, and shows them as JSON in a program that need not know the struct.
//!
//! ```console
//! $ cargo run -p millpond --example 3_fixed_layout
//! ```

use millpond::zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use millpond::{Bus, BusOptions, Daemon, Event, Level, SubscribeOptions};

#[derive(Debug, Clone, Copy, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[zerocopy(crate = "millpond::zerocopy")] // not needed where Cargo.toml has zerocopy itself
#[repr(C)] // the bytes are the payload: the same order for every compiler
#[event(name = "gpu:sample")]
struct GpuSample {
    #[event(unit = "ns")]
    sampled_at_ns: u64,
    #[event(unit = "mW")]
    power_mw: u32,
    #[event(unit = "MHz")]
    clock_mhz: u32,
    #[event(unit = "%")]
    utilisation: f32,
    /// Text up to its first NUL.
    model: [u8; 12],
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("example-3-{}", std::process::id());
    let bus = Bus::attach(&name, &BusOptions::default())?;
    let logs = tempfile::tempdir()?;
    let daemon = Daemon::builder(&bus, logs.path()).spawn()?;
    // `gpu:*` is an aggregate rule: count, min, max, mean and last of each field, once a second.
    let mut summaries = bus.subscribe(SubscribeOptions::new("dashboard", "gpu:*".parse()?))?;
    // Under `chat:*`, which is passthrough, the very events arrive.
    let mut samples = bus.subscribe(SubscribeOptions::new("reader", "chat:gpu:*".parse()?))?;

    // Set-up: this puts the layout where every process of the bus can read it.
    let mut publisher = bus.publisher("gpu-sampler")?;
    let topics = [
        publisher.event_topic_named::<GpuSample>("gpu:0:sample")?,
        publisher.event_topic_named::<GpuSample>("chat:gpu:sample")?,
    ];
    for step in 0..3 {
        for topic in topics {
            let sample = GpuSample {
                sampled_at_ns: bus.clock().now_ns(),
                power_mw: 300_000 + 1000 * step,
                clock_mhz: 1980,
                utilisation: 12.5,
                model: *b"H200\0\0\0\0\0\0\0\0",
            };
            publisher.publish_event(topic, Level::Info, &sample)?;
        }
    }

    // The other side: by the type, or by what the bus says of the bytes.
    let event = samples.recv()?;
    let sample: GpuSample = event.as_event().decode()?;
    let schema = bus.schema(event.schema_id).ok_or("no schema")?;
    println!("{} W", f64::from(sample.power_mw) / 1000.0);
    println!("{}", schema.to_json(&event.payload).unwrap_or_default());

    let event = summaries.recv()?;
    let summary = event.as_event().aggregate().ok_or("no aggregate")?;
    for (field, numbers) in schema.numeric_fields().zip(summary.fields()) {
        let (min, max, mean) = (numbers.min, numbers.max, numbers.mean);
        println!("{}: {min} to {max}, mean {mean}", field.name);
    }
    drop((publisher, samples, summaries));
    daemon.stop()?;
    bus.remove()?;
    Ok(())
}
