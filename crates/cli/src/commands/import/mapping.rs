//! How a record of another system becomes a line: names, levels, messages. `docs/guide/import.md` has the tables.

use millpond_logfile::Level;

/// What a record without a service is put under.
const NO_SERVICE: &str = "unknown";
const SERVICE_BYTES_MAX: usize = 64;
/// A longer source goes into the message: the column is for short names.
const SOURCE_BYTES_MAX: usize = 200;

/// A place in the input, in the order in which it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    /// Time of the last record, ns since 1970.
    pub(super) time_ns: i64,
    /// SQLite: its rowid. Journal: the byte behind it.
    pub(super) place: i64,
}

impl Position {
    /// Before everything.
    pub(super) const START: Position = Position {
        time_ns: -1,
        place: 0,
    };
}

/// One record of the input. Made once and filled again and again.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Where it is, for people: a rowid, or the byte where it begins.
    pub(super) place: i64,
    /// What to go on behind.
    pub(super) end_place: i64,
    /// ns since 1970, or why there is none.
    pub(super) time: Option<i64>,
    pub(super) why_no_time: &'static str,
    /// As found, before it is made a legal name.
    pub(super) service: Vec<u8>,
    pub(super) source: Vec<u8>,
    pub(super) level: Vec<u8>,
    pub(super) message: Vec<u8>,
    /// Room for the part of a message that is found late; not for readers.
    pub(super) content: Vec<u8>,
    /// Bytes of the message, also where only they are looked at.
    pub(super) content_bytes: u64,
}

impl Record {
    /// Empties it, keeping its memory.
    pub(super) fn clear(&mut self) {
        self.time = None;
        self.why_no_time = "no time";
        for field in [
            &mut self.service,
            &mut self.source,
            &mut self.level,
            &mut self.message,
            &mut self.content,
        ] {
            field.clear();
        }
    }

    /// Sets the time from what was read.
    pub(super) fn set_time(&mut self, time: Result<i64, &'static str>) {
        match time {
            Ok(time_ns) => self.time = Some(time_ns),
            Err(why) => self.why_no_time = why,
        }
    }

    /// Appends ` NAME=VALUE` to the message; nothing for an empty value.
    pub(super) fn add(&mut self, name: &str, value: &[u8]) {
        add(&mut self.message, name, value);
    }
}

/// Appends ` NAME=VALUE`, without the space at the start of a message.
pub(super) fn add(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    if !message.is_empty() {
        message.push(b' ');
    }
    message.extend_from_slice(name.as_bytes());
    message.push(b'=');
    message.extend_from_slice(value);
}

/// Which service takes a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Naming {
    /// All in one.
    pub(super) service: Option<String>,
    /// Put in front of each name.
    pub(super) prefix: String,
}

impl Naming {
    /// The legal service name for what was found: every other character becomes `-`, at the start `_`, and the
    /// end is cut off.
    pub(super) fn service_name(&self, found: &[u8]) -> String {
        if let Some(service) = &self.service {
            return service.clone();
        }
        let found = match found.is_empty() {
            true => NO_SERVICE.into(),
            false => String::from_utf8_lossy(found),
        };
        let mut name = self.prefix.clone();
        for character in found.chars().take(SERVICE_BYTES_MAX) {
            let fits = character.is_ascii_alphanumeric() || "._-".contains(character);
            name.push(if fits { character } else { '-' });
        }
        name.truncate(SERVICE_BYTES_MAX);
        // A leading `.` is not legal, and a leading `-` looks like a flag.
        if name.starts_with(['.', '-']) {
            name.replace_range(..1, "_");
        }
        name
    }

    /// Whether the name tells all that `found` said: else the message has to.
    pub(super) fn is_faithful(&self, found: &[u8], name: &str) -> bool {
        found.is_empty() || name.strip_prefix(&self.prefix).map(str::as_bytes) == Some(found)
    }
}

