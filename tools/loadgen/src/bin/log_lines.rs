//! `log_lines LINES LOGS SEALED`: the same lines as two log directories, for comparisons: one of open text with its
//! indexes, as other programs read it, and one whose closed segments are sealed, as a daemon leaves them.
//!
//! Eight services, one after the other a line each, half an hour from the first to the last; some 108 bytes a line; five
//! lines have the word `needle`. The same number of lines is the same bytes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;

use millpond_loadgen::Error;
use millpond_logfile::{
    BlockWriter, CURRENT_LINK, IndexHeader, Level, SegmentId, Source, seal_segment,
};

const SERVICES: u64 = 8;
/// As the daemon closes them.
const SEGMENT_BYTES: usize = 64 << 20;
/// A service of fewer lines would have next to none that is sealed: it has so many segments ..
const FEW_LINES: u64 = 1_000_000;
const FEW_SEGMENTS: u64 = 8;
/// .. of at least so many lines.
const SEGMENT_LINES_MIN: u64 = 1000;
const SEAL_LEVEL: i32 = 3;
/// 2026-11-21T01:00:00Z.
const START_NS: u64 = 1_795_222_800_000_000_000;
const SPAN_NS: u64 = 1_800_000_000_000;
const WORDS: [&str; 6] = ["timeout", "cache", "retry", "served", "queue", "upstream"];
/// Services from 0 that have a needle, a third of the way.
const NEEDLES: u64 = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lines, logs, sealed] = &arguments[..] else {
        eprintln!("usage: log_lines LINES LOGS SEALED");
        return ExitCode::from(2);
    };
    let Ok(lines) = lines.parse() else {
        eprintln!("log_lines: {lines}: a number of lines");
        return ExitCode::from(2);
    };
    match write(lines, Path::new(logs), Path::new(sealed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log_lines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(lines: u64, logs: &Path, sealed: &Path) -> Result<(), Error> {
    for number in 0..SERVICES {
        let name = format!("service-{number}");
        let dirs = [logs.join(&name), sealed.join(&name)];
        for dir in &dirs {
            fs::create_dir_all(dir)?;
        }
        Service::new(number, lines / SERVICES).write(&dirs)?;
    }
    Ok(())
}

struct Service {
    number: u64,
    lines: u64,
    line: u64,
    source: Source,
    message: Vec<u8>,
}

impl Service {
    fn new(number: u64, lines: u64) -> Self {
        Service {
            number,
            lines,
            line: 0,
            source: Source::new("log"),
            message: Vec::new(),
        }
    }

    fn write(&mut self, [logs, sealed]: &[std::path::PathBuf; 2]) -> Result<(), Error> {
        let mut text = Vec::with_capacity(SEGMENT_BYTES + (64 << 10));
        while self.line < self.lines {
            let id = SegmentId::from_ns(self.time_ns());
            let mut block = BlockWriter::new();
            text.clear();
            let end = (self.line + self.segment_lines()).min(self.lines);
            while text.len() < SEGMENT_BYTES && self.line < end {
                self.append(&mut text, &mut block);
            }
            let is_open = self.line == self.lines;
            if !is_open {
                block.finish(&text);
            }
            let mut index = IndexHeader::new(id, !is_open).to_bytes().to_vec();
            for entry in block.take_entries() {
                index.extend_from_slice(&entry.to_bytes());
            }
            for dir in [logs, sealed] {
                fs::write(id.log_path(dir), &text)?;
                File::create(id.index_path(dir))?.write_all(&index)?;
                if is_open {
                    symlink(format!("{id}.log"), dir.join(CURRENT_LINK))?;
                }
            }
            if !is_open {
                seal_segment(sealed, id, SEAL_LEVEL, &mut || true)?;
            }
        }
        Ok(())
    }

    /// Most lines of a segment.
    fn segment_lines(&self) -> u64 {
        match self.lines < FEW_LINES {
            true => (self.lines / FEW_SEGMENTS).max(SEGMENT_LINES_MIN),
            false => self.lines,
        }
    }

    /// No two services have a line at the same nanosecond: all lines have one order.
    fn time_ns(&self) -> u64 {
        let share = u128::from(self.line) * u128::from(SPAN_NS) / u128::from(self.lines);
        START_NS + share as u64 / SERVICES * SERVICES + self.number
    }

    fn append(&mut self, text: &mut Vec<u8>, block: &mut BlockWriter) {
        let dice = mixed(self.line * SERVICES + self.number);
        let level = match dice % 100 {
            0..4 => Level::Error,
            4..10 => Level::Warn,
            _ => Level::Info,
        };
        let word = |shift: u32| WORDS[(dice >> shift) as usize % WORDS.len()];
        let needle = match self.number < NEEDLES && self.line == self.lines / 3 {
            true => " needle",
            false => "",
        };
        self.message.clear();
        let more = mixed(dice);
        let written = write!(
            self.message,
            "request {dice:016x} {} {} trace {more:016x} done{needle}",
            word(20),
            word(30)
        );
        debug_assert!(written.is_ok(), "memory takes what it is given");
        let time_ns = self.time_ns();
        block.append(text, time_ns, level, &self.source, &self.message);
        self.line += 1;
    }
}

/// The finaliser of splitmix64: no two numbers give the same, and none tells the next.
fn mixed(number: u64) -> u64 {
    let word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directories_have_the_same_lines_and_five_needles() {
        let dir = tempfile::tempdir().expect("a directory");
        let [logs, sealed] = ["logs", "sealed"].map(|name| dir.path().join(name));
        write(80, &logs, &sealed).expect("room on the disk");
        let mut texts = Vec::new();
        for number in 0..SERVICES {
            let text = |logs: &Path| {
                let path = logs.join(format!("service-{number}")).join(CURRENT_LINK);
                fs::read_to_string(path).expect("the open segment")
            };
            assert_eq!(text(&logs), text(&sealed));
            texts.push(text(&logs));
        }
        let all = texts.concat();
        assert_eq!(all.lines().count(), 80);
        assert_eq!(all.matches("needle").count(), NEEDLES as usize);
        let mut times: Vec<_> = all.lines().map(|line| &line[..30]).collect();
        times.sort_unstable();
        times.dedup();
        assert_eq!(times.len(), 80, "no two lines have the same time");
    }
}
