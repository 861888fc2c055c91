//! `millpond explain`: which rule applies to a name, how its events are delivered, and why.

use std::io::Write;

use millpond_bus::{
    Bus, Class, ErrorKind, Overflow, Pattern, Rule, RuleTable, check_event_name, literal_prefix,
};
use serde_json::{Value, json};

use crate::Run;
use crate::args::{Effective, Settings, settings_json};
use crate::outcome::{Failure, Outcome};
use crate::print::table::Table;
use crate::print::{BOLD, DIM, stdout};
use crate::units::{format_duration, format_size};

pub(crate) fn run(name: &str, settings: &Settings) -> Run {
    let is_pattern = name.split(':').any(|segment| segment == "*");
    if !is_pattern {
        check_event_name(name)?;
    }
    let (rules, from) = match Bus::open_shared(&settings.bus, settings.group_id) {
        Ok(bus) => (bus.rules()?, format!("bus {:?}", settings.bus)),
        Err(error) if error.kind() == ErrorKind::NotFound => (
            settings.rules.clone(),
            "the configuration, since the bus does not exist yet".to_owned(),
        ),
        Err(error) => return Err(error.into()),
    };
    match is_pattern {
        true => explain_pattern(&name.parse()?, &rules, &from, settings),
        false => explain_name(name, &rules, &from, settings),
    }
}

fn explain_name(name: &str, rules: &RuleTable, from: &str, settings: &Settings) -> Run {
    let explanation = rules.explain(name);
    let mut out = stdout(settings.color);
    if settings.json {
        let candidates: Vec<Value> = explanation
            .candidates
            .iter()
            .map(|(rule, why)| rule_json(rule, why, name, settings))
            .collect();
        let answer =
            json!({ "version": 1, "name": name, "rules_from": from, "candidates": candidates });
        writeln!(out, "{answer}")?;
    } else {
        writeln!(out, "{BOLD}{name}{BOLD:#}, by the rules of {from}")?;
        for (place, (rule, why)) in explanation.candidates.iter().enumerate() {
            let (style, word) = if place == 0 {
                (BOLD, "applies")
            } else {
                (DIM, "matches")
            };
            writeln!(out, "{style}{word}: {}{style:#} ({why})", rule.pattern)?;
            if place == 0 {
                describe(&mut out, rule, name, settings)?;
            }
        }
    }
    out.flush()?;
    Ok(Outcome::found(!explanation.candidates.is_empty()))
}

/// The rules that can carry names of `pattern`, in order of precedence: all that share a name with it, down to
/// the first that takes whatever is left.
pub(crate) fn carrying<'t>(rules: &'t RuleTable, pattern: &Pattern) -> Vec<&'t Rule> {
    let mut carrying: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.pattern.overlaps(pattern))
        .collect();
    // Stable: equal ones keep the order of the table.
    carrying.sort_by(|a, b| a.pattern.precedence(&b.pattern));
    // Read as a name, a pattern is matched by just those that match all of its names: its `*` are matched
    // by none but a `*`.
    let takes_all = |rule: &&Rule| rule.pattern.matches(pattern.as_str());
    if let Some(last) = carrying.iter().position(takes_all) {
        carrying.truncate(last + 1);
    }
    carrying
}

