//! The way through one service: its segments, and in them the chunks that can hold a hit, in
//! reading order.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::filter::Filter;
use super::progress::Underway;
use super::scan::{Chunk, Keep};
use super::segment::{Block, Segment};
use super::{Order, QueryProgress, QueryReport};
use crate::error::{Damage, Error};
use crate::filters::{BlockSet, Contents, Covered, Filters};
use crate::level::Level;
use crate::name::{CURRENT_LINK, SegmentId, TextFile, list_text_files};

/// The first chunk of a service, so that "the last few lines" reads little; each one after has
/// twice the size of the one before, up to the plan's limit.
const FIRST_CHUNK_BYTES: u64 = 64 << 10;
/// Segments that stay open after the survey. Those beyond are opened again when their turn comes.
pub(super) const SURVEYED_OPEN_MAX: usize = 64;
/// Filters are asked on this many threads: more than there are processors, since a cold one waits for the disk.
const SIFTERS_MAX: usize = 8;
/// A thread pays from this many segments on.
const SIFTED_PER_THREAD: usize = 4;

/// Services whose filters are asked at once, where services are gone through one after the other.
pub(super) const SIFTED_SERVICES: usize = 64;

/// What all services of a query have in common.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) filter: Filter,
    pub(super) order: Order,
    pub(super) keep: Keep,
    pub(super) chunk_bytes_max: u64,
    pub(super) progress: Arc<QueryProgress>,
}

impl Plan {
    /// Where a time stands in the order of the answer: smaller comes first.
    pub(super) fn key(&self, time_ns: u64) -> u64 {
        match self.order {
            Order::Oldest => time_ns,
            Order::Newest => !time_ns,
        }
    }

    fn bound(&self, block: &Block) -> u64 {
        block.entry.as_ref().map_or(0, |entry| self.bound_of(entry))
    }

    fn bound_of(&self, contents: &impl Contents) -> u64 {
        match self.order {
            Order::Oldest => contents.time_min_ns(),
            Order::Newest => self.key(contents.time_max_ns()),
        }
    }

    fn admits(&self, block: &Block) -> bool {
        block
            .entry
            .as_ref()
            .is_none_or(|entry| self.filter.admits(entry))
    }

    /// Turns what is sorted by time into reading order.
    fn in_order<T>(&self, items: &mut [T]) {
        if self.order == Order::Newest {
            items.reverse();
        }
    }
}

/// A segment whose turn has not come.
#[derive(Debug)]
struct Waiting {
    id: SegmentId,
    is_open: bool,
    is_sealed: bool,
    /// No hit in it sorts before this key; 0 where nobody looked.
    bound: u64,
    opened: Option<Arc<Segment>>,
    /// What its filters said, once they were asked.
    sifted: Option<Sifted>,
}

/// What the filters of a segment say of a query.
#[derive(Debug)]
enum Sifted {
    /// There are none that can be believed.
    Nothing,
    /// It can hold a hit.
    Admitted {
        bound: u64,
        /// Only these blocks can; `None` for any.
        blocks: Option<BlockSet>,
        /// The text that the filters are made for.
        covers: Covered,
    },
    /// It holds no hit, or these, which are counted without reading it.
    Done([u64; Level::COUNT]),
}

/// Asks the filters of a segment, and says what is wrong with them.
fn sift(dir: &Path, id: SegmentId, plan: &Plan) -> (Sifted, Option<Damage>) {
    try_sift(dir, id, plan).map_or_else(
        |damage| (Sifted::Nothing, Some(damage)),
        |sifted| (sifted, None),
    )
}

