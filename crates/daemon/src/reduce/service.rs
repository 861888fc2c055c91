//! The reduction of one service: what came last, what is counted, and when that is told.

use millpond_bus::{Untold, Verdict};
use millpond_logfile::{Level, Source, Told};

use super::bucket::Bucket;
use super::settings::Reduction;

/// A run that goes on is told after the first of these, then after twice that, up to the second: whoever waits for
/// an event that repeats the one before it has it soon, and a long run makes few lines.
const REPEATS_NS_MIN: u64 = 100_000_000;
const REPEATS_NS_MAX: u64 = 10_000_000_000;
/// While lines are over a rate limit, it is told this often.
const OVER_LIMIT_NS: u64 = 1_000_000_000;
/// While lines are sampled, it is told this often.
const SAMPLED_NS: u64 = 10_000_000_000;
/// A longer message is not remembered, so that it is written however often it comes.
pub(crate) const REMEMBERED_BYTES_MAX: usize = 4 << 10;
/// Sources with a record that is to be continued, per service. Where more begin one, the oldest counts as ended.
const OPEN_RECORDS_MAX: usize = 64;
/// A source that ends so has a record that the next one of the source continues.
const CONTINUED: u8 = b'+';

/// Where the lines of one service go.
pub(crate) trait Lines {
    fn append(&mut self, time_ns: u64, level: Level, source: &Source, message: &[u8]);
}

/// A record on its way into the log.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) time_ns: u64,
    pub(crate) level: Level,
    pub(crate) source: &'a Source,
    pub(crate) message: &'a [u8],
}

/// Records that stand in no line.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Tally {
    #[inline]
    fn add(&mut self, time_ns: u64) {
        if self.count == 0 {
            self.first_ns = time_ns;
        }
        self.count += 1;
        // Times of one service may step back a little.
        self.last_ns = self.last_ns.max(time_ns);
    }
}

/// The last line of the service.
#[derive(Debug)]
struct Last {
    is_known: bool,
    level: Level,
    source: Vec<u8>,
    message: Vec<u8>,
}

impl Last {
    /// The length first: most lines differ there already.
    #[inline]
    fn is(&self, entry: &Entry<'_>) -> bool {
        self.is_known
            && self.message.len() == entry.message.len()
            && self.level == entry.level
            && self.message == entry.message
            && self.source == entry.source.token()
    }

    #[inline]
    fn remember(&mut self, entry: &Entry<'_>) {
        self.is_known = entry.message.len() <= REMEMBERED_BYTES_MAX;
        if !self.is_known {
            return;
        }
        self.level = entry.level;
        self.message.clear();
        self.message.extend_from_slice(entry.message);
        self.source.clear();
        self.source.extend_from_slice(entry.source.token());
    }
}

/// What reduction knows of one service.
#[derive(Debug)]
pub(crate) struct ServiceState {
    settings: Reduction,
    last: Last,
    repeats: Tally,
    /// How long the run that goes on is counted before that is told.
    repeats_wait_ns: u64,
    suppressed: Tally,
    suppressed_due_ns: u64,
    bucket: Option<Bucket>,
    /// Records below WARN that were asked for a place in the sample.
    sampled: u64,
    /// Sources of which a record is to be continued, without the mark.
    open_records: Vec<Vec<u8>>,
    /// More is to be done than comparing with the last line.
    is_slow: bool,
    /// What is told or untold has changed since the last `take_change`.
    pub(crate) has_changed: bool,
    redacted: u64,
    /// Two, since one redaction reads what the other wrote.
    scratch: [Vec<u8>; 2],
    message: Vec<u8>,
}

impl ServiceState {
    pub(crate) fn new(settings: &Reduction) -> Self {
        let mut state = ServiceState {
            settings: Reduction::none(),
            last: Last {
                is_known: false,
                level: Level::Info,
                source: Vec::new(),
                message: Vec::new(),
            },
            repeats: Tally::default(),
            repeats_wait_ns: REPEATS_NS_MIN,
            suppressed: Tally::default(),
            suppressed_due_ns: 0,
            bucket: None,
            sampled: 0,
            open_records: Vec::new(),
            is_slow: false,
            has_changed: false,
            redacted: 0,
            scratch: Default::default(),
            message: Vec::new(),
        };
        state.set(settings);
        state
    }

    /// Goes by these settings from the next record on. What is counted stays counted.
    pub(crate) fn configure(&mut self, settings: &Reduction, own: &Source, lines: &mut impl Lines) {
        if !settings.repeats {
            // The next line would not end it.
            self.end_run(own, lines);
        }
        self.set(settings);
    }

