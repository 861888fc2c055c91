//! The sampler in a process of its own, and a subscriber here.

use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, Class, Event, EventLayout, Publisher, RecvError, Rule, RuleTable, SubscribeOptions,
    Subscriber,
};
use millpond_telemetry::gpu::{GpuSample, RecordedDriver, Recording, SYNTHETIC};
use millpond_telemetry::{BusOutput, Output, Policy, Sampler, State, Stop, bus_time};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::truth::{self, Sample};
use super::{GPUS, LOST_GPU, Options, Report, Seen};
use crate::error::Error;
use crate::process::{Arguments, Host, Talk};
use crate::stage::{Stage, account, rules_with};

const LABEL: &str = "telemetry";
/// What has not come after so long without any event will not.
const QUIET_LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);
/// More failures than the sampler asks for.
const FAILURES: usize = 1000;

/// The rule of the documented configuration: `gpu:*` aggregate, 1 s, and like every telemetry it drops the newest.
fn rules(window: Duration) -> Result<RuleTable, Error> {
    let defaults = RuleTable::defaults();
    let default = defaults
        .iter()
        .find(|rule| rule.pattern.to_string() == "gpu:*")
        .ok_or_else(|| Error::new("there is no default rule for gpu:*"))?;
    if default.class != Class::Aggregate {
        return Err(Error::new("the default rule for gpu:* does not aggregate"));
    }
    rules_with(vec![Rule {
        max_delay: window,
        ..default.clone()
    }])
}

/// What the sampler tells.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    report: Value,
    /// Events offered, of all names.
    published: u64,
    /// Of each GPU.
    samples: Vec<Vec<Sample>>,
}

/// One consolidated record of one GPU.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) gpu: usize,
    pub(super) count: u64,
    pub(super) is_stale: bool,
    pub(super) first_ns: u64,
    /// min, max, mean, last of each field, as bits.
    pub(super) fields: Vec<[u64; 4]>,
}

