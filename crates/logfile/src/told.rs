//! The lines by which the daemon tells what reduction kept out of a log: `repeat` and `suppressed`.
//!
//! They have the source `millpond`, which no event has. Their messages have one fixed form, see
//! `docs/formats/log.md`.

use crate::time::{format_time, parse_time};

/// What one line of the daemon tells.
///
/// ```
/// use millpond_logfile::Told;
/// let told = Told::Repeat { source: b"pty:out", count: 12_000, first_ns: 0, last_ns: 1 };
/// let mut message = Vec::new();
/// told.write(&mut message);
/// assert_eq!(
///     message,
///     b"repeat source=pty:out count=12000 first=1970-01-01T00:00:00.000000000Z last=1970-01-01T00:00:00.000000001Z"
/// );
/// assert_eq!(Told::parse(&message), Some(told));
/// assert_eq!(Told::parse(b"repeat after me"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// The last line of the service came again: same level, same source, same message.
    Repeat {
        /// The source of what repeats, as a token.
        source: &'a [u8],
        /// How often.
        count: u64,
        /// Time of the first of these, in ns since 1970.
        first_ns: u64,
        /// Time of the last of these.
        last_ns: u64,
    },
    /// Lines that a rate limit or sampling kept out.
    Suppressed {
        /// How many.
        count: u64,
        /// Time of the first of these, in ns since 1970.
        first_ns: u64,
        /// Time of the last of these.
        last_ns: u64,
    },
}

impl<'a> Told<'a> {
    /// The source of such lines, and of every other that the daemon writes. No event has it.
    pub const SOURCE: &'static [u8] = b"millpond";

    /// Appends the message to `out`, as a record has it: a line escapes it once more.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (count, first_ns, last_ns) = match *self {
            Told::Repeat {
                source,
                count,
                first_ns,
                last_ns,
            } => {
                out.extend_from_slice(b"repeat source=");
                out.extend_from_slice(source);
                (count, first_ns, last_ns)
            }
            Told::Suppressed {
                count,
                first_ns,
                last_ns,
            } => {
                out.extend_from_slice(b"suppressed");
                (count, first_ns, last_ns)
            }
        };
        out.extend_from_slice(b" count=");
        out.extend_from_slice(count.to_string().as_bytes());
        out.extend_from_slice(b" first=");
        out.extend_from_slice(&format_time(first_ns));
        out.extend_from_slice(b" last=");
        out.extend_from_slice(&format_time(last_ns));
    }

    /// Reads a message as [`Told::write`] writes it; `None` for anything else. Look at the line's source first:
    /// any event may have such a message.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut words = message.split(|&byte| byte == b' ');
        let kind = words.next()?;
        let mut field = |key: &[u8]| words.next()?.strip_prefix(key);
        let source = match kind {
            b"repeat" => Some(field(b"source=")?),
            b"suppressed" => None,
            _ => return None,
        };
        let count = std::str::from_utf8(field(b"count=")?).ok()?.parse().ok()?;
        let first_ns = parse_time(field(b"first=")?)?;
        let last_ns = parse_time(field(b"last=")?)?;
        if words.next().is_some() {
            return None;
        }
        Some(match source {
            Some(source) => Told::Repeat {
                source,
                count,
                first_ns,
                last_ns,
            },
            None => Told::Suppressed {
                count,
                first_ns,
                last_ns,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for told in [
            Told::Repeat {
                source: b"two\\x20words",
                count: u64::MAX,
                first_ns: 5,
                last_ns: u64::MAX,
            },
            Told::Suppressed {
                count: 1,
                first_ns: 7,
                last_ns: 7,
            },
        ] {
            let mut message = Vec::new();
            told.write(&mut message);
            assert_eq!(Told::parse(&message), Some(told));
            for cut in 0..message.len() {
                assert_eq!(Told::parse(&message[..cut]), None, "cut at {cut}");
            }
            message.push(b' ');
            assert_eq!(Told::parse(&message), None);
        }
    }
}
