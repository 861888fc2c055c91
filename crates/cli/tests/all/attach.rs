//! `attach` on real captures: what it shows of the past, what comes live, and how it ends. Nothing waits for a
//! time: a test reads until what it expects is there.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use millpond_bus::Bus;
use serde_json::Value;

use crate::support::{Daemon, signal, text};

/// A bus of its own, removed at the end, and the captures on it.
struct Place {
    dir: tempfile::TempDir,
    bus: String,
    daemon: Option<Daemon>,
}

impl Place {
    fn new(name: &str) -> Self {
        Place {
            dir: tempfile::tempdir().expect("a temporary place"),
            bus: format!("attach-{name}-{}", std::process::id()),
            daemon: None,
        }
    }

    fn with_daemon(name: &str) -> Self {
        let mut place = Place::new(name);
        place.daemon = Some(Daemon::start(&mut place.command(&["daemon"])));
        place
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command
            .args(args)
            .env("MILLPOND_BUS", &self.bus)
            .env("MILLPOND_LOGS", self.dir.path().join("logs"))
            .env("MILLPOND_CONFIG", "/dev/null")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a shell script under `capture` to its end.
    fn captured(&self, service: &str, script: &str) -> Output {
        let args = ["capture", "--service", service, "--", "sh", "-c", script];
        self.command(&args).output().expect("the command starts")
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut child = self.command(args).spawn().expect("the command starts");
        let output = child.stdout.take().expect("its output was asked for");
        Running {
            child,
            output,
            seen: Vec::new(),
        }
    }

    /// A capture whose script reads lines from a FIFO, and writes what they say; with the FIFO's other end.
    fn start_told(&self, service: &str) -> (Running, std::fs::File) {
        let fifo = self.dir.path().join(format!("{service}-fifo"));
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("mkfifo starts").success());
        let script = format!(
            "echo ready; while read -r line; do eval \"$line\"; done < '{}'",
            fifo.display()
        );
        let args = ["capture", "--service", service, "--", "sh", "-c", &script];
        let mut running = self.start(&args);
        running.read_until("ready");
        let teller = std::fs::File::options().write(true).open(fifo);
        (running, teller.expect("the script reads"))
    }

    fn attach(&self, args: &[&str]) -> Output {
        let args: Vec<&str> = ["attach"].iter().chain(args).copied().collect();
        self.command(&args).output().expect("the command starts")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.daemon.take());
        if let Ok(bus) = millpond_bus::Bus::open(&self.bus) {
            let _ = bus.remove();
        }
    }
}

struct Running {
    child: Child,
    output: ChildStdout,
    seen: Vec<u8>,
}

impl Running {
    /// Reads until this is there; all there was so far.
    fn read_until(&mut self, wanted: &str) -> String {
        let mut buffer = [0; 4096];
        while memchr::memmem::find(&self.seen, wanted.as_bytes()).is_none() {
            let count = self.output.read(&mut buffer).expect("it can be read");
            assert!(count > 0, "no {wanted:?} in {:?}", text(&self.seen));
            self.seen.extend_from_slice(&buffer[..count]);
        }
        text(&self.seen)
    }

    /// Everything it has written, what it said, and its exit code.
    fn end(mut self) -> (String, String, Option<i32>) {
        self.output
            .read_to_end(&mut self.seen)
            .expect("it can be read");
        let output = wait(&mut self.child);
        (text(&self.seen), output.0, output.1)
    }
}

fn wait(child: &mut Child) -> (String, Option<i32>) {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).expect("it is text");
    }
    (said, child.wait().expect("it ends").code())
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn capture_that_has_ended_is_still_in_memory() {
    for place in [Place::new("ended"), Place::with_daemon("ended-daemon")] {
        let ran = place.captured("web", "printf 'one\\ntwo\\nthree\\n'; exit 3");
        assert_eq!(ran.status.code(), Some(3), "{}", text(&ran.stderr));
        let all = place.attach(&["web"]);
        assert_eq!(text(&all.stdout), "one\r\ntwo\r\nthree\r\n");
        assert_eq!(text(&all.stderr), "web has ended: exit code 3\n");
        assert_eq!(all.status.code(), Some(0));
        let last = place.attach(&["web", "-n", "2"]);
        assert_eq!(text(&last.stdout), "two\r\nthree\r\n");
        assert_eq!(text(&place.attach(&["web", "-n", "0"]).stdout), "");
    }
}

