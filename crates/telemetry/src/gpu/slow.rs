//! The groups that are read less often, because asking costs: inline, or on a thread of their own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{DriverError, Gpus, Group, ProcessMemory, Readings, Trouble};
use crate::Now;
use crate::time::thread_cpu_ns;

/// The thread looks at least this often what is due.
const LOOK_MAX: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(10);

/// What the slow groups of one GPU said last.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) readings: Readings,
    /// When each of [`Group::SLOW`] was read.
    pub(crate) sampled_ns: [Option<u64>; 3],
    /// Processes that nobody has taken yet.
    pub(crate) processes: Option<(u64, Vec<ProcessMemory>)>,
    /// Why a group was not answered, where that concerns the GPU or the driver: until it is answered again.
    failing: [Option<DriverError>; 3],
    /// What is failing is asked once more, though the GPU is not asked otherwise.
    is_probed: bool,
    /// The GPU does not answer: it is not asked.
    pub(crate) is_paused: bool,
}

impl Slot {
    pub(crate) const NEW: Slot = Slot {
        readings: Readings::NONE,
        sampled_ns: [None; 3],
        processes: None,
        failing: [const { None }; 3],
        is_probed: false,
        is_paused: false,
    };

    /// The first of its groups that is not answered.
    pub(crate) fn failing(&self) -> Option<&DriverError> {
        self.failing.iter().flatten().next()
    }

    /// What a new connection goes on with. For a GPU in trouble that is only what has to be answered before it is well.
    pub(crate) fn carried(self, is_troubled: bool) -> Self {
        match is_troubled {
            false => self,
            true => Slot {
                is_probed: self.failing().is_some(),
                failing: self.failing,
                is_paused: true,
                ..Slot::NEW
            },
        }
    }

    fn is_asked(&self, place: usize, is_due: bool) -> bool {
        match self.is_paused {
            false => is_due,
            true => self.is_probed && self.failing[place].is_some(),
        }
    }
}

/// Reads them, each group of each GPU at its interval.
struct Reader {
    gpus: Arc<dyn Gpus>,
    slots: Arc<Mutex<Vec<Slot>>>,
    intervals: [Duration; 3],
    /// When each group of each GPU is due next.
    due: Vec<[Duration; 3]>,
    now: Now,
    is_stopped: Arc<AtomicBool>,
}

impl Reader {
    fn step(&mut self, at: Duration) {
        for (index, due) in self.due.iter_mut().enumerate() {
            for (place, group) in Group::SLOW.into_iter().enumerate() {
                // Between two questions, so that who waits for the end waits for one answer at most.
                // ORDERING: Relaxed; it says only itself.
                if self.is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let is_due = at >= due[place];
                if !with_slot(&self.slots, index, |slot| slot.is_asked(place, is_due)) {
                    continue;
                }
                due[place] = at + self.intervals[place];
                // Nobody waits for the lock while the driver is asked.
                let mut readings = Readings::NONE;
                let sampled_ns = (self.now)();
                let answer = read(&*self.gpus, index as u32, group, &mut readings);
                with_slot(&self.slots, index, |slot| match answer {
                    Ok(processes) => {
                        slot.readings.take(group, &readings);
                        slot.sampled_ns[place] = Some(sampled_ns);
                        slot.failing[place] = None;
                        if let Some(processes) = processes {
                            slot.processes = Some((sampled_ns, processes));
                        }
                    }
                    // The next may be answered.
                    Err(error) if error.trouble == Trouble::Failed => {}
                    Err(error) => slot.failing[place] = Some(error),
                });
            }
            with_slot(&self.slots, index, |slot| slot.is_probed = false);
        }
    }
}

fn read(
    gpus: &dyn Gpus,
    index: u32,
    group: Group,
    readings: &mut Readings,
) -> Result<Option<Vec<ProcessMemory>>, DriverError> {
    if group != Group::Processes {
        return gpus.read(index, group, readings).map(|()| None);
    }
    let processes = gpus.processes(index)?;
    if let Some(processes) = &processes {
        readings.process_count = processes.len() as f64;
    }
    Ok(processes)
}

fn with_slot<T>(slots: &Mutex<Vec<Slot>>, index: usize, what: impl FnOnce(&mut Slot) -> T) -> T {
    let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
    if slots.len() <= index {
        slots.resize(index + 1, Slot::NEW);
    }
    what(&mut slots[index])
}

