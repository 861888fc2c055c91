//! After a fault: what `dump`, `gc`, `doctor` and `verify` find of it, what they mend, and what they leave alone
//! because it could be lost.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millpond_bus::inspect::{Inspection, list_objects};
use millpond_bus::{Bus, BusOptions, Level};
use millpond_logfile::{SegmentId, list_segments};
use millpond_tests::{Random, Watchdog, setting};
use serde_json::Value;

use crate::support::{Place, code, signal, text};

const LIMIT: Duration = Duration::from_secs(120);
/// Where the consumer's heartbeat lies in the control segment.
const HEARTBEAT_OFFSET: u64 = 0x200;

impl Place {
    fn objects(&self) -> Vec<PathBuf> {
        let all = list_objects(Path::new("/dev/shm")).expect("shared memory");
        let ours = all.into_iter().filter(|object| object.bus == self.bus);
        ours.map(|object| object.path).collect()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[&["--json"], args].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", shown(&output)))
    }

    /// The checks of the doctor whose finding has this in it.
    fn checks(&self, args: &[&str], part: &str) -> Vec<Value> {
        let report = self.json(&[&["doctor"], args].concat());
        let checks = report["checks"].as_array().expect("checks").clone();
        let has = |check: &Value| {
            check["found"]
                .as_str()
                .is_some_and(|found| found.contains(part))
        };
        checks.into_iter().filter(has).collect()
    }

    fn service(&self, name: &str) -> PathBuf {
        self.logs().join(name)
    }

    /// A service with one closed segment that is not sealed, and its id.
    fn closed_segment(&mut self, service: &str) -> SegmentId {
        let _watchdog = Watchdog::start("a rotation", LIMIT);
        self.start(&["--seal", "never"]);
        self.feed(&["pipe", "--service", service], b"ERROR one\ntwo\nthree\n");
        assert_eq!(code(&self.run(&["rotate"])), 0);
        let dir = self.service(service);
        let mut segments = Vec::new();
        // It was asked for: some line after it begins the next segment.
        while segments.len() < 2 {
            self.feed(&["pipe", "--service", service], b"four\n");
            segments = list_segments(&dir).expect("segments");
        }
        self.stop();
        segments[0]
    }
}

fn shown(output: &Output) -> String {
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

/// Every payload that `dump` shows as committed and not drained.
fn undrained(dump: &Value) -> BTreeSet<String> {
    let lanes = dump["lanes"].as_array().expect("lanes");
    let records = lanes.iter().flat_map(|lane| {
        let records = lane["records"].as_array().expect("records");
        assert_eq!(lane["undrained"], records.len());
        records
    });
    records
        .map(|record| record["payload"].as_str().expect("text").to_owned())
        .collect()
}

/// `doctor --fix` mends what it finds of all buses of this user, so also what the test beside it has broken.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn what_a_killed_daemon_left_is_shown_kept_drained_and_only_then_removed() {
    let _watchdog = Watchdog::start("what a killed daemon left", LIMIT);
    let mut place = Place::new("left");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"written\n");
    signal(&place.daemon.as_ref().expect("it runs").child, "-STOP");
    let left: BTreeSet<String> = (0..5).map(|number| format!("left {number}")).collect();
    for payload in &left {
        assert_eq!(code(&place.run(&["publish", "log:web:rpc", payload])), 0);
    }
    // SIGKILL ends stopped processes, too.
    drop(place.daemon.take());

    let dump = place.json(&["dump"]);
    assert_eq!(undrained(&dump), left, "{dump}");
    assert_eq!(dump["damage"], Value::Array(Vec::new()));
    let page = place.run(&["dump"]);
    assert_eq!(code(&page), 0, "{}", shown(&page));
    for payload in &left {
        assert!(text(&page.stdout).contains(payload), "{}", shown(&page));
    }
    let lanes = dump["lanes"].as_array().expect("lanes");
    let lane = lanes
        .iter()
        .find(|lane| lane["undrained"] == 1)
        .expect("a lane");
    let lane_number = lane["lane"].as_str().expect("its number");
    let raw = place.run(&["dump", "--lane", lane_number, "--raw"]);
    assert!(
        left.contains(text(&raw.stdout).trim_end()),
        "{}",
        shown(&raw)
    );

    let before = place.objects();
    let refused = place.run(&["gc"]);
    assert_eq!(code(&refused), 2, "{}", shown(&refused));
    let words = text(&refused.stdout);
    assert!(
        words.contains("5 events") && words.contains("daemon --drain"),
        "{words}"
    );
    assert_eq!(place.objects(), before, "refused, it removes nothing");
    let warned = place.checks(&[], &format!("bus {:?}, and it holds events", place.bus));
    assert_eq!(warned.len(), 1, "{warned:?}");

    let drained = place.run(&["daemon", "--drain"]);
    assert_eq!(code(&drained), 0, "{}", shown(&drained));
    assert!(
        text(&drained.stdout).contains("drained: 5 events"),
        "{}",
        shown(&drained)
    );
    let query = place.run(&["query", "--service", "web", "--raw"]);
    let lines: BTreeSet<String> = text(&query.stdout).lines().map(str::to_owned).collect();
    let mut all = left.clone();
    all.insert("written".to_owned());
    assert_eq!((lines, text(&query.stdout).lines().count()), (all, 6));
    assert_eq!(code(&place.run(&["verify"])), 0);

    let dry = place.run(&["gc", "--dry-run"]);
    assert_eq!(code(&dry), 0, "{}", shown(&dry));
    assert!(!place.objects().is_empty(), "--dry-run removes nothing");
    assert_eq!(code(&place.run(&["gc"])), 0);
    assert_eq!(place.objects(), Vec::<PathBuf>::new());
    assert_eq!(code(&place.run(&["gc"])), 1, "nothing to remove");
    assert_eq!(code(&place.run(&["dump"])), 1, "no such bus");
}

