//! What the consumer says of its own work: how large its groups are, how long writes and syncs take, what the disk has.
//!
//! It stands in shared memory, so that it is there while the consumer hangs and when it is dead, and the next one goes on
//! counting where the last one ended. The consumer is the only writer, and counts once for each group, sync and
//! consolidated record, never for an event: two loads and two stores each, in memory that is its own. Nothing is decided
//! by any of it, so every access is Relaxed: a reader may see a bucket without its sum, and a consumer that is killed
//! may not have counted its last group.

use crate::control::Control;
use crate::layout::{FiguresPage, HistogramLine, ServiceDiskSlot};
use crate::names;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Stands for `None` where a limit is stored.
const NO_LIMIT: u64 = u64::MAX;

/// Buckets of a [`Histogram`].
pub const HISTOGRAM_BUCKETS: usize = 47;

/// How often values of each magnitude were seen, in powers of two. Exact up to a factor of two, at a fixed size of
/// 392 bytes.
///
/// ```
/// use millpond_bus::Histogram;
/// let mut write_ns = Histogram::default();
/// for value in [900, 1_000, 1_100, 50_000_000] {
///     write_ns.add(value);
/// }
/// assert_eq!((write_ns.count, write_ns.sum), (4, 50_003_000));
/// // Between 512 and 2,048 ns is what is known of the middle.
/// assert!((512..=2_048).contains(&write_ns.percentile(50.0)));
/// assert!(write_ns.percentile(99.0) > 33_554_432);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// The first counts the values 0 and 1, number `i` those above `2^(i-1)` up to `2^i`, and the last everything above
    /// `2^45` (for ns, 9.8 hours).
    pub buckets: [u64; HISTOGRAM_BUCKETS],
    /// All values together.
    pub sum: u64,
    /// How many values: all buckets together.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: [0; HISTOGRAM_BUCKETS],
            sum: 0,
            count: 0,
        }
    }
}

/// The bucket that a value belongs to.
fn bucket_of(value: u64) -> usize {
    let bits = u64::BITS - value.saturating_sub(1).leading_zeros();
    (bits as usize).min(HISTOGRAM_BUCKETS - 1)
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        let bucket = &mut self.buckets[bucket_of(value)];
        *bucket = bucket.saturating_add(1);
        self.sum = self.sum.saturating_add(value);
        self.count = self.count.saturating_add(1);
    }

    /// The largest value of a bucket, itself included; `None` for the last one, which has no limit, and beyond.
    ///
    /// ```
    /// use millpond_bus::{HISTOGRAM_BUCKETS, Histogram};
    /// assert_eq!(Histogram::bound(0), Some(1));
    /// assert_eq!(Histogram::bound(10), Some(1_024));
    /// assert_eq!(Histogram::bound(HISTOGRAM_BUCKETS - 1), None);
    /// ```
    pub fn bound(bucket: usize) -> Option<u64> {
        (bucket < HISTOGRAM_BUCKETS - 1).then(|| 1 << bucket)
    }

    /// What was counted after `earlier`, a reading of the same histogram: what a second, or a minute, had.
    ///
    /// ```
    /// use millpond_bus::Histogram;
    /// let mut sync_ns = Histogram::default();
    /// sync_ns.add(3_000_000);
    /// let earlier = sync_ns.clone();
    /// sync_ns.add(70);
    /// assert_eq!(sync_ns.since(&earlier).count, 1);
    /// assert_eq!(sync_ns.since(&earlier).sum, 70);
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let of = |bucket: usize| self.buckets[bucket].saturating_sub(earlier.buckets[bucket]);
        let buckets = std::array::from_fn(of);
        Histogram {
            buckets,
            sum: self.sum.saturating_sub(earlier.sum),
            count: total(&buckets),
        }
    }

    /// The value that `percent` (0 to 100) of all values do not exceed, taken evenly over its bucket: at most a factor
    /// of two from the true one. 0 where nothing was counted.
    pub fn percentile(&self, percent: f64) -> u64 {
        let count = total(&self.buckets);
        let wanted = count as f64 * percent.clamp(0.0, 100.0) / 100.0;
        let mut below = 0.0;
        for (bucket, &here) in self.buckets.iter().enumerate() {
            let here = here as f64;
            if here > 0.0 && below + here >= wanted {
                let low = match bucket {
                    0 => 0,
                    _ => 1u64 << (bucket - 1),
                };
                // Above the last there is no limit to go towards.
                let high = Self::bound(bucket).unwrap_or(low);
                let part = ((wanted - below) / here).clamp(0.0, 1.0);
                return low + ((high - low) as f64 * part).round() as u64;
            }
            below += here;
        }
        0
    }

    /// The mean; 0 where nothing was counted.
    pub fn mean(&self) -> f64 {
        match self.count {
            0 => 0.0,
            count => self.sum as f64 / count as f64,
        }
    }
}

