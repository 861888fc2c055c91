//! More services than can be merged side by side.
//!
//! A merge holds some text of every service, and an open file. With a hundred thousand services neither fits. So
//! the answer is made in passes: each goes through the services one after the other and keeps the lines that come
//! first in the answer, as many as fit into [`HELD_BYTES_MAX`]; these are handed out in order, and the next pass goes
//! on behind them. A pass does not read blocks that can hold no such line, so that the last few lines of all services
//! take one pass through their indexes.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::path::Path;

use super::plan::{Plan, SIFTED_SERVICES, Stream, new_streams, sift_ahead};
use super::scan::Scanner;
use super::{Hit, Order, QueryReport};
use crate::error::Error;
use crate::level::Level;
use crate::name::SegmentId;

/// Up to so many services are merged side by side.
pub(super) const MERGED_SERVICES_MAX: usize = 256;
/// Lines that a pass keeps.
const HELD_BYTES_MAX: usize = 16 << 20;

/// Where a line stands in the answer: its time in the order of the answer, its service, its number in there.
type Key = (u64, usize, u64);

/// A line that may come next.
struct Kept {
    key: Key,
    segment_id: SegmentId,
    offset: u64,
    time_ns: u64,
    level: Level,
    source_at: usize,
    message_at: usize,
    line: Box<[u8]>,
}

impl Kept {
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.line.len()
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

/// How far a service has been handed out.
#[derive(Debug, Clone, Copy)]
struct Resume {
    segment_id: SegmentId,
    offset: u64,
    /// No line behind it sorts before this.
    key: u64,
}

/// The lines of a pass.
struct Pass {
    kept: BinaryHeap<Kept>,
    held_bytes: usize,
    held_bytes_max: usize,
    lines_max: u64,
    /// Lines from this key on do not fit any more.
    cutoff: Option<Key>,
}

impl Pass {
    fn takes(&self, key: Key) -> bool {
        self.cutoff.is_none_or(|cutoff| key < cutoff)
    }

    fn keep(&mut self, kept: Kept) {
        self.held_bytes += kept.held_bytes();
        self.kept.push(kept);
        while self.kept.len() as u64 > self.lines_max
            || (self.held_bytes > self.held_bytes_max && self.kept.len() > 1)
        {
            let Some(last) = self.kept.pop() else { break };
            self.held_bytes -= last.held_bytes();
            self.cutoff = Some(last.key);
        }
    }
}

/// All that a wide query needs.
pub(super) struct Wide<'q> {
    pub(super) logs_dir: &'q Path,
    pub(super) plan: &'q Plan,
    /// In the order that decides between equal times.
    pub(super) services: &'q [&'q str],
    pub(super) limit: Option<u64>,
}

impl Wide<'_> {
    /// As `Merge::run`: the same lines in the same order.
    pub(super) fn run(
        &self,
        scanner: &mut Scanner,
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> Result<QueryReport, Error> {
        self.run_within(HELD_BYTES_MAX, scanner, visit)
    }

    fn run_within(
        &self,
        held_bytes_max: usize,
        scanner: &mut Scanner,
        visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    ) -> Result<QueryReport, Error> {
        let mut report = QueryReport::default();
        let mut resumes: Vec<Option<Resume>> = vec![None; self.services.len()];
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut is_first = true;
        loop {
            if left == 0 {
                report.ended_early = true;
                break;
            }
            let mut pass = Pass {
                kept: BinaryHeap::new(),
                held_bytes: 0,
                held_bytes_max,
                lines_max: left,
                cutoff: None,
            };
            let mut told = QueryReport::default();
            // With needles the filters are asked for many services at once. Without, they are cheap, and most are
            // not needed when little is wanted.
            let at_once = match self.plan.filter.needles().is_empty() {
                true => 1,
                false => SIFTED_SERVICES,
            };
            for services in (0..self.services.len()).step_by(at_once) {
                let services = services..self.services.len().min(services + at_once);
                let mut numbers: Vec<usize> = services.collect();
                let start = |service: usize| resumes[service].map_or(0, |resume| resume.key);
                numbers.retain(|&service| pass.takes((start(service), service, 0)));
                let names: Vec<&str> = numbers.iter().map(|&n| self.services[n]).collect();
                let mut streams = new_streams(self.logs_dir, &names, self.plan)?;
                for (stream, &service) in streams.iter_mut().zip(&numbers) {
                    if let Some(resume) = resumes[service] {
                        stream.start_at(resume.segment_id, self.plan);
                    }
                }
                if at_once > 1 {
                    sift_ahead(&mut streams, self.plan, &mut told);
                }
                for (stream, service) in streams.into_iter().zip(numbers) {
                    let resume = resumes[service];
                    self.pick(service, stream, resume, &mut pass, scanner, &mut told);
                }
            }
            take_report(&mut report, told, std::mem::take(&mut is_first));
            let has_more = pass.cutoff.is_some();
            for kept in pass.kept.into_sorted_vec() {
                let service = kept.key.1;
                resumes[service] = Some(Resume {
                    segment_id: kept.segment_id,
                    offset: kept.offset,
                    key: kept.key.0,
                });
                report.matched += 1;
                left -= 1;
                let message = &kept.line[kept.message_at..];
                let hit = Hit {
                    service: self.services[service],
                    segment_id: kept.segment_id,
                    offset: kept.offset,
                    time_ns: kept.time_ns,
                    level: kept.level,
                    source: &kept.line[kept.source_at..kept.message_at - 1],
                    message: message.strip_suffix(b"\n").unwrap_or(message),
                    line: &kept.line,
                };
                if visit(hit).is_break() {
                    report.ended_early = true;
                    return Ok(report);
                }
            }
            if !has_more {
                break;
            }
        }
        Ok(report)
    }

    /// Looks through what is left of one service for lines that come before all that does not fit.
    fn pick(
        &self,
        service: usize,
        mut stream: Stream,
        resume: Option<Resume>,
        pass: &mut Pass,
        scanner: &mut Scanner,
        report: &mut QueryReport,
    ) {
        let mut running = resume.map_or(0, |resume| resume.key);
        let mut number = 0;
        let is_done = |id: SegmentId, offset: u64| {
            resume.is_some_and(|resume| match self.plan.order {
                Order::Oldest => (id, offset) <= (resume.segment_id, resume.offset),
                Order::Newest => (id, offset) >= (resume.segment_id, resume.offset),
            })
        };
        while let Some(bound) = stream.bound(self.plan, report)
            && pass.takes((running.max(bound), service, number))
            && let Some(chunk) = stream.next_chunk(self.plan, report)
        {
            let range = chunk.range();
            // Its line that is handed out last.
            let last = match self.plan.order {
                Order::Oldest => range.end - 1,
                Order::Newest => range.start,
            };
            if is_done(chunk.segment.id, last) {
                continue;
            }
            let hits = scanner.scan(chunk);
            report.text_bytes_read += hits.text_bytes_read;
            hits.damage
                .iter()
                .for_each(|damage| report.add_damage(damage.clone()));
            for line in 0..hits.len() {
                let hit = hits.hit(line, "");
                if is_done(hit.segment_id, hit.offset) {
                    continue;
                }
                running = running.max(self.plan.key(hit.time_ns));
                let key = (running, service, number);
                if !pass.takes(key) {
                    break;
                }
                number += 1;
                let newline = usize::from(hit.line.ends_with(b"\n"));
                let message_at = hit.line.len() - newline - hit.message.len();
                pass.keep(Kept {
                    key,
                    segment_id: hit.segment_id,
                    offset: hit.offset,
                    time_ns: hit.time_ns,
                    level: hit.level,
                    source_at: message_at - 1 - hit.source.len(),
                    message_at,
                    line: hit.line.into(),
                });
            }
            scanner.buffer = hits.into_buffer().unwrap_or_default();
        }
    }
}

