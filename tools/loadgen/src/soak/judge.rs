//! What was said is compared with what was found.

use std::time::Duration;

use millpond_bus::{SourceStats, Stats};

use super::load::{EARS, KEYS, Kind, PARTS, Part, Promise, RULES};
use super::roles::{Acked, Told};
use super::samples::{OUTBOXES, objects};
use super::troupe::{Books, PLANTED_EPOCH, Place, Troupe};
use super::{Fate, Files, Options, REST_LIMIT, Report};
use crate::criteria::{Criterion, balance_criterion};
use crate::error::Error;
use crate::files::Numbers;
use crate::stage::counted_account;

/// What goes a second after the last of its kind has gone.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// Ends everything in order, and writes down what there is.
pub(super) fn end(
    troupe: &mut Troupe<'_>,
    place: &Place,
    report: &mut Report,
) -> Result<(), Error> {
    troupe.until("everybody is back", REST_LIMIT, |troupe| {
        Ok(troupe.is_whole())
    })?;
    troupe.end_publishers()?;
    let at_rest = |troupe: &mut Troupe<'_>| {
        let stats = troupe.bus.stats();
        let in_flight: u64 = stats.sources.iter().map(|source| source.in_flight).sum();
        Ok(in_flight == 0 && stats.lanes.is_empty())
    };
    // What keeps the rest from being looked at is told by itself.
    let rested = troupe.until("all lanes are empty and gone", REST_LIMIT, at_rest);
    troupe.end_readers()?;
    let gone = rested.and_then(|()| {
        troupe.until("nobody has an object any more", GONE_LIMIT, |troupe| {
            let names = objects(troupe.bus.name())?;
            Ok(names
                .iter()
                .all(|(name, _)| name == "control" || is_outbox(name)))
        })
    });
    troupe.end_consumer()?;
    let stats = troupe.bus.stats();
    report.text_bytes = stats.services.iter().map(|service| service.bytes).sum();
    report.segments = stats.services.iter().map(|service| service.segments).sum();
    let logged = PARTS.iter().filter(|part| is_logged(part));
    report.accounts = logged
        .map(|part| counted_account(part.label, sources(&stats, part)))
        .collect();
    report.fates = PARTS
        .iter()
        .map(|part| fate(part, &stats, &troupe.books))
        .collect();
    let in_flight: u64 = stats.sources.iter().map(|source| source.in_flight).sum();
    report.criteria.push(Criterion::new(
        format!("{in_flight} events in flight at rest"),
        in_flight == 0,
    ));
    report.criteria.extend(identities(&stats, &troupe.books));
    report.files = Files::verify(&place.logs())?;
    for (label, told) in &troupe.books.told {
        *report.lagged.entry((*label).to_owned()).or_default() += told.lagged;
    }
    for ((label, _), told) in &troupe.books.victims {
        *report.lagged.entry((*label).to_owned()).or_default() += told.lagged;
    }
    report.lagged.retain(|_, lagged| *lagged > 0);
    troupe.bus.remove()?;
    let left = objects(troupe.bus.name())?;
    report.criteria.push(Criterion::new(
        format!("{} objects left in shared memory: {left:?}", left.len()),
        left.is_empty(),
    ));
    gone
}

/// An outbox lasts as long as the bus; one that was planted does not.
fn is_outbox(name: &str) -> bool {
    let epoch = name.strip_prefix("outbox.");
    let epoch = epoch.and_then(|epoch| u64::from_str_radix(epoch, 16).ok());
    epoch.is_some_and(|epoch| epoch < PLANTED_EPOCH)
}

fn is_logged(part: &Part) -> bool {
    matches!(part.promise, Promise::Logged | Promise::LoggedOrDropped)
}

fn sources<'s>(stats: &'s Stats, part: &Part) -> impl Iterator<Item = &'s SourceStats> {
    let label = part.label;
    stats
        .sources
        .iter()
        .filter(move |source| source.label == label)
}

