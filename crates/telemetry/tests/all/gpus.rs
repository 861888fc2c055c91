//! A driver that is absent, vanishes and returns; a GPU that is lost; numbers that a GPU does not have.

use std::time::Duration;

use millpond_telemetry::gpu::{DriverError, Group, ProcessMemory, Trouble};

use crate::driver::{FakeDriver, Gpu, at_ms, gone, lost, sampler};

#[test]
fn an_absent_library_is_a_state_and_tried_less_and_less_often() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0)]);
    let absent = DriverError::new(Trouble::LibraryAbsent, "no libnvidia-ml.so.1");
    driver.world().down = Some(absent);
    let mut sampler = sampler(&driver);
    let mut attempts = Vec::new();
    for tick in 0..=150 {
        let before = driver.world().connects;
        sampler.step(at_ms(tick * 100));
        if driver.world().connects > before {
            attempts.push(tick * 100);
        }
    }
    // 1 s, 2 s, then the limit of 4 s.
    assert_eq!(attempts, [0, 1_000, 3_000, 7_000, 11_000, 15_000]);
    let states = std::mem::take(&mut sampler.output_mut().states);
    assert_eq!(states.len(), 1, "one state, told once: {states:?}");
    assert_eq!(
        (states[0].thing.as_str(), states[0].state),
        ("gpu:driver", "absent")
    );
    assert_eq!(states[0].reason.as_deref(), Some("no libnvidia-ml.so.1"));
    assert_eq!(states[0].retry_in_seconds, Some(1.0));
    assert!(sampler.output_mut().sampled().is_empty());
}

#[test]
fn a_driver_that_vanishes_is_found_again_when_it_returns() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(310.0)]);
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    assert_eq!(
        sampler.output_mut().told(),
        ["gpu:driver ok", "gpu:0 ok", "gpu:1 ok"]
    );
    assert_eq!(
        sampler.output_mut().sampled(),
        ["gpu:0:sample", "gpu:1:sample"]
    );

    driver.world().down = Some(gone());
    sampler.step(at_ms(100));
    assert_eq!(
        sampler.output_mut().told(),
        ["gpu:driver gone", "gpu:0 gone", "gpu:1 gone"]
    );
    sampler.step(at_ms(200));
    assert!(sampler.output_mut().told().is_empty(), "told once");
    assert!(sampler.output_mut().sampled().is_empty());

    // It is back, as another incarnation: old connections stay dead.
    driver.world().down = None;
    driver.world().epoch += 1;
    sampler.step(at_ms(1_000));
    assert!(
        sampler.output_mut().sampled().is_empty(),
        "not before its time"
    );
    sampler.step(at_ms(1_100));
    assert_eq!(
        sampler.output_mut().told(),
        ["gpu:driver ok", "gpu:0 ok", "gpu:1 ok"]
    );
    assert_eq!(
        sampler.output_mut().sampled(),
        ["gpu:0:sample", "gpu:1:sample"]
    );
    assert_eq!(sampler.report().driver_connects, 2);
}

#[test]
fn a_lost_gpu_leaves_the_others_alone_and_comes_back_with_a_new_connection() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(310.0)]);
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    sampler.output_mut().told();
    sampler.output_mut().sampled();

    driver.world().gpus[0].failed = Some(lost());
    for tick in 1..=20 {
        sampler.step(at_ms(tick * 100));
    }
    assert_eq!(sampler.output_mut().told(), ["gpu:0 lost"]);
    assert_eq!(sampler.output_mut().sampled(), ["gpu:1:sample"; 20]);
    // Once when it was lost, once a second later; then not before another 2 s, by the old connection and a new one.
    let asked = driver.world().asked[&(0, "Fast".to_owned())];
    assert_eq!(asked, 4, "first, lost, again, and with a new connection");

    // After a reset it is there, for new connections alone.
    driver.world().gpus[0].failed = None;
    driver.world().gpus[0].since_reset = 1;
    driver.world().resets = 1;
    for tick in 21..=40 {
        sampler.step(at_ms(tick * 100));
    }
    assert_eq!(sampler.output_mut().told(), ["gpu:0 ok"]);
    let sampled = sampler.output_mut().sampled();
    assert!(sampled.contains(&"gpu:0:sample".to_owned()));
    let of_other = sampled.iter().filter(|name| *name == "gpu:1:sample");
    assert_eq!(of_other.count(), 20, "nothing is left out of the other");
    assert!(sampler.states().all(|state| state.is_good()));
}

