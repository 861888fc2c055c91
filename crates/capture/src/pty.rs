//! Pseudo terminals. The one module with `unsafe`.
//!
//! A command gets a session of its own with the terminal as its controlling one, and in front of it a *leader*: a
//! process that does nothing but wait for it and tell what becomes of it. The leader is there because of Ctrl-Z: the
//! kernel stops a process by its terminal only where its parent is in the same session and another process group (a
//! shell that could continue it). And since the leader takes the foreground back before it goes, those whom the
//! command started and left behind are not hung up on, as they are not behind a shell.
//!
//! ```text
//!   capture ──master──▶ terminal ◀── leader: own session, ◀── command: own group, foreground
//!      ▲                             all signals blocked
//!      └───────────status pipe────────────┘
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpgrp, getpid, ioctl_tiocsctty, kill_process_group, setpgid,
    setsid, waitpid,
};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    LocalModes, OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetpgrp,
    tcsetwinsize,
};

use crate::error::{Error, ErrorKind};
use crate::session::{CommandSpec, Exit};

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for WindowSize {
    /// 80 columns, 24 rows: where nobody has a terminal.
    fn default() -> Self {
        WindowSize {
            columns: 80,
            rows: 24,
        }
    }
}

/// The size of a terminal; `None` where it is none, or says that it has no columns or rows.
pub(crate) fn window_size(terminal: impl AsFd) -> Option<WindowSize> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(WindowSize {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}

/// A pseudo terminal, seen from the side where the person sits: what is written is typed, what is read is shown.
///
/// Reads and writes block. A read fails with `EIO` when the last process that had the terminal open is gone.
///
/// ```
/// use std::io::Read;
/// use millpond_capture::{CommandSpec, Exit, Pty, WindowSize};
/// let terminal = Pty::open(WindowSize { columns: 100, rows: 30 })?;
/// let mut command = terminal.spawn(&CommandSpec {
///     program: "stty".into(),
///     arguments: vec!["size".into()],
///     ..CommandSpec::default()
/// })?;
/// let mut shown = [0; 8];
/// (&terminal).read_exact(&mut shown)?;
/// assert_eq!(&shown, b"30 100\r\n");
/// assert_eq!(command.wait()?, Exit::Code(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pty {
    master: File,
}

impl Pty {
    /// Makes one.
    ///
    /// # Errors
    /// There are as many as the kernel allows, or no file handle is left.
    pub fn open(size: WindowSize) -> Result<Self, Error> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).map_err(no_terminal)?;
        grantpt(&master).map_err(no_terminal)?;
        unlockpt(&master).map_err(no_terminal)?;
        let pty = Pty {
            master: File::from(master),
        };
        pty.resize(size)?;
        Ok(pty)
    }

    /// Starts a command on it: standard input, output and error are the terminal, which is its controlling one.
    ///
    /// It has the environment of this process, no file handles of it, no signals blocked, and those ignored that this
    /// process was started with.
    ///
    /// # Errors
    /// As [`crate::Capture::run`].
    pub fn spawn(&self, command: &CommandSpec) -> Result<Running, Error> {
        self.spawn_with_input(command, None)
    }

    /// As [`Pty::spawn`], with another standard input.
    pub(crate) fn spawn_with_input(
        &self,
        command: &CommandSpec,
        input: Option<Stdio>,
    ) -> Result<Running, Error> {
        let slave = self
            .slave()
            .map_err(|error| failed("opening its terminal", error))?;
        let handle = || {
            slave
                .try_clone()
                .map_err(|error| failed("a file handle", error))
        };
        let (status, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failed("a pipe", error))?;
        let mut prepared = command.prepare();
        prepared
            .stdin(match input {
                Some(input) => input,
                None => handle()?.into(),
            })
            .stdout(handle()?)
            .stderr(handle()?);
        let terminal = handle()?;
        let lead = move || lead(&terminal, &told);
        // SAFETY: `lead` runs between fork and exec, in a process with this one thread. It makes system calls only: it
        // allocates nothing, takes no lock and reads no memory that another thread may have been writing to.
        unsafe { prepared.pre_exec(lead) };
        let leader = prepared.spawn().map_err(|error| command.explain(&error))?;
        // Only the leader tells from here on, and with its end the pipe ends.
        drop(prepared);
        let mut running = Running {
            leader,
            status,
            pid: None,
            exit: None,
        };
        loop {
            match running.next_report() {
                Ok(Some(Report::Started(pid))) => {
                    running.pid = Some(pid);
                    return Ok(running);
                }
                // A signal came in between.
                Ok(None) => {}
                // Killed before its first word. Its session, and so the command, is hung up on with it.
                Ok(Some(_)) | Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Other,
                        "the leader of the session was killed before the command was there",
                    ));
                }
            }
        }
    }

    /// Its size from now on. Who has it in front is told with SIGWINCH.
    ///
    /// # Errors
    /// None that is known.
    pub fn resize(&self, size: WindowSize) -> Result<(), Error> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size)
            .map_err(|error| failed("setting the size of a terminal", error))
    }

    /// Its size from now on is that of another terminal, with the size of the characters. `None` where that one says
    /// that it has no columns or rows.
    pub(crate) fn resize_as(&self, other: impl AsFd) -> Option<WindowSize> {
        let size = tcgetwinsize(&other).ok()?;
        let known = window_size(other)?;
        tcsetwinsize(&self.master, size).ok()?;
        Some(known)
    }

    /// Whether what is typed is shown by the terminal itself: not while a password is asked for, nor in a program
    /// that reads single keys.
    ///
    /// # Errors
    /// None that is known.
    pub fn is_echoing(&self) -> Result<bool, Error> {
        let modes = self
            .modes()
            .map_err(|error| failed("asking for terminal modes", error))?;
        Ok(modes.local_modes.contains(LocalModes::ECHO))
    }

    /// The modes of the terminal, as its programs have set them.
    pub(crate) fn modes(&self) -> Result<Termios, Errno> {
        tcgetattr(&self.master)
    }

    pub(crate) fn set_modes(&self, modes: &Termios) -> Result<(), Errno> {
        tcsetattr(&self.master, OptionalActions::Now, modes)
    }

    fn slave(&self) -> Result<OwnedFd, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        ioctl_tiocgptpeer(&self.master, flags)
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl Read for &Pty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.master).read(buffer)
    }
}

