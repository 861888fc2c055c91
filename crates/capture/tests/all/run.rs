//! Captures with nobody in front: what is on the bus when they have ended.

use std::time::Duration;

use millpond_bus::{Bus, BusOptions, Item, Level, Scope, Verdict};
use millpond_capture::{
    Capture, CommandSpec, Controller, Ending, Exit, Front, Mode, Newlines, Spec, View, WindowSize,
};

/// A bus that goes with the test.
struct TestBus(Bus);

impl TestBus {
    fn new(name: &str) -> Self {
        let name = format!("capture-{name}-{}", std::process::id());
        TestBus(Bus::attach(&name, &BusOptions::default()).expect("room for a bus"))
    }

    /// Name, level and text of all that waits to be written.
    fn lines(&self) -> Vec<(String, Level, String)> {
        let mut drain = self.0.drain().expect("the only consumer");
        let mut lines = Vec::new();
        drain.pass(Scope::Persisted, &mut |item| {
            if let Item::Record(record) = item {
                let text = String::from_utf8_lossy(record.payload).into_owned();
                lines.push((
                    record.name.text.to_owned(),
                    Level::from_u8(record.level),
                    text,
                ));
            }
            Verdict::Keep
        });
        let mark = drain.mark(Scope::Persisted);
        drain.commit(mark, &[], false);
        lines
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        let _ = self.0.remove();
    }
}

fn spec(mode: Mode, script: &str) -> Spec {
    Spec {
        service: "web".to_owned(),
        command: CommandSpec {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            ..CommandSpec::default()
        },
        mode,
        view: View::Terminal,
        partial_delay: Duration::from_secs(3600),
        level: None,
        raw_to: None,
        linger: Duration::from_secs(3600),
    }
}

const OWN: Mode = Mode::Pty {
    size: WindowSize {
        columns: 90,
        rows: 33,
    },
    newlines: Newlines::Own,
};

fn capture(bus: &TestBus, spec: &Spec) -> Ending {
    let controller = Controller::new().expect("a handle is left");
    run(bus, spec, &controller)
}

fn run(bus: &TestBus, spec: &Spec, controller: &Controller) -> Ending {
    let mut capture = Capture::open(&bus.0, spec.clone()).expect("there is room");
    capture.run(Front::Nobody, controller).expect("it runs")
}

fn texts<'l>(lines: &'l [(String, Level, String)], name: &str) -> Vec<&'l str> {
    let of_name = lines.iter().filter(|(event, ..)| event == name);
    of_name.map(|(_, _, text)| text.as_str()).collect()
}

#[test]
fn lines_have_levels_and_stand_between_two_notes() {
    for (mode, source) in [(OWN, "pty:out"), (Mode::Pipe, "pipe:out")] {
        let bus = TestBus::new("levels");
        let ending = capture(&bus, &spec(mode, "echo fine; echo 'error: bad'; exit 3"));
        assert_eq!(ending.exit, Exit::Code(3));
        let lines = bus.lines();
        assert_eq!(lines.len() as u64, ending.lines.published);
        let name = format!("log:web:{source}");
        assert!(lines[0].2.starts_with("started pid="), "{lines:?}");
        assert!(
            lines[0]
                .2
                .contains(r"command=sh -c 'echo fine; echo '\''error: bad'\''; exit 3'")
        );
        assert_eq!(lines[1], (name.clone(), Level::Info, "fine".to_owned()));
        assert_eq!(lines[2], (name, Level::Error, "error: bad".to_owned()));
        let (event, level, text) = &lines[3];
        assert_eq!((event.as_str(), *level), ("log:web:capture", Level::Error));
        assert!(text.starts_with("exited code=3 after="), "{text}");
    }
}

#[test]
fn a_line_of_many_pieces_has_one_level_and_can_be_joined() {
    let bus = TestBus::new("pieces");
    let script = "printf 'WARN '; head -c 100000 /dev/zero | tr '\\0' x; echo; echo next";
    capture(&bus, &spec(Mode::Pipe, script));
    let lines = bus.lines();
    let pieces: Vec<_> = lines
        .iter()
        .filter(|(name, ..)| name.starts_with("log:web:pipe:out"))
        .collect();
    let (last, first) = pieces.split_last().expect("lines");
    assert_eq!(last.2, "next");
    assert!(first.iter().all(|(_, level, _)| *level == Level::Warn));
    let ends = first
        .iter()
        .filter(|(name, ..)| !name.ends_with('+'))
        .count();
    assert_eq!(ends, 1);
    let joined: String = first.iter().map(|(_, _, text)| text.as_str()).collect();
    assert_eq!(joined.len(), 100_005);
}

#[test]
fn a_line_that_waits_for_its_end_is_told_after_the_delay() {
    let bus = TestBus::new("partial");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let gate = file.path().with_extension("gate");
    let script = format!(
        "printf 'Continue? '; while ! test -e {0}; do sleep 0.02; done; echo yes",
        gate.display()
    );
    let mut spec = spec(OWN, &script);
    spec.partial_delay = Duration::from_millis(20);
    let lines = std::thread::scope(|scope| {
        let running = scope.spawn(|| capture(&bus, &spec));
        let mut lines = Vec::new();
        while texts(&lines, "log:web:pty:out+").is_empty() {
            lines.extend(bus.lines());
        }
        std::fs::write(&gate, "").expect("room on the disk");
        assert_eq!(running.join().expect("it ends").exit, Exit::Code(0));
        lines.extend(bus.lines());
        lines
    });
    std::fs::remove_file(&gate).expect("it was made");
    assert_eq!(texts(&lines, "log:web:pty:out+"), ["Continue? "]);
    assert_eq!(texts(&lines, "log:web:pty:out"), ["yes"]);
}

