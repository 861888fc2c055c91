//! The objects that lie in shared memory, of any bus, and who holds them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use crate::drain::{ObjectKey, lock_holder, read_lock_table};
use crate::object;

/// Where the kernel keeps POSIX shared-memory objects.
pub const SHARED_MEMORY_DIR: &str = "/dev/shm";
const PREFIX: &str = "millpond.";

/// What an object is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// The control segment of a bus.
    Control,
    /// A publisher's ring.
    Lane,
    /// The consumer's ring for subscribers.
    Outbox,
    /// A subscriber's sign of life.
    Subscriber,
}

impl ObjectKind {
    /// As it stands in the object's name.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Control => "control",
            ObjectKind::Lane => "lane",
            ObjectKind::Outbox => "outbox",
            ObjectKind::Subscriber => "subscriber",
        }
    }
}

/// Who holds the lock of an object, which is its holder's sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: it is dead, or has left.
    Nobody,
    /// This process, as the kernel says.
    Process(u32),
    /// Somebody whom the kernel does not name: in another pid namespace, or `/proc` is hidden.
    Somebody,
    /// It cannot be told: the file is a copy, or may not be opened.
    Unknown,
}

impl Holder {
    /// Whether somebody is known to hold it.
    pub fn is_somebody(self) -> bool {
        matches!(self, Holder::Process(_) | Holder::Somebody)
    }

    /// The process, where it is known.
    pub fn pid(self) -> Option<u32> {
        match self {
            Holder::Process(pid) => Some(pid),
            _ => None,
        }
    }

    /// Who holds the `flock` of any file. Reads `/proc/locks`, then tries the lock for a moment.
    pub fn of_file(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) => holder_of(path, &metadata, &LockTable::read()),
            Err(_) => Holder::Nobody,
        }
    }
}

/// `/proc/locks`, read once for many objects.
pub(super) struct LockTable(Vec<(ObjectKey, u32)>);

impl LockTable {
    pub(super) fn read() -> Self {
        LockTable(read_lock_table())
    }
}

/// The table first: who tries a lock holds it for a moment, and could be taken for its holder.
fn holder_of(path: &Path, metadata: &fs::Metadata, locks: &LockTable) -> Holder {
    let key = ObjectKey::of(metadata.dev(), metadata.ino());
    if let Some(pid) = lock_holder(&locks.0, key) {
        return Holder::Process(pid);
    }
    let Ok(file) = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
    else {
        return Holder::Unknown;
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Holder::Nobody,
        Err(_) => Holder::Somebody,
    }
}

/// One object of a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedObject {
    /// The bus that its name says.
    pub bus: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Its number; 0 for a control segment.
    pub epoch: u64,
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub length_bytes: u64,
    /// Memory that it takes.
    pub allocated_bytes: u64,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions.
    pub mode: u32,
    /// When it was made or last sized.
    pub modified: Option<SystemTime>,
}

impl SharedObject {
    /// Who holds it. Costs a reading of `/proc/locks`. [`Holder::Unknown`] outside shared memory.
    pub fn holder(&self) -> Holder {
        self.holder_in(&LockTable::read())
    }

    pub(super) fn holder_in(&self, locks: &LockTable) -> Holder {
        if self.path.parent() != Some(Path::new(SHARED_MEMORY_DIR)) {
            return Holder::Unknown;
        }
        match fs::metadata(&self.path) {
            Ok(metadata) => holder_of(&self.path, &metadata, locks),
            Err(_) => Holder::Unknown,
        }
    }

    /// Whether it is in shared memory, and was made or sized less than this ago.
    pub(super) fn is_younger(&self, limit: Duration) -> bool {
        let age = |modified| SystemTime::now().duration_since(modified);
        let age = self.modified.and_then(|modified| age(modified).ok());
        self.path.parent() == Some(Path::new(SHARED_MEMORY_DIR))
            && age.is_some_and(|age| age < limit)
    }

    /// Whether it belongs to this user.
    pub fn is_ours(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }
}

/// All objects of all buses in `dir`, sorted by bus, kind and number. What only looks like one is left out.
///
/// # Errors
/// The directory cannot be read.
pub fn list_objects(dir: &Path) -> io::Result<Vec<SharedObject>> {
    let mut objects = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some((bus, kind, epoch)) = file_name.to_str().and_then(parse_name) else {
            continue;
        };
        // Gone meanwhile, or a link that somebody has put there: neither is ours to follow.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        objects.push(SharedObject {
            bus: bus.to_owned(),
            kind,
            epoch,
            path: entry.path(),
            length_bytes: metadata.len(),
            allocated_bytes: metadata.blocks().saturating_mul(512),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
            modified: metadata.modified().ok(),
        });
    }
    objects.sort_by(|a, b| (&a.bus, a.kind, a.epoch).cmp(&(&b.bus, b.kind, b.epoch)));
    Ok(objects)
}

/// Bus, kind and number. A bus may have dots in its name, so the end is looked at.
fn parse_name(file_name: &str) -> Option<(&str, ObjectKind, u64)> {
    let rest = file_name.strip_prefix(PREFIX)?;
    let (bus, kind, epoch) = match rest.strip_suffix(".control") {
        Some(bus) => (bus, ObjectKind::Control, 0),
        None => {
            let (rest, epoch) = rest.rsplit_once('.')?;
            let (bus, kind) = rest.rsplit_once('.')?;
            let kind = [ObjectKind::Lane, ObjectKind::Outbox, ObjectKind::Subscriber]
                .into_iter()
                .find(|known| known.name() == kind)?;
            (bus, kind, u64::from_str_radix(epoch, 16).ok()?)
        }
    };
    object::check_bus_name(bus).ok()?;
    Some((bus, kind, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects_are_taken_apart_from_the_end() {
        let cases = [
            ("millpond.a.control", Some(("a", ObjectKind::Control, 0))),
            ("millpond.a.b.lane.1f", Some(("a.b", ObjectKind::Lane, 31))),
            (
                "millpond.x.lane.control",
                Some(("x.lane", ObjectKind::Control, 0)),
            ),
            (
                "millpond.x.subscriber.2",
                Some(("x", ObjectKind::Subscriber, 2)),
            ),
            ("millpond.x.lane.zz", None),
            ("millpond..control", None),
            ("millpond.x", None),
            ("other.x.control", None),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_name(name), expected, "{name}");
        }
    }
}