pub(super) fn run(host: &Host, options: &Options) -> Result<(Report, Seen), Error> {
    let stage = Stage::new(host, "gpus", rules(options.window)?)?;
    let (bus, interval_ms) = (stage.name(), options.interval.as_millis());
    let mut sampler = host.start(
        "gpus-sampler",
        &[
            ("bus", &bus),
            ("samples", &options.samples),
            ("interval-ms", &interval_ms),
        ],
    )?;
    let mut subscribe = SubscribeOptions::new("gpus", "gpu:*".parse()?);
    subscribe.patterns.push("telemetry:*".parse()?);
    let mut subscription = stage.bus.subscribe(subscribe)?;
    sampler.say("go")?;

    let mut reader = Reader::default();
    let mut last = (0, Instant::now());
    // Every GPU falls silent in the end.
    while reader.stale() < GPUS as u64 && last.1.elapsed() < QUIET_LIMIT {
        match subscription.run(&mut reader, Some(LOOK)) {
            Ok(_) | Err(RecvError::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        if last.0 != reader.received {
            last = (reader.received, Instant::now());
        }
    }
    let published: Published = sampler.result(QUIET_LIMIT)?;
    let stats = stage.settle()?;
    let stopped = stage.close()?;
    let (mut report, seen) = assess(&reader, &published);
    report.daemon_cpu_ns = stopped.cpu_ns;
    report.accounts = vec![account(
        &stats,
        LABEL,
        "gpu",
        published.published,
        Some(reader.received),
        reader.lagged,
    )];
    Ok((report, seen))
}

fn assess(reader: &Reader, published: &Published) -> (Report, Seen) {
    let number = |key: &str| published.report[key].as_u64().unwrap_or(0);
    let names: Vec<String> = GpuSample::schema()
        .numeric_fields()
        .map(|field| field.name.clone())
        .collect();
    let mut wrong = Vec::new();
    let mut numbers_checked = 0;
    let mut taken = [0; GPUS];
    let mut stale = vec![0; GPUS];
    let mut windows: Vec<Vec<usize>> = Vec::new();
    let mut spans_ns = (u64::MAX, 0);
    let mut lost_mark = None;
    for (place, record) in reader.records.iter().enumerate() {
        if record.is_stale {
            stale[record.gpu] += 1;
            if record.gpu == LOST_GPU {
                lost_mark.get_or_insert(place);
            }
            continue;
        }
        // A GPU that comes again begins the next window.
        match windows.last_mut() {
            Some(window) if !window.contains(&record.gpu) => window.push(record.gpu),
            _ => windows.push(vec![record.gpu]),
        }
        let samples = &published.samples[record.gpu];
        let begin: usize = taken[record.gpu];
        let end = begin + record.count as usize;
        taken[record.gpu] = end;
        match samples.get(begin..end) {
            Some(samples) => {
                numbers_checked += truth::check(record, samples, &names, &mut wrong);
            }
            None => wrong.push(format!(
                "GPU {}: records stand for {end} samples, {} were published",
                record.gpu,
                samples.len()
            )),
        }
    }
    let windows_of_all = windows
        .iter()
        .take_while(|it| it.contains(&LOST_GPU))
        .count();
    // The last of these has the lost one's last samples: the rate is that of those before it.
    let rate_windows = windows_of_all.saturating_sub(1);
    let rated = windows
        .iter()
        .take(rate_windows)
        .map(Vec::len)
        .sum::<usize>();
    let live = reader.records.iter().filter(|record| !record.is_stale);
    for record in live.clone().take(rated + 1) {
        spans_ns = (
            spans_ns.0.min(record.first_ns),
            spans_ns.1.max(record.first_ns),
        );
    }
    let seconds = spans_ns.1.saturating_sub(spans_ns.0) as f64 / 1e9;
    let others_last = reader.records.iter().rposition(|record| !record.is_stale);
    let elapsed_ns = number("elapsed_ns");
    let of_first = published.samples[0].len() as f64;
    let unlike_the_file = published.samples.iter().enumerate().map(|(gpu, samples)| {
        truth::unlike_the_file(samples, &names, &truth::fast_of_file(SYNTHETIC, gpu))
    });
    let seen = Seen {
        samples: (published.samples.iter().zip(taken))
            .map(|(samples, taken)| (samples.len() as u64, taken as u64))
            .collect(),
        stale,
        marked_while_others_went_on: lost_mark < others_last && lost_mark.is_some(),
        unlike_the_file: unlike_the_file.sum(),
        windows,
    };
    let samples = number("gpu_samples");
    let hz = of_first / (elapsed_ns as f64 / 1e9);
    let report = Report {
        gpus: GPUS,
        samples,
        readings: number("gpu_readings"),
        hz,
        readings_per_second: number("gpu_readings") as f64 / samples as f64 * hz * GPUS as f64,
        records: live.count() as u64,
        windows_of_all: windows_of_all as u64,
        windows_of_the_rest: (seen.windows.len() - windows_of_all) as u64,
        records_per_second: rated as f64 / seconds,
        numbers_checked,
        wrong,
        stale: seen.stale.iter().sum(),
        intervals_skipped: number("ticks_skipped"),
        sampler_cpu_ns: number("cpu_ns"),
        sampler_elapsed_ns: elapsed_ns,
        ..Report::default()
    };
    (report, seen)
}

#[derive(Default)]
struct Reader {
    records: Vec<Record>,
    /// Events that arrived, alone or in records.
    received: u64,
    lagged: u64,
}

impl Reader {
    fn stale(&self) -> u64 {
        self.records.iter().filter(|record| record.is_stale).count() as u64
    }
}

/// The GPU of `gpu:INDEX:sample`.
fn gpu_of(name: &str) -> Option<usize> {
    let index = name.strip_prefix("gpu:")?.strip_suffix(":sample")?;
    index.parse().ok().filter(|&index| index < GPUS)
}

impl Subscriber for Reader {
    fn on_event(&mut self, event: &Event<'_>) {
        let Some(aggregate) = event.aggregate() else {
            self.received += 1;
            return;
        };
        self.received += aggregate.count();
        let Some(gpu) = gpu_of(event.name) else {
            return;
        };
        let bits =
            |it: millpond_bus::FieldSummary| [it.min, it.max, it.mean, it.last].map(f64::to_bits);
        self.records.push(Record {
            gpu,
            count: aggregate.count(),
            is_stale: aggregate.stale(),
            first_ns: aggregate.first_time_ns(),
            fields: aggregate.fields().map(bits).collect(),
        });
    }

    fn on_lagged(&mut self, lagged: &millpond_bus::Lagged) {
        self.lagged += lagged.count;
    }
}

/// `bus=NAME samples=N interval-ms=N`.
pub(crate) fn sampler_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let samples: u64 = arguments.get("samples")?;
    let interval = Duration::from_millis(arguments.get("interval-ms")?);
    let recording = Recording::read(losing_one(samples / 3).as_bytes())
        .map_err(|error| Error::new(format!("the recording: {error}")))?;
    let stop = Stop::new();
    let publisher = bus.publisher(LABEL)?;
    let output = Counting {
        bus: BusOutput::new(publisher, || bus.publisher(LABEL)),
        samples: vec![Vec::new(); GPUS],
        limit: samples as usize,
        stop: stop.clone(),
    };
    let policy = Policy {
        interval,
        ..Policy::default()
    };
    let mut sampler = Sampler::new(policy, bus_time(&bus), output)
        .with_gpus(Box::new(RecordedDriver::new(recording)));
    talk.ready()?;
    sampler.run(&stop);
    let report = serde_json::to_value(sampler.report())?;
    let output = sampler.output_mut();
    talk.say(&Published {
        report,
        published: output.bus.published(),
        samples: std::mem::take(&mut output.samples),
    })
}

/// The recording, with a GPU that is lost after so many samples.
fn losing_one(samples: u64) -> String {
    let fast = truth::fast_of_file(SYNTHETIC, LOST_GPU);
    let is_other = |line: &&str| {
        let line: Value = serde_json::from_str(line).unwrap_or(Value::Null);
        line["gpu"] != LOST_GPU || line["group"] != "fast"
    };
    let mut lines: Vec<String> = SYNTHETIC
        .lines()
        .filter(is_other)
        .map(str::to_owned)
        .collect();
    let answers = fast.iter().cycle().take(samples as usize);
    lines.extend(answers.map(Value::to_string));
    let failed = json!({
        "gpu": LOST_GPU,
        "group": "fast",
        "failed": {"trouble": "gpu-lost", "reason": "device fell off the bus"},
    });
    lines.extend(std::iter::repeat_n(failed.to_string(), FAILURES));
    lines.join("\n")
}

/// Publishes, and notes every sample for those who compute it all again.
struct Counting<A> {
    bus: BusOutput<A>,
    samples: Vec<Vec<Sample>>,
    limit: usize,
    stop: Stop,
}

impl<A: FnMut() -> Result<Publisher, millpond_bus::Error>> Output for Counting<A> {
    fn event<T: EventLayout>(&mut self, name: &str, event: &T) {
        self.bus.event(name, event);
        let Some(gpu) = gpu_of(name) else { return };
        let schema = T::schema();
        let number = |field| schema.read_f64(field, event.as_bytes()).unwrap_or(f64::NAN);
        let numbers = schema.numeric_fields().map(number);
        self.samples[gpu].push(numbers.map(f64::to_bits).collect());
        // The last GPU of the last round.
        if gpu == GPUS - 1 && self.samples[gpu].len() == self.limit {
            self.stop.stop();
        }
    }

    fn state(&mut self, state: &State) {
        self.bus.state(state);
    }
}
