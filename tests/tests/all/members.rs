//! Members of a bus that mean harm, and users who are none: what they can do is in SECURITY.md, line by line, and each
//! line names a test, most of them here.
//!
//! `MILLPOND_TEST_KILLS`: how often objects are truncated; `MILLPOND_TEST_ATTACHES`: how often a publisher comes and
//! goes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use millpond_bus::{
    Bus, BusOptions, ErrorKind, FlushError, Guarantee, Level, Limits, PublishError, Publisher,
    SubscribeOptions, Subscription, guard_truncated_objects,
};
use millpond_logfile::{Told, parse_line, unescape};
use millpond_tests::{Random, Watchdog, options, setting};
use rustix::fs::{FlockOperation, flock};

use crate::peers::Report;
use crate::support::{
    Found, Place, Process, Published, Runs, assert_identity, fresh_name, source, wait_until,
};

/// A user and a group that nobody else here has.
const OTHER_USER: u32 = 23_456;
const OTHER_GROUP: u32 = 23_457;
/// Nobody waits longer for what is to come at once.
const LONG: Duration = Duration::from_secs(60);

fn shm(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

fn control(place: &Place) -> String {
    format!("millpond.{}.control", place.name)
}

/// What a member does to an object that others have mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Nothing is left of it.
    Cut,
    /// Its first page is left.
    CutBehind(u64),
    /// It has its length again, and is all zeros.
    Wiped,
}

fn harm(name: &str, harm: Harm) {
    // It may be gone by now.
    let Ok(file) = OpenOptions::new().write(true).open(shm(name)) else {
        return;
    };
    let length = file.metadata().expect("its length").len();
    let left = match harm {
        Harm::Cut | Harm::Wiped => 0,
        Harm::CutBehind(bytes) => bytes.min(length),
    };
    file.set_len(left).expect("it is ours");
    if harm == Harm::Wiped {
        file.set_len(length).expect("it is ours");
    }
}

fn only(place: &Place, kind: &str) -> String {
    let names = place.objects(kind);
    let [name] = &names[..] else {
        panic!("{names:?}")
    };
    name.clone()
}

/// The object of the lane of this publisher.
fn lane_of(place: &Place, label: &str) -> String {
    let lane = || {
        let stats = place.bus.stats();
        let mut lanes = stats.lanes.into_iter();
        lanes
            .find(|lane| lane.label == label)
            .map(|lane| lane.epoch)
    };
    wait_until(|| lane().is_some());
    format!(
        "millpond.{}.lane.{:x}",
        place.name,
        lane().expect("just seen")
    )
}

