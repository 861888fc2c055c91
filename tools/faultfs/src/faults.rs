//! What is to go wrong, set by one thread while others serve the file system.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

/// A kind of call, as faults tell them apart.
///
/// ```
/// use millpond_faultfs::Operation;
/// assert!(Operation::Sync.is_change() && !Operation::Look.is_change());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// Names, attributes, links, lists, free space; opening a file to read it.
    Look,
    /// Text is read.
    Read,
    /// Text is written.
    Write,
    /// A file or a directory is forced to the disk.
    Sync,
    /// A file that is there is opened to be written.
    Open,
    /// A file, a directory or a link is made.
    Create,
    /// Something gets another name.
    Rename,
    /// Something is removed.
    Remove,
    /// A file is cut, or made longer without text.
    Resize,
    /// Space is reserved.
    Allocate,
}

const OPERATIONS: usize = Operation::Allocate as usize + 1;

impl Operation {
    /// Everything that changes what is on the disk, or when.
    pub const CHANGES: [Operation; 8] = [
        Operation::Write,
        Operation::Sync,
        Operation::Open,
        Operation::Create,
        Operation::Rename,
        Operation::Remove,
        Operation::Resize,
        Operation::Allocate,
    ];

    /// Whether it is one of those.
    pub fn is_change(self) -> bool {
        !matches!(self, Operation::Look | Operation::Read)
    }
}

/// How an operation fails: with which error, on which files, how often.
///
/// ```
/// use millpond_faultfs::Failure;
/// use rustix::io::Errno;
/// let once_for_an_index = Failure::new(Errno::IO).of(".idx").times(1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    errno: Errno,
    suffix: Option<String>,
    left: u64,
}

impl Failure {
    /// Until it is cleared, for every file.
    pub fn new(errno: Errno) -> Self {
        Failure {
            errno,
            suffix: None,
            left: u64::MAX,
        }
    }

    /// Only where the path ends like this: `.log`, or `web/current.log`.
    #[must_use]
    pub fn of(mut self, suffix: &str) -> Self {
        self.suffix = Some(suffix.to_owned());
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.left = count;
        self
    }

    fn concerns(&self, path: &Path) -> bool {
        let ends_so = |suffix: &String| {
            let path: &OsStr = path.as_os_str();
            path.as_encoded_bytes().ends_with(suffix.as_bytes())
        };
        self.left > 0 && self.suffix.as_ref().is_none_or(ends_so)
    }
}

/// What waits while a file system is frozen.
///
/// ```
/// assert_ne!(millpond_faultfs::Frozen::Changes, millpond_faultfs::Frozen::Everything);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// What changes something; reading goes on, as from a cache.
    Changes,
    /// Every call.
    Everything,
}

#[derive(Debug, Default)]
struct State {
    frozen: Option<Frozen>,
    failures: Vec<(Operation, Failure)>,
    failed: [u64; OPERATIONS],
    delays: [Duration; OPERATIONS],
    /// Calls that wait now, and that ever had to.
    waiting: u64,
    waited: u64,
    short_bytes: Option<u32>,
    shortened: u64,
    /// Bytes that may still be added.
    free_bytes: Option<u64>,
    /// Failed syncs lose text: on the disk, or in the cache too.
    loses: Option<Lost>,
}

/// Where text is lost when a sync fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// On the disk alone.
    Disk,
    /// Nobody has it any more.
    DiskAndCache,
}

