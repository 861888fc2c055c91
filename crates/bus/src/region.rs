//! One mapped region of memory, and the only raw pointers of this crate.
//!
//! Everything else works on [`Pinned`] references to structures made of atomics, and on bounded
//! copies in and out. No `&[u8]` is ever made over the region: another process may write to it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fd::BorrowedFd;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use shared_memory::Shmem;
use zerocopy::{FromBytes, IntoBytes};

mod guard;

use self::guard::Watch;
pub use self::guard::guard_truncated_objects;
pub(crate) use self::guard::losses;

/// Types that may be shared with another process by reference: atomics, and structures of atomics.
///
/// # Safety
/// Every bit pattern must be a valid value, all fields must be interior-mutable atomics (or padding
/// that is never read), and the type must need no drop.
pub(crate) unsafe trait Shared {}

/// What a heap region is aligned to, as mapped ones are.
const PAGE_BYTES: usize = 4096;

enum Backing {
    /// Dropping it unmaps the object; `set_owner(false)` was called, so it does not unlink it.
    Created(#[expect(dead_code, reason = "held for its Drop")] Shmem),
    Opened,
    /// The allocation, which starts before the first page.
    Heap(NonNull<u8>, Layout),
}

/// A fixed range of memory: a mapped shared-memory object, or heap memory for copies, in tests and under Miri.
pub(crate) struct Region {
    base: NonNull<u8>,
    length_bytes: usize,
    /// Its place in the table of the guard, given back before anything is unmapped.
    watch: Option<Watch>,
    backing: Backing,
}

// SAFETY: the region is only reached through `Shared` atomics and raw copies; it owns its memory,
// and unmapping or freeing may happen on any thread.
unsafe impl Send for Region {}
// SAFETY: as above; no method hands out a plain reference to bytes.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn mapped(map: Shmem) -> Option<Arc<Self>> {
        let base = NonNull::new(map.as_ptr())?;
        let length_bytes = map.len();
        Some(Arc::new(Region {
            base,
            length_bytes,
            watch: Watch::over(base.as_ptr() as usize, length_bytes),
            backing: Backing::Created(map),
        }))
    }

    /// Maps the object behind a descriptor: the one that was looked at, whatever its name stands for by now.
    ///
    /// # Errors
    /// What the kernel says; `EINVAL` for a length of 0.
    pub(crate) fn map(
        descriptor: BorrowedFd<'_>,
        length_bytes: usize,
    ) -> rustix::io::Result<Arc<Self>> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping where the kernel finds room touches no memory that is in use.
        let map = unsafe {
            mmap(
                anywhere,
                length_bytes,
                access,
                MapFlags::SHARED,
                descriptor,
                0,
            )
        }?;
        let base = NonNull::new(map.cast()).ok_or(rustix::io::Errno::FAULT)?;
        Ok(Arc::new(Region {
            base,
            length_bytes,
            watch: Watch::over(base.as_ptr() as usize, length_bytes),
            backing: Backing::Opened,
        }))
    }

    /// Whether somebody truncated the object and zeros stand in its place, in a process that has called
    /// [`guard_truncated_objects`]. Asked behind a copy, the answer is about what was copied too. A few loads.
    #[inline(always)]
    pub(crate) fn is_lost(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_lost)
    }

    /// Zeroed heap memory, page aligned: the same code without an operating system, and for copies of objects.
    ///
    /// Pages that nobody touches take no memory and no time: aligned here and not by the allocator, which would write
    /// zeros to all of it.
    pub(crate) fn heap(length_bytes: usize) -> Option<Arc<Self>> {
        let layout = Layout::from_size_align(length_bytes.checked_add(PAGE_BYTES)?, 16).ok()?;
        // SAFETY: the layout has a non-zero size, a page at least.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let address = start.as_ptr() as usize;
        let ahead = address.next_multiple_of(PAGE_BYTES) - address;
        // SAFETY: less than a page, which was allocated beyond the length.
        let base = unsafe { start.add(ahead) };
        Some(Arc::new(Region {
            base,
            length_bytes,
            watch: None,
            backing: Backing::Heap(start, layout),
        }))
    }

    pub(crate) fn length_bytes(&self) -> usize {
        self.length_bytes
    }

    /// The structure at `offset`, kept alive together with the region; `None` when it would not fit.
    pub(crate) fn pin<T: Shared>(self: &Arc<Self>, offset: usize) -> Option<Pinned<T>> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.length_bytes
            || !(self.base.as_ptr() as usize + offset).is_multiple_of(align_of::<T>())
        {
            return None;
        }
        // SAFETY: `offset + size <= length_bytes`, checked above, so the pointer stays inside.
        let pointer = unsafe { self.base.add(offset) }.cast::<T>();
        Some(Pinned {
            pointer,
            region: Arc::clone(self),
            marker: PhantomData,
        })
    }

    /// Copies `bytes` to `offset`. Cost: one memcpy.
    ///
    /// # Panics
    /// When the range leaves the region, which is a mistake in this crate and never a peer's doing:
    /// callers mask or check every offset that comes from shared memory first.
    #[inline(always)]
    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.length_bytes && bytes.len() <= self.length_bytes - offset);
        // SAFETY: the range lies inside the region, asserted above.
        let target = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: source and target are valid for `bytes.len()`; they cannot overlap, since no slice
        // over the region exists. A peer that writes here at the same time garbles its own data.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Copies `bytes` to `offset`, and `behind` to where they end. Cost: two times memcpy, and one look at the bounds.
    ///
    /// # Panics
    /// As [`Region::copy_in`].
    #[inline(always)]
    pub(crate) fn copy_in_both(&self, offset: usize, bytes: &[u8], behind: &[u8]) {
        // Two slices are no longer than the address space together, so the sum is one.
        let length_bytes = bytes.len() + behind.len();
        assert!(offset <= self.length_bytes && length_bytes <= self.length_bytes - offset);
        // SAFETY: the range lies inside the region, asserted above.
        let target = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: as in `copy_in`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        // SAFETY: what follows lies inside too, up to the end of both.
        let target = unsafe { target.add(bytes.len()) };
        // SAFETY: as in `copy_in`.
        unsafe { std::ptr::copy_nonoverlapping(behind.as_ptr(), target, behind.len()) };
    }

    /// Copies from `offset` into `bytes`. What a peer writes meanwhile may be torn: check after.
    ///
    /// # Panics
    /// As [`Region::copy_in`].
    #[inline(always)]
    pub(crate) fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset <= self.length_bytes && bytes.len() <= self.length_bytes - offset);
        // SAFETY: the range lies inside the region, asserted above.
        let source = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: as in `copy_in`; any bytes at all are a valid `[u8]`.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Enters every page into the page table now, for writing or only for reading, so that no later access stops
    /// for it: in a virtual machine the first touch of a page costs microseconds.
    ///
    /// Costs about 0.2 us a page. Where the kernel cannot do it (before 5.14), pages come one by one as before.
    pub(crate) fn populate(&self, for_writing: bool) {
        if let Backing::Heap(..) = self.backing {
            return;
        }
        let advice = match for_writing {
            true => Advice::LinuxPopulateWrite,
            false => Advice::LinuxPopulateRead,
        };
        // SAFETY: populating changes neither contents nor mapping, and the range is this mapping.
        let _ = unsafe { madvise(self.base.as_ptr().cast(), self.length_bytes, advice) };
    }

    /// Copies a plain structure out.
    #[inline(always)]
    pub(crate) fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.copy_out(offset, value.as_mut_bytes());
        value
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.watch = None;
        match self.backing {
            Backing::Created(_) => {}
            Backing::Opened => {
                // SAFETY: mapped in `map` with this length, unmapped once, here; nothing refers to it any more.
                let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.length_bytes) };
                debug_assert!(unmapped.is_ok(), "it fails for no range that was mapped");
            }
            // SAFETY: allocated in `heap` with this very layout, and freed once, here.
            Backing::Heap(start, layout) => unsafe { dealloc(start.as_ptr(), layout) },
        }
    }
}

