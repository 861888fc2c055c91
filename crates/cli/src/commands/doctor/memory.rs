//! What lies in shared memory, of any bus: buses on which nobody lives, and objects that nothing names.

use std::time::{Duration, SystemTime};

use millpond_bus::inspect::{Inspection, ObjectKind, SharedObject};

use super::{Check, Fix, Settings};
use crate::commands::gc::{
    Attached, Buses, Standing, all_buses, how_to_drain, remove, remove_object, standing,
    waiting_words,
};
use crate::outcome::Failure;
use crate::units::{human_size, now_ns};

/// An object that nothing names is a creator at work, or its remains; after this long, remains.
const ORPHAN_AGE: Duration = Duration::from_secs(10);
/// Of a host that is full of leftovers not every one is shown; those of the bus in question come first.
const SHOWN_MAX: usize = 20;
/// A bus on which nobody lives rests; without a sign of life for this long it is dead.
const DEAD_AGE: Duration = Duration::from_secs(3600);

pub(super) fn check(settings: &Settings, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let buses = all_buses()?;
    let attached = Attached::find(&buses);
    let before = checks.len();
    let (ours, others): (Vec<_>, Vec<_>) =
        (buses.iter()).partition(|(bus, _)| **bus == settings.bus);
    for (bus, objects) in ours.into_iter().chain(others) {
        match standing(bus, objects, &attached) {
            Standing::Alive(_) => orphans(bus, objects, checks),
            // Not ours to look at.
            Standing::NotOurs(_) => {}
            Standing::Dead(waiting) if waiting.is_nothing() => {
                // One that rests may be used again, and its counters are worth keeping.
                if *bus != settings.bus && is_dead(bus, objects) {
                    checks.push(dead(bus, objects));
                }
            }
            Standing::Dead(waiting) => {
                let found = format!("nobody lives on bus {bus:?}, and it holds events");
                let discard = format!("`millpond gc --bus {bus} --discard` throws them away");
                let remedy = format!("{}; {discard}", waiting_words(bus, &waiting));
                checks.push(Check::warn("dead bus", found, remedy));
            }
            Standing::Unreadable(why) => {
                let remedy = format!("`millpond dump --bus {bus}`, then `millpond gc --bus {bus}`");
                let found = format!("nobody lives on bus {bus:?}: {why}");
                checks.push(Check::warn("dead bus", found, remedy));
            }
        }
    }
    let more = checks.len().saturating_sub(before + SHOWN_MAX);
    if more > 0 {
        checks.truncate(before + SHOWN_MAX);
        let remedy = "`millpond gc --all --dry-run` lists all buses";
        checks.push(Check::warn("leftovers", format!("and {more} more"), remedy));
    }
    if checks.len() == before {
        checks.push(Check::ok("leftovers", words(&buses)));
    }
    Ok(())
}

fn words(buses: &Buses) -> String {
    let bytes = buses
        .values()
        .flatten()
        .map(|object| object.allocated_bytes);
    format!(
        "none; {} buses use {} of shared memory",
        buses.len(),
        human_size(bytes.sum())
    )
}

/// Whether nothing has happened on it for long.
fn is_dead(bus: &str, objects: &[SharedObject]) -> bool {
    let Ok(inspection) = Inspection::open(bus) else {
        return objects.iter().all(|object| is_older(object, DEAD_AGE));
    };
    if inspection.control.is_none() {
        // Nothing says when anybody lived: its creator may be at work, or somebody looks into what went wrong.
        return objects.iter().all(|object| is_older(object, DEAD_AGE));
    }
    let rings = inspection.lanes.iter().chain(&inspection.outboxes);
    let made_ns = rings.map(|ring| ring.created_ns).max().unwrap_or(0);
    let control_ns = inspection.control.as_ref().map_or(0, |control| {
        control.created_ns.max(control.consumer.heartbeat_ns)
    });
    Duration::from_nanos(now_ns().saturating_sub(made_ns.max(control_ns))) > DEAD_AGE
}

fn dead(bus: &str, objects: &[SharedObject]) -> Check {
    let bytes = objects.iter().map(|object| object.allocated_bytes).sum();
    let found = format!(
        "nobody lives on bus {bus:?}: {} objects, {}, and nothing waits in them",
        objects.len(),
        human_size(bytes)
    );
    let check = Check::warn("dead bus", found, format!("`millpond gc --bus {bus}`"));
    let (name, objects) = (bus.to_owned(), objects.to_vec());
    check.with_fix(Fix::of_memory(format!("remove bus {bus:?}"), move || {
        // Once more, now: somebody may have come.
        let buses = all_buses()?;
        match standing(&name, &objects, &Attached::find(&buses)) {
            Standing::Dead(waiting) if waiting.is_nothing() => remove(&name, &objects).map(|_| ()),
            _ => Err(Failure::new("somebody has come meanwhile")),
        }
    }))
}

/// Objects of a bus that lives, which nothing names and nobody holds: their creator died before it could register them.
fn orphans(bus: &str, objects: &[SharedObject], checks: &mut Vec<Check>) {
    let Ok(inspection) = Inspection::open(bus) else {
        return;
    };
    for lane in inspection.lanes.iter().filter(|lane| lane.slot.is_none()) {
        let object = &lane.object;
        if !object.is_ours() || lane.holder.is_somebody() || !is_old(object) {
            continue;
        }
        let shown = object.path.display();
        let found = format!("{shown} is named by nothing and held by nobody");
        if lane.tail_position > 0 {
            let remedy = format!(
                "something is in it that no consumer will take: `millpond dump --bus {bus} --lane {:x} --raw` \
                 shows it, `rm {shown}` discards it",
                lane.epoch
            );
            checks.push(Check::warn("orphan", found, remedy));
            continue;
        }
        let check = Check::warn(
            "orphan",
            found,
            "the daemon removes it when it looks around",
        );
        checks.push(check.with_fix(remove_orphan(object)));
    }
    let control = inspection.control.as_ref();
    for object in objects {
        let is_lost = object.kind == ObjectKind::Subscriber
            && object.is_ours()
            && is_old(object)
            && !object.holder().is_somebody();
        if is_lost && control.is_some() {
            let found = format!(
                "{} belongs to a subscriber that is gone",
                object.path.display()
            );
            let check = Check::warn(
                "orphan",
                found,
                "the daemon removes it when it looks around",
            );
            checks.push(check.with_fix(remove_orphan(object)));
        }
    }
    if inspection.lease.is_somebody() {
        return; // it drains them
    }
    let left: Vec<&str> = inspection
        .lanes
        .iter()
        .filter(|lane| lane.slot.is_some() && lane.lag_bytes() > 0 && !lane.holder.is_somebody())
        .map(|lane| lane.label.as_str())
        .collect();
    if !left.is_empty() {
        let found = format!(
            "publishers of bus {bus:?} are gone, and left events: {}",
            left.join(", ")
        );
        checks.push(Check::warn("lanes", found, how_to_drain(bus)));
    }
}

fn remove_orphan(object: &SharedObject) -> Fix {
    let object = object.clone();
    Fix::of_memory(
        format!("remove {}", object.path.display()),
        move || match object.holder().is_somebody() {
            true => Err(Failure::new("somebody holds it now")),
            false => remove_object(&object),
        },
    )
}

fn is_old(object: &SharedObject) -> bool {
    is_older(object, ORPHAN_AGE)
}

fn is_older(object: &SharedObject, limit: Duration) -> bool {
    let age = object
        .modified
        .and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age > limit)
}