fn try_sift(dir: &Path, id: SegmentId, plan: &Plan) -> Result<Sifted, Damage> {
    const NONE: Sifted = Sifted::Done([0; Level::COUNT]);
    let Some(mut filters) = Filters::open(dir, id)? else {
        return Ok(Sifted::Nothing);
    };
    if !plan.filter.admits(&filters) {
        return Ok(NONE);
    }
    if plan.keep == Keep::Tally
        && let Some(counts) = plan.filter.tally(&filters)
    {
        return Ok(Sifted::Done(counts));
    }
    let needles = plan.filter.needles();
    let blocks = match needles.is_empty() {
        true => None,
        false => Some(filters.blocks(needles)?),
    };
    Ok(match blocks {
        Some(blocks) if blocks.is_empty() => NONE,
        blocks => Sifted::Admitted {
            bound: plan.bound_of(&filters),
            blocks,
            covers: filters.covers(),
        },
    })
}

/// The streams of these services.
pub(super) fn new_streams(
    logs_dir: &Path,
    services: &[&str],
    plan: &Plan,
) -> Result<Vec<Stream>, Error> {
    let stream = |service: &&str| Stream::new(logs_dir.join(service), plan);
    services.iter().map(stream).collect()
}

/// The filters that are to be asked, and what they said.
struct Sifting<'q> {
    plan: &'q Plan,
    /// Stream, place in it, directory, segment.
    jobs: Vec<(usize, usize, &'q Path, SegmentId)>,
    next: AtomicUsize,
    done: Mutex<Vec<Answer>>,
}

/// Stream, place in it, what the filters said and what is wrong with them.
type Answer = (usize, usize, (Sifted, Option<Damage>));

impl Sifting<'_> {
    /// Asks until nothing is left, with the help of up to so many more threads. Each starts the next: where everything
    /// is in memory, the work is done before more than one or two of them have begun.
    fn work<'s>(&'s self, scope: &'s thread::Scope<'s, '_>, helpers: usize) {
        // ORDERING: Relaxed; only a number to share work by, what is done is under the lock.
        let left = self.jobs.len() - self.next.load(Ordering::Relaxed).min(self.jobs.len());
        if helpers > 0 && left >= 2 * SIFTED_PER_THREAD {
            scope.spawn(move || self.work(scope, helpers - 1));
        }
        // ORDERING: Relaxed; as above.
        let next = || self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed));
        while let Some(&(stream, place, dir, id)) = next() {
            let sifted = sift(dir, id, self.plan);
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((stream, place, sifted));
        }
    }
}

/// Asks the filters of all sealed segments ahead of time, on several threads where there are many.
pub(super) fn sift_ahead(streams: &mut [Stream], plan: &Plan, report: &mut QueryReport) {
    let mut jobs = Vec::new();
    for (stream, Stream { dir, segments, .. }) in streams.iter().enumerate() {
        for (place, waiting) in segments.iter().enumerate() {
            if waiting.is_sealed {
                jobs.push((stream, place, dir.as_path(), waiting.id));
            }
        }
    }
    let sifting = Sifting {
        plan,
        next: AtomicUsize::new(0),
        done: Mutex::new(Vec::with_capacity(jobs.len())),
        jobs,
    };
    thread::scope(|scope| sifting.work(scope, SIFTERS_MAX - 1));
    let done = sifting.done.into_inner();
    for (stream, place, (sifted, damage)) in done.unwrap_or_else(PoisonError::into_inner) {
        damage
            .into_iter()
            .for_each(|damage| report.add_damage(damage));
        if let Sifted::Admitted { bound, .. } = sifted {
            streams[stream].segments[place].bound = bound;
        }
        streams[stream].segments[place].sifted = Some(sifted);
    }
    streams.iter_mut().for_each(|stream| stream.drop_done(plan));
}

/// The chunks of one service, in reading order.
#[derive(Debug)]
pub(super) struct Stream {
    dir: PathBuf,
    segments: VecDeque<Waiting>,
    chunks: VecDeque<Chunk>,
    chunk_bytes: u64,
    /// Hits in blocks that the index could count.
    pub(super) tally: [u64; Level::COUNT],
}

