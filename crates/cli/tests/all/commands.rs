//! The command as a person or a script meets it: help, exit codes, errors, pipes that close early.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Output, Stdio};

use crate::support::{Place, code, signal, text};

#[test]
fn every_help_page_has_examples_and_exit_codes_and_fits_80_columns() {
    let place = Place::new("help");
    let commands = [
        "daemon",
        "pipe",
        "publish",
        "query",
        "cat",
        "tail",
        "stats",
        "explain",
        "doctor",
        "dump",
        "gc",
        "verify",
        "config",
        "index",
        "rotate",
        "import",
        "demo",
        "subscribe",
        "wait",
        "replay",
        "bench",
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

/// A rule for `log:*` of our own.
fn rule_file(place: &Place, keys: &str) -> String {
    let path = place.dir.path().join("rules.toml");
    let text = format!("[[rule]]\npattern = \"log:*\"\nservice = \"*\"\n{keys}\n");
    std::fs::write(&path, text).expect("room on the disk");
    path.display().to_string()
}

#[test]
fn a_line_longer_than_the_read_buffer_comes_back_whole() {
    let mut place = Place::new("whole");
    let keys = "lane-bytes = \"4MiB\"\npayload-bytes-limit = \"512KiB\"\n";
    let config = rule_file(&place, keys);
    place.start(&["--config", &config]);
    let cases: [(&str, Vec<u8>); 4] = [
        (
            "one-record",
            [vec![b'x'; 400_000], b"\nshort\n".to_vec()].concat(),
        ),
        (
            "pieces",
            [vec![b'x'; 1_300_000], b"\nshort\n".to_vec()].concat(),
        ),
        ("no-newline", vec![b'x'; 1_300_000]),
        ("exact", vec![b'x'; 512 << 10]),
    ];
    for (service, bytes) in &cases {
        let args = ["pipe", "--service", service, "--config", &config];
        let output = place.feed(&args, bytes);
        assert_eq!(code(&output), 0, "{service}: {}", text(&output.stderr));
        let output = place.run(&["query", "--service", service, "--raw"]);
        assert!(output.stdout == *bytes, "{service} came back different");
    }
    let output = place.run(&["query", "--service", "one-record", "--count"]);
    assert_eq!(
        text(&output.stdout),
        "26\n",
        "pieces of 16 KiB, whatever more the rule allows"
    );
    place.stop();
}

#[test]
fn a_pipe_waits_for_a_daemon_and_loses_nothing() {
    let mut place = Place::new("patient");
    let config = rule_file(&place, "lane-bytes = \"64KiB\"\n");
    let lines = "a line that is longer than short\n".repeat(20_000);
    let mut command = place.command(&["pipe", "--service", "web", "--config", &config]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut pipe = command.spawn().expect("the command starts");
    let mut stdin = pipe.stdin.take().expect("its input was asked for");
    let mut talk = BufReader::new(pipe.stderr.take().expect("its talk was asked for"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bytes = lines.as_bytes();
            stdin.write_all(bytes).expect("all of it is taken");
            drop(stdin);
        });
        // It has waited for a second when it says so; only now there is a daemon.
        let mut said = String::new();
        talk.read_line(&mut said).expect("it can be read");
        assert!(
            said.contains("no consumer") && said.contains("start `millpond daemon"),
            "{said}"
        );
        place.start(&["--config", &config]);
        let status = pipe.wait().expect("the command ends");
        said.clear();
        talk.read_to_string(&mut said).expect("it can be read");
        assert_eq!(status.code(), Some(0), "{said}");
        assert_eq!(said, "", "said once");
    });
    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert!(output.stdout == lines.as_bytes(), "it came back different");
    let stats = place.run(&["stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    assert_eq!(stats["sources"][0]["dropped"]["total"], 0);
    place.stop();
}

#[test]
fn a_pipe_that_gives_up_says_what_was_not_taken_and_what_was_is_written_later() {
    let mut place = Place::new("gives-up");
    let config = rule_file(&place, "lane-bytes = \"64KiB\"\n");
    let lines = "a line that is longer than short\n".repeat(20_000);
    let args = [
        "pipe",
        "--service",
        "web",
        "--config",
        &config,
        "--timeout",
        "300ms",
    ];
    let output = place.feed(&args, lines.as_bytes());
    let message = text(&output.stderr);
    assert_eq!(code(&output), 2, "{message}");
    assert!(
        message.contains("was not taken") && message.contains("no consumer"),
        "{message}"
    );
    let (_, rest) = message.split_once("from byte ").expect("where to go on");
    let at: usize = rest
        .split(|character: char| !character.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .expect("a number");
    let args = ["pipe", "--service", "web", "--config", &config];
    place.start(&["--config", &config]);
    let output = place.feed(&args, &lines.as_bytes()[at..]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert!(output.stdout == lines.as_bytes(), "it came back different");
    place.stop();
}

#[test]
fn an_index_is_not_rebuilt_under_a_daemon_that_writes_it() {
    let mut place = Place::new("rebuild");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"one\n");
    let daemon = place.daemon.as_ref().expect("a daemon runs").child.id();
    let output = place.run(&["index", "rebuild"]);
    let message = text(&output.stderr);
    assert_eq!(code(&output), 2, "{message}");
    let expected = format!("process {daemon}");
    assert!(
        message.contains(&expected) && message.contains("stop it"),
        "{message}"
    );
    assert_eq!(code(&place.run(&["verify"])), 0, "only reads");
    place.stop();
    let output = place.run(&["index", "rebuild"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    // The directory is still that of the same bus: what it has committed counts.
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"two\n");
    let output = place.run(&["query", "--service", "web", "--raw"]);
    assert_eq!(text(&output.stdout), "one\ntwo\n");
    place.stop();
}

#[test]
fn a_wait_finds_what_was_posted_after_the_look_and_says_124_when_nothing_was() {
    let place = Place::new("wait");
    let at = text(&place.run(&["wait", "--print-position"]).stdout);
    let at = at.trim();
    let posted = r#"{"to":"reviewer","file":"a.rs"}"#;
    place.run(&["publish", "chat:handoff", r#"{"to":"writer"}"#]);
    place.run(&["publish", "chat:handoff", "no JSON"]);
    place.run(&["publish", "chat:handoff", posted]);
    let wait = ["wait", "chat:handoff", "--since", at, "--timeout", "10s"];
    let output = place.run(&[&wait[..], &["--where", "/to=reviewer", "--json"]].concat());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("1 payloads were not JSON"),
        "{}",
        text(&output.stderr)
    );
    let event: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON line");
    assert_eq!(event["version"], 1);
    assert_eq!(event["payload"], posted);
    assert_eq!(event["json"]["file"], "a.rs");
    // From there on there is nothing.
    let position = event["position"].as_str().expect("a position");
    let args = ["wait", "chat:*", "--since", position, "--timeout", "50ms"];
    let output = place.run(&args);
    assert_eq!(code(&output), 124);
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("nothing matched chat:* within 50ms"));
}

#[test]
fn several_events_are_taken_one_wait_after_the_other() {
    let place = Place::new("turns");
    let mut at = text(&place.run(&["wait", "--print-position"]).stdout);
    for word in ["one", "two", "three"] {
        place.run(&["publish", "chat:turn", word]);
    }
    for word in ["one", "two", "three"] {
        let args = [
            "wait",
            "chat:turn",
            "--json",
            "--timeout",
            "5s",
            "--since",
            at.trim(),
        ];
        let output = place.run(&args);
        assert_eq!(code(&output), 0, "{word}: {}", text(&output.stderr));
        let event: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(event["payload"], word);
        event["position"]
            .as_str()
            .expect("a position")
            .clone_into(&mut at);
    }
}

#[test]
fn a_subscriber_shows_old_and_new_events_as_text_and_as_json() {
    let place = Place::new("subscribe");
    place.run(&["publish", "chat:a:said", "before\u{1b}[1m"]);
    let mut child = place
        .command(&["subscribe", "chat:*", "--since", "oldest", "--utc"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("another line").expect("it can be read");
    let line = next();
    assert!(
        line.ends_with(r"INFO  chat:a:said publish before\x1b[1m"),
        "{line}"
    );
    place.run(&["publish", "chat:b", "--level", "error", "after"]);
    let line = next();
    assert!(line.ends_with("ERROR chat:b publish after"), "{line}");
    signal(&child, "-TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "quietly");
    let args = ["subscribe", "chat:*", "--since", "oldest", "--json"];
    let output = place.run(&[&args[..], &["-n", "1", "--timeout", "5s"]].concat());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let event: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one line");
    let keys: Vec<&String> = event.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "kind", "lane", "level", "name", "payload", "sequence", "source", "time", "time_ns",
            "version"
        ]
    );
    let output = place.run(&["subscribe", "chat:*", "--timeout", "50ms"]);
    assert_eq!(code(&output), 1, "nothing came");
    for bad in ["a::b", "a*"] {
        let output = place.run(&["subscribe", bad]);
        assert_eq!(code(&output), 2);
        assert!(text(&output.stderr).contains("is no pattern"));
    }
}

#[test]
fn rules_are_read_again_and_a_mistake_changes_nothing() {
    let mut place = Place::new("reload");
    let config = rule_file(&place, "max-delay = \"1s\"\n");
    place.start(&["--config", &config]);
    let reload = ["config", "reload", "--config", &config];
    rule_file(&place, "max-delay = \"2s\"\n");
    let output = place.run(&reload);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("are in force"));
    let explained = || text(&place.run(&["explain", "log:web"]).stdout);
    assert!(explained().contains("2s"), "{}", explained());
    rule_file(&place, "max-delay = \"0s\"\n");
    let output = place.run(&reload);
    assert_eq!(code(&output), 2, "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("max-delay"));
    assert!(explained().contains("2s"), "{}", explained());
    rule_file(&place, "max-delay = \"3s\"\n");
    let daemon = place.daemon.as_ref().expect("a daemon runs");
    signal(&daemon.child, "-HUP");
    // Asks again, and answers when they are in force.
    assert_eq!(code(&place.run(&reload)), 0);
    assert!(explained().contains("3s"), "{}", explained());
    place.stop();
}

#[test]
fn explain_says_how_events_are_delivered_and_which_rules_carry_a_pattern() {
    let place = Place::new("delivery");
    let explained = |name: &str| text(&place.run(&["explain", name]).stdout);
    let batch = explained("data:users:created");
    assert!(
        batch.contains(
            "delivery  outbox: delivered by the consumer in batches of at most 100 events or 256KiB"
        ) && batch.contains("at the latest 50ms after the first; prefix data:users"),
        "{batch}"
    );
    assert!(
        batch.contains("the first event after 50ms without one goes out at once"),
        "{batch}"
    );
    assert!(explained("chat:room").contains("delivery  direct"));
    assert!(explained("log:web").contains("does not wait for the disk"));
    let carried = explained("data:*");
    assert!(
        carried.contains("data:code_index:*") && !carried.contains("chat:*"),
        "{carried}"
    );
    assert_eq!(code(&place.run(&["explain", "a::*"])), 2);
}

#[test]
fn a_scenario_is_played_and_judged() {
    let place = Place::new("replay");
    let output = place.run(&["replay", "last-value", "--size", "ci", "--json"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["rounds"], report["ended_ready"]);
    assert_eq!(report["bursts"], report["whole_bursts"]);
    let criteria = report["criteria"].as_array().expect("a list");
    assert!(criteria.len() > 3 && criteria.iter().all(|one| one["met"] == true));
    // No terminal, no progress.
    assert_eq!(text(&output.stderr), "");
    let output = place.run(&["replay", "last-value", "--only", "storm"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("snapshot, persona"));
}

#[test]
fn who_runs_away_is_named_by_the_command_too() {
    let place = Place::new("runaway");
    let dir = text(place.dir.path().as_os_str().as_encoded_bytes());
    let runaway = ["replay", "runaway", "--size", "ci", "--only", "same"];
    let output = place.run(&[&runaway[..], &["--json", "--dir", &dir]].concat());
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let expected = [
        "the count of events",
        "the history of ten minutes",
        "`millpond stats --by source --since 10m`",
    ];
    let expected = expected.map(|how| serde_json::json!([how, "gateway"]));
    assert_eq!(report["parts"][0]["named"], serde_json::json!(expected));
    let left = place.dir.path().read_dir().expect("a directory").count();
    assert_eq!(left, 0, "its log is gone");
}

/// The events that a `--json` run has printed, and its exit code.
fn events(output: &Output) -> Vec<serde_json::Value> {
    assert_eq!(code(output), 0, "{}", text(&output.stderr));
    output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("one JSON line"))
        .collect()
}

fn payloads(events: &[serde_json::Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["payload"].as_str().expect("a payload"))
        .collect()
}

#[test]
fn a_subscription_to_logged_events_goes_on_across_a_killed_daemon_without_gap_or_repeat() {
    let mut place = Place::new("logged");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"one\ntwo\n");
    let mut child = place
        .command(&["subscribe", "log:web:*", "--since", "oldest", "--json"])
        .args(["-n", "5", "--print-cursor", "--timeout", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("another line").expect("it can be read");
        serde_json::from_str(&line).expect("JSON")
    };
    let first = next();
    let keys: Vec<&String> = first.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "cursor", "kind", "level", "name", "payload", "service", "time", "time_ns", "version"
        ]
    );
    assert_eq!(
        (&first["payload"], &first["name"]),
        (&"one".into(), &"log:web:pipe".into())
    );
    assert_eq!(next()["payload"], "two");
    // SIGKILL, and another one.
    let daemon = place.daemon.take().expect("a daemon runs");
    // Killed.
    drop(daemon);
    // What is there can be read while none runs.
    let from_first = first["cursor"].as_str().expect("a cursor");
    let args = ["subscribe", "log:*", "--since", from_first, "--json"];
    let output = place.run(&[&args[..], &["--timeout", "100ms"]].concat());
    assert_eq!(payloads(&events(&output)), ["two"]);
    assert!(
        text(&output.stderr).is_empty(),
        "something came: {}",
        text(&output.stderr)
    );
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"three\nfour\nfive\n");
    for word in ["three", "four", "five"] {
        assert_eq!(next()["payload"], word);
    }
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("its talk");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    stderr.read_to_string(&mut said).expect("it can be read");
    let cursor = said.lines().last().expect("a cursor");
    assert!(cursor.starts_with("c1:"), "{said}");
    // From there on, and with another kind of wait.
    place.feed(&["pipe", "--service", "web"], b"six\n");
    let wait = ["wait", "log:web:*", "--since", cursor, "--json"];
    let output = place.run(&[&wait[..], &["--timeout", "10s"]].concat());
    let six = events(&output);
    assert_eq!(payloads(&six), ["six"]);
    assert_eq!(six[0]["position"], six[0]["cursor"]);
    place.stop();
    let wait = ["wait", "log:web:*", "--since", "oldest", "--timeout", "0s"];
    assert!(text(&place.run(&wait).stdout).ends_with("log:web:pipe one\n"));
}

#[test]
fn the_log_is_not_asked_for_what_it_does_not_have() {
    let place = Place::new("mixed");
    place.run(&["publish", "chat:a", "said"]);
    let mixed = ["subscribe", "chat:*", "log:*", "--timeout", "50ms"];
    let output = place.run(&[&mixed[..], &["--since", "oldest"]].concat());
    let message = text(&output.stderr);
    assert_eq!(code(&output), 0, "{message}");
    assert_eq!(message.matches("warning").count(), 1, "{message}");
    assert!(
        message.contains("\"chat:*\"")
            && message.contains("the oldest event there is of")
            && message.contains("--replay"),
        "{message}"
    );
    for args in [&["--replay"][..], &["--since", "c1:0"], &["--print-cursor"]] {
        let output = place.run(&[&mixed[..], args].concat());
        let message = text(&output.stderr);
        assert_eq!(code(&output), 2, "{message}");
        assert!(
            message.contains("rule \"chat:*\"") && message.contains("rule \"log:*\" alone"),
            "{message}"
        );
    }
    let at = text(&place.run(&["wait", "--print-position"]).stdout);
    let args = ["subscribe", "log:*", "--replay", "--since", at.trim()];
    let output = place.run(&args);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("the log has cursors"));
    // No daemon: said where the events need one, and not where they do not.
    let said = |name: &str| {
        text(
            &place
                .run(&["subscribe", name, "--timeout", "1200ms"])
                .stderr,
        )
    };
    assert!(said("data:x").contains("no consumer on bus"));
    assert_eq!(said("chat:x"), "");
}

#[test]
fn a_subscriber_ends_when_nobody_reads_its_output_though_nothing_comes() {
    let place = Place::new("unread");
    std::fs::create_dir(place.logs()).expect("room on the disk");
    for args in [&["subscribe", "chat:*"][..], &["tail", "-f"]] {
        let mut child = place
            .command(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
}

/// As in a pipe: lines as long as they are.
fn wide(place: &Place, args: &[&str]) -> Output {
    let output = place.command(args).env_remove("COLUMNS").output();
    output.expect("the command starts")
}

/// A flood that was dropped while no daemon ran, by a process that is gone.
pub(crate) fn flood(place: &Place) {
    let config = place.dir.path().join("flood.toml");
    let rules = "[[rule]]\npattern = \"log:*\"\nservice = \"*\"\noverflow = \"drop-newest\"\nlane-bytes = \"64KiB\"\n\
                 payload-bytes-limit = \"4KiB\"\n";
    std::fs::write(&config, rules).expect("a file");
    let config = config.display().to_string();
    let quiet = place.run(&["publish", "log:web:quiet", "x", "--config", &config]);
    assert_eq!(code(&quiet), 0, "{quiet:?}");
    let lines = b"a line of the flood\n".repeat(20_000);
    let pipe = [
        "pipe",
        "--service",
        "web",
        "--timeout",
        "10ms",
        "--config",
        &config,
    ];
    let output = place.feed(&pipe, &lines);
    assert_eq!(code(&output), 2, "nobody writes what was taken: {output:?}");
}

#[test]
fn stats_name_the_loudest_and_tell_the_last_minutes() {
    let mut place = Place::new("loudest");
    flood(&place);
    // Nobody has looked behind it, and nobody drains.
    let dead = text(&wide(&place, &["stats", "--since", "10m"]).stdout);
    assert!(
        dead.contains("LOUDEST  in the last 10m: pipe:web under log:*"),
        "{dead}"
    );
    place.start(&[]);
    let deadline_free = |args: &[&str]| text(&place.run(args).stdout);
    while !deadline_free(&["stats", "--by", "lane"]).contains("memory   0 lanes,") {
        std::thread::yield_now();
    }
    for args in [
        &["stats"][..],
        &["stats", "--since", "10m", "--by", "source"],
    ] {
        let output = wide(&place, args);
        assert_eq!(code(&output), 1, "{args:?}");
        let shown = text(&output.stdout);
        let loudest = shown
            .lines()
            .find(|line| line.starts_with("LOUDEST  in the last 10m"));
        let loudest = loudest.unwrap_or_else(|| panic!("{args:?}: {shown}"));
        assert!(loudest.contains("pipe:web under log:*, "), "{loudest}");
        assert!(loudest.contains(">99 % of 20.0 k events, "), "{loudest}");
        let header = shown.lines().find(|line| line.starts_with("source"));
        let header = header.expect("a table");
        for column in [
            "coalesced",
            "suppressed",
            "bytes",
            "peak lag",
            "process",
            "user",
            "executable",
        ] {
            assert!(header.contains(column), "{header}");
        }
        let place_of = |label: &str| shown.lines().position(|line| line.starts_with(label));
        assert!(
            place_of("pipe:web") < place_of("publish"),
            "who produced most is first: {shown}"
        );
    }
    let services = text(
        &place
            .run(&["stats", "--by", "service", "--since", "1h"])
            .stdout,
    );
    assert!(
        services.lines().any(|line| line.starts_with("web ")),
        "{services}"
    );
    assert_eq!(
        code(&place.run(&["stats", "--by", "lane", "--since", "1h"])),
        2
    );
    let page = place.run(&["stats", "--format", "prometheus"]);
    assert_eq!(code(&page), 0);
    let page = text(&page.stdout);
    assert!(
        page.contains("# TYPE millpond_events_dropped_total counter\n"),
        "{page}"
    );
    assert!(
        page.contains("source=\"pipe:web\",rule=\"log:*\",cause=\"full\"} "),
        "{page}"
    );
    let json = place.run(&["stats", "--format", "json", "--since", "10m"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["loudest"]["label"], "pipe:web");
    let history = &json["history"]["sources"][0];
    let source = json["sources"]
        .as_array()
        .and_then(|all| all.iter().find(|source| source["label"] == "pipe:web"))
        .expect("the source");
    assert_eq!(history["label"], "pipe:web");
    for key in [
        "published",
        "delivered",
        "written",
        "coalesced",
        "suppressed",
    ] {
        assert_eq!(history["total"][key], source[key], "{key}");
    }
    assert_eq!(history["total"]["dropped"], source["dropped"]["total"]);
    for key in [
        "pid",
        "uid",
        "user",
        "executable",
        "process_started_ns",
        "verified",
        "lag_bytes_max",
    ] {
        assert!(!source[key].is_null(), "{key}");
    }
    place.stop();
    let dead = place.run(&["stats", "--json"]);
    let dead: serde_json::Value = serde_json::from_slice(&dead.stdout).expect("JSON");
    assert_eq!(
        dead["loudest"]["label"], "pipe:web",
        "the history outlives the daemon"
    );
}

#[test]
fn what_applies_to_a_service_is_shown_with_its_origin() {
    let place = Place::new("services");
    let path = place.dir.path().join("services.toml");
    let file = "total-bytes = \"2GiB\"\n[[service]]\nname = \"*\"\nsample = \"1/10\"\n\
                [[service]]\nname = \"web\"\nrate-limit = \"50/s\"\nredact = [\"secret=[^ ]+\"]\n";
    std::fs::write(&path, file).expect("written");
    let path = path.display().to_string();
    let explained = |name: &str| {
        let output = place.run(&["explain", name, "--json", "--config", &path]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let web = explained("log:web:out");
    let settings = &web["candidates"][0]["log"]["settings"];
    assert_eq!(settings["rate-limit"]["value"], "50/s burst 50");
    assert_eq!(settings["repeats"]["value"], "true");
    assert_eq!(settings["repeats"]["origin"], "default");
    let origin = settings["sample"]["origin"].as_str().expect("an origin");
    assert!(origin.starts_with("service \"*\", file "), "{origin}");
    let shown = text(
        &place
            .run(&["explain", "log:web:millpond", "--config", &path])
            .stdout,
    );
    assert!(shown.contains("refused and counted as rejected"), "{shown}");
    let shown = text(&place.run(&["config", "--config", &path]).stdout);
    for part in ["rate-limit", "50/s burst 50", "1/10", "service \"web\""] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let shown = text(
        &place
            .run(&["explain", "log:web:out", "--config", &path])
            .stdout,
    );
    assert!(shown.contains("quota-bytes"), "{shown}");
}

#[test]
fn a_line_that_comes_again_and_a_secret_are_reduced() {
    let mut place = Place::new("reduced");
    let path = place.dir.path().join("reduced.toml");
    std::fs::write(
        &path,
        "[[service]]\nname = \"web\"\nredact = [\"secret=[^ ]+\"]\n",
    )
    .expect("written");
    let path = path.display().to_string();
    place.start(&["--config", &path]);
    let lines: String = (0..500)
        .map(|number| format!("accept4: secret={number} failed\n"))
        .collect();
    let output = place.feed(&["pipe", "--service", "web"], lines.as_bytes());
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    place.stop();
    let log = std::fs::read_to_string(place.logs().join("web/current.log")).expect("the log");
    assert!(!log.contains("secret="), "{log}");
    let repeats = log.lines().filter_map(|line| {
        let (_, told) = line.split_once(" millpond repeat ")?;
        told.split_once("count=")?
            .1
            .split_once(' ')?
            .0
            .parse::<u64>()
            .ok()
    });
    let written = log
        .lines()
        .filter(|line| line.contains("accept4: [redacted:1] failed"));
    assert_eq!(written.count() as u64 + repeats.sum::<u64>(), 500, "{log}");
    let stats = place.run(&["stats", "--json"]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    assert_eq!(stats["services"][0]["redacted"], 500, "{stats}");
}
