//! `query`, `cat` and `tail` over log directories that a test has written: output as people and programs see it,
//! cursors, following, odd input.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use millpond_logfile::{
    BlockWriter, CURRENT_LINK, Level, SegmentId, Source, rebuild_index, seal_segment,
};

use crate::support::{code, signal, text};

/// 2026-11-21T01:00:00Z
const START_NS: u64 = 1_795_222_800_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// A log directory without a daemon.
struct Logs {
    dir: tempfile::TempDir,
}

impl Logs {
    fn new() -> Self {
        Logs {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn service(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Appends a line a second, with its number, to a segment that is named by the second it was opened.
    fn append(&self, service: &str, segment: u64, numbers: Range<u64>) -> SegmentId {
        let dir = self.service(service);
        fs::create_dir_all(&dir).expect("a service");
        let id = SegmentId::from_ns(START_NS + segment * SECOND_NS);
        let mut text = fs::read(id.log_path(&dir)).unwrap_or_default();
        let mut block = BlockWriter::new();
        let mut new = Vec::new();
        for number in numbers {
            let level = match number % 10 {
                0 => Level::Error,
                1 => Level::Warn,
                _ => Level::Info,
            };
            let time_ns = START_NS + number * SECOND_NS;
            let message = format!("line {number}");
            block.append(
                &mut new,
                time_ns,
                level,
                &Source::new("pty:out"),
                message.as_bytes(),
            );
        }
        text.extend_from_slice(&new);
        fs::write(id.log_path(&dir), text).expect("room on the disk");
        id
    }

    fn seal(&self, service: &str, id: SegmentId) {
        rebuild_index(&self.service(service), id, false).expect("an index");
        seal_segment(&self.service(service), id, 1, &mut || true).expect("it can be sealed");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command
            .args(args)
            .env("MILLPOND_LOGS", self.path())
            .env("MILLPOND_CONFIG", "/dev/null")
            .env("TZ", "UTC")
            .env("COLUMNS", "40")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the command starts")
    }
}

/// The numbers of the lines that were printed.
fn numbers(stdout: &[u8]) -> Vec<u64> {
    let stdout = text(stdout);
    let lines = stdout.lines();
    lines
        .map(|line| {
            line.rsplit(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .expect("a number")
        })
        .collect()
}

fn all(numbers: Range<u64>) -> Vec<u64> {
    numbers.collect()
}

/// Standard error's last line.
fn cursor(output: &Output) -> String {
    let stderr = text(&output.stderr);
    stderr.lines().last().expect("a cursor").to_owned()
}

#[test]
fn a_histogram_is_a_table_in_a_pipe_bars_on_a_terminal_and_json_for_programs() {
    let logs = Logs::new();
    logs.append("web", 0, 0..100);
    logs.append("web", 100, 240..243);
    let table = logs.run(&["query", "--histogram", "--bucket", "1m"]);
    assert_eq!(code(&table), 0, "{}", text(&table.stderr));
    assert_eq!(
        text(&table.stdout),
        "time                            lines  fatal  error  warn  info  debug  trace\n\
         2026-11-21T01:00:00.000000000Z     60      0      6     6    48      0      0\n\
         2026-11-21T01:01:00.000000000Z     40      0      4     4    32      0      0\n\
         2026-11-21T01:02:00.000000000Z      0      0      0     0     0      0      0\n\
         2026-11-21T01:03:00.000000000Z      0      0      0     0     0      0      0\n\
         2026-11-21T01:04:00.000000000Z      3      0      1     1     1      0      0\n"
    );
    let drawn = logs.run(&[
        "query",
        "--histogram",
        "--bucket",
        "1m",
        "--color",
        "always",
    ]);
    let plain = strip_styles(&text(&drawn.stdout));
    assert_eq!(
        plain,
        "103 lines from 2026-11-21T01:00:00, 1m a bar\n\
         █ error  █ warn  █ info  █ debug\n\
         01:00 60 ███████████████████████████████\n\
         01:01 40 █████████████████████\n\
         01:02  0\n\
         01:03  0\n\
         01:04  3 ███\n"
    );
    assert!(
        plain.lines().skip(1).all(|line| line.chars().count() <= 40),
        "{plain}"
    );
    let json = logs.run(&["query", "--histogram", "--json", "--level", "warn"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["total"], 22);
    assert_eq!(json["bucket_ns"], 10_000_000_000_u64, "25 bars");
    assert_eq!(json["buckets"][0]["levels"]["error"], 1);
    let error = logs.run(&["query", "--histogram", "--bucket", "1ms"]);
    assert_eq!(code(&error), 2);
    let message = text(&error.stderr);
    assert!(
        message.contains("the limit is 4096: use buckets of"),
        "{message}"
    );
    assert_eq!(
        code(&logs.run(&["query", "--histogram", "--grep", "absent"])),
        1
    );
}

fn strip_styles(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => drop(characters.by_ref().find(|&character| character == 'm')),
            _ => plain.push(character),
        }
    }
    plain
}

#[test]
fn a_cursor_goes_on_across_rotation_seal_and_trim() {
    let logs = Logs::new();
    let first = logs.append("web", 0, 0..10);
    let last = logs.run(&["query", "-n", "3", "--print-cursor"]);
    assert_eq!(numbers(&last.stdout), all(7..10));
    let at = cursor(&last);
    assert!(at.starts_with("c1:"), "{at}");
    let nothing = logs.run(&["query", "--cursor", &at, "--print-cursor"]);
    assert_eq!((code(&nothing), cursor(&nothing)), (1, at.clone()));

    logs.append("web", 0, 10..20);
    let second = logs.append("web", 20, 20..30);
    logs.seal("web", first);
    logs.append("db", 20, 30..33);
    let more = logs.run(&["query", "--cursor", &at, "--print-cursor"]);
    assert_eq!(numbers(&more.stdout), all(10..33));
    // Filters skip lines, and the cursor goes on behind them.
    let errors = logs.run(&[
        "query",
        "--cursor",
        &at,
        "--level",
        "error",
        "--print-cursor",
    ]);
    assert_eq!(numbers(&errors.stdout), [10, 20, 30]);
    assert_eq!(cursor(&errors), cursor(&more));
    // A few at a time.
    let (mut at, mut found) = (at, Vec::new());
    while found.len() < 23 {
        let few = logs.run(&["query", "--cursor", &at, "-n", "4", "--print-cursor"]);
        found.extend(numbers(&few.stdout));
        at = cursor(&few);
    }
    assert_eq!(found, all(10..33));

    let old = format!("c1:0,web={first}+40,db=20261121T000000.000000000Z+17");
    fs::remove_file(first.sealed_path(&logs.service("web"))).expect("it is there");
    logs.seal("web", second);
    logs.append("web", 30, 40..42);
    let rest = logs.run(&["query", "--service", "web", "--cursor", &old]);
    assert_eq!(code(&rest), 0);
    assert_eq!(numbers(&rest.stdout), [all(20..30), all(40..42)].concat());
    let message = text(&rest.stderr);
    assert!(
        message.contains("warning: service web: retention removed at least 1 segment"),
        "{message}"
    );
    assert!(message.contains("an unknown number of lines"), "{message}");
    let bad = logs.run(&["query", "--cursor", "p1:0"]);
    assert_eq!(code(&bad), 2);
    assert!(
        text(&bad.stderr).contains("is no log cursor"),
        "{}",
        text(&bad.stderr)
    );
}

#[test]
fn cat_writes_what_is_stored_whatever_form_it_has() {
    let logs = Logs::new();
    let first = logs.append("web", 0, 0..50);
    logs.append("web", 50, 50..60);
    let dir = logs.service("web");
    let open = SegmentId::from_ns(START_NS + 50 * SECOND_NS).log_path(&dir);
    let mut whole = fs::read(first.log_path(&dir)).expect("text");
    let mut end = fs::read(&open).expect("text");
    end.extend_from_slice(b"what somebody typed\n2026-11-21T01:00:59.5");
    fs::write(&open, &end).expect("room");
    whole.extend_from_slice(&end);
    symlink(open.file_name().expect("a name"), dir.join(CURRENT_LINK)).expect("a link");
    assert!(logs.run(&["cat", "web"]).stdout == whole);
    logs.seal("web", first);
    assert!(logs.run(&["cat", "web"]).stdout == whole);
    logs.append("db", 0, 0..1);
    let all_text = logs.run(&["cat", "--all"]).stdout;
    assert!(all_text.ends_with(&whole) && all_text.len() > whole.len());

    let some = logs.run(&[
        "cat",
        "web",
        "--since",
        "2026-11-21T01:00:48Z",
        "--until",
        "2026-11-21T01:00:52Z",
    ]);
    assert_eq!(numbers(&some.stdout), all(48..52));
    let last = logs.run(&["cat", "web", "--since", "2026-11-21T01:00:59Z"]);
    assert!(
        last.stdout
            .ends_with(b"line 59\nwhat somebody typed\n2026-11-21T01:00:59.5")
    );

    let segments = logs.run(&["cat", "web", "--segments", "--json"]);
    let segments: serde_json::Value = serde_json::from_slice(&segments.stdout).expect("JSON");
    let of = |number: usize, key: &str| segments["segments"][number][key].clone();
    assert_eq!(
        (of(0, "state"), of(1, "state")),
        ("sealed".into(), "open".into())
    );
    assert_eq!((of(0, "lines"), of(1, "lines")), (50.into(), 11.into()));
    assert_eq!(of(0, "first_time"), "2026-11-21T01:00:00.000000000Z");
    assert_eq!(of(1, "last_time_ns"), START_NS + 59 * SECOND_NS);
    let table = text(&logs.run(&["cat", "web", "--segments"]).stdout);
    assert!(table.starts_with("service "), "{table}");
    assert!(
        table.contains("  sealed  ") && table.contains("  open    "),
        "{table}"
    );

    // A frame that is damaged is named, the rest is written.
    let path = first.sealed_path(&dir);
    let mut bytes = fs::read(&path).expect("sealed");
    bytes[20] ^= 0xff;
    fs::write(&path, bytes).expect("room");
    let damaged = logs.run(&["cat", "web"]);
    assert_eq!(code(&damaged), 2);
    assert!(damaged.stdout == end);
    assert!(
        text(&damaged.stderr).contains(".log.zst at byte 0"),
        "{}",
        text(&damaged.stderr)
    );
    assert_eq!(code(&logs.run(&["cat", "wbe"])), 2);
    assert_eq!(code(&logs.run(&["cat"])), 2);
}

#[test]
fn following_goes_across_rotations_and_seals_and_takes_in_new_services() {
    let logs = Logs::new();
    let first = logs.append("web", 0, 0..20);
    let mut child = logs
        .command(&[
            "query",
            "--follow",
            "-n",
            "2",
            "--level",
            "warn",
            "--print-cursor",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || {
        let line = lines.next().expect("another line").expect("it can be read");
        line.rsplit(' ').next().expect("a word").to_owned()
    };
    assert_eq!((next(), next()), ("10".into(), "11".into()));
    logs.append("web", 0, 20..25);
    assert_eq!((next(), next()), ("20".into(), "21".into()));
    logs.append("web", 30, 30..35);
    logs.seal("web", first);
    assert_eq!((next(), next()), ("30".into(), "31".into()));
    logs.append("new", 40, 40..41);
    assert_eq!(next(), "40");
    signal(&child, "-INT");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 0);
    let behind = logs.run(&["query", "--cursor", &cursor(&output)]);
    assert_eq!((code(&behind), text(&behind.stdout)), (1, String::new()));

    let tail = logs.run(&["tail", "--service", "web", "-n", "7"]);
    assert_eq!(numbers(&tail.stdout), [all(23..25), all(30..35)].concat());
}

#[test]
fn many_last_lines_are_read_twice_and_not_held() {
    let logs = Logs::new();
    // More than is held.
    let count = 400_000;
    logs.append("a", 0, 0..count);
    logs.append("b", 0, 0..count / 2);
    let lines = count + 100_000;
    let last = logs.run(&["query", "-n", &lines.to_string()]);
    let newest = logs.run(&["query", "-n", &lines.to_string(), "--newest-first"]);
    let mut reversed: Vec<&[u8]> = newest
        .stdout
        .split_inclusive(|&byte| byte == b'\n')
        .collect();
    reversed.reverse();
    assert!(last.stdout == reversed.concat());
    assert_eq!(reversed.len() as u64, lines);
}

#[test]
fn a_reader_that_has_had_enough_ends_everything_quietly() {
    let logs = Logs::new();
    logs.append("web", 0, 0..200_000);
    for args in [
        &["query"][..],
        &["query", "--newest-first"],
        &["query", "--json"],
        &["query", "--cursor", "c1:0"],
        &["query", "--follow"],
        &["cat", "web"],
        &["tail", "-n", "100000", "-f"],
    ] {
        let mut child = logs
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut first = [0; 10];
        let mut stdout = child.stdout.take().expect("its output");
        stdout.read_exact(&mut first).expect("some output");
        drop(stdout);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(
            (code(&output), text(&output.stderr)),
            (0, String::new()),
            "{args:?}"
        );
    }
}

#[test]
fn odd_directories_and_questions_are_named_and_the_rest_is_answered() {
    let logs = Logs::new();
    let empty = logs.run(&["query"]);
    assert_eq!(code(&empty), 1);
    assert!(
        text(&empty.stderr).contains("there are no services"),
        "{}",
        text(&empty.stderr)
    );
    fs::create_dir(logs.service("nginx")).expect("a directory");
    fs::write(logs.service("nginx").join("access.log"), "GET /\n").expect("a file");
    let foreign = logs.run(&["query"]);
    assert!(
        text(&foreign.stderr).contains("is no log directory of ours"),
        "{}",
        text(&foreign.stderr)
    );

    let id = logs.append("web", 0, 0..10);
    fs::create_dir(logs.service("empty")).expect("a directory");
    symlink(
        "20300101T000000.000000000Z.log",
        logs.service("web").join(CURRENT_LINK),
    )
    .expect("a link");
    // What a later version may leave there.
    fs::write(logs.service("web").join(format!("{id}.summary")), "?").expect("a file");
    fs::write(logs.path().join("manifest.json"), "{}").expect("a file");
    let answer = logs.run(&["query"]);
    assert_eq!(
        (code(&answer), numbers(&answer.stdout)),
        (0, all(0..10)),
        "{}",
        text(&answer.stderr)
    );

    for (args, expected) in [
        (
            &["query", "--since", "10m", "--until", "20m"][..],
            "is not before --until",
        ),
        (&["query", "--service", "wbe"], "the only one is \"web\""),
        (
            &["query", "--regex", "((a{1000}){1000}){1000}"],
            "cannot be used",
        ),
        (&["query", "--since", "noon-ish"], "is no time"),
        (&["query", "--count", "--follow"], "cannot be used with"),
        (
            &["query", "--newest-first", "--follow"],
            "cannot be used with",
        ),
    ] {
        let output = logs.run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(
            text(&output.stderr).contains(expected),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
    let fold = logs
        .command(&["query", "--since", "2026-10-25 02:30"])
        .env("TZ", "Europe/Berlin")
        .output()
        .expect("it runs");
    assert!(
        text(&fold.stderr).contains("happens twice"),
        "{}",
        text(&fold.stderr)
    );
    // Linear, however it is written.
    let slow = logs.run(&[
        "query",
        "--regex",
        "(a*)*(a*)*(a*)*b$",
        "--service",
        "web,web",
    ]);
    assert_eq!(code(&slow), 1);
}

#[test]
fn a_service_that_may_not_be_read_is_named_and_the_rest_is_returned() {
    if rustix::process::geteuid().is_root() {
        return; // To whom nothing is denied.
    }
    let logs = Logs::new();
    logs.append("web", 0, 0..10);
    logs.append("secret", 0, 0..10);
    let closed =
        |mode| fs::set_permissions(logs.service("secret"), fs::Permissions::from_mode(mode));
    closed(0).expect("ours");
    let answer = logs.run(&["query"]);
    closed(0o700).expect("ours");
    assert_eq!((code(&answer), numbers(&answer.stdout)), (2, all(0..10)));
    assert!(
        text(&answer.stderr).contains("secret"),
        "{}",
        text(&answer.stderr)
    );
}

#[test]
fn lines_of_ten_megabytes_come_back_whole() {
    let logs = Logs::new();
    let id = logs.append("web", 0, 0..3);
    let path = id.log_path(&logs.service("web"));
    let (mut block, mut more) = (BlockWriter::new(), Vec::new());
    let long = vec![b'x'; 10 << 20];
    block.append(
        &mut more,
        START_NS + 5 * SECOND_NS,
        Level::Error,
        &Source::new("s"),
        &long,
    );
    let mut whole = fs::read(&path).expect("text");
    whole.extend_from_slice(&more);
    fs::write(&path, &whole).expect("room");
    logs.append("web", 0, 6..8);
    for sealed in [false, true] {
        if sealed {
            logs.seal("web", id);
        }
        let raw = logs.run(&["query", "--level", "error", "--raw", "-n", "1"]);
        assert!(raw.stdout == [&long[..], b"\n"].concat());
        assert_eq!(text(&logs.run(&["query", "--count"]).stdout), "6\n");
        let behind = logs.run(&["query", "--cursor", "c1:0", "--grep", "line"]);
        assert_eq!(numbers(&behind.stdout), [0, 1, 2, 6, 7]);
    }
}

/// The format that `lnav` reads (checked with `lnav -C` when it was written): its pattern must take every line.
#[test]
fn the_format_for_lnav_takes_our_lines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/lnav-format.json");
    let format = fs::read(path).expect("the file");
    let format: serde_json::Value = serde_json::from_slice(&format).expect("JSON");
    let format = &format["millpond_log"];
    let pattern = format["regex"]["std"]["pattern"]
        .as_str()
        .expect("a pattern");
    let regex = regex::Regex::new(pattern).expect("a regex");
    let mut text = Vec::new();
    let mut block = BlockWriter::new();
    for level in Level::ALL {
        for (source, message) in [
            ("pty:out", "listening on 0.0.0.0:8080"),
            ("", ""),
            ("two words", "a\nb\t\u{e9}"),
        ] {
            block.append(
                &mut text,
                START_NS,
                level,
                &Source::new(source),
                message.as_bytes(),
            );
        }
    }
    let samples = format["sample"].as_array().expect("samples");
    let samples = samples
        .iter()
        .map(|sample| sample["line"].as_str().expect("a line"));
    let text = String::from_utf8(text).expect("UTF-8");
    for line in text.lines().chain(samples) {
        let found = regex.captures(line).unwrap_or_else(|| panic!("{line}"));
        let parsed = millpond_logfile::parse_line(line.as_bytes()).expect("one of ours");
        assert_eq!(
            &found["source"],
            str::from_utf8(parsed.source).expect("text")
        );
        assert_eq!(
            &found["body"],
            str::from_utf8(parsed.message).expect("text")
        );
        let levels = format["level"].as_object().expect("levels");
        let named = levels.iter().find(|(_, pattern)| {
            let pattern = pattern.as_str().expect("a pattern");
            regex::Regex::new(pattern)
                .expect("a regex")
                .is_match(&found["level"])
        });
        let name = named.expect("a level").0.replace("warning", "warn");
        assert_eq!(name, parsed.level.name());
    }
}

#[test]
fn raw_gives_repeats_back_and_says_what_is_missing() {
    let logs = Logs::new();
    let dir = logs.service("web");
    fs::create_dir_all(&dir).expect("a service");
    let at = |second: u64| format!("2026-11-21T01:00:0{second}.000000000Z");
    let repeat = |count: u64, second: u64| {
        let time = at(second);
        format!("{time} INFO  millpond repeat source=out count={count} first={time} last={time}\n")
    };
    let log = [
        format!("{} INFO  out one\n", at(1)),
        repeat(2, 2),
        format!(
            "{} WARN  millpond gap source=x lane=1 count=5 cause=full:5 first=1 last=5\n",
            at(3)
        ),
        format!("{} WARN  out two\n", at(4)),
    ];
    fs::write(SegmentId::from_ns(START_NS).log_path(&dir), log.concat()).expect("room");
    let raw = |more: &[&str]| {
        let output = logs.run(&[&["query", "--service", "web", "--raw"], more].concat());
        assert_eq!(code(&output), 0, "{more:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (all, said) = raw(&[]);
    assert_eq!(all, "one\none\none\ntwo\n");
    assert!(
        said.contains("5 records are not in this output: dropped"),
        "{said}"
    );
    assert_eq!(raw(&["--source", "out"]).0, all);
    assert_eq!(raw(&["--grep", "ne"]).0, "one\none\none\n");
    assert_eq!(raw(&["--level", "warn"]).0, "two\n");
    assert_eq!(raw(&["-n", "2"]).0, "one\ntwo\n");
    assert_eq!(raw(&["--newest-first", "-n", "3"]).0, "two\none\none\n");
    assert_eq!(raw(&["--utc", "--since", &at(2)]).0, "one\none\ntwo\n");
    assert!(
        raw(&["--source", "millpond"])
            .0
            .starts_with("repeat source=out count=2")
    );

    // A cursor may stand between two of them.
    let (mut cursor, mut read) = ("c1:0".to_owned(), String::new());
    while read.len() < all.len() {
        let output = logs.run(&[
            "query",
            "--raw",
            "-n",
            "1",
            "--print-cursor",
            "--cursor",
            &cursor,
        ]);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        read += &text(&output.stdout);
        cursor = text(&output.stderr)
            .lines()
            .last()
            .expect("a cursor")
            .to_owned();
    }
    assert_eq!(read, all);

    let json = logs.run(&["query", "--source", "millpond", "--json", "-n", "2"]);
    let first = text(&json.stdout).lines().next().map(serde_json::from_str);
    let first: serde_json::Value = first.expect("a line").expect("JSON");
    let expected = serde_json::json!({"source": "out", "count": 2, "first": at(2), "last": at(2)});
    assert_eq!(first["repeat"], expected);
}
