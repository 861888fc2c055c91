//! Replay, then live: events of persisted rules out of the log, from any point on, without end.
//!
//! The log of a service up to its committed length is the stream of its events: it never changes there,
//! whoever dies. So there is no seam between the past and the present, and nothing to join: what a
//! subscription reads is the same files, first far from their end, then at it. It never reads what is not
//! committed, so an event is seen once, also when the daemon is killed while it writes.
//!
//! An event that came again and again stands in the log as one line and a count, which reduction makes of it
//! unless told otherwise. It is given as often as it was published: of those that the count stands for, the first
//! and the last at their own times, and those between at the time of the last. The count is written when another
//! line follows, and while none does after 0.1 s, 0.2 s and so on, at last every 10 s: so long may an event take
//! that repeats the one before it.

mod names;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Level, Pattern};
use millpond_logfile::{CommittedEnd, Followed, Follower, Hit, LogPosition, Told, unescape};

pub use millpond_logfile::{Cursor, CursorError, Gone};

use self::names::{Named, Names};

/// Events taken from the files at a time.
const BATCH_EVENTS: usize = 1024;
/// Payload bytes taken at a time, but for the last event.
const BATCH_BYTES: usize = 1 << 20;
/// Lines looked at before a timeout or a stop is looked at again.
const BATCH_LINES: usize = 1 << 16;
/// The source of lines that tell of losses, and the service of those that belong to none.
const OUR_NAME: &str = "millpond";
/// Longest text about the consumer's log directory; a longer one was cut.
const LOGS_DIR_TEXT_BYTES: usize = 512;

/// Where a replay starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReplaySince {
    /// With the oldest line that retention has kept.
    #[default]
    Oldest,
    /// With the first event whose time is not before this, in nanoseconds since 1970.
    TimeNs(u64),
    /// Behind the last event that the subscription had given which this cursor was taken from.
    Cursor(Cursor),
}

/// What to replay, from where. [`Replay::open`] makes the subscription.
///
/// ```
/// use millpond::{Bus, BusOptions, Daemon, Guarantee, Level};
/// use millpond::replay::{Replay, Replayed, ReplaySince};
///
/// # let dir = tempfile::tempdir()?;
/// # let logs_dir = dir.path();
/// let bus = Bus::attach(&format!("doc-replay-{}", std::process::id()), &BusOptions::default())?;
/// let daemon = Daemon::builder(&bus, logs_dir).spawn()?;
/// let mut publisher = bus.publisher("web")?;
/// let topic = publisher.topic("log:web:rpc")?;
/// publisher.publish(topic, Level::Info, b"before")?;
/// publisher.flush(Guarantee::Written, None)?;
///
/// let mut subscription = Replay::new(&bus, logs_dir)
///     .pattern("log:web:*".parse()?)
///     .since(ReplaySince::Oldest)
///     .open()?;
/// publisher.publish(topic, Level::Info, b"after")?;
///
/// let mut payloads = Vec::new();
/// while payloads.len() < 2 {
///     if let Replayed::Event(event) = subscription.recv()? {
///         assert_eq!(&*event.name, "log:web:rpc");
///         payloads.push(event.payload);
///     }
/// }
/// assert_eq!(payloads, [b"before".to_vec(), b"after".to_vec()]);
/// println!("to go on later: {}", subscription.cursor());
/// # drop(publisher);
/// daemon.stop()?;
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Replay {
    bus: Bus,
    logs_dir: PathBuf,
    patterns: Vec<Pattern>,
    since: ReplaySince,
}

impl Replay {
    /// A replay of everything that the consumer of `bus` writes to `logs_dir`, from the oldest line on.
    pub fn new(bus: &Bus, logs_dir: &Path) -> Self {
        Replay {
            bus: bus.clone(),
            logs_dir: logs_dir.to_owned(),
            patterns: Vec::new(),
            since: ReplaySince::Oldest,
        }
    }

    /// Only events that this pattern matches, or another one that was given. Default: all.
    #[must_use]
    pub fn pattern(mut self, pattern: Pattern) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// Where to start. Default: [`ReplaySince::Oldest`].
    #[must_use]
    pub fn since(mut self, since: ReplaySince) -> Self {
        self.since = since;
        self
    }

