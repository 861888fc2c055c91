//! POSIX shared-memory objects: exclusive creation, allocation, owner and mode checks, liveness locks.
//!
//! `shared_memory` creates and maps; what it lacks (allocation, locks, owner checks) is done on a
//! second descriptor of the same object through `rustix`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, Gid, Mode};
use rustix::shm;
use shared_memory::{ShmemConf, ShmemError};

use crate::error::{Error, ErrorKind};
use crate::region::Region;

/// Who may attach: the creator's user alone, or also the members of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Access {
    pub(crate) group_id: Option<u32>,
}

impl Access {
    fn mode(self) -> u32 {
        if self.group_id.is_some() {
            0o660
        } else {
            0o600
        }
    }
}

/// A mapped object and a descriptor of it, whose `flock` is the liveness lock of its holder.
pub(crate) struct Object {
    pub(crate) region: Arc<Region>,
    pub(crate) descriptor: OwnedFd,
}

pub(crate) enum Created {
    New(Object),
    Exists,
}

/// Creates `name` exclusively with its first `allocated_bytes` allocated, so that no later store there can
/// fail. Of the rest nothing may be touched before it is allocated too ([`allocate`]).
///
/// Costs a few system calls and the clearing of `allocated_bytes`.
pub(crate) fn create(
    name: &str,
    length_bytes: usize,
    allocated_bytes: usize,
    access: Access,
) -> Result<Created, Error> {
    let mut map = match ShmemConf::new().os_id(name).size(length_bytes).create() {
        Ok(map) => map,
        Err(ShmemError::MappingIdExists) => return Ok(Created::Exists),
        Err(error) => return Err(map_failure("create", name, error)),
    };
    map.set_owner(false);
    let prepared = open_descriptor(name).and_then(|descriptor| {
        allocate(&descriptor, name, 0, allocated_bytes)?;
        if let Some(group_id) = access.group_id {
            // The group first: the wider mode must never apply to the wrong group.
            rustix::fs::fchown(&descriptor, None, Some(Gid::from_raw(group_id)))
                .and_then(|()| rustix::fs::fchmod(&descriptor, Mode::from_raw_mode(access.mode())))
                .map_err(|errno| Error::io("give group access to", name, errno))?;
        }
        Ok(descriptor)
    });
    match prepared {
        Ok(descriptor) => Ok(Created::New(Object {
            region: into_region(map, name)?,
            descriptor,
        })),
        Err(error) => {
            unlink(name);
            Err(error)
        }
    }
}

/// Maps the existing object `name` after checking who owns it.
///
/// An object that its creator has not sized yet fails with `io::ErrorKind::InvalidInput` inside, or
/// maps with length 0: the caller retries.
pub(crate) fn open(name: &str, access: Access) -> Result<Object, Error> {
    let descriptor = open_descriptor(name)?;
    check_owner(&descriptor, name, access)?;
    let map = ShmemConf::new()
        .os_id(name)
        .open()
        .map_err(|error| map_failure("open", name, error))?;
    Ok(Object {
        region: into_region(map, name)?,
        descriptor,
    })
}

fn into_region(map: shared_memory::Shmem, name: &str) -> Result<Arc<Region>, Error> {
    Region::mapped(map)
        .ok_or_else(|| Error::new(ErrorKind::Io, format!("{name} was mapped at address zero")))
}

pub(crate) fn open_descriptor(name: &str) -> Result<OwnedFd, Error> {
    shm::open(name, shm::OFlags::RDWR, Mode::empty()).map_err(|errno| {
        if errno == rustix::io::Errno::ACCESS {
            let message = format!(
                "shared memory {name} is not open to user {}: run as its owner, or share the bus through a \
                 group (`group-id` in the configuration of whoever creates it)",
                rustix::process::geteuid().as_raw()
            );
            return Error::new(ErrorKind::WrongOwner, message);
        }
        Error::io("open shared memory", name, errno)
    })
}

