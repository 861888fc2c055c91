//! Many commands from one file: mistakes at their line and column, order of starts and stops by what the commands
//! themselves write, restarts, exits, and every line of all of them in the log once.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::Place;
use crate::support::{code, signal, text};

/// Nothing here takes long; what hangs is ended, so that the test fails and says what it had.
const WATCHDOG: Duration = Duration::from_secs(120);

impl Place {
    /// Writes the services file.
    fn file(&self, content: &str) -> PathBuf {
        let path = self.dir.path().join("services.toml");
        fs::write(&path, content).expect("the place can be written to");
        path
    }

    /// What the services wrote to this file of the place.
    fn written(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    fn capture(&self, content: &str) -> Capture {
        let path = self.file(content);
        let path = path.to_str().expect("a path of ours is text");
        let mut command = self.command(&["--json", "capture", "--file", path]);
        Capture::start(&mut command)
    }

    /// What stands in the log of a service, by the source.
    fn lines(&self, service: &str, source: &str) -> Vec<(String, String)> {
        let output = self.run(&["query", "--json", "--service", service, "--source", source]);
        let text = text(&output.stdout);
        let lines = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON lines");
            let field = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (field("level"), field("message"))
        });
        lines.collect()
    }

    /// The notes on a service that begin or end with this, in the order of the log.
    fn notes(&self, service: &str, part: &str) -> Vec<String> {
        let lines = self.lines(service, "capture").into_iter();
        lines
            .map(|(_, message)| message)
            .filter(|message| message.contains(part))
            .collect()
    }

    /// A pipe with a name, by which commands say that they are ready: one line each.
    fn fifo(&self) -> BufReader<fs::File> {
        let path = self.dir.path().join("ready");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo starts").success());
        // With a writer of our own, opening waits for nobody.
        let file = fs::File::options().read(true).write(true).open(path);
        BufReader::new(file.expect("it was made"))
    }
}

/// A running `millpond capture --file`, and what it has told.
struct Capture {
    child: Child,
    out: BufReader<ChildStdout>,
    told: Vec<Value>,
    /// Ends the watchdog when it goes.
    _watched: Sender<()>,
}

impl Capture {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let out = BufReader::new(child.stdout.take().expect("it was asked for"));
        let (watched, watch) = channel::<()>();
        let id = child.id().to_string();
        thread::spawn(move || {
            if watch.recv_timeout(WATCHDOG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", &id]).status();
            }
        });
        Capture {
            child,
            out,
            told: Vec::new(),
            _watched: watched,
        }
    }

    /// Reads until this has happened to that service.
    fn wait_for(&mut self, event: &str, service: &str) -> Value {
        loop {
            let mut line = String::new();
            let count = self.out.read_line(&mut line).expect("its output is text");
            assert!(count > 0, "no {event} of {service}: {:#?}", self.told);
            let value: Value = serde_json::from_str(&line).expect("JSON lines");
            self.told.push(value.clone());
            if value["event"] == event && value["service"] == service {
                return value;
            }
        }
    }

    /// Waits for its end: its exit code, and all that it told.
    fn end(mut self) -> (i32, Vec<Value>) {
        let mut rest = String::new();
        (self.out.read_to_string(&mut rest)).expect("its output is text");
        let rest = rest.lines().map(serde_json::from_str);
        let rest: Result<Vec<Value>, _> = rest.collect();
        self.told.extend(rest.expect("JSON lines"));
        let status = self.child.wait().expect("it was started");
        let code = status.code();
        (
            code.unwrap_or_else(|| panic!("killed: {:#?}", self.told)),
            self.told,
        )
    }
}

/// What happened to a service, in order.
fn events<'t>(told: &'t [Value], service: &str) -> Vec<&'t str> {
    let of_service = told.iter().filter(|one| one["service"] == service);
    of_service.filter_map(|one| one["event"].as_str()).collect()
}

/// The one thing of that kind that happened to a service.
fn told_once<'t>(told: &'t [Value], event: &str, service: &str) -> &'t Value {
    let mut of_kind = told
        .iter()
        .filter(|one| one["event"] == event && one["service"] == service);
    let first = of_kind.next();
    assert!(
        of_kind.next().is_none(),
        "{event} of {service} twice: {told:#?}"
    );
    first.unwrap_or_else(|| panic!("no {event} of {service}: {told:#?}"))
}

