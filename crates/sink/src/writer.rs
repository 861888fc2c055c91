//! The writer thread: groups in, groups out, in order. The only place of this crate that touches log files
//! while the sink is open.
//!
//! The steps of a segment's life, and what a crash in each of them leaves, are in `lifecycle`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_bus::{DiskFigures, Histogram, ServiceDisk};
use millpond_logfile::{IndexEntry, SegmentId};
use tokio::sync::mpsc as jobs;

use crate::error::{Error, ErrorKind};
use crate::files::{OpenSegments, reserve_step};
use crate::lifecycle::{
    Catalog, Segment, State, disk_bytes, is_held, pages, remove_files, seal_bytes_max,
};
use crate::lock::{LOCK_FILE, LastWriter, take_lock, write_text};
use crate::policy::{BackendChoice, Policy, SealPolicy, SyncPolicy};
use crate::retention::{Now, Trimmed, Wanted};
use crate::sealer::{SealReport, Sealer};
use crate::unsynced::{Batch, Key, Outcome, UnsyncedSegments};

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a closing sink lets the writer try again.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How much later it must have noticed, and how often that is looked at.
const END_MARGIN: Duration = Duration::from_secs(1);
const END_LOOK: Duration = Duration::from_millis(1);
/// Age and free space are looked at this often, and with each rotation.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Whether something can be sealed now is looked at this often, while something waits for it.
const SEAL_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// After so long without a completion the ring is asked whether it still answers, and has as long to do so.
const RING_PATIENCE: Duration = Duration::from_secs(2);
/// The use of the disk is told at most this often.
const DISK_USE_INTERVAL: Duration = Duration::from_secs(1);
/// What is freed at least when the disk is full: some room for the next groups too.
const FREE_BYTES_MIN: u64 = 256 << 10;

/// Which way text goes to the files, and why that one.
///
/// ```no_run
/// # fn show(sink: &millpond_sink::Sink) {
/// println!("{}: {}", sink.backend().name, sink.backend().reason);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `io_uring` or `pwrite`.
    pub name: &'static str,
    /// Why.
    pub reason: String,
}

/// How the writer is doing.
///
/// ```no_run
/// # fn show(sink: &millpond_sink::Sink) {
/// if let Some(trouble) = sink.status().trouble {
///     eprintln!("not writing: {trouble}");
/// }
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterStatus {
    /// What keeps it from writing, while it does.
    pub trouble: Option<String>,
    /// Failed attempts so far.
    pub failures: u64,
    /// Segments that retention removed.
    pub trimmed_segments: u64,
    /// Bytes of the disk that this gave back.
    pub trimmed_bytes: u64,
    /// Segments that were sealed.
    pub sealed_segments: u64,
    /// Bytes of the disk that this gave back.
    pub saved_bytes: u64,
    /// Seals that failed; each is tried again later.
    pub seal_failures: u64,
    /// A segment that cannot be sealed, why, and how many more there are; `None` while there is none.
    pub seal_error: Option<String>,
    /// Segments with text that may not be on the disk yet.
    pub unsynced_segments: u64,
    /// Why the last sync beside the writes failed, `None` after one that did not; or what the disk has lost, as long
    /// as the segment is there.
    pub sync_error: Option<String>,
    /// Why text goes by pwrite now although it began with io_uring; `None` as long as it goes as it began.
    pub fallen_back: Option<String>,
    /// Why an index or a `current.log` could not be written, while one is missing. The text goes on, and the index is
    /// made anew when the segment is closed.
    pub index_error: Option<String>,
}

/// What the log has of the disk, over all services and for each.
///
/// ```no_run
/// # fn show(sink: &mut millpond_sink::Sink) {
/// if let Some(found) = sink.take_disk_use() {
///     println!("{} of {:?} bytes, {} services", found.disk.bytes, found.disk.bytes_limit, found.services.len());
/// }
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Over all services.
    pub disk: DiskFigures,
    /// By name.
    pub services: Vec<(String, ServiceDisk)>,
}

/// Everything to be written for one service.
pub(crate) struct Write {
    pub(crate) service: String,
    /// As the consumer counts; where it really goes, see `Moved`.
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
    pub(crate) text: Vec<u8>,
    pub(crate) entries: Vec<IndexEntry>,
    /// The segment ends with this write.
    pub(crate) closes: bool,
}

impl Write {
    /// The service is part of the group for its counters alone.
    fn is_nothing(&self) -> bool {
        self.text.is_empty() && self.entries.is_empty() && !self.closes
    }
}

pub(crate) struct Group {
    pub(crate) group: u64,
    pub(crate) writes: Vec<Write>,
    pub(crate) sync: bool,
    /// When it was submitted.
    pub(crate) now_ns: u64,
}

/// What the thread is sent.
enum Job {
    Group(Group),
    Sealed(SealReport),
    /// A sync that runs beside the writes is done.
    Synced,
}

/// The file of an open segment was removed or cut by somebody else: its text goes on in another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) service: String,
    /// The segment as the consumer knows it.
    pub(crate) segment: SegmentId,
    /// The one that was begun in its place, and what was in the other before it.
    pub(crate) begun: SegmentId,
    pub(crate) base: u64,
    /// Text that is gone with the file.
    pub(crate) lost_bytes: u64,
    /// Closed segments that are gone too.
    pub(crate) lost_segments: u64,
}

/// A group that is written; its buffers for reuse.
pub(crate) struct Reply {
    pub(crate) gone: Vec<Gone>,
    pub(crate) group: u64,
    pub(crate) buffers: Vec<Vec<u8>>,
    /// Its text.
    pub(crate) bytes: u64,
    /// Until all of that was in the files.
    pub(crate) write_ns: u64,
    pub(crate) durable: bool,
    /// Open segments to be closed, since there is too much in all of them.
    pub(crate) too_large: Vec<(String, SegmentId)>,
}

/// The handle of the thread.
pub(crate) struct Writer {
    jobs: Option<jobs::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    backend: Backend,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    status: Mutex<WriterStatus>,
    /// Syncs since somebody took them.
    syncs_ns: Mutex<Histogram>,
    /// What was found last, until somebody takes it.
    disk_use: Mutex<Option<DiskUse>>,
    /// Set when the sink goes away: give up at this time.
    give_up: Mutex<Option<Instant>>,
    /// The last group that the caller has committed. Orders nothing else: whoever looks too early waits a bit longer.
    committed: AtomicU64,
}