#[test]
fn one_gpu_that_is_reset_while_the_driver_stays_is_reached_anew() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(310.0)]);
    driver.world().gpus[0].failed = Some(lost());
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    assert_eq!(
        sampler.output_mut().told(),
        ["gpu:driver ok", "gpu:0 lost", "gpu:1 ok"]
    );
    driver.world().gpus[0].failed = None;
    for tick in 1..=10 {
        sampler.step(at_ms(tick * 100));
    }
    assert_eq!(sampler.output_mut().told(), ["gpu:0 ok"]);
    let sampled = sampler.output_mut().sampled();
    assert_eq!(
        sampled
            .iter()
            .filter(|name| *name == "gpu:1:sample")
            .count(),
        11
    );
    assert_eq!(
        sampled
            .iter()
            .filter(|name| *name == "gpu:0:sample")
            .count(),
        1
    );
}

#[test]
fn what_a_gpu_does_not_have_is_nan_and_what_answers_nothing_has_failed() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::default()]);
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    let samples = std::mem::take(&mut sampler.output_mut().samples);
    assert_eq!(samples.len(), 1);
    let (name, sample) = &samples[0];
    assert_eq!(name, "gpu:0:sample");
    assert_eq!(
        (sample.power_draw_watts, sample.ecc_corrected_count),
        (300.0, 1.0)
    );
    assert!(sample.fan_speed_ratio.is_nan() && sample.ecc_uncorrected_count.is_nan());
    assert!(
        sample.process_count.is_nan(),
        "the driver does not say who uses it"
    );
    assert_eq!(sampler.report().gpu_readings, 2);
    assert_eq!(
        sampler.output_mut().told(),
        ["gpu:driver ok", "gpu:0 ok", "gpu:1 ok", "gpu:1 failed"]
    );
}

#[test]
fn processes_are_events_of_their_own() {
    let mut gpu = Gpu::drawing(300.0);
    let process = |pid, memory_used_bytes| ProcessMemory {
        pid,
        memory_used_bytes,
    };
    gpu.processes = Some(vec![process(7, Some(1 << 30)), process(8, None)]);
    let driver = FakeDriver::new(vec![gpu]);
    let mut sampler = sampler(&driver);
    for tick in 0..=20 {
        sampler.step(at_ms(tick * 100));
    }
    let output = sampler.output();
    assert!(
        output
            .samples
            .iter()
            .all(|(_, sample)| sample.process_count == 2.0)
    );
    // Counted twice: at 0 s and at 2 s.
    let names: Vec<&str> = output
        .processes
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["gpu:0:process:7", "gpu:0:process:8"].repeat(2));
    assert_eq!(output.processes[0].1.memory_used_bytes, (1u64 << 30) as f64);
    assert!(output.processes[1].1.memory_used_bytes.is_nan());
}

#[test]
fn states_are_told_again_for_those_who_come_later() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0)]);
    let mut sampler = sampler(&driver);
    for second in 0..=120 {
        sampler.step(at_ms(second * 1_000));
    }
    let mut told = sampler.output_mut().told();
    told.sort();
    assert_eq!(
        told,
        [
            "gpu:0 ok",
            "gpu:0 ok",
            "gpu:0 ok",
            "gpu:driver ok",
            "gpu:driver ok",
            "gpu:driver ok"
        ]
    );
}

