//! What is measured, and how one cell of it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use millpond_benches::is_tiny;
use rustix::time::{ClockId, clock_gettime};

use crate::asker::Answers;
use crate::rows::Row;

/// The journal modes of SQLite that a log table can sensibly have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journal {
    Wal,
    Delete,
    Memory,
}

/// The levels of `synchronous` of SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synchronous {
    Full,
    Normal,
    Off,
}

/// The sync policies of millpond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Always,
    Interval,
    Never,
}

/// Where rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Table(Journal, Synchronous),
    Text(Sync),
}

impl Store {
    /// Every one of them, in the order of the tables.
    pub(crate) fn all() -> Vec<Store> {
        let journals = [Journal::Wal, Journal::Delete, Journal::Memory];
        let levels = [Synchronous::Full, Synchronous::Normal, Synchronous::Off];
        let tables = journals
            .into_iter()
            .flat_map(|journal| levels.map(|level| Store::Table(journal, level)));
        let texts = [Sync::Always, Sync::Interval, Sync::Never].map(Store::Text);
        tables.chain(texts).collect()
    }

    pub(crate) fn name(self) -> String {
        match self {
            Store::Table(journal, level) => {
                format!("SQLite {} {}", journal.pragma(), level.pragma())
            }
            Store::Text(Sync::Always) => "millpond always".to_owned(),
            Store::Text(Sync::Interval) => "millpond interval 1 s".to_owned(),
            Store::Text(Sync::Never) => "millpond never".to_owned(),
        }
    }

    /// What a row that was confirmed survives, by the documentation of each.
    pub(crate) fn promise(self) -> &'static str {
        match self {
            Store::Table(Journal::Wal | Journal::Delete, Synchronous::Full)
            | Store::Text(Sync::Always) => "power cut",
            Store::Table(Journal::Wal, Synchronous::Normal) => {
                "kill; a power cut takes what came after the last checkpoint"
            }
            Store::Table(Journal::Delete, Synchronous::Normal) => {
                "power cut, but for a small chance of damage"
            }
            Store::Table(Journal::Wal | Journal::Delete, Synchronous::Off) => {
                "kill; a power cut can damage the file"
            }
            Store::Table(Journal::Memory, _) => "a kill in a commit can damage the file",
            Store::Text(Sync::Interval) => "kill; a power cut takes the last second",
            Store::Text(Sync::Never) => "kill; a power cut takes what the kernel had not written",
        }
    }
}

impl Journal {
    pub(crate) fn pragma(self) -> &'static str {
        match self {
            Journal::Wal => "WAL",
            Journal::Delete => "DELETE",
            Journal::Memory => "MEMORY",
        }
    }
}

impl Synchronous {
    pub(crate) fn pragma(self) -> &'static str {
        match self {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
            Synchronous::Off => "OFF",
        }
    }
}

/// One measurement of the study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) store: Store,
    /// Rows that are confirmed together. `None`: the caller never waits for its rows; of millpond only, because
    /// an insert into a table is work of the caller.
    pub(crate) batch: Option<usize>,
    /// Whether another process asks questions meanwhile.
    pub(crate) reader: bool,
}

impl Cell {
    pub(crate) fn batch_name(&self) -> String {
        self.batch
            .map_or("unconfirmed".to_owned(), |rows| rows.to_string())
    }
}

/// How much of everything.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// Each cell is over after this long, or so many rows, whichever is first; it ends with a confirmed batch.
    pub(crate) time: Duration,
    pub(crate) rows_max: u64,
    /// A policy that syncs by time is measured for at least this long.
    pub(crate) interval_time_min: Duration,
    /// Rows that a store holds before a cell begins.
    pub(crate) prefill: u64,
    pub(crate) batches: Vec<usize>,
}

impl Sizes {
    /// How long `cell` is measured.
    pub(crate) fn time_of(&self, cell: &Cell) -> Duration {
        match cell.store {
            Store::Text(Sync::Interval) => self.time.max(self.interval_time_min),
            _ => self.time,
        }
    }
}