    /// Opens it. Reads no log yet, and needs no daemon: without one it gives what is committed and waits.
    ///
    /// # Errors
    /// `OtherDirectory` when the consumer that runs writes elsewhere, `Unnameable` for a rule whose events
    /// the log does not name, `Bus` when the rules cannot be read.
    pub fn open(self) -> Result<LogSubscription, ReplayError> {
        if let Some(consumer) = self.bus.consumer() {
            check_directory(&self.logs_dir, &consumer.logs_dir)?;
        }
        let mut wanted = self.patterns;
        if wanted.is_empty() {
            wanted.extend("*".parse::<Pattern>());
        }
        let names = Names::new(self.bus.rules().map_err(ReplayError::Bus)?, wanted);
        if let Some(rule) = names.unnameable() {
            return Err(ReplayError::Unnameable(rule.pattern.to_string()));
        }
        let cursor = match self.since {
            ReplaySince::Oldest => Cursor::default(),
            ReplaySince::TimeNs(since_ns) => Cursor {
                since_ns,
                ..Cursor::default()
            },
            ReplaySince::Cursor(cursor) => cursor,
        };
        Ok(LogSubscription {
            follower: Follower::new(&self.logs_dir, cursor.clone()).unfold(),
            cursor,
            bus: self.bus,
            names,
            services: HashSet::new(),
            snapshot: Snapshot::default(),
            is_caught_up: true,
            queue: VecDeque::new(),
            stopped: Arc::default(),
            counts: ReplayCounts::default(),
        })
    }
}

fn check_directory(asked: &Path, written: &str) -> Result<(), ReplayError> {
    let is_known = !written.is_empty() && written.len() < LOGS_DIR_TEXT_BYTES;
    let real = |path: &Path| path.canonicalize().ok();
    match (real(asked), real(Path::new(written))) {
        (Some(here), Some(there)) if is_known && here != there => {
            Err(ReplayError::OtherDirectory {
                asked: asked.to_owned(),
                written: there,
            })
        }
        _ => Ok(()),
    }
}

/// An event out of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEvent {
    /// Its name, worked out from the service, the source and the rules. Where several names are logged alike
    /// (`log:web` and `log:web:log`, say) it is the one of the more specific rule, and of one rule the shorter.
    pub name: Arc<str>,
    /// The service that it is logged under.
    pub service: Arc<str>,
    /// Real time of its publication, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Its level.
    pub level: Level,
    /// The very bytes that were published.
    pub payload: Vec<u8>,
}

/// Events that a publisher dropped, as the log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDropped {
    /// The service whose log tells it; `millpond` where nobody knew it.
    pub service: Arc<str>,
    /// The publisher's label.
    pub source: String,
    /// Number of the publisher's lane.
    pub lane: u64,
    /// Events.
    pub count: u64,
    /// Number of the first one in its lane.
    pub first: u64,
    /// Number of the last one.
    pub last: u64,
    /// Why, such as `full:2,too_long:1`.
    pub cause: String,
}

/// What a log subscription gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// An event.
    Event(LogEvent),
    /// Events that never came to the log: the publisher dropped and counted them.
    Dropped(LogDropped),
    /// Events that retention removed before they were read here.
    Gone(Gone),
}

/// What a log subscription has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayCounts {
    /// Events given.
    pub events: u64,
    /// Events that publishers dropped, as told by the lines that were given.
    pub dropped: u64,
    /// Lines left out because no pattern asked for them.
    pub filtered: u64,
    /// Lines left out because no rule that is in force names such an event.
    pub unknown: u64,
    /// Lines left out because they are not of the format.
    pub damaged: u64,
    /// Events that came again and are in the log as a count, of which retention removed the first one: they cannot
    /// be given.
    pub repeated: u64,
}