/// What `--check` says of a file that is called services.toml.
fn mistakes(content: &str) -> String {
    let place = Place::new("services-mistakes");
    place.file(content);
    let output = place
        .command(&["capture", "--check", "--file", "services.toml"])
        .current_dir(place.dir.path())
        .output()
        .expect("the command starts");
    assert_eq!(code(&output), 125, "{content}");
    assert!(output.stdout.is_empty(), "{content}");
    text(&output.stderr)
}

#[test]
fn each_mistake_is_told_with_its_line_and_column() {
    let ok = "[[service]]\nname = \"web\"\ncommand = \"true\"\n";
    for (content, expected) in [
        (
            "",
            "1:1: there is no service: write [[service]], name = \"..\" and command = \"..\"",
        ),
        (
            "[service]\nname = \"web\"\n",
            "1:2: service is a table here, and has to be a list: write [[service]]",
        ),
        (
            "[[srvice]]\nname = \"web\"\n",
            "1:3: \"srvice\" is no key of the file; did you mean `service`?",
        ),
        (
            "x = \n",
            "1:5: string values must be quoted, expected literal string",
        ),
        (
            "[[service]]\nname = \"web\"\nname = \"db\"\n",
            "3:1: duplicate key",
        ),
        (
            "[[service]]\ncommand = \"true\"\n",
            "1:1: service without a name: write name = \"..\"",
        ),
        (
            "[[service]]\nname = \"web\"\n",
            "1:1: service \"web\" without a command: write command = [\"..\"] or \"..\"",
        ),
        (
            "[[service]]\nname = \"a/b\"\ncommand = \"true\"\n",
            "2:8: name: service name \"a/b\" (3 bytes) cannot be used: 1 to 64 characters out of letters, digits, `.`, \
             `_` and `-`, not starting with `.`",
        ),
        (
            "[[service]]\nname = 1\ncommand = \"true\"\n",
            "2:8: name is a number here, and has to be text in quotes",
        ),
        (
            "[[service]]\nname = \"web\"\ncommand = []\n",
            "3:11: command is empty: write [\"program\", \"argument\"], or text for a shell",
        ),
        (
            "[[service]]\nname = \"web\"\ncommand = \"  \"\n",
            "3:11: command is empty: write [\"program\", \"argument\"], or text for a shell",
        ),
        (
            "[[service]]\nname = \"web\"\ncommand = [\"sleep\", 1]\n",
            "3:21: command: an item is a number here, and has to be text in quotes",
        ),
        (
            "[[service]]\nname = \"web\"\ncommand = [\"echo\", \"a\\u0000b\"]\n",
            "3:20: command: \"a\\0b\" has a NUL in it, which no command can be given",
        ),
    ] {
        assert_eq!(
            mistakes(content),
            format!("error: services.toml:{expected}\n"),
            "{content}"
        );
    }
    for (line, expected) in [
        (
            "comand = \"x\"",
            "4:1: \"comand\" is no key of a service; did you mean `command`?",
        ),
        (
            "stop_signal = \"INT\"",
            "4:1: \"stop_signal\" is no key of a service; did you mean `stop-signal`?",
        ),
        (
            "after = \"db\"",
            "4:9: after is text here, and has to be a list: write [\"..\", \"..\"]",
        ),
        (
            "after = [\"wep\"]",
            "4:10: after: there is no service \"wep\"; did you mean \"web\"?",
        ),
        (
            "after = [\"web\"]",
            "4:10: after: web after web is a circle: nothing of it can be first",
        ),
        (
            "directory = \"gone\"",
            "4:13: directory: there is no directory",
        ),
        (
            "environment = 1",
            "4:15: environment is a number here, and has to be a table: write { NAME = \"value\" }",
        ),
        (
            "environment = { PORT = 80 }",
            "4:24: environment: PORT is a number here, and has to be text in quotes",
        ),
        (
            "environment = { \"A=\" = \"\" }",
            "4:17: environment: \"A=\" is no name: it is empty, or has a `=` or a NUL",
        ),
        (
            "restart = true",
            "4:11: restart is true or false here, and has to be text in quotes",
        ),
        (
            "restart = \"never\"",
            "4:11: restart: \"never\" is unknown: use no, on-failure or always",
        ),
        (
            "restart-delay = \"1\"",
            "4:17: restart-delay: \"1\" is no duration: write 50ms, 10s, 5m, 2h or 1d",
        ),
        (
            "restart-delay = \"1us\"",
            "4:17: restart-delay: \"1us\" is below the least of 1ms",
        ),
        (
            "restart-delay-limit = \"1ms\"",
            "4:23: restart-delay-limit 1ms is below the restart-delay of 1s",
        ),
        (
            "restart-limit = 0",
            "4:17: restart-limit 0 is not from 1 to 4294967295: for none, write restart = \"no\"",
        ),
        (
            "restart-limit = \"3\"",
            "4:17: restart-limit is text here, and has to be a number",
        ),
        (
            "stop-signal = \"STOP\"",
            "4:15: stop-signal: \"STOP\" is unknown: use one of TERM, INT, HUP, QUIT, USR1, USR2, KILL",
        ),
        (
            "stop-timeout = 10",
            "4:16: stop-timeout is a number here, and has to be text in quotes",
        ),
        (
            "terminal = \"no\"",
            "4:12: terminal is text here, and has to be true or false",
        ),
        (
            "view = \"raw\"",
            "4:8: view: \"raw\" is unknown: use terminal or exact",
        ),
        (
            "partial-delay = \"s\"",
            "4:17: partial-delay: \"s\" is no duration: it starts with no number",
        ),
        ("level = \"loud\"", "4:9: level: \"loud\" is no level"),
        (
            "size = \"0x0\"",
            "4:8: size: a terminal has 1x1 to 65535x65535 characters: write 80x24",
        ),
        (
            "newlines = \"unix\"",
            "4:12: newlines: \"unix\" is unknown: use auto, kernel or own",
        ),
        (
            "linger = [1]",
            "4:10: linger is a list here, and has to be text in quotes",
        ),
        ("raw-to = \"\"", "4:10: raw-to: it is empty: write a path"),
        ("é = 1", "4:1: "),
    ] {
        let told = mistakes(&format!("{ok}{line}\n"));
        let expected = format!("error: services.toml:{expected}");
        assert!(told.starts_with(&expected), "{line}: {told}");
        assert_eq!(told.lines().count(), 1, "{line}: {told}");
    }
}

