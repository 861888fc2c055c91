//! Objects that somebody truncated, and texts that mean harm, as a person at a terminal meets them.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;

use crate::support::{Place, code, text};

fn shm(place: &Place, object: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/millpond.{}.{object}", place.bus))
}

fn cut(path: &PathBuf) {
    let file = OpenOptions::new().write(true).open(path).expect("ours");
    file.set_len(0).expect("ours");
}

/// Removes what a bus that was truncated leaves.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_truncated_bus_is_an_error_with_a_remedy_and_no_signal() {
    let mut place = Place::new("truncated");
    place.start(&[]);
    assert_eq!(
        code(&place.feed(&["pipe", "--service", "web"], b"one\ntwo\n")),
        0
    );
    let control = Removed(shm(&place, "control"));
    cut(&control.0);
    let mut daemon = place.daemon.take().expect("it runs");
    let status = daemon.child.wait().expect("it ends");
    assert_eq!(status.code(), Some(2), "an error, and no signal: {status}");
    for args in [
        &["stats"][..],
        &["doctor"],
        &["rotate"],
        &["explain", "log:web"],
    ] {
        let output = place.run(args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("truncated"), "{args:?}: {said}");
        assert_ne!(code(&output), 0, "{args:?}");
    }
    // What was written is read as ever.
    let output = place.run(&["query", "--service", "web"]);
    assert!(text(&output.stdout).contains("two"), "{output:?}");
}

/// Commands print text: what would move the cursor, set a title or end a line is shown as what it is.
#[test]
fn query_tail_stats_and_subscribe_print_nothing_that_a_terminal_obeys() {
    let mut place = Place::new("terminal-safe");
    place.start(&[]);
    let payload = "evil \u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\rover\u{8}\u{0}";
    let output = place.feed(
        &["pipe", "--service", "web"],
        format!("{payload}\n").as_bytes(),
    );
    assert_eq!(code(&output), 0, "{output:?}");
    let harmless = |shown: String| {
        let allowed = |character: char| !character.is_control() || "\n\t".contains(character);
        assert!(shown.chars().all(allowed), "{shown:?}");
        shown
    };
    for args in [
        &["query", "--service", "web", "--color", "never"][..],
        &["tail", "--service", "web", "--color", "never"],
    ] {
        assert!(
            harmless(text(&place.run(args).stdout)).contains("evil"),
            "{args:?}"
        );
    }
    assert!(harmless(text(&place.run(&["stats", "--color", "never"]).stdout)).contains("web"));
    let mut command = place.command(&["subscribe", "data:evil:*", "-n", "1", "--color", "never"]);
    let mut subscriber = command.stdout(Stdio::piped()).spawn().expect("it starts");
    while subscriber.try_wait().expect("it can be asked").is_none() {
        place.feed(&["publish", "data:evil:x"], payload.as_bytes());
    }
    let output = subscriber.wait_with_output().expect("it has ended");
    assert!(
        harmless(text(&output.stdout)).contains("evil"),
        "{output:?}"
    );
    place.stop();
}

/// Publishers would wait on it for a consumer that never comes.
#[test]
fn a_daemon_that_is_refused_leaves_no_bus_behind() {
    let mut place = Place::new("refused");
    place.start(&[]);
    let other = Place::new("refused-other");
    let logs = place.logs().to_string_lossy().into_owned();
    let refused = other.run(&["daemon", "--logs", &logs]);
    assert_eq!(code(&refused), 2, "{refused:?}");
    assert!(!shm(&other, "control").exists());
    // One that was there before stays, with what waits in it.
    let waiting = other.run(&["publish", "log:web:x", "one"]);
    assert_eq!(code(&waiting), 0, "{waiting:?}");
    assert_eq!(code(&other.run(&["daemon", "--logs", &logs])), 2);
    assert!(shm(&other, "control").exists());
    let drained = other.run(&["daemon", "--drain"]);
    assert_eq!(code(&drained), 0, "{drained:?}");
    let found = other.run(&["query", "--service", "web"]);
    assert!(text(&found.stdout).contains("one"), "{found:?}");
}
