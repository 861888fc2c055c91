//! The thread that seals: one segment at a time, behind everything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use millpond_logfile::{SealedSegment, SegmentId, seal_segment};

use crate::error::Error;

/// The lowest priority for the processor. The disk follows: without a priority of its own a thread gets the lowest of
/// the best-effort class for it.
const NICE_MAX: i32 = 19;

/// A segment to be sealed.
struct SealJob {
    service: String,
    id: SegmentId,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct SealReport {
    pub(crate) service: String,
    pub(crate) id: SegmentId,
    /// `None` when it was told to give up.
    pub(crate) outcome: Result<Option<SealedSegment>, millpond_logfile::Error>,
}

/// The handle of the thread. Dropping it ends what it is doing after at most one block, or one sync.
pub(crate) struct Sealer {
    jobs: Option<mpsc::Sender<SealJob>>,
    thread: Option<JoinHandle<()>>,
    give_up: Arc<AtomicBool>,
    /// It has a job whose report has not been seen.
    busy: bool,
    /// One message for each job that is over, sent before its report.
    ended: mpsc::Receiver<()>,
    /// That of the present job has been taken.
    has_ended: bool,
}

impl Sealer {
    /// Starts the thread; `report` is called on it after each segment.
    pub(crate) fn start(
        logs_dir: &Path,
        level: i32,
        report: impl Fn(SealReport) + Send + 'static,
    ) -> Result<Self, Error> {
        let (jobs, receiver) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let give_up = Arc::new(AtomicBool::new(false));
        let body = {
            let (logs_dir, give_up) = (logs_dir.to_owned(), Arc::clone(&give_up));
            move || {
                run(&logs_dir, level, &receiver, &give_up, &|done| {
                    // Nobody listens any more when we are to end.
                    let _ = end.send(());
                    report(done);
                })
            }
        };
        let thread = std::thread::Builder::new()
            .name("millpond-sealer".to_owned())
            .spawn(body)
            .map_err(|error| Error::io("start the sealing thread for", logs_dir, error))?;
        Ok(Sealer {
            jobs: Some(jobs),
            thread: Some(thread),
            give_up,
            busy: false,
            ended,
            has_ended: false,
        })
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands over a segment. Only when it is not busy.
    pub(crate) fn seal(&mut self, service: String, id: SegmentId) {
        // ORDERING: Relaxed; the channel orders it before the job, and before that nobody looks.
        self.give_up.store(false, Ordering::Relaxed);
        let sent =
            (self.jobs.as_ref()).is_some_and(|jobs| jobs.send(SealJob { service, id }).is_ok());
        self.busy = sent;
        self.has_ended = !sent;
    }

    /// Its report has come.
    pub(crate) fn done(&mut self) {
        self.wait();
        self.busy = false;
    }

    /// Ends what it is doing, and waits for that: at most one block, or one sync. Its report is still to come.
    pub(crate) fn stop(&mut self) {
        self.give_up();
        self.wait();
    }

    fn wait(&mut self) {
        if self.busy && !std::mem::replace(&mut self.has_ended, true) {
            // It fails when the thread has panicked, and that is an end too.
            let _ = self.ended.recv();
        }
    }

    /// What it is sealing is put off.
    pub(crate) fn give_up(&self) {
        // ORDERING: Relaxed; a flag that is looked at again and again, and guards nothing.
        self.give_up.store(true, Ordering::Relaxed);
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        self.jobs = None;
        self.give_up();
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by its thread; there is nothing to add.
            let _ = thread.join();
        }
    }
}

fn run(
    logs_dir: &Path,
    level: i32,
    jobs: &mpsc::Receiver<SealJob>,
    give_up: &AtomicBool,
    report: &impl Fn(SealReport),
) {
    // On Linux a priority is a thread's. Not being allowed to, we seal all the same.
    let _ = rustix::process::setpriority_process(None, NICE_MAX);
    for SealJob { service, id } in jobs {
        let dir: PathBuf = logs_dir.join(&service);
        // ORDERING: Relaxed; see `Sealer::give_up`.
        let mut go_on = || !give_up.load(Ordering::Relaxed);
        let outcome = seal_segment(&dir, id, level, &mut go_on);
        report(SealReport {
            service,
            id,
            outcome,
        });
    }
}
