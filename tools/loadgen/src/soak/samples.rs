//! What is looked at every second, and whether it stays as it is.

use std::fs;
use std::path::Path;

use millpond_bus::Stats;
use serde::Serialize;

use crate::disk;
use crate::error::Error;
use crate::watch::status_bytes;

/// One look.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// Since the start, in seconds.
    pub time_s: f64,
    /// Which consumer since the start; the numbers of its process are 0 while there is none.
    pub consumer: u64,
    /// Memory of its process that is its own.
    pub anonymous_bytes: u64,
    /// All of its memory that is in use, rings and file pages included.
    pub resident_bytes: u64,
    /// Open file handles of its process.
    pub handles: u64,
    /// Threads of its process.
    pub threads: u64,
    /// Objects of the bus in shared memory.
    pub objects: u64,
    /// Of these, rings that the consumer hands events on through: one for each rule at most, made when it is needed
    /// for the first time and there as long as the bus.
    pub outboxes: u64,
    /// Size of all objects.
    pub objects_bytes: u64,
    /// Committed by publishers and not yet released, over all lanes.
    pub lag_bytes: u64,
    /// Disk that the log takes.
    pub log_bytes: u64,
    /// Events published since the start.
    pub published: u64,
    /// Events dropped since the start.
    pub dropped: u64,
}

/// Names of the bus's objects, and their sizes.
pub(super) fn objects(bus: &str) -> Result<Vec<(String, u64)>, Error> {
    let prefix = format!("millpond.{bus}.");
    let mut found = Vec::new();
    for entry in fs::read_dir("/dev/shm")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // One that has gone meanwhile is none.
        if let (Some(object), Ok(metadata)) = (name.strip_prefix(&prefix), entry.metadata()) {
            found.push((object.to_owned(), metadata.len()));
        }
    }
    Ok(found)
}

impl Sample {
    /// Looks. `consumer_pid`: `None` while there is none.
    pub(super) fn take(
        time_s: f64,
        consumer: (u64, Option<u32>),
        stats: &Stats,
        logs_dir: &Path,
    ) -> Result<Self, Error> {
        let (consumer, pid) = consumer;
        let proc = |file: &str| pid.map(|pid| format!("/proc/{pid}/{file}"));
        let status = proc("status").and_then(|path| fs::read_to_string(path).ok());
        let status = status.unwrap_or_default();
        let handles = proc("fd").and_then(|path| Some(fs::read_dir(path).ok()?.count()));
        let threads = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
        let objects = objects(&stats.bus)?;
        Ok(Sample {
            time_s,
            consumer,
            anonymous_bytes: status_bytes(&status, "RssAnon:"),
            resident_bytes: status_bytes(&status, "VmRSS:"),
            handles: handles.unwrap_or_default() as u64,
            threads: threads.unwrap_or_default(),
            objects: objects.len() as u64,
            outboxes: objects
                .iter()
                .filter(|(name, _)| name.starts_with("outbox."))
                .count() as u64,
            objects_bytes: objects.iter().map(|(_, bytes)| bytes).sum(),
            lag_bytes: stats.lanes.iter().map(|lane| lane.lag_bytes).sum(),
            log_bytes: disk::used_bytes(logs_dir)?,
            published: stats.sources.iter().map(|source| source.published).sum(),
            dropped: stats
                .sources
                .iter()
                .map(|source| source.dropped.total())
                .sum(),
        })
    }
}

/// How one number went over the run. The first twentieth is left out: everything is still being made there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Course {
    /// What.
    pub name: String,
    /// Unit.
    pub unit: String,
    /// Median of the first tenth.
    pub first_tenth: f64,
    /// Median of the last tenth.
    pub last_tenth: f64,
    /// Median of the first quarter.
    pub first_quarter: f64,
    /// Median of the last quarter.
    pub last_quarter: f64,
    /// Least squares, per hour.
    pub slope_per_hour: f64,
    /// The lowest and the highest value.
    pub range: (f64, f64),
    /// How much the median of the last quarter may be above that of the first; `None`: told, not judged.
    pub growth_limit: Option<f64>,
}

impl Course {
    /// Of `(seconds, value)`, in order of time.
    pub(super) fn of(
        name: &str,
        unit: &str,
        growth_limit: Option<f64>,
        points: &[(f64, f64)],
    ) -> Self {
        let warm = &points[points.len() / 20..];
        let tenth = (warm.len() / 10).max(1).min(warm.len());
        let quarter = (warm.len() / 4).max(1).min(warm.len());
        let values = || warm.iter().map(|&(_, value)| value);
        let range = values().fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        Course {
            name: name.to_owned(),
            unit: unit.to_owned(),
            first_tenth: median(&warm[..tenth]),
            last_tenth: median(&warm[warm.len() - tenth..]),
            first_quarter: median(&warm[..quarter]),
            last_quarter: median(&warm[warm.len() - quarter..]),
            slope_per_hour: slope(warm) * 3600.0,
            range: if warm.is_empty() { (0.0, 0.0) } else { range },
            growth_limit,
        }
    }