#[test]
fn gc_leaves_a_bus_alone_while_anybody_lives_and_discards_when_told() {
    let _watchdog = Watchdog::start("gc", LIMIT);
    let mut place = Place::new("alive");
    // Attached, without a lane or a lock.
    let bus = Bus::attach(&place.bus, &BusOptions::default()).expect("a bus");
    let before = place.objects();
    let output = place.run(&["gc", "--discard"]);
    assert_eq!(code(&output), 1, "{}", shown(&output));
    assert!(
        text(&output.stdout).contains("attached"),
        "{}",
        shown(&output)
    );
    assert_eq!(place.objects(), before);
    drop(bus);
    place.start(&[]);
    let output = place.run(&["gc", "--discard"]);
    assert!(
        text(&output.stdout).contains("in use by consumer"),
        "{}",
        shown(&output)
    );
    assert_eq!(code(&output), 1);
    place.stop();
    assert_eq!(code(&place.run(&["publish", "data:x", "1"])), 0);
    assert_eq!(code(&place.run(&["gc"])), 2, "one event waits");
    let done = place.json(&["gc", "--discard"]);
    assert_eq!(done["buses"][0]["state"], "removed", "{done}");
    assert_eq!(done["buses"][0]["undrained_events"], 1);
    assert_eq!(place.objects(), Vec::<PathBuf>::new());
}

#[test]
fn records_that_were_claimed_and_never_committed_are_told_from_those_that_were() {
    let place = Place::new("claimed");
    let bus = Bus::attach(&place.bus, &BusOptions::default()).expect("a bus");
    let mut publisher = bus.publisher("importer").expect("a label");
    let topic = publisher.topic("log:web:rows").expect("a rule");
    publisher
        .publish(topic, Level::Warn, b"committed")
        .expect("room");
    let mut batch = publisher.batch(topic).expect("a batch");
    batch.push(Level::Info, b"claimed 1").expect("room");
    batch.push(Level::Info, b"claimed \xff 2").expect("room");
    let dump = place.json(&["dump"]);
    assert_eq!(undrained(&dump), BTreeSet::from(["committed".to_owned()]));
    let lane = &dump["lanes"][0];
    let claimed = lane["uncommitted"].as_array().expect("records");
    assert_eq!(claimed.len(), 2, "{dump}");
    assert_eq!(claimed[0]["payload"], "claimed 1");
    assert_eq!(claimed[1]["payload"], Value::Null);
    assert_eq!(
        claimed[1]["payload_hex"],
        "63 6c 61 69 6d 65 64 20 ff 20 32"
    );
    assert_eq!(lane["holder"]["pid"], std::process::id());
    batch.commit();
    let dump = place.json(&["dump"]);
    assert_eq!(dump["lanes"][0]["undrained"], 3);
    assert_eq!(dump["lanes"][0]["uncommitted"], Value::Array(Vec::new()));
}

#[test]
fn a_ring_that_has_wrapped_is_shown_from_its_committed_position() {
    let place = Place::new("wrapped");
    let bus = Bus::attach(&place.bus, &BusOptions::default()).expect("a bus");
    let mut publisher = bus.publisher("web").expect("a label");
    let topic = publisher.topic("log:web:rpc").expect("a rule");
    let mut drain = bus.drain().expect("nobody drains");
    let payload = vec![b'x'; 30_000];
    // Several times around, committed at the end only by rounds.
    for _ in 0..500 {
        publisher
            .publish(topic, Level::Info, &payload)
            .expect("room");
        drain.pass(millpond_bus::Scope::Persisted, &mut |_| {
            millpond_bus::Verdict::Keep
        });
        let mark = drain.mark(millpond_bus::Scope::Persisted);
        drain.commit(mark, &[], false);
    }
    for number in 0..20 {
        let text = format!("last {number} {}", "y".repeat(20_000));
        publisher
            .publish(topic, Level::Info, text.as_bytes())
            .expect("room");
    }
    let inspection = Inspection::open(&place.bus).expect("a bus");
    let lane = &inspection.lanes[0];
    assert!(lane.tail_position > lane.capacity_bytes, "it wrapped");
    let records: Vec<_> = inspection
        .undrained(lane)
        .collect::<Result<_, _>>()
        .expect("whole records");
    let sequences: Vec<u64> = records.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (500..520).collect::<Vec<u64>>());
    assert!(records[19].payload.starts_with(b"last 19 "));
    assert!(inspection.unfinished(lane).records.is_empty());
}