/// What a cell came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) rows: u64,
    pub(crate) elapsed: Duration,
    /// How long each confirmation took. Empty where nothing is confirmed.
    pub(crate) commits_ns: Vec<u64>,
    /// The longest that the caller was busy with one batch, its rows included.
    pub(crate) stand_ns_max: u64,
    /// Processor time of the thread that has the rows.
    pub(crate) caller_cpu_ns: u64,
    /// The same and that of everyone who works for it, the reader excepted.
    pub(crate) cpu_ns: u64,
    /// All files of the store at the end, and the rows in them.
    pub(crate) file_bytes: u64,
    pub(crate) stored_rows: u64,
    /// How often the writer found the table locked.
    pub(crate) busy: u64,
    pub(crate) answers: Option<Answers>,
}

/// A store as the one who has rows sees it.
pub(crate) trait Writer {
    fn begin(&mut self);
    /// `index` is the row's place among the rows of the study.
    fn write(&mut self, index: usize, row: &Row);
    /// Returns when the rows have what the cell's policy promises.
    fn commit(&mut self);
}

/// Rows of one look at the clock where nothing is confirmed.
const UNCONFIRMED_ROWS: usize = 1000;

/// Writes until the cell's time or rows are used up; everything is confirmed at the end.
pub(crate) fn drive(cell: &Cell, sizes: &Sizes, rows: &[Row], writer: &mut impl Writer) -> Figures {
    let mut figures = Figures::default();
    let mut cycle = rows.iter().enumerate().cycle();
    let time = sizes.time_of(cell);
    let cpu = thread_cpu_ns();
    let started = Instant::now();
    loop {
        let batch = cell.batch.unwrap_or(UNCONFIRMED_ROWS);
        let batch_started = Instant::now();
        writer.begin();
        for (index, row) in cycle.by_ref().take(batch) {
            writer.write(index, row);
        }
        if cell.batch.is_some() {
            let commit_started = Instant::now();
            writer.commit();
            let commit_ns = commit_started.elapsed().as_nanos() as u64;
            figures.commits_ns.push(commit_ns);
        }
        let stand_ns = batch_started.elapsed().as_nanos() as u64;
        figures.stand_ns_max = figures.stand_ns_max.max(stand_ns);
        figures.rows += batch as u64;
        if started.elapsed() >= time || figures.rows >= sizes.rows_max {
            break;
        }
    }
    if cell.batch.is_none() {
        writer.commit();
    }
    figures.elapsed = started.elapsed();
    figures.caller_cpu_ns = thread_cpu_ns() - cpu;
    figures
}

fn cpu_clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub(crate) fn thread_cpu_ns() -> u64 {
    cpu_clock_ns(ClockId::ThreadCPUTime)
}

pub(crate) fn process_cpu_ns() -> u64 {
    cpu_clock_ns(ClockId::ProcessCPUTime)
}

/// All files below `dir`, as long as they look.
pub(crate) fn tree_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("our own directory");
    entries
        .map(|entry| {
            let path = entry.expect("our own directory").path();
            let found = path.symlink_metadata().expect("nobody else deletes here");
            match () {
                () if found.is_dir() => tree_bytes(&path),
                () if found.is_file() => found.len(),
                () => 0,
            }
        })
        .sum()
}

/// Copies a prefilled store: every cell begins with the same.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("room on the disk");
    for entry in std::fs::read_dir(from).expect("our own directory") {
        let path = entry.expect("our own directory").path();
        let copy = to.join(path.file_name().expect("an entry has a name"));
        let found = path.symlink_metadata().expect("nobody else deletes here");
        if found.is_dir() {
            copy_tree(&path, &copy);
        } else if found.is_symlink() {
            let target = std::fs::read_link(&path).expect("a link");
            std::os::unix::fs::symlink(target, copy).expect("room on the disk");
        } else {
            std::fs::copy(&path, copy).expect("room on the disk");
        }
    }
}

/// Waits until the disk has everything: a cell does not pay for what was written before it.
pub(crate) fn settle(dir: &Path) {
    if is_tiny() {
        return;
    }
    let dir = std::fs::File::open(dir).expect("our own directory");
    rustix::fs::syncfs(&dir).expect("the file system works");
}
