//! What is recorded is what is played, and what is no recording is refused with its line.

use std::io::Write;
use std::sync::{Arc, Mutex};

use millpond_telemetry::gpu::{
    Driver, Group, Readings, RecordedDriver, Recording, RecordingDriver, SYNTHETIC,
};
use millpond_telemetry::{Policy, Sampler};

use crate::driver::{FakeDriver, Gpu, Kept, at_ms, gone, lost};

/// A file that the test can look into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no test panics with it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn play(driver: Box<dyn Driver>, ticks: u64, mut each: impl FnMut(u64)) -> Kept {
    let now = Arc::new(|| 0);
    let mut sampler = Sampler::new(Policy::default(), now, Kept::default()).with_gpus(driver);
    for tick in 0..ticks {
        each(tick);
        sampler.step(at_ms(tick * 100));
    }
    std::mem::take(sampler.output_mut())
}

#[test]
fn a_recording_of_a_driver_that_breaks_plays_as_the_driver_did() {
    let driver = FakeDriver::new(vec![Gpu::drawing(300.0), Gpu::drawing(200.0)]);
    let file = Shared::default();
    let (recorder, handle) =
        RecordingDriver::new(Box::new(driver.clone()), file.clone(), "a test").expect("a head");
    let live = play(Box::new(recorder), 60, |tick| {
        let mut world = driver.world();
        world.gpus[0]
            .readings
            .insert("power_draw_watts", 300.0 + tick as f64);
        match tick {
            10 => world.gpus[1].failed = Some(lost()),
            20 => world.gpus[1].failed = None,
            30 => world.down = Some(gone()),
            45 => (world.down, world.epoch) = (None, 1),
            _ => {}
        }
    });
    let lines = handle.finish().expect("written");
    let text = file.0.lock().expect("no test panics with it").clone();
    assert_eq!(
        text.iter().filter(|&&byte| byte == b'\n').count() as u64,
        lines
    );

    let recording = Recording::read(text.as_slice()).expect("what was written can be read");
    assert_eq!(recording.made_by(), "a test");
    let played = play(Box::new(RecordedDriver::new(recording)), 60, |_| {});
    // NaN is not equal to itself: compare what is printed.
    assert_eq!(
        format!("{:?}", live.samples),
        format!("{:?}", played.samples)
    );
    assert_eq!(live.states, played.states);
    assert!(live.states.iter().any(|state| state.state == "lost"));
    assert!(live.states.iter().any(|state| state.state == "gone"));
}

#[test]
fn what_is_no_recording_is_refused_with_its_line() {
    let head = r#"{"recording":"millpond-gpu","version":1,"made_by":"x"}"#;
    let connected = r#"{"connected":{"driver_version":"1","devices":[]}}"#;
    for (text, part) in [
        (String::new(), "line 1: the file is empty"),
        ("{}".to_owned(), "line 1: no recording"),
        (head.replace(":1,", ":2,"), "version 2"),
        (head.to_owned(), "no line says `connected`"),
        (
            format!("{head}\n{connected}\n{{\"gpu\":0}}"),
            "line 3: says neither",
        ),
        (
            format!("{head}\n{{\"gpu\":0,\"group\":\"fast\",\"readings\":{{\"warmth\":1}}}}"),
            "line 2: there is no reading \"warmth\"",
        ),
        (
            format!("{head}\n{{\"gpu\":0,\"group\":\"fast\"}}"),
            "has neither `readings`",
        ),
        (format!("{head}\n\u{fffd}"), "line 2"),
    ] {
        let error = Recording::read(text.as_bytes())
            .expect_err(part)
            .to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn the_samples_that_are_kept_have_every_field_but_the_fan() {
    let recording = Recording::read(SYNTHETIC.as_bytes()).expect("it is one");
    let gpus = RecordedDriver::new(recording)
        .connect()
        .expect("it is recorded");
    for index in 0..8 {
        let mut readings = Readings::NONE;
        for group in [Group::Fast, Group::Pcie, Group::Ecc] {
            gpus.read(index, group, &mut readings).expect("recorded");
        }
        let processes = gpus.processes(index).expect("recorded");
        readings.process_count = processes.expect("recorded").len() as f64;
        let known = readings.known().count();
        assert_eq!(known, Readings::FIELDS.len() - 1, "GPU {index}");
        assert!(readings.fan_speed_ratio.is_nan());
    }
}
