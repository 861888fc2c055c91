//! `millpond bench` from outside: a tiny run of everything, its report, rows of others in it, and an end by Ctrl-C that leaves
//! nothing. No figure is judged.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use millpond_loadgen::{Host, Terminal};
use millpond_tests::Watchdog;
use serde_json::Value;

use crate::support::{Place, code, text};

const CTRL_C: &[u8] = b"\x03";
const SIGINT: i32 = 2;

/// A row of two rounds, as a program of others would write it.
fn row(peer: &str, seconds: f64, more: &str) -> String {
    let round = |seconds: f64| {
        format!("{{\"events\":1000000,\"seconds\":{seconds},\"cpu_seconds\":0.1,\"lost\":0}}")
    };
    format!(
        "{{\"part\":\"throughput\",\"work\":\"64 B, one to one, as fast as it goes\",\"peer\":\"{peer}\",\"version\":\"1\",\
         \"figure\":\"rate\",\"guarantees\":{{\"bounded\":true,\"blocking\":false,\"lossy\":false,\"crash_safe\":true,\
         \"durable\":false}},\"rounds\":[{},{}]{more}}}\n",
        round(seconds),
        round(seconds * 1.01)
    )
}

fn path(path: &Path) -> String {
    text(path.as_os_str().as_encoded_bytes())
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = dir.read_dir().expect("a directory");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    names.map(|name| text(name.as_encoded_bytes())).collect()
}

