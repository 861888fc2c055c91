//! A disk that is simulated: of the files of a log directory, what a power cut may leave of them.
//!
//! What an acknowledgement covers stays. Text that was written behind it may be there or not, page by page, under any
//! length that the file has had; a segment whose text ends was synced before the next one began. An index is never
//! synced: any part of it may be there. A name that is new since the acknowledgement may be missing, the link to the
//! open segment always.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millpond_bus::{Bus, Guarantee, Publisher};
use millpond_daemon::{Daemon, Policy, SealPolicy, SyncPolicy};
use millpond_faultfs::{BLOCK_BYTES, Kept};
use millpond_logfile::{CURRENT_LINK, SegmentId, list_segments, list_services, read_index};

use super::check::{Counts, Ledger, Rules, examine};
use super::{BIRTHS_PER_CUT, FLUSH_LIMIT, FreshBus, ONE, Options, Report, SEGMENT_BYTES};
use super::{boot, choose};
use crate::day::Line;
use crate::error::Error;
use crate::random::Random;
use crate::stage::temporary;

/// Events of a source that are acknowledged before a cut, and those that are not, at most.
const BURST_EVENTS: u64 = 400;
/// Never while it runs: only an acknowledgement has text synced, and the end of a segment.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Publishers that take turns.
struct Sources {
    bus: Bus,
    publishers: Vec<Source>,
    ledger: Ledger,
    line: Line,
}

struct Source {
    key: (String, String),
    publisher: Publisher,
}

impl Sources {
    fn add(&mut self, service: &str, source: &str, times: u64) -> Result<(), Error> {
        let key = (service.to_owned(), source.to_owned());
        let counts = Counts {
            times,
            ..Counts::default()
        };
        self.ledger.insert(key.clone(), counts);
        let publisher = self.bus.publisher(source)?;
        self.publishers.push(Source { key, publisher });
        Ok(())
    }

    /// Some events of each of the sources, and how far they are to get.
    fn publish(&mut self, random: &mut Random, guarantee: Guarantee) -> Result<(), Error> {
        for Source { key, publisher } in &mut self.publishers {
            let counts = self.ledger.entry(key.clone()).or_default();
            let topic = publisher.topic(&format!("log:{}:{}", key.0, key.1))?;
            for _ in 0..random.below(BURST_EVENTS) {
                let (level, payload) = self.line.of(&key.1, counts.published);
                for _ in 0..counts.times {
                    publisher.publish(topic, level, payload)?;
                }
                counts.published += 1;
            }
        }
        for Source { key, publisher } in &mut self.publishers {
            publisher.flush(guarantee, Some(FLUSH_LIMIT))?;
            if guarantee == Guarantee::Durable {
                let counts = self.ledger.entry(key.clone()).or_default();
                counts.acknowledged = counts.published;
            }
        }
        Ok(())
    }
}

/// Plays it.
pub(super) fn run(
    options: &Options,
    report: &mut Report,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let mut random = Random::new(options.seed);
    let place = temporary(options.dir.as_deref())?;
    let logs = place.path().join("logs");
    let policy = Policy {
        sync: SyncPolicy::Interval(NEVER),
        segment_bytes_limit: SEGMENT_BYTES,
        total_bytes_limit: None,
        group_bytes_limit: SEGMENT_BYTES as usize,
        keep_free_bytes: Some(0),
        seal: SealPolicy::Never,
        ..Policy::default()
    };
    let bus = FreshBus::new()?;
    let running = Daemon::builder(&bus.0, &logs)
        .policy(policy.clone())
        .spawn()?;
    let mut sources = Sources {
        bus: bus.0.clone(),
        publishers: Vec::new(),
        ledger: Ledger::new(),
        line: Line::new(),
    };
    for (service, source, times) in [
        ("web", "web-0", 1),
        ("web", "web-1", 1),
        ("again", "thrice", 3),
    ] {
        sources.add(service, source, times)?;
    }
    for number in 0..options.cuts {
        progress(&format!(
            "power-cut: {number} of {}, simulated",
            options.cuts
        ));
        sources.publish(&mut random, Guarantee::Durable)?;
        let durable = lengths(&logs)?;
        for birth in 0..BIRTHS_PER_CUT {
            let service = format!("born-{}", number * BIRTHS_PER_CUT + birth);
            sources.add(&service, "child", 1)?;
        }
        sources.publish(&mut random, Guarantee::Written)?;
        let image = place.path().join("image");
        let kept = choose(&mut random);
        copy(&logs, &image, &durable, kept, &mut random)?;
        report.cuts += 1;
        *report.cuts_by_kept.entry(format!("{kept:?}")).or_default() += 1;
        let mut ledger = sources.ledger.clone();
        let (mut verdict, _) = boot(&image, policy.clone(), "after", report, |_| None::<()>)?;
        ledger.insert(("web".to_owned(), "after".to_owned()), ONE);
        let rules = Rules {
            generations: None,
            may_be_torn: true,
        };
        verdict += examine(&image, &ledger, rules)?;
        if !verdict.is_good() {
            report
                .verdict
                .note(format!("cut {}, {kept:?}:", report.cuts));
        }
        report.verdict += verdict;
        fs::remove_dir_all(&image)?;
        // Those that were born have done their part.
        sources.publishers.truncate(3);
    }
    let all = sources.ledger.values();
    report.published += all
        .map(|counts| counts.published * counts.times)
        .sum::<u64>();
    drop(sources);
    Ok(running.stop()?)
}