const MANY_MISTAKES: &str = r#"[defaults]
restart = "sometimes"
name = "all"
[[service]]
name = "a"
command = "true"
after = ["b", "nobody"]
[[service]]
name = "b"
command = "true"
raw-to = "x.cast"
after = ["c"]
[[service]]
name = "c"
after = ["b", "a"]
raw-to = "./x.cast"
[[service]]
name = "b"
"#;

#[test]
fn several_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let told = mistakes(&format!("{MANY_MISTAKES}level = \"lo\"; key = 1\n"));
    // A mistake of TOML hides the others: what is read behind it may not be what was meant.
    assert!(told.starts_with("error: services.toml:19:13: "), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");

    let told = mistakes(&format!("{MANY_MISTAKES}command = \"\"\n"));
    let expected = [
        "2:11: restart: \"sometimes\" is unknown: use no, on-failure or always",
        "3:1: name is a matter of one service: [defaults] has no such key",
        "7:10: after: a after b after c after a is a circle: nothing of it can be first",
        "7:15: after: there is no service \"nobody\"",
        "13:1: service \"c\" without a command: write command = [\"..\"] or \"..\"",
        "16:10: raw-to: another service writes ",
        "18:8: name \"b\" is that of the service in line 9: a service has one command",
        "19:11: command is empty: write [\"program\", \"argument\"], or text for a shell",
    ];
    assert_eq!(told.lines().count(), expected.len(), "{told}");
    for (line, expected) in told.lines().zip(expected) {
        let expected = format!("error: services.toml:{expected}");
        assert!(line.starts_with(&expected), "{line}\n{expected}");
    }
}

#[test]
fn what_is_no_services_file_is_refused_before_anything_starts() {
    let place = Place::new("services-refused");
    let missing = place.run(&["capture", "--file", "no-such-file.toml"]);
    assert_eq!(code(&missing), 125);
    let told = text(&missing.stderr);
    assert!(
        told.contains("cannot read the services file no-such-file.toml: No such file"),
        "{told}"
    );

    let directory = place.dir.path().to_str().expect("a path of ours is text");
    let unreadable = place.run(&["capture", "--file", directory]);
    assert_eq!(code(&unreadable), 125);
    assert!(text(&unreadable.stderr).contains("Is a directory"));

    let path = place.file("");
    fs::write(&path, b"[[service]]\nname = \"w\xff\"\n").expect("it was just written");
    let path = path.to_str().expect("a path of ours is text");
    let binary = place.run(&["capture", "--file", path]);
    assert_eq!(code(&binary), 125);
    let told = text(&binary.stderr);
    assert!(
        told.contains("services.toml:2:10: this is not UTF-8"),
        "{told}"
    );

    // The good service of a file with a mistake is not started either.
    place.file(
        "[[service]]\nname = \"a\"\ncommand = \"touch started\"\n[[service]]\nname = \"b\"\n",
    );
    let mistaken = place.run(&["capture", "--file", path]);
    assert_eq!(code(&mistaken), 125);
    assert!(!place.dir.path().join("started").exists());

    let json = place.run(&["--json", "capture", "--check", "--file", path]);
    assert_eq!(code(&json), 125);
    let answer: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(answer["mistakes"][0]["line"], 4);
    assert_eq!(answer["mistakes"][0]["column"], 1);
}