/// A lock that a panicking thread held still guards sound data: both values are plain.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Starts the thread with the backend that the policy and the kernel agree on.
    pub(crate) fn start(
        logs_dir: &Path,
        policy: &Policy,
        (directory_lock, owner): (File, &str),
        catalog: Catalog,
        now_ns: u64,
        replies: mpsc::Sender<Reply>,
        completed: impl Fn() + Send + 'static,
    ) -> Result<Self, Error> {
        let (jobs, receiver) = jobs::unbounded_channel();
        let sealer = match policy.seal {
            SealPolicy::Never => None,
            SealPolicy::AfterRotation { level } => {
                // Its reports must not keep the channel open: that it closes is how we are told to end.
                let reports = jobs.downgrade();
                Some(Sealer::start(logs_dir, level, move |report| {
                    if let Some(reports) = reports.upgrade() {
                        let _ = reports.send(Job::Sealed(report));
                    }
                })?)
            }
        };
        let (started, has_started) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let seed = Seed {
            logs_dir: logs_dir.to_owned(),
            policy: policy.clone(),
            bell: jobs.downgrade(),
            shared: Arc::clone(&shared),
            sealer,
            catalog,
            now: Now {
                at: Instant::now(),
                ns: now_ns,
            },
            directory_lock,
            writer: LastWriter {
                owner: owner.to_owned(),
                group_bytes: Some(policy.effective_group_bytes() as u64),
            },
            is_writer_told: false,
        };
        let choice = policy.backend;
        let body = move || run_thread(choice, seed, receiver, started, replies, completed);
        let thread = std::thread::Builder::new()
            .name("millpond-writer".to_owned())
            .spawn(body)
            .map_err(|error| Error::io("start the writer thread for", logs_dir, error))?;
        let backend = has_started.recv().unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Io,
                "the writer thread ended before it began",
            ))
        })?;
        Ok(Writer {
            jobs: Some(jobs),
            thread: Some(thread),
            backend,
            shared,
        })
    }

    pub(crate) fn send(&self, group: Group) {
        if let Some(jobs) = &self.jobs {
            // It fails only when the thread has panicked; then nothing completes and the lanes fill.
            let _ = jobs.send(Job::Group(group));
        }
    }

    /// Every group up to this one is committed.
    pub(crate) fn set_committed(&self, group: u64) {
        // ORDERING: Relaxed; see the field.
        self.shared.committed.store(group, Ordering::Relaxed);
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(crate) fn status(&self) -> WriterStatus {
        lock(&self.shared.status).clone()
    }

    pub(crate) fn take_syncs(&self) -> Histogram {
        std::mem::take(&mut *lock(&self.shared.syncs_ns))
    }

    pub(crate) fn take_disk_use(&self) -> Option<DiskUse> {
        lock(&self.shared.disk_use).take()
    }
}

