//! A whole process, from start to exit: how long it took, how much processor time and how much memory at most.
//!
//! The kernel tells the peak of children only in sum, and counts the starter's memory until the program is
//! loaded. So each command is the only child of a small process of ours.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::process::{Arguments, Host, Talk};

const LIMIT: Duration = Duration::from_secs(600);

/// How a command went.
///
/// ```no_run
/// use millpond_loadgen::{Host, measure};
/// let mut command = std::process::Command::new("wc");
/// command.arg("/usr/share/dict/words");
/// let measured = measure(&Host::current()?, &command, "/dev/null".as_ref())?;
/// println!("{} ns, {} of them of processors", measured.elapsed_ns, measured.cpu_ns);
/// # Ok::<(), millpond_loadgen::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    /// From its start to its exit.
    pub elapsed_ns: u64,
    /// Processor time of it and of all that it started and waited for.
    pub cpu_ns: u64,
    /// The most memory that one of those had, files that it mapped included.
    pub memory_bytes: u64,
    /// -1: ended by a signal.
    pub exit_code: i32,
}

/// Runs a command with its output in a file, without input and without anybody's configuration. Only its words are
/// taken, not its environment.
///
/// # Errors
/// When it cannot be started, or goes on for 10 minutes.
pub fn measure(host: &Host, command: &Command, output: &Path) -> Result<Measured, Error> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word: &OsStr| word.to_string_lossy().into_owned())
        .collect();
    let words = serde_json::to_string(&words)?;
    let mut process = host.start(
        "measured",
        &[("output", &output.display()), ("words", &words)],
    )?;
    process.say("go")?;
    process.result(LIMIT)
}

/// `output=FILE words=JSON`.
pub(crate) fn measured_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let words: Vec<String> = serde_json::from_str(arguments.text("words")?)?;
    let (program, rest) = words
        .split_first()
        .ok_or_else(|| Error::new("no command given"))?;
    let output = File::create(arguments.text("output")?)?;
    let mut command = Command::new(program);
    // Nothing that is configured on this host is to change what is measured.
    command.args(rest).env("MILLPOND_CONFIG", "/dev/null");
    command.stdin(Stdio::null()).stdout(output);
    talk.ready()?;
    let started = Instant::now();
    let status = command
        .status()
        .map_err(|error| Error::new(format!("{program} cannot be started: {error}")))?;
    let elapsed = started.elapsed();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(std::io::Error::from)?;
    let used = |time: TimeVal| time.num_microseconds() as u64 * 1000;
    talk.say(&Measured {
        elapsed_ns: elapsed.as_nanos() as u64,
        cpu_ns: used(usage.user_time()) + used(usage.system_time()),
        // In KiB.
        memory_bytes: usage.max_rss() as u64 * 1024,
        exit_code: status.code().unwrap_or(-1),
    })
}
