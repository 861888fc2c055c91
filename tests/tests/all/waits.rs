//! One process waits and another posts, with the daemon killed again and again meanwhile: no reply is missed, and
//! none comes twice, neither to a lasting subscription nor to one that is made after the request.

use millpond_tests::{Random, setting};

use crate::peers::Report;
use crate::support::Place;

fn every_reply_comes_once(class: &str, part: u64, more: &[&str]) {
    let place = Place::new("wait and post", "peers");
    let mut random = Random::seeded();
    let kills = setting("MILLPOND_TEST_KILLS", 5);
    let rounds = setting("MILLPOND_TEST_ROUNDS", 2000) / part;
    let arguments = [format!("class={class}"), format!("rounds={rounds}")];
    let arguments: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    let mut daemon = place.daemon("auto", &[]);
    let poster = place.peer("post", &arguments);
    let mut waiter = place.peer("wait", &arguments);
    waiter.let_go();
    let mut done = 0;
    while done < kills && !waiter.has_ended() {
        // The kills fall into the rounds, however many there are.
        std::thread::sleep(random.millis((rounds / 400).clamp(5, 150)));
        daemon.kill();
        std::thread::sleep(random.millis(20));
        daemon = place.daemon("auto", &[]);
        done += 1;
    }
    let report = Report::finish(waiter);
    let posted = Report::finish(poster);
    eprintln!("{class} {more:?}: {done} kills, waiter {report:?}, poster {posted:?}");
    report.assert_orderly();
    posted.assert_orderly();
    assert_eq!(report.number("rounds"), rounds);
    assert_eq!((report.number("lagged"), posted.number("lagged")), (0, 0));
    daemon.stop();
}

#[test]
fn every_reply_comes_once_passthrough() {
    every_reply_comes_once("pass", 1, &[]);
}

#[test]
fn every_reply_comes_once_from_publishers_that_live_for_one_event() {
    every_reply_comes_once("pass", 4, &["brief=1"]);
}

#[test]
fn every_reply_comes_once_batch() {
    every_reply_comes_once("batch", 10, &[]);
}

#[test]
fn every_reply_comes_once_batch_from_publishers_that_live_for_one_event() {
    every_reply_comes_once("batch", 10, &["brief=1"]);
}