/// Makes every page from `offset` on for `length_bytes` present, and the object at least that long: a full
/// tmpfs is an error here instead of a SIGBUS at some later store.
pub(crate) fn allocate(
    fd: &OwnedFd,
    name: &str,
    offset: usize,
    length_bytes: usize,
) -> Result<(), Error> {
    let (offset, length) = (offset as u64, length_bytes as u64);
    rustix::fs::fallocate(fd, FallocateFlags::empty(), offset, length).map_err(|errno| {
        let cause = io::Error::from(errno);
        if errno == rustix::io::Errno::NOSPC {
            let message = format!(
                "no room for {length_bytes} bytes of shared memory for {name}: \
                 free space in /dev/shm or lower `lane-bytes` of the rule"
            );
            return Error::new(ErrorKind::LimitReached, message);
        }
        Error::io("allocate shared memory for", name, cause)
    })
}

fn check_owner(descriptor: &OwnedFd, name: &str, access: Access) -> Result<(), Error> {
    let stat = rustix::fs::fstat(descriptor).map_err(|errno| Error::io("stat", name, errno))?;
    let our_uid = rustix::process::geteuid().as_raw();
    let shared_with_us = access.group_id == Some(stat.st_gid) && stat.st_mode & 0o007 == 0;
    if stat.st_uid != our_uid && !shared_with_us {
        let message = format!(
            "shared memory {name} belongs to user {}, expected {our_uid}: run as that user, share the \
             bus through a group, or use another bus name",
            stat.st_uid
        );
        return Err(Error::new(ErrorKind::WrongOwner, message));
    }
    if stat.st_mode & 0o777 & !access.mode() != 0 {
        let message = format!(
            "shared memory {name} has mode {:04o}, expected {:04o} at most: others could write to it",
            stat.st_mode & 0o777,
            access.mode()
        );
        return Err(Error::new(ErrorKind::WrongOwner, message));
    }
    Ok(())
}

fn map_failure(operation: &str, name: &str, error: ShmemError) -> Error {
    let source = match error {
        ShmemError::MapOpenFailed(code)
        | ShmemError::MapCreateFailed(code)
        | ShmemError::UnknownOsError(code) => io::Error::from_raw_os_error(code as i32),
        other => io::Error::other(other.to_string()),
    };
    Error::io(&format!("{operation} shared memory"), name, source)
}

/// Removes the name; processes that have the object mapped keep their mapping.
pub(crate) fn unlink(name: &str) {
    // A name that is gone already is what we want; nothing else can be done about other failures here.
    let _ = shm::unlink(name);
}

/// Tries to take the liveness lock. The kernel releases it when the last descriptor closes, at death.
pub(crate) fn try_lock(descriptor: &OwnedFd) -> bool {
    rustix::fs::flock(descriptor, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Whether some process holds the liveness lock of the object `name`. Costs four system calls.
pub(crate) fn is_locked(name: &str) -> bool {
    match open_descriptor(name) {
        Ok(descriptor) => {
            rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockShared).is_err()
        }
        Err(_) => false,
    }
}

/// Gives the liveness lock back before the descriptor closes.
pub(crate) fn unlock(descriptor: &OwnedFd) {
    // Failing to unlock is harmless: closing the descriptor releases the lock as well.
    let _ = rustix::fs::flock(descriptor, FlockOperation::Unlock);
}

/// Checks a bus name: it becomes part of file names under `/dev/shm`.
pub(crate) fn check_bus_name(name: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) || name.starts_with('.') {
        let message = format!(
            "bus name {name:?} cannot be used: 1 to 64 characters out of letters, digits, `.`, `_` and `-`, \
             not starting with `.`"
        );
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// The name of a bus's control segment.
pub(crate) fn control_name(bus: &str) -> String {
    format!("/millpond.{bus}.control")
}

/// The name of the lane with this epoch. Epochs are never reused while the bus exists.
pub(crate) fn lane_name(bus: &str, epoch: u64) -> String {
    format!("/millpond.{bus}.lane.{epoch:x}")
}

/// The name of the outbox with this epoch.
pub(crate) fn outbox_name(bus: &str, epoch: u64) -> String {
    format!("/millpond.{bus}.outbox.{epoch:x}")
}

/// The name of the object whose lock is a subscriber's sign of life.
pub(crate) fn subscriber_name(bus: &str, epoch: u64) -> String {
    format!("/millpond.{bus}.subscriber.{epoch:x}")
}
