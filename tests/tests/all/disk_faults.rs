//! Disks that fail, lie, stop, are full or are taken away, under a daemon that goes on: nothing that counts as written
//! is lost, nothing is there twice, people are told, and nobody has to start anything again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use millpond_bus::{Bus, FlushError, Guarantee, Level};
use millpond_faultfs::{Failure, FaultFs, Faults, Frozen, Operation};
use millpond_logfile::{list_segments, list_services, verify_segment};
use rustix::io::Errno;

use crate::support::{Found, Place, Process, Published, assert_identity, source, wait_until};

/// A place whose log directory is on a file system of ours. Declared before the processes that use it.
struct Lab {
    disk: FaultFs,
    backing: tempfile::TempDir,
    place: Place,
}

impl Lab {
    fn new(what: &str) -> Option<Self> {
        let place = Place::new(what, "block");
        fs::create_dir(place.logs()).expect("a directory");
        let backing = tempfile::tempdir().expect("a directory");
        match FaultFs::mount(backing.path(), &place.logs()) {
            Ok(disk) => Some(Lab {
                disk,
                backing,
                place,
            }),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn faults(&self) -> &Faults {
        self.disk.faults()
    }

    fn daemon(&self, backend: &str, more: &[&str]) -> Process {
        let more = [&["tell=1"], more].concat();
        self.place.daemon(backend, &more)
    }
}

/// Waits until the daemon has told people so.
fn wait_until_told(daemon: &mut Process, part: &str) -> String {
    let told = |line: &&String| line.starts_with("notice ") && line.contains(part);
    wait_until(|| {
        assert!(!daemon.has_ended(), "it ended: {:?}", daemon.lines());
        daemon.lines().iter().any(|line| told(&line))
    });
    let lines = daemon.lines();
    lines.iter().find(told).expect("just seen").clone()
}

fn trouble(bus: &Bus) -> String {
    bus.consumer().expect("a consumer").trouble
}

/// Every source adds up, the daemon that was there from the start stops in order, and every index is that of its text.
fn assert_sound(place: &Place, daemon: Process, outcomes: &BTreeMap<String, Published>) {
    let stats = place.settled();
    for (label, outcome) in outcomes {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.published, outcome.published, "{label}");
        assert_eq!(source.written, outcome.published, "{label}");
    }
    daemon.stop();
    assert_verifies(&place.logs());
}

fn assert_verifies(logs: &Path) {
    for service in list_services(logs).expect("services") {
        let dir = logs.join(service);
        for id in list_segments(&dir).expect("segments") {
            let report = verify_segment(&dir, id).expect("verify");
            assert!(report.damage.is_empty(), "{:?}", report.damage);
        }
    }
}

fn counts(outcomes: &BTreeMap<String, Published>) -> BTreeMap<String, u64> {
    let count = |(label, outcome): (&String, &Published)| (label.clone(), outcome.published);
    outcomes.iter().map(count).collect()
}

/// Four publishers go on while the disk refuses, until that has been told; then everything is there.
fn refused_for_a_while(
    what: &str,
    backend: &str,
    daemon: &[&str],
    told: &str,
    refuse: impl FnOnce(&Faults),
) {
    let Some(lab) = Lab::new(what) else { return };
    let mut daemon = lab.daemon(backend, daemon);
    refuse(lab.faults());
    let publishers = lab.place.four_publishers(&["count=15000", "size=100"]);
    wait_until_told(&mut daemon, told);
    assert!(trouble(&lab.place.bus).contains(told));
    lab.faults().clear();
    wait_until_told(&mut daemon, "being written again");
    assert_eq!(trouble(&lab.place.bus), "");
    let outcomes = outcomes_of_each(publishers);
    assert_sound(&lab.place, daemon, &outcomes);
    Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
    let failed: u64 = (Operation::CHANGES.iter())
        .map(|&operation| lab.faults().failed(operation))
        .sum();
    assert!(failed > 0, "nothing was made to fail");
    let published: u64 = counts(&outcomes).values().sum();
    eprintln!("{what}, {backend}: {published} published and written, {failed} calls failed");
}

#[test]
fn writes_that_fail_are_tried_again_uring() {
    refused_for_a_while("EIO", "auto", &[], "Input/output error", |faults| {
        faults.fail(Operation::Write, Failure::new(Errno::IO).of(".log"));
    });
}

#[test]
fn writes_that_fail_are_tried_again_pwrite() {
    refused_for_a_while("EIO", "pwrite", &[], "Input/output error", |faults| {
        faults.fail(Operation::Write, Failure::new(Errno::IO).of(".log"));
    });
}

#[test]
fn quota_that_is_used_up_is_trouble_until_there_is_some() {
    refused_for_a_while("EDQUOT", "auto", &[], "raise the quota", |faults| {
        faults.fail(Operation::Write, Failure::new(Errno::DQUOT));
    });
}

#[test]
fn disk_mounted_for_reading_only_and_back() {
    refused_for_a_while(
        "EROFS",
        "auto",
        &[],
        "mount the file system for writing",
        |faults| {
            faults.read_only();
        },
    );
}

#[test]
fn files_that_cannot_be_opened_are_opened_later() {
    refused_for_a_while(
        "EACCES",
        "pwrite",
        &["segment_bytes=65536"],
        "give this user the right",
        |faults| {
            faults.fail(Operation::Open, Failure::new(Errno::ACCESS));
            faults.fail(Operation::Create, Failure::new(Errno::ACCESS));
        },
    );
}

#[test]
fn syncs_that_fail_for_a_while_hold_up_what_must_be_on_the_disk() {
    refused_for_a_while(
        "EIO of syncs",
        "auto",
        &["sync=0"],
        "cannot sync",
        |faults| {
            faults.fail(Operation::Sync, Failure::new(Errno::IO));
        },
    );
}

/// A sync that fails has lost what it was to write, though the kernel shows it and the next sync succeeds.
fn durable_survives_a_failed_sync(backend: &str, sync: &str) {
    let Some(lab) = Lab::new("a sync that fails") else {
        return;
    };
    let daemon = lab.daemon(backend, &[sync, "segment_bytes=1048576", "seal=0"]);
    lab.faults().lose_at_failed_syncs(true);
    let failing = Failure::new(Errno::IO).of(".log");
    lab.faults().fail(Operation::Sync, failing.clone().times(3));
    let load = ["count=12000", "size=100", "flush=durable"];
    let first = Published::of(lab.place.publisher("p", "log:web:p", &load).finish());
    assert_eq!(lab.faults().failed(Operation::Sync), 3);
    // It has been told that everything is on the disk: on the disk it must be, whatever the cache says.
    let expected = BTreeMap::from([("p".to_owned(), first.published)]);
    Found::read(lab.backing.path()).assert_complete(&expected);
    // Once more with all that is behind it, so that there is a good sync before.
    lab.faults().fail(Operation::Sync, failing.times(1));
    let second = Published::of(lab.place.publisher("q", "log:web:q", &load).finish());
    assert_eq!(lab.faults().failed(Operation::Sync), 4);
    let outcomes = BTreeMap::from([("p".to_owned(), first), ("q".to_owned(), second)]);
    Found::read(lab.backing.path()).assert_complete(&counts(&outcomes));
    assert_sound(&lab.place, daemon, &outcomes);
}

#[test]
fn durable_is_on_the_disk_though_a_sync_failed_uring() {
    durable_survives_a_failed_sync("auto", "sync=20");
}

#[test]
fn durable_is_on_the_disk_though_a_sync_failed_pwrite() {
    durable_survives_a_failed_sync("pwrite", "sync=20");
}

#[test]
fn durable_is_on_the_disk_though_a_sync_failed_always() {
    durable_survives_a_failed_sync("auto", "sync=0");
}

/// Not even the cache has it any more: what is in memory still is written again, so with `always` nothing is lost.
#[test]
fn failed_sync_loses_nothing_with_always_even_without_a_cache() {
    let Some(lab) = Lab::new("a sync that fails, and no cache") else {
        return;
    };
    let daemon = lab.daemon("pwrite", &["sync=0"]);
    lab.faults().lose_at_failed_syncs(false);
    let failing = Failure::new(Errno::IO).of(".log");
    lab.faults().fail(Operation::Sync, failing.times(3));
    let load = ["count=12000", "size=100", "flush=durable"];
    let outcome = Published::of(lab.place.publisher("p", "log:web:p", &load).finish());
    assert_eq!(lab.faults().failed(Operation::Sync), 3);
    let outcomes = BTreeMap::from([("p".to_owned(), outcome)]);
    Found::read(lab.backing.path()).assert_complete(&counts(&outcomes));
    assert_sound(&lab.place, daemon, &outcomes);
}

/// With an interval it may be gone for good: then nobody is told that it is there.
#[test]
fn text_that_a_failed_sync_has_lost_is_told_and_never_durable() {
    let Some(lab) = Lab::new("text that is lost") else {
        return;
    };
    let mut daemon = lab.daemon("pwrite", &["sync=600000"]);
    let load = ["count=3000", "size=100", "flush=written"];
    let _first = Published::of(lab.place.publisher("p", "log:web:p", &load).finish());
    lab.faults().lose_at_failed_syncs(false);
    lab.faults()
        .fail(Operation::Sync, Failure::new(Errno::IO).of(".log").times(1));
    let mut publisher = lab.place.bus.publisher("d").expect("a publisher");
    let topic = publisher.topic("log:web:d").expect("a topic");
    publisher
        .publish(topic, Level::Info, b"d 0 ")
        .expect("published");
    let flushed = publisher.flush(Guarantee::Durable, Some(Duration::from_secs(2)));
    assert!(
        matches!(flushed, Err(FlushError::TimedOut { .. })),
        "{flushed:?}"
    );
    assert_eq!(lab.faults().failed(Operation::Sync), 1);
    let told = wait_until_told(&mut daemon, "the disk has lost");
    assert!(told.contains("nothing counts as durable"), "{told}");
    // What is written later is written all the same.
    publisher
        .publish(topic, Level::Info, b"d 1 ")
        .expect("published");
    publisher.flush(Guarantee::Written, None).expect("written");
    drop(publisher);
    daemon.stop();
}

fn short_writes_are_continued(backend: &str) {
    let Some(lab) = Lab::new("short writes") else {
        return;
    };
    let daemon = lab.daemon(backend, &[]);
    lab.faults().short_writes(1000);
    let publishers = lab.place.four_publishers(&["count=4000", "size=100"]);
    let outcomes = outcomes_of_each(publishers);
    assert!(lab.faults().shortened() > 0);
    assert_sound(&lab.place, daemon, &outcomes);
    Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
}

/// Of publishers that end by themselves.
fn outcomes_of_each(publishers: Vec<Process>) -> BTreeMap<String, Published> {
    (publishers.into_iter().enumerate())
        .map(|(index, publisher)| (format!("p{index}"), Published::of(publisher.finish())))
        .collect()
}

#[test]
fn short_writes_are_continued_uring() {
    short_writes_are_continued("auto");
}

#[test]
fn short_writes_are_continued_pwrite() {
    short_writes_are_continued("pwrite");
}

fn slow_syncs(backend: &str) {
    let Some(lab) = Lab::new("slow syncs") else {
        return;
    };
    let daemon = lab.daemon(backend, &["sync=50"]);
    lab.faults()
        .delay(Operation::Sync, Duration::from_millis(300));
    let publishers = lab
        .place
        .four_publishers(&["count=10000", "size=100", "flush=durable"]);
    let outcomes = outcomes_of_each(publishers);
    assert!(lab.faults().waited() > 0);
    assert_sound(&lab.place, daemon, &outcomes);
    Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
}

#[test]
fn syncs_of_300_ms_lose_nothing_uring() {
    slow_syncs("auto");
}

#[test]
fn syncs_of_300_ms_lose_nothing_pwrite() {
    slow_syncs("pwrite");
}

fn frozen_and_thawed(backend: &str) {
    let Some(lab) = Lab::new("a frozen disk") else {
        return;
    };
    let mut daemon = lab.daemon(backend, &[]);
    lab.faults().freeze(Frozen::Everything);
    let publishers = lab.place.four_publishers(&["count=20000", "size=100"]);
    wait_until(|| lab.faults().waiting() > 0);
    // The statistics are in memory, and tell.
    wait_until_told(&mut daemon, "the disk does not answer");
    assert!(trouble(&lab.place.bus).contains("does not answer"));
    assert!(!lab.place.bus.stats().sources.is_empty());
    lab.faults().thaw();
    wait_until_told(&mut daemon, "being written again");
    let outcomes = outcomes_of_each(publishers);
    assert_sound(&lab.place, daemon, &outcomes);
    Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
}

#[test]
fn frozen_disk_that_thaws_has_lost_nothing_uring() {
    frozen_and_thawed("auto");
}

#[test]
fn frozen_disk_that_thaws_has_lost_nothing_pwrite() {
    frozen_and_thawed("pwrite");
}

#[test]
fn daemon_that_is_stopped_while_its_disk_is_frozen_ends_and_the_next_goes_on() {
    for backend in ["auto", "pwrite"] {
        let Some(lab) = Lab::new("stopped on a frozen disk") else {
            return;
        };
        let mut daemon = lab.daemon(backend, &[]);
        let load = ["count=5000", "size=100"];
        lab.faults().freeze(Frozen::Changes);
        let publisher = lab.place.publisher("p", "log:web:p", &load);
        wait_until(|| lab.faults().waiting() > 0);
        daemon.let_go();
        // Under io_uring the kernel keeps the process until its calls have come back; it has nothing more to say.
        daemon.line_with("refused ");
        lab.faults().thaw();
        let (status, lines) = daemon.finish();
        assert!(!status.success(), "{lines:?}");
        let daemon = lab.daemon(backend, &[]);
        let outcome = Published::of(publisher.finish());
        let outcomes = BTreeMap::from([("p".to_owned(), outcome)]);
        assert_sound(&lab.place, daemon, &outcomes);
        Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
    }
}

/// A real file system without room: a tmpfs.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(at.to_owned()));
        }
        eprintln!("skipped: no tmpfs can be mounted here");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn disk_without_room_is_trouble_until_there_is_some() {
    let place = Place::new("ENOSPC", "block");
    let Some(disk) = SmallDisk::mount(&place.logs(), 32 << 20) else {
        return;
    };
    let ballast = disk.0.join(".ballast");
    fs::write(&ballast, vec![7; 29 << 20]).expect("written");
    let mut daemon = place.daemon("auto", &["tell=1"]);
    let publishers = place.four_publishers(&["count=20000", "size=100"]);
    let told = wait_until_told(&mut daemon, "No space left");
    assert!(told.contains("free space"), "{told}");
    // Reading goes on, and so does asking.
    assert!(!Found::read(&place.logs()).sequences.is_empty());
    place.bus.request_rotation();
    fs::remove_file(ballast).expect("removed");
    wait_until_told(&mut daemon, "being written again");
    let outcomes = outcomes_of_each(publishers);
    assert_sound(&place, daemon, &outcomes);
    Found::read(&place.logs()).assert_complete(&counts(&outcomes));
}

