//! What a peer is, and the place in which it works.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use millpond_peers::Guarantees;
pub use millpond_peers::{Fallible as Result, first_line, kernel, locked, version_of};
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use serde::{Deserialize, Serialize};

use crate::lines::{Check, Lines};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Lines as fast as they go, until every one of them is where a reader finds it.
    Sink,
    /// One line after the other, each of them on the disk before the next.
    Durable,
}

impl Part {
    /// All, in the order of the table.
    pub const ALL: [Part; 2] = [Part::Sink, Part::Durable];

    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Part::Sink => "sink",
            Part::Durable => "durable",
        }
    }

    /// Whether each line is to be on the disk before the next.
    pub fn is_durable(self) -> bool {
        self == Part::Durable
    }
}

/// Whatever takes lines and gives them back.
pub trait Peer {
    /// Its name in the table; with what was chosen about it.
    fn name(&self) -> String;

    /// Whether it is a physical floor, and nothing that one could use instead.
    fn is_floor(&self) -> bool {
        false
    }

    /// Whether it can say of a line that it is on the disk.
    fn does_durable(&self) -> bool {
        false
    }

    /// What it promises of a line that it has accepted. Most are bounded, wait rather than lose, and what was accepted
    /// is out of the publisher's hands; of one that is told to be durable more is promised anyway.
    fn guarantees(&self) -> Guarantees {
        USUAL
    }

    /// Its version; makes what it needs beforehand. Of what the kernel does, the kernel's.
    ///
    /// # Errors
    /// Why it cannot run here.
    fn find(&self, setup: &Setup) -> Result<String> {
        let _ = setup;
        Ok(kernel())
    }

    /// Takes all lines: the time from the first of them until a reader would find the last.
    ///
    /// # Errors
    /// What went wrong.
    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration>;

    /// Takes lines one by one, each durable before the next: the time of each in ns.
    ///
    /// # Errors
    /// What went wrong.
    fn write_durably(&self, _: &mut Place, _: &mut Lines) -> Result<Vec<u64>> {
        Err("it cannot say when a line is durable".into())
    }

    /// Shows every stored line to `check`: those of [`Place::out_path`], if nothing else is said.
    ///
    /// # Errors
    /// What went wrong.
    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        check.file(&place.out_path())
    }
}

/// What most of them promise.
pub const USUAL: Guarantees = Guarantees {
    bounded: true,
    blocking: true,
    lossy: false,
    crash_safe: true,
    durable: false,
};

/// What all rounds share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// Where programs lie that were compiled for this run.
    pub tools: PathBuf,
    /// The program `millpond`.
    pub millpond: PathBuf,
    /// The bus of this run, used by one round at a time.
    pub bus: String,
}

/// An empty directory for one round, and the programs that run in it.
pub struct Place {
    dir: PathBuf,
    /// What all rounds share.
    pub setup: Setup,
    memory_bytes: u64,
}

impl Place {
    /// In `dir`, which is there and empty.
    pub fn new(dir: PathBuf, setup: Setup) -> Self {
        Place {
            dir,
            setup,
            memory_bytes: 0,
        }
    }

    /// For what is no output: configuration, sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// For the lines. Every byte below is counted.
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// A new file for the lines.
    ///
    /// # Errors
    /// Where there is no room.
    pub fn out_file(&self) -> Result<File> {
        Ok(File::create(self.out_path())?)
    }

    /// The path of [`Place::out_file`].
    pub fn out_path(&self) -> PathBuf {
        self.out().join("lines")
    }

    /// Bytes that the files below [`Place::out`] have on the disk.
    pub fn disk_bytes(&self) -> u64 {
        tree_bytes(&self.out())
    }

    /// Looks how much memory all processes of this round have had so far, each at its most. Called where it is most:
    /// when all is written and nobody has ended.
    pub fn note_memory(&mut self) {
        let group = getpgrp().as_raw_nonzero().get();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let bytes = processes
            .map(|process| process.path())
            .filter(|path| group_of(path) == Some(group))
            .map(|path| greatest_memory(&path))
            .sum();
        self.memory_bytes = self.memory_bytes.max(bytes);
    }

    /// What [`Place::note_memory`] found.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Gives all lines as text to the standard input of `command`, and waits for its end: the time from the first
    /// line.
    ///
    /// # Errors
    /// Where it does not run, read or end well.
    pub fn feed(&mut self, command: &mut Command, lines: &mut Lines) -> Result<Duration> {
        let mut program = Program::start(command)?;
        let started = Instant::now();
        while let Some(text) = lines.next_text(crate::lines::CHUNK_LINES) {
            program.input()?.write_all(text)?;
        }
        self.note_memory();
        program.finish()?;
        Ok(started.elapsed())
    }
}

/// A program of a round. Killed where the round fails before its end.
pub struct Program {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
    name: String,
}

