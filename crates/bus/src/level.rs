//! How grave an event is.

/// The level of an event, as it travels in the record header.
///
/// ```
/// use millpond_bus::Level;
/// assert!(Level::Error > Level::Info);
/// assert_eq!(Level::from_u8(4), Level::Error);
/// assert_eq!(Level::from_u8(77), Level::Info); // unknown levels are treated as information
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Level {
    /// Finest detail.
    Trace = 0,
    /// For people who debug.
    Debug = 1,
    /// The normal course of things.
    #[default]
    Info = 2,
    /// Something an operator should know.
    Warn = 3,
    /// Something failed.
    Error = 4,
    /// The source cannot go on.
    Fatal = 5,
}

impl Level {
    /// The level with this number; [`Level::Info`] for a number that is no level.
    pub fn from_u8(number: u8) -> Self {
        match number {
            0 => Level::Trace,
            1 => Level::Debug,
            3 => Level::Warn,
            4 => Level::Error,
            5 => Level::Fatal,
            _ => Level::Info,
        }
    }
}
