//! Processes are killed at every labelled point of the product, one after the other, while others publish: each is
//! replaced, and in the end every event that was committed is there once.
//!
//! `MILLPOND_TEST_KILLS` is how often each label is played, `MILLPOND_TEST_LABEL` plays one alone. That a victim died
//! is the proof that it passed its label: a label that nobody passes hangs, until the watchdog names it.

#[cfg(not(feature = "kill-points"))]
#[test]
fn each_label_kills_once() {
    eprintln!("skipped: built without the feature kill-points");
}

#[cfg(feature = "kill-points")]
mod lab;
