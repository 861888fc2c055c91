//! A disk with a volatile write cache, whose power can be cut.
//!
//! A write goes to the cache, and any reader of the live disk sees it. What a flush has confirmed stays. When the
//! power goes, everything that was written since the last flush is there or is not, each sector on its own: a
//! drive may write its cache in any order, and a part of it at any time before. [`VolatileDisk`] shows such a disk
//! as the single file of a FUSE file system, `disk.img`, for a loop device to be made on: the loop device turns each
//! flush and each forced write of the file system above into an `fsync` of this file. [`VolatileDisk::cut`] makes
//! the disk as the next boot would find it, at one instant, while the live one goes on.
//!
//! ```
//! use millpond_faultfs::{DiskImage, Kept, SECTOR_BYTES, WriteCache};
//!
//! let mut disk = WriteCache::new(DiskImage::zeros(1 << 20));
//! disk.write(0, b"on the disk");
//! disk.flush();
//! disk.write(0, b"in the cache");
//! let cut = disk.cut(Kept::Nothing, SECTOR_BYTES, &mut |_| 0);
//! assert!(cut.image.read(0, 11) == b"on the disk" && disk.read(0, 12) == b"in the cache");
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

/// What a disk of today writes whole or not at all.
pub const BLOCK_BYTES: usize = 4096;
/// The same of an older disk.
pub const SECTOR_BYTES: usize = 512;
/// Beyond this the oldest writes leave the cache by themselves, as those of any drive do.
const CACHE_BYTES_MAX: usize = 32 << 20;
const IMAGE_NAME: &str = "disk.img";
const IMAGE_INODE: INodeNo = INodeNo(2);
/// Nothing changes but through the kernel itself.
const TTL: Duration = Duration::from_secs(3600);

/// `None`: zeros.
type Block = Option<Arc<[u8; BLOCK_BYTES]>>;

/// What a disk holds. A copy costs 8 bytes for each 4 KiB: blocks are shared until one of them is written.
#[derive(Debug, Clone)]
pub struct DiskImage {
    blocks: Vec<Block>,
}

impl DiskImage {
    /// A disk of this size, in whole blocks of 4 KiB, that was never written.
    pub fn zeros(bytes: u64) -> Self {
        DiskImage {
            blocks: vec![None; (bytes as usize).div_ceil(BLOCK_BYTES)],
        }
    }

    /// What a file holds. Takes memory for the blocks that are not zeros.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length_bytes = file.metadata()?.len();
        let mut image = Self::zeros(length_bytes);
        let mut block = [0; BLOCK_BYTES];
        for (number, known) in image.blocks.iter_mut().enumerate() {
            let offset = (number * BLOCK_BYTES) as u64;
            let wanted = (length_bytes - offset).min(BLOCK_BYTES as u64) as usize;
            block[wanted..].fill(0);
            file.read_exact_at(&mut block[..wanted], offset)?;
            if block.iter().any(|&byte| byte != 0) {
                *known = Some(Arc::new(block));
            }
        }
        Ok(image)
    }

    /// Its size, in bytes.
    pub fn length_bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    /// What stands there; shorter at the end of the disk.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self
            .length_bytes()
            .min(offset.saturating_add(length as u64));
        let mut found = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let (number, from) = place(at);
            let to = BLOCK_BYTES.min(from + (end - at) as usize);
            match &self.blocks[number] {
                Some(block) => found.extend_from_slice(&block[from..to]),
                None => found.resize(found.len() + to - from, 0),
            }
            at += (to - from) as u64;
        }
        found
    }

    /// Writes what fits on the disk; how much that is.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let fits = self
            .length_bytes()
            .saturating_sub(offset)
            .min(bytes.len() as u64) as usize;
        let mut done = 0;
        while done < fits {
            let (number, from) = place(offset + done as u64);
            let length = (BLOCK_BYTES - from).min(fits - done);
            let block = self.blocks[number].get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(block)[from..from + length].copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
        fits
    }
}

