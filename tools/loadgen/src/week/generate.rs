//! Seven days of 24 services, written as a log directory: closed segments sealed, the last one of each service open.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millpond_logfile::{
    BlockWriter, CURRENT_LINK, IndexHeader, Level, SegmentId, Source, seal_segment,
};

use super::Options;
use crate::corpus::Corpus;
use crate::error::Error;
use crate::random::Random;

/// Appears in five lines of the week and nowhere else.
pub(super) const NEEDLE: &str = "needle=7f3a9c51e0";
pub(super) const NEEDLES: usize = 5;
/// One line in so many comes from the peer that is asked for.
pub(super) const PEERS: u64 = 20;
/// No service has more lines than this has digits for.
const SEQUENCE_DIGITS: usize = 20;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Week {
    /// Where the lines are from.
    pub(super) corpus: String,
    pub(super) services: Vec<String>,
    pub(super) lines: u64,
    pub(super) text_bytes: u64,
    pub(super) segments: u64,
    /// By [`Level::ALL`], over all services.
    pub(super) levels: [u64; Level::ALL.len()],
    /// Nothing is later.
    pub(super) end_ns: u64,
    /// A minute of service 3 in which there was an error.
    pub(super) error_minute_ns: u64,
    /// Ten minutes in which the peer that is asked for was there.
    pub(super) peer_minutes_ns: u64,
}

/// One service, as written.
#[derive(Debug, Default)]
struct Written {
    lines: u64,
    text_bytes: u64,
    segments: u64,
    levels: [u64; Level::ALL.len()],
    last_ns: u64,
    /// When there was an error from the peer that is asked for.
    asked_for_ns: Option<u64>,
}

pub(super) fn service_name(number: usize) -> String {
    format!("week-{number:02}")
}

/// The service whose last lines and errors are asked for.
pub(super) const ASKED_SERVICE: usize = 3;
/// The service that the regular expression is asked of.
pub(super) const REGEX_SERVICE: usize = 5;

/// Writes `text_bytes` of text, on all processors.
pub(super) fn generate(
    logs_dir: &Path,
    options: &Options,
    text_bytes: u64,
    now_ns: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<Week, Error> {
    let corpus = Corpus::open(options.corpus.as_deref(), options.seed)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let services = options.services;
    let share = text_bytes / services as u64;
    let done = AtomicU64::new(0);
    let next = AtomicU64::new(0);
    let results: Mutex<Vec<(usize, Result<Written, Error>)>> = Mutex::new(Vec::new());
    // A tenth more than the span, so that no line is later than now: those of the day are.
    let start_ns = now_ns - options.span.as_nanos() as u64 / 10 * 11;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let work = || {
            loop {
                // ORDERING: Relaxed; numbers that say only themselves.
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                if number >= services {
                    return;
                }
                let mut service = Service::new(&corpus, options, number, share, start_ns);
                let written = service.write(logs_dir, &done);
                let mut results = results
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                results.push((number, written));
            }
        };
        let workers: Vec<_> = (0..threads.min(services))
            .map(|_| scope.spawn(work))
            .collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            let bytes = done.load(Ordering::Relaxed);
            let percent = bytes * 100 / text_bytes.max(1);
            let per_second = bytes as f64 / started.elapsed().as_secs_f64() / 1e6;
            progress(&format!(
                "week: writing {}: {percent} % ({per_second:.0} MB/s)",
                crate::text::bytes(text_bytes)
            ));
            // Woken by nobody: a percentage more or less does not matter, half a second at the end does.
            for _ in 0..50 {
                if workers.iter().all(|worker| worker.is_finished()) {
                    break;
                }
                std::thread::sleep(PROGRESS_EVERY / 50);
            }
        }
    });
    let mut week = Week {
        corpus: corpus.origin.clone(),
        services: (0..services).map(service_name).collect(),
        ..Week::default()
    };
    let results = results
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    for (number, written) in results {
        let written = written?;
        week.lines += written.lines;
        week.text_bytes += written.text_bytes;
        week.segments += written.segments;
        week.end_ns = week.end_ns.max(written.last_ns + 1);
        for (sum, count) in week.levels.iter_mut().zip(written.levels) {
            *sum += count;
        }
        if number == ASKED_SERVICE {
            let missing = || Error::new("the size is too small: one service has no second half");
            let asked_for_ns = written.asked_for_ns.ok_or_else(missing)?;
            week.error_minute_ns = asked_for_ns / MINUTE_NS * MINUTE_NS;
            week.peer_minutes_ns = asked_for_ns / (10 * MINUTE_NS) * (10 * MINUTE_NS);
        }
    }
    Ok(week)
}

struct Service<'a> {
    name: String,
    lines: &'a [Vec<u8>],
    random: Random,
    segment_bytes: u64,
    level: i32,
    /// Text still to be written.
    wanted: u64,
    /// After so much text, a needle.
    needle: Option<u64>,
    start_ns: u64,
    span_ns: u64,
    sources: Vec<Source>,
    peers: Vec<Vec<u8>>,
    sequence: Sequence,
    message: Vec<u8>,
    written: Written,
}

/// A number that grows by one, kept as digits: most lines change the last of them and nothing else.
struct Sequence {
    digits: [u8; SEQUENCE_DIGITS],
    from: usize,
}

impl Sequence {
    fn new() -> Self {
        Sequence {
            digits: [b'0'; SEQUENCE_DIGITS],
            from: SEQUENCE_DIGITS - 1,
        }
    }

