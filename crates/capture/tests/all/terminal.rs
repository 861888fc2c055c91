//! What a command finds on a terminal of ours.

use std::io::{Read, Write};

use millpond_capture::{CommandSpec, ErrorKind, Exit, Pty, WindowSize};

fn shell(script: &str) -> CommandSpec {
    CommandSpec {
        program: "sh".into(),
        arguments: vec!["-c".into(), script.into()],
        ..CommandSpec::default()
    }
}

/// Everything that a script shows, and how it ends.
fn show(script: &str) -> (String, Exit) {
    show_command(&shell(script))
}

fn show_command(command: &CommandSpec) -> (String, Exit) {
    let terminal = Pty::open(WindowSize::default()).expect("a terminal is left");
    let mut running = terminal.spawn(command).expect("it starts");
    let mut shown = Vec::new();
    // Linux says EIO where the last one has closed it.
    let _ = (&terminal).read_to_end(&mut shown);
    let exit = running.wait().expect("it ends");
    (String::from_utf8_lossy(&shown).into_owned(), exit)
}

#[test]
fn signals_are_as_at_the_start_of_a_program() {
    let (shown, _) = show("exec cat /proc/self/status");
    let mask = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.expect("it is listed").trim(), 16).expect("a mask")
    };
    assert_eq!(mask("SigBlk:"), 0, "none is blocked");
    // SIGPIPE, which Rust ignores in this process, is 13.
    assert_eq!(mask("SigIgn:") & (1 << 12), 0, "{shown}");
    assert_eq!(mask("SigCgt:"), 0, "none is caught");
}

#[test]
fn no_handle_of_ours_is_open_in_it() {
    // Whoever runs the tests may have left some open.
    let plain = std::process::Command::new("ls")
        .arg("/proc/self/fd")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("ls is there");
    let (shown, _) = show("exec ls /proc/self/fd");
    let plain = String::from_utf8_lossy(&plain.stdout).into_owned();
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&shown), words(&plain));
}

#[test]
fn directory_and_environment_are_as_asked_for() {
    let mut command = shell("pwd; echo $WHO");
    command.directory = Some("/".into());
    command.environment = vec![("WHO".into(), "me".into())];
    assert_eq!(
        show_command(&command),
        ("/\r\nme\r\n".to_owned(), Exit::Code(0))
    );
    command.directory = Some("/no/such/place".into());
    let terminal = Pty::open(WindowSize::default()).expect("a terminal is left");
    let error = terminal
        .spawn(&command)
        .expect_err("there is no such place");
    assert_eq!(error.kind(), ErrorKind::Other);
    assert!(error.to_string().contains("/no/such/place"), "{error}");
}

#[test]
fn the_terminal_stops_it_and_its_leader_sees_the_end() {
    let terminal = Pty::open(WindowSize::default()).expect("a terminal is left");
    let mut running = terminal
        .spawn(&shell("echo ready; read line; echo got $line; exit 9"))
        .expect("it starts");
    let mut shown = [0; 7];
    (&terminal).read_exact(&mut shown).expect("it is ready");
    let state = || {
        let path = format!("/proc/{}/stat", running.pid());
        let stat = std::fs::read_to_string(path).expect("it is there");
        stat.split(") ").nth(1).map(|rest| rest[..1].to_owned())
    };
    (&terminal).write_all(b"\x1a").expect("keys are taken");
    while state().as_deref() != Some("T") {
        std::thread::yield_now();
    }
    let group = format!("-{}", running.pid());
    let status = std::process::Command::new("kill")
        .args(["-CONT", "--", &group])
        .status();
    assert!(status.expect("kill starts").success());
    (&terminal).write_all(b"word\r").expect("keys are taken");
    assert_eq!(running.wait().expect("it ends"), Exit::Code(9));
}

/// As whatever `nohup` has started.
fn ignores_hang_ups() -> bool {
    const SIGHUP_BIT: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.unwrap_or(0) & SIGHUP_BIT != 0
}

#[test]
fn a_closed_terminal_hangs_up_on_the_command() {
    if ignores_hang_ups() {
        eprintln!("skipped: SIGHUP is ignored here (`nohup`), and what we start inherits that");
        return;
    }
    let terminal = Pty::open(WindowSize::default()).expect("a terminal is left");
    let mut running = terminal
        .spawn(&shell("echo ready; sleep 1000"))
        .expect("it starts");
    (&terminal).read_exact(&mut [0; 7]).expect("it is ready");
    drop(terminal);
    assert_eq!(running.wait().expect("it ends"), Exit::Signal(1));
}

#[test]
fn those_left_behind_are_not_hung_up_on() {
    let (shown, exit) = show("(sleep 0.2; echo late) & echo early");
    assert_eq!((shown.as_str(), exit), ("early\r\nlate\r\n", Exit::Code(0)));
}