fn explain_pattern(pattern: &Pattern, rules: &RuleTable, from: &str, settings: &Settings) -> Run {
    let carrying = carrying(rules, pattern);
    let mut out = stdout(settings.color);
    if settings.json {
        let list: Vec<Value> = carrying
            .iter()
            .map(|rule| {
                let why = "can carry names of the pattern";
                rule_json(rule, why, pattern.as_str(), settings)
            })
            .collect();
        let answer = json!({
            "version": 1, "pattern": pattern.as_str(), "rules_from": from, "candidates": list,
        });
        writeln!(out, "{answer}")?;
    } else {
        writeln!(
            out,
            "{BOLD}{pattern}{BOLD:#} can be carried by {} rules of {from}; the first that matches a name applies to it",
            carrying.len()
        )?;
        let mut table = Table::new(&["rule", "class", "delivery", "log"]);
        for rule in &carrying {
            table.row(vec![
                rule.pattern.to_string(),
                rule.class.name().to_owned(),
                delivery(rule).to_owned(),
                rule.service.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.print(&mut out)?;
    }
    out.flush()?;
    Ok(Outcome::found(!carrying.is_empty()))
}

fn delivery(rule: &Rule) -> &'static str {
    if rule.is_direct() { "direct" } else { "outbox" }
}

/// How events of a rule reach subscribers, in words.
fn delivery_reason(rule: &Rule, name: &str) -> String {
    let delay = format_duration(rule.max_delay);
    let (events, bytes) = (rule.max_events, format_size(rule.max_bytes.into()));
    let prefix = literal_prefix(name);
    match (rule.class, &rule.service) {
        (Class::Passthrough, _) => {
            "subscribers read it in the lane of its publisher, at once and one by one; the \
             consumer is not in between"
                .to_owned()
        }
        (_, Some(_)) => format!(
            "subscribers read it in the lane of its publisher, at once and one by one: it is logged, and does not wait \
             for the disk on its way to them; a sleeping consumer is woken for {events} events, or for half a lane"
        ),
        (Class::Batch, None) => format!(
            "delivered by the consumer in batches of at most {events} events or {bytes}, at the latest {delay} after \
             the first; prefix {prefix}; the first event after {delay} without one goes out at once, alone"
        ),
        (Class::Conflate, None) => format!(
            "delivered by the consumer: of events with the same key only the last, with a count of those it replaced; \
             as soon as {events} keys or {bytes} wait, at the latest {delay} after the first; key {}, within the \
             prefix {prefix}",
            rule.conflate_key
        ),
        (Class::Aggregate, None) => format!(
            "delivered by the consumer: for each event name count, min, max, mean and last of each numeric field of its \
             schema, at the latest {delay} after the first; events without a schema as they are; prefix {prefix}"
        ),
    }
}

fn describe(
    out: &mut dyn Write,
    rule: &Rule,
    name: &str,
    settings: &Settings,
) -> Result<(), Failure> {
    let delay = format_duration(rule.max_delay);
    let events = rule.max_events;
    writeln!(
        out,
        "  class     {}: {events} events, {} or {delay}",
        rule.class.name(),
        format_size(rule.max_bytes.into())
    )?;
    if rule.class == Class::Conflate {
        writeln!(out, "  key       {}", rule.conflate_key)?;
    }
    writeln!(
        out,
        "  delivery  {}: {}",
        delivery(rule),
        delivery_reason(rule, name)
    )?;
    writeln!(out, "  overflow  {}", rule.overflow)?;
    writeln!(
        out,
        "  lane      {} per publisher, payloads up to {}",
        format_size(rule.lane_bytes.into()),
        format_size(rule.payload_bytes_limit.into())
    )?;
    if !rule.is_direct() {
        writeln!(
            out,
            "  outbox    {}: a subscriber that is further behind misses events",
            format_size(rule.outbox_bytes.into())
        )?;
    }
    match rule.service_and_source(name) {
        Some((service, source)) => {
            writeln!(out, "  log       service {service}, source {source}")?;
            for setting in settings.of_service(service) {
                let Effective { key, value, origin } = setting;
                writeln!(out, "            {key:<13} {value} {DIM}({origin}){DIM:#}")?;
            }
        }
        None if rule.service.is_some() => writeln!(
            out,
            "  log       refused and counted as rejected: lines of source `{}` are the daemon's own; \
             take another name",
            Rule::OWN_SOURCE
        )?,
        None => writeln!(out, "  log       not kept")?,
    }
    Ok(())
}

fn rule_json(rule: &Rule, why: &str, name: &str, settings: &Settings) -> Value {
    let log = rule.service_and_source(name).map(|(service, source)| {
        let settings = settings_json(&settings.of_service(service));
        json!({ "service": service, "source": source, "settings": settings })
    });
    let deadline_ns = match rule.overflow {
        Overflow::DropNewest => None,
        Overflow::Block { deadline } => Some(deadline.as_nanos() as u64),
    };
    json!({
        "pattern": rule.pattern.as_str(),
        "why": why,
        "class": rule.class.name(),
        "delivery": delivery(rule),
        "delivery_reason": delivery_reason(rule, name),
        "overflow": if deadline_ns.is_some() { "block" } else { "drop-newest" },
        "block_deadline_ns": deadline_ns,
        "lane_bytes": rule.lane_bytes,
        "payload_bytes_limit": rule.payload_bytes_limit,
        "outbox_bytes": rule.outbox_bytes,
        "conflate_key": rule.conflate_key.to_string(),
        "max_events": rule.max_events,
        "max_bytes": rule.max_bytes,
        "max_delay_ns": rule.max_delay.as_nanos() as u64,
        "log": log,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_carried_down_to_the_rule_that_takes_the_rest() {
        let rules = RuleTable::defaults();
        let of = |pattern: &str| -> Vec<&str> {
            let pattern = pattern.parse().expect("a pattern");
            carrying(&rules, &pattern)
                .iter()
                .map(|rule| rule.pattern.as_str())
                .collect()
        };
        assert_eq!(of("data:*"), ["data:code_index:*", "data:*"]);
        assert_eq!(of("data:users:*"), ["data:*"]);
        assert_eq!(of("chat:lobby"), ["chat:*"]);
        assert_eq!(of("nobody:*"), ["*"]);
        assert_eq!(of("*").last(), Some(&"*"));
        assert!(of("*:*:status").contains(&"sentinel:*:status"));
    }
}
