//! The rules change again and again under load, to other classes, patterns and sizes: no event is lost or doubled.

use millpond_tests::{Random, setting};

use crate::peers::Report;
use crate::support::{Place, Process};

fn no_event_is_lost_or_doubled(most_millis: u64, kill: bool, more: &[&str]) -> Vec<Report> {
    let place = Place::new("new rules under load", "reload");
    let mut random = Random::seeded();
    let reloads = setting("MILLPOND_TEST_KILLS", 20);
    let mut daemon = place.daemon("auto", &[]);
    let subscribers = ["s0", "s1"].map(|label| place.subscriber(label, "load:*", &[]));
    let mut publishers =
        ["p0", "p1"].map(|label| place.source(label, &format!("load:x:{label}"), more));
    let mut seen = 0;
    for round in 0..reloads {
        std::thread::sleep(random.millis(most_millis));
        if kill && round % 3 == 2 {
            daemon.kill();
            daemon = place.daemon("auto", &[]);
            seen = 0;
        }
        place.bus.request_reload();
        seen += 1;
        daemon.line_with(&format!("reloaded {seen} "));
    }
    publishers.iter_mut().for_each(Process::let_go);
    let published = publishers.map(|publisher| Report::end(publisher).published());
    let all = published.iter().sum();
    let reports = subscribers.map(Report::end);
    let shown = reports
        .each_ref()
        .map(|report| ["delivered", "lagged", "duplicates"].map(|key| report.number(key)));
    eprintln!(
        "{reloads} reloads, {published:?} published; [delivered, lagged, duplicates]: {shown:?}"
    );
    for report in &reports {
        report.assert_accounts_for(all);
    }
    daemon.stop();
    reports.into()
}

#[test]
fn new_rules_lose_and_double_nothing_at_full_speed() {
    no_event_is_lost_or_doubled(60, false, &[]);
}

#[test]
fn new_rules_lose_and_double_nothing_when_there_is_time() {
    for report in no_event_is_lost_or_doubled(60, false, &["rate=5000"]) {
        assert_eq!(report.number("lagged"), 0, "{report:?}");
    }
}

#[test]
fn new_rules_and_killed_daemons_lose_and_double_nothing() {
    no_event_is_lost_or_doubled(60, true, &["rate=5000"]);
}