/// What somebody does to the files of a daemon that writes them.
fn taken_away(what: &str, backend: &str, take: impl Fn(&Path)) {
    let place = Place::new(what, "block");
    let small = [
        "tell=1",
        "segment_bytes=262144",
        "group_bytes=65536",
        "seal=0",
    ];
    let mut daemon = place.daemon(backend, &small);
    let load = ["count=5000", "size=100"];
    let before = Published::of(place.publisher("p", "log:web:p", &load).finish());
    take(&place.logs());
    let after = Published::of(place.publisher("q", "log:web:q", &load).finish());
    let told = wait_until_told(&mut daemon, "somebody removed or cut");
    assert!(told.contains("bytes of the open segment"), "{told}");
    // What is committed then is true: a new daemon goes on behind it, and doubles nothing.
    daemon.kill();
    let daemon = place.daemon(backend, &small);
    let last = Published::of(place.publisher("r", "log:web:r", &load).finish());
    let outcomes = BTreeMap::from([
        ("p".to_owned(), before),
        ("q".to_owned(), after),
        ("r".to_owned(), last),
    ]);
    assert_sound(&place, daemon, &outcomes);
    let found = Found::read(&place.logs());
    assert_eq!(found.removed.len(), 1, "{:?}", found.removed);
    for label in ["q", "r"] {
        let runs = &found.sequences[label];
        assert_eq!(runs.0, [(0, 4999)], "{label}");
    }
    // The lock file is there again, and says whose the directory is.
    let lock = fs::read_to_string(place.logs().join(".millpond.lock")).expect("the lock");
    assert!(lock.lines().next().is_some_and(|owner| !owner.is_empty()));
    eprintln!("{what}, {backend}: {}", found.removed[0]);
}

