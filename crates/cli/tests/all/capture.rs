//! A captured command as whoever sits in front of it meets it: on real terminals, with real processes.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use millpond_capture::{CommandSpec, Exit, Pty, Running, WindowSize};

use crate::support::{Place, code, signal, text};

/// A test that hangs fails after this, and leaves no process behind.
const WATCHDOG: Duration = Duration::from_secs(120);
const SIZE: WindowSize = WindowSize {
    columns: 100,
    rows: 30,
};

/// A terminal with somebody in front: types, and reads what is shown.
struct Screen {
    terminal: Option<Pty>,
    command: Running,
    shown: String,
    /// What was looked for up to here was found.
    seen: usize,
    _watchdog: Watchdog,
}

/// Kills a process group when it is not dropped in time, or when the test has failed.
struct Watchdog {
    group: u32,
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn new(group: u32) -> Self {
        let (alive, gone) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if gone.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill(group);
            }
        });
        Watchdog {
            group,
            _alive: alive,
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            kill(self.group);
        }
    }
}

fn kill(group: u32) {
    let group = format!("-{group}");
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
}

impl Screen {
    /// A program in front of the terminal, with the environment of the place.
    fn open(place: &Place, size: WindowSize, program: &str, arguments: &[&str]) -> Self {
        let terminal = Pty::open(size).expect("a terminal is left");
        let environment = [
            ("MILLPOND_BUS", place.bus.clone()),
            ("MILLPOND_LOGS", place.logs().display().to_string()),
            ("MILLPOND_CONFIG", "/dev/null".to_owned()),
            ("MILLPOND", env!("CARGO_BIN_EXE_millpond").to_owned()),
            ("TERM", "xterm-256color".to_owned()),
            ("PS1", "$ ".to_owned()),
        ];
        let command = terminal
            .spawn(&CommandSpec {
                program: program.into(),
                arguments: arguments.iter().map(Into::into).collect(),
                environment: environment
                    .into_iter()
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect(),
                ..CommandSpec::default()
            })
            .expect("it starts");
        let watchdog = Watchdog::new(command.pid());
        Screen {
            terminal: Some(terminal),
            command,
            shown: String::new(),
            seen: 0,
            _watchdog: watchdog,
        }
    }

    /// `millpond capture --service web -- sh -c SCRIPT` in front of it.
    fn capture(place: &Place, script: &str) -> Self {
        let arguments = ["capture", "--service", "web", "--", "sh", "-c", script];
        Self::open(place, SIZE, env!("CARGO_BIN_EXE_millpond"), &arguments)
    }

    fn terminal(&self) -> &Pty {
        self.terminal.as_ref().expect("it is not closed")
    }

    fn keys(&mut self, keys: &str) {
        self.terminal()
            .write_all(keys.as_bytes())
            .expect("keys are taken");
    }

    /// One more read; `false` at the end.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.terminal().read(&mut bytes) {
            Ok(count) if count > 0 => {
                self.shown
                    .push_str(&String::from_utf8_lossy(&bytes[..count]));
                true
            }
            _ => false,
        }
    }

    /// Waits until this is shown, behind what was waited for before.
    fn expect(&mut self, wanted: &str) {
        loop {
            if let Some(at) = self.shown[self.seen..].find(wanted) {
                self.seen += at + wanted.len();
                return;
            }
            let goes_on = self.read();
            assert!(goes_on, "{wanted:?} was never shown: {:?}", self.shown);
        }
    }

    /// Everything up to the end.
    fn end(mut self) -> (Exit, String) {
        while self.read() {}
        let exit = self.command.wait().expect("it has ended");
        (exit, self.shown.clone())
    }
}

/// Writes all that waits to the log.
fn drain(place: &mut Place) {
    place.start(&[]);
    place.stop();
}

/// Messages of a source of the service, from the log; `SOURCE` and `SOURCE+` joined.
fn messages(place: &Place, source: &str) -> String {
    let output = place.run(&["query", "--service", "web", "--source", source, "--raw"]);
    text(&output.stdout)
}

/// The whole log text of the service.
fn log(place: &Place) -> String {
    text(&place.run(&["cat", "web"]).stdout)
}

fn capture<'a>(arguments: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["capture", "--service", "web"];
    all.extend(arguments);
    all.push("--");
    all.extend(command);
    all
}