    fn digits(&self) -> &[u8] {
        &self.digits[self.from..]
    }

    fn grow(&mut self) {
        for at in (0..SEQUENCE_DIGITS).rev() {
            if self.digits[at] < b'9' {
                self.digits[at] += 1;
                self.from = self.from.min(at);
                return;
            }
            self.digits[at] = b'0';
        }
    }
}

impl<'a> Service<'a> {
    fn new(
        corpus: &'a Corpus,
        options: &Options,
        number: usize,
        wanted: u64,
        start_ns: u64,
    ) -> Self {
        let lines = corpus.of(number);
        let mut random = Random::new(options.seed.wrapping_add(number as u64 * 7919));
        // Services 1 to 5 have a needle each, all at different places.
        let has_needle = (1..=NEEDLES).contains(&number);
        let needle = has_needle.then(|| wanted / 10 + random.below(wanted / 2));
        Service {
            name: service_name(number),
            lines,
            segment_bytes: options.segment_bytes_at(wanted * options.services as u64),
            level: options.level,
            wanted,
            needle,
            // No two services have a line at the same nanosecond, so that all lines have one order.
            start_ns: start_ns / 1000 * 1000 + number as u64,
            span_ns: options.span.as_nanos() as u64,
            sources: ["app", "pty:out", "worker"].map(Source::new).to_vec(),
            random,
            peers: (0..PEERS)
                .map(|peer| format!(" peer=10.0.0.{peer}; seq=").into_bytes())
                .collect(),
            sequence: Sequence::new(),
            message: Vec::new(),
            written: Written::default(),
        }
    }

    fn write(&mut self, logs_dir: &Path, done: &AtomicU64) -> Result<Written, Error> {
        let dir = logs_dir.join(&self.name);
        fs::create_dir(&dir)?;
        let mut text = Vec::with_capacity(self.segment_bytes as usize + (64 << 10));
        while self.written.text_bytes < self.wanted {
            let id = SegmentId::from_ns(self.time_at(self.written.text_bytes));
            let mut block = BlockWriter::new();
            text.clear();
            while (text.len() as u64) < self.segment_bytes
                && self.written.text_bytes + (text.len() as u64) < self.wanted
            {
                self.line(&mut text, &mut block);
            }
            self.written.text_bytes += text.len() as u64;
            self.written.segments += 1;
            let is_open = self.written.text_bytes >= self.wanted;
            if !is_open {
                block.finish(&text);
            }
            fs::write(id.log_path(&dir), &text)?;
            let mut index = File::create(id.index_path(&dir))?;
            let mut bytes = IndexHeader::new(id, !is_open).to_bytes().to_vec();
            for entry in block.take_entries() {
                bytes.extend_from_slice(&entry.to_bytes());
            }
            index.write_all(&bytes)?;
            match is_open {
                true => symlink(format!("{id}.log"), dir.join(CURRENT_LINK))?,
                false => {
                    seal_segment(&dir, id, self.level, &mut || true)?;
                }
            }
            // ORDERING: Relaxed; a number for people.
            done.fetch_add(text.len() as u64, Ordering::Relaxed);
        }
        Ok(std::mem::take(&mut self.written))
    }

    /// When a service had written so much. As the text grows, so does the time: whatever the lengths of its lines
    /// are, all of it is written within the span.
    fn time_at(&self, text_bytes: u64) -> u64 {
        let share = u128::from(text_bytes) * u128::from(self.span_ns) / u128::from(self.wanted);
        self.start_ns + share as u64 / 1000 * 1000
    }

    fn line(&mut self, text: &mut Vec<u8>, block: &mut BlockWriter) {
        let so_far = self.written.text_bytes + text.len() as u64;
        let time_ns = self.time_at(so_far);
        let written = &mut self.written;
        let late = so_far > self.wanted / 2;
        let dice = self.random.below(1 << 32);
        // What is asked for is there at any size: the first of the later lines is an error, from the peer in question.
        let is_asked_for = late && written.asked_for_ns.is_none();
        let level = match dice % 100 {
            _ if is_asked_for => Level::Error,
            0 => Level::Error,
            1..=5 => Level::Warn,
            6..=15 => Level::Debug,
            _ => Level::Info,
        };
        let line = &self.lines[(dice >> 8) as usize % self.lines.len()];
        let peer = match is_asked_for {
            true => super::questions::PEER,
            false => (dice >> 3) % PEERS,
        };
        self.message.clear();
        self.message.extend_from_slice(line);
        self.message.extend_from_slice(&self.peers[peer as usize]);
        self.message.extend_from_slice(self.sequence.digits());
        self.sequence.grow();
        if self.needle.is_some_and(|needle| needle <= so_far) {
            self.needle = None;
            self.message.push(b' ');
            self.message.extend_from_slice(NEEDLE.as_bytes());
        }
        let source = &self.sources[(dice >> 20) as usize % self.sources.len()];
        block.append(text, time_ns, level, source, &self.message);
        if is_asked_for {
            written.asked_for_ns = Some(time_ns);
        }
        written.levels[level as usize] += 1;
        written.lines += 1;
        written.last_ns = time_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_the_number_that_it_has_grown_to() {
        let mut sequence = Sequence::new();
        for number in 0..12_345 {
            assert_eq!(sequence.digits(), number.to_string().as_bytes());
            sequence.grow();
        }
    }
}