#[test]
fn a_tiny_run_measures_every_part_and_its_report_can_be_made_again() {
    let _watchdog = Watchdog::start("bench", Duration::from_secs(240));
    let place = Place::new("bench");
    let at = |name: &str| place.dir.path().join(name);
    fs::create_dir(at("work")).expect("a directory");
    let (work, saved, report) = (
        path(&at("work")),
        path(&at("own.jsonl")),
        path(&at("report")),
    );
    let args = [
        "bench", "--size", "tiny", "--json", "--dir", &work, "--save", &saved, "--report", &report,
    ];
    let output = place.run(&args);
    assert_eq!(
        code(&output),
        0,
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(text(&output.stderr), "", "no terminal, no progress");
    assert_eq!(entries(&at("work")), [""; 0], "its logs are gone");
    let rows: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect();
    for row in &rows {
        let rounds = row["rounds"].as_array().map(Vec::len);
        let expected = if row["skipped"].is_null() { 1 } else { 0 };
        assert_eq!(rounds, Some(expected), "{row}");
    }
    let listed = place.run(&["bench", "--list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    for part in listed["parts"].as_array().expect("a list") {
        assert!(
            rows.iter().any(|row| row["part"] == part["part"]),
            "nothing of {part}"
        );
    }

    let page = fs::read_to_string(at("report/README.md")).expect("it was written");
    assert!(page.contains("A tiny run"), "{page}");
    let again = path(&at("again"));
    let output = place.run(&[
        "bench",
        "--only-report",
        "--rows",
        &saved,
        "--report",
        &again,
    ]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    for name in ["README.md", "report.html", "rows.jsonl"] {
        let read = |dir: &str| fs::read(at(dir).join(name)).expect("it is there");
        assert!(read("report") == read("again"), "{name}");
    }
}

#[test]
fn rows_of_others_are_compared_and_a_narrow_terminal_has_all_of_it() {
    let place = Place::new("bench-rows");
    let at = |name: &str| place.dir.path().join(name);
    fs::write(at("own.jsonl"), row("millpond, consumer", 0.04, "")).expect("room");
    let skipped = row(
        "nats core",
        1.0,
        ",\"skipped\":\"nats-server is not installed\"",
    );
    fs::write(at("bus.jsonl"), row("iceoryx2", 0.08, "") + &skipped).expect("room");
    let (own, bus) = (path(&at("own.jsonl")), path(&at("bus.jsonl")));
    let report = path(&at("report"));
    let args = [
        "bench",
        "--only-report",
        "--rows",
        &own,
        &bus,
        "--report",
        &report,
    ];
    for columns in ["40", "80", "200"] {
        let output = place.command(&args).env("COLUMNS", columns).output();
        let output = output.expect("the command starts");
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        let shown = text(&output.stdout);
        let table = shown.split("report: ").next().expect("it is before that");
        let longest = table.lines().map(|line| line.chars().count()).max();
        assert!(longest <= columns.parse().ok(), "{columns}:\n{shown}");
        let words = table.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in [
            "millpond, consumer wins, 2.00x faster",
            "nats core skipped: nats-server",
        ] {
            assert!(words.contains(said), "{columns}, {said}:\n{shown}");
        }
    }
    let html = fs::read_to_string(at("report/report.html")).expect("it was written");
    assert!(html.contains("iceoryx2") && !html.contains("<script"));

    // Only millpond's own failures count.
    let failed = |peer: &str| {
        fs::write(
            at("failed.jsonl"),
            row(peer, 1.0, ",\"failed\":\"round 2: it hung\""),
        )
        .expect("room");
        let output = place.run(&[
            "bench",
            "--only-report",
            "--rows",
            &path(&at("failed.jsonl")),
        ]);
        assert!(text(&output.stdout).contains("failed: round 2: it hung"));
        code(&output)
    };
    assert_eq!((failed("iceoryx2"), failed("millpond, consumer")), (0, 1));
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let place = Place::new("bench-mistakes");
    let at = |name: &str| path(&place.dir.path().join(name));
    fs::write(at("bad.jsonl"), "{}\n").expect("room");
    let (bad, nowhere, no_dir) = (at("bad.jsonl"), at("no/own.jsonl"), at("no"));
    let cases: [(&[&str], &str); 6] = [
        (&["--only-report"], "--rows"),
        (
            &["--only-report", "--rows", &bad],
            "bad.jsonl, line 1: no row",
        ),
        (
            &["--only-report", "--rows", &nowhere],
            "own.jsonl cannot be read",
        ),
        (
            &["--save", &nowhere],
            "own.jsonl cannot be written: there is no such directory",
        ),
        (&["--dir", &no_dir], "cannot be used for logs"),
        (&["rings"], "ring"),
    ];
    for (args, said) in cases {
        let output = place.run(&[&["bench", "--size", "tiny"], args].concat());
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(
            text(&output.stderr).contains(said),
            "{args:?}: {}",
            text(&output.stderr)
        );
        assert_eq!(text(&output.stdout), "", "{args:?}");
    }
    assert_eq!(entries(place.dir.path()), ["bad.jsonl"]);
}

#[test]
fn ctrl_c_ends_a_measurement_and_leaves_no_bus_and_no_file() {
    let _watchdog = Watchdog::start("bench and Ctrl-C", Duration::from_secs(240));
    let place = Place::new("bench-ctrl-c");
    let dir = place.dir.path().join("work");
    fs::create_dir(&dir).expect("a directory");
    let environment = [
        ("MILLPOND", OsStr::new(env!("CARGO_BIN_EXE_millpond"))),
        ("MILLPOND_CONFIG", OsStr::new("/dev/null")),
        ("TERM", OsStr::new("xterm-256color")),
        ("DIR", dir.as_os_str()),
    ];
    let host = Host::new(env!("CARGO_BIN_EXE_millpond"), &["replay-role"]);
    // `exec`: the command has the number of the shell.
    let script = "cd \"$DIR\" && echo \"pid=$$\" && exec \"$MILLPOND\" bench sink --rounds 1000 --dir . --save own --report report";
    let words = ["sh", "-c", script].map(OsStr::new);
    let mut terminal = Terminal::start(&host, (120, 24), &environment, &words).expect("a terminal");
    let (mut buffer, mut received) = (vec![0; 64 << 10], Vec::new());
    let mut is_typed = false;
    loop {
        let count = terminal.read(&mut buffer).expect("it can be read");
        if count == 0 {
            break;
        }
        received.extend_from_slice(&buffer[..count]);
        // Its progress says that it is in the middle of it.
        if !is_typed && text(&received).contains("sink: ") {
            is_typed = true;
            terminal.write_all(CTRL_C).expect("it listens");
        }
    }
    let shown = text(&received);
    let status = terminal.wait().expect("it ends");
    assert!(is_typed, "it ended by itself: {shown}");
    assert_eq!(status.code(), Some(128 + SIGINT), "{shown}");
    assert_eq!(entries(&dir), [""; 0]);
    let pid = shown
        .split("pid=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let part = format!("-{}-", pid.expect("it was told"));
    let left = entries(Path::new("/dev/shm"))
        .into_iter()
        .filter(|name| name.contains(&part));
    assert_eq!(left.collect::<Vec<_>>(), [""; 0]);
}
