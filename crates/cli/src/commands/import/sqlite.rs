//! Reading a `logs` table: one snapshot, in order of time, with memory that does not grow with the table.

use std::fmt::Display;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};

use crate::commands::import::mapping::{Position, Record};
use crate::commands::import::{Each, Input};
use crate::flags::TimeUnit;
use crate::outcome::Failure;

/// What every SQLite file starts with.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Our reading of the time column, as a function of SQL.
const TIME_FUNCTION: &str = "millpond_time_ns";
/// 64 MiB in SQLite's sign language; what does not fit is sorted in files of its own.
const CACHE_KIB: i64 = -(64 << 10);

/// Names by which each column is known, the expected one first.
const SERVICE: &[&str] = &["context", "service"];
const SOURCE: &[&str] = &["source"];
const TAGS: &[&str] = &["tags"];
const TIME: &[&str] = &["timestamp", "time", "ts"];
const LEVEL: &[&str] = &["level", "severity"];
const ERROR: &[&str] = &["error"];
const CONTENT: &[&str] = &["content", "message", "msg"];

/// A table, opened.
pub(super) struct Table {
    connection: Connection,
    path: PathBuf,
    table: String,
    unit: TimeUnit,
    columns: Columns,
}

/// The columns by what they mean, each by its own name.
#[derive(Debug, Default)]
struct Columns {
    service: Option<String>,
    source: Option<String>,
    tags: Option<String>,
    time: String,
    level: Option<String>,
    error: Option<String>,
    content: Option<String>,
    /// Kept in the message under their names.
    others: Vec<String>,
    /// The rowid under another name: not kept.
    id: Option<String>,
}

impl Table {
    /// Opens the file read-only and begins to look at one snapshot of it, which writers do not change.
    pub(super) fn open(path: &Path, table: &str, unit: TimeUnit) -> Result<Self, Failure> {
        let failed = |error: rusqlite::Error| failure(path, &error);
        let connection = connect(path).map_err(failed)?;
        connection
            .pragma_update(None, "cache_size", CACHE_KIB)
            .map_err(failed)?;
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        connection
            .create_scalar_function(TIME_FUNCTION, 1, flags, move |context| {
                Ok(time_ns(context.get_raw(0), unit).ok())
            })
            .map_err(failed)?;
        connection.execute_batch("BEGIN").map_err(failed)?;
        let columns = columns(&connection, path, table)?;
        Ok(Table {
            connection,
            path: path.to_owned(),
            table: table.to_owned(),
            unit,
            columns,
        })
    }

    fn failed(&self, error: rusqlite::Error) -> Failure {
        failure(&self.path, &error)
    }

    fn prepare(&self, sql: &str) -> Result<Statement<'_>, Failure> {
        self.connection
            .prepare(sql)
            .map_err(|error| self.failed(error))
    }

    /// Fills in a record but for its message's place in time.
    fn read_row(
        &self,
        statement: &mut Statement<'_>,
        record: &mut Record,
    ) -> Result<bool, Failure> {
        let columns = &self.columns;
        let failed = |error| self.failed(error);
        let mut rows = statement.query([record.place]).map_err(failed)?;
        let Some(row) = rows.next().map_err(failed)? else {
            return Ok(false);
        };
        let mut scratch = Vec::new();
        let mut next = 0;
        let mut take = |wanted: bool, out: &mut Vec<u8>| -> Result<(), Failure> {
            out.clear();
            if wanted {
                append(row.get_ref(next).map_err(failed)?, out);
                next += 1;
            }
            Ok(())
        };
        take(columns.service.is_some(), &mut record.service)?;
        take(columns.source.is_some(), &mut record.source)?;
        take(columns.level.is_some(), &mut record.level)?;
        take(columns.content.is_some(), &mut record.message)?;
        take(columns.error.is_some(), &mut scratch)?;
        record.add("error", &scratch);
        take(columns.tags.is_some(), &mut scratch)?;
        record.add("tags", &scratch);
        for name in &columns.others {
            take(true, &mut scratch)?;
            record.add(name, &scratch);
        }
        Ok(true)
    }
}

impl Input for Table {
    fn describe(&self) -> String {
        let Columns {
            service,
            source,
            tags,
            time,
            level,
            error,
            content,
            others,
            id,
        } = &self.columns;
        let mut found = vec![format!("time from {time:?}")];
        let mut missing = Vec::new();
        let roles = [
            ("service", service, SERVICE),
            ("source", source, SOURCE),
            ("level", level, LEVEL),
            ("message", content, CONTENT),
            ("error", error, ERROR),
            ("tags", tags, TAGS),
        ];
        for (role, column, names) in roles {
            match column {
                Some(column) => found.push(format!("{role} from {column:?}")),
                None => missing.push(names[0]),
            }
        }
        if !others.is_empty() {
            found.push(format!("kept in the message: {}", others.join(", ")));
        }
        if let Some(id) = id {
            found.push(format!("{id:?} gives the order and is not kept"));
        }
        if !missing.is_empty() {
            found.push(format!("not there: {}", missing.join(", ")));
        }
        format!("SQLite table {:?}: {}", self.table, found.join(", "))
    }

