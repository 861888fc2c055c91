//! Lines of a pipe on their way into the log and back out of it: pieces, partial lines, the copy on standard output.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Place, code, text};

const PIECE_BYTES: usize = 16 << 10;

fn json_lines(output: &[u8]) -> Vec<Value> {
    text(output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Source and message of each object.
fn shown(objects: &[Value]) -> Vec<(&str, &str)> {
    objects
        .iter()
        .map(|object| {
            let text = |name: &str| object[name].as_str().expect("a text");
            (text("source"), text("message"))
        })
        .collect()
}

#[test]
fn a_line_that_waits_for_its_end_is_shown_and_joined_again() {
    let mut place = Place::new("partial");
    place.start(&[]);
    let mut follow = place
        .command(&["query", "--service", "web", "--follow", "--utc"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut seen = BufReader::new(follow.stdout.take().expect("its output was asked for"));
    let mut pipe = place
        .command(&["pipe", "--service", "web", "--partial-delay", "20ms"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = pipe.stdin.take().expect("its input was asked for");
    stdin.write_all(b"first\nname? ").expect("it reads");
    let mut line = String::new();
    seen.read_line(&mut line).expect("it can be read");
    assert!(line.ends_with(" INFO  pipe first\n"), "{line}");
    let mut question = Vec::new();
    while !question.ends_with(b"name? ") {
        let mut byte = [0];
        seen.read_exact(&mut byte).expect("it can be read");
        question.push(byte[0]);
    }
    assert!(
        text(&question).ends_with(" INFO  pipe+ name? "),
        "{}",
        text(&question)
    );
    stdin.write_all(b"Ann\n").expect("it reads");
    drop(stdin);
    assert!(pipe.wait().expect("the command ends").success());
    line.clear();
    seen.read_line(&mut line).expect("it can be read");
    assert_eq!(line, "Ann\n");
    follow.kill().expect("it runs");
    follow.wait().expect("it ends");

    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert_eq!(text(&output.stdout), "first\nname? Ann\n");
    let output = place.run(&["query", "--service", "web", "--json"]);
    let objects = json_lines(&output.stdout);
    assert_eq!(shown(&objects), [("pipe", "first"), ("pipe", "name? Ann")]);
    assert!(objects[1].get("continued").is_none(), "{}", objects[1]);
    // They are two records all the same.
    let output = place.run(&["query", "--service", "web", "--count"]);
    assert_eq!(text(&output.stdout), "3\n");
    let output = place.run(&["tail", "--service", "web", "-n", "2", "--utc"]);
    assert!(
        text(&output.stdout).ends_with(" pipe+ name? Ann\n"),
        "{}",
        text(&output.stdout)
    );
    assert_eq!(text(&output.stdout).lines().count(), 1);
    place.stop();
}

#[test]
fn what_is_not_whole_says_so() {
    let mut place = Place::new("interrupted");
    place.start(&[]);
    for (event, message) in [
        ("log:web:pty+", "ab"),
        ("log:web:rpc", "in between"),
        ("log:web:pty", "cd"),
        ("log:web:pty+", "ef"),
    ] {
        let output = place.run(&["publish", event, message, "--wait", "written"]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    }
    let query = |args: &[&str]| {
        let output = place.run(&[&["query", "--service", "web"], args].concat());
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        output.stdout
    };
    let objects = json_lines(&query(&["--json"]));
    let all = [
        ("pty+", "ab"),
        ("rpc", "in between"),
        ("pty", "cd"),
        ("pty+", "ef"),
    ];
    assert_eq!(shown(&objects), all);
    assert_eq!(objects[0]["continued"], true);
    assert!(objects[2].get("continued").is_none());
    let lines = text(&query(&["--utc"]));
    let ends: Vec<&str> = lines
        .lines()
        .map(|line| line.split_once("  ").expect("a level").1)
        .collect();
    assert_eq!(ends, ["pty+ ab", "rpc in between", "pty cd", "pty+ ef"]);
    assert!(lines.ends_with('\n'));
    // A filter that takes away what was in between leaves a line.
    let objects = json_lines(&query(&["--json", "--source", "pty*"]));
    assert_eq!(shown(&objects), [("pty", "abcd"), ("pty+", "ef")]);
    // The other way round nothing is joined.
    let objects = json_lines(&query(&["--json", "--newest-first"]));
    let mut reversed = all;
    reversed.reverse();
    assert_eq!(shown(&objects), reversed);
    place.stop();
}

#[test]
fn pieces_of_16_kib_come_back_as_the_lines_they_were() {
    let mut place = Place::new("pieces");
    place.start(&[]);
    let lengths = [0, 1, 2, 3].iter().flat_map(|&pieces| {
        let whole = pieces * PIECE_BYTES;
        [whole.saturating_sub(1), whole, whole + 1]
    });
    let mut bytes = Vec::new();
    let mut messages = Vec::new();
    for (number, length) in lengths.chain([PIECE_BYTES]).enumerate() {
        let letter = b"abcdefghijklmnopqrstuvwxyz"[number];
        messages.push(text(&vec![letter; length]));
        bytes.extend(vec![letter; length]);
        bytes.push(b'\n');
    }
    // One that never ends.
    bytes.pop();
    let output = place.feed(&["pipe", "--service", "web"], &bytes);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert!(output.stdout == bytes, "it came back different");
    let objects = json_lines(&place.run(&["query", "--service", "web", "--json"]).stdout);
    // Two empty lines in a row are a line, and word of another.
    let found: Vec<&str> = objects
        .iter()
        .filter(|object| object["source"] != "millpond")
        .map(|object| object["message"].as_str().expect("a text"))
        .collect();
    messages.dedup();
    assert!(found == messages, "lines that are not those of the pipe");
    assert_eq!(objects.last().expect("lines")["source"], "pipe+");
    place.stop();
}

#[test]
fn a_line_of_64_mb_takes_little_memory() {
    const LINE_BYTES: usize = 64_000_000;
    let mut place = Place::new("endless");
    place.start(&[]);
    let mut pipe = place
        .command(&["pipe", "--service", "web"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = pipe.stdin.take().expect("its input was asked for");
    let block: Vec<u8> = (0..100_000_u32).map(|at| b'a' + (at % 23) as u8).collect();
    for _ in 0..LINE_BYTES / block.len() {
        stdin.write_all(&block).expect("it reads");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", pipe.id()));
    let status = status.expect("it waits for more");
    let most: usize = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("a size in KiB");
    assert!(most << 10 < LINE_BYTES / 2, "{most} KiB");
    drop(stdin);
    assert!(pipe.wait().expect("the command ends").success());
    let raw = place.run(&["query", "--service", "web", "--raw"]).stdout;
    assert_eq!(raw.len(), LINE_BYTES);
    assert!(
        raw.chunks(block.len()).all(|chunk| chunk == block),
        "it came back different"
    );
    let shown = place.run(&["query", "--service", "web"]).stdout;
    assert_eq!(shown.iter().filter(|&&byte| byte == b'\n').count(), 1);
    assert!(shown.len() < LINE_BYTES + 100 && shown.ends_with(b"\n"));
    let objects = json_lines(&place.run(&["query", "--service", "web", "--json"]).stdout);
    assert!(objects.len() > LINE_BYTES >> 21, "about 1 MiB each");
    let mut bytes = 0;
    for object in &objects {
        let message = object["message"].as_str().expect("a text");
        bytes += message.len();
        assert!(message.len() < (1 << 20) + PIECE_BYTES);
        assert_eq!(object["continued"], true);
    }
    assert_eq!(bytes, LINE_BYTES);
    place.stop();
}

#[test]
fn a_copy_that_nobody_reads_any_more_costs_the_log_nothing() {
    let mut place = Place::new("tee");
    place.start(&[]);
    let lines = "a line of some length to fill the pipe with\n".repeat(20_000);
    let output = place.feed(&["pipe", "--service", "all", "--tee"], lines.as_bytes());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(output.stdout == lines.as_bytes(), "the copy is different");
    let mut pipe = place
        .command(&["pipe", "--service", "web", "--tee"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = pipe.stdin.take().expect("its input was asked for");
    let mut copy = BufReader::new(pipe.stdout.take().expect("its output was asked for"));
    stdin
        .write_all(lines.as_bytes()[..44].as_ref())
        .expect("it reads");
    let mut line = String::new();
    copy.read_line(&mut line).expect("it can be read");
    assert_eq!(line, lines[..44]);
    drop(copy);
    stdin.write_all(&lines.as_bytes()[44..]).expect("it reads");
    drop(stdin);
    let output = pipe.wait_with_output().expect("the command ends");
    assert_eq!(code(&output), 0);
    assert_eq!(text(&output.stderr), "");
    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert!(output.stdout == lines.as_bytes(), "it came back different");
    place.stop();
}

#[test]
fn the_terminal_view_is_what_a_person_would_have_read() {
    let mut place = Place::new("view");
    place.start(&[]);
    let bytes = b"10%\r 50%\r100%\n\x1b[31mred\x1b[0m\r\n  plain\n";
    let output = place.feed(&["pipe", "--service", "web", "--view", "terminal"], bytes);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert_eq!(text(&output.stdout), "100%\nred\n  plain\n");
    place.stop();
}

#[test]
fn all_pieces_of_a_line_have_the_level_of_its_beginning() {
    let mut place = Place::new("level");
    place.start(&[]);
    let line = format!("ERROR {}\n", "WARNING: x ".repeat(5000));
    let output = place.feed(&["pipe", "--service", "web"], line.as_bytes());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let args = ["query", "--service", "web", "--raw", "--level", "error"];
    assert!(place.run(&args).stdout == line.as_bytes(), "a part of it");
    place.stop();
}
