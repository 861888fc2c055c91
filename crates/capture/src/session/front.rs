//! Who is in front: the keys of a terminal, and where output goes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// While so much waits to be written, the command is not read: it waits for who is in front, as it would without us.
const PENDING_BYTES_MAX: usize = 64 << 10;

/// Whom we write for is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Nobody reads the pipe.
    Reader,
    /// The terminal was closed.
    Terminal,
    /// The disk is full, or the like.
    Failed(Errno),
}

/// The keys of the terminal in front: in raw mode while we have them, and as it was before when we are done.
pub(crate) struct Keyboard {
    handle: OwnedFd,
    /// Standard input is something else: the terminal is that of standard output, whose keys a command asks for by
    /// opening `/dev/tty`, as a pager behind a pipe does.
    is_aside: bool,
    /// What we write goes to a terminal that leaves newlines to us while we have its keys.
    shows_output: bool,
    /// As it was.
    before: Termios,
    is_raw: bool,
}

impl Keyboard {
    /// Standard input, where it is a terminal; else the controlling terminal, where standard output is one.
    pub(crate) fn find() -> Option<Self> {
        let shows_output = isatty(stdout());
        let is_aside = !isatty(stdin());
        let handle = match is_aside {
            false => stdin().try_clone_to_owned().ok()?,
            true if shows_output => {
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                open("/dev/tty", flags, Mode::empty()).ok()?
            }
            true => return None,
        };
        let before = tcgetattr(&handle).ok()?;
        Some(Keyboard {
            handle,
            is_aside,
            shows_output,
            before,
            is_raw: false,
        })
    }

    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    pub(crate) fn modes(&self) -> &Termios {
        &self.before
    }

    /// Whether it is not standard input, so that keys are taken only when the command reads keys.
    pub(crate) fn is_aside(&self) -> bool {
        self.is_aside
    }

    /// Whether keys are ours to read now.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_raw
    }

    /// Takes the keys, where this process is in the foreground. In the background, the keys are the shell's.
    pub(crate) fn take(&mut self) {
        if !self.is_in_foreground() {
            self.is_raw = false;
            return;
        }
        if !self.is_raw {
            match tcgetattr(&self.handle) {
                Ok(modes) => self.before = modes,
                Err(_) => return,
            }
        }
        let mut raw = self.before.clone();
        raw.make_raw();
        if !self.shows_output {
            // What others write to it, such as the end of our pipeline, has newlines as ever.
            raw.output_modes = self.before.output_modes;
        }
        // Nothing typed before is thrown away: it is for the command.
        self.is_raw = tcsetattr(&self.handle, OptionalActions::Now, &raw).is_ok();
    }

    /// Gives them back.
    pub(crate) fn restore(&mut self) {
        if std::mem::take(&mut self.is_raw) && self.is_in_foreground() {
            // It may be closed by now, and then there is nothing to restore.
            let _ = tcsetattr(&self.handle, OptionalActions::Now, &self.before);
        }
    }

    /// A terminal that is not our controlling one has no foreground as far as we are concerned.
    fn is_in_foreground(&self) -> bool {
        tcgetpgrp(&self.handle).map_or(true, |group| group == getpgrp())
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.restore();
    }
}

/// Standard output or error, written to without ever waiting.
pub(crate) struct Output {
    handle: OwnedFd,
    is_terminal: bool,
    /// The most bytes of one write, where a write could wait; then only when it is said to be ready.
    careful_bytes: Option<usize>,
    pending: Vec<u8>,
    /// Of those, written.
    written: usize,
}

impl Output {
    pub(crate) fn new(handle: BorrowedFd<'static>) -> io::Result<Self> {
        let is_terminal = isatty(handle);
        let kind = FileType::from_raw_mode(fstat(handle)?.st_mode);
        // O_NONBLOCK would be set for everybody who shares the handle. Opened anew, it is ours alone.
        let anew = match is_terminal || kind == FileType::Fifo {
            true => {
                use std::os::fd::AsRawFd;
                let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                open(path, flags, Mode::empty()).ok()
            }
            false => None,
        };
        let never_waits = anew.is_some() || matches!(kind, FileType::RegularFile | FileType::BlockDevice)
            // The null device and its like.
            || (kind == FileType::CharacterDevice && !is_terminal);
        let careful_bytes = match kind {
            _ if never_waits => None,
            // What a pipe that is ready takes without waiting.
            FileType::Fifo => Some(4096),
            _ => Some(256),
        };
        Ok(Output {
            handle: match anew {
                Some(handle) => handle,
                None => handle.try_clone_to_owned()?,
            },
            is_terminal,
            careful_bytes,
            pending: Vec::new(),
            written: 0,
        })
    }

    /// Whether a write returns at once, ready or not.
    pub(crate) fn never_waits(&self) -> bool {
        self.careful_bytes.is_none()
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.written < self.pending.len()
    }

    /// Whether more can be taken in.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() - self.written < PENDING_BYTES_MAX
    }

    /// Writes what can be written now, and keeps the rest.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        if !self.has_pending() && self.careful_bytes.is_none() {
            let count = write_some(self.handle.as_fd(), bytes)?;
            bytes = &bytes[count..];
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// It is ready: writes on.
    pub(crate) fn write_pending(&mut self) -> Result<(), Gone> {
        let rest = &self.pending[self.written..];
        let part = match self.careful_bytes {
            Some(most) => &rest[..rest.len().min(most)],
            None => rest,
        };
        self.written += write_some(self.handle.as_fd(), part)?;
        if self.written == self.pending.len() {
            self.pending.clear();
            self.written = 0;
        } else if self.written >= PENDING_BYTES_MAX {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}

/// Writes until that would wait.
fn write_some(handle: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Gone> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(handle, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE) => return Err(Gone::Reader),
            Err(Errno::IO | Errno::NXIO) if isatty(handle) => return Err(Gone::Terminal),
            Err(error) => return Err(Gone::Failed(error)),
        }
    }
    Ok(written)
}
