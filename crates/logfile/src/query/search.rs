//! A search for text through everything that can hold it: all cores read and scan, and only the places of
//! the matches are kept.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::filter::Filter;
use super::segment::{Run, Segment, Service};
use super::{Hit, Order, QueryReport, stream};
use crate::error::Error;

/// More matches than this are not collected: the answer is streamed instead. 16 MiB of places.
const PLACES_MAX: usize = 500_000;
const THREADS_MAX: usize = 8;

/// Where a match lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    task: u32,
    start: u32,
    length: u32,
    time_ns: u64,
}

/// A piece of work: one run of one segment.
struct Task<'s> {
    service: &'s Service,
    segment: &'s Segment,
    run: Run,
}

/// What one thread found.
#[derive(Default)]
struct Found {
    places: Vec<Place>,
    text_bytes_read: u64,
    error: Option<Error>,
}

/// Runs the search; false where there are too many matches to collect them, and nothing has been visited.
pub(super) fn run(
    services: &[Service],
    filter: &Filter<'_>,
    order: Order,
    visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    report: &mut QueryReport,
) -> Result<bool, Error> {
    let mut tasks = Vec::new();
    for service in services {
        for segment in &service.segments {
            let runs = segment.large_runs()?;
            tasks.extend(runs.into_iter().map(|run| Task {
                service,
                segment,
                run,
            }));
        }
    }
    let Some(places) = collect(&tasks, filter, report)? else {
        return Ok(false);
    };
    visit_in_order(&tasks, places, order, visit, report)?;
    Ok(true)
}

/// The places of all matches in file order, or `None` where there are too many.
fn collect(
    tasks: &[Task<'_>],
    filter: &Filter<'_>,
    report: &mut QueryReport,
) -> Result<Option<Vec<Place>>, Error> {
    let next = AtomicUsize::new(0);
    let too_many = AtomicBool::new(false);
    let total = AtomicUsize::new(0);
    let work = || {
        let mut found = Found::default();
        let mut text = Vec::new();
        // ORDERING: Relaxed throughout; the counters only hand out work, and `scope` joins the results.
        while !too_many.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = tasks.get(number) else { break };
            if let Err(error) = task.segment.read(task.run, &mut text) {
                found.error = Some(error);
                break;
            }
            found.text_bytes_read += text.len() as u64;
            let before = found.places.len();
            filter.each_match(&text, |start, line, parsed| {
                found.places.push(Place {
                    task: number as u32,
                    start: start as u32,
                    length: line.len() as u32,
                    time_ns: parsed.time_ns,
                });
                true
            });
            let fresh = found.places.len() - before;
            if total.fetch_add(fresh, Ordering::Relaxed) + fresh > PLACES_MAX {
                too_many.store(true, Ordering::Relaxed);
            }
        }
        found
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(THREADS_MAX).min(tasks.len()).max(1);
    let all: Vec<Found> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = vec![work()];
        // A thread that panicked has nothing to give; its panic is ours.
        all.extend(others.into_iter().map(|other| match other.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
        all
    });
    let mut places = Vec::new();
    for found in all {
        if let Some(error) = found.error {
            return Err(error);
        }
        report.text_bytes_read += found.text_bytes_read;
        places.extend(found.places);
    }
    // ORDERING: Relaxed; all threads are joined.
    if too_many.load(Ordering::Relaxed) {
        return Ok(None);
    }
    places.sort_unstable_by_key(|place| (place.task, place.start));
    Ok(Some(places))
}

/// Merges the services by time, keeping file order within each, and reads each matching line once more.
fn visit_in_order(
    tasks: &[Task<'_>],
    places: Vec<Place>,
    order: Order,
    visit: &mut dyn FnMut(Hit<'_>) -> ControlFlow<()>,
    report: &mut QueryReport,
) -> Result<(), Error> {
    let mut queues: Vec<Vec<Place>> = Vec::new();
    let mut service: Option<*const Service> = None;
    for place in places {
        let of_place: *const Service = tasks[place.task as usize].service;
        if service != Some(of_place) {
            service = Some(of_place);
            queues.push(Vec::new());
        }
        if let Some(queue) = queues.last_mut() {
            queue.push(place);
        }
    }
    if order == Order::OldestFirst {
        queues.iter_mut().for_each(|queue| queue.reverse());
    }
    let mut text = Vec::new();
    loop {
        let fronts = queues
            .iter()
            .enumerate()
            .filter_map(|(at, queue)| Some((at, queue.last()?)));
        let next = match order {
            Order::OldestFirst => fronts.min_by_key(|(_, place)| place.time_ns),
            Order::NewestFirst => fronts.min_by_key(|(_, place)| std::cmp::Reverse(place.time_ns)),
        };
        let Some((at, &place)) = next else {
            return Ok(());
        };
        queues[at].pop();
        let task = &tasks[place.task as usize];
        let offset = task.run.offset + u64::from(place.start);
        task.segment.read(
            Run {
                offset,
                length: place.length.into(),
                crc: None,
            },
            &mut text,
        )?;
        if let Some(hit) = stream::hit(&task.service.name, task.segment, offset, &text) {
            report.matched += 1;
            if visit(hit).is_break() {
                return Ok(());
            }
        }
    }
}
