//! `millpond telemetry`: samples of GPUs and the host, published to the bus.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use millpond_bus::{EventLayout, Publisher, Schema};
use millpond_telemetry::gpu::{
    Driver, NvmlDriver, RecordedDriver, Recording, RecordingDriver, RecordingHandle,
};
use millpond_telemetry::host::{Host, HostOptions, HostPublisher};
use millpond_telemetry::{BusOutput, Now, Output, Policy, Report, Sampler, State, Stop, bus_time};
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::flags::TelemetryFlags;
use crate::log;
use crate::outcome::{Failure, Outcome};
use crate::print::{BOLD, DIM, stdout};
use crate::signals;
use crate::units::{format_duration, now_ns};

/// Between the two looks of `--once`: rates need two, and a driver some time for its slow answers.
const ONCE_WAIT: Duration = Duration::from_secs(1);
const LABEL: &str = "telemetry";

pub(crate) fn run(flags: &TelemetryFlags, settings: &Settings) -> Run {
    let (driver, recording) = driver(flags)?;
    match flags.once {
        true => once(flags, settings, driver),
        false => publish(flags, settings, driver, recording.as_ref()),
    }
}

/// The GPUs that are asked for: of this machine or of a file, written down or not.
type Gpus = Option<Box<dyn Driver>>;

fn driver(flags: &TelemetryFlags) -> Result<(Gpus, Option<RecordingHandle>), Failure> {
    if flags.host_only {
        return Ok((None, None));
    }
    let driver: Box<dyn Driver> = match &flags.samples {
        Some(path) => Box::new(RecordedDriver::new(read_recording(path)?)),
        None => Box::new(NvmlDriver::new()),
    };
    let Some(path) = &flags.record else {
        return Ok((Some(driver), None));
    };
    let failed = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                "; a recording is never written over: name another"
            }
            _ => "",
        };
        Failure::new(format!("{}: {error}{remedy}", path.display()))
    };
    let file = File::create_new(path).map_err(failed)?;
    let made_by = format!(
        "millpond {} telemetry --record, host {}, {}",
        env!("CARGO_PKG_VERSION"),
        rustix::system::uname().nodename().to_string_lossy(),
        jiff::Timestamp::now(),
    );
    let (driver, handle) =
        RecordingDriver::new(driver, BufWriter::new(file), &made_by).map_err(failed)?;
    Ok((Some(Box::new(driver)), Some(handle)))
}

fn read_recording(path: &Path) -> Result<Recording, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::new(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(&error))?;
    Recording::read(BufReader::new(file)).map_err(|error| failed(&error))
}

fn policy(flags: &TelemetryFlags) -> Policy {
    let or_interval = |interval: Duration| interval.max(flags.interval);
    Policy {
        interval: flags.interval,
        pcie_interval: or_interval(flags.pcie_interval),
        ecc_interval: or_interval(flags.ecc_interval),
        processes_interval: or_interval(flags.processes_interval),
        host_interval: or_interval(flags.host_interval),
        host_processes_interval: or_interval(flags.processes_interval),
        ..Policy::default()
    }
}

fn host(settings: &Settings) -> Host {
    Host::new(HostOptions {
        logs_dir: Some(settings.logs.clone()),
        ..HostOptions::default()
    })
}

fn publish(
    flags: &TelemetryFlags,
    settings: &Settings,
    driver: Gpus,
    recording: Option<&RecordingHandle>,
) -> Run {
    let bus = settings.attach()?;
    let attach = || -> Result<Publisher, Failure> { Ok(settings.attach()?.publisher(LABEL)?) };
    let output = Telling {
        bus: BusOutput::new(bus.publisher(LABEL)?, attach),
        told: BTreeMap::new(),
    };
    let mut sampler = Sampler::new(policy(flags), bus_time(&bus), output);
    if let Some(driver) = driver {
        sampler = sampler.with_gpus(driver);
    }
    if !flags.gpu_only {
        let bus = bus.clone();
        let publishers = move || HostPublisher::attached(&bus.stats());
        sampler = sampler.with_host(host(settings), publishers);
    }
    let stop = Stop::new();
    signals::watch_stop({
        let stop = stop.clone();
        move |_| stop.stop()
    })?;
    if !settings.json {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "millpond telemetry: bus {:?}, every {}, pid {}",
            settings.bus,
            format_duration(flags.interval),
            std::process::id()
        )?;
        out.flush()?;
    }
    sampler.run(&stop);
    let report = sampler.report();
    let output = &sampler.output().bus;
    let (published, dropped) = (output.published(), output.dropped());
    let unpublished = output.unpublished();
    let mut out = stdout(settings.color);
    if settings.json {
        let states: Vec<&State> = sampler.states().collect();
        let summary = json!({
            "version": 1,
            "report": report,
            "cpu_ratio": cpu_ratio(&report),
            "published": published,
            "dropped": dropped,
            "unpublished": unpublished,
            "states": states,
        });
        writeln!(out, "{summary}")?;
    } else {
        writeln!(
            out,
            "{} samples of GPUs and {} events of the host in {}; {published} published, {dropped} dropped, {unpublished} \
             to no bus; {:.2} % of a processor",
            report.gpu_samples,
            report.host_events,
            format_duration(Duration::from_millis(report.elapsed_ns / 1_000_000)),
            cpu_ratio(&report) * 100.0
        )?;
    }
    out.flush()?;
    if let Some(recording) = recording {
        let path = flags.record.as_deref().unwrap_or(Path::new(""));
        let lines = recording.finish().map_err(|error| {
            Failure::new(format!(
                "{}: {error}; what came before it is there",
                path.display()
            ))
        })?;
        log::notice(&format!("{lines} lines recorded in {}", path.display()));
    }
    Ok(Outcome::found(dropped == 0 && unpublished == 0))
}