/// Copies the objects of a bus, as somebody takes them to another host.
fn copy_objects(place: &Place) -> tempfile::TempDir {
    // In memory: no disk has a part in this.
    let dir = tempfile::tempdir_in("/dev/shm").expect("a temporary place");
    for object in place.objects() {
        let to = dir.path().join(object.file_name().expect("a name"));
        fs::copy(&object, &to).expect("a copy");
        // The history of a control segment is a hole.
        let copy = fs::File::options().write(true).open(&to).expect("the copy");
        let length = copy.metadata().expect("its length").len();
        copy.set_len(length.min(5 << 20)).expect("a cut");
    }
    dir
}

#[test]
fn a_copy_is_shown_as_such_and_hostile_bytes_in_it_are_damage_and_never_a_panic() {
    let _watchdog = Watchdog::start("hostile bytes", LIMIT);
    let mut place = Place::new("hostile");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"written\n");
    place.run(&["publish", "data:users:created", "{}"]);
    place.stop();
    for number in 0..3 {
        place.run(&["publish", "log:web:rpc", &format!("left {number}")]);
    }
    let copy = copy_objects(&place);
    let dir = copy.path().to_str().expect("text");
    let dump = place.json(&["dump", "--dir", dir]);
    assert_eq!(undrained(&dump).len(), 3, "{dump}");
    assert_eq!(
        dump["lease"]["held"],
        Value::Null,
        "nobody can tell of a copy"
    );

    let files: Vec<PathBuf> = fs::read_dir(copy.path())
        .expect("the copy")
        .map(|entry| entry.expect("a file").path())
        .collect();
    let wholes: Vec<Vec<u8>> = files
        .iter()
        .map(|path| fs::read(path).expect("bytes"))
        .collect();
    let mut random = Random::seeded();
    let interesting = [0, 1, 7, 0xff, u64::MAX, 1 << 63, 4096, (1 << 20) + 4];
    for round in 0..setting("MILLPOND_TEST_MUTATIONS", 60) {
        let victim = random.below(files.len() as u64) as usize;
        let length = wholes[victim].len() as u64;
        let file = fs::File::options()
            .write(true)
            .open(&files[victim])
            .expect("a file");
        for _ in 0..=random.below(8) {
            // Mostly where numbers lie that everything hangs on.
            let reach = [0x800, 0x2000, length][random.below(3) as usize].min(length);
            let at = random.below(reach.max(1)) & !3;
            let value = match random.below(2) {
                0 => interesting[random.below(interesting.len() as u64) as usize],
                _ => random.below(u64::MAX),
            };
            file.write_all_at(&value.to_le_bytes(), at)
                .expect("a write");
        }
        if random.below(4) == 0 {
            file.set_len(random.below(length + 1)).expect("a cut");
        }
        if let Ok(inspection) = Inspection::open_in(copy.path(), &place.bus) {
            for ring in inspection.lanes.iter().chain(&inspection.outboxes) {
                let records = inspection.undrained(ring).take(100_000).count();
                assert!(records < 100_000, "more records than the ring has room for");
                let _ = inspection.unfinished(ring);
            }
            let _ = inspection.undrained_totals();
        }
        if round % 30 == 0 {
            for form in [&["dump"][..], &["--json", "dump"]] {
                let output = place.run(&[form, &["--dir", dir]].concat());
                assert!([0, 1, 2].contains(&code(&output)), "{}", shown(&output));
                assert!(
                    !text(&output.stderr).contains("panicked"),
                    "{}",
                    shown(&output)
                );
            }
        }
        fs::write(&files[victim], &wholes[victim]).expect("as it was");
    }
    let again = place.json(&["dump", "--dir", dir]);
    assert_eq!(undrained(&again), undrained(&dump), "as it was");
}

