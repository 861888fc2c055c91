//! `millpond explain`: which rule applies to a name, and why.

use std::io::Write;

use millpond_bus::{Bus, Class, ErrorKind, Overflow, Rule, check_event_name};
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::outcome::Outcome;
use crate::print::{BOLD, DIM, stdout};
use crate::units::{format_duration, format_size};

pub(crate) fn run(name: &str, settings: &Settings) -> Run {
    check_event_name(name)?;
    let (rules, from) = match Bus::open(&settings.bus) {
        Ok(bus) => (bus.rules()?, format!("bus {:?}", settings.bus)),
        Err(error) if error.kind() == ErrorKind::NotFound => (
            settings.rules.clone(),
            "the configuration, since the bus does not exist yet".to_owned(),
        ),
        Err(error) => return Err(error.into()),
    };
    let explanation = rules.explain(name);
    let mut out = stdout(settings.color);
    if settings.json {
        let candidates: Vec<Value> = explanation
            .candidates
            .iter()
            .map(|(rule, why)| rule_json(rule, why, name))
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
                describe(&mut out, rule, name)?;
            }
        }
    }
    out.flush()?;
    Ok(Outcome::found(!explanation.candidates.is_empty()))
}

fn describe(out: &mut dyn Write, rule: &Rule, name: &str) -> std::io::Result<()> {
    let delay = format_duration(rule.max_delay);
    let events = rule.max_events;
    writeln!(
        out,
        "  class     {}: {events} events, {} or {delay}",
        rule.class.name(),
        format_size(rule.max_bytes.into())
    )?;
    writeln!(out, "  overflow  {}", rule.overflow)?;
    writeln!(
        out,
        "  lane      {} per publisher, payloads up to {}",
        format_size(rule.lane_bytes.into()),
        format_size(rule.payload_bytes_limit.into())
    )?;
    if rule.class != Class::Passthrough && rule.service.is_none() {
        let outbox = format_size(rule.outbox_bytes.into());
        match rule.class {
            Class::Conflate => {
                writeln!(out, "  outbox    {outbox}, last per {}", rule.conflate_key)?
            }
            _ => writeln!(out, "  outbox    {outbox}")?,
        }
    }
    match rule.service_and_source(name) {
        Some((service, source)) => writeln!(out, "  log       service {service}, source {source}"),
        None => writeln!(out, "  log       not kept"),
    }
}

fn rule_json(rule: &Rule, why: &str, name: &str) -> Value {
    let log = rule
        .service_and_source(name)
        .map(|(service, source)| json!({ "service": service, "source": source }));
    let deadline_ns = match rule.overflow {
        Overflow::DropNewest => None,
        Overflow::Block { deadline } => Some(deadline.as_nanos() as u64),
    };
    json!({
        "pattern": rule.pattern.as_str(),
        "why": why,
        "class": rule.class.name(),
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