/// A reference into a [`Region`] that keeps the region mapped.
pub(crate) struct Pinned<T> {
    pointer: NonNull<T>,
    region: Arc<Region>,
    marker: PhantomData<T>,
}

// SAFETY: it only gives out `&T`, and `T: Shared` is made of atomics.
unsafe impl<T: Shared> Send for Pinned<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Pinned<T> {}

impl<T> Pinned<T> {
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl<T> Clone for Pinned<T> {
    fn clone(&self) -> Self {
        Pinned {
            pointer: self.pointer,
            region: Arc::clone(&self.region),
            marker: PhantomData,
        }
    }
}

impl<T: Shared> Deref for Pinned<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `pin` checked bounds and alignment, `region` keeps the memory mapped, and `Shared`
        // promises that any bytes are a valid `T` that others may change at any time.
        unsafe { self.pointer.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicU64, Ordering};

    #[repr(transparent)]
    struct Word(AtomicU64);
    // SAFETY: a single atomic.
    unsafe impl Shared for Word {}

    #[test]
    fn pin_refuses_what_does_not_fit_or_is_misaligned() {
        let region = Region::heap(64).expect("64 bytes of heap");
        assert!(region.pin::<Word>(56).is_some());
        assert!(region.pin::<Word>(57).is_none());
        assert!(region.pin::<Word>(4).is_none());
        assert!(region.pin::<Word>(usize::MAX).is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "there are no pages")]
    fn pages_of_a_heap_region_that_nobody_touches_are_not_there() {
        use std::os::unix::fs::FileExt;
        let length = 64 << 20;
        let region = Region::heap(length).expect("64 MiB of zeros");
        region.copy_in(0, &[7; 100]);
        let first = region.base.as_ptr() as usize;
        assert!(first.is_multiple_of(PAGE_BYTES));
        let Ok(pagemap) = std::fs::File::open("/proc/self/pagemap") else {
            eprintln!("skipped: no /proc/self/pagemap");
            return;
        };
        let mut words = vec![0; length / PAGE_BYTES * 8];
        let at = (first / PAGE_BYTES * 8) as u64;
        pagemap
            .read_exact_at(&mut words, at)
            .expect("our own pages");
        // The highest bit of each word: the page is there. Touched, one may bring its neighbours as a huge page.
        let present = words.chunks(8).filter(|word| word[7] & 0x80 != 0).count();
        assert!((1..=1024).contains(&present), "{present} pages are there");
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn two_pieces_that_do_not_fit_together_are_refused() {
        let region = Region::heap(64).expect("64 bytes of heap");
        region.copy_in_both(32, &[1; 32], &[2; 1]);
    }

    #[test]
    fn copies_come_back() {
        let region = Region::heap(64).expect("64 bytes of heap");
        region.copy_in_both(8, &7u64.to_le_bytes(), b"behind");
        let mut behind = [0; 6];
        region.copy_out(16, &mut behind);
        assert_eq!(&behind, b"behind");
        let word = region.pin::<Word>(8).expect("aligned and inside");
        // ORDERING: one thread.
        assert_eq!(u64::from_le(word.0.load(Ordering::Relaxed)), 7);
        let mut back = [0; 8];
        region.copy_out(8, &mut back);
        assert_eq!(back, 7u64.to_le_bytes());
    }
}
