//! Limits of a process: locked memory, file handles, address space, threads.

use std::collections::BTreeMap;

use millpond_bus::{Bus, Level, Publisher, Topic};
use millpond_tests::setting;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{Cgroup, after, daemon_after, handles, publisher_after};
use crate::support::{Found, Place, Published, assert_identity, source, wait_until};

/// Lanes need no locked memory. The ring of the kernel may: then the daemon writes by pwrite. Root may lock what it
/// likes, so that is taken from it first.
#[test]
fn no_locked_memory_is_needed() {
    let place = Place::new("RLIMIT_MEMLOCK 0", "block");
    let mut first = "ulimit -l 0".to_owned();
    if rustix::process::geteuid().is_root() {
        first += " && set -- setpriv --bounding-set=-ipc_lock \"$@\"";
    }
    let mut daemon = daemon_after(&place, &first, "auto", &[]);
    let ready = daemon.line_with("");
    assert!(ready.starts_with("ready"), "{ready}");
    let more = ["count=50000", "flush=durable"];
    let published = Published::of(publisher_after(&place, &first, "p", &more).finish());
    assert_eq!(published.published, 50_000);
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&BTreeMap::from([("p".to_owned(), 50_000)]));
    eprintln!("RLIMIT_MEMLOCK 0: {ready}");
}

/// A publisher of this process, and what it has published.
struct Own {
    label: String,
    publisher: Publisher,
    topic: Topic,
    published: u64,
}

impl Own {
    fn new(bus: &Bus, label: &str, name: &str) -> Self {
        let mut publisher = bus.publisher(label).expect("a publisher");
        let topic = publisher.topic(name).expect("a lane");
        Own {
            label: label.to_owned(),
            publisher,
            topic,
            published: 0,
        }
    }

    fn publish(&mut self, topic: Topic) {
        let text = format!("{} {}", self.label, self.published);
        let outcome = self.publisher.publish(topic, Level::Info, text.as_bytes());
        outcome.expect("room");
        self.published += 1;
    }
}

/// More services than the daemon has file handles: their files are opened in turn.
#[test]
fn a_hundred_services_with_32_file_handles() {
    let place = Place::new("RLIMIT_NOFILE 32, 100 services", "block");
    let mut daemon = daemon_after(&place, "ulimit -n 32", "auto", &[]);
    assert!(daemon.line_with("").starts_with("ready"));
    let mut own = Own::new(&place.bus, "own", "log:s0:own");
    let topics: Vec<Topic> = (0..100)
        .map(|index| {
            own.publisher
                .topic(&format!("log:s{index}:own"))
                .expect("room")
        })
        .collect();
    let mut expected = BTreeMap::new();
    for _ in 0..20 * setting("MILLPOND_TEST_SECONDS", 2) {
        for &topic in &topics {
            own.publish(topic);
        }
    }
    let guarantee = millpond_bus::Guarantee::Durable;
    own.publisher.flush(guarantee, None).expect("durable");
    expected.insert("own".to_owned(), own.published);
    let most = handles(daemon.pid());
    drop(own);
    let stats = place.settled();
    assert!(most <= 32, "{most}");
    assert_eq!(stats.services.len(), 100);
    daemon.stop();
    // Its numbers go round all services: only each by itself is in order.
    let lines: u64 = stats.services.iter().map(|service| service.lines).sum();
    assert_eq!(lines, expected["own"]);
    assert_identity(source(&stats, "own"));
    eprintln!("{lines} lines of 100 services with at most {most} of 32 file handles");
}

/// More lanes than file handles: those that cannot be read yet wait, nothing of them is lost, and somebody is told.
#[test]
fn a_hundred_lanes_with_32_file_handles_wait_for_their_turn() {
    let place = Place::new("RLIMIT_NOFILE 32, 100 lanes", "drop");
    let messages = place.dir.path().join("messages");
    let first = format!("ulimit -n 32 && exec 2> {}", messages.display());
    let mut daemon = daemon_after(&place, &first, "auto", &[]);
    assert!(daemon.line_with("").starts_with("ready"));
    let mut own: Vec<Own> = (0..100)
        .map(|index| {
            let label = format!("own{index}");
            Own::new(&place.bus, &label, &format!("log:web:{label}"))
        })
        .collect();
    for _ in 0..100 {
        for one in &mut own {
            let topic = one.topic;
            one.publish(topic);
        }
    }
    let expected: BTreeMap<String, u64> = own
        .iter()
        .map(|one| (one.label.clone(), one.published))
        .collect();
    let told = || std::fs::read_to_string(&messages).unwrap_or_default();
    wait_until(|| told().contains("a lane waits until it can be read"));
    // The lanes of those who leave are drained and make room for the others.
    drop(own);
    let stats = place.settled();
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&expected);
    for label in expected.keys() {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!((source.written, source.dropped.total()), (100, 0));
    }
    let told = told();
    assert!(
        told.contains("of the 32 that this process may have") && told.contains("raise `ulimit -n`"),
        "{told}"
    );
    assert!(told.lines().count() < 20, "it says so once: {told}");
}

