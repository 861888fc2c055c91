//! journald: datagrams to a journal of its own.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lines::{Check, Lines};
use crate::peer::{
    Peer, Place, Program, Result, Setup, check_own_mounts, files_by_name, in_own_mounts,
    version_of, wait_until,
};

const PROGRAMS: [&str; 2] = [
    "/usr/lib/systemd/systemd-journald",
    "/lib/systemd/systemd-journald",
];
/// Its sockets, configuration and files are below `$0`: neither the machine's journal nor its kernel log is touched.
const SCRIPT: &str = r#"
mount --bind "$0/run" /run && mount --bind "$0/etc" /etc/systemd && mount --bind "$0/out" /var/log &&
    exec "$1" peers
"#;
const CONFIG: &str = "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nRateLimitBurst=0\nSystemMaxUse=8G\nSystemKeepFree=0\n";
const SYNCHRONIZE: &[u8] = b"{\"method\":\"io.systemd.Journal.Synchronize\"}\0";

/// A namespace with files on the disk, and no limit of rate.
pub struct Journald;

impl Peer for Journald {
    fn name(&self) -> String {
        "journald".to_owned()
    }

    fn find(&self, _: &Setup) -> Result<String> {
        program()?;
        let version = version_of(&["journalctl", "--version"])?;
        if !Path::new("/etc/machine-id").exists() {
            return Err("this machine has no /etc/machine-id".into());
        }
        check_own_mounts()?;
        Ok(version)
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let [run, etc] = ["run", "etc"].map(|name| place.dir().join(name));
        std::fs::create_dir_all(run.join("systemd"))?;
        std::fs::create_dir(&etc)?;
        std::fs::create_dir(place.out().join("journal"))?;
        std::fs::write(etc.join("journald@peers.conf"), CONFIG)?;
        let mut command = in_own_mounts(SCRIPT, place.dir());
        let mut daemon = Program::start(command.arg(program()?))?;
        let sockets = run.join("systemd/journal.peers");
        let sender = UnixDatagram::unbound()?;
        wait_until(&mut daemon, || {
            sender.connect(sockets.join("socket")).is_ok() && synchronize(&sockets).is_ok()
        })?;
        let mut datagram = b"PRIORITY=6\nSYSLOG_IDENTIFIER=peers\nMESSAGE=".to_vec();
        let head = datagram.len();
        let started = Instant::now();
        while let Some(message) = lines.next_message() {
            datagram.truncate(head);
            datagram.extend_from_slice(message);
            datagram.push(b'\n');
            sender.send(&datagram)?;
        }
        // Answered when everything that had come before is in the journal.
        synchronize(&sockets)?;
        let elapsed = started.elapsed();
        place.note_memory();
        daemon.terminate();
        daemon.finish()?;
        Ok(elapsed)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        let journals = files_by_name(&place.out().join("journal"))?;
        let journal = journals.first().ok_or("it made no journal")?;
        let mut command = Command::new("journalctl");
        command.arg("--directory").arg(journal);
        command.args(["--quiet", "--output=cat", "SYSLOG_IDENTIFIER=peers"]);
        let mut reader = Program::start_talking(&mut command)?;
        check.reader(BufReader::new(reader.output()?))?;
        reader.finish()
    }
}

fn program() -> Result<PathBuf> {
    let found = PROGRAMS
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file());
    found.ok_or_else(|| "systemd-journald is not installed".into())
}

fn synchronize(sockets: &Path) -> Result<()> {
    let mut line = UnixStream::connect(sockets.join("io.systemd.journal"))?;
    line.write_all(SYNCHRONIZE)?;
    let mut byte = [0];
    let mut answer = Vec::new();
    while line.read(&mut byte)? > 0 && byte[0] != 0 {
        answer.push(byte[0]);
    }
    if answer.windows(7).any(|part| part == b"\"error\"") || answer.is_empty() {
        return Err(format!("journald answers {:?}", String::from_utf8_lossy(&answer)).into());
    }
    Ok(())
}