#[test]
fn check_shows_what_would_run_and_runs_nothing() {
    let place = Place::new("services-check");
    let content = r#"
[defaults]
restart = "on-failure"
restart-delay = "500ms"
environment = { LANG = "C", PORT = "1" }

[[service]]
name = "web"
command = ["./serve", "--port", "80 80"]
after = ["db"]
environment = { PORT = "8080" }
raw-to = "web.cast"
size = "120x40"
newlines = "own"

[[service]]
name = "db"
command = "touch started"
restart = "always"
restart-delay-limit = "5s"
restart-limit = 7
stop-signal = "SIGINT"
stop-timeout = "1m"
terminal = false
view = "exact"
level = "warn"
partial-delay = "50ms"
linger = "2s"
"#;
    let path = place.file(content);
    let path = path.to_str().expect("a path of ours is text");
    let table = place.run(&["capture", "--check", "--file", path]);
    assert_eq!(code(&table), 0, "{}", text(&table.stderr));
    let table = text(&table.stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[0].starts_with("service  after  restart"), "{table}");
    assert!(
        rows[1].starts_with("db       -      always 500ms..5s, at most 7  SIGINT 1m "),
        "{table}"
    );
    assert!(rows[1].contains("pipes"), "{table}");
    assert!(
        rows[2].starts_with("web      db     on-failure 500ms..1m "),
        "{table}"
    );
    assert!(
        rows[2].contains("terminal 120x40  ") && rows[2].contains("serve --port '80 80'"),
        "{table}"
    );

    let json = place.run(&["--json", "capture", "--check", "--file", path]);
    assert_eq!(code(&json), 0);
    let answer: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(answer["version"], 1);
    assert_eq!(answer["mistakes"], Value::Array(Vec::new()));
    let [db, web] = answer["services"].as_array().expect("a list").as_slice() else {
        panic!("two services: {answer:#}");
    };
    let dir = std::path::absolute(place.dir.path()).expect("a path of ours");
    assert_eq!(db["name"], "db");
    assert_eq!(
        db["command"],
        serde_json::json!(["/bin/sh", "-c", "touch started"])
    );
    assert_eq!(db["directory"], dir.to_str().expect("text"));
    assert_eq!(db["restart_limit"], 7);
    assert_eq!(db["restart_delay_ns"], 500_000_000);
    assert_eq!(db["restart_delay_limit_ns"], 5_000_000_000_u64);
    assert_eq!(db["stop_signal"], "SIGINT");
    assert_eq!(db["stop_timeout_ns"], 60_000_000_000_u64);
    assert_eq!(
        (&db["terminal"], &db["size"]),
        (&Value::Bool(false), &Value::Null)
    );
    assert_eq!(
        (&db["view"], &db["level"]),
        (&"exact".into(), &"warn".into())
    );
    assert_eq!(db["partial_delay_ns"], 50_000_000);
    assert_eq!(db["linger_ns"], 2_000_000_000);
    assert_eq!(web["after"], serde_json::json!(["db"]));
    assert_eq!(web["command"][0], dir.join("serve").to_str().expect("text"));
    assert_eq!(
        web["environment"],
        serde_json::json!({ "LANG": "C", "PORT": "8080" })
    );
    assert_eq!(web["raw_to"], dir.join("web.cast").to_str().expect("text"));
    assert_eq!(
        web["size"],
        serde_json::json!({ "columns": 120, "rows": 40 })
    );
    assert_eq!(web["newlines"], "own");
    assert!(!place.dir.path().join("started").exists());
}

/// Says where it stands in the order of all starts, says that it is ready, and says when it is asked to stop.
const ORDERLY: &str = r#"
read -r pid name state parent group session tty foreground flags a b c d e f g h i j k l start rest < /proc/$$/stat
echo "$start $pid $NAME" >> starts
trap 'echo "$NAME" >> stops; exit 0' TERM
echo ready > ready
while :; do sleep 0.02; done
"#;