#[test]
fn nobody_in_front_is_an_empty_input_and_a_terminal_of_the_size_asked_for() {
    let bus = TestBus::new("nobody");
    // Standard input is no terminal then, the others are.
    let ending = capture(
        &bus,
        &spec(
            OWN,
            "cat; test -t 0 || stty size <&1; test -t 1 && test -t 2 && echo both",
        ),
    );
    assert_eq!(ending.exit, Exit::Code(0));
    assert_eq!(texts(&bus.lines(), "log:web:pty:out"), ["33 90", "both"]);
}

#[test]
fn signals_end_it_and_the_last_note_says_which() {
    let bus = TestBus::new("signal");
    let controller = Controller::new().expect("a handle is left");
    let asks = controller.clone();
    let ending = std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&bus, &spec(OWN, "sleep 1000"), &controller));
        asks.signal(15);
        running.join().expect("it does not panic")
    });
    assert_eq!((ending.exit, ending.exit.code()), (Exit::Signal(15), 143));
    let lines = bus.lines();
    let notes = texts(&lines, "log:web:capture");
    assert!(
        notes[1].starts_with("ended by signal 15 (SIGTERM) after="),
        "{notes:?}"
    );
    let last = lines.last().expect("there are notes");
    assert_eq!(last.1, Level::Info, "it was asked to end: {last:?}");
}

#[test]
fn runs_of_a_capture_share_its_lanes_and_are_counted_each() {
    let bus = TestBus::new("runs");
    let mut capture = Capture::open(&bus.0, spec(OWN, "echo once")).expect("there is room");
    let controller = Controller::new().expect("a handle is left");
    for _ in 0..3 {
        let ending = capture.run(Front::Nobody, &controller).expect("it runs");
        assert_eq!(ending.lines.published, 3);
        assert!(ending.is_at_line_start, "nobody was shown anything");
    }
    assert_eq!(bus.0.stats().lanes.len(), 2);
    assert_eq!(texts(&bus.lines(), "log:web:pty:out"), ["once"; 3]);
}

#[test]
fn full_bus_starts_nothing_and_says_what_to_do() {
    let name = format!("capture-fullbus-{}", std::process::id());
    let mut options = BusOptions::default();
    options.limits.bus_bytes = 16 << 20;
    let bus = TestBus(Bus::attach(&name, &options).expect("room for a bus"));
    let mut open = Vec::new();
    let error = loop {
        match Capture::open(&bus.0, spec(OWN, "echo once")) {
            Ok(capture) => open.push(capture),
            Err(error) => break error.to_string(),
        }
        assert!(open.len() < 8, "5 MiB each");
    };
    assert!(
        error.starts_with("web cannot be logged, so it is not started: "),
        "{error}"
    );
    assert!(
        error.contains("millpond daemon") && error.contains("bus-bytes"),
        "{error}"
    );
}

#[test]
fn who_sets_the_newlines_itself_gets_what_it_asked_for() {
    let bus = TestBus::new("onlcr");
    let script = "stty -a <&2 | grep -o '.onlcr'; stty onlcr <&1; stty -a <&2 | grep -o '.onlcr'";
    capture(&bus, &spec(OWN, script));
    let lines = bus.lines();
    let texts: Vec<&str> = texts(&lines, "log:web:pty:out")
        .into_iter()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    assert_eq!(texts, ["-onlcr", " onlcr"]);
}

#[test]
fn many_at_once_from_one_process_keep_apart() {
    let bus = TestBus::new("many");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let bus = &bus;
            scope.spawn(move || {
                let mode = if number % 2 == 0 { OWN } else { Mode::Pipe };
                let mut spec = spec(
                    mode,
                    &format!("for n in 1 2 3; do echo {number}.$n; done; exit {number}"),
                );
                spec.service = format!("s{number}");
                assert_eq!(capture(bus, &spec).exit, Exit::Code(number));
            });
        }
    });
    let lines = bus.lines();
    for number in 0..8 {
        let source = if number % 2 == 0 {
            "pty:out"
        } else {
            "pipe:out"
        };
        let expected = [1, 2, 3].map(|n| format!("{number}.{n}"));
        assert_eq!(texts(&lines, &format!("log:s{number}:{source}")), expected);
    }
}

#[test]
fn without_any_linger_what_was_written_is_still_read() {
    for mode in [OWN, Mode::Pipe] {
        let bus = TestBus::new("nolinger");
        // Somebody holds the terminal, so that its end cannot be seen.
        let mut spec = spec(mode, "sleep 2 & seq 5000; kill -9 $$");
        spec.linger = Duration::ZERO;
        let ending = capture(&bus, &spec);
        assert_eq!(ending.exit, Exit::Signal(9));
        let lines = bus.lines();
        let source = if mode == OWN { "pty:out" } else { "pipe:out" };
        assert_eq!(texts(&lines, &format!("log:web:{source}")).len(), 5000);
    }
}