/// Runs a program as another user; `None`, visibly, where that is not possible here.
fn as_other_user(group: u32, program: &str, arguments: &[String]) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return None;
    }
    // Where it is built, others may not be let in.
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("chmod");
    let copy = dir.path().join("program");
    fs::copy(program, &copy).expect("a copy");
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("chmod");
    let mut command = Command::new(&copy);
    command.args(arguments).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.uid(OTHER_USER).gid(group);
    let mut child = loop {
        match command.spawn() {
            // Another test starts a process just now, which has the copy open for writing until it executes.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::yield_now()
            }
            spawned => break spawned.expect("it starts"),
        }
    };
    // Closed, it would be told to end.
    let stdin = child.stdin.take();
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    Some(output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// Truncation.

/// What a publisher said that was let go, or whose lane was harmed.
fn last_words(mut publisher: Process) -> String {
    publisher.let_go();
    let (_, lines) = publisher.end();
    lines.last().cloned().unwrap_or_default()
}

/// The lane of one publisher is truncated while it is in use: it is told, the daemon gives the lane up and goes on,
/// and what the others publish is in the log, all of it.
fn harm_to_a_lane(how: fn(&mut Random) -> Harm) {
    let place = Place::new("truncated lanes", "block");
    let mut random = Random::seeded();
    let daemon = place.daemon("auto", &[]);
    let rounds = setting("MILLPOND_TEST_KILLS", 5);
    let mut expected = BTreeMap::new();
    let (mut told, mut taken) = (0, 0);
    for round in 0..rounds {
        let (victim_label, label) = (format!("v{round}"), format!("g{round}"));
        let event = format!("log:web:{victim_label}");
        let victim = place.publisher(&victim_label, &event, &["size=100"]);
        let good = place.publisher(&label, &format!("log:fine:{label}"), &["count=2000"]);
        let name = lane_of(&place, &victim_label);
        wait_until(|| {
            let stats = place.bus.stats();
            let mut sources = stats.sources.iter();
            sources.any(|source| source.label == victim_label && source.written > 500)
        });
        std::thread::sleep(random.millis(5));
        harm(&name, how(&mut random));
        std::thread::sleep(random.millis(10));
        let said = last_words(victim);
        told += u64::from(said.contains("truncated") || said.contains("quarantined"));
        assert!(
            !said.contains("until the deadline"),
            "it waited for nobody: {said}"
        );
        assert_eq!(Published::of(good.finish()).published, 2000);
        expected.insert(label, Runs(vec![(0, 1999)]));
        // Its publisher is gone, so the lane goes, and what was written of it stays counted.
        let stats = place.settled();
        taken += source(&stats, &victim_label).written;
        assert_identity(source(&stats, &victim_label));
    }
    place.bus.check().expect("the bus is whole");
    daemon.stop();
    let found = Found::read(&place.logs());
    // A record that was wiped between its header and its payload is a line that says other things.
    let is_wiped = how(&mut random) == Harm::Wiped;
    assert!(found.wrong.is_empty() || is_wiped, "{:#?}", found.wrong);
    let mut lines = 0;
    for (label, runs) in &found.sequences {
        match expected.get(label) {
            Some(whole) => assert_eq!(runs, whole, "{label}"),
            // What is missing is missing at the end.
            None => {
                lines += runs.count();
                assert!(
                    is_wiped || runs.0.len() == 1 && runs.0[0].0 == 0,
                    "{label} {runs:?}"
                );
            }
        }
    }
    eprintln!(
        "{rounds} lanes: {taken} events of theirs written, {lines} lines, {told} publishers told"
    );
    assert_eq!(found.sequences.len(), 2 * rounds as usize);
    assert!(is_wiped || lines == taken, "{lines} lines, {taken} taken");
}

#[test]
fn a_truncated_lane_is_given_up_and_harms_nobody_else() {
    harm_to_a_lane(|_| Harm::Cut);
}

#[test]
fn a_lane_that_was_cut_somewhere_is_given_up_and_harms_nobody_else() {
    harm_to_a_lane(|random| Harm::CutBehind(random.below(1 << 20)));
}

#[test]
fn a_wiped_lane_harms_nobody_else() {
    harm_to_a_lane(|_| Harm::Wiped);
}

/// The control segment is truncated while everything is in use. The daemon ends with an error that names it and the
/// remedy, what was flushed before is in the log, and a daemon on a new bus goes on behind it: nothing is cut, nothing
/// is there twice.
fn harm_to_the_bus(how: Harm) {
    let rounds = setting("MILLPOND_TEST_KILLS", 5).div_ceil(2);
    for round in 0..rounds {
        let mut place = Place::new("a truncated bus", "block");
        let mut random = Random::seeded();
        for _ in 0..round {
            random.below(2);
        }
        let mut daemon = place.daemon("auto", &[]);
        let flushed = place.publisher("flushed", "log:web:flushed", &["count=3000"]);
        assert_eq!(Published::of(flushed.finish()).published, 3000);
        let victim = place.publisher("victim", "log:web:victim", &["size=100"]);
        lane_of(&place, "victim");
        std::thread::sleep(random.millis(30));
        harm(&control(&place), how);
        let said = daemon.line_with("refused");
        assert!(said.contains("truncated or wiped"), "{said}");
        assert!(
            said.contains(&control(&place)) && said.contains("remove"),
            "{said}"
        );
        let (status, _) = daemon.finish();
        assert_eq!(status.code(), Some(1), "an error, and no signal: {status}");
        let told = last_words(victim);
        assert!(
            told.contains("truncated or wiped") || told.contains("Lost"),
            "{told}"
        );
        // As the remedy says.
        for object in place.objects("") {
            fs::remove_file(shm(&object)).expect("ours");
        }
        place.bus = Bus::attach(&place.name, &options("block")).expect("a new bus");
        let daemon = place.daemon("auto", &[]);
        let later = place.publisher("later", "log:web:later", &["count=1000"]);
        assert_eq!(Published::of(later.finish()).published, 1000);
        daemon.stop();
        let found = Found::read(&place.logs());
        found.assert_orderly();
        assert_eq!(found.sequences["flushed"], Runs(vec![(0, 2999)]));
        assert_eq!(found.sequences["later"], Runs(vec![(0, 999)]));
        // What is missing is missing at the end.
        if let Some(runs) = found.sequences.get("victim") {
            assert!(runs.0.len() == 1 && runs.0[0].0 == 0, "{runs:?}");
            eprintln!(
                "{how:?}: {} lines of the one that was cut off",
                runs.count()
            );
        }
    }
}

#[test]
fn a_truncated_bus_ends_its_daemon_with_an_error_and_the_log_stays() {
    harm_to_the_bus(Harm::Cut);
}

#[test]
fn a_wiped_bus_ends_its_daemon_with_an_error_and_the_log_stays() {
    harm_to_the_bus(Harm::Wiped);
}

/// The daemon ends with an error, and the next one makes another outbox: what comes then is delivered.
#[test]
fn a_truncated_outbox_ends_its_daemon_with_an_error_and_the_next_one_delivers() {
    let place = Place::new("a truncated outbox", "peers");
    let mut daemon = place.daemon("auto", &[]);
    let reader = place.subscriber("reader", "batch:*", &[]);
    let mut spoilt = place.source("spoilt", "batch:load:x", &["rate=50000", "flush=0"]);
    wait_until(|| place.delivered("reader") > 1000);
    let name = only(&place, "outbox.");
    harm(&name, Harm::Cut);
    let said = daemon.line_with("refused");
    assert!(
        said.contains(&name) && said.contains("start the consumer again"),
        "{said}"
    );
    assert_eq!(daemon.finish().0.code(), Some(1));
    // Whoever waits for room in its lane waits for the next one.
    let daemon = place.daemon("auto", &[]);
    spoilt.let_go();
    Report::end(spoilt);
    wait_until(|| place.objects("outbox.").iter().any(|other| *other != name));
    let good = place.subscriber("good", "batch:*", &[]);
    let publisher = place.source("fine", "batch:load:x", &["count=20000"]);
    let published = Report::finish(publisher).published();
    let good = Report::end(good);
    // A subscriber that got no processor for a moment is overtaken, and told so.
    let accounted = good.number("delivered") + good.number("lagged");
    assert!(accounted >= published, "{good:?}");
    assert!(good.number("delivered") > 0, "{good:?}");
    let report = Report::end(reader);
    assert!(report.number("delivered") > 1000, "{report:?}");
    daemon.stop();
}

#[test]
fn a_truncated_lane_is_a_damaged_ring_to_its_subscribers() {
    let place = Place::new("a truncated lane of subscribers", "peers");
    let daemon = place.daemon("auto", &[]);
    let reader = place.subscriber("reader", "pass:*", &[]);
    let mut victim = place.source("victim", "pass:load:x", &["rate=50000", "flush=0"]);
    wait_until(|| place.delivered("reader") > 1000);
    harm(&only(&place, "lane."), Harm::Cut);
    let good = place.source("fine", "pass:load:y", &["count=5000", "rate=50000"]);
    let published = Report::finish(good).published();
    victim.let_go();
    let victim = Report::end(victim);
    assert!(victim.number("refused") > 0, "{victim:?}");
    let report = Report::end(reader);
    assert_eq!(report.number("damaged"), 1, "{report:?}");
    assert!(report.number("delivered") >= 1000 + published, "{report:?}");
    daemon.stop();
}

#[test]
fn a_truncated_bus_is_an_error_to_its_subscribers() {
    for how in [Harm::Cut, Harm::Wiped] {
        let place = Place::new("a truncated bus of subscribers", "peers");
        let mut reader = place.subscriber("reader", "pass:*", &[]);
        let mut sleeper = place.subscriber("sleeper", "batch:*", &[]);
        harm(&control(&place), how);
        for subscriber in [&mut reader, &mut sleeper] {
            let said = subscriber.line_with("failed");
            assert!(said.contains("truncated or wiped"), "{said}");
        }
        assert_eq!(reader.finish().0.code(), Some(1));
        assert_eq!(sleeper.finish().0.code(), Some(1));
    }
}

/// Those who wait are told as well: for a flush, for room in a lane that is full, and behind a batch.
#[test]
fn publishers_that_wait_are_told_that_their_bus_was_truncated() {
    guard_truncated_objects().expect("a handler");
    for how in [Harm::Cut, Harm::Wiped] {
        let place = Place::new("waiting on a truncated bus", "block");
        let mut publisher = place.bus.publisher("p").expect("a publisher");
        let topic = publisher.topic("log:web:p").expect("a topic");
        publisher
            .publish(topic, Level::Info, b"first")
            .expect("room");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| publisher.flush(Guarantee::Written, None));
            harm(&control(&place), how);
            assert_eq!(waiting.join().expect("no panic"), Err(FlushError::Lost));
        });
        let mut refused = None;
        for _ in 0..20_000 {
            refused = publisher.publish(topic, Level::Info, &[b'x'; 100]).err();
            if refused.is_some() {
                break;
            }
        }
        // At the latest when the lane is full.
        assert_eq!(refused, Some(PublishError::Lost), "{how:?}");
        assert_eq!(
            place.bus.check().expect_err("it is not whole").kind(),
            ErrorKind::Lost
        );
        // Statistics of what is not there are no reason to end.
        assert!(place.bus.stats().lanes.is_empty());
    }
}

