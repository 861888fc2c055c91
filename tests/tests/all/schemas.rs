//! A process that takes an event for another type is told which type it has, and which one was asked for.

use std::time::Duration;

use millpond_bus::{EventLayout, Since, SubscribeOptions};
use millpond_tests::{GpuSample, RoomSample};

use crate::peers::Report;
use crate::support::Place;

#[test]
fn decoding_another_type_names_both_schemas() {
    let place = Place::new("wrong schema", "peers");
    let options = SubscribeOptions {
        since: Since::Oldest,
        ..SubscribeOptions::new("reader", "pass:*".parse().expect("a pattern"))
    };
    let mut subscription = place.bus.subscribe(options).expect("a subscription");
    let published = Report::finish(place.start_peer("sample", &[]));
    assert_eq!(published.number("published"), 1);
    let event = subscription
        .recv_timeout(Duration::from_secs(60))
        .expect("an event");
    let found = GpuSample::decode(event.schema_id, &event.payload).expect("the right type");
    assert_eq!((found.power_mw, found.fan_rpm), (700_000, 4_200));

    let mismatch = RoomSample::decode(event.schema_id, &event.payload).expect_err("the wrong type");
    assert_eq!(mismatch.found_id(), GpuSample::schema().id());
    let text = mismatch
        .with_found(place.bus.schema(event.schema_id))
        .to_string();
    for part in [
        "\"pass:gpu:sample\"",
        "\"pass:room:sample\"",
        &format!("{:08x}", GpuSample::schema().id()),
        &format!("{:08x}", RoomSample::schema().id()),
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    // The table says to anybody what it is.
    let schema = place.bus.schema(event.schema_id).expect("registered");
    assert_eq!(
        schema.to_json(&event.payload).as_deref(),
        Some(r#"{"power_mw":700000,"fan_rpm":4200}"#)
    );
}
