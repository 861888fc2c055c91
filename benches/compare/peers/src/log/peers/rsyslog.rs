//! rsyslog: datagrams to a socket of its own, and a file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use millpond_peers::Guarantees;

use crate::lines::{Check, Lines, MESSAGE_BYTES};
use crate::peer::{
    Peer, Place, Program, Result, Setup, USUAL, find_program, tied, version_of, wait_until,
};

/// A file that has not grown for so long gets no more: the rest is lost.
const SILENCE: Duration = Duration::from_secs(3);

/// With its usual queue and format, and no limit of rate.
pub struct Rsyslog;

impl Peer for Rsyslog {
    fn name(&self) -> String {
        "rsyslog".to_owned()
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees {
            // A full queue discards after 2 s, which is not told to who logs.
            lossy: true,
            ..USUAL
        }
    }

    fn find(&self, _: &Setup) -> Result<String> {
        let program = find_program("rsyslogd")?;
        find_program("setpriv")?;
        let said = version_of(&[&program.to_string_lossy(), "-v"])?;
        Ok(said.split_whitespace().nth(1).unwrap_or(&said).to_owned())
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let [socket, config, pid] =
            ["log.sock", "rsyslog.conf", "rsyslog.pid"].map(|name| place.dir().join(name));
        let text = format!(
            "global(workDirectory=\"{}\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{}\" RateLimit.Interval=\"0\")\n\
             action(type=\"omfile\" file=\"{}\")\n",
            place.dir().display(),
            socket.display(),
            place.out_path().display()
        );
        std::fs::write(&config, text)?;
        let mut command = tied(find_program("rsyslogd")?);
        command.arg("-n").arg("-f").arg(config).arg("-i").arg(pid);
        let mut daemon = Program::start(&mut command)?;
        let sender = UnixDatagram::unbound()?;
        wait_until(&mut daemon, || sender.connect(&socket).is_ok())?;
        // As syslog(3) sends it. The stamp is not looked at: it comes from the same machine.
        let mut datagram = b"<14>Nov 21 01:29:53 peers: ".to_vec();
        let head = datagram.len();
        let mut last = Vec::new();
        let started = Instant::now();
        while let Some(message) = lines.next_message() {
            datagram.truncate(head);
            datagram.extend_from_slice(message);
            sender.send(&datagram)?;
        }
        last.extend_from_slice(&datagram[head..]);
        let end = wait_for_last(&place.out_path(), &last, &mut daemon)?;
        place.note_memory();
        daemon.terminate();
        daemon.finish()?;
        Ok(end.duration_since(started))
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        // rsyslog speaks of itself, too.
        let text = std::fs::read(place.out_path())?;
        let lines = text.split(|&byte| byte == b'\n');
        let is_ours = |line: &&[u8]| line.windows(8).take(100).any(|part| part == b" peers: ");
        lines.filter(is_ours).for_each(|line| check.line(line));
        Ok(())
    }
}

/// When message `last` was at the end of the file, or, where it does not come, when the file last grew.
fn wait_for_last(path: &Path, last: &[u8], daemon: &mut Program) -> Result<Instant> {
    let (mut size, mut grown) = (0, Instant::now());
    let mut tail = [0; MESSAGE_BYTES + 1];
    wait_until(daemon, || {
        let Ok(file) = File::open(path) else {
            return grown.elapsed() > SILENCE;
        };
        let now = file.metadata().map_or(0, |data| data.len());
        if now != size {
            (size, grown) = (now, Instant::now());
        }
        let start = size.saturating_sub(tail.len() as u64);
        let is_all = file.read_exact_at(&mut tail, start).is_ok() && tail[..MESSAGE_BYTES] == *last;
        is_all || grown.elapsed() > SILENCE
    })?;
    Ok(grown)
}
