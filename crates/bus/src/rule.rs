//! Prefix rules: what happens to the events of a pattern.

use std::fmt;
use std::time::Duration;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::pattern::{NAME_BYTES_MAX, Pattern};

/// Most rules of a bus.
pub(crate) const RULES_MAX: usize = 256;
/// Longest service name, in bytes.
const SERVICE_BYTES_MAX: usize = 64;
const LANE_BYTES_MIN: u32 = 64 << 10;
const LANE_BYTES_MAX: u32 = 1 << 30;

/// How the events of a rule reach subscribers.
///
/// ```
/// assert_eq!(millpond_bus::Class::Batch.name(), "batch");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Each at once.
    Passthrough,
    /// In consolidated records, on thresholds.
    Batch,
    /// The last value per key.
    Conflate,
    /// Count, min, max, mean, last per field.
    Aggregate,
}

impl Class {
    /// Its word in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Class::Passthrough => "passthrough",
            Class::Batch => "batch",
            Class::Conflate => "conflate",
            Class::Aggregate => "aggregate",
        }
    }
}

/// What a publisher does when its lane is full.
///
/// ```
/// use std::time::Duration;
/// let overflow = millpond_bus::Overflow::Block { deadline: Duration::from_millis(100) };
/// assert_eq!(overflow.to_string(), "block up to 100ms, then drop");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Drops the event it has in hand, and counts it.
    DropNewest,
    /// Waits for space; after the deadline it drops and counts.
    Block {
        /// How long it waits.
        deadline: Duration,
    },
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Overflow::DropNewest => f.write_str("drop-newest"),
            Overflow::Block { deadline } => write!(f, "block up to {deadline:?}, then drop"),
        }
    }
}

/// One prefix rule.
///
/// ```
/// use millpond_bus::Rule;
/// let rule = Rule { service: Some("*".into()), ..Rule::new("log:*".parse()?) };
/// assert_eq!(rule.service_and_source("log:web:pty:out"), Some(("web", "pty:out")));
/// assert_eq!(rule.service_and_source("log:web"), Some(("web", "log")));
/// # Ok::<(), millpond_bus::PatternError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The event names it is for.
    pub pattern: Pattern,
    /// How subscribers get them.
    pub class: Class,
    /// The service whose log keeps them. `*`: the first segment of what the pattern's first `*` matched.
    /// `None`: they are not kept.
    pub service: Option<String>,
    /// What a publisher does when its lane is full.
    pub overflow: Overflow,
    /// Size of each publisher's lane: a power of two, 64 KiB to 1 GiB.
    pub lane_bytes: u32,
    /// Longest payload in bytes, at most a quarter of the lane.
    pub payload_bytes_limit: u32,
    /// A batch is full at this many events.
    pub max_events: u32,
    /// A batch is full at this many bytes.
    pub max_bytes: u32,
    /// A batch is due this long after its first event.
    pub max_delay: Duration,
}

impl Rule {
    /// A rule with the defaults: batches of 50 ms, 100 events or 256 KiB, lanes of 1 MiB, payloads up to
    /// 64 KiB, publishers that wait 100 ms for space.
    pub fn new(pattern: Pattern) -> Self {
        Rule {
            pattern,
            class: Class::Batch,
            service: None,
            overflow: Overflow::Block {
                deadline: Duration::from_millis(100),
            },
            lane_bytes: 1 << 20,
            payload_bytes_limit: 64 << 10,
            max_events: 100,
            max_bytes: 256 << 10,
            max_delay: Duration::from_millis(50),
        }
    }

