//! Who is behind a lane, as the kernel tells it and not the publisher.
//!
//! Ordering: `epoch` is 0 while the consumer rewrites a slot. Release by the consumer after the words ->
//! Acquire by the reader, who looks again behind an Acquire fence and takes a slot that changed as unknown.

use crate::layout::{EXECUTABLE_BYTES, OriginSlot, load_text, store_text};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The process that publishes through a lane, or did so last for a source.
///
/// It is looked up by the consumer when it finds a lane: the user is the owner of the shared-memory object,
/// the process is the holder of the lock that is the lane's sign of life. What a publisher writes about itself
/// is only used where the kernel does not tell, and then `is_verified` is false.
///
/// ```
/// let nobody = millpond_bus::Origin::default();
/// assert!(!nobody.is_verified);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Process id, as the consumer's process sees it; 0 where nothing is known.
    pub pid: u32,
    /// The user who owns the lane.
    pub uid: u32,
    /// The file that the process executes, its last 128 bytes; empty where the kernel does not tell. Where only
    /// its short name can be had (a process of another user), that.
    pub executable: String,
    /// When the process was started, real time in ns, to a hundredth of a second; 0 where unknown. With the pid
    /// it is the process, whatever has that pid later.
    pub started_ns: u64,
    /// The kernel named the process as the holder of the lane's lock. False: the publisher's word alone, because
    /// it was gone before anyone looked, or lives in a container that the consumer cannot see into.
    pub is_verified: bool,
}

fn get(word: &AtomicU64) -> u64 {
    // ORDERING: Relaxed; ordered by `epoch` where it matters.
    word.load(Ordering::Relaxed)
}

impl OriginSlot {
    /// Consumer only. Keeps the peak of the lag.
    pub(crate) fn store(&self, epoch: u64, origin: &Origin) {
        // ORDERING: Relaxed throughout, under `epoch`; see the module's front page.
        let put = |word: &AtomicU32, value: u32| word.store(value, Ordering::Relaxed);
        self.epoch.store(0, Ordering::Relaxed);
        // ORDERING: Release fence; the 0 is seen before any of the new words.
        fence(Ordering::Release);
        put(&self.pid, origin.pid);
        put(&self.uid, origin.uid);
        put(&self.verified, origin.is_verified.into());
        // ORDERING: Relaxed; as above.
        self.started_ns.store(origin.started_ns, Ordering::Relaxed);
        store_text(&self.executable, &origin.executable);
        // ORDERING: Release; the words before the number that makes them count.
        self.epoch.store(epoch, Ordering::Release);
    }

    /// What is known, with the lane it is about; `None` where nothing is, or it is just being written.
    pub(crate) fn load(&self) -> Option<(u64, Origin)> {
        // ORDERING: Acquire; the words below were stored before it.
        let epoch = self.epoch.load(Ordering::Acquire);
        // ORDERING: Relaxed; checked by the second look at `epoch`.
        let small = |word: &AtomicU32| word.load(Ordering::Relaxed);
        let origin = Origin {
            pid: small(&self.pid),
            uid: small(&self.uid),
            executable: load_text(&self.executable),
            started_ns: get(&self.started_ns),
            is_verified: small(&self.verified) == 1,
        };
        // ORDERING: Acquire fence; the copies above come before the second look.
        fence(Ordering::Acquire);
        (epoch != 0 && get(&self.epoch) == epoch).then_some((epoch, origin))
    }

    /// The most bytes that ever waited.
    pub(crate) fn lag_bytes_max(&self) -> u64 {
        get(&self.lag_bytes_max)
    }

    /// Consumer only.
    pub(crate) fn raise_lag(&self, bytes: u64) {
        if bytes > get(&self.lag_bytes_max) {
            // ORDERING: Relaxed; a number that says only itself, and the consumer is the only writer.
            self.lag_bytes_max.store(bytes, Ordering::Relaxed);
        }
    }

    /// Consumer only: the slot is about another lane from now on.
    pub(crate) fn reset_lag(&self) {
        // ORDERING: Relaxed; as above.
        self.lag_bytes_max.store(0, Ordering::Relaxed);
    }
}

/// The end of a path that fits, and nothing in it that a terminal would obey.
pub(crate) fn printable_end(path: &str) -> String {
    let start = path.len().saturating_sub(EXECUTABLE_BYTES);
    let start = (start..=path.len())
        .find(|&index| path.is_char_boundary(index))
        .unwrap_or(path.len());
    // As long as what it replaces, or shorter.
    path[start..].replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    #[test]
    fn a_long_path_keeps_its_file_name() {
        let path = format!("/{}/\u{e9}x/node", "d".repeat(200));
        let cut = printable_end(&path);
        assert_eq!(cut.len(), EXECUTABLE_BYTES);
        assert!(cut.ends_with("/\u{e9}x/node"), "{cut}");
        let split = format!("\u{e9}{}", "d".repeat(EXECUTABLE_BYTES - 1));
        assert_eq!(printable_end(&split), "d".repeat(EXECUTABLE_BYTES - 1));
        assert_eq!(printable_end("/bin/\x1b[31ma"), "/bin/?[31ma");
    }

    #[test]
    fn a_slot_gives_back_what_was_stored_and_nothing_while_it_is_rewritten() {
        let region = Region::heap(4096).expect("heap");
        let slot = region.pin::<OriginSlot>(0).expect("it fits");
        assert_eq!(slot.load(), None);
        let origin = Origin {
            pid: 7,
            uid: 1000,
            executable: "/usr/bin/node".to_owned(),
            started_ns: 5,
            is_verified: true,
        };
        slot.store(3, &origin);
        assert_eq!(slot.load(), Some((3, origin)));
        // ORDERING: one thread.
        slot.epoch.store(0, Ordering::Relaxed);
        assert_eq!(slot.load(), None);
    }
}