fn spawn(place: &Place, arguments: &[&str]) -> (Child, Watchdog) {
    use std::os::unix::process::CommandExt;
    let mut command = place.command(arguments);
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("it starts");
    let watchdog = Watchdog::new(child.id());
    (child, watchdog)
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let output = child.stdout.as_mut().expect("its output was asked for");
    // Byte by byte: what is behind the line stays to be read.
    let mut byte = [0];
    while !line.ends_with('\n') && output.read(&mut byte).expect("it can be read") > 0 {
        line.push(char::from(byte[0]));
    }
    line
}

#[test]
fn the_command_has_a_terminal_of_its_own_with_size_type_and_job_control() {
    let mut place = Place::new("tty");
    let script = "test -t 0 && test -t 1 && test -t 2 && echo three; stty size; tty; echo $TERM; \
                  ps -o pgid=,tpgid= -p $$ | awk '$1 == $2 {print \"in front\"}'";
    let (exit, shown) = Screen::capture(&place, script).end();
    assert_eq!(exit, Exit::Code(0), "{shown}");
    for expected in [
        "three\r\n30 100\r\n/dev/pts/",
        "\r\nxterm-256color\r\nin front\r\n",
    ] {
        assert!(shown.contains(expected), "{shown:?}");
    }
    drain(&mut place);
    let lines = messages(&place, "pty:out");
    assert_eq!(lines, shown.replace("\r\n", "\n"));
    let notes = messages(&place, "capture");
    assert!(notes.starts_with("started pid="), "{notes}");
    assert!(notes.contains("\nexited code=0 after="), "{notes}");
    assert!(
        log(&place)
            .trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.contains(" capture exited code=0"))
    );
}

#[test]
fn a_resize_reaches_the_command() {
    let place = Place::new("resize");
    // The shell runs its trap between two commands.
    let script =
        "trap 'echo size $(stty size); exit 5' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut screen = Screen::capture(&place, script);
    screen.expect("ready");
    let size = WindowSize {
        columns: 120,
        rows: 40,
    };
    screen.terminal().resize(size).expect("it can be resized");
    screen.expect("size 40 120");
    assert_eq!(screen.end().0, Exit::Code(5));
}

#[test]
fn a_terminal_of_no_size_gives_80_by_24() {
    let place = Place::new("nosize");
    let size = WindowSize {
        columns: 0,
        rows: 0,
    };
    let arguments = ["capture", "--service", "web", "--", "stty", "size"];
    let (exit, shown) =
        Screen::open(&place, size, env!("CARGO_BIN_EXE_millpond"), &arguments).end();
    assert_eq!((exit, shown.as_str()), (Exit::Code(0), "24 80\r\n"));
}

#[test]
fn ctrl_c_ends_the_command_and_the_status_says_so() {
    let place = Place::new("ctrlc");
    let mut screen = Screen::capture(&place, "echo ready; exec sleep 1000");
    screen.expect("ready");
    screen.keys("\x03");
    // 128 and SIGINT, as a shell would have said it.
    assert_eq!(screen.end().0, Exit::Code(130));
}

#[test]
fn the_end_of_a_pipeline_writes_to_a_terminal_as_ever() {
    let place = Place::new("pipeline-end");
    let script = "$MILLPOND capture --service web -- sh -c 'echo one; read word; echo two' | cat";
    let mut screen = Screen::open(&place, SIZE, "sh", &["-c", script]);
    // The terminal in front still turns the newlines of `cat`.
    screen.expect("one\r\n");
    screen.keys("go\r");
    screen.expect("go\r\ntwo\r\n");
    assert_eq!(screen.end().0, Exit::Code(0));
}

#[test]
fn keys_reach_a_command_that_reads_them_from_its_terminal_behind_a_pipe() {
    let place = Place::new("keys-aside");
    let script = "echo piped | $MILLPOND capture --service web -- sh -c '\
                      read word; echo got $word; stty -echo </dev/tty; echo ready; \
                      echo key $(dd bs=1 count=1 </dev/tty 2>/dev/null)'; \
                  stty -a | grep -o ' icanon' | tr a-z A-Z";
    let mut screen = Screen::open(&place, SIZE, "sh", &["-c", script]);
    screen.expect("got piped\r\n");
    screen.expect("ready\r\n");
    screen.keys("x\r");
    screen.expect("key x\r\n");
    // The terminal is as it was.
    screen.expect("ICANON");
    assert_eq!(screen.end().0, Exit::Code(0));
}

