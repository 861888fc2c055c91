//! `millpond gc`: buses on which nobody lives go, and nothing goes with them that nobody has read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use millpond_bus::inspect::{
    Inspection, ObjectKind, SHARED_MEMORY_DIR, SharedObject, Undrained, list_objects,
};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use crate::Run;
use crate::args::Settings;
use crate::flags::GcFlags;
use crate::outcome::{Failure, Outcome};
use crate::print::{GREEN, RED, YELLOW, stdout};
use crate::units::human_size;

/// The objects of each bus of this host, by its name.
pub(super) type Buses = BTreeMap<String, Vec<SharedObject>>;

/// All buses there are.
pub(super) fn all_buses() -> Result<Buses, Failure> {
    let listed = list_objects(Path::new(SHARED_MEMORY_DIR))
        .map_err(|error| Failure::new(format!("cannot read {SHARED_MEMORY_DIR}: {error}")))?;
    let mut buses = Buses::new();
    for object in listed {
        buses.entry(object.bus.clone()).or_default().push(object);
    }
    Ok(buses)
}

/// Which processes have objects of which bus mapped: also those that are attached and hold no lock. Those of other
/// users, and of other pid namespaces, cannot be seen.
pub(super) struct Attached(BTreeMap<String, BTreeSet<u32>>);

impl Attached {
    pub(super) fn find(buses: &Buses) -> Self {
        let objects = buses.values().flatten();
        let by_path: BTreeMap<&str, &str> = objects
            .filter_map(|object| Some((object.path.to_str()?, object.bus.as_str())))
            .collect();
        let mut found: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let pid = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(pid) = pid else { continue };
            // Gone meanwhile, or another user's.
            let Ok(maps) = File::open(process.path().join("maps")) else {
                continue;
            };
            for line in BufReader::new(maps).lines().map_while(Result::ok) {
                let path = line.find('/').map(|start| &line[start..]);
                if let Some(bus) = path.and_then(|path| by_path.get(path)) {
                    found.entry((*bus).to_owned()).or_default().insert(pid);
                }
            }
        }
        Attached(found)
    }

    pub(super) fn of(&self, bus: &str) -> Option<u32> {
        self.0.get(bus)?.first().copied()
    }
}

/// What may be done with a bus.
#[derive(Debug)]
pub(super) enum Standing {
    /// Somebody is there: who.
    Alive(String),
    /// It belongs to another user.
    NotOurs(u32),
    /// Nobody is there, and this waits in it.
    Dead(Undrained),
    /// Nobody is there, and what waits in it cannot be told.
    Unreadable(String),
}

/// Who lives on a bus, and what waits in it.
pub(super) fn standing(bus: &str, objects: &[SharedObject], attached: &Attached) -> Standing {
    if let Some(other) = objects.iter().find(|object| !object.is_ours()) {
        return Standing::NotOurs(other.uid);
    }
    let alive = |object: &SharedObject| {
        let holder = object.holder();
        let who = match object.kind {
            ObjectKind::Control => "consumer",
            ObjectKind::Subscriber => "subscriber",
            _ => "publisher",
        };
        let process = holder
            .pid()
            .map_or(String::new(), |pid| format!(" process {pid}"));
        (holder.is_somebody()).then(|| Standing::Alive(format!("{who}{process}")))
    };
    let (control, others): (Vec<&SharedObject>, Vec<&SharedObject>) =
        (objects.iter()).partition(|object| object.kind == ObjectKind::Control);
    if let Some(alive) = control.into_iter().find_map(alive) {
        return alive;
    }
    // Cheaper than to ask for each object who holds it, and nearly as good.
    if let Some(pid) = attached.of(bus) {
        return Standing::Alive(format!("process {pid}, which is attached"));
    }
    if let Some(alive) = others.into_iter().find_map(alive) {
        return alive;
    }
    match Inspection::open(bus) {
        Ok(inspection) => {
            let waiting = inspection.undrained_totals();
            let unreadable = inspection.control.is_none() && !inspection.lanes.is_empty();
            match inspection.damage.first() {
                Some(damage) if unreadable && waiting.is_nothing() => {
                    // Without the control segment the rings speak for themselves.
                    let is_empty = inspection.lanes.iter().all(|lane| {
                        lane.damage.is_empty() && lane.tail_position == lane.head_position
                    });
                    match is_empty {
                        true => Standing::Dead(waiting),
                        false => Standing::Unreadable(damage.clone()),
                    }
                }
                _ => Standing::Dead(waiting),
            }
        }
        Err(error) => Standing::Unreadable(error.to_string()),
    }
}

