//! Buses, processes and log files of a test, cleaned up however it ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use millpond_bus::{Bus, SourceStats, Stats, sum_since};
use millpond_logfile::{SegmentId, SegmentText, Told, list_segments, list_services, parse_line};
use millpond_tests::{Watchdog, options, setting};

/// Loads of several processes take turns: two at once would only measure the scheduler.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other test of this kind runs.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
static BUSES: AtomicU32 = AtomicU32::new(0);

/// A bus and a log directory of one test, removed at its end. Processes are declared after it, so they end first.
pub(crate) struct Place {
    pub(crate) bus: Bus,
    pub(crate) name: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) rules: &'static str,
    _watchdog: Watchdog,
    _turn: MutexGuard<'static, ()>,
}

/// Lets publishers `p0`, `p1`, .. come to their end, all at once, and says what each has published.
pub(crate) fn outcomes_of(mut publishers: Vec<Process>) -> BTreeMap<String, Published> {
    publishers
        .iter_mut()
        .for_each(|publisher| publisher.let_go());
    publishers
        .into_iter()
        .enumerate()
        .map(|(index, publisher)| (format!("p{index}"), Published::of(publisher.end())))
        .collect()
}

impl Place {
    pub(crate) fn new(what: &str, rules: &'static str) -> Self {
        Self::after(what, rules, |_| {})
    }

    /// The same on a bus that `first`, which is told its name, has touched before.
    pub(crate) fn after(what: &str, rules: &'static str, first: impl FnOnce(&str)) -> Self {
        let turn = turn();
        let limit = 120
            + 4 * setting("MILLPOND_TEST_KILLS", 5)
            + 2 * setting("MILLPOND_TEST_SECONDS", 2)
            + setting("MILLPOND_TEST_ROUNDS", 0) / 50;
        let watchdog = Watchdog::start(what, Duration::from_secs(limit));
        let name = fresh_name();
        first(&name);
        let bus = Bus::attach(&name, &options(rules)).expect("a new bus");
        let dir = tempfile::tempdir().expect("a directory");
        Place {
            bus,
            name,
            dir,
            rules,
            _watchdog: watchdog,
            _turn: turn,
        }
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    /// A daemon that is ready.
    pub(crate) fn daemon(&self, backend: &str, more: &[&str]) -> Process {
        let mut daemon = self.start_daemon(backend, more);
        let first = daemon.line_with("");
        assert!(first.starts_with("ready"), "daemon said {first:?}");
        daemon
    }

    /// A daemon that may refuse.
    pub(crate) fn start_daemon(&self, backend: &str, more: &[&str]) -> Process {
        let arguments = self.daemon_arguments(backend, more);
        Process::start(env!("CARGO_BIN_EXE_victim_daemon"), &arguments)
    }

    pub(crate) fn daemon_arguments(&self, backend: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            format!("bus={}", self.name),
            format!("logs={}", self.logs().display()),
            format!("rules={}", self.rules),
            format!("backend={backend}"),
        ];
        arguments.extend(more.iter().map(|&text| text.to_owned()));
        arguments
    }

    pub(crate) fn publisher(&self, label: &str, event: &str, more: &[&str]) -> Process {
        let arguments = self.publisher_arguments(label, event, more);
        Process::start(env!("CARGO_BIN_EXE_publisher"), &arguments)
    }

    pub(crate) fn publisher_arguments(
        &self,
        label: &str,
        event: &str,
        more: &[&str],
    ) -> Vec<String> {
        let mut arguments = vec![
            format!("bus={}", self.name),
            format!("label={label}"),
            format!("event={event}"),
            format!("rules={}", self.rules),
        ];
        arguments.extend(more.iter().map(|&text| text.to_owned()));
        arguments
    }

    /// Four publishers `p0` to `p3`, two per service; odd ones publish in batches.
    pub(crate) fn four_publishers(&self, more: &[&str]) -> Vec<Process> {
        (0..4)
            .map(|index| {
                let (label, event) = (
                    format!("p{index}"),
                    format!("log:web{}:p{index}", index / 2),
                );
                let batch = if index % 2 == 1 {
                    "batch=16"
                } else {
                    "batch=0"
                };
                let mut arguments = vec![batch];
                arguments.extend(more);
                self.publisher(&label, &event, &arguments)
            })
            .collect()
    }

    /// Names under `/dev/shm` of this bus that contain `part`.
    pub(crate) fn objects(&self, part: &str) -> Vec<String> {
        let prefix = format!("millpond.{}.{part}", self.name);
        let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm");
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }

    /// Waits until every lane is drained, counted and gone; the statistics then.
    pub(crate) fn settled(&self) -> Stats {
        wait_until(|| self.bus.stats().lanes.is_empty() && self.objects("lane.").is_empty());
        self.bus.stats()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever is left of it, also of a test that failed.
        for object in self.objects("") {
            let _ = std::fs::remove_file(Path::new("/dev/shm").join(object));
        }
    }
}

