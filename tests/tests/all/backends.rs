//! Which way text goes to the files: by flag, and by falling back where the kernel refuses io_uring.

use std::collections::BTreeMap;

use crate::support::{Found, Place, Published};

#[test]
fn auto_falls_back_where_io_uring_is_refused_and_says_why() {
    let place = Place::new("no io_uring", "block");
    let mut daemon = place.start_daemon("auto", &["refuse_uring=1"]);
    let first = daemon.line_with("");
    if first.starts_with("skip") {
        eprintln!("SKIPPED: {first}");
        return;
    }
    assert!(
        first.starts_with("ready pwrite (io_uring is not available"),
        "{first}"
    );
    assert!(
        first.contains("seccomp") || first.contains("sysctl"),
        "{first}"
    );
    let published = Published::of(
        place
            .publisher("p", "log:web:p", &["count=50000", "flush=durable"])
            .finish(),
    );
    assert_eq!(published.published, 50_000);
    daemon.stop();
    let expected = BTreeMap::from([("p".to_owned(), 50_000)]);
    Found::read(&place.logs()).assert_complete(&expected);
}

#[test]
fn uring_asked_for_and_refused_is_an_error() {
    let place = Place::new("io_uring or nothing", "block");
    let (status, lines) = place.start_daemon("uring", &["refuse_uring=1"]).finish();
    if lines[0].starts_with("skip") {
        eprintln!("SKIPPED: {}", lines[0]);
        return;
    }
    assert!(!status.success());
    assert!(
        lines[0].starts_with("refused io_uring is not available"),
        "{lines:?}"
    );
}

#[test]
fn pwrite_is_a_choice() {
    let place = Place::new("pwrite", "block");
    let mut daemon = place.daemon("pwrite", &[]);
    let first = daemon.line_with("");
    assert_eq!(first, "ready pwrite (chosen by configuration)");
    daemon.stop();
}
