//! Why a scenario could not be played to its end.

use std::fmt;

/// What was tried, and why it did not work.
///
/// A criterion that is not met is no error: it is part of the report.
///
/// ```
/// let error: millpond_loadgen::Error = std::io::Error::other("no room").into();
/// assert_eq!(error.to_string(), "no room");
/// ```
#[derive(Debug)]
pub struct Error {
    message: String,
}

impl Error {
    /// In words.
    pub fn new(message: impl Into<String>) -> Self {
        Error {
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub(crate) fn no_such_phase(scenario: &str, phase: &str, known: &str) -> Error {
    Error::new(format!(
        "{scenario} has no phase {phase:?}: there are {known}"
    ))
}

macro_rules! from {
    ($($source:ty),* $(,)?) => {
        $(impl From<$source> for Error {
            fn from(source: $source) -> Self {
                Error::new(source.to_string())
            }
        })*
    };
}
from!(
    std::io::Error,
    millpond_bus::Error,
    millpond_bus::FlushError,
    millpond_bus::NameError,
    millpond_bus::PatternError,
    millpond_bus::PublishError,
    millpond_bus::RuleError,
    millpond_daemon::Error,
    millpond_logfile::Error,
    rusqlite::Error,
    serde_json::Error,
);
from!(millpond_bus::RecvError);
