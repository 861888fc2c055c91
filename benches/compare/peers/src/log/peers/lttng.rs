//! LTTng-UST to disk: a tracepoint in a C program, compiled when the comparison runs, and a session of its own.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_peers::Guarantees;
use rustix::time::{ClockId, clock_gettime};

use crate::lines::{Check, Lines};
use crate::peer::{
    Peer, Place, Program, Result, Setup, USUAL, check_own_mounts, compile, find_program,
    in_own_mounts, version_of,
};

/// In mounts of its own, so that it is not the session daemon of the machine that does the work. `$0` is the
/// directory, then come the program and the number of lines. Says when the first line came, and when all are on the disk.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs tmpfs /run && mkdir /run/lttng && mount -t tmpfs tmpfs /dev/shm
export LTTNG_HOME="$0" HOME="$0"
lttng-sessiond --no-kernel >&2 &
until lttng --no-sessiond list >/dev/null 2>&1; do kill -0 $! && sleep 0.02; done
lttng --no-sessiond create lines --output="$0/out/trace" >&2
lttng --no-sessiond enable-channel --userspace --subbuf-size=4M --num-subbuf=8 lines >&2
lttng --no-sessiond enable-event --userspace 'peers:line' --channel lines >&2
lttng --no-sessiond start >&2
LTTNG_UST_REGISTER_TIMEOUT=-1 "$1" "$0/block" "$2"
lttng --no-sessiond stop >&2
echo stopped
read -r all_seen || true
lttng --no-sessiond destroy lines >&2
kill $! && wait $!
"#;

/// A channel of 8 times 4 MiB a core; an event that finds it full is discarded, and counted.
pub struct Lttng;

impl Peer for Lttng {
    fn name(&self) -> String {
        "LTTng-UST to disk".to_owned()
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees {
            blocking: false,
            ..USUAL
        }
    }

    fn find(&self, setup: &Setup) -> Result<String> {
        for program in ["lttng", "lttng-sessiond", "babeltrace2"] {
            find_program(program)?;
        }
        let version = version_of(&["pkg-config", "--modversion", "lttng-ust"])?;
        check_own_mounts()?;
        let source = setup.tools.join("lttng.c");
        std::fs::write(
            setup.tools.join("lines.h"),
            include_str!("../native/lines.h"),
        )?;
        std::fs::write(
            setup.tools.join("lttng.h"),
            include_str!("../native/lttng.h"),
        )?;
        std::fs::write(&source, include_str!("../native/lttng.c"))?;
        compile("cc", &source, "lttng-lines", &["lttng-ust"], setup)?;
        Ok(version)
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        std::fs::write(place.dir().join("block"), lines.block())?;
        let mut command = in_own_mounts(SCRIPT, place.dir());
        command
            .arg(place.setup.tools.join("lttng-lines"))
            .arg(lines.remaining().to_string());
        let mut script = Program::start_talking(&mut command)?;
        let started_ns: u64 = script.read_line()?.parse()?;
        script.read_line()?;
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        place.note_memory();
        script.finish()?;
        Ok(now.saturating_sub(Duration::from_nanos(started_ns)))
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        let mut command = Command::new("babeltrace2");
        // It says on standard error what was discarded: we count that ourselves.
        command.arg(place.out()).stderr(Stdio::null());
        let mut reader = Program::start_talking(&mut command)?;
        for line in BufReader::new(reader.output()?).lines() {
            let line = line?;
            let message = line
                .rsplit_once("message = \"")
                .map_or("", |(_, rest)| rest);
            check.line(message.trim_end_matches("\" }").as_bytes());
        }
        reader.finish()
    }
}
