//! A directory seen through a file system of ours, which can be made to fail.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, Notifier, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;
use rustix::mount::UnmountFlags;

use crate::error::Error;
use crate::faults::{Faults, Lost, Operation};

/// Nothing is remembered by the kernel: every look sees what is there.
const NO_TIME: Duration = Duration::ZERO;
const BLOCK_BYTES: u64 = 4096;
/// What a file system with a limit says that it holds in all, at least.
const BLOCKS_MIN: u64 = 1024;

/// A directory mounted at another place, with faults. Unmounted when it is dropped, whoever still uses it.
///
/// See the crate's front page.
#[derive(Debug)]
pub struct FaultFs {
    faults: Faults,
    mount_point: PathBuf,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Shows the directory `backing` at `mount_point`, an empty directory, to every user.
    ///
    /// # Errors
    /// One of the directories is not there; or there is no `/dev/fuse` that this user may mount with.
    pub fn mount(backing: &Path, mount_point: &Path) -> Result<Self, Error> {
        let backing = (backing.canonicalize())
            .map_err(|source| Error::new("find the directory", backing, source))?;
        let failed = |source| Error::new("mount a file system at", mount_point, source);
        let mount_point = mount_point.canonicalize().map_err(failed)?;
        let faults = Faults::default();
        let core = Arc::new(Core {
            faults: faults.clone(),
            backing,
            nodes: Mutex::new(Nodes::new()),
            notifier: OnceLock::new(),
        });
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("millpond-faultfs".to_owned()),
            MountOption::DefaultPermissions,
        ];
        config.acl = SessionACL::All;
        let mounted = Session::new(PassThrough(Arc::clone(&core)), &mount_point, &config)
            .and_then(Session::spawn);
        let session = mounted.map_err(failed)?;
        // It is empty: nobody else has it.
        let _ = core.notifier.set(session.notifier());
        Ok(FaultFs {
            faults,
            mount_point,
            session: Some(session),
        })
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Where it is seen.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        // Whoever waits must not wait for ever.
        self.faults.clear();
        self.faults.thaw();
        // Lazily: a process that still has a file open keeps what it has until it ends.
        let _ = rustix::mount::unmount(&self.mount_point, UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

/// A file or a directory that the kernel knows by a number.
struct Node {
    /// Below the backing directory; `None` once it is removed.
    path: Option<PathBuf>,
    /// Open files, by handle.
    open: HashMap<u64, Arc<File>>,
    /// What was written since the last sync that succeeded: from and to.
    unsynced: Option<(u64, u64)>,
    /// Text that the disk has lost and the cache still has, by offset.
    cached: Vec<(u64, Vec<u8>)>,
}

impl Node {
    fn new(path: PathBuf) -> Self {
        Node {
            path: Some(path),
            open: HashMap::new(),
            unsynced: None,
            cached: Vec::new(),
        }
    }

    /// From `from` to `to` there is other text now.
    fn forget_cached(&mut self, from: u64, to: u64) {
        let mut kept = Vec::new();
        for (offset, text) in std::mem::take(&mut self.cached) {
            let end = offset + text.len() as u64;
            if offset < from {
                let left = (from.min(end) - offset) as usize;
                kept.push((offset, text[..left].to_vec()));
            }
            if end > to {
                let right = (to.max(offset) - offset) as usize;
                kept.push((offset + right as u64, text[right..].to_vec()));
            }
        }
        self.cached = kept;
    }

    /// Puts what the cache has over what the disk has.
    fn show_cached(&self, offset: u64, shown: &mut [u8]) {
        let end = offset + shown.len() as u64;
        for (at, text) in &self.cached {
            let (from, to) = ((*at).max(offset), (at + text.len() as u64).min(end));
            if from < to {
                let source = &text[(from - at) as usize..(to - at) as usize];
                shown[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
    }
}

struct Nodes {
    by_number: HashMap<u64, Node>,
    by_path: HashMap<PathBuf, u64>,
    last_number: u64,
    last_handle: u64,
}

impl Nodes {
    fn new() -> Self {
        let root = Node::new(PathBuf::new());
        let number = INodeNo::ROOT.0;
        Nodes {
            by_number: HashMap::from([(number, root)]),
            by_path: HashMap::from([(PathBuf::new(), number)]),
            last_number: number,
            last_handle: 0,
        }
    }

    fn number_of(&mut self, path: &Path) -> u64 {
        if let Some(&number) = self.by_path.get(path) {
            return number;
        }
        self.last_number += 1;
        self.by_path.insert(path.to_owned(), self.last_number);
        (self.by_number).insert(self.last_number, Node::new(path.to_owned()));
        self.last_number
    }

    fn path_of(&self, number: INodeNo) -> io::Result<PathBuf> {
        let node = self.by_number.get(&number.0);
        node.and_then(|node| node.path.clone())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file_of(&self, number: INodeNo, handle: FileHandle) -> io::Result<Arc<File>> {
        let node = self.by_number.get(&number.0);
        node.and_then(|node| node.open.get(&handle.0).cloned())
            .ok_or_else(|| Errno::EBADF.code_error())
    }

    fn add_open(&mut self, number: u64, file: File) -> u64 {
        self.last_handle += 1;
        if let Some(node) = self.by_number.get_mut(&number) {
            node.open.insert(self.last_handle, Arc::new(file));
        }
        self.last_handle
    }

    /// The name is gone; open files stay what they are.
    fn remove(&mut self, path: &Path) {
        if let Some(number) = self.by_path.remove(path)
            && let Some(node) = self.by_number.get_mut(&number)
        {
            node.path = None;
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        self.remove(to);
        let below: Vec<PathBuf> = (self.by_path.keys())
            .filter(|path| path.starts_with(from))
            .cloned()
            .collect();
        for old in below {
            let Some(number) = self.by_path.remove(&old) else {
                continue;
            };
            let new = match old.strip_prefix(from) {
                Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
                Ok(rest) => to.join(rest),
                Err(_) => continue,
            };
            if let Some(node) = self.by_number.get_mut(&number) {
                node.path = Some(new.clone());
            }
            self.by_path.insert(new, number);
        }
    }
}

/// An error number as the error that it is.
trait CodeError {
    fn code_error(self) -> io::Error;
}

impl CodeError for Errno {
    fn code_error(self) -> io::Error {
        io::Error::from_raw_os_error(self.code())
    }
}

struct Core {
    faults: Faults,
    backing: PathBuf,
    nodes: Mutex<Nodes>,
    notifier: OnceLock<Notifier>,
}

impl Core {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, operation: Operation, path: &Path) -> io::Result<()> {
        Ok(self.faults.check(operation, path)?)
    }

    fn path_of(&self, number: INodeNo) -> io::Result<PathBuf> {
        Ok(self.backing.join(self.nodes().path_of(number)?))
    }

    /// A name below a directory: as we know it, and where it is.
    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<(PathBuf, PathBuf)> {
        let path = self.nodes().path_of(parent)?.join(name);
        let full = self.backing.join(&path);
        Ok((path, full))
    }

    fn attributes(&self, path: &Path, full: &Path) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(full)?;
        Ok(attributes(self.nodes().number_of(path), &metadata))
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let (path, full) = self.child(parent, name)?;
        self.check(Operation::Look, &full)?;
        self.attributes(&path, &full)
    }

    /// By name, or where that is gone by a file that is open.
    fn metadata(&self, number: INodeNo, handle: Option<FileHandle>) -> io::Result<Metadata> {
        let file = {
            let nodes = self.nodes();
            let node = nodes.by_number.get(&number.0);
            let open = node.map(|node| &node.open);
            open.and_then(|open| match handle {
                Some(handle) => open.get(&handle.0).cloned(),
                None => None,
            })
            .or_else(|| {
                let node = node.filter(|node| node.path.is_none())?;
                node.open.values().next().cloned()
            })
        };
        match file {
            Some(file) => file.metadata(),
            None => fs::symlink_metadata(self.path_of(number)?),
        }
    }

    fn get_attributes(&self, number: INodeNo, handle: Option<FileHandle>) -> io::Result<FileAttr> {
        Ok(attributes(number.0, &self.metadata(number, handle)?))
    }

    fn set_attributes(
        &self,
        number: INodeNo,
        handle: Option<FileHandle>,
        size: Option<u64>,
        mode: Option<u32>,
    ) -> io::Result<FileAttr> {
        // Some name is needed to say which files are meant.
        let path = self.path_of(number).unwrap_or_default();
        if let Some(size) = size {
            self.check(Operation::Resize, &path)?;
            let file = match handle {
                Some(handle) => self.nodes().file_of(number, handle)?,
                None => Arc::new(OpenOptions::new().write(true).open(&path)?),
            };
            let before = file.metadata()?.len();
            file.set_len(size)?;
            self.faults.give_room(before.saturating_sub(size));
            if let Some(node) = self.nodes().by_number.get_mut(&number.0) {
                let cut = |(from, to): (u64, u64)| (from < size).then_some((from, to.min(size)));
                node.unsynced = node.unsynced.and_then(cut);
                node.forget_cached(size, u64::MAX);
            }
        }
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        self.get_attributes(number, handle)
    }

    fn open(&self, number: INodeNo, flags: OpenFlags) -> io::Result<u64> {
        let path = self.path_of(number)?;
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        if writes {
            self.check(Operation::Open, &path)?;
        }
        // Also to be read: the kernel fills its pages from what we give.
        let file = OpenOptions::new().read(true).write(writes).open(&path)?;
        Ok(self.nodes().add_open(number.0, file))
    }

    fn create(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> io::Result<(FileAttr, u64)> {
        let (path, full) = self.child(parent, name)?;
        self.check(Operation::Create, &full)?;
        let exclusive =
            rustix::fs::OFlags::from_bits_retain(flags as u32).contains(rustix::fs::OFlags::EXCL);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(mode & 0o7777);
        let file = match exclusive {
            true => options.create_new(true).open(&full)?,
            false => options.create(true).truncate(false).open(&full)?,
        };
        let attributes = attributes(self.nodes().number_of(&path), &file.metadata()?);
        let handle = self.nodes().add_open(attributes.ino.0, file);
        Ok((attributes, handle))
    }

    fn read(
        &self,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
    ) -> io::Result<Vec<u8>> {
        let file = self.nodes().file_of(number, handle)?;
        self.check(Operation::Read, &self.path_of(number).unwrap_or_default())?;
        let mut text = vec![0; size as usize];
        let mut length = 0;
        while length < text.len() {
            match file.read_at(&mut text[length..], offset + length as u64)? {
                0 => break,
                bytes => length += bytes,
            }
        }
        text.truncate(length);
        if let Some(node) = self.nodes().by_number.get(&number.0) {
            // As far as the kernel asks for it at all.
            node.show_cached(offset, &mut text);
        }
        Ok(text)
    }

    fn write(
        &self,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        text: &[u8],
    ) -> io::Result<u32> {
        let file = self.nodes().file_of(number, handle)?;
        self.check(Operation::Write, &self.path_of(number).unwrap_or_default())?;
        let text = &text[..self.faults.shorten(text.len())];
        let end = offset + text.len() as u64;
        if self.faults.room().is_some() {
            let length = file.metadata()?.len();
            self.faults.take_room(end.saturating_sub(length))?;
        }
        file.write_all_at(text, offset)?;
        if let Some(node) = self.nodes().by_number.get_mut(&number.0) {
            let (from, to) = node.unsynced.unwrap_or((offset, end));
            node.unsynced = Some((from.min(offset), to.max(end)));
            node.forget_cached(offset, end);
        }
        Ok(text.len() as u32)
    }

    fn sync(&self, number: INodeNo, handle: FileHandle, data_only: bool) -> io::Result<()> {
        let file = self.nodes().file_of(number, handle)?;
        let path = self.path_of(number).unwrap_or_default();
        let checked = self.check(Operation::Sync, &path);
        let unsynced = {
            let mut nodes = self.nodes();
            let node = nodes.by_number.get_mut(&number.0);
            node.and_then(|node| node.unsynced.take())
        };
        let Err(error) = checked else {
            return match data_only {
                true => file.sync_data(),
                false => file.sync_all(),
            };
        };
        let (Some(lost), Some((from, to))) = (self.faults.loses(), unsynced) else {
            return Err(error);
        };
        // As if the pages had never reached the disk.
        let behind = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut text = vec![0; (to - from) as usize];
        behind.read_exact_at(&mut text, from)?;
        behind.write_all_at(&vec![0; text.len()], from)?;
        if let Some(node) = self.nodes().by_number.get_mut(&number.0) {
            node.show_cached(from, &mut text);
            match lost {
                Lost::Disk => {
                    node.forget_cached(from, to);
                    node.cached.push((from, text));
                }
                Lost::DiskAndCache => node.cached.clear(),
            }
        }
        if lost == Lost::DiskAndCache
            && let Some(notifier) = self.notifier.get()
        {
            // It knows the file: it has just asked us to sync it.
            let _ = notifier.inval_inode(number, 0, 0);
        }
        Err(error)
    }

    fn sync_directory(&self, number: INodeNo) -> io::Result<()> {
        let path = self.path_of(number)?;
        self.check(Operation::Sync, &path)?;
        File::open(path)?.sync_all()
    }

    fn make_directory(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let (path, full) = self.child(parent, name)?;
        self.check(Operation::Create, &full)?;
        fs::create_dir(&full)?;
        self.attributes(&path, &full)
    }

    fn make_link(&self, parent: INodeNo, name: &OsStr, target: &Path) -> io::Result<FileAttr> {
        let (path, full) = self.child(parent, name)?;
        self.check(Operation::Create, &full)?;
        std::os::unix::fs::symlink(target, &full)?;
        self.attributes(&path, &full)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, is_directory: bool) -> io::Result<()> {
        let (path, full) = self.child(parent, name)?;
        self.check(Operation::Remove, &full)?;
        let bytes = fs::symlink_metadata(&full)?.len();
        match is_directory {
            true => fs::remove_dir(&full)?,
            false => fs::remove_file(&full)?,
        }
        self.nodes().remove(&path);
        self.faults.give_room(bytes);
        Ok(())
    }

    fn rename(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr)) -> io::Result<()> {
        let (from, full_from) = self.child(from.0, from.1)?;
        let (to, full_to) = self.child(to.0, to.1)?;
        self.check(Operation::Rename, &full_to)?;
        fs::rename(full_from, full_to)?;
        self.nodes().rename(&from, &to);
        Ok(())
    }

    fn list(&self, number: INodeNo) -> io::Result<Vec<(u64, FileType, OsString)>> {
        let path = self.nodes().path_of(number)?;
        let mut list = vec![
            (number.0, FileType::Directory, OsString::from(".")),
            (number.0, FileType::Directory, OsString::from("..")),
        ];
        for entry in fs::read_dir(self.backing.join(&path))? {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
            let number = self.nodes().number_of(&path.join(entry.file_name()));
            list.push((number, kind, entry.file_name()));
        }
        Ok(list)
    }

    fn allocate(
        &self,
        number: INodeNo,
        handle: FileHandle,
        range: (u64, u64),
        mode: i32,
    ) -> io::Result<()> {
        let file = self.nodes().file_of(number, handle)?;
        self.check(
            Operation::Allocate,
            &self.path_of(number).unwrap_or_default(),
        )?;
        if self.faults.room().is_some_and(|room| room < range.1) {
            return Err(Errno::ENOSPC.code_error());
        }
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        Ok(rustix::fs::fallocate(&*file, mode, range.0, range.1)?)
    }
}

fn time(seconds: i64, ns: i64) -> SystemTime {
    let at = Duration::new(seconds.max(0) as u64, ns.clamp(0, 999_999_999) as u32);
    SystemTime::UNIX_EPOCH + at
}

fn attributes(number: u64, metadata: &Metadata) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: metadata.rdev() as u32,
        blksize: BLOCK_BYTES as u32,
        flags: 0,
    }
}

/// What the kernel talks to.
struct PassThrough(Arc<Core>);

impl PassThrough {
    /// Serves a request here and now, or where it has to wait, on a thread of its own: others go on meanwhile.
    fn serve(&self, operation: Operation, serve: impl FnOnce(&Core) + Send + 'static) {
        if !self.0.faults.must_wait(operation) {
            return serve(&self.0);
        }
        let core = Arc::clone(&self.0);
        std::thread::spawn(move || {
            core.faults.wait(operation);
            serve(&core);
        });
    }
}

/// Answers with what came out, whatever kind of answer it is.
macro_rules! answer {
    ($outcome:expr, $reply:ident, $value:pat => $good:expr) => {
        match $outcome {
            Ok($value) => $good,
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

impl Filesystem for PassThrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.serve(Operation::Look, move |core| {
            answer!(core.look_up(parent, &name), reply, attributes =>
                reply.entry(&NO_TIME, &attributes, Generation(0)));
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Operation::Look, move |core| {
            answer!(core.get_attributes(ino, fh), reply, attributes =>
                reply.attr(&NO_TIME, &attributes));
        });
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.serve(Operation::Resize, move |core| {
            answer!(core.set_attributes(ino, fh, size, mode), reply, attributes =>
                reply.attr(&NO_TIME, &attributes));
        });
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.serve(Operation::Look, move |core| {
            let target = core.path_of(ino).and_then(fs::read_link);
            answer!(target, reply, target => reply.data(target.as_os_str().as_encoded_bytes()));
        });
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.serve(Operation::Create, move |core| {
            answer!(core.make_directory(parent, &name), reply, attributes =>
                reply.entry(&NO_TIME, &attributes, Generation(0)));
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(Operation::Remove, move |core| {
            answer!(core.remove(parent, &name, false), reply, () => reply.ok());
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(Operation::Remove, move |core| {
            answer!(core.remove(parent, &name, true), reply, () => reply.ok());
        });
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (name.to_owned(), target.to_owned());
        self.serve(Operation::Create, move |core| {
            answer!(core.make_link(parent, &name, &target), reply, attributes =>
                reply.entry(&NO_TIME, &attributes, Generation(0)));
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, newname) = (name.to_owned(), newname.to_owned());
        self.serve(Operation::Rename, move |core| {
            let outcome = core.rename((parent, &name), (newparent, &newname));
            answer!(outcome, reply, () => reply.ok());
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let operation = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Operation::Look,
            _ => Operation::Open,
        };
        self.serve(operation, move |core| {
            // What the kernel has of it stays, as on a disk.
            answer!(core.open(ino, flags), reply, handle =>
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE));
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        self.serve(Operation::Create, move |core| {
            let made = core.create(parent, &name, mode, flags);
            answer!(made, reply, (attributes, handle) => reply.created(
                &NO_TIME,
                &attributes,
                Generation(0),
                FileHandle(handle),
                FopenFlags::FOPEN_KEEP_CACHE,
            ));
        });
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(Operation::Read, move |core| {
            answer!(core.read(ino, fh, offset, size), reply, text => reply.data(&text));
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_owned();
        self.serve(Operation::Write, move |core| {
            answer!(core.write(ino, fh, offset, &data), reply, bytes => reply.written(bytes));
        });
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Nobody waits for it.
        let mut nodes = self.0.nodes();
        if let Some(node) = nodes.by_number.get_mut(&ino.0) {
            node.open.remove(&fh.0);
        }
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.serve(Operation::Sync, move |core| {
            answer!(core.sync(ino, fh, datasync), reply, () => reply.ok());
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.serve(Operation::Look, move |core| {
            answer!(core.list(ino), reply, list => {
                let rest = list.into_iter().enumerate().skip(offset as usize);
                for (at, (number, kind, name)) in rest {
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            });
        });
    }

    fn fsyncdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(Operation::Sync, move |core| {
            answer!(core.sync_directory(ino), reply, () => reply.ok());
        });
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.serve(Operation::Look, move |core| {
            let found = rustix::fs::statvfs(&core.backing).map_err(io::Error::from);
            answer!(found, reply, found => {
                let block = BLOCK_BYTES as u32;
                let scale = |blocks: u64| blocks * found.f_frsize / BLOCK_BYTES;
                let (blocks, free) = match core.faults.room() {
                    Some(bytes) => ((bytes / BLOCK_BYTES).max(BLOCKS_MIN), bytes / BLOCK_BYTES),
                    None => (scale(found.f_blocks), scale(found.f_bavail)),
                };
                reply.statfs(blocks, free, free, found.f_files, found.f_ffree, block, 255, block);
            });
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve(Operation::Allocate, move |core| {
            answer!(core.allocate(ino, fh, (offset, length), mode), reply, () => reply.ok());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Failure, Frozen};
    use rustix::io::Errno as Code;

    struct Place {
        disk: FaultFs,
        backing: tempfile::TempDir,
        _mount_point: tempfile::TempDir,
    }

    fn place() -> Option<Place> {
        let backing = tempfile::tempdir().expect("a directory");
        let mount_point = tempfile::tempdir().expect("a directory");
        match FaultFs::mount(backing.path(), mount_point.path()) {
            Ok(disk) => Some(Place {
                disk,
                backing,
                _mount_point: mount_point,
            }),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn code<T>(outcome: io::Result<T>) -> Option<i32> {
        outcome.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn what_is_done_here_is_done_behind() {
        let Some(place) = place() else { return };
        let (here, behind) = (place.disk.path(), place.backing.path());
        fs::create_dir(here.join("a")).expect("a directory");
        let mut file = File::options();
        let file = file.read(true).write(true).create(true).truncate(false);
        let file = file.open(here.join("a/one")).expect("a file");
        file.write_all_at(&[7; 300_000], 5).expect("written");
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 300_005, 4096).expect("reserved");
        file.sync_data().expect("synced");
        file.set_len(200_000).expect("cut");
        std::os::unix::fs::symlink("one", here.join("a/link")).expect("a link");
        fs::rename(here.join("a/one"), here.join("a/two")).expect("renamed");
        File::open(here.join("a"))
            .and_then(|dir| dir.sync_all())
            .expect("synced");
        let text = fs::read(behind.join("a/two")).expect("the file behind");
        assert_eq!(text.len(), 200_000);
        assert_eq!(text, fs::read(here.join("a/two")).expect("the file here"));
        assert_eq!(
            fs::read_link(here.join("a/link")).expect("the link"),
            Path::new("one")
        );
        let mut names: Vec<_> = (fs::read_dir(here.join("a")).expect("the list"))
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["link", "two"]);
        fs::remove_file(here.join("a/two")).expect("removed");
        // Open, and without a name.
        assert_eq!(file.metadata().expect("its metadata").nlink(), 0);
        file.write_all_at(b"still", 0).expect("written");
        fs::remove_file(here.join("a/link")).expect("removed");
        fs::remove_dir(here.join("a")).expect("removed");
        assert_eq!(fs::read_dir(behind).expect("the list").count(), 0);
    }

    #[test]
    fn calls_fail_as_told_and_are_counted() {
        let Some(place) = place() else { return };
        let (here, faults) = (place.disk.path(), place.disk.faults());
        let file = File::create(here.join("a.log")).expect("a file");
        faults.fail(Operation::Write, Failure::new(Code::IO).of(".log").times(1));
        assert_eq!(code(file.write_at(b"x", 0)), Some(Code::IO.raw_os_error()));
        file.write_all_at(b"x", 0).expect("once only");
        assert_eq!(faults.failed(Operation::Write), 1);
        faults.fail(Operation::Sync, Failure::new(Code::IO).of(".idx"));
        file.sync_data().expect("another file");
        faults.read_only();
        assert_eq!(
            code(File::create(here.join("b"))),
            Some(Code::ROFS.raw_os_error())
        );
        faults.clear();
        faults.short_writes(3);
        assert_eq!(file.write_at(b"12345678", 0).expect("some"), 3);
        assert!(faults.shortened() > 0);
        faults.clear();
        faults.free_bytes(10);
        assert_eq!(
            code(file.write_at(&[1; 4096], 4096)),
            Some(Code::NOSPC.raw_os_error())
        );
        fs::remove_file(here.join("a.log")).expect("removed");
        let free = rustix::fs::statvfs(here).expect("statfs");
        assert!(free.f_bavail * free.f_frsize < 8192);
    }

    #[test]
    fn what_is_frozen_waits_and_the_rest_goes_on() {
        let Some(place) = place() else { return };
        let (here, faults) = (place.disk.path(), place.disk.faults());
        let path = here.join("a");
        fs::write(&path, b"before").expect("written");
        faults.freeze(Frozen::Changes);
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, b"after")
        });
        while faults.waiting() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(fs::read(&path).expect("read"), b"before");
        assert!(!writer.is_finished());
        faults.thaw();
        writer.join().expect("no panic").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"after");
    }

    #[test]
    fn a_failed_sync_loses_what_the_kernel_still_shows() {
        let Some(place) = place() else { return };
        let (here, faults) = (place.disk.path(), place.disk.faults());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(here.join("a")).expect("a file");
        file.write_all_at(b"kept", 0).expect("written");
        file.sync_data().expect("synced");
        for (is_cached, seen) in [(true, &b"kept lost"[..]), (false, &b"kept\0\0\0\0\0"[..])] {
            faults.lose_at_failed_syncs(is_cached);
            faults.fail(Operation::Sync, Failure::new(Code::IO).times(1));
            file.write_all_at(b" lost", 4).expect("written");
            // So that the kernel has it.
            file.read_exact_at(&mut [0; 9], 0).expect("read");
            assert!(file.sync_data().is_err());
            file.sync_data().expect("it is told once");
            let behind = fs::read(place.backing.path().join("a")).expect("read");
            assert_eq!(behind, b"kept\0\0\0\0\0");
            assert_eq!(fs::read(here.join("a")).expect("read"), seen);
        }
    }
}