impl Program {
    /// Starts it with a pipe to its standard input.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = command.stdin(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{name}: {error}"))?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Program {
            child,
            output,
            name,
        })
    }

    /// As [`Program::start`], with its standard output to read.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_talking(command: &mut Command) -> Result<Self> {
        Program::start(command.stdout(Stdio::piped()))
    }

    /// This very program in another role.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_self<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Self> {
        let this = std::env::current_exe()?;
        Program::start_talking(Command::new(this).arg("role").args(args))
    }

    /// Its standard input.
    ///
    /// # Errors
    /// Where that was closed.
    pub fn input(&mut self) -> Result<&mut impl Write> {
        Ok(self.child.stdin.as_mut().ok_or("its input was closed")?)
    }

    /// Closes its standard input, which is how it is told to go on, or to end.
    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// The next line of what it says.
    ///
    /// # Errors
    /// Where it has ended instead.
    pub fn read_line(&mut self) -> Result<String> {
        let mut line = String::new();
        let output = self.output.as_mut().ok_or("its output goes elsewhere")?;
        if output.read_line(&mut line)? == 0 {
            return Err(format!("{} ended early", self.name).into());
        }
        Ok(line.trim().to_owned())
    }

    /// All that it says.
    ///
    /// # Errors
    /// Where its output goes elsewhere.
    pub fn output(&mut self) -> Result<impl BufRead> {
        Ok(self.output.take().ok_or("its output goes elsewhere")?)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// With how it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended early: {status}", self.name).into()),
        }
    }

    /// Asks it to end (`SIGTERM`).
    pub fn terminate(&self) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// Closes its standard input and waits for its end.
    ///
    /// # Errors
    /// Where it does not end well.
    pub fn finish(mut self) -> Result<()> {
        self.close_input();
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{} ended with {status}", self.name).into())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both do nothing where it was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon that does not end by itself when whoever started it is killed: it is killed too.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A daemon with mounts of its own, made by `script`, of which `$0` is `dir`. Nobody else sees them.
pub fn in_own_mounts(script: &str, dir: &Path) -> Command {
    let mut command = tied("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["sh", "-c", script]).arg(dir);
    command
}

/// Whether [`in_own_mounts`] works here.
///
/// # Errors
/// Why not.
pub fn check_own_mounts() -> Result<()> {
    let dir = Path::new("/");
    let output = in_own_mounts("mount -t tmpfs tmpfs /run", dir).output();
    let output = output.map_err(|error| format!("setpriv: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("it needs mounts of its own: {}", first_line(&output.stderr)).into())
}

/// The version of the Debian package that `program` of the search path is from; programs that know none themselves.
///
/// # Errors
/// Where it is not installed.
pub fn packaged_version(program: &str, package: &str) -> Result<String> {
    find_program(program)?;
    let known = version_of(&["dpkg-query", "--show", "--showformat=${Version}", package]);
    Ok(known.unwrap_or_else(|_| "unknown".to_owned()))
}

/// The path of `program`.
///
/// # Errors
/// Where it is not in the search path.
pub fn find_program(program: &str) -> Result<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&paths)
        .chain(also)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    found.ok_or_else(|| format!("{program} is not installed").into())
}

/// Compiles `source` into `name` in the tools of `setup`, with what pkg-config says of `libraries`.
///
/// # Errors
/// Where there is no compiler or no such library.
pub fn compile(
    compiler: &str,
    source: &Path,
    name: &str,
    libraries: &[&str],
    setup: &Setup,
) -> Result<()> {
    find_program(compiler)?;
    find_program("pkg-config")?;
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs"])
        .args(libraries)
        .output()?;
    if !flags.status.success() {
        return Err(first_line(&flags.stderr).into());
    }
    let flags = String::from_utf8_lossy(&flags.stdout).into_owned();
    let output = Command::new(compiler)
        .args(["-O2", "-I"])
        .arg(&setup.tools)
        .arg("-o")
        .arg(setup.tools.join(name))
        .arg(source)
        .args(flags.split_whitespace())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{compiler} {name}: {}", first_line(&output.stderr)).into())
}

/// Files of `dir` by name.
///
/// # Errors
/// Where it cannot be listed.
pub fn files_by_name(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries: std::io::Result<Vec<_>> = std::fs::read_dir(dir)?.collect();
    let mut paths: Vec<_> = entries?.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

/// Nanoseconds since `started`.
pub fn ns_since(started: Instant) -> u64 {
    started.elapsed().as_nanos() as u64
}

/// Tries again every few ms until `done` says so, as long as `program` runs. The watchdog of the round ends it.
///
/// # Errors
/// Where the program has ended.
pub fn wait_until(program: &mut Program, mut done: impl FnMut() -> bool) -> Result<()> {
    while !done() {
        program.check_running()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn tree_bytes(path: &Path) -> u64 {
    let Ok(data) = std::fs::symlink_metadata(path) else {
        return 0;
    };
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let below: u64 = entries.map(|entry| tree_bytes(&entry.path())).sum();
    below
        + if data.is_file() {
            data.blocks() * 512
        } else {
            0
        }
}

fn group_of(process: &Path) -> Option<i32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The command's name is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(2)?.parse().ok()
}

fn greatest_memory(process: &Path) -> u64 {
    let mut status = String::new();
    let read =
        File::open(process.join("status")).and_then(|mut file| file.read_to_string(&mut status));
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    read.ok().and(kib).unwrap_or(0) * 1024
}
