//! What is asked for: which services have what reduced.

use std::collections::BTreeMap;
use std::fmt;

use regex::bytes::Regex;

/// How many lines a second a service may write: a token bucket. It counts lines that would be written, of every
/// level: a service that fails in a loop fails with errors.
///
/// ```
/// let limit = millpond_daemon::RateLimit { lines_per_s: 1000, burst_lines: 5000 };
/// assert_eq!(limit.to_string(), "1000/s burst 5000");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Lines a second, by the time of the records.
    pub lines_per_s: u32,
    /// Lines at once after a pause; what the bucket holds when it is full, as it is at first.
    pub burst_lines: u32,
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s burst {}", self.lines_per_s, self.burst_lines)
    }
}

/// Why a pattern cannot be redacted.
///
/// ```
/// let error = millpond_daemon::Redaction::new("card", "[0-9").expect_err("an open bracket");
/// assert!(error.to_string().contains("card"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedactionError {
    name: String,
    why: String,
}

impl fmt::Display for RedactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redaction {:?}: {}", self.name, self.why)
    }
}

impl std::error::Error for RedactionError {}

/// Text that must not stand in a log: each match becomes `[redacted:NAME]`.
///
/// The regex runs in linear time over the message as it was published, not over its escaped form. The longest
/// message is looked through in one piece; a longer record whose parts are records of their own is not put
/// together for it.
///
/// ```
/// let redaction = millpond_daemon::Redaction::new("card", r"\b[0-9]{16}\b")?;
/// assert_eq!(redaction.name(), "card");
/// # Ok::<(), millpond_daemon::RedactionError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Redaction {
    name: String,
    regex: Regex,
    /// `[redacted:NAME]`
    replacement: Vec<u8>,
}

/// The same pattern under the same name.
impl PartialEq for Redaction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.pattern() == other.pattern()
    }
}

impl Eq for Redaction {}

impl Redaction {
    /// Most characters of a name.
    pub const NAME_CHARS_MAX: usize = 32;

    /// Compiles a pattern.
    ///
    /// # Errors
    /// The pattern is no regex, is too large (10 MiB compiled), or matches the empty text; the name is not
    /// 1 to 32 letters, digits, `_`, `-` or `.`.
    pub fn new(name: &str, pattern: &str) -> Result<Self, RedactionError> {
        let wrong = |why: String| RedactionError {
            name: name.to_owned(),
            why,
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=Self::NAME_CHARS_MAX).contains(&name.len()) || !name.bytes().all(allowed) {
            let why = "a name is 1 to 32 letters, digits, `_`, `-` or `.`";
            return Err(wrong(why.to_owned()));
        }
        let regex = Regex::new(pattern).map_err(|error| wrong(error.to_string()))?;
        if regex.is_match(b"") {
            let why = format!(
                "pattern {pattern:?} matches the empty text, and so everywhere: use `+` for `*`"
            );
            return Err(wrong(why));
        }
        Ok(Redaction {
            name: name.to_owned(),
            regex,
            replacement: format!("[redacted:{name}]").into_bytes(),
        })
    }

    /// What stands in the place of a match.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The regex, as it was written.
    pub fn pattern(&self) -> &str {
        self.regex.as_str()
    }

    /// Replaces every match in `message` into `out`, which is empty; returns how many. 0: `out` is untouched.
    pub(crate) fn replace(&self, message: &[u8], out: &mut Vec<u8>) -> u64 {
        let (mut count, mut copied) = (0, 0);
        // Matches of nothing (`\b`) replace nothing.
        for found in self
            .regex
            .find_iter(message)
            .filter(|found| !found.is_empty())
        {
            out.extend_from_slice(&message[copied..found.start()]);
            out.extend_from_slice(&self.replacement);
            copied = found.end();
            count += 1;
        }
        if count > 0 {
            out.extend_from_slice(&message[copied..]);
        }
        count
    }
}

/// What is reduced of one service. Every line that this keeps out of the log is counted, and told by a line:
/// see `docs/guide/reduction.md`.
///
/// ```
/// let reduction = millpond_daemon::Reduction::default();
/// assert!(reduction.repeats && reduction.rate_limit.is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduction {
    /// Lines with the level, source and message of the one before them become one `repeat` line. Default: yes.
    pub repeats: bool,
    /// Lines over this rate are kept out. Default: no limit.
    pub rate_limit: Option<RateLimit>,
    /// Of lines below WARN, one in so many is kept: the first, and then each so manieth. Default, and for 0
    /// and 1: all.
    pub sample: Option<u32>,
    /// Text that is replaced, one after the other, before anything else. Default: none.
    pub redact: Vec<Redaction>,
}

impl Default for Reduction {
    fn default() -> Self {
        Reduction {
            repeats: true,
            ..Self::none()
        }
    }
}

impl Reduction {
    /// Every record becomes a line, as it is.
    pub fn none() -> Self {
        Reduction {
            repeats: false,
            rate_limit: None,
            sample: None,
            redact: Vec::new(),
        }
    }
}

/// What is reduced, by service.
///
/// ```
/// use millpond_daemon::{Reduction, Reductions};
/// let mut reductions = Reductions::default();
/// reductions.services.insert("audit".into(), Reduction::none());
/// assert!(!reductions.of("audit").repeats && reductions.of("web").repeats);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reductions {
    /// For services that are not named.
    pub default: Reduction,
    /// By the exact name of the service.
    pub services: BTreeMap<String, Reduction>,
}

impl Reductions {
    /// No service has anything reduced.
    pub fn none() -> Self {
        Reductions {
            default: Reduction::none(),
            services: BTreeMap::new(),
        }
    }

    /// What is reduced of a service.
    pub fn of(&self, service: &str) -> &Reduction {
        self.services.get(service).unwrap_or(&self.default)
    }
}
