//! `millpond config`: every effective setting and where it came from.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::Run;
use crate::args::Settings;
use crate::outcome::Outcome;
use crate::print::stdout;
use crate::print::table::Table;
use crate::units::format_size;

pub(crate) fn run(settings: &Settings) -> Run {
    let mut out = stdout(settings.color);
    if settings.json {
        let values: Map<String, Value> = settings
            .origins
            .iter()
            .map(|setting| {
                let value = json!({ "value": setting.value, "origin": setting.origin });
                (setting.key.to_owned(), value)
            })
            .collect();
        let rules: Vec<Value> = settings
            .rules
            .iter()
            .map(|rule| rule.pattern.as_str().into())
            .collect();
        let answer =
            json!({ "version": 1, "config": settings.config, "settings": values, "rules": rules });
        writeln!(out, "{answer}")?;
    } else {
        let mut table = Table::new(&["setting", "value", "from"]);
        for setting in &settings.origins {
            table.row(vec![
                setting.key.to_owned(),
                setting.value.clone(),
                setting.origin.clone(),
            ]);
        }
        table.print(&mut out)?;
        writeln!(out)?;
        let mut table = Table::new(&["rule", "class", "service", "lane", "overflow"]);
        for rule in settings.rules.iter() {
            table.row(vec![
                rule.pattern.to_string(),
                rule.class.name().to_owned(),
                rule.service.clone().unwrap_or_else(|| "-".to_owned()),
                format_size(rule.lane_bytes.into()),
                rule.overflow.to_string(),
            ]);
        }
        table.print(&mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Found)
}