/// How what waits in a bus can be saved.
pub(super) fn how_to_drain(bus: &str) -> String {
    let control = match Inspection::open(bus) {
        Ok(inspection) if inspection.control.is_none() => {
            return format!(
                "no daemon of this release can drain it; if another release made it, `daemon --drain` of that one \
                 does; else `millpond dump --bus {bus} --lane N --raw` of each lane keeps the payloads, then \
                 `millpond gc --bus {bus} --discard`"
            );
        }
        Ok(inspection) => inspection.control,
        Err(_) => None,
    };
    let logs = control
        .map(|control| control.consumer.logs_dir)
        .filter(|dir| !dir.is_empty());
    let logs = logs.map_or(String::new(), |dir| format!(" --logs {dir}"));
    format!("`millpond daemon --drain --bus {bus}{logs}` takes them")
}

/// Removes a bus on which nobody lives. The control segment goes last: killed in between, the next call goes on.
///
/// Holds the lease meanwhile, so that no daemon comes up on it. A publisher that attaches at this very moment is noticed
/// by its lane, and the control segment stays.
pub(super) fn remove(bus: &str, objects: &[SharedObject]) -> Result<u64, Failure> {
    let control = objects
        .iter()
        .find(|object| object.kind == ObjectKind::Control);
    let lease = match control {
        Some(control) => Some(take_lease(bus, control)?),
        None => None,
    };
    let mut bytes = 0;
    for object in objects {
        if object.kind != ObjectKind::Control {
            remove_object(object)?;
            bytes += object.allocated_bytes;
        }
    }
    if let Some(control) = control {
        let after = all_buses()?;
        let is_new = |object: &SharedObject| !objects.iter().any(|old| old.path == object.path);
        let newcomer = after
            .get(bus)
            .is_some_and(|objects| objects.iter().any(is_new));
        if newcomer || Attached::find(&after).of(bus).is_some() {
            return Err(Failure::new(format!(
                "bus {bus:?} came to life while it was being removed: its control segment stays"
            )));
        }
        remove_object(control)?;
        bytes += control.allocated_bytes;
    }
    drop(lease);
    Ok(bytes)
}

fn take_lease(bus: &str, control: &SharedObject) -> Result<File, Failure> {
    let shown = control.path.display();
    let file = File::open(&control.path)
        .map_err(|error| Failure::new(format!("cannot open {shown}: {error}")))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(format!(
            "bus {bus:?} has a consumer now: nothing is removed"
        ))
    })?;
    Ok(file)
}

/// Gone already is as good.
pub(super) fn remove_object(object: &SharedObject) -> Result<(), Failure> {
    match fs::remove_file(&object.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::new(format!(
            "cannot remove {}: {error}",
            object.path.display()
        ))),
        _ => Ok(()),
    }
}

/// What became of one bus.
struct Done {
    bus: String,
    state: &'static str,
    why: String,
    objects: usize,
    bytes: u64,
    waiting: Undrained,
}

impl Done {
    fn to_json(&self) -> Value {
        json!({
            "bus": self.bus,
            "state": self.state,
            "why": self.why,
            "objects": self.objects,
            "bytes": self.bytes,
            "undrained_events": self.waiting.events,
            "undrained_bytes": self.waiting.bytes,
        })
    }
}

