//! The configuration file: one TOML file whose keys are the long flags' names, and the rule table.

use std::path::{Path, PathBuf};

use millpond_bus::{Class, Overflow, Pattern, Rule, RuleTable};
use serde::Deserialize;

use crate::outcome::Failure;
use crate::units::{parse_duration, parse_size};

/// What a configuration file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    pub(crate) bus: Option<String>,
    pub(crate) logs: Option<PathBuf>,
    pub(crate) sync: Option<String>,
    pub(crate) segment_bytes: Option<String>,
    pub(crate) segment_age: Option<String>,
    pub(crate) service_bytes: Option<String>,
    pub(crate) total_bytes: Option<String>,
    pub(crate) flush_delay: Option<String>,
    pub(crate) group_bytes: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) bus_bytes: Option<String>,
    pub(crate) lanes: Option<u32>,
    /// A group whose members may attach: its number.
    pub(crate) group_id: Option<u32>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleText>,
}

/// One `[[rule]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleText {
    pattern: String,
    class: Option<String>,
    service: Option<String>,
    overflow: Option<String>,
    block_deadline: Option<String>,
    lane_bytes: Option<String>,
    payload_bytes_limit: Option<String>,
    max_events: Option<u32>,
    max_bytes: Option<String>,
    max_delay: Option<String>,
}

/// Where the file is looked for when nobody names one.
pub(crate) fn default_path() -> Option<PathBuf> {
    let path = if rustix::process::geteuid().is_root() {
        PathBuf::from("/etc/millpond/config.toml")
    } else {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(home)?;
        base.join("millpond/config.toml")
    };
    path.exists().then_some(path)
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!(
                "cannot read the configuration {}: {error}",
                path.display()
            ))
        })?;
        toml::from_str(&text).map_err(|error| {
            let message = error.to_string();
            let hint = suggestion(&message).unwrap_or_default();
            Failure::new(format!(
                "configuration {}: {}{hint}",
                path.display(),
                message.trim_end()
            ))
        })
    }

    /// The rules of the file in front of those it does not mention: a rule with the pattern of a default
    /// replaces it.
    pub(crate) fn rule_table(&self, path: &Path) -> Result<RuleTable, Failure> {
        let wrong = |why: String| Failure::new(format!("configuration {}: {why}", path.display()));
        let mut rules = Vec::new();
        for text in &self.rules {
            let rule = text
                .to_rule()
                .map_err(|why| wrong(format!("rule {:?}: {why}", text.pattern)))?;
            rules.push(rule);
        }
        let defaults = RuleTable::defaults();
        let missing = defaults.iter().filter(|default| {
            self.rules
                .iter()
                .all(|rule| rule.pattern != default.pattern.as_str())
        });
        rules.extend(missing.cloned());
        RuleTable::new(rules).map_err(|error| wrong(error.to_string()))
    }
}

impl RuleText {
    fn to_rule(&self) -> Result<Rule, String> {
        let pattern: Pattern = self.pattern.parse().map_err(|error| format!("{error}"))?;
        let defaults = RuleTable::defaults();
        let default = defaults
            .iter()
            .find(|rule| rule.pattern == pattern)
            .cloned();
        let mut rule = default.unwrap_or_else(|| Rule::new(pattern));
        if let Some(class) = &self.class {
            rule.class = match class.as_str() {
                "passthrough" => Class::Passthrough,
                "batch" => Class::Batch,
                "conflate" => Class::Conflate,
                "aggregate" => Class::Aggregate,
                _ => {
                    return Err(format!(
                        "class {class:?} is unknown: use passthrough, batch, conflate or aggregate"
                    ));
                }
            };
        }
        if self.service.is_some() {
            rule.service = self.service.clone().filter(|service| !service.is_empty());
        }
        let deadline = self
            .block_deadline
            .as_deref()
            .map(parse_duration)
            .transpose()?;
        rule.overflow = match (self.overflow.as_deref(), deadline, rule.overflow) {
            (Some("drop-newest"), None, _) => Overflow::DropNewest,
            (Some("drop-newest"), Some(_), _) => {
                return Err("block-deadline goes with overflow = \"block\"".to_owned());
            }
            (Some("block") | None, Some(deadline), _) => Overflow::Block { deadline },
            (Some("block"), None, Overflow::DropNewest) => Rule::new(rule.pattern.clone()).overflow,
            (Some("block") | None, None, present) => present,
            (Some(other), _, _) => {
                return Err(format!(
                    "overflow {other:?} is unknown: use drop-newest or block"
                ));
            }
        };
        let size = |text: &Option<String>, into: &mut u32, name: &str| -> Result<(), String> {
            if let Some(text) = text {
                let bytes = parse_size(text)?;
                *into = u32::try_from(bytes).map_err(|_| format!("{name} {text} exceeds 4GiB"))?;
            }
            Ok(())
        };
        size(&self.lane_bytes, &mut rule.lane_bytes, "lane-bytes")?;
        size(
            &self.payload_bytes_limit,
            &mut rule.payload_bytes_limit,
            "payload-bytes-limit",
        )?;
        size(&self.max_bytes, &mut rule.max_bytes, "max-bytes")?;
        if let Some(max_events) = self.max_events {
            rule.max_events = max_events;
        }
        if let Some(max_delay) = &self.max_delay {
            rule.max_delay = parse_duration(max_delay)?;
        }
        // A small lane takes its payload limit along, unless that was given.
        if self.payload_bytes_limit.is_none() {
            rule.payload_bytes_limit = rule.payload_bytes_limit.min(rule.lane_bytes / 4);
        }
        Ok(rule)
    }
}

/// `did you mean`, from the names that the parser says it expected.
fn suggestion(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let expected = rest.split('`').skip(1).step_by(2);
    let nearest = expected
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (nearest.0 > 0.7).then(|| format!("\ndid you mean `{}`?", nearest.1))
}