#[test]
fn newest_run_is_the_one_that_is_shown() {
    for place in [Place::new("runs"), Place::with_daemon("runs-daemon")] {
        for number in 0..3 {
            place.captured("web", &format!("echo run {number}"));
        }
        let shown = place.attach(&["web"]);
        assert_eq!(text(&shown.stdout), "run 2\r\n");
    }
}

#[test]
fn several_watchers_see_what_comes_and_how_it_ends() {
    for place in [Place::new("live"), Place::with_daemon("live-daemon")] {
        let (mut capture, mut teller) = place.start_told("web");
        let mut watchers: Vec<Running> = [&["attach", "web"][..], &["attach", "web", "-n", "1"]]
            .iter()
            .map(|args| place.start(args))
            .collect();
        for watcher in &mut watchers {
            watcher.read_until("ready\r\n");
        }
        writeln!(teller, "printf 'b\\033[1mold\\n'").expect("the script reads");
        for watcher in &mut watchers {
            watcher.read_until("b\u{1b}[1mold\r\n");
        }
        writeln!(teller, "exit 7").expect("the script reads");
        for watcher in watchers {
            let (shown, said, code) = watcher.end();
            assert_eq!(shown, "ready\r\nb\u{1b}[1mold\r\n");
            assert_eq!(said, "web ended: exit code 7\n");
            assert_eq!(code, Some(0));
        }
        assert_eq!(wait(&mut capture.child).1, Some(7));
    }
}

#[test]
fn capture_that_was_killed_is_missed() {
    for place in [Place::new("killed"), Place::with_daemon("killed-daemon")] {
        let (mut capture, _teller) = place.start_told("web");
        // Somebody stays: a bus on which nobody lives may be removed by whoever tidies up.
        let _bus = Bus::open(&place.bus).expect("there is one");
        let mut watcher = place.start(&["attach", "web"]);
        watcher.read_until("ready");
        capture.child.kill().expect("it runs");
        let (_, said, code) = watcher.end();
        assert!(said.starts_with("web: its capture is gone"), "{said}");
        assert_eq!(code, Some(0));
        // And for whoever comes after that.
        let later = place.attach(&["web"]);
        assert_eq!(text(&later.stdout), "ready\r\n");
        let said = text(&later.stderr);
        assert!(said.starts_with("web: its capture is gone"), "{said}");
    }
}

#[test]
fn asciicast_is_told_line_by_line() {
    let place = Place::new("cast");
    let (_capture, mut teller) = place.start_told("web");
    for args in [
        &["attach", "web", "--format", "asciicast"][..],
        &["attach", "web", "--json"],
    ] {
        let mut watcher = place.start(args);
        // A whole line, while the command goes on.
        watcher.read_until("ready\\r\\n\"]\n");
        if args.len() == 3 {
            writeln!(teller, "printf '\\377'; exit 2").expect("the script reads");
            let (shown, said, _) = watcher.end();
            assert_eq!(said, "web ended: exit code 2\n");
            let lines: Vec<Value> = shown
                .lines()
                .map(|line| serde_json::from_str(line).expect("JSON"))
                .collect();
            assert_eq!(
                (&lines[0]["version"], &lines[0]["width"]),
                (&2.into(), &80.into())
            );
            let codes: Vec<&str> = lines[1..]
                .iter()
                .map(|line| line[1].as_str().expect("a code"))
                .collect();
            assert_eq!(codes, ["o", "o", "b", "x"]);
            assert_eq!(lines[3][2], "/w==");
            assert_eq!(lines[4][2], "2");
            let times = lines[1..]
                .iter()
                .map(|line| line[0].as_f64().expect("a time"));
            assert!(times.is_sorted());
        }
    }
}

