//! The last minutes: sums, rates, a picture of them, and who was the loudest.

use std::time::Duration;

use millpond_bus::{History, Interval, LaneStats, Stats, sum_since};

use super::format_duration;

/// How far back a question goes when nobody says.
pub const WINDOW_DEFAULT: Duration = Duration::from_secs(600);
/// Blocks in a picture.
const SPARKS_MAX: u64 = 30;

/// A stretch of the history that ends now.
///
/// ```
/// use std::time::Duration;
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::report::Window;
/// let bus = Bus::attach(&format!("doc-window-{}", std::process::id()), &BusOptions::default())?;
/// let window = Window::of(&bus.history(), Duration::from_secs(60));
/// assert!(window.seconds >= 1.0 && window.per_second(0) == 0.0);
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
#[derive(Debug)]
pub struct Window {
    /// Where it begins, real time in ns.
    pub since_ns: u64,
    /// As long as it is, or as long as there is anything in it: what rates are by.
    pub seconds: f64,
    interval_ns: u64,
    time_ns: u64,
}

impl Window {
    /// The last `since` of the history.
    pub fn of(history: &History, since: Duration) -> Self {
        let length_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let asked_ns = history.time_ns.saturating_sub(length_ns);
        let sources = history.sources.iter().flat_map(|source| &source.intervals);
        let services = history
            .services
            .iter()
            .flat_map(|service| &service.intervals);
        let oldest_ns = sources
            .chain(services)
            .map(|interval| interval.start_ns)
            .min();
        let since_ns = asked_ns
            .max(oldest_ns.unwrap_or(asked_ns))
            .min(history.time_ns);
        // The first interval counts as a whole.
        let start_ns = since_ns - since_ns % history.interval_ns;
        let length_ns = history.time_ns.saturating_sub(start_ns).max(1_000_000_000);
        Window {
            since_ns: asked_ns,
            seconds: length_ns as f64 / 1e9,
            interval_ns: history.interval_ns,
            time_ns: history.time_ns,
        }
    }

    /// Whether any of the interval lies in it.
    pub fn holds(&self, interval: &Interval) -> bool {
        interval.start_ns + self.interval_ns > self.since_ns
    }

    /// So many in all of it, as a rate.
    pub fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }

    /// A row of blocks, oldest first, each as high as what `of` says of its part of the window, the highest full.
    pub fn sparkline(&self, intervals: &[Interval], of: fn(&Interval) -> u64) -> String {
        let first = self.since_ns / self.interval_ns;
        let parts = (self.time_ns / self.interval_ns).saturating_sub(first) + 1;
        let width = parts.div_ceil(SPARKS_MAX);
        let mut sums = vec![0u64; parts.div_ceil(width) as usize];
        for interval in intervals.iter().filter(|interval| self.holds(interval)) {
            let part = (interval.start_ns / self.interval_ns).saturating_sub(first) / width;
            if let Some(sum) = sums.get_mut(part as usize) {
                *sum = sum.saturating_add(of(interval));
            }
        }
        let highest = sums.iter().copied().max().unwrap_or(0);
        sums.iter().map(|&sum| block(sum, highest)).collect()
    }
}

fn block(value: u64, highest: u64) -> char {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if value == 0 || highest == 0 {
        return ' ';
    }
    let height = (value as f64 / highest as f64 * 8.0).ceil() as usize;
    BLOCKS[height.clamp(1, 8) - 1]
}

/// The source that published most while something was lost or held back.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::report::Loudest;
/// let bus = Bus::attach(&format!("doc-loudest-{}", std::process::id()), &BusOptions::default())?;
/// let loudest = Loudest::find(&bus.stats(), &bus.history(), None);
/// assert!(loudest.is_none(), "nothing was lost");
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
#[derive(Debug)]
pub struct Loudest {
    /// Its place in [`Stats::sources`].
    pub source: usize,
    /// What it did in that time.
    pub sum: Interval,
    /// What all sources published in that time, in events.
    pub published_by_all: u64,
    /// `in the last 10m`
    pub window: String,
}

impl Loudest {
    /// `None` where nothing was lost and nothing is behind. Looks at the window that was asked for; else at the
    /// last ten minutes, then at all that is kept, then at everything ever counted, until there is a loss in it.
    pub fn find(stats: &Stats, history: &History, since: Option<Duration>) -> Option<Self> {
        let is_behind = stats.lanes.iter().any(is_behind);
        let within = |length: Duration| -> Vec<Interval> {
            let window = Window::of(history, length);
            let sources = history.sources.iter();
            let sums = sources.map(|source| sum_since(&source.intervals, window.since_ns));
            sums.collect()
        };
        let recent = since.unwrap_or(WINDOW_DEFAULT);
        let sums = within(recent);
        if is_behind || sums.iter().any(is_loss) {
            let window = format!("in the last {}", format_duration(recent));
            return Self::of(&sums, window);
        }
        if since.is_some() {
            return None;
        }
        let sums = within(Duration::MAX);
        if sums.iter().any(is_loss) {
            return Self::of(&sums, "in the history".to_owned());
        }
        let ever = |source: &millpond_bus::SourceStats| Interval {
            published: source.published,
            rejected: source.rejected,
            dropped: source.dropped.total(),
            suppressed: source.suppressed,
            ..Interval::default()
        };
        let sums: Vec<Interval> = stats.sources.iter().map(ever).collect();
        sums.iter()
            .any(is_loss)
            .then(|| Self::of(&sums, "since the bus was made".to_owned()))
            .flatten()
    }

    fn of(sums: &[Interval], window: String) -> Option<Self> {
        let loudest = sums.iter().enumerate();
        let (source, sum) = loudest.max_by_key(|(_, sum)| (sum.published, sum.dropped))?;
        Some(Loudest {
            source,
            sum: *sum,
            published_by_all: sums
                .iter()
                .fold(0, |all, sum| all.saturating_add(sum.published)),
            window,
        })
    }
}

/// More than half of its lane waits: soon there is no room.
pub fn is_behind(lane: &LaneStats) -> bool {
    !lane.quarantined && lane.lag_bytes > lane.capacity_bytes / 2
}

fn is_loss(sum: &Interval) -> bool {
    sum.dropped > 0 || sum.rejected > 0 || sum.suppressed > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(intervals: Vec<Interval>) -> History {
        History {
            time_ns: 1_000 * 10_000_000_000 + 5,
            interval_ns: 10_000_000_000,
            sources: vec![millpond_bus::SourceHistory {
                label: "a".to_owned(),
                pattern: "*".to_owned(),
                intervals,
            }],
            services: Vec::new(),
        }
    }

    #[test]
    fn a_picture_has_a_block_for_each_part_and_the_highest_is_full() {
        let at = |number: u64, published| Interval {
            start_ns: number * 10_000_000_000,
            published,
            ..Interval::default()
        };
        let intervals = vec![at(900, 77), at(996, 1), at(998, 4), at(1000, 8)];
        let history = history(intervals.clone());
        let window = Window::of(&history, Duration::from_secs(50));
        let picture = window.sparkline(&intervals, |interval| interval.published);
        assert_eq!(picture, " ▁ ▄ █");
        assert_eq!(sum_since(&intervals, window.since_ns).published, 13);
        let hour = Window::of(&history, Duration::from_secs(3600));
        let picture = hour.sparkline(&intervals, |interval| interval.published);
        assert_eq!(picture.chars().count(), 28);
        assert_eq!(hour.seconds.round(), 1000.0);
    }
}
