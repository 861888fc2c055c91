//! Four publishers at full speed and four subscribers, on lossless rules of each way of delivery: what each
//! subscriber was given and what it was told that it missed add up to what was published.

use millpond_tests::setting;

use crate::peers::Report;
use crate::support::Place;

fn delivered_and_lagged_are_published(prefix: &str) {
    let place = Place::new("four publishers, four subscribers", "peers");
    let seconds = format!("seconds={}", setting("MILLPOND_TEST_SECONDS", 1));
    let daemon = place.daemon("auto", &[]);
    let pattern = format!("{prefix}:load:*");
    let subscribers: Vec<_> = (0..4)
        .map(|index| place.subscriber(&format!("s{index}"), &pattern, &[]))
        .collect();
    let publishers: Vec<_> = (0..4)
        .map(|index| {
            // The odd ones in batches, the last one with long payloads.
            let batch = format!("batch={}", 16 * (index % 2));
            let size = format!("size={}", if index == 3 { 1000 } else { 32 });
            let (label, event) = (format!("p{index}"), format!("{prefix}:load:p{index}"));
            place.source(&label, &event, &[&seconds, &batch, &size])
        })
        .collect();
    let published: u64 = publishers
        .into_iter()
        .map(|publisher| Report::finish(publisher).published())
        .sum();
    let mut shown = Vec::new();
    for subscriber in subscribers {
        let report = Report::end(subscriber);
        report.assert_accounts_for(published);
        assert!(report.number("delivered") > 0);
        shown.push((report.number("delivered"), report.number("lagged")));
    }
    daemon.stop();
    eprintln!("{prefix}: {published} published; (delivered, lagged): {shown:?}");
}

#[test]
fn delivered_and_lagged_are_published_passthrough() {
    delivered_and_lagged_are_published("pass");
}

#[test]
fn delivered_and_lagged_are_published_batch() {
    delivered_and_lagged_are_published("batch");
}

#[test]
fn delivered_and_lagged_are_published_persisted() {
    delivered_and_lagged_are_published("log");
}
