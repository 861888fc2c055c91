//! All services at once, in order of time, on as many threads as pay.
//!
//! The calling thread merges: it always goes on with the service whose next line comes first. Of a
//! service whose next chunk is not scanned yet it knows a *bound*, before which none of its hits
//! can lie; only when that bound comes first the chunk is needed, and if no thread has taken it,
//! the merging thread scans it itself. So it never waits for work that nobody does, and reads
//! nothing that the answer does not need.
//!
//! Once that has become much text, helpers start. They take chunks in order of their bounds, ahead
//! of the merge, until the hits they have found take up [`HELD_BYTES_MAX`].

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::plan::{Plan, Stream};
use super::scan::{Buffer, Chunk, Hits, Scanner};
use super::{Hit, QueryReport};

/// Hits that wait for the merge, in all services together.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Text that the merging thread scans before it calls for help: less is done before a thread has
/// started.
const ALONE_BYTES: u64 = 1 << 20;
/// More threads than this wait for each other, and for memory.
const HELPERS_MAX: usize = 7;

/// A query under way: one stream per service, in the order that decides between equal times.
pub(super) struct Merge<'q> {
    pub(super) plan: &'q Plan,
    pub(super) services: Vec<&'q str>,
    pub(super) streams: Vec<Stream>,
    pub(super) limit: Option<u64>,
    pub(super) report: QueryReport,
}

impl Merge<'_> {
    /// Runs to the end, the limit, or until `visit` breaks off. Returns the streams with their
    /// tallies.
    pub(super) fn run(
        self,
        scanner: Scanner,
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> (Vec<Stream>, QueryReport) {
        let queues = self.streams.into_iter().map(Queue::new).collect();
        let state = State {
            queues,
            report: self.report,
            ..State::default()
        };
        let shared = Shared {
            plan: self.plan,
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        let mut merger = Merger {
            shared: &shared,
            services: &self.services,
            scanner,
            current: self.services.iter().map(|_| None).collect(),
            matched: 0,
        };
        let ended_early = thread::scope(|scope| {
            let _finish = Finish {
                shared: &shared,
                even_in_order: true,
            };
            let call_for_help = |scanner: &Scanner| {
                let threads = thread::available_parallelism().map_or(1, usize::from);
                for _ in 0..(threads - 1).min(HELPERS_MAX) {
                    let (shared, scanner) = (&shared, scanner.twin());
                    scope.spawn(move || help(shared, scanner));
                }
            };
            merger.run(self.limit, &call_for_help, visit).is_break()
        });
        let matched = merger.matched;
        let state = shared
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut report = state.report;
        report.matched = matched;
        report.ended_early = ended_early;
        (
            state.queues.into_iter().map(|queue| queue.stream).collect(),
            report,
        )
    }
}

/// What the threads share.
struct Shared<'q> {
    plan: &'q Plan,
    state: Mutex<State>,
    /// A chunk is scanned, or there is room for more hits, or it is over.
    changed: Condvar,
}

impl Shared<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere ends the query by itself, when the scope joins.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    queues: Vec<Queue>,
    held_bytes: usize,
    /// Memory of hits that were handed out.
    spare: Vec<Buffer>,
    report: QueryReport,
    is_finished: bool,
}

/// A service's chunks that are being scanned or wait for the merge, and the stream they come from.
struct Queue {
    stream: Stream,
    slots: VecDeque<Slot>,
    /// Slots that have left the front, so that a slot has a number that stays.
    taken: usize,
}

struct Slot {
    bound: u64,
    hits: Option<Hits>,
}

/// A chunk to scan and where its hits go.
struct Job {
    queue: usize,
    slot: usize,
    chunk: Chunk,
}

impl Queue {
    fn new(stream: Stream) -> Self {
        Queue {
            stream,
            slots: VecDeque::new(),
            taken: 0,
        }
    }
}

impl State {
    /// No hit of this service that was not taken yet sorts before this key.
    fn bound(&mut self, queue: usize, plan: &Plan) -> Option<u64> {
        let Queue { stream, slots, .. } = &mut self.queues[queue];
        match slots.front() {
            Some(slot) => Some(slot.bound),
            None => stream.bound(plan, &mut self.report),
        }
    }

    /// Takes the next chunk of a service for scanning.
    fn claim(&mut self, number: usize, plan: &Plan, scanner: &mut Scanner) -> Option<Job> {
        let queue = &mut self.queues[number];
        let chunk = queue.stream.next_chunk(plan, &mut self.report)?;
        queue.slots.push_back(Slot {
            bound: chunk.bound,
            hits: None,
        });
        if scanner.buffer.is_unused() {
            scanner.buffer = self.spare.pop().unwrap_or_default();
        }
        Some(Job {
            queue: number,
            slot: queue.taken + queue.slots.len() - 1,
            chunk,
        })
    }

    /// Takes the chunk, of all services, that the merge needs first; `None` if all are taken.
    fn claim_any(&mut self, plan: &Plan, scanner: &mut Scanner) -> Option<Job> {
        let State { queues, report, .. } = self;
        let streams = queues.iter_mut().map(|queue| &mut queue.stream).enumerate();
        let bounds =
            streams.filter_map(|(number, stream)| Some((stream.bound(plan, report)?, number)));
        let (_, number) = bounds.min()?;
        self.claim(number, plan, scanner)
    }

    fn complete(&mut self, queue: usize, slot: usize, hits: Hits) {
        self.held_bytes += hits.held_bytes();
        let queue = &mut self.queues[queue];
        let index = slot - queue.taken;
        queue.slots[index].hits = Some(hits);
    }