#[test]
fn a_password_is_not_shown_and_not_logged() {
    let mut place = Place::new("password");
    let script =
        "printf 'Password: '; stty -echo; echo asks; read word; stty echo; echo; echo got ${#word}";
    let mut screen = Screen::capture(&place, script);
    screen.expect("Password: asks");
    let echoes = screen.terminal().is_echoing().expect("it can be asked");
    assert!(
        !echoes,
        "the terminal in front must not show keys by itself"
    );
    screen.keys("secret\r");
    screen.expect("got 6");
    let (exit, shown) = screen.end();
    assert_eq!(exit, Exit::Code(0));
    assert!(!shown.contains("secret"), "{shown}");
    drain(&mut place);
    assert!(!log(&place).contains("secret"));
}

#[test]
fn ctrl_z_stops_both_and_fg_continues_both() {
    let place = Place::new("jobs");
    let mut shell = Screen::open(&place, SIZE, "bash", &["--norc", "--noprofile", "-i"]);
    shell.expect("$ ");
    shell.keys("$MILLPOND capture --service web -- sh -c 'echo re''ady; cat; echo at the e''nd'\r");
    shell.expect("ready");
    shell.keys("typed\r");
    // Echoed, and written by `cat`.
    shell.expect("typed\r\ntyped\r\n");
    shell.keys("\x1a");
    shell.expect("Stopped");
    shell.expect("$ ");
    // The shell has its terminal back as it was.
    shell.keys("stty -a | grep -o ' icanon' | tr a-z A-Z\r");
    shell.expect("ICANON");
    shell.keys("fg\r");
    shell.expect("capture --service web");
    shell.keys("more\r");
    shell.expect("more\r\nmore\r\n");
    shell.keys("\x04");
    shell.expect("at the end");
    shell.expect("$ ");
    shell.keys("echo status $?; exit\r");
    shell.expect("status 0");
    shell.end();
}

#[test]
fn a_closed_terminal_hangs_up_on_the_command_and_its_end_is_in_the_log() {
    let mut place = Place::new("hangup");
    let file = place.dir.path().join("hup");
    let script = format!(
        "trap 'echo hup > {}; exit 3' HUP; echo ready; while :; do sleep 0.05; done",
        file.display()
    );
    let mut screen = Screen::capture(&place, &script);
    screen.expect("ready");
    screen.terminal = None;
    let exit = screen.command.wait().expect("it ends");
    assert_eq!(exit, Exit::Code(3));
    assert_eq!(
        std::fs::read_to_string(&file).expect("the trap ran"),
        "hup\n"
    );
    drain(&mut place);
    assert!(messages(&place, "capture").contains("exited code=3"));
}

#[test]
fn exit_codes_are_those_of_the_command_or_say_why_there_was_none() {
    let place = Place::new("codes");
    let file = place.dir.path().join("text");
    std::fs::write(&file, "not a program").expect("room on the disk");
    let file = file.display().to_string();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["--", "sh", "-c", "exit 7"], 7, ""),
        (&["--", "sh", "-c", "kill -9 $$"], 137, ""),
        (&["--pipe", "--", "sh", "-c", "exit 7"], 7, ""),
        (&["--pipe", "--", "sh", "-c", "kill -TERM $$"], 143, ""),
        (
            &["--", "servr"],
            127,
            "there is no command \"servr\" in PATH",
        ),
        (
            &["--pipe", "--", "servr"],
            127,
            "there is no command \"servr\" in PATH",
        ),
        (
            &["--", "./no/servr"],
            127,
            "there is no command \"./no/servr\"",
        ),
        (&["--", &file], 126, "chmod +x"),
        (
            &["--raw-to", "/no/such/file", "--", "true"],
            125,
            "/no/such/file",
        ),
        (&["--level", "loud", "--", "true"], 125, "loud"),
    ];
    for (arguments, expected, said) in cases {
        let mut all = vec!["capture", "--service", "web"];
        all.extend(arguments);
        let output = place.run(&all);
        let told = text(&output.stderr);
        assert_eq!(code(&output), expected, "{arguments:?}: {told}");
        assert!(
            told.contains(said) && said.is_empty() == told.is_empty(),
            "{arguments:?}: {told}"
        );
    }
    let output = place.run(&["capture", "--service", "a/b", "--", "true"]);
    assert_eq!(code(&output), 125);
    let output = place.run(&["capture", "--service", "web", "true"]);
    assert_eq!(code(&output), 2, "the command stands behind `--`");
}

