//! What a service manager hears of a daemon, by a socket that stands for it; and the units of the guide, by systemd's own
//! checker where that is installed.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_tests::Watchdog;

use crate::health::{Gate, LOOK_INTERVAL, address_in, get};
use crate::support::{Daemon, Place, code, signal, text};

const LIMIT: Duration = Duration::from_secs(120);

/// The other end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn listen(place: &Place) -> Self {
        let path = place.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Manager { socket, path }
    }

    fn daemon(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = place.command(&[&["daemon"], args].concat());
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID");
        command
    }

    /// The next message, its lines.
    fn hear(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message");
        text(&bytes[..length]).lines().map(str::to_owned).collect()
    }

    /// Messages until one has this line; all of them.
    fn hear_until(&self, line: &str) -> Vec<Vec<String>> {
        let mut heard = Vec::new();
        loop {
            let message = self.hear();
            let is_last = message.iter().any(|found| found == line);
            heard.push(message);
            if is_last {
                return heard;
            }
        }
    }
}

#[test]
fn ready_comes_after_recovery_and_each_change_is_told() {
    let _watchdog = Watchdog::start("notifications", LIMIT);
    let mut place = Place::new("notify");
    let manager = Manager::listen(&place);
    let gate = Gate::shut(&place.logs());
    let mut command = manager.daemon(&place, &["--http", "127.0.0.1:0"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    place.daemon = Some(Daemon {
        child: child.expect("the daemon starts"),
        ready: String::new(),
    });
    let first = manager.hear();
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(
        first[0].starts_with("STATUS=recovering the log in "),
        "{first:?}"
    );
    // Its pages are there already, and say the same.
    let address = address_in(&first[0]);
    while get(address, "/readyz").json()["phase"] != "recovery" {
        std::thread::sleep(LOOK_INTERVAL);
    }
    manager.socket.set_nonblocking(true).expect("a socket");
    let early = manager.socket.recv(&mut [0; 100]);
    assert!(early.is_err(), "nothing is ready yet");
    manager.socket.set_nonblocking(false).expect("a socket");
    gate.open();
    let ready = manager.hear();
    assert_eq!(ready[0], "READY=1");
    assert!(ready[1].starts_with("STATUS=draining bus "), "{ready:?}");
    assert_eq!(get(address, "/readyz").status, 200);

    signal(&place.daemon.as_ref().expect("it runs").child, "-HUP");
    let reloading = manager.hear();
    assert_eq!(reloading[0], "RELOADING=1", "{reloading:?}");
    let since = reloading[1].strip_prefix("MONOTONIC_USEC=");
    assert!(
        since
            .expect("its time")
            .parse::<u64>()
            .is_ok_and(|since| since > 0)
    );
    assert_eq!(manager.hear(), ["READY=1"]);

    // A mistake in the file is a reload that is over, too: the old rules are in force.
    place.stop();
    let stopping = manager.hear();
    assert_eq!(stopping[0], "STOPPING=1", "{stopping:?}");
}

#[test]
fn a_reload_that_fails_is_over_as_well() {
    let _watchdog = Watchdog::start("a failed reload", LIMIT);
    let mut place = Place::new("notify-reload");
    let manager = Manager::listen(&place);
    let path = place.dir.path().join("config.toml");
    fs::write(&path, "").expect("ours");
    let mut command = manager.daemon(&place, &["--config", path.to_str().expect("text")]);
    place.daemon = Some(Daemon::start(command.stderr(Stdio::null())));
    manager.hear_until("READY=1");
    fs::write(&path, "[[rule]]\npattern = \"\"\n").expect("ours");
    signal(&place.daemon.as_ref().expect("it runs").child, "-HUP");
    let heard = manager.hear_until("READY=1");
    assert_eq!(heard[0][0], "RELOADING=1", "{heard:?}");
    place.stop();
}

#[test]
fn the_watchdog_is_kept_quiet_only_while_the_consumer_moves() {
    let _watchdog = Watchdog::start("the watchdog", LIMIT);
    let mut place = Place::new("notify-watchdog");
    let manager = Manager::listen(&place);
    let config = Gate::config(&place);
    let mut command = manager.daemon(&place, &["--http", "127.0.0.1:0"]);
    command.env("WATCHDOG_USEC", "20000000");
    let daemon = Daemon::start(command.env("MILLPOND_CONFIG", &config));
    let address = address_in(&daemon.ready);
    let before = manager.hear_until("READY=1");
    assert!(
        before.iter().all(|message| message != &["WATCHDOG=1"]),
        "not before it is ready: {before:?}"
    );
    for _ in 0..3 {
        manager.hear_until("WATCHDOG=1");
    }
    let gate = Gate::instead_of(config);
    signal(&daemon.child, "-HUP");
    place.daemon = Some(daemon);
    while get(address, "/livez").status == 200 {
        std::thread::sleep(LOOK_INTERVAL);
    }
    // Dead for seconds: what has not been heard yet is from before, and nothing comes any more.
    manager.socket.set_nonblocking(true).expect("a socket");
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    let heartbeat = get(address, "/livez").json()["heartbeat_age_ns"].clone();
    while get(address, "/livez").json()["heartbeat_age_ns"].as_u64()
        < heartbeat.as_u64().map(|age| age + 3_000_000_000)
    {
        std::thread::sleep(LOOK_INTERVAL);
    }
    assert!(
        manager.socket.recv(&mut [0; 4096]).is_err(),
        "still kept quiet"
    );
    manager.socket.set_nonblocking(false).expect("a socket");
    gate.open();
    manager.hear_until("WATCHDOG=1");
    place.stop();
}

#[test]
fn without_a_manager_or_with_one_that_is_gone_the_daemon_runs_on() {
    let _watchdog = Watchdog::start("no manager", LIMIT);
    let mut place = Place::new("notify-gone");
    let mut command = place.command(&["daemon"]);
    let gone = place.dir.path().join("nobody");
    let daemon = Daemon::start(command.env("NOTIFY_SOCKET", gone).stderr(Stdio::null()));
    assert!(
        daemon.ready.starts_with("millpond ready"),
        "{}",
        daemon.ready
    );
    place.daemon = Some(daemon);
    place.stop();
}

/// The units of the guide with the program that is tested, in a directory of their own.
fn units(place: &Place, kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/systemd");
    let (from, to) = (root.join(kind), place.dir.path().join("units").join(kind));
    fs::create_dir_all(&to).expect("a directory");
    let mut units = Vec::new();
    for entry in fs::read_dir(from).expect("units") {
        let path = entry.expect("a unit").path();
        let Some(name) = path.file_name().filter(|_| path.is_file()) else {
            continue;
        };
        let words = fs::read_to_string(&path).expect("text");
        let exec = "ExecStart=/usr/local/bin/millpond ";
        assert!(words.contains(exec), "{}", path.display());
        let ours = format!("ExecStart={} ", env!("CARGO_BIN_EXE_millpond"));
        let unit = to.join(name);
        fs::write(&unit, words.replace(exec, &ours)).expect("ours");
        units.push(unit);
    }
    assert_eq!(units.len(), 2, "{units:?}");
    units
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_of_the_guide() {
    let place = Place::new("units");
    for (kind, flag) in [("", "--system"), ("user", "--user")] {
        let mut verify = Command::new("systemd-analyze");
        verify.args([flag, "verify"]).args(units(&place, kind));
        // Where a user manager would have its socket.
        verify.env("XDG_RUNTIME_DIR", place.dir.path());
        let output = match verify.output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: systemd-analyze: {error}");
                return;
            }
        };
        let words = text(&output.stderr);
        assert_eq!((code(&output), words.as_str()), (0, ""), "{kind}");
    }
}

#[test]
fn the_units_start_what_the_command_understands() {
    let place = Place::new("unit-flags");
    for kind in ["", "user"] {
        for unit in units(&place, kind) {
            let words = fs::read_to_string(&unit).expect("text");
            let line = words
                .lines()
                .find_map(|line| line.strip_prefix("ExecStart="))
                .expect("a command");
            let args: Vec<&str> = line.split(' ').skip(1).collect();
            if args[0] != "daemon" {
                continue;
            }
            // The same flags, shown in place of run.
            let mut shown = vec!["config"];
            shown.extend(&args[1..]);
            let output = place.run(&shown);
            assert_eq!(code(&output), 0, "{line}: {}", text(&output.stderr));
        }
    }
}
