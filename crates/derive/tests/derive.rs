//! Derived events over a real bus: what one type publishes, another reads by its type or by its schema alone.

use millpond_bus::{Bus, BusOptions, EventLayout, Item, Level, PublishError, Scope, Verdict};
use millpond_derive::Event;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const FANS: usize = 2;
type Milliwatts = u32;

#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "gpu:sample", crate = "millpond_bus")]
struct GpuSample {
    #[event(unit = "mW")]
    power_mw: Milliwatts,
    /// A doc comment is no obstacle.
    #[event(unit = "°C")]
    temperature: i16,
    fans: [u8; FANS],
    #[event(unit = "ns")]
    sampled_at: u64,
    load: f32,
    r#type: u32,
    name: [u8; 8],
}

const SAMPLE: GpuSample = GpuSample {
    power_mw: 300_000,
    temperature: -4,
    fans: [0xff, 7],
    sampled_at: u64::MAX,
    load: 0.5,
    r#type: 3,
    name: *b"H200\0\0\0\0",
};

/// The same event, one release later.
#[derive(Debug, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "gpu:sample")]
#[event(crate = "millpond_bus")]
struct NewSample {
    #[event(unit = "W")]
    power: f32,
}

struct TestBus(Bus);

impl TestBus {
    fn new(name: &str) -> Self {
        let name = format!("derive-{name}-{}", std::process::id());
        TestBus(Bus::attach(&name, &BusOptions::default()).expect("shared memory can be had"))
    }

    /// Everything published so far: name, schema and payload.
    fn drain(&self) -> Vec<(String, u32, Vec<u8>)> {
        let mut drain = self.0.drain().expect("nobody else is the consumer");
        let mut seen = Vec::new();
        for scope in [Scope::Persisted, Scope::Passthrough, Scope::Batched] {
            drain.pass(scope, &mut |item: Item<'_>| {
                if let Item::Record(record) = item {
                    let (name, payload) = (record.name.text.to_owned(), record.payload.to_vec());
                    seen.push((name, record.schema_id, payload));
                }
                Verdict::Keep
            });
        }
        seen
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.0.remove().expect("nobody uses it");
    }
}

#[test]
fn the_schema_says_what_the_struct_says() {
    assert_eq!(
        GpuSample::schema().to_text(),
        "v1 gpu:sample 32 power_mw:u32@0=mW temperature:i16@4=°C fans:u8[2]@6 sampled_at:u64@8=ns load:f32@16 \
         type:u32@20 name:u8[8]@24"
    );
    assert_ne!(GpuSample::schema().id(), NewSample::schema().id());
}

#[test]
fn an_event_comes_back_by_type_and_by_schema() {
    let bus = TestBus::new("back");
    let mut publisher = bus.0.publisher("gpu").expect("a good label");
    let topic = publisher
        .event_topic::<GpuSample>()
        .expect("room for a schema");
    let second = publisher
        .event_topic_named::<GpuSample>("gpu:1:sample")
        .expect("room");
    let bytes = publisher.topic("log:gpu").expect("a rule matches");
    publisher
        .publish_event(topic, Level::Info, &SAMPLE)
        .expect("room");
    publisher
        .publish_event(second, Level::Info, &SAMPLE)
        .expect("room");
    publisher
        .publish(bytes, Level::Info, b"started")
        .expect("room");
    let mut claim = publisher.claim(topic, Level::Info, 64).expect("room");
    assert!(claim.append(SAMPLE.as_bytes()));
    claim.commit();
    let mut batch = publisher.batch(topic).expect("its own topic");
    batch.push(Level::Info, SAMPLE.as_bytes()).expect("room");
    batch.commit();
    drop(publisher);

    let mut seen = bus.drain();
    seen.sort();
    let names: Vec<_> = seen.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "gpu:1:sample",
            "gpu:sample",
            "gpu:sample",
            "gpu:sample",
            "log:gpu"
        ]
    );
    for (_, schema_id, payload) in &seen[..4] {
        assert_eq!(GpuSample::decode(*schema_id, payload), Ok(SAMPLE));
        let schema = bus
            .0
            .schema(*schema_id)
            .expect("the publisher has registered it");
        assert_eq!(*schema, *GpuSample::schema());
        assert_eq!(
            schema.to_json(payload).as_deref(),
            Some(
                r#"{"power_mw":300000,"temperature":-4,"fans":[255,7],"sampled_at":18446744073709551615,"load":0.5,"type":3,"name":"H200"}"#
            )
        );
        let numbers: Vec<_> = schema
            .numeric_fields()
            .filter_map(|field| schema.read_f64(field, payload))
            .collect();
        assert_eq!(numbers, [300_000.0, -4.0, u64::MAX as f64, 0.5, 3.0]);
    }
    assert_eq!(seen[4].1, 0);
    assert_eq!(bus.0.schema(0), None);
}

#[test]
fn another_type_is_a_mismatch_that_names_both() {
    let bus = TestBus::new("mismatch");
    let mut publisher = bus.0.publisher("gpu").expect("a good label");
    let topic = publisher
        .event_topic::<GpuSample>()
        .expect("room for a schema");
    let bytes = publisher.topic("gpu:sample").expect("a rule matches");
    for topic in [topic, bytes] {
        let refused = publisher.publish_event(topic, Level::Info, &NewSample { power: 1.0 });
        assert_eq!(refused, Err(PublishError::WrongSchema));
    }
    assert_eq!(publisher.counts().published, 0);

    let id = GpuSample::schema().id();
    let mismatch = NewSample::decode(id, SAMPLE.as_bytes()).expect_err("another type");
    assert!(
        mismatch.to_string().contains(&format!("{id:08x}")),
        "{mismatch}"
    );
    assert!(
        mismatch
            .to_string()
            .contains(&format!("{:08x}", NewSample::schema().id()))
    );
    let mismatch = mismatch.with_found(bus.0.schema(id)).to_string();
    assert!(
        mismatch.contains("power_mw:u32@0=mW where power:f32@0=W"),
        "{mismatch}"
    );

    let mismatch = GpuSample::decode(0, SAMPLE.as_bytes())
        .expect_err("plain bytes")
        .to_string();
    assert!(
        mismatch.contains("plain bytes") && mismatch.contains("gpu:sample"),
        "{mismatch}"
    );
    let mismatch = GpuSample::decode(id, b"short")
        .expect_err("too short")
        .to_string();
    assert!(
        mismatch.contains("5 bytes") && mismatch.contains("32"),
        "{mismatch}"
    );
}