/// Why a log subscription gives nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReplayError {
    /// Nothing came in time.
    TimedOut,
    /// [`ReplayStop::stop`] was called.
    Stopped,
    /// The rules of the bus cannot be read.
    Bus(millpond_bus::Error),
    /// A log cannot be read. What was given before is not given again; try again, or end.
    Log(millpond_logfile::Error),
    /// This rule has a `*` for the service and further ones that the log does not keep.
    Unnameable(String),
    /// The consumer writes to another directory.
    OtherDirectory {
        /// The directory that was to be read.
        asked: PathBuf,
        /// The one that is being written.
        written: PathBuf,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::TimedOut => f.write_str("nothing came in time"),
            ReplayError::Stopped => f.write_str("the subscription was stopped"),
            ReplayError::Bus(error) => error.fmt(f),
            ReplayError::Log(error) => error.fmt(f),
            ReplayError::Unnameable(pattern) => write!(
                f,
                "events of rule {pattern:?} cannot be replayed: the log keeps what its first `*` matched, and \
                 not what the others did; give the rule a fixed service, or one `*`"
            ),
            ReplayError::OtherDirectory { asked, written } => write!(
                f,
                "the consumer of this bus writes its logs to {}, not to {}",
                written.display(),
                asked.display()
            ),
        }
    }
}

impl std::error::Error for ReplayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReplayError::Bus(error) => Some(error),
            ReplayError::Log(error) => Some(error),
            _ => None,
        }
    }
}

/// How far the logs were committed at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    /// `Bus::commits` before the rest was read; `None` before the first one.
    commits: Option<u64>,
    ends: HashMap<String, CommittedEnd>,
}

/// An item that was read and not given yet.
#[derive(Debug)]
struct Queued {
    item: Replayed,
    service: Arc<str>,
    next: LogPosition,
}

/// How a look at the files ended.
enum Round {
    Items,
    More,
    CaughtUp,
}

/// Events of persisted rules, from a point in the past on, in order and without end. See [`Replay`].
///
/// Within a service they come in the order of its log; services are merged by time as far as they are
/// committed. Events come when they are in the file, some milliseconds after they were published.
#[derive(Debug)]
pub struct LogSubscription {
    bus: Bus,
    names: Names,
    follower: Follower,
    /// Services that were looked at and are followed, or not wanted.
    services: HashSet<String>,
    snapshot: Snapshot,
    /// Everything in the snapshot was read.
    is_caught_up: bool,
    queue: VecDeque<Queued>,
    /// Behind the last item that was given, while there are others in the queue.
    cursor: Cursor,
    stopped: Arc<AtomicBool>,
    counts: ReplayCounts,
}

impl LogSubscription {
    /// The next item; waits for it. Sleeps on a futex until there is a commit, also while no daemon runs.
    ///
    /// # Errors
    /// `Log` when a log cannot be read, `Stopped` after [`ReplayStop::stop`].
    pub fn recv(&mut self) -> Result<Replayed, ReplayError> {
        self.next(None, false)
    }