/// Objects of a bus that is in use are cut here and there, again and again: whatever ends, ends with an error.
#[test]
fn truncation_anywhere_ends_nobody_with_a_signal() {
    let mut random = Random::seeded();
    for _ in 0..setting("MILLPOND_TEST_KILLS", 5) {
        let place = Place::new("truncation anywhere", "peers");
        let mut daemon = place.daemon("auto", &[]);
        let readers = ["pass", "batch", "log"]
            .map(|prefix| place.subscriber(prefix, &format!("{prefix}:*"), &[]));
        let mut sources = ["pass", "batch", "log"].map(|prefix| {
            let event = format!("{prefix}:load:x");
            place.source(prefix, &event, &["rate=20000", "flush=0"])
        });
        wait_until(|| place.delivered("batch") > 100);
        let objects = place.objects("");
        for _ in 0..3 {
            let name = &objects[random.below(objects.len() as u64) as usize];
            let how = match random.below(3) {
                0 => Harm::Cut,
                1 => Harm::CutBehind(random.below(1 << 18)),
                _ => Harm::Wiped,
            };
            harm(name, how);
            std::thread::sleep(random.millis(10));
        }
        sources.iter_mut().for_each(Process::let_go);
        for process in sources.into_iter().chain(readers) {
            let (status, lines) = process.end();
            assert!(status.code().is_some(), "{status} {lines:?}");
        }
        daemon.let_go();
        let (status, lines) = daemon.end();
        assert!(status.code().is_some(), "{status} {lines:?}");
    }
}

// Names.

