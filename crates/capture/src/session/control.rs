//! What others tell a running capture.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::Error;
use crate::pty::failed;

/// What an eventfd is told: a number in the order of bytes of this machine, any but 0.
const ONE: [u8; 8] = [1; 8];

/// The bit of [`Inner::asked`] that asks for a look; no signal has the number 0.
const LOOK: u64 = 1;

/// Tells a running capture what has happened around it; from any thread, or on a signal's.
///
/// ```
/// use millpond_capture::Controller;
/// let controller = Controller::new()?;
/// let on_signal = controller.clone();
/// on_signal.signal(15); // SIGTERM, for the command
/// on_signal.look(); // SIGWINCH: the size may be another one
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A bit for each signal.
    asked: AtomicU64,
    /// Of the command; 0: it is not there yet.
    process_id: AtomicU32,
    wake: OwnedFd,
}

impl Controller {
    /// For one capture.
    ///
    /// # Errors
    /// No file handle is left.
    pub fn new() -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| failed("a file handle to be woken by", error))?;
        let asked = AtomicU64::new(0);
        Ok(Controller {
            inner: Arc::new(Inner {
                asked,
                process_id: AtomicU32::new(0),
                wake,
            }),
        })
    }

    /// Passes a signal on to the command. The same one twice, before it was passed on, is one.
    pub fn signal(&self, signal: i32) {
        if (1..64).contains(&signal) {
            self.ask(1 << signal);
        }
    }

    /// The terminal in front has changed its size, the command was stopped, or we went on after being stopped: the
    /// capture looks for itself.
    pub fn look(&self) {
        self.ask(LOOK);
    }

    /// The process of the command, which leads its process group, from when it was started on; also after its end.
    pub fn process_id(&self) -> Option<u32> {
        // ORDERING: Relaxed; the number says all there is.
        match self.inner.process_id.load(Ordering::Relaxed) {
            0 => None,
            id => Some(id),
        }
    }

    pub(crate) fn started(&self, process_id: u32) {
        // ORDERING: Relaxed, see `process_id`.
        self.inner.process_id.store(process_id, Ordering::Relaxed);
    }

    fn ask(&self, bit: u64) {
        // ORDERING: Release; pairs with the swap in `take`. The write below is a barrier of its own.
        self.inner.asked.fetch_or(bit, Ordering::Release);
        // It fails only where so many have woken it that it is awake.
        let _ = rustix::io::write(&self.inner.wake, &ONE);
    }

    pub(crate) fn wake(&self) -> BorrowedFd<'_> {
        self.inner.wake.as_fd()
    }

    /// What was asked for since the last time.
    pub(crate) fn take(&self) -> Asked {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.inner.wake, &mut count);
        // ORDERING: Acquire; pairs with `ask`. After the read: what is asked from here on wakes again.
        Asked(self.inner.asked.swap(0, Ordering::Acquire))
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(u64);

impl Asked {
    pub(crate) fn looks(self) -> bool {
        self.0 & LOOK != 0
    }

    pub(crate) fn signals(self) -> impl Iterator<Item = i32> {
        (1..64).filter(move |signal| self.0 & (1 << signal) != 0)
    }
}
