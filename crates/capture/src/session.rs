//! One command, from its start to its end.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millpond_bus::{Bus, Counts, Level};

use crate::error::{Error, ErrorKind};
use crate::lines::View;
use crate::pty::WindowSize;
use crate::raw::{RawLane, RawName};

mod child;
mod control;
mod engine;
mod front;
pub(crate) mod newlines;
mod publish;

pub use control::Controller;

/// Who turns a newline into the two characters that a terminal needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Newlines {
    /// The kernel where somebody sits in front of it, else we do.
    #[default]
    Auto,
    /// The kernel (`stty onlcr`): every program gets what it knows.
    Kernel,
    /// We do: many times as fast with short lines. A program can see it (`stty -a` says `-onlcr`).
    Own,
}

/// What the command writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A terminal.
    Pty {
        /// Its size where there is no terminal in front to take it from.
        size: WindowSize,
        /// Who turns newlines into two characters.
        newlines: Newlines,
    },
    /// Two pipes: standard output and standard error are told apart.
    Pipe,
}

/// Who is in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Standard input, output and error of this process: bytes are passed through.
    Standard,
    /// Nobody: input is empty, output goes to the bus alone.
    Nobody,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandSpec {
    /// As a shell finds it: in PATH, or a path.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where it is started; `None`: here.
    pub directory: Option<PathBuf>,
    /// Added to the environment of this process.
    pub environment: Vec<(OsString, OsString)>,
}

impl fmt::Display for CommandSpec {
    /// As one would type it: what a shell would take apart is in quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = std::iter::once(&self.program).chain(&self.arguments);
        for (index, word) in words.enumerate() {
            let word = word.to_string_lossy();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
            f.write_str(if index == 0 { "" } else { " " })?;
            match !word.is_empty() && word.chars().all(is_plain) {
                true => f.write_str(&word)?,
                false => write!(f, "'{}'", word.replace('\'', r"'\''"))?,
            }
        }
        Ok(())
    }
}

/// What is to be captured, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Whose log takes the lines.
    pub service: String,
    /// The command.
    pub command: CommandSpec,
    /// Terminal or pipes.
    pub mode: Mode,
    /// What of the output becomes lines.
    pub view: View,
    /// A line that has not ended is told after this long without another byte.
    pub partial_delay: Duration,
    /// Level of all lines; `None`: found in each.
    pub level: Option<Level>,
    /// Gets the raw stream as an asciicast. What was in the file is gone once the command runs, not before.
    pub raw_to: Option<PathBuf>,
    /// After the end of the command, its terminal may be held by those it started: so long they are listened to, from
    /// their last byte on.
    pub linger: Duration,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl Exit {
    /// As a shell says it: 128 and the number of the signal.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Exit {
    /// `exited code=1`, `ended by signal 9 (SIGKILL)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exited code={code}"),
            Exit::Signal(signal) => match signal_name(i32::from(signal)) {
                Some(name) => write!(f, "ended by signal {signal} ({name})"),
                None => write!(f, "ended by signal {signal}"),
            },
        }
    }
}

/// `SIGKILL`; `None` where it has no name.
fn signal_name(signal: i32) -> Option<&'static str> {
    SIGNALS
        .iter()
        .find(|(number, _)| *number == signal)
        .map(|(_, name)| *name)
}

/// Signals that end a process where it does not care.
const SIGNALS: [(i32, &str); 19] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGSYS, "SIGSYS"),
    (libc::SIGVTALRM, "SIGVTALRM"),
];

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How the command ended.
    pub exit: Exit,
    /// Bytes that it wrote.
    pub output_bytes: u64,
    /// Lines, and drops of them, of this run.
    pub lines: Counts,
    /// Whoever is in front saw a newline last, or nothing: what is said next begins a line.
    pub is_at_line_start: bool,
    /// What went wrong beside it, such as a recording for which the disk had no room: a sentence each, as in the log.
    pub warnings: Vec<String>,
    /// From start to end.
    pub duration: Duration,
}

/// The place of a service on the bus, and the command that is run there, as often as it is wanted.
///
/// Two lanes, one for lines and one for the raw stream (5 MiB of shared memory with the default rules), serve all runs:
/// they are made by [`Capture::open`] and not by a run, so a service that is restarted without end takes no more of
/// them, daemon or not.
///
/// ```
/// use std::time::Duration;
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_capture::{Capture, CommandSpec, Controller, Exit, Front, Mode, Spec, View};
/// let bus = Bus::attach(&format!("doc-capture-{}", std::process::id()), &BusOptions::default())?;
/// let spec = Spec {
///     service: "greeter".to_owned(),
///     command: CommandSpec {
///         program: "sh".into(),
///         arguments: vec!["-c".into(), "echo hello; exit 7".into()],
///         ..CommandSpec::default()
///     },
///     mode: Mode::Pipe,
///     view: View::Terminal,
///     partial_delay: Duration::from_secs(1),
///     level: None,
///     raw_to: None,
///     linger: Duration::from_millis(100),
/// };
/// let mut capture = Capture::open(&bus, spec)?;
/// for _restart in 0..2 {
///     let ending = capture.run(Front::Nobody, &Controller::new()?)?;
///     assert_eq!(ending.exit, Exit::Code(7));
///     assert_eq!(ending.output_bytes, 6);
///     assert_eq!(ending.lines.published, 3); // `started`, `hello`, `exited`
/// }
/// # drop(capture);
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Capture {
    bus: Bus,
    spec: Spec,
    name: RawName,
    notes: publish::Notes,
    raw: RawLane,
}

impl Capture {
    /// Takes the place of the service on the bus; nothing is started.
    ///
    /// # Errors
    /// No rule takes its events, or the bus is full: the message says what makes room.
    pub fn open(bus: &Bus, spec: Spec) -> Result<Self, Error> {
        let name = publish::name(bus, &spec.service);
        let open = || -> Result<_, millpond_bus::Error> {
            Ok((publish::Notes::new(bus, &name)?, RawLane::new(bus, &name)?))
        };
        let (notes, raw) = open().map_err(|error| {
            let remedy = match error.kind() {
                millpond_bus::ErrorKind::LimitReached => {
                    "; `millpond daemon` gives back what ended captures have taken, and a larger `bus-bytes` is room \
                     for more of them"
                }
                _ => "",
            };
            let service = &spec.service;
            let message = format!("{service} cannot be logged, so it is not started: {error}{remedy}");
            Error::new(ErrorKind::Other, message)
        })?;
        Ok(Capture {
            bus: bus.clone(),
            spec,
            name,
            notes,
            raw,
        })
    }

    /// What is run, and how.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Runs the command to its end. Blocks; makes no thread.
    ///
    /// With [`Front::Standard`] and a terminal as standard input, call it on the main thread: Ctrl-Z stops the process,
    /// and the kernel gives that signal to the main thread before any other.
    ///
    /// # Errors
    /// It was never started, see [`crate::ErrorKind`]. Once it runs, nothing of ours ends it.
    pub fn run(&mut self, front: Front, controller: &Controller) -> Result<Ending, Error> {
        Ok(engine::Engine::start(self, front, controller)?.run())
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture")
            .field("name", &self.name)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}
