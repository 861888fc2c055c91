//! The writer thread: groups in, groups out, in order. The only place of this crate that touches log files
//! while the sink is open.
//!
//! The steps of a segment's life, and what a crash in each of them leaves, are in `lifecycle`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_logfile::{IndexEntry, SegmentId};
use tokio::sync::mpsc as jobs;

use crate::error::{Error, ErrorKind};
use crate::files::{OpenSegments, reserve_step};
use crate::lifecycle::{Catalog, Segment, State, disk_bytes, is_held, pages, seal_bytes_max};
use crate::policy::{BackendChoice, Policy, SealPolicy, SyncPolicy};
use crate::retention::{Now, Trimmed, Wanted};
use crate::sealer::{SealReport, Sealer};
use crate::unsynced::{Batch, Key, Outcome, UnsyncedSegments};

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a closing sink lets the writer try again.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Age and free space are looked at this often, and with each rotation.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Whether something can be sealed now is looked at this often, while something waits for it.
const SEAL_LOOK_INTERVAL: Duration = Duration::from_millis(500);
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
    /// Why the last sync beside the writes failed; `None` after one that did not.
    pub sync_error: Option<String>,
}

/// Everything to be written for one service.
pub(crate) struct Write {
    pub(crate) service: String,
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

/// A group that is written; its buffers for reuse.
pub(crate) struct Reply {
    pub(crate) group: u64,
    pub(crate) buffers: Vec<Vec<u8>>,
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
        directory_lock: File,
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
            _directory_lock: directory_lock,
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
}

impl Writer {
    /// Lets the thread finish what it has, for a while, and waits for it.
    pub(crate) fn end(&mut self) {
        *lock(&self.shared.give_up) = Some(Instant::now() + CLOSE_PATIENCE);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
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
    _directory_lock: File,
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
        uring,
        next_check: Instant::now(),
        next_seal_look: Instant::now(),
        seed,
    };
    runtime.block_on(writer.run(jobs, replies, &completed));
}

/// Whoever wrote here before may have been killed without a sync, and its text must not count as being on the disk
/// because ours is. What is sealed is synced.
fn found_unsynced(catalog: &Catalog) -> UnsyncedSegments {
    let mut unsynced = UnsyncedSegments::default();
    for (service, of_service) in &catalog.services {
        for (&id, segment) in &of_service.segments {
            if segment.state != State::Sealed {
                unsynced.note(service, id, of_service.limits.sync, true);
            }
        }
    }
    unsynced
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

struct WriterLoop {
    seed: Seed,
    segments: OpenSegments,
    unsynced: UnsyncedSegments,
    flight: Option<Flight>,
    /// The segments that could not be sealed, and why.
    failing_seals: BTreeMap<Key, String>,
    uring: bool,
    /// When age and free space are looked at again.
    next_check: Instant,
    /// When it is looked again whether something can be sealed.
    next_seal_look: Instant,
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
            let Some(buffers) = self.write_group(group).await else {
                return;
            };
            let Some(durable) = self.sync_group(sync).await else {
                return;
            };
            let limit = self.seed.policy.open_bytes_limit();
            let reply = Reply {
                group: number,
                buffers,
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
            self.check();
        }
        if self.seed.sealer.is_some() && self.seed.catalog.has_to_seal() {
            if now >= self.next_seal_look {
                self.next_seal_look = now + SEAL_LOOK_INTERVAL;
                self.seal_next();
            }
            due = due.min(self.next_seal_look);
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

    /// Removes what is over a limit, and what the floor of free space asks for.
    fn check(&mut self) {
        self.next_check = Instant::now() + CHECK_INTERVAL;
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
    async fn write_group(&mut self, group: Group) -> Option<Vec<Vec<u8>>> {
        let mut left = group.writes;
        let mut buffers = Vec::with_capacity(left.len());
        let mut backoff = RETRY_MIN;
        loop {
            self.make_room(&left);
            let mut failed = Vec::new();
            let mut error = None;
            let mut is_full = false;
            for (write, result) in self.write_all(left, group.group, group.now_ns).await {
                match result {
                    Ok(()) => buffers.push(write.text),
                    Err(cause) => {
                        is_full |= is_disk_full(&cause);
                        error = Some(describe(&self.seed.logs_dir, &write, &cause));
                        // A stale descriptor may be the cause: open it anew.
                        self.segments.remove(&write.service);
                        failed.push(write);
                    }
                }
            }
            left = failed;
            let Some(error) = error else {
                lock(&self.seed.shared.status).trouble = None;
                return Some(buffers);
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
        for mut write in writes {
            if write.is_nothing() {
                started.push((write, Transfer::Nothing));
                continue;
            }
            let sync = self.sync_policy(&write.service);
            match self.segments.get(&write.service, write.segment) {
                Ok(segment) => {
                    if std::mem::take(&mut segment.is_new) {
                        let (service, id) = (&write.service, write.segment);
                        self.unsynced.note(service, id, sync, true);
                    }
                    if write.text.is_empty() {
                        started.push((write, Transfer::Done(Ok(()), Vec::new())));
                        continue;
                    }
                    segment.allocate(write.offset + write.text.len() as u64, most);
                    let file = Rc::clone(&segment.text);
                    let (text, offset) = (std::mem::take(&mut write.text), write.offset);
                    let transfer = async move { file.write(text, offset).await };
                    started.push((write, Transfer::start(transfer, self.uring).await));
                }
                Err(error) => started.push((write, Transfer::Failed(error))),
            }
        }
        let mut done = Vec::with_capacity(started.len());
        for (mut write, transfer) in started {
            let is_nothing = matches!(transfer, Transfer::Nothing);
            let (result, text) = transfer.finish().await;
            write.text = text.unwrap_or_else(|| std::mem::take(&mut write.text));
            let result = match result {
                Ok(()) if is_nothing => Ok(()),
                Ok(()) => self.complete_write(&mut write, group, now_ns).await,
                Err(error) => Err(error),
            };
            done.push((write, result));
        }
        done
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
        let length_bytes = write.offset + write.text.len() as u64;
        let sync = self.sync_policy(&write.service);
        if write.closes || !write.text.is_empty() {
            (self.unsynced).note(&write.service, write.segment, sync, false);
        }
        let segment = self.segments.get(&write.service, write.segment)?;
        if !write.entries.is_empty() {
            let bytes: Vec<u8> = write
                .entries
                .iter()
                .flat_map(IndexEntry::to_bytes)
                .collect();
            segment.write_entries(&bytes)?;
            // Should what follows fail, they are there.
            write.entries.clear();
        }
        let (policy, catalog) = (&self.seed.policy, &mut self.seed.catalog);
        let bytes = segment.disk_bytes(length_bytes);
        let open = Segment::new(State::Open, bytes, now_ns);
        let begins = catalog.get(&write.service, write.segment).is_none();
        catalog.set(policy, &write.service, write.segment, open);
        if write.closes {
            segment.release_reserve()?;
            let bytes = segment.closed_disk_bytes(length_bytes);
            if sync != SyncPolicy::Never {
                // Before it is said to be closed: else a power cut may leave that and not the text.
                let key = (write.service.clone(), write.segment);
                self.sync_now(|_, of| *of == key).await?;
            }
            let segment = self.segments.get(&write.service, write.segment)?;
            segment.mark_closed()?;
            let (policy, catalog) = (&self.seed.policy, &mut self.seed.catalog);
            let mut closed = Segment::new(State::Closed, bytes, now_ns);
            closed.closed_in = group;
            catalog.set(policy, &write.service, write.segment, closed);
            self.segments.remove(&write.service);
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
    async fn sync_now(&mut self, wanted: impl Fn(SyncPolicy, &Key) -> bool) -> io::Result<()> {
        let outcome = self.take_unsynced(wanted).run(self.uring).await;
        outcome.settle(&mut self.unsynced)
    }

    /// The text whose service has an interval to the disk; under io_uring while groups go on being written.
    async fn start_interval_sync(&mut self) {
        let batch = self.take_unsynced(|policy, _| matches!(policy, SyncPolicy::Interval(_)));
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
        match flight.await {
            Ok(outcome) => self.note_flight(outcome),
            // It has panicked, and what it had is not known any more.
            Err(_) => self.unsynced = found_unsynced(&self.seed.catalog),
        }
    }

    /// What failed waits again; meanwhile it is told.
    fn note_flight(&mut self, outcome: Outcome) {
        let result = outcome.settle(&mut self.unsynced);
        let mut status = lock(&self.seed.shared.status);
        status.failures += u64::from(result.is_err());
        status.sync_error = result.err().map(|error| self.describe_sync(&error));
        status.unsynced_segments = self.unsynced.len() as u64;
    }

    fn describe_sync(&self, error: &io::Error) -> String {
        format!("cannot sync {}: {error}", self.seed.logs_dir.display())
    }

    /// What has to be on the disk before a group counts as written: with `all` everything, else what services have whose
    /// policy is that. Tries until it succeeds; `None` when it is time to give up, else whether everything is there.
    async fn sync_group(&mut self, all: bool) -> Option<bool> {
        let always = |policy| policy == SyncPolicy::Always;
        let mut backoff = RETRY_MIN;
        loop {
            if all {
                // The kernel tells a failure once: it is seen there, or here.
                self.land_flight().await;
            }
            let Err(error) = self.sync_now(|policy, _| all || always(policy)).await else {
                break;
            };
            let trouble = self.describe_sync(&error);
            if !self.pause(trouble, &mut backoff).await {
                return None;
            }
        }
        let left = self.unsynced.len() + self.flight.iter().len();
        lock(&self.seed.shared.status).unsynced_segments = left as u64;
        let wants_it = all || always(self.seed.policy.sync);
        Some(wants_it && left == 0)
    }
}

/// No room, or none for this user.
fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A write under way.
enum Transfer {
    Nothing,
    Flying(tokio::task::JoinHandle<(io::Result<()>, Vec<u8>)>),
    Done(io::Result<()>, Vec<u8>),
    Failed(io::Error),
}

impl Transfer {
    async fn start(
        transfer: impl Future<Output = (io::Result<()>, Vec<u8>)> + 'static,
        uring: bool,
    ) -> Self {
        if uring {
            return Transfer::Flying(tokio_uring::spawn(transfer));
        }
        let (result, text) = transfer.await;
        Transfer::Done(result, text)
    }

    /// The outcome, and the buffer where it was given away.
    async fn finish(self) -> (io::Result<()>, Option<Vec<u8>>) {
        match self {
            Transfer::Flying(task) => match task.await {
                Ok((result, text)) => (result, Some(text)),
                Err(error) => (Err(io::Error::other(error)), None),
            },
            Transfer::Done(result, text) => (result, Some(text)),
            Transfer::Nothing => (Ok(()), None),
            Transfer::Failed(error) => (Err(error), None),
        }
    }
}

fn describe(logs_dir: &Path, write: &Write, error: &io::Error) -> String {
    let path = write.segment.log_path(&logs_dir.join(&write.service));
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull => "; free space, lower `total-bytes`, or raise `keep-free`",
        io::ErrorKind::PermissionDenied => "; give this user the right to write there",
        _ => "",
    };
    format!("cannot write {}: {error}{remedy}", path.display())
}