#[test]
fn log_directory_that_is_removed_is_made_again_and_told_uring() {
    taken_away("rm -rf", "auto", |logs| {
        fs::remove_dir_all(logs).expect("removed");
    });
}

#[test]
fn log_directory_that_is_removed_is_made_again_and_told_pwrite() {
    taken_away("rm -rf", "pwrite", |logs| {
        fs::remove_dir_all(logs).expect("removed");
    });
}

#[test]
fn open_segment_that_is_removed_goes_on_in_another() {
    taken_away("rm of a file", "auto", |logs| {
        let current = fs::canonicalize(logs.join("web/current.log")).expect("the link");
        fs::remove_file(current).expect("removed");
    });
}

#[test]
fn open_segment_that_is_cut_goes_on_in_another() {
    taken_away("cut to nothing", "pwrite", |logs| {
        let current = logs.join("web/current.log");
        fs::File::options()
            .write(true)
            .truncate(true)
            .open(current)
            .expect("cut");
    });
}

#[test]
fn largest_file_of_a_process_ends_a_segment_and_not_the_daemon() {
    for backend in ["auto", "pwrite"] {
        let place = Place::new("RLIMIT_FSIZE", "block");
        let daemon = place.daemon(backend, &["fsize=1048576", "seal=0"]);
        let publishers = place.four_publishers(&["count=10000", "size=100"]);
        let outcomes = outcomes_of_each(publishers);
        assert_sound(&place, daemon, &outcomes);
        Found::read(&place.logs()).assert_complete(&counts(&outcomes));
        let ids = list_segments(&place.logs().join("web0")).expect("segments");
        assert!(ids.len() > 2, "one file has it all: {ids:?}");
    }
    let place = Place::new("RLIMIT_FSIZE", "block");
    let (status, lines) = place.start_daemon("auto", &["fsize=100000"]).finish();
    assert!(!status.success());
    assert!(lines[0].contains("ulimit -f"), "{lines:?}");
}