#[test]
fn starts_go_by_after_then_by_the_file_and_stops_the_other_way_round() {
    let mut place = Place::new("services-order");
    place.start(&[]);
    fs::write(place.dir.path().join("orderly"), ORDERLY).expect("the place can be written to");
    let mut ready = place.fifo();
    let service = |name: &str, after: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\ncommand = [\"sh\", \"./orderly\"]\nafter = [{after}]\n\
             environment = {{ NAME = \"{name}\" }}\n"
        )
    };
    let content = [
        service("web", "\"api\", \"db\""),
        service("api", "\"db\""),
        service("lone", ""),
        service("db", ""),
    ]
    .concat();
    let mut capture = place.capture(&content);
    for name in ["lone", "db", "api", "web"] {
        let started = capture.wait_for("started", name);
        assert!(
            started["pid"].as_u64().is_some_and(|pid| pid > 1),
            "{started}"
        );
    }
    for _ in 0..4 {
        let mut line = String::new();
        ready.read_line(&mut line).expect("the fifo is open");
    }
    // By the clock of the kernel, and where that has not gone on, by the numbers that it gave.
    let starts = place.written("starts");
    let mut starts: Vec<(u64, u64, &str)> = (starts.lines())
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| fields[at].parse().expect("a number");
            (number(0), number(1), fields[2])
        })
        .collect();
    starts.sort_unstable();
    let started: Vec<&str> = starts.iter().map(|(_, _, name)| *name).collect();
    assert_eq!(started, ["lone", "db", "api", "web"], "{starts:?}");

    signal(&capture.child, "-TERM");
    let (code, told) = capture.end();
    assert_eq!(code, 0, "{told:#?}");
    let stops = place.written("stops");
    let stops: Vec<&str> = stops.lines().collect();
    let place_of = |name| stops.iter().position(|one| *one == name).expect(name);
    assert_eq!(stops.len(), 4, "{stops:?}");
    assert!(
        place_of("web") < place_of("api") && place_of("api") < place_of("db"),
        "{stops:?}"
    );
    for name in ["web", "api", "db", "lone"] {
        assert_eq!(
            events(&told, name),
            ["started", "stopping", "ended"],
            "{name}"
        );
        assert_eq!(place.notes(name, "stopping: SIGTERM").len(), 1, "{name}");
        assert_eq!(place.notes(name, "exited code=0").len(), 1, "{name}");
    }
    assert_eq!(told.last().expect("the last word")["event"], "done");
    place.stop();
}

#[test]
fn restarts_go_by_the_policy_and_are_all_in_the_log() {
    let mut place = Place::new("services-restarts");
    place.start(&[]);
    let (code, told) = place
        .capture(
            r#"
[defaults]
restart-delay = "1ms"
restart-delay-limit = "1h"
[[service]]
name = "never"
command = "echo run >> never; exit 3"
[[service]]
name = "failing"
command = "echo run >> failing; test $(wc -l < failing) -gt 3"
restart = "on-failure"
restart-delay = "10ms"
[[service]]
name = "fine"
command = "echo run >> fine"
restart = "on-failure"
[[service]]
name = "eager"
command = "echo run >> eager"
restart = "always"
restart-limit = 2
[[service]]
name = "hopeless"
command = "echo run >> hopeless; kill -SEGV $$"
restart = "on-failure"
restart-limit = 4
"#,
        )
        .end();
    assert_eq!(code, 1, "{told:#?}");
    let runs = |name: &str| place.written(name).lines().count();
    let counts = ["never", "failing", "fine", "eager", "hopeless"].map(runs);
    assert_eq!(counts, [1, 4, 1, 3, 5]);
    assert_eq!(events(&told, "never"), ["started", "ended"]);
    assert_eq!(events(&told, "fine"), ["started", "ended"]);
    assert_eq!(told_once(&told, "ended", "never")["code"], 3);
    assert_eq!(told_once(&told, "ended", "failing")["code"], 0);
    assert_eq!(told_once(&told, "gave-up", "eager")["restarts"], 2);
    assert_eq!(told_once(&told, "gave-up", "hopeless")["signal"], 11);
    let failed = &told.last().expect("the last word")["failed"];
    assert_eq!(*failed, serde_json::json!(["never", "eager", "hopeless"]));

    // The log has it too: the first delay, and each twice the one before.
    let restarts = place.notes("failing", "; restart ");
    let tails: Vec<&str> = (restarts.iter())
        .map(|line| line.split_once("; ").expect("it contains one").1)
        .collect();
    assert_eq!(
        tails,
        [
            "restart 1 in 10ms",
            "restart 2 in 20ms",
            "restart 3 in 40ms"
        ]
    );
    assert!(
        restarts
            .iter()
            .all(|line| line.starts_with("exited code=1 after=")),
        "{restarts:?}"
    );
    let given_up = place.notes("hopeless", "given up after 4 restarts in a row");
    assert_eq!(given_up.len(), 1);
    assert!(
        given_up[0].starts_with("ended by signal 11 (SIGSEGV) after="),
        "{given_up:?}"
    );
    for (name, starts) in [("never", 1), ("failing", 4), ("eager", 3), ("hopeless", 5)] {
        assert_eq!(place.notes(name, "started pid=").len(), starts, "{name}");
    }
    place.stop();
}

