//! Opening a log directory: who may, and what the last writer left.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use millpond_bus::ServiceCommit;
use millpond_logfile::{
    BlockWriter, SegmentId, SegmentText, complete_index, list_segments, list_services, read_index,
    rebuild_index, recover_segment,
};

use crate::error::{Error, ErrorKind};
use crate::lifecycle::{
    Catalog, Segment, State, clean_up, disk_bytes, is_plain, remove_files, unseal,
};
use crate::lock::{LastWriter, not_written, take_lock, write_text};
use crate::policy::Policy;
use crate::sink::SPARE_IDS;
use crate::uncommitted::{Asked, Bound, Doubt};

/// A path that the kernel takes, without the zero behind it (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4095;
/// The longest name of a service.
const SERVICE_BYTES_MAX: usize = 64;
/// The longest of what stands behind an id.
const LONGEST_SUFFIX: &str = ".log.zst.new";
/// An id ahead of the clock and of every segment by more than this does not come from a consumer.
const AHEAD_NS_MAX: u64 = 24 * 3600 * 1_000_000_000;

/// Text that was cut from a service's log at recovery, found to be missing, or kept against the commit point.
///
/// ```
/// let cut = millpond_sink::Cut {
///     service: "web".into(),
///     cut_bytes: 17,
///     missing_bytes: 0,
///     kept_bytes: 0,
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
    /// Bytes behind the commit point that are kept, since they are more than can be uncommitted: somebody has written
    /// to it. The last groups of them may be there twice, since they are drained again.
    pub kept_bytes: u64,
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
        check_path(logs_dir)?;
        create_directory(logs_dir)
            .map_err(|error| Error::io("create the log directory", logs_dir, error))?;
        let (lock, last) = take_lock(logs_dir)?;
        let same_owner = last.owner == owner;
        let group_bytes = last.group_bytes.filter(|_| same_owner);
        let group_bytes = group_bytes.unwrap_or(policy.effective_group_bytes() as u64);
        // Until our first text, what is here is that of the last writer: so is the bound, and a commit point of ours that
        // is not of this directory becomes no truer by our looking.
        let writer = LastWriter {
            owner: owner.to_owned(),
            group_bytes: Some(group_bytes),
        };
        let writer = if same_owner {
            writer
        } else {
            LastWriter::default()
        };
        write_text(&lock, &writer).map_err(|error| not_written(logs_dir, error))?;
        kill_point!("open.directory_locked");
        let committed = if same_owner { committed } else { &[] };
        let mut opened = OpenedDirectory {
            lock,
            services: Vec::new(),
            catalog: Catalog::default(),
            cuts: Vec::new(),
        };
        let names = list_services(logs_dir)?;
        let commit_of = |name: &str| committed.iter().find(|commit| commit.name == name);
        let mut asked = Vec::new();
        for commit in names.iter().filter_map(|name| commit_of(name)) {
            asked.push(Asked::of(logs_dir, commit)?);
        }
        let doubted = Bound::new(group_bytes).doubted(logs_dir, asked);
        for name in names {
            let commit = commit_of(&name);
            match doubted.get(&name) {
                Some(doubt) => {
                    opened.keep_service(logs_dir, policy, name, (commit, doubt), now_ns)?
                }
                None => {
                    if commit.is_none() && same_owner {
                        opened.note_unnamed(logs_dir, &name)?;
                    }
                    opened.open_service(logs_dir, policy, name, commit, now_ns)?;
                }
            }
        }
        Ok(opened)
    }

    /// A service as the commit point has it, or without one as its files are.
    fn open_service(
        &mut self,
        logs_dir: &Path,
        policy: &Policy,
        name: String,
        commit: Option<&ServiceCommit>,
        now_ns: u64,
    ) -> Result<(), Error> {
        let dir = logs_dir.join(&name);
        let mut segments = self.clean_segments(&dir)?;
        if let Some(commit) = commit {
            // Segments begun after the commit hold nothing that is true: it will be drained again.
            let open = SegmentId::from_ns(commit.segment_id);
            for id in segments.iter().filter(|&&id| id > open) {
                self.drop_uncommitted(&dir, &name, *id)?;
                kill_point!("open.uncommitted_dropped");
            }
            segments.retain(|&id| id <= open);
        }
        if let Some(commit) = commit
            && segments.last() != Some(&SegmentId::from_ns(commit.segment_id))
        {
            return self.open_next(&dir, policy, commit, &segments, now_ns);
        }
        let committed_bytes = commit.map(|commit| commit.length_bytes);
        let counts = commit.cloned().unwrap_or_else(|| ServiceCommit {
            name,
            segments: segments.len() as u64,
            ..ServiceCommit::default()
        });
        self.open_last(&dir, policy, &segments, counts, committed_bytes, now_ns)
    }

    /// A service of which the commit point says what cannot be: all of its text is kept, as without a commit point.
    fn keep_service(
        &mut self,
        logs_dir: &Path,
        policy: &Policy,
        name: String,
        (commit, doubt): (Option<&ServiceCommit>, &Doubt),
        now_ns: u64,
    ) -> Result<(), Error> {
        let dir = logs_dir.join(&name);
        let segments = self.clean_segments(&dir)?;
        self.cuts.push(Cut {
            service: name.clone(),
            cut_bytes: 0,
            missing_bytes: 0,
            kept_bytes: doubt.bytes,
            why: doubt.why.clone(),
        });
        // What else it counts says nothing about files.
        let counts = commit.cloned().unwrap_or_else(|| ServiceCommit {
            name,
            ..ServiceCommit::default()
        });
        self.open_last(&dir, policy, &segments, counts, None, now_ns)
    }

    /// Before a consumer writes, it commits every service of the directory.
    fn note_unnamed(&mut self, logs_dir: &Path, name: &str) -> Result<(), Error> {
        let dir = logs_dir.join(name);
        if let Some(&last) = list_segments(&dir)?.last() {
            self.cuts.push(Cut {
                service: name.to_owned(),
                cut_bytes: 0,
                missing_bytes: 0,
                kept_bytes: text_bytes(&dir, last).unwrap_or_default(),
                why: "the commit point in shared memory has nothing about it that is whole, so somebody has written there, \
                      or put these files here. What was written last may be there twice"
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn clean_segments(&self, dir: &Path) -> Result<Vec<SegmentId>, Error> {
        let segments = list_segments(dir)?;
        clean_up(dir, &segments).map_err(|error| Error::io("clean up", dir, error))?;
        kill_point!("open.cleaned");
        Ok(segments)
    }

    /// Goes on with the last of the segments, or behind it. `committed_bytes` is where it ends; `None`: behind its last
    /// whole line.
    fn open_last(
        &mut self,
        dir: &Path,
        policy: &Policy,
        segments: &[SegmentId],
        counts: ServiceCommit,
        committed_bytes: Option<u64>,
        now_ns: u64,
    ) -> Result<(), Error> {
        let Some((&open, closed)) = segments.split_last() else {
            return Ok(());
        };
        let name = counts.name.clone();
        for &id in closed {
            self.add_closed(dir, policy, &name, id)?;
        }
        let least_bytes = committed_bytes.unwrap_or_default();
        let found_bytes = match text_bytes(dir, open) {
            Ok(bytes) if is_plain(dir, open) => bytes,
            // A sealed text that is damaged, or of which some is missing, stays as it is: whoever reads it is told,
            // and it keeps nobody from writing.
            Ok(bytes) => bytes.max(least_bytes),
            Err(_) if !is_plain(dir, open) => least_bytes,
            Err(error) => return Err(error),
        };
        // A segment that is sealed has been closed. What a crash has left of a seal counts as nothing.
        let was_closed =
            !is_plain(dir, open) || read_index(&open.index_path(dir), Some(open))?.closed;
        let is_complete = was_closed && committed_bytes.is_none_or(|bytes| bytes == found_bytes);
        if is_complete {
            // Closed in order: what comes next goes to a new segment.
            self.add_closed(dir, policy, &name, open)?;
            let next = ServiceCommit {
                segment_id: now_ns.max(open.as_ns().saturating_add(1)),
                length_bytes: 0,
                segments: counts.segments + 1,
                ..counts
            };
            self.services.push((next, BlockWriter::new()));
            return Ok(());
        }
        // It is appended to, and perhaps cut before.
        unseal(dir, open).map_err(|error| Error::io("unseal", &open.sealed_path(dir), error))?;
        let recovered = recover_segment(dir, open, committed_bytes)?;
        if recovered.cut_bytes > 0 || recovered.missing_bytes > 0 {
            self.cuts.push(Cut {
                service: name.clone(),
                cut_bytes: recovered.cut_bytes,
                missing_bytes: recovered.missing_bytes,
                kept_bytes: 0,
                why: recovered.why,
            });
        }
        let segment = Segment::new(State::Open, disk_bytes(dir, open), now_ns);
        self.catalog.set(policy, &name, open, segment);
        let commit = ServiceCommit {
            segment_id: open.as_ns(),
            length_bytes: recovered.length_bytes,
            ..counts
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
        let last_ns = closed.last().map_or(0, |id| id.as_ns());
        let horizon_ns = now_ns.max(last_ns).saturating_add(AHEAD_NS_MAX);
        if commit.segment_id > horizon_ns {
            // Nobody has begun it, so any other will do.
            next.segment_id = now_ns.max(last_ns.saturating_add(SPARE_IDS));
        } else if commit.length_bytes > 0 {
            next.segment_id = now_ns.max(commit.segment_id + 1);
        }
        if commit.length_bytes > 0 {
            next.length_bytes = 0;
            next.segments += 1;
        }
        self.services.push((next, BlockWriter::new()));
        Ok(())
    }

    /// A segment that is not appended to any more. One that was never marked closed, because a crash came in
    /// between, gets a new index, and one whose index ends early, because a power cut took the rest, what is missing
    /// of it; one with both forms of its text, or the plain one, is sealed later.
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
        // A text that cannot be read keeps nobody from writing: who reads it is told.
        let ends_early = || text_bytes(dir, id).is_ok_and(|bytes| index.covered_bytes() < bytes);
        if state == State::Closed && !index.closed {
            rebuild_index(dir, id, false)?;
            index = read_index(&index_path, Some(id))?;
        } else if ends_early() && complete_index(dir, id).is_ok() {
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
            kept_bytes: 0,
            why: "its segment was begun and never committed".to_owned(),
        });
        remove_files(dir, id).map_err(|error| Error::io("remove", &id.log_path(dir), error))
    }
}

/// Whether the longest path that a file of the log may have is one that the kernel takes: else the directory could be
/// made, and nothing written to it.
fn check_path(logs_dir: &Path) -> Result<(), Error> {
    let file_bytes = SegmentId::from_ns(u64::MAX).to_string().len() + LONGEST_SUFFIX.len();
    let limit = PATH_BYTES_MAX - (1 + SERVICE_BYTES_MAX + 1 + file_bytes);
    let found = logs_dir.as_os_str().len();
    if found > limit {
        let shown: String = logs_dir.display().to_string().chars().take(64).collect();
        let message = format!(
            "the path of the log directory is too long: {shown}.. has {found} bytes, and the limit is {limit}, so that \
             files of any service can be named in it; choose a shorter one with `--logs`"
        );
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// Makes a directory. Names that are new are on the disk before anything in it is said to be: whoever syncs a file
/// later syncs no more than the directory itself.
fn create_directory(dir: &Path) -> io::Result<()> {
    let is_new = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let new: Vec<&Path> = dir.ancestors().take_while(is_new).collect();
    fs::create_dir_all(dir)?;
    for made in new {
        let parent = match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // One that may be written and not read cannot be synced by us.
        if let Ok(parent) = File::open(parent) {
            parent.sync_all()?;
        }
    }
    Ok(())
}

/// Length of a segment's text, in either form.
pub(crate) fn text_bytes(dir: &Path, id: SegmentId) -> Result<u64, Error> {
    SegmentText::open(dir, id)
        .and_then(|text| text.length_bytes())
        .map_err(|error| Error::io("read", &id.log_path(dir), error))
}