/// In the middle of a run there are no handles to be had any more, and then again: segments that could not be opened are
/// opened later.
#[test]
fn file_handles_that_run_out_for_a_while_lose_nothing() {
    let place = Place::new("EMFILE for a while", "block");
    let mut daemon = daemon_after(&place, "true", "auto", &["segment_bytes=262144", "seal=0"]);
    assert!(daemon.line_with("").starts_with("ready"));
    let publishers = place.four_publishers(&["size=100"]);
    // Every lane is read: without lines there is nothing to be opened.
    wait_until(|| {
        let sources = place.bus.stats().sources;
        sources.len() == 4 && sources.iter().all(|source| source.written > 1000)
    });
    let pid = Pid::from_raw(daemon.pid() as i32);
    let normal = getrlimit(Resource::Nofile);
    let allow = |most: Option<u64>| {
        let limit = Rlimit {
            current: most.or(normal.current),
            maximum: normal.maximum,
        };
        prlimit(pid, Resource::Nofile, limit)
    };
    for _ in 0..2 {
        // None beyond what it has; what is open stays so.
        if let Err(error) = allow(Some(3)) {
            eprintln!("skipped: the limits of another process cannot be set here: {error}");
            return;
        }
        wait_until(|| {
            let consumer = place.bus.consumer().expect("it lives");
            consumer.trouble.contains("Too many open files")
        });
        allow(None).expect("back");
        wait_until(|| place.bus.consumer().expect("it lives").trouble.is_empty());
    }
    let mut expected = BTreeMap::new();
    for (label, published) in crate::support::outcomes_of(publishers) {
        assert_eq!(published.dropped(), 0);
        expected.insert(label, published.published);
    }
    place.settled();
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&expected);
    let events: u64 = expected.values().sum();
    eprintln!("twice without file handles: {events} events, each once");
}

/// Who has no handle left to attach with is told which limit it is.
#[test]
fn attaching_without_file_handles_names_the_limit() {
    let place = Place::new("attach without file handles", "block");
    let before = place.objects("");
    // One more each time: wherever it stops, it leaves nothing behind.
    let mut refusals = 0;
    for most in 4..9 {
        let first = format!("ulimit -n {most}");
        let (status, lines) =
            publisher_after(&place, &first, "p", &["count=0", "flush=0"]).finish();
        // With fewer still, the program itself cannot be loaded.
        if let Some(said) = lines.iter().find(|line| line.starts_with("failed")) {
            refusals += 1;
            assert!(said.contains("raise `ulimit -n`"), "{most}: {said}");
            assert_eq!(place.objects(""), before, "{most}: {said}");
        }
        eprintln!("ulimit -n {most}: {status} {lines:?}");
    }
    assert!(refusals > 0);
}

/// However little address space there is: an error in words, or it works; never a crash of ours.
#[test]
fn little_address_space_is_an_error_in_words() {
    let place = Place::new("RLIMIT_AS", "block");
    let mut refusals = 0;
    for kb in (12_000..60_000).step_by(4_000) {
        let first = format!("ulimit -v {kb}");
        // No daemon: the lane is made and dropped again, and nothing is published.
        let command = format!("{first} && exec 2> /dev/null");
        let (status, lines) =
            publisher_after(&place, &command, "p", &["count=0", "flush=0"]).finish();
        let said = lines.last().cloned().unwrap_or_default();
        if let Some(refusal) = lines.iter().find(|line| line.starts_with("failed")) {
            refusals += 1;
            assert!(refusal.contains("raise `ulimit -v`"), "{kb}: {refusal}");
        }
        eprintln!("ulimit -v {kb}: {status} {said}");
    }
    eprintln!("{refusals} refusals");
}

/// A daemon whose threads cannot be started says so and does not begin.
#[test]
fn a_daemon_without_threads_is_refused_in_words() {
    let place = Place::new("no threads", "block");
    let Some(group) = Cgroup::new("pids") else {
        return;
    };
    // The process itself and the test's watchdog; then what the sealer and the writer need.
    for most in [2, 3] {
        group.set("pids.max", "pids.max", most);
        let arguments = place.daemon_arguments("auto", &[]);
        let program = env!("CARGO_BIN_EXE_victim_daemon");
        let (status, lines) = after(&group.enter(), program, &arguments).finish();
        assert!(!status.success());
        let said = lines.last().cloned().unwrap_or_default();
        eprintln!("pids.max {most}: {said}");
        assert!(said.starts_with("refused cannot start the"), "{lines:?}");
        // It has not kept the lease or the directory.
        assert!(place.bus.consumer().is_none());
    }
    place.daemon("auto", &[]).stop();
}
