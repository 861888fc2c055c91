//! The writer thread: groups in, groups out, in order. The only place of this crate that touches log files
//! while the sink is open.
//!
//! The steps for a segment that a write closes, each of which can be repeated after a crash:
//! `write text -> write entries -> cut reserved space -> mark closed -> sync -> trim`. The next segment is
//! made with its first line: `create -> link current.log -> write`. Recovery (see `open`) knows all the
//! states in between.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_logfile::{IndexEntry, SegmentId};
use tokio::sync::mpsc as jobs;

use crate::error::{Error, ErrorKind};
use crate::files::OpenSegments;
use crate::policy::{BackendChoice, Policy, SyncPolicy};
use crate::retention::Catalog;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a closing sink lets the writer try again.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

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
    /// Bytes of text that retention removed.
    pub trimmed_bytes: u64,
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

pub(crate) struct Group {
    pub(crate) group: u64,
    pub(crate) writes: Vec<Write>,
    pub(crate) sync: bool,
}

/// A group that is written; its buffers for reuse.
pub(crate) struct Reply {
    pub(crate) group: u64,
    pub(crate) buffers: Vec<Vec<u8>>,
    pub(crate) durable: bool,
}

/// The handle of the thread.
pub(crate) struct Writer {
    jobs: Option<jobs::UnboundedSender<Group>>,
    thread: Option<JoinHandle<()>>,
    backend: Backend,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    status: Mutex<WriterStatus>,
    /// Set when the sink goes away: give up at this time.
    give_up: Mutex<Option<Instant>>,
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
        replies: mpsc::Sender<Reply>,
        completed: impl Fn() + Send + 'static,
    ) -> Result<Self, Error> {
        let (jobs, receiver) = jobs::unbounded_channel();
        let (started, has_started) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let seed = Seed {
            logs_dir: logs_dir.to_owned(),
            policy: policy.clone(),
            shared: Arc::clone(&shared),
            catalog,
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
            let _ = jobs.send(group);
        }
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(crate) fn status(&self) -> WriterStatus {
        lock(&self.shared.status).clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        *lock(&self.shared.give_up) = Some(Instant::now() + CLOSE_PATIENCE);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has been printed by its thread; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// What the thread is made from.
struct Seed {
    logs_dir: PathBuf,
    policy: Policy,
    shared: Arc<Shared>,
    catalog: Catalog,
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
    jobs: jobs::UnboundedReceiver<Group>,
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
        uring,
        last_sync: Instant::now(),
        seed,
    };
    runtime.block_on(writer.run(jobs, replies, &completed));
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

struct WriterLoop {
    seed: Seed,
    segments: OpenSegments,
    uring: bool,
    last_sync: Instant,
}

impl WriterLoop {
    async fn run(
        &mut self,
        mut jobs: jobs::UnboundedReceiver<Group>,
        replies: mpsc::Sender<Reply>,
        completed: &impl Fn(),
    ) {
        self.trim().await;
        loop {
            let Some(group) = self.next_job(&mut jobs).await else {
                return;
            };
            let number = group.group;
            let sync = group.sync || self.seed.policy.sync == SyncPolicy::Always;
            let Some(buffers) = self.write_group(group).await else {
                return;
            };
            let durable = sync && self.sync_until_done().await;
            if sync && !durable {
                return;
            }
            if replies
                .send(Reply {
                    group: number,
                    buffers,
                    durable,
                })
                .is_err()
            {
                return;
            }
            completed();
        }
    }

    /// The next job; syncs on the way when the interval is over.
    async fn next_job(&mut self, jobs: &mut jobs::UnboundedReceiver<Group>) -> Option<Group> {
        let SyncPolicy::Interval(interval) = self.seed.policy.sync else {
            return jobs.recv().await;
        };
        loop {
            let is_dirty = self.segments.dirty().next().is_some();
            if !is_dirty {
                return jobs.recv().await;
            }
            let left = interval.saturating_sub(self.last_sync.elapsed());
            if left.is_zero() {
                // A failed sync is tried again with the next group; what failed stays dirty.
                let _ = self.sync_dirty().await;
                continue;
            }
            if let Ok(job) = tokio::time::timeout(left, jobs.recv()).await {
                return job;
            }
        }
    }

    /// Writes a group, trying again until it is done; `None` when it was told to give up.
    async fn write_group(&mut self, group: Group) -> Option<Vec<Vec<u8>>> {
        let mut left = group.writes;
        let mut buffers = Vec::with_capacity(left.len());
        let mut backoff = RETRY_MIN;
        loop {
            let mut failed = Vec::new();
            let mut error = None;
            for (write, result) in self.write_all(left).await {
                match result {
                    Ok(()) => buffers.push(write.text),
                    Err(cause) => {
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
            self.trim().await;
            if !self.pause(error, &mut backoff).await {
                return None;
            }
        }
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
    async fn write_all(&mut self, writes: Vec<Write>) -> Vec<(Write, io::Result<()>)> {
        let mut started = Vec::with_capacity(writes.len());
        for mut write in writes {
            match self.segments.get(&write.service, write.segment).await {
                Ok(_) if write.text.is_empty() => {
                    started.push((write, Transfer::Done(Ok(()), Vec::new())));
                }
                Ok(segment) => {
                    segment.allocate(write.offset + write.text.len() as u64);
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
            let (result, text) = transfer.finish().await;
            write.text = text.unwrap_or_else(|| std::mem::take(&mut write.text));
            let result = match result {
                Ok(()) => self.complete_write(&write).await,
                Err(error) => Err(error),
            };
            done.push((write, result));
        }
        done
    }

    /// What follows the text of a write: its index entries, and the end of the segment.
    async fn complete_write(&mut self, write: &Write) -> io::Result<()> {
        let length_bytes = write.offset + write.text.len() as u64;
        self.seed
            .catalog
            .set(&write.service, write.segment, length_bytes);
        let sync = self.seed.policy.sync;
        let segment = self.segments.get(&write.service, write.segment).await?;
        segment.dirty = true;
        if !write.entries.is_empty() {
            let bytes: Vec<u8> = write
                .entries
                .iter()
                .flat_map(IndexEntry::to_bytes)
                .collect();
            segment.write_entries(&bytes)?;
        }
        if write.closes {
            segment.finish(length_bytes)?;
            if sync != SyncPolicy::Never {
                segment.text.sync().await?;
                segment.sync_directory()?;
            }
            self.segments.remove(&write.service);
            self.trim().await;
        }
        Ok(())
    }

    async fn trim(&mut self) {
        let trimmed = self
            .seed
            .catalog
            .trim(&self.seed.logs_dir, &self.seed.policy);
        let mut status = lock(&self.seed.shared.status);
        match trimmed {
            Ok(trimmed) => {
                status.trimmed_segments += trimmed.segments;
                status.trimmed_bytes += trimmed.bytes;
            }
            // Not being able to remove does not keep us from writing; the next rotation tries again.
            Err(_) => status.failures += 1,
        }
    }

    /// Everything written so far to the disk.
    async fn sync_dirty(&mut self) -> io::Result<()> {
        self.last_sync = Instant::now();
        let files: Vec<_> = self
            .segments
            .dirty()
            .map(|segment| Rc::clone(&segment.text))
            .collect();
        for file in files {
            file.sync().await?;
        }
        for segment in self.segments.dirty() {
            segment.sync_directory()?;
            segment.dirty = false;
        }
        Ok(())
    }

    /// As `sync_dirty`, until it succeeds; false when it is time to give up.
    async fn sync_until_done(&mut self) -> bool {
        let mut backoff = RETRY_MIN;
        while let Err(error) = self.sync_dirty().await {
            let trouble = format!("cannot sync {}: {error}", self.seed.logs_dir.display());
            if !self.pause(trouble, &mut backoff).await {
                return false;
            }
        }
        true
    }
}

/// A write under way.
enum Transfer {
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
            Transfer::Failed(error) => (Err(error), None),
        }
    }
}

fn describe(logs_dir: &Path, write: &Write, error: &io::Error) -> String {
    let path = write.segment.log_path(&logs_dir.join(&write.service));
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull => "; free space, or lower `total-bytes`",
        io::ErrorKind::PermissionDenied => "; give this user the right to write there",
        _ => "",
    };
    format!("cannot write {}: {error}{remedy}", path.display())
}
