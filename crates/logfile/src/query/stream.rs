//! Answers in order, read block by block: one block of each service in memory at a time.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::filter::Filter;
use super::segment::{Run, Segment, Service};
use super::{Hit, Order, Query, QueryReport};
use crate::error::Error;
use crate::line::parse_line;

/// Merges the services by time and hands the lines out.
pub(super) fn run(
    services: &[Service],
    filter: &Filter<'_>,
    query: &Query,
    visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    report: &mut QueryReport,
) -> Result<(), Error> {
    let mut cursors = Vec::with_capacity(services.len());
    for service in services {
        let mut cursor = Cursor::new(service, query.order);
        if cursor.fill(filter, report)? {
            cursors.push(cursor);
        }
    }
    while let Some(next) = pick(&cursors, query.order) {
        report.matched += 1;
        let flow = cursors[next].visit_front(visit);
        if flow.is_break()
            || query
                .limit
                .is_some_and(|limit| report.matched >= limit as u64)
        {
            return Ok(());
        }
        if !cursors[next].advance(filter, report)? {
            cursors.remove(next);
        }
    }
    Ok(())
}

/// The service whose front line comes next. Ties go by name, which is the order of `cursors`.
fn pick(cursors: &[Cursor<'_>], order: Order) -> Option<usize> {
    let by_time = |a: &usize, b: &usize| -> Ordering {
        let (a, b) = (cursors[*a].front_time_ns(), cursors[*b].front_time_ns());
        if order == Order::OldestFirst {
            a.cmp(&b)
        } else {
            b.cmp(&a)
        }
    };
    (0..cursors.len()).min_by(by_time)
}

/// Where a match lies in the text in memory.
struct Match {
    start: u32,
    end: u32,
    time_ns: u64,
}

/// A walk through the matches of one service.
struct Cursor<'s> {
    service: &'s Service,
    order: Order,
    /// Segments not yet begun, the next one last.
    segments: Vec<&'s Segment>,
    segment: Option<&'s Segment>,
    /// Runs of `segment` not yet read, the next one last.
    runs: Vec<Run>,
    run_offset: u64,
    text: Vec<u8>,
    /// Matches in `text`, the next one last.
    matches: Vec<Match>,
}

impl<'s> Cursor<'s> {
    fn new(service: &'s Service, order: Order) -> Self {
        let mut segments: Vec<&Segment> = service.segments.iter().collect();
        if order == Order::OldestFirst {
            segments.reverse();
        }
        Cursor {
            service,
            order,
            segments,
            segment: None,
            runs: Vec::new(),
            run_offset: 0,
            text: Vec::new(),
            matches: Vec::new(),
        }
    }

    fn front_time_ns(&self) -> u64 {
        self.matches.last().map_or(0, |front| front.time_ns)
    }

    /// Steps to the next match; false at the end.
    fn advance(&mut self, filter: &Filter<'_>, report: &mut QueryReport) -> Result<bool, Error> {
        self.matches.pop();
        self.fill(filter, report)
    }

    /// Reads on until there is a match; false at the end.
    fn fill(&mut self, filter: &Filter<'_>, report: &mut QueryReport) -> Result<bool, Error> {
        while self.matches.is_empty() {
            let Some(segment) = self.segment else {
                let Some(segment) = self.segments.pop() else {
                    return Ok(false);
                };
                self.runs = segment.block_runs()?;
                if self.order == Order::OldestFirst {
                    self.runs.reverse();
                }
                self.segment = Some(segment);
                continue;
            };
            match self.runs.pop() {
                Some(run) => self.read_run(segment, run, filter, report)?,
                None => self.segment = None,
            }
        }
        Ok(true)
    }

    fn read_run(
        &mut self,
        segment: &Segment,
        run: Run,
        filter: &Filter<'_>,
        report: &mut QueryReport,
    ) -> Result<(), Error> {
        segment.read(run, &mut self.text)?;
        report.text_bytes_read += self.text.len() as u64;
        report
            .damage
            .extend(segment.checksum_damage(run, &self.text));
        self.run_offset = run.offset;
        let matches = &mut self.matches;
        filter.each_match(&self.text, |start, line, parsed| {
            let end = start + line.len();
            matches.push(Match {
                start: start as u32,
                end: end as u32,
                time_ns: parsed.time_ns,
            });
            true
        });
        if self.order == Order::OldestFirst {
            self.matches.reverse();
        }
        Ok(())
    }

    fn visit_front(&self, visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let (Some(front), Some(segment)) = (self.matches.last(), self.segment) else {
            return ControlFlow::Continue(());
        };
        let line = &self.text[front.start as usize..front.end as usize];
        match hit(
            &self.service.name,
            segment,
            self.run_offset + u64::from(front.start),
            line,
        ) {
            Some(hit) => visit(hit),
            None => ControlFlow::Continue(()),
        }
    }
}

/// The hit for a line that has matched.
pub(super) fn hit<'a>(
    service: &'a str,
    segment: &Segment,
    offset: u64,
    line: &'a [u8],
) -> Option<Hit<'a>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let parsed = parse_line(line).ok()?;
    Some(Hit {
        service,
        segment_id: segment.id,
        offset,
        time_ns: parsed.time_ns,
        level: parsed.level,
        source: parsed.source,
        message: parsed.message,
        line,
    })
}