pub(crate) fn fresh_name() -> String {
    let number = BUSES.fetch_add(1, Ordering::Relaxed);
    format!("mptest-{}-{number}", std::process::id())
}

/// Polls; the watchdog is the limit.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A helper process: killed when it is dropped, told to end when its stdin closes.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(program: &str, arguments: &[String]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the helper starts");
        let stdout = child.stdout.take().expect("piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().expect("lines").push(line);
            }
        });
        Process {
            child,
            lines,
            reader: Some(reader),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lines").clone()
    }

    /// Waits for a line that contains `part`.
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        loop {
            let ended = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(part)) {
                return line;
            }
            assert!(!ended, "it ended without {part:?}: {:?}", self.lines());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has ended; takes no notice of how.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// SIGKILL, and everything that it said.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        self.join_reader();
        self.lines()
    }

    /// A line to its stdin.
    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("not let go");
        writeln!(stdin, "{line}").expect("it reads");
    }

    pub(crate) fn let_go(&mut self) {
        self.child.stdin = None;
    }

    /// Closes its stdin, waits for its end, and returns what it said.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<String>) {
        self.let_go();
        self.wait_for_end()
    }

    /// Waits for its end, its stdin open.
    pub(crate) fn finish(mut self) -> (ExitStatus, Vec<String>) {
        self.wait_for_end()
    }

    fn wait_for_end(&mut self) -> (ExitStatus, Vec<String>) {
        // `Child::wait` closes stdin, so it must not be called before the process has ended by itself.
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        self.join_reader();
        (status, self.lines())
    }

    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reader");
        }
    }

    /// For a daemon: an orderly stop.
    pub(crate) fn stop(self) {
        let (status, lines) = self.end();
        assert!(status.success(), "{status}: {lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("stopped"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a publisher says of itself in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) published: u64,
    pub(crate) full: u64,
    pub(crate) deadline: u64,
    pub(crate) too_long: u64,
}

impl Published {
    /// Of a publisher that has ended well and flushed.
    pub(crate) fn of(outcome: (ExitStatus, Vec<String>)) -> Self {
        let (status, lines) = outcome;
        let last = lines.last().cloned().unwrap_or_default();
        assert!(status.success(), "{status}: {last}");
        assert_eq!(field(&last, "flush"), "done");
        let number = |key| field(&last, key).parse().expect("a number");
        Published {
            published: number("published"),
            full: number("dropped_full"),
            deadline: number("dropped_deadline"),
            too_long: number("dropped_too_long"),
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.full + self.deadline + self.too_long
    }
}

/// The value of `key=value` among words.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> &'a str {
    text.split(' ')
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {key} in {text:?}"))
}

/// Runs of numbers, first and last included.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Runs(pub(crate) Vec<(u64, u64)>);

impl Runs {
    fn add(&mut self, number: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.0.push((number, number)),
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }
}

/// A loss as the log tells it.
#[derive(Debug, Clone)]
pub(crate) struct GapLine {
    pub(crate) count: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) causes: BTreeMap<String, u64>,
}

/// A segment's file and its text, whichever form it has.
pub(crate) fn segment_text(dir: &Path, id: SegmentId) -> std::io::Result<(PathBuf, Vec<u8>)> {
    let segment = SegmentText::open(dir, id)?;
    let mut text = vec![0; segment.length_bytes()? as usize];
    segment.read_exact_at(&mut text, 0)?;
    Ok((segment.path().to_owned(), text))
}

/// What the log files hold, read with nothing but the line format.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Numbers per label, as the files have them: ascending, or the log is wrong.
    pub(crate) sequences: BTreeMap<String, Runs>,
    pub(crate) gaps: BTreeMap<String, Vec<GapLine>>,
    pub(crate) lines: u64,
    pub(crate) text_bytes: u64,
    /// Repeats by source, and lines that were suppressed, as lines tell them.
    pub(crate) repeats: BTreeMap<String, u64>,
    pub(crate) suppressed: u64,
    /// Lines that tell of files which somebody has removed.
    pub(crate) removed: Vec<String>,
    /// What is not as it must be.
    pub(crate) wrong: Vec<String>,
}

impl Found {
    pub(crate) fn read(logs: &Path) -> Self {
        let mut found = Found::default();
        for service in list_services(logs).expect("services") {
            let dir = logs.join(&service);
            for id in list_segments(&dir).expect("segments") {
                found.read_segment(&dir, id);
            }
        }
        found
    }

