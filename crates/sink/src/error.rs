//! Why a sink cannot be opened.

use std::fmt;
use std::io;
use std::path::Path;

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value of the policy, or a service name, cannot be used.
    InvalidInput,
    /// Another process writes this directory.
    InUse,
    /// A limit is reached.
    LimitReached,
    /// io_uring was asked for and is not to be had.
    NoUring,
    /// The operating system refused; see `source()`.
    Io,
}

/// A failure of the sink: what was tried, on what, and why it did not work.
///
/// ```
/// use millpond_sink::{ErrorKind, Policy};
/// let policy = Policy { segment_bytes_limit: 1, ..Policy::default() };
/// assert_eq!(policy.check().unwrap_err().kind(), ErrorKind::InvalidInput);
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn io(operation: &str, path: &Path, source: impl Into<io::Error>) -> Self {
        let message = format!("cannot {operation} {}", path.display());
        Error {
            kind: ErrorKind::Io,
            message,
            source: Some(Box::new(source.into())),
        }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<millpond_logfile::Error> for Error {
    fn from(error: millpond_logfile::Error) -> Self {
        Error {
            kind: ErrorKind::Io,
            message: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            // A converted error has the same message already.
            Some(source) if source.is::<io::Error>() => write!(f, ": {source}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
