//! A look at the consumer's memory and at the disk, again and again while a scenario plays.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::disk;
use crate::error::Error;

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The most that was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Memory of the process that is its own: not files, not shared.
    pub(crate) anonymous_bytes: u64,
    /// Shared memory that it has touched: rings and outboxes.
    pub(crate) shared_bytes: u64,
    /// Disk below the directory.
    pub(crate) disk_bytes: u64,
    /// How often it was looked.
    pub(crate) looks: u64,
}

/// Looks until it is asked for what it has seen.
pub(crate) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Result<Seen, Error>>,
}

impl Watch {
    pub(crate) fn start(pid: u32, dir: &Path) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let dir: PathBuf = dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                let mut seen = Seen::default();
                loop {
                    let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
                        // Its disk is looked at beyond its end.
                        Err(_) if seen.looks > 0 => String::new(),
                        status => status?,
                    };
                    let most = |old: u64, key| old.max(status_bytes(&status, key));
                    seen.anonymous_bytes = most(seen.anonymous_bytes, "RssAnon:");
                    seen.shared_bytes = most(seen.shared_bytes, "RssShmem:");
                    seen.disk_bytes = seen.disk_bytes.max(disk::used_bytes(&dir)?);
                    seen.looks += 1;
                    if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                        return Ok(seen);
                    }
                }
            })?;
        Ok(Watch { stop, thread })
    }

    /// A last look, and the most of all.
    pub(crate) fn end(self) -> Result<Seen, Error> {
        // It listens, unless it has failed; then the thread tells.
        let _ = self.stop.send(());
        let ended = self.thread.join();
        ended.map_err(|_| Error::new("the watch panicked"))?
    }
}

/// A size in the text of `/proc/PID/status`, 0 where it is not there.
pub(crate) fn status_bytes(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_the_status_of_a_process() {
        assert_eq!(
            status_bytes("VmRSS:\t 9 kB\nRssAnon:\t     12 kB\n", "RssAnon:"),
            12 << 10
        );
        assert_eq!(status_bytes("VmRSS:\t 9 kB\n", "RssAnon:"), 0);
    }
}
