//! `[[service]]`: how the records of a service become lines, and how long these are kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use millpond_daemon::{
    Policy, RateLimit, Redaction, Reduction, Reductions, ServicePolicy, SyncPolicy,
};
use millpond_logfile::check_service_name;
use serde::Deserialize;

use crate::args::{Effective, parse_sync};
use crate::outcome::Failure;
use crate::units::{format_duration, format_size, parse_duration, parse_size};

/// The name of the table whose values are those of every service that does not say otherwise.
const EVERY_SERVICE: &str = "*";

/// One `[[service]]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ServiceText {
    name: String,
    sync: Option<String>,
    segment_bytes: Option<String>,
    segment_age: Option<String>,
    quota_bytes: Option<String>,
    keep_segments: Option<u32>,
    keep_age: Option<String>,
    liveness: Option<String>,
    repeats: Option<bool>,
    rate_limit: Option<String>,
    sample: Option<String>,
    redact: Option<Vec<RedactionText>>,
}

/// A pattern to redact, with or without a name for what stands in its place.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a regex in quotes, or { name = \"..\", pattern = \"..\" }"
)]
enum RedactionText {
    Pattern(String),
    Named { name: String, pattern: String },
}

/// What one `[[service]]` says; `None`: nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceValues {
    pub(crate) policy: ServicePolicy,
    pub(crate) sync_text: Option<String>,
    repeats: Option<bool>,
    rate_limit: Option<Option<RateLimit>>,
    sample: Option<Option<u32>>,
    redact: Option<Vec<Redaction>>,
}

/// All `[[service]]` of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services {
    /// `name = "*"`.
    pub(crate) every: ServiceValues,
    named: BTreeMap<String, ServiceValues>,
    file: String,
}

impl Services {
    pub(super) fn new(texts: &[ServiceText], path: &Path) -> Result<Self, Failure> {
        let mut services = Services {
            file: format!("file {}", path.display()),
            ..Services::default()
        };
        let mut seen_every = false;
        for text in texts {
            let name = &text.name;
            let wrong = |why: String| {
                Failure::new(format!(
                    "configuration {}: service {name:?}: {why}",
                    path.display()
                ))
            };
            let values = text.values().map_err(wrong)?;
            let is_second = if name == EVERY_SERVICE {
                services.every = values;
                std::mem::replace(&mut seen_every, true)
            } else {
                check_service_name(name).map_err(|error| {
                    wrong(format!(
                        "{error}; `*` is the default of all services, other patterns there are none"
                    ))
                })?;
                services.named.insert(name.clone(), values).is_some()
            };
            if is_second {
                return Err(wrong("it has two tables: make them one".to_owned()));
            }
        }
        Ok(services)
    }

    /// What is reduced, by service.
    pub(crate) fn reductions(&self) -> Reductions {
        let names = self.named.keys();
        Reductions {
            default: self.reduction(EVERY_SERVICE),
            services: names
                .map(|name| (name.clone(), self.reduction(name)))
                .collect(),
        }
    }

    /// What is written differently for some services.
    pub(crate) fn policies(&self) -> BTreeMap<String, ServicePolicy> {
        let named = self.named.iter();
        named
            .map(|(name, values)| (name.clone(), values.policy.clone()))
            .filter(|(_, policy)| *policy != ServicePolicy::default())
            .collect()
    }

