//! How a sink writes, rotates, seals and trims.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_logfile::check_service_name;

use crate::error::{Error, ErrorKind};

const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const GROUP_BYTES_MIN: usize = 64 << 10;
const GROUP_BYTES_MAX: usize = 64 << 20;
/// A service rotates at a quarter of its quota, and that is a segment.
const QUOTA_BYTES_MIN: u64 = 4 * SEGMENT_BYTES_MIN;
const SEAL_LEVEL_MIN: i32 = 1;
const SEAL_LEVEL_MAX: i32 = 19;
const LIVENESS_MIN: Duration = Duration::from_millis(100);
/// The floor where none is configured: this much, or a twentieth of the file system if that is less.
const KEEP_FREE_BYTES_MAX: u64 = 1 << 30;
const KEEP_FREE_SHARE: u64 = 20;

/// Parts of the cap over all services. Together they leave room for the text that is on its way and for a seal,
/// whatever is open: see `lifecycle`.
const CAP_PER_SEGMENT: u64 = 8;
const CAP_PER_GROUP: u64 = 32;
const CAP_PER_RESERVE: u64 = 128;
const QUOTA_PER_SEGMENT: u64 = 4;
/// A segment, and a group, have at most this part of the largest file that the process may write: the segment before
/// the last group, that group, one that a long line has made larger, and as much again for what it is sealed from.
const FILE_LIMIT_PARTS: u64 = 4;

/// When text is forced to the disk.
///
/// ```
/// assert_eq!(millpond_sink::SyncPolicy::default().to_string(), "interval 1s");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Left to the kernel.
    Never,
    /// At most this long after it was written.
    Interval(Duration),
    /// Before a group counts as written.
    Always,
}

impl Default for SyncPolicy {
    fn default() -> Self {
        SyncPolicy::Interval(Duration::from_secs(1))
    }
}

impl std::fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SyncPolicy::Never => f.write_str("never"),
            SyncPolicy::Interval(interval) => write!(f, "interval {interval:?}"),
            SyncPolicy::Always => f.write_str("always"),
        }
    }
}

/// Which way text goes to the files.
///
/// ```
/// assert_eq!(millpond_sink::BackendChoice::default(), millpond_sink::BackendChoice::Auto);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where the kernel lets us, else `pwrite`.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// `pwrite`.
    Pwrite,
}

/// Whether closed segments become seekable zstd.
///
/// ```
/// use millpond_sink::SealPolicy;
/// assert_eq!(SealPolicy::default(), SealPolicy::AfterRotation { level: 3 });
/// assert_eq!(SealPolicy::default().to_string(), "3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealPolicy {
    /// They stay text.
    Never,
    /// In the background, once the next segment of the service has begun.
    AfterRotation {
        /// Of zstd, 1 to 19: higher is smaller and slower.
        level: i32,
    },
}

impl Default for SealPolicy {
    fn default() -> Self {
        SealPolicy::AfterRotation { level: 3 }
    }
}

impl std::fmt::Display for SealPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SealPolicy::Never => f.write_str("never"),
            SealPolicy::AfterRotation { level } => write!(f, "{level}"),
        }
    }
}

/// What is different for one service; `None` is what [`Policy`] says for all.
///
/// ```
/// use millpond_sink::{Policy, ServicePolicy, SyncPolicy};
/// let orders = ServicePolicy { sync: Some(SyncPolicy::Always), ..ServicePolicy::default() };
/// let policy = Policy { services: [("orders".to_owned(), orders)].into(), ..Policy::default() };
/// assert!(policy.check().is_ok());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePolicy {
    /// When its text is forced to the disk.
    pub sync: Option<SyncPolicy>,
    /// Its segments are closed at this many bytes.
    pub segment_bytes_limit: Option<u64>,
    /// Its segments are closed at this age.
    pub segment_age_limit: Option<Duration>,
    /// Its quota: most bytes on the disk. Over it, this service pays before any other. At least 256 KiB.
    pub bytes_limit: Option<u64>,
    /// Most segments, the open one included.
    pub segments_limit: Option<u32>,
    /// Its closed segments whose last line is older go.
    pub retain_age_limit: Option<Duration>,
    /// How often it says that it is alive.
    pub liveness_interval: Option<Duration>,
}

/// What is in force for one service: its own policy over the common one, made to fit the cap over all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceLimits {
    pub(crate) sync: SyncPolicy,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Option<Duration>,
    pub(crate) bytes: Option<u64>,
    pub(crate) segments: Option<u32>,
    pub(crate) retain_age: Option<Duration>,
    pub(crate) liveness: Option<Duration>,
}