fn index_that_cannot_be_written(backend: &str) {
    let Some(lab) = Lab::new("no index") else {
        return;
    };
    let small = ["segment_bytes=262144", "group_bytes=65536", "seal=0"];
    let mut daemon = lab.daemon(backend, &small);
    for operation in [Operation::Write, Operation::Create, Operation::Open] {
        lab.faults()
            .fail(operation, Failure::new(Errno::IO).of(".idx"));
    }
    lab.faults()
        .fail(Operation::Rename, Failure::new(Errno::IO).of("current.log"));
    let load = ["count=8000", "size=100", "flush=durable"];
    let first = Published::of(lab.place.publisher("p", "log:web:p", &load).finish());
    let told = wait_until_told(&mut daemon, "cannot write beside the text");
    assert!(told.contains("the text goes on"), "{told}");
    let expected = BTreeMap::from([("p".to_owned(), first.published)]);
    Found::read(&lab.place.logs()).assert_complete(&expected);
    lab.faults().clear();
    let second = Published::of(lab.place.publisher("q", "log:web:q", &load).finish());
    let outcomes = BTreeMap::from([("p".to_owned(), first), ("q".to_owned(), second)]);
    assert_sound(&lab.place, daemon, &outcomes);
    Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
    let link = lab.place.logs().join("web/current.log");
    assert!(fs::metadata(link).is_ok(), "the link leads to a file again");
}