    fn set(&mut self, settings: &Reduction) {
        if self.settings.rate_limit != settings.rate_limit {
            self.bucket = settings.rate_limit.map(Bucket::new);
        }
        self.settings.clone_from(settings);
        if !settings.repeats {
            self.last.is_known = false;
        }
        self.note_speed();
    }

    fn note_speed(&mut self) {
        self.is_slow = self.bucket.is_some()
            || self.sample().is_some()
            || !self.settings.redact.is_empty()
            || !self.open_records.is_empty();
    }

    fn sample(&self) -> Option<u64> {
        let sample = self.settings.sample.filter(|&sample| sample > 1)?;
        Some(sample.into())
    }

    /// Writes the record, or counts it.
    #[inline]
    pub(crate) fn take(
        &mut self,
        entry: Entry<'_>,
        own: &Source,
        lines: &mut impl Lines,
    ) -> Verdict {
        if self.is_slow || entry.source.token().last() == Some(&CONTINUED) {
            return self.take_slowly(entry, own, lines);
        }
        if self.settings.repeats {
            if self.last.is(&entry) {
                self.repeats.add(entry.time_ns);
                self.has_changed = true;
                return Verdict::Coalesce;
            }
            if self.repeats.count > 0 {
                self.tell_repeats(own, lines);
            }
            self.last.remember(&entry);
        }
        lines.append(entry.time_ns, entry.level, entry.source, entry.message);
        Verdict::Keep
    }

    /// With everything that can be asked for.
    #[inline(never)]
    fn take_slowly(&mut self, entry: Entry<'_>, own: &Source, lines: &mut impl Lines) -> Verdict {
        let mut scratch = std::mem::take(&mut self.scratch);
        let message = self.redact(entry.message, &mut scratch);
        let verdict = self.reduce(Entry { message, ..entry }, own, lines);
        self.scratch = scratch;
        verdict
    }

    fn redact<'a>(&mut self, message: &'a [u8], scratch: &'a mut [Vec<u8>; 2]) -> &'a [u8] {
        let [read, write] = scratch;
        let (mut read, mut write) = (read, write);
        let mut is_changed = false;
        for redaction in &self.settings.redact {
            write.clear();
            let count = match is_changed {
                true => redaction.replace(read, write),
                false => redaction.replace(message, write),
            };
            if count > 0 {
                self.redacted += count;
                self.has_changed = true;
                is_changed = true;
                std::mem::swap(&mut read, &mut write);
            }
        }
        if is_changed { read } else { message }
    }

    fn reduce(&mut self, entry: Entry<'_>, own: &Source, lines: &mut impl Lines) -> Verdict {
        if self.is_part(entry.source.token()) {
            // Half a record would be worse than one too many.
            if let Some(bucket) = &mut self.bucket {
                bucket.charge(entry.time_ns);
            }
            self.end_run(own, lines);
            self.last.is_known = false;
            lines.append(entry.time_ns, entry.level, entry.source, entry.message);
            return Verdict::Keep;
        }
        // A repeat costs the log nothing, and so neither a place in the sample nor in the limit.
        if self.settings.repeats && self.last.is(&entry) {
            self.repeats.add(entry.time_ns);
            self.has_changed = true;
            return Verdict::Coalesce;
        }
        if let Some(sample) = self.sample()
            && entry.level < Level::Warn
        {
            let place = self.sampled % sample;
            self.sampled += 1;
            if place != 0 {
                return self.suppress(entry.time_ns, SAMPLED_NS);
            }
        }
        if let Some(bucket) = &mut self.bucket
            && !bucket.take(entry.time_ns)
        {
            return self.suppress(entry.time_ns, OVER_LIMIT_NS);
        }
        self.end_run(own, lines);
        if self.settings.repeats {
            self.last.remember(&entry);
            self.repeats_wait_ns = REPEATS_NS_MIN;
        }
        lines.append(entry.time_ns, entry.level, entry.source, entry.message);
        Verdict::Keep
    }

