//! Disks that stop and disks without space under a steady load, at a size for CI.

use millpond_loadgen::{frozen_disk, full_disk};
use millpond_tests::setting;

use crate::scenarios::{check, host};

/// Mounting is for root.
fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root() && std::path::Path::new("/dev/fuse").exists();
    if !may {
        eprintln!("skipped: not root, or no /dev/fuse: nothing can be mounted here");
    }
    may
}

/// As long as `millpond replay` plays it.
fn is_full_size() -> bool {
    setting("MILLPOND_TEST_FULL", 0) == 1
}

#[test]
fn frozen_disk_delays_nobody_and_loses_nothing_that_was_kept() {
    if !may_mount() {
        return;
    }
    let size = match is_full_size() {
        true => frozen_disk::Options::full(),
        false => frozen_disk::Options::ci(),
    };
    let options = frozen_disk::Options {
        host: host(),
        ..size
    };
    check(
        "frozen-disk",
        |progress| frozen_disk::run(&options, progress),
        |report| &report.criteria,
    );
}

#[test]
fn full_disk_costs_the_source_over_its_quota_first() {
    if !may_mount() {
        return;
    }
    let size = match is_full_size() {
        true => full_disk::Options::full(),
        false => full_disk::Options::ci(),
    };
    let options = full_disk::Options {
        host: host(),
        ..size
    };
    check(
        "full-disk",
        |progress| full_disk::run(&options, progress),
        |report| &report.criteria,
    );
}
