//! Why a consumer cannot start, or did not end well.

use std::fmt;

/// A failure of the daemon, with the failure of the part it came from.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::{Daemon, Policy};
/// let bus = Bus::attach(&format!("doc-derr-{}", std::process::id()), &BusOptions::default())?;
/// let policy = Policy { group_bytes_limit: 1, ..Policy::default() };
/// let error = Daemon::builder(&bus, "/tmp".as_ref()).policy(policy).open().unwrap_err();
/// assert!(error.to_string().contains("group-bytes 1"));
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The bus refused: most often because it has a consumer already.
    Bus(millpond_bus::Error),
    /// The log directory cannot be written, or the policy is wrong.
    Sink(millpond_sink::Error),
    /// At the end, the last records could not be written. They are still in their lanes.
    NotWritten {
        /// What kept the writer from it.
        trouble: String,
    },
    /// The consumer's thread could not be started, or panicked.
    Thread(String),
    /// The pages cannot be served at this address.
    Http {
        /// What was asked for.
        address: std::net::SocketAddr,
        /// Why not, and what to do.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Bus(error) => error.fmt(f),
            Error::Sink(error) => error.fmt(f),
            Error::NotWritten { trouble } => write!(
                f,
                "the last records could not be written and wait in shared memory for the next daemon: {trouble}"
            ),
            Error::Thread(why) => write!(f, "the consumer's thread failed: {why}"),
            Error::Http { address, why } => write!(f, "cannot serve HTTP on {address}: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Bus(error) => Some(error),
            Error::Sink(error) => Some(error),
            Error::NotWritten { .. } | Error::Thread(_) | Error::Http { .. } => None,
        }
    }
}

impl From<millpond_bus::Error> for Error {
    fn from(error: millpond_bus::Error) -> Self {
        Error::Bus(error)
    }
}

impl From<millpond_sink::Error> for Error {
    fn from(error: millpond_sink::Error) -> Self {
        Error::Sink(error)
    }
}
