//! `millpond daemon`: the consumer in the foreground.

use std::io::Write;

use millpond_daemon::{Daemon, Notice};

use crate::Run;
use crate::args::Settings;
use crate::outcome::Outcome;
use crate::print;
use crate::signals::{self, Asked};

pub(crate) fn run(settings: &Settings) -> Run {
    let bus = settings.attach()?;
    let mut builder = Daemon::builder(&bus, &settings.logs).policy(settings.policy.clone());
    if settings.config.is_some() {
        builder = builder.rules(settings.rules.clone());
    }
    let mut daemon = builder.open()?;
    let (stop, rotating) = (daemon.stop_handle(), bus.clone());
    signals::watch(move |asked| match asked {
        Asked::Stop => stop.stop(),
        Asked::Rotate => rotating.request_rotation(),
    })?;
    let (backend, reason) = daemon.backend();
    if backend == "pwrite" {
        print::warning_line(settings.color, &format!("writing with pwrite: {reason}"));
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "millpond ready: bus {:?}, logs {}, backend {backend}, pid {}",
        settings.bus,
        settings.logs.display(),
        std::process::id()
    )?;
    out.flush()?;
    drop(out);
    daemon.run(&mut |notice| match notice {
        Notice::TroubleOver => eprintln!("{notice}"),
        _ => print::warning_line(settings.color, &notice),
    });
    daemon.close()?;
    Ok(Outcome::Found)
}
