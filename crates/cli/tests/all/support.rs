//! Processes of the command, and what they leave.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

/// `name` as `kill` takes it: `-INT`.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status()
        .expect("kill starts");
    assert!(status.success());
}

/// A daemon that is killed when it is dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    /// Its one line.
    pub(crate) ready: String,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let output = child.stdout.take().expect("its output was asked for");
        let mut ready = String::new();
        BufReader::new(output)
            .read_line(&mut ready)
            .expect("its output can be read");
        Daemon { child, ready }
    }

    /// SIGTERM; everything is written then.
    pub(crate) fn stop(mut self) {
        signal(&self.child, "-TERM");
        assert!(self.child.wait().expect("the daemon ends").success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A place of its own: bus, logs, no configuration of this host.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) bus: String,
    pub(crate) daemon: Option<Daemon>,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let bus = format!("cli-{name}-{}", std::process::id());
        Place {
            dir: tempfile::tempdir().expect("a temporary place"),
            bus,
            daemon: None,
        }
    }

    pub(crate) fn logs(&self) -> std::path::PathBuf {
        self.dir.path().join("logs")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
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

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args)
            .stdin(Stdio::null())
            .output()
            .expect("the command starts")
    }

    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Output {
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
    pub(crate) fn start(&mut self, args: &[&str]) -> String {
        let mut command = self.command(&["daemon"]);
        let daemon = Daemon::start(command.args(args));
        self.daemon.insert(daemon).ready.clone()
    }

    /// SIGTERM; everything is written then.
    pub(crate) fn stop(&mut self) {
        self.daemon.take().expect("a daemon runs").stop();
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
