//! One process asks, another answers each question that it has just read, and a third one sees both: no answer
//! ever comes before its question.

use millpond_tests::setting;

use crate::peers::Report;
use crate::support::Place;

fn no_answer_comes_before_its_question(prefix: &str, more: &[&str]) {
    let place = Place::new("questions and answers", "peers");
    let rounds = setting("MILLPOND_TEST_ROUNDS", 2000);
    let arguments = [format!("prefix={prefix}"), format!("rounds={rounds}")];
    let arguments: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    let daemon = place.daemon("auto", &[]);
    let witness = place.peer("witness", &arguments);
    let answer = place.peer("answer", &arguments);
    let question = place.peer("question", &arguments);
    let asked = Report::end(question);
    assert_eq!((asked.number("asked"), asked.number("lagged")), (rounds, 0));
    assert_eq!(Report::finish(answer).number("answered"), rounds);
    let seen = Report::finish(witness);
    daemon.stop();
    assert_eq!(seen.number("lagged"), 0);
    assert_eq!(
        (seen.number("asked"), seen.number("answered")),
        (rounds, rounds)
    );
    assert_eq!(seen.number("early"), 0, "answers before their questions");
    eprintln!("{prefix} {more:?}: {rounds} rounds");
}

#[test]
fn no_answer_comes_before_its_question_passthrough() {
    no_answer_comes_before_its_question("pass:causal", &[]);
}

#[test]
fn no_answer_from_within_the_delivery_comes_before_its_question() {
    no_answer_comes_before_its_question("pass:causal", &["inside=1"]);
}

#[test]
fn no_answer_comes_before_its_question_batch() {
    no_answer_comes_before_its_question("batch:causal", &[]);
}

#[test]
fn no_answer_comes_before_its_question_persisted() {
    no_answer_comes_before_its_question("log:causal", &["inside=1"]);
}
