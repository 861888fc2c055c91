//! Memory that two processes share, for the floors: nothing but cache lines and words.

use std::sync::atomic::{AtomicU32, AtomicU64};

use shared_memory::{Shmem, ShmemConf};

use crate::peer::Fallible;

const LINE_BYTES: usize = 128;
const WORD_BYTES: usize = 8;

/// Some pages of shared memory, used as atomics only.
pub struct Memory {
    memory: Shmem,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all that anyone does with it is atomic.
unsafe impl Send for Memory {}

impl Memory {
    /// New memory of `bytes`, all zero; goes with the value returned.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn make(bytes: usize) -> Fallible<Self> {
        let memory = ShmemConf::new().size(bytes).create()?;
        Ok(Memory { memory })
    }

    /// Memory that another process made.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn open(name: &str) -> Fallible<Self> {
        let memory = ShmemConf::new().os_id(name).open()?;
        Ok(Memory { memory })
    }

    /// What others open it by.
    pub fn name(&self) -> &str {
        self.memory.get_os_id()
    }

    /// The words from pair of cache lines `line` on, to the end.
    ///
    /// # Panics
    /// When there are not so many lines.
    pub fn words(&self, line: usize) -> &[AtomicU64] {
        let start = line * LINE_BYTES;
        let bytes = self.memory.len();
        assert!(start < bytes, "line {line} is not in {bytes} bytes");
        // SAFETY: within the mapping, as was just checked.
        let first = unsafe { self.memory.as_ptr().add(start) };
        let count = (bytes - start) / WORD_BYTES;
        // SAFETY: `count` words from there end within the mapping, which is zeroed, aligned to a page and lives as
        // long as `self`; every process uses these words as atomics only.
        unsafe { std::slice::from_raw_parts(first.cast::<AtomicU64>(), count) }
    }

    /// The first word of a line as a futex; nobody uses it as a longer word.
    ///
    /// # Panics
    /// As [`Memory::words`].
    pub fn futex(&self, line: usize) -> &AtomicU32 {
        let word: *const AtomicU64 = &self.words(line)[0];
        // SAFETY: as in `words`; it is aligned for more than this.
        unsafe { &*word.cast::<AtomicU32>() }
    }
}
