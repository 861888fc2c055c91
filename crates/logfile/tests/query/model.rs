//! Random logs, random questions, and what the answer must be.
//!
//! The reference knows every record because it made it: it decides on times, names and raw
//! messages, and takes from the file nothing but the bytes of a line.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use millpond_logfile::{
    BlockWriter, CURRENT_LINK, IndexHeader, Level, LevelSet, Order, Query, QueryReport, Reader,
    SegmentId, Source, SourcePattern, rebuild_index,
};
use tempfile::TempDir;

/// xorshift64*: enough for tests, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// From `MILLPOND_TEST_SEED`, or a new seed. It is printed, so that a failure can be repeated.
    pub fn seeded() -> Self {
        let given = std::env::var("MILLPOND_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
        eprintln!("MILLPOND_TEST_SEED={seed}");
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// One line, as the reference knows it.
#[derive(Debug, Clone)]
pub struct Record {
    pub service: String,
    pub segment: SegmentId,
    pub range: Range<u64>,
    pub time_ns: u64,
    pub level: Level,
    pub source: String,
    pub message: Vec<u8>,
}

/// A hit, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub service: String,
    pub segment: SegmentId,
    pub offset: u64,
    pub time_ns: u64,
    pub level: Level,
    pub source: Vec<u8>,
    pub raw_message: Vec<u8>,
    pub line: Vec<u8>,
}

pub const SERVICES: [&str; 4] = ["api", "db", "web", "web-2"];
const SOURCES: [&str; 7] = ["log", "pty:out", "pty:err", "pty", "two words", "", "日本"];
const PIECES: [&[u8]; 24] = [
    b"GET /index.html",
    b"timeout",
    b"n",
    b"x41",
    b"\\",
    b"\\n",
    b"\n",
    b"\r\n",
    b"\t",
    b"\x1b[31m",
    b"\x1b[0m",
    b"caf\xc3\xa9",
    b"\xc3",
    b"\xa9",
    b"\xe2\x82\xac",
    b"\xe2\x82",
    b"\xff\xfe",
    b"\xc2\x85",
    b"\x00",
    b" ",
    b"  ",
    b"status=200",
    b"status=503 after 17 ms",
    b"ERROR WARN INFO",
];
const PATTERNS: [&str; 40] = [
    "timeout",
    r"status=\d+",
    "^GET",
    r"ms$",
    r"after \d+ ms$",
    "^$",
    r"^\s",
    r"\s$",
    r"caf.\b",
    "(?i)TIMEOUT",
    r"\n",
    r"(?s)out.GET",
    "a[^z]*m",
    r"\\",
    "n",
    "x41",
    r"(?-u:\xff)",
    r"\x1b\[\d+m",
    r"\bn\b",
    "(?m)^n",
    "€|é",
    "ERROR|WARN",
    // Found by a text within, or one of a few.
    r"[0-9]+ after",
    r"\w+=503 after .*ms$",
    r"[a-z]+(?:out|us)=?.*\d",
    "(?i)[a-z]+TUS=[25]",
    r"^[^a]*status=\d+$",
    r".\x1b\[31m",
    r"(?s).+\n.*timeout",
    r"\s+GET$|^.?timeout",
    "[^ ]é",
    r".+\\n",
    r"\d+(?-u:\xff\xfe)",
    "(?-u:.\\xa9)",
    "\\w+\u{85}",
    r".(?:\u{85}|€)",
    r"[A-Z]+ WARN .*N",
    r"(?:\w+ )+ms",
    r"(?:timeout){2}",
    r"\D{3,}17 m",
];

/// A log directory and everything that is in it.
pub struct Logs {
    pub dir: TempDir,
    /// By service, in the order of the files.
    pub records: Vec<Record>,
}

impl Logs {
    /// `lines` lines per service in a few segments; the last one of each is open and its index
    /// lags.
    pub fn random(random: &mut Random, services: &[&str], lines: usize) -> Self {
        let mut logs = Logs {
            dir: tempfile::tempdir().unwrap(),
            records: Vec::new(),
        };
        for service in services {
            let segments = 1 + random.below(4);
            // Services overlap in time; equal times are frequent, and some go back.
            let mut time_ns = 1_795_224_593_000_000_000 + random.next() % 1000;
            for number in 0..segments {
                let mut segment =
                    SegmentWriter::create(logs.path(), service, SegmentId::from_ns(time_ns));
                for _ in 0..1 + lines / segments {
                    time_ns += random.next() % 3;
                    let late_ns = match random.below(100) {
                        0 => random.next() % 20_000, // across blocks and segments
                        1 => random.next() % 20,
                        _ => 0,
                    };
                    logs.records.push(segment.append(random, time_ns - late_ns));
                }
                segment.write(number + 1 < segments);
                time_ns += 1;
            }
        }
        logs
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn service_dir(&self, service: &str) -> PathBuf {
        self.path().join(service)
    }

    pub fn segments(&self, service: &str) -> Vec<SegmentId> {
        millpond_logfile::list_segments(&self.service_dir(service)).unwrap()
    }

    pub fn index_paths(&self) -> Vec<PathBuf> {
        let services: Vec<_> = Reader::open(self.path()).unwrap().services().to_vec();
        let paths = services.iter().flat_map(|service| {
            let dir = self.service_dir(service);
            self.segments(service)
                .into_iter()
                .map(move |id| id.index_path(&dir))
        });
        paths.collect()
    }

    pub fn rebuild_indexes(&self) {
        for index in self.index_paths() {
            let dir = index.parent().unwrap();
            let id: SegmentId = index
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            let current = fs::read_link(dir.join(CURRENT_LINK)).unwrap();
            let is_open = current == Path::new(&format!("{id}.log"));
            rebuild_index(dir, id, is_open).unwrap();
        }
    }

    /// The reference's answer.
    pub fn answer(&self, ask: &Ask) -> Vec<Found> {
        let patterns: Vec<_> = ask
            .sources
            .iter()
            .map(|text| SourcePattern::new(text))
            .collect();
        let regex = ask
            .regex
            .map(|pattern| regex::bytes::Regex::new(pattern).unwrap());
        let matches = |record: &&Record| {
            (ask.services.is_empty() || ask.services.contains(&record.service))
                && ask
                    .since_ns
                    .is_none_or(|since_ns| record.time_ns >= since_ns)
                && ask
                    .until_ns
                    .is_none_or(|until_ns| record.time_ns < until_ns)
                && ask.levels.contains(record.level)
                && (patterns.is_empty()
                    || patterns
                        .iter()
                        .any(|pattern| pattern.matches(Source::new(&record.source).token())))
                && ask
                    .substrings
                    .iter()
                    .all(|needle| contains(&record.message, needle))
                && regex
                    .as_ref()
                    .is_none_or(|regex| regex.is_match(&record.message))
        };
        let mut matching: Vec<&Record> = self.records.iter().filter(matches).collect();
        if ask.order == Order::Newest {
            matching.reverse();
        }
        // A service's lines stay in their order: a line that goes back in time counts as the one
        // before it.
        let mut reached: HashMap<&str, u64> = HashMap::new();
        let mut keyed: Vec<(u64, &Record)> = Vec::new();
        for record in matching {
            let key = if ask.order == Order::Newest {
                !record.time_ns
            } else {
                record.time_ns
            };
            let reached = reached.entry(&record.service).or_default();
            *reached = key.max(*reached);
            keyed.push((*reached, record));
        }
        keyed.sort_by(|(a_key, a), (b_key, b)| {
            let by_name = a.service.cmp(&b.service);
            a_key.cmp(b_key).then(if ask.order == Order::Newest {
                by_name.reverse()
            } else {
                by_name
            })
        });
        let limit = ask.limit.unwrap_or(u64::MAX) as usize;
        let mut texts = HashMap::new();
        keyed
            .into_iter()
            .take(limit)
            .map(|(_, record)| self.found(record, &mut texts))
            .collect()
    }

    fn found(&self, record: &Record, texts: &mut HashMap<PathBuf, Vec<u8>>) -> Found {
        let path = record.segment.log_path(&self.service_dir(&record.service));
        let text = texts.entry(path).or_insert_with_key(|path| text_of(path));
        Found {
            service: record.service.clone(),
            segment: record.segment,
            offset: record.range.start,
            time_ns: record.time_ns,
            level: record.level,
            source: Source::new(&record.source).token().to_vec(),
            raw_message: record.message.clone(),
            line: text[record.range.start as usize..record.range.end as usize].to_vec(),
        }
    }
}

/// The text of a segment, whichever form it has.
pub fn text_of(log_path: &Path) -> Vec<u8> {
    fs::read(log_path).unwrap_or_else(|_| {
        let sealed = log_path.with_extension("log.zst");
        zstd::stream::decode_all(fs::File::open(sealed).unwrap()).unwrap()
    })
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || text.windows(needle.len()).any(|window| window == needle)
}

/// Makes one segment, as the sink does.
pub struct SegmentWriter {
    pub service: String,
    pub dir: PathBuf,
    pub id: SegmentId,
    pub text: Vec<u8>,
    pub block: BlockWriter,
}

impl SegmentWriter {
    pub fn create(logs_dir: &Path, service: &str, id: SegmentId) -> Self {
        let dir = logs_dir.join(service);
        fs::create_dir_all(&dir).unwrap();
        fs::write(id.log_path(&dir), "").unwrap();
        let link = dir.join("new-link");
        std::os::unix::fs::symlink(format!("{id}.log"), &link).unwrap();
        fs::rename(&link, dir.join(CURRENT_LINK)).unwrap();
        SegmentWriter {
            service: service.into(),
            dir,
            id,
            text: Vec::new(),
            block: BlockWriter::new(),
        }
    }

    pub fn append(&mut self, random: &mut Random, time_ns: u64) -> Record {
        let level = Level::from_u8(random.below(6) as u8);
        // Most sources are rare in a segment, so that source sets exclude blocks.
        let source = if random.one_in(4) {
            random.pick(&SOURCES)
        } else {
            SOURCES[self.id.as_ns() as usize % 3]
        };
        let mut message = Vec::new();
        for _ in 0..random.below(6) {
            message.extend_from_slice(random.pick(&PIECES));
        }
        if random.one_in(500) {
            message.resize(message.len() + random.below(100_000), b'.');
        }
        self.append_message(time_ns, level, source, &message)
    }

    pub fn append_message(
        &mut self,
        time_ns: u64,
        level: Level,
        source: &str,
        message: &[u8],
    ) -> Record {
        let start = self.text.len() as u64;
        self.block.append(
            &mut self.text,
            time_ns,
            level,
            &Source::new(source),
            message,
        );
        Record {
            service: self.service.clone(),
            segment: self.id,
            range: start..self.text.len() as u64,
            time_ns,
            level,
            source: source.into(),
            message: message.into(),
        }
    }

    /// Writes text and index. The index of an open segment lacks its last, unfinished block.
    pub fn write(&mut self, closed: bool) {
        fs::write(self.id.log_path(&self.dir), &self.text).unwrap();
        if closed {
            self.block.finish(&self.text);
        }
        let mut index = IndexHeader::new(self.id, closed).to_bytes().to_vec();
        for entry in self.block.take_entries() {
            index.extend_from_slice(zerocopy::IntoBytes::as_bytes(&entry));
        }
        fs::write(self.id.index_path(&self.dir), index).unwrap();
    }
}

/// A question whose parts the reference can see.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub services: Vec<String>,
    pub since_ns: Option<u64>,
    pub until_ns: Option<u64>,
    pub levels: LevelSet,
    pub sources: Vec<&'static str>,
    pub substrings: Vec<Vec<u8>>,
    pub regex: Option<&'static str>,
    pub order: Order,
    pub limit: Option<u64>,
}

impl Ask {
    pub fn random(random: &mut Random, logs: &Logs) -> Self {
        let mut ask = Ask::default();
        while random.one_in(2) {
            ask.services.push(random.pick(&logs.records).service);
        }
        if random.one_in(3) {
            ask.since_ns = Some(random.pick(&logs.records).time_ns + random.next() % 2);
        }
        if random.one_in(3) {
            ask.until_ns = Some(random.pick(&logs.records).time_ns + random.next() % 2);
        }
        if random.one_in(3) {
            ask.levels = match random.below(2) {
                0 => LevelSet::at_least(Level::from_u8(random.below(6) as u8)),
                _ => LevelSet::of(&[
                    Level::from_u8(random.below(6) as u8),
                    Level::from_u8(random.below(6) as u8),
                ]),
            };
        }
        while random.one_in(4) {
            ask.sources.push(random.pick(&[
                "log",
                "pty*",
                "pty",
                "pty:*",
                "*",
                "two words",
                "",
                "日*",
                "none",
            ]));
        }
        while random.one_in(3) {
            ask.substrings.push(random_needle(random, logs));
        }
        if random.one_in(3) {
            ask.regex = Some(random.pick(&PATTERNS));
        }
        if random.one_in(2) {
            ask.order = Order::Newest;
        }
        if random.one_in(2) {
            ask.limit = Some(random.pick(&[0, 1, 7, 200, 100_000]));
        }
        ask
    }

    pub fn query(&self) -> Query {
        let mut query = Query::new().levels(self.levels).order(self.order);
        for service in &self.services {
            query = query.service(service);
        }
        for source in &self.sources {
            query = query.source(source);
        }
        for substring in &self.substrings {
            query = query.contains(substring.as_slice());
        }
        if let Some(time_ns) = self.since_ns {
            query = query.since_ns(time_ns);
        }
        if let Some(time_ns) = self.until_ns {
            query = query.until_ns(time_ns);
        }
        if let Some(pattern) = self.regex {
            query = query.regex(pattern).unwrap();
        }
        if let Some(lines) = self.limit {
            query = query.limit(lines);
        }
        query
    }
}

/// Bytes out of some message, cut anywhere, also within a character.
fn random_needle(random: &mut Random, logs: &Logs) -> Vec<u8> {
    let message = random.pick(&logs.records).message;
    if message.is_empty() || random.one_in(4) {
        return random.pick(&PIECES).to_vec();
    }
    let start = random.below(message.len());
    let length = random.below((message.len() - start).min(20) + 1);
    message[start..start + length].to_vec()
}

pub fn run(logs_dir: &Path, query: &Query) -> (Vec<Found>, QueryReport) {
    let mut found = Vec::new();
    let report = Reader::open(logs_dir)
        .unwrap()
        .run(query, &mut |hit| {
            let mut raw_message = Vec::new();
            hit.raw_message(&mut raw_message);
            found.push(Found {
                service: hit.service.into(),
                segment: hit.segment_id,
                offset: hit.offset,
                time_ns: hit.time_ns,
                level: hit.level,
                source: hit.source.to_vec(),
                raw_message,
                line: hit.line.to_vec(),
            });
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(report.matched, found.len() as u64);
    (found, report)
}

/// Asks `questions` random questions and compares lines and counts with the reference.
pub fn check_random_questions(random: &mut Random, logs: &Logs, questions: usize) {
    for number in 0..questions {
        let ask = Ask::random(random, logs);
        check(logs, &ask, &format!("question {number}"));
    }
}

pub fn check(logs: &Logs, ask: &Ask, name: &str) {
    let (found, report) = run(logs.path(), &ask.query());
    let expected = logs.answer(ask);
    let difference = found
        .iter()
        .zip(&expected)
        .position(|(found, expected)| found != expected);
    if difference.is_some() || found.len() != expected.len() {
        let at = difference.unwrap_or(found.len().min(expected.len()));
        panic!(
            "{name}: {ask:?}\n{} lines, expected {}; at {at}:\n{:?}\nexpected\n{:?}\n{report:?}",
            found.len(),
            expected.len(),
            found.get(at),
            expected.get(at)
        );
    }
    let all = Ask {
        limit: None,
        ..ask.clone()
    };
    let expected = if ask.limit.is_some() {
        logs.answer(&all)
    } else {
        expected
    };
    let counts = Reader::open(logs.path())
        .unwrap()
        .count(&all.query())
        .unwrap();
    for service in &counts.services {
        for level in Level::ALL {
            let lines = expected
                .iter()
                .filter(|line| line.service == service.service && line.level == level);
            assert_eq!(
                service.level(level),
                lines.count() as u64,
                "{name}: {} {level} {ask:?}",
                service.service
            );
        }
    }
    assert_eq!(counts.total(), expected.len() as u64, "{name}: {ask:?}");
}
