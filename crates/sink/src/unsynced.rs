//! What may not be on the disk yet, and how it gets there.
//!
//! A segment is noted with every write of text, and forgotten when a sync that began after the last of them has
//! succeeded; whether its file is still open for writing does not matter. What is synced together is in flight
//! together: the file system then makes one commit of its journal for all, where one file after the other costs one
//! each.
//!
//! **A sync that fails** says that text may never reach the disk, and says it once: most file systems then take the
//! pages for clean, and the next sync succeeds without having written them. So a failed segment is *written again*
//! from the last good sync on before it is synced again: with what the group has that is under way, and with what
//! the kernel still has of the rest. What comes back with zeros in it is lost: no line has any. That is counted and
//! told, and nothing more counts as being on the disk as long as the segment is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use millpond_logfile::SegmentId;

use crate::files::TextFile;
use crate::policy::SyncPolicy;

/// Files synced at a time under io_uring, and by threads; also how many are opened for that at a time.
const BATCH_URING: usize = 64;
const BATCH_THREADS: usize = 16;
/// A sync beside the writes that failed is not tried again before.
const RETRY: Duration = Duration::from_secs(1);
/// Text is written again in pieces of this size.
const AGAIN_BYTES: usize = 1 << 20;

/// A segment of a service.
pub(crate) type Key = (String, SegmentId);

/// What is owed to the disk of one segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsynced {
    since: Instant,
    policy: SyncPolicy,
    /// Its name too.
    is_new: bool,
    /// Where the text begins that was written since the last good sync; `None`: by somebody before us, all of it.
    from: Option<u64>,
    /// A sync has failed: it has to be written again first.
    has_failed: bool,
}

/// The segments with something that may not be on the disk.
#[derive(Debug, Default)]
pub(crate) struct UnsyncedSegments {
    waiting: BTreeMap<Key, Unsynced>,
    /// What the disk has lost, in bytes.
    lost: BTreeMap<Key, u64>,
    retry_at: Option<Instant>,
}

impl UnsyncedSegments {
    /// Text was written from here on, or with `is_new` the file was made.
    pub(crate) fn note(
        &mut self,
        service: &str,
        id: SegmentId,
        policy: SyncPolicy,
        is_new: bool,
        from: Option<u64>,
    ) {
        self.put_back(
            (service.to_owned(), id),
            Unsynced {
                since: Instant::now(),
                policy,
                is_new,
                from,
                has_failed: false,
            },
        );
    }

