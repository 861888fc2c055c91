//! How far a service's log is written, as its files alone tell.

use std::io;
use std::path::Path;

use memchr::memrchr;

use super::CommittedEnd;
use crate::error::{Error, ErrorKind};
use crate::name::{SegmentId, list_segments};
use crate::sealed::SegmentText;

/// Line ends are looked for in pieces of this size.
const PROBE_BYTES: u64 = 4 << 10;

/// Where the written text of a service ends: behind the last whole line of its newest segment. `None` where it has
/// no segment.
///
/// For readers without a bus, which alone knows what is *committed*: text that is written and not yet committed when
/// its daemon is killed is written once more by the next one, mostly the same and in the same place. How many
/// segments there ever were is not in the files either: `segments` is 0.
///
/// Opens one file and reads its end.
///
/// # Errors
/// The directory or its newest segment is there and cannot be read.
///
/// ```
/// # let logs = tempfile::tempdir()?;
/// # let dir = logs.path().join("web");
/// # std::fs::create_dir(&dir)?;
/// let id: millpond_logfile::SegmentId = "20261121T012953.000000000Z".parse()?;
/// std::fs::write(id.log_path(&dir), "2026-11-21T01:29:53.000000001Z INFO  rpc one\n2026-11-2")?;
/// let end = millpond_logfile::written_end(&dir)?.expect("there is a segment");
/// assert_eq!((end.segment_id, end.length_bytes), (id.as_ns(), 45));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn written_end(service_dir: &Path) -> Result<Option<CommittedEnd>, Error> {
    let segments = match list_segments(service_dir) {
        Ok(segments) => segments,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Retention may take what was just listed; it takes the oldest first.
    for &id in segments.iter().rev() {
        match whole_lines_end(service_dir, id) {
            Ok(length_bytes) => {
                return Ok(Some(CommittedEnd {
                    segment_id: id.as_ns(),
                    length_bytes,
                    segments: 0,
                }));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read", &id.log_path(service_dir), error)),
        }
    }
    Ok(None)
}

fn whole_lines_end(service_dir: &Path, id: SegmentId) -> io::Result<u64> {
    let text = SegmentText::open(service_dir, id)?;
    let mut end = text.length_bytes()?;
    let mut piece = [0; PROBE_BYTES as usize];
    while end > 0 {
        let start = end.saturating_sub(PROBE_BYTES);
        let piece = &mut piece[..(end - start) as usize];
        text.read_exact_at(piece, start)?;
        if let Some(at) = memrchr(b'\n', piece) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
