//! Failures that travel up unchanged, and the small enums a caller must handle.

use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// What kind of failure an [`Error`] is, for the few a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bus (or one of its objects) does not exist.
    NotFound,
    /// Another process holds the consumer's lease.
    AlreadyRunning,
    /// The object belongs to another user, or others may write to it.
    WrongOwner,
    /// The object has another layout version, or is no millpond object at all.
    WrongLayout,
    /// A limit of the bus is reached: lanes, bytes, rules or names.
    LimitReached,
    /// A name, label, rule or size the caller passed cannot be used.
    InvalidInput,
    /// Another process has truncated or wiped an object while it was in use.
    Lost,
    /// The operating system refused; see `source()`.
    Io,
}

/// A failure of the bus: what was tried, on what, and why it did not work.
///
/// ```
/// let error = millpond_bus::Bus::open("no-such-bus-here").unwrap_err();
/// assert_eq!(error.kind(), millpond_bus::ErrorKind::NotFound);
/// assert!(error.to_string().contains("no-such-bus-here"));
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<io::Error>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            source: None,
        }))
    }

    /// An operating system failure of `operation` on `object`.
    pub(crate) fn io(operation: &str, object: &str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let message = format!("cannot {operation} {object}");
        Error(Box::new(Inner {
            kind,
            message,
            source: Some(source),
        }))
    }

    /// Whether this process or this host has too little of something right now: file handles, memory, room. Nothing
    /// is wrong with the object then, and it is worth trying again.
    pub(crate) fn is_shortage(&self) -> bool {
        let errno = self.0.source.as_ref().and_then(io::Error::raw_os_error);
        let errno = errno.map(Errno::from_raw_os_error);
        let short = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOSPC,
            Errno::AGAIN,
        ];
        self.kind() == ErrorKind::LimitReached || errno.is_some_and(|errno| short.contains(&errno))
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let Some(source) = &self.0.source else {
            return Ok(());
        };
        write!(f, ": {source}")?;
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE) => {
                let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
                write!(f, "; this process may have {limit}: raise `ulimit -n`")
            }
            Some(Errno::NFILE) => f.write_str("; on this host: raise sysctl fs.file-max"),
            Some(Errno::NOMEM) => {
                f.write_str("; free memory, or raise `ulimit -v` and sysctl vm.max_map_count")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}
