//! Levels, as a line spells them.

/// The level of a line. Its number is what the index counts by.
///
/// ```
/// use millpond_logfile::Level;
/// assert_eq!(Level::Warn.token(), "WARN ");
/// assert_eq!("error".parse::<Level>(), Ok(Level::Error));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Finest detail.
    Trace = 0,
    /// For people who debug.
    Debug = 1,
    /// The normal course of things.
    Info = 2,
    /// Something an operator should know.
    Warn = 3,
    /// Something failed.
    Error = 4,
    /// The source cannot go on.
    Fatal = 5,
}

const TOKENS: [&str; Level::COUNT] = ["TRACE", "DEBUG", "INFO ", "WARN ", "ERROR", "FATAL"];
const NAMES: [&str; Level::COUNT] = ["trace", "debug", "info", "warn", "error", "fatal"];
/// The tokens again, with their size in the type: a copy of known size is two moves.
static TOKEN_BYTES: [[u8; Level::TOKEN_BYTES]; Level::COUNT] = [
    *b"TRACE", *b"DEBUG", *b"INFO ", *b"WARN ", *b"ERROR", *b"FATAL",
];

impl Level {
    /// How many levels there are.
    pub const COUNT: usize = 6;
    /// Length of a level's token in a line.
    pub const TOKEN_BYTES: usize = 5;
    /// All levels, the least grave first.
    pub const ALL: [Level; Level::COUNT] = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
        Level::Fatal,
    ];

    /// The level with this number; [`Level::Info`] for a number that is no level.
    pub fn from_u8(number: u8) -> Self {
        Level::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(Level::Info)
    }

    /// The five bytes that stand for it in a line.
    pub fn token(self) -> &'static str {
        TOKENS[self as usize]
    }

    /// Its name: the token without padding, in lower case.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    #[inline(always)]
    pub(crate) fn token_bytes(self) -> [u8; Level::TOKEN_BYTES] {
        TOKEN_BYTES[self as usize]
    }

    pub(crate) fn from_token(token: &[u8]) -> Option<Self> {
        match token {
            b"TRACE" => Some(Level::Trace),
            b"DEBUG" => Some(Level::Debug),
            b"INFO " => Some(Level::Info),
            b"WARN " => Some(Level::Warn),
            b"ERROR" => Some(Level::Error),
            b"FATAL" => Some(Level::Fatal),
            _ => None,
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Level {
    /// A sentence for the person who typed the name.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |level: &Level| level.name().eq_ignore_ascii_case(text);
        Level::ALL.into_iter().find(named).ok_or_else(|| {
            let names = NAMES.join(", ");
            format!("{text:?} is no level: use one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_token_and_name_mean_the_same_level() {
        for level in Level::ALL {
            assert_eq!(Level::from_u8(level as u8), level);
            assert_eq!(Level::from_token(level.token().as_bytes()), Some(level));
            assert_eq!(level.token().as_bytes(), level.token_bytes());
            assert_eq!(level.token().trim_end().parse(), Ok(level));
        }
    }

    #[test]
    fn an_unknown_number_is_info_and_an_unknown_name_is_refused() {
        assert_eq!(Level::from_u8(6), Level::Info);
        assert_eq!(Level::from_token(b"info "), None);
        let error = "loud".parse::<Level>().unwrap_err();
        assert!(error.starts_with("\"loud\" is no level"));
    }
}