fn cpu_ratio(report: &Report) -> f64 {
    report.cpu_ns as f64 / report.elapsed_ns.max(1) as f64
}

/// Publishes, and tells people on standard error when something breaks or works again.
struct Telling<A> {
    bus: BusOutput<A>,
    /// What was said of each thing last.
    told: BTreeMap<String, String>,
}

impl<A: FnMut() -> Result<Publisher, Failure>> Output for Telling<A> {
    fn event<T: EventLayout>(&mut self, name: &str, event: &T) {
        self.bus.event(name, event);
    }

    fn state(&mut self, state: &State) {
        self.bus.state(state);
        let line = state_line(state);
        let before = self.told.insert(state.thing.clone(), line.clone());
        if before.as_ref() == Some(&line) {
            return;
        }
        match (state.is_good(), before.is_some()) {
            (true, _) => log::notice(&line),
            (false, _) => log::warning(&line),
        }
    }
}

/// `gpu:3 lost: device fell off the bus`.
fn state_line(state: &State) -> String {
    let mut line = format!("{} {}", state.thing, state.state);
    let name = state.device.as_ref().map(|device| &device.name);
    let what = [name, state.driver_version.as_ref(), state.reason.as_ref()];
    let what: Vec<&str> = what.into_iter().flatten().map(String::as_str).collect();
    if !what.is_empty() {
        line.push_str(": ");
        line.push_str(&what.join(", "));
    }
    line
}

/// One look at everything, printed; the bus is not touched.
fn once(flags: &TelemetryFlags, settings: &Settings, driver: Gpus) -> Run {
    let policy = Policy {
        // Both looks see everything.
        host_interval: Duration::ZERO,
        host_processes_interval: Duration::ZERO,
        pcie_interval: Duration::ZERO,
        ..policy(flags)
    };
    let now: Now = std::sync::Arc::new(now_ns);
    let mut sampler = Sampler::new(policy, now, Kept::default());
    if let Some(driver) = driver {
        sampler = sampler.with_gpus(driver);
    }
    if !flags.gpu_only {
        sampler = sampler.with_host(host(settings), Vec::new);
    }
    sampler.step(Duration::ZERO);
    std::thread::sleep(ONCE_WAIT);
    sampler.step(ONCE_WAIT);
    let events = &sampler.output().events;
    let mut out = stdout(settings.color);
    if settings.json {
        let events: Vec<Value> = events
            .iter()
            .map(|(name, (schema, payload))| {
                let fields: Value = schema
                    .to_json(payload)
                    .and_then(|text| serde_json::from_str(&text).ok())
                    .unwrap_or_default();
                json!({"name": name, "schema": schema.name, "fields": fields})
            })
            .collect();
        let states: Vec<&State> = sampler.states().collect();
        let look = json!({"version": 1, "time_ns": now_ns(), "states": states, "events": events});
        writeln!(out, "{look}")?;
    } else {
        for state in sampler.states() {
            writeln!(out, "{}", state_line(state))?;
        }
        for (name, (schema, payload)) in events {
            writeln!(out, "{BOLD}{name}{BOLD:#}")?;
            for field in schema.numeric_fields() {
                let value = schema.read_f64(field, payload).unwrap_or(f64::NAN);
                if !value.is_nan() && field.name != "sampled_ns" {
                    let unit = field.unit.as_deref().unwrap_or_default();
                    writeln!(out, "  {:<32} {value} {DIM}{unit}{DIM:#}", field.name)?;
                }
            }
        }
    }
    out.flush()?;
    Ok(Outcome::found(!events.is_empty()))
}

/// The last event of each name.
#[derive(Default)]
struct Kept {
    events: BTreeMap<String, (&'static Schema, Vec<u8>)>,
}

impl Output for Kept {
    fn event<T: EventLayout>(&mut self, name: &str, event: &T) {
        let kept = (T::schema(), event.as_bytes().to_vec());
        self.events.insert(name.to_owned(), kept);
    }

    fn state(&mut self, _state: &State) {}
}
