//! A sink, what it has committed, and what its files hold.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millpond_bus::ServiceCommit;
use millpond_logfile::{
    Level, SegmentId, SegmentText, Source, list_segments, list_services, parse_line,
};
use millpond_sink::{BackendChoice, Cut, Policy, SealPolicy, Sink};

pub(crate) const SEGMENT: u64 = 64 << 10;
pub(crate) const OWNER: &str = "test";
/// Only a test that hangs gets here.
const PATIENCE: Duration = Duration::from_secs(120);

/// Small segments, no limits, no seal, and no floor of free space that this machine may be below.
pub(crate) fn policy() -> Policy {
    Policy {
        segment_bytes_limit: SEGMENT,
        group_bytes_limit: 64 << 10,
        total_bytes_limit: None,
        keep_free_bytes: Some(0),
        seal: SealPolicy::Never,
        backend: BackendChoice::Pwrite,
        ..Policy::default()
    }
}

pub(crate) fn sealing() -> Policy {
    Policy {
        seal: SealPolicy::AfterRotation { level: 1 },
        ..policy()
    }
}

/// Looks until it is so, without a limit but the one of hanging.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A log directory, and the commit point of whoever writes there.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) committed: BTreeMap<String, ServiceCommit>,
    pub(crate) now_ns: u64,
    /// The number of the next line of each service.
    next: BTreeMap<String, u64>,
}

impl Place {
    pub(crate) fn new(dir: &Path) -> Self {
        Place {
            dir: dir.to_owned(),
            committed: BTreeMap::new(),
            now_ns: 1_795_224_593_000_000_000,
            next: BTreeMap::new(),
        }
    }

    pub(crate) fn open(&self, policy: &Policy) -> Sink {
        self.open_as(OWNER, policy).0
    }

    /// With what was cut, and what was kept.
    pub(crate) fn open_as(&self, owner: &str, policy: &Policy) -> (Sink, Vec<Cut>) {
        let committed: Vec<ServiceCommit> = self.committed.values().cloned().collect();
        let policy = policy.clone();
        Sink::open(&self.dir, policy, owner, &committed, self.now_ns, || {}).expect("a sink")
    }

    /// Everything that is in the files of the services, by file.
    pub(crate) fn texts(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut texts = BTreeMap::new();
        for service in services(&self.dir) {
            let dir = self.service_dir(&service);
            for id in self.segments(&service) {
                texts.insert(id.log_path(&dir), text_of(&dir, id));
            }
        }
        texts
    }

    pub(crate) fn commit(&mut self, services: Vec<ServiceCommit>) {
        for service in services {
            self.committed.insert(service.name.clone(), service);
        }
    }

    /// Commits what is done, until at most `left` groups are under way.
    pub(crate) fn settle(&mut self, sink: &mut Sink, left: usize) {
        wait_until("groups written", || {
            while let Some(group) = sink.poll() {
                self.commit(group.services);
            }
            sink.in_flight() <= left
        });
    }

    /// Hands the group over without waiting for it.
    pub(crate) fn submit(&mut self, sink: &mut Sink) {
        self.settle(sink, 1);
        let new = sink.take_new_services();
        self.commit(new);
        self.now_ns += 1_000_000;
        sink.submit(self.now_ns, false);
    }

    /// Writes what is left, commits it, and ends the sink.
    pub(crate) fn close(&mut self, sink: Sink) {
        let closed = sink.close(self.now_ns);
        for group in closed.groups {
            self.commit(group.services);
        }
        assert_eq!(closed.trouble, None);
    }

    /// Writes `count` numbered lines and commits them.
    pub(crate) fn write(&mut self, sink: &mut Sink, service: &str, count: u64) {
        self.append(sink, service, count);
        self.submit(sink);
        self.settle(sink, 0);
    }

