//! LTTng-UST: a C program with a tracepoint, compiled when it is needed; the session's consumer writes a trace to disk.
//! A tracepoint never waits: an event that finds its core's buffer (8 times 512 KiB) full is discarded. The trace is
//! read back afterwards, for the checks alone: an event has arrived when the stopped session is on the disk.
//!
//! The session daemon runs in mounts of its own, so that it is never the machine's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millpond_peers::Guarantees;

use crate::peer::{About, Fallible, Fit, KEPT, Peer, Place, Receiver, Sender};
use crate::work::{BURST, End, PAUSE, Part, Work};

/// Keeps a session until its input ends. `$1` is the directory. Says its own process and those that work for it.
const KEEPER: &str = r#"
set -e
mount -t tmpfs tmpfs /run && mkdir /run/lttng && mount -t tmpfs tmpfs /dev/shm
export LTTNG_HOME="$1" HOME="$1"
lttng-sessiond --no-kernel &
daemon=$!
trap 'kill $daemon && wait $daemon' EXIT
until lttng --no-sessiond list; do kill -0 $daemon && sleep 0.02; done
lttng --no-sessiond create events --output="$1/trace"
lttng --no-sessiond enable-channel --userspace --subbuf-size=512K --num-subbuf=8 events
lttng --no-sessiond enable-event --userspace peers:event --channel events
lttng --no-sessiond start
echo $$ $daemon $(cat /proc/$daemon/task/*/children) >&3
read -r line || true
"#;

/// Longer than any round.
const KEEPER_SECONDS: &str = "240";

/// The peer.
pub struct Lttng;

impl Peer for Lttng {
    type Sender = Nobody;
    type Receiver = Trace;

    fn about(&self) -> About {
        About {
            guarantees: Guarantees {
                blocking: false,
                ..KEPT
            },
            ..About::new("lttng-ust to disk")
        }
    }

    fn version(&self) -> Result<String, String> {
        let debian = "(Debian: lttng-tools liblttng-ust-dev babeltrace2 gcc pkg-config)";
        let versions = [
            ("lttng", ["--version"].as_slice()),
            ("babeltrace2", &["--version"]),
            ("cc", &["--version"]),
            ("unshare", &["--mount", "true"]),
            ("pkg-config", &["--modversion", "lttng-ust"]),
        ];
        let mut version = String::new();
        for (program, args) in versions {
            let output = Command::new(program).args(args).output();
            let output = output.map_err(|error| format!("{program}: {error} {debian}"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!(
                    "{program} {}: {} {debian}",
                    args.join(" "),
                    said.trim()
                ));
            }
            version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        }
        Ok(format!("lttng-ust {version}"))
    }

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::FanOut => Fit::No("one session writes one trace"),
            part if part.is_latency() => Fit::No("traces are read after the fact"),
            _ => Fit::Yes,
        }
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let dir = tempfile::tempdir()?;
        std::fs::write(
            dir.path().join("event.h"),
            include_str!("../native/event.h"),
        )?;
        std::fs::write(
            dir.path().join("sender.c"),
            include_str!("../native/sender.c"),
        )?;
        let compile = r#"cd "$1" && cc -O2 -I. sender.c -o sender $(pkg-config --cflags --libs lttng-ust) -ldl"#;
        run(Command::new("sh")
            .args(["-c", compile, "sh"])
            .arg(dir.path()))?;
        let keeper = Keeper::start(dir)?;
        Ok(Place {
            address: format!("{} {}", keeper.pids[0], keeper.dir.path().display()),
            // The first is the shell that waits for the others.
            servers: keeper.pids[1..].to_vec(),
            keep: Box::new(keeper),
        })
    }

    fn sender(&self, _end: &End<'_>) -> Fallible<Nobody> {
        Err("its sender is a program of its own".into())
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Trace> {
        let place = end.place.to_owned();
        Ok(Trace {
            place,
            stopped_ns: None,
            events: Vec::new(),
            payload_bytes: end.work.payload_bytes,
        })
    }

    fn command(&self, end: &End<'_>) -> Option<Command> {
        let (_, dir) = end.place.split_once(' ')?;
        let mut command = in_mounts(end.place).ok()?;
        let (burst, pause_ns) = match end.work.part {
            Part::Publish => (BURST, PAUSE.as_nanos()),
            _ => (0, 0),
        };
        command
            .arg(Path::new(dir).join("sender"))
            .args(
                [
                    end.work.payload_bytes as u64,
                    end.work.events,
                    end.index as u64,
                    burst,
                ]
                .map(|number| number.to_string()),
            )
            .arg(pause_ns.to_string())
            .env("LTTNG_HOME", dir)
            // It begins when its tracepoint is switched on.
            .env("LTTNG_UST_REGISTER_TIMEOUT", "-1");
        Some(command)
    }
}

/// A command to be run where the session daemon is.
fn in_mounts(place: &str) -> Fallible<Command> {
    let (keeper, _) = place.split_once(' ').ok_or("a keeper and a directory")?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{keeper}/ns/mnt"));
    Ok(command)
}

fn run(command: &mut Command) -> Fallible<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
    .into())
}

/// A session daemon, for one round.
struct Keeper {
    child: Child,
    input: Option<ChildStdin>,
    pids: Vec<u32>,
    dir: tempfile::TempDir,
}

impl Keeper {
    fn start(dir: tempfile::TempDir) -> Fallible<Self> {
        // What the tools say goes into a file, what we are told through a pipe of its own.
        let script = format!("exec 3>&1 >\"$1/said\" 2>&1\n{KEEPER}");
        // The watchdog ends the two ends; whatever hangs here is ended by this, with all that it started.
        let mut child = Command::new("timeout")
            .args([
                "--kill-after=5",
                KEEPER_SECONDS,
                "unshare",
                "--mount",
                "sh",
                "-c",
                &script,
                "sh",
            ])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("its output was asked for")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let pids = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u32>, _>>()?;
        let keeper = Keeper {
            child,
            input,
            pids,
            dir,
        };
        if keeper.pids.len() < 2 {
            let said = std::fs::read_to_string(keeper.dir.path().join("said")).unwrap_or_default();
            return Err(format!("no session: {}", said.trim().replace('\n', "; ")).into());
        }
        Ok(keeper)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

/// Is never made.
pub struct Nobody;

impl Sender for Nobody {
    fn send(&mut self, _payload: &[u8]) -> Fallible<()> {
        Ok(())
    }
}

/// The trace, once it is whole.
pub struct Trace {
    place: String,
    stopped_ns: Option<u64>,
    /// Payloads, one after the other.
    events: Vec<u8>,
    payload_bytes: usize,
}

impl Trace {
    /// Takes the words of an event out of a line such as `.. { words = [ [0] = 1, [1] = 0 ] }`.
    fn read_line(&mut self, line: &str) -> Fallible<()> {
        let (_, words) = line
            .split_once("words = [")
            .ok_or_else(|| format!("babeltrace2 said {line:?}"))?;
        for word in words.split(',') {
            let (_, value) = word
                .split_once("] = ")
                .ok_or_else(|| format!("{word:?} is no word"))?;
            let digits = value.split(' ').next().unwrap_or_default();
            self.events.extend(digits.parse::<u64>()?.to_le_bytes());
        }
        Ok(())
    }
}

impl Receiver for Trace {
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        if self.events.is_empty() {
            std::thread::sleep(patience);
            return Ok(0);
        }
        let events = std::mem::take(&mut self.events);
        events.chunks(self.payload_bytes).for_each(take);
        Ok((events.len() / self.payload_bytes) as u64)
    }

    fn sent(&mut self) -> Fallible<()> {
        run(in_mounts(&self.place)?.args(["lttng", "--no-sessiond", "stop", "events"]))?;
        self.stopped_ns = Some(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64);
        let (_, dir) = self
            .place
            .split_once(' ')
            .ok_or("a keeper and a directory")?;
        let mut reader = Command::new("babeltrace2")
            .arg(Path::new(dir).join("trace"))
            // What was discarded is counted by the numbers that are missing.
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = reader.stdout.take().ok_or("its output was asked for")?;
        for line in BufReader::new(output).lines() {
            self.read_line(&line?)?;
        }
        if !reader.wait()?.success() {
            return Err("babeltrace2 cannot read the trace".into());
        }
        Ok(())
    }

    fn arrived_ns(&self) -> Option<u64> {
        self.stopped_ns
    }

    fn disk_bytes(&self) -> Option<u64> {
        let (_, dir) = self.place.split_once(' ')?;
        let output = Command::new("du")
            .args(["--bytes", "--summarize"])
            .arg(Path::new(dir).join("trace"))
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    }
}
