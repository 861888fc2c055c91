//! One file per command: a plan from ready settings, then calls into the libraries.

mod attach;
mod bench;
pub(crate) mod capture;
mod cat;
mod config;
mod consumer_watch;
mod daemon;
mod demo;
mod doctor;
mod dump;
mod explain;
mod following;
mod gc;
mod heartbeat;
mod histogram;
pub(crate) mod import;
mod index;
mod logged;
mod pages;
mod pipe;
mod publish;
mod query;
mod replay;
mod rotate;
mod stats;
mod subscribe;
mod tail;
mod telemetry;
pub(crate) mod top;
mod verify;
mod wait;

use crate::Run;
use crate::args::Settings;
use crate::flags::Command;
use crate::flags::{ConfigAction, ConfigFlags};

/// Runs what was asked for.
pub(crate) fn run(command: Command, settings: &Settings) -> Run {
    // Another process may truncate what we have mapped. Where the kernel refuses, we are as any process without it.
    let _ = millpond_bus::guard_truncated_objects();
    match command {
        Command::Daemon(flags) => daemon::run(&flags, settings),
        Command::Capture(flags) => capture::run(&flags, settings),
        Command::Attach(flags) => attach::run(&flags, settings),
        Command::Pipe(flags) => pipe::run(&flags, settings),
        Command::Publish(flags) => publish::run(&flags, settings),
        Command::Query(flags) => query::run(&flags, settings),
        Command::Subscribe(flags) => subscribe::run(&flags, settings),
        Command::Wait(flags) => wait::run(&flags, settings),
        Command::Cat(flags) => cat::run(&flags, settings),
        Command::Tail(flags) => tail::run(&flags, settings),
        Command::Stats(flags) => stats::run(&flags, settings),
        Command::Top(flags) => top::run(&flags, settings),
        Command::Telemetry(flags) => telemetry::run(&flags, settings),
        Command::Explain { name } => explain::run(&name, settings),
        Command::Doctor(flags) => doctor::run(&flags, settings),
        Command::Dump(flags) => dump::run(&flags, settings),
        Command::Gc(flags) => gc::run(&flags, settings),
        Command::Verify(flags) => verify::run(&flags, settings),
        Command::Config(ConfigFlags {
            action: Some(ConfigAction::Reload(flags)),
            ..
        }) => config::reload(&flags, settings),
        Command::Config(_) => config::run(settings),
        Command::Index { action } => index::run(&action, settings),
        Command::Import(flags) => import::run(&flags, settings),
        Command::Rotate => rotate::run(settings),
        Command::Demo(flags) => demo::run(&flags, settings),
        Command::DemoFeed(flags) => demo::feed(&flags, settings),
        Command::Replay(flags) => replay::run(&flags, settings),
        Command::ReplayRole(flags) => replay::role(&flags),
        Command::Bench(flags) => bench::run(&flags, settings),
        Command::BenchRole(flags) => bench::role(&flags),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::man(&dir),
    }
}