/// Whatever stands where the control segment should be is refused with an error that names it, or is finished.
#[test]
fn squatted_names_of_a_bus_are_refused_with_what_stands_there() {
    let _watchdog = Watchdog::start("squatted names", Duration::from_secs(120));
    let name = fresh_name();
    let path = shm(&format!("millpond.{name}.control"));
    let elsewhere = tempfile::tempdir().expect("a directory");
    let aim = elsewhere.path().join("aim");
    let refused = |what: &str| {
        let error = Bus::attach(&name, &options("block")).expect_err(what);
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::WrongOwner, "{what}: {text}");
        assert!(
            text.contains(&name) && text.contains("squats"),
            "{what}: {text}"
        );
        Bus::open(&name).expect_err(what);
    };
    // A link, dangling or not, must not be followed: what it points to belongs to somebody.
    symlink(&aim, &path).expect("a link");
    refused("a dangling link");
    assert!(!aim.exists());
    fs::write(&aim, b"precious").expect("a file");
    refused("a link");
    assert_eq!(fs::read(&aim).expect("it is there"), b"precious");
    fs::remove_file(&path).expect("ours");
    fs::create_dir(&path).expect("a directory");
    refused("a directory");
    fs::remove_dir(&path).expect("ours");
    let made = Command::new("mkfifo")
        .arg("-m")
        .arg("600")
        .arg(&path)
        .status();
    if made.is_ok_and(|status| status.success()) {
        refused("a pipe");
        fs::remove_file(&path).expect("ours");
    }
    // Empty, short or huge, and ours: as a creator that died leaves it. It is finished.
    for length in [0, 100, 1 << 20, 1 << 40] {
        let file = File::create(&path).expect("an object");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        file.set_len(length).expect("sparse");
        let bus = Bus::attach(&name, &options("block")).expect("finished");
        assert_eq!(
            bus.rules().expect("rules"),
            options("block").rules,
            "{length}"
        );
        bus.remove().expect("removed");
    }
}

/// Anybody on the host can make files in /dev/shm: names of objects to come can be guessed, but not for long.
#[test]
fn squatted_names_of_lanes_and_subscribers_are_gone_around() {
    let place = Place::new("squatted lanes", "peers");
    let squat = |from: u64| {
        for epoch in from..from + 300 {
            for kind in ["lane", "subscriber", "outbox"] {
                let path = shm(&format!("millpond.{}.{kind}.{epoch:x}", place.name));
                if let Ok(file) = File::create_new(&path) {
                    drop(file);
                    // Root alone can give a file away; as our own it is as much in the way.
                    let _ = std::os::unix::fs::chown(&path, Some(OTHER_USER), None);
                }
            }
        }
    };
    squat(0);
    let daemon = place.daemon("auto", &[]);
    let reader = place.subscriber("reader", "batch:*", &[]);
    for round in 0..3 {
        let label = format!("p{round}");
        let publisher = place.source(&label, "batch:load:x", &["count=1000"]);
        let report = Report::finish(publisher);
        assert_eq!(report.published(), 1000);
    }
    Report::end(reader).assert_accounts_for(3000);
    daemon.stop();
}

fn free_bytes() -> u64 {
    let stat = rustix::fs::statvfs("/dev/shm").expect("a tmpfs");
    stat.f_bavail * stat.f_frsize
}

/// Whoever maps a lane enters all of its pages: one that is much longer than its ring would take the memory of the host.
#[test]
fn a_lane_that_is_longer_than_its_ring_is_not_mapped() {
    let place = Place::new("a long lane", "block");
    let mut publisher = place.bus.publisher("p").expect("a publisher");
    publisher.topic("log:web:p").expect("a topic");
    let file = OpenOptions::new()
        .write(true)
        .open(shm(&only(&place, "lane.")))
        .expect("ours");
    file.set_len(1 << 36).expect("sparse");
    let free_before = free_bytes();
    let daemon = place.daemon("auto", &[]);
    let good = place.publisher("good", "log:web:good", &["count=1000"]);
    assert_eq!(Published::of(good.finish()).published, 1000);
    let taken_bytes = free_before.saturating_sub(free_bytes());
    assert!(taken_bytes < 8 << 30, "{taken_bytes} bytes of /dev/shm");
    drop(publisher);
    daemon.stop();
}

// Users and groups.

fn grouped(group_id: Option<u32>) -> BusOptions {
    BusOptions {
        group_id,
        ..options("block")
    }
}

/// A bus of its own for users, removed in the end.
struct Shared(Bus);

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = self.0.remove();
    }
}

/// What `publisher` is told, as another user.
fn publish_as(group: u32, bus: &str, group_id: Option<u32>) -> Option<String> {
    let mut arguments = vec![
        format!("bus={bus}"),
        "label=guest".to_owned(),
        "event=log:web:guest".to_owned(),
        "rules=block".to_owned(),
        "count=100".to_owned(),
        "wait=0".to_owned(),
    ];
    arguments.extend(group_id.map(|group_id| format!("group={group_id}")));
    as_other_user(group, env!("CARGO_BIN_EXE_publisher"), &arguments).map(|output| said(&output))
}

