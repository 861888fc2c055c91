//! The answer as records: `repeat` lines are given as what they count, and other lines of the daemon are left out.
//!
//! A `repeat` line has the level of the line that repeats, and names its source. So it is among the lines that are
//! searched for, if that line is, and the last one of them in front of it is that line. Only what a message must hold
//! does not stand in it: where there are such conditions and `repeat` lines, they are looked at here.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::{Hit, LineMatcher, Order, Query, QueryReport, Reader, SourcePattern};
use crate::error::Error;
use crate::follow::LogPosition;
use crate::line::parse_line;
use crate::told::Told;
use crate::unfold::{LastLine, LeftOut, Repeat};

/// As [`Reader::run`] of a query that unfolds.
pub(super) fn run(
    reader: &Reader,
    query: &Query,
    visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
) -> Result<QueryReport, Error> {
    let own = SourcePattern {
        token: Told::SOURCE.to_vec(),
        is_prefix: false,
    };
    let mut wide = query.clone();
    wide.unfolds = false;
    wide.limit = None;
    if !wide.sources.is_empty() {
        wide.sources.push(own.clone());
    }
    let is_searched = !(wide.substrings.is_empty() && wide.regexes.is_empty());
    let is_wider = is_searched && has_repeats(reader, &wide, own)?;
    if is_wider {
        wide.substrings.clear();
        wide.regexes.clear();
    }
    let mut records = Records {
        logs_dir: &reader.logs_dir,
        sources: &query.sources,
        // A `repeat` line counts with all of its records at its own time, which is in the range.
        matcher: query.clone().at_any_time().matcher(),
        is_wider,
        order: query.order,
        left: query.limit.unwrap_or(u64::MAX),
        visit,
        matched: 0,
        left_out: LeftOut::default(),
        failed: None,
    };
    if records.left == 0 {
        return reader.run(&wide.limit(0), &mut |_| ControlFlow::Break(()));
    }
    let mut services: HashMap<String, Service> = HashMap::new();
    let mut report = reader.run(&wide, &mut |hit| {
        if !services.contains_key(hit.service) {
            services.insert(hit.service.to_owned(), Service::default());
        }
        match services.get_mut(hit.service) {
            Some(service) => records.add(service, &hit),
            None => ControlFlow::Continue(()),
        }
    })?;
    if !report.ended_early {
        report.ended_early = records.give_rest(services).is_break();
    }
    if let Some(error) = records.failed {
        return Err(error);
    }
    report.matched = records.matched;
    report.left_out = records.left_out;
    Ok(report)
}

/// Whether there is a `repeat` line that the answer may have to do with.
fn has_repeats(reader: &Reader, query: &Query, own: SourcePattern) -> Result<bool, Error> {
    let mut repeats = query.clone().limit(1);
    repeats.sources = vec![own];
    repeats.substrings = vec![b"repeat source=".to_vec()];
    repeats.regexes.clear();
    Ok(reader
        .run(&repeats, &mut |_| ControlFlow::Break(()))?
        .matched
        > 0)
}

/// A `repeat` line, and where it stands.
struct Placed {
    repeat: Repeat,
    position: LogPosition,
    line_bytes: usize,
    message: Vec<u8>,
    /// The line that repeats is the last one that is known.
    is_next: bool,
}

/// What is known of a service.
#[derive(Default)]
struct Service {
    last_line: LastLine,
    /// The newest first: lines in front of which the line that repeats did not come yet.
    waiting: Vec<Placed>,
}

/// Makes records of lines.
struct Records<'r, 'v> {
    logs_dir: &'r Path,
    sources: &'r [SourcePattern],
    matcher: LineMatcher,
    /// Lines come that not all conditions were asked of.
    is_wider: bool,
    order: Order,
    left: u64,
    visit: &'v mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    matched: u64,
    left_out: LeftOut,
    failed: Option<Error>,
}