    /// Takes the hits of a service's next chunk, if it is scanned.
    fn take(&mut self, number: usize) -> Option<Hits> {
        let queue = &mut self.queues[number];
        let hits = queue.slots.front_mut()?.hits.take()?;
        queue.slots.pop_front();
        queue.taken += 1;
        queue.stream.add_tally(&hits.tally);
        self.held_bytes -= hits.held_bytes();
        self.report.text_bytes_read += hits.text_bytes_read;
        hits.damage
            .iter()
            .for_each(|damage| self.report.add_damage(damage.clone()));
        Some(hits)
    }
}

/// Ends the query for the other threads when it is dropped: at the end, or by a panic, after which
/// nobody would wake them.
struct Finish<'s, 'q> {
    shared: &'s Shared<'q>,
    even_in_order: bool,
}

impl Drop for Finish<'_, '_> {
    fn drop(&mut self) {
        if self.even_in_order || thread::panicking() {
            self.shared.lock().is_finished = true;
            self.shared.changed.notify_all();
        }
    }
}

/// What a helper does: scans ahead of the merge while there is room for hits.
fn help(shared: &Shared<'_>, mut scanner: Scanner) {
    let _finish = Finish {
        shared,
        even_in_order: false,
    };
    let mut state = shared.lock();
    while !state.is_finished {
        if state.held_bytes >= HELD_BYTES_MAX {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let Some(job) = state.claim_any(shared.plan, &mut scanner) else {
            return;
        };
        drop(state);
        let hits = scanner.scan(job.chunk);
        state = shared.lock();
        state.complete(job.queue, job.slot, hits);
        shared.changed.notify_all();
    }
}

/// The hits of a service that are being handed out.
struct Current {
    hits: Hits,
    next: usize,
}

struct Merger<'s, 'q> {
    shared: &'s Shared<'q>,
    services: &'s [&'s str],
    scanner: Scanner,
    current: Vec<Option<Current>>,
    matched: u64,
}

impl Merger<'_, '_> {
    fn run(
        &mut self,
        limit: Option<u64>,
        call_for_help: &dyn Fn(&Scanner),
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let plan = self.shared.plan;
        if limit == Some(0) {
            return ControlFlow::Break(());
        }
        let mut help = Some(call_for_help);
        let mut scanned_bytes = 0;
        // For each service the key of its next hit, or the bound of its next chunk.
        let mut heads: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        for queue in 0..self.services.len() {
            let bound = self.shared.lock().bound(queue, plan);
            heads.extend(bound.map(|bound| Reverse((bound, queue))));
        }
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((_, queue)) = *head;
            let next_key = match &mut self.current[queue] {
                Some(current) => {
                    self.matched += 1;
                    visit(current.hits.hit(current.next, self.services[queue]))?;
                    if limit.is_some_and(|limit| self.matched >= limit) {
                        return ControlFlow::Break(());
                    }
                    current.next += 1;
                    match current.next < current.hits.len() {
                        true => Some(plan.key(current.hits.time_ns(current.next))),
                        false => self.drop_current(queue),
                    }
                }
                None => {
                    if scanned_bytes >= ALONE_BYTES
                        && let Some(help) = help.take()
                    {
                        help(&self.scanner);
                    }
                    self.next_hits(queue, &mut scanned_bytes)
                }
            };
            match next_key {
                Some(next_key) => *head = Reverse((next_key, queue)),
                None => drop(PeekMut::pop(head)),
            }
        }
        ControlFlow::Continue(())
    }

    /// Gets the hits of a service's next chunk. Returns the key of the first, or the bound of what
    /// follows.
    fn next_hits(&mut self, queue: usize, scanned_bytes: &mut u64) -> Option<u64> {
        let Shared { plan, .. } = *self.shared;
        let hits = self.wait_for_hits(queue, scanned_bytes)?;
        if hits.len() == 0 {
            return self.shared.lock().bound(queue, plan);
        }
        let key = plan.key(hits.time_ns(0));
        self.current[queue] = Some(Current { hits, next: 0 });
        Some(key)
    }

    /// Gets a service's next chunk scanned: by whom has it, or else here and now. `None` if there
    /// is none.
    fn wait_for_hits(&mut self, queue: usize, scanned_bytes: &mut u64) -> Option<Hits> {
        let plan = self.shared.plan;
        let mut state = self.shared.lock();
        while !state.is_finished {
            if let Some(hits) = state.take(queue) {
                self.shared.changed.notify_all();
                return Some(hits);
            }
            let job = if state.queues[queue].slots.is_empty() {
                Some(state.claim(queue, plan, &mut self.scanner)?)
            } else if state.held_bytes < HELD_BYTES_MAX {
                // A helper has it. It is faster done than waited for, so take something else
                // meanwhile.
                state.claim_any(plan, &mut self.scanner)
            } else {
                None
            };
            if let Some(job) = job {
                drop(state);
                let hits = self.scanner.scan(job.chunk);
                *scanned_bytes += hits.text_bytes_read;
                state = self.shared.lock();
                state.complete(job.queue, job.slot, hits);
            } else {
                state = self
                    .shared
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        None
    }

    /// Gives back the memory of hits that are handed out. Returns the bound of what follows.
    fn drop_current(&mut self, queue: usize) -> Option<u64> {
        let buffer = self.current[queue]
            .take()
            .and_then(|current| current.hits.into_buffer());
        let mut state = self.shared.lock();
        state.spare.extend(buffer);
        state.bound(queue, self.shared.plan)
    }
}
