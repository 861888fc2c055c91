//! Opening a log directory: who may, and what the last writer left.

use std::fs::{self, File};
use std::path::Path;

use millpond_bus::ServiceCommit;
use millpond_logfile::{
    BlockWriter, SegmentId, SegmentText, list_segments, list_services, read_index, rebuild_index,
    recover_segment,
};

use crate::error::Error;
use crate::lifecycle::{
    Catalog, Segment, State, clean_up, disk_bytes, is_plain, remove_files, unseal,
};
use crate::lock::take_lock;
use crate::policy::Policy;

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
        policy: &Policy,
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
            opened.open_service(logs_dir, policy, name, commit, now_ns)?;
        }
        Ok(opened)
    }

    fn open_service(
        &mut self,
        logs_dir: &Path,
        policy: &Policy,
        name: String,
        commit: Option<&ServiceCommit>,
        now_ns: u64,
    ) -> Result<(), Error> {
        let dir = logs_dir.join(&name);
        let mut segments = list_segments(&dir)?;
        clean_up(&dir, &segments).map_err(|error| Error::io("clean up", &dir, error))?;
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
            return self.open_next(&dir, policy, commit, &segments, now_ns);
        }
        let Some((&open, closed)) = segments.split_last() else {
            return Ok(());
        };
        for &id in closed {
            self.add_closed(&dir, policy, &name, id)?;
        }
        let committed_bytes = commit.map_or(0, |commit| commit.length_bytes);
        let found_bytes = match text_bytes(&dir, open) {
            Ok(bytes) if is_plain(&dir, open) => bytes,
            // A sealed text that is damaged, or of which some is missing, stays as it is: whoever reads it is told,
            // and it keeps nobody from writing.
            Ok(bytes) => bytes.max(committed_bytes),
            Err(_) if !is_plain(&dir, open) => committed_bytes,
            Err(error) => return Err(error),
        };
        // A segment that is sealed has been closed. What a crash has left of a seal counts as nothing.
        let was_closed =
            !is_plain(&dir, open) || read_index(&open.index_path(&dir), Some(open))?.closed;
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
            self.add_closed(&dir, policy, &name, open)?;
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
        // It is appended to, and perhaps cut before.
        unseal(&dir, open).map_err(|error| Error::io("unseal", &open.sealed_path(&dir), error))?;
        let recovered = recover_segment(&dir, open, commit.map(|commit| commit.length_bytes))?;
        if recovered.cut_bytes > 0 || recovered.missing_bytes > 0 {
            self.cuts.push(Cut {
                service: name.clone(),
                cut_bytes: recovered.cut_bytes,
                missing_bytes: recovered.missing_bytes,
                why: recovered.why,
            });
        }
        let segment = Segment::new(State::Open, disk_bytes(&dir, open), now_ns);
        self.catalog.set(policy, &name, open, segment);
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
        policy: &Policy,
        commit: &ServiceCommit,
        closed: &[SegmentId],
        now_ns: u64,
    ) -> Result<(), Error> {
        for &id in closed {
            self.add_closed(dir, policy, &commit.name, id)?;
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

    /// A segment that is not appended to any more. One that was never marked closed, because a crash came in
    /// between, gets a new index; one with both forms of its text, or the plain one, is sealed later.
    fn add_closed(
        &mut self,
        dir: &Path,
        policy: &Policy,
        service: &str,
        id: SegmentId,
    ) -> Result<(), Error> {
        let index_path = id.index_path(dir);
        let mut index = read_index(&index_path, Some(id))?;
        let state = match is_plain(dir, id) {
            true => State::Closed,
            false => State::Sealed,
        };
        if state == State::Closed && !index.closed {
            rebuild_index(dir, id, false)?;
            index = read_index(&index_path, Some(id))?;
        }
        // Where no line has a time, its id is the best there is.
        let last_ns = index.entries.iter().map(|entry| entry.time_max_ns()).max();
        let last_ns = last_ns.unwrap_or_default().max(id.as_ns());
        let segment = Segment::new(state, disk_bytes(dir, id), last_ns);
        self.catalog.set(policy, service, id, segment);
        Ok(())
    }

    fn drop_uncommitted(&mut self, dir: &Path, service: &str, id: SegmentId) -> Result<(), Error> {
        self.cuts.push(Cut {
            service: service.to_owned(),
            cut_bytes: text_bytes(dir, id).unwrap_or_default(),
            missing_bytes: 0,
            why: "its segment was begun and never committed".to_owned(),
        });
        remove_files(dir, id).map_err(|error| Error::io("remove", &id.log_path(dir), error))
    }
}

/// Length of a segment's text, in either form.
fn text_bytes(dir: &Path, id: SegmentId) -> Result<u64, Error> {
    SegmentText::open(dir, id)
        .and_then(|text| text.length_bytes())
        .map_err(|error| Error::io("read", &id.log_path(dir), error))
}