impl Records<'_, '_> {
    fn add(&mut self, service: &mut Service, hit: &Hit<'_>) -> ControlFlow<()> {
        if hit.source == Told::SOURCE {
            return self.add_own(service, hit);
        }
        if self.order == Order::Oldest || !service.waiting.is_empty() {
            service.last_line.remember(hit.line, hit.position());
            self.give_waiting(service, hit.service)?;
        }
        match !self.is_wider || self.matcher.matches(hit.line) {
            true => self.give(hit, 1),
            false => ControlFlow::Continue(()),
        }
    }

    #[cold]
    fn add_own(&mut self, service: &mut Service, hit: &Hit<'_>) -> ControlFlow<()> {
        let position = hit.position();
        let is_next = service.last_line.is_in_front_of(position);
        let Some(repeat) = Repeat::read(hit.level, hit.source, hit.message) else {
            self.left_out.add(hit.message);
            service.last_line.pass(hit.line.len(), position);
            return ControlFlow::Continue(());
        };
        let is_wanted = self.sources.is_empty()
            || !repeat.is_source_whole()
            || (self.sources.iter()).any(|pattern| pattern.matches(&repeat.source));
        if !is_wanted {
            return ControlFlow::Continue(());
        }
        let placed = Placed {
            repeat,
            position,
            line_bytes: hit.line.len(),
            message: hit.message.to_vec(),
            is_next,
        };
        match self.order {
            Order::Oldest => {
                self.give_repeat(service, hit.service, &placed)?;
                service.last_line.pass(hit.line.len(), position);
                ControlFlow::Continue(())
            }
            Order::Newest => {
                service.waiting.push(placed);
                ControlFlow::Continue(())
            }
        }
    }

    /// The newest first, at the end: repeats of lines that are earlier than all that was asked for.
    fn give_rest(&mut self, services: HashMap<String, Service>) -> ControlFlow<()> {
        let mut services: Vec<_> = services.into_iter().collect();
        services.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, mut service) in services {
            service.last_line.forget();
            self.give_waiting(&mut service, &name)?;
        }
        ControlFlow::Continue(())
    }

    fn give_waiting(&mut self, service: &mut Service, name: &str) -> ControlFlow<()> {
        let mut waiting = std::mem::take(&mut service.waiting);
        for placed in waiting.iter_mut().rev() {
            placed.is_next = service.last_line.is_in_front_of(placed.position);
            service.last_line.pass(placed.line_bytes, placed.position);
        }
        for placed in waiting {
            self.give_repeat(service, name, &placed)?;
        }
        ControlFlow::Continue(())
    }

    fn give_repeat(
        &mut self,
        service: &mut Service,
        name: &str,
        placed: &Placed,
    ) -> ControlFlow<()> {
        let Placed {
            repeat,
            position,
            message,
            is_next,
            ..
        } = placed;
        let mut other_line = LastLine::default();
        let last_line = match self.order {
            // The last line known is still to be given, and what this one repeats may be another.
            Order::Newest if !is_next => &mut other_line,
            _ => &mut service.last_line,
        };
        let dir = self.logs_dir.join(name);
        match last_line.find(repeat, *is_next, &dir, *position) {
            Ok(true) => {}
            Ok(false) => {
                self.left_out.add(message);
                return ControlFlow::Continue(());
            }
            Err(error) => {
                self.failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        let first = (repeat.time_ns(0), repeat.count.min(1));
        let others = (repeat.time_ns(1), repeat.count.saturating_sub(1));
        let parts = match self.order {
            Order::Oldest => [first, others],
            Order::Newest => [others, first],
        };
        for (time_ns, count) in parts {
            let line = last_line.at(time_ns);
            if !self.matcher.matches(line) {
                continue;
            }
            let Ok(parsed) = parse_line(line) else {
                continue;
            };
            let hit = Hit {
                service: name,
                segment_id: position.segment_id,
                offset: position.offset,
                time_ns,
                level: parsed.level,
                source: parsed.source,
                message: parsed.message,
                line,
            };
            self.give(&hit, count)?;
        }
        ControlFlow::Continue(())
    }

    #[inline]
    fn give(&mut self, hit: &Hit<'_>, count: u64) -> ControlFlow<()> {
        for _ in 0..count {
            self.matched += 1;
            self.left -= 1;
            (self.visit)(*hit)?;
            if self.left == 0 {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}
