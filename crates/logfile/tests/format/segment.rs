//! A segment in a directory of its own, written as the sink writes it, and random numbers to do so.

use std::fs;
use std::path::{Path, PathBuf};

use millpond_logfile::{
    BlockWriter, IndexEntry, IndexHeader, Level, SegmentId, Source, rebuild_index,
};
use tempfile::TempDir;
use zerocopy::IntoBytes;

pub(crate) const ID: SegmentId = SegmentId::from_ns(1_795_224_593_123_456_789);
const SOURCES: [&str; 4] = [
    "pty:out",
    "kernel",
    "two words",
    "a source with a name that is longer",
];

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    /// Prints its seed, which cargo shows when the test fails.
    pub(crate) fn seeded() -> Self {
        let seed = match std::env::var("MILLPOND_TEST_SEED") {
            Ok(seed) => seed.parse().expect("MILLPOND_TEST_SEED is a number"),
            Err(_) => u64::from(std::process::id()) << 20 | u64::from(line!()),
        };
        eprintln!("MILLPOND_TEST_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Appends a random line, short as a rule.
pub(crate) fn append_line(random: &mut Random, block: &mut BlockWriter, out: &mut Vec<u8>) {
    let length = match random.below(100) {
        0 => random.below(100_000), // often a block of its own
        1..10 => random.below(5_000),
        _ => random.below(200),
    };
    let message = match random.below(4) {
        0 => random.bytes(length / 4),
        _ => vec![b'm'; length],
    };
    let time_ns = ID.as_ns() + random.next() % 1_000_000_000_000;
    let level = Level::ALL[random.below(Level::COUNT)];
    let source = Source::new(SOURCES[random.below(SOURCES.len())]);
    block.append(out, time_ns, level, &source, &message);
}

pub(crate) struct Segment {
    dir: TempDir,
    /// What the writer wrote, whatever became of the file since.
    pub(crate) text: Vec<u8>,
    /// The entries of the full blocks, and of the last one where it was closed.
    pub(crate) entries: Vec<IndexEntry>,
}

impl Segment {
    /// Random lines in buffers of random size, `lines` of them.
    pub(crate) fn random(random: &mut Random, lines: usize, closed: bool) -> Self {
        let mut block = BlockWriter::new();
        let (mut text, mut buffer) = (Vec::new(), Vec::new());
        for _ in 0..lines {
            append_line(random, &mut block, &mut buffer);
            if random.below(20) == 0 {
                block.fold(&buffer);
                text.append(&mut buffer);
            }
        }
        match closed {
            true => block.finish(&buffer),
            false => block.fold(&buffer),
        }
        text.append(&mut buffer);
        let segment = Segment::of(text, block.take_entries());
        segment.write_index(closed, &segment.entries);
        segment
    }

    /// This text, and no index.
    pub(crate) fn of_text(text: &[u8]) -> Self {
        Segment::of(text.to_vec(), Vec::new())
    }

    fn of(text: Vec<u8>, entries: Vec<IndexEntry>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(ID.log_path(dir.path()), &text).unwrap();
        Segment { dir, text, entries }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        ID.log_path(self.dir())
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        ID.index_path(self.dir())
    }

    pub(crate) fn write_log(&self, bytes: &[u8]) {
        fs::write(self.log_path(), bytes).unwrap();
    }

    pub(crate) fn write_index(&self, closed: bool, entries: &[IndexEntry]) {
        fs::write(self.index_path(), index_bytes(closed, entries)).unwrap();
    }

    pub(crate) fn read_log(&self) -> Vec<u8> {
        fs::read(self.log_path()).unwrap()
    }

    /// The index as it would be, made from the text that is in the file now.
    pub(crate) fn rebuilt(&self, is_open: bool) -> Vec<u8> {
        let copy = Segment::of_text(&self.read_log());
        rebuild_index(copy.dir(), ID, is_open).unwrap();
        fs::read(copy.index_path()).unwrap()
    }

    /// Where the lines end that lie within the first `length` bytes of what was written.
    pub(crate) fn whole_lines(&self, length: usize) -> usize {
        let newline = self.text[..length].iter().rposition(|&byte| byte == b'\n');
        newline.map_or(0, |newline| newline + 1)
    }

    /// A place between two lines, or at either end.
    pub(crate) fn line_boundary(&self, random: &mut Random) -> usize {
        self.whole_lines(random.below(self.text.len() + 1))
    }
}

pub(crate) fn index_bytes(closed: bool, entries: &[IndexEntry]) -> Vec<u8> {
    [
        &IndexHeader::new(ID, closed).to_bytes()[..],
        entries.as_bytes(),
    ]
    .concat()
}
