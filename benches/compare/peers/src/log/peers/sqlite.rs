//! SQLite: a log table in the process that logs.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Statement, params};

use super::{BATCH_LINES, now_ns};
use crate::lines::{Check, Lines};
use crate::peer::{Peer, Place, Result, Setup, ns_since};

const SCHEMA: &str = "
    create table logs (id integer primary key, time_ns integer, level text, source text, message text);
    create index logs_time on logs (time_ns);";
const INSERT: &str =
    "insert into logs (time_ns, level, source, message) values (?, 'INFO', 'out', ?)";

/// A write-ahead log and one index, by time. For the sink `synchronous=NORMAL` and 1,000 rows a commit, as its
/// documentation has it for speed; `FULL`, and one, where each row is to be durable.
pub struct Sqlite;

impl Sqlite {
    fn open(place: &Place, synchronous: &str) -> Result<Connection> {
        let table = Connection::open(place.out_path())?;
        table.pragma_update(None, "journal_mode", "wal")?;
        table.pragma_update(None, "synchronous", synchronous)?;
        table.execute_batch(SCHEMA)?;
        Ok(table)
    }
}

fn insert(statement: &mut Statement<'_>, message: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(message)?;
    statement.execute(params![now_ns() as i64, text])?;
    Ok(())
}

impl Peer for Sqlite {
    fn name(&self) -> String {
        "SQLite".to_owned()
    }

    fn does_durable(&self) -> bool {
        true
    }

    fn find(&self, _: &Setup) -> Result<String> {
        Ok(rusqlite::version().to_owned())
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let table = Self::open(place, "normal")?;
        let mut statement = table.prepare(INSERT)?;
        let started = Instant::now();
        while lines.remaining() > 0 {
            let transaction = table.unchecked_transaction()?;
            for _ in 0..BATCH_LINES.min(lines.remaining()) {
                insert(&mut statement, lines.next_message().unwrap_or_default())?;
            }
            transaction.commit()?;
        }
        Ok(started.elapsed())
    }

    fn write_durably(&self, place: &mut Place, lines: &mut Lines) -> Result<Vec<u64>> {
        let table = Self::open(place, "full")?;
        let mut statement = table.prepare(INSERT)?;
        let mut times_ns = Vec::new();
        while let Some(message) = lines.next_message() {
            let started = Instant::now();
            // Without a transaction around it, a statement is one.
            insert(&mut statement, message)?;
            times_ns.push(ns_since(started));
        }
        Ok(times_ns)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        let table = Connection::open(place.out_path())?;
        let mut statement = table.prepare("select message from logs order by id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            check.line(row.get_ref(0)?.as_str()?.as_bytes());
        }
        Ok(())
    }
}
