//! `millpond stats` in real trouble: who does it, how much, and what to do stand in front of the tables, at any width.

use std::time::Duration;

use millpond_tests::Watchdog;

use crate::commands::flood;
use crate::support::{Place, code, signal, text};

/// What `stats` says on a terminal that is so wide, and its exit code.
fn glance(place: &Place, columns: usize) -> (String, i32) {
    let mut command = place.command(&["stats", "--color", "never"]);
    let output = command.env("COLUMNS", columns.to_string()).output();
    let output = output.expect("the command starts");
    let shown = text(&output.stdout);
    // Numbers, names and paths are never cut in the middle of a word of a problem.
    let tables = shown.find("\nsource ").expect("a table");
    for line in shown[tables..].lines().filter(|_| columns >= 80) {
        assert!(
            line.chars().count() <= columns,
            "{columns}: {line:?}\n{shown}"
        );
    }
    (shown, code(&output))
}

/// The words that problems begin with, in order.
fn words(shown: &str) -> Vec<&str> {
    let is_word = |word: &&str| word.len() > 1 && word.chars().all(|one| one.is_ascii_uppercase());
    let lines = shown.lines();
    lines
        .filter_map(|line| line.split(' ').next().filter(is_word))
        .collect()
}

#[test]
fn an_idle_bus_is_well_and_a_dead_consumer_is_not() {
    let mut place = Place::new("glance-dead");
    place.start(&[]);
    assert_eq!(
        code(&place.run(&["publish", "log:web:a", "x", "--wait", "written"])),
        0
    );
    let (shown, code_of) = glance(&place, 80);
    assert_eq!((words(&shown), code_of), (vec!["OK"], 0), "{shown}");
    assert!(shown.contains("events   1 published, 0 lost, "), "{shown}");
    let daemon = place.daemon.take().expect("it runs");
    let pid = daemon.child.id();
    drop(daemon); // kill -9
    assert_eq!(code(&place.run(&["publish", "log:web:a", "y"])), 0);
    let (shown, code_of) = glance(&place, 200);
    assert_eq!((words(&shown), code_of), (vec!["DEAD"], 0), "{shown}");
    assert!(
        shown.contains(&format!("process {pid} was killed or crashed")),
        "{shown}"
    );
    assert!(shown.contains("1 events wait"), "{shown}");
    assert!(
        shown.contains(&format!("-> start `millpond daemon --bus {}`", place.bus)),
        "{shown}"
    );
}

#[test]
fn a_stopped_daemon_is_named_with_what_mends_it() {
    let _watchdog = Watchdog::start("a stopped daemon", Duration::from_secs(120));
    let mut place = Place::new("glance-stopped");
    place.start(&[]);
    assert_eq!(code(&place.run(&["publish", "log:web:a", "x"])), 0);
    let daemon = place.daemon.as_ref().expect("it runs");
    let pid = daemon.child.id();
    signal(&daemon.child, "-STOP");
    let shown = loop {
        let (shown, _) = glance(&place, 80);
        if words(&shown) != ["OK"] {
            break shown;
        }
    };
    assert_eq!(words(&shown), ["STOPPED"], "{shown}");
    assert!(shown.contains(&format!("`kill -CONT {pid}`")), "{shown}");
    signal(&place.daemon.as_ref().expect("it runs").child, "-CONT");
    while words(&glance(&place, 80).0) != ["OK"] {}
    place.stop();
}

#[test]
fn who_lost_who_waits_and_who_is_loud_are_named_with_the_remedy_at_every_width() {
    let place = Place::new("glance-flood");
    flood(&place);
    for columns in [40, 80, 200] {
        let (shown, code_of) = glance(&place, columns);
        assert_eq!(code_of, 1, "something is lost: {shown}");
        assert_eq!(
            words(&shown),
            ["NOBODY", "LOST", "BEHIND", "LOUDEST"],
            "{columns}: {shown}"
        );
        let problems = shown.split("\nsource ").next().expect("a beginning");
        let flat = problems.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in [
            "of pipe:web under log:*, all in the last 10m",
            "lane full ",
            "-> raise `lane-bytes` (now 64KiB) of rule \"log:*\"",
            "BEHIND pipe:web under log:*: its lane is ",
            ", then it drops",
            "LOUDEST in the last 10m: pipe:web under log:*, >99 % of 20.0 k events",
        ] {
            assert!(flat.contains(said), "{columns}: {said:?} in {shown}");
        }
        // What is read first is on the screen: totals and problems fit 24 lines at 80 columns.
        if columns >= 80 {
            assert!(problems.lines().count() <= 21, "{shown}");
        }
    }
}
