//! Who may write a log directory: one process at a time, and the file that says which.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::error::{Error, ErrorKind};

/// Held by the process that writes the directory; says who did last: the bus, and the process.
const LOCK_FILE: &str = ".millpond.lock";

/// The sole right to write a log directory, for work on its files while no daemon runs.
///
/// Held until it is dropped; a sink that is opened meanwhile is refused. What the last sink knows about the
/// directory stays true: the next one of the same bus goes on where it stopped.
///
/// ```
/// use millpond_sink::{DirectoryLock, Policy, Sink};
/// # let dir = tempfile::tempdir()?;
/// # let logs_dir = dir.path();
/// let lock = DirectoryLock::take(logs_dir)?;
/// assert!(Sink::open(logs_dir, Policy::default(), "doc", &[], 0, || {}).is_err());
/// assert_eq!(lock.last_owner(), "");
/// drop(lock);
/// assert!(Sink::open(logs_dir, Policy::default(), "doc", &[], 0, || {}).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DirectoryLock {
    /// Holding it open holds the lock.
    _file: File,
    last_owner: String,
}

impl DirectoryLock {
    /// Takes the lock; does not wait for it. Three system calls.
    ///
    /// # Errors
    /// `InUse` names the process that holds it, `Io` what cannot be opened or written.
    pub fn take(logs_dir: &Path) -> Result<Self, Error> {
        let (file, _) = take_lock(logs_dir, None)?;
        // Ours alone now: what it says is what the last sink, or nobody, has left.
        let found = fs::read_to_string(logs_dir.join(LOCK_FILE)).unwrap_or_default();
        let last_owner = found.lines().next().unwrap_or_default().to_owned();
        Ok(DirectoryLock {
            _file: file,
            last_owner,
        })
    }

    /// The owner of the last sink that wrote here; empty where there was none.
    pub fn last_owner(&self) -> &str {
        &self.last_owner
    }
}

/// Takes the lock for `owner`, or on behalf of whoever had it last; tells whether `owner` did.
pub(crate) fn take_lock(logs_dir: &Path, owner: Option<&str>) -> Result<(File, bool), Error> {
    let path = logs_dir.join(LOCK_FILE);
    let file = open(&path, logs_dir)?;
    let found = fs::read_to_string(&path).unwrap_or_default();
    let (last_owner, last_pid) = found.split_once('\n').unwrap_or((&found, ""));
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let message = format!(
            "log directory {} is being written by process {}: stop it, or choose another with `--logs`",
            logs_dir.display(),
            last_pid.trim()
        );
        return Err(Error::new(ErrorKind::InUse, message));
    }
    let owner = owner.unwrap_or(last_owner);
    let text = format!("{owner}\n{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all_at(text.as_bytes(), 0))
        .map_err(|error| Error::io("write", &path, error))?;
    Ok((file, last_owner == owner))
}

fn open(path: &Path, logs_dir: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::io(
                "write to the log directory (choose another with `--logs`)",
                logs_dir,
                error,
            ),
            _ => Error::io("open", path, error),
        })
}