#[test]
fn a_pipeline_gets_the_bytes_untouched() {
    let mut place = Place::new("pipeline");
    let output = place.feed(&capture(&[], &["cat"]), b"a\nb\n");
    assert_eq!(
        (code(&output), text(&output.stdout)),
        (0, "a\nb\n".to_owned())
    );
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let output = place.feed(&capture(&["--pipe"], &["cat"]), &bytes);
    assert_eq!(code(&output), 0);
    assert!(output.stdout == bytes, "it came out different");
    drain(&mut place);
}

#[test]
fn a_reader_that_has_enough_ends_the_command_as_ever() {
    let place = Place::new("enough");
    for mode in [&[][..], &["--pipe"]] {
        let (mut child, _watchdog) = spawn(&place, &capture(mode, &["yes"]));
        assert_eq!(first_line(&mut child), "y\n");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(141), "{mode:?}");
    }
}

#[test]
fn out_and_err_are_told_apart() {
    let mut place = Place::new("apart");
    let output = place.run(&capture(
        &["--pipe"],
        &["sh", "-c", "echo out; echo oops: error: bad >&2; test -t 1"],
    ));
    assert_eq!(code(&output), 1);
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "oops: error: bad\n");
    drain(&mut place);
    assert_eq!(messages(&place, "pipe:out"), "out\n");
    assert_eq!(messages(&place, "pipe:err"), "oops: error: bad\n");
    assert!(log(&place).contains(" ERROR pipe:err oops"));
}

#[test]
fn output_that_is_pending_at_the_end_comes_before_it() {
    for mode in ["--newlines=own", "--newlines=kernel", "--pipe"] {
        let mut place = Place::new("pending");
        place.start(&[]);
        let output = place.run(&capture(&[mode], &["seq", "-f", "line %050g", "18000"]));
        assert_eq!(code(&output), 0);
        let expected: String = (1..=18_000).map(|n| format!("line {n:050}\n")).collect();
        assert!(
            text(&output.stdout).replace('\r', "") == expected,
            "{mode}: it came out different"
        );
        place.stop();
        let log = log(&place);
        let lines: Vec<&str> = log.lines().collect();
        let told = text(&output.stderr);
        assert_eq!(told, "", "{mode}: nothing was dropped");
        assert_eq!(lines.len(), 18_002, "{mode}");
        assert!(
            lines[18_000].trim_end_matches("\\r").ends_with("0018000"),
            "{mode}: {}",
            lines[18_000]
        );
        assert!(
            lines[18_001].contains(" capture exited code=0"),
            "{mode}: {}",
            lines[18_001]
        );
    }
}

#[test]
fn closing_standard_output_is_not_the_end() {
    for mode in [&[][..], &["--pipe"]] {
        let place = Place::new("closed");
        let file = place.dir.path().join("late");
        let script = format!(
            "echo first; exec >/dev/null 2>&1; sleep 0.3; touch {}; exit 4",
            file.display()
        );
        let output = place.run(&capture(mode, &["sh", "-c", &script]));
        assert_eq!(
            (code(&output), text(&output.stdout)),
            (4, "first\n".to_owned())
        );
        assert!(file.exists(), "it lived on");
    }
}

#[test]
fn those_left_behind_are_listened_to_until_they_are_silent() {
    let mut place = Place::new("behind");
    let script = "(for n in 1 2 3; do sleep 0.1; echo late $n; done; sleep 300) & echo early";
    let output = place.run(&capture(&["--linger", "2s"], &["sh", "-c", script]));
    assert_eq!(
        (code(&output), text(&output.stdout)),
        (0, "early\nlate 1\nlate 2\nlate 3\n".to_owned())
    );
    drain(&mut place);
    let log = log(&place);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(" capture exited code=0"), "{log}");
}