    /// As [`LogSubscription::recv`], for at most `timeout`.
    ///
    /// # Errors
    /// Also `TimedOut`.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Replayed, ReplayError> {
        // A deadline too far away to be a time is none.
        self.next(Instant::now().checked_add(timeout), false)
    }

    /// The next item that is committed, if there is one. Reads files, does not wait.
    ///
    /// # Errors
    /// As [`LogSubscription::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Replayed>, ReplayError> {
        match self.next(Some(Instant::now()), true) {
            Ok(item) => Ok(Some(item)),
            Err(ReplayError::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything from here on, waiting for more; ends with an error.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<Replayed, ReplayError>> {
        let mut has_failed = false;
        std::iter::from_fn(move || {
            let next = (!has_failed).then(|| self.recv());
            has_failed = matches!(next, None | Some(Err(_)));
            next
        })
    }

    /// A point behind the last item that was given: [`ReplaySince::Cursor`] goes on there, in this process or
    /// another. It is text with `Display`, and comes back with `parse`.
    pub fn cursor(&self) -> Cursor {
        match self.queue.is_empty() {
            true => self.follower.cursor(),
            false => self.cursor.clone(),
        }
    }

    /// What was given and left out so far.
    pub fn counts(&self) -> ReplayCounts {
        self.counts
    }

    /// A handle that ends a wait from another thread.
    pub fn stop_handle(&self) -> ReplayStop {
        ReplayStop {
            bus: self.bus.clone(),
            stopped: Arc::clone(&self.stopped),
        }
    }

    /// `is_patient`: reads on to the end of what is committed, whatever the time.
    fn next(
        &mut self,
        deadline: Option<Instant>,
        is_patient: bool,
    ) -> Result<Replayed, ReplayError> {
        loop {
            if let Some(queued) = self.queue.pop_front() {
                return Ok(self.give(queued));
            }
            let round = self.look()?;
            // After `look` has read the number of commits: a stop from here on changes it.
            // ORDERING: Acquire; carries nothing but itself.
            if self.stopped.load(Ordering::Acquire) {
                return Err(ReplayError::Stopped);
            }
            match round {
                Round::Items => continue,
                // Much was read, and nothing of it was asked for: that takes time too.
                Round::More if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    continue;
                }
                Round::More if is_patient => continue,
                Round::More => return Err(ReplayError::TimedOut),
                Round::CaughtUp => {}
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(ReplayError::TimedOut);
            }
            if let Some(seen) = self.snapshot.commits {
                self.bus.wait_for_commit(seen, left);
            }
        }
    }

    fn give(&mut self, queued: Queued) -> Replayed {
        match &queued.item {
            Replayed::Event(_) => self.counts.events += 1,
            Replayed::Dropped(dropped) => self.counts.dropped += dropped.count,
            Replayed::Gone(_) => {}
        }
        match self.cursor.positions.get_mut(&*queued.service) {
            Some(position) => *position = queued.next,
            None => {
                let service = queued.service.to_string();
                self.cursor.positions.insert(service, queued.next);
            }
        }
        queued.item
    }

    /// Reads some of what is committed into the empty queue.
    fn look(&mut self) -> Result<Round, ReplayError> {
        if self.is_caught_up {
            if self.snapshot.commits == Some(self.bus.commits()) {
                return Ok(Round::CaughtUp);
            }
            self.take_snapshot()?;
        }
        self.cursor = self.follower.cursor();
        let mut batch = Batch {
            queue: &mut self.queue,
            names: &mut self.names,
            bus: &self.bus,
            counts: &mut self.counts,
            service: Arc::from(""),
            bytes: 0,
            lines: 0,
            looked_at_rules: false,
            has_new_rules: false,
        };
        let ends = &self.snapshot.ends;
        let outcome = self
            .follower
            .read(&|service| ends.get(service).copied(), &mut |found| {
                batch.add(found)
            });
        // Under other rules, other services may hold what is asked for.
        if batch.has_new_rules {
            self.services.clear();
        }
        match outcome {
            Ok(report) => {
                self.counts.damaged += report.damaged_lines;
                self.is_caught_up = report.caught_up;
            }
            // Comes again, behind what was read before it.
            Err(_) if !self.queue.is_empty() => {}
            Err(error) => return Err(ReplayError::Log(error)),
        }
        Ok(if self.queue.is_empty() {
            Round::More
        } else {
            Round::Items
        })
    }

    fn take_snapshot(&mut self) -> Result<(), ReplayError> {
        let commits = self.bus.commits();
        let services = self.bus.committed_services();
        let is_new = |name: &str, known: &HashSet<String>| !known.contains(name);
        if services
            .iter()
            .any(|service| is_new(&service.name, &self.services))
        {
            // A service that is new may be so because the rules are.
            let rules = self.bus.rules().map_err(ReplayError::Bus)?;
            if self.names.set_rules(rules) {
                self.services.clear();
            }
        }
        self.snapshot.commits = Some(commits);
        for service in services {
            if self.services.insert(service.name.clone())
                && (service.name == OUR_NAME || self.names.wants_service(&service.name))
            {
                self.follower.add_service(&service.name);
            }
            let end = CommittedEnd {
                segment_id: service.segment_id,
                length_bytes: service.length_bytes,
                segments: service.segments,
            };
            self.snapshot.ends.insert(service.name, end);
        }
        Ok(())
    }
}

/// Ends a wait of its subscription from another thread. Whatever the subscription is asked after that, its
/// answer is [`ReplayError::Stopped`] once it has given what it had read.
#[derive(Debug, Clone)]
pub struct ReplayStop {
    bus: Bus,
    stopped: Arc<AtomicBool>,
}

impl ReplayStop {
    /// Ends it.
    pub fn stop(&self) {
        // ORDERING: Release; pairs with the Acquire before the subscription sleeps.
        self.stopped.store(true, Ordering::Release);
        self.bus.wake_commit_waiters();
    }
}

