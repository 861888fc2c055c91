//! The raw stream: what a terminal is given, for those who look on and for a file.
//!
//! On the bus it is three events of one publisher, `pty:SERVICE:size`, `:out` and `:exit`. A publisher's events are
//! in one lane, so they are read in the order in which they were written. The lane is also the memory of it: whoever
//! comes later reads what is still there. Since the oldest goes first, the size is said again every now and then.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Clock, Level, Publisher, Topic};

use crate::cast::{CastError, CastHeader, CastWriter};
use crate::error::{Error, ErrorKind};
use crate::pty::WindowSize;
use crate::session::newlines::add_returns;
use crate::session::{Exit, Mode};

/// One event has at most so many bytes, and less where the rule says so: what is dropped when the lane is full is
/// counted in events.
const EVENT_BYTES: usize = 16 << 10;
/// The size is said again after so much output: it is still in memory when the start is not.
const SIZE_INTERVAL_BYTES: usize = 64 << 10;
/// The last event is worth a wait, where somebody makes room.
const EXIT_PATIENCE: Duration = Duration::from_millis(100);

/// Which capture: `web`, or `web@4711` for one that was started while another of the same service ran.
///
/// ```
/// use millpond_capture::RawName;
/// let name: RawName = "web@4711".parse()?;
/// assert_eq!((name.service.as_str(), name.pid), ("web", Some(4711)));
/// assert_eq!(name.to_string(), "web@4711");
/// assert_eq!(name.event_name("out"), "pty:web@4711:out");
/// assert_eq!(name.label(), "capture:web@4711");
/// assert_eq!(RawName::of_event("pty:web@4711:out"), Some((name, "out")));
/// assert!("web:1".parse::<RawName>().is_err());
/// # Ok::<(), millpond_capture::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawName {
    /// The service.
    pub service: String,
    /// Tells it apart from an earlier capture of the same service that still runs.
    pub pid: Option<u32>,
}

impl RawName {
    /// Of its events: `pty:SERVICE:LAST`.
    pub fn event_name(&self, last: &str) -> String {
        format!("pty:{self}:{last}")
    }

    /// Of its publishers: `capture:SERVICE`.
    pub fn label(&self) -> String {
        format!("capture:{self}")
    }

    /// The capture whose publishers have this label; `None` for another's label.
    pub fn of_label(label: &str) -> Option<Self> {
        label.strip_prefix("capture:")?.parse().ok()
    }

    /// The capture that an event is of, and what the event says: the last segment of its name.
    pub fn of_event(event_name: &str) -> Option<(Self, &str)> {
        let (name, last) = event_name.strip_prefix("pty:")?.split_once(':')?;
        Some((name.parse().ok()?, last))
    }
}

impl fmt::Display for RawName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            None => f.write_str(&self.service),
            Some(pid) => write!(f, "{}@{pid}", self.service),
        }
    }
}

impl FromStr for RawName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (service, pid) = match text.rsplit_once('@') {
            None => (text, None),
            Some((service, pid)) => (service, Some(pid)),
        };
        let pid = pid.map(str::parse::<u32>).transpose().ok();
        let odd = |c: char| c == ':' || c == '@' || c == '*' || c.is_whitespace() || c.is_control();
        match pid {
            Some(pid) if !service.is_empty() && !service.contains(odd) => Ok(RawName {
                service: service.to_owned(),
                pid,
            }),
            _ => Err(Error::new(
                ErrorKind::Other,
                format!("{text:?} names no capture: write a service, such as web, or web@4711"),
            )),
        }
    }
}

