//! What bytes cost before anybody makes a log of them: `dd`, `write(2)`, a buffer, `cat`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use millpond_peers::Guarantees;

use crate::lines::{CHUNK_LINES, Lines};
use crate::peer::{Peer, Place, Result, Setup, USUAL, ns_since, version_of};

/// Lines through a pipe into a program that copies them to its standard output, a file.
pub struct Copy {
    /// What is called.
    pub command: &'static [&'static str],
    /// Its name in rows.
    pub name: &'static str,
    /// Whether nobody would use it instead.
    pub is_floor: bool,
}

/// `write(2)` of 256 KiB; of one line with `fdatasync(2)` where each is to be durable.
pub struct Write;
/// One line after the other into a `BufWriter`.
pub struct Buffered;

const WRITE_LINES: usize = 4 * CHUNK_LINES;

impl Peer for Copy {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn is_floor(&self) -> bool {
        self.is_floor
    }

    fn find(&self, _: &Setup) -> Result<String> {
        version_of(&[self.command[0], "--version"])
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let file = place.out_file()?;
        let mut command = Command::new(self.command[0]);
        place.feed(command.args(&self.command[1..]).stdout(file), lines)
    }
}

impl Peer for Write {
    fn name(&self) -> String {
        "write(2)".to_owned()
    }

    fn is_floor(&self) -> bool {
        true
    }

    fn does_durable(&self) -> bool {
        true
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
}

impl Peer for Buffered {
    fn name(&self) -> String {
        "BufWriter".to_owned()
    }

    fn is_floor(&self) -> bool {
        true
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees {
            crash_safe: false,
            ..USUAL
        }
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
}
