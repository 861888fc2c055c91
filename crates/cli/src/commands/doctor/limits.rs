//! What the system allows the process that counts: the daemon where one runs, else this one.

use std::fs;

use super::{Check, Settings};
use crate::units::human_size;

/// Below this few services stay open at a time.
const FILES_FEW: u64 = 256;
/// A ring of 64 entries and its completions take less.
const RING_BYTES: u64 = 64 << 10;
/// Number of the capability.
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn check(settings: &Settings, consumer: Option<u32>, checks: &mut Vec<Check>) {
    let read = |name: &str| {
        consumer.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/{name}")).ok())
    };
    let own = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (whose, text, status) = match (read("limits"), read("status")) {
        (Some(text), Some(status)) => (", of the daemon", text, status),
        _ => ("", own("limits"), own("status")),
    };
    checks.push(open_files(limit(&text, "Max open files"), whose));
    let locked = limit(&text, "Max locked memory");
    checks.push(locked_memory(locked, whose, may_lock(&status)));
    checks.push(file_size(limit(&text, "Max file size"), whose, settings));
}

/// A soft limit; `None` for none.
fn limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_files(limit: Option<u64>, whose: &str) -> Check {
    match limit {
        Some(limit) if limit < FILES_FEW => Check::warn(
            "open files",
            format!("{limit}{whose}"),
            "raise it with `ulimit -n`: few services stay open",
        ),
        Some(limit) => Check::ok("open files", format!("{limit}{whose}")),
        None => Check::ok("open files", format!("unlimited{whose}")),
    }
}

/// Buffers are not registered, so no memory is locked for text. Some kernels charge the rings themselves to the limit.
fn locked_memory(limit: Option<u64>, whose: &str, may_lock: bool) -> Check {
    let found = limit.map_or("unlimited".to_owned(), human_size);
    match limit {
        Some(limit) if limit < RING_BYTES && !may_lock => Check::warn(
            "locked memory",
            format!(
                "{found}{whose}, without CAP_IPC_LOCK: io_uring may be refused, and text then goes by pwrite"
            ),
            "raise it with `ulimit -l` or `LimitMEMLOCK=`, or choose pwrite with `backend`",
        ),
        _ => Check::ok("locked memory", format!("{found}{whose}")),
    }
}

/// Whether a process may lock memory whatever the limit, by its `/proc/PID/status`.
fn may_lock(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|capabilities| capabilities >> CAP_IPC_LOCK & 1 == 1)
}

/// A segment must be able to grow to its size: past the limit a write fails, and the log stands.
fn file_size(limit: Option<u64>, whose: &str, settings: &Settings) -> Check {
    let wanted = settings.policy.segment_bytes_limit;
    match limit {
        None => Check::ok("file size", format!("unlimited{whose}")),
        Some(limit) if limit > wanted => {
            Check::ok("file size", format!("{}{whose}", human_size(limit)))
        }
        Some(limit) => Check::fail(
            "file size",
            format!(
                "{}{whose}, and `segment-bytes` is {}",
                human_size(limit),
                human_size(wanted)
            ),
            "raise it (`ulimit -f`, `LimitFSIZE=`), or lower `segment-bytes` to half of it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_found_by_their_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max file size             unlimited            unlimited            bytes     \n\
                    Max open files            1024                 4096                 files     \n";
        assert_eq!(limit(text, "Max open files"), Some(1024));
        assert_eq!(limit(text, "Max file size"), None);
        assert_eq!(limit(text, "Max locked memory"), None);
    }

    #[test]
    fn little_locked_memory_is_told_where_nothing_else_allows_it() {
        let may = may_lock("Name:\tmillpond\nCapEff:\t0000000000004000\n");
        let may_not = may_lock("Name:\tmillpond\nCapEff:\t000001ffffffbfff\n");
        assert_eq!((may, may_not, may_lock("")), (true, false, false));
        let shown = |limit, may_lock| {
            let check = locked_memory(limit, "", may_lock);
            check.found + &check.remedy
        };
        assert!(shown(Some(0), false).contains("pwrite"));
        for (limit, may_lock) in [(Some(0), true), (Some(8 << 20), false), (None, false)] {
            assert!(!shown(limit, may_lock).contains("pwrite"), "{limit:?}");
        }
    }
}
