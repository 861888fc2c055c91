//! The segments of a service that a query may have to look at, as runs of candidate text.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Query;
use crate::error::{Damage, Error, ErrorKind};
use crate::index::{IndexEntry, read_index};
use crate::level::Level;
use crate::name::{SegmentId, list_segments};

/// Candidate blocks that follow each other are read together up to this size.
pub(super) const RUN_BYTES: u64 = 256 << 10;

/// A service and its segments, oldest first.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) segments: Vec<Segment>,
}

/// One segment as it stood when the query began.
pub(super) struct Segment {
    pub(super) id: SegmentId,
    pub(super) path: PathBuf,
    file: File,
    /// Blocks of the index that may hold matches, in file order.
    pub(super) blocks: Vec<IndexEntry>,
    /// Text behind the index.
    pub(super) rest: Option<Run>,
}

/// A stretch of whole lines in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) length: u64,
    /// The checksum, where the run is one block of the index.
    pub(super) crc: Option<u32>,
}

impl Service {
    pub(super) fn open(
        name: String,
        dir: &Path,
        query: &Query,
        damage: &mut Vec<Damage>,
    ) -> Result<Self, Error> {
        let mut segments = Vec::new();
        let ids = match list_segments(dir) {
            Ok(ids) => ids,
            // Removed while we were looking.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let last = ids.last().copied();
        for id in ids {
            // A segment holds nothing from before it was opened but what was in flight; the index is asked
            // for the rest.
            if let Some(segment) = Segment::open(dir, id, Some(id) == last, query, damage)? {
                segments.push(segment);
            }
        }
        Ok(Service { name, segments })
    }
}

impl Segment {
    /// `None` where retention has removed it meanwhile.
    fn open(
        dir: &Path,
        id: SegmentId,
        is_last: bool,
        query: &Query,
        damage: &mut Vec<Damage>,
    ) -> Result<Option<Self>, Error> {
        let path = id.log_path(dir);
        let mut index = read_index(&id.index_path(dir), Some(id))?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let length = file
            .metadata()
            .map_err(|error| Error::io("stat", &path, error))?
            .len();
        damage.extend(index.damage.take());
        let indexed = index.covered_bytes();
        if !index.cut(length) {
            damage.push(Damage {
                path: id.index_path(dir),
                offset: 0,
                what: "text covered by the index",
                expected: format!("at most {length} bytes"),
                found: format!("{indexed} bytes"),
            });
        }
        let mut segment = Segment {
            id,
            path,
            file,
            blocks: Vec::new(),
            rest: None,
        };
        segment.drop_index_of_other_text(&mut index.entries, damage)?;
        let covered = index.entries.last().map_or(0, IndexEntry::end);
        if length > covered {
            segment.rest =
                segment.whole_lines(covered, length, is_last && !index.closed, damage)?;
        }
        index.entries.retain(|entry| may_match(entry, query));
        segment.blocks = index.entries;
        Ok(Some(segment))
    }

    /// An index whose last block is not what the text says belongs to another text: better none.
    fn drop_index_of_other_text(
        &self,
        entries: &mut Vec<IndexEntry>,
        damage: &mut Vec<Damage>,
    ) -> Result<(), Error> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let run = Run {
            offset: last.offset(),
            length: last.length_bytes(),
            crc: Some(last.text_crc()),
        };
        let mut text = Vec::new();
        self.read(run, &mut text)?;
        if let Some(found) = self.checksum_damage(run, &text) {
            damage.push(found);
            entries.clear();
        }
        Ok(())
    }

    /// The text from `from` on up to its last newline. What follows is being written, or torn.
    fn whole_lines(
        &self,
        from: u64,
        length: u64,
        may_be_in_flight: bool,
        damage: &mut Vec<Damage>,
    ) -> Result<Option<Run>, Error> {
        let mut end = length;
        let mut text = Vec::new();
        while end > from {
            let start = end.saturating_sub(64 << 10).max(from);
            self.read(
                Run {
                    offset: start,
                    length: end - start,
                    crc: None,
                },
                &mut text,
            )?;
            if let Some(at) = memchr::memrchr(b'\n', &text) {
                end = start + at as u64 + 1;
                break;
            }
            end = start;
        }
        if end < length && !may_be_in_flight {
            damage.push(Damage {
                path: self.path.clone(),
                offset: end,
                what: "end of the segment",
                expected: "a newline".into(),
                found: format!("{} bytes of an unfinished line", length - end),
            });
        }
        Ok((end > from).then_some(Run {
            offset: from,
            length: end - from,
            crc: None,
        }))
    }