#[test]
fn a_signal_is_passed_on_once() {
    for mode in [&[][..], &["--pipe"]] {
        let place = Place::new("signals");
        let script = "n=0; trap 'n=$((n+1)); echo usr1' USR1; trap 'echo term $n; exit 9' TERM; echo ready; \
                      while :; do sleep 0.05; done";
        let (mut child, _watchdog) = spawn(&place, &capture(mode, &["sh", "-c", script]));
        assert_eq!(first_line(&mut child), "ready\n");
        // To the command alone, as it would be without us: what it started has no use for it.
        signal(&child, "-USR1");
        assert_eq!(first_line(&mut child), "usr1\n");
        signal(&child, "-TERM");
        // All are asked to end, and the shell tells how its `sleep` ended.
        let last =
            std::iter::repeat_with(|| first_line(&mut child)).find(|line| line != "Terminated\n");
        assert_eq!(last.as_deref(), Some("term 1\n"));
        assert_eq!(child.wait().expect("it ends").code(), Some(9), "{mode:?}");
    }
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let mut place = Place::new("endless");
    place.start(&[]);
    let script = "head -c 64000000 /dev/zero | tr '\\0' x; grep VmHWM /proc/$PPID/status >&2";
    let mut command = place.command(&capture(&["--pipe"], &["sh", "-c", script]));
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(code(&output), 0);
    let told = text(&output.stderr);
    let peak: u64 = told
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("VmHWM: N kB");
    // The lanes are counted: 4 MiB for lines, 1 MiB for the raw stream.
    assert!(peak < 40_000, "{told}");
    place.stop();
}

#[test]
fn lines_wait_for_a_daemon_that_comes_later() {
    let mut place = Place::new("later");
    let (mut child, _watchdog) = spawn(
        &place,
        &capture(
            &[],
            &["sh", "-c", "seq 1 500; echo half; sleep 0.5; seq 501 1000"],
        ),
    );
    while first_line(&mut child) != "half\n" {}
    place.start(&[]);
    let mut rest = String::new();
    let mut output = child.stdout.take().expect("its output was asked for");
    output.read_to_string(&mut rest).expect("it can be read");
    assert!(child.wait().expect("it ends").success());
    place.stop();
    let expected: String = (1..=500).map(|n| format!("{n}\n")).collect::<String>()
        + "half\n"
        + &(501..=1000).map(|n| format!("{n}\n")).collect::<String>();
    assert_eq!(messages(&place, "pty:out"), expected);
}

#[test]
fn a_killed_daemon_costs_nothing_while_the_lane_holds() {
    let mut place = Place::new("killed");
    place.start(&[]);
    let (mut child, _watchdog) = spawn(
        &place,
        &capture(
            &[],
            &[
                "sh",
                "-c",
                "seq 1 20000; echo half; sleep 0.3; seq 20001 30000",
            ],
        ),
    );
    while first_line(&mut child) != "half\n" {}
    let mut daemon = place.daemon.take().expect("it runs");
    daemon.child.kill().expect("it runs");
    daemon.child.wait().expect("it ends");
    std::io::copy(
        &mut child.stdout.take().expect("its output was asked for"),
        &mut std::io::sink(),
    )
    .expect("it can be read");
    assert!(child.wait().expect("it ends").success());
    drain(&mut place);
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect::<String>()
        + "half\n"
        + &(20_001..=30_000)
            .map(|n| format!("{n}\n"))
            .collect::<String>();
    assert!(
        messages(&place, "pty:out") == expected,
        "something was lost or doubled"
    );
}