/// Everything about writing that can be chosen.
///
/// ```
/// use millpond_sink::{Policy, SyncPolicy};
/// let policy = Policy { sync: SyncPolicy::Always, ..Policy::default() };
/// assert!(policy.check().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When text is forced to the disk. Default: every second.
    pub sync: SyncPolicy,
    /// A segment that has grown to this many bytes is closed; earlier where that is more than an eighth of the
    /// limit over all, or a quarter of the service's. At least 64 KiB; default 64 MiB.
    pub segment_bytes_limit: u64,
    /// A segment this old is closed at its next line. Default: never.
    pub segment_age_limit: Option<Duration>,
    /// Most bytes that a service has on the disk, as its files occupy it: text or sealed text, index, filters.
    /// Beyond it closed segments go, oldest first. Default: no limit.
    pub service_bytes_limit: Option<u64>,
    /// Most segments of a service, the open one included. Default: no limit.
    pub service_segments_limit: Option<u32>,
    /// The same over all services, with what is reserved and what a seal may need; checked before each write, and
    /// never passed while there is a closed segment that may go. Default: 4 GiB.
    pub total_bytes_limit: Option<u64>,
    /// Closed segments whose last line is older go. Default: no limit.
    pub retain_age_limit: Option<Duration>,
    /// Closed segments go while the file system has less free than this. Default: 1 GiB, or 5 % of the file
    /// system where that is less.
    pub keep_free_bytes: Option<u64>,
    /// Whether closed segments are compressed. Default: at level 3.
    pub seal: SealPolicy,
    /// Every service gets a line `alive lines=N` this often. Default: never.
    pub liveness_interval: Option<Duration>,
    /// How long a reader that holds a shared `flock` on a segment's text keeps it from retention. Default: 10
    /// minutes.
    pub hold_limit: Duration,
    /// What is different for single services, by name.
    pub services: BTreeMap<String, ServicePolicy>,
    /// The longest a line waits in a buffer. Default: 50 ms.
    pub flush_delay: Duration,
    /// Text that one group holds at most, 64 KiB to 64 MiB. Three groups exist at a time, so the sink
    /// needs about six times this much memory in the worst case. Default: 4 MiB.
    pub group_bytes_limit: usize,
    /// Which way text goes to the files. Default: io_uring if possible.
    pub backend: BackendChoice,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            sync: SyncPolicy::default(),
            segment_bytes_limit: 64 << 20,
            segment_age_limit: None,
            service_bytes_limit: None,
            service_segments_limit: None,
            total_bytes_limit: Some(4 << 30),
            retain_age_limit: None,
            keep_free_bytes: None,
            seal: SealPolicy::default(),
            liveness_interval: None,
            hold_limit: Duration::from_secs(600),
            services: BTreeMap::new(),
            flush_delay: Duration::from_millis(50),
            group_bytes_limit: 4 << 20,
            backend: BackendChoice::Auto,
        }
    }
}