impl Writer {
    /// Lets the thread finish what it has, for a while, and waits for it. One that a disk keeps in a call is left
    /// behind: it holds the lock of the directory until it comes back, and what it writes then counts for nobody.
    pub(crate) fn end(&mut self) {
        let give_up = Instant::now() + CLOSE_PATIENCE;
        *lock(&self.shared.give_up) = Some(give_up);
        self.jobs = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        // Beyond that time it notices by itself, unless it is stuck.
        while !thread.is_finished() && Instant::now() < give_up + END_MARGIN {
            std::thread::sleep(END_LOOK);
        }
        if thread.is_finished() {
            // A panic of the writer has been printed by its thread; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread is made from.
struct Seed {
    logs_dir: PathBuf,
    policy: Policy,
    shared: Arc<Shared>,
    /// Of our own jobs.
    bell: jobs::WeakUnboundedSender<Job>,
    /// Before the lock: it ends before another may write here.
    sealer: Option<Sealer>,
    catalog: Catalog,
    /// A moment on both clocks, the last that we were told.
    now: Now,
    /// Held as long as the thread lives.
    directory_lock: File,
    /// What it says of us, once it does.
    writer: LastWriter,
    is_writer_told: bool,
}

/// What drives the writer's futures.
enum Runtime {
    Uring(tokio_uring::Runtime),
    Plain(tokio::runtime::Runtime),
}

impl Runtime {
    fn start(choice: BackendChoice) -> Result<(Self, Backend), Error> {
        let reason = match choice {
            BackendChoice::Pwrite => "chosen by configuration".to_owned(),
            BackendChoice::Auto | BackendChoice::Uring => match start_uring() {
                Ok(runtime) => {
                    let reason = "the kernel has it".to_owned();
                    return Ok((
                        Runtime::Uring(runtime),
                        Backend {
                            name: "io_uring",
                            reason,
                        },
                    ));
                }
                Err(reason) if choice == BackendChoice::Uring => {
                    return Err(Error::new(ErrorKind::NoUring, reason));
                }
                Err(reason) => reason,
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.map_err(|error| {
            Error::new(
                ErrorKind::Io,
                format!("cannot start the writer's runtime: {error}"),
            )
        })?;
        Ok((
            Runtime::Plain(runtime),
            Backend {
                name: "pwrite",
                reason,
            },
        ))
    }

    fn block_on(&self, future: impl Future<Output = ()>) {
        match self {
            Runtime::Uring(runtime) => runtime.block_on(future),
            Runtime::Plain(runtime) => runtime.block_on(future),
        }
    }
}

fn run_thread(
    choice: BackendChoice,
    seed: Seed,
    jobs: jobs::UnboundedReceiver<Job>,
    started: mpsc::Sender<Result<Backend, Error>>,
    replies: mpsc::Sender<Reply>,
    completed: impl Fn(),
) {
    let (runtime, told) = match Runtime::start(choice) {
        Ok((runtime, backend)) => (Some(runtime), Ok(backend)),
        Err(error) => (None, Err(error)),
    };
    // Whoever started us waits for this; if it is gone, so is the channel of the jobs.
    let _ = started.send(told);
    let Some(runtime) = runtime else { return };
    let uring = matches!(runtime, Runtime::Uring(_));
    let mut writer = WriterLoop {
        segments: OpenSegments::new(&seed.logs_dir, uring),
        unsynced: found_unsynced(&seed.catalog),
        flight: None,
        failing_seals: BTreeMap::new(),
        moved: BTreeMap::new(),
        gone: Vec::new(),
        without_index: BTreeSet::new(),
        tells_side_error: false,
        uring,
        next_check: Instant::now(),
        next_seal_look: Instant::now(),
        disk_use_changed: true,
        next_disk_use: Instant::now(),
        seed,
    };
    runtime.block_on(writer.run(jobs, replies, &completed));
    let is_ring_dead = uring && !writer.uring;
    drop(writer);
    if is_ring_dead {
        // To end, it would wait for what never completes. The process has its memory until it ends.
        std::mem::forget(runtime);
    }
}

/// Whoever wrote here before may have been killed without a sync, and its text must not count as being on the disk
/// because ours is. What is sealed is synced.
fn found_unsynced(catalog: &Catalog) -> UnsyncedSegments {
    let mut unsynced = UnsyncedSegments::default();
    note_unsynced(catalog, &mut unsynced);
    unsynced
}

fn note_unsynced(catalog: &Catalog, unsynced: &mut UnsyncedSegments) {
    for (service, of_service) in &catalog.services {
        for (&id, segment) in &of_service.segments {
            if segment.state != State::Sealed {
                unsynced.note(service, id, of_service.limits.sync, true, None);
            }
        }
    }
}

/// An io_uring runtime that has done something, or the reason why there is none.
fn start_uring() -> Result<tokio_uring::Runtime, String> {
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(64))
        .map_err(|error| uring_refused(&error))?;
    runtime
        .block_on(tokio_uring::no_op())
        .map_err(|error| uring_refused(&error))?;
    Ok(runtime)
}

/// What became of a ring that does not answer.
const RING_DEAD: &str = "io_uring was there at the start and does not answer any more: blocked since by seccomp, or \
                         stuck";

/// Whether the ring does what costs nothing. What was lost on the way to it comes with that, if anything does.
async fn ring_answers() -> bool {
    // A task of its own, since it panics where the ring takes nothing.
    let nothing = tokio_uring::spawn(tokio_uring::no_op());
    let outcome = tokio::time::timeout(RING_PATIENCE, nothing).await;
    matches!(outcome, Ok(Ok(Ok(()))))
}

fn uring_refused(error: &io::Error) -> String {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let cause = match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::PERM) if sysctl.trim() != "0" => format!(
            "likely disabled by sysctl kernel.io_uring_disabled (now {})",
            sysctl.trim()
        ),
        Some(rustix::io::Errno::PERM) => "likely blocked by seccomp, as containers do".to_owned(),
        Some(rustix::io::Errno::NOMEM) => {
            "likely RLIMIT_MEMLOCK is too low; raise it with `ulimit -l`".to_owned()
        }
        Some(rustix::io::Errno::NOSYS) => "the kernel was built without it".to_owned(),
        _ => "unknown cause".to_owned(),
    };
    format!("io_uring is not available ({error}): {cause}")
}

/// A sync that runs beside the writes.
type Flight = tokio::task::JoinHandle<Outcome>;

/// Where a segment goes on.
#[derive(Debug, Clone, Copy)]
struct Moved {
    id: SegmentId,
    /// Its offset 0 is this one of the consumer's.
    base: u64,
}

struct WriterLoop {
    seed: Seed,
    segments: OpenSegments,
    unsynced: UnsyncedSegments,
    flight: Option<Flight>,
    /// The segments that could not be sealed, and why.
    failing_seals: BTreeMap<Key, String>,
    /// Where segments of the consumer go on whose files are gone.
    moved: BTreeMap<Key, Moved>,
    /// What of that the consumer has not been told.
    gone: Vec<Gone>,
    /// Segments whose index is to be made anew when they are closed.
    without_index: BTreeSet<Key>,
    tells_side_error: bool,
    uring: bool,
    /// When age and free space are looked at again.
    next_check: Instant,
    /// When it is looked again whether something can be sealed.
    next_seal_look: Instant,
    /// Since it was told.
    disk_use_changed: bool,
    /// When it may be told again.
    next_disk_use: Instant,
}

impl WriterLoop {
    async fn run(
        &mut self,
        jobs: jobs::UnboundedReceiver<Job>,
        replies: mpsc::Sender<Reply>,
        completed: &impl Fn(),
    ) {
        self.serve(jobs, replies, completed).await;
        self.land_flight().await;
        self.tell_disk_use();
    }

    async fn serve(
        &mut self,
        mut jobs: jobs::UnboundedReceiver<Job>,
        replies: mpsc::Sender<Reply>,
        completed: &impl Fn(),
    ) {
        loop {
            let Some(group) = self.next_group(&mut jobs).await else {
                return;
            };
            let (number, sync) = (group.group, group.sync);
            self.seed.now = Now {
                at: Instant::now(),
                ns: group.now_ns,
            };
            kill_point!("sink.group_taken");
            let begun = Instant::now();
            let Some(written) = self.write_group(group).await else {
                return;
            };
            let write_ns = ns_of(begun.elapsed());
            self.disk_use_changed = true;
            kill_point!("sink.group_written");
            let Some(durable) = self.sync_group(sync, &written).await else {
                return;
            };
            kill_point!("sink.group_synced");
            let bytes = written.iter().map(|write| write.text.len() as u64).sum();
            let buffers = written.into_iter().map(|write| write.text).collect();
            let limit = self.seed.policy.open_bytes_limit();
            let reply = Reply {
                group: number,
                gone: std::mem::take(&mut self.gone),
                buffers,
                bytes,
                write_ns,
                durable,
                too_large: self.seed.catalog.too_large(limit),
            };
            if replies.send(reply).is_err() {
                return;
            }
            completed();
        }
    }

    /// The next group; does on the way what is due: syncs, looks at age and free space, and hands over the next segment
    /// to be sealed.
    async fn next_group(&mut self, jobs: &mut jobs::UnboundedReceiver<Job>) -> Option<Group> {
        loop {
            let due = self.do_what_is_due().await;
            let left = due.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, jobs.recv()).await {
                Ok(Some(Job::Group(group))) => return Some(group),
                Ok(Some(Job::Sealed(report))) => self.note_sealed(report),
                Ok(Some(Job::Synced)) => self.land_flight().await,
                Ok(None) => return None,
                Err(_) => {} // something is due
            }
        }
    }

    /// Returns when to look again.
    async fn do_what_is_due(&mut self) -> Instant {
        if self.flight.is_none() && (self.unsynced.due()).is_some_and(|at| at <= Instant::now()) {
            self.start_interval_sync().await;
        }
        // While one is in flight, its end rings.
        let sync_due = self.unsynced.due().filter(|_| self.flight.is_none());
        let mut due = sync_due.unwrap_or(self.next_check);
        let now = Instant::now();
        if now >= self.next_check {
            if self.flight.is_some() && !ring_answers().await {
                self.leave_ring();
            }
            self.check();
        }
        if self.seed.sealer.is_some() && self.seed.catalog.has_to_seal() {
            if now >= self.next_seal_look {
                self.next_seal_look = now + SEAL_LOOK_INTERVAL;
                self.seal_next();
            }
            due = due.min(self.next_seal_look);
        }
        if self.disk_use_changed {
            if now >= self.next_disk_use {
                self.tell_disk_use();
            } else {
                due = due.min(self.next_disk_use);
            }
        }
        // A sync that fails at once must not make us spin.
        due.min(self.next_check).max(now + Duration::from_millis(1))
    }

    /// Now, as the groups count it.
    fn now(&self) -> Now {
        let (at, told) = (Instant::now(), self.seed.now);
        let since_ns = at.saturating_duration_since(told.at).as_nanos() as u64;
        Now {
            at,
            ns: told.ns.saturating_add(since_ns),
        }
    }

    /// What the log has of the disk now, for whoever asks.
    fn tell_disk_use(&mut self) {
        self.next_disk_use = Instant::now() + DISK_USE_INTERVAL;
        // Where the file system does not say, what was told before stands with its time.
        let Ok(found) = rustix::fs::statvfs(&self.seed.logs_dir) else {
            return;
        };
        self.disk_use_changed = false;
        let Seed {
            policy, catalog, ..
        } = &self.seed;
        let file_system_bytes = found.f_blocks.saturating_mul(found.f_frsize);
        let disk = DiskFigures {
            time_ns: self.now().ns,
            bytes: catalog.total_bytes,
            bytes_limit: policy.total_bytes_limit,
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            keep_free_bytes: policy.keep_free_of(file_system_bytes),
            file_system_bytes,
            unsynced_segments: (self.unsynced.len() + self.flight.iter().len()) as u64,
        };
        let services = (catalog.services.iter())
            .map(|(name, of_service)| (name.clone(), of_service.disk_use()))
            .collect();
        *lock(&self.seed.shared.disk_use) = Some(DiskUse { disk, services });
    }

    fn note_sync(&self, outcome: &Outcome) {
        if let Some(took) = outcome.took {
            lock(&self.seed.shared.syncs_ns).add(ns_of(took));
        }
    }

    /// Removes what is over a limit, and what the floor of free space asks for.
    fn check(&mut self) {
        self.next_check = Instant::now() + CHECK_INTERVAL;
        self.disk_use_changed = true;
        let free_bytes = match rustix::fs::statvfs(&self.seed.logs_dir) {
            Ok(found) => {
                let (block, free) = (found.f_frsize, found.f_bavail * found.f_frsize);
                let floor = self.seed.policy.keep_free_of(found.f_blocks * block);
                // Once: what readers have open gives nothing back, and more would go for nothing.
                floor.saturating_sub(free)
            }
            Err(_) => 0,
        };
        self.trim(Wanted {
            room_bytes: 0,
            free_bytes,
        });
    }

    fn trim(&mut self, wanted: Wanted) -> Trimmed {
        let now = self.now();
        let Seed {
            logs_dir,
            policy,
            catalog,
            sealer,
            ..
        } = &mut self.seed;
        let mut stop_sealing = || {
            if let Some(sealer) = sealer {
                sealer.stop();
            }
        };
        let trimmed = catalog.trim(logs_dir, policy, wanted, now, &mut stop_sealing);
        let mut status = lock(&self.seed.shared.status);
        status.trimmed_segments += trimmed.segments.len() as u64;
        status.trimmed_bytes += trimmed.bytes;
        // Not being able to remove does not keep us from writing; it is tried again.
        status.failures += trimmed.failures;
        drop(status);
        for key in &trimmed.segments {
            tracing::info!(service = key.0, segment = %key.1, "segment removed by retention");
            self.unsynced.forget(key);
            self.note_seal_failure(key, None);
        }
        trimmed
    }

    /// Hands the next segment to the sealer, if there is one that can be sealed and room for it.
    fn seal_next(&mut self) {
        let is_busy = (self.seed.sealer.as_ref()).is_none_or(Sealer::is_busy);
        if is_busy || lock(&self.seed.shared.status).trouble.is_some() {
            return;
        }
        // ORDERING: Relaxed; see the field.
        let committed = self.seed.shared.committed.load(Ordering::Relaxed);
        let now = Instant::now();
        let Some((service, id, bytes)) = self.seed.catalog.next_to_seal(committed, now) else {
            return;
        };
        let dir = self.seed.logs_dir.join(&service);
        if let Some(segment) = self.seed.catalog.get_mut(&service, id)
            && is_held(&dir, id)
        {
            // A reader that reads the plain form goes on with it; not for ever.
            let since = *segment.held_since.get_or_insert(now);
            if now.duration_since(since) < self.seed.policy.hold_limit {
                segment.put_off(now);
                return;
            }
        }
        let reserved_bytes = seal_bytes_max(bytes);
        if !self
            .seed
            .catalog
            .has_room(&self.seed.policy, reserved_bytes)
        {
            let wanted = Wanted {
                room_bytes: reserved_bytes,
                free_bytes: 0,
            };
            if !self.trim(wanted).enough {
                return;
            }
        }
        // It may have gone itself.
        let Some(segment) = self.seed.catalog.get(&service, id) else {
            return;
        };
        let sealing = Segment {
            state: State::Sealing { reserved_bytes },
            ..segment.clone()
        };
        (self.seed.catalog).set(&self.seed.policy, &service, id, sealing);
        if let Some(sealer) = &mut self.seed.sealer {
            sealer.seal(service, id);
        }
    }

    /// What came of a seal.
    fn note_sealed(&mut self, report: SealReport) {
        if let Some(sealer) = &mut self.seed.sealer {
            sealer.done();
        }
        self.next_seal_look = Instant::now();
        self.disk_use_changed = true;
        let SealReport {
            service,
            id,
            outcome,
        } = report;
        let Some(mut segment) = self.seed.catalog.forget(&service, id) else {
            return;
        };
        let before_bytes = segment.disk_bytes;
        let now = Instant::now();
        segment.disk_bytes = disk_bytes(&self.seed.logs_dir.join(&service), id);
        segment.state = State::Closed;
        match outcome {
            Ok(Some(_)) => {
                self.note_seal_failure(&(service.clone(), id), None);
                segment.state = State::Sealed;
                segment.held_since = None;
                let after_bytes = segment.disk_bytes;
                tracing::debug!(service, segment = %id, before_bytes, after_bytes, "segment sealed");
                let mut status = lock(&self.seed.shared.status);
                status.sealed_segments += 1;
                status.saved_bytes += before_bytes.saturating_sub(segment.disk_bytes);
            }
            Ok(None) => segment.put_off(now),
            Err(error) => {
                lock(&self.seed.shared.status).seal_failures += 1;
                if segment.disk_bytes == 0 {
                    return; // somebody has taken it away
                }
                tracing::debug!(service, segment = %id, %error, "segment not sealed");
                self.note_seal_failure(&(service.clone(), id), Some(error.to_string()));
                segment.fail(now);
            }
        }
        (self.seed.catalog).set(&self.seed.policy, &service, id, segment);
    }

    /// A segment cannot be sealed, or that is over.
    fn note_seal_failure(&mut self, key: &Key, error: Option<String>) {
        match error {
            Some(error) => drop(self.failing_seals.insert(key.clone(), error)),
            None if self.failing_seals.remove(key).is_none() => return,
            None => {}
        }
        // Always of the same one, as long as it is there: it is told once.
        let first = self.failing_seals.values().next();
        let shown = first.map(|error| match self.failing_seals.len() - 1 {
            0 => error.clone(),
            more => format!("{error} (and {more} more)"),
        });
        lock(&self.seed.shared.status).seal_error = shown;
    }

    fn give_up_sealing(&self) {
        if let Some(sealer) = &self.seed.sealer {
            sealer.give_up();
        }
    }

    /// Writes a group, trying again until it is done; `None` when it was told to give up.
    async fn write_group(&mut self, group: Group) -> Option<Vec<Write>> {
        let mut left = group.writes;
        let mut written = Vec::with_capacity(left.len());
        let mut backoff = RETRY_MIN;
        while let Err(error) = self.tell_writer() {
            if is_disk_full(&error) && self.free_disk(&left) {
                continue;
            }
            let trouble = describe(&self.seed.logs_dir.join(LOCK_FILE), &error);
            if !self.pause(trouble, &mut backoff).await {
                return None;
            }
        }
        loop {
            self.make_room(&left);
            let mut failed = Vec::new();
            let mut error = None;
            let mut is_full = false;
            for (write, result) in self.write_all(left, group.group, group.now_ns).await {
                match result {
                    Ok(()) => written.push(write),
                    Err(cause) => {
                        is_full |= is_disk_full(&cause);
                        let dir = self.seed.logs_dir.join(&write.service);
                        error = Some(describe(&write.segment.log_path(&dir), &cause));
                        // A stale descriptor may be the cause: open it anew.
                        self.segments.remove(&write.service);
                        failed.push(write);
                    }
                }
            }
            left = failed;
            let Some(error) = error else {
                lock(&self.seed.shared.status).trouble = None;
                return Some(written);
            };
            self.give_up_sealing();
            if is_full && self.free_disk(&left) {
                continue;
            }
            self.check();
            if !self.pause(error, &mut backoff).await {
                return None;
            }
        }
    }

    /// Removes what has to go before these may be written under the cap over all.
    fn make_room(&mut self, writes: &[Write]) {
        let most = self.seed.policy.reserve_bytes_max();
        let room_bytes = (writes.iter().filter(|write| !write.is_nothing()))
            .map(|write| {
                let text = write.text.len() as u64;
                // With the reserve, and a page each that text and index may begin; and the directory.
                text + reserve_step(write.offset + text, most) + 3 * pages(1)
            })
            .sum();
        if self.seed.catalog.has_room(&self.seed.policy, room_bytes) {
            return;
        }
        let wanted = Wanted {
            room_bytes,
            free_bytes: 0,
        };
        if !self.trim(wanted).enough {
            // What a seal in progress may need is needed more here.
            self.give_up_sealing();
        }
    }

    /// The disk is full: gives back what is reserved, and removes what may go. Whether anything came of it.
    fn free_disk(&mut self, left: &[Write]) -> bool {
        for segment in self.segments.all() {
            // One that cannot is none the worse for it.
            let _ = segment.release_reserve();
        }
        let text: u64 = left.iter().map(|write| write.text.len() as u64).sum();
        let wanted = Wanted {
            room_bytes: 0,
            free_bytes: text.max(FREE_BYTES_MIN),
        };
        let freed = self.trim(wanted).bytes > 0;
        if freed {
            lock(&self.seed.shared.status).failures += 1;
        }
        freed
    }

    /// Notes the trouble and waits; false when it is time to give up.
    async fn pause(&self, trouble: String, backoff: &mut Duration) -> bool {
        let retry_in_ms = backoff.as_millis() as u64;
        tracing::debug!(trouble, retry_in_ms, "not written");
        {
            let mut status = lock(&self.seed.shared.status);
            status.trouble = Some(trouble);
            status.failures += 1;
        }
        let slices = backoff.as_millis().div_ceil(RETRY_MIN.as_millis());
        for _ in 0..slices {
            if lock(&self.seed.shared.give_up).is_some_and(|at| at <= Instant::now()) {
                return false;
            }
            tokio::time::sleep(RETRY_MIN).await;
        }
        *backoff = (*backoff * 2).min(RETRY_MAX);
        true
    }

    /// One attempt at each write; under io_uring they are in flight together.
    async fn write_all(
        &mut self,
        writes: Vec<Write>,
        group: u64,
        now_ns: u64,
    ) -> Vec<(Write, io::Result<()>)> {
        let mut started = Vec::with_capacity(writes.len());
        let most = self.seed.policy.reserve_bytes_max();
        let file_bytes_limit = file_bytes_limit();
        for mut write in writes {
            if write.is_nothing() {
                started.push((write, Transfer::Nothing));
                continue;
            }
            let sync = self.sync_policy(&write.service);
            if let Err(error) = self.begin_again_if_gone(&write, group) {
                started.push((write, Transfer::Failed(error)));
                continue;
            }
            let (id, offset) = self.target(&write);
            let end = offset.saturating_add(write.text.len() as u64);
            if end > file_bytes_limit {
                // The kernel would end this process with SIGXFSZ.
                started.push((write, Transfer::Failed(io::ErrorKind::FileTooLarge.into())));
                continue;
            }
            match self.segments.get(&write.service, id) {
                Ok(segment) => {
                    if std::mem::take(&mut segment.is_new) {
                        (self.unsynced).note(&write.service, id, sync, true, Some(offset));
                    }
                    if write.text.is_empty() {
                        started.push((write, Transfer::Done(Ok(()), Bytes::new())));
                        continue;
                    }
                    segment.allocate(offset + write.text.len() as u64, most);
                    let file = Rc::clone(&segment.text);
                    let text = Bytes::from(std::mem::take(&mut write.text));
                    let lent = text.clone();
                    let transfer = async move { file.write(lent, offset).await };
                    started.push((write, Transfer::start(transfer, text, self.uring).await));
                }
                Err(error) => started.push((write, Transfer::Failed(error))),
            }
        }
        let mut done = Vec::with_capacity(started.len());
        for (mut write, transfer) in started {
            let is_nothing = matches!(transfer, Transfer::Nothing);
            let (result, text) = self.finish(transfer).await;
            if let Some(text) = text {
                // Back as it was, unless a ring that does not answer still holds it.
                write.text = text.into();
            }
            let result = match result {
                Ok(()) if is_nothing => Ok(()),
                Ok(()) => self.complete_write(&mut write, group, now_ns).await,
                Err(error) => Err(error),
            };
            done.push((write, result));
            kill_point!("sink.service_done");
        }
        done
    }

    /// The outcome of a write, and its text where that was lent.
    async fn finish(&mut self, transfer: Transfer) -> (io::Result<()>, Option<Bytes>) {
        match transfer {
            Transfer::Flying(task, text) => {
                let result = self.ring_outcome(task).await.and_then(|result| result);
                (result, Some(text))
            }
            Transfer::Done(result, text) => (result, Some(text)),
            Transfer::Nothing => (Ok(()), None),
            Transfer::Failed(error) => (Err(error), None),
        }
    }

    /// Waits for what the ring does, as long as the ring lives: a disk may take its time. Where the ring does not even
    /// answer to an operation that does nothing, that is an error, and everything goes by pwrite from then on.
    async fn ring_outcome<T>(&mut self, mut task: tokio::task::JoinHandle<T>) -> io::Result<T> {
        while self.uring {
            match tokio::time::timeout(RING_PATIENCE, &mut task).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                // It has panicked: the ring took nothing more.
                Ok(Err(_)) => self.leave_ring(),
                Err(_) if ring_answers().await => {}
                Err(_) => self.leave_ring(),
            }
        }
        Err(io::Error::other(RING_DEAD))
    }

