//! Reading the journal export format (systemd.io/JOURNAL_EXPORT_FORMATS): `journalctl -o export`.
//!
//! An entry is fields and then an empty line. A field is `KEY=value\n`, or, for any bytes, `KEY\n`, the length as 64 bits
//! little-endian, the bytes, `\n`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::commands::import::mapping::{Position, Record};
use crate::commands::import::{Each, Input};
use crate::outcome::Failure;

/// No text field is longer: journald itself stops at 768 MiB.
const FIELD_BYTES_MAX: u64 = 1 << 30;
/// So much of the first entry tells one journal from another.
const IDENTITY_BYTES: u64 = 4096;

const NO_TIME: &str = "no __REALTIME_TIMESTAMP";
const DAMAGED: &str = "entry is cut off or damaged";

/// A file, or standard input copied to one.
pub(super) struct Journal {
    file: File,
    name: String,
    /// Fields to keep in the message.
    fields: Vec<String>,
}

/// The fields of one entry that mean something to us.
#[derive(Debug, Default)]
struct Fields {
    any: bool,
    time: Option<Vec<u8>>,
    unit: Vec<u8>,
    identifier: Vec<u8>,
    command: Vec<u8>,
}

/// What a step of reading came to.
enum Step {
    Entry,
    Damaged,
    End,
}

impl Journal {
    /// Checks that it begins as an export does.
    pub(super) fn open(mut file: File, name: &str, fields: &[String]) -> Result<Self, Failure> {
        let mut head = Vec::new();
        (&mut file).take(IDENTITY_BYTES).read_to_end(&mut head)?;
        file.rewind()?;
        if head.is_empty() {
            return Err(Failure::new(format!("{name} is empty: nothing to import")));
        }
        let first = head
            .split(|&byte| byte == b'\n')
            .find(|line| !line.is_empty());
        let is_key = |key: &[u8]| {
            let allowed =
                |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
            !key.is_empty() && key.len() <= 64 && key.iter().all(allowed)
        };
        let key = first.and_then(|line| line.split(|&byte| byte == b'=').next());
        if !key.is_some_and(is_key) {
            return Err(Failure::new(format!(
                "{name} is neither an SQLite file nor a journal export: make one with `journalctl -o export > FILE`"
            )));
        }
        Ok(Journal {
            file,
            name: name.to_owned(),
            fields: fields.to_owned(),
        })
    }

    fn reader(&self, from: u64) -> Result<Entries<'_>, Failure> {
        let mut reader = BufReader::with_capacity(256 << 10, &self.file);
        reader.seek(SeekFrom::Start(from))?;
        Ok(Entries {
            reader,
            offset: from,
            line: Vec::new(),
            value: Vec::new(),
        })
    }

    fn each_entry(
        &self,
        from: u64,
        bound: u64,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure> {
        let mut entries = self.reader(from)?;
        loop {
            record.clear();
            let step = entries
                .next(bound, &self.fields, record)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", self.name)))?;
            match step {
                Step::End => return Ok(()),
                Step::Entry => {}
                Step::Damaged => {
                    record.time = None;
                    record.why_no_time = DAMAGED;
                }
            }
            record.content_bytes = record.message.len() as u64;
            if each(record)?.is_break() {
                return Ok(());
            }
        }
    }
}

impl Input for Journal {
    fn describe(&self) -> String {
        let kept = match self.fields.is_empty() {
            true => "other fields are not kept (`--field NAME` keeps one)".to_owned(),
            false => format!("kept in the message: {}", self.fields.join(", ")),
        };
        format!(
            "journal export: service from _SYSTEMD_UNIT, else SYSLOG_IDENTIFIER, else _COMM; time from __REALTIME_TIMESTAMP, \
             level from PRIORITY, source from _TRANSPORT, message from MESSAGE; {kept}"
        )
    }

    fn identity(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let mut head = Vec::new();
        let mut file = &self.file;
        file.rewind()?;
        file.take(IDENTITY_BYTES).read_to_end(&mut head)?;
        // The first entry alone: a journal that has grown since is the same one.
        if let Some(end) = head.windows(2).position(|pair| pair == b"\n\n") {
            head.truncate(end);
        }
        let fields = self.fields.join("\n").into_bytes();
        Ok(vec![b"journal".to_vec(), head, fields])
    }

    fn is_sorted(&self) -> bool {
        false
    }

    fn service_label(&self) -> &'static str {
        "unit"
    }

    fn place_name(&self, place: i64) -> String {
        format!("entry at byte {place}")
    }

    fn bound(&mut self) -> Result<i64, Failure> {
        let length = self.file.metadata()?.len();
        Ok(i64::try_from(length)?)
    }

    fn survey(
        &mut self,
        bound: i64,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure> {
        self.each_entry(0, bound.unsigned_abs(), record, each)
    }

    fn read(
        &mut self,
        bound: i64,
        from: Position,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure> {
        let (bound, from) = (bound.unsigned_abs(), from.place.unsigned_abs());
        let length = self.file.metadata()?.len();
        if length < bound {
            return Err(Failure::new(format!(
                "{} has {length} bytes and had {bound} when its import began: give the same input again",
                self.name
            )));
        }
        self.each_entry(from, bound, record, each)
    }
}

/// Entries, one after the other.
struct Entries<'a> {
    reader: BufReader<&'a File>,
    offset: u64,
    line: Vec<u8>,
    value: Vec<u8>,
}