impl Stream {
    /// Lists the segments of a service. Opens none.
    pub(super) fn new(dir: PathBuf, plan: &Plan) -> Result<Self, Error> {
        // The link before the list: a segment that is opened between the two is newer than the
        // link's.
        let open_from = open_segment(&dir);
        let waiting = |TextFile { id, is_sealed }| Waiting {
            id,
            is_open: open_from.is_some_and(|open| id >= open),
            is_sealed,
            bound: 0,
            opened: None,
            sifted: None,
        };
        let mut segments: Vec<Waiting> = list_text_files(&dir)?.into_iter().map(waiting).collect();
        plan.in_order(&mut segments);
        plan.progress.add_segments(segments.len());
        Ok(Stream {
            dir,
            segments: segments.into(),
            chunks: VecDeque::new(),
            chunk_bytes: FIRST_CHUNK_BYTES,
            tally: [0; Level::COUNT],
        })
    }

    /// Leaves out the segments in front of this one.
    pub(super) fn start_at(&mut self, id: SegmentId, plan: &Plan) {
        self.retain(plan, |waiting| match plan.order {
            Order::Oldest => waiting.id >= id,
            Order::Newest => waiting.id <= id,
        });
    }

    /// Those that are left out are done.
    fn retain(&mut self, plan: &Plan, keep: impl FnMut(&mut Waiting) -> bool) {
        let before = self.segments.len();
        self.segments.retain_mut(keep);
        plan.progress.add_done(before - self.segments.len());
    }

    /// Looks at every index ahead of time, for the bounds by which a merge knows what it need not
    /// read yet. `open_max` is how many more segments may stay open.
    pub(super) fn survey(&mut self, plan: &Plan, open_max: &mut usize, report: &mut QueryReport) {
        let dir = self.dir.clone();
        self.retain(plan, |waiting| {
            if let Some(Sifted::Admitted { .. }) = waiting.sifted {
                return true;
            }
            let stays_open = *open_max > 0;
            *open_max = open_max.saturating_sub(1);
            // What is wrong with a segment that will be opened again is reported then.
            let mut unreported = QueryReport::default();
            let report = if stays_open {
                &mut *report
            } else {
                &mut unreported
            };
            let segment = Segment::open(&dir, waiting.id, waiting.is_open, None, report);
            let blocks = segment.iter().flat_map(|segment| &segment.blocks);
            let bounds = blocks
                .filter(|block| plan.admits(block))
                .map(|block| plan.bound(block));
            waiting.bound = bounds.min().unwrap_or(u64::MAX);
            waiting.opened = segment.filter(|_| stays_open).map(Arc::new);
            waiting.opened.is_some() || !stays_open
        });
    }

    /// No hit that is still to come sorts before this key; `None` if none is to come.
    pub(super) fn bound(&mut self, plan: &Plan, report: &mut QueryReport) -> Option<u64> {
        self.fill(plan, report);
        self.chunks.front().map(|chunk| chunk.bound)
    }

    /// Takes the next chunk.
    pub(super) fn next_chunk(&mut self, plan: &Plan, report: &mut QueryReport) -> Option<Chunk> {
        self.fill(plan, report);
        self.chunks.pop_front()
    }

    /// Adds the hits of a chunk that was scanned.
    pub(super) fn add_tally(&mut self, counts: &[u64; Level::COUNT]) {
        add(&mut self.tally, counts);
    }

    /// Opens segments until there is a chunk.
    fn fill(&mut self, plan: &Plan, report: &mut QueryReport) {
        while self.chunks.is_empty() {
            let Some(waiting) = self.segments.pop_front() else {
                return;
            };
            // Done at the end of this turn, or with the last of its chunks.
            let underway = Underway::new(&plan.progress);
            let mut sifted = waiting.sifted;
            if waiting.is_sealed && sifted.is_none() {
                let (found, damage) = sift(&self.dir, waiting.id, plan);
                damage
                    .into_iter()
                    .for_each(|damage| report.add_damage(damage));
                sifted = Some(found);
            }
            let (admitted, covers) = match sifted {
                Some(Sifted::Done(counts)) => {
                    self.add_tally(&counts);
                    continue;
                }
                Some(Sifted::Admitted { blocks, covers, .. }) => (blocks, Some(covers)),
                _ => (None, None),
            };
            let Waiting { id, is_open, .. } = waiting;
            let segment = waiting.opened.or_else(|| {
                Segment::open(&self.dir, id, is_open, covers.as_ref(), report).map(Arc::new)
            });
            if let Some(segment) = segment {
                let blocks = admitted.filter(|_| {
                    covers.is_some_and(|covers| segment.admits_filters(&covers, report))
                });
                self.cut_into_chunks(plan, &segment, &underway, blocks.as_ref());
            }
        }
    }

