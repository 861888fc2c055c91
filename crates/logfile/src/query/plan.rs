//! The way through one service: its segments, and in them the chunks that can hold a hit, in
//! reading order.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::filter::Filter;
use super::scan::{Chunk, Keep};
use super::segment::{Block, Segment};
use super::{Order, QueryReport};
use crate::error::Error;
use crate::level::Level;
use crate::name::{CURRENT_LINK, SegmentId, list_segments};

/// The first chunk of a service, so that "the last few lines" reads little; each one after has
/// twice the size of the one before, up to the plan's limit.
const FIRST_CHUNK_BYTES: u64 = 64 << 10;
/// Segments that stay open after the survey. Those beyond are opened again when their turn comes.
pub(super) const SURVEYED_OPEN_MAX: usize = 64;

/// What all services of a query have in common.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) filter: Filter,
    pub(super) order: Order,
    pub(super) keep: Keep,
    pub(super) chunk_bytes_max: u64,
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
        match (&block.entry, self.order) {
            (None, _) => 0,
            (Some(entry), Order::Oldest) => entry.time_min_ns(),
            (Some(entry), Order::Newest) => self.key(entry.time_max_ns()),
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
    /// No hit in it sorts before this key; 0 where nobody looked.
    bound: u64,
    opened: Option<Arc<Segment>>,
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
        let waiting = |id| Waiting {
            id,
            is_open: open_from.is_some_and(|open| id >= open),
            bound: 0,
            opened: None,
        };
        let mut segments: Vec<Waiting> = list_segments(&dir)?.into_iter().map(waiting).collect();
        plan.in_order(&mut segments);
        Ok(Stream {
            dir,
            segments: segments.into(),
            chunks: VecDeque::new(),
            chunk_bytes: FIRST_CHUNK_BYTES,
            tally: [0; Level::COUNT],
        })
    }

    /// Leaves out the segments in front of this one.
    pub(super) fn start_at(&mut self, id: SegmentId, order: Order) {
        self.segments.retain(|waiting| match order {
            Order::Oldest => waiting.id >= id,
            Order::Newest => waiting.id <= id,
        });
    }

    /// Looks at every index ahead of time, for the bounds by which a merge knows what it need not
    /// read yet. `open_max` is how many more segments may stay open.
    pub(super) fn survey(&mut self, plan: &Plan, open_max: &mut usize, report: &mut QueryReport) {
        let dir = &self.dir;
        self.segments.retain_mut(|waiting| {
            let stays_open = *open_max > 0;
            *open_max = open_max.saturating_sub(1);
            // What is wrong with a segment that will be opened again is reported then.
            let mut unreported = QueryReport::default();
            let report = if stays_open {
                &mut *report
            } else {
                &mut unreported
            };
            let segment = Segment::open(dir, waiting.id, waiting.is_open, report);
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
        self.tally
            .iter_mut()
            .zip(counts)
            .for_each(|(sum, count)| *sum += count);
    }

    /// Opens segments until there is a chunk.
    fn fill(&mut self, plan: &Plan, report: &mut QueryReport) {
        while self.chunks.is_empty() {
            let Some(waiting) = self.segments.pop_front() else {
                return;
            };
            let segment = waiting.opened.or_else(|| {
                Segment::open(&self.dir, waiting.id, waiting.is_open, report).map(Arc::new)
            });
            if let Some(segment) = segment {
                self.cut_into_chunks(plan, &segment);
            }
        }
    }

    fn cut_into_chunks(&mut self, plan: &Plan, segment: &Arc<Segment>) {
        let mut numbers: Vec<usize> = (0..segment.blocks.len()).collect();
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
                        blocks,
                        bound,
                    });
                }
            }
        }
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
