//! The same numbers a second time: of records from the samples, and of samples from the file. Nothing of what is tested
//! takes part.

use serde_json::Value;

use super::play::Record;

/// Two means may be summed in another order.
const MEAN_SLACK: f64 = 1e-9;

/// One sample as it was published: the bits of its numbers in the order of its fields.
pub(super) type Sample = Vec<u64>;

/// What of `record` is not as the samples it stands for have it; how many numbers were looked at.
pub(super) fn check(
    record: &Record,
    samples: &[Sample],
    names: &[String],
    wrong: &mut Vec<String>,
) -> u64 {
    let mut checked = 1;
    let mut differ = |what: &str, field: &str, found: f64, expected: f64, slack: f64| {
        checked += 1;
        let same = match expected.is_nan() {
            true => found.is_nan(),
            false => (found - expected).abs() <= slack * expected.abs(),
        };
        if !same {
            let gpu = record.gpu;
            wrong.push(format!(
                "GPU {gpu}: {what} of {field} is {found}, expected {expected}"
            ));
        }
    };
    if record.fields.len() != names.len() {
        differ(
            "number of fields",
            "all",
            record.fields.len() as f64,
            names.len() as f64,
            0.0,
        );
        return checked;
    }
    for (place, name) in names.iter().enumerate() {
        let all: Vec<f64> = samples
            .iter()
            .map(|sample| f64::from_bits(sample[place]))
            .collect();
        let numbers: Vec<f64> = all
            .iter()
            .copied()
            .filter(|number| !number.is_nan())
            .collect();
        let fold = |pick: fn(f64, f64) -> f64| numbers.iter().copied().reduce(pick);
        let [min, max, mean, last] = record.fields[place].map(f64::from_bits);
        differ("min", name, min, fold(f64::min).unwrap_or(f64::NAN), 0.0);
        differ("max", name, max, fold(f64::max).unwrap_or(f64::NAN), 0.0);
        let sum: f64 = numbers.iter().sum();
        differ("mean", name, mean, sum / numbers.len() as f64, MEAN_SLACK);
        differ(
            "last",
            name,
            last,
            all.last().copied().unwrap_or(f64::NAN),
            0.0,
        );
    }
    checked
}

/// The lines of the file that say what the fast group of a GPU is, in order.
pub(super) fn fast_of_file(text: &str, gpu: usize) -> Vec<Value> {
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["gpu"] == gpu && line["group"] == "fast")
        .collect()
}

/// Samples whose numbers of the fast group are not those of the file, which is played from its start, over and over.
pub(super) fn unlike_the_file(samples: &[Sample], names: &[String], lines: &[Value]) -> u64 {
    let unlike = |(number, sample): &(usize, &Sample)| {
        let Some(readings) = lines[number % lines.len()]["readings"].as_object() else {
            return true;
        };
        readings.iter().any(|(name, value)| {
            let place = names.iter().position(|known| known == name);
            let found = place.map(|place| f64::from_bits(sample[place]));
            found != value.as_f64()
        })
    };
    samples.iter().enumerate().filter(unlike).count() as u64
}
