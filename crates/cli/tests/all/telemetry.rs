//! `telemetry`: what it publishes, what it says of what breaks, and how it ends.
//!
//! GPUs are played from a file, so that the outcome is the same with and without one here.

use std::process::{Child, Stdio};
use std::time::Duration;

use millpond_tests::Watchdog;
use serde_json::Value;

use crate::support::{Place, code, signal, text};

const HEAD: &str = r#"{"recording":"millpond-gpu","version":1,"made_by":"a test"}"#;
const ABSENT: &str =
    r#"{"connect_failed":{"trouble":"library-absent","reason":"no libnvidia-ml.so.1"}}"#;
const CONNECTED: &str =
    r#"{"connected":{"driver_version":"550.1","devices":[{"name":"Some GPU"}]}}"#;
const SAMPLE: &str = r#"{"gpu":0,"group":"fast","at_ns":0,"readings":{"power_draw_watts":300.5,"temperature_gpu_celsius":61}}"#;

fn samples(place: &Place, lines: &[&str]) -> String {
    let path = place.dir.path().join("samples.ndjson");
    std::fs::write(&path, lines.join("\n")).expect("a file");
    path.display().to_string()
}

fn start(place: &Place, args: &[&str]) -> Child {
    place
        .command(&["telemetry"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts")
}

/// Waits for the first event that is like this, from the beginning.
fn wait(place: &Place, args: &[&str]) -> Value {
    let mut all = vec!["wait", "--json", "--since", "oldest", "--timeout", "60s"];
    all.extend(args);
    let output = place.run(&all);
    assert_eq!(code(&output), 0, "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_driver_that_is_absent_at_first_is_told_and_found_later() {
    let _watchdog = Watchdog::start("telemetry", Duration::from_secs(180));
    let mut place = Place::new("telemetry");
    let file = samples(&place, &[HEAD, ABSENT, CONNECTED, SAMPLE]);
    place.start(&[]);
    let child = start(
        &place,
        &["--gpu-only", "--interval", "20ms", "--samples", &file],
    );
    let absent = wait(
        &place,
        &["telemetry:state:gpu:driver", "--where", "/state=absent"],
    );
    assert_eq!(absent["json"]["reason"], "no libnvidia-ml.so.1");
    assert_eq!(absent["level"], "warn");
    wait(
        &place,
        &["telemetry:state:gpu:driver", "--where", "/state=ok"],
    );
    let gpu = wait(&place, &["telemetry:state:gpu:0", "--where", "/state=ok"]);
    assert_eq!(gpu["json"]["name"], "Some GPU");
    let record = wait(&place, &["gpu:0:sample"]);
    let power = &record["fields"]["power_draw_watts"];
    assert_eq!(
        (power["min"].as_f64(), power["last"].as_f64()),
        (Some(300.5), Some(300.5))
    );
    assert!(
        record["fields"]["fan_speed_ratio"]["mean"].is_null(),
        "it has no fan"
    );

    signal(&child, "-TERM");
    let output = child.wait_with_output().expect("it ends");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(code(&output), 0, "{out}{err}");
    assert!(
        err.contains("warning: gpu:driver absent: no libnvidia-ml.so.1"),
        "{err}"
    );
    assert!(err.contains("gpu:driver ok: 550.1"), "{err}");
    assert!(
        out.contains("samples of GPUs") && out.contains("% of a processor"),
        "{out}"
    );
    place.stop();
}

#[test]
fn one_look_prints_everything_and_publishes_nothing() {
    let place = Place::new("telemetry-once");
    let file = samples(&place, &[HEAD, CONNECTED, SAMPLE]);
    let output = place.run(&["telemetry", "--once", "--json", "--samples", &file]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let look: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let events = look["events"].as_array().expect("a list");
    let fields = |name: &str| {
        let event = events.iter().find(|event| event["name"] == name);
        &event.unwrap_or_else(|| panic!("{name} is missing"))["fields"]
    };
    assert_eq!(fields("gpu:0:sample")["temperature_gpu_celsius"], 61.0);
    assert!(fields("gpu:0:sample")["clock_sm_mhz"].is_null());
    assert!(fields("host:memory")["total_bytes"].as_f64() > Some(0.0));
    assert!(
        millpond_bus::Bus::open(&place.bus).is_err(),
        "no bus was made"
    );

    // The same for people: units, and nothing of what is not there.
    let output = place.run(&["telemetry", "--once", "--gpu-only", "--samples", &file]);
    let shown = text(&output.stdout);
    assert!(
        shown.contains("gpu:0:sample\n") && shown.contains("300.5 W"),
        "{shown}"
    );
    assert!(!shown.contains("clock_sm_mhz"), "{shown}");
}

#[test]
fn a_recording_is_made_and_never_written_over() {
    let _watchdog = Watchdog::start("telemetry --record", Duration::from_secs(180));
    let mut place = Place::new("telemetry-record");
    place.start(&[]);
    let path = place.dir.path().join("gpus.ndjson");
    let file = path.display().to_string();
    let child = start(&place, &["--gpu-only", "--record", &file, "--json"]);
    // With a driver or without: what became of the attempt to connect is published.
    wait(&place, &["telemetry:state:gpu:driver"]);
    signal(&child, "-INT");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(summary["dropped"], 0);
    assert!(summary["report"]["cpu_ns"].as_u64() > Some(0));
    let recorded = std::fs::read_to_string(&path).expect("it is there");
    let mut lines = recorded.lines();
    let head = lines.next().expect("a head");
    assert!(head.contains(r#""recording":"millpond-gpu""#), "{head}");
    assert!(lines.next().expect("the attempt").contains("connect"));

    let output = place.run(&["telemetry", "--gpu-only", "--record", &file]);
    assert_eq!(code(&output), 2);
    assert!(
        text(&output.stderr).contains("never written over"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_file_that_is_no_recording_is_refused_with_its_line() {
    let place = Place::new("telemetry-none");
    let file = samples(&place, &[HEAD, CONNECTED, "{\"gpu\":0}"]);
    let output = place.run(&["telemetry", "--samples", &file]);
    assert_eq!(code(&output), 2);
    let said = text(&output.stderr);
    assert!(said.contains("samples.ndjson: line 3"), "{said}");
}
