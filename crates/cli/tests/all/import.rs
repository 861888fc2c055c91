//! `millpond import`: what comes out of the log is what was in the input, each record once, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use millpond_logfile::{format_time, unescape};
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params};
use serde_json::Value;

use crate::support::{Daemon, code, signal, text};

/// A place of its own: input, logs, no configuration of this host.
struct Place {
    dir: tempfile::TempDir,
    bus: String,
}

/// One line as it has to come out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    time_ns: u64,
    level: &'static str,
    source: String,
    message: Vec<u8>,
}

type Lines = BTreeMap<String, Vec<Line>>;

impl Place {
    fn new(name: &str) -> Self {
        let place = Place {
            dir: tempfile::tempdir().expect("a temporary place"),
            bus: format!("import-{name}-{}", std::process::id()),
        };
        // Small groups: there are many points to be killed at.
        std::fs::write(place.path("config.toml"), "group-bytes = \"64KiB\"\n").expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn logs(&self) -> PathBuf {
        self.path("logs")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("MILLPOND_BUS", &self.bus)
            .env("MILLPOND_LOGS", self.logs())
            .env("MILLPOND_CONFIG", self.path("config.toml"))
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the command starts")
    }

    fn import(&self, args: &[&str]) -> (i32, Value, String) {
        let output = self.run(&[&["import", "--json"], args].concat());
        let summary = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (code(&output), summary, text(&output.stderr))
    }

    fn start_daemon(&self) -> Daemon {
        let daemon = Daemon::start(self.command(&["daemon"]).stderr(Stdio::inherit()));
        assert!(
            daemon.ready.starts_with("millpond ready"),
            "{}",
            daemon.ready
        );
        daemon
    }

    /// What `query` says is in the log.
    fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        let mut services: Vec<String> = std::fs::read_dir(self.logs())
            .expect("the logs are there")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .filter(|name| !name.starts_with('.'))
            .collect();
        services.sort();
        for service in services {
            let output = self.run(&["query", "--service", &service, "--json"]);
            assert_eq!(code(&output), 0, "{}", text(&output.stderr));
            let found = output
                .stdout
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty());
            lines.insert(service, found.map(line_of).collect());
        }
        lines
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(bus) = millpond_bus::Bus::open(&self.bus) {
            let _ = bus.remove();
        }
    }
}

