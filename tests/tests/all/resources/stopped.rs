//! Processes that stand still for a while (SIGSTOP), as in a suspended host, and go on.

use std::time::{Duration, Instant};

use millpond_tests::setting;
use rustix::process::{Pid, Signal, kill_process};

use super::cpu_ticks;
use crate::support::{Found, Place, Process, assert_identity, outcomes_of, source, wait_until};

fn send(process: &Process, signal: Signal) {
    let pid = Pid::from_raw(process.pid() as i32).expect("a process");
    kill_process(pid, signal).expect("ours");
}

fn pause() -> Duration {
    Duration::from_secs(setting("MILLPOND_TEST_STOP_SECONDS", 2))
}

/// Stops what `which` picks of the daemon and four publishers, and lets it go on.
fn nothing_is_lost(what: &str, rules: &'static str, which: impl Fn(usize) -> bool) {
    let place = Place::new(what, rules);
    let daemon = place.daemon("auto", &[]);
    let publishers = place.four_publishers(&["size=64"]);
    let written = || -> u64 { place.bus.stats().sources.iter().map(|s| s.written).sum() };
    wait_until(|| written() > 1000);
    let all: Vec<&Process> = std::iter::once(&daemon).chain(&publishers).collect();
    let picked = || all.iter().enumerate().filter(|(index, _)| which(*index));
    picked().for_each(|(_, process)| send(process, Signal::STOP));
    // The length of the pause is what is tested.
    std::thread::sleep(pause());
    if which(0) {
        // It stands still, and it lives: nobody takes its place.
        let (status, lines) = place.start_daemon("auto", &[]).finish();
        assert!(
            !status.success() && lines[0].starts_with("refused"),
            "{lines:?}"
        );
    }
    let (before, since) = (written(), Instant::now());
    picked().for_each(|(_, process)| send(process, Signal::CONT));
    wait_until(|| written() > before + 1000);
    let took = since.elapsed();
    drop(all);
    let outcomes = outcomes_of(publishers);
    let stats = place.settled();
    // Then there is peace: no deadline that fires for ever. What was closed may still be compressed, for as long as the
    // machine makes it take.
    let mut busy = f64::NAN;
    wait_until(|| {
        let (ticks, since) = (cpu_ticks(daemon.pid()), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let ticks = cpu_ticks(daemon.pid()) - ticks;
        busy = ticks as f64 / 100.0 / since.elapsed().as_secs_f64();
        busy < 0.5
    });
    daemon.stop();
    let found = Found::read(&place.logs());
    found.assert_orderly();
    let (mut events, mut dropped) = (0, 0);
    for (label, outcome) in &outcomes {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.published, outcome.published);
        assert_eq!(source.dropped.total(), outcome.dropped());
        // What the files have, and what they say is missing, is everything.
        let told: u64 = (found.gaps.get(label).into_iter().flatten())
            .map(|gap| gap.count)
            .sum();
        assert_eq!(found.sequences[label].count(), source.written);
        assert_eq!(found.sequences[label].count() + told, outcome.published);
        events += outcome.published;
        dropped += outcome.dropped();
    }
    eprintln!(
        "{what} for {:?}: {events} events, {dropped} dropped and counted, 1,000 more written {took:?} after; idle then \
         {busy:.2} of a processor",
        pause()
    );
}

#[test]
fn a_daemon_that_stood_still_goes_on() {
    nothing_is_lost("daemon stopped", "block", |index| index == 0);
}

#[test]
fn a_daemon_that_stood_still_costs_counted_drops_where_nobody_waits() {
    nothing_is_lost("daemon stopped, drop", "drop", |index| index == 0);
}

#[test]
fn publishers_that_stood_still_go_on() {
    nothing_is_lost("two publishers stopped", "block", |index| {
        index == 1 || index == 2
    });
}

#[test]
fn everything_that_stood_still_goes_on() {
    nothing_is_lost("all stopped", "block", |_| true);
}

/// A subscriber misses what its ring has no room for, is told how much, and goes on; nobody waited for it.
#[test]
fn a_subscriber_that_stood_still_is_told_what_it_missed() {
    let place = Place::new("subscriber stopped", "peers");
    let daemon = place.daemon("auto", &[]);
    let argument = |key: &str, value: &str| format!("{key}={value}");
    let peer = |more: &[(&str, &str)]| {
        let mut arguments = vec![argument("bus", &place.name), argument("rules", "peers")];
        arguments.extend(more.iter().map(|(key, value)| argument(key, value)));
        let mut process = Process::start(env!("CARGO_BIN_EXE_peer"), &arguments);
        process.line_with("ready");
        process
    };
    let subscriber = peer(&[
        ("role", "subscribe"),
        ("label", "sub"),
        ("pattern", "batch:*"),
    ]);
    let publisher = peer(&[
        ("role", "publish"),
        ("label", "pub"),
        ("event", "batch:load"),
        ("size", "200"),
    ]);
    let delivered = || -> u64 {
        let stats = place.bus.stats();
        stats.subscribers.iter().map(|of| of.delivered).sum()
    };
    let published = || -> u64 { place.bus.stats().sources.iter().map(|s| s.published).sum() };
    wait_until(|| delivered() > 1000);
    send(&subscriber, Signal::STOP);
    let before = published();
    std::thread::sleep(pause());
    wait_until(|| published() > before + 50_000);
    send(&subscriber, Signal::CONT);
    let before = delivered();
    wait_until(|| delivered() > before + 1000);
    let (status, lines) = publisher.end();
    assert!(status.success(), "{lines:?}");
    let of_publisher: serde_json::Value =
        serde_json::from_str(lines.last().expect("a report")).expect("JSON");
    assert_eq!(of_publisher["dropped"], 0, "{of_publisher}");
    let (status, lines) = subscriber.end();
    assert!(status.success(), "{lines:?}");
    let of_subscriber: serde_json::Value =
        serde_json::from_str(lines.last().expect("a report")).expect("JSON");
    assert_eq!(
        of_subscriber["wrong"].as_array().map(Vec::len),
        Some(0),
        "{of_subscriber}"
    );
    let number = |key: &str| of_subscriber[key].as_u64().expect("a number");
    assert_eq!(
        number("delivered") + number("lagged"),
        of_publisher["published"].as_u64().expect("a number"),
        "{of_subscriber}"
    );
    daemon.stop();
    eprintln!(
        "subscriber stopped for {:?}: {of_subscriber} of {of_publisher}",
        pause()
    );
}
