//! One service that says the same thing for ever, or ever something new, beside 23 that do not.

use millpond_loadgen::runaway::{Options, run};

use crate::scenarios::{check, host};

fn play(phase: &str) {
    let options = Options {
        host: host(),
        ..Options::ci().only(phase).expect("a phase")
    };
    check(
        "runaway",
        |progress| run(&options, progress),
        |report| &report.criteria,
    );
}

#[test]
fn a_service_that_repeats_itself_is_a_few_lines_and_the_others_are_complete() {
    play("same");
}

#[test]
fn a_service_that_never_repeats_itself_pays_for_itself() {
    play("different");
}
