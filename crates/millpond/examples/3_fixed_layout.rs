//! Publishes numbers as a struct, and shows them as JSON in a program that need not know the struct.
//!
//! ```console
//! $ cargo run -p millpond --example 3_fixed_layout
//! ```

use millpond::zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
use millpond::{Bus, BusOptions, Event, EventLayout, Level};
use millpond_bus::{Item, Scope, Verdict};

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
    let name = format!("example-fixed-layout-{}", std::process::id());
    let bus = Bus::attach(&name, &BusOptions::default())?;

    // Set-up: this puts the layout where every process of the bus can read it.
    let mut publisher = bus.publisher("gpu-sampler")?;
    let topics = [
        publisher.event_topic_named::<GpuSample>("gpu:0:sample")?,
        publisher.event_topic_named::<GpuSample>("gpu:1:sample")?,
    ];
    for step in 0..3 {
        for (gpu, topic) in topics.into_iter().enumerate() {
            let sample = GpuSample {
                sampled_at_ns: bus.clock().now_ns(),
                power_mw: 300_000 + 1000 * step,
                clock_mhz: 1980,
                utilisation: 12.5 * (gpu + 1) as f32,
                model: *b"H200\0\0\0\0\0\0\0\0",
            };
            publisher.publish_event(topic, Level::Info, &sample)?;
        }
    }

    // The other side: by the type, or by what the bus says of the bytes.
    let mut drain = bus.drain()?;
    for scope in [Scope::Persisted, Scope::Passthrough] {
        drain.pass(scope, &mut |item: Item<'_>| {
            let Item::Record(record) = item else {
                return Verdict::Keep;
            };
            if let Some(schema) = bus.schema(record.schema_id)
                && let Some(json) = schema.to_json(record.payload)
            {
                println!("{} {json}", record.name.text);
            }
            match GpuSample::decode(record.schema_id, record.payload) {
                Ok(sample) => println!("  {} W", f64::from(sample.power_mw) / 1000.0),
                Err(mismatch) => println!("  {mismatch}"),
            }
            Verdict::Keep
        });
    }
    drop((drain, publisher));
    bus.remove()?;
    Ok(())
}