    /// From now on without the ring. What it still has under way may come to be written late: the same bytes in the
    /// same place. A segment is only ever cut by whoever opens the directory next, after us.
    fn leave_ring(&mut self) {
        tracing::info!("io_uring does not answer: writing with pwrite");
        self.uring = false;
        self.segments = OpenSegments::new(&self.seed.logs_dir, false);
        self.flight = None;
        // What was being synced is not known any more.
        let Seed {
            catalog, shared, ..
        } = &self.seed;
        note_unsynced(catalog, &mut self.unsynced);
        lock(&shared.status).fallen_back = Some(RING_DEAD.to_owned());
    }

    fn sync_policy(&mut self, service: &str) -> SyncPolicy {
        let Seed {
            catalog, policy, ..
        } = &mut self.seed;
        catalog.service(policy, service).limits.sync
    }

    /// What follows the text of a write: its index entries, and the end of the segment.
    async fn complete_write(
        &mut self,
        write: &mut Write,
        group: u64,
        now_ns: u64,
    ) -> io::Result<()> {
        let (id, offset) = self.target(write);
        let length_bytes = offset + write.text.len() as u64;
        let sync = self.sync_policy(&write.service);
        let key = (write.service.clone(), id);
        if write.closes || !write.text.is_empty() {
            (self.unsynced).note(&write.service, id, sync, false, Some(offset));
        }
        kill_point!("sink.text_written");
        let segment = self.segments.get(&write.service, id)?;
        if self.without_index.contains(&key) {
            segment.forget_index();
        }
        segment.set_link()?;
        if !write.entries.is_empty() {
            let bytes: Vec<u8> = write
                .entries
                .iter()
                .flat_map(IndexEntry::to_bytes)
                .collect();
            segment.write_entries(&bytes)?;
            // Should what follows fail, they are there.
            write.entries.clear();
            kill_point!("sink.index_written");
        }
        let (policy, catalog) = (&self.seed.policy, &mut self.seed.catalog);
        let bytes = segment.disk_bytes(length_bytes);
        let open = Segment::new(State::Open, bytes, now_ns);
        let begins = catalog.get(&write.service, id).is_none();
        catalog.set(policy, &write.service, id, open);
        if !segment.has_index() {
            self.without_index.insert(key.clone());
        }
        if write.closes {
            segment.release_reserve()?;
            kill_point!("close.reserve_cut");
            let bytes = segment.closed_disk_bytes(length_bytes);
            if sync != SyncPolicy::Never {
                // Before it is said to be closed: else a power cut may leave that and not the text.
                let written = std::slice::from_ref(&*write);
                self.sync_now(|_, of| *of == key, written).await?;
            }
            let segment = self.segments.get(&write.service, id)?;
            if self.without_index.contains(&key) {
                segment.forget_index();
            }
            kill_point!("close.synced");
            segment.mark_closed()?;
            let side_error = segment.take_side_error();
            self.note_side_error(&key, side_error);
            kill_point!("close.marked");
            let (policy, catalog) = (&self.seed.policy, &mut self.seed.catalog);
            let mut closed = Segment::new(State::Closed, bytes, now_ns);
            closed.closed_in = group;
            catalog.set(policy, &write.service, id, closed);
            tracing::debug!(service = write.service, segment = %id, bytes = length_bytes, "segment closed");
            self.segments.remove(&write.service);
            self.without_index.remove(&key);
            (self.moved).remove(&(write.service.clone(), write.segment));
        } else {
            let side_error = segment.take_side_error();
            self.note_side_error(&key, side_error);
        }
        if begins || write.closes {
            self.check();
        }
        Ok(())
    }