    /// Whether a record of this source is continued, or continues one.
    fn is_part(&mut self, token: &[u8]) -> bool {
        let open = |source: &[u8], of: &[Vec<u8>]| of.iter().position(|known| known == source);
        let Some(source) = token.strip_suffix(&[CONTINUED]) else {
            let found = open(token, &self.open_records);
            if let Some(at) = found {
                self.open_records.remove(at);
                self.note_speed();
            }
            return found.is_some();
        };
        if open(source, &self.open_records).is_none() {
            if self.open_records.len() == OPEN_RECORDS_MAX {
                self.open_records.remove(0);
            }
            self.open_records.push(source.to_vec());
            self.note_speed();
        }
        true
    }

    fn suppress(&mut self, time_ns: u64, told_every_ns: u64) -> Verdict {
        let due_ns = time_ns.saturating_add(told_every_ns);
        self.suppressed_due_ns = match self.suppressed.count {
            0 => due_ns,
            _ => self.suppressed_due_ns.min(due_ns),
        };
        self.suppressed.add(time_ns);
        self.has_changed = true;
        Verdict::Suppress
    }

    fn end_run(&mut self, own: &Source, lines: &mut impl Lines) {
        if self.repeats.count > 0 {
            self.tell_repeats(own, lines);
        }
    }

    #[cold]
    fn tell_repeats(&mut self, own: &Source, lines: &mut impl Lines) {
        let Tally {
            count,
            first_ns,
            last_ns,
        } = std::mem::take(&mut self.repeats);
        let told = Told::Repeat {
            source: &self.last.source,
            count,
            first_ns,
            last_ns,
        };
        self.message.clear();
        told.write(&mut self.message);
        lines.append(last_ns, self.last.level, own, &self.message);
        self.has_changed = true;
    }

    fn tell_suppressed(&mut self, own: &Source, lines: &mut impl Lines) {
        let Tally {
            count,
            first_ns,
            last_ns,
        } = std::mem::take(&mut self.suppressed);
        let told = Told::Suppressed {
            count,
            first_ns,
            last_ns,
        };
        self.message.clear();
        told.write(&mut self.message);
        lines.append(last_ns, Level::Warn, own, &self.message);
        self.has_changed = true;
    }

    /// When something that is counted is to be told, if anything is.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        let repeats = (self.repeats.count > 0).then(|| self.repeats_due_ns());
        let suppressed = (self.suppressed.count > 0).then_some(self.suppressed_due_ns);
        repeats.into_iter().chain(suppressed).min()
    }

    fn repeats_due_ns(&self) -> u64 {
        self.repeats.first_ns.saturating_add(self.repeats_wait_ns)
    }

    /// Tells what is due; with `u64::MAX`, all.
    pub(crate) fn tell_due(&mut self, now_ns: u64, own: &Source, lines: &mut impl Lines) {
        if self.repeats.count > 0 && self.repeats_due_ns() <= now_ns {
            self.tell_repeats(own, lines);
            self.repeats_wait_ns = REPEATS_NS_MAX.min(self.repeats_wait_ns * 2);
        }
        if self.suppressed.count > 0 && self.suppressed_due_ns <= now_ns {
            self.tell_suppressed(own, lines);
        }
    }

    /// What an earlier consumer counted and did not come to tell. It is told with the next `tell_due`; the run
    /// that it is of is over.
    pub(crate) fn restore(&mut self, untold: &Untold) {
        self.repeats = Tally {
            count: untold.repeats,
            first_ns: untold.repeat_first_ns,
            last_ns: untold.repeat_last_ns,
        };
        self.suppressed = Tally {
            count: untold.suppressed,
            first_ns: untold.suppressed_first_ns,
            last_ns: untold.suppressed_last_ns,
        };
        self.suppressed_due_ns = 0;
        self.last.level = Level::from_u8(untold.repeat_level);
        self.last.source = untold.repeat_source.clone().into_bytes();
        self.has_changed = true;
    }

    /// What has changed since the last call: what is untold now, and how much was redacted meanwhile.
    pub(crate) fn take_change(&mut self) -> Option<(Untold, u64)> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        let mut untold = Untold {
            suppressed: self.suppressed.count,
            suppressed_first_ns: self.suppressed.first_ns,
            suppressed_last_ns: self.suppressed.last_ns,
            ..Untold::default()
        };
        if self.repeats.count > 0 {
            untold.repeats = self.repeats.count;
            untold.repeat_first_ns = self.repeats.first_ns;
            untold.repeat_last_ns = self.repeats.last_ns;
            untold.repeat_level = self.last.level as u8;
            // A token is ASCII.
            untold.repeat_source = String::from_utf8_lossy(&self.last.source).into_owned();
        }
        Some((untold, std::mem::take(&mut self.redacted)))
    }
}