    fn identity(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let path = self.path.canonicalize()?;
        let inode = path.metadata()?.ino();
        Ok(vec![
            b"sqlite".to_vec(),
            path.into_os_string().into_encoded_bytes(),
            inode.to_le_bytes().to_vec(),
            self.table.clone().into_bytes(),
            format!("{:?}", self.unit).into_bytes(),
        ])
    }

    fn is_sorted(&self) -> bool {
        true
    }

    fn service_label(&self) -> &'static str {
        "context"
    }

    fn place_name(&self, place: i64) -> String {
        format!("row {place}")
    }

    fn bound(&mut self) -> Result<i64, Failure> {
        let sql = format!("SELECT max(rowid) FROM {}", quoted(&self.table));
        let highest: Option<i64> = self
            .connection
            .query_row(&sql, [], |row| row.get(0))
            .map_err(|error| self.failed(error))?;
        Ok(highest.unwrap_or(0))
    }

    fn survey(
        &mut self,
        bound: i64,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure> {
        let Columns {
            service,
            level,
            content,
            time,
            ..
        } = &self.columns;
        let column = |name: &Option<String>| name.as_deref().map_or("NULL".to_owned(), quoted);
        // Long contents lie in pages of their own, which this does not read.
        let sql = format!(
            "SELECT rowid, {}, {}, {}, octet_length({}) FROM {} WHERE rowid <= ?1 ORDER BY rowid",
            quoted(time),
            column(service),
            column(level),
            column(content),
            quoted(&self.table)
        );
        let failed = |error| self.failed(error);
        let mut statement = self.prepare(&sql)?;
        let mut rows = statement.query([bound]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            record.clear();
            record.place = row.get(0).map_err(failed)?;
            record.set_time(time_ns(row.get_ref(1).map_err(failed)?, self.unit));
            append(row.get_ref(2).map_err(failed)?, &mut record.service);
            append(row.get_ref(3).map_err(failed)?, &mut record.level);
            let content_bytes: Option<i64> = row.get(4).map_err(failed)?;
            record.content_bytes = content_bytes.unwrap_or(0).unsigned_abs();
            if each(record)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        bound: i64,
        from: Position,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure> {
        let Columns {
            service,
            source,
            level,
            content,
            error,
            tags,
            time,
            others,
            ..
        } = &self.columns;
        let (table, time) = (quoted(&self.table), quoted(time));
        // Only times and rowids are sorted: rows of 10 MB stay where they are.
        let order = format!(
            "SELECT rowid, {TIME_FUNCTION}({time}) AS \"millpond time\" FROM {table} \
             WHERE rowid <= ?1 AND \"millpond time\" IS NOT NULL \
             AND (\"millpond time\", rowid) > (?2, ?3) ORDER BY \"millpond time\", rowid"
        );
        let wanted: Vec<String> = [service, source, level, content, error, tags]
            .into_iter()
            .flatten()
            .chain(others)
            .map(|name| quoted(name))
            .collect();
        let wanted = match wanted.is_empty() {
            true => "NULL".to_owned(),
            false => wanted.join(", "),
        };
        let sql = format!("SELECT {wanted} FROM {table} WHERE rowid = ?1");
        let failed = |error| self.failed(error);
        let mut order = self.prepare(&order)?;
        let mut by_rowid = self.prepare(&sql)?;
        let mut keys = order
            .query([bound, from.time_ns, from.place])
            .map_err(failed)?;
        while let Some(key) = keys.next().map_err(failed)? {
            record.clear();
            record.place = key.get(0).map_err(failed)?;
            record.end_place = record.place;
            record.time = Some(key.get(1).map_err(failed)?);
            if self.read_row(&mut by_rowid, record)? && each(record)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    match connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
        // WAL mode, and a directory where the index of the WAL cannot be made: where there is no WAL, none is
        // needed.
        Err(error)
            if is_kind(&error, ErrorCode::CannotOpen) || is_kind(&error, ErrorCode::ReadOnly) =>
        {
            let mut wal = path.as_os_str().to_owned();
            wal.push("-wal");
            if Path::new(&wal).exists() {
                return Err(error);
            }
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(uri(path), flags)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(connection),
    }
}

/// `file:PATH?immutable=1`, with everything in the path escaped that means something in an URI.
fn uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?immutable=1"
}

fn is_kind(error: &rusqlite::Error, code: ErrorCode) -> bool {
    error.sqlite_error_code() == Some(code)
}

/// What went wrong with which file, and what to do.
fn failure(path: &Path, error: &rusqlite::Error) -> Failure {
    let shown = path.display();
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            ": it starts as an SQLite file and is none, or is encrypted"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            ": it is damaged; `sqlite3 FILE .recover | sqlite3 NEW` saves what can be read, then import NEW"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ": another program has it locked; try again when that is done"
        }
        Some(ErrorCode::ReadOnly) => {
            ": its journal has to be rolled back first; open it once with `sqlite3 FILE 'SELECT 1 FROM sqlite_schema'`"
        }
        Some(ErrorCode::DiskFull) => {
            ": no space to sort in; name a directory with space in SQLITE_TMPDIR"
        }
        _ => "",
    };
    Failure::new(format!("cannot read {shown}: {error}{remedy}"))
}

/// Finds the columns by name.
fn columns(connection: &Connection, path: &Path, table: &str) -> Result<Columns, Failure> {
    let failed = |error: rusqlite::Error| failure(path, &error);
    let list = |sql: &str, parameters: &[&str]| -> rusqlite::Result<Vec<String>> {
        let mut statement = connection.prepare(sql)?;
        let names =
            statement.query_map(rusqlite::params_from_iter(parameters), |row| row.get(0))?;
        names.collect()
    };
    let names = list("SELECT name FROM pragma_table_info(?1)", &[table]).map_err(failed)?;
    if names.is_empty() {
        let tables = list(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
            &[],
        )
        .map_err(failed)?;
        let there = match tables.is_empty() {
            true => "it has no tables".to_owned(),
            false => format!("it has {}; name one with `--table`", tables.join(", ")),
        };
        let shown = path.display();
        return Err(Failure::new(format!(
            "no table {table:?} in {shown}: {there}"
        )));
    }
    let without_rowid = list(
        "SELECT 'x' FROM pragma_table_list(?1) WHERE wr OR type <> 'table'",
        &[table],
    );
    if !without_rowid.map_err(failed)?.is_empty() {
        return Err(Failure::new(format!(
            "table {table:?} in {} has no rowid (it is a view, virtual, or WITHOUT ROWID): copy it with `CREATE TABLE copy \
             AS SELECT * FROM ..`, and import that",
            path.display()
        )));
    }
    let keys = list(
        "SELECT name FROM pragma_table_info(?1) WHERE pk = 1 AND upper(type) = 'INTEGER' \
         AND (SELECT count(*) FROM pragma_table_info(?1) WHERE pk > 0) = 1",
        &[table],
    )
    .map_err(failed)?;
    let find = |wanted: &[&str]| -> Option<String> {
        let named = |wanted: &&str| names.iter().find(|name| name.eq_ignore_ascii_case(wanted));
        wanted.iter().find_map(named).cloned()
    };
    let Some(time) = find(TIME) else {
        return Err(Failure::new(format!(
            "table {table:?} in {} has no column {}: it has {}",
            path.display(),
            TIME.join(" or "),
            names.join(", ")
        )));
    };
    let mut columns = Columns {
        service: find(SERVICE),
        source: find(SOURCE),
        tags: find(TAGS),
        time,
        level: find(LEVEL),
        error: find(ERROR),
        content: find(CONTENT),
        others: Vec::new(),
        id: keys.first().cloned(),
    };
    let known = [
        &columns.service,
        &columns.source,
        &columns.tags,
        &Some(columns.time.clone()),
        &columns.level,
        &columns.error,
        &columns.content,
        &columns.id,
    ];
    let is_other = |name: &&String| !known.iter().any(|known| known.as_ref() == Some(*name));
    let others: Vec<String> = names.iter().filter(is_other).cloned().collect();
    columns.others = others;
    Ok(columns)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The bytes of a value: text and blobs as they are, numbers as text, nothing for NULL.
fn append(value: ValueRef<'_>, out: &mut Vec<u8>) {
    let mut number = |number: &dyn Display| out.extend_from_slice(number.to_string().as_bytes());
    match value {
        ValueRef::Null => {}
        ValueRef::Integer(value) => number(&value),
        ValueRef::Real(value) => number(&value),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => out.extend_from_slice(bytes),
    }
}

/// ns since 1970 of a value of the time column, or why it is none.
fn time_ns(value: ValueRef<'_>, unit: TimeUnit) -> Result<i64, &'static str> {
    match value {
        ValueRef::Null => Err("no time"),
        ValueRef::Integer(number) => {
            in_range(i128::from(number) * i128::from(unit.nanoseconds()), unit)
        }
        ValueRef::Real(number) => real_ns(number, unit),
        ValueRef::Text(text) => text_ns(text, unit),
        ValueRef::Blob(_) => Err("time is a blob"),
    }
}

fn text_ns(text: &[u8], unit: TimeUnit) -> Result<i64, &'static str> {
    let none = "time is neither a number nor a date";
    let text = std::str::from_utf8(text).map_err(|_| none)?.trim();
    if let Ok(number) = text.parse::<i64>() {
        return time_ns(ValueRef::Integer(number), unit);
    }
    if text.starts_with(|first: char| first.is_ascii_digit() || first == '-')
        && let Ok(number) = text.parse::<f64>()
    {
        return real_ns(number, unit);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return in_range(time.as_nanosecond(), unit);
    }
    // As SQLite's CURRENT_TIMESTAMP writes it, in UTC.
    let time: DateTime = text.parse().map_err(|_| none)?;
    let time = time.to_zoned(TimeZone::UTC).map_err(|_| none)?;
    in_range(time.timestamp().as_nanosecond(), unit)
}

/// A double of epoch seconds is good for a quarter of a microsecond: what is behind a microsecond is noise.
fn real_ns(number: f64, unit: TimeUnit) -> Result<i64, &'static str> {
    if !number.is_finite() {
        return Err("time is not finite");
    }
    let (per_unit, step_ns) = match unit {
        TimeUnit::S => (1e6, 1_000),
        TimeUnit::Ms => (1e3, 1_000),
        TimeUnit::Us => (1.0, 1_000),
        TimeUnit::Ns => (1.0, 1),
    };
    // Saturates, which is out of range.
    in_range(
        ((number * per_unit).round() as i128).saturating_mul(step_ns),
        unit,
    )
}

fn in_range(time_ns: i128, unit: TimeUnit) -> Result<i64, &'static str> {
    match i64::try_from(time_ns) {
        Ok(time_ns) if time_ns >= 0 => Ok(time_ns),
        _ if time_ns < 0 => Err("time before 1970"),
        _ if unit == TimeUnit::S => {
            Err("time after the year 2262 (are these milliseconds? then `--time-unit ms`)")
        }
        _ => Err("time after the year 2262"),
    }
}