/// The witness of a part's events.
fn witness<'b>(part: &Part, books: &'b Books) -> Option<&'b Told> {
    let label = match part.promise {
        Promise::Logged | Promise::LoggedOrDropped => "witness-log",
        _ => {
            let class = part.event.split(':').next()?;
            let ear = EARS
                .iter()
                .find(|ear| ear.is_witness && ear.patterns.starts_with(class))?;
            ear.label
        }
    };
    books.told.get(label)
}

/// Incarnations of a publisher: the number of each, and what it acknowledged.
fn incarnations<'b>(part: &Part, books: &'b Books) -> impl Iterator<Item = (u64, &'b Acked)> {
    let label = part.label;
    books.acked.iter().filter_map(move |(key, acked)| {
        let number = key.strip_prefix(label)?.strip_prefix(' ')?;
        Some((number.parse().ok()?, acked))
    })
}

fn fate(part: &Part, stats: &Stats, books: &Books) -> Fate {
    let nothing = Told::default();
    let told = witness(part, books).unwrap_or(&nothing);
    let of = |key: &str| told.numbers.get(key).copied().unwrap_or_default();
    let sum = |number: fn(&SourceStats) -> u64| sources(stats, part).map(number).sum::<u64>();
    let mut fate = Fate {
        label: part.label.to_owned(),
        promise: format!("{:?}", part.promise),
        published: sum(|source| source.published),
        dropped: sum(|source| source.dropped.total()),
        ..Fate::default()
    };
    let mut last = None;
    for (number, acked) in incarnations(part, books) {
        fate.incarnations += 1;
        fate.acknowledged += acked.offered;
        last = last.max(Some((number, acked.offered, acked.flushed)));
        let numbers = of(&format!("{} {number}", part.label));
        if matches!(part.promise, Promise::Logged | Promise::Received) {
            fate.lost += numbers.lacks_of(acked.offered);
        }
    }
    let prefixes = match part.kind {
        Kind::Keys => (0..KEYS)
            .map(|key| format!("{}.{key} ", part.label))
            .collect(),
        _ => vec![format!("{} ", part.label)],
    };
    let all = told
        .numbers
        .iter()
        .filter(|(key, _)| prefixes.iter().any(|prefix| key.starts_with(prefix)));
    let (lines, again) = all.fold((0, 0), |(lines, again), (_, numbers): (_, &Numbers)| {
        (lines + numbers.lines, again + numbers.again)
    });
    fate.doubled = again;
    fate.arrived = match part.promise {
        // An aggregate does not say of whom.
        Promise::Aggregated => sum(|source| source.delivered),
        Promise::LastReceived => lines + sum(|source| source.coalesced),
        _ => lines,
    };
    match part.promise {
        Promise::LoggedOrDropped => {
            fate.lost = fate.published.saturating_sub(fate.dropped + lines);
            // Whoever died said less, never more.
            let at_least = fate.acknowledged.saturating_sub(fate.published);
            fate.lost += at_least;
        }
        // The newest value is there, whatever became of the others.
        Promise::LastReceived => {
            if let Some((number, offered, true)) = last {
                let names = Troupe::last_of(part, number, offered);
                let lacks = |(key, last): &(String, u64)| !of(key).is_last(*last);
                fate.lost = names.iter().filter(|name| lacks(name)).count() as u64;
            }
        }
        // What a witness missed and was told of is not lost.
        Promise::Received => fate.lost = fate.lost.saturating_sub(told.lagged),
        Promise::Logged | Promise::Aggregated => {}
    }
    fate
}