#[test]
fn another_user_is_refused_where_no_group_is_configured() {
    let _watchdog = Watchdog::start("another user", Duration::from_secs(120));
    let name = fresh_name();
    let bus = Shared(Bus::attach(&name, &grouped(None)).expect("a bus"));
    for group in [None, Some(OTHER_GROUP)] {
        let Some(said) = publish_as(OTHER_GROUP, &name, group) else {
            return;
        };
        assert!(
            said.contains("failed") && said.contains("is not open to user 23456"),
            "{said}"
        );
        assert!(said.contains("group-id"), "{said}");
    }
    assert!(bus.0.stats().sources.is_empty());
}

#[test]
fn members_of_the_group_may_publish_and_other_users_may_not() {
    let _watchdog = Watchdog::start("a group", Duration::from_secs(120));
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a bus to any group");
        return;
    }
    let name = fresh_name();
    let bus = Shared(Bus::attach(&name, &grouped(Some(OTHER_GROUP))).expect("a bus"));
    let mut drain = bus.0.drain().expect("a drain");
    let Some(said) = publish_as(OTHER_GROUP, &name, Some(OTHER_GROUP)) else {
        return;
    };
    assert!(said.contains("published=100"), "{said}");
    // The owner believes it, and reads it.
    drain.housekeep();
    let mut taken = 0;
    drain.pass(millpond_bus::Scope::Persisted, &mut |_| {
        taken += 1;
        millpond_bus::Verdict::Keep
    });
    assert_eq!(taken, 100);
    // Whoever is in another group is not let in, whatever it says of itself.
    for group in [None, Some(OTHER_GROUP), Some(OTHER_GROUP + 1)] {
        let said = publish_as(OTHER_GROUP + 1, &name, group).expect("root");
        assert!(said.contains("is not open to user 23456"), "{said}");
    }
    drop(drain);
    // The owner opens it without naming the group, and sees the guest's lane.
    let opened = Bus::open(&name).expect("its owner");
    assert!(
        opened
            .stats()
            .sources
            .iter()
            .any(|source| source.label == "guest")
    );
}

// Publishers that do not do their part.

#[test]
fn a_claim_that_is_never_committed_holds_nobody_up() {
    let place = Place::new("a claim for ever", "block");
    let daemon = place.daemon("auto", &[]);
    let mut idler = place.bus.publisher("idler").expect("a publisher");
    let topic = idler.topic("log:web:idler").expect("a topic");
    idler
        .publish(topic, Level::Info, b"idler 0 x")
        .expect("room");
    let mut claim = idler.claim(topic, Level::Info, 100).expect("room");
    assert!(claim.append(b"half a"));
    let good = place.publisher("good", "log:web:good", &["count=5000", "flush=durable"]);
    assert_eq!(Published::of(good.finish()).published, 5000);
    // What came before the claim is taken, and what is claimed is not there.
    wait_until(|| source(&place.bus.stats(), "idler").written == 1);
    assert!(claim.append(b", and half b"), "it is there all the time");
    drop(idler);
    place.settled();
    daemon.stop();
    let expected = BTreeMap::from([("good".to_owned(), 5000), ("idler".to_owned(), 1)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

#[test]
fn a_publisher_that_is_stopped_in_the_middle_holds_nobody_up() {
    let place = Place::new("a stopped publisher", "block");
    let daemon = place.daemon("auto", &[]);
    let mut random = Random::seeded();
    let signal = |process: &Process, name: &str| {
        let pid = process.pid().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.expect("kill starts").success());
    };
    let mut published = BTreeMap::new();
    let mut stopped = place.publisher("stopped", "log:web:stopped", &["batch=16"]);
    lane_of(&place, "stopped");
    for round in 0..setting("MILLPOND_TEST_KILLS", 5) {
        std::thread::sleep(random.millis(5));
        signal(&stopped, "-STOP");
        let label = format!("g{round}");
        let good = place.publisher(&label, &format!("log:web:{label}"), &["count=500"]);
        published.insert(label, Published::of(good.finish()).published);
        signal(&stopped, "-CONT");
    }
    stopped.let_go();
    published.insert("stopped".to_owned(), Published::of(stopped.end()).published);
    place.settled();
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&published);
}

// Limits.

/// Lanes up to the limit of the bus: the next one is an error that says so, those who have one go on, and what frees
/// them is that their publishers close or die.
#[test]
fn a_publisher_that_takes_all_lanes_is_an_error_to_those_who_come_later() {
    let _watchdog = Watchdog::start("all lanes", Duration::from_secs(240));
    let name = fresh_name();
    let limits = Limits {
        lanes: setting("MILLPOND_TEST_LANES", 64) as u32,
        ..Limits::default()
    };
    let options = BusOptions {
        limits,
        ..options("drop")
    };
    let bus = Shared(Bus::attach(&name, &options).expect("a bus"));
    let mut drain = bus.0.drain().expect("a drain");
    let one = || -> Result<Publisher, millpond_bus::Error> {
        let mut publisher = bus.0.publisher("greedy")?;
        publisher.topic("log:web:greedy")?;
        Ok(publisher)
    };
    let mut publishers: Vec<Publisher> = (0..limits.lanes)
        .map(|_| one().expect("a lane is left"))
        .collect();
    let error = one().expect_err("all are in use");
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    let text = error.to_string();
    assert!(
        text.contains(&format!("{} lanes in use", limits.lanes)),
        "{text}"
    );
    assert!(text.contains("stop some publishers"), "{text}");
    // Nothing is left of the attempt.
    let objects = fs::read_dir("/dev/shm").expect("/dev/shm");
    let prefix = format!("millpond.{name}.lane.");
    let lanes = objects.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with(&prefix)
    });
    assert_eq!(lanes.count(), limits.lanes as usize);
    // Those who have one go on.
    let publisher = &mut publishers[0];
    let topic = publisher.topic("log:web:greedy").expect("its lane");
    publisher
        .publish(topic, Level::Info, b"still here")
        .expect("room");
    drain.housekeep();
    drop(publishers.pop());
    drain.housekeep();
    publishers.push(one().expect("one was freed"));
    drop(publishers);
    drop(drain);
}

