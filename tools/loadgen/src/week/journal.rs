//! The same lines in a file of the systemd journal. Lines of the past come into one only through
//! `systemd-journal-remote`.

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use millpond_logfile::{Level, Query, Reader};

use super::generate::Week;
use super::truth::runs;
use crate::error::Error;

/// Where distributions put it; it is not on the path.
const REMOTE_PATHS: [&str; 2] = [
    "/usr/lib/systemd/systemd-journal-remote",
    "/lib/systemd/systemd-journal-remote",
];
const PROGRESS_EVERY: u64 = 100_000;

fn remote() -> Option<&'static str> {
    REMOTE_PATHS
        .into_iter()
        .find(|path| Path::new(path).exists())
}

/// Why the journal cannot be asked, if it cannot.
pub(super) fn missing() -> Option<String> {
    if !runs("journalctl") {
        return Some("journalctl is not installed".to_owned());
    }
    let why = "systemd-journal-remote is not installed, and nothing else puts lines of the past into a journal";
    remote().is_none().then(|| why.to_owned())
}

/// Puts every line of the week into a new journal, in the order of time.
pub(super) fn load(
    path: &Path,
    logs_dir: &Path,
    week: &Week,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let program = remote().ok_or_else(|| Error::new("systemd-journal-remote is not installed"))?;
    let mut command = Command::new(program);
    command.arg("-o").arg(path).arg("-");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(input) = child.stdin.take() {
        let mut input = BufWriter::with_capacity(1 << 20, input);
        let query = week
            .services
            .iter()
            .fold(Query::new(), |query, service| query.service(service));
        let (mut lines, mut failed) = (0u64, None);
        Reader::open(logs_dir)?.run(&query, &mut |hit| {
            if lines.is_multiple_of(PROGRESS_EVERY) {
                progress(&format!(
                    "week: the journal takes line {lines} of {}",
                    week.lines
                ));
            }
            lines += 1;
            let priority = match hit.level {
                Level::Fatal => 2,
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            let mut entry = || -> std::io::Result<()> {
                write!(
                    input,
                    "__REALTIME_TIMESTAMP={}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={}\nMESSAGE=",
                    hit.time_ns / 1000,
                    hit.service
                )?;
                input.write_all(hit.message)?;
                input.write_all(b"\n\n")
            };
            match entry() {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        input.flush()?;
    }
    let status = child.wait()?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(format!("{program} ended with {status}"))),
    }
}
