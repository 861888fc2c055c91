//! A terminal in front of a command: what a terminal program or an SSH server is to those who sit at it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize,
};

use crate::error::Error;
use crate::process::{Arguments, Host};

/// A command that runs with a terminal of ours as its controlling one. Killed when it is dropped.
///
/// ```no_run
/// use std::io::Read;
/// use millpond_loadgen::{Host, Terminal};
/// let host = Host::current()?;
/// let mut terminal = Terminal::start(&host, (80, 24), &[], &["tty"])?;
/// let mut text = Vec::new();
/// terminal.read_to_end(&mut text)?;
/// assert!(text.ends_with(b"\r\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Terminal {
    /// Reading it is what the command writes, writing it is typing.
    near: File,
    child: Child,
}

impl Terminal {
    /// Starts `words` on a new terminal of (columns, rows), with these variables in its environment.
    ///
    /// # Errors
    /// No terminal is left, or the command cannot be started.
    pub fn start(
        host: &Host,
        size: (u16, u16),
        environment: &[(&str, &OsStr)],
        words: &[impl AsRef<OsStr>],
    ) -> Result<Self, Error> {
        Self::start_with(host, size, environment, words, &|_| {})
    }

    /// The same, with other attributes of the terminal than a new one has.
    ///
    /// # Errors
    /// See [`Terminal::start`].
    pub fn start_with(
        host: &Host,
        size: (u16, u16),
        environment: &[(&str, &OsStr)],
        words: &[impl AsRef<OsStr>],
        attributes: &dyn Fn(&mut Termios),
    ) -> Result<Self, Error> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let near = openpt(flags).map_err(io::Error::from)?;
        grantpt(&near).map_err(io::Error::from)?;
        unlockpt(&near).map_err(io::Error::from)?;
        let far = File::from(ioctl_tiocgptpeer(&near, flags).map_err(io::Error::from)?);
        let mut wanted = tcgetattr(&far).map_err(io::Error::from)?;
        attributes(&mut wanted);
        tcsetattr(&far, OptionalActions::Now, &wanted).map_err(io::Error::from)?;
        set_size(&near, size)?;
        // Somebody between has to begin a session and take the terminal for it: that is the role.
        let mut command = host.command("on-terminal");
        command.args(words).envs(environment.iter().copied());
        command.stdin(far.try_clone()?).stdout(far.try_clone()?);
        let child = command.stderr(Stdio::from(far)).spawn()?;
        Ok(Terminal {
            near: File::from(near),
            child,
        })
    }

    /// Number of the command's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it another size; the command is told by SIGWINCH.
    ///
    /// # Errors
    /// Of the system.
    pub fn resize(&self, size: (u16, u16)) -> io::Result<()> {
        set_size(&self.near, size)
    }

    /// Whether there is something to read, or its end, within this time.
    ///
    /// # Errors
    /// Of the system.
    pub fn wait_readable(&self, limit: Duration) -> io::Result<bool> {
        readable_within(&self.near, limit)
    }

    /// Waits for the end of the command. Its output has to be read to the end before: it may wait for that.
    ///
    /// # Errors
    /// Of the system.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

fn set_size(near: impl AsFd, (columns, rows): (u16, u16)) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(near, size)?)
}

/// Whether a file handle has something to read within this time; a signal ends the waiting too.
pub(crate) fn readable_within(handle: impl AsFd, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&handle, PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// No newline becomes two characters.
pub fn without_carriage_returns(attributes: &mut Termios) {
    attributes.output_modes.remove(OutputModes::ONLCR);
}

impl Read for Terminal {
    /// 0: the command, and whoever else had the terminal, is gone.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.near.read(buffer) {
            // EIO: nobody has the other end open.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Ok(0)
            }
            outcome => outcome,
        }
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.near.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `COMMAND ARGUMENT ..`: takes the terminal that is standard input as the controlling one, and becomes the command.
pub(crate) fn on_terminal_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    rustix::process::setsid().map_err(io::Error::from)?;
    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).map_err(io::Error::from)?;
    let (program, rest) = (arguments.words().split_first())
        .ok_or_else(|| Error::new("on-terminal needs a command"))?;
    let error = Command::new(program).args(rest).exec();
    Err(Error::new(format!(
        "{program} cannot be started on a terminal: {error}"
    )))
}
