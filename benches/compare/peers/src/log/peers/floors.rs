//! What bytes cost before anybody makes a log of them: `dd`, `write(2)`, a buffer, `cat`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use millpond_peers::Guarantees;

use super::usual;
use crate::lines::{CHUNK_LINES, Check, Lines};
use crate::peer::{Part, Peer, Place, Result, Setup, first_line, ns_since, version_of};

/// Lines through a pipe into `dd bs=1M`.
pub struct Dd;
/// `write(2)` of 256 KiB; of one line with `fdatasync(2)` where each is to be durable.
pub struct Write;
/// One line after the other into a `BufWriter`.
pub struct Buffered;
/// Lines through a pipe into `cat > file`.
pub struct Cat;

const WRITE_LINES: usize = 4 * CHUNK_LINES;

fn piped(place: &mut Place, lines: &mut Lines, program: &str, args: &[&str]) -> Result<Duration> {
    let file = place.out_file()?;
    place.feed(Command::new(program).args(args).stdout(file), lines)
}

fn kernel() -> Result<String> {
    let release = std::fs::read("/proc/sys/kernel/osrelease")?;
    Ok(format!("Linux {}", first_line(&release)))
}

impl Peer for Dd {
    fn name(&self) -> String {
        "floor: dd bs=1M".to_owned()
    }

    fn guarantees(&self, _: Part) -> Guarantees {
        usual()
    }

    fn find(&self, _: &Setup) -> Result<String> {
        version_of(&["dd", "--version"])
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        piped(place, lines, "dd", &["bs=1M", "status=none"])
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        check.file(&place.out_path())
    }
}

impl Peer for Cat {
    fn name(&self) -> String {
        "cat > file".to_owned()
    }

    fn guarantees(&self, _: Part) -> Guarantees {
        usual()
    }

    fn find(&self, _: &Setup) -> Result<String> {
        version_of(&["cat", "--version"])
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        piped(place, lines, "cat", &[])
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        check.file(&place.out_path())
    }
}

impl Peer for Write {
    fn name(&self) -> String {
        "floor: write(2)".to_owned()
    }

    fn parts(&self) -> &[Part] {
        &[Part::Sink, Part::Durable]
    }

    fn guarantees(&self, part: Part) -> Guarantees {
        Guarantees {
            durable: part == Part::Durable,
            ..usual()
        }
    }

    fn find(&self, _: &Setup) -> Result<String> {
        kernel()
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let mut file = place.out_file()?;
        let started = Instant::now();
        while let Some(text) = lines.next_text(WRITE_LINES) {
            file.write_all(text)?;
        }
        Ok(started.elapsed())
    }

    fn write_durably(&self, place: &mut Place, lines: &mut Lines) -> Result<Vec<u64>> {
        let mut file = place.out_file()?;
        // The name is on the disk before the first line is.
        File::open(place.out())?.sync_all()?;
        let mut times_ns = Vec::new();
        while let Some(text) = lines.next_text(1) {
            let started = Instant::now();
            file.write_all(text)?;
            file.sync_data()?;
            times_ns.push(ns_since(started));
        }
        Ok(times_ns)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        check.file(&place.out_path())
    }
}

impl Peer for Buffered {
    fn name(&self) -> String {
        "floor: BufWriter".to_owned()
    }

    fn guarantees(&self, _: Part) -> Guarantees {
        Guarantees {
            crash_safe: false,
            ..usual()
        }
    }

    fn find(&self, _: &Setup) -> Result<String> {
        kernel()
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let mut out = BufWriter::new(place.out_file()?);
        let started = Instant::now();
        while let Some(text) = lines.next_text(1) {
            out.write_all(text)?;
        }
        out.flush()?;
        Ok(started.elapsed())
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        check.file(&place.out_path())
    }
}