    /// The service and the source that `name` is logged under: a fixed service takes the whole name as
    /// source; a `*` takes the first segment it matched as service and the rest as source, or the name's
    /// own first segment where there is no rest. `None` where the rule is not persisted or does not match.
    pub fn service_and_source<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let service = self.service.as_deref()?;
        if service != "*" {
            return Some((service, name));
        }
        let matched = self.pattern.first_star(name)?;
        let own = name.split(':').next().unwrap_or(name);
        Some(matched.split_once(':').unwrap_or((matched, own)))
    }

    fn check(&self) -> Result<(), RuleError> {
        let wrong = |why: String| {
            Err(RuleError {
                pattern: self.pattern.to_string(),
                why,
            })
        };
        let lane_bytes = self.lane_bytes;
        if !lane_bytes.is_power_of_two() || !(LANE_BYTES_MIN..=LANE_BYTES_MAX).contains(&lane_bytes)
        {
            return wrong(format!(
                "lane-bytes {lane_bytes} is not a power of two from {LANE_BYTES_MIN} to {LANE_BYTES_MAX}"
            ));
        }
        let payload_bytes = self.payload_bytes_limit;
        if payload_bytes == 0 || payload_bytes > lane_bytes / 4 {
            return wrong(format!(
                "payload-bytes-limit {payload_bytes} is outside 1 to {}, a quarter of lane-bytes",
                lane_bytes / 4
            ));
        }
        if self.max_events == 0 || self.max_bytes == 0 || self.max_delay.is_zero() {
            return wrong("max-events, max-bytes and max-delay must be above zero".to_owned());
        }
        match &self.service {
            Some(service) if service == "*" => {
                match self.pattern.as_str().split(':').any(|s| s == "*") {
                    true => Ok(()),
                    false => wrong("service `*` needs a `*` in the pattern".to_owned()),
                }
            }
            Some(service) if !is_service_name(service) => wrong(format!(
                "service {service:?} cannot be used: 1 to {SERVICE_BYTES_MAX} characters out of letters, \
                 digits, `.`, `_` and `-`, not starting with `.`, or `*`"
            )),
            _ => Ok(()),
        }
    }
}

fn is_service_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=SERVICE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('.')
}

/// Why a rule or a rule table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    pattern: String,
    why: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?}: {}", self.pattern, self.why)
    }
}

impl std::error::Error for RuleError {}

/// The rule that applies to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved<'t> {
    /// Its place in the table.
    pub index: usize,
    /// The rule.
    pub rule: &'t Rule,
}

/// The rules of a bus, in the order they were written.
///
/// ```
/// use millpond_bus::RuleTable;
/// let rules = RuleTable::defaults();
/// let rule = rules.resolve("data:code_index:created").expect("`*` matches everything").rule;
/// assert_eq!(rule.pattern.as_str(), "data:code_index:*"); // more literal segments than `data:*`
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTable {
    rules: Vec<Rule>,
    /// Indices in order of precedence.
    precedence: Vec<usize>,
}