    /// Text that compresses about as logs do.
    pub(crate) fn append(&mut self, sink: &mut Sink, service: &str, count: u64) {
        let id = sink.service(service, self.now_ns).expect("a service");
        let source = Source::new("test");
        for _ in 0..count {
            if !sink.has_room() {
                self.submit(sink);
            }
            let next = self.next.entry(service.to_owned()).or_default();
            let hash = next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let message = format!("{next} request {hash:016x} took a while {}", "-".repeat(60));
            *next += 1;
            self.now_ns += 1000;
            sink.append(id, self.now_ns, Level::Info, &source, message.as_bytes());
        }
    }

    /// The next lines of a service begin here: what was not committed is published again, as the bus would.
    pub(crate) fn resume(&mut self) {
        for (service, next) in &mut self.next {
            *next = self.committed.get(service).map_or(0, |commit| commit.lines);
        }
    }

    pub(crate) fn service_dir(&self, service: &str) -> PathBuf {
        self.dir.join(service)
    }

    /// Whether any text of the service is in its files.
    pub(crate) fn is_written(&self, service: &str) -> bool {
        let dir = self.service_dir(service);
        (self.segments(service).into_iter()).any(|id| !text_of(&dir, id).is_empty())
    }

    pub(crate) fn segments(&self, service: &str) -> Vec<SegmentId> {
        list_segments(&self.service_dir(service)).unwrap_or_default()
    }

    pub(crate) fn sealed(&self, service: &str) -> Vec<SegmentId> {
        let dir = self.service_dir(service);
        let is_sealed =
            |id: &SegmentId| id.sealed_path(&dir).exists() && !id.log_path(&dir).exists();
        self.segments(service)
            .into_iter()
            .filter(is_sealed)
            .collect()
    }

    /// Every segment but the last is sealed.
    pub(crate) fn wait_until_sealed(&self, service: &str) {
        wait_until("sealed", || {
            self.sealed(service).len() + 1 == self.segments(service).len()
        });
    }

    /// Asserts that the service has its lines up to the last that was committed, each once, from some number on.
    /// Returns that number.
    pub(crate) fn assert_suffix(&self, service: &str) -> u64 {
        let lines = self.committed.get(service).map_or(0, |commit| commit.lines);
        let found = numbers(&self.service_dir(service));
        let first = lines - found.len() as u64;
        let expected: Vec<u64> = (first..lines).collect();
        assert_eq!(runs(&found), runs(&expected), "lines of {service}");
        first
    }

    /// Everything a service has written.
    pub(crate) fn assert_complete(&self, service: &str) {
        assert_eq!(
            self.assert_suffix(service),
            0,
            "lines of {service} are gone"
        );
    }
}

pub(crate) fn text_of(dir: &Path, id: SegmentId) -> Vec<u8> {
    let text = SegmentText::open(dir, id).expect("a segment");
    let mut bytes = vec![0; text.length_bytes().expect("its length") as usize];
    text.read_exact_at(&mut bytes, 0).expect("its text");
    bytes
}

/// The numbers of our lines, in the order of the files.
fn numbers(dir: &Path) -> Vec<u64> {
    let mut numbers = Vec::new();
    for id in list_segments(dir).unwrap_or_default() {
        for line in text_of(dir, id).split_inclusive(|&byte| byte == b'\n') {
            let line = parse_line(line).expect("a log line");
            let message = std::str::from_utf8(line.message).expect("our text");
            let number = message.split(' ').next().unwrap_or_default();
            numbers.push(number.parse().expect("a number"));
        }
    }
    numbers
}

/// Numbers that follow each other, as first and last.
fn runs(numbers: &[u64]) -> Vec<(u64, u64)> {
    numbers
        .chunk_by(|before, next| before + 1 == *next)
        .map(|run| (run[0], run[run.len() - 1]))
        .collect()
}

/// What a directory and everything in it occupies. Files that go while we look count as they were.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path());
        }
    }
    bytes
}

pub(crate) fn services(dir: &Path) -> Vec<String> {
    list_services(dir).expect("services")
}

/// A file system of its own, of this size, or nothing where we may not mount one.
pub(crate) struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk { dir });
        }
        eprintln!("SKIPPED: no tmpfs can be mounted here");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg(self.dir.path())
            .status();
    }
}