/// The level that a text or number means. Words in any case; 0 to 7 as syslog has them, 10 to 50 as Python has.
pub(super) fn level_of(text: &[u8]) -> Option<Level> {
    let text = text.trim_ascii();
    let word = text.to_ascii_lowercase();
    let level = match word.as_slice() {
        b"fatal" | b"panic" | b"critical" | b"crit" | b"emergency" | b"emerg" | b"alert" | b"0"
        | b"1" | b"2" | b"50" => Level::Fatal,
        b"error" | b"err" | b"severe" | b"failure" | b"3" | b"40" => Level::Error,
        b"warning" | b"warn" | b"4" | b"30" => Level::Warn,
        b"" | b"info" | b"information" | b"informational" | b"notice" | b"note" | b"success"
        | b"5" | b"6" | b"20" => Level::Info,
        b"debug" | b"verbose" | b"fine" | b"7" | b"10" => Level::Debug,
        b"trace" | b"finer" | b"finest" => Level::Trace,
        _ => return None,
    };
    Some(level)
}

/// The source column for what was found, and whether it tells all of it.
pub(super) fn source_of(found: &[u8]) -> (String, bool) {
    let text = String::from_utf8_lossy(found);
    let end = text.floor_char_boundary(SOURCE_BYTES_MAX);
    let mut name = text[..end].to_owned();
    if name == "millpond" {
        // What the daemon itself says has this source: gaps, repeats.
        name = "import:millpond".to_owned();
    }
    if name.ends_with('+') {
        // It would say that the record goes on in the next line.
        name.pop();
        name.push('-');
    }
    let is_faithful = name.as_bytes() == found;
    (name, is_faithful)
}

/// FNV-1a: a name for an input that stays the same across versions of this program.
pub(super) fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use millpond_logfile::check_service_name;

    use super::*;

    #[test]
    fn every_context_becomes_a_legal_name() {
        let naming = Naming::default();
        let long = "x".repeat(300);
        let cases: [(&[u8], &str); 8] = [
            (b"web", "web"),
            (b"my app/v2", "my-app-v2"),
            (b"", "unknown"),
            (b".hidden", "_hidden"),
            ("caf\u{e9}".as_bytes(), "caf-"),
            (b"\xff\xfe", "_-"),
            (b"a\0b", "a-b"),
            (long.as_bytes(), &long[..64]),
        ];
        for (found, name) in cases {
            assert_eq!(naming.service_name(found), name);
            assert_eq!(check_service_name(name), Ok(()));
            assert_eq!(
                naming.is_faithful(found, name),
                found == name.as_bytes() || found.is_empty()
            );
        }
        let prefixed = Naming {
            prefix: "imported-".to_owned(),
            service: None,
        };
        assert_eq!(prefixed.service_name(b"web"), "imported-web");
        assert!(prefixed.is_faithful(b"web", "imported-web"));
        assert_eq!(prefixed.service_name(long.as_bytes()).len(), 64);
    }

    #[test]
    fn levels_of_other_systems() {
        let cases: [(&str, Option<Level>); 12] = [
            ("CRITICAL", Some(Level::Fatal)),
            ("Warning", Some(Level::Warn)),
            ("notice", Some(Level::Info)),
            (" info ", Some(Level::Info)),
            ("", Some(Level::Info)),
            ("3", Some(Level::Error)),
            ("7", Some(Level::Debug)),
            ("40", Some(Level::Error)),
            ("trace", Some(Level::Trace)),
            ("8", None),
            ("loud", None),
            ("\u{ff}", None),
        ];
        for (text, level) in cases {
            assert_eq!(level_of(text.as_bytes()), level, "{text}");
        }
    }

    #[test]
    fn sources_that_mean_something_to_readers_are_changed_and_told() {
        assert_eq!(source_of(b"rpc"), ("rpc".to_owned(), true));
        assert_eq!(source_of(b""), (String::new(), true));
        assert_eq!(source_of(b"c++"), ("c+-".to_owned(), false));
        assert_eq!(
            source_of(b"millpond"),
            ("import:millpond".to_owned(), false)
        );
        assert!(!source_of(b"\xff").1);
        assert!(!source_of(&[b'x'; 1000]).1);
    }
}