/// Others may have written any numbers.
fn total(buckets: &[u64; HISTOGRAM_BUCKETS]) -> u64 {
    (buckets.iter()).fold(0, |sum, &count| sum.saturating_add(count))
}

/// What the consumers of a bus did since it was made, and what the last one said of its process and its disk.
///
/// All of it is a consumer's word for people: what a hostile member of the bus writes there misleads readers, and does
/// nothing else.
///
/// ```
/// let figures = millpond_bus::ConsumerFigures::default();
/// assert_eq!(figures.group_events.count, 0);
/// assert!(figures.disk.is_none());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerFigures {
    /// Events that each group of the log made true: one commit for all services. Its count is that of the groups.
    pub group_events: Histogram,
    /// Text of each group, in bytes.
    pub group_bytes: Histogram,
    /// From the moment the writer took a group until its text was in the files, in ns: with every attempt, without
    /// syncs.
    pub write_ns: Histogram,
    /// Each sync, in ns: of a group that must be durable, or beside the writes. One counts for all the files in it.
    pub sync_ns: Histogram,
    /// The age of the oldest line of each group when it was committed, in ns: how long a line waits at most until
    /// readers of the log have it. Groups without a line are not counted.
    pub commit_delay_ns: Histogram,
    /// Events in each consolidated record that subscribers were handed.
    pub batch_events: Histogram,
    /// Processor time of the consumer's process, all of its threads, in ns; of the last one alone.
    pub cpu_ns: u64,
    /// Memory of the consumer's process that is resident, shared memory included; of the last one, 0 for unknown.
    pub memory_bytes: u64,
    /// What was done beside writing, and what failed.
    pub upkeep: UpkeepFigures,
    /// The disk and the limits on it; `None` until a consumer has said.
    pub disk: Option<DiskFigures>,
}

/// What is done for the log beside writing it, and what failed and was made again.
///
/// ```
/// assert_eq!(millpond_bus::UpkeepFigures::default().trimmed_bytes, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UpkeepFigures {
    /// Attempts to write, to sync or to remove that failed; each was made again.
    pub write_failures: u64,
    /// Attempts to compress a segment that failed; each is made again.
    pub seal_failures: u64,
    /// Segments that were compressed.
    pub sealed_segments: u64,
    /// Bytes of the disk that this gave back.
    pub sealed_saved_bytes: u64,
    /// Segments that retention removed.
    pub trimmed_segments: u64,
    /// Bytes of the disk that this gave back.
    pub trimmed_bytes: u64,
}

impl UpkeepFigures {
    /// What was added to `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &UpkeepFigures) -> UpkeepFigures {
        let of = |now: u64, before: u64| now.saturating_sub(before);
        UpkeepFigures {
            write_failures: of(self.write_failures, earlier.write_failures),
            seal_failures: of(self.seal_failures, earlier.seal_failures),
            sealed_segments: of(self.sealed_segments, earlier.sealed_segments),
            sealed_saved_bytes: of(self.sealed_saved_bytes, earlier.sealed_saved_bytes),
            trimmed_segments: of(self.trimmed_segments, earlier.trimmed_segments),
            trimmed_bytes: of(self.trimmed_bytes, earlier.trimmed_bytes),
        }
    }
}