    fn read_segment(&mut self, dir: &Path, id: SegmentId) {
        let (path, text) = segment_text(dir, id).expect("a segment");
        self.text_bytes += text.len() as u64;
        for raw in text.split_inclusive(|&byte| byte == b'\n') {
            self.lines += 1;
            let Ok(line) = parse_line(raw) else {
                let shown = String::from_utf8_lossy(raw).into_owned();
                self.note(format!("{}: no line: {shown:?}", path.display()));
                continue;
            };
            let message = std::str::from_utf8(line.message).expect("we publish text");
            match line.source {
                b"millpond" => self.note_told(message),
                source => {
                    let mut words = message.split(' ');
                    let label = words.next().unwrap_or_default();
                    let sequence = words.next().and_then(|word| word.parse().ok());
                    match sequence {
                        Some(sequence) if label.as_bytes() == source => {
                            self.note_sequence(label, sequence, &path);
                        }
                        _ => self.note(format!("{}: {message:?}", path.display())),
                    }
                }
            }
        }
    }

    fn note(&mut self, wrong: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(wrong);
        }
    }

    fn note_sequence(&mut self, label: &str, sequence: u64, path: &Path) {
        if !self.sequences.contains_key(label) {
            self.sequences.insert(label.to_owned(), Runs::default());
        }
        let runs = self.sequences.get_mut(label).expect("just made");
        let before = runs.0.last().map(|&(_, last)| last);
        if before.is_some_and(|before| before >= sequence) {
            let path = path.display();
            self.note(format!("{path}: {label} {sequence} after {before:?}"));
            return;
        }
        runs.add(sequence);
    }

    /// A line of the daemon.
    fn note_told(&mut self, message: &str) {
        match Told::parse(message.as_bytes()) {
            Some(Told::Repeat { source, count, .. }) => {
                let source = String::from_utf8_lossy(source).into_owned();
                *self.repeats.entry(source).or_default() += count;
            }
            Some(Told::Suppressed { count, .. }) => self.suppressed += count,
            None if message.starts_with("removed ") => self.removed.push(message.to_owned()),
            None => self.note_gap(message),
        }
    }

    fn note_gap(&mut self, message: &str) {
        assert!(message.starts_with("gap "), "{message:?}");
        let number = |key| field(message, key).parse().expect("a number");
        let causes = field(message, "cause").split(',').map(|cause| {
            let (name, count) = cause.split_once(':').expect("cause:count");
            (name.to_owned(), count.parse().expect("a number"))
        });
        let gap = GapLine {
            count: number("count"),
            first: number("first"),
            last: number("last"),
            causes: causes.collect(),
        };
        self.gaps
            .entry(field(message, "source").to_owned())
            .or_default()
            .push(gap);
    }

    /// Nothing is there twice, out of order, or unreadable.
    pub(crate) fn assert_orderly(&self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }

    /// Each label has its numbers 0 to its count, once each and in order, and there is nothing else.
    pub(crate) fn assert_complete(&self, expected: &BTreeMap<String, u64>) {
        self.assert_orderly();
        let whole: BTreeMap<String, Runs> = expected
            .iter()
            .filter(|&(_, &count)| count > 0)
            .map(|(label, &count)| (label.clone(), Runs(vec![(0, count - 1)])))
            .collect();
        assert_eq!(self.sequences, whole);
        assert_eq!(self.lines, expected.values().sum::<u64>());
    }
}

/// The accounting identity of a source at rest.
pub(crate) fn assert_identity(source: &SourceStats) {
    assert_eq!(
        source.published,
        source.delivered + source.dropped.total(),
        "{source:?}"
    );
    assert_eq!(source.in_flight, 0, "{source:?}");
    assert_eq!(
        source.delivered,
        source.written + source.rejected + source.coalesced + source.suppressed,
        "{source:?}"
    );
}

/// The history of an hour adds up to the counters, for each source and each service.
pub(crate) fn assert_history_is_counters(bus: &Bus) {
    let (history, stats) = (bus.history(), bus.stats());
    assert_eq!(history.sources.len(), stats.sources.len());
    for (kept, source) in history.sources.iter().zip(&stats.sources) {
        assert_eq!(kept.label, source.label);
        let sum = sum_since(&kept.intervals, 0);
        assert_eq!(sum.published, source.published, "{kept:?}");
        assert_eq!(sum.delivered, source.delivered, "{kept:?}");
        assert_eq!(sum.written, source.written, "{kept:?}");
        assert_eq!(sum.dropped, source.dropped.total(), "{kept:?}");
        assert_eq!(sum.coalesced, source.coalesced, "{kept:?}");
        assert_eq!(sum.suppressed, source.suppressed, "{kept:?}");
        assert_eq!(sum.bytes, source.delivered_bytes, "{kept:?}");
    }
    for (kept, service) in history.services.iter().zip(&stats.services) {
        let sum = sum_since(&kept.intervals, 0);
        assert_eq!(
            (sum.written, sum.bytes),
            (service.lines, service.bytes),
            "{kept:?}"
        );
    }
}

/// The source with this label.
pub(crate) fn source<'s>(stats: &'s Stats, label: &str) -> &'s SourceStats {
    let mut found = stats.sources.iter().filter(|source| source.label == label);
    let source = found.next().expect("the source");
    assert!(found.next().is_none(), "{label} is there twice");
    source
}
