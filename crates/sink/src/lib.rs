//! Log records to files: formatted into buffers by the consumer, written by a thread of its own, true at once.
//!
//! Two halves. [`Sink`] lives on the consumer's thread: it formats lines into the buffers of the group that is
//! being filled and never touches a file. The writer thread owns the files: it writes whole groups through
//! io_uring (or `pwrite`), rotates, syncs and trims; a third thread, behind both, compresses what is closed. A group that is written comes back as a
//! [`CompletedGroup`], and the caller makes it true in shared memory with one store: the *commit point*.
//!
//! ```
//! use millpond_logfile::{Level, Source};
//! use millpond_sink::{Policy, Sink};
//!
//! # let dir = tempfile::tempdir()?;
//! # let logs_dir = dir.path();
//! let (mut sink, recovery) = Sink::open(logs_dir, Policy::default(), "doc", &[], 0, || {})?;
//! assert!(recovery.is_empty());
//! let web = sink.service("web", 7)?;
//! sink.append(web, 7, Level::Info, &Source::new("rpc"), b"listening");
//! let closed = sink.close(8);
//! assert_eq!(closed.trouble, None);
//! assert_eq!(closed.groups[0].services[0].lines, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("millpond runs on Linux only: the sink is built on io_uring and fallocate");

/// A place where the crash lab may kill this process; nothing without the feature `kill-points`.
macro_rules! kill_point {
    ($label:literal) => {
        #[cfg(feature = "kill-points")]
        millpond_kill_points::pass($label);
    };
}

mod error;
mod files;
mod lifecycle;
mod lock;
mod open;
mod policy;
mod retention;
mod sealer;
mod sink;
mod uncommitted;
mod unsynced;
mod writer;

pub use self::{
    error::{Error, ErrorKind},
    lock::DirectoryLock,
    open::Cut,
    policy::{BackendChoice, Policy, SealPolicy, ServicePolicy, SyncPolicy},
    sink::{Closed, CompletedGroup, ServiceId, Sink},
    writer::{Backend, DiskUse, WriterStatus},
};
