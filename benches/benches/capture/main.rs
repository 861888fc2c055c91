//! What capturing costs: a command on a terminal or a pipe, with somebody who keeps what it writes.
//!
//! Run: `cargo build --release -p millpond-cli && cargo bench -p millpond-benches --bench capture`, with `-- pipe` or
//! `-- pty` for one half, and `-- --json FILE` for the rows as lines of JSON, too. `MILLPOND_BENCH_PROGRAM` is the `millpond` to measure [the one beside this program].

mod pipe;
mod pty;
mod rows;

use std::io;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|word| word == "role") {
        return pty::role(&args[2..]);
    }
    let is_named = |part: &str| args.iter().any(|arg| arg == part);
    let wants_all = !is_named("pipe") && !is_named("pty");
    let Some(program) = millpond() else {
        println!("skipped: there is no millpond; `cargo build --release -p millpond-cli` makes it");
        return;
    };
    let json = args.iter().position(|arg| arg == "--json");
    let json = json.and_then(|at| args.get(at + 1));
    let mut rows = Vec::new();
    if wants_all || is_named("pipe") {
        rows.extend(pipe::measure(&program));
    }
    if wants_all || is_named("pty") {
        rows.extend(pty::measure(&program));
    }
    if let Some(path) = json {
        rows::write(path.as_ref(), &rows);
    }
}

/// The command, as it was built last beside this program.
fn millpond() -> Option<PathBuf> {
    let beside = || {
        let this = std::env::current_exe().ok()?;
        Some(this.parent()?.parent()?.join("millpond"))
    };
    let given = std::env::var_os("MILLPOND_BENCH_PROGRAM").map(PathBuf::from);
    given.or_else(beside).filter(|program| program.is_file())
}

/// A program that does not outlive this.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Running)
    }

    /// Ends it, whatever it is at, and takes it away.
    fn end(&mut self) {
        // Both fail where it has ended already and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}
