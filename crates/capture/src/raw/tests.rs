//! What the raw stream puts on the bus, and in a file.

use std::io::{Read, Seek};

use millpond_bus::{BusOptions, OwnedEvent, Since, SubscribeOptions};

use super::*;

struct TestBus(Bus);

impl TestBus {
    fn new(name: &str) -> Self {
        let name = format!("raw-{name}-{}", std::process::id());
        TestBus(Bus::attach(&name, &BusOptions::default()).unwrap())
    }

    fn lane(&self) -> RawLane {
        RawLane::new(&self.0, &name()).unwrap()
    }

    fn events(&self) -> Vec<OwnedEvent> {
        let options = SubscribeOptions {
            since: Since::Oldest,
            ..SubscribeOptions::new("test", "pty:*".parse().unwrap())
        };
        let mut subscription = self.0.subscribe(options).unwrap();
        std::iter::from_fn(|| subscription.try_recv().unwrap()).collect()
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        let _ = self.0.remove();
    }
}

fn name() -> RawName {
    "web".parse().unwrap()
}

fn pty() -> Mode {
    Mode::Pty {
        size: WindowSize::default(),
        newlines: crate::session::Newlines::Kernel,
    }
}

fn output_of(events: &[OwnedEvent]) -> Vec<u8> {
    let out = events.iter().filter(|event| event.name.ends_with(":out"));
    out.flat_map(|event| event.payload.clone()).collect()
}

#[test]
fn stream_is_on_the_bus_and_in_the_file() {
    let bus = TestBus::new("both");
    let mut file = tempfile::tempfile().unwrap();
    let given = file.try_clone().unwrap();
    let size = WindowSize::default();
    let mut lane = bus.lane();
    let mut stream = RawStream::new(&mut lane, pty(), size, "sh -i", Some(given));
    stream.output(b"one\r\n");
    stream.resize(size);
    stream.resize(WindowSize {
        columns: 100,
        rows: 30,
    });
    stream.output(b"two\xff");
    stream.finish(Exit::Code(3), false).unwrap();
    let events = bus.events();
    let said: Vec<(&str, &[u8])> = events
        .iter()
        .map(|event| (&*event.name, &event.payload[..]))
        .collect();
    let expected: [(&str, &[u8]); 5] = [
        ("pty:web:size", b"80x24"),
        ("pty:web:out", b"one\r\n"),
        ("pty:web:size", b"100x30"),
        ("pty:web:out", b"two\xff"),
        ("pty:web:exit", b"code 3"),
    ];
    assert_eq!(said, expected);
    assert!(events.iter().all(|event| &*event.source == "capture:web"));
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let mut lines = text.lines().map(|line| line.split_once(',').unwrap().1);
    let header = lines.next().unwrap();
    assert!(
        header.contains(r#""title":"web","command":"sh -i""#),
        "{header}"
    );
    let rest: Vec<&str> = lines.collect();
    assert_eq!(
        rest,
        [
            "\"o\",\"one\\r\\n\"]",
            "\"r\",\"100x30\"]",
            "\"o\",\"two\u{fffd}\"]",
            "\"b\",\"dHdv/w==\"]",
            "\"x\",\"3\"]"
        ]
    );
}

#[test]
fn pipes_get_carriage_returns() {
    let bus = TestBus::new("pipe");
    let size = WindowSize::default();
    let mut lane = bus.lane();
    let mut stream = RawStream::new(&mut lane, Mode::Pipe, size, "x", None);
    let bytes = b"a\n\nb\r\nc".repeat(9000);
    stream.output(&bytes);
    stream.finish(Exit::Signal(9), false).unwrap();
    let events = bus.events();
    let expected = b"a\r\n\r\nb\r\r\nc".repeat(9000);
    assert!(output_of(&events) == expected);
    let limit = events
        .iter()
        .map(|event| event.payload.len())
        .max()
        .unwrap();
    assert!(limit <= EVENT_BYTES);
    assert_eq!(events.last().unwrap().payload, b"signal 9");
}

#[test]
fn size_is_said_again_for_those_who_come_late() {
    let bus = TestBus::new("size");
    let size = WindowSize::default();
    let mut lane = bus.lane();
    let mut stream = RawStream::new(&mut lane, pty(), size, "x", None);
    for _ in 0..100 {
        stream.output(&[b'x'; 4096]);
    }
    stream.finish(Exit::Code(0), false).unwrap();
    let events = bus.events();
    let sizes = events.iter().filter(|event| event.name.ends_with(":size"));
    assert_eq!(sizes.count(), 1 + 100 * 4096 / SIZE_INTERVAL_BYTES);
    assert_eq!(output_of(&events).len(), 100 * 4096);
}

#[test]
fn full_lane_is_never_waited_for() {
    let bus = TestBus::new("full");
    let size = WindowSize::default();
    let mut file = tempfile::tempfile().unwrap();
    let given = file.try_clone().unwrap();
    let mut lane = bus.lane();
    let mut stream = RawStream::new(&mut lane, pty(), size, "x", Some(given));
    // Four times the lane, and nobody drains.
    for _ in 0..1024 {
        stream.output(&[b'x'; 4096]);
    }
    assert!(stream.lane.publisher.counts().dropped_full > 500);
    assert_eq!(stream.lane.publisher.counts().dropped_deadline, 0);
    stream.finish(Exit::Code(0), false).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(
        text.matches('x').count(),
        1024 * 4096 + 2,
        "header and exit have one each"
    );
}

#[test]
fn full_disk_is_told_with_the_path() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        eprintln!("SKIPPED: there is no /dev/full");
        return;
    };
    let bus = TestBus::new("disk");
    let size = WindowSize::default();
    let mut lane = bus.lane();
    let mut stream = RawStream::new(&mut lane, pty(), size, "y", Some(full));
    stream.output(b"goes on");
    let error = stream.finish(Exit::Code(0), false).unwrap_err().to_string();
    assert!(error.starts_with("/dev/full: "), "{error}");
    assert!(
        error.ends_with("; 0 bytes of the cast are written"),
        "{error}"
    );
}

#[test]
fn names_that_are_none() {
    for text in [
        "", "@1", "web@", "web@x", "web@-1", "a:b", "a b", "*", "web@1@2",
    ] {
        assert!(text.parse::<RawName>().is_err(), "{text:?}");
    }
    assert_eq!(RawName::of_event("pty:web"), None);
    assert_eq!(RawName::of_event("log:web:out"), None);
    assert_eq!(RawName::of_label("pipe:web"), None);
    assert_eq!(RawName::of_label("capture:web"), Some(name()));
    for (last, payload) in [
        ("size", &b"80"[..]),
        ("size", b"80x70000"),
        ("exit", b"code"),
        ("exit", b"code 256"),
        ("exit", b"signal 128"),
        ("exit", b"\xff"),
    ] {
        assert_eq!(RawEvent::parse(last, payload), None, "{last} {payload:?}");
    }
}