    fn take_unsynced(&mut self, wanted: impl Fn(SyncPolicy, &Key) -> bool) -> Batch {
        let (logs_dir, segments) = (&self.seed.logs_dir, &self.segments);
        let open_text = |(service, id): &Key| segments.text(service, *id);
        self.unsynced.take(logs_dir, wanted, open_text)
    }

    /// What is written and `wanted` to the disk, before anything else is done.
    async fn sync_now(
        &mut self,
        wanted: impl Fn(SyncPolicy, &Key) -> bool,
        written: &[Write],
    ) -> io::Result<()> {
        self.write_again(&wanted, written)?;
        let batch = self.take_unsynced(wanted);
        let outcome = match self.uring {
            true => (self.ring_outcome(tokio_uring::spawn(batch.run(true)))).await?,
            false => batch.run(false).await,
        };
        self.note_sync(&outcome);
        outcome.settle(&mut self.unsynced)
    }

    /// Writes what failed syncs may have lost, before it is synced again. `written` is what is in memory of it.
    fn write_again(
        &mut self,
        wanted: impl Fn(SyncPolicy, &Key) -> bool,
        written: &[Write],
    ) -> io::Result<()> {
        let targets: Vec<_> = written.iter().map(|write| self.target(write)).collect();
        let held = |(service, id): &Key, file: &File| {
            for (write, (of, offset)) in written.iter().zip(&targets) {
                if write.service == *service && of == id {
                    file.write_all_at(&write.text, *offset)?;
                }
            }
            Ok(())
        };
        let outcome = (self.unsynced).write_again(&self.seed.logs_dir, wanted, &held);
        if let Some(lost) = self.describe_lost() {
            lock(&self.seed.shared.status).sync_error = Some(lost);
        }
        outcome
    }