/// Accounts that span all publishers of a class.
fn identities(stats: &Stats, books: &Books) -> Vec<Criterion> {
    let nothing = Told::default();
    let mut criteria = Vec::new();
    for ear in EARS.iter().filter(|ear| ear.is_witness) {
        let told = books.told.get(ear.label).unwrap_or(&nothing);
        let sources = || {
            stats
                .sources
                .iter()
                .filter(|source| source.pattern == ear.patterns)
        };
        let delivered: u64 = sources().map(|source| source.delivered).sum();
        let coalesced: u64 = sources().map(|source| source.coalesced).sum();
        let (events, lagged) = (told.events, told.lagged);
        let (text, met) = if ear.patterns.starts_with("agg") {
            let text = format!(
                "aggregates stand for {} of {delivered} events, {lagged} aggregates missed",
                told.aggregated
            );
            (text, told.aggregated == delivered && lagged == 0)
        } else {
            let text = format!(
                "{}: {events} received + {lagged} missed and told + {coalesced} coalesced = {delivered} delivered",
                ear.patterns
            );
            (text, events + lagged + coalesced == delivered)
        };
        criteria.push(Criterion::new(text, met && delivered > 0));
    }
    let published: u64 = stats.sources.iter().map(|source| source.published).sum();
    let (delivered, dropped) = stats
        .sources
        .iter()
        .fold((0, 0), |(delivered, dropped), source| {
            (
                delivered + source.delivered,
                dropped + source.dropped.total(),
            )
        });
    criteria.push(Criterion::new(
        format!("{published} published = {delivered} delivered + {dropped} dropped"),
        published == delivered + dropped && published > 0,
    ));
    for label in ["witness-log", "follower"] {
        let told = books.told.get(label).unwrap_or(&nothing);
        let written: u64 = stats.sources.iter().map(|source| source.written).sum();
        criteria.push(Criterion::new(
            format!(
                "{label}: {} lines followed of {written} written, retention was ahead {} times",
                told.events, told.gone
            ),
            told.events == written && told.gone == 0,
        ));
        let again: u64 = told.numbers.values().map(|numbers| numbers.again).sum();
        criteria.push(Criterion::new(
            format!(
                "{label}: {again} lines again, {} lines of another form",
                told.damaged
            ),
            again == 0 && told.damaged == 0,
        ));
        let logged = PARTS.iter().filter(|part| is_logged(part));
        let dropped: u64 = logged
            .flat_map(|part| self::sources(stats, part))
            .map(|source| source.dropped.total())
            .sum();
        let gaps: u64 = told.gaps.values().sum();
        criteria.push(Criterion::new(
            format!("{label}: gap lines tell of {gaps} of {dropped} drops"),
            gaps == dropped,
        ));
    }
    let (again, damaged) = books
        .victims
        .values()
        .fold((0, 0), |(again, damaged), told| {
            let of_it: u64 = told.numbers.values().map(|numbers| numbers.again).sum();
            (again + of_it, damaged + told.damaged)
        });
    criteria.push(Criterion::new(
        format!(
            "{} subscribers that were killed and stopped: {again} events again, {damaged} damaged",
            books.victims.len()
        ),
        again + damaged == 0,
    ));
    criteria
}

