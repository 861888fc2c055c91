//! Any bytes in what is imported; see [`crate::hostile`].

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use millpond_logfile::check_service_name;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::Input;
use super::journald::Journal;
use super::mapping::{Naming, Position, Record, level_of, source_of};
use super::sqlite::Table;
use crate::flags::TimeUnit;
use crate::outcome::Failure;

/// A byte that says what the others are: a journal export; rows of a table; what is overwritten in an SQLite file. Reading
/// ends; the two readings of an import see the same records in places that grow; going on behind a record gives
/// what follows it.
///
/// # Panics
/// Where that is not so.
pub fn import(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let mut file = scratch();
    let path = file.path().to_owned();
    match kind % 3 {
        0 => {
            file.write_all(data).expect("room");
            let file = File::open(&path).expect("it is there");
            let fields = ["CODE_FILE".to_owned()];
            if let Ok(mut journal) = Journal::open(file, "hostile", &fields) {
                read_twice(&mut journal, data.len());
            }
        }
        1 => {
            let rows = write_rows(&path, data);
            let mut table = Table::open(&path, "logs", TimeUnit::S).expect("it is a table");
            let (seen, read) = read_twice(&mut table, data.len());
            assert!(
                seen == rows && read <= rows,
                "{seen} of {rows}, {read} with a time"
            );
        }
        _ => {
            write_rows(
                &path,
                b"\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05",
            );
            let length = file.as_file().metadata().expect("it is open").len();
            for piece in data.chunks(12) {
                let Some((at, bytes)) = piece.split_first_chunk::<2>() else {
                    break;
                };
                let at = u64::from(u16::from_le_bytes(*at)) % length;
                file.as_file().write_all_at(bytes, at).expect("room");
            }
            // What SQLite says of it is an error, and no more.
            if let Ok(mut table) = Table::open(&path, "logs", TimeUnit::Ms) {
                let mut each = |_: &Record| Ok(ControlFlow::Continue(()));
                if let Ok(bound) = table.bound() {
                    let _ = table.survey(bound, &mut Record::default(), &mut each);
                    let mut record = Record::default();
                    let _ = table.read(bound, Position::START, &mut record, &mut each);
                }
            }
        }
    }
}

fn scratch() -> tempfile::NamedTempFile {
    let memory = Path::new("/dev/shm");
    let file = match memory.is_dir() {
        true => tempfile::NamedTempFile::new_in(memory),
        false => tempfile::NamedTempFile::new(),
    };
    file.expect("a temporary file")
}

/// Rows out of bytes; how many.
fn write_rows(path: &Path, data: &[u8]) -> usize {
    let connection = Connection::open(path).expect("a new file");
    let columns = "context, source, timestamp, level, error, content, other";
    let fast = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;";
    let make = format!("{fast} CREATE TABLE logs ({columns});");
    connection.execute_batch(&make).expect("a table");
    let insert = "INSERT INTO logs VALUES (?, ?, ?, ?, ?, ?, ?)";
    let mut statement = connection.prepare(insert).expect("a statement");
    let mut rest = data;
    let mut rows = 0;
    while !rest.is_empty() && rows < 100 {
        let values = [(); 7].map(|()| value(&mut rest));
        statement.execute(values).expect("room");
        rows += 1;
    }
    drop(statement);
    connection.execute_batch("COMMIT").expect("room");
    rows
}

fn value(rest: &mut &[u8]) -> Value {
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at(count.min(rest.len()));
        *rest = left;
        taken
    };
    let kind = take(1).first().copied().unwrap_or_default();
    let mut number = [0; 8];
    match kind % 6 {
        0 => Value::Null,
        1 => {
            let bytes = take(8);
            number[..bytes.len()].copy_from_slice(bytes);
            Value::Integer(i64::from_le_bytes(number))
        }
        2 => {
            let bytes = take(8);
            number[..bytes.len()].copy_from_slice(bytes);
            Value::Real(f64::from_le_bytes(number))
        }
        3 => Value::Blob(take(usize::from(kind >> 3)).to_vec()),
        4 => Value::Integer(1_795_224_593 + i64::from(kind)),
        _ => Value::Text(String::from_utf8_lossy(take(usize::from(kind >> 3))).into_owned()),
    }
}

type Place = (i64, i64, Option<i64>);

/// How many records the first reading saw, and how many the second.
fn read_twice(input: &mut dyn Input, bytes: usize) -> (usize, usize) {
    let naming = Naming::default();
    let bound = input.bound().expect("its length is known");
    input.identity().expect("it can be read");
    let mut record = Record::default();
    let mut surveyed = 0;
    let survey = input.survey(bound, &mut record, &mut |record| {
        surveyed += 1;
        assert!(surveyed <= bytes + 100, "records without bytes");
        let name = naming.service_name(&record.service);
        assert!(check_service_name(&name).is_ok(), "{name:?}");
        level_of(&record.level);
        Ok(ControlFlow::Continue(()))
    });
    ended(survey);
    let all = read_from(input, bound, Position::START);
    if !input.is_sorted() {
        assert_eq!(all.len(), surveyed, "the same records");
        let follow = all.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        assert!(follow, "places grow: {all:?}");
        assert!(all.last().is_none_or(|last| last.1 <= bound));
    }
    // Behind the one in the middle, as after a crash.
    if let Some(&(place, end_place, time)) = all.get(all.len() / 2) {
        let position = Position {
            time_ns: time.unwrap_or_default(),
            place: if input.is_sorted() { place } else { end_place },
        };
        let rest = read_from(input, bound, position);
        assert_eq!(rest, all[all.len() / 2 + 1..], "what follows {position:?}");
    }
    (surveyed, all.len())
}

fn read_from(input: &mut dyn Input, bound: i64, from: Position) -> Vec<Place> {
    let mut places = Vec::new();
    let read = input.read(bound, from, &mut Record::default(), &mut |record| {
        places.push((record.place, record.end_place, record.time));
        let (source, _) = source_of(&record.source);
        assert!(source != "millpond" && !source.ends_with('+'));
        Ok(ControlFlow::Continue(()))
    });
    ended(read);
    places
}

fn ended(outcome: Result<(), Failure>) {
    if let Err(failure) = outcome {
        panic!("what can be read is read: {failure}");
    }
}
