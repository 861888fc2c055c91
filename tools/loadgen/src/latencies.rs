//! Times, collected one by one and then put in order.

use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds. Keeps every one of them: 8 bytes each.
///
/// ```
/// use millpond_loadgen::Latencies;
/// let mut latencies = Latencies::default();
/// for ns in [30, 10, 20] {
///     latencies.record(ns);
/// }
/// let summary = latencies.summary();
/// assert_eq!((summary.count, summary.p50_ns, summary.max_ns), (3, 20, 30));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies {
    ns: Vec<u64>,
}

impl Latencies {
    /// Takes one in.
    pub fn record(&mut self, ns: u64) {
        self.ns.push(ns);
    }

    /// Takes in all that another one has.
    pub fn merge(&mut self, other: Latencies) {
        self.ns.extend(other.ns);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ns.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ns.is_empty()
    }

    /// Sorts a copy and reads it. All zero where there are none.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.ns.clone();
        sorted.sort_unstable();
        let count = sorted.len();
        // Nearest rank: the smallest one that at least so many are not above.
        let at = |per_mille: usize| {
            let rank = (count * per_mille).div_ceil(1000).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        let sum: u128 = sorted.iter().map(|&ns| u128::from(ns)).sum();
        Summary {
            count: count as u64,
            mean_ns: (sum / count.max(1) as u128) as u64,
            p50_ns: at(500),
            p99_ns: at(990),
            p999_ns: at(999),
            max_ns: at(1000),
        }
    }
}

/// What is told of latencies, in nanoseconds.
///
/// ```
/// assert_eq!(millpond_loadgen::Summary::default().count, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many were measured.
    pub count: u64,
    /// Their mean.
    pub mean_ns: u64,
    /// Half of them are not above this.
    pub p50_ns: u64,
    /// 99 of 100 are not above this.
    pub p99_ns: u64,
    /// 999 of 1,000 are not above this.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut latencies = Latencies::default();
        (1..=1000).rev().for_each(|ns| latencies.record(ns));
        let summary = latencies.summary();
        assert_eq!(
            summary,
            Summary {
                count: 1000,
                mean_ns: 500,
                p50_ns: 500,
                p99_ns: 990,
                p999_ns: 999,
                max_ns: 1000
            }
        );
    }

    #[test]
    fn none_and_one_are_summed_up_too() {
        assert_eq!(Latencies::default().summary(), Summary::default());
        let mut one = Latencies::default();
        one.record(7);
        let summary = one.summary();
        assert_eq!((summary.p50_ns, summary.p999_ns, summary.max_ns), (7, 7, 7));
    }
}