    /// Takes out the segments that need not be read.
    fn drop_done(&mut self, plan: &Plan) {
        let mut tally = self.tally;
        self.retain(plan, |waiting| match &waiting.sifted {
            Some(Sifted::Done(counts)) => {
                add(&mut tally, counts);
                false
            }
            _ => true,
        });
        self.tally = tally;
    }

    fn cut_into_chunks(
        &mut self,
        plan: &Plan,
        segment: &Arc<Segment>,
        underway: &Arc<Underway>,
        admitted: Option<&BlockSet>,
    ) {
        let count = segment.blocks.len();
        let mut numbers: Vec<usize> = match admitted {
            Some(blocks) => blocks.iter().take_while(|&number| number < count).collect(),
            None => (0..count).collect(),
        };
        plan.in_order(&mut numbers);
        for number in numbers {
            let block = &segment.blocks[number];
            if !plan.admits(block) || (plan.keep == Keep::Tally && self.count_whole(plan, block)) {
                continue;
            }
            let bound = plan.bound(block);
            match self.chunks.back_mut() {
                Some(chunk) if touches(chunk, block) && length(chunk) < self.chunk_bytes => {
                    chunk.blocks = chunk.blocks.start.min(number)..chunk.blocks.end.max(number + 1);
                    chunk.bound = chunk.bound.min(bound);
                }
                last => {
                    if last.is_some() {
                        self.chunk_bytes = plan.chunk_bytes_max.min(self.chunk_bytes * 2);
                    }
                    let blocks = number..number + 1;
                    self.chunks.push_back(Chunk {
                        segment: segment.clone(),
                        underway: underway.clone(),
                        blocks,
                        bound,
                    });
                }
            }
        }
        underway.set_text(self.chunks.iter().map(length).sum());
        // Times may go back within a file: a bound speaks of everything that follows, too.
        let mut least = self
            .segments
            .iter()
            .map(|waiting| waiting.bound)
            .min()
            .unwrap_or(u64::MAX);
        for chunk in self.chunks.iter_mut().rev() {
            least = least.min(chunk.bound);
            chunk.bound = least;
        }
    }

    /// Counts a block by its index entry, if that can be done.
    fn count_whole(&mut self, plan: &Plan, block: &Block) -> bool {
        let Some(counts) = block
            .entry
            .as_ref()
            .and_then(|entry| plan.filter.tally(entry))
        else {
            return false;
        };
        self.add_tally(&counts);
        true
    }
}

fn add(tally: &mut [u64; Level::COUNT], counts: &[u64; Level::COUNT]) {
    let pairs = tally.iter_mut().zip(counts);
    pairs.for_each(|(sum, count)| *sum += count);
}

/// Whether the block goes on where the chunk ends, or ends where it starts: blocks that hold no
/// hit, and text that is no block, lie between others.
fn touches(chunk: &Chunk, block: &Block) -> bool {
    let range = chunk.range();
    block.offset == range.end || block.end() == range.start
}

fn length(chunk: &Chunk) -> u64 {
    let range = chunk.range();
    range.end - range.start
}

/// The segment that the link names. Without a link no segment is open: a copy, or a service that is
/// gone.
pub(super) fn open_segment(dir: &Path) -> Option<SegmentId> {
    let target = fs::read_link(dir.join(CURRENT_LINK)).ok()?;
    SegmentId::of_log_file(target.file_name().and_then(OsStr::to_str)?)
}
