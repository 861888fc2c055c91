//! The bus, and the daemon on it: is it there, does it move, what troubles it.

use millpond_bus::ErrorKind;
use millpond_bus::inspect::{Holder, Inspection};

use super::{Check, Settings};
use crate::commands::heartbeat::{self, Beat, Silence};
use crate::units::now_ns;

/// Adds the checks; the process of the consumer, where there is one.
pub(super) fn check(settings: &Settings, checks: &mut Vec<Check>) -> Option<u32> {
    let name = &settings.bus;
    let inspection = match Inspection::open(name) {
        Ok(inspection) => inspection,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            checks.push(Check::ok("bus", format!("{name:?} does not exist yet")));
            return None;
        }
        Err(error) => {
            let remedy = "run as the user that owns the bus, or name another with `--bus`";
            checks.push(Check::fail("bus", error.to_string(), remedy));
            return None;
        }
    };
    group(settings, &inspection, checks);
    if let Some(damage) = inspection.damage.first() {
        let remedy = format!("`millpond dump --bus {name}` shows all of it");
        checks.push(Check::fail("bus", damage.clone(), remedy));
    }
    let control = inspection.control.as_ref()?;
    let pid = match inspection.lease {
        Holder::Process(pid) => pid,
        // In another pid namespace its own number means nothing here.
        Holder::Somebody => {
            checks.push(Check::ok(
                "bus",
                format!("{name:?}, its consumer cannot be seen"),
            ));
            return None;
        }
        Holder::Nobody | Holder::Unknown => {
            let waiting = inspection.undrained_totals();
            let found = match waiting.is_nothing() {
                true => format!("{name:?} has no consumer"),
                false => format!(
                    "{name:?} has no consumer, and {} events wait",
                    waiting.events
                ),
            };
            let remedy =
                format!("start `millpond daemon --bus {name}`; events wait in shared memory");
            checks.push(Check::warn("bus", found, remedy));
            return None;
        }
    };
    let found = format!("{name:?}, consumer is process {pid}");
    checks.push(Check::ok("bus", found));
    checks.push(heartbeat(
        pid,
        control.consumer.started_ns,
        control.consumer.heartbeat_ns,
    ));
    let trouble = &control.consumer.trouble;
    if !trouble.is_empty() {
        let remedy = "events wait in shared memory meanwhile; what is full then goes by its rule";
        checks.push(Check::fail("daemon", trouble.clone(), remedy));
    }
    let quarantined = inspection.lanes.iter().filter(|lane| lane.is_quarantined);
    for lane in quarantined {
        let found = format!(
            "lane {:x} of {} (process {}) is in quarantine",
            lane.epoch, lane.label, lane.publisher_pid
        );
        let remedy = format!(
            "`millpond dump --bus {name} --lane {:x}` shows why",
            lane.epoch
        );
        checks.push(Check::warn("lanes", found, remedy));
    }
    Some(pid)
}

fn heartbeat(pid: u32, started_ns: u64, heartbeat_ns: u64) -> Check {
    match heartbeat::look(pid, started_ns, heartbeat_ns, now_ns()) {
        Beat::Starting { age } => Check::ok(
            "heartbeat",
            format!("process {pid} took the bus {age} ago, and recovers the log"),
        ),
        Beat::Regular { age } => Check::ok("heartbeat", format!("process {pid}, {age} ago")),
        Beat::Silent(Silence { found, remedy, .. }) => Check::fail("heartbeat", found, remedy),
    }
}

/// Whether the objects are open to the group that the configuration names, and to nobody else.
fn group(settings: &Settings, inspection: &Inspection, checks: &mut Vec<Check>) {
    let our_uid = rustix::process::geteuid().as_raw();
    let allowed = match settings.group_id {
        Some(_) => 0o660,
        None => 0o600,
    };
    for object in &inspection.objects {
        let shown = object.path.display();
        if object.mode & 0o777 & !0o660 != 0 {
            checks.push(Check::fail(
                "access",
                format!(
                    "{shown} has mode {:04o}: others may write to it",
                    object.mode
                ),
                format!("nobody of this release attaches to it: `chmod {allowed:o} {shown}`"),
            ));
            return;
        }
        if let Some(group_id) = settings.group_id
            && (object.gid != group_id || object.mode & 0o060 != 0o060)
        {
            let (gid, mode) = (object.gid, object.mode);
            checks.push(Check::warn(
                "access",
                format!("{shown} is of group {gid}, mode {mode:04o}; `group-id` is {group_id}"),
                "it was made without that configuration: stop its processes, `millpond gc`, start again",
            ));
            return;
        }
        if object.uid != our_uid && settings.group_id.is_none() {
            checks.push(Check::fail(
                "access",
                format!("{shown} belongs to user {}", object.uid),
                "run as that user, share the bus through a group (`group-id`), or use another bus",
            ));
            return;
        }
    }
    let (Some(group_id), true) = (settings.group_id, our_uid != 0) else {
        return;
    };
    let ours = rustix::process::getgroups().unwrap_or_default();
    let is_member = rustix::process::getegid().as_raw() == group_id
        || ours.iter().any(|group| group.as_raw() == group_id);
    checks.push(match is_member {
        true => Check::ok(
            "access",
            format!("group {group_id}, of which this user is one"),
        ),
        false => Check::warn(
            "access",
            format!("this user is not in group {group_id}, which `group-id` names"),
            "have an administrator add it (`usermod -aG`), and log in again",
        ),
    });
}