impl RuleTable {
    /// Checks the rules and orders them by precedence.
    ///
    /// # Errors
    /// Names the rule, the value and the limit. Two rules with the same pattern are an error.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        if rules.len() > RULES_MAX {
            let why = format!(
                "a table of {} rules exceeds the limit of {RULES_MAX}",
                rules.len()
            );
            return Err(RuleError {
                pattern: rules[RULES_MAX].pattern.to_string(),
                why,
            });
        }
        for (index, rule) in rules.iter().enumerate() {
            rule.check()?;
            if rules[..index]
                .iter()
                .any(|earlier| earlier.pattern == rule.pattern)
            {
                let why = "the pattern appears twice; remove one of them".to_owned();
                return Err(RuleError {
                    pattern: rule.pattern.to_string(),
                    why,
                });
            }
        }
        let mut precedence: Vec<usize> = (0..rules.len()).collect();
        // Stable: equal patterns keep the order of the table.
        precedence.sort_by(|&a, &b| rules[a].pattern.precedence(&rules[b].pattern));
        Ok(RuleTable { rules, precedence })
    }

    /// The rules that a bus starts with when nobody says otherwise.
    pub fn defaults() -> Self {
        let millis = Duration::from_millis;
        let rule = |pattern| Rule::new(Pattern::literal(pattern));
        let passthrough = |pattern| Rule {
            class: Class::Passthrough,
            lane_bytes: 256 << 10,
            ..rule(pattern)
        };
        let rules = vec![
            passthrough("chat:*"),
            passthrough("presence:*"),
            passthrough("sentinel:*:status"),
            rule("data:*"),
            Rule {
                max_delay: millis(200),
                max_events: 500,
                ..rule("data:code_index:*")
            },
            Rule {
                class: Class::Aggregate,
                max_delay: millis(1000),
                max_events: 50,
                overflow: Overflow::DropNewest,
                ..rule("gpu:*")
            },
            Rule {
                max_delay: millis(500),
                max_events: 20,
                ..rule("training:*")
            },
            Rule {
                service: Some("*".to_owned()),
                lane_bytes: 4 << 20,
                // A log line wakes nobody by itself: the sink flushes by time, or when a lane is half full.
                max_events: 1 << 20,
                ..rule("log:*")
            },
            rule("*"),
        ];
        // The defaults pass `new`, as a test shows; the order is what `new` would compute.
        let mut precedence: Vec<usize> = (0..rules.len()).collect();
        precedence.sort_by(|&a: &usize, &b: &usize| rules[a].pattern.precedence(&rules[b].pattern));
        RuleTable { rules, precedence }
    }

    /// The rules in the order they were written.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule for an event name. Looks at each rule; does not allocate.
    pub fn resolve(&self, name: &str) -> Option<Resolved<'_>> {
        self.matching(name).next()
    }

    fn matching<'t>(&'t self, name: &str) -> impl Iterator<Item = Resolved<'t>> {
        self.precedence
            .iter()
            .map(|&index| Resolved {
                index,
                rule: &self.rules[index],
            })
            .filter(move |resolved| resolved.rule.pattern.matches(name))
    }

    /// All rules that match, and why the first one wins.
    pub fn explain(&self, name: &str) -> Explanation {
        let matching: Vec<_> = self.matching(name).collect();
        let candidates = matching
            .iter()
            .enumerate()
            .map(|(place, resolved)| {
                let why = match place {
                    0 if matching.len() == 1 => "the only rule that matches".to_owned(),
                    0 => "the most specific rule that matches".to_owned(),
                    _ => {
                        let winner = &matching[0].rule.pattern;
                        let reason = winner.precedence_reason(&resolved.rule.pattern);
                        format!("`{winner}` comes first: {reason}")
                    }
                };
                (resolved.rule.clone(), why)
            })
            .collect();
        Explanation {
            name: name.to_owned(),
            candidates,
        }
    }
}

/// Which rules match a name, in order of precedence, and why.
///
/// ```
/// let explanation = millpond_bus::RuleTable::defaults().explain("data:users:created");
/// assert_eq!(explanation.candidates[0].0.pattern.as_str(), "data:*");
/// assert!(explanation.candidates[1].1.contains("literal segments"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The event name.
    pub name: String,
    /// The rules and the reasons; the first one applies.
    pub candidates: Vec<(Rule, String)>,
}

/// A rule as it lies in shared memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RuleEntry {
    pattern: [u8; NAME_BYTES_MAX],
    service: [u8; SERVICE_BYTES_MAX],
    pattern_bytes: U32,
    service_bytes: U32,
    class: U32,
    /// 0 drop newest, 1 block.
    overflow: U32,
    block_deadline_ns: U64,
    max_delay_ns: U64,
    lane_bytes: U32,
    payload_bytes_limit: U32,
    max_events: U32,
    max_bytes: U32,
}
const _: () = assert!(size_of::<RuleEntry>() == 240);