/// What the log has of the disk, and what it may have.
///
/// ```
/// use millpond_bus::DiskFigures;
/// let disk = DiskFigures { bytes: 1 << 30, bytes_limit: Some(4 << 30), ..DiskFigures::default() };
/// assert_eq!(disk.part_used(), Some(0.25));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskFigures {
    /// When it was looked at, real time in ns. Once a second while something is written, else every 5 s.
    pub time_ns: u64,
    /// What the files of all services occupy, with what is reserved ahead of text and for a seal in progress: what
    /// counts against the limit.
    pub bytes: u64,
    /// The limit on that, `None` for none.
    pub bytes_limit: Option<u64>,
    /// Free space of the file system, for this user.
    pub free_bytes: u64,
    /// Closed segments go while there is less free than this.
    pub keep_free_bytes: u64,
    /// The file system altogether.
    pub file_system_bytes: u64,
    /// Segments with text that may not be on the disk yet.
    pub unsynced_segments: u64,
}

impl DiskFigures {
    /// Which part of the limit is used, 0 to 1 (above where nothing more may go); `None` without a limit.
    pub fn part_used(&self) -> Option<f64> {
        let limit = self.bytes_limit.filter(|&limit| limit > 0)?;
        Some(self.bytes as f64 / limit as f64)
    }
}

/// What one service has of the disk, and its own limits: see [`crate::ServiceStats::disk`].
///
/// ```
/// assert_eq!(millpond_bus::ServiceDisk::default().bytes_limit, None);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceDisk {
    /// What its files occupy.
    pub bytes: u64,
    /// Its quota, `None` for none: then the limit over all is the only one.
    pub bytes_limit: Option<u64>,
    /// Its segments that are there, the open one included.
    pub segments: u64,
    /// The most of them, `None` for no limit.
    pub segments_limit: Option<u64>,
    /// Closed segments whose last line is older go; `None` for no limit.
    pub age_limit_ns: Option<u64>,
}

/// One group of the log, for [`crate::Drain::count_group`].
///
/// ```
/// use millpond_bus::GroupFigures;
/// let group = GroupFigures { events: 40, bytes: 5_000, write_ns: 80_000, delay_ns: Some(50_000_000) };
/// assert!(group.delay_ns.is_some());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupFigures {
    /// Events that it made true.
    pub events: u64,
    /// Its text, in bytes.
    pub bytes: u64,
    /// What writing it took.
    pub write_ns: u64,
    /// The age of its oldest line now; `None` for a group without one.
    pub delay_ns: Option<u64>,
}

/// Adds to a number that the consumer alone counts.
fn count(word: &AtomicU64, more: u64) {
    // ORDERING: Relaxed, and a load and a store rather than one operation: there is one writer, nothing depends on the
    // order, and a reader may be a moment late. Others may have written any number.
    let now = word.load(Ordering::Relaxed);
    word.store(now.saturating_add(more), Ordering::Relaxed);
}

fn put(word: &AtomicU64, value: u64) {
    // ORDERING: Relaxed; as above.
    word.store(value, Ordering::Relaxed);
}

fn get(word: &AtomicU64) -> u64 {
    // ORDERING: Relaxed; as above.
    word.load(Ordering::Relaxed)
}

impl HistogramLine {
    fn add(&self, value: u64) {
        count(&self.buckets[bucket_of(value)], 1);
        count(&self.sum, value);
    }

    fn merge(&self, more: &Histogram) {
        for (bucket, &here) in self.buckets.iter().zip(&more.buckets) {
            if here > 0 {
                count(bucket, here);
            }
        }
        if more.sum > 0 {
            count(&self.sum, more.sum);
        }
    }

    fn load(&self) -> Histogram {
        let buckets = std::array::from_fn(|bucket| get(&self.buckets[bucket]));
        Histogram {
            buckets,
            sum: get(&self.sum),
            count: total(&buckets),
        }
    }
}

impl FiguresPage {
    pub(crate) fn count_group(&self, group: &GroupFigures) {
        self.group_events.add(group.events);
        self.group_bytes.add(group.bytes);
        self.write_ns.add(group.write_ns);
        if let Some(delay_ns) = group.delay_ns {
            self.commit_delay_ns.add(delay_ns);
        }
    }