#[test]
fn a_record_with_nonsense_in_it_is_named_with_its_place_and_the_exit_code_says_so() {
    let place = Place::new("nonsense");
    for number in 0..2 {
        place.run(&["publish", "log:web:rpc", &format!("left {number}")]);
    }
    let copy = copy_objects(&place);
    let lane = fs::read_dir(copy.path())
        .expect("the copy")
        .map(|entry| entry.expect("a file").path())
        .find(|path| path.to_string_lossy().contains(".lane."))
        .expect("a lane");
    let file = fs::File::options().write(true).open(&lane).expect("a file");
    file.write_all_at(&u32::MAX.to_le_bytes(), 0x1000)
        .expect("a write");
    let output = place.run(&["dump", "--dir", copy.path().to_str().expect("text")]);
    assert_eq!(code(&output), 2, "{}", shown(&output));
    let page = text(&output.stdout);
    assert!(
        page.contains("record length at position 0 is 4294967295"),
        "{page}"
    );
    assert!(page.contains("left"), "the other lane is shown: {page}");
}

#[test]
fn dump_fits_a_narrow_terminal_escapes_what_is_hostile_and_ends_quietly_with_its_reader() {
    let place = Place::new("narrow");
    let payload = format!("\u{1b}[2J\u{1b}]0;evil\u{7} {}", "long ".repeat(100));
    for _ in 0..3 {
        place.run(&["publish", "log:web:rpc", &payload]);
    }
    let output = place
        .command(&["dump"])
        .env("COLUMNS", "40")
        .output()
        .expect("it starts");
    assert_eq!(code(&output), 0, "{}", shown(&output));
    assert!(!output.stdout.contains(&0x1b) && !output.stdout.contains(&7));
    let page = text(&output.stdout);
    let events: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.contains("not drained"))
        .skip(1)
        .take(3)
        .collect();
    assert!(events[2].contains(" bytes)"), "{events:?}");
    for line in events {
        assert!(line.chars().count() <= 40, "{line}");
    }
    let mut child = place
        .command(&["dump"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut first = String::new();
    BufReader::with_capacity(1, child.stdout.take().expect("a pipe"))
        .read_line(&mut first)
        .expect("a line");
    assert!(first.contains(&place.bus), "{first}");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn flags_that_cannot_be_are_refused_with_a_reason() {
    let place = Place::new("flags");
    place.run(&["publish", "log:web:rpc", "x"]);
    let cases: [(&[&str], &str); 8] = [
        (&["dump", "--lane", "xyz"], "no number of a lane"),
        (&["dump", "--lane", "ffff"], "it has"),
        (&["dump", "--raw"], "--lane"),
        (&["dump", "--dir", "/no/such/dir"], "/no/such/dir"),
        (&["doctor", "--dry-run"], "--fix"),
        (&["verify", "--service", "../etc"], "cannot be used"),
        (&["verify"], "--logs"),
        (&["index", "verify"], "verify"),
    ];
    for (args, expected) in cases {
        let output = place.run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", shown(&output));
        let message = text(&output.stderr);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn a_bus_of_another_user_is_named_and_left_alone() {
    let place = Place::new("other-user");
    place.run(&["publish", "log:web:rpc", "x"]);
    // Copied to where that user can execute it.
    let program = place.dir.path().join("millpond");
    fs::copy(env!("CARGO_BIN_EXE_millpond"), &program).expect("a copy");
    for path in [place.dir.path(), &program] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let as_nobody = |args: &[&str]| {
        std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(args)
            .env("MILLPOND_BUS", &place.bus)
            .env("MILLPOND_LOGS", place.logs())
            .env("MILLPOND_CONFIG", "/dev/null")
            .output()
    };
    match as_nobody(&["--version"]) {
        Ok(output) if output.status.success() => {}
        _ => {
            eprintln!("skipped: this needs root and setpriv, to become another user");
            return;
        }
    }
    let dump = as_nobody(&["dump"]).expect("it starts");
    assert_eq!(code(&dump), 2, "{}", shown(&dump));
    assert!(
        text(&dump.stderr).contains("cannot be read by user 65534"),
        "{}",
        shown(&dump)
    );
    let before = place.objects();
    let gc = as_nobody(&["gc", "--discard"]).expect("it starts");
    assert_eq!(code(&gc), 1, "{}", shown(&gc));
    assert!(
        text(&gc.stdout).contains("belongs to user"),
        "{}",
        shown(&gc)
    );
    assert_eq!(place.objects(), before);
}

#[test]
fn orphans_are_found_and_removed_unless_something_is_in_them() {
    let _turn = turn();
    let place = Place::new("orphans");
    // A bus that lives, without a daemon that would remove them itself.
    let bus = Bus::attach(&place.bus, &BusOptions::default()).expect("a bus");
    let mut publisher = bus.publisher("web").expect("a label");
    let topic = publisher.topic("log:web:rpc").expect("a rule");
    publisher.publish(topic, Level::Info, b"x").expect("room");
    let orphan = |epoch: &str, tail: u64| {
        let path = PathBuf::from(format!("/dev/shm/millpond.{}.lane.{epoch}", place.bus));
        let file = fs::File::create(&path).expect("an object");
        file.set_len(0x2000).expect("its size");
        file.write_all_at(&tail.to_le_bytes(), 0x400)
            .expect("a write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(mode).expect("ours");
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
        file.set_modified(long_ago).expect("its time");
        path
    };
    let (empty, full) = (orphan("aaaa", 0), orphan("bbbb", 64));
    let young = PathBuf::from(format!("/dev/shm/millpond.{}.lane.cccc", place.bus));
    fs::write(&young, [0; 0x2000]).expect("an object");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&young, mode).expect("ours");
    // However long this test takes, it stays young.
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(&young).expect("ours");
    file.set_modified(later).expect("its time");
    let part = format!("millpond.{}.lane", place.bus);
    let found = place.checks(&["--fix", "--dry-run"], &part);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(empty.exists(), "--dry-run removes nothing");
    let fixed = place.checks(&["--fix"], &part);
    let states: Vec<&Value> = fixed
        .iter()
        .flat_map(|check| check["fixes"].as_array().expect("fixes"))
        .map(|fix| &fix["state"])
        .collect();
    assert_eq!(states, ["done"], "{fixed:?}");
    assert!(!empty.exists() && full.exists() && young.exists());
    let remedy = fixed.iter().any(|check| {
        let remedy = check["remedy"].as_str().unwrap_or_default();
        remedy.contains("dump") && remedy.contains("bbbb")
    });
    assert!(remedy, "{fixed:?}");
    for path in [full, young] {
        fs::remove_file(path).expect("ours");
    }
}

#[test]
fn a_daemon_that_is_stopped_is_told_from_one_that_is_well() {
    let mut place = Place::new("stopped");
    place.start(&[]);
    let daemon = place.daemon.as_ref().expect("it runs");
    let pid = daemon.child.id().to_string();
    let well = place.checks(&[], &format!("process {pid},"));
    assert!(
        well.iter().any(|check| check["check"] == "heartbeat"),
        "{well:?}"
    );
    signal(&daemon.child, "-STOP");
    let control = format!("/dev/shm/millpond.{}.control", place.bus);
    let control = fs::File::options().write(true).open(control).expect("ours");
    // As if it had been stopped long ago.
    control
        .write_all_at(&1_u64.to_le_bytes(), HEARTBEAT_OFFSET)
        .expect("a write");
    let output = place.run(&["doctor"]);
    signal(&place.daemon.as_ref().expect("it runs").child, "-CONT");
    assert_eq!(code(&output), 1, "{}", shown(&output));
    let page = text(&output.stdout);
    assert!(
        page.contains("is stopped") && page.contains(&format!("kill -CONT {pid}")),
        "{page}"
    );
    place.stop();
}

#[test]
fn leftovers_of_steps_that_were_cut_short_are_found_and_removed_only_while_nobody_writes() {
    let _turn = turn();
    let mut place = Place::new("steps");
    let closed = place.closed_segment("web");
    let dir = place.service("web");
    let lost = SegmentId::from_ns(7);
    let made = [
        dir.join(format!("{closed}.log.zst.new")),
        dir.join(format!("{closed}.idx.new")),
        dir.join(".current.new"),
        lost.index_path(&dir),
    ];
    for path in &made {
        fs::write(path, b"half").expect("ours");
    }
    let notes = dir.join("notes.new");
    fs::write(&notes, b"not of this program").expect("ours");
    fs::remove_file(dir.join("current.log")).expect("the link");
    let verified = place.json(&["verify"]);
    assert_eq!(verified["damaged"], 5, "{verified}");
    let shown_dir = dir.display().to_string();
    assert_eq!(place.checks(&["--fix", "--dry-run"], &shown_dir).len(), 5);
    assert!(
        made.iter().all(|path| path.exists()),
        "--dry-run removes nothing"
    );

    let lock = millpond_sink_lock(&place);
    let refused = place.checks(&["--fix"], &shown_dir);
    assert_eq!(refused, Vec::<Value>::new(), "they are the writer's own");
    assert!(made.iter().all(|path| path.exists()));
    drop(lock);

    let output = place.run(&["doctor", "--fix"]);
    // Other leftovers of this host may be mended with ours.
    let page = text(&output.stdout);
    let lines = page.lines();
    let fixed = lines
        .filter(|line| line.trim_start().starts_with("fixed") && line.contains(&shown_dir))
        .count();
    assert_eq!(fixed, 5, "{}", shown(&output));
    assert!(!made.iter().any(|path| path.exists()));
    assert!(notes.exists(), "files of others stay");
    let newest = list_segments(&dir).expect("segments")[1];
    let link = fs::read_link(dir.join("current.log")).expect("a link");
    assert_eq!(link, PathBuf::from(format!("{newest}.log")));
    assert_eq!(code(&place.run(&["verify"])), 0);
}

/// Holds the lock of the log directory, as a daemon does.
fn millpond_sink_lock(place: &Place) -> fs::File {
    let file = fs::File::open(place.logs().join(".millpond.lock")).expect("it was written");
    file.lock().expect("nobody writes");
    file
}

#[test]
fn both_forms_of_a_segment_become_one_and_a_damaged_plain_one_keeps_both() {
    let _turn = turn();
    let mut place = Place::new("forms");
    let closed = place.closed_segment("web");
    let dir = place.service("web");
    let plain = fs::read(closed.log_path(&dir)).expect("its text");
    let sealed = closed.sealed_path(&dir);
    fs::write(&sealed, b"whatever").expect("ours");
    let mut torn = plain.clone();
    torn[40] ^= 0x20;
    fs::write(closed.log_path(&dir), &torn).expect("ours");
    let part = sealed.display().to_string();
    let found = place.checks(&["--fix"], &part);
    assert_eq!(found[0]["fixes"][0]["state"], "failed", "{found:?}");
    assert!(sealed.exists());
    fs::write(closed.log_path(&dir), &plain).expect("ours");
    let found = place.checks(&["--fix"], &part);
    assert_eq!(found[0]["fixes"][0]["state"], "done", "{found:?}");
    assert!(!sealed.exists());
    assert_eq!(code(&place.run(&["verify"])), 0);
}

#[test]
fn a_damaged_index_is_made_anew_and_one_that_lost_its_text_is_not() {
    let _turn = turn();
    let mut place = Place::new("index");
    let closed = place.closed_segment("web");
    let dir = place.service("web");
    let index = closed.index_path(&dir);
    let whole = fs::read(&index).expect("an index");
    let mut damaged = whole.clone();
    let at = damaged.len() - 20;
    damaged[at] ^= 1;
    fs::write(&index, &damaged).expect("ours");
    let verified = place.json(&["verify"]);
    let named = verified["damage"].as_array().expect("damage");
    assert!(
        !named.is_empty() && named.iter().all(|one| one["remedy"] != ""),
        "{verified}"
    );
    let shown_index = index.display().to_string();
    assert!(
        named.iter().any(|one| one["path"] == shown_index.as_str()),
        "{verified}"
    );
    let found = place.checks(&["--fix"], &shown_index);
    assert_eq!(found[0]["fixes"][0]["state"], "done", "{found:?}");
    assert_eq!(
        fs::read(&index).expect("an index"),
        whole,
        "the same to the bit"
    );
    assert_eq!(code(&place.run(&["verify"])), 0);
    // Text is missing: an index that says so is worth keeping.
    let text_file = fs::File::options().write(true).open(closed.log_path(&dir));
    text_file.expect("ours").set_len(50).expect("a cut");
    let output = place.run(&["doctor", "--fix"]);
    assert_eq!(code(&output), 1, "{}", shown(&output));
    assert!(
        text(&output.stdout).contains("text that is not there"),
        "{}",
        shown(&output)
    );
    assert_eq!(fs::read(&index).expect("an index"), whole);
}

#[test]
fn verify_names_file_byte_expected_found_and_remedy() {
    let mut place = Place::new("verify");
    let closed = place.closed_segment("web");
    let dir = place.service("web");
    let well = place.run(&["verify"]);
    assert_eq!(code(&well), 0, "{}", shown(&well));
    assert!(
        text(&well.stdout).contains("2 segments"),
        "{}",
        shown(&well)
    );
    assert!(
        text(&well.stdout).contains("1 services committed"),
        "{}",
        shown(&well)
    );

    let path = closed.log_path(&dir);
    let whole = fs::read(&path).expect("its text");
    let mut flipped = whole.clone();
    let last = flipped.len() - 2;
    flipped[last] ^= 1; // in the message of the last line: still a line
    fs::write(&path, &flipped).expect("ours");
    let output = place.run(&["verify"]);
    assert_eq!(code(&output), 2, "{}", shown(&output));
    let page = text(&output.stdout);
    for part in [
        "at byte 0: checksum of the block",
        "expected",
        "backup",
        "1 damaged",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let since = place.run(&["verify", "--since", "now"]);
    assert_eq!(code(&since), 0, "only the newest: {}", shown(&since));
    fs::write(&path, &whole).expect("ours");

    // Shorter than what the bus says is committed.
    let newest = list_segments(&dir).expect("segments")[1];
    let text_file = fs::File::options().write(true).open(newest.log_path(&dir));
    text_file.expect("ours").set_len(0).expect("a cut");
    let report = place.json(&["verify"]);
    let damage = report["damage"].as_array().expect("damage");
    let short = damage.iter().any(|one| {
        let expected = one["expected"].as_str().unwrap_or_default();
        expected.contains("as committed") && one["found"] == "0 bytes"
    });
    assert!(short, "{report}");
}

#[test]
fn verify_of_a_log_that_is_being_written_finds_nothing() {
    let _watchdog = Watchdog::start("verify while it is written", LIMIT);
    let mut place = Place::new("live");
    place.start(&["--segment-bytes", "64KiB"]);
    let lines = "ERROR a line that is neither short nor long, nor very interesting\n".repeat(5_000);
    std::thread::scope(|scope| {
        let place = &place;
        let feeder = scope.spawn(|| {
            for _ in 0..setting("MILLPOND_TEST_ROUNDS", 4) {
                place.feed(&["pipe", "--service", "web"], lines.as_bytes());
            }
        });
        let mut looks = 0;
        while !feeder.is_finished() || looks == 0 {
            let output = place.run(&["verify"]);
            assert!(code(&output) < 2, "{}", shown(&output));
            looks += 1;
        }
    });
    place.stop();
    assert_eq!(code(&place.run(&["verify"])), 0);
}

#[test]
fn publishers_that_come_and_go_are_no_damage() {
    let _watchdog = Watchdog::start("publishers that come and go", LIMIT);
    let mut place = Place::new("come-and-go");
    place.start(&[]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let bus = Bus::attach(&place.bus, &BusOptions::default()).expect("a bus");
            while !is_over.load(Ordering::Relaxed) {
                // Faster than lanes are removed, there may be too many of them for a moment.
                let mut publisher = bus.publisher("web").expect("a label");
                if let Ok(topic) = publisher.topic("log:web:rpc") {
                    let _ = publisher.publish(topic, Level::Info, b"x");
                }
            }
        });
        let mut damage = Vec::new();
        for _ in 0..setting("MILLPOND_TEST_ROUNDS", 100) {
            let inspection = Inspection::open(&place.bus).expect("a bus");
            damage.extend(inspection.damage.clone());
            for lane in &inspection.lanes {
                damage.extend(lane.damage.clone());
                let records = inspection.undrained(lane).filter_map(Result::err);
                damage.extend(records.map(|error| error.to_string()));
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(damage, Vec::<String>::new());
    });
    place.stop();
}

#[test]
fn a_directory_entry_whose_lane_stays_away_is_damage() {
    let place = Place::new("lane-gone");
    place.run(&["publish", "log:web:rpc", "x"]);
    let lane = place.objects().into_iter().find(|path| {
        let name = path.to_string_lossy();
        name.contains(".lane.")
    });
    fs::remove_file(lane.expect("a lane")).expect("ours");
    let inspection = Inspection::open(&place.bus).expect("a bus");
    assert_eq!(inspection.damage.len(), 1, "{inspection:?}");
    assert!(inspection.damage[0].contains("is not there"));
}

#[test]
fn a_deleted_index_of_a_closed_segment_is_named_and_made_anew() {
    let _turn = turn();
    let mut place = Place::new("no-index");
    let closed = place.closed_segment("web");
    let index = closed.index_path(&place.service("web"));
    let whole = fs::read(&index).expect("an index");
    fs::remove_file(&index).expect("ours");
    let output = place.run(&["verify"]);
    assert_eq!(code(&output), 2, "{}", shown(&output));
    let page = text(&output.stdout);
    assert!(
        page.contains("index is missing") && page.contains("1 damaged"),
        "{page}"
    );
    let found = place.checks(&["--fix"], &format!("{} is missing", index.display()));
    assert_eq!(found[0]["fixes"][0]["state"], "done", "{found:?}");
    assert_eq!(fs::read(&index).expect("an index"), whole);
    assert_eq!(code(&place.run(&["verify"])), 0);
}

#[test]
fn verify_names_a_service_that_this_user_cannot_read() {
    let mut place = Place::new("unreadable");
    place.closed_segment("web");
    use std::os::unix::fs::PermissionsExt;
    let program = place.dir.path().join("millpond");
    fs::copy(env!("CARGO_BIN_EXE_millpond"), &program).expect("a copy");
    for path in [place.dir.path(), &program, &place.logs()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(place.service("web"), mode).expect("ours");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .arg("verify")
        .env("MILLPOND_BUS", &place.bus)
        .env("MILLPOND_LOGS", place.logs())
        .env("MILLPOND_CONFIG", "/dev/null")
        .output();
    let output = match output {
        Ok(output) if !text(&output.stderr).starts_with("setpriv:") => output,
        _ => {
            eprintln!("skipped: this needs root and setpriv, to become another user");
            return;
        }
    };
    assert_eq!(code(&output), 2, "{}", shown(&output));
    let page = text(&output.stdout);
    let words = "directory is not: Permission denied (os error 13), expected readable";
    assert!(page.contains(words) && page.contains("1 damaged"), "{page}");
}

#[test]
fn a_bus_without_a_readable_control_segment_is_dead_only_after_an_hour() {
    let _turn = turn();
    let place = Place::new("wiped");
    let bus = format!("{}-other", place.bus);
    let path = PathBuf::from(format!("/dev/shm/millpond.{bus}.control"));
    let file = fs::File::create(&path).expect("an object");
    file.set_len(3_100_000).expect("its size");
    let found = |place: &Place| place.checks(&["--fix", "--dry-run"], &format!("bus {bus:?}"));
    let young = found(&place);
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    file.set_modified(long_ago).expect("its time");
    let old = found(&place);
    fs::remove_file(&path).expect("ours");
    assert_eq!(young, Vec::<Value>::new());
    // A host that is full of leftovers does not show all of them.
    assert!(old.len() <= 1, "{old:?}");
}

#[test]
fn remedies_do_not_hide_damage_of_the_text_and_name_what_mends_the_filters() {
    let mut place = Place::new("remedies");
    place.start(&[]);
    let lines: String = (0..5000)
        .map(|number| format!("ERROR line {number} of it\n"))
        .collect();
    place.feed(&["pipe", "--service", "web"], lines.as_bytes());
    assert_eq!(code(&place.run(&["rotate"])), 0);
    let dir = place.service("web");
    let _watchdog = Watchdog::start("a seal", LIMIT);
    let sealed = loop {
        place.feed(&["pipe", "--service", "web"], b"more\n");
        let segments = list_segments(&dir).expect("segments");
        let first = segments[0];
        if first.sealed_path(&dir).exists() && !first.log_path(&dir).exists() {
            break first;
        }
    };
    place.stop();
    assert_eq!(code(&place.run(&["verify"])), 0);
    let flip = |path: &Path| {
        let whole = fs::read(path).expect("bytes");
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        for byte in &mut flipped[middle..middle + 8] {
            *byte ^= 0x55;
        }
        fs::write(path, flipped).expect("ours");
        let report = place.json(&["verify"]);
        fs::write(path, whole).expect("ours");
        let damage = report["damage"].as_array().expect("damage").clone();
        assert!(!damage.is_empty(), "{report}");
        let remedies = damage
            .iter()
            .map(|one| one["remedy"].as_str().expect("words").to_owned());
        remedies.collect::<Vec<String>>()
    };
    for remedy in flip(&sealed.filter_path(&dir)) {
        assert!(
            remedy.contains("index rebuild") && !remedy.contains("doctor"),
            "{remedy}"
        );
    }
    for remedy in flip(&sealed.sealed_path(&dir)) {
        assert!(
            remedy.contains("backup") && !remedy.contains("rebuild`; or"),
            "{remedy}"
        );
    }
}

#[test]
fn a_bus_of_another_release_is_not_said_to_be_drained_by_this_one() {
    let place = Place::new("release");
    place.run(&["publish", "log:web:rpc", "x"]);
    let control = format!("/dev/shm/millpond.{}.control", place.bus);
    let file = fs::File::options().write(true).open(control).expect("ours");
    file.write_all_at(&3_u32.to_le_bytes(), 8).expect("a write");
    let refused = place.run(&["gc"]);
    let page = text(&refused.stdout);
    assert_eq!(code(&refused), 2, "{}", shown(&refused));
    assert!(
        page.contains("--raw` of each lane") && page.contains("that one does"),
        "{page}"
    );
    let drain = place.run(&["daemon", "--drain"]);
    let words = text(&drain.stderr);
    assert!(
        words.contains("layout version 3") && words.contains("millpond gc"),
        "{words}"
    );
    assert_eq!(code(&place.run(&["gc", "--discard"])), 0);
}

#[test]
fn a_committed_segment_that_is_gone_is_named_and_its_index_stays() {
    let mut place = Place::new("gone");
    place.start(&[]);
    place.feed(&["pipe", "--service", "web"], b"ERROR one\ntwo\n");
    drop(place.daemon.take());
    let dir = place.service("web");
    let id = list_segments(&dir).expect("segments")[0];
    fs::remove_file(id.log_path(&dir)).expect("ours");
    fs::remove_file(dir.join("current.log")).expect("the link");
    let words = format!("text of web segment {id} is gone");
    for trace in ["index", "nothing"] {
        let output = place.run(&["verify"]);
        assert_eq!(code(&output), 2, "{trace}: {}", shown(&output));
        let page = text(&output.stdout);
        assert!(
            page.contains(&words) && page.contains("1 damaged"),
            "{trace}: {page}"
        );
        let found = place.checks(&["--fix", "--dry-run"], &words);
        assert_eq!(found.len(), 1, "{trace}");
        assert_eq!(found[0]["state"], "fail", "{found:?}");
        let index = id.index_path(&dir).display().to_string();
        assert_eq!(
            place.checks(&["--fix", "--dry-run"], &index),
            Vec::<Value>::new()
        );
        let _ = fs::remove_file(&index);
    }
}

#[test]
fn a_log_directory_that_is_a_file_is_a_failure() {
    let place = Place::new("logs-file");
    fs::write(place.logs(), b"not a directory").expect("ours");
    let output = place.run(&["doctor"]);
    assert_eq!(code(&output), 1, "{}", shown(&output));
    assert!(
        text(&output.stdout).contains("is no directory"),
        "{}",
        shown(&output)
    );
}
