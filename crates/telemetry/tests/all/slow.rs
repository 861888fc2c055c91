//! The groups that are read less often: at their intervals, with their age, and away from the others where they block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millpond_telemetry::gpu::{Driver, RecordedDriver, Recording, SYNTHETIC};
use millpond_telemetry::{Policy, Sampler};

use crate::driver::{FakeDriver, Gpu, Kept, at_ms, sampler};

#[test]
fn each_group_is_read_at_its_own_interval() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0)]);
    let mut sampler = sampler(&driver);
    for tick in 0..100 {
        sampler.step(at_ms(tick * 100));
    }
    let asked = |group: &str| driver.world().asked[&(0, group.to_owned())];
    assert_eq!((asked("Fast"), asked("Pcie")), (100, 10));
    assert_eq!((asked("Ecc"), asked("Processes")), (1, 5));
}

#[test]
fn a_sample_says_how_old_its_slow_numbers_are() {
    let recording = Recording::read(SYNTHETIC.as_bytes()).expect("it is one");
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let now = Arc::new(move || clock.load(Ordering::Relaxed));
    let mut sampler = Sampler::new(Policy::default(), now, Kept::default())
        .with_gpus(Box::new(RecordedDriver::new(recording)));
    for tick in 0..20 {
        time.store(tick * 100_000_000, Ordering::Relaxed);
        sampler.step(at_ms(tick * 100));
    }
    let samples = &sampler.output().samples;
    assert_eq!(samples.len(), 20 * 8);
    for (tick, of_tick) in samples.chunks(8).enumerate() {
        for (_, sample) in of_tick {
            assert_eq!(sample.sampled_ns, tick as u64 * 100_000_000);
            let expected = (tick % 10) as f64 / 10.0;
            assert!(
                (sample.pcie_age_seconds - expected).abs() < 1e-9,
                "tick {tick}"
            );
            assert!((sample.ecc_age_seconds - tick as f64 / 10.0).abs() < 1e-9);
        }
    }
    // The link is read anew in the eleventh.
    let rates: Vec<f64> = samples
        .iter()
        .step_by(8)
        .map(|(_, it)| it.pcie_rx_bytes_per_second)
        .collect();
    assert!(rates[..10].iter().all(|&rate| rate == rates[0]));
    assert_ne!(rates[10], rates[0]);
}

#[test]
fn a_driver_that_takes_its_time_is_asked_on_another_thread() {
    let driver = FakeDriver {
        is_slow: true,
        ..FakeDriver::new(vec![Gpu::drawing(300.0)])
    };
    assert!(driver.is_slow());
    let mut sampler = sampler(&driver);
    // The number arrives with one of the next samples; until then it is NaN.
    let mut tick = 0;
    while !sampler
        .output()
        .samples
        .iter()
        .any(|(_, it)| it.ecc_corrected_count == 1.0)
    {
        sampler.step(at_ms(tick * 100));
        tick += 1;
        std::thread::sleep(Duration::from_millis(1));
        assert!(tick < 60_000, "the thread has read nothing");
    }
    drop(sampler);
}