#[test]
fn a_frozen_daemon_stops_nobody_and_what_was_dropped_is_told() {
    let mut place = Place::new("frozen");
    place.start(&[]);
    let daemon = place.daemon.as_ref().expect("it runs");
    signal(&daemon.child, "-STOP");
    let output = place.run(&capture(&[], &["seq", "400000"]));
    assert_eq!(code(&output), 0);
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert!(
        text(&output.stdout) == expected,
        "whoever is in front gets all of it"
    );
    let told = text(&output.stderr);
    let dropped: u64 = told
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("warning: N of M lines were dropped");
    assert!(
        told.contains("lines were dropped") && told.contains("lane-bytes"),
        "{told}"
    );
    signal(&place.daemon.as_ref().expect("it runs").child, "-CONT");
    place.stop();
    let log = log(&place);
    let lines = log
        .lines()
        .filter(|line| line.contains(" pty:out ") || line.contains(" capture "))
        .count() as u64;
    // Offered: 400,000 lines and three notes of ours.
    assert_eq!(lines + dropped, 400_003, "{told}");
    let all = text(&place.run(&["cat", "--all"]).stdout);
    // All of it is told by lines of the daemon.
    let told_of: u64 = all
        .lines()
        .filter(|line| line.contains("gap source=capture:web"))
        .filter_map(|line| {
            line.split_once(" count=")?
                .1
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(told_of, dropped, "{told}");
    assert!(
        log.contains(" capture exited code=0"),
        "room was left for it"
    );
    assert!(
        log.contains("gap source=capture:web"),
        "it is in the service's own log"
    );
}

#[test]
fn a_warning_of_ours_begins_a_line() {
    let mut place = Place::new("fresh");
    place.start(&[]);
    let daemon = place.daemon.as_ref().expect("it runs");
    signal(&daemon.child, "-STOP");
    let (exit, shown) = Screen::capture(&place, "seq 400000; printf last").end();
    assert_eq!(exit, Exit::Code(0));
    let end = &shown[shown.rfind("last").expect("it is shown")..];
    assert!(
        end.starts_with("last\r\n") && end.contains("lines were dropped"),
        "{end:?}"
    );
    // Where the command has ended its line, there is none in between.
    let (_, shown) = Screen::capture(&place, "seq 400000").end();
    let end = &shown[shown.rfind("400000\r\n").expect("it is shown")..];
    assert!(!end.contains("\r\n\r\n"), "{end:?}");
    signal(&place.daemon.as_ref().expect("it runs").child, "-CONT");
}

#[test]
fn a_mistyped_command_costs_no_recording() {
    let place = Place::new("mistyped");
    let file = place.dir.path().join("web.cast");
    let path = file.to_str().expect("text");
    let record = |command: &str| place.run(&capture(&["--raw-to", path], &[command]));
    assert_eq!(code(&record("servr")), 127);
    assert!(!file.exists(), "nothing was recorded");
    assert_eq!(code(&record("true")), 0);
    let before = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(code(&record("servr")), 127);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), before);
    // A run that is shorter leaves nothing of the one before.
    std::fs::write(&file, "x".repeat(10_000)).expect("room on the disk");
    assert_eq!(code(&record("true")), 0);
    let after = std::fs::read_to_string(&file).expect("it is there");
    assert!(
        after.starts_with("{\"version\":2") && after.ends_with("\"x\",\"0\"]\n"),
        "{after}"
    );
}

#[test]
fn a_recording_is_not_kept_back_while_the_command_is_silent() {
    let place = Place::new("silent");
    let file = place.dir.path().join("web.cast");
    let path = file.to_str().expect("text");
    let script = "printf one; sleep 0.02; printf two; read line";
    let (mut child, _watchdog) = {
        use std::os::unix::process::CommandExt;
        let mut command = place.command(&capture(&["--raw-to", path], &["sh", "-c", script]));
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let child = command.spawn().expect("it starts");
        let watchdog = Watchdog::new(child.id());
        (child, watchdog)
    };
    // The command waits for us, so nothing more comes until then.
    while !std::fs::read_to_string(&file).is_ok_and(|cast| cast.contains("two")) {
        assert!(child.try_wait().expect("it is ours").is_none(), "it waits");
        std::thread::yield_now();
    }
    drop(child.stdin.take());
    child.wait().expect("it ends");
}

#[test]
fn no_trouble_of_ours_ends_the_command() {
    // poll() fails where it is given more handles than a process may have.
    for mode in [&[][..], &["--pipe"]] {
        let mut place = Place::new("trouble");
        let file = place.dir.path().join("go");
        let script = format!(
            "echo ready; until test -e {}; do sleep 0.02; done; echo still here; exit 3",
            file.display()
        );
        let (mut child, _watchdog) = spawn(&place, &capture(mode, &["sh", "-c", &script]));
        assert_eq!(first_line(&mut child), "ready\n");
        let id = child.id().to_string();
        let lowered = Command::new("prlimit")
            .args(["--nofile=1:1", "--pid", &id])
            .status();
        if !lowered.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: prlimit does not work here");
            return;
        }
        std::fs::write(&file, "").expect("room on the disk");
        assert_eq!(first_line(&mut child), "still here\n", "{mode:?}");
        assert_eq!(child.wait().expect("it ends").code(), Some(3), "{mode:?}");
        drain(&mut place);
        assert!(log(&place).contains(":out still here"), "{mode:?}");
    }
}