#[test]
fn it_ends_by_itself_with_zero_once_all_have() {
    // No daemon: what they wrote waits in memory for one.
    let mut place = Place::new("services-fine");
    let (code, told) = place
        .capture(
            "[[service]]\nname = \"a\"\ncommand = [\"echo\", \"from a\"]\n\
             [[service]]\nname = \"b\"\ncommand = \"echo from b; echo oh >&2\"\nterminal = false\n",
        )
        .end();
    assert_eq!(code, 0, "{told:#?}");
    let done = told.last().expect("the last word");
    assert_eq!((&done["event"], &done["code"]), (&"done".into(), &0.into()));
    assert_eq!(done["failed"], Value::Array(Vec::new()));
    place.start(&[]);
    place.stop();
    let message = |service: &str, source: &str| place.lines(service, source)[0].1.clone();
    assert_eq!(message("a", "pty:out"), "from a");
    assert_eq!(message("b", "pipe:out"), "from b");
    assert_eq!(message("b", "pipe:err"), "oh");
}

#[test]
fn a_command_that_cannot_be_started_is_recorded_and_the_others_run() {
    let mut place = Place::new("services-missing");
    place.start(&[]);
    let plain = place.dir.path().join("plain");
    fs::write(&plain, "text\n").expect("the place can be written to");
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&plain, mode).expect("the file is ours");
    let (code, told) = place
        .capture(
            r#"
[[service]]
name = "missing"
command = ["no-such-command-anywhere"]
[[service]]
name = "plain"
command = ["./plain"]
restart = "on-failure"
restart-delay = "1ms"
restart-limit = 2
[[service]]
name = "piped"
command = ["no-such-command-anywhere"]
terminal = false
[[service]]
name = "good"
command = "echo here"
after = ["missing", "plain"]
"#,
        )
        .end();
    assert_eq!(code, 1, "{told:#?}");
    for name in ["missing", "piped"] {
        assert_eq!(events(&told, name), ["ended"]);
        let why = told_once(&told, "ended", name)["error"]
            .as_str()
            .expect("why");
        assert!(why.contains("no-such-command-anywhere"), "{why}");
    }
    assert_eq!(
        events(&told, "plain"),
        ["restarting", "restarting", "gave-up"]
    );
    assert_eq!(events(&told, "good"), ["started", "ended"]);
    let missing = place.notes("missing", "not started: ");
    assert!(
        missing.len() == 1 && missing[0].contains("no-such-command-anywhere"),
        "{missing:?}"
    );
    assert_eq!(place.notes("plain", "; restart ").len(), 2);
    assert_eq!(place.notes("plain", "given up after 2 restarts").len(), 1);
    let lines = place.lines("good", "pty:out");
    assert_eq!(lines, [("info".to_owned(), "here".to_owned())]);
    place.stop();
}

/// Hears nothing of SIGTERM, and says when that is so.
const DEAF: &str = "trap '' TERM; echo ready > ready; while :; do sleep 0.02; done";

#[test]
fn what_does_not_end_is_killed_after_its_timeout() {
    let mut place = Place::new("services-deaf");
    place.start(&[]);
    let mut ready = place.fifo();
    let mut capture = place.capture(&format!(
        "[[service]]\nname = \"deaf\"\ncommand = \"{DEAF}\"\nstop-timeout = \"50ms\"\n\
         [[service]]\nname = \"waiting\"\ncommand = \"exit 1\"\nrestart = \"always\"\nrestart-delay = \"1h\"\n"
    ));
    ready
        .read_line(&mut String::new())
        .expect("the fifo is open");
    capture.wait_for("restarting", "waiting");
    // A terminal that goes is told of by the kernel, and by the shell: that is no second wish.
    signal(&capture.child, "-HUP");
    capture.wait_for("stopping", "deaf");
    signal(&capture.child, "-HUP");
    let (code, told) = capture.end();
    assert_eq!(code, 1, "{told:#?}");
    assert_eq!(
        events(&told, "deaf"),
        ["started", "stopping", "killed", "ended"]
    );
    assert_eq!(told_once(&told, "ended", "deaf")["signal"], 9);
    assert_eq!(
        events(&told, "waiting"),
        ["started", "restarting", "not-restarted"]
    );
    assert_eq!(place.notes("deaf", "ended by signal 9 (SIGKILL)").len(), 1);
    assert_eq!(place.notes("deaf", "SIGKILL: it still ran").len(), 1);
    assert_eq!(
        place
            .notes("waiting", "stopped while it waited for restart 1")
            .len(),
        1
    );
    place.stop();
}

