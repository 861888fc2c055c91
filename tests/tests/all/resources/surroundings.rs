//! What a process may find missing around it: environment, working directory, `/proc`, a writable root, its outputs.

use std::collections::BTreeMap;

use super::{daemon_after, is_inside, publisher_after};
use crate::support::{Found, Place, Published, assert_identity, source};

/// A daemon and a publisher after `first` do all their work, and a second daemon finds it in order.
fn all_is_well_after(what: &str, first: &str) {
    let place = Place::new(what, "block");
    std::fs::create_dir(place.logs()).expect("a directory");
    let mut daemon = daemon_after(&place, first, "auto", &["segment_bytes=262144"]);
    let ready = daemon.line_with("");
    assert!(ready.starts_with("ready"), "{what}: {ready}");
    let more = ["count=20000", "size=100", "flush=durable"];
    let published = Published::of(publisher_after(&place, first, "p", &more).finish());
    assert_eq!((published.published, published.dropped()), (20_000, 0));
    let stats = place.settled();
    assert_identity(source(&stats, "p"));
    daemon.stop();
    let expected = BTreeMap::from([("p".to_owned(), 20_000)]);
    Found::read(&place.logs()).assert_complete(&expected);
    let mut daemon = daemon_after(&place, first, "auto", &[]);
    assert!(daemon.line_with("").starts_with("ready"), "{what}: again");
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&expected);
    eprintln!("{what}: {ready}, 20,000 events, each once");
}

#[test]
fn no_environment() {
    all_is_well_after("no environment", "set -- /usr/bin/env -i \"$@\"");
}

#[test]
fn a_working_directory_that_is_gone() {
    let first = "gone=$(mktemp -d) && cd \"$gone\" && rmdir \"$gone\"";
    all_is_well_after("working directory gone", first);
}

/// Messages go nowhere, and the next file that is opened must not become their place.
#[test]
fn no_standard_error() {
    all_is_well_after("stderr closed", "exec 2>&-");
}

/// Nothing for others: what we make for ourselves stays usable for us.
#[test]
fn a_mask_that_forbids_everything_to_others() {
    if rustix::process::geteuid().is_root() {
        // Root may do everything, so it is taken from it; all of it is in directories of root.
        let first =
            "umask 0077 && set -- setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"";
        all_is_well_after("umask 0077", first);
    } else {
        all_is_well_after("umask 0077", "umask 0077");
    }
}

/// Not even for ourselves: lanes are made for their owner all the same. Directories of the log cannot be.
#[test]
fn a_mask_that_forbids_everything_to_everybody() {
    let place = Place::new("umask 0777", "block");
    let daemon = place.daemon("auto", &[]);
    let first = match rustix::process::geteuid().is_root() {
        true => "umask 0777 && set -- setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"",
        false => "umask 0777",
    };
    let more = ["count=1000", "size=100", "flush=durable"];
    let published = Published::of(publisher_after(&place, first, "p", &more).finish());
    assert_eq!((published.published, published.dropped()), (1000, 0));
    daemon.stop();
    let expected = BTreeMap::from([("p".to_owned(), 1000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

/// Nobody to reap for, no parent to ask: the first process of a container.
#[test]
fn the_first_process_of_a_container() {
    let can = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "true"])
        .status();
    if !can.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!("skipped: no process ids of one's own here: {can:?}");
        return;
    }
    all_is_well_after(
        "pid 1",
        "set -- unshare --pid --fork --kill-child --mount-proc \"$@\"",
    );
}

#[test]
fn no_proc() {
    if is_inside(
        "surroundings::no_proc",
        "mount -t tmpfs millpond-test /proc",
    ) {
        all_is_well_after("/proc not mounted", "true");
    }
}

#[test]
fn a_root_that_cannot_be_written() {
    // Everything but the directory of the logs and shared memory.
    let prepare = "mount -t tmpfs millpond-test /tmp && mount -o remount,bind,ro /";
    if is_inside("surroundings::a_root_that_cannot_be_written", prepare) {
        all_is_well_after("read-only root", "true");
    }
}

/// As long as a path may be, and a byte longer.
#[test]
fn a_log_directory_with_a_very_long_path() {
    let place = Place::new("a long path", "block");
    let part = format!("/{}", "d".repeat(199));
    let mut path = place.logs().display().to_string();
    while path.len() + part.len() < 3800 {
        path += &part;
    }
    std::fs::create_dir_all(&path).expect("as long as that");
    let logs = format!("logs={path}");
    let daemon = place.daemon("auto", &[&logs]);
    Published::of(place.publisher("p", "log:web:p", &["count=1000"]).finish());
    place.settled();
    daemon.stop();
    let expected = BTreeMap::from([("p".to_owned(), 1000)]);
    Found::read(path.as_ref()).assert_complete(&expected);
    let (status, lines) = place
        .start_daemon("auto", &[&format!("{logs}{part}{part}{part}")])
        .finish();
    assert!(!status.success());
    assert!(
        lines[0].contains("name too long") || lines[0].contains("too long"),
        "{lines:?}"
    );
}