#[test]
fn a_publisher_that_comes_and_goes_thousands_of_times_leaves_nothing_behind() {
    let place = Place::new("coming and going", "drop");
    let daemon = place.daemon("auto", &[]);
    let attaches = setting("MILLPOND_TEST_ATTACHES", 1000);
    let steady = place.publisher("steady", "log:web:steady", &["flush=written"]);
    let mut refused = 0;
    for number in 0..attaches {
        let mut publisher = place.bus.publisher("brief").expect("a publisher");
        let topic = loop {
            match publisher.topic("log:web:brief") {
                Ok(topic) => break topic,
                // The consumer has not come round to those that are gone.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        let payload = format!("brief {number} x");
        publisher
            .publish(topic, Level::Info, payload.as_bytes())
            .expect("room");
    }
    let mut steady = steady;
    steady.let_go();
    let steady = Published::of(steady.end());
    let stats = place.settled();
    let brief = source(&stats, "brief");
    assert_eq!(
        (brief.published, brief.written, brief.lanes_gone),
        (attaches, attaches, attaches)
    );
    assert_eq!(brief.dropped.total(), 0);
    let steady_source = source(&stats, "steady");
    assert_identity(steady_source);
    assert_eq!(steady_source.published, steady.published);
    eprintln!("{attaches} publishers came and went, {refused} times none of the lanes was free");
    daemon.stop();
    let found = Found::read(&place.logs());
    found.assert_orderly();
    assert_eq!(found.sequences["brief"], Runs(vec![(0, attaches - 1)]));
}

/// Names travel with their events where the table is full: everybody goes on publishing.
#[test]
fn a_full_name_table_keeps_nobody_from_publishing() {
    let place = Place::new("all names", "block");
    let daemon = place.daemon("auto", &[]);
    let mut greedy = place.bus.publisher("greedy").expect("a publisher");
    for number in 0..5000 {
        greedy
            .topic(&format!("log:web:n{number}"))
            .expect("a topic");
    }
    let good = place.publisher("good", "log:web:good", &["count=2000"]);
    assert_eq!(Published::of(good.finish()).published, 2000);
    drop(greedy);
    place.settled();
    daemon.stop();
    let expected = BTreeMap::from([("good".to_owned(), 2000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

#[test]
fn all_subscribers_taken_is_an_error_until_one_leaves() {
    let place = Place::new("all subscribers", "peers");
    let one = || -> Result<Subscription, millpond_bus::Error> {
        let options = SubscribeOptions::new("greedy", "pass:x".parse().expect("a pattern"));
        place.bus.subscribe(options)
    };
    let mut taken: Vec<Subscription> = (0..256).map(|_| one().expect("a seat is left")).collect();
    let error = one().expect_err("all are taken");
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(
        error.to_string().contains("256 subscribers: stop some"),
        "{error}"
    );
    // Nobody who publishes notices.
    let mut publisher = place.bus.publisher("p").expect("a publisher");
    let topic = publisher.topic("pass:x").expect("a topic");
    publisher
        .publish(topic, Level::Info, b"hello")
        .expect("room");
    assert_eq!(
        &*taken[255].recv_timeout(LONG).expect("an event").payload,
        b"hello"
    );
    drop(taken.pop());
    taken.push(one().expect("one has left"));
}

// Bells and locks.

/// Ringing in a loop costs the consumer a core at most, and nobody an event.
#[test]
fn a_doorbell_that_never_stops_ringing_costs_time_alone() {
    let place = Place::new("ringing", "block");
    let daemon = place.daemon("auto", &[]);
    let (bell, bus) = (place.bus.doorbell(), place.bus.clone());
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let rings = std::thread::scope(|scope| {
        let ringing = scope.spawn(|| {
            let mut rings = 0u64;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                bell.ring();
                bus.wake_commit_waiters();
                rings += 1;
            }
            rings
        });
        let good = place.publisher("good", "log:web:good", &["count=20000"]);
        let published = Published::of(good.finish());
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!((published.published, published.dropped()), (20_000, 0));
        ringing.join().expect("no panic")
    });
    eprintln!("{rings} rings beside 20000 events");
    place.settled();
    daemon.stop();
    let expected = BTreeMap::from([("good".to_owned(), 20_000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

/// A lock that a member holds keeps a daemon from starting, with an error that says what is locked; and no longer.
#[test]
fn a_member_that_holds_the_lease_keeps_a_daemon_from_starting_and_no_longer() {
    let place = Place::new("a held lease", "block");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(shm(&control(&place)))
        .expect("ours");
    flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
    let (status, lines) = place.start_daemon("auto", &[]).finish();
    assert!(!status.success());
    assert!(lines[0].contains("has a consumer already"), "{lines:?}");
    // Who publishes goes on, up to what a lane holds.
    let mut publisher = place.bus.publisher("p").expect("a publisher");
    let topic = publisher.topic("log:web:p").expect("a topic");
    publisher
        .publish(topic, Level::Info, b"p 0 x")
        .expect("room");
    drop(file);
    let daemon = place.daemon("auto", &[]);
    publisher.flush(Guarantee::Written, None).expect("written");
    drop(publisher);
    daemon.stop();
}

/// Whoever may only read the logs must not be able to lock the daemon out.
#[test]
fn the_lock_of_a_log_directory_is_for_its_owner_alone() {
    let place = Place::new("a locked directory", "block");
    place.daemon("auto", &[]).stop();
    let lock = fs::read_dir(place.logs())
        .expect("the logs")
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().contains("lock"))
        .expect("a lock file");
    let mode = lock.metadata().expect("its mode").permissions().mode();
    assert_eq!(mode & 0o077, 0, "mode {mode:o}: others could hold the lock");
    // Its owner is told who has it.
    let file = File::open(lock.path()).expect("ours");
    flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).expect("nobody has it");
    let (status, lines) = place.start_daemon("auto", &[]).finish();
    assert!(!status.success());
    assert!(
        lines[0].contains("is being written by process"),
        "{lines:?}"
    );
    drop(file);
    place.daemon("auto", &[]).stop();
}

/// Names are needed to come in, not to go on.
#[test]
fn objects_that_a_member_unlinks_stay_in_use_by_those_who_have_them() {
    let place = Place::new("unlinked objects", "block");
    let daemon = place.daemon("auto", &[]);
    let mut publisher = place.publisher("p", "log:web:p", &["batch=16"]);
    lane_of(&place, "p");
    wait_until(|| source(&place.bus.stats(), "p").written > 100);
    for object in place.objects("") {
        fs::remove_file(shm(&object)).expect("ours");
    }
    std::thread::sleep(Duration::from_millis(20));
    publisher.let_go();
    let published = Published::of(publisher.end());
    assert_eq!(published.dropped(), 0);
    daemon.stop();
    let expected = BTreeMap::from([("p".to_owned(), published.published)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

// What is written into logs.

/// Payloads that try to be more than one line, or somebody else's: one record is one line, and it says who wrote it.
#[test]
fn payloads_cannot_forge_lines() {
    let place = Place::new("forged lines", "block");
    let daemon = place.daemon("auto", &[]);
    let mut publisher = place.bus.publisher("liar").expect("a publisher");
    let topic = publisher.topic("log:web:liar").expect("a topic");
    let forged: [&[u8]; 9] = [
        b"first\nsecond",
        b"2026-01-01T00:00:00.000000000Z ERROR rpc it was rpc\n",
        b"\r2026-01-01T00:00:00.000000000Z ERROR rpc over it\r\n",
        b"gap source=rpc count=5 first=0 last=4 cause=full:5",
        b"x\n2026-01-01T00:00:00.000000000Z WARN  millpond gap source=rpc count=5 first=0 last=4 cause=full:5\n",
        b"repeat source=rpc count=9 first=2026-01-01T00:00:00.000000000Z last=2026-01-01T00:00:00.000000000Z",
        b"\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b1m\x00\x7f",
        b"\xe2\x80\xa8\xc2\x85 other ends of a line \x0b\x0c\x1c",
        b"back\\slash \\n \\x1b",
    ];
    for payload in forged {
        publisher
            .publish(topic, Level::Info, payload)
            .expect("room");
    }
    publisher.flush(Guarantee::Written, None).expect("written");
    drop(publisher);
    place.settled();
    daemon.stop();
    let text = fs::read(place.logs().join("web/current.log")).expect("a log");
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    assert_eq!(lines.len(), forged.len());
    for (raw, payload) in lines.iter().zip(forged) {
        let line = parse_line(raw).expect("a line");
        assert_eq!(line.source, b"liar", "{:?}", String::from_utf8_lossy(raw));
        let mut plain = Vec::new();
        unescape(line.message, &mut plain);
        assert_eq!(plain, payload);
        // Nothing that a terminal would obey.
        let shown = std::str::from_utf8(&raw[..raw.len() - 1]).expect("text");
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}

/// No name of an event has the source of the daemon, so no event can tell of gaps or repeats.
#[test]
fn names_cannot_forge_the_daemons_own_lines() {
    let place = Place::new("forged sources", "block");
    let daemon = place.daemon("auto", &[]);
    let mut publisher = place.bus.publisher("millpond").expect("a publisher");
    let message = b"gap source=rpc count=5 first=0 last=4 cause=full:5";
    let mut offered = 0;
    for name in [
        "log:web:millpond",
        "log:millpond",
        "log:web",
        "log:millpond:millpond",
    ] {
        if let Ok(topic) = publisher.topic(name) {
            publisher
                .publish(topic, Level::Info, message)
                .expect("room");
            offered += 1;
        }
    }
    assert!(offered > 0);
    publisher.flush(Guarantee::Written, None).expect("written");
    drop(publisher);
    let stats = place.settled();
    daemon.stop();
    let label = source(&stats, "millpond");
    assert_eq!(label.published, offered);
    assert_eq!(
        label.written + label.rejected + label.coalesced,
        offered,
        "{label:?}"
    );
    let mut lines = 0;
    for service in millpond_logfile::list_services(&place.logs()).expect("services") {
        let text = fs::read(place.logs().join(service).join("current.log")).unwrap_or_default();
        for raw in text.split_inclusive(|&byte| byte == b'\n') {
            let line = parse_line(raw).expect("a line");
            let is_told = line.source == Told::SOURCE && line.message.starts_with(b"gap ");
            assert!(!is_told, "{:?}", String::from_utf8_lossy(raw));
            lines += 1;
        }
    }
    assert!(lines > 0);
}

/// Services become directories: what cannot be one is no name, or is refused and counted.
#[test]
fn names_of_services_do_not_leave_the_log_directory() {
    let place = Place::new("services as paths", "block");
    let daemon = place.daemon("auto", &[]);
    let long = "s".repeat(300);
    let fitting = "s".repeat(100);
    let names = [
        "log:../evil:x",
        "log:..:x",
        "log:.:x",
        "log:.hidden:x",
        "log:/etc/evil:x",
        "log:a/b:x",
        "log::x",
        "log:a\0b:x",
        "log:a\nb:x",
        "log:a b:x",
        "log:\u{1b}[2J:x",
        "log:~:x",
        "log:-rf:x",
        &format!("log:{long}:x"),
        &format!("log:{fitting}:x"),
        "log:CON\\..:x",
        "log:ok:x",
    ];
    let mut publisher = place.bus.publisher("p").expect("a publisher");
    let mut offered = 0;
    for name in names {
        match publisher.topic(name) {
            Ok(topic) => {
                publisher
                    .publish(topic, Level::Info, b"evil")
                    .expect("room");
                offered += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}: {error}"),
        }
    }
    publisher.flush(Guarantee::Written, None).expect("written");
    drop(publisher);
    let stats = place.settled();
    daemon.stop();
    let p = source(&stats, "p");
    assert_eq!((p.published, p.written + p.rejected), (offered, offered));
    assert!(p.written >= 1 && offered < names.len() as u64, "{p:?}");
    // Nothing beside the log directory, and in it nothing but plain names.
    let beside: Vec<_> = fs::read_dir(place.dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(beside, ["logs"]);
    for service in fs::read_dir(place.logs()).expect("the logs") {
        let name = service.expect("an entry").file_name();
        let name = name.to_str().expect("plain text");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!(name.len() <= 64 && name.bytes().all(plain), "{name:?}");
    }
}

/// Labels are shown on terminals and stand in gap lines: what cannot be shown is no label, also not one that was written
/// into shared memory by hand.
#[test]
fn labels_with_control_characters_are_refused_or_shown_harmlessly() {
    let place = Place::new("labels", "block");
    for label in ["a\nb", "a\x1b[2J", "", "a b", "a\0", &"x".repeat(65)] {
        let error = place.bus.publisher(label).expect_err("no label");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{label:?}");
    }
    let mut publisher = place.bus.publisher("plain").expect("a publisher");
    let topic = publisher.topic("log:web:x").expect("a topic");
    publisher.publish(topic, Level::Info, b"x").expect("room");
    let lane = OpenOptions::new()
        .write(true)
        .open(shm(&only(&place, "lane.")))
        .expect("ours");
    let bytes = fs::read(shm(&only(&place, "lane."))).expect("ours");
    let at = bytes
        .windows(5)
        .position(|window| window == b"plain")
        .expect("its label");
    lane.write_all_at(b"a\x1b[2J", at as u64).expect("written");
    let daemon = place.daemon("auto", &[]);
    wait_until(|| {
        place
            .bus
            .stats()
            .sources
            .iter()
            .any(|source| source.written == 1)
    });
    let stats = place.bus.stats();
    assert_eq!(stats.sources[0].label, "a\u{fffd}[2J");
    assert_eq!(stats.lanes[0].label, "a\u{fffd}[2J");
    drop(publisher);
    daemon.stop();
}

// The page.

/// Each line of the table in SECURITY.md names the tests that check it, and they exist.
#[test]
fn security_md_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("SECURITY.md");
    let mut sources = String::new();
    let mut dirs = vec![root.join("tests/tests"), root.join("crates")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)
            .expect("a directory")
            .filter_map(Result::ok)
        {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).expect("text"));
            }
        }
    }
    let mut numbers = Vec::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, _, tests, _] = cells[..] else {
            continue;
        };
        let Ok(number) = number.parse::<usize>() else {
            continue;
        };
        numbers.push(number);
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "line {number} names no test");
        for name in names {
            assert!(
                sources.contains(&format!("fn {name}()")),
                "line {number}: no test {name}"
            );
        }
    }
    assert!(numbers.len() > 20, "the table is not found");
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
}