#[test]
fn a_stop_that_was_passed_on_is_no_error() {
    let mut place = Place::new("stopped");
    let (mut child, _watchdog) = spawn(
        &place,
        &capture(&[], &["sh", "-c", "echo ready; exec sleep 1000"]),
    );
    assert_eq!(first_line(&mut child), "ready\n");
    signal(&child, "-TERM");
    assert_eq!(child.wait().expect("it ends").code(), Some(143));
    let output = place.run(&capture(&[], &["sh", "-c", "kill -TERM $$"]));
    assert_eq!(code(&output), 143);
    drain(&mut place);
    let log = log(&place);
    let ends: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ended by signal 15"))
        .collect();
    assert_eq!(ends.len(), 2, "{log}");
    assert!(ends[0].contains(" INFO "), "{log}");
    assert!(ends[1].contains(" ERROR "), "nobody asked for that: {log}");
}

#[test]
fn an_output_without_room_is_told() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        eprintln!("SKIPPED: there is no /dev/full");
        return;
    };
    let mut place = Place::new("fulloutput");
    let mut command = place.command(&capture(&[], &["sh", "-c", "echo a; sleep 0.1; echo b"]));
    let output = command.stdin(Stdio::null()).stdout(full).output();
    let output = output.expect("it runs");
    let said = text(&output.stderr);
    assert_eq!(code(&output), 0, "the command had no trouble: {said}");
    assert!(
        said.starts_with("warning: standard output took no more: No space left"),
        "{said}"
    );
    drain(&mut place);
    assert_eq!(messages(&place, "pty:out"), "a\nb\n");
}

/// What a shell does in namespaces of its own, with mounts that go with it; `None`, and said so, where that is not
/// permitted.
fn with_mounts(place: &Place, mounts: &str, script: &str) -> Option<std::process::Output> {
    let probe = Command::new("unshare")
        .args(["-m", "sh", "-c", mounts])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no mounts of our own here");
        return None;
    }
    let mut command = place.command(&[]);
    let environment: Vec<_> = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command = Command::new("unshare");
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let script = format!("{mounts} && {script}");
    command
        .args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_millpond")])
        .stdin(Stdio::null());
    Some(command.output().expect("unshare starts"))
}

#[test]
fn no_terminal_left_is_explained() {
    let place = Place::new("noterminal");
    let mounts = "mount -t devpts -o max=1,newinstance,ptmxmode=0666 devpts /dev/pts && mount --bind /dev/pts/ptmx /dev/ptmx";
    let Some(output) = with_mounts(
        &place,
        mounts,
        "exec 9<>/dev/ptmx && exec \"$0\" capture --service web -- echo ran",
    ) else {
        return;
    };
    let said = text(&output.stderr);
    assert_eq!(
        (code(&output), text(&output.stdout)),
        (125, String::new()),
        "{said}"
    );
    assert!(
        said.contains("no terminal is left") && said.contains("--pipe"),
        "{said}"
    );
}

#[test]
fn a_full_disk_costs_the_recording_alone() {
    let mut place = Place::new("nospace");
    let dir = place.dir.path().join("small");
    std::fs::create_dir(&dir).expect("room on the disk");
    let dir = dir.display();
    let mounts = format!("mount -t tmpfs -o size=64k tmpfs {dir}");
    let script = format!("exec \"$0\" capture --service web --raw-to {dir}/web.cast -- seq 20000");
    let Some(output) = with_mounts(&place, &mounts, &script) else {
        return;
    };
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(
        text(&output.stdout) == expected,
        "whoever is in front gets all of it"
    );
    let said = text(&output.stderr);
    assert!(
        said.starts_with("warning: ") && said.contains("web.cast: "),
        "{said}"
    );
    drain(&mut place);
    let notes = messages(&place, "capture");
    assert!(
        notes.contains("web.cast: ") && notes.contains("bytes of the cast are written"),
        "{notes}"
    );
    assert!(
        messages(&place, "pty:out") == expected,
        "and so does the log"
    );
}

