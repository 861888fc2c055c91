//! `millpond daemon`: the consumer in the foreground.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millpond_bus::inspect::Inspection;
use millpond_bus::{Bus, ErrorKind};
use millpond_daemon::http::{Listener, Server};
use millpond_daemon::{Daemon, Life, Notice, StopHandle};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::Run;
use crate::args::Settings;
use crate::config;
use crate::flags::{Http, RunFlags};
use crate::log;
use crate::outcome::{Failure, Outcome};
use crate::signals::{self, Asked};
use crate::systemd::Systemd;

/// How often `--drain` looks where nothing is committed.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Two file handles a lane and three a service: more than the 1,024 that are usual, where more are allowed.
fn raise_file_handles() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it may not be, lanes wait for their turn, and that is told.
    let _ = setrlimit(Resource::Nofile, limit);
}

pub(crate) fn run(flags: &RunFlags, settings: &Settings) -> Run {
    raise_file_handles();
    // A port in use ends us before anything is begun.
    let listener = match settings.http {
        Http::Off => None,
        Http::At(address) => Some(listen(address)?),
    };
    let is_new = Bus::open_shared(&settings.bus, settings.group_id)
        .is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let bus = settings.attach()?;
    let watched = || Bus::open_shared(&settings.bus, settings.group_id);
    let life = Life::default();
    let systemd = Systemd::start(watched()?, &life, settings.color)?;
    let manager = systemd.teller();
    // From now on they can be asked, also what is waited for: recovery takes its time.
    let server = listener
        .map(|listener| -> Result<Server, Failure> { Ok(listener.serve(watched()?, &life)?) });
    let server = server.transpose()?;
    let pages = server.as_ref().map_or(String::new(), |server| {
        format!(", http {}", server.address())
    });
    manager.status(format!(
        "recovering the log in {}{pages}",
        settings.logs.display()
    ));
    // What waits now, before anything of it is taken.
    let waiting = match flags.drain {
        true => Some(Waiting::find(&bus)?),
        false => None,
    };
    let mut builder = Daemon::builder(&bus, &settings.logs).policy(settings.policy.clone());
    builder = builder
        .reductions(settings.services.reductions())
        .life(&life);
    if settings.config.is_some() {
        builder = builder.rules(settings.rules.clone());
    }
    let builder = builder.reload_with({
        let config = settings.config.clone();
        move || config::read_again(config.as_deref()).map_err(|failure| failure.to_string())
    });
    let mut daemon = builder.open().inspect_err(|_| {
        if is_new {
            remove_unused(&bus);
        }
    })?;
    let (stop, rotating) = (daemon.stop_handle(), bus.clone());
    signals::watch({
        let manager = manager.clone();
        move |asked| match asked {
            Asked::Stop => {
                manager.stopping();
                stop.stop();
            }
            Asked::Rotate => rotating.request_rotation(),
            Asked::Reload => {
                manager.reloading();
                rotating.request_reload();
            }
        }
    })?;
    let (backend, reason) = daemon.backend();
    if backend == "pwrite" {
        log::warning(&format!("writing with pwrite: {reason}"));
    }
    // Whoever waits for the line below has all that was said before.
    log::flush();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "millpond ready: bus {:?}, logs {}, backend {backend}, pid {}{pages}",
        settings.bus,
        settings.logs.display(),
        std::process::id()
    )?;
    out.flush()?;
    drop(out);
    let well = format!(
        "draining bus {:?} into {} with {backend}{pages}",
        settings.bus,
        settings.logs.display()
    );
    manager.ready(well.clone());
    let drained = waiting.as_ref().map(|waiting| waiting.events);
    let has_ended = Arc::new(AtomicBool::new(false));
    let watch = waiting.map(|waiting| {
        let (bus, stop) = (bus.clone(), daemon.stop_handle());
        let has_ended = Arc::clone(&has_ended);
        std::thread::spawn(move || waiting.stop_when_gone(&bus, &stop, &has_ended))
    });
    daemon.run(&mut |notice| {
        match &notice {
            Notice::TroubleOver => manager.status(well.clone()),
            Notice::Trouble(why) => manager.status(format!("the log cannot be written: {why}")),
            Notice::Reloaded(_) | Notice::NotReloaded(_) => manager.reloaded(),
            _ => {}
        }
        match notice {
            Notice::TroubleOver | Notice::Reloaded(_) => log::notice(&notice),
            Notice::NotReloaded(_) => log::error(&notice),
            _ => log::warning(&notice),
        }
    });
    manager.stopping();
    daemon.close()?;
    // Asked to the end, they said what was waited for.
    drop(server);
    if let Some(watch) = watch {
        // ORDERING: Release; everything that is committed is, when the other thread sees it.
        has_ended.store(true, Ordering::Release);
        bus.wake_commit_waiters();
        let is_all = watch.join().unwrap_or(false);
        let mut out = std::io::stdout().lock();
        match is_all {
            true => writeln!(out, "millpond drained: {} events", drained.unwrap_or(0))?,
            false => return Err(Failure::new("stopped before everything was drained")),
        }
    }
    Ok(Outcome::Found)
}

/// Takes the address of the pages, and says where others may read them.
fn listen(address: SocketAddr) -> Result<Listener, Failure> {
    let listener = Listener::bind(address)?;
    if listener.is_open_to_others() {
        let warning = format!(
            "other hosts may reach http {}: whoever does reads the names of services, users and programs, without a \
             password: listen on 127.0.0.1 or [::1], or have a firewall in front",
            listener.address()
        );
        log::warning(&warning);
    }
    Ok(listener)
}

/// A daemon that could not start takes the bus that it made away again, unless somebody has come to it meanwhile:
/// publishers would wait there for a consumer that never comes.
fn remove_unused(bus: &Bus) {
    // Its control segment alone: no publisher, no subscriber.
    let is_unused = Inspection::open(bus.name()).is_ok_and(|found| found.objects.len() == 1);
    if is_unused {
        // What is left is an empty bus, as before.
        let _ = bus.remove();
    }
}

/// What lay in the lanes when the daemon began.
struct Waiting {
    /// End of each lane, by its number.
    ends: BTreeMap<u64, u64>,
    events: u64,
}

impl Waiting {
    fn find(bus: &Bus) -> Result<Self, Failure> {
        let inspection = Inspection::open(bus.name())?;
        let named = inspection.lanes.iter().filter(|lane| lane.slot.is_some());
        Ok(Waiting {
            ends: named.map(|lane| (lane.epoch, lane.tail_position)).collect(),
            events: inspection.undrained_totals().events,
        })
    }

    /// Stops the daemon once all of it is committed; true if it was.
    fn stop_when_gone(&self, bus: &Bus, stop: &StopHandle, has_ended: &AtomicBool) -> bool {
        loop {
            let seen = bus.commits();
            // Asked first: what is not committed when the daemon has ended, stopped by a signal, stays where it is.
            // ORDERING: Acquire; pairs with the Release behind the last commit.
            let is_over = has_ended.load(Ordering::Acquire);
            // A bus that cannot be read any more has been removed.
            let is_left = Inspection::open(bus.name()).is_ok_and(|now| {
                now.lanes.iter().any(|lane| {
                    let end = self.ends.get(&lane.epoch);
                    // Nobody takes what is in quarantine.
                    let waits = end.is_some_and(|&end| lane.committed.position < end);
                    waits && !lane.is_quarantined
                })
            });
            if !is_left {
                stop.stop();
                return true;
            }
            if is_over {
                return false;
            }
            bus.wait_for_commit(seen, Some(DRAIN_LOOK_INTERVAL));
        }
    }
}
