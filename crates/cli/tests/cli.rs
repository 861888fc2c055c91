//! The command as a person or a script meets it: help, exit codes, errors, pipes that close early.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A place of its own: bus, logs, no configuration of this host.
struct Place {
    dir: tempfile::TempDir,
    bus: String,
    daemon: Option<Child>,
}

impl Place {
    fn new(name: &str) -> Self {
        let bus = format!("cli-{name}-{}", std::process::id());
        Place {
            dir: tempfile::tempdir().expect("a temporary place"),
            bus,
            daemon: None,
        }
    }

    fn logs(&self) -> std::path::PathBuf {
        self.dir.path().join("logs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command
            .args(args)
            .env("MILLPOND_BUS", &self.bus)
            .env("MILLPOND_LOGS", self.logs());
        command
            .env("MILLPOND_CONFIG", "/dev/null")
            .env_remove("NO_COLOR")
            .env("COLUMNS", "80");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args)
            .stdin(Stdio::null())
            .output()
            .expect("the command starts")
    }

    fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let mut stdin = child.stdin.take().expect("its input was asked for");
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input));
            child.wait_with_output().expect("the command ends")
        })
    }

    /// Starts a daemon and waits for its one line.
    fn start(&mut self, args: &[&str]) -> String {
        let mut command = self.command(&["daemon"]);
        let mut daemon = command
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let output = daemon.stdout.take().expect("its output was asked for");
        let mut ready = String::new();
        BufReader::new(output)
            .read_line(&mut ready)
            .expect("its output can be read");
        self.daemon = Some(daemon);
        ready
    }

    /// SIGTERM; everything is written then.
    fn stop(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        let status = Command::new("kill")
            .arg(daemon.id().to_string())
            .status()
            .expect("kill starts");
        assert!(status.success());
        assert!(daemon.wait().expect("the daemon ends").success());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Ok(bus) = millpond_bus::Bus::open(&self.bus) {
            let _ = bus.remove();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

#[test]
fn every_help_page_has_examples_and_exit_codes_and_fits_80_columns() {
    let place = Place::new("help");
    let commands = [
        "daemon", "pipe", "publish", "query", "tail", "stats", "explain", "doctor", "config",
        "index", "rotate", "demo",
    ];
    for command in commands {
        let output = place.run(&[command, "--help"]);
        let help = text(&output.stdout);
        assert_eq!(code(&output), 0, "{command}");
        assert!(help.contains("Examples:"), "{command}");
        assert!(help.contains("Exit codes:"), "{command}");
        assert!(help.contains(&format!("millpond {command}")), "{command}");
    }
}

#[test]
fn bytes_come_back_as_they_went_in() {
    let mut place = Place::new("bytes");
    let ready = place.start(&[]);
    assert!(ready.starts_with("millpond ready: bus"), "{ready}");
    assert_eq!(ready.lines().count(), 1);
    let mut every_byte: Vec<u8> = (0..=255).collect();
    every_byte.extend((0..=255).rev());
    let cases: [(&str, Vec<u8>); 6] = [
        ("empty-lines", b"\n\n\na\n\n".to_vec()),
        ("crlf", b"one\r\ntwo\r\n".to_vec()),
        ("no-newline", b"one\ntwo".to_vec()),
        ("every-byte", every_byte.repeat(100)),
        (
            "long",
            [vec![b'x'; 1_000_000], b"\nshort\n".to_vec()].concat(),
        ),
        (
            "utf8",
            "héllo \u{9b}1m wörld\n\u{202e}\n".as_bytes().to_vec(),
        ),
    ];
    for (service, bytes) in &cases {
        let output = place.feed(&["pipe", "--service", service], bytes);
        assert_eq!(code(&output), 0, "{service}: {}", text(&output.stderr));
        let output = place.run(&["query", "--service", service, "--raw"]);
        assert_eq!(code(&output), 0, "{service}");
        assert!(output.stdout == *bytes, "{service} came back different");
    }
    place.stop();
}

#[test]
fn the_corpus_comes_back_as_it_went_in() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/loghub");
    let Ok(files) = std::fs::read_dir(&corpus) else {
        eprintln!("skipped: no corpus at {}", corpus.display());
        return;
    };
    let mut place = Place::new("corpus");
    place.start(&["--backend", "pwrite"]);
    for file in files
        .flatten()
        .filter(|file| file.path().extension() == Some("log".as_ref()))
    {
        let bytes = std::fs::read(file.path()).expect("the corpus can be read");
        let name = file
            .file_name()
            .to_string_lossy()
            .trim_end_matches(".log")
            .to_owned();
        let output = place.feed(&["pipe", "--service", &name], &bytes);
        assert_eq!(code(&output), 0, "{name}: {}", text(&output.stderr));
        let output = place.run(&["query", "--service", &name, "--raw"]);
        assert!(output.stdout == bytes, "{name} came back different");
    }
    place.stop();
}

#[test]
fn exit_codes_tell_found_from_none_from_error() {
    let mut place = Place::new("codes");
    assert_eq!(code(&place.run(&["query"])), 2, "no log directory");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"ERROR cannot bind\nfine\n");
    assert_eq!(code(&place.run(&["query", "--grep", "bind"])), 0);
    assert_eq!(code(&place.run(&["query", "--grep", "absent"])), 1);
    assert_eq!(code(&place.run(&["query", "--regex", "("])), 2);
    assert_eq!(code(&place.run(&["query", "--service", "wbe"])), 2);
    assert_eq!(
        code(&place.run(&["query", "--since", "5m", "--until", "10m"])),
        2
    );
    assert_eq!(code(&place.run(&["stats"])), 0);
    assert_eq!(code(&place.run(&["no-such-command"])), 2);
    let counted = place.run(&["query", "--count", "--level", "error"]);
    assert_eq!(text(&counted.stdout), "1\n");
    place.stop();
    assert_eq!(
        code(&place.run(&["stats"])),
        0,
        "stats work without a daemon"
    );
    assert_eq!(code(&place.run(&["rotate"])), 2, "nobody there to rotate");
}