    pub(crate) fn count_syncs(&self, syncs_ns: &Histogram) {
        self.sync_ns.merge(syncs_ns);
    }

    pub(crate) fn count_batch(&self, events: u64) {
        self.batch_events.add(events);
    }

    pub(crate) fn count_upkeep(&self, more: &UpkeepFigures) {
        count(&self.write_failures, more.write_failures);
        count(&self.seal_failures, more.seal_failures);
        count(&self.sealed_segments, more.sealed_segments);
        count(&self.sealed_saved_bytes, more.sealed_saved_bytes);
        count(&self.trimmed_segments, more.trimmed_segments);
        count(&self.trimmed_bytes, more.trimmed_bytes);
    }

    /// The process as it is now: two system calls and one short file.
    pub(crate) fn tell_process(&self) {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        put(&self.cpu_ns, ns_of(&used));
        put(&self.memory_bytes, resident_bytes().unwrap_or(0));
    }

    pub(crate) fn tell_disk(&self, disk: &DiskFigures) {
        put(&self.disk_bytes, disk.bytes);
        put(&self.disk_bytes_limit, disk.bytes_limit.unwrap_or(NO_LIMIT));
        put(&self.disk_free_bytes, disk.free_bytes);
        put(&self.disk_keep_free_bytes, disk.keep_free_bytes);
        put(&self.disk_file_system_bytes, disk.file_system_bytes);
        put(&self.disk_unsynced_segments, disk.unsynced_segments);
        // Last, for the first time: not 0 says that the others are there.
        // ORDERING: Release; pairs with the Acquire of `load_disk`.
        self.disk_time_ns.store(disk.time_ns, Ordering::Release);
    }

    fn load_disk(&self) -> Option<DiskFigures> {
        // ORDERING: Acquire; once it is not 0 the others have been stored.
        let time_ns = self.disk_time_ns.load(Ordering::Acquire);
        (time_ns != 0).then(|| DiskFigures {
            time_ns,
            bytes: get(&self.disk_bytes),
            bytes_limit: limit_of(&self.disk_bytes_limit),
            free_bytes: get(&self.disk_free_bytes),
            keep_free_bytes: get(&self.disk_keep_free_bytes),
            file_system_bytes: get(&self.disk_file_system_bytes),
            unsynced_segments: get(&self.disk_unsynced_segments),
        })
    }
}

impl ServiceDiskSlot {
    pub(crate) fn store(&self, name: &str, disk: &ServiceDisk) {
        let hash = names::hash(name);
        if get(&self.name_hash) != hash {
            // Until the rest is of this service, it is of none.
            put(&self.name_hash, 0);
        }
        put(&self.bytes, disk.bytes);
        put(&self.bytes_limit, disk.bytes_limit.unwrap_or(NO_LIMIT));
        put(&self.segments, disk.segments);
        put(
            &self.segments_limit,
            disk.segments_limit.unwrap_or(NO_LIMIT),
        );
        put(&self.age_limit_ns, disk.age_limit_ns.unwrap_or(NO_LIMIT));
        // ORDERING: Release; pairs with the Acquire of `read_service`.
        self.name_hash.store(hash, Ordering::Release);
    }
}

fn limit_of(word: &AtomicU64) -> Option<u64> {
    Some(get(word)).filter(|&limit| limit != NO_LIMIT)
}

/// Everything about the consumer. About 300 loads.
pub(crate) fn read(control: &Control) -> ConsumerFigures {
    let page = &control.figures;
    ConsumerFigures {
        group_events: page.group_events.load(),
        group_bytes: page.group_bytes.load(),
        write_ns: page.write_ns.load(),
        sync_ns: page.sync_ns.load(),
        commit_delay_ns: page.commit_delay_ns.load(),
        batch_events: page.batch_events.load(),
        cpu_ns: get(&page.cpu_ns),
        memory_bytes: get(&page.memory_bytes),
        upkeep: UpkeepFigures {
            write_failures: get(&page.write_failures),
            seal_failures: get(&page.seal_failures),
            sealed_segments: get(&page.sealed_segments),
            sealed_saved_bytes: get(&page.sealed_saved_bytes),
            trimmed_segments: get(&page.trimmed_segments),
            trimmed_bytes: get(&page.trimmed_bytes),
        },
        disk: page.load_disk(),
    }
}