fn line_of(json: &[u8]) -> Line {
    let value: Value = serde_json::from_slice(json).expect("JSON");
    let text = |key: &str| value[key].as_str().expect("a text").as_bytes().to_vec();
    let mut message = Vec::new();
    match value.get("message_escaped") {
        Some(_) => unescape(&text("message_escaped"), &mut message),
        None => message = text("message"),
    }
    let level = ["trace", "debug", "info", "warn", "error", "fatal"]
        .into_iter()
        .find(|level| Some(*level) == value["level"].as_str());
    Line {
        time_ns: value["time_ns"].as_u64().expect("a time"),
        level: level.expect("a level"),
        source: String::from_utf8(text("source")).expect("a source"),
        message,
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

const SCHEMA: &str = "CREATE TABLE logs (id INTEGER PRIMARY KEY, context TEXT, source TEXT, tags TEXT, timestamp, \
                      level TEXT, error TEXT, content TEXT)";

/// A table of random rows, and what has to become of it.
fn make_table(path: &Path, rows: u64) -> (Lines, u64) {
    let contexts = [
        ("web", "web"),
        ("db", "db"),
        ("my app/2", "my-app-2"),
        (".x", "_x"),
        ("caf\u{e9}", "caf-"),
        ("", "unknown"),
    ];
    let sources = [
        ("rpc", "rpc"),
        ("", "-"),
        ("two words", "two\\x20words"),
        ("c++", "c+-"),
    ];
    let levels = [
        ("INFO", "info"),
        ("warning", "warn"),
        ("Critical", "fatal"),
        ("err", "error"),
        ("10", "debug"),
        ("TRACE", "trace"),
        ("loud", "info"),
    ];
    let odd: [&[u8]; 6] = [
        b"",
        b"two\nlines\r\n",
        b"nul \0 and escape \x1b[31m and \\n",
        b"\xff\xfe no text \xc3",
        b"tab\tand \xc2\x85 and caf\xc3\xa9",
        b"ends in space ",
    ];
    let mut random = Random(rows);
    let mut connection = Connection::open(path).expect("a database");
    connection.execute_batch(SCHEMA).expect("a table");
    let transaction = connection.transaction().expect("a transaction");
    let mut expected: BTreeMap<&str, Vec<(u64, u64, Line)>> = BTreeMap::new();
    let mut rejected = 0;
    for id in 1..=rows {
        let (context, service) = random.pick(&contexts);
        let (source, token) = random.pick(&sources);
        let (level_text, level) = random.pick(&levels);
        let content: Vec<u8> = match random.below(10) {
            0 => random.pick(&odd).to_vec(),
            _ => format!("row {id} says {:>40}", random.below(1 << 30)).into_bytes(),
        };
        let content = if id == rows / 2 {
            vec![b'x'; 10 << 20]
        } else {
            content
        };
        let error: &[u8] = random.pick(&[&b""[..], b"", b"boom\nat line 7"]);
        let tags: &[u8] = random.pick(&[&b""[..], b"a,b", b"[\"x\"]"]);
        let seconds = 1_700_000_000 + random.below(1000);
        let micros = random.below(1_000_000);
        let (time, time_ns) = match random.below(200) {
            0 => (Sql::Null, None),
            1 => (Sql::Text("soon".to_owned()), None),
            2 => (Sql::Integer(-5), None),
            3..=40 => (Sql::Integer(seconds as i64), Some(seconds * 1_000_000_000)),
            41 => (
                Sql::Text(seconds.to_string()),
                Some(seconds * 1_000_000_000),
            ),
            _ => (
                Sql::Real(seconds as f64 + micros as f64 / 1e6),
                Some(seconds * 1_000_000_000 + micros * 1000),
            ),
        };
        let empty_is_null = |bytes: &[u8]| match bytes {
            b"" => Sql::Null,
            _ => Sql::Blob(bytes.to_vec()),
        };
        let sql = "INSERT INTO logs VALUES (?1, ?2, ?3, CAST(?4 AS TEXT), ?5, ?6, CAST(?7 AS TEXT), CAST(?8 AS TEXT))";
        let context_value = (!context.is_empty()).then_some(context);
        // Some contents stay blobs.
        let sql = match random.below(4) {
            0 => sql.replace("CAST(?8 AS TEXT)", "?8"),
            _ => sql.to_owned(),
        };
        transaction
            .prepare_cached(&sql)
            .expect("it is SQL")
            .execute(params![
                id,
                context_value,
                source,
                empty_is_null(tags),
                time,
                level_text,
                empty_is_null(error),
                Sql::Blob(content.clone())
            ])
            .expect("a row");
        let Some(time_ns) = time_ns else {
            rejected += 1;
            continue;
        };
        let mut message = content;
        let mut add = |name: &str, value: &[u8]| {
            if !value.is_empty() {
                if !message.is_empty() {
                    message.push(b' ');
                }
                message.extend_from_slice(name.as_bytes());
                message.extend_from_slice(value);
            }
        };
        add("error=", error);
        add("tags=", tags);
        if context != service {
            add("context=", context.as_bytes());
        }
        if source == "c++" {
            add("source=", source.as_bytes());
        }
        if level_text == "loud" {
            add("level=", level_text.as_bytes());
        }
        let line = Line {
            time_ns,
            level,
            source: token.to_owned(),
            message,
        };
        expected
            .entry(service)
            .or_default()
            .push((time_ns, id, line));
    }
    transaction.commit().expect("committed");
    let mut lines = Lines::new();
    for (service, mut rows) in expected {
        rows.sort_by_key(|(time_ns, id, _)| (*time_ns, *id));
        lines.insert(
            service.to_owned(),
            rows.into_iter().map(|(_, _, line)| line).collect(),
        );
    }
    (lines, rejected)
}

/// An export of random entries, and what has to become of it.
fn make_export(path: &Path, entries: u64) -> (Lines, u64) {
    let mut random = Random(entries);
    let mut out = Vec::new();
    let mut lines = Lines::new();
    let mut rejected = 0;
    let binary = |out: &mut Vec<u8>, key: &str, value: &[u8]| {
        out.extend_from_slice(key.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    };
    for entry in 0..entries {
        let at_us = 1_700_000_000_000_000 + entry * 1000 - random.below(20) * 100;
        let unit = random.pick(&["web.service", "getty@tty1.service", ""]);
        let service = match unit {
            "web.service" => "web",
            "getty@tty1.service" => "getty-tty1",
            _ => "cron",
        };
        let levels = [
            "fatal", "fatal", "fatal", "error", "warn", "info", "info", "debug",
        ];
        let priority = random.below(8) as usize;
        writeln!(out, "__CURSOR=s=1;i={entry:x}").expect("memory");
        let has_time = random.below(300) > 0;
        if has_time {
            writeln!(out, "__REALTIME_TIMESTAMP={at_us}").expect("memory");
        }
        writeln!(
            out,
            "__MONOTONIC_TIMESTAMP=5\n_TRANSPORT=stdout\nPRIORITY={priority}"
        )
        .expect("memory");
        writeln!(out, "SYSLOG_IDENTIFIER=cron\n_COMM=sh").expect("memory");
        if !unit.is_empty() {
            writeln!(out, "_SYSTEMD_UNIT={unit}").expect("memory");
        }
        // A field that looks like the end of an entry.
        binary(&mut out, "COREDUMP", b"\n\n__CURSOR=no\n\n");
        let mut message = match random.below(4) {
            0 => b"two\nlines \0 \xff\n\nMESSAGE=no\n".to_vec(),
            1 => vec![b'y'; random.below(3000) as usize],
            _ => format!("entry {entry} = {}", random.below(1 << 20)).into_bytes(),
        };
        if message.contains(&b'\n') || random.below(9) == 0 {
            binary(&mut out, "MESSAGE", &message);
        } else {
            out.extend_from_slice(b"MESSAGE=");
            out.extend_from_slice(&message);
            out.push(b'\n');
        }
        out.push(b'\n');
        if !has_time {
            rejected += 1;
            continue;
        }
        if unit.starts_with("getty") {
            if !message.is_empty() {
                message.push(b' ');
            }
            message.extend_from_slice(b"unit=getty@tty1");
        }
        lines.entry(service.to_owned()).or_default().push(Line {
            time_ns: at_us * 1000,
            level: levels[priority],
            source: "stdout".to_owned(),
            message,
        });
    }
    // Cut off in the middle of a field.
    out.extend_from_slice(b"__CURSOR=s=1;i=end\n__REALTIME_TIMESTAMP=1700000000000000\nMESSAGE\n\xff\0\0\0\0\0\0\0cut");
    rejected += 1;
    std::fs::write(path, out).expect("written");
    (lines, rejected)
}

fn assert_same(found: &Lines, expected: &Lines) {
    let services = |lines: &Lines| lines.keys().cloned().collect::<Vec<_>>();
    assert_eq!(services(found), services(expected));
    for (service, lines) in expected {
        assert_eq!(found[service].len(), lines.len(), "{service}");
        for (at, (found, expected)) in found[service].iter().zip(lines).enumerate() {
            // Messages of 10 MB are not for a screen.
            assert!(
                found == expected,
                "{service} line {at}: {:.300} instead of {:.300}",
                format!("{found:?}"),
                format!("{expected:?}")
            );
        }
    }
}

fn count(lines: &Lines) -> u64 {
    lines.values().map(|lines| lines.len() as u64).sum()
}

#[test]
fn ten_thousand_rows_come_out_as_they_went_in() {
    let place = Place::new("rows");
    let (expected, rejected) = make_table(&place.path("logs.db"), 10_000);
    let before = std::fs::read(place.path("logs.db")).expect("readable");

    let (exit, plan, _) = place.import(&["logs.db", "--dry-run"]);
    assert_eq!(exit, 2, "some rows are rejected");
    assert_eq!(plan["would_write"], count(&expected));
    assert_eq!(plan["rejected"], rejected);
    assert!(!place.logs().exists(), "a dry run changes nothing");
    assert_eq!(
        std::fs::read_dir(place.dir.path())
            .expect("readable")
            .count(),
        2
    );

    let (exit, summary, errors) = place.import(&["logs.db"]);
    assert_eq!(exit, 2, "{errors}");
    assert_eq!(summary["read"], 10_000);
    assert_eq!(summary["written"], count(&expected));
    assert_eq!(summary["rejected"], rejected);
    assert_eq!(
        summary["rejected_rows"].as_array().map(Vec::len),
        Some(rejected as usize)
    );
    assert_same(&place.lines(), &expected);
    assert_eq!(code(&place.run(&["verify"])), 0);

    // Again: nothing to do, and nothing done.
    let (exit, again, _) = place.import(&["logs.db"]);
    assert_eq!((exit, &again["already_finished"]), (0, &Value::Bool(true)));
    assert_same(&place.lines(), &expected);
    assert!(before == std::fs::read(place.path("logs.db")).expect("readable"));
}

#[test]
fn a_journal_export_comes_out_as_it_went_in_from_a_file_and_from_standard_input() {
    let place = Place::new("journal");
    let (expected, rejected) = make_export(&place.path("export"), 3_000);
    let (exit, summary, errors) = place.import(&["export"]);
    assert_eq!(exit, 2, "{errors}");
    assert_eq!(summary["rejected"], rejected);
    assert!(summary["backward_steps"].as_u64() > Some(0));
    // Within a service the order of the input stays; queries give it by time.
    let by_time = |lines: &Lines| {
        let mut lines = lines.clone();
        lines.values_mut().for_each(|lines| lines.sort());
        lines
    };
    assert_same(&by_time(&place.lines()), &by_time(&expected));

    let piped = Place::new("journal-pipe");
    let mut child = piped
        .command(&["import", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("its input was asked for");
    stdin
        .write_all(&std::fs::read(place.path("export")).expect("readable"))
        .expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 2, "{}", text(&output.stderr));
    assert_same(&by_time(&piped.lines()), &by_time(&expected));
}

/// How many rows the state says are written; 0 before there is one.
fn written(place: &Place) -> u64 {
    let Ok(mut entries) = std::fs::read_dir(place.logs().join(".import")) else {
        return 0;
    };
    let is_json = |path: &PathBuf| path.extension().is_some_and(|end| end == "json");
    let path = entries.find_map(|entry| Some(entry.ok()?.path()).filter(is_json));
    let text = path.and_then(|path| std::fs::read(path).ok());
    let state: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    state.map_or(0, |state| state["counts"]["written"].as_u64().unwrap_or(0))
}

/// Starts an import, and stops it with `how` once it has written more than before. False where it was done sooner.
fn stop_midway(place: &Place, file: &str, how: &str) -> bool {
    let before = written(place);
    let mut child = place
        .command(&["import", file])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    while written(place) == before {
        if child.try_wait().expect("it can be asked").is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    signal(&child, how);
    let ended = child.wait().expect("it ends");
    ended.code().is_none_or(|code| code > 128)
}

fn killed_ten_times(place: &Place, file: &str, expected: &Lines) {
    let kills = (0..10)
        .filter(|_| stop_midway(place, file, "-KILL"))
        .count();
    eprintln!("{file}: killed {kills} times in the middle");
    assert!(kills > 0, "it was never killed in the middle");
    let output = place.run(&["import", file]);
    let errors = text(&output.stderr);
    assert!([0, 2].contains(&code(&output)), "{errors}");
    if kills == 10 {
        assert!(errors.contains("resuming at row"), "{errors}");
    }
    let mut found = place.lines();
    let mut expected = expected.clone();
    found.values_mut().for_each(|lines| lines.sort());
    expected.values_mut().for_each(|lines| lines.sort());
    assert_same(&found, &expected);
    assert_eq!(code(&place.run(&["verify"])), 0);
}

#[test]
fn killed_ten_times_every_row_is_there_once() {
    let place = Place::new("kill");
    let (expected, _) = make_table(&place.path("logs.db"), 40_000);
    killed_ten_times(&place, "logs.db", &expected);
}

#[test]
fn killed_ten_times_every_entry_is_there_once() {
    let place = Place::new("kill-journal");
    let (expected, _) = make_export(&place.path("export"), 12_000);
    killed_ten_times(&place, "export", &expected);
}

#[test]
fn stopped_in_order_it_goes_on_even_when_a_daemon_ran_meanwhile() {
    let place = Place::new("stop");
    let (expected, _) = make_table(&place.path("logs.db"), 20_000);
    stop_midway(&place, "logs.db", "-INT");
    let daemon = place.start_daemon();
    daemon.stop();
    let (_, _, errors) = place.import(&["logs.db"]);
    assert!(!errors.contains("error:"), "{errors}");
    assert_same(&place.lines(), &expected);
}

#[test]
fn what_stands_in_the_way_is_named_with_what_to_do() {
    let place = Place::new("errors");
    make_table(&place.path("logs.db"), 100);
    let daemon = place.start_daemon();
    let (exit, _, errors) = place.import(&["logs.db"]);
    assert_eq!(exit, 2);
    assert!(
        errors.contains("is being written by process") && errors.contains("--logs"),
        "{errors}"
    );
    let published = place.run(&["publish", "log:web:x", "new", "--wait", "written"]);
    assert_eq!(code(&published), 0, "{}", text(&published.stderr));
    daemon.stop();

    let (exit, _, errors) = place.import(&["logs.db"]);
    assert_eq!(exit, 2);
    assert!(
        errors.contains("\"web\"") && errors.contains("--service-prefix imported-"),
        "{errors}"
    );
    assert_eq!(count(&place.lines()), 1, "nothing was written");
    let (_, summary, errors) = place.import(&["logs.db", "--service-prefix", "imported-"]);
    assert!(summary["finished"].is_string(), "{errors}");
    assert!(place.lines().contains_key("imported-web"));

    // The daemon goes on with all of it.
    let daemon = place.start_daemon();
    let published = place.run(&[
        "publish",
        "log:imported-web:x",
        "newer",
        "--wait",
        "written",
    ]);
    assert_eq!(code(&published), 0, "{}", text(&published.stderr));
    daemon.stop();
    let lines = place.lines();
    assert_eq!(
        lines["imported-web"]
            .last()
            .map(|line| line.message.clone()),
        Some(b"newer".to_vec())
    );

    let refused = |args: &[&str], words: &[&str]| {
        let (exit, _, errors) = place.import(args);
        assert_eq!(exit, 2, "{args:?}");
        for word in words {
            assert!(errors.contains(word), "{args:?}: {errors}");
        }
    };
    refused(
        &["logs.db", "--table", "entries"],
        &["\"entries\"", "it has logs", "--table"],
    );
    refused(&["absent.db"], &["absent.db", "No such file"]);
    refused(&["logs.db", "--service", "a b"], &["service name"]);
    refused(&["logs.db", "--field", "X"], &["--field"]);
    std::fs::write(place.path("text"), "hello\n").expect("written");
    refused(&["text"], &["journalctl -o export"]);
    std::fs::write(place.path("empty"), "").expect("written");
    refused(&["empty"], &["is empty"]);
    let mut torn = std::fs::read(place.path("logs.db")).expect("readable");
    torn.truncate(3000);
    std::fs::write(place.path("torn.db"), torn).expect("written");
    refused(&["torn.db"], &["damaged", ".recover"]);
    let other = Connection::open(place.path("other.db")).expect("a database");
    other
        .execute_batch("CREATE TABLE logs (a, b)")
        .expect("a table");
    refused(&["other.db"], &["no column timestamp", "it has a, b"]);
}

#[test]
fn a_database_that_is_being_written_gives_one_moment_of_it() {
    let place = Place::new("live");
    let path = place.path("live.db");
    let writer = Connection::open(&path).expect("a database");
    writer
        .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .expect("it has a WAL");
    writer.execute_batch(SCHEMA).expect("a table");
    let insert = |content: &str| {
        writer
            .execute(
                "INSERT INTO logs (context, timestamp, level, content) VALUES ('web', 1700000000, 'INFO', ?1)",
                [content],
            )
            .expect("a row");
    };
    insert("one");
    insert("two");
    writer
        .execute_batch("BEGIN IMMEDIATE")
        .expect("a transaction");
    insert("not yet");
    let (exit, summary, errors) = place.import(&["live.db"]);
    assert_eq!(
        (exit, &summary["written"]),
        (0, &Value::from(2)),
        "{errors}"
    );
    writer.execute_batch("COMMIT").expect("committed");
    let lines = place.lines();
    assert_eq!(count(&lines), 2);
    let first = &lines["web"][0];
    assert_eq!(&format_time(first.time_ns)[..20], b"2023-11-14T22:13:20.");
}

#[test]
fn other_columns_are_kept_and_missing_ones_are_none() {
    let place = Place::new("columns");
    let connection = Connection::open(place.path("few.db")).expect("a database");
    connection
        .execute_batch(
            "CREATE TABLE Entries (Id INTEGER PRIMARY KEY, TS INTEGER, Message TEXT, host TEXT, pid INTEGER);
             INSERT INTO Entries VALUES (7, 1700000000123, 'hello', 'box one', 42);",
        )
        .expect("a table");
    let args = [
        "few.db",
        "--table",
        "Entries",
        "--time-unit",
        "ms",
        "--service",
        "old",
    ];
    let (exit, _, errors) = place.import(&args);
    assert_eq!(exit, 0, "{errors}");
    let expected = Line {
        time_ns: 1_700_000_000_123_000_000,
        level: "info",
        source: "-".to_owned(),
        message: b"hello host=box one pid=42".to_vec(),
    };
    assert_same(
        &place.lines(),
        &Lines::from([("old".to_owned(), vec![expected])]),
    );
    let plan = place.run(&[
        "import",
        "few.db",
        "--table",
        "Entries",
        "--time-unit",
        "ms",
        "--dry-run",
    ]);
    let plan = text(&plan.stdout);
    assert!(
        plan.contains("not there: context, source, level, error, tags"),
        "{plan}"
    );
}
