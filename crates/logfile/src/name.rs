//! Names in a log directory: services, segments, and the link to the open one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::time::{format_time, parse_time};

/// The link to the open segment, for `tail -F`.
pub const CURRENT_LINK: &str = "current.log";
const SERVICE_BYTES_MAX: usize = 64;

/// Why a text cannot name a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceNameError {
    name: String,
}

impl fmt::Display for ServiceNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.name.chars().take(80).collect();
        write!(
            f,
            "service name {shown:?} ({} bytes) cannot be used: 1 to {SERVICE_BYTES_MAX} characters out of \
             letters, digits, `.`, `_` and `-`, not starting with `.`",
            self.name.len()
        )
    }
}

impl std::error::Error for ServiceNameError {}

/// Checks a service name: it becomes a directory.
///
/// # Errors
/// Names the name and the rule.
///
/// ```
/// use millpond_logfile::check_service_name;
/// assert!(check_service_name("web-1.eu").is_ok());
/// assert!(check_service_name("../etc").is_err());
/// ```
pub fn check_service_name(name: &str) -> Result<(), ServiceNameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fine = (1..=SERVICE_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('.');
    if fine {
        Ok(())
    } else {
        Err(ServiceNameError {
            name: name.to_owned(),
        })
    }
}

/// The id of a segment: the time it was opened, in nanoseconds. Sorts by time, never reused in a service.
///
/// ```
/// use millpond_logfile::SegmentId;
/// let id = SegmentId::from_ns(1_795_224_593_123_456_789);
/// assert_eq!(id.to_string(), "20261121T012953.123456789Z");
/// assert_eq!("20261121T012953.123456789Z".parse(), Ok(id));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u64);

impl SegmentId {
    /// The segment opened at this time.
    pub fn from_ns(time_ns: u64) -> Self {
        SegmentId(time_ns)
    }

    /// The time, in nanoseconds since 1970.
    pub fn as_ns(self) -> u64 {
        self.0
    }

    /// The segment's text file in the directory of its service.
    pub fn log_path(self, service_dir: &Path) -> PathBuf {
        service_dir.join(format!("{self}.log"))
    }

    /// The segment's index in the directory of its service.
    pub fn index_path(self, service_dir: &Path) -> PathBuf {
        service_dir.join(format!("{self}.idx"))
    }

    /// The id in a file name such as `ID.log`.
    pub fn of_log_file(file_name: &str) -> Option<Self> {
        file_name.strip_suffix(".log")?.parse().ok()
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = format_time(self.0);
        let digits = time.iter().filter(|&&byte| byte != b'-' && byte != b':');
        digits
            .map(|&byte| char::from(byte))
            .try_for_each(|character| write!(f, "{character}"))
    }
}

impl std::str::FromStr for SegmentId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 26 || !text.is_ascii() {
            return Err(());
        }
        let time = format!(
            "{}-{}-{}:{}:{}",
            &text[0..4],
            &text[4..6],
            &text[6..11],
            &text[11..13],
            &text[13..]
        );
        parse_time(time.as_bytes()).map(SegmentId).ok_or(())
    }
}

/// The services of a log directory, sorted by name. What is no service's directory is left out.
///
/// # Errors
/// The directory cannot be read.
pub fn list_services(logs_dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |error| Error::io("read the log directory", logs_dir, error);
    let mut services = Vec::new();
    for entry in std::fs::read_dir(logs_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let Ok(name) = entry.file_name().into_string()
            && is_dir
            && check_service_name(&name).is_ok()
        {
            services.push(name);
        }
    }
    services.sort_unstable();
    Ok(services)
}

/// The segments of a service's directory, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn list_segments(service_dir: &Path) -> Result<Vec<SegmentId>, Error> {
    let failed = |error| Error::io("read the service directory", service_dir, error);
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(service_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(id) = entry.file_name().to_str().and_then(SegmentId::of_log_file) {
            segments.push(id);
        }
    }
    segments.sort_unstable();
    Ok(segments)
}
