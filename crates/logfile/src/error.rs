//! Failures, and damage that is reported while the rest goes on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What kind of failure an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The directory, service or file is not there.
    NotFound,
    /// The operating system refused; see `source()`.
    Io,
    /// What was asked cannot be answered as asked.
    InvalidInput,
}

/// A failure to read or write log files: operation, path, cause.
///
/// ```
/// let error = millpond_logfile::Reader::open("/no/such/logs".as_ref()).unwrap_err();
/// assert_eq!(error.kind(), millpond_logfile::ErrorKind::NotFound);
/// assert!(error.to_string().contains("/no/such/logs"));
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    Invalid(String),
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let path = path.to_owned();
        Error {
            kind,
            cause: Cause::Io {
                operation,
                path,
                source,
            },
        }
    }

    pub(crate) fn invalid(message: String) -> Self {
        Error {
            kind: ErrorKind::InvalidInput,
            cause: Cause::Invalid(message),
        }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was tried, such as `open`; `None` where it did not come to that.
    pub fn operation(&self) -> Option<&'static str> {
        match &self.cause {
            Cause::Io { operation, .. } => Some(operation),
            Cause::Invalid(_) => None,
        }
    }

    /// The file or directory that it was tried on.
    pub fn path(&self) -> Option<&Path> {
        match &self.cause {
            Cause::Io { path, .. } => Some(path),
            Cause::Invalid(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Io {
                operation,
                path,
                source,
            } => write!(f, "cannot {operation} {}: {source}", path.display()),
            Cause::Invalid(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io { source, .. } => Some(source),
            Cause::Invalid(_) => None,
        }
    }
}

/// Something in a file that is not as it should be. The rest of the file is still used.
///
/// ```
/// use millpond_logfile::Damage;
/// let damage = Damage {
///     path: "web/20261121T012953.123456789Z.log".into(),
///     offset: 65_536,
///     what: "checksum of the block",
///     expected: "1a2b3c4d".into(),
///     found: "00000000".into(),
/// };
/// assert!(damage.to_string().ends_with("at byte 65536: checksum of the block is 00000000, expected 1a2b3c4d"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub what: &'static str,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage {
            path,
            offset,
            what,
            expected,
            found,
        } = self;
        write!(
            f,
            "{} at byte {offset}: {what} is {found}, expected {expected}",
            path.display()
        )
    }
}
