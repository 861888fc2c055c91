//! The same lines in a table with indexes.

use std::io::Write;
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};

use super::generate::Week;
use crate::error::Error;
use crate::files::each_line;
use crate::process::Arguments;

/// Puts every line of the week into a new database.
pub(super) fn load(
    path: &Path,
    logs_dir: &Path,
    week: &Week,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let mut database = Connection::open(path)?;
    database.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         CREATE TABLE logs(service TEXT, time_ns INTEGER, level TEXT, source TEXT, message TEXT);",
    )?;
    let transaction = database.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO logs VALUES (?, ?, ?, ?, ?)")?;
        for (number, service) in week.services.iter().enumerate() {
            progress(&format!(
                "week: SQLite takes service {number} of {}",
                week.services.len()
            ));
            let mut failed = None;
            each_line(&logs_dir.join(service), &mut |line| {
                let Ok(line) = line else { return };
                let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
                let (source, message) = (text(line.source), text(line.message));
                let level = line.level.token().trim_end();
                let values = params![service, line.time_ns as i64, level, source, message];
                if let Err(error) = insert.execute(values) {
                    failed.get_or_insert(error);
                }
            })?;
            if let Some(error) = failed {
                return Err(error.into());
            }
        }
    }
    progress("week: SQLite makes its indexes");
    transaction.execute_batch(
        "CREATE INDEX by_service ON logs(service, time_ns);
         CREATE INDEX by_time ON logs(time_ns);
         CREATE INDEX by_level ON logs(level);
         ANALYZE;",
    )?;
    transaction.commit()?;
    Ok(())
}

/// `path=FILE sql=TEXT`: prints the rows. A process of its own, as `sqlite3` would be.
pub(crate) fn sqlite_ask_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(arguments.text("path")?, flags)?;
    let mut statement = database.prepare(arguments.text("sql")?)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            match row.get_ref(column)? {
                ValueRef::Integer(number) => write!(out, "{number}|")?,
                ValueRef::Text(text) => {
                    out.write_all(text)?;
                    out.write_all(b"|")?;
                }
                _ => out.write_all(b"|")?,
            }
        }
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