#[test]
fn two_captures_of_a_service_are_told_apart() {
    let mut place = Place::new("two");
    let (mut first, _watchdog) = spawn(&place, &capture(&[], &["sh", "-c", "echo one; sleep 300"]));
    assert_eq!(first_line(&mut first), "one\n");
    let (mut second, _watchdog) = spawn(&place, &capture(&[], &["echo", "two"]));
    let pid = second.id();
    assert_eq!(first_line(&mut second), "two\n");
    assert!(second.wait().expect("it ends").success());
    signal(&first, "-TERM");
    assert_eq!(first.wait().expect("it ends").code(), Some(143));
    drain(&mut place);
    assert_eq!(messages(&place, "pty:out"), "one\n");
    assert_eq!(messages(&place, &format!("pty:out@{pid}")), "two\n");
    assert!(messages(&place, &format!("capture@{pid}")).contains("exited code=0"));
}

#[test]
fn a_slow_reader_is_waited_for_and_signals_are_heard_meanwhile() {
    let place = Place::new("slow");
    let (mut child, _watchdog) = spawn(
        &place,
        &capture(
            &[],
            &[
                "sh",
                "-c",
                "trap 'exit 6' TERM; while :; do echo more; done",
            ],
        ),
    );
    // Nobody reads any further: the pipe, and what we hold, are full soon.
    assert_eq!(first_line(&mut child), "more\n");
    signal(&child, "-TERM");
    std::io::copy(
        &mut child.stdout.take().expect("its output was asked for"),
        &mut std::io::sink(),
    )
    .expect("it can be read");
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
}

#[test]
fn ctrl_c_reaches_the_command_once_however_it_gets_there() {
    // Standard input is no terminal: the terminal in front sends SIGINT to us, and we pass it on. With pipes the command
    // is in our process group, and has its own.
    let script = "trap 'echo int; n=1' INT; echo ready; until test -n \\\"\\$n\\\"; do sleep 0.05; done; sleep 0.2; exit 5";
    for (before, mode) in [
        ("echo |", ""),
        ("echo |", "--pipe"),
        ("", "--pipe"),
        ("", ""),
    ] {
        let place = Place::new("once");
        let line = format!(
            "trap true INT; {before} $MILLPOND capture --service web {mode} -- sh -c \"{script}\"; exit $?"
        );
        let mut screen = Screen::open(&place, SIZE, "bash", &["-c", &line]);
        screen.expect("ready");
        screen.keys("\x03");
        let (exit, shown) = screen.end();
        assert_eq!(exit, Exit::Code(5), "{before} {mode}: {shown:?}");
        assert_eq!(
            shown.matches("int\r\n").count(),
            1,
            "{before} {mode}: {shown:?}"
        );
    }
}

#[test]
fn what_a_terminal_answers_is_shown_as_ever_and_not_logged() {
    let mut place = Place::new("answers");
    let mut screen = Screen::capture(&place, "printf 'where? \\033[6n'; read -r line; echo done");
    screen.expect("\x1b[6n");
    screen.keys("\x1b[24;80R\r");
    screen.expect("^[[24;80R");
    screen.expect("done");
    assert_eq!(screen.end().0, Exit::Code(0));
    drain(&mut place);
    let lines = messages(&place, "pty:out*");
    assert!(!lines.contains("24;80R"), "{lines:?}");
    assert!(
        lines.contains("where?") && lines.contains("done"),
        "{lines:?}"
    );
}

#[test]
fn a_full_screen_program_is_a_note_in_the_log() {
    let mut place = Place::new("fullscreen");
    let script = "echo before; printf '\\033[?1049hall over the screen\\033[?1049l'; echo after";
    let (exit, _) = Screen::capture(&place, script).end();
    assert_eq!(exit, Exit::Code(0));
    drain(&mut place);
    assert_eq!(messages(&place, "pty:out"), "before\nafter\n");
    let notes = messages(&place, "capture");
    assert!(notes.contains("of a full-screen program"), "{notes}");
    let lines = messages(&place, "pty:*");
    assert!(!lines.contains("all over"), "{lines}");
}

#[test]
fn a_parent_that_ignores_its_children_is_no_obstacle() {
    for mode in ["", "--pipe"] {
        let place = Place::new("ignored");
        let line =
            format!("trap '' CHLD; exec $MILLPOND capture --service web {mode} -- sh -c 'exit 7'");
        let (exit, shown) = Screen::open(&place, SIZE, "bash", &["-c", &line]).end();
        assert_eq!(exit, Exit::Code(7), "{mode}: {shown}");
    }
}