#[test]
fn text_goes_on_without_an_index_uring() {
    index_that_cannot_be_written("auto");
}

#[test]
fn text_goes_on_without_an_index_pwrite() {
    index_that_cannot_be_written("pwrite");
}

#[test]
fn seals_that_fail_are_told_and_done_later() {
    for errno in [Errno::IO, Errno::NOSPC] {
        let Some(lab) = Lab::new("failing seals") else {
            return;
        };
        let small = ["segment_bytes=65536", "group_bytes=65536"];
        let mut daemon = lab.daemon("auto", &small);
        lab.faults()
            .fail(Operation::Write, Failure::new(errno).of(".new"));
        let publisher = lab
            .place
            .publisher("p", "log:web:p", &["count=5000", "size=100"]);
        let outcome = Published::of(publisher.finish());
        wait_until_told(&mut daemon, "cannot");
        let dir = lab.place.logs().join("web");
        let sealed = |dir: &Path| {
            let ids = list_segments(dir).expect("segments");
            let sealed = ids.iter().filter(|id| !id.log_path(dir).exists()).count();
            (sealed, ids.len())
        };
        assert_eq!(sealed(&dir).0, 0);
        lab.faults().clear();
        wait_until(|| {
            let (sealed, all) = sealed(&dir);
            sealed + 1 == all
        });
        let outcomes = BTreeMap::from([("p".to_owned(), outcome)]);
        assert_sound(&lab.place, daemon, &outcomes);
        Found::read(&lab.place.logs()).assert_complete(&counts(&outcomes));
    }
}

