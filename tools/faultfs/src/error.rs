//! Why a file system cannot be mounted.

use std::fmt;
use std::io;
use std::path::Path;

/// What was tried, on what, and why it did not work.
///
/// ```
/// let nowhere = std::path::Path::new("/nowhere/at/all");
/// let error = millpond_faultfs::FaultFs::mount(nowhere, nowhere).expect_err("it is not there");
/// assert!(error.to_string().contains("/nowhere/at/all"));
/// ```
#[derive(Debug)]
pub struct Error {
    message: String,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(what: &str, path: &Path, source: io::Error) -> Self {
        Error {
            message: format!("cannot {what} {}", path.display()),
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