    fn describe_lost(&self) -> Option<String> {
        let (bytes, (service, id)) = self.unsynced.lost()?;
        let path = id.log_path(&self.seed.logs_dir.join(service));
        Some(format!(
            "the disk has lost {bytes} bytes that a failed sync left unwritten, in {}: nothing counts as durable until \
             the daemon is started again; replace the disk",
            path.display()
        ))
    }

    /// Where a write goes: to the segment that it names, or to the one that took the place of that.
    fn target(&self, write: &Write) -> (SegmentId, u64) {
        if !self.moved.is_empty()
            && let Some(moved) = self.moved.get(&(write.service.clone(), write.segment))
        {
            return (moved.id, write.offset - moved.base);
        }
        (write.segment, write.offset)
    }

    /// Sees that the file which a write goes to has a name, and the text before it. Where somebody has removed or cut
    /// it, a new segment is begun: what is written from here on must not vanish too.
    fn begin_again_if_gone(&mut self, write: &Write, group: u64) -> io::Result<()> {
        let (id, offset) = self.target(write);
        let segment = self.segments.get(&write.service, id)?;
        if segment.has_text(offset)? {
            return Ok(());
        }
        let logs_dir = self.seed.logs_dir.clone();
        let dir = logs_dir.join(&write.service);
        self.segments.remove(&write.service);
        fs::create_dir_all(&dir)?;
        self.hold_lock_again()?;
        let lost_segments = self.forget_missing(&write.service, id);
        if offset == 0 {
            // Nothing of it is gone, and the same one is made again.
            self.segments.get(&write.service, id)?;
            if lost_segments == 0 {
                return Ok(());
            }
        }
        let key = (write.service.clone(), write.segment);
        let found = fs::metadata(id.log_path(&dir)).map_or(0, |metadata| metadata.len());
        let lost_bytes = offset.saturating_sub(found);
        let begun = match offset {
            0 => id,
            _ => SegmentId::from_ns(id.as_ns() + 1),
        };
        if offset > 0 {
            let old = (write.service.clone(), id);
            self.unsynced.forget(&old);
            self.without_index.remove(&old);
            self.seed.catalog.forget(&write.service, id);
            if found == 0 {
                // What opening it has just made.
                remove_files(&dir, id)?;
            } else {
                // What is left of it ends here; it is closed, and its index is not that of its text.
                let _ = fs::remove_file(id.index_path(&dir));
                let mut rest = Segment::new(State::Closed, disk_bytes(&dir, id), self.seed.now.ns);
                rest.closed_in = group;
                (self.seed.catalog).set(&self.seed.policy, &write.service, id, rest);
            }
            let base = write.offset;
            self.moved.insert(key, Moved { id: begun, base });
            // The consumer's entries begin in the middle of its first block.
            self.without_index.insert((write.service.clone(), begun));
        }
        let base = if offset > 0 { write.offset } else { 0 };
        self.gone.push(Gone {
            service: write.service.clone(),
            segment: write.segment,
            begun,
            base,
            lost_bytes,
            lost_segments,
        });
        Ok(())
    }