#[test]
fn a_second_signal_kills_all_at_once_and_their_ends_are_recorded() {
    let mut place = Place::new("services-twice");
    place.start(&[]);
    let mut ready = place.fifo();
    let mut capture = place.capture(&format!(
        "[defaults]\nstop-timeout = \"1h\"\n\
         [[service]]\nname = \"first\"\ncommand = \"{DEAF}\"\n\
         [[service]]\nname = \"second\"\ncommand = \"{DEAF}\"\nafter = [\"first\"]\nterminal = false\n"
    ));
    for _ in 0..2 {
        ready
            .read_line(&mut String::new())
            .expect("the fifo is open");
    }
    signal(&capture.child, "-INT");
    capture.wait_for("stopping", "second");
    // Sooner it would be the same one: what a terminal sends to all, and a wrapper passes on.
    thread::sleep(Duration::from_millis(200));
    signal(&capture.child, "-INT");
    let (code, told) = capture.end();
    assert_eq!(code, 1, "{told:#?}");
    // The first one was still waited for: it was never asked.
    assert_eq!(events(&told, "first"), ["started", "killed", "ended"]);
    assert_eq!(
        events(&told, "second"),
        ["started", "stopping", "killed", "ended"]
    );
    for name in ["first", "second"] {
        assert_eq!(told_once(&told, "ended", name)["signal"], 9);
        assert_eq!(place.notes(name, "ended by signal 9 (SIGKILL)").len(), 1);
        assert_eq!(place.notes(name, "SIGKILL: signalled twice").len(), 1);
    }
    place.stop();
}

#[test]
fn twenty_four_at_once_lose_nothing_and_each_is_accounted_for() {
    const SERVICES: usize = 24;
    const LINES: usize = 2000;
    let mut place = Place::new("services-many");
    place.start(&[]);
    let mut content = String::new();
    for number in 0..SERVICES {
        let terminal = number % 3 != 0;
        content.push_str(&format!(
            "[[service]]\nname = \"s{number:02}\"\nterminal = {terminal}\n\
             command = \"seq -f 's{number:02} line %g of {LINES}' {LINES}; exit {}\"\n",
            number % 2
        ));
    }
    let (code, told) = place.capture(&content).end();
    assert_eq!(code, 1, "every second one says 1");
    place.stop();

    let stats = place.run(&["stats", "--json"]);
    let stats: Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    let sources = stats["sources"].as_array().expect("a list");
    for number in 0..SERVICES {
        let name = format!("s{number:02}");
        let source = if number % 3 == 0 {
            "pipe:out"
        } else {
            "pty:out"
        };
        let lines = place.lines(&name, source);
        let messages: Vec<&str> = lines.iter().map(|(_, message)| message.as_str()).collect();
        let expected: Vec<String> = (1..=LINES)
            .map(|line| format!("{name} line {line} of {LINES}"))
            .collect();
        assert!(messages == expected, "{name}: {} lines", messages.len());
        assert_eq!(told_once(&told, "ended", &name)["code"], number % 2);
        let exit = format!("exited code={} after=", number % 2);
        assert_eq!(place.notes(&name, &exit).len(), 1, "{name}");

        // Lines have a lane, and so has the raw stream: each adds up by itself.
        let label = format!("capture:{name}");
        let own = sources
            .iter()
            .filter(|source| source["label"] == label.as_str());
        let mut written = BTreeMap::new();
        for source in own {
            let count = |value: &Value| value.as_u64().expect("a count");
            let key = |key: &str| count(&source[key]);
            let dropped = count(&source["dropped"]["total"]);
            assert_eq!(key("published"), key("delivered") + dropped, "{source:#}");
            assert_eq!(key("in_flight"), 0, "{source:#}");
            let rule = source["rule"].as_str().unwrap_or_default().to_owned();
            if rule == "log:*" {
                let taken = ["written", "rejected", "coalesced", "suppressed"].map(key);
                assert_eq!(key("delivered"), taken.iter().sum::<u64>(), "{source:#}");
            }
            written.insert(rule, (key("written"), dropped));
        }
        // `started`, the lines, `exited`.
        assert_eq!(written.get("log:*"), Some(&(LINES as u64 + 2, 0)), "{name}");
    }
}

