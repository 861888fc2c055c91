//! Event names and the patterns that match them.
//!
//! One specification for every language: `tests/vectors/patterns.tsv` holds it as data.

use std::cmp::Ordering;
use std::fmt;

/// Longest event name or pattern, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 128;
/// Most segments of an event name or pattern.
pub(crate) const SEGMENTS_MAX: usize = 16;

/// Why a text is no event name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameError {
    name: String,
    why: String,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no event name: {}", self.name, self.why)
    }
}

impl std::error::Error for NameError {}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    pattern: String,
    why: String,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no pattern: {}", self.pattern, self.why)
    }
}

impl std::error::Error for PatternError {}

/// Checks an event name: 1 to 16 segments separated by `:`, at most 128 bytes, no empty segment, no white
/// space, no control character, no segment that is `*`.
///
/// # Errors
/// Says what is wrong with it.
///
/// ```
/// use millpond_bus::check_event_name;
/// assert!(check_event_name("data:users:created").is_ok());
/// assert!(check_event_name("data::created").is_err());
/// assert!(check_event_name("data:*").is_err());
/// ```
pub fn check_event_name(name: &str) -> Result<(), NameError> {
    let wrong = |why: String| NameError {
        name: name.chars().take(160).collect(),
        why,
    };
    check_shape(name).map_err(wrong)?;
    if name.split(':').any(|segment| segment == "*") {
        return Err(wrong(
            "`*` stands for names, it cannot be in one".to_owned(),
        ));
    }
    Ok(())
}

/// What names and patterns have in common.
fn check_shape(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, the limit is {NAME_BYTES_MAX}",
            text.len()
        ));
    }
    // One look at the bytes clears the usual name.
    let plain = |byte: u8| byte > b' ' && byte < 0x7f;
    let odd = |character: char| character.is_control() || character.is_whitespace();
    if !text.bytes().all(plain)
        && let Some(character) = text.chars().find(|&character| odd(character))
    {
        return Err(format!("{character:?} is not allowed"));
    }
    if text.split(':').any(str::is_empty) {
        return Err("a segment between colons is empty".to_owned());
    }
    let segments = text.split(':').count();
    if segments > SEGMENTS_MAX {
        return Err(format!(
            "it has {segments} segments, the limit is {SEGMENTS_MAX}"
        ));
    }
    Ok(())
}

/// What the events of a batch have in common: the name without its last segment, or all of it where it has
/// only one.
///
/// ```
/// assert_eq!(millpond_bus::literal_prefix("data:users:created"), "data:users");
/// assert_eq!(millpond_bus::literal_prefix("ready"), "ready");
/// ```
pub fn literal_prefix(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(prefix, _)| prefix)
}

/// A pattern of event names: segments separated by `:`, each a literal or `*`.
///
/// A `*` in the middle matches exactly one segment, at the end one or more.
///
/// ```
/// use millpond_bus::Pattern;
/// let pattern: Pattern = "sentinel:*:status".parse()?;
/// assert!(pattern.matches("sentinel:7f3a:status"));
/// assert!(!pattern.matches("sentinel:7f3a:progress"));
/// assert!(!"data:*".parse::<Pattern>()?.matches("data"));
/// # Ok::<(), millpond_bus::PatternError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let wrong = |why: String| PatternError {
            pattern: text.chars().take(160).collect(),
            why,
        };
        check_shape(text).map_err(wrong)?;
        if let Some(segment) = text
            .split(':')
            .find(|segment| segment.len() > 1 && segment.contains('*'))
        {
            let why = format!(
                "segment {segment:?} mixes `*` with text; a `*` stands for a whole segment"
            );
            return Err(wrong(why));
        }
        Ok(Pattern {
            text: text.to_owned(),
        })
    }
}