    /// The lock file goes with the directory; held without a name it keeps nobody out, and says nothing to the next
    /// start.
    fn hold_lock_again(&mut self) -> io::Result<()> {
        if self.seed.directory_lock.metadata()?.nlink() > 0 {
            return Ok(());
        }
        let (file, _) =
            take_lock(&self.seed.logs_dir).map_err(|error| io::Error::other(error.to_string()))?;
        self.seed.directory_lock = file;
        self.seed.is_writer_told = false;
        self.tell_writer()
    }

    /// Lets the lock file name us. Before the first text, and not before: the services that it is for are committed by
    /// then, and until then the commit point of our owner may be one from long ago, which others have written after.
    fn tell_writer(&mut self) -> io::Result<()> {
        let seed = &mut self.seed;
        if !seed.is_writer_told {
            // What kind of error it is decides what is done about it, as with the text behind it.
            write_text(&seed.directory_lock, &seed.writer)?;
            seed.is_writer_told = true;
            kill_point!("sink.writer_told");
        }
        Ok(())
    }

    /// Takes the segments of a service out whose files are gone, but for the open one; how many.
    fn forget_missing(&mut self, service: &str, open: SegmentId) -> u64 {
        let dir = self.seed.logs_dir.join(service);
        let known = self.seed.catalog.services.get(service);
        let is_gone = |id: &SegmentId| {
            *id != open && !id.log_path(&dir).exists() && !id.sealed_path(&dir).exists()
        };
        let missing: Vec<SegmentId> = (known.into_iter())
            .flat_map(|known| known.segments.keys().copied())
            .filter(is_gone)
            .collect();
        for &id in &missing {
            self.seed.catalog.forget(service, id);
            let key = (service.to_owned(), id);
            self.unsynced.forget(&key);
            self.note_seal_failure(&key, None);
        }
        missing.len() as u64
    }

