//! The groups that are read less often, because asking costs: inline, or on a thread of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{DriverError, Gpus, Group, ProcessMemory, Readings};
use crate::Now;
use crate::sampler::thread_cpu_ns;

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
    /// What went wrong, and nobody has taken yet.
    pub(crate) failed: Option<DriverError>,
    /// The GPU does not answer: it is not asked.
    pub(crate) is_paused: bool,
}

impl Slot {
    const NEW: Slot = Slot {
        readings: Readings::NONE,
        sampled_ns: [None; 3],
        processes: None,
        failed: None,
        is_paused: false,
    };
}

/// Reads them, each group of each GPU at its interval.
struct Reader {
    gpus: Arc<dyn Gpus>,
    slots: Arc<Mutex<Vec<Slot>>>,
    intervals: [Duration; 3],
    /// When each group of each GPU is due next.
    due: Vec<[Duration; 3]>,
    now: Now,
}

impl Reader {
    fn step(&mut self, at: Duration) {
        for (index, due) in self.due.iter_mut().enumerate() {
            for (place, group) in Group::SLOW.into_iter().enumerate() {
                if at < due[place] || with_slot(&self.slots, index, |slot| slot.is_paused) {
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
                        if let Some(processes) = processes {
                            slot.processes = Some((sampled_ns, processes));
                        }
                    }
                    Err(error) => slot.failed = Some(error),
                });
            }
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
/// driver.
pub(crate) struct Slow {
    slots: Arc<Mutex<Vec<Slot>>>,
    inline: Option<Reader>,
    _stop: Option<Sender<()>>,
}

impl Slow {
    /// `cpu_ns` gets the processor time of the thread.
    pub(crate) fn start(
        gpus: Arc<dyn Gpus>,
        devices: usize,
        intervals: [Duration; 3],
        now: Now,
        on_thread: Option<Arc<AtomicU64>>,
    ) -> Self {
        let slots = Arc::new(Mutex::new(vec![Slot::NEW; devices]));
        let mut reader = Reader {
            gpus,
            slots: Arc::clone(&slots),
            intervals,
            due: vec![[Duration::ZERO; 3]; devices],
            now,
        };
        let Some(cpu_ns) = on_thread else {
            return Slow {
                slots,
                inline: Some(reader),
                _stop: None,
            };
        };
        let (stop, stopped) = mpsc::channel::<()>();
        let shortest = intervals.iter().min().copied().unwrap_or(LOOK_MAX);
        let look = shortest.clamp(LOOK_MIN, LOOK_MAX);
        let spawned = thread::Builder::new()
            .name("millpond-gpu-slow".to_owned())
            .spawn(move || {
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
            _stop: Some(stop),
        }
    }

    /// Reads what is due, where that is not the work of a thread.
    pub(crate) fn step(&mut self, at: Duration) {
        if let Some(reader) = &mut self.inline {
            reader.step(at);
        }
    }

    /// What one GPU said last; processes and errors are taken out.
    pub(crate) fn take(&self, index: usize) -> Slot {
        with_slot(&self.slots, index, |slot| {
            let taken = slot.clone();
            slot.processes = None;
            slot.failed = None;
            taken
        })
    }

    pub(crate) fn pause(&self, index: usize, is_paused: bool) {
        with_slot(&self.slots, index, |slot| slot.is_paused = is_paused);
    }
}