#[test]
fn a_reset_gpu_comes_back_also_where_a_thread_shares_the_connection() {
    let driver = FakeDriver {
        is_slow: true,
        ..FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(310.0)])
    };
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    driver.world().gpus[0].since_reset = 1;
    driver.world().resets = 1;
    for second in 1..=10 {
        sampler.step(at_ms(second * 1_000));
    }
    assert!(
        sampler.states().all(|state| state.is_good()),
        "{:?}",
        sampler.output().states
    );
}

#[test]
fn a_question_that_hangs_keeps_a_new_connection_away_and_says_so() {
    let driver = FakeDriver {
        is_slow: true,
        ..FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(310.0)])
    };
    driver.world().is_hung = true;
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    while driver.world().asked.len() < 3 {
        std::thread::sleep(Duration::from_millis(1)); // until the thread hangs
    }
    driver.world().gpus[0].since_reset = 1;
    driver.world().resets = 1;
    sampler.step(at_ms(100));
    sampler.output_mut().sampled();
    sampler.step(at_ms(1_100));
    sampler.step(at_ms(3_100));
    assert_eq!(driver.world().connects, 1);
    let states = std::mem::take(&mut sampler.output_mut().states);
    let last = states.last().expect("it was lost");
    let reason = last.reason.as_deref().unwrap_or_default();
    assert_eq!((last.thing.as_str(), last.state), ("gpu:0", "lost"));
    assert!(reason.contains("hangs in the driver"), "{reason}");
    assert_eq!(states.len(), 5, "with its new reason once: {states:?}");
    assert_eq!(sampler.output_mut().sampled(), ["gpu:1:sample"; 2]);

    driver.world().is_hung = false;
    let mut tick = 0;
    while !sampler.states().all(|state| state.is_good()) {
        std::thread::sleep(Duration::from_millis(1));
        tick += 1;
        assert!(tick < 10_000, "{:?}", sampler.output().states);
        sampler.step(at_ms(3_100)); // no time passes: it is not waited for the next attempt
    }
    assert_eq!(driver.world().connects, 2);
}

#[test]
fn a_gpu_of_which_one_slow_group_says_lost_is_lost_until_that_answers() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0)]);
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    sampler.output_mut().told();
    driver.world().gpus[0].failed_group = Some((Group::Pcie, lost()));
    for tick in 1..=300 {
        sampler.step(at_ms(tick * 100));
    }
    assert_eq!(sampler.output_mut().told(), ["gpu:0 lost"]);
    driver.world().gpus[0].failed_group = None;
    for tick in 301..=350 {
        sampler.step(at_ms(tick * 100));
    }
    assert_eq!(sampler.output_mut().told(), ["gpu:0 ok"]);
}

#[test]
fn a_driver_that_connects_and_never_answers_is_tried_less_and_less_often() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0)]);
    driver.world().gpus[0].failed_group = Some((Group::Fast, gone()));
    let mut sampler = sampler(&driver);
    let mut attempts = Vec::new();
    for tick in 0..=120 {
        let before = driver.world().connects;
        sampler.step(at_ms(tick * 100));
        if driver.world().connects > before {
            attempts.push(tick * 100);
        }
    }
    assert_eq!(attempts, [0, 1_000, 3_000, 7_000, 11_000]);
}

#[test]
fn a_gpu_that_the_driver_does_not_list_any_more_is_told_to_be_gone() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(310.0)]);
    let mut sampler = sampler(&driver);
    sampler.step(at_ms(0));
    driver.world().gpus[0].failed = Some(lost());
    sampler.step(at_ms(100));
    sampler.output_mut().told();
    // One is reset, and the other taken out, while the driver stays.
    driver.world().gpus[0] = Gpu {
        since_reset: 1,
        ..Gpu::drawing(300.0)
    };
    driver.world().resets = 1;
    driver.world().gpus.truncate(1);
    sampler.step(at_ms(1_100));
    assert_eq!(
        sampler.output_mut().told(),
        ["gpu:1 lost", "gpu:1 gone", "gpu:0 ok"]
    );
    assert!(sampler.states().all(|state| state.thing != "gpu:1"));
}
