//! Opening a log directory: who may, and what the last writer left.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use millpond_bus::ServiceCommit;
use millpond_logfile::{
    BlockWriter, SegmentId, list_segments, list_services, read_index, rebuild_index,
    recover_segment,
};

use crate::error::Error;
use crate::lock::take_lock;
use crate::retention::Catalog;

/// Text that was cut from a service's log at recovery, or found to be missing.
///
/// ```
/// let cut = millpond_sink::Cut {
///     service: "web".into(),
///     cut_bytes: 17,
///     missing_bytes: 0,
///     why: "its last line has no end".into(),
/// };
/// assert_eq!(cut.cut_bytes, 17);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The service.
    pub service: String,
    /// Bytes cut from its end.
    pub cut_bytes: u64,
    /// Bytes that the commit point says were there.
    pub missing_bytes: u64,
    /// Why.
    pub why: String,
}

/// A directory made consistent.
pub(crate) struct OpenedDirectory {
    pub(crate) lock: File,
    pub(crate) services: Vec<(ServiceCommit, BlockWriter)>,
    pub(crate) catalog: Catalog,
    pub(crate) cuts: Vec<Cut>,
}

impl OpenedDirectory {
    pub(crate) fn open(
        logs_dir: &Path,
        owner: &str,
        committed: &[ServiceCommit],
        now_ns: u64,
    ) -> Result<Self, Error> {
        fs::create_dir_all(logs_dir)
            .map_err(|error| Error::io("create the log directory", logs_dir, error))?;
        let (lock, same_owner) = take_lock(logs_dir, Some(owner))?;
        let committed = if same_owner { committed } else { &[] };
        let mut opened = OpenedDirectory {
            lock,
            services: Vec::new(),
            catalog: Catalog::default(),
            cuts: Vec::new(),
        };
        for name in list_services(logs_dir)? {
            let commit = committed.iter().find(|commit| commit.name == name);
            opened.open_service(logs_dir, name, commit, now_ns)?;
        }
        Ok(opened)
    }

    fn open_service(
        &mut self,
        logs_dir: &Path,
        name: String,
        commit: Option<&ServiceCommit>,
        now_ns: u64,
    ) -> Result<(), Error> {
        let dir = logs_dir.join(&name);
        let mut segments = list_segments(&dir)?;
        if let Some(commit) = commit {
            // Segments begun after the commit hold nothing that is true: it will be drained again.
            let open = SegmentId::from_ns(commit.segment_id);
            for id in segments.iter().filter(|&&id| id > open) {
                self.drop_uncommitted(&dir, &name, *id)?;
            }
            segments.retain(|&id| id <= open);
        }
        if let Some(commit) = commit
            && segments.last() != Some(&SegmentId::from_ns(commit.segment_id))
        {
            return self.open_next(&dir, commit, &segments, now_ns);
        }
        let Some((&open, closed)) = segments.split_last() else {
            return Ok(());
        };
        for &id in closed {
            close_properly(&dir, id)?;
            self.catalog.set(&name, id, length_of(&id.log_path(&dir))?);
        }
        let was_closed = read_index(&open.index_path(&dir), Some(open))?.closed;
        let found_bytes = length_of(&open.log_path(&dir))?;
        let is_complete =
            was_closed && commit.is_none_or(|commit| commit.length_bytes == found_bytes);
        let base = commit.cloned().unwrap_or_else(|| ServiceCommit {
            name: name.clone(),
            segment_id: open.as_ns(),
            length_bytes: found_bytes,
            segments: segments.len() as u64,
            ..ServiceCommit::default()
        });
        if is_complete {
            // Closed in order: what comes next goes to a new segment.
            self.catalog.set(&name, open, found_bytes);
            let segment_id = now_ns.max(open.as_ns() + 1);
            let segments = base.segments + 1;
            let next = ServiceCommit {
                segment_id,
                length_bytes: 0,
                segments,
                ..base
            };
            self.services.push((next, BlockWriter::new()));
            return Ok(());
        }
        let recovered = recover_segment(&dir, open, commit.map(|commit| commit.length_bytes))?;
        if recovered.cut_bytes > 0 || recovered.missing_bytes > 0 {
            self.cuts.push(Cut {
                service: name.clone(),
                cut_bytes: recovered.cut_bytes,
                missing_bytes: recovered.missing_bytes,
                why: recovered.why,
            });
        }
        self.catalog.set(&name, open, recovered.length_bytes);
        let commit = ServiceCommit {
            length_bytes: recovered.length_bytes,
            ..base
        };
        self.services.push((commit, recovered.block));
        Ok(())
    }

    /// The committed segment is not there: not begun, or trimmed since. What is there is closed.
    fn open_next(
        &mut self,
        dir: &Path,
        commit: &ServiceCommit,
        closed: &[SegmentId],
        now_ns: u64,
    ) -> Result<(), Error> {
        for &id in closed {
            close_properly(dir, id)?;
            self.catalog
                .set(&commit.name, id, length_of(&id.log_path(dir))?);
        }
        let mut next = commit.clone();
        if commit.length_bytes > 0 {
            next.segment_id = now_ns.max(commit.segment_id + 1);
            next.length_bytes = 0;
            next.segments += 1;
        }
        self.services.push((next, BlockWriter::new()));
        Ok(())
    }

    fn drop_uncommitted(&mut self, dir: &Path, service: &str, id: SegmentId) -> Result<(), Error> {
        let log = id.log_path(dir);
        self.cuts.push(Cut {
            service: service.to_owned(),
            cut_bytes: length_of(&log)?,
            missing_bytes: 0,
            why: "its segment was begun and never committed".to_owned(),
        });
        fs::remove_file(&log).map_err(|error| Error::io("remove", &log, error))?;
        let index = id.index_path(dir);
        match fs::remove_file(&index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &index, error))
            }
            _ => Ok(()),
        }
    }
}

fn length_of(path: &Path) -> Result<u64, Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::io("stat", path, error))?;
    Ok(metadata.len())
}

/// A segment that is not the last one, but was never marked closed: a crash came in between.
fn close_properly(dir: &Path, id: SegmentId) -> Result<(), Error> {
    if !read_index(&id.index_path(dir), Some(id))?.closed {
        rebuild_index(dir, id, false)?;
    }
    Ok(())
}