    /// Reads a run. A file that has become shorter gives what is left.
    pub(super) fn read(&self, run: Run, text: &mut Vec<u8>) -> Result<(), Error> {
        text.resize(run.length as usize, 0);
        let mut filled = 0;
        while filled < text.len() {
            let at = run.offset + filled as u64;
            match self.file.read_at(&mut text[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        text.truncate(filled);
        Ok(())
    }

    /// The damage, if a block's text is not what its index entry says.
    pub(super) fn checksum_damage(&self, run: Run, text: &[u8]) -> Option<Damage> {
        let expected = run.crc?;
        let found = crc32c::crc32c(text);
        (found != expected).then(|| Damage {
            path: self.path.clone(),
            offset: run.offset,
            what: "checksum of the block",
            expected: format!("{expected:08x}"),
            found: format!("{found:08x}"),
        })
    }

    /// The candidate text as single blocks, each with its checksum. The rest is cut at its line ends.
    pub(super) fn block_runs(&self) -> Result<Vec<Run>, Error> {
        let of_block = |entry: &IndexEntry| Run {
            offset: entry.offset(),
            length: entry.length_bytes(),
            crc: Some(entry.text_crc()),
        };
        let mut runs: Vec<Run> = self.blocks.iter().map(of_block).collect();
        runs.extend(self.rest_runs()?);
        Ok(runs)
    }

    /// The candidate text in pieces as large as they can usefully be.
    pub(super) fn large_runs(&self) -> Result<Vec<Run>, Error> {
        let mut runs: Vec<Run> = Vec::new();
        for entry in &self.blocks {
            let (offset, length) = (entry.offset(), entry.length_bytes());
            match runs.last_mut() {
                Some(run)
                    if run.offset + run.length == offset && run.length + length <= RUN_BYTES =>
                {
                    run.length += length;
                }
                _ => runs.push(Run {
                    offset,
                    length,
                    crc: None,
                }),
            }
        }
        runs.extend(self.rest_runs()?);
        Ok(runs)
    }

    fn rest_runs(&self) -> Result<Vec<Run>, Error> {
        let Some(rest) = self.rest else {
            return Ok(Vec::new());
        };
        let mut runs = Vec::new();
        let (mut from, end) = (rest.offset, rest.offset + rest.length);
        let mut text = Vec::new();
        while end - from > RUN_BYTES {
            let mut to = from + RUN_BYTES;
            // The next line end; a line may be longer than a run.
            loop {
                self.read(
                    Run {
                        offset: to,
                        length: (end - to).min(64 << 10),
                        crc: None,
                    },
                    &mut text,
                )?;
                match memchr::memchr(b'\n', &text) {
                    Some(at) => {
                        to += at as u64 + 1;
                        break;
                    }
                    None if text.is_empty() => break,
                    None => to += text.len() as u64,
                }
            }
            runs.push(Run {
                offset: from,
                length: to - from,
                crc: None,
            });
            from = to;
        }
        if end > from {
            runs.push(Run {
                offset: from,
                length: end - from,
                crc: None,
            });
        }
        Ok(runs)
    }
}

/// Whether a block can hold a match. Never wrong when it says no.
fn may_match(entry: &IndexEntry, query: &Query) -> bool {
    let in_time = query
        .since_ns
        .is_none_or(|since| entry.time_max_ns() >= since)
        && query
            .until_ns
            .is_none_or(|until| entry.time_min_ns() < until);
    let has_level = Level::ALL
        .into_iter()
        .any(|level| query.levels.contains(level) && entry.level_count(level) > 0);
    let has_source = query.sources.is_empty()
        || query
            .sources
            .iter()
            .any(|source| source.mask() & entry.source_mask() != 0);
    in_time && has_level && has_source
}