/// The handle by which faults are set, cleared and counted. Clones are the same handle.
///
/// ```
/// use millpond_faultfs::{Faults, Frozen};
/// let faults = Faults::default();
/// faults.freeze(Frozen::Changes);
/// faults.thaw();
/// assert_eq!(faults.waited(), 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        // Plain numbers: a thread that panicked leaves them as good as any.
        (self.shared.state.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on calls wait until [`Faults::thaw`].
    pub fn freeze(&self, what: Frozen) {
        self.state().frozen = Some(what);
    }

    /// What waits goes on.
    pub fn thaw(&self) {
        self.state().frozen = None;
        self.shared.changed.notify_all();
    }

    /// Every such call takes this much longer; zero: as it was.
    pub fn delay(&self, operation: Operation, delay: Duration) {
        self.state().delays[operation as usize] = delay;
    }

    /// Such calls fail. What was set before stays in force, and comes first.
    pub fn fail(&self, operation: Operation, failure: Failure) {
        self.state().failures.push((operation, failure));
    }

    /// Everything that changes something fails with `EROFS`, as after a remount for reading only.
    pub fn read_only(&self) {
        for operation in Operation::CHANGES {
            self.fail(operation, Failure::new(Errno::ROFS));
        }
    }

    /// A write takes at most so many bytes, and says so.
    pub fn short_writes(&self, bytes_max: u32) {
        self.state().short_bytes = Some(bytes_max.max(1));
    }

    /// Files can grow by so many bytes together; then there is `ENOSPC`. What is removed or cut gives room again.
    pub fn free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    /// A sync that fails also loses what was written since the last one that did not: on the disk there are zeros in
    /// its place, while the cache of the kernel still has the text and calls it clean. That is what ext4, XFS and
    /// others do. With `cached` false the cache loses it too.
    pub fn lose_at_failed_syncs(&self, cached: bool) {
        self.state().loses = Some(match cached {
            true => Lost::Disk,
            false => Lost::DiskAndCache,
        });
    }

    /// No failures, no delays, no limits any more. What is frozen stays so; the counts stay.
    pub fn clear(&self) {
        let mut state = self.state();
        state.failures.clear();
        state.delays = Default::default();
        state.short_bytes = None;
        state.free_bytes = None;
        state.loses = None;
    }

    /// Calls of this kind that were made to fail so far.
    pub fn failed(&self, operation: Operation) -> u64 {
        self.state().failed[operation as usize]
    }

    /// Writes that took less than they were given.
    pub fn shortened(&self) -> u64 {
        self.state().shortened
    }

    /// Calls that wait for the thaw now.
    pub fn waiting(&self) -> u64 {
        self.state().waiting
    }

    /// Calls that ever had to wait, for a thaw or a delay.
    pub fn waited(&self) -> u64 {
        self.state().waited
    }

    /// Whether such a call has to wait before it is served.
    pub(crate) fn must_wait(&self, operation: Operation) -> bool {
        let state = self.state();
        state.is_frozen(operation) || !state.delays[operation as usize].is_zero()
    }

    /// Waits as long as the call has to.
    pub(crate) fn wait(&self, operation: Operation) {
        let mut state = self.state();
        state.waited += 1;
        let delay = state.delays[operation as usize];
        if !delay.is_zero() {
            drop(state);
            std::thread::sleep(delay);
            state = self.state();
        }
        state.waiting += 1;
        while state.is_frozen(operation) {
            let changed = self.shared.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// Whether the call is to fail; counts it.
    pub(crate) fn check(&self, operation: Operation, path: &Path) -> Result<(), Errno> {
        let mut state = self.state();
        let found = (state.failures.iter_mut())
            .find(|(of, failure)| *of == operation && failure.concerns(path));
        let Some((_, failure)) = found else {
            return Ok(());
        };
        if failure.left != u64::MAX {
            failure.left -= 1;
        }
        let errno = failure.errno;
        state.failed[operation as usize] += 1;
        Err(errno)
    }

    /// What failed syncs lose.
    pub(crate) fn loses(&self) -> Option<Lost> {
        self.state().loses
    }

    /// How many of these bytes a write takes.
    pub(crate) fn shorten(&self, bytes: usize) -> usize {
        let mut state = self.state();
        let most = state.short_bytes.map_or(bytes, |most| most as usize);
        if most < bytes {
            state.shortened += 1;
        }
        most.min(bytes)
    }

    /// Takes room for a file that grows by so many bytes.
    pub(crate) fn take_room(&self, bytes: u64) -> Result<(), Errno> {
        let mut state = self.state();
        let Some(free) = state.free_bytes else {
            return Ok(());
        };
        match free.checked_sub(bytes) {
            Some(left) => {
                state.free_bytes = Some(left);
                Ok(())
            }
            None => {
                state.failed[Operation::Write as usize] += 1;
                Err(Errno::NOSPC)
            }
        }
    }

    /// A file is gone, or shorter.
    pub(crate) fn give_room(&self, bytes: u64) {
        if let Some(free) = &mut self.state().free_bytes {
            *free = free.saturating_add(bytes);
        }
    }

    /// What is left, where there is a limit.
    pub(crate) fn room(&self) -> Option<u64> {
        self.state().free_bytes
    }
}

impl State {
    fn is_frozen(&self, operation: Operation) -> bool {
        match self.frozen {
            None => false,
            Some(Frozen::Everything) => true,
            Some(Frozen::Changes) => operation.is_change(),
        }
    }
}
