//! Mapped objects that another process cuts short.
//!
//! Whoever may write to an object may also truncate it. Touching a page that is gone is a SIGBUS, which ends the
//! process. Every mapped region stands in a table here; a process that has called [`guard_truncated_objects`] puts
//! zeros in the place of the *whole* region when one of its pages is gone, marks it as lost, and goes on. Whoever uses
//! the region asks for the mark behind each copy.
//!
//! The whole region, and not the page: a lost object is never half in use, and there is one fault instead of
//! thousands.
//!
//! The handler runs wherever a thread happened to touch the page, so all that it does is allowed in a signal handler:
//! loads, stores, and one raw system call. It touches no region, so it cannot fault itself. A child after `fork`
//! has the same table, handler and mappings.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering, compiler_fence, fence};

/// Regions of one process at one time. A bus has at most 1,024 lanes, 512 outboxes and one control segment, but each
/// subscription of a process maps its own. Regions beyond it are not guarded.
const REGIONS_MAX: usize = 16 << 10;
const FREE: usize = 0;
/// No region starts here: page zero is never mapped.
const TAKEN: usize = 1;

/// One region, or nobody's place.
struct Place {
    /// First address, `FREE`, or `TAKEN` while `end` is written.
    start: AtomicUsize,
    end: AtomicUsize,
    lost: AtomicU32,
}

static PLACES: [Place; REGIONS_MAX] = [const {
    Place {
        start: AtomicUsize::new(FREE),
        end: AtomicUsize::new(0),
        lost: AtomicU32::new(0),
    }
}; REGIONS_MAX];
/// Places below it were used at least once.
static PLACES_USED: AtomicUsize = AtomicUsize::new(0);
/// Regions that were ever lost.
static LOSSES: AtomicU32 = AtomicU32::new(0);

/// How many regions of this process were ever lost: while it stays the same, nobody has to look at any. One load.
#[inline(always)]
pub(crate) fn losses() -> u32 {
    // The handler runs on the thread that touched the page: what was copied before is copied before this load.
    compiler_fence(Ordering::Acquire);
    // ORDERING: Relaxed; what another thread loses is seen a little later.
    LOSSES.load(Ordering::Relaxed)
}

/// A region's place in the table. Dropping it gives the place back: before the memory is unmapped.
pub(super) struct Watch {
    place: &'static Place,
}

impl Watch {
    /// Enters a mapped range; `None` where the table is full. Costs a compare-and-swap, and a load for each region
    /// that the process has mapped.
    pub(super) fn over(start: usize, length_bytes: usize) -> Option<Self> {
        for (index, place) in PLACES.iter().enumerate() {
            // ORDERING: Relaxed; a place that is free now may be taken below.
            if place.start.load(Ordering::Relaxed) != FREE {
                continue;
            }
            // ORDERING: Acquire; whoever had the place before is through with it.
            let is_ours = place
                .start
                .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
            if is_ours {
                // ORDERING: Relaxed; published by the Release of `start`.
                place.end.store(start + length_bytes, Ordering::Relaxed);
                place.lost.store(0, Ordering::Relaxed);
                // ORDERING: AcqRel; before the start, which the handler looks for below this number only.
                PLACES_USED.fetch_max(index + 1, Ordering::AcqRel);
                // ORDERING: Release; `end` before it.
                place.start.store(start, Ordering::Release);
                return Some(Watch { place });
            }
        }
        None
    }

    /// Whether zeros stand in its place. Two loads; what was copied before it is copied before the look.
    #[inline(always)]
    pub(super) fn is_lost(&self) -> bool {
        compiler_fence(Ordering::Acquire);
        // ORDERING: Relaxed; the mark is set before the zeros are there, on the thread that would see them.
        self.place.lost.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // ORDERING: Release; we are through with it.
        self.place.start.store(FREE, Ordering::Release);
    }
}

/// From now on, a shared-memory object of millpond that another process truncates ends neither this process nor what
/// it rests on: whoever uses the object is told. Publishers get [`crate::PublishError::Lost`], subscriptions
/// [`crate::RecvError::Failed`] or a count of damaged rings, the consumer gives the lane up, or ends with
/// [`crate::ErrorKind::Lost`].
///
/// Without it the kernel ends the process with SIGBUS. The `millpond` command calls it; the libraries never do so by
/// themselves, because it installs a handler for SIGBUS, for the whole process and for good. Faults that are not in
/// millpond's memory go to the handler that was there before. Where a program installs a handler of its own
/// afterwards, that one decides.
///
/// May be called any number of times. Costs two system calls once, and nothing later.
///
/// ```
/// millpond_bus::guard_truncated_objects()?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// Where the kernel refuses to install the handler.
pub fn guard_truncated_objects() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    // What is there now, known before our handler can run.
    // SAFETY: all zeros is a valid `sigaction`; it is written over.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; `before` is ours to write to.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut before) } != 0 {
        return Err(io::Error::last_os_error());
    }
    PREVIOUS.get_or_init(|| before);
    // SAFETY: all zeros is a valid `sigaction` with an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the stack for signals where the thread has one: as the handler that we may have to call expects.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and does only what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    *installed = true;
    Ok(())
}

/// The handler that was there before ours.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel hands over a valid `siginfo_t`, which nobody changes.
    let known: &libc::siginfo_t = unsafe { &*info };
    let code = known.si_code;
    // SAFETY: any bits are an address here; of a signal that a process sent they are none, which the code tells.
    let address = unsafe { known.si_addr() } as usize;
    if code == libc::BUS_ADRERR && replace_region_at(address) {
        return;
    }
    hand_on(signal, code, info, context);
}

