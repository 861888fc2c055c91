//! The latest sample of each GPU, out of shared memory.

use std::collections::BTreeMap;

use millpond_bus::{Bus, Event, Pattern, Since, Stats, SubscribeOptions, Subscription};

use super::table::clean;
use crate::commands::explain::carrying;
use crate::conditions::Schemas;

/// Samples of GPUs, by the names that `millpond telemetry` publishes them under.
const SAMPLES: &str = "gpu:*:sample";
/// More of them are no GPUs of one host.
const GPUS_MAX: usize = 256;

/// What is known of one GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Gpu {
    /// Its part of the event's name.
    pub(super) index: String,
    /// The label of who samples it.
    pub(super) source: String,
    /// When the sample was published, real time in ns.
    pub(super) time_ns: u64,
    /// Nothing came for a while, by the word of the daemon.
    pub(super) is_stale: bool,
    /// Numbers by the names of the schema's fields; of an aggregate the last ones.
    pub(super) fields: BTreeMap<String, f64>,
}

impl Gpu {
    /// The field of this name, where it is there and a number: what a GPU does not have is none.
    pub(super) fn field(&self, name: &str) -> Option<f64> {
        let number = self.fields.get(name).copied();
        number.filter(|number| number.is_finite())
    }
}

/// Reads along with the samples of a bus, once there are any.
#[derive(Default)]
pub(super) struct Gpus {
    reading: Option<(Subscription, Schemas)>,
    latest: BTreeMap<String, Gpu>,
}

impl Gpus {
    /// What there is now. Nobody waits for us, and nobody is asked: what the daemon has consolidated, or publishers
    /// have published under a rule without it, is in memory.
    pub(super) fn read(&mut self, bus: &Bus, stats: &Stats) -> Vec<Gpu> {
        if self.reading.is_none()
            && let Ok(pattern) = SAMPLES.parse::<Pattern>()
            && has_samples(bus, stats, &pattern)
        {
            let options = SubscribeOptions {
                since: Since::Oldest,
                ..SubscribeOptions::new("top", pattern)
            };
            // Where every place is taken there are no rows, and all the rest.
            let subscription = bus.subscribe(options).ok();
            self.reading = subscription.map(|subscription| (subscription, Schemas::new(bus)));
        }
        let Some((subscription, schemas)) = &mut self.reading else {
            return Vec::new();
        };
        let latest = &mut self.latest;
        let mut take = |event: &Event<'_>| {
            if let Some(gpu) = parse(event, schemas)
                && (latest.len() < GPUS_MAX || latest.contains_key(&gpu.index))
            {
                latest.insert(gpu.index.clone(), gpu);
            }
        };
        // A bus that is damaged is told by whoever reads its statistics.
        let _ = subscription.poll(&mut take);
        let mut gpus: Vec<Gpu> = latest.values().cloned().collect();
        gpus.sort_by_key(|gpu| {
            (
                gpu.index.parse::<u64>().unwrap_or(u64::MAX),
                gpu.index.clone(),
            )
        });
        gpus
    }
}

/// Whether somebody has published under a rule that carries them. Without a publisher there is nothing to read, and no
/// reason to be counted among the subscribers.
fn has_samples(bus: &Bus, stats: &Stats, pattern: &Pattern) -> bool {
    let Ok(rules) = bus.rules() else {
        return false;
    };
    let carrying = carrying(&rules, pattern);
    let mut sources = stats.sources.iter();
    sources.any(|source| {
        let mut rules = carrying.iter();
        rules.any(|rule| rule.pattern.as_str() == source.pattern)
    })
}

fn parse(event: &Event<'_>, schemas: &mut Schemas) -> Option<Gpu> {
    let schema = schemas.of(event)?;
    let index = event.name.strip_prefix("gpu:")?.strip_suffix(":sample")?;
    let mut gpu = Gpu {
        index: clean(index),
        source: clean(event.source),
        time_ns: event.time_ns,
        ..Gpu::default()
    };
    match event.aggregate() {
        Some(view) => {
            gpu.is_stale = view.stale();
            let fields = schema.numeric_fields().zip(view.fields());
            gpu.fields
                .extend(fields.map(|(field, of)| (clean(&field.name), of.last)));
        }
        None => {
            let read = |field: &millpond_bus::Field| {
                let number = schema.read_f64(field, event.payload)?;
                Some((clean(&field.name), number))
            };
            gpu.fields.extend(schema.numeric_fields().filter_map(read));
        }
    }
    Some(gpu)
}
