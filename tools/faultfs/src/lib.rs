//! File systems that fail on request: what tests and scenarios put under a log directory.
//!
//! [`FaultFs`] passes everything on to a directory behind it, until its [`Faults`] say otherwise: then operations
//! fail, take their time, or stop until they are let go. It lives in the process that mounts it; whoever uses the
//! directory is best another process, since a call that is stopped blocks its caller.
//!
//! ```no_run
//! use millpond_faultfs::{Failure, FaultFs, Operation};
//! use rustix::io::Errno;
//! # let (behind, mount_point) = (std::path::Path::new("/a"), std::path::Path::new("/b"));
//! let disk = FaultFs::mount(behind, mount_point)?;
//! disk.faults().fail(Operation::Sync, Failure::new(Errno::IO).of(".log").times(1));
//! // ... a log is written to `mount_point` ...
//! assert_eq!(disk.faults().failed(Operation::Sync), 1);
//! # Ok::<(), millpond_faultfs::Error>(())
//! ```

#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("faultfs mounts through /dev/fuse: Linux only");

mod error;
mod faults;
mod passthrough;
mod volatile;

pub use self::{
    error::Error,
    faults::{Failure, Faults, Frozen, Operation},
    passthrough::FaultFs,
    volatile::{BLOCK_BYTES, Cut, DiskImage, Kept, SECTOR_BYTES, VolatileDisk, WriteCache},
};