    fn note_side_error(&mut self, (service, id): &Key, error: Option<io::Error>) {
        if error.is_none() && self.tells_side_error && self.without_index.is_empty() {
            self.tells_side_error = false;
            lock(&self.seed.shared.status).index_error = None;
        }
        if let Some(error) = error {
            self.tells_side_error = true;
            let path = id.index_path(&self.seed.logs_dir.join(service));
            let mut status = lock(&self.seed.shared.status);
            status.failures += 1;
            status.index_error = Some(format!(
                "cannot write beside the text, {}: {error}; the text goes on, searches take longer",
                path.display()
            ));
        }
    }

    /// The text whose service has an interval to the disk; under io_uring while groups go on being written.
    async fn start_interval_sync(&mut self) {
        let has_interval = |policy, _: &Key| matches!(policy, SyncPolicy::Interval(_));
        // What cannot be written again waits, and is tried again with the next sync.
        let again = self.write_again(has_interval, &[]);
        if let Err(error) = again {
            self.unsynced.put_off();
            let mut status = lock(&self.seed.shared.status);
            status.failures += 1;
            status.sync_error = Some(self.describe_sync(&error));
            return;
        }
        let batch = self.take_unsynced(has_interval);
        if !self.uring {
            let outcome = batch.run(false).await;
            self.note_flight(outcome);
            return;
        }
        let bell = self.seed.bell.clone();
        self.flight = Some(tokio_uring::spawn(async move {
            let outcome = batch.run(true).await;
            if let Some(bell) = bell.upgrade() {
                let _ = bell.send(Job::Synced);
            }
            outcome
        }));
    }

    /// Waits for the sync that runs beside the writes, if there is one.
    async fn land_flight(&mut self) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        // Where there is no outcome, what it had waits again.
        if let Ok(outcome) = self.ring_outcome(flight).await {
            self.note_flight(outcome);
        }
    }

    /// What failed waits again; meanwhile it is told.
    fn note_flight(&mut self, outcome: Outcome) {
        self.note_sync(&outcome);
        self.disk_use_changed = true;
        let result = outcome.settle(&mut self.unsynced);
        let mut status = lock(&self.seed.shared.status);
        status.failures += u64::from(result.is_err());
        let lost = self.describe_lost();
        status.sync_error = lost.or(result.err().map(|error| self.describe_sync(&error)));
        status.unsynced_segments = self.unsynced.len() as u64;
    }

    fn describe_sync(&self, error: &io::Error) -> String {
        format!("cannot sync {}: {error}", self.seed.logs_dir.display())
    }

    /// What has to be on the disk before a group counts as written: with `all` everything, else what services have whose
    /// policy is that. Tries until it succeeds; `None` when it is time to give up, else whether everything is there.
    async fn sync_group(&mut self, all: bool, written: &[Write]) -> Option<bool> {
        let always = |policy| policy == SyncPolicy::Always;
        let mut backoff = RETRY_MIN;
        loop {
            if all {
                // The kernel tells a failure once: it is seen there, or here.
                self.land_flight().await;
            }
            let wanted = |policy, _: &Key| all || always(policy);
            let Err(error) = self.sync_now(wanted, written).await else {
                break;
            };
            let trouble = self.describe_sync(&error);
            if !self.pause(trouble, &mut backoff).await {
                return None;
            }
        }
        let left = self.unsynced.len() + self.flight.iter().len();
        let lost = self.describe_lost();
        let mut status = lock(&self.seed.shared.status);
        status.unsynced_segments = left as u64;
        status.trouble = None;
        if all {
            status.sync_error = lost;
        }
        drop(status);
        let wants_it = all || always(self.seed.policy.sync);
        Some(wants_it && left == 0)
    }
}

/// The most bytes that a file of this process may have.
pub(crate) fn file_bytes_limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
    limit.current.unwrap_or(u64::MAX)
}

fn ns_of(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

/// No room, or none for this user.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A write under way.
enum Transfer {
    Nothing,
    /// With its text, which the ring has too.
    Flying(tokio::task::JoinHandle<io::Result<()>>, Bytes),
    Done(io::Result<()>, Bytes),
    Failed(io::Error),
}

impl Transfer {
    async fn start(
        transfer: impl Future<Output = io::Result<()>> + 'static,
        text: Bytes,
        uring: bool,
    ) -> Self {
        match uring {
            true => Transfer::Flying(tokio_uring::spawn(transfer), text),
            false => Transfer::Done(transfer.await, text),
        }
    }
}

fn describe(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull => "; free space, lower `total-bytes`, or raise `keep-free`",
        io::ErrorKind::PermissionDenied => "; give this user the right to write there",
        io::ErrorKind::ReadOnlyFilesystem => "; mount the file system for writing",
        io::ErrorKind::FileTooLarge => {
            "; raise the limit of file sizes with `ulimit -f`, and start again"
        }
        io::ErrorKind::QuotaExceeded => "; raise the quota of this user, or free some of it",
        _ => "",
    };
    format!("cannot write {}: {error}{remedy}", path.display())
}