/// What is told of the service in this slot of the commit point, if that slot's word is about this service.
pub(crate) fn read_service(control: &Control, slot: usize, name: &str) -> Option<ServiceDisk> {
    let place = control.service_disks.get(slot)?;
    // ORDERING: Acquire; what follows is of that service, or of the same one later.
    let is_told = place.name_hash.load(Ordering::Acquire) == names::hash(name);
    is_told.then(|| ServiceDisk {
        bytes: get(&place.bytes),
        bytes_limit: limit_of(&place.bytes_limit),
        segments: get(&place.segments),
        segments_limit: limit_of(&place.segments_limit),
        age_limit_ns: limit_of(&place.age_limit_ns),
    })
}

fn ns_of(time: &rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as u64)
}

/// Resident memory of this process; `None` where `/proc` does not say.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> HistogramLine {
        HistogramLine {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        }
    }

    #[test]
    fn a_value_is_in_the_bucket_whose_bound_is_the_first_not_below_it() {
        for value in [
            0,
            1,
            2,
            3,
            4,
            5,
            1023,
            1024,
            1025,
            1 << 45,
            (1 << 45) + 1,
            u64::MAX,
        ] {
            let bucket = bucket_of(value);
            assert!(Histogram::bound(bucket).is_none_or(|bound| value <= bound));
            if bucket > 0 {
                let below = Histogram::bound(bucket - 1).expect("not the last");
                assert!(value > below, "{value} is in bucket {bucket}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), HISTOGRAM_BUCKETS - 1);
        assert_eq!(bucket_of(0), 0);
    }

    /// Against the values themselves, sorted.
    #[test]
    fn percentiles_are_a_factor_of_two_from_the_true_ones_at_most() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut values: Vec<u64> = (0..1_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                2 + (state >> 33) % (1 << (state >> 60))
            })
            .collect();
        let mut histogram = Histogram::default();
        for &value in &values {
            histogram.add(value);
        }
        values.sort_unstable();
        for percent in [1, 10, 50, 90, 99, 100] {
            let truth = values[(percent * values.len() / 100).max(1) - 1];
            let told = histogram.percentile(percent as f64);
            assert!(
                told <= 2 * truth && truth <= 2 * told,
                "{percent} %: told {told}, true {truth}"
            );
        }
        assert_eq!(histogram.count, 1_000);
        assert_eq!(histogram.sum, values.iter().sum::<u64>());
        assert_eq!(Histogram::default().percentile(50.0), 0);
        // Nothing is known above the last bound, and nothing is made up.
        let mut beyond = Histogram::default();
        beyond.add(u64::MAX);
        assert_eq!(beyond.percentile(99.0), 1 << 45);
        assert_eq!(beyond.percentile(f64::NAN), 0);
    }

    #[test]
    fn what_is_merged_counts_as_what_is_added_one_by_one() {
        let (one_by_one, merged) = (line(), line());
        let mut collected = Histogram::default();
        for value in [0, 7, 7, 1 << 20, u64::MAX / 2] {
            one_by_one.add(value);
            collected.add(value);
        }
        merged.merge(&collected);
        assert_eq!(merged.load(), one_by_one.load());
        assert_eq!(merged.load(), collected);
    }

    /// Whoever may write to shared memory may write any numbers: they stay where they are, and nothing overflows.
    #[test]
    fn nonsense_saturates() {
        let spoilt = line();
        for bucket in &spoilt.buckets {
            put(bucket, u64::MAX);
        }
        put(&spoilt.sum, u64::MAX);
        spoilt.add(5);
        let told = spoilt.load();
        assert_eq!((told.count, told.sum), (u64::MAX, u64::MAX));
        for percent in [0.0, 50.0, 100.0] {
            assert!(told.percentile(percent) <= 1 << 45);
        }
        assert_eq!(told.since(&Histogram::default()).count, u64::MAX);
        assert_eq!(Histogram::default().since(&told), Histogram::default());
    }
}
