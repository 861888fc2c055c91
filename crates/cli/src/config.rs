//! The configuration file: one TOML file whose keys are the long flags' names, and the rule table.

use std::path::{Path, PathBuf};

use millpond_bus::{Class, Overflow, Pattern, Rule, RuleTable};
use millpond_daemon::Configuration;
use serde::Deserialize;

use crate::outcome::Failure;
use crate::units::{parse_duration, parse_size};

mod service;

use self::service::ServiceText;
pub(crate) use self::service::Services;

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
    pub(crate) keep_segments: Option<u32>,
    pub(crate) keep_age: Option<String>,
    pub(crate) keep_free: Option<String>,
    pub(crate) seal: Option<Seal>,
    pub(crate) liveness: Option<String>,
    pub(crate) flush_delay: Option<String>,
    pub(crate) group_bytes: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) bus_bytes: Option<String>,
    pub(crate) lanes: Option<u32>,
    pub(crate) http: Option<String>,
    /// A group whose members may attach: its number.
    pub(crate) group_id: Option<u32>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleText>,
    #[serde(default, rename = "service")]
    services: Vec<ServiceText>,
}

/// `seal`: a level is written as a number or as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Seal {
    Level(i32),
    Text(String),
}

impl std::fmt::Display for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Seal::Level(level) => level.fmt(f),
            Seal::Text(text) => text.fmt(f),
        }
    }
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
    outbox_bytes: Option<String>,
    conflate_key: Option<String>,
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

/// What a running daemon can change, out of the file that a daemon was started with, as they are now; where it was started without one,
/// of the one that is there now.
pub(crate) fn read_again(config: Option<&Path>) -> Result<Configuration, Failure> {
    match config.map(Path::to_owned).or_else(default_path) {
        Some(path) => {
            let file = File::read(&path)?;
            Ok(Configuration {
                rules: file.rule_table(&path)?,
                reductions: file.services(&path)?.reductions(),
            })
        }
        None => Err(Failure::new(
            "there is no configuration file: start the daemon with `--config FILE`",
        )),
    }
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!(
                "cannot read the configuration {}: {error}",
                path.display()
            ))
        })?;
        Self::parse(&text, path)
    }

    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            let message = error.to_string();
            let hint = suggestion(&message).unwrap_or_default();
            Failure::new(format!(
                "configuration {}: {}{hint}",
                path.display(),
                message.trim_end()
            ))
        })
    }

    /// What the file says of single services.
    pub(crate) fn services(&self, path: &Path) -> Result<Services, Failure> {
        Services::new(&self.services, path)
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
        size(&self.outbox_bytes, &mut rule.outbox_bytes, "outbox-bytes")?;
        size(&self.max_bytes, &mut rule.max_bytes, "max-bytes")?;
        if let Some(max_events) = self.max_events {
            rule.max_events = max_events;
        }
        if let Some(key) = &self.conflate_key {
            rule.conflate_key = key.parse()?;
        }
        if let Some(max_delay) = &self.max_delay {
            rule.max_delay = parse_duration(max_delay)?;
        }
        // A small lane or outbox takes the payload limit along, unless that was given; a long payload takes the
        // outbox along. What still does not fit, `RuleTable::new` says.
        if self.payload_bytes_limit.is_none() {
            let outbox_bytes = self.outbox_bytes.as_ref().map(|_| rule.outbox_bytes);
            let longest = outbox_bytes.map_or(u32::MAX, Rule::payload_bytes_for);
            let limit = rule.payload_bytes_limit.min(rule.lane_bytes / 4);
            rule.payload_bytes_limit = limit.min(longest);
        }
        if self.outbox_bytes.is_none() {
            let wanted = u32::try_from(Rule::outbox_bytes_for(rule.payload_bytes_limit));
            rule.outbox_bytes = rule.outbox_bytes.max(wanted.unwrap_or(u32::MAX));
        }
        Ok(rule)
    }
}

/// `did you mean`, from the names that the parser says it expected.
fn suggestion(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let name = nearest_name(unknown, rest.split('`').skip(1).step_by(2))?;
    Some(format!("\ndid you mean `{name}`?"))
}

/// The name that somebody may have meant.
pub(crate) fn nearest_name<'n>(
    unknown: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    let nearest = (names.into_iter())
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (nearest.0 > 0.7).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use millpond_bus::ConflateKey;

    use super::*;

    fn table(text: &str) -> Result<RuleTable, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.rule_table(Path::new("test.toml"))
            .map_err(|failure| failure.to_string())
    }

    fn first(text: &str) -> Rule {
        let table = table(text).expect("a good rule");
        table.iter().next().expect("one rule").clone()
    }

    #[test]
    fn conflation_and_outbox_are_configured() {
        let rule = first(
            r#"
            [[rule]]
            pattern = "status:*"
            class = "conflate"
            conflate-key = "/service/id"
            outbox-bytes = "4MiB"
            "#,
        );
        assert_eq!(
            rule.conflate_key,
            ConflateKey::Pointer("/service/id".to_owned())
        );
        assert_eq!(rule.outbox_bytes, 4 << 20);
        let by_field =
            "[[rule]]\npattern = \"a:*\"\nclass = \"conflate\"\nconflate-key = \"field:index\"";
        assert_eq!(
            first(by_field).conflate_key,
            ConflateKey::Field("index".to_owned())
        );
    }

    #[test]
    fn long_payloads_take_the_outbox_along() {
        let rule = first(
            "[[rule]]\npattern = \"a:*\"\nlane-bytes = \"8MiB\"\npayload-bytes-limit = \"1MiB\"",
        );
        assert_eq!(rule.outbox_bytes, 8 << 20);
        let small = first("[[rule]]\npattern = \"a:*\"\noutbox-bytes = \"64KiB\"");
        assert_eq!(small.payload_bytes_limit, 15 << 10);
    }

    #[test]
    fn rules_that_cannot_be_are_refused_with_a_remedy() {
        let refusal = |text: &str| table(text).expect_err("a bad rule");
        let key =
            refusal("[[rule]]\npattern = \"a:*\"\nclass = \"conflate\"\nconflate-key = \"id\"");
        assert!(key.contains("JSON pointer"), "{key}");
        let logged = refusal("[[rule]]\npattern = \"log:*\"\nclass = \"conflate\"");
        assert!(logged.contains("two rules"), "{logged}");
        let shadowed = refusal("[[rule]]\npattern = \"a:*\"\n[[rule]]\npattern = \"a:*:*\"");
        assert!(
            shadowed.contains("rule \"a:*\" matches all of its names"),
            "{shadowed}"
        );
    }
}
