//! Where lines are logged: a bus of its own, a daemon in a process of its own, a directory that goes away.

use std::path::Path;
use std::time::Duration;

use millpond_bus::{Bus, BusOptions, Overflow, Rule, RuleTable};
use millpond_daemon::{BackendChoice, Daemon, Policy, SyncPolicy};
use millpond_loadgen::{Arguments, Error, Process, Talk};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tempfile::TempDir;

use crate::parts::bus::OwnBus;
use crate::plan::Options;
use crate::usage::Usage;

/// Nothing that is asked of a process here takes so long: it hangs.
pub(super) const LIMIT: Duration = Duration::from_secs(300);
/// A publisher waits this long for the daemon before it gives up, and its round fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the daemon writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// As it finds best.
    Auto,
    /// io_uring or not at all.
    Uring,
    /// `pwrite`.
    Pwrite,
}

impl Backend {
    /// Its word in rows, and in what the daemon tells.
    pub(super) fn name(self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Uring => "io_uring",
            Backend::Pwrite => "pwrite",
        }
    }

    fn named(name: &str) -> Self {
        let all = [Backend::Uring, Backend::Pwrite];
        let mut found = all.into_iter().filter(|backend| backend.name() == name);
        found.next().unwrap_or(Backend::Auto)
    }

    fn choice(self) -> BackendChoice {
        match self {
            Backend::Auto => BackendChoice::Auto,
            Backend::Uring => BackendChoice::Uring,
            Backend::Pwrite => BackendChoice::Pwrite,
        }
    }

    /// Why there is none of it here; `None`: there is.
    pub(super) fn missing(self, options: &Options) -> Result<Option<String>, Error> {
        let logs = options.new_dir()?;
        let bus = OwnBus::new("probe", &BusOptions::default())?;
        let daemon = Daemon::builder(&bus, logs.path())
            .policy(policy(self, false))
            .open();
        match daemon {
            Ok(daemon) => daemon.close().map(|()| None).map_err(Error::from),
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}

/// A bus with its daemon and its log; all are gone when it is dropped.
pub(super) struct LogStage {
    // Dropped in this order: the daemon has the lease of the bus until it is gone.
    daemon: Option<Process>,
    bus: OwnBus,
    logs: TempDir,
    backend: Backend,
}

impl LogStage {
    /// A new bus, and a daemon that writes what comes on it.
    pub(super) fn start(
        options: &Options,
        what: &str,
        bus_options: &BusOptions,
        backend: Backend,
        is_durable: bool,
    ) -> Result<Self, Error> {
        let logs = options.new_dir()?;
        let mut stage = LogStage {
            daemon: None,
            bus: OwnBus::new(what, bus_options)?,
            logs,
            backend,
        };
        // Started after the stage is there: what fails from here on is cleaned up.
        let daemon = options.host()?.start(
            "log-daemon",
            &[
                ("bus", &stage.bus().name()),
                ("logs", &stage.logs().display()),
                ("backend", &backend.name()),
                ("durable", &is_durable),
            ],
        )?;
        stage.daemon = Some(daemon);
        Ok(stage)
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn logs(&self) -> &Path {
        self.logs.path()
    }

    fn daemon(&mut self) -> Result<&mut Process, Error> {
        let gone = || Error::new("the daemon's process is gone");
        self.daemon.as_mut().ok_or_else(gone)
    }

    /// What the daemon has used so far.
    pub(super) fn usage(&mut self) -> Result<Usage, Error> {
        let daemon = self.daemon()?;
        daemon.say("usage")?;
        daemon.hear(LIMIT)
    }

    /// Has the daemon write everything and end; refuses where it did not write in the way that it was started for.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        let told = self.bus().stats().consumer.map(|consumer| consumer.backend);
        self.daemon()?.say("stop")?;
        if let Some(daemon) = self.daemon.take() {
            daemon.result::<serde_json::Value>(LIMIT)?;
        }
        let told = told.unwrap_or_default();
        match self.backend {
            Backend::Auto => Ok(()),
            wanted if told.starts_with(wanted.name()) => Ok(()),
            wanted => Err(Error::new(format!(
                "the daemon was to write by {}, and did by {told}",
                wanted.name()
            ))),
        }
    }
}

/// Lines wait for the daemon, and none is dropped.
pub(super) fn lossless() -> Result<BusOptions, Error> {
    let rule = Rule {
        service: Some("*".into()),
        lane_bytes: 4 << 20,
        max_events: 1 << 20,
        overflow: Overflow::Block { deadline: PATIENCE },
        ..Rule::new("log:*".parse()?)
    };
    Ok(BusOptions {
        rules: RuleTable::new(vec![rule])?,
        ..BusOptions::default()
    })
}

fn policy(backend: Backend, is_durable: bool) -> Policy {
    Policy {
        backend: backend.choice(),
        sync: match is_durable {
            true => SyncPolicy::Always,
            false => SyncPolicy::default(),
        },
        // What is counted must not depend on how much was written, or on how full this disk is.
        total_bytes_limit: None,
        keep_free_bytes: Some(0),
        ..Policy::default()
    }
}

/// The daemon's process: `bus=NAME logs=DIR backend=NAME durable=BOOL`. The line `usage` asks for that; any other ends
/// it.
pub(super) fn daemon_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    // As `millpond daemon` does: three file handles a service.
    let mut handles = getrlimit(Resource::Nofile);
    handles.current = handles.maximum;
    setrlimit(Resource::Nofile, handles).map_err(std::io::Error::from)?;
    let bus = Bus::open(arguments.text("bus")?)?;
    let backend = Backend::named(arguments.text("backend")?);
    let running = Daemon::builder(&bus, Path::new(arguments.text("logs")?))
        .policy(policy(backend, arguments.get("durable")?))
        .spawn()?;
    talk.say(&json!({"ready": true}))?;
    let mut asked = talk.hear();
    while asked.as_ref().is_ok_and(|line| line == "usage") {
        talk.say(&Usage::own()?)?;
        asked = talk.hear();
    }
    running.stop()?;
    // Nobody is left to be told when the other side is gone.
    asked.and_then(|_| talk.say(&json!({"stopped": true})))
}
