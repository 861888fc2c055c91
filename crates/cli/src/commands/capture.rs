//! `millpond capture`: a command as ever, with everything it writes in the log.

pub(crate) mod services;

use std::io::{IsTerminal, stderr, stdout};

use millpond_capture::{Capture, CommandSpec, Controller, Error, ErrorKind, Front, Mode, Spec};
use millpond_logfile::check_service_name;

use crate::Run;
use crate::args::Settings;
use crate::commands::pipe::parse_level;
use crate::flags::CaptureFlags;
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::signals;

/// As `env`, `timeout` and `nohup` say that it is they who failed, not the command.
const OWN_FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

pub(crate) fn run(flags: &CaptureFlags, settings: &Settings) -> Run {
    if let Some(file) = &flags.file {
        return services::run(file, flags.check, settings);
    }
    match capture(flags, settings) {
        Ok(outcome) => Ok(outcome),
        Err(failure) => {
            print::error_line(settings.color, &failure.message);
            Ok(Outcome::Code(failure.code))
        }
    }
}

/// Why nothing was captured, and what a script is told.
struct Refused {
    code: u8,
    message: Failure,
}

impl From<Failure> for Refused {
    fn from(message: Failure) -> Self {
        Refused {
            code: OWN_FAILURE,
            message,
        }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::CommandNotFound => NOT_FOUND,
            ErrorKind::CommandNotExecutable => NOT_EXECUTABLE,
            _ => OWN_FAILURE,
        };
        Refused {
            code,
            message: error.into(),
        }
    }
}

fn capture(flags: &CaptureFlags, settings: &Settings) -> Result<Outcome, Refused> {
    let spec = spec(flags)?;
    let mut capture = Capture::open(&settings.attach()?, spec)?;
    let controller = Controller::new()?;
    // With pipes, a command that reads our terminal stays in our process group.
    let shares_terminal = flags.pipe && std::io::stdin().is_terminal();
    signals::watch_for_command(&controller, shares_terminal)?;
    let ending = capture.run(Front::Standard, &controller)?;
    let lines = ending.lines;
    let mut warnings = ending.warnings;
    if lines.dropped() > 0 {
        let message = format!(
            "{} of {} lines were dropped, the log lacks them (lane full {}, deadline passed {}, too long {}): raise \
             `lane-bytes` of the rule for log:*, or see `millpond stats` for why the daemon is slow",
            lines.dropped(),
            lines.published,
            lines.dropped_full,
            lines.dropped_deadline,
            lines.dropped_too_long
        );
        warnings.push(message);
    }
    if !warnings.is_empty() && !ending.is_at_line_start && is_one_terminal() {
        // Not behind the command's last words.
        eprintln!();
    }
    for warning in &warnings {
        print::warning_line(settings.color, warning);
    }
    Ok(Outcome::Code(ending.exit.code()))
}

/// Whether output and errors are the same terminal.
fn is_one_terminal() -> bool {
    let device = |status: rustix::fs::Stat| status.st_rdev;
    let (out, err) = (rustix::fs::fstat(stdout()), rustix::fs::fstat(stderr()));
    stdout().is_terminal() && stderr().is_terminal() && out.map(device) == err.map(device)
}

/// What the flags ask for, checked before anything is started.
fn spec(flags: &CaptureFlags) -> Result<Spec, Failure> {
    let service = flags.service.as_deref().unwrap_or_default();
    check_service_name(service)?;
    let level = match flags.level.as_str() {
        "auto" => None,
        name => Some(parse_level(name)?),
    };
    let Some((program, arguments)) = flags.command.split_first() else {
        return Err(Failure::new(
            "there is no command: write it behind `--`, such as `millpond capture --service web -- npm run dev`",
        ));
    };
    let mode = match flags.pipe {
        true => Mode::Pipe,
        false => Mode::Pty {
            size: flags.size,
            newlines: flags.newlines.into(),
        },
    };
    Ok(Spec {
        service: service.to_owned(),
        command: CommandSpec {
            program: program.clone(),
            arguments: arguments.to_vec(),
            ..CommandSpec::default()
        },
        mode,
        view: flags.view.into(),
        partial_delay: flags.partial_delay,
        level,
        raw_to: flags.raw_to.clone(),
        linger: flags.linger,
    })
}
