//! Processes of the command, and what they leave.

use std::io::{BufRead, BufReader};
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