fn place(offset: u64) -> (usize, usize) {
    let block = BLOCK_BYTES as u64;
    ((offset / block) as usize, (offset % block) as usize)
}

/// What is left, when the power goes, of what was written since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// Everything: the cache was empty just then.
    Everything,
    /// The first writes, and a part of the one that was under way.
    Prefix,
    /// Any sectors of any writes.
    Some,
}

impl Kept {
    /// Every kind.
    pub const ALL: [Kept; 4] = [Kept::Nothing, Kept::Everything, Kept::Prefix, Kept::Some];
}

/// A disk after a power cut.
#[derive(Debug, Clone)]
pub struct Cut {
    /// What the next boot finds.
    pub image: DiskImage,
    /// Writes that were in the cache.
    pub cached_writes: u64,
    /// Sectors of these writes.
    pub cached_sectors: u64,
    /// Those of them that are there.
    pub kept_sectors: u64,
}

struct Write {
    offset: u64,
    bytes: Vec<u8>,
}

/// A disk and its write cache, without anything around it.
pub struct WriteCache {
    live: DiskImage,
    durable: DiskImage,
    /// Since the last flush, oldest first.
    cached: Vec<Write>,
    cached_bytes: usize,
    flushes: u64,
}

impl WriteCache {
    /// A disk that holds this, with nothing in its cache.
    pub fn new(image: DiskImage) -> Self {
        WriteCache {
            live: image.clone(),
            durable: image,
            cached: Vec::new(),
            cached_bytes: 0,
            flushes: 0,
        }
    }

    /// What whoever uses the disk reads.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        self.live.read(offset, length)
    }

    /// Into the cache; how much of it fits on the disk.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> usize {
        let fits = self.live.write(offset, bytes);
        self.cached_bytes += fits;
        let bytes = bytes[..fits].to_vec();
        self.cached.push(Write { offset, bytes });
        if self.cached_bytes > CACHE_BYTES_MAX {
            let oldest = self.cached.len().div_ceil(2);
            for write in self.cached.drain(..oldest) {
                self.cached_bytes -= write.bytes.len();
                self.durable.write(write.offset, &write.bytes);
            }
        }
        fits
    }

    /// What was written stays from here on.
    pub fn flush(&mut self) {
        // A copy of 8 bytes a block: cheaper than to write each block again.
        self.durable = self.live.clone();
        self.cached.clear();
        self.cached_bytes = 0;
        self.flushes += 1;
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// What is there if the power goes now; this disk goes on. Sectors of `sector_bytes`, [`BLOCK_BYTES`] or
    /// [`SECTOR_BYTES`], are written whole or not at all. `below` gives random numbers below its argument.
    pub fn cut(&self, kept: Kept, sector_bytes: usize, below: &mut dyn FnMut(u64) -> u64) -> Cut {
        let mut cut = Cut {
            image: self.durable.clone(),
            cached_writes: self.cached.len() as u64,
            cached_sectors: 0,
            kept_sectors: 0,
        };
        // The write that was under way, for the kind that has one.
        let last = below(self.cached.len() as u64 + 1) as usize;
        // Few of them, or most.
        let percent = 5 + below(91);
        for (number, write) in self.cached.iter().enumerate() {
            let mut is_under_way = true;
            let mut done = 0;
            while done < write.bytes.len() {
                let at = write.offset + done as u64;
                let to_end = sector_bytes - (at % sector_bytes as u64) as usize;
                let length = to_end.min(write.bytes.len() - done);
                let is_kept = match kept {
                    Kept::Nothing => false,
                    Kept::Everything => true,
                    Kept::Some => below(100) < percent,
                    Kept::Prefix => {
                        is_under_way &= number < last || below(2) == 0;
                        number <= last && is_under_way
                    }
                };
                cut.cached_sectors += 1;
                if is_kept {
                    cut.kept_sectors += 1;
                    cut.image.write(at, &write.bytes[done..done + length]);
                }
                done += length;
            }
        }
        cut
    }
}

