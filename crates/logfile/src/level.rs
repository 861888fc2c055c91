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

impl Level {
    /// How many levels there are.
    pub const COUNT: usize = 6;
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
        ["trace", "debug", "info", "warn", "error", "fatal"][self as usize]
    }

    pub(crate) fn from_token(token: &[u8]) -> Option<Self> {
        Level::ALL
            .into_iter()
            .find(|level| level.token().as_bytes() == token)
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let level = Level::ALL.into_iter().find(|level| level.name() == lower);
        level.ok_or_else(|| {
            format!("{text:?} is no level: use trace, debug, info, warn, error or fatal")
        })
    }
}
