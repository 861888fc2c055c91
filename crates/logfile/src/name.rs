//! Names in a log directory: services, segments, and the link to the open one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::time::{format_time, parse_time};

/// The link to the open segment, for `tail -F`.
pub const CURRENT_LINK: &str = "current.log";
const SERVICE_BYTES_MAX: usize = 64;
/// Length of a segment id as text.
const ID_BYTES: usize = 26;

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
    pub const fn from_ns(time_ns: u64) -> Self {
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

    /// The segment's text in the directory of its service once it is sealed.
    pub fn sealed_path(self, service_dir: &Path) -> PathBuf {
        service_dir.join(format!("{self}.log.zst"))
    }

    /// The search filters of a sealed segment.
    pub fn filter_path(self, service_dir: &Path) -> PathBuf {
        service_dir.join(format!("{self}.filter"))
    }

    /// The id in a file name such as `ID.log` or `ID.log.zst`.
    pub fn of_text_file(file_name: &str) -> Option<Self> {
        Self::of_log_file(file_name.strip_suffix(".zst").unwrap_or(file_name))
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

/// A text that is no segment id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIdError {
    text: String,
}

impl fmt::Display for SegmentIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().take(80).collect();
        write!(
            f,
            "{shown:?} is no segment id: they look like 20261121T012953.123456789Z"
        )
    }
}

impl std::error::Error for SegmentIdError {}

impl std::str::FromStr for SegmentId {
    type Err = SegmentIdError;

    fn from_str(text: &str) -> Result<Self, SegmentIdError> {
        parse_id(text.as_bytes())
            .map(SegmentId)
            .ok_or_else(|| SegmentIdError { text: text.into() })
    }
}

/// An id is a time without its `-` and `:`.
fn parse_id(text: &[u8]) -> Option<u64> {
    let text: &[u8; ID_BYTES] = text.try_into().ok()?;
    let mut time = *b"....-..-..T..:..:............Z";
    for (to, from) in [(0, 0..4), (5, 4..6), (8, 6..11), (14, 11..13), (17, 13..26)] {
        time[to..to + from.len()].copy_from_slice(&text[from]);
    }
    parse_time(&time)
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

/// The segments of a service's directory, plain or sealed, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn list_segments(service_dir: &Path) -> Result<Vec<SegmentId>, Error> {
    let files = list_text_files(service_dir)?;
    Ok(files.into_iter().map(|file| file.id).collect())
}

/// The text of a segment, as the directory shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TextFile {
    pub(crate) id: SegmentId,
    /// Only the sealed form is there.
    pub(crate) is_sealed: bool,
}

/// As [`list_segments`], with the form of each.
pub(crate) fn list_text_files(service_dir: &Path) -> Result<Vec<TextFile>, Error> {
    let failed = |error| Error::io("read the service directory", service_dir, error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(service_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = SegmentId::of_text_file(name) {
            let is_sealed = !name.ends_with(".log");
            files.push(TextFile { id, is_sealed });
        }
    }
    files.sort_unstable();
    // While it is being sealed, or after a crash in that, a segment is there twice; the plain form comes first.
    files.dedup_by_key(|file| file.id);
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_as_text_and_as_numbers() {
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut ids: Vec<SegmentId> = (0..1000)
            .map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                SegmentId::from_ns(random)
            })
            .collect();
        ids.sort_unstable();
        let texts: Vec<String> = ids.iter().map(SegmentId::to_string).collect();
        assert!(texts.is_sorted());
        assert!(
            texts
                .iter()
                .zip(ids)
                .all(|(text, id)| text.parse() == Ok(id))
        );
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "current",
            "20261121T012953.123456789",
            "20261121T012953.123456789Z2",
            "20261121 012953.123456789Z",
            "20261321T012953.123456789Z",
            "20261121T012953.12345678\u{e9}",
        ] {
            assert!(text.parse::<SegmentId>().is_err(), "{text}");
        }
        assert_eq!(
            SegmentId::of_log_file("20261121T012953.123456789Z.idx"),
            None
        );
    }

    #[test]
    fn service_names_are_plain_directory_names() {
        let longest = "x".repeat(SERVICE_BYTES_MAX);
        for name in ["web", "a", "Web_1.eu-north", "-", "_", longest.as_str()] {
            assert_eq!(check_service_name(name), Ok(()), "{name}");
        }
        let too_long = "x".repeat(300);
        let bad = [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "a b",
            "a\0",
            "a\n",
            "caf\u{e9}",
            &too_long,
        ];
        for name in bad {
            let error = check_service_name(name).unwrap_err().to_string();
            assert!(
                error.contains(&format!("({} bytes)", name.len())),
                "{error}"
            );
            assert!(
                error.len() < 300 && error.is_ascii() | name.contains('\u{e9}'),
                "{error}"
            );
        }
    }
}
