//! What the consumer says of its own work: it adds up to what was published and written, outlives the consumer, and
//! is not begun anew by the next one.

use std::time::Duration;

use millpond_bus::{
    Bus, BusOptions, ConsumerFigures, Guarantee, Histogram, Level, RuleTable, prometheus_text,
};
use millpond_daemon::{Daemon, Policy, SealPolicy, ServicePolicy, SyncPolicy};
use millpond_tests::{Random, Watchdog, setting};

use crate::support::{Place, fresh_name, outcomes_of, wait_until};

const LINES: u64 = 700;
const BATCHED: u64 = 90;

fn figures(bus: &Bus) -> ConsumerFigures {
    let stats = bus.stats();
    stats.consumer.expect("there was one").figures
}

/// A consumer in this process: every count is known.
#[test]
fn figures_add_up_to_what_was_published_and_the_next_consumer_goes_on() {
    let _watchdog = Watchdog::start("figures", Duration::from_secs(120));
    let rules = RuleTable::defaults();
    let options = BusOptions {
        rules,
        ..BusOptions::default()
    };
    let bus = Bus::attach(&fresh_name(), &options).expect("a bus");
    let dir = tempfile::tempdir().expect("a directory");
    let web = ServicePolicy {
        bytes_limit: Some(1 << 20),
        segments_limit: Some(7),
        retain_age_limit: Some(Duration::from_secs(3600)),
        ..ServicePolicy::default()
    };
    let policy = Policy {
        sync: SyncPolicy::Always,
        seal: SealPolicy::Never,
        total_bytes_limit: Some(1 << 30),
        services: [("web".to_owned(), web)].into(),
        ..Policy::default()
    };
    assert!(bus.stats().consumer.is_none());
    for round in 1..=2 {
        let running = Daemon::builder(&bus, dir.path())
            .policy(policy.clone())
            .spawn()
            .expect("a consumer");
        let mut publisher = bus.publisher("teller").expect("a publisher");
        let web = publisher.topic("log:web").expect("a topic");
        let jobs = publisher.topic("log:jobs").expect("a topic");
        let data = publisher.topic("data:users:changed").expect("a topic");
        for number in 0..LINES {
            let topic = if number % 3 == 0 { jobs } else { web };
            let line = format!("line {number} of round {round}");
            (publisher.publish(topic, Level::Info, line.as_bytes())).expect("room");
        }
        for _ in 0..BATCHED {
            publisher.publish(data, Level::Info, b"{}").expect("room");
        }
        (publisher.flush(Guarantee::Durable, None)).expect("the disk has it");
        drop(publisher);
        // Beside the groups, the disk is told once a second.
        wait_until(|| {
            let stats = bus.stats();
            let mut services = stats.services.iter();
            services.all(|service| service.disk.is_some_and(|disk| disk.bytes > 0))
        });
        running.stop().expect("all is written");

        // Nobody consumes now.
        let stats = bus.stats();
        let consumer = stats.consumer.as_ref().expect("there was one");
        assert!(!consumer.alive);
        let told = &consumer.figures;
        let delivered = |pattern: &str| -> u64 {
            let of = stats.sources.iter().filter(|one| one.pattern == pattern);
            of.map(|source| source.delivered).sum()
        };
        assert_eq!(delivered("log:*"), round * LINES);
        assert_eq!(told.group_events.sum, round * LINES);
        assert_eq!(told.batch_events.sum, round * BATCHED);
        assert!(told.batch_events.count <= told.batch_events.sum);
        let text_bytes: u64 = stats.services.iter().map(|service| service.bytes).sum();
        assert_eq!(told.group_bytes.sum, text_bytes);
        // One of each for a group; a group without a line has no oldest one.
        let groups = told.group_events.count;
        assert_eq!(told.group_bytes.count, groups);
        assert_eq!(told.write_ns.count, groups);
        assert!((1..=groups).contains(&told.commit_delay_ns.count));
        assert!(told.commit_delay_ns.sum > 0 && told.write_ns.sum > 0);
        assert!(told.sync_ns.count >= round && told.sync_ns.sum > 0);
        assert!(told.memory_bytes > 1 << 20 && told.cpu_ns > 0);
        let disk = told.disk.expect("it has been told");
        assert_eq!(disk.bytes_limit, Some(1 << 30));
        assert!(disk.bytes >= text_bytes && disk.bytes < 1 << 30);
        assert!(disk.free_bytes <= disk.file_system_bytes);
        assert_eq!(disk.unsynced_segments, 0);
        assert!(disk.time_ns >= consumer.started_ns && disk.time_ns <= stats.time_ns);
        for service in &stats.services {
            let disk = service.disk.expect("waited for");
            let is_web = service.name == "web";
            assert!(disk.bytes >= service.bytes, "{}", service.name);
            assert_eq!(disk.segments, 1);
            assert_eq!(disk.bytes_limit, is_web.then_some(1 << 20));
            assert_eq!(disk.segments_limit, is_web.then_some(7));
            assert_eq!(
                disk.age_limit_ns,
                is_web.then_some(3_600_000_000_000),
                "{}",
                service.name
            );
        }
        let page = prometheus_text(&stats);
        let count = format!(
            "millpond_group_write_seconds_count{{bus=\"{}\"}} {groups}\n",
            stats.bus
        );
        assert!(page.contains(&count), "{page}");
    }
    bus.remove().expect("nobody else uses it");
}

/// Killed at any moment: what was counted stays, nothing is counted that was not committed, and at most the group under
/// way is missing.
#[test]
fn figures_survive_kill_9_of_the_daemon() {
    let place = Place::new("figures and kill -9", "block");
    let mut random = Random::seeded();
    let kills = setting("MILLPOND_TEST_KILLS", 5);
    let mut daemon = place.daemon("auto", &["sync=20"]);
    let publishers = place.four_publishers(&["size=64"]);
    let mut before = ConsumerFigures::default();
    for _ in 0..kills {
        let counted = before.group_events.count;
        wait_until(|| figures(&place.bus).group_events.count > counted + 3);
        std::thread::sleep(random.millis(60));
        daemon.kill();
        let after = figures(&place.bus);
        let pairs: [(&Histogram, &Histogram); 4] = [
            (&before.group_events, &after.group_events),
            (&before.group_bytes, &after.group_bytes),
            (&before.write_ns, &after.write_ns),
            (&before.sync_ns, &after.sync_ns),
        ];
        for (earlier, later) in pairs {
            assert!(later.count >= earlier.count && later.sum >= earlier.sum);
            assert_eq!(later.since(earlier).count, later.count - earlier.count);
        }
        before = after;
        daemon = place.daemon("auto", &["sync=20"]);
    }
    outcomes_of(publishers);
    let stats = place.settled();
    daemon.stop();
    let told = figures(&place.bus);
    let delivered: u64 = stats.sources.iter().map(|source| source.delivered).sum();
    let largest = Histogram::bound(22).expect("a bound");
    let missing = delivered
        .checked_sub(told.group_events.sum)
        .expect("nothing is counted twice");
    assert!(missing <= kills * largest, "{missing} of {delivered}");
    assert!(told.sync_ns.count > 0);
    eprintln!(
        "{kills} kills, {} groups, {missing} of {delivered} events in groups that were not counted",
        told.group_events.count
    );
}