/// What one look at the files collects.
struct Batch<'a> {
    queue: &'a mut VecDeque<Queued>,
    names: &'a mut Names,
    bus: &'a Bus,
    counts: &'a mut ReplayCounts,
    /// The service of the last line; most lines share it.
    service: Arc<str>,
    bytes: usize,
    lines: usize,
    looked_at_rules: bool,
    has_new_rules: bool,
}

impl Batch<'_> {
    fn add(&mut self, found: Followed<'_>) -> ControlFlow<()> {
        self.lines += 1;
        match found {
            Followed::Gone(gone) => {
                let (service, next) = (Arc::from(gone.service.as_str()), gone.to);
                self.push(Replayed::Gone(gone), service, next);
            }
            Followed::Line { hit, next } => self.add_line(&hit, next),
        }
        let is_full = self.queue.len() >= BATCH_EVENTS
            || self.bytes >= BATCH_BYTES
            || self.lines >= BATCH_LINES;
        match is_full {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn push(&mut self, item: Replayed, service: Arc<str>, next: LogPosition) {
        self.queue.push_back(Queued {
            item,
            service,
            next,
        });
    }

    fn add_line(&mut self, hit: &Hit<'_>, next: LogPosition) {
        if *self.service != *hit.service {
            self.service = Arc::from(hit.service);
        }
        let service = Arc::clone(&self.service);
        if hit.source == OUR_NAME.as_bytes()
            && let Some(dropped) = parse_gap(&service, hit.message)
        {
            return self.push(Replayed::Dropped(dropped), service, next);
        }
        if hit.source == OUR_NAME.as_bytes() {
            let mut message = Vec::with_capacity(hit.message.len());
            unescape(hit.message, &mut message);
            // Unfolded wherever the line that it repeats is there.
            if let Some(Told::Repeat { source, count, .. }) = Told::parse(&message)
                && matches!(self.names.name(hit.service, source), Named::Wanted(_))
            {
                self.counts.repeated += count;
            }
            return;
        }
        match self.name(hit) {
            Named::Other => self.counts.filtered += 1,
            Named::Unknown => self.counts.unknown += 1,
            Named::Wanted(name) => {
                let mut payload = Vec::with_capacity(hit.message.len());
                unescape(hit.message, &mut payload);
                self.bytes += payload.len();
                let event = LogEvent {
                    name,
                    service: Arc::clone(&service),
                    time_ns: hit.time_ns,
                    level: Level::from_u8(hit.level as u8),
                    payload,
                };
                self.push(Replayed::Event(event), service, next);
            }
        }
    }

    fn name(&mut self, hit: &Hit<'_>) -> Named {
        let named = self.names.name(hit.service, hit.source);
        // Once per batch: the line may be of a rule that is newer than our table.
        if named == Named::Unknown
            && !std::mem::replace(&mut self.looked_at_rules, true)
            && let Ok(rules) = self.bus.rules()
            && self.names.set_rules(rules)
        {
            self.has_new_rules = true;
            return self.names.name(hit.service, hit.source);
        }
        named
    }
}

/// Reads `gap source=LABEL lane=EPOCH count=N cause=CAUSES first=N last=N`, see `docs/formats/log.md`.
fn parse_gap(service: &Arc<str>, message: &[u8]) -> Option<LogDropped> {
    let text = std::str::from_utf8(message).ok()?.strip_prefix("gap ")?;
    let field = |key: &str| {
        text.split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| field(key)?.parse().ok();
    let mut source = Vec::new();
    unescape(field("source")?.as_bytes(), &mut source);
    Some(LogDropped {
        service: Arc::clone(service),
        source: String::from_utf8_lossy(&source).into_owned(),
        lane: number("lane")?,
        count: number("count")?,
        first: number("first")?,
        last: number("last")?,
        cause: field("cause")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_lines_are_read() {
        let service = Arc::from("web");
        let text =
            b"gap source=pipe\\x20web lane=17 count=3 cause=full:2,too_long:1 first=100 last=102";
        let dropped = parse_gap(&service, text).expect("a gap");
        assert_eq!((dropped.lane, dropped.count), (17, 3));
        assert_eq!((dropped.first, dropped.last), (100, 102));
        assert_eq!(
            (dropped.source.as_str(), dropped.cause.as_str()),
            ("pipe web", "full:2,too_long:1")
        );
        assert_eq!(parse_gap(&service, b"gap in the fence"), None);
    }
}