    /// Writes again what a failed sync may have lost, of the segments that are `wanted`. `held` writes what is still in
    /// memory of one; it is called first.
    ///
    /// # Errors
    /// The first failure; those segments wait on.
    pub(crate) fn write_again(
        &mut self,
        logs_dir: &Path,
        wanted: impl Fn(SyncPolicy, &Key) -> bool,
        held: &dyn Fn(&Key, &File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut outcome = Ok(());
        for (key, unsynced) in &mut self.waiting {
            if !unsynced.has_failed || !wanted(unsynced.policy, key) {
                continue;
            }
            let path = key.1.log_path(&logs_dir.join(&key.0));
            match write_again(&path, unsynced.from, &|file| held(key, file)) {
                Ok(0) => unsynced.has_failed = false,
                Ok(lost_bytes) => {
                    unsynced.has_failed = false;
                    self.lost.insert(key.clone(), lost_bytes);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// The syncs beside the writes wait a while.
    pub(crate) fn put_off(&mut self) {
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// What the disk has lost of segments that are there, if anything: bytes, and one of the segments.
    pub(crate) fn lost(&self) -> Option<(u64, &Key)> {
        let (first, _) = self.lost.first_key_value()?;
        Some((self.lost.values().sum(), first))
    }

    fn put_back(&mut self, key: Key, unsynced: Unsynced) {
        let known = self.waiting.entry(key).or_insert(unsynced);
        known.since = known.since.min(unsynced.since);
        known.is_new |= unsynced.is_new;
        known.has_failed |= unsynced.has_failed;
        known.from = known.from.min(unsynced.from);
    }

    /// The segment is gone.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.waiting.remove(key);
        self.lost.remove(key);
    }

    pub(crate) fn len(&self) -> usize {
        // What is lost will never be there.
        let lost = self.lost.keys();
        self.waiting.len() + lost.filter(|key| !self.waiting.contains_key(*key)).count()
    }

    /// When the first text must be on the disk whose service has an interval for that.
    pub(crate) fn due(&self) -> Option<Instant> {
        let due = (self.waiting.values())
            .filter_map(|unsynced| match unsynced.policy {
                SyncPolicy::Interval(interval) => unsynced.since.checked_add(interval),
                SyncPolicy::Never | SyncPolicy::Always => None,
            })
            .min()?;
        Some(self.retry_at.map_or(due, |at| due.max(at)))
    }

    /// Takes out what is to be synced now. It comes back with [`Batch::settle`].
    pub(crate) fn take(
        &mut self,
        logs_dir: &Path,
        wanted: impl Fn(SyncPolicy, &Key) -> bool,
        open_text: impl Fn(&Key) -> Option<Rc<TextFile>>,
    ) -> Batch {
        let taken = (self.waiting).extract_if(.., |key, unsynced| wanted(unsynced.policy, key));
        let segments: Vec<_> = taken.collect();
        let mut items = Vec::with_capacity(segments.len());
        let mut directories = BTreeSet::new();
        for (key, unsynced) in &segments {
            let dir = logs_dir.join(&key.0);
            items.push(match open_text(key) {
                Some(text) => Item::Open(text),
                None => Item::Closed(key.1.log_path(&dir)),
            });
            if unsynced.is_new {
                directories.insert(logs_dir.to_owned());
                directories.insert(dir);
            }
        }
        items.extend(directories.into_iter().map(Item::Directory));
        Batch { segments, items }
    }
}

/// Something that is synced.
enum Item {
    /// The text of a segment that is open; held until it is done.
    Open(Rc<TextFile>),
    /// The text of one that is closed. If it is gone, it was removed, or sealed with a sync of its own.
    Closed(PathBuf),
    /// For the names in it.
    Directory(PathBuf),
}

/// What is synced together.
pub(crate) struct Batch {
    segments: Vec<(Key, Unsynced)>,
    /// One for each segment, then directories.
    items: Vec<Item>,
}

/// The segments of a batch, and how it went for each of its items.
pub(crate) struct Outcome {
    segments: Vec<(Key, Unsynced)>,
    results: Vec<io::Result<()>>,
    /// How long it took; `None` where there was nothing to sync.
    pub(crate) took: Option<Duration>,
}

impl Batch {
    /// Syncs everything, many at a time.
    pub(crate) async fn run(self, uring: bool) -> Outcome {
        let mut results = Vec::with_capacity(self.items.len());
        let begun = (!self.items.is_empty()).then(Instant::now);
        let at_once = if uring { BATCH_URING } else { BATCH_THREADS };
        // Each may need a file handle, and where those are few, all at once would never succeed.
        let handles = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let at_once = handles.map_or(at_once, |limit| at_once.min((limit / 16).max(1) as usize));
        for items in self.items.chunks(at_once) {
            let opened: Vec<_> = items.iter().map(|item| item.open(uring)).collect();
            if uring {
                sync_in_flight(opened, &mut results).await;
            } else {
                sync_by_threads(opened, &mut results);
            }
        }
        Outcome {
            segments: self.segments,
            results,
            took: begun.map(|begun| begun.elapsed()),
        }
    }
}

impl Outcome {
    /// What failed waits again.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn settle(self, unsynced: &mut UnsyncedSegments) -> io::Result<()> {
        let mut results = self.results;
        let of_directories = results.split_off(self.segments.len());
        let are_names_there = of_directories.iter().all(Result::is_ok);
        for ((key, mut of_segment), result) in self.segments.into_iter().zip(&results) {
            of_segment.has_failed |= result.is_err();
            if result.is_err() || (of_segment.is_new && !are_names_there) {
                unsynced.put_back(key, of_segment);
            }
        }
        let outcome = results.into_iter().chain(of_directories).collect();
        unsynced.retry_at = match outcome {
            Ok(()) => None,
            Err(_) => Some(Instant::now() + RETRY),
        };
        outcome
    }
}

/// Writes the text of a file from some offset on once more, so that the kernel takes it for new. Returns how many bytes
/// of it are zeros, where it is text of ours. A file that is gone owes nothing.
fn write_again(
    path: &Path,
    from: Option<u64>,
    held: &dyn Fn(&File) -> io::Result<()>,
) -> io::Result<u64> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    held(&file)?;
    let end = file.metadata()?.len();
    let mut offset = from.unwrap_or(0);
    let mut piece = vec![0; AGAIN_BYTES];
    let mut lost_bytes = 0;
    while offset < end {
        let bytes = (end - offset).min(AGAIN_BYTES as u64) as usize;
        let text = &mut piece[..bytes];
        file.read_exact_at(text, offset)?;
        lost_bytes += text.iter().filter(|&&byte| byte == 0).count() as u64;
        file.write_all_at(text, offset)?;
        offset += bytes as u64;
    }
    // What was there before us may have had holes already, which recovery has told.
    Ok(if from.is_some() { lost_bytes } else { 0 })
}

/// What an item is synced by: nothing, where there is nothing to sync.
struct Opened {
    file: Rc<TextFile>,
    /// Names, not only the text.
    whole: bool,
}

impl Item {
    fn open(&self, uring: bool) -> io::Result<Option<Opened>> {
        let (file, whole) = match self {
            Item::Open(text) => (Ok(Rc::clone(text)), false),
            Item::Closed(path) => (open_file(path, uring), false),
            Item::Directory(path) => (open_file(path, uring), true),
        };
        match file {
            Ok(file) => Ok(Some(Opened { file, whole })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open_file(path: &Path, uring: bool) -> io::Result<Rc<TextFile>> {
    File::open(path).map(|file| Rc::new(TextFile::new(file, uring)))
}

async fn sync_in_flight(
    opened: Vec<io::Result<Option<Opened>>>,
    results: &mut Vec<io::Result<()>>,
) {
    let start = |opened: io::Result<Option<Opened>>| {
        tokio_uring::spawn(async move {
            match opened? {
                Some(opened) => opened.file.sync(opened.whole).await,
                None => Ok(()),
            }
        })
    };
    let tasks: Vec<_> = opened.into_iter().map(start).collect();
    for task in tasks {
        results.push(
            task.await
                .unwrap_or_else(|error| Err(io::Error::other(error))),
        );
    }
}

fn sync_by_threads(opened: Vec<io::Result<Option<Opened>>>, results: &mut Vec<io::Result<()>>) {
    let sync = |(file, whole): (&File, bool)| match whole {
        true => file.sync_all(),
        false => file.sync_data(),
    };
    let first = results.len();
    let mut files = Vec::with_capacity(opened.len());
    let held: Vec<Option<Opened>> = (opened.into_iter())
        .map(|opened| {
            let (opened, result) =
                opened.map_or_else(|e| (None, Err(e)), |opened| (opened, Ok(())));
            results.push(result);
            opened
        })
        .collect();
    for (at, opened) in held.iter().enumerate() {
        if let Some(Opened { file, whole }) = opened
            && let TextFile::Plain(file) = &**file
        {
            files.push((first + at, (file, *whole)));
        }
    }
    std::thread::scope(|scope| {
        // One of them is ours.
        let own = files.pop();
        let start = |(at, file)| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || sync(file));
            (at, file, thread)
        };
        let started: Vec<_> = files.into_iter().map(start).collect();
        if let Some((at, file)) = own {
            results[at] = sync(file);
        }
        for (at, file, thread) in started {
            results[at] = match thread {
                Ok(thread) => (thread.join())
                    .unwrap_or_else(|_| Err(io::Error::other("the sync has panicked"))),
                // No more threads to be had.
                Err(_) => sync(file),
            };
        }
    });
}
