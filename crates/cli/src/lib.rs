//! The `millpond` command: parse, run, turn the outcome into an exit code. A library only so that what reads files
//! of others can be given hostile bytes without a process for each; nothing of it is for other programs.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod conditions;
mod config;
mod flags;
#[doc(hidden)]
pub mod hostile;
mod log;
mod outcome;
mod print;
mod signals;
mod systemd;
mod units;

use std::process::ExitCode;

use clap::Parser;

use crate::flags::Cli;
use crate::outcome::{Failure, Outcome};

/// The whole command, with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let color = cli.global.color;
    log::start(&cli.global.log_level, color);
    let code = match args::Settings::resolve(&cli)
        .and_then(|settings| commands::run(cli.command, &settings))
    {
        Ok(Outcome::Found) => ExitCode::SUCCESS,
        Ok(Outcome::Nothing) => ExitCode::from(1),
        Ok(Outcome::Code(code)) => ExitCode::from(code),
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // What was said before comes first, and a standard error that is full keeps nobody from ending. A message
            // of several lines, of a mistake in a file, say, stays one.
            for line in failure.to_string().lines().enumerate() {
                match line {
                    (0, line) => log::error(&line),
                    (_, line) => log::notice(&line),
                }
            }
            ExitCode::from(2)
        }
    };
    log::flush();
    code
}

/// The result of a command.
type Run = Result<Outcome, Failure>;