impl Entries<'_> {
    /// Reads up to the end of the next entry. `record.place` is where it begins, `end_place` the byte behind it.
    fn next(&mut self, bound: u64, kept: &[String], record: &mut Record) -> io::Result<Step> {
        let mut fields = Fields::default();
        loop {
            let at = self.offset;
            let complete = self.read_line(bound)?;
            if self.line.is_empty() && !complete {
                // An export need not end in an empty line.
                return Ok(match fields.any {
                    true => fields.finish(record, self.offset),
                    false => Step::End,
                });
            }
            if self.line.is_empty() {
                match fields.any {
                    true => return Ok(fields.finish(record, self.offset)),
                    false => continue,
                }
            }
            if !fields.any {
                record.place = at as i64;
                fields.any = true;
            }
            let split = self.line.iter().position(|&byte| byte == b'=');
            let is_whole = match split {
                Some(at) if complete => {
                    let (key, value) = self.line.split_at(at);
                    fields.take(key, &value[1..], kept, record);
                    true
                }
                None if complete => self.binary(bound, &mut fields, kept, record)?,
                _ => false,
            };
            if !is_whole {
                self.skip_entry(bound)?;
                record.end_place = self.offset as i64;
                return Ok(Step::Damaged);
            }
        }
    }

    /// Reads a line without its newline; false where it has none.
    fn read_line(&mut self, bound: u64) -> io::Result<bool> {
        self.line.clear();
        let limit = bound.saturating_sub(self.offset).min(FIELD_BYTES_MAX);
        let read = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut self.line)?;
        self.offset += read as u64;
        let complete = self.line.last() == Some(&b'\n');
        if complete {
            self.line.pop();
        }
        Ok(complete)
    }

    /// The rest of a binary field; false where there is less of it than it says.
    fn binary(
        &mut self,
        bound: u64,
        fields: &mut Fields,
        kept: &[String],
        record: &mut Record,
    ) -> io::Result<bool> {
        let left = bound.saturating_sub(self.offset);
        if left < 9 {
            return Ok(false);
        }
        let mut length = [0; 8];
        self.reader.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > left - 9 {
            // Not consumed: what is damaged may be the length, and good entries follow.
            self.reader.seek_relative(-8)?;
            return Ok(false);
        }
        self.value.clear();
        let read = (&mut self.reader)
            .take(length + 1)
            .read_to_end(&mut self.value)?;
        self.offset += 8 + read as u64;
        let is_whole = read as u64 == length + 1 && self.value.pop() == Some(b'\n');
        if is_whole {
            let key = std::mem::take(&mut self.line);
            fields.take(&key, &self.value, kept, record);
            self.line = key;
        }
        Ok(is_whole)
    }

    /// To the start of the next entry: behind the next empty line.
    fn skip_entry(&mut self, bound: u64) -> io::Result<()> {
        while self.read_line(bound)? && !self.line.is_empty() {}
        Ok(())
    }
}

impl Fields {
    fn take(&mut self, key: &[u8], value: &[u8], kept: &[String], record: &mut Record) {
        match key {
            b"__REALTIME_TIMESTAMP" => self.time = Some(value.to_owned()),
            b"PRIORITY" => value.clone_into(&mut record.level),
            b"_SYSTEMD_UNIT" => value.clone_into(&mut self.unit),
            b"SYSLOG_IDENTIFIER" => value.clone_into(&mut self.identifier),
            b"_COMM" => value.clone_into(&mut self.command),
            b"_TRANSPORT" => value.clone_into(&mut record.source),
            // Fields are kept as they come, MESSAGE is put in front of them.
            b"MESSAGE" if record.content.is_empty() => value.clone_into(&mut record.content),
            b"MESSAGE" => record.add("MESSAGE", value),
            _ => {}
        }
        if let Some(name) = kept.iter().find(|name| name.as_bytes() == key) {
            record.add(name, value);
        }
    }

    fn finish(self, record: &mut Record, offset: u64) -> Step {
        record.end_place = offset as i64;
        let time = self.time.as_deref().and_then(|text| {
            let micros: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            micros.checked_mul(1_000).filter(|&ns| ns >= 0)
        });
        record.set_time(time.ok_or(NO_TIME));
        let unit = self.unit.strip_suffix(b".service").unwrap_or(&self.unit);
        let service = [unit, &self.identifier, &self.command]
            .into_iter()
            .find(|name| !name.is_empty());
        record
            .service
            .extend_from_slice(service.unwrap_or_default());
        if record.message.is_empty() {
            std::mem::swap(&mut record.message, &mut record.content);
        } else if !record.content.is_empty() {
            record.content.push(b' ');
            record.content.append(&mut record.message);
            std::mem::swap(&mut record.message, &mut record.content);
        }
        Step::Entry
    }
}
