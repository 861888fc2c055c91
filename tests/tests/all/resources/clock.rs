//! The real clock is set forward by an hour, back by two, and right again, while everything runs. That disturbs the whole
//! host for a moment, so it is done only where `MILLPOND_TEST_SET_CLOCK=1` says so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millpond_logfile::list_segments;
use millpond_tests::setting;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use super::cpu_ticks;
use crate::support::{
    Found, Place, assert_identity, outcomes_of, segment_text, source, wait_until,
};

const HOUR_S: i64 = 3600;

/// Sets the clock by an offset from what it would be, and right again when it is dropped.
struct SetClock {
    real: Timespec,
    at: Instant,
}

impl SetClock {
    fn new() -> Self {
        SetClock {
            real: clock_gettime(ClockId::Realtime),
            at: Instant::now(),
        }
    }

    fn set(&self, offset_s: i64) -> rustix::io::Result<()> {
        let passed = self.at.elapsed();
        let ns = self.real.tv_nsec + i64::from(passed.subsec_nanos());
        clock_settime(
            ClockId::Realtime,
            Timespec {
                tv_sec: self.real.tv_sec + passed.as_secs() as i64 + offset_s + ns / 1_000_000_000,
                tv_nsec: ns % 1_000_000_000,
            },
        )
    }
}

impl Drop for SetClock {
    fn drop(&mut self) {
        if let Err(error) = self.set(0) {
            eprintln!("the clock could not be set right again: {error}");
        }
    }
}

#[test]
fn an_hour_forward_and_back_loses_nothing_and_stops_nothing() {
    if setting("MILLPOND_TEST_SET_CLOCK", 0) != 1 {
        eprintln!("skipped: sets the clock of the whole host; MILLPOND_TEST_SET_CLOCK=1 allows it");
        return;
    }
    let place = Place::new("the clock is set", "block");
    let daemon = place.daemon("auto", &["segment_bytes=1048576", "rate=1000000"]);
    let publishers = place.four_publishers(&["size=100"]);
    let written = || -> u64 { place.bus.stats().sources.iter().map(|s| s.written).sum() };
    wait_until(|| written() > 10_000);
    // A trickle beside the load: it is written because its time has come, and for no other reason.
    let mut own = place.bus.publisher("own").expect("a publisher");
    let topic = own.topic("log:own:own").expect("a lane");
    let mut number = 0;
    let mut trickle = |longest: &mut Duration| {
        let since = Instant::now();
        let text = format!("own {number}");
        own.publish(topic, millpond_bus::Level::Info, text.as_bytes())
            .expect("room");
        number += 1;
        wait_until(|| {
            let stats = place.bus.stats();
            stats
                .sources
                .iter()
                .any(|source| source.label == "own" && source.written == number)
        });
        *longest = (*longest).max(since.elapsed());
    };
    let mut longest = [Duration::ZERO; 4];
    trickle(&mut longest[0]);
    {
        let clock = SetClock::new();
        for (index, offset_s) in [(1, HOUR_S), (2, -HOUR_S)] {
            if let Err(error) = clock.set(offset_s) {
                eprintln!("skipped: the clock cannot be set here: {error}");
                return;
            }
            // About the time between two looks at the clock.
            let until = clock.at + Duration::from_millis(1100 * index as u64);
            while Instant::now() < until {
                trickle(&mut longest[index]);
            }
        }
    }
    trickle(&mut longest[3]);
    let before = written();
    wait_until(|| written() > before + 10_000);
    drop(own);
    let mut expected = BTreeMap::from([("own".to_owned(), number)]);
    for (label, published) in outcomes_of(publishers) {
        assert_eq!(published.dropped(), 0);
        expected.insert(label, published.published);
    }
    let stats = place.settled();
    for (label, &published) in &expected {
        let source = source(&stats, label);
        assert_identity(source);
        assert_eq!(source.written, published);
    }
    let ticks = cpu_ticks(daemon.pid());
    std::thread::sleep(Duration::from_secs(1));
    let busy = cpu_ticks(daemon.pid()) - ticks;
    assert!(busy < 50, "{busy} % of a processor with nothing to do");
    daemon.stop();
    // And a daemon that begins while the stamps are ahead of the clock.
    let daemon = place.daemon("auto", &[]);
    daemon.stop();
    Found::read(&place.logs()).assert_complete(&expected);
    let (mut segments, mut lines) = (0, 0);
    for service in ["own", "web0", "web1"] {
        let dir = place.logs().join(service);
        let mut last: BTreeMap<String, String> = BTreeMap::new();
        let mut ids = list_segments(&dir).expect("segments");
        segments += ids.len();
        ids.sort();
        for id in ids {
            let (_, text) = segment_text(&dir, id).expect("a segment");
            for line in String::from_utf8(text).expect("text").lines() {
                let (stamp, rest) = line.split_once(' ').expect("a stamp");
                let source = rest.split_whitespace().nth(1).expect("a source").to_owned();
                let before = last.insert(source, stamp.to_owned()).unwrap_or_default();
                assert!(stamp >= before.as_str(), "{before} then {line}");
                lines += 1;
            }
        }
    }
    let events: u64 = expected.values().sum();
    assert_eq!(lines, events);
    eprintln!(
        "clock +1 h, -1 h, right: {events} events in {segments} segments, each once, times never back; the longest from \
         publish to file of a trickle: {longest:?}"
    );
}
