//! `millpond rotate`: new segments, please.

use millpond_bus::Bus;

use crate::Run;
use crate::args::Settings;
use crate::outcome::{Failure, Outcome};

pub(crate) fn run(settings: &Settings) -> Run {
    let bus = Bus::open_shared(&settings.bus, settings.group_id)?;
    if bus.consumer().is_none() {
        let bus = &settings.bus;
        return Err(Failure::new(format!(
            "no consumer on bus {bus:?}: start `millpond daemon --bus {bus}`"
        )));
    }
    bus.request_rotation();
    Ok(Outcome::Found)
}
