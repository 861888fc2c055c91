//! `millpond config`: every effective setting and where it came from.

use std::io::Write;
use std::time::{Duration, Instant};

use millpond_bus::Bus;
use serde_json::{Map, Value, json};

use crate::Run;
use crate::args::{Effective, Settings, settings_json};
use crate::flags::ReloadFlags;
use crate::outcome::Failure;
use crate::outcome::Outcome;
use crate::print;
use crate::print::stdout;
use crate::print::table::Table;
use crate::units::format_duration;
use crate::units::format_size;

pub(crate) fn run(settings: &Settings) -> Run {
    let mut out = stdout(settings.color);
    if settings.json {
        let values = settings_json(&settings.origins);
        let services: Map<String, Value> = (settings.services.names())
            .map(|name| {
                let values = settings_json(&settings.of_service(name));
                (name.to_owned(), values.into())
            })
            .collect();
        let rules: Vec<Value> = settings
            .rules
            .iter()
            .map(|rule| rule.pattern.as_str().into())
            .collect();
        let answer = json!({
            "version": 1, "config": settings.config, "settings": values, "services": services, "rules": rules,
        });
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
        let mut table = Table::new(&["service", "setting", "value", "from"]);
        for name in settings.services.names() {
            for setting in settings.of_service(name) {
                let Effective { key, value, origin } = setting;
                table.row(vec![name.to_owned(), key.to_owned(), value, origin]);
            }
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

/// How often it is looked whether the rules are in force.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Asks the daemon to read its file again, and looks whether it has.
pub(crate) fn reload(flags: &ReloadFlags, settings: &Settings) -> Run {
    // A mistake in the file has ended us before.
    let Some(path) = &settings.config else {
        return Err(Failure::new(
            "there is no configuration file to read: name one with `--config FILE` or MILLPOND_CONFIG",
        ));
    };
    let bus = Bus::open_shared(&settings.bus, settings.group_id)?;
    let name = &settings.bus;
    let Some(consumer) = bus.consumer() else {
        return Err(Failure::new(format!(
            "no consumer on bus {name:?}: start `millpond daemon --bus {name}`, which reads the file"
        )));
    };
    bus.request_reload();
    let started = Instant::now();
    let (path, count) = (path.display(), settings.rules.len());
    while bus.rules()? != settings.rules {
        if started.elapsed() >= flags.timeout {
            let message = format!(
                "the rules of {path} are not in force after {}: process {} reads the file that it was started with, \
                 which is another one, or has a mistake that it names on its standard error",
                format_duration(flags.timeout),
                consumer.pid
            );
            print::error_line(settings.color, &message);
            return Ok(Outcome::Nothing);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let mut out = stdout(settings.color);
    if settings.json {
        let path = path.to_string();
        let answer = json!({ "version": 1, "config": path, "rules": count });
        writeln!(out, "{answer}")?;
    } else {
        writeln!(
            out,
            "the rules of {path} are in force on bus {name:?}: {count} with the defaults; so is what its \
             services say of repeats, rate-limit, sample and redact"
        )?;
    }
    out.flush()?;
    Ok(Outcome::Found)
}