#[test]
fn slow_watcher_is_told_what_it_missed() {
    let place = Place::with_daemon("slow");
    let (mut capture, mut teller) = place.start_told("web");
    let mut watcher = place.start(&["attach", "web", "--format", "asciicast"]);
    watcher.read_until("ready");
    // Much more than the lane and the pipe to us hold, and nobody reads that pipe meanwhile.
    writeln!(teller, "seq 1000000; echo done").expect("the script reads");
    capture.read_until("done");
    writeln!(teller, "echo the end; exit").expect("the script reads");
    let (shown, said, _) = watcher.end();
    let lines: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let is_loss = |line: &&Value| {
        let data = line[2].as_str().unwrap_or_default();
        line[1] == "m" && (data.starts_with("missed ") || data.ends_with(" events found no room"))
    };
    let losses = lines.iter().filter(is_loss).count();
    assert!(losses > 0, "{said}");
    assert_eq!(said.matches("warning: ").count(), losses, "{said}");
    assert!(said.ends_with("web ended: exit code 0\n"), "{said}");
    assert_eq!(
        lines[lines.len() - 2][2]
            .as_str()
            .map(|data| data.ends_with("the end\r\n")),
        Some(true)
    );
}

#[test]
fn full_lane_without_a_daemon_is_explained() {
    let place = Place::new("full");
    let (mut capture, mut teller) = place.start_told("web");
    writeln!(teller, "seq 400000; echo done").expect("the script reads");
    capture.read_until("done");
    let mut watcher = place.start(&["attach", "web"]);
    watcher.read_until("\r\n1000\r\n");
    let mut stderr = watcher
        .child
        .stderr
        .take()
        .expect("its errors were asked for");
    let id = watcher.child.id().to_string();
    // What is in memory is read away meanwhile, so that it comes to looking around.
    let reader = std::thread::spawn(move || {
        // What is told first may be a loss: small events behind it found room.
        let mut said = Vec::new();
        let mut byte = [0];
        while stderr.read(&mut byte).is_ok_and(|count| count == 1)
            && !(byte[0] == b'\n' && text(&said).contains("start `"))
        {
            said.push(byte[0]);
        }
        let stopped = Command::new("kill").args(["-INT", &id]).status();
        assert!(stopped.expect("kill starts").success());
        text(&said)
    });
    let seen = &mut watcher.seen;
    watcher.output.read_to_end(seen).expect("it can be read");
    let said = reader.join().expect("it reads");
    assert!(
        said.contains("start `millpond daemon --bus attach-full-"),
        "{said}"
    );
    drop(teller);
}

#[test]
fn no_such_capture_says_which_there_are() {
    let place = Place::new("none");
    let none = place.attach(&["web"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("there are none: start one"));
    place.captured("old", "true");
    let (_capture, _teller) = place.start_told("db");
    let other = place.attach(&["web"]);
    assert_eq!(other.status.code(), Some(1));
    let said = text(&other.stderr);
    assert!(
        said.ends_with("; captures on this bus: db, old\n"),
        "{said}"
    );
    let wrong = place.attach(&["we:b"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn second_capture_of_a_name_is_told_apart() {
    let place = Place::new("twice");
    let (first, _teller) = place.start_told("web");
    let args = [
        "capture",
        "--service",
        "web",
        "--",
        "sh",
        "-c",
        "echo second; read line",
    ];
    let mut second = place.start(&args);
    second.read_until("second");
    let shown = {
        let mut watcher = place.start(&["attach", "web"]);
        watcher.read_until("ready\r\n");
        signal(&watcher.child, "-INT");
        watcher.end()
    };
    assert_eq!((shown.0.as_str(), shown.2), ("ready\r\n", Some(0)));
    let other = format!("web@{}", second.child.id());
    let (said, expected) = (
        shown.1,
        format!("web is captured more than once; also: {other}"),
    );
    assert!(said.contains(&expected) || said.is_empty(), "{said}");
    drop(first);
}

#[test]
fn reader_that_has_enough_ends_it_quietly() {
    let place = Place::new("pipe");
    let (_capture, _teller) = place.start_told("web");
    let mut watcher = place.start(&["attach", "web"]);
    watcher.read_until("ready");
    let Running { output, .. } = &mut watcher;
    // The other end of its pipe is gone; nothing is written meanwhile.
    let null = Command::new("true").stdout(Stdio::piped()).spawn();
    let mut null = null.expect("true starts");
    drop(std::mem::replace(
        output,
        null.stdout.take().expect("asked for"),
    ));
    let _ = null.wait();
    let (said, code) = wait(&mut watcher.child);
    assert_eq!((said.as_str(), code), ("", Some(0)));
}