/// Length of each text.
fn lengths(logs: &Path) -> Result<BTreeMap<PathBuf, u64>, Error> {
    let mut lengths = BTreeMap::new();
    for service in list_services(logs)? {
        let dir = logs.join(&service);
        for id in list_segments(&dir)? {
            let path = id.log_path(&dir);
            let bytes = fs::metadata(&path)?.len();
            lengths.insert(path, bytes);
        }
    }
    Ok(lengths)
}

/// What the next boot finds. Nobody writes to `logs` meanwhile.
fn copy(
    logs: &Path,
    image: &Path,
    durable: &BTreeMap<PathBuf, u64>,
    kept: Kept,
    random: &mut Random,
) -> Result<(), Error> {
    fs::create_dir_all(image)?;
    for service in list_services(logs)? {
        let (from, to) = (logs.join(&service), image.join(&service));
        let ids = list_segments(&from)?;
        let Some((&open, closed)) = ids.split_last() else {
            continue;
        };
        let is_closed = read_index(&open.index_path(&from), Some(open))?.closed;
        // A segment is synced before it is marked closed, also the last one.
        let synced = match is_closed {
            true => Some(fs::metadata(open.log_path(&from))?.len()),
            false => durable.get(&open.log_path(&from)).copied(),
        };
        // A directory that no sync has seen may not be there, nor the segment.
        let is_there = match kept {
            Kept::Nothing => false,
            Kept::Everything => true,
            Kept::Prefix | Kept::Some => random.below(2) == 0,
        } || synced.is_some();
        if closed.is_empty() && !is_there {
            continue;
        }
        fs::create_dir(&to)?;
        for &id in closed {
            fs::copy(id.log_path(&from), id.log_path(&to))?;
            copy_index(&from, &to, id, kept, random)?;
        }
        if is_there {
            let text = fs::read(open.log_path(&from))?;
            let text = torn(text, synced.unwrap_or_default() as usize, kept, random);
            fs::write(open.log_path(&to), text)?;
        }
        // It may be there without its text too.
        copy_index(&from, &to, open, kept, random)?;
        if random.below(2) == 0 {
            let target = fs::read_link(from.join(CURRENT_LINK))?;
            std::os::unix::fs::symlink(target, to.join(CURRENT_LINK))?;
        }
    }
    Ok(())
}

/// What may be there of a file of which the first bytes are synced.
fn torn(mut bytes: Vec<u8>, synced: usize, kept: Kept, random: &mut Random) -> Vec<u8> {
    let more = (bytes.len() - synced) as u64;
    match kept {
        Kept::Everything => {}
        Kept::Nothing => bytes.truncate(synced),
        Kept::Prefix => bytes.truncate(synced + random.below(more + 1) as usize),
        Kept::Some => {
            let percent = 5 + random.below(91);
            let mut from = synced;
            while from < bytes.len() {
                let to = (from + 1).next_multiple_of(BLOCK_BYTES).min(bytes.len());
                if random.below(100) >= percent {
                    bytes[from..to].fill(0);
                }
                from = to;
            }
            if random.below(2) == 0 {
                bytes.truncate(synced + random.below(more + 1) as usize);
            }
        }
    }
    bytes
}

fn copy_index(
    from: &Path,
    to: &Path,
    id: SegmentId,
    kept: Kept,
    random: &mut Random,
) -> Result<(), Error> {
    let bytes = fs::read(id.index_path(from))?;
    if kept == Kept::Nothing && random.below(2) == 0 {
        return Ok(()); // not even its name
    }
    Ok(fs::write(id.index_path(to), torn(bytes, 0, kept, random))?)
}
