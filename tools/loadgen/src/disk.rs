//! What lies on the disk, and how much room there is.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::Error;
use crate::text;

/// Calls `visit` for every file below `dir`. What goes away meanwhile is not there.
pub(crate) fn each_file(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) -> io::Result<()> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(dir) {
        Err(error) if gone(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => each_file(&path, visit)?,
            Ok(metadata) if metadata.is_file() => visit(&path, &metadata),
            Err(error) if !gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Bytes of disk that the files below `dir` take, whole blocks and what is reserved. What goes away meanwhile is not there.
///
/// # Errors
/// Of the file system.
pub fn used_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    // `st_blocks` is in units of 512 bytes on every file system.
    each_file(dir, &mut |_, metadata| bytes += metadata.blocks() * 512)?;
    Ok(bytes)
}

/// Bytes that this user may still write to the file system of `dir`.
///
/// # Errors
/// Where there is no such directory.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(dir)?;
    Ok(room.f_bavail * room.f_frsize)
}

/// Refuses where less is left than needed, and says what would help. Returns what is left.
pub(crate) fn check_room(dir: &Path, needed: u64) -> Result<u64, Error> {
    let left = free_bytes(dir)?;
    if left < needed {
        return Err(Error::new(format!(
            "{} has {} left and about {} are needed: choose another place with `--dir`, or a smaller `--size`",
            dir.display(),
            text::bytes(left),
            text::bytes(needed)
        )));
    }
    Ok(left)
}

/// Has the kernel forget what it keeps in memory of a file, or of the files below a directory; returns how that was done.
pub(crate) fn forget(dir: &Path) -> io::Result<&'static str> {
    let mut failed = None;
    each_file(dir, &mut |path, _| {
        let forgotten = File::open(path).and_then(|file| {
            // Only what is on the disk can be forgotten.
            file.sync_data()?;
            Ok(rustix::fs::fadvise(
                &file,
                0,
                None,
                rustix::fs::Advice::DontNeed,
            )?)
        });
        if let Err(error) = forgotten {
            failed.get_or_insert(error);
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    // The directories too, where we may.
    Ok(match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => "all caches of the kernel dropped",
        Err(_) => "pages of the log dropped, directories not: not root",
    })
}