/// Whether these first bytes are those of an SQLite file.
pub(super) fn is_sqlite(mut file: impl Read) -> bool {
    let mut head = [0; MAGIC.len()];
    file.read_exact(&mut head).is_ok() && head == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_all_forms() {
        let expected = Ok(1_795_224_593_500_000_000);
        let cases: [(ValueRef<'_>, TimeUnit); 8] = [
            (ValueRef::Real(1_795_224_593.5), TimeUnit::S),
            (ValueRef::Integer(1_795_224_593_500), TimeUnit::Ms),
            (ValueRef::Integer(1_795_224_593_500_000), TimeUnit::Us),
            (ValueRef::Integer(1_795_224_593_500_000_000), TimeUnit::Ns),
            (ValueRef::Text(b"1795224593.5"), TimeUnit::S),
            (ValueRef::Text(b"2026-11-21T01:29:53.5Z"), TimeUnit::S),
            (ValueRef::Text(b"2026-11-21 02:29:53.5+01:00"), TimeUnit::S),
            (ValueRef::Text(b"2026-11-21 01:29:53.5"), TimeUnit::S),
        ];
        for (value, unit) in cases {
            assert_eq!(time_ns(value, unit), expected, "{value:?}");
        }
        assert_eq!(time_ns(ValueRef::Integer(0), TimeUnit::S), Ok(0));
    }

    #[test]
    fn what_is_no_time_says_why() {
        let cases = [
            (ValueRef::Null, "no time"),
            (ValueRef::Integer(-1), "before 1970"),
            (ValueRef::Integer(1_795_224_593_500), "milliseconds"),
            (ValueRef::Integer(i64::MAX), "2262"),
            (ValueRef::Real(f64::INFINITY), "finite"),
            (ValueRef::Real(1e300), "2262"),
            (ValueRef::Text(b"yesterday"), "neither"),
            (ValueRef::Text(b"\xff"), "neither"),
            (ValueRef::Blob(b"1"), "blob"),
        ];
        for (value, why) in cases {
            let error = time_ns(value, TimeUnit::S).expect_err("no time");
            assert!(error.contains(why), "{value:?}: {error}");
        }
    }

    #[test]
    fn a_path_in_an_uri_means_only_itself() {
        assert_eq!(
            uri(Path::new("/a b?c#d%")),
            "file:/a%20b%3fc%23d%25?immutable=1"
        );
    }
}