impl From<&Rule> for RuleEntry {
    fn from(rule: &Rule) -> Self {
        let mut entry = RuleEntry::new_zeroed();
        let pattern = rule.pattern.as_str().as_bytes();
        entry.pattern[..pattern.len()].copy_from_slice(pattern);
        entry.pattern_bytes = U32::new(pattern.len() as u32);
        let service = rule.service.as_deref().unwrap_or_default().as_bytes();
        entry.service[..service.len()].copy_from_slice(service);
        entry.service_bytes = U32::new(service.len() as u32);
        entry.class = U32::new(match rule.class {
            Class::Passthrough => 0,
            Class::Batch => 1,
            Class::Conflate => 2,
            Class::Aggregate => 3,
        });
        let nanoseconds =
            |duration: Duration| U64::new(duration.as_nanos().min(u64::MAX.into()) as u64);
        if let Overflow::Block { deadline } = rule.overflow {
            entry.overflow = U32::new(1);
            entry.block_deadline_ns = nanoseconds(deadline);
        }
        entry.max_delay_ns = nanoseconds(rule.max_delay);
        entry.lane_bytes = U32::new(rule.lane_bytes);
        entry.payload_bytes_limit = U32::new(rule.payload_bytes_limit);
        entry.max_events = U32::new(rule.max_events);
        entry.max_bytes = U32::new(rule.max_bytes);
        entry
    }
}

impl TryFrom<&RuleEntry> for Rule {
    type Error = RuleError;

    /// Checks everything: the entry lies in memory that others can write.
    fn try_from(entry: &RuleEntry) -> Result<Self, RuleError> {
        let wrong = |why: &str| RuleError {
            pattern: String::from("?"),
            why: why.to_owned(),
        };
        let text = |bytes: &[u8], length: U32| {
            let bytes = bytes.get(..length.get() as usize)?;
            Some(std::str::from_utf8(bytes).ok()?.to_owned())
        };
        let pattern = text(&entry.pattern, entry.pattern_bytes)
            .ok_or_else(|| wrong("its pattern is not text"))?
            .parse::<Pattern>()
            .map_err(|error| wrong(&error.to_string()))?;
        let service = text(&entry.service, entry.service_bytes)
            .ok_or_else(|| wrong("its service is not text"))?;
        let class = match entry.class.get() {
            0 => Class::Passthrough,
            1 => Class::Batch,
            2 => Class::Conflate,
            3 => Class::Aggregate,
            _ => return Err(wrong("its class is unknown")),
        };
        let deadline = Duration::from_nanos(entry.block_deadline_ns.get());
        let overflow = match entry.overflow.get() {
            0 => Overflow::DropNewest,
            1 => Overflow::Block { deadline },
            _ => return Err(wrong("its overflow is unknown")),
        };
        let rule = Rule {
            pattern,
            class,
            service: (!service.is_empty()).then_some(service),
            overflow,
            lane_bytes: entry.lane_bytes.get(),
            payload_bytes_limit: entry.payload_bytes_limit.get(),
            max_events: entry.max_events.get(),
            max_bytes: entry.max_bytes.get(),
            max_delay: Duration::from_nanos(entry.max_delay_ns.get()),
        };
        rule.check()?;
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_checks() {
        let defaults = RuleTable::defaults();
        assert_eq!(RuleTable::new(defaults.rules.clone()), Ok(defaults));
    }

    #[test]
    fn a_rule_survives_shared_memory() {
        for rule in RuleTable::defaults().iter() {
            assert_eq!(Rule::try_from(&RuleEntry::from(rule)).as_ref(), Ok(rule));
        }
    }

    #[test]
    fn nonsense_in_shared_memory_is_an_error() {
        let good = RuleEntry::from(&Rule::new("a:*".parse().expect("a pattern")));
        let mut entry = good;
        entry.pattern_bytes = U32::new(1000);
        assert!(Rule::try_from(&entry).is_err());
        entry = good;
        entry.class = U32::new(9);
        assert!(Rule::try_from(&entry).is_err());
        entry = good;
        entry.lane_bytes = U32::new(3);
        assert!(Rule::try_from(&entry).is_err());
        entry = good;
        entry.pattern[0] = 0xff;
        assert!(Rule::try_from(&entry).is_err());
    }

    #[test]
    fn errors_name_rule_value_and_limit() {
        let rule = Rule {
            lane_bytes: 100_000,
            ..Rule::new("a:*".parse().expect("a pattern"))
        };
        let message = RuleTable::new(vec![rule])
            .expect_err("not a power of two")
            .to_string();
        assert!(message.contains("a:*") && message.contains("100000") && message.contains("65536"));
    }
}
