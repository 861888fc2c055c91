//! The way to a text in a log directory, for `cargo xtask instructions`.
//!
//! All in one thread: too few segments, and too little text, for the reader to call for help.

#![forbid(unsafe_code)]

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path as FilePath;
use std::process::ExitCode;

use millpond_benches::paths::{self, Path, Scope, counted};
use millpond_logfile::{
    BLOCK_BYTES, CURRENT_LINK, Level, LineWriter, Query, Reader, SegmentId, Source, rebuild_index,
    seal_segment,
};

/// Text of a sealed segment: small, so that it is soon made, and no less than what has search filters.
const SEALED_BYTES: usize = 16 * BLOCK_BYTES as usize;
/// Those of the daemon.
const SEAL_LEVEL: i32 = 3;
/// Below what the reader asks filters for on several threads.
const SEGMENTS: [u64; 2] = [1, 7];
/// Below what the reader searches on several threads.
const BLOCKS: [u64; 2] = [2, 14];
const HITS: [u64; 2] = [500, 3500];
const START_NS: u64 = 1_795_224_593_000_000_000;

const NEEDLE: &str = "needle";
const WORDS: [&str; 16] = [
    "request", "served", "cache", "user", "session", "retry", "upstream", "bytes", "from",
    "worker", "queue", "depth", "accepted", "closed", "handler", "finished",
];

const fn part(name: &'static str, counts: [u64; 2], run: fn(u64) -> Result<(), String>) -> Path {
    Path {
        name,
        scope: Scope::Part,
        counts,
        run,
    }
}

fn main() -> ExitCode {
    paths::main(&[
        part(
            "needle, a sealed segment without it",
            SEGMENTS,
            |segments| sealed(segments, false),
        ),
        part(
            "needle, a sealed segment that has it once",
            SEGMENTS,
            |segments| sealed(segments, true),
        ),
        part("needle, a block of open text", BLOCKS, |blocks| {
            let text_bytes = blocks as usize * BLOCK_BYTES as usize;
            open(text_bytes, None, 0)
        }),
        part(
            "substring, a line of open text that has it",
            HITS,
            |lines| open(0, Some(lines), lines),
        ),
    ])
}

/// Sealed segments of one service, asked for what each has once, or none has.
fn sealed(segments: u64, has_needle: bool) -> Result<(), String> {
    let logs = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = logs.path().join("web");
    fs::create_dir(&dir).map_err(|error| error.to_string())?;
    let mut lines = Lines::new();
    for number in 0..segments {
        let id = SegmentId::from_ns(START_NS + number);
        let mut text = Vec::new();
        let mut is_due = has_needle;
        while text.len() < SEALED_BYTES {
            // In the middle: some block of many.
            let is_here = is_due && text.len() >= SEALED_BYTES / 2;
            is_due &= !is_here;
            lines.push(&mut text, is_here);
        }
        write(&dir, id, &text)?;
        let done = seal_segment(&dir, id, SEAL_LEVEL, &mut || true);
        done.map_err(|error| error.to_string())?;
    }
    ask(logs.path(), if has_needle { segments } else { 0 })
}

/// An open segment of so much text without the needle, or of so many lines that have it.
fn open(text_bytes: usize, lines_with: Option<u64>, hits: u64) -> Result<(), String> {
    let logs = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = logs.path().join("web");
    fs::create_dir(&dir).map_err(|error| error.to_string())?;
    let mut lines = Lines::new();
    let mut text = Vec::new();
    match lines_with {
        Some(count) => (0..count).for_each(|_| lines.push(&mut text, true)),
        None => {
            while text.len() < text_bytes {
                lines.push(&mut text, false);
            }
        }
    }
    let id = SegmentId::from_ns(START_NS);
    write(&dir, id, &text)?;
    symlink(format!("{id}.log"), dir.join(CURRENT_LINK)).map_err(|error| error.to_string())?;
    ask(logs.path(), hits)
}

/// A segment with its index.
fn write(dir: &FilePath, id: SegmentId, text: &[u8]) -> Result<(), String> {
    fs::write(id.log_path(dir), text).map_err(|error| error.to_string())?;
    let built = rebuild_index(dir, id, false);
    built.map(drop).map_err(|error| error.to_string())
}

/// Asks for the needle, as the command does: a reader and a query.
fn ask(logs: &FilePath, expected: u64) -> Result<(), String> {
    let mut outcome = Ok(0);
    counted(&mut || {
        let found = Reader::open(logs).and_then(|reader| {
            let query = Query::new().contains(NEEDLE);
            reader.run(&query, &mut |hit| {
                std::hint::black_box(hit);
                ControlFlow::Continue(())
            })
        });
        outcome = found
            .map(|report| report.matched)
            .map_err(|error| error.to_string());
    });
    let found = outcome?;
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found} lines were found, {expected} are there")),
    }
}

/// Lines of 128 bytes that look like those of a service, always the same.
struct Lines {
    writer: LineWriter,
    source: Source,
    random: u64,
    message: String,
    time_ns: u64,
}

impl Lines {
    const MESSAGE_BYTES: usize = 86;

    fn new() -> Self {
        Lines {
            writer: LineWriter::new(),
            source: Source::new("http"),
            random: 0x9E37_79B9_7F4A_7C15,
            message: String::new(),
            time_ns: START_NS,
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn push(&mut self, text: &mut Vec<u8>, has_needle: bool) {
        self.message.clear();
        let id = self.random() as u32;
        self.message.push_str(&format!("id={id:08x}"));
        if has_needle {
            self.message.push(' ');
            self.message.push_str(NEEDLE);
        }
        while self.message.len() < Self::MESSAGE_BYTES {
            let word = WORDS[self.random() as usize % WORDS.len()];
            self.message.push(' ');
            self.message.push_str(word);
        }
        self.message.truncate(Self::MESSAGE_BYTES);
        self.time_ns += 1_000_000;
        let message = self.message.as_bytes();
        self.writer
            .write(text, self.time_ns, Level::Info, &self.source, message);
    }
}