#[test]
fn bad_input_is_named_with_value_and_remedy() {
    let place = Place::new("bad");
    let long = "x".repeat(300);
    for service in ["a/b", "..", "a\u{7}b", &long] {
        let output = place.feed(&["pipe", "--service", service], b"x\n");
        assert_eq!(code(&output), 2, "{service:?}");
        assert!(
            text(&output.stderr).contains("cannot be used"),
            "{}",
            text(&output.stderr)
        );
    }
    let cases: [(&[&str], &str); 5] = [
        (&["daemon", "--segment-bytes", "12parsecs"], "is no size"),
        (
            &["daemon", "--group-bytes", "1"],
            "group-bytes 1 is outside",
        ),
        (
            &["daemon", "--backend", "floppy"],
            "use auto, io_uring or pwrite",
        ),
        (&["publish", "a::b", "x"], "is no event name"),
        (&["query", "--since", "whenever"], "is no time"),
    ];
    for (args, expected) in cases {
        let output = place.run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(
            text(&output.stderr).contains(expected),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let config = place.dir.path().join("config.toml");
    std::fs::write(&config, "bus = \"x\"\nsegmnt-bytes = \"1MiB\"\n").expect("room on the disk");
    let output = place.run(&["config", "--config", &config.display().to_string()]);
    let message = text(&output.stderr);
    assert_eq!(code(&output), 2);
    assert!(
        message.contains("line 2") && message.contains("did you mean `segment-bytes`"),
        "{message}"
    );
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let place = Place::new("precedence");
    let config = place.dir.path().join("config.toml");
    let file = "bus = \"of-file\"\nsync = \"always\"\nsegment-bytes = \"2MiB\"\n\
                [[rule]]\npattern = \"mine:*\"\nservice = \"mine\"\noverflow = \"drop-newest\"\n";
    std::fs::write(&config, file).expect("room on the disk");
    let config = config.display().to_string();
    let args = [
        "config",
        "--json",
        "--config",
        &config,
        "--segment-bytes",
        "1MiB",
    ];
    let output = place
        .command(&args)
        .env("MILLPOND_BUS", "of-environment")
        .output()
        .expect("it runs");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |key: &str| {
        value["settings"][key]["value"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(of("bus"), "of-environment");
    assert_eq!(of("sync"), "always");
    assert_eq!(of("segment-bytes"), "1MiB");
    assert_eq!(of("backend"), "auto");
    assert_eq!(
        value["settings"]["sync"]["origin"],
        format!("file {config}")
    );
    assert_eq!(value["rules"][0], "mine:*");
}

#[test]
fn a_pipe_closed_early_is_no_error() {
    let mut place = Place::new("head");
    place.start(&[]);
    let lines = "a line of some length to fill the pipe with\n".repeat(20_000);
    place.feed(&["pipe", "--service", "web"], lines.as_bytes());
    let mut child = place
        .command(&["query"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut first = [0; 10];
    child
        .stdout
        .take()
        .expect("its output")
        .read_exact(&mut first)
        .expect("some output");
    let output = child.wait_with_output().expect("the command ends");
    assert_eq!(code(&output), 0);
    assert_eq!(text(&output.stderr), "");
    place.stop();
}

#[test]
fn json_keys_are_stable() {
    let mut place = Place::new("json");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"[error] \xff\n");
    let line = place.run(&["query", "--json"]);
    let line: serde_json::Value = serde_json::from_slice(&line.stdout).expect("one JSON line");
    let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "level",
            "message",
            "message_escaped",
            "service",
            "source",
            "time",
            "time_ns"
        ]
    );
    assert_eq!(line["level"], "error");
    assert_eq!(line["message_escaped"], "[error] \\xff");
    place.stop();
    let stats = place.run(&["stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    assert_eq!(stats["version"], 1);
    assert_eq!(stats["sources"][0]["published"], 1);
    assert_eq!(stats["sources"][0]["written"], 1);
    assert_eq!(stats["services"][0]["lines"], 1);
}

#[test]
fn completions_and_man_pages_are_made_from_the_flag_table() {
    let place = Place::new("pages");
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]);
        assert!(text(&script.stdout).contains("newest-first"), "{shell}");
    }
    let dir = place.dir.path().join("man");
    assert_eq!(code(&place.run(&["man", &dir.display().to_string()])), 0);
    let page = std::fs::read_to_string(dir.join("millpond-query.1")).expect("a page per command");
    assert!(page.contains("newest"), "{page}");
}

#[test]
fn tail_follows_across_a_rotation() {
    let mut place = Place::new("tail");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"before\n");
    let mut tail = place
        .command(&["tail", "--service", "web", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tail starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("another line").expect("it can be read");
    assert!(next().ends_with("before"));
    place.feed(&["pipe", "--service", "web"], b"during\n");
    assert!(next().ends_with("during"));
    assert_eq!(code(&place.run(&["rotate"])), 0);
    place.feed(&["pipe", "--service", "web"], b"after\n");
    assert!(next().ends_with("after"));
    tail.kill().expect("tail runs");
    tail.wait().expect("tail ends");
    place.stop();
}
