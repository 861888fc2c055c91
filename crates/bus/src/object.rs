//! POSIX shared-memory objects: exclusive creation, allocation, owner and mode checks, liveness locks.
//!
//! `shared_memory` creates and maps; what it lacks (allocation, locks, owner checks) is done on a
//! second descriptor of the same object through `rustix`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat};
use rustix::io::Errno;
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
    kill_point!("object.created");
    let prepared = open_made(name).and_then(|descriptor| {
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

/// Opens an object that we have just made, also where the process's mask of modes takes its owner's rights away: whoever
/// has the object mapped may use it, and so must those who come later.
fn open_made(name: &str) -> Result<OwnedFd, Error> {
    match open_descriptor(name) {
        Err(error) if error.kind() == ErrorKind::WrongOwner => {
            // By its name, since the crate that maps it keeps the descriptor to itself. It is ours, and nobody else can
            // put another in its place: `/dev/shm` is sticky.
            let mode = Mode::from_raw_mode(Access::default().mode());
            rustix::fs::chmod(format!("/dev/shm{name}"), mode)
                .map_err(|errno| Error::io("give ourselves access to", name, errno))?;
            open_descriptor(name)
        }
        opened => opened,
    }
}

/// Maps the existing object `name` after checking who owns it.
///
/// An object that its creator has not sized yet fails with `io::ErrorKind::InvalidInput` inside, or
/// maps with length 0: the caller retries.
pub(crate) fn open(name: &str, access: Access) -> Result<Object, Error> {
    let descriptor = open_descriptor(name)?;
    let stat = rustix::fs::fstat(&descriptor).map_err(|errno| Error::io("stat", name, errno))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(not_an_object(name));
    }
    check_owner(&stat, name, access)?;
    // By the descriptor: the name may stand for another object by now.
    let region = Region::map(descriptor.as_fd(), stat.st_size as usize)
        .map_err(|errno| Error::io("map shared memory", name, errno))?;
    Ok(Object { region, descriptor })
}

fn into_region(map: shared_memory::Shmem, name: &str) -> Result<Arc<Region>, Error> {
    Region::mapped(map)
        .ok_or_else(|| Error::new(ErrorKind::Io, format!("{name} was mapped at address zero")))
}

pub(crate) fn open_descriptor(name: &str) -> Result<OwnedFd, Error> {
    // By its path: a link is not followed then, whatever the C library thinks of links. It could lead to a file of ours,
    // which would become a bus.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(format!("/dev/shm{name}"), flags, Mode::empty()).map_err(|errno| {
        if errno == Errno::ACCESS {
            let message = format!(
                "shared memory {name} is not open to user {}: run as its owner, or share the bus through a \
                 group (`group-id` in the configuration of whoever creates it)",
                rustix::process::geteuid().as_raw()
            );
            return Error::new(ErrorKind::WrongOwner, message);
        }
        if matches!(errno, Errno::LOOP | Errno::ISDIR | Errno::NXIO) {
            return not_an_object(name);
        }
        Error::io("open shared memory", name, errno)
    })
}

fn not_an_object(name: &str) -> Error {
    let message = format!(
        "/dev/shm{name} is no shared-memory object but a directory, a link or a pipe: somebody squats on the name; \
         remove it, or use another bus name"
    );
    Error::new(ErrorKind::WrongOwner, message)
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
        if errno == Errno::NOSPC {
            let message = format!(
                "no room for {length_bytes} bytes of shared memory for {name}: \
                 free space in /dev/shm or lower `lane-bytes` of the rule"
            );
            return Error::new(ErrorKind::LimitReached, message);
        }
        Error::io("allocate shared memory for", name, cause)
    })
}

/// The access that an object was made with, where it is our own user's; else the default, which lets nobody else in.
pub(crate) fn own_access(name: &str) -> Access {
    let own = || {
        let stat = rustix::fs::fstat(open_descriptor(name).ok()?).ok()?;
        let is_shared = stat.st_mode & 0o777 == 0o660;
        let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
        (is_ours && is_shared).then_some(stat.st_gid)
    };
    Access { group_id: own() }
}

fn check_owner(stat: &Stat, name: &str, access: Access) -> Result<(), Error> {
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

/// An object of a bus, beside its control segment.
pub(crate) struct Listed {
    pub(crate) name: String,
    /// `lane`, `outbox` or `subscriber`, where it is one of ours.
    pub(crate) kind: String,
    pub(crate) epoch: u64,
    pub(crate) entry: std::fs::DirEntry,
}

/// The objects of a bus that have a number, whether anything names them or not. A reading of `/dev/shm`.
pub(crate) fn list(bus: &str) -> impl Iterator<Item = Listed> {
    let prefix = format!("millpond.{bus}.");
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten();
    entries.flatten().filter_map(move |entry| {
        let file_name = entry.file_name().into_string().ok()?;
        // A bus whose name goes on behind ours has one more part.
        let (kind, epoch) = file_name.strip_prefix(&prefix)?.split_once('.')?;
        let epoch = u64::from_str_radix(epoch, 16).ok()?;
        Some(Listed {
            name: format!("/{file_name}"),
            kind: kind.to_owned(),
            epoch,
            entry,
        })
    })
}

/// Tries to take the liveness lock. The kernel releases it when the last descriptor closes, at death.
pub(crate) fn try_lock(descriptor: &OwnedFd) -> bool {
    rustix::fs::flock(descriptor, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Whether nobody holds the lock of this descriptor alone; it is shared with us then.
pub(crate) fn try_lock_shared(descriptor: &OwnedFd) -> bool {
    rustix::fs::flock(descriptor, FlockOperation::NonBlockingLockShared).is_ok()
}

/// Whether some process holds the liveness lock of the object `name`. Costs four system calls. Where we have no file
/// handle left to ask with, nobody is taken for dead.
pub(crate) fn is_locked(name: &str) -> bool {
    match open_descriptor(name) {
        Ok(descriptor) => !try_lock_shared(&descriptor),
        Err(error) => error.is_shortage(),
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
