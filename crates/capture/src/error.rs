//! What keeps a command from being captured.

use std::fmt;

/// What kind of failure it was, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such command: shells say 127.
    CommandNotFound,
    /// It is there and cannot be executed: shells say 126.
    CommandNotExecutable,
    /// Everything else: no terminal left, no bus, no file.
    Other,
}

/// A command could not be captured. `Display` is a sentence with what, which value, which limit, and the remedy.
///
/// ```
/// use millpond_capture::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::CommandNotFound, "there is no command \"servr\" in PATH");
/// assert_eq!(error.kind(), ErrorKind::CommandNotFound);
/// assert!(error.to_string().contains("servr"));
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// One that says this.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<millpond_bus::Error> for Error {
    fn from(error: millpond_bus::Error) -> Self {
        Error::new(ErrorKind::Other, error.to_string())
    }
}