impl Write for &Pty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.master).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A command on a [`Pty`].
#[derive(Debug)]
pub struct Running {
    leader: Child,
    status: OwnedFd,
    pid: Option<Pid>,
    exit: Option<Exit>,
}

/// What the leader tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Started(Pid),
    /// By this signal.
    Stopped(i32),
    Ended(Exit),
}

impl Running {
    /// Its process, and its process group.
    pub fn pid(&self) -> u32 {
        self.group().as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// None that is known.
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.exit {
                return Ok(exit);
            }
            self.next_report()?;
        }
    }

    pub(crate) fn group(&self) -> Pid {
        // It is set before anybody gets to see this.
        self.pid.unwrap_or_else(getpid)
    }

    /// Readable when there is a report.
    pub(crate) fn status(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }

    /// Waits for the next report; `None` for one that says nothing.
    pub(crate) fn next_report(&mut self) -> io::Result<Option<Report>> {
        let mut record = [0; RECORD_BYTES];
        let report = match rustix::io::read(&self.status, &mut record) {
            Ok(RECORD_BYTES) => read_record(record),
            // Killed: nobody will ever know better.
            Ok(_) => Some(Report::Ended(Exit::Signal(Signal::KILL.as_raw() as u8))),
            // AGAIN: where it was made not to wait.
            Err(Errno::INTR | Errno::AGAIN) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(Report::Ended(exit)) = report {
            self.exit = Some(exit);
            // Its end is known already; where SIGCHLD is ignored, the kernel has taken it away.
            let _ = self.leader.wait();
        }
        Ok(report)
    }
}

const RECORD_BYTES: usize = 8;

fn read_record(record: [u8; RECORD_BYTES]) -> Option<Report> {
    let [kind, _, _, _, value @ ..] = record;
    let value = i32::from_le_bytes(value);
    match kind {
        b'p' => Some(Report::Started(Pid::from_raw(value)?)),
        b's' => Some(Report::Stopped(value)),
        b'x' => Some(Report::Ended(Exit::Code(value as u8))),
        b'k' => Some(Report::Ended(Exit::Signal(value as u8))),
        _ => None,
    }
}

fn tell(kind: u8, value: i32) {
    let [a, b, c, d] = value.to_le_bytes();
    // Who listened may be gone; then there is nobody to tell.
    let _ = rustix::io::write(rustix::stdio::stdout(), &[kind, 0, 0, 0, a, b, c, d]);
}

