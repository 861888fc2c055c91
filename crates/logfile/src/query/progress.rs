//! How far a query has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Parts of a segment, so that one that is half searched counts as half.
const PARTS: u64 = 1024;

/// How far a query has come, for whoever shows it: given to [`Query::progress`](super::Query::progress), read from any
/// thread while the query runs, and at any time after. Numbers of bytes only go up; the share may go back where more
/// turns out to be there.
///
/// ```
/// # let logs = tempfile::tempdir()?;
/// # std::fs::create_dir(logs.path().join("web"))?;
/// # std::fs::write(
/// #     logs.path().join("web/20261121T012953.000000000Z.log"),
/// #     "2026-11-21T01:29:53.000000001Z INFO  rpc ready\n",
/// # )?;
/// use std::sync::Arc;
/// use millpond_logfile::{Query, QueryProgress, Reader};
/// let progress = Arc::new(QueryProgress::default());
/// Reader::open(logs.path())?.count(&Query::new().contains("ready").progress(&progress))?;
/// assert_eq!((progress.segments_done(), progress.segments_total()), (1, 1));
/// assert_eq!((progress.text_bytes_read(), progress.share()), (47, 1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct QueryProgress {
    segments_total: AtomicU64,
    segments_done: AtomicU64,
    text_bytes_read: AtomicU64,
    parts_done: AtomicU64,
}

impl QueryProgress {
    /// Segments that the query has found so far. All of them are known before the first is read; with hundreds of
    /// services, or several passes, it goes up later on.
    pub fn segments_total(&self) -> u64 {
        // ORDERING: Relaxed; a number for people.
        self.segments_total.load(Ordering::Relaxed)
    }

    /// Segments that are searched to the end, or need not be. Fewer than all where a limit ended the query.
    pub fn segments_done(&self) -> u64 {
        // ORDERING: Relaxed; as above.
        self.segments_done.load(Ordering::Relaxed)
    }

    /// How much of it is done, from 0 to 1: by segments, of which each counts the same. 0 before the first is known.
    pub fn share(&self) -> f64 {
        // ORDERING: Relaxed; as above.
        let parts_done = self.parts_done.load(Ordering::Relaxed);
        let parts = self.segments_total().saturating_mul(PARTS);
        (parts_done as f64 / parts.max(1) as f64).min(1.0)
    }

    /// Bytes of text that were searched.
    pub fn text_bytes_read(&self) -> u64 {
        // ORDERING: Relaxed; as above.
        self.text_bytes_read.load(Ordering::Relaxed)
    }

    pub(super) fn add_segments(&self, count: usize) {
        // ORDERING: Relaxed; as above.
        self.segments_total
            .fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn add_done(&self, count: usize) {
        // ORDERING: Relaxed; as above.
        self.segments_done
            .fetch_add(count as u64, Ordering::Relaxed);
        self.add_parts(count as u64 * PARTS);
    }

    fn add_parts(&self, count: u64) {
        // ORDERING: Relaxed; as above.
        self.parts_done.fetch_add(count, Ordering::Relaxed);
    }
}

/// A segment that is being searched: its chunks, and their hits, hold it. It is done when the last of them is dropped.
#[derive(Debug)]
pub(super) struct Underway {
    progress: Arc<QueryProgress>,
    /// What of it has to be read.
    text_bytes: AtomicU64,
    text_bytes_read: AtomicU64,
}

impl Underway {
    pub(super) fn new(progress: &Arc<QueryProgress>) -> Arc<Self> {
        Arc::new(Underway {
            progress: Arc::clone(progress),
            text_bytes: AtomicU64::new(0),
            text_bytes_read: AtomicU64::new(0),
        })
    }

    /// So much of it has to be read, all in all.
    pub(super) fn set_text(&self, bytes: u64) {
        // ORDERING: Relaxed; a number for people.
        self.text_bytes.store(bytes, Ordering::Relaxed);
    }

    /// So much more of it was read.
    pub(super) fn add_text(&self, bytes: u64) {
        // ORDERING: Relaxed throughout; numbers for people.
        let before = self.text_bytes_read.fetch_add(bytes, Ordering::Relaxed);
        let (before, after) = (self.parts(before), self.parts(before + bytes));
        self.progress.add_parts(after - before);
        let sum = &self.progress.text_bytes_read;
        sum.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What so many bytes are worth.
    fn parts(&self, read: u64) -> u64 {
        // ORDERING: Relaxed; as above.
        let text_bytes = self.text_bytes.load(Ordering::Relaxed).max(1);
        let parts = u128::from(read) * u128::from(PARTS) / u128::from(text_bytes);
        parts.min(u128::from(PARTS)) as u64
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let read = *self.text_bytes_read.get_mut();
        let told = self.parts(read);
        // ORDERING: Relaxed; a number for people.
        self.progress.segments_done.fetch_add(1, Ordering::Relaxed);
        self.progress.add_parts(PARTS - told);
    }
}
