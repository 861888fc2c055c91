//! Open segments on the writer's side.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use millpond_logfile::{
    CURRENT_LINK, ENTRY_BYTES, HEADER_BYTES, IndexHeader, SegmentId, rebuild_index,
};
use rustix::fs::FallocateFlags;

use crate::lifecycle::{pages, remove_if_there};
use crate::writer::is_disk_full;

/// Space is reserved ahead of the text in steps of a quarter of it, within these bounds: a busy segment seldom asks for
/// more, and one that is seldom written to does not keep what others could use.
const RESERVE_BYTES_MIN: u64 = 64 << 10;
const RESERVE_BYTES_MAX: u64 = 8 << 20;

/// A file that text is written to.
pub(crate) enum TextFile {
    Uring(tokio_uring::fs::File),
    Plain(File),
}

impl TextFile {
    pub(crate) fn new(file: File, uring: bool) -> Self {
        match uring {
            true => TextFile::Uring(tokio_uring::fs::File::from_std(file)),
            false => TextFile::Plain(file),
        }
    }

    /// Writes all of `text` at `offset`.
    pub(crate) async fn write(&self, text: Bytes, offset: u64) -> io::Result<()> {
        match self {
            TextFile::Uring(file) => file.write_all_at(text, offset).await.0,
            TextFile::Plain(file) => file.write_all_at(&text, offset),
        }
    }

    /// Forces the text to the disk, or with `whole` all there is of the file: of a directory, the names.
    pub(crate) async fn sync(&self, whole: bool) -> io::Result<()> {
        match (self, whole) {
            (TextFile::Uring(file), false) => file.sync_data().await,
            (TextFile::Uring(file), true) => file.sync_all().await,
            (TextFile::Plain(file), false) => file.sync_data(),
            (TextFile::Plain(file), true) => file.sync_all(),
        }
    }
}

/// One segment that is open for writing.
pub(crate) struct OpenSegment {
    pub(crate) id: SegmentId,
    pub(crate) text: Rc<TextFile>,
    /// It was made, and nobody has noted that yet.
    pub(crate) is_new: bool,
    dir: PathBuf,
    log: File,
    /// `None`: it could not be written. The text goes on without, and it is made anew when the segment is closed.
    index: Option<File>,
    index_entries: u64,
    /// What could not be made beside the text, until somebody asks.
    side_error: Option<io::Error>,
    /// `current.log` is still to be set.
    wants_link: bool,
    allocated_bytes: u64,
    last_used: u64,
}

/// How much is reserved for text up to `end`, where `most` is allowed.
pub(crate) fn reserve_step(end: u64, most: u64) -> u64 {
    let step = (end / 4).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
    pages(step.min(most))
}