/// A file system with one file, which behaves as such a disk. Unmounted when it is dropped.
///
/// ```no_run
/// use millpond_faultfs::{DiskImage, Kept, BLOCK_BYTES, VolatileDisk};
/// # let dir = std::path::Path::new("/mnt");
/// let disk = VolatileDisk::mount(dir, DiskImage::zeros(64 << 20))?;
/// // mkfs.ext4 and `mount -o loop` on disk.path(), a load, and then:
/// let cut = disk.cut(Kept::Some, BLOCK_BYTES, &mut |end| end / 2);
/// println!("{} of {} sectors are there", cut.kept_sectors, cut.cached_sectors);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct VolatileDisk {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl VolatileDisk {
    /// Shows a disk that holds `image` as `dir/disk.img`. Takes memory for what is not zeros, and a thread.
    ///
    /// # Errors
    /// There is no FUSE here, or this user may not mount.
    pub fn mount(dir: &Path, image: DiskImage) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(State {
            cache: WriteCache::new(image),
            alarm: None,
        }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("millpond-volatile".to_owned())];
        let files = OneFile {
            state: Arc::clone(&state),
        };
        let session = fuser::spawn_mount(files, dir, &config)?;
        Ok(VolatileDisk {
            state,
            path: dir.join(IMAGE_NAME),
            session: Some(session),
        })
    }

    /// The file that is the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        lock(&self.state).cache.flushes()
    }

    /// What is there if the power goes now: see [`WriteCache::cut`]. No write and no flush is half done.
    pub fn cut(&self, kept: Kept, sector_bytes: usize, below: &mut dyn FnMut(u64) -> u64) -> Cut {
        lock(&self.state).cache.cut(kept, sector_bytes, below)
    }

    /// Calls `then` once, when so many writes and flushes were made from now on: right behind a write, or right
    /// before a flush. The disk stands still meanwhile. A second alarm takes the place of the first.
    pub fn after(&self, operations: u64, then: impl FnOnce(&WriteCache) + Send + 'static) {
        lock(&self.state).alarm = Some((operations, Box::new(then)));
    }
}

