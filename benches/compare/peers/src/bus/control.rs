//! How one end is told when to begin, that all is sent, and when to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::peer::Fallible;
use crate::run::Said;

/// What an end has of its process's main thread.
pub struct Control {
    /// Takes what is said to the process that started us.
    pub say: mpsc::Sender<Said>,
    /// Says when to begin, and then when to go.
    pub go: mpsc::Receiver<()>,
    /// Says that all senders are done.
    pub sent: Arc<AtomicBool>,
}

impl Control {
    /// Says that this end is made, and waits until all others are.
    ///
    /// # Errors
    /// When the round was given up.
    pub fn begin(&self) -> Fallible<()> {
        self.say.send(Said::Ready)?;
        Ok(self.go.recv()?)
    }

    /// Says what this end did, and stays until all others have done theirs: what it sent may not have been fetched yet.
    ///
    /// # Errors
    /// When the round was given up.
    pub fn end(&self, report: Said) -> Fallible<()> {
        self.say.send(report)?;
        Ok(self.go.recv()?)
    }

    /// Whether all senders are done.
    pub fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Acquire)
    }
}