pub(super) fn judge(report: &mut Report, options: &Options) {
    let sum = |of: fn(&Fate) -> u64| report.fates.iter().map(of).sum::<u64>();
    let (lost, doubled) = (sum(|fate| fate.lost), sum(|fate| fate.doubled));
    let lossless = report
        .fates
        .iter()
        .filter(|fate| fate.promise != "LoggedOrDropped");
    let dropped: u64 = lossless.map(|fate| fate.dropped).sum();
    let played = report.faults.iter().filter(|count| count.skipped.is_none());
    let unplayed = played.filter(|count| count.played == 0).count();
    let mut criteria = vec![
        Criterion::new(
            format!("{lost} events lost, {doubled} doubled"),
            lost + doubled == 0 && !report.fates.is_empty(),
        ),
        Criterion::new(
            format!("{dropped} events dropped where publishers wait"),
            dropped == 0,
        ),
        balance_criterion(&report.accounts),
        Criterion::new(
            format!("{} things that must not happen", report.failures.len()),
            report.failures.is_empty(),
        ),
        Criterion::new(
            format!(
                "{} of {} queries failed",
                report.queries.errors.len(),
                report.queries.asked
            ),
            report.queries.errors.is_empty(),
        ),
        Criterion::new(
            format!(
                "{} damaged places in {} segments",
                report.files.damage.len(),
                report.files.segments
            ),
            report.files.damage.is_empty() && report.files.segments > 0,
        ),
    ];
    if options.each_once {
        criteria.push(Criterion::new(
            format!("{unplayed} kinds of fault not played"),
            unplayed == 0,
        ));
    } else {
        // In a few seconds there is no first and last quarter.
        for course in report
            .courses
            .iter()
            .filter(|course| course.growth_limit.is_some())
        {
            criteria.push(Criterion::new(
                format!(
                    "{}: {:.0} in the first quarter, {:.0} in the last, may grow by {:.0}",
                    course.name,
                    course.first_quarter,
                    course.last_quarter,
                    course.growth_limit.unwrap_or_default()
                ),
                course.is_flat(),
            ));
        }
    }
    for course in report
        .courses
        .iter()
        .filter(|course| course.name == OUTBOXES)
    {
        let last = course.last_quarter;
        criteria.push(Criterion::new(
            format!(
                "{last:.0} outboxes in the last quarter: one for each of {RULES} rules at most"
            ),
            last <= RULES as f64,
        ));
    }
    criteria.append(&mut report.criteria);
    report.criteria = criteria;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(label: &'static str, numbers: &[(&str, &[u64])]) -> Books {
        let mut told = Told::default();
        for (key, list) in numbers {
            let mut seen = Numbers::default();
            list.iter().for_each(|&number| seen.add(number));
            told.numbers.insert((*key).to_owned(), seen);
        }
        let mut books = Books::default();
        books.told.insert(label, told);
        books
    }

    fn no_stats() -> Stats {
        Stats {
            bus: String::new(),
            time_ns: 0,
            lanes_bytes: 0,
            lanes_bytes_limit: 0,
            consumer: None,
            lanes: Vec::new(),
            sources: Vec::new(),
            services: Vec::new(),
            subscribers: Vec::new(),
        }
    }

    fn acked(offered: u64) -> Acked {
        Acked {
            offered,
            dropped: 0,
            flushed: true,
        }
    }

    fn fate_of(label: &str, books: &Books) -> Fate {
        let part = PARTS.iter().find(|part| part.label == label);
        fate(part.expect("a publisher"), &no_stats(), books)
    }

    #[test]
    fn what_was_acknowledged_and_is_nowhere_is_lost() {
        let mut books = books(
            "witness-log",
            &[("web-a 0", &[0, 1, 3]), ("web-a 1", &[0, 1, 1])],
        );
        books.acked.insert("web-a 0".to_owned(), acked(5));
        books.acked.insert("web-a 1".to_owned(), acked(2));
        books.acked.insert("web-a 2".to_owned(), acked(3));
        let fate = fate_of("web-a", &books);
        assert_eq!((fate.lost, fate.doubled, fate.incarnations), (2 + 3, 1, 3));
    }

    #[test]
    fn what_came_though_nobody_acknowledged_it_is_not_lost() {
        let mut books = books("witness-pass", &[("pass-a 0", &[0, 1, 2])]);
        books.acked.insert("pass-a 0".to_owned(), acked(1));
        assert_eq!(fate_of("pass-a", &books).lost, 0);
    }

    #[test]
    fn what_a_witness_missed_and_was_told_of_is_not_lost() {
        let mut books = books("witness-batch", &[("batch-a 0", &[3, 4])]);
        books.acked.insert("batch-a 0".to_owned(), acked(5));
        assert_eq!(fate_of("batch-a", &books).lost, 3);
        books.told.entry("witness-batch").or_default().lagged = 3;
        assert_eq!(fate_of("batch-a", &books).lost, 0);
    }

    #[test]
    fn the_last_value_of_each_name_has_to_come() {
        let keys: Vec<String> = (0..KEYS).map(|key| format!("con-a.{key} 0")).collect();
        let last: Vec<u64> = (8..16).collect();
        let seen: Vec<(&str, &[u64])> = (keys.iter().zip(&last))
            .map(|(key, number)| (key.as_str(), std::slice::from_ref(number)))
            .collect();
        let mut books = books("witness-conflate", &seen);
        books.acked.insert("con-a 0".to_owned(), acked(16));
        assert_eq!(fate_of("con-a", &books).lost, 0);
        books.acked.insert("con-a 0".to_owned(), acked(17));
        assert_eq!(fate_of("con-a", &books).lost, 1);
    }
}