/// The slow groups of one connection. The thread ends when this is dropped, and is not waited for: it may hang in the
/// driver. As long as it lives it holds the connection: see [`Slow::has_ended`].
pub(crate) struct Slow {
    slots: Arc<Mutex<Vec<Slot>>>,
    inline: Option<Reader>,
    is_stopped: Arc<AtomicBool>,
    /// Wakes the thread when it is dropped.
    bell: Option<Sender<()>>,
    /// Closed once the thread has let everything go.
    ended: Option<Receiver<()>>,
    is_stuck: bool,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Slow {
    /// `slots`: one for each GPU, new or of the connection before. `on_thread` gets the processor time of the thread.
    pub(crate) fn start(
        gpus: Arc<dyn Gpus>,
        slots: Vec<Slot>,
        intervals: [Duration; 3],
        now: Now,
        on_thread: Option<Arc<AtomicU64>>,
    ) -> Self {
        let devices = slots.len();
        let slots = Arc::new(Mutex::new(slots));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            gpus,
            slots: Arc::clone(&slots),
            intervals,
            due: vec![[Duration::ZERO; 3]; devices],
            now,
            is_stopped: Arc::clone(&is_stopped),
        };
        let Some(cpu_ns) = on_thread else {
            return Slow {
                slots,
                inline: Some(reader),
                is_stopped,
                bell: None,
                ended: None,
                is_stuck: false,
            };
        };
        let (bell, stopped) = mpsc::channel::<()>();
        let (alive, ended) = mpsc::channel::<()>();
        let shortest = intervals.iter().min().copied().unwrap_or(LOOK_MAX);
        let look = shortest.clamp(LOOK_MIN, LOOK_MAX);
        let spawned = thread::Builder::new()
            .name("millpond-gpu-slow".to_owned())
            .spawn(move || {
                // Dropped in the opposite order: the connection first, then the word that it is let go.
                let _alive = alive;
                let mut reader = reader;
                let started = Instant::now();
                let mut cpu_before_ns = 0;
                loop {
                    reader.step(started.elapsed());
                    let cpu_now_ns = thread_cpu_ns();
                    // ORDERING: Relaxed; a count that says only itself.
                    cpu_ns.fetch_add(cpu_now_ns - cpu_before_ns, Ordering::Relaxed);
                    cpu_before_ns = cpu_now_ns;
                    if stopped.recv_timeout(look) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            });
        if let Err(error) = spawned {
            // Its readings stay NaN, and everything else is there.
            tracing::warn!(%error, "no thread for the slow groups of the GPUs");
        }
        Slow {
            slots,
            inline: None,
            is_stopped,
            bell: Some(bell),
            ended: Some(ended),
            is_stuck: false,
        }
    }

    /// Asks nothing any more.
    pub(crate) fn stop(&mut self) {
        // ORDERING: Relaxed; it says only itself.
        self.is_stopped.store(true, Ordering::Relaxed);
        self.bell = None;
        self.inline = None;
    }

    /// Once it was stopped: whether its share of the connection is let go. Waits no longer than `wait`.
    pub(crate) fn has_ended(&mut self, wait: Duration) -> bool {
        let still_lives = |ended: &Receiver<()>| {
            matches!(ended.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
        };
        self.is_stuck = self.ended.as_ref().is_some_and(still_lives);
        !self.is_stuck
    }

    /// It was waited for in vain.
    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// All slots, for the next connection.
    pub(crate) fn take_slots(&self) -> Vec<Slot> {
        std::mem::take(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a slow group of this GPU is not answered.
    pub(crate) fn is_failing(&self, index: usize) -> bool {
        with_slot(&self.slots, index, |slot| slot.failing().is_some())
    }

    /// Reads what is due, where that is not the work of a thread.
    pub(crate) fn step(&mut self, at: Duration) {
        if let Some(reader) = &mut self.inline {
            reader.step(at);
        }
    }

    /// What one GPU said last; processes are taken out.
    pub(crate) fn take(&self, index: usize) -> Slot {
        with_slot(&self.slots, index, |slot| {
            let taken = slot.clone();
            slot.processes = None;
            taken
        })
    }

    pub(crate) fn pause(&self, index: usize, is_paused: bool) {
        with_slot(&self.slots, index, |slot| slot.is_paused = is_paused);
    }
}