impl Pattern {
    /// A pattern of our own, known to be one.
    pub(crate) fn literal(text: &'static str) -> Self {
        debug_assert!(text.parse::<Pattern>().is_ok());
        Pattern {
            text: text.to_owned(),
        }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches `name`. Does not allocate.
    pub fn matches(&self, name: &str) -> bool {
        let mut wanted = self.text.split(':').peekable();
        let mut given = name.split(':');
        while let Some(segment) = wanted.next() {
            match given.next() {
                None => return false,
                // A trailing `*` takes this segment and all that follow.
                Some(_) if segment == "*" && wanted.peek().is_none() => return true,
                Some(text) if segment == "*" || segment == text => {}
                Some(_) => return false,
            }
        }
        given.next().is_none()
    }

    /// Whether some event name matches both.
    ///
    /// ```
    /// use millpond_bus::Pattern;
    /// let data: Pattern = "data:*".parse()?;
    /// assert!(data.overlaps(&"*:created".parse()?)); // data:created
    /// assert!(!data.overlaps(&"chat:*".parse()?));
    /// assert!(!data.overlaps(&"data".parse()?));
    /// # Ok::<(), millpond_bus::PatternError>(())
    /// ```
    pub fn overlaps(&self, other: &Self) -> bool {
        let ours: Vec<&str> = self.text.split(':').collect();
        let theirs: Vec<&str> = other.text.split(':').collect();
        let (open, open_theirs) = (ours.last() == Some(&"*"), theirs.last() == Some(&"*"));
        // A trailing `*` stands for one segment or more, so it can grow to the other's length.
        let fits = match ours.len().cmp(&theirs.len()) {
            Ordering::Equal => true,
            Ordering::Less => open,
            Ordering::Greater => open_theirs,
        };
        let pairs = ours.iter().zip(&theirs);
        fits && pairs.clone().all(|(&a, &b)| a == b || a == "*" || b == "*")
    }

    /// The part of `name` that the first `*` matched: one segment, or for a trailing `*` all the rest.
    /// `None` without a `*` or without a match.
    ///
    /// ```
    /// use millpond_bus::Pattern;
    /// let pattern: Pattern = "log:*".parse()?;
    /// assert_eq!(pattern.first_star("log:web:pty:out"), Some("web:pty:out"));
    /// # Ok::<(), millpond_bus::PatternError>(())
    /// ```
    pub fn first_star<'n>(&self, name: &'n str) -> Option<&'n str> {
        if !self.matches(name) {
            return None;
        }
        let before = self.text.split(':').position(|segment| segment == "*")?;
        let rest = match before {
            0 => name,
            _ => name
                .match_indices(':')
                .nth(before - 1)
                .map(|(at, _)| &name[at + 1..])?,
        };
        let trailing = before + 1 == self.text.split(':').count();
        Some(if trailing {
            rest
        } else {
            rest.split(':').next().unwrap_or(rest)
        })
    }

    /// How many segments are literal, and where the first of them stands.
    fn specificity(&self) -> (usize, usize) {
        let literals = self
            .text
            .split(':')
            .filter(|segment| *segment != "*")
            .count();
        let first = self
            .text
            .split(':')
            .position(|segment| segment != "*")
            .unwrap_or(usize::MAX);
        (literals, first)
    }

    /// Compares by precedence: `Less` comes first. Patterns that compare equal go by their order in the
    /// rule table.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let (literals, first) = self.specificity();
        let (other_literals, other_first) = other.specificity();
        other_literals.cmp(&literals).then(first.cmp(&other_first))
    }

    /// In words, why this pattern comes before `other`.
    pub(crate) fn precedence_reason(&self, other: &Self) -> String {
        let (literals, first) = self.specificity();
        let (other_literals, other_first) = other.specificity();
        if literals != other_literals {
            return format!("{literals} literal segments against {other_literals}");
        }
        if first != other_first {
            return format!(
                "its first literal is segment {}, not {}",
                first + 1,
                other_first + 1
            );
        }
        "it stands earlier in the rule table".to_owned()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
