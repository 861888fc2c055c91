//! From counters to rates.

use std::collections::HashMap;

/// What was read before, with its time, and what of it becomes a rate.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Interval {
    /// 0 where there was no sample before.
    pub(super) ns: u64,
}

impl Interval {
    /// From the sample before, if there was one, to now.
    pub(super) fn since(before_ns: Option<u64>, now_ns: u64) -> Self {
        Interval {
            ns: before_ns.map_or(0, |before_ns| now_ns.saturating_sub(before_ns)),
        }
    }

    /// How fast a counter went up, per second; NaN where it went back or there was no sample before.
    pub(super) fn per_second(self, before: Option<u64>, now: u64) -> f64 {
        match growth(before, now) {
            Some(growth) if self.ns > 0 => growth as f64 * 1e9 / self.ns as f64,
            _ => f64::NAN,
        }
    }

    /// How much of the interval a counter of time took; NaN as above. Not above 1: the kernel counts in steps.
    pub(super) fn share(self, before_ns: Option<u64>, now_ns: u64) -> f64 {
        let share = self.times(before_ns, now_ns);
        // `min` would make 1 of NaN.
        if share > 1.0 { 1.0 } else { share }
    }

    /// As `share`, for what may take more time than there was, such as a process with threads.
    pub(super) fn times(self, before_ns: Option<u64>, now_ns: u64) -> f64 {
        self.per_second(before_ns, now_ns) / 1e9
    }
}

/// What a counter went up by; `None` where it went back, or there is nothing to compare with.
pub(super) fn growth(before: Option<u64>, now: u64) -> Option<u64> {
    now.checked_sub(before?)
}

/// What each thing's counters were, and when. Things that are not met in a round are forgotten at its end, so that
/// one that comes back begins anew, and nothing grows with the number of things that ever were.
#[derive(Debug)]
pub(super) struct Memory<K, C> {
    before: HashMap<K, (u64, C)>,
    now: HashMap<K, (u64, C)>,
}

impl<K, C> Default for Memory<K, C> {
    fn default() -> Self {
        Memory {
            before: HashMap::new(),
            now: HashMap::new(),
        }
    }
}

impl<K: std::hash::Hash + Eq, C: Copy> Memory<K, C> {
    /// Notes the counters of a thing, and returns those of the round before with the interval between the two.
    pub(super) fn replace(&mut self, key: K, now_ns: u64, counters: C) -> (Option<C>, Interval) {
        let before = self.before.get(&key).copied();
        self.now.insert(key, (now_ns, counters));
        let interval = Interval::since(before.map(|(ns, _)| ns), now_ns);
        (before.map(|(_, counters)| counters), interval)
    }

    /// The counters of the round before.
    pub(super) fn get(&self, key: &K) -> Option<C> {
        self.before.get(key).map(|&(_, counters)| counters)
    }

    /// Ends a round.
    pub(super) fn turn(&mut self) {
        std::mem::swap(&mut self.before, &mut self.now);
        self.now.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_and_a_counter_that_goes_up() {
        let first = Interval::since(None, 5);
        assert_eq!(first.ns, 0);
        assert!(first.per_second(None, 7).is_nan());
        let interval = Interval::since(Some(1_000_000_000), 3_000_000_000);
        assert_eq!(interval.per_second(Some(10), 40), 15.0);
        assert!(interval.per_second(Some(40), 10).is_nan());
        assert!(interval.per_second(None, 10).is_nan());
        // Two samples at one moment.
        assert!(Interval::since(Some(9), 9).per_second(Some(1), 2).is_nan());
        assert!(Interval::since(Some(9), 8).per_second(Some(1), 2).is_nan());
    }

    #[test]
    fn a_share_stays_at_one_and_a_process_with_threads_goes_above() {
        let interval = Interval { ns: 1_000_000_000 };
        assert_eq!(interval.share(Some(0), 250_000_000), 0.25);
        assert_eq!(interval.share(Some(0), 1_004_000_000), 1.0);
        assert_eq!(interval.times(Some(0), 2_000_000_000), 2.0);
        assert!(interval.share(Some(1), 0).is_nan());
    }

    #[test]
    fn what_is_away_for_a_round_begins_anew() {
        let mut memory = Memory::default();
        assert_eq!(memory.replace("sda", 1, 10).0, None);
        memory.turn();
        let (before, interval) = memory.replace("sda", 4, 11);
        assert_eq!((before, interval.ns), (Some(10), 3));
        memory.turn();
        memory.turn();
        assert_eq!(memory.replace("sda", 9, 12).0, None);
    }
}
