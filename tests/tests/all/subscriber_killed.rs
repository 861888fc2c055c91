//! A subscriber is killed while it reads, another one is stopped for a while, a third one never reads: publishers
//! and the other subscribers do not notice, and nothing of them is left behind.

use std::time::Duration;

use millpond_tests::setting;

use crate::peers::{Report, signal};
use crate::support::{Place, wait_until};

fn bad_subscribers_disturb_nobody(prefix: &str) {
    let place = Place::new("killed, stopped and idle subscribers", "peers");
    let stopped_for = Duration::from_secs(setting("MILLPOND_TEST_SECONDS", 1));
    let daemon = place.daemon("auto", &[]);
    let pattern = format!("{prefix}:load:*");
    let good = place.subscriber("good", &pattern, &[]);
    let idle = place.subscriber("idle", &pattern, &["never=1"]);
    let stopped = place.subscriber("stopped", &pattern, &[]);
    let killed = ["k0", "k1", "k2"].map(|label| place.subscriber(label, &pattern, &[]));
    // `good` keeps up with this; whoever rests for a while does not.
    let mut publishers = ["p0", "p1"].map(|label| {
        place.source(
            label,
            &format!("{prefix}:load:{label}"),
            &["rate=50000", "size=100"],
        )
    });
    wait_until(|| {
        ["good", "stopped", "k0", "k1", "k2"]
            .iter()
            .all(|label| place.delivered(label) > 1000)
    });
    signal(&stopped, "STOP");
    for victim in killed {
        victim.kill();
    }
    let seen_at_stop = place.delivered("good");
    std::thread::sleep(stopped_for);
    // The others have gone on, and the slots of the dead are free.
    wait_until(|| place.delivered("good") > seen_at_stop + 20_000);
    wait_until(|| {
        place.bus.stats().subscribers.len() == 3 && place.objects("subscriber.").len() == 3
    });
    signal(&stopped, "CONT");
    let before = place.delivered("stopped");
    wait_until(|| place.delivered("stopped") > before);
    for publisher in &mut publishers {
        publisher.let_go();
    }
    let published = publishers.map(|publisher| Report::end(publisher).published());
    let published = published.iter().sum();
    let reports = [good, stopped, idle].map(Report::end);
    for report in &reports {
        report.assert_accounts_for(published);
    }
    let lagged = reports.each_ref().map(|report| report.number("lagged"));
    assert!(lagged[1] > 0 && lagged[2] > 0, "{lagged:?}");
    daemon.stop();
    assert_eq!(place.objects("subscriber."), [""; 0]);
    place.bus.remove().expect("nobody uses it");
    assert_eq!(place.objects(""), [""; 0], "left behind");
    eprintln!("{prefix}: {published} published; good, stopped and idle missed {lagged:?}");
}

#[test]
fn bad_subscribers_disturb_nobody_passthrough() {
    bad_subscribers_disturb_nobody("pass");
}

#[test]
fn bad_subscribers_disturb_nobody_batch() {
    bad_subscribers_disturb_nobody("batch");
}