/// Adds what a pass has found. The passes after the first meet some things again.
fn take_report(report: &mut QueryReport, told: QueryReport, is_first: bool) {
    report.text_bytes_read += told.text_bytes_read;
    if is_first {
        report.unindexed_bytes = told.unindexed_bytes;
        report.damage_left_out = told.damage_left_out;
    }
    for damage in told.damage {
        if !report.damage.contains(&damage) {
            report.add_damage(damage);
        }
    }
    for path in told.deleted {
        if !report.deleted.contains(&path) {
            report.deleted.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::query::filter::Filter;
    use crate::query::scan::Keep;
    use crate::query::{Query, Reader};
    use crate::{BlockWriter, Source};

    /// Services whose lines interleave, go back in time now and then, and share times.
    fn logs() -> tempfile::TempDir {
        let logs = tempfile::tempdir().expect("a directory");
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        for service in 0..6 {
            let dir = logs.path().join(format!("service-{service}"));
            fs::create_dir(&dir).expect("a service");
            let mut time_ns = 1000;
            for segment in 0..3 {
                let (mut block, mut text) = (BlockWriter::new(), Vec::new());
                let id = SegmentId::from_ns(time_ns + 1);
                for _ in 0..25 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    time_ns = (time_ns + (random >> 60)).saturating_sub(random >> 56 & 7);
                    let message = format!("{service} {segment} {}", random >> 40);
                    block.append(
                        &mut text,
                        time_ns,
                        Level::Info,
                        &Source::new("s"),
                        message.as_bytes(),
                    );
                }
                fs::write(id.log_path(&dir), text).expect("a segment");
                time_ns += 100;
            }
        }
        logs
    }

    #[test]
    fn passes_hand_out_what_the_merge_does_however_little_they_hold() {
        let logs = logs();
        let reader = Reader::open(logs.path()).expect("logs");
        for order in [Order::Oldest, Order::Newest] {
            for limit in [None, Some(0), Some(1), Some(77)] {
                let mut query = Query::new().order(order);
                if let Some(limit) = limit {
                    query = query.limit(limit);
                }
                let mut expected = Vec::new();
                reader
                    .run(&query, &mut |hit| {
                        expected.push((
                            hit.service.to_owned(),
                            hit.segment_id,
                            hit.offset,
                            hit.line.to_vec(),
                        ));
                        ControlFlow::Continue(())
                    })
                    .expect("an answer");
                let plan = Plan {
                    filter: Filter::new(&query),
                    order,
                    keep: Keep::Lines,
                    chunk_bytes_max: 1 << 20,
                    progress: Default::default(),
                };
                let mut services: Vec<&str> =
                    reader.services().iter().map(String::as_str).collect();
                if order == Order::Newest {
                    services.reverse();
                }
                for held_bytes_max in [1, 3000, 100_000, HELD_BYTES_MAX] {
                    let wide = Wide {
                        logs_dir: logs.path(),
                        plan: &plan,
                        services: &services,
                        limit,
                    };
                    let mut scanner = Scanner::new(plan.filter.clone(), order, Keep::Lines, false);
                    let mut found = Vec::new();
                    let report = wide
                        .run_within(held_bytes_max, &mut scanner, &mut |hit| {
                            assert_eq!(hit.source, b"s");
                            found.push((
                                hit.service.to_owned(),
                                hit.segment_id,
                                hit.offset,
                                hit.line.to_vec(),
                            ));
                            ControlFlow::Continue(())
                        })
                        .expect("an answer");
                    assert!(found == expected, "{order:?} {limit:?} {held_bytes_max}");
                    assert_eq!(report.matched, expected.len() as u64);
                }
            }
        }
    }
}