    /// The services that have a table, the default of all first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(EVERY_SERVICE).chain(self.named.keys().map(String::as_str))
    }

    fn reduction(&self, name: &str) -> Reduction {
        let normal = Reduction::default();
        let (own, every) = (self.named.get(name), &self.every);
        let own = own.unwrap_or(every);
        Reduction {
            repeats: own.repeats.or(every.repeats).unwrap_or(normal.repeats),
            rate_limit: (own.rate_limit.or(every.rate_limit)).unwrap_or(normal.rate_limit),
            sample: own.sample.or(every.sample).unwrap_or(normal.sample),
            redact: (own.redact.clone())
                .or_else(|| every.redact.clone())
                .unwrap_or(normal.redact),
        }
    }

    /// Checks what one service says against what is true of all.
    pub(crate) fn check(&self, policy: &Policy) -> Result<(), Failure> {
        for (name, values) in &self.named {
            let own = &values.policy;
            let segment_bytes = own
                .segment_bytes_limit
                .unwrap_or(policy.segment_bytes_limit);
            let one = Policy {
                sync: own.sync.unwrap_or(policy.sync),
                segment_bytes_limit: segment_bytes,
                service_bytes_limit: own.bytes_limit.or(policy.service_bytes_limit),
                ..policy.clone()
            };
            one.check().map_err(|error| {
                let why = error.to_string().replace("service-bytes", "quota-bytes");
                Failure::new(format!(
                    "configuration: service {name:?}: {why}; give this service another value"
                ))
            })?;
        }
        Ok(())
    }

    /// Every setting of a service as it is in force, with where it came from. `origins`: those of the keys that
    /// all services share.
    pub(crate) fn effective(
        &self,
        name: &str,
        policy: &Policy,
        origins: &[Effective],
    ) -> Vec<Effective> {
        let nothing = ServiceValues::default();
        let own = self.named.get(name).unwrap_or(&nothing);
        let reduction = self.reduction(name);
        let mut effective = Vec::new();
        // `shared`: the key at the top of the file that says it for all services.
        let mut add = |key, shared: &str, in_own: bool, in_every: bool, value: String| {
            let top = origins.iter().find(|setting| setting.key == shared);
            let top = top.map_or("default", |setting| setting.origin.as_str());
            let origin = match (in_own, in_every) {
                (true, _) => format!("service {name:?}, {}", self.file),
                (false, true) if top != "flag" => format!("service \"*\", {}", self.file),
                _ => top.to_owned(),
            };
            effective.push(Effective { key, value, origin });
        };
        let (one, all) = (&own.policy, &self.every.policy);
        macro_rules! policy {
            ($key:literal, $shared:literal, $field:ident, $value:expr) => {
                add(
                    $key,
                    $shared,
                    one.$field.is_some(),
                    all.$field.is_some(),
                    $value,
                )
            };
        }
        macro_rules! reduced {
            ($key:literal, $field:ident, $value:expr) => {
                add(
                    $key,
                    "",
                    own.$field.is_some(),
                    self.every.$field.is_some(),
                    $value,
                )
            };
        }
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "no limit".to_owned(), format_size);
        let age =
            |age: Option<Duration>| age.map_or_else(|| "no limit".to_owned(), format_duration);
        let sync = match one.sync.unwrap_or(policy.sync) {
            SyncPolicy::Interval(interval) => format_duration(interval),
            other => other.to_string(),
        };
        policy!("sync", "sync", sync, sync);
        policy!(
            "segment-bytes",
            "segment-bytes",
            segment_bytes_limit,
            format_size(
                one.segment_bytes_limit
                    .unwrap_or(policy.segment_bytes_limit)
            )
        );
        policy!(
            "segment-age",
            "segment-age",
            segment_age_limit,
            age(one.segment_age_limit.or(policy.segment_age_limit))
        );
        policy!(
            "quota-bytes",
            "service-bytes",
            bytes_limit,
            size(one.bytes_limit.or(policy.service_bytes_limit))
        );
        policy!(
            "keep-segments",
            "keep-segments",
            segments_limit,
            (one.segments_limit.or(policy.service_segments_limit))
                .map_or_else(|| "no limit".to_owned(), |count| count.to_string())
        );
        policy!(
            "keep-age",
            "keep-age",
            retain_age_limit,
            age(one.retain_age_limit.or(policy.retain_age_limit))
        );
        policy!(
            "liveness",
            "liveness",
            liveness_interval,
            (one.liveness_interval.or(policy.liveness_interval))
                .map_or_else(|| "none".to_owned(), format_duration)
        );
        reduced!("repeats", repeats, reduction.repeats.to_string());
        reduced!(
            "rate-limit",
            rate_limit,
            (reduction.rate_limit).map_or_else(|| "none".to_owned(), |limit| limit.to_string())
        );
        reduced!(
            "sample",
            sample,
            (reduction.sample).map_or_else(|| "none".to_owned(), |sample| format!("1/{sample}"))
        );
        let names: Vec<&str> = reduction.redact.iter().map(Redaction::name).collect();
        let redact = match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        reduced!("redact", redact, redact);
        effective
    }
}