#[test]
fn a_recording_of_the_run_before_is_kept() {
    let place = Place::new("services-recording");
    let (code, told) = place
        .capture(
            r#"
[[service]]
name = "recorded"
command = "echo run >> runs; echo this is run $(wc -l < runs); exit 1"
restart = "on-failure"
restart-delay = "1ms"
restart-limit = 2
raw-to = "recorded.cast"
"#,
        )
        .end();
    assert_eq!(code, 1, "{told:#?}");
    assert!(place.written("recorded.cast").contains("this is run 3"));
    assert!(place.written("recorded.cast.1").contains("this is run 2"));
}

#[test]
fn two_hundred_restarts_without_a_daemon_need_two_lanes_and_lose_nothing() {
    let mut place = Place::new("services-restless");
    let (code, told) = place
        .capture(
            r#"
[[service]]
name = "restless"
command = "echo run >> runs; echo this is run $(wc -l < runs); test $(wc -l < runs) -ge 201"
restart = "on-failure"
restart-delay = "1ms"
restart-delay-limit = "2ms"
"#,
        )
        .end();
    assert_eq!(code, 0, "{:#?}", told.last());
    let runs = 201;
    place.start(&[]);
    place.stop();
    let lines = place.lines("restless", "pty:out");
    let expected: Vec<String> = (1..=runs).map(|run| format!("this is run {run}")).collect();
    let messages: Vec<String> = lines.into_iter().map(|(_, message)| message).collect();
    assert_eq!(messages, expected);
    assert_eq!(place.notes("restless", "started pid=").len(), runs);
}

#[test]
fn a_bus_without_room_for_all_starts_none_and_says_what_to_do() {
    let place = Place::new("services-full");
    let mut options = millpond_bus::BusOptions::default();
    options.limits.bus_bytes = 16 << 20;
    let bus = millpond_bus::Bus::attach(&place.bus, &options).expect("room for a bus");
    let mut content = String::new();
    for number in 0..8 {
        content.push_str(&format!(
            "[[service]]\nname = \"s{number}\"\ncommand = \"echo run >> runs\"\nrestart = \"always\"\n"
        ));
    }
    let path = place.file(&content);
    let output = place.run(&["capture", "--file", path.to_str().expect("text")]);
    let said = text(&output.stderr);
    assert_eq!(code(&output), 125, "{said}");
    assert!(
        said.contains("cannot be logged, so it is not started")
            && said.contains("millpond daemon")
            && said.contains("bus-bytes"),
        "{said}"
    );
    assert_eq!(place.written("runs"), "", "nothing runs that nobody logs");
    // So for a single one.
    let _full: Vec<millpond_bus::Publisher> = (0..8)
        .map_while(|number| {
            let mut publisher = bus.publisher(&format!("other{number}")).ok()?;
            publisher.topic("log:other:out").ok()?;
            Some(publisher)
        })
        .collect();
    let output = place.run(&["capture", "--service", "web", "--", "echo", "ran"]);
    assert_eq!((code(&output), text(&output.stdout)), (125, String::new()));
    assert!(text(&output.stderr).contains("bus-bytes"));
}

#[test]
fn an_end_that_was_asked_for_is_no_error() {
    let mut place = Place::new("services-asked");
    place.start(&[]);
    let mut capture = place.capture(
        "[[service]]\nname = \"a\"\ncommand = [\"sleep\", \"1000\"]\n\
         [[service]]\nname = \"b\"\ncommand = \"trap '' TERM; echo ready; exec sleep 1000\"\nstop-timeout = \"200ms\"\n",
    );
    capture.wait_for("started", "b");
    // Deaf from there on.
    while place.lines("b", "pty:out").is_empty() {
        thread::yield_now();
    }
    signal(&capture.child, "-TERM");
    assert_eq!(capture.end().0, 1, "one had to be killed");
    place.stop();
    let end = |service: &str| place.lines(service, "capture").pop().expect("a last note");
    let (level, message) = end("a");
    assert!(
        message.starts_with("ended by signal 15 (SIGTERM)"),
        "{message}"
    );
    assert_eq!(level.to_lowercase(), "info");
    let (level, message) = end("b");
    assert!(
        message.starts_with("ended by signal 9 (SIGKILL)"),
        "{message}"
    );
    assert_eq!(level.to_lowercase(), "error");
}