impl OpenSegment {
    /// Opens the segment, making it where it is not there. Every step can be repeated.
    fn open(dir: &Path, id: SegmentId, uring: bool) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let log = open_file(&id.log_path(dir))?;
        kill_point!("begin.log_made");
        let text = TextFile::new(log.try_clone()?, uring);
        let length_bytes = log.metadata()?.len();
        let mut segment = OpenSegment {
            id,
            text: Rc::new(text),
            is_new: length_bytes == 0,
            allocated_bytes: length_bytes,
            dir: dir.to_owned(),
            log,
            index: None,
            index_entries: 0,
            side_error: None,
            wants_link: true,
            last_used: 0,
        };
        match open_index(dir, id) {
            Ok((index, entries)) => {
                segment.index = Some(index);
                segment.index_entries = entries;
            }
            Err(error) => segment.go_on_without(error)?,
        }
        kill_point!("begin.index_made");
        segment.set_link()?;
        Ok(segment)
    }

    /// Text is the truth: what is only for speed, or for convenience, does not hold it up. A full disk is another
    /// matter: it holds up everything, and something can be done about it.
    fn go_on_without(&mut self, error: io::Error) -> io::Result<()> {
        if is_disk_full(&error) {
            return Err(error);
        }
        self.side_error = Some(error);
        Ok(())
    }

    /// Lets `current.log` point here, unless it does.
    pub(crate) fn set_link(&mut self) -> io::Result<()> {
        if !self.wants_link {
            return Ok(());
        }
        match point_current_to(&self.dir, self.id) {
            Ok(()) => {
                self.wants_link = false;
                Ok(())
            }
            Err(error) => self.go_on_without(error),
        }
    }

    /// What could not be made beside the text since the last call.
    pub(crate) fn take_side_error(&mut self) -> Option<io::Error> {
        self.side_error.take()
    }

    /// Whether the file has a name, and the text that was written to it before `offset`: somebody may have removed or
    /// cut it.
    pub(crate) fn has_text(&self, offset: u64) -> io::Result<bool> {
        let metadata = self.log.metadata()?;
        Ok(metadata.nlink() > 0 && metadata.len() >= offset)
    }

    /// Its entries are not those of its text: there will be new ones when it is closed.
    pub(crate) fn forget_index(&mut self) {
        self.index = None;
    }

    pub(crate) fn has_index(&self) -> bool {
        self.index.is_some()
    }

    /// Reserves space for text up to `end` and, up to `most`, beyond. The file's size stays what was written. A file
    /// system that cannot do it, or has no room for the whole step, is none the worse for it.
    pub(crate) fn allocate(&mut self, end: u64, most: u64) {
        if end > self.allocated_bytes {
            let from = self.allocated_bytes;
            let to = pages(end + reserve_step(end, most));
            let mode = FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&self.log, mode, from, to - from);
            self.allocated_bytes = to;
        }
    }

    /// Gives back what is reserved and not written. Nothing may be in flight.
    pub(crate) fn release_reserve(&mut self) -> io::Result<()> {
        let length_bytes = self.log.metadata()?.len();
        self.log.set_len(length_bytes)?;
        self.allocated_bytes = length_bytes;
        Ok(())
    }

    /// What its files occupy, with what is reserved, when the text is this long.
    pub(crate) fn disk_bytes(&self, length_bytes: u64) -> u64 {
        pages(self.allocated_bytes.max(length_bytes)) + self.index_disk_bytes()
    }

    /// The same once nothing is reserved any more.
    pub(crate) fn closed_disk_bytes(&self, length_bytes: u64) -> u64 {
        pages(length_bytes) + self.index_disk_bytes()
    }

    fn index_disk_bytes(&self) -> u64 {
        pages(HEADER_BYTES as u64 + self.index_entries * ENTRY_BYTES as u64)
    }

    /// Appends entries to the index. It may lag behind the text, and never be ahead of it.
    pub(crate) fn write_entries(&mut self, entries: &[u8]) -> io::Result<()> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let at = HEADER_BYTES as u64 + self.index_entries * ENTRY_BYTES as u64;
        if let Err(error) = index.write_all_at(entries, at) {
            // Some may have been written. None may stand behind those, now or later.
            let cut = index.set_len(at);
            self.go_on_without(error)?;
            self.index = None;
            return cut.or_else(|error| self.go_on_without(error));
        }
        self.index_entries += (entries.len() / ENTRY_BYTES) as u64;
        Ok(())
    }

    /// The segment is complete: says so in the index. Once this is on the disk, so should be the text.
    pub(crate) fn mark_closed(&mut self) -> io::Result<()> {
        let header = IndexHeader::new(self.id, true).to_bytes();
        let marked = match &self.index {
            Some(index) => index.write_all_at(&header, 0),
            None => rebuild_index(&self.dir, self.id, false)
                .map(drop)
                .map_err(io::Error::other),
        };
        // Whoever seals the segment, or opens the directory next, completes it.
        marked.or_else(|error| self.go_on_without(error))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// The index of a segment, and how many entries it has.
fn open_index(dir: &Path, id: SegmentId) -> io::Result<(File, u64)> {
    let index = open_file(&id.index_path(dir))?;
    let index_bytes = index.metadata()?.len();
    let header = IndexHeader::new(id, false).to_bytes();
    if index_bytes < header.len() as u64 {
        index.write_all_at(&header, 0)?;
    }
    let entries = index_bytes.saturating_sub(HEADER_BYTES as u64) / ENTRY_BYTES as u64;
    Ok((index, entries))
}

/// Lets `current.log` point to `id`, in one step.
fn point_current_to(dir: &Path, id: SegmentId) -> io::Result<()> {
    let link = dir.join(CURRENT_LINK);
    let target = format!("{id}.log");
    if fs::read_link(&link).is_ok_and(|present| present == Path::new(&target)) {
        return Ok(());
    }
    let new = dir.join(".current.new");
    remove_if_there(&new)?;
    std::os::unix::fs::symlink(&target, &new)?;
    kill_point!("begin.link_made");
    fs::rename(&new, &link)?;
    kill_point!("begin.link_renamed");
    Ok(())
}

/// The open segments, at most `limit` of them.
pub(crate) struct OpenSegments {
    logs_dir: PathBuf,
    uring: bool,
    limit: usize,
    uses: u64,
    by_service: HashMap<String, OpenSegment>,
}

impl OpenSegments {
    pub(crate) fn new(logs_dir: &Path, uring: bool) -> Self {
        // Three handles a segment, and a quarter of what the process may have in all: the rest is for lanes.
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = files.map_or(1024, |files| files / 12).clamp(4, 1024) as usize;
        OpenSegments {
            logs_dir: logs_dir.to_owned(),
            uring,
            limit,
            uses: 0,
            by_service: HashMap::new(),
        }
    }

    /// The open segment `id` of a service.
    pub(crate) fn get(&mut self, service: &str, id: SegmentId) -> io::Result<&mut OpenSegment> {
        self.uses += 1;
        let known = self
            .by_service
            .get(service)
            .is_some_and(|segment| segment.id == id);
        if !known {
            self.close_least_used();
            let dir = self.logs_dir.join(service);
            let segment = OpenSegment::open(&dir, id, self.uring)?;
            self.by_service.insert(service.to_owned(), segment);
        }
        match self.by_service.get_mut(service) {
            Some(segment) => {
                segment.last_used = self.uses;
                Ok(segment)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What of it is not on the disk is known elsewhere, and it is opened again for that.
    fn close_least_used(&mut self) {
        if self.by_service.len() < self.limit {
            return;
        }
        let oldest = self
            .by_service
            .iter()
            .min_by_key(|(_, segment)| segment.last_used);
        if let Some(service) = oldest.map(|(service, _)| service.clone()) {
            self.by_service.remove(&service);
        }
    }

    /// The text of a segment, if it is open.
    pub(crate) fn text(&self, service: &str, id: SegmentId) -> Option<Rc<TextFile>> {
        let segment = self.by_service.get(service)?;
        (segment.id == id).then(|| Rc::clone(&segment.text))
    }

    pub(crate) fn remove(&mut self, service: &str) {
        self.by_service.remove(service);
    }

    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut OpenSegment> {
        self.by_service.values_mut()
    }
}