#[test]
fn segments_that_cannot_be_removed_go_later() {
    let Some(lab) = Lab::new("failing removals") else {
        return;
    };
    let small = [
        "segment_bytes=65536",
        "group_bytes=65536",
        "total_bytes=1048576",
        "seal=0",
    ];
    let daemon = lab.daemon("auto", &small);
    lab.faults()
        .fail(Operation::Remove, Failure::new(Errno::IO).of(".log"));
    let load = ["count=12000", "size=100"];
    let first = Published::of(lab.place.publisher("p", "log:web:p", &load).finish());
    assert!(lab.faults().failed(Operation::Remove) > 0);
    lab.faults().clear();
    let dir = lab.place.logs().join("web");
    let bytes = || -> u64 {
        let ids = list_segments(&dir).expect("segments");
        let of = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        ids.iter().map(|id| of(id.log_path(&dir))).sum()
    };
    // More lines, since only who writes has to look at once; what failed waits a second or more.
    wait_until(|| {
        let more = lab
            .place
            .publisher("q", "log:web:q", &["count=100", "size=100"]);
        Published::of(more.finish());
        bytes() <= 1 << 20
    });
    let stats = lab.place.settled();
    let of_first = source(&stats, "p");
    assert_identity(of_first);
    assert_eq!(of_first.written, first.published);
    daemon.stop();
    assert_verifies(&lab.place.logs());
    // One that cannot go does not keep the others: what is left may have holes, and is in order.
    let found = Found::read(&lab.place.logs());
    let is_first = |wrong: &&String| wrong.contains(": p ");
    assert_eq!(found.wrong.iter().find(is_first), None);
}