/// Between fork and exec: makes the session, and splits into its leader, who never returns, and what becomes the
/// command.
fn lead(terminal: &OwnedFd, told: &OwnedFd) -> io::Result<()> {
    setsid()?;
    ioctl_tiocsctty(terminal)?;
    // The leader is deaf to all but what it waits for, and the command to SIGTTOU until it is in the foreground.
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it is given room for a set, and fills it in.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set was filled in above; there is room for the old one.
    let masked = unsafe { libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    if masked != 0 {
        return Err(io::Error::last_os_error());
    }
    // Who starts us may ignore it, and then nobody is told what became of a child.
    // SAFETY: the default is no function of ours.
    let child_before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    // SAFETY: this process has one thread, which goes on on both sides with system calls alone.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            setpgid(None, None)?;
            tcsetpgrp(terminal, getpid())?;
            if child_before == libc::SIG_IGN {
                // SAFETY: ignoring is no function of ours.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            }
            // SAFETY: `before` was filled in when the mask was set.
            unsafe { libc::sigprocmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
            Ok(())
        }
        child => match Pid::from_raw(child) {
            Some(child) => be_leader(child, terminal, told),
            None => Err(io::Error::from_raw_os_error(libc::ECHILD)),
        },
    }
}

/// Tells what becomes of the command until it has ended.
fn be_leader(command: Pid, terminal: &OwnedFd, told: &OwnedFd) -> ! {
    // Whatever else is open is somebody's: the far end of a pipe, the sign of life of a publisher.
    let _ = rustix::stdio::dup2_stdin(terminal);
    let _ = rustix::stdio::dup2_stdout(told);
    // SAFETY: handles 2 and up are closed, and nothing in this process uses one from here on: it only leaves by _exit.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 2u32, u32::MAX, 0u32) };
    if closed != 0 {
        // Before Linux 5.9.
        for handle in 2..libc::c_int::from(u16::MAX) {
            // SAFETY: as above.
            unsafe { libc::close(handle) };
        }
    }
    let _ = rustix::thread::set_name(c"millpond-leader");
    tell(b'p', command.as_raw_nonzero().get());

    let mut wanted = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it is given room for a set, and makes an empty one.
    unsafe { libc::sigemptyset(wanted.as_mut_ptr()) };
    // SAFETY: the set was made above.
    unsafe { libc::sigaddset(wanted.as_mut_ptr(), libc::SIGCHLD) };
    // SAFETY: the set was made above.
    unsafe { libc::sigaddset(wanted.as_mut_ptr(), libc::SIGHUP) };
    loop {
        // First a look, then the wait: a change in between left its signal pending.
        while let Ok(Some((_, status))) =
            waitpid(Some(command), WaitOptions::NOHANG | WaitOptions::UNTRACED)
        {
            if let Some(signal) = status.stopping_signal() {
                tell(b's', signal);
                continue;
            }
            // When a session's leader goes, the kernel hangs up on who is in the foreground: be that ourselves.
            let _ = tcsetpgrp(rustix::stdio::stdin(), getpgrp());
            match status.terminating_signal() {
                Some(signal) => tell(b'k', signal),
                None => tell(b'x', status.exit_status().unwrap_or_default()),
            }
            // SAFETY: ends this process without running what its parent had registered to be run at its end.
            unsafe { libc::_exit(0) }
        }
        // SAFETY: the set was made above; no details are asked for.
        let signal = unsafe { libc::sigwaitinfo(wanted.as_ptr(), std::ptr::null_mut()) };
        if signal == libc::SIGHUP {
            // The terminal is gone. The kernel tells its leader alone, who would have died of it.
            let _ = kill_process_group(command, Signal::HUP);
            let _ = kill_process_group(command, Signal::CONT);
        }
    }
}

impl CommandSpec {
    pub(crate) fn prepare(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Why it did not start.
    pub(crate) fn explain(&self, error: &io::Error) -> Error {
        let program = self.program.to_string_lossy();
        if let Some(directory) = self
            .directory
            .as_ref()
            .filter(|directory| !directory.is_dir())
        {
            let shown = directory.display();
            return Error::new(
                ErrorKind::Other,
                format!("there is no directory {shown} to start {program:?} in"),
            );
        }
        let is_path = AsRef::<OsStr>::as_ref(&self.program)
            .as_encoded_bytes()
            .contains(&b'/');
        let errno = error.raw_os_error().unwrap_or_default();
        match errno {
            libc::ENOENT if is_path && std::path::Path::new(&self.program).exists() => Error::new(
                ErrorKind::CommandNotFound,
                format!(
                    "{program:?} is there, but not the interpreter that its first line or its header names"
                ),
            ),
            libc::ENOENT | libc::ENOTDIR if is_path => Error::new(
                ErrorKind::CommandNotFound,
                format!("there is no command {program:?}"),
            ),
            libc::ENOENT => Error::new(
                ErrorKind::CommandNotFound,
                format!("there is no command {program:?} in PATH"),
            ),
            libc::EACCES | libc::EISDIR => Error::new(
                ErrorKind::CommandNotExecutable,
                format!(
                    "{program:?} cannot be executed: no permission (`chmod +x` it), or it is a directory"
                ),
            ),
            libc::ENOEXEC => Error::new(
                ErrorKind::CommandNotExecutable,
                format!(
                    "{program:?} cannot be executed: it is no program, and no script with a `#!` line"
                ),
            ),
            libc::ETXTBSY | libc::ELIBBAD | libc::EPERM | libc::E2BIG => Error::new(
                ErrorKind::CommandNotExecutable,
                format!("{program:?} cannot be executed: {error}"),
            ),
            _ => Error::new(
                ErrorKind::Other,
                format!("{program:?} was not started: {error}"),
            ),
        }
    }
}

pub(crate) fn failed(what: &str, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    Error::new(ErrorKind::Other, format!("{what} failed: {error}"))
}

fn no_terminal(error: Errno) -> Error {
    // AGAIN: all that its devpts was mounted with (`max=N`).
    if error != Errno::NOSPC && error != Errno::AGAIN {
        return failed("making a terminal", error);
    }
    let limit = std::fs::read_to_string("/proc/sys/kernel/pty/max").unwrap_or_default();
    let message = format!(
        "no terminal is left: the kernel allows {} of them; raise it with `sysctl kernel.pty.max=N`, or capture with \
         pipes (`--pipe`)",
        limit.trim()
    );
    Error::new(ErrorKind::Other, message)
}