impl Policy {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// Names the value and the limit.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |message: String| Err(Error::new(ErrorKind::InvalidInput, message));
        let group = self.group_bytes_limit;
        if !(GROUP_BYTES_MIN..=GROUP_BYTES_MAX).contains(&group) {
            let range = format!("{GROUP_BYTES_MIN} to {GROUP_BYTES_MAX}");
            return wrong(format!("group-bytes {group} is outside {range}"));
        }
        let limits = [
            ("service-bytes", self.service_bytes_limit),
            ("total-bytes", self.total_bytes_limit),
        ];
        for (name, limit) in limits {
            if let Some(value) = limit.filter(|&value| value < self.segment_bytes_limit) {
                let segment = self.segment_bytes_limit;
                return wrong(format!(
                    "{name} {value} is below one segment of {segment} bytes"
                ));
            }
        }
        if let SealPolicy::AfterRotation { level } = self.seal
            && !(SEAL_LEVEL_MIN..=SEAL_LEVEL_MAX).contains(&level)
        {
            return wrong(format!(
                "seal {level} is outside {SEAL_LEVEL_MIN} to {SEAL_LEVEL_MAX}; use `never` for none"
            ));
        }
        let common = ServicePolicy {
            sync: Some(self.sync),
            segment_bytes_limit: Some(self.segment_bytes_limit),
            segment_age_limit: self.segment_age_limit,
            bytes_limit: None, // has a rule of its own, above
            segments_limit: self.service_segments_limit,
            retain_age_limit: self.retain_age_limit,
            liveness_interval: self.liveness_interval,
        };
        common.check().or_else(wrong)?;
        for (name, service) in &self.services {
            let check = || {
                check_service_name(name).map_or_else(|e| Err(e.to_string()), |()| service.check())
            };
            check().or_else(|why| wrong(format!("service {name:?}: {why}")))?;
        }
        Ok(())
    }

    /// What is in force for a service.
    pub(crate) fn limits_of(&self, service: &str) -> ServiceLimits {
        let nothing = ServicePolicy::default();
        let own = self.services.get(service).unwrap_or(&nothing);
        let bytes = own.bytes_limit.or(self.service_bytes_limit);
        let segment_bytes = own.segment_bytes_limit.unwrap_or(self.segment_bytes_limit);
        let part = |limit: Option<u64>, parts: u64| limit.map_or(u64::MAX, |limit| limit / parts);
        ServiceLimits {
            sync: own.sync.unwrap_or(self.sync),
            segment_bytes: segment_bytes
                .min(part(self.total_bytes_limit, CAP_PER_SEGMENT))
                .min(part(bytes, QUOTA_PER_SEGMENT)),
            segment_age: own.segment_age_limit.or(self.segment_age_limit),
            bytes,
            segments: own.segments_limit.or(self.service_segments_limit),
            retain_age: own.retain_age_limit.or(self.retain_age_limit),
            liveness: own.liveness_interval.or(self.liveness_interval),
        }
    }

    /// Made to fit a limit of this process on the size of files (`RLIMIT_FSIZE`): a segment and the groups on their way
    /// to it stay below, since the kernel ends a process that writes beyond it.
    pub(crate) fn within_file_limit(mut self, limit: u64) -> Result<Self, Error> {
        let part = limit / FILE_LIMIT_PARTS;
        if part < SEGMENT_BYTES_MIN {
            let least = SEGMENT_BYTES_MIN * FILE_LIMIT_PARTS;
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "files of this process may have {limit} bytes, and a log needs {least}: raise it with `ulimit -f`"
                ),
            ));
        }
        self.segment_bytes_limit = self.segment_bytes_limit.min(part);
        let group = usize::try_from(part).unwrap_or(usize::MAX);
        self.group_bytes_limit = self.group_bytes_limit.min(group);
        for service in self.services.values_mut() {
            service.segment_bytes_limit = service.segment_bytes_limit.map(|bytes| bytes.min(part));
        }
        Ok(self)
    }

    /// Text that one group holds, under the cap over all.
    pub(crate) fn effective_group_bytes(&self) -> usize {
        let part = self
            .total_bytes_limit
            .map_or(u64::MAX, |cap| cap / CAP_PER_GROUP);
        (self.group_bytes_limit).min(usize::try_from(part).unwrap_or(usize::MAX))
    }

    /// The most that is reserved ahead of the text of one segment.
    pub(crate) fn reserve_bytes_max(&self) -> u64 {
        self.total_bytes_limit
            .map_or(u64::MAX, |cap| cap / CAP_PER_RESERVE)
    }

    /// What open segments may have together before the largest is closed early.
    pub(crate) fn open_bytes_limit(&self) -> u64 {
        self.total_bytes_limit.map_or(u64::MAX, |cap| cap / 8 * 3)
    }

    /// The free space that is to be left on a file system of this size.
    pub(crate) fn keep_free_of(&self, file_system_bytes: u64) -> u64 {
        self.keep_free_bytes
            .unwrap_or((file_system_bytes / KEEP_FREE_SHARE).min(KEEP_FREE_BYTES_MAX))
    }
}

impl ServicePolicy {
    /// Checks every value that is given.
    fn check(&self) -> Result<(), String> {
        let least = |name: &str, value: Option<u64>, least: u64| match value {
            Some(value) if value < least => {
                Err(format!("{name} {value} is below the least of {least}"))
            }
            _ => Ok(()),
        };
        least("segment-bytes", self.segment_bytes_limit, SEGMENT_BYTES_MIN)?;
        least("quota-bytes", self.bytes_limit, QUOTA_BYTES_MIN)?;
        least("keep-segments", self.segments_limit.map(u64::from), 1)?;
        for (name, value) in [
            ("segment-age", self.segment_age_limit),
            ("keep-age", self.retain_age_limit),
        ] {
            if value.is_some_and(|value| value.is_zero()) {
                return Err(format!("{name} 0 is below the least of 1 ns"));
            }
        }
        if let Some(interval) = self.liveness_interval.filter(|&value| value < LIVENESS_MIN) {
            return Err(format!(
                "liveness {interval:?} is below the least of {LIVENESS_MIN:?}"
            ));
        }
        match self.sync {
            Some(SyncPolicy::Interval(interval)) if interval.is_zero() => {
                Err("sync interval 0 is below the least of 1 ms; use `always`".to_owned())
            }
            _ => Ok(()),
        }
    }
}