    /// Whether it has not grown by more than it may.
    pub fn is_flat(&self) -> bool {
        self.growth_limit
            .is_none_or(|limit| self.last_quarter <= self.first_quarter + limit)
    }
}

fn median(points: &[(f64, f64)]) -> f64 {
    let mut values: Vec<f64> = points.iter().map(|&(_, value)| value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Units a second, by least squares; 0 for less than two times.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (time, value) = (mean(|point| point.0), mean(|point| point.1));
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), point| {
        let off = point.0 - time;
        (over + off * (point.1 - value), under + off * off)
    });
    if under > 0.0 { over / under } else { 0.0 }
}

/// The course that is compared with the number of rules.
pub(super) const OUTBOXES: &str = "outboxes";

/// The courses of what a leak would show in.
pub(super) fn courses(samples: &[Sample]) -> Vec<Course> {
    // A look while no consumer runs says nothing about its process.
    let alive = |of: &dyn Fn(&Sample) -> u64| -> Vec<(f64, f64)> {
        let samples = samples.iter().filter(|sample| sample.handles > 0);
        samples
            .map(|sample| (sample.time_s, of(sample) as f64))
            .collect()
    };
    let always = |of: &dyn Fn(&Sample) -> u64| -> Vec<(f64, f64)> {
        samples
            .iter()
            .map(|sample| (sample.time_s, of(sample) as f64))
            .collect()
    };
    let mib = |points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        let scaled = points.into_iter();
        scaled
            .map(|(time, bytes)| (time, bytes / f64::from(1 << 20)))
            .collect()
    };
    vec![
        Course::of(
            "memory of the consumer",
            "MiB",
            None,
            &mib(alive(&|sample| sample.anonymous_bytes)),
        ),
        Course::of(
            "resident memory of the consumer",
            "MiB",
            None,
            &mib(alive(&|sample| sample.resident_bytes)),
        ),
        Course::of(
            "file handles of the consumer",
            "",
            // Two for the outbox of each of the three rules that subscribers read directly: opened when the first of
            // their lanes goes, be that early in a consumer's life or late.
            Some(6.0),
            &alive(&|sample| sample.handles),
        ),
        Course::of(
            "threads of the consumer",
            "",
            Some(2.0),
            &alive(&|sample| sample.threads),
        ),
        Course::of(
            "objects in shared memory",
            "",
            None,
            &always(&|sample| sample.objects),
        ),
        Course::of(
            "objects that are no outbox",
            "",
            Some(2.0),
            &always(&|sample| sample.objects.saturating_sub(sample.outboxes)),
        ),
        Course::of(OUTBOXES, "", None, &always(&|sample| sample.outboxes)),
        Course::of(
            "bytes of these objects",
            "MiB",
            None,
            &mib(always(&|sample| sample.objects_bytes)),
        ),
        Course::of(
            "lag over all lanes",
            "MiB",
            None,
            &mib(always(&|sample| sample.lag_bytes)),
        ),
        Course::of(
            "disk of the log",
            "MiB",
            None,
            &mib(always(&|sample| sample.log_bytes)),
        ),
    ]
}

/// The course of memory within the consumer that lived longest.
pub(super) fn longest_life(samples: &[Sample]) -> Option<(u64, Course)> {
    let alive = || samples.iter().filter(|sample| sample.handles > 0);
    let mut lives = std::collections::BTreeMap::<u64, Vec<(f64, f64)>>::new();
    for sample in alive() {
        let mib = sample.anonymous_bytes as f64 / f64::from(1 << 20);
        lives
            .entry(sample.consumer)
            .or_default()
            .push((sample.time_s, mib));
    }
    let (_, points) = lives.into_iter().max_by_key(|(_, points)| points.len())?;
    let lived_s = points.last()?.0 - points.first()?.0;
    let course = Course::of("memory of the longest consumer", "MiB", None, &points);
    Some((lived_s as u64, course))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_noise() {
        let points = |of: &dyn Fn(u64) -> f64| -> Vec<_> {
            (0..400).map(|time| (time as f64, of(time))).collect()
        };
        let noise = Course::of("n", "", Some(2.0), &points(&|time| (time % 5) as f64));
        assert!(
            noise.is_flat() && noise.slope_per_hour.abs() < 10.0,
            "{noise:?}"
        );
        let leak = Course::of("n", "", Some(2.0), &points(&|time| time as f64 / 20.0));
        assert!(!leak.is_flat(), "{leak:?}");
        assert!((leak.slope_per_hour - 180.0).abs() < 1e-6, "{leak:?}");
        let nothing = Course::of("n", "", Some(2.0), &[]);
        assert!(nothing.is_flat() && nothing.range == (0.0, 0.0));
    }
}