impl Drop for VolatileDisk {
    fn drop(&mut self) {
        // A loop device lets go of the file a little later than the file system on it is unmounted: out of sight at
        // once, and the thread ends with the last user.
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let _ = rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

struct State {
    cache: WriteCache,
    /// Called after so many operations.
    alarm: Option<(u64, Alarm)>,
}

type Alarm = Box<dyn FnOnce(&WriteCache) + Send>;

impl State {
    /// An operation more.
    fn tick(&mut self) {
        match self.alarm.take() {
            Some((0, then)) => then(&self.cache),
            Some((left, then)) => self.alarm = Some((left - 1, then)),
            None => {}
        }
    }
}

/// Whoever panicked with it has left a disk with a write more or less.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct OneFile {
    state: Arc<Mutex<State>>,
}

impl OneFile {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            IMAGE_INODE => {
                let size = lock(&self.state).cache.live.length_bytes();
                (FileType::RegularFile, 0o600, size)
            }
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / SECTOR_BYTES as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES as u32,
            flags: 0,
        })
    }

    fn reply(&self, inode: INodeNo, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let is_image = parent == INodeNo::ROOT && name == IMAGE_NAME;
        match self.attributes(IMAGE_INODE).filter(|_| is_image) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.reply(inode, reply);
    }

    /// Nothing about it changes; whoever asks is told how it is.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.reply(inode, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let found = lock(&self.state).cache.read(offset, size as usize);
        reply.data(&found);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = lock(&self.state);
        let written = state.cache.write(offset, data);
        state.tick();
        drop(state);
        match written {
            0 if !data.is_empty() => reply.error(Errno::ENOSPC),
            written => reply.written(written as u32),
        }
    }

    /// Each `close`: no flush of the disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = lock(&self.state);
        state.tick();
        state.cache.flush();
        drop(state);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (IMAGE_INODE, FileType::RegularFile, IMAGE_NAME),
        ];
        for (number, (inode, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
            if reply.add(inode, number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    /// A disk with a flushed block of 1s, and three blocks of 2s, 3s and 4s in its cache, the first over the 1s.
    fn disk() -> WriteCache {
        let mut disk = WriteCache::new(DiskImage::zeros(SIZE));
        disk.write(0, &[1; BLOCK_BYTES]);
        disk.flush();
        for number in 0..3 {
            disk.write(
                number * BLOCK_BYTES as u64,
                &[2 + number as u8; BLOCK_BYTES],
            );
        }
        disk
    }

    fn first_bytes(image: &DiskImage) -> [u8; 3] {
        [0, 1, 2].map(|number| image.read(number * BLOCK_BYTES as u64, 1)[0])
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_as_the_kind_says() {
        let disk = disk();
        let cut = |kept, numbers: &[u64]| {
            let mut numbers = numbers.iter().copied();
            let mut below = |_| numbers.next().unwrap_or_default();
            let cut = disk.cut(kept, BLOCK_BYTES, &mut below);
            (first_bytes(&cut.image), cut.kept_sectors)
        };
        assert_eq!(cut(Kept::Nothing, &[]), ([1, 0, 0], 0));
        assert_eq!(cut(Kept::Everything, &[]), ([2, 3, 4], 3));
        // The write that was under way, the share that is kept (5 %), then a number for each sector.
        assert_eq!(cut(Kept::Some, &[0, 0, 99, 0, 99]), ([1, 3, 0], 1));
        assert_eq!(cut(Kept::Prefix, &[2, 0, 1]), ([2, 3, 0], 2));
        assert_eq!(cut(Kept::Prefix, &[2, 0, 0]), ([2, 3, 4], 3));
        let whole = DiskImage {
            blocks: disk.live.blocks.clone(),
        };
        assert_eq!(first_bytes(&whole), [2, 3, 4]);
    }

    #[test]
    fn a_write_may_be_torn_between_any_two_sectors() {
        let mut disk = WriteCache::new(DiskImage::zeros(SIZE));
        disk.write(100, &[7; 2 * SECTOR_BYTES]);
        let mut numbers = [0, 0, 99, 0, 99].into_iter();
        let mut below = |_| numbers.next().expect("three sectors are touched");
        let cut = disk.cut(Kept::Some, SECTOR_BYTES, &mut below);
        assert_eq!((cut.cached_sectors, cut.kept_sectors), (3, 1));
        let found = cut.image.read(0, 3 * SECTOR_BYTES);
        let kept = SECTOR_BYTES..2 * SECTOR_BYTES;
        for (at, &byte) in found.iter().enumerate() {
            assert_eq!(byte, if kept.contains(&at) { 7 } else { 0 }, "{at}");
        }
    }

    #[test]
    fn the_oldest_writes_leave_a_cache_that_is_full() {
        let mut disk = WriteCache::new(DiskImage::zeros(2 * CACHE_BYTES_MAX as u64));
        let piece = vec![9; 1 << 20];
        for number in 0..=CACHE_BYTES_MAX as u64 >> 20 {
            disk.write(number << 20, &piece);
        }
        let cut = disk.cut(Kept::Nothing, BLOCK_BYTES, &mut |_| 0);
        assert_eq!(cut.image.read(0, 1), [9]);
        assert_eq!(cut.image.read(CACHE_BYTES_MAX as u64, 1), [0]);
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut disk = WriteCache::new(DiskImage::zeros(SIZE));
        assert_eq!(disk.write(SIZE - 10, &[1; 100]), 10);
        assert_eq!(
            disk.read(SIZE - 12, 100),
            [[0, 0].as_slice(), &[1; 10]].concat()
        );
        assert_eq!(disk.write(SIZE + 5, &[1]), 0);
    }
}
