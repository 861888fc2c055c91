//! A real NVIDIA GPU, where there is one.

use std::sync::Arc;
use std::time::Duration;

use millpond_telemetry::gpu::{
    Driver, Group, NvmlDriver, Readings, RecordedDriver, Recording, RecordingDriver,
};
use millpond_telemetry::{Policy, Sampler};

use crate::driver::Kept;

#[test]
fn a_real_gpu_answers_and_its_recording_plays() {
    let gpus = match NvmlDriver::new().connect() {
        Ok(gpus) => gpus,
        Err(why) => {
            assert!(why.trouble.ends_connection(), "{why:?}");
            eprintln!("skipped: no NVIDIA driver here ({why})");
            return;
        }
    };
    let devices = gpus.devices().expect("they are listed");
    println!("driver {}, {} GPUs", gpus.driver_version(), devices.len());
    let Some(index) = devices.iter().position(Result::is_ok) else {
        eprintln!("skipped: the driver has no GPU that answers");
        return;
    };
    let mut readings = Readings::NONE;
    for group in [Group::Fast, Group::Pcie, Group::Ecc] {
        gpus.read(index as u32, group, &mut readings)
            .expect("it answers");
    }
    for field in Readings::FIELDS.iter().zip(readings.values()) {
        println!("{:>28} {} {}", field.0.name, field.1, field.0.unit);
    }
    // What every GPU has had for ten years, and what cannot be.
    assert!(readings.memory_total_bytes > 0.0);
    assert!(readings.memory_used_bytes <= readings.memory_total_bytes);
    assert!((0.0..=150.0).contains(&readings.temperature_gpu_celsius));
    assert!(
        readings.utilization_gpu_ratio.is_nan()
            || (0.0..=1.0).contains(&readings.utilization_gpu_ratio)
    );

    let file = tempfile::NamedTempFile::new().expect("a file");
    let out = file.reopen().expect("the same file");
    let (driver, handle) =
        RecordingDriver::new(Box::new(NvmlDriver::new()), out, "a test").expect("a head");
    let mut sampler = Sampler::new(Policy::default(), Arc::new(|| 0), Kept::default())
        .with_gpus(Box::new(driver));
    for tick in 0..10 {
        sampler.step(Duration::from_millis(tick * 100));
    }
    let live = sampler.output().samples.len();
    println!("{:?}", sampler.report());
    drop(sampler);
    handle.finish().expect("written");
    let text = std::fs::read(file.path()).expect("it is there");
    let recording = Recording::read(text.as_slice()).expect("what was written can be read");
    let mut sampler = Sampler::new(Policy::default(), Arc::new(|| 0), Kept::default())
        .with_gpus(Box::new(RecordedDriver::new(recording)));
    for tick in 0..10 {
        sampler.step(Duration::from_millis(tick * 100));
    }
    assert_eq!(sampler.output().samples.len(), live);
}
