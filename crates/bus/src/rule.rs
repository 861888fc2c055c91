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
const OUTBOX_BYTES_MIN: u32 = 64 << 10;
const OUTBOX_BYTES_MAX: u32 = 1 << 30;
/// What an outbox has beyond four payloads, so that an event with its headers and its name always fits in a
/// quarter of it.
const OUTBOX_MARGIN_BYTES: u64 = 4 << 10;
/// Longest text of a conflate key, in bytes.
const KEY_BYTES_MAX: usize = 96;

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

    /// Its number in shared memory.
    pub(crate) fn number(self) -> u8 {
        match self {
            Class::Passthrough => 0,
            Class::Batch => 1,
            Class::Conflate => 2,
            Class::Aggregate => 3,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Class::Passthrough,
            1 => Class::Batch,
            2 => Class::Conflate,
            3 => Class::Aggregate,
            _ => return None,
        })
    }
}

/// What makes two events of a `conflate` rule the same thing, so that the later one replaces the earlier.
///
/// Pointers and fields tell things apart within one literal prefix (`job:7` is another thing than `task:7`,
/// `job:started` and `job:done` may be the same job). An event that lacks the value is keyed by its name.
///
/// ```
/// use millpond_bus::ConflateKey;
/// assert_eq!("name".parse(), Ok(ConflateKey::Name));
/// assert_eq!("/job/id".parse(), Ok(ConflateKey::Pointer("/job/id".into())));
/// assert_eq!("field:gpu_index".parse(), Ok(ConflateKey::Field("gpu_index".into())));
/// assert_eq!(ConflateKey::Field("gpu_index".into()).to_string(), "field:gpu_index");
/// assert!("job/id".parse::<ConflateKey>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ConflateKey {
    /// The event's name.
    #[default]
    Name,
    /// The value at a JSON pointer (RFC 6901) into a JSON payload; at most 96 bytes.
    Pointer(String),
    /// The value of a field of a fixed-layout payload; at most 96 bytes.
    Field(String),
}

impl ConflateKey {
    fn text(&self) -> &str {
        match self {
            ConflateKey::Name => "",
            ConflateKey::Pointer(text) | ConflateKey::Field(text) => text,
        }
    }

    fn check(&self) -> Result<(), String> {
        let text = self.text();
        if text.len() > KEY_BYTES_MAX {
            return Err(format!(
                "conflate-key has {} bytes, the limit is {KEY_BYTES_MAX}",
                text.len()
            ));
        }
        match self {
            ConflateKey::Name => Ok(()),
            ConflateKey::Pointer(text) if !text.starts_with('/') => Err(format!(
                "conflate-key {text:?} is no JSON pointer: it must start with `/`"
            )),
            ConflateKey::Pointer(text) => {
                // RFC 6901: `~0` stands for `~`, `~1` for `/`.
                let escapes = text.split('~').skip(1);
                match escapes.into_iter().all(|rest| rest.starts_with(['0', '1'])) {
                    true => Ok(()),
                    false => Err(format!(
                        "conflate-key {text:?} is no JSON pointer: write `~0` for `~` and `~1` for a `/` in a key"
                    )),
                }
            }
            ConflateKey::Field(text) if text.is_empty() || text.contains(char::is_control) => {
                Err(format!("conflate-key field {text:?} is no field name"))
            }
            ConflateKey::Field(_) => Ok(()),
        }
    }
}

impl fmt::Display for ConflateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConflateKey::Name => f.write_str("name"),
            ConflateKey::Pointer(text) => f.write_str(text),
            ConflateKey::Field(text) => write!(f, "field:{text}"),
        }
    }
}

impl std::str::FromStr for ConflateKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = match text.strip_prefix("field:") {
            Some(field) => ConflateKey::Field(field.to_owned()),
            None if text == "name" => ConflateKey::Name,
            None if text.starts_with('/') => ConflateKey::Pointer(text.to_owned()),
            None => {
                return Err(format!(
                    "conflate-key {text:?} is unknown: use \"name\", a JSON pointer such as \"/id\", or \"field:NAME\""
                ));
            }
        };
        key.check()?;
        Ok(key)
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
    /// Size of the ring that consolidated records go through: a power of two, 64 KiB to 1 GiB, at least four
    /// payloads and 4 KiB. A subscriber that is further behind than this misses events.
    pub outbox_bytes: u32,
    /// Class `conflate`: which events replace each other.
    pub conflate_key: ConflateKey,
    /// A batch is full at this many events.
    pub max_events: u32,
    /// A batch is full at this many bytes.
    pub max_bytes: u32,
    /// A batch is due this long after its first event. The first event after a pause as long as this does not
    /// wait for others.
    pub max_delay: Duration,
}