impl ServiceText {
    fn values(&self) -> Result<ServiceValues, String> {
        let policy = ServicePolicy {
            sync: value("sync", &self.sync, |text| {
                parse_sync(text).map_err(|failure| failure.to_string())
            })?,
            segment_bytes_limit: value("segment-bytes", &self.segment_bytes, parse_size)?,
            segment_age_limit: value("segment-age", &self.segment_age, parse_duration)?,
            bytes_limit: value("quota-bytes", &self.quota_bytes, parse_size)?,
            segments_limit: match self.keep_segments {
                Some(0) => {
                    return Err("keep-segments 0 is below the least of 1: the open one".to_owned());
                }
                count => count,
            },
            retain_age_limit: value("keep-age", &self.keep_age, parse_duration)?,
            liveness_interval: value("liveness", &self.liveness, parse_duration)?,
        };
        let redact = self.redact.as_ref().map(|texts| {
            let places = texts.iter().enumerate();
            places
                .map(|(place, text)| match text {
                    RedactionText::Named { name, pattern } => Redaction::new(name, pattern),
                    RedactionText::Pattern(pattern) => {
                        Redaction::new(&(place + 1).to_string(), pattern)
                    }
                })
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("redact: {error}"))
        });
        Ok(ServiceValues {
            policy,
            sync_text: self.sync.clone(),
            repeats: self.repeats,
            rate_limit: value("rate-limit", &self.rate_limit, parse_rate_limit)?,
            sample: value("sample", &self.sample, parse_sample)?,
            redact: redact.transpose()?,
        })
    }
}

/// A value of the table; an error names its key.
fn value<T>(
    key: &str,
    text: &Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let text = text.as_deref();
    text.map(|text| parse(text).map_err(|why| format!("{key}: {why}")))
        .transpose()
}

/// `1000/s`, `1000/s burst 5000`, or `none`. Without a burst it is what a second allows.
fn parse_rate_limit(text: &str) -> Result<Option<RateLimit>, String> {
    if text == "none" {
        return Ok(None);
    }
    let parsed = || {
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst.trim().parse().ok()?)),
            None => (text, None),
        };
        let lines_per_s: u32 = rate.trim().strip_suffix("/s")?.trim().parse().ok()?;
        let burst_lines: u32 = burst.unwrap_or(lines_per_s);
        let limit = RateLimit {
            lines_per_s,
            burst_lines,
        };
        (lines_per_s > 0 && burst_lines > 0).then_some(limit)
    };
    parsed().map(Some).ok_or_else(|| {
        format!(
            "{text:?} is no rate: write lines a second, at least 1, such as \"1000/s\" or \
             \"1000/s burst 5000\", or \"none\""
        )
    })
}