/// Puts zeros where the region around `address` is; false where there is none, or no memory map for it.
fn replace_region_at(address: usize) -> bool {
    // ORDERING: Acquire; see `Watch::over`. Whoever touches a region has entered it before.
    let used = PLACES_USED.load(Ordering::Acquire);
    for place in &PLACES[..used] {
        // ORDERING: Acquire; `end` is that of this start.
        let start = place.start.load(Ordering::Acquire);
        if start <= TAKEN || address < start {
            continue;
        }
        // ORDERING: Relaxed; looked at again below.
        let end = place.end.load(Ordering::Relaxed);
        // ORDERING: Acquire fence, then Relaxed: the place was this region's all the time. The region that was
        // touched is in use, so its own place does not change.
        fence(Ordering::Acquire);
        if place.start.load(Ordering::Relaxed) != start || address >= end {
            continue;
        }
        // ORDERING: Release; the marks before the zeros.
        if place.lost.swap(1, Ordering::Release) == 0 {
            LOSSES.fetch_add(1, Ordering::Release);
        }
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: exactly the range of one mapping of ours, which stays mapped, and unmapped by its owner as before.
        // Nobody holds a plain reference into it: atomics and raw copies find zeros, which they check.
        let mapped = unsafe { mmap_anonymous(start as *mut c_void, end - start, access, flags) };
        return mapped.is_ok();
    }
    false
}

/// Does what would have been done without us.
fn hand_on(signal: c_int, code: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let known = |action: &&libc::sigaction| {
        action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
    };
    let Some(previous) = PREVIOUS.get().filter(known) else {
        // SAFETY: all zeros is a valid `sigaction`: the default, with an empty mask.
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: a plain system call. When we return, the fault comes again and ends the process.
        unsafe { libc::sigaction(signal, &default, std::ptr::null_mut()) };
        // Codes of the kernel are above zero. What a process sent does not come again by itself.
        if code <= 0 {
            // SAFETY: a plain system call, allowed in handlers.
            unsafe { libc::raise(signal) };
        }
        return;
    };
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
        // SAFETY: installed with SA_SIGINFO, it is a function of this signature.
        let handler: Handler = unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal, info, context);
    } else {
        type Handler = extern "C" fn(c_int);
        // SAFETY: installed without SA_SIGINFO, it is a function of this signature.
        let handler: Handler = unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal);
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::Arc;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use rustix::mm::mmap;

    use super::*;
    use crate::region::Region;

    const LENGTH_BYTES: usize = 16 << 12;

    fn object() -> OwnedFd {
        let object = memfd_create("millpond-test", MemfdFlags::CLOEXEC).expect("memory");
        ftruncate(&object, LENGTH_BYTES as u64).expect("room");
        object
    }

    fn region() -> (OwnedFd, Arc<Region>) {
        let object = object();
        let region = Region::map(object.as_fd(), LENGTH_BYTES).expect("mapped");
        (object, region)
    }

    #[test]
    fn a_truncated_region_is_zeros_and_lost_and_its_neighbours_are_not() {
        guard_truncated_objects().expect("a handler");
        guard_truncated_objects().expect("once more is once");
        let (_whole_object, whole) = region();
        whole.copy_in(100, b"whole");
        for left_bytes in [0, 1 << 12, 5 << 12] {
            let (object, cut) = region();
            let page_behind = left_bytes + (1 << 12);
            cut.copy_in(page_behind, b"behind");
            cut.copy_in(8, b"before");
            let before = losses();
            ftruncate(&object, left_bytes as u64).expect("shorter");
            let mut bytes = [1; 6];
            cut.copy_out(page_behind, &mut bytes);
            assert_eq!(bytes, [0; 6]);
            assert!(cut.is_lost() && losses() != before);
            // All of it, and for good: it is ours alone now.
            cut.copy_out(8, &mut bytes);
            assert_eq!(bytes, [0; 6]);
            ftruncate(&object, LENGTH_BYTES as u64).expect("longer");
            cut.copy_in(LENGTH_BYTES - 6, b"stores");
            cut.copy_out(LENGTH_BYTES - 6, &mut bytes);
            assert_eq!(&bytes, b"stores");
            drop(cut);
            // Its place may be had again, and is clean.
            let (_object, next) = region();
            assert!(!next.is_lost());
        }
        let mut bytes = [0; 5];
        whole.copy_out(100, &mut bytes);
        assert!(!whole.is_lost());
        assert_eq!(&bytes, b"whole");
    }

    #[test]
    fn many_threads_may_find_the_same_region_lost() {
        guard_truncated_objects().expect("a handler");
        for _ in 0..20 {
            let (object, region) = region();
            region.copy_in(0, &[7; 64]);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let region = &region;
                    scope.spawn(move || {
                        let mut bytes = [0; 64];
                        while !region.is_lost() {
                            region.copy_out(thread << 12, &mut bytes);
                        }
                        region.copy_out(0, &mut bytes);
                        assert_eq!(bytes, [0; 64]);
                    });
                }
                ftruncate(&object, 0).expect("shorter");
            });
        }
    }

    /// What is not ours ends the process as it would have without us.
    #[test]
    fn a_fault_that_is_not_ours_goes_to_the_handler_before() {
        guard_truncated_objects().expect("a handler");
        let object = object();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping where the kernel finds room touches no memory that is in use.
        let map = unsafe { mmap(anywhere, LENGTH_BYTES, access, MapFlags::SHARED, &object, 0) }
            .expect("mapped");
        ftruncate(&object, 0).expect("shorter");
        // SAFETY: the child touches the mapping and ends, without a lock or an allocation.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: mapped above; that it is gone is the point.
            unsafe { map.cast::<u8>().read_volatile() };
            // SAFETY: ends the child at once, in case that it lives.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `status` is ours to write to.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(ended, child);
        assert!(libc::WIFSIGNALED(status), "it went on: {status}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGBUS);
    }
}
