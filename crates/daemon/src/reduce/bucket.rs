//! A token bucket on the time of records.

use super::settings::RateLimit;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Counts in billionths of a line, so that no rate is rounded.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    lines_per_s: u64,
    full: u64,
    left: u64,
    last_ns: u64,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(limit: RateLimit) -> Self {
        // A burst of none would let nothing through, ever.
        let full = u64::from(limit.burst_lines.max(1)) * NS_PER_SECOND;
        Bucket {
            lines_per_s: limit.lines_per_s.into(),
            full,
            left: full,
            last_ns: 0,
        }
    }

    /// Whether a line of this time is within the limit; if so, it is counted. A time before the last one adds
    /// nothing.
    pub(crate) fn take(&mut self, time_ns: u64) -> bool {
        self.refill(time_ns);
        let is_within = self.left >= NS_PER_SECOND;
        if is_within {
            self.left -= NS_PER_SECOND;
        }
        is_within
    }

    /// Counts a line that is written whatever the limit says.
    pub(crate) fn charge(&mut self, time_ns: u64) {
        self.refill(time_ns);
        self.left = self.left.saturating_sub(NS_PER_SECOND);
    }

    fn refill(&mut self, time_ns: u64) {
        let elapsed_ns = time_ns.saturating_sub(self.last_ns);
        self.last_ns = self.last_ns.max(time_ns);
        let gained = elapsed_ns.saturating_mul(self.lines_per_s);
        self.left = self.left.saturating_add(gained).min(self.full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(RateLimit {
            lines_per_s: 3,
            burst_lines: 5,
        });
        let second = NS_PER_SECOND;
        let at_once = (0..100).filter(|_| bucket.take(10 * second)).count();
        assert_eq!(at_once, 5);
        // Thirds of a second have no exact length in ns, and add up all the same.
        let in_ten_seconds = (0..=100_000)
            .filter(|step| bucket.take(10 * second + step * 100_000))
            .count();
        assert_eq!(in_ten_seconds, 30);
        assert!(!bucket.take(second), "a time long ago fills nothing");
    }
}
