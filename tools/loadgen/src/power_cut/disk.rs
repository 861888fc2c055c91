//! An ext4 on a loop device on a disk whose power can be cut.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use millpond_faultfs::{DiskImage, VolatileDisk};
use tempfile::TempDir;

use crate::error::Error;
use crate::stage::temporary;

const DISK_BYTES: u64 = 64 << 20;
/// The least journal that mkfs makes, in MiB: the sooner it comes around, the more there is to go wrong.
const JOURNAL_MB: u64 = 4;
/// A process that was just killed may be in the file system for a moment.
const UNMOUNT_TRIES: u32 = 100;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// An ext4 that is mounted; gone when it is dropped.
pub(super) struct Mounted {
    disk: VolatileDisk,
    at: PathBuf,
    _place: TempDir,
}

impl Mounted {
    /// Mounts what a disk holds.
    pub(super) fn new(dir: Option<&Path>, image: DiskImage, options: &str) -> Result<Self, Error> {
        let place = temporary(dir)?;
        let (raw, at) = (place.path().join("raw"), place.path().join("ext4"));
        std::fs::create_dir(&raw)?;
        std::fs::create_dir(&at)?;
        let disk = VolatileDisk::mount(&raw, image)
            .map_err(|error| Error::new(format!("no FUSE file system can be mounted: {error}")))?;
        let options = format!("loop,noatime{options}");
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 6] =
            [&"-t", &"ext4", &"-o", &options, &disk.path(), &at];
        call("mount", &arguments)?;
        Ok(Mounted {
            disk,
            at,
            _place: place,
        })
    }

    /// The disk under it.
    pub(super) fn disk(&self) -> &VolatileDisk {
        &self.disk
    }

    /// Its root.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts it in order, and has it checked.
    pub(super) fn close(self) -> Result<(), Error> {
        self.unmount();
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 2] = [&"-fn", &self.disk.path()];
        call("e2fsck", &arguments)
    }

    fn unmount(&self) {
        for _ in 0..UNMOUNT_TRIES {
            let arguments: [&dyn AsRef<std::ffi::OsStr>; 1] = [&self.at];
            match call("umount", &arguments) {
                Err(error) if error.to_string().contains("busy") => {
                    std::thread::sleep(UNMOUNT_PAUSE);
                }
                // Also where it is not mounted any more.
                _ => return,
            }
        }
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 2] = [&"-l", &self.at];
        let _ = call("umount", &arguments);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// A disk with an empty ext4.
pub(super) fn formatted(dir: Option<&Path>) -> Result<DiskImage, Error> {
    let place = temporary(dir)?;
    let path = place.path().join("new.img");
    File::create(&path)?.set_len(DISK_BYTES)?;
    let journal = format!("size={JOURNAL_MB}");
    // Blocks as they are on any disk that is not as small as this one. What mkfs leaves for later would only
    // write beside us.
    let later = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    let arguments: [&dyn AsRef<std::ffi::OsStr>; 8] =
        [&"-q", &"-F", &"-b", &"4096", &"-J", &journal, &"-E", &later];
    let mut all = arguments.to_vec();
    all.push(&path);
    call("mkfs.ext4", &all)?;
    Ok(DiskImage::load(&path)?)
}

fn call(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Result<(), Error> {
    let failed = |why: &dyn Display| Error::new(format!("{program}: {why}"));
    let mut command = Command::new(program);
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    let output = command.output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let [said, out] = [&output.stderr, &output.stdout].map(|text| String::from_utf8_lossy(text));
    Err(failed(&format_args!(
        "{}, {} {}",
        output.status,
        said.trim(),
        out.trim()
    )))
}

/// Why none of this can be had here.
pub(super) fn why_not(dir: Option<&Path>) -> Option<String> {
    let attempt = || Mounted::new(dir, formatted(dir)?, "");
    attempt().err().map(|error| error.to_string())
}
