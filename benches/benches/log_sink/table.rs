//! The log table of the system that failed, with its indexes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, Statement, params};

use crate::asker::Asker;
use crate::rows::{Row, needle};
use crate::store::{Cell, Figures, Journal, Sizes, Synchronous, Writer, drive, process_cpu_ns};
use crate::store::{copy_tree, settle, tree_bytes};

const SCHEMA: &str = "
    create table logs (
        id integer primary key autoincrement,
        context text, source text, tags text, timestamp integer, level text, error text, content text
    );
    create index logs_timestamp on logs (timestamp);
    create index logs_level on logs (level);
    create index logs_source on logs (source);
    create index logs_context on logs (context);";

const INSERT: &str = "insert into logs (context, source, tags, timestamp, level, error, content) \
    values (?, ?, ?, ?, ?, ?, ?)";

/// The file of a store in its directory.
pub(crate) const FILE: &str = "logs.db";

/// How often somebody of this process found the table locked.
static BUSY: AtomicU64 = AtomicU64::new(0);

/// Counts, waits as SQLite's own handler does, and never gives up: a log must not lose rows.
fn on_busy(tries: i32) -> bool {
    const DELAYS_MS: [u64; 12] = [1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100];
    BUSY.fetch_add(1, Ordering::Relaxed);
    let last = DELAYS_MS.len() - 1;
    std::thread::sleep(Duration::from_millis(DELAYS_MS[(tries as usize).min(last)]));
    true
}

pub(crate) fn busy_count() -> u64 {
    BUSY.load(Ordering::Relaxed)
}

pub(crate) fn open(path: &Path) -> Connection {
    let table = Connection::open(path).expect("a table");
    table.busy_handler(Some(on_busy)).expect("a free slot");
    table
}

struct TableWriter<'c> {
    begin: Statement<'c>,
    insert: Statement<'c>,
    commit: Statement<'c>,
}

impl<'c> TableWriter<'c> {
    fn new(table: &'c Connection) -> Self {
        let prepare = |sql| table.prepare(sql).expect("good SQL");
        TableWriter {
            begin: prepare("begin"),
            insert: prepare(INSERT),
            commit: prepare("commit"),
        }
    }
}

impl Writer for TableWriter<'_> {
    fn begin(&mut self) {
        self.begin.execute([]).expect("no transaction is open");
    }

    fn write(&mut self, _: usize, row: &Row) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock after 1970");
        self.insert
            .execute(params![
                row.service,
                row.source,
                row.tags,
                now.as_secs() as i64,
                row.level_name(),
                row.error,
                row.content
            ])
            .expect("room on the disk");
    }

    fn commit(&mut self) {
        self.commit.execute([]).expect("room on the disk");
    }
}

/// Makes a table with `count` rows in `dir`.
pub(crate) fn prefill(dir: &Path, rows: &[Row], count: u64) {
    std::fs::create_dir_all(dir).expect("room on the disk");
    let table = open(&dir.join(FILE));
    set(&table, "journal_mode", "OFF");
    set(&table, "synchronous", "OFF");
    table.execute_batch(SCHEMA).expect("good SQL");
    let mut writer = TableWriter::new(&table);
    writer.begin();
    let plain = rows.iter().cycle();
    for row in plain.take(count.saturating_sub(1) as usize) {
        writer.write(0, row);
    }
    writer.write(0, &needle());
    writer.commit();
}

fn set(table: &Connection, name: &str, value: &str) {
    // Some settings answer with a row, others do not.
    let mut statement = table
        .prepare(&format!("pragma {name} = {value}"))
        .expect("a setting SQLite has");
    let mut answers = statement.query([]).expect("a setting SQLite has");
    while let Some(answer) = answers.next().expect("a setting SQLite has") {
        let now: String = answer.get(0).expect("one column");
        assert!(now.eq_ignore_ascii_case(value), "{name} is {now}");
    }
}

pub(crate) fn measure(
    cell: &Cell,
    (journal, level): (Journal, Synchronous),
    sizes: &Sizes,
    rows: &[Row],
    template: &Path,
    dir: &Path,
) -> Figures {
    copy_tree(template, dir);
    let path = dir.join(FILE);
    let table = open(&path);
    set(&table, "journal_mode", journal.pragma());
    set(&table, "synchronous", level.pragma());
    let mut writer = TableWriter::new(&table);
    settle(dir);
    let asker = cell.reader.then(|| Asker::start("table", &path));
    let (cpu, busy) = (process_cpu_ns(), busy_count());
    let mut figures = drive(cell, sizes, rows, &mut writer);
    figures.cpu_ns = process_cpu_ns() - cpu;
    figures.busy = busy_count() - busy;
    figures.answers = asker.map(Asker::stop);
    figures.file_bytes = tree_bytes(dir);
    figures.stored_rows = sizes.prefill + figures.rows;
    let counted: u64 = table
        .query_row("select count(*) from logs", [], |row| row.get(0))
        .expect("a table");
    assert_eq!(counted, figures.stored_rows, "every row is there, once");
    figures
}