/// `1/100`, or `none`.
fn parse_sample(text: &str) -> Result<Option<u32>, String> {
    if text == "none" {
        return Ok(None);
    }
    let of = || text.strip_prefix("1/")?.trim().parse().ok();
    match of() {
        Some(of @ 1..) => Ok(Some(of)),
        _ => Err(format!(
            "{text:?} is no sample: write \"1/100\" to keep one line of a hundred, or \"none\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::File;

    fn services(text: &str) -> Result<Services, String> {
        let file =
            File::parse(text, Path::new("test.toml")).map_err(|failure| failure.to_string())?;
        file.services(Path::new("test.toml"))
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_service_takes_from_the_default_what_it_does_not_say() {
        let services = services(
            r#"
            [[service]]
            name = "*"
            rate-limit = "1000/s"
            redact = ["\\b[0-9]{16}\\b", { name = "mail", pattern = "[^ ]+@[^ ]+" }]
            [[service]]
            name = "web"
            rate-limit = "50/s burst 500"
            sync = "always"
            quota-bytes = "1GiB"
            [[service]]
            name = "audit"
            repeats = false
            rate-limit = "none"
            redact = []
            "#,
        )
        .expect("a good file");
        let reductions = services.reductions();
        let limit = |name: &str| {
            let limit = reductions.of(name).rate_limit;
            limit.map(|limit| (limit.lines_per_s, limit.burst_lines))
        };
        assert_eq!(limit("any"), Some((1000, 1000)));
        assert_eq!(limit("web"), Some((50, 500)));
        assert_eq!(limit("audit"), None);
        let names = |name: &str| -> Vec<String> {
            let redact = reductions.of(name).redact.iter();
            redact
                .map(|redaction| redaction.name().to_owned())
                .collect()
        };
        assert_eq!(names("web"), ["1", "mail"]);
        assert!(names("audit").is_empty() && !reductions.of("audit").repeats);
        let policies = services.policies();
        assert_eq!(policies.len(), 1, "audit is written as all are");
        assert_eq!(policies["web"].bytes_limit, Some(1 << 30));
        assert_eq!(policies["web"].sync, Some(SyncPolicy::Always));

        let effective = services.effective("web", &Policy::default(), &[]);
        let origin = |key: &str| {
            let setting = effective.iter().find(|setting| setting.key == key);
            setting.map(|setting| setting.origin.as_str())
        };
        assert_eq!(origin("sync"), Some("service \"web\", file test.toml"));
        assert_eq!(origin("redact"), Some("service \"*\", file test.toml"));
        assert_eq!(origin("segment-bytes"), Some("default"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_service_the_key_and_a_remedy() {
        for (line, parts) in [
            ("rate-limit = \"1000\"", &["rate-limit", "1000/s"][..]),
            ("rate-limit = \"0/s\"", &["rate-limit", "at least 1"]),
            ("sample = \"100\"", &["sample", "1/100"]),
            ("sample = \"1/0\"", &["sample", "1/100"]),
            ("redact = [\"[0-9\"]", &["redact", "unclosed"]),
            ("redact = [\"a*\"]", &["redact", "matches the empty text"]),
            ("sync = \"now\"", &["sync", "never, always"]),
            ("segment-bytes = \"1 parsec\"", &["segment-bytes", "64KiB"]),
            ("keep-segments = 0", &["keep-segments", "least of 1"]),
        ] {
            let text = format!("[[service]]\nname = \"web\"\n{line}");
            let refusal = services(&text).expect_err(line);
            for part in ["service \"web\"", "test.toml"].iter().chain(parts) {
                assert!(refusal.contains(part), "{line}: {part:?} in {refusal}");
            }
        }
        let misspelt =
            services("[[service]]\nname = \"web\"\nratelimit = \"1/s\"").expect_err("no such key");
        assert!(
            misspelt.contains("did you mean `rate-limit`?"),
            "{misspelt}"
        );
        let twice = services("[[service]]\nname = \"a\"\n[[service]]\nname = \"a\"");
        assert!(twice.expect_err("twice").contains("two tables"));
        let pattern = services("[[service]]\nname = \"web*\"").expect_err("no patterns");
        assert!(
            pattern.contains("other patterns there are none"),
            "{pattern}"
        );
    }

    #[test]
    fn a_quota_below_a_segment_is_refused() {
        let services = services("[[service]]\nname = \"web\"\nquota-bytes = \"1MiB\"")
            .expect("good by itself");
        let refusal = services.check(&Policy::default()).expect_err("too small");
        let refusal = refusal.to_string();
        assert!(
            refusal.contains("web") && refusal.contains("quota-bytes"),
            "{refusal}"
        );
    }
}