pub(crate) fn run(flags: &GcFlags, settings: &Settings) -> Run {
    let buses = all_buses()?;
    let attached = Attached::find(&buses);
    let wanted: Vec<(&String, &Vec<SharedObject>)> = buses
        .iter()
        .filter(|(bus, _)| flags.all || **bus == settings.bus)
        .collect();
    let mut all = Vec::new();
    for (bus, objects) in wanted {
        all.push(collect(bus, objects, &attached, flags)?);
    }
    let mut out = stdout(settings.color);
    if settings.json {
        let list: Vec<Value> = all.iter().map(Done::to_json).collect();
        let value = json!({ "version": 1, "dry_run": flags.dry_run, "buses": list });
        writeln!(out, "{value}")?;
    } else {
        for done in &all {
            print(&mut out, done)?;
        }
        if all.is_empty() {
            let what = match flags.all {
                true => "no bus".to_owned(),
                false => format!("no bus {:?}", settings.bus),
            };
            writeln!(out, "{what} in {SHARED_MEMORY_DIR}")?;
        }
    }
    out.flush()?;
    let refused = all.iter().filter(|done| done.state == "refused").count();
    if refused > 0 {
        return Err(Failure::new(format!(
            "{refused} refused, since events in it were never drained: see above, or add `--discard`"
        )));
    }
    Ok(Outcome::found(all.iter().any(|done| {
        matches!(done.state, "removed" | "would remove")
    })))
}

fn collect(
    bus: &str,
    objects: &[SharedObject],
    attached: &Attached,
    flags: &GcFlags,
) -> Result<Done, Failure> {
    let mut done = Done {
        bus: bus.to_owned(),
        state: "alive",
        why: String::new(),
        objects: objects.len(),
        bytes: objects.iter().map(|object| object.allocated_bytes).sum(),
        waiting: Undrained::default(),
    };
    match standing(bus, objects, attached) {
        Standing::Alive(who) => {
            done.why = format!("in use by {who}");
            return Ok(done);
        }
        Standing::NotOurs(uid) => {
            done.state = "other user";
            done.why = format!("belongs to user {uid}");
            return Ok(done);
        }
        Standing::Dead(waiting) => {
            done.waiting = waiting;
            if !waiting.is_nothing() {
                done.why = waiting_words(bus, &waiting);
            }
        }
        Standing::Unreadable(why) => {
            done.why = format!("what waits in it cannot be told: {why}");
        }
    }
    if !done.why.is_empty() && !flags.discard {
        done.state = "refused";
        return Ok(done);
    }
    done.state = "would remove";
    if !flags.dry_run {
        remove(bus, objects)?;
        done.state = "removed";
    }
    Ok(done)
}

/// What would be lost, and what to do about it.
pub(super) fn waiting_words(bus: &str, waiting: &Undrained) -> String {
    let Undrained {
        lanes,
        events,
        bytes,
        unreadable,
    } = waiting;
    let damaged = match unreadable {
        0 => String::new(),
        _ => format!(", and {unreadable} lanes hold what cannot be read"),
    };
    format!(
        "{events} events ({}) in {lanes} lanes were never drained{damaged}: {}, `millpond dump --bus {bus}` \
         shows them",
        human_size(*bytes),
        how_to_drain(bus)
    )
}

fn print(out: &mut dyn Write, done: &Done) -> io::Result<()> {
    let style = match done.state {
        "removed" | "would remove" => GREEN,
        "refused" => RED,
        _ => YELLOW,
    };
    let (state, bus, objects) = (done.state, &done.bus, done.objects);
    let bytes = human_size(done.bytes);
    writeln!(
        out,
        "{style}{state}{style:#} {bus}: {objects} objects, {bytes}"
    )?;
    if !done.why.is_empty() {
        writeln!(out, "  {}", done.why)?;
    }
    Ok(())
}
