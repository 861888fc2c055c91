//! The command, whichever way it was started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child as Process, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use crate::error::Error;
use crate::pty::{Report, Running, failed};
use crate::session::{CommandSpec, Exit};

pub(crate) enum Child {
    /// On a terminal of its own.
    OnTerminal(Running),
    /// With pipes.
    Plain {
        process: Process,
        pid: Pid,
        /// Readable when it has ended; `None` where no handle was left for it.
        ended: Option<OwnedFd>,
        /// It leads a process group of its own.
        is_leader: bool,
    },
}

impl Child {
    /// Starts it with pipes. `shares_terminal`: it stays in our process group, since it reads our terminal.
    pub(crate) fn with_pipes(
        command: &CommandSpec,
        input: Stdio,
        out: OwnedFd,
        err: OwnedFd,
        shares_terminal: bool,
    ) -> Result<Self, Error> {
        let mut prepared = command.prepare();
        prepared.stdin(input).stdout(out).stderr(err);
        if !shares_terminal {
            prepared.process_group(0);
        }
        let process = prepared.spawn().map_err(|error| command.explain(&error))?;
        let no_pid = || failed("asking for a process id", io::ErrorKind::Other);
        let pid = Pid::from_raw(process.id().cast_signed()).ok_or_else(no_pid)?;
        // It runs already: without the handle it is looked at every now and then.
        let ended = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok(Child::Plain {
            process,
            pid,
            ended,
            is_leader: !shares_terminal,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        match self {
            Child::OnTerminal(running) => running.group(),
            Child::Plain { pid, .. } => *pid,
        }
    }

    /// Readable when [`Child::report`] has something; `None`: nothing tells, so ask.
    pub(crate) fn changed(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Child::OnTerminal(running) => Some(running.status()),
            Child::Plain { ended, .. } => ended.as_ref().map(AsFd::as_fd),
        }
    }

    /// What has become of it, if anything. Does not wait.
    ///
    /// # Errors
    /// It has ended, and somebody else was told how.
    pub(crate) fn report(&mut self) -> io::Result<Option<Report>> {
        match self {
            Child::OnTerminal(running) => running.next_report(),
            Child::Plain { process, .. } => {
                let status = process.try_wait()?;
                Ok(status.map(|status| Report::Ended(exit(status))))
            }
        }
    }

    /// To its process group; to it alone where that group is ours, or where a signal means whatever a program says:
    /// those that it started would die of it. It may have ended: then it is nobody's.
    pub(crate) fn signal(&self, signal: Signal) {
        let shares_group = matches!(
            self,
            Child::Plain {
                is_leader: false,
                ..
            }
        );
        let is_private = signal == Signal::USR1 || signal == Signal::USR2;
        let _ = match shares_group || is_private {
            true => kill_process(self.pid(), signal),
            false => kill_process_group(self.pid(), signal),
        };
    }
}

fn exit(status: ExitStatus) -> Exit {
    match status.signal() {
        Some(signal) => Exit::Signal(signal as u8),
        None => Exit::Code(status.code().unwrap_or_default() as u8),
    }
}
