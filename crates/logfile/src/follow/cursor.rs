//! Points in the log, and how they are written down.

use std::collections::BTreeMap;
use std::fmt;

use crate::name::{SegmentId, check_service_name};

/// A point in the log of one service.
///
/// ```
/// use millpond_logfile::{LogPosition, SegmentId};
/// let position: LogPosition = "20261121T012953.000000000Z+4096".parse()?;
/// assert_eq!(position.offset, 4096);
/// assert!(position > LogPosition { offset: 17, ..position });
/// # Ok::<(), millpond_logfile::CursorError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// The segment.
    pub segment_id: SegmentId,
    /// Bytes from its start; the start of a line.
    pub offset: u64,
    /// Where that is a `repeat` line: so many of the records that it counts are behind us. Else 0.
    pub records: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.segment_id, self.offset)?;
        match self.records {
            0 => Ok(()),
            records => write!(f, "+{records}"),
        }
    }
}

impl std::str::FromStr for LogPosition {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let (segment, rest) = text.split_once('+')?;
            let (offset, records) = rest.split_once('+').unwrap_or((rest, "0"));
            Some(LogPosition {
                segment_id: segment.parse().ok()?,
                offset: offset.parse().ok()?,
                records: records.parse().ok()?,
            })
        };
        parse().ok_or_else(|| CursorError::new(text))
    }
}

/// How far a service's log is committed, as whoever keeps the commit point knows it.
///
/// ```
/// let end = millpond_logfile::CommittedEnd { segment_id: 7, length_bytes: 45, segments: 1 };
/// assert_eq!(end.position().offset, 45);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedEnd {
    /// Id of the open segment, in ns.
    pub segment_id: u64,
    /// Bytes of it that are committed.
    pub length_bytes: u64,
    /// Segments that were ever opened, this one included: tells how many are gone.
    pub segments: u64,
}

impl CommittedEnd {
    /// The end as a point in the log.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            segment_id: SegmentId::from_ns(self.segment_id),
            offset: self.length_bytes,
            records: 0,
        }
    }
}

/// How far each of several services has been read. It survives rotation, a restart and a reboot; as text it is
/// one word without spaces.
///
/// ```
/// use millpond_logfile::Cursor;
/// let cursor: Cursor = "c1:0,web=20261121T012953.000000000Z+4096".parse()?;
/// assert_eq!(cursor.positions["web"].offset, 4096);
/// assert_eq!(cursor.to_string().parse(), Ok(cursor));
/// # Ok::<(), millpond_logfile::CursorError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Lines before this time are not wanted, in nanoseconds since 1970: a service without a position
    /// starts here.
    pub since_ns: u64,
    /// Where to go on, by service.
    pub positions: BTreeMap<String, LogPosition>,
}

const CURSOR_VERSION: &str = "c1:";

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CURSOR_VERSION}{}", self.since_ns)?;
        self.positions
            .iter()
            .try_for_each(|(service, position)| write!(f, ",{service}={position}"))
    }
}

impl std::str::FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let parse = || {
            let mut parts = text.strip_prefix(CURSOR_VERSION)?.split(',');
            let since_ns = parts.next()?.parse().ok()?;
            let mut positions = BTreeMap::new();
            for part in parts {
                let (service, position) = part.split_once('=')?;
                check_service_name(service).ok()?;
                positions.insert(service.to_owned(), position.parse().ok()?);
            }
            Some(Cursor {
                since_ns,
                positions,
            })
        };
        parse().ok_or_else(|| CursorError::new(text))
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorError {
    text: String,
}

impl CursorError {
    fn new(text: &str) -> Self {
        CursorError {
            text: text.chars().take(80).collect(),
        }
    }
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no log cursor: they look like c1:0,web=20261121T012953.123456789Z+4096",
            self.text
        )
    }
}

impl std::error::Error for CursorError {}
