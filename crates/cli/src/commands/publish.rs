//! `millpond publish`: one event.

use std::io::{IsTerminal, Read};

use millpond_bus::Guarantee;
use serde_json::json;

use crate::Run;
use crate::args::Settings;
use crate::commands::pipe::parse_level;
use crate::flags::{PublishFlags, Wait};
use crate::outcome::{Failure, Outcome};
use crate::print;

pub(crate) fn run(flags: &PublishFlags, settings: &Settings) -> Run {
    let level = parse_level(&flags.level)?;
    let payload = match &flags.payload {
        Some(payload) => payload.clone().into_bytes(),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::new(
                "no payload: give it as an argument or on standard input",
            ));
        }
        None => {
            let mut payload = Vec::new();
            std::io::stdin().read_to_end(&mut payload)?;
            if payload.last() == Some(&b'\n') {
                payload.pop();
            }
            payload
        }
    };
    let bus = settings.attach()?;
    let mut publisher = bus.publisher("publish")?;
    let topic = publisher.topic(&flags.name)?;
    let sequence = match publisher.publish(topic, level, &payload) {
        Ok(sequence) => sequence,
        Err(error) => {
            print::error_line(settings.color, &format!("{}: {error}", flags.name));
            return Ok(Outcome::Nothing);
        }
    };
    let guarantee = match flags.wait {
        Wait::Queued => None,
        Wait::Written => Some(Guarantee::Written),
        Wait::Durable => Some(Guarantee::Durable),
    };
    if let Some(guarantee) = guarantee {
        publisher
            .flush(guarantee, Some(flags.timeout))
            .map_err(|error| {
                let remedy = match bus.consumer() {
                    None => format!(
                        "; no consumer on bus {0:?}: start `millpond daemon --bus {0}`",
                        bus.name()
                    ),
                    Some(_) => String::new(),
                };
                Failure::new(format!("{}: {error}{remedy}", flags.name))
            })?;
    }
    if settings.json {
        println!(
            "{}",
            json!({ "name": flags.name, "sequence": sequence, "bytes": payload.len() })
        );
    }
    Ok(Outcome::Found)
}
