//! `millpond daemon`: the consumer in the foreground.

use std::io::Write;

use millpond_daemon::{Daemon, Notice};

use crate::Run;
use crate::args::Settings;
use crate::config;
use crate::outcome::Outcome;
use crate::print;
use crate::signals::{self, Asked};

pub(crate) fn run(settings: &Settings) -> Run {
    let bus = settings.attach()?;
    let mut builder = Daemon::builder(&bus, &settings.logs).policy(settings.policy.clone());
    builder = builder.reductions(settings.services.reductions());
    if settings.config.is_some() {
        builder = builder.rules(settings.rules.clone());
    }
    let builder = builder.reload_with({
        let config = settings.config.clone();
        move || config::read_again(config.as_deref()).map_err(|failure| failure.to_string())
    });
    let mut daemon = builder.open()?;
    let (stop, rotating) = (daemon.stop_handle(), bus.clone());
    signals::watch(move |asked| match asked {
        Asked::Stop => stop.stop(),
        Asked::Rotate => rotating.request_rotation(),
        Asked::Reload => rotating.request_reload(),
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
        Notice::Reloaded(_) => eprintln!("{notice}"),
        Notice::NotReloaded(_) => print::error_line(settings.color, &notice),
        _ => print::warning_line(settings.color, &notice),
    });
    daemon.close()?;
    Ok(Outcome::Found)
}