impl Rule {
    /// The source of lines that the daemon itself writes into a service's log. No event has it: see
    /// [`Rule::service_and_source`].
    ///
    /// ```
    /// use millpond_bus::Rule;
    /// let rule = Rule { service: Some("*".into()), ..Rule::new("log:*".parse()?) };
    /// assert_eq!(rule.service_and_source("log:web:millpond"), None);
    /// # Ok::<(), millpond_bus::PatternError>(())
    /// ```
    pub const OWN_SOURCE: &str = "millpond";

    /// A rule with the defaults: batches of 50 ms, 100 events or 256 KiB, lanes and outbox of 1 MiB, payloads
    /// up to 64 KiB, publishers that wait 100 ms for space.
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
            outbox_bytes: 1 << 20,
            conflate_key: ConflateKey::Name,
            max_events: 100,
            max_bytes: 256 << 10,
            max_delay: Duration::from_millis(50),
        }
    }

    /// Whether subscribers read the publishers' lanes themselves, in one hop. Else the consumer hands them
    /// consolidated records.
    ///
    /// Passthrough is for that; and what is persisted does not wait for the disk on its way to subscribers.
    pub fn is_direct(&self) -> bool {
        self.class == Class::Passthrough || self.service.is_some()
    }

    /// How far a lane of this rule fills, in bytes and events, before a sleeping consumer is woken.
    pub(crate) fn ring_after(&self) -> (u64, u64) {
        let capacity_bytes = u64::from(self.lane_bytes);
        if self.is_direct() && self.service.is_none() {
            // Half of such a lane may be history: see `DrainLane::release_position`.
            return (capacity_bytes / 4, u64::MAX);
        }
        (capacity_bytes / 2, self.max_events.into())
    }

    /// The service and the source that `name` is logged under: a fixed service takes the whole name as
    /// source; a `*` takes the first segment it matched as service and the rest as source, or the name's
    /// own first segment where there is no rest. `None` where the rule is not persisted or does not match, and
    /// where the source would be [`Rule::OWN_SOURCE`] or a part of it: such an event is taken and counted as
    /// rejected.
    pub fn service_and_source<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str)> {
        let service = self.service.as_deref()?;
        let (service, source) = if service != "*" {
            (service, name)
        } else {
            let matched = self.pattern.first_star(name)?;
            let own = name.split(':').next().unwrap_or(name);
            matched.split_once(':').unwrap_or((matched, own))
        };
        // With the mark of a continued record, readers would join it to the next line of the daemon.
        let is_own = source.strip_suffix('+').unwrap_or(source) == Self::OWN_SOURCE;
        (!is_own).then_some((service, source))
    }

    /// The smallest outbox for payloads of this length: a power of two, or more than an outbox may have.
    ///
    /// ```
    /// assert_eq!(millpond_bus::Rule::outbox_bytes_for(64 << 10), 512 << 10);
    /// ```
    pub fn outbox_bytes_for(payload_bytes_limit: u32) -> u64 {
        (u64::from(payload_bytes_limit) * 4 + OUTBOX_MARGIN_BYTES)
            .max(OUTBOX_BYTES_MIN.into())
            .next_power_of_two()
    }

    /// The longest payload that an outbox of this size may have to hold.
    ///
    /// ```
    /// assert_eq!(millpond_bus::Rule::payload_bytes_for(64 << 10), 15 << 10);
    /// ```
    pub fn payload_bytes_for(outbox_bytes: u32) -> u32 {
        outbox_bytes.saturating_sub(OUTBOX_MARGIN_BYTES as u32) / 4
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
        let outbox_bytes = self.outbox_bytes;
        if !outbox_bytes.is_power_of_two()
            || !(OUTBOX_BYTES_MIN..=OUTBOX_BYTES_MAX).contains(&outbox_bytes)
        {
            return wrong(format!(
                "outbox-bytes {outbox_bytes} is not a power of two from {OUTBOX_BYTES_MIN} to {OUTBOX_BYTES_MAX}"
            ));
        }
        let outbox_bytes_wanted = Rule::outbox_bytes_for(payload_bytes);
        if u64::from(outbox_bytes) < outbox_bytes_wanted {
            return wrong(format!(
                "outbox-bytes {outbox_bytes} is too small for payload-bytes-limit {payload_bytes}: \
                 use {outbox_bytes_wanted}, or a lower payload-bytes-limit"
            ));
        }
        if let Err(why) = self.conflate_key.check() {
            return wrong(why);
        }
        if self.conflate_key != ConflateKey::Name && self.class != Class::Conflate {
            return wrong(format!(
                "conflate-key {} goes with class conflate, not {}",
                self.conflate_key,
                self.class.name()
            ));
        }
        if let (Class::Conflate | Class::Aggregate, Some(service)) = (self.class, &self.service) {
            let class = self.class.name();
            return wrong(format!(
                "class {class} cannot be logged: it would keep events out of the log of service \
                 {service:?}; make two rules of it, one of class {class} without a service, and one of class \
                 batch or passthrough with service {service:?} for the names that are to be logged"
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
    /// Names the rule, the value and the limit. Two rules with the same pattern are an error, and so is a
    /// rule that no name can reach, see [`RuleTable::shadowed`].
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
        if let Some(&(index, by)) = Self::shadowed(&rules).first() {
            let (pattern, winner) = (&rules[index].pattern, &rules[by].pattern);
            let why = format!(
                "no event can reach it: rule \"{winner}\" matches all of its names and stands earlier; \
                 put {:?} in front of it, or remove it",
                pattern.as_str()
            );
            return Err(RuleError {
                pattern: pattern.to_string(),
                why,
            });
        }
        let mut precedence: Vec<usize> = (0..rules.len()).collect();
        // Stable: equal patterns keep the order of the table.
        precedence.sort_by(|&a, &b| rules[a].pattern.precedence(&rules[b].pattern));
        Ok(RuleTable { rules, precedence })
    }

    /// Pairs (rule, the rule that wins all of its names), as places in `rules`.
    ///
    /// Two patterns without a difference shadow each other. Apart from that, let X win every name of Y:
    /// 1. Where X has a literal, Y has the same one: a `*` of Y, or an end of Y before that segment, would let
    ///    names through that X does not match. So X has no more literals than Y; it comes first, so it has
    ///    as many. Then both have the same literals at the same places, none of them decides, and X
    ///    stands earlier in the table.
    /// 2. What differs is how many `*` follow the last literal. With none in Y the patterns are equal, so Y
    ///    ends in a `*` and matches names of its own length and longer ones. X must match the shortest
    ///    of them, so X is the shorter one.
    ///
    /// So the only case is `P:*` in front of `P:*:*` (or more of them), with `P` empty or ending in a literal:
    /// `a:*` shadows a later `a:*:*`, never the other way round.
    ///
    /// ```
    /// use millpond_bus::{Rule, RuleTable};
    /// let rule = |pattern: &str| Ok::<_, millpond_bus::PatternError>(Rule::new(pattern.parse()?));
    /// assert_eq!(RuleTable::shadowed(&[rule("a:*")?, rule("a:*:*")?]), [(1, 0)]);
    /// assert_eq!(RuleTable::shadowed(&[rule("a:*:*")?, rule("a:*")?]), []);
    /// # Ok::<(), millpond_bus::PatternError>(())
    /// ```
    pub fn shadowed(rules: &[Rule]) -> Vec<(usize, usize)> {
        // Without its trailing stars, and how many those are.
        let split = |rule: &'_ Rule| {
            let text = rule.pattern.as_str();
            let literal_end = text.trim_end_matches([':', '*']).len();
            let stars = text[literal_end..].matches('*').count();
            (literal_end, stars)
        };
        let mut pairs = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let (literal_end, stars) = split(rule);
            let by = rules[..index].iter().position(|earlier| {
                let (earlier_end, earlier_stars) = split(earlier);
                let same =
                    earlier.pattern.as_str()[..earlier_end] == rule.pattern.as_str()[..literal_end];
                same && (earlier_stars == stars || (1..stars).contains(&earlier_stars))
            });
            pairs.extend(by.map(|by| (index, by)));
        }
        pairs
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
            // What terminals show, for those who look on; a lane is also how far back they can look.
            Rule {
                lane_bytes: 1 << 20,
                overflow: Overflow::DropNewest,
                ..passthrough("pty:*")
            },
            // A burst of entities must find room until its subscribers have had a turn on the processor.
            Rule {
                outbox_bytes: 4 << 20,
                ..rule("data:*")
            },
            Rule {
                outbox_bytes: 16 << 20,
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
    outbox_bytes: U32,
    /// 0 name, 1 JSON pointer, 2 field.
    key_kind: U32,
    key_bytes: U32,
    reserved: U32,
    key: [u8; KEY_BYTES_MAX],
}
const _: () = assert!(size_of::<RuleEntry>() == 352);

impl From<&Rule> for RuleEntry {
    fn from(rule: &Rule) -> Self {
        let mut entry = RuleEntry::new_zeroed();
        let pattern = rule.pattern.as_str().as_bytes();
        entry.pattern[..pattern.len()].copy_from_slice(pattern);
        entry.pattern_bytes = U32::new(pattern.len() as u32);
        let service = rule.service.as_deref().unwrap_or_default().as_bytes();
        entry.service[..service.len()].copy_from_slice(service);
        entry.service_bytes = U32::new(service.len() as u32);
        entry.class = U32::new(rule.class.number().into());
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
        entry.outbox_bytes = U32::new(rule.outbox_bytes);
        entry.key_kind = U32::new(match rule.conflate_key {
            ConflateKey::Name => 0,
            ConflateKey::Pointer(_) => 1,
            ConflateKey::Field(_) => 2,
        });
        let key = rule.conflate_key.text().as_bytes();
        entry.key[..key.len()].copy_from_slice(key);
        entry.key_bytes = U32::new(key.len() as u32);
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
        let class = u8::try_from(entry.class.get())
            .ok()
            .and_then(Class::from_number)
            .ok_or_else(|| wrong("its class is unknown"))?;
        let key = text(&entry.key, entry.key_bytes)
            .ok_or_else(|| wrong("its conflate key is not text"))?;
        let conflate_key = match entry.key_kind.get() {
            0 => ConflateKey::Name,
            1 => ConflateKey::Pointer(key),
            2 => ConflateKey::Field(key),
            _ => return Err(wrong("its conflate key is of an unknown kind")),
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
            outbox_bytes: entry.outbox_bytes.get(),
            conflate_key,
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
    fn no_event_has_the_source_of_the_daemon() {
        let rule = |pattern: &str, service: &str| Rule {
            service: Some(service.to_owned()),
            ..Rule::new(pattern.parse().expect("a pattern"))
        };
        let starred = rule("log:*", "*");
        for name in ["log:web:millpond", "log:web:millpond+"] {
            assert_eq!(starred.service_and_source(name), None, "{name}");
        }
        // A rule of its own, and a fixed service: the first segment, and the whole name, are the source.
        assert_eq!(
            rule("millpond:*", "*").service_and_source("millpond:web"),
            None
        );
        assert_eq!(rule("millpond", "web").service_and_source("millpond"), None);
        for (name, source) in [
            ("log:web:millpond:x", "millpond:x"),
            ("log:web:millpond++", "millpond++"),
            ("log:web:Millpond", "Millpond"),
            ("log:millpond", "log"),
        ] {
            let found = starred.service_and_source(name).map(|(_, source)| source);
            assert_eq!(found, Some(source), "{name}");
        }
    }

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

    fn rule(pattern: &str) -> Rule {
        Rule::new(pattern.parse().expect("a pattern"))
    }

    #[test]
    fn an_outbox_and_a_key_survive_shared_memory() {
        let keys = [
            ConflateKey::Name,
            ConflateKey::Pointer("/a~1b/0".to_owned()),
            ConflateKey::Field("x".repeat(KEY_BYTES_MAX)),
        ];
        for conflate_key in keys {
            let rule = Rule {
                class: Class::Conflate,
                outbox_bytes: 1 << 22,
                conflate_key,
                ..rule("status:*")
            };
            assert_eq!(Rule::try_from(&RuleEntry::from(&rule)), Ok(rule));
        }
    }

    fn refusal(rule: Rule) -> String {
        RuleTable::new(vec![rule])
            .expect_err("a rule that cannot be")
            .to_string()
    }

    #[test]
    fn outboxes_hold_four_payloads() {
        for (outbox_bytes, payload_bytes_limit, good) in [
            (1 << 20, 64 << 10, true),
            (512 << 10, 64 << 10, true),
            (256 << 10, 64 << 10, false),
            (64 << 10, 15 << 10, true),
            (64 << 10, 16 << 10, false),
            (32 << 10, 1, false),
            (100_000, 1, false),
            (1 << 31, 1, false),
        ] {
            let rule = Rule {
                outbox_bytes,
                payload_bytes_limit,
                ..rule("a:*")
            };
            assert_eq!(RuleTable::new(vec![rule]).is_ok(), good, "{outbox_bytes}");
        }
        let message = refusal(Rule {
            outbox_bytes: 256 << 10,
            ..rule("a:*")
        });
        assert!(message.contains("262144") && message.contains("65536"));
        assert!(message.contains("use 524288"), "{message}");
    }

    #[test]
    fn what_is_coalesced_cannot_be_logged() {
        for class in [Class::Conflate, Class::Aggregate] {
            let message = refusal(Rule {
                class,
                service: Some("web".to_owned()),
                ..rule("a:*")
            });
            assert!(message.contains(class.name()) && message.contains("two rules"));
        }
    }

    #[test]
    fn keys_are_checked() {
        let with_key = |conflate_key, class| Rule {
            conflate_key,
            class,
            ..rule("a:*")
        };
        let pointer = |text: &str| ConflateKey::Pointer(text.to_owned());
        assert!(refusal(with_key(pointer("/id"), Class::Batch)).contains("class conflate"));
        for key in [
            pointer("id"),
            pointer(""),
            pointer("/a~2"),
            pointer("/a~"),
            pointer(&"/abc".repeat(25)),
            ConflateKey::Field(String::new()),
            ConflateKey::Field("a\nb".to_owned()),
        ] {
            let message = refusal(with_key(key, Class::Conflate));
            assert!(message.contains("conflate-key"), "{message}");
        }
        for key in [pointer("/"), pointer("/a~0~1/b"), ConflateKey::Name] {
            assert!(RuleTable::new(vec![with_key(key, Class::Conflate)]).is_ok());
        }
    }

    #[test]
    fn a_rule_that_nothing_reaches_is_refused_and_its_shadow_named() {
        let table = |patterns: &[&str]| {
            RuleTable::new(patterns.iter().map(|pattern| rule(pattern)).collect())
        };
        let message = table(&["a:*", "*", "a:*:*"])
            .expect_err("the last one is shadowed")
            .to_string();
        assert!(message.contains("\"a:*:*\"") && message.contains("rule \"a:*\" matches all"));
        assert!(table(&["a:*:*", "a:*", "*:*", "*", "*:a:*:*", "*:a", "b:*:c"]).is_ok());
        assert!(table(&["*", "*:*:*"]).is_err());
        assert!(table(&["*:a:*", "*:a:*:*:*"]).is_err());
    }

    /// All patterns of up to four segments out of `a`, `b`, `*` against all names of up to six out of three.
    #[test]
    fn shadowed_agrees_with_every_name() {
        fn texts(alphabet: &[&str], longest: usize) -> Vec<String> {
            let mut all: Vec<String> = alphabet.iter().map(|&text| text.to_owned()).collect();
            let mut start = 0;
            for _ in 1..longest {
                let end = all.len();
                for at in start..end {
                    let longer = alphabet.iter().map(|text| format!("{}:{text}", all[at]));
                    let longer: Vec<String> = longer.collect();
                    all.extend(longer);
                }
                start = end;
            }
            all
        }
        let names = texts(&["a", "b", "c"], 6);
        let rules: Vec<Rule> = texts(&["a", "b", "*"], 4).iter().map(|p| rule(p)).collect();
        let matches: Vec<Vec<bool>> = rules
            .iter()
            .map(|rule| names.iter().map(|n| rule.pattern.matches(n)).collect())
            .collect();
        for (x, first) in rules.iter().enumerate() {
            for (y, second) in rules.iter().enumerate() {
                let comes_first = first.pattern.precedence(&second.pattern).is_le();
                let covers = matches[y].iter().zip(&matches[x]).all(|(y, x)| !y || *x);
                let pair = [first.clone(), second.clone()];
                let shadowed = RuleTable::shadowed(&pair) == [(1, 0)];
                assert_eq!(
                    shadowed,
                    comes_first && covers,
                    "{} before {}, rules {x} and {y}",
                    first.pattern,
                    second.pattern
                );
            }
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
        entry = good;
        entry.outbox_bytes = U32::ZERO;
        assert!(Rule::try_from(&entry).is_err());
        entry = good;
        entry.key_kind = U32::new(3);
        assert!(Rule::try_from(&entry).is_err());
        entry = good;
        entry.key_bytes = U32::new(97);
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
