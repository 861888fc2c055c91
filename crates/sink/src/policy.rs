//! How a sink writes, rotates and trims.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const GROUP_BYTES_MIN: usize = 64 << 10;
const GROUP_BYTES_MAX: usize = 64 << 20;

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
    /// A segment that has grown to this many bytes is closed. At least 64 KiB; default 64 MiB.
    pub segment_bytes_limit: u64,
    /// A segment this old is closed at its next line. Default: never.
    pub segment_age_limit: Option<Duration>,
    /// Closed segments of one service beyond this many bytes, open one included, go, oldest first. Default:
    /// no limit.
    pub service_bytes_limit: Option<u64>,
    /// The same over all services. Default: 4 GiB.
    pub total_bytes_limit: Option<u64>,
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
            total_bytes_limit: Some(4 << 30),
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
        if self.segment_bytes_limit < SEGMENT_BYTES_MIN {
            let value = self.segment_bytes_limit;
            return wrong(format!(
                "segment-bytes {value} is below the least of {SEGMENT_BYTES_MIN}"
            ));
        }
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
        if matches!(self.sync, SyncPolicy::Interval(interval) if interval.is_zero()) {
            return wrong("sync interval 0 is below the least of 1 ms; use `always`".to_owned());
        }
        Ok(())
    }
}
