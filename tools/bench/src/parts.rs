//! The parts: what each measures, and the processes that take part.

mod bare;
mod batch;
mod bus;
mod capture;
mod drain;
mod log_stage;
mod place;
mod publish;
mod query;
mod ring;
mod sink;
mod wake;

use millpond_loadgen::{Arguments, Error, Talk, play_role};

use crate::plan::{Case, Options, Part};

pub(crate) fn cases(part: Part, options: &Options) -> Result<Vec<Case>, Error> {
    match part {
        Part::Ring => ring::cases(options),
        Part::Publish => publish::cases(options),
        Part::Drain => drain::cases(options),
        Part::Batch => batch::cases(options),
        Part::Wake => wake::cases(options),
        Part::Sink => sink::cases(options),
        Part::Query => query::cases(options),
        Part::Capture => capture::cases(options),
    }
}

/// Plays a role of a measurement, when `args` begin with the name of one: what a program does first that [`run`]
/// is called from. `None`: there is no argument, it was started for something else.
///
/// A failure has been told on standard output already.
///
/// [`run`]: crate::run
pub fn role(args: &[String]) -> Option<Result<(), Error>> {
    match args.first().map(String::as_str) {
        // Who measures a whole process, and who sits at a terminal: as the scenarios have them.
        Some("measured" | "on-terminal") => millpond_loadgen::role(args),
        _ => play_role(args, &play),
    }
}

fn play(name: &str, arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    match name {
        "bus-daemon" => bus::daemon_role(arguments, talk),
        "bus-publisher" => bus::publisher_role(arguments, talk),
        "bus-subscriber" => batch::subscriber_role(arguments, talk),
        "bus-sleeper" => wake::sleeper_role(arguments, talk),
        "bus-echo" => wake::echo_role(arguments, talk),
        "log-daemon" => log_stage::daemon_role(arguments, talk),
        "sink-publisher" => sink::publisher_role(arguments, talk),
        "sink-floor" => sink::floor_role(arguments, talk),
        "query-floor" => query::floor_role(arguments),
        "capture-writer" => capture::writer_role(arguments),
        "capture-reader" => capture::reader_role(arguments),
        "capture-piped" => capture::piped_role(arguments),
        other => Err(Error::new(format!("there is no role {other:?}"))),
    }
}
