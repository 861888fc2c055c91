//! Who may write a log directory: one process at a time, and the file that says which.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::error::{Error, ErrorKind};

/// Held by the process that writes the directory; says who did last: the bus, and the process.
pub(crate) const LOCK_FILE: &str = ".millpond.lock";

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
        let (file, found) = take_lock(logs_dir)?;
        write_text(&file, &found).map_err(|error| not_written(logs_dir, error))?;
        Ok(DirectoryLock {
            _file: file,
            last_owner: found.owner,
        })
    }

    /// The owner of the last sink that wrote here; empty where there was none.
    pub fn last_owner(&self) -> &str {
        &self.last_owner
    }
}

/// What the lock file says of whoever wrote here last. Members of a bus cannot change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LastWriter {
    /// Whose commit point speaks of what is here; empty for nobody's.
    pub(crate) owner: String,
    /// Text that a group of it held at most; `None` where it does not say.
    pub(crate) group_bytes: Option<u64>,
}

/// Takes the lock, and tells who had it last. The file still says so: see [`write_text`].
pub(crate) fn take_lock(logs_dir: &Path) -> Result<(File, LastWriter), Error> {
    let path = logs_dir.join(LOCK_FILE);
    let file = open(&path, logs_dir)?;
    let is_free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    // What it says is what the last writer has left, or the one that holds it now.
    let found = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = found.lines();
    let owner = lines.next().unwrap_or_default().to_owned();
    let pid = lines.next().unwrap_or_default();
    if !is_free {
        let message = format!(
            "log directory {} is being written by process {pid}: stop it, or choose another with `--logs`",
            logs_dir.display(),
        );
        return Err(Error::new(ErrorKind::InUse, message));
    }
    let group_bytes = lines.next().and_then(|text| text.parse().ok());
    Ok((file, LastWriter { owner, group_bytes }))
}

/// Says who writes here, in the file that is locked: the owner, this process, and what a group holds.
pub(crate) fn write_text(file: &File, writer: &LastWriter) -> io::Result<()> {
    let mut text = format!("{}\n{}\n", writer.owner, std::process::id());
    if let Some(group_bytes) = writer.group_bytes {
        text.push_str(&format!("{group_bytes}\n"));
    }
    // In this order: killed in between, we leave what is behind the third line, and not a file that names nobody.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// That the lock file could not be written.
pub(crate) fn not_written(logs_dir: &Path, error: io::Error) -> Error {
    Error::io("write", &logs_dir.join(LOCK_FILE), error)
}

fn open(path: &Path, logs_dir: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // Whoever may open it may hold the lock: those who read the logs must not keep the daemon from them.
        .mode(0o600)
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
