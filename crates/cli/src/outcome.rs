//! How commands end.

use std::error::Error;
use std::fmt;
use std::io;

/// A command that worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Found,
    /// Exit code 1: nothing matched, or something was lost.
    Nothing,
    /// An exit code that other commands have made familiar.
    Code(u8),
}

impl Outcome {
    pub(crate) fn found(any: bool) -> Self {
        if any {
            Outcome::Found
        } else {
            Outcome::Nothing
        }
    }
}

/// A command that did not: exit code 2.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    broken_pipe: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            broken_pipe: false,
        }
    }

    /// The reader of our output has had enough: no failure at all.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &(dyn Error + 'static) = &error;
        let broken_pipe = any
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        Failure {
            message: error.to_string(),
            broken_pipe,
        }
    }
}