/// An event of the raw stream.
///
/// ```
/// use millpond_capture::{Exit, RawEvent, WindowSize};
/// let size = WindowSize { columns: 80, rows: 24 };
/// assert_eq!(RawEvent::parse("size", b"80x24"), Some(RawEvent::Size(size)));
/// assert_eq!(RawEvent::parse("out", b"\x1b[1m"), Some(RawEvent::Output(b"\x1b[1m")));
/// assert_eq!(RawEvent::parse("exit", b"code 3"), Some(RawEvent::Exit(Exit::Code(3))));
/// assert_eq!(RawEvent::parse("exit", b"signal 9"), Some(RawEvent::Exit(Exit::Signal(9))));
/// assert_eq!(RawEvent::parse("bell", b""), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawEvent<'a> {
    /// Bytes for a terminal.
    Output(&'a [u8]),
    /// The terminal has this size from now on. Said again now and then.
    Size(WindowSize),
    /// The command has ended; nothing comes behind it.
    Exit(Exit),
}

impl<'a> RawEvent<'a> {
    /// What an event says, by the last segment of its name and its payload; `None` where that is not known, as from
    /// a later version.
    pub fn parse(last: &str, payload: &'a [u8]) -> Option<Self> {
        match last {
            "out" => Some(RawEvent::Output(payload)),
            "size" => {
                let (columns, rows) = std::str::from_utf8(payload).ok()?.split_once('x')?;
                let (columns, rows) = (columns.parse().ok()?, rows.parse().ok()?);
                Some(RawEvent::Size(WindowSize { columns, rows }))
            }
            "exit" => {
                let (kind, number) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
                let number = number.parse().ok()?;
                match kind {
                    "code" => Some(RawEvent::Exit(Exit::Code(number))),
                    // More than an exit code can say is none.
                    "signal" if number < 128 => Some(RawEvent::Exit(Exit::Signal(number))),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Where it goes on the bus. One lane for all runs of a capture.
pub(crate) struct RawLane {
    publisher: Publisher,
    name: RawName,
    out: Topic,
    size: Topic,
    exit: Topic,
    clock: Clock,
}

impl RawLane {
    pub(crate) fn new(bus: &Bus, name: &RawName) -> Result<Self, millpond_bus::Error> {
        let mut publisher = bus.publisher(&name.label())?;
        let mut topic = |last: &str| publisher.topic(&name.event_name(last));
        let (out, size, exit) = (topic("out")?, topic("size")?, topic("exit")?);
        Ok(RawLane {
            publisher,
            name: name.clone(),
            out,
            size,
            exit,
            clock: bus.clock(),
        })
    }
}

/// A file for a cast. What is in it stays until the command runs: one that was mistyped costs no recording.
pub(crate) struct Recording {
    file: File,
    made: Made,
}

/// The path of a file that was not there before, and is not to be there after nothing was recorded.
struct Made(Option<PathBuf>);

impl Recording {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, is_new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A link to what is not there is made by the one who follows it.
                (options.create(true).truncate(false).open(path), false)
            }
            made => (made, true),
        };
        let file = file.map_err(|error| {
            let shown = path.display();
            let message = format!("the raw stream cannot be kept in {shown}: {error}");
            Error::new(ErrorKind::Other, message)
        })?;
        Ok(Recording {
            file,
            made: Made(is_new.then(|| path.to_owned())),
        })
    }

    /// The command runs: what was in the file goes.
    pub(crate) fn begin(mut self) -> io::Result<File> {
        self.made.0 = None;
        // A pipe or a device has no length.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(self.file)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One run: on the bus, and in a file where one is wanted.
pub(crate) struct RawStream<'l> {
    lane: &'l mut RawLane,
    size: WindowSize,
    /// Output since the size was said.
    unsized_bytes: usize,
    is_pipe: bool,
    /// Mode `Pipe`: the output with its carriage returns.
    returned: Vec<u8>,
    started_ns: u64,
    cast: Option<CastWriter<File>>,
    /// For whoever reads the error.
    path: String,
}

impl<'l> RawStream<'l> {
    /// `title` is the command as typed.
    pub(crate) fn new(
        lane: &'l mut RawLane,
        mode: Mode,
        size: WindowSize,
        title: &str,
        file: Option<File>,
    ) -> Self {
        let started_ns = lane.clock.now_ns();
        let is_pipe = mode == Mode::Pipe;
        let path = file.as_ref().map(path_of).unwrap_or_default();
        let header = CastHeader {
            size,
            timestamp: started_ns / 1_000_000_000,
            title: &lane.name.to_string(),
            command: Some(title),
            environment: &[],
            is_pipe,
        };
        let cast = file.map(|file| CastWriter::new(file, &header));
        let mut stream = RawStream {
            lane,
            size,
            unsized_bytes: 0,
            is_pipe,
            returned: Vec::new(),
            started_ns,
            cast,
            path,
        };
        stream.say_size();
        stream
    }

    /// Bytes as a terminal is given them (mode `Pty`), or as the command wrote them (mode `Pipe`: a terminal that
    /// is given them gets a carriage return before each newline). Never waits for the bus.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        if !self.is_pipe {
            self.put(bytes);
            return;
        }
        let mut returned = std::mem::take(&mut self.returned);
        // Whatever comes at once, the copy is small.
        for part in bytes.chunks(EVENT_BYTES) {
            returned.clear();
            add_returns(part, &mut returned);
            self.put(&returned);
        }
        self.returned = returned;
    }

    fn put(&mut self, bytes: &[u8]) {
        // Read each time, since rules may change under way.
        let limit = self.lane.publisher.payload_bytes_limit(self.lane.out) as usize;
        for part in bytes.chunks(limit.clamp(1, EVENT_BYTES)) {
            if self.unsized_bytes >= SIZE_INTERVAL_BYTES {
                self.say_size();
            }
            self.unsized_bytes += part.len();
            // A drop is counted by the lane, and told to those who look on.
            let out = self.lane.out;
            let _ = (self.lane.publisher).try_publish(out, Level::Info, part);
        }
        if self.cast.is_none() {
            return;
        }
        let at = self.elapsed();
        if let Some(cast) = &mut self.cast {
            cast.output(at, bytes);
        }
    }

    pub(crate) fn resize(&mut self, size: WindowSize) {
        if size == self.size {
            return;
        }
        self.size = size;
        self.say_size();
        let at = self.elapsed();
        if let Some(cast) = &mut self.cast {
            cast.resize(at, size);
        }
    }

    /// When [`RawStream::flush`] is due; `None` where there is nothing that waits.
    pub(crate) fn flush_due(&self) -> Option<Instant> {
        let due = self.cast.as_ref()?.flush_due(self.elapsed())?;
        Instant::now().checked_add(due)
    }

    /// Gives the file what waits for it: it is not kept until the command says more.
    pub(crate) fn flush(&mut self) {
        if let Some(cast) = &mut self.cast {
            cast.flush();
        }
    }

    /// Ends both. `can_wait`: somebody makes room. What kept the file from being complete is the error.
    pub(crate) fn finish(mut self, exit: Exit, can_wait: bool) -> Result<(), Error> {
        let payload = match exit {
            Exit::Code(code) => format!("code {code}"),
            Exit::Signal(signal) => format!("signal {signal}"),
        };
        // Nobody waits for output any more, and this is the one event that cannot be told otherwise.
        let RawLane {
            publisher,
            exit: topic,
            ..
        } = &mut *self.lane;
        if can_wait {
            publisher.wait_for_space(*topic, payload.len(), EXIT_PATIENCE);
        }
        let _ = publisher.try_publish(*topic, Level::Info, payload.as_bytes());
        let at = self.elapsed();
        let Some(mut cast) = self.cast.take() else {
            return Ok(());
        };
        cast.exit(at, exit);
        cast.finish().map(drop).map_err(|error: CastError| {
            let message = format!("{}: {error}", self.path);
            Error::new(ErrorKind::Other, message)
        })
    }

    fn say_size(&mut self) {
        self.unsized_bytes = 0;
        let WindowSize { columns, rows } = self.size;
        let payload = format!("{columns}x{rows}");
        let topic = self.lane.size;
        let _ = (self.lane.publisher).try_publish(topic, Level::Info, payload.as_bytes());
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.lane.clock.now_ns().saturating_sub(self.started_ns))
    }
}

/// As the kernel knows it: for an error, when there is nobody to ask.
fn path_of(file: &File) -> String {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_or_else(|_| "the cast".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests;
