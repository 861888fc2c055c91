//! `millpond capture --file`: many commands from one process.

mod file;
mod order;
mod restart;
mod running;
mod told;

use std::io::Write;
use std::path::Path;

use millpond_capture::{Mode, Newlines, View};
use serde_json::{Map, Value, json};

use self::file::{Mistake, Service, Services, line_and_column, parse, signal_name};
use self::restart::When;
use self::running::Running;
use crate::Run;
use crate::args::Settings;
use crate::outcome::{Failure, Outcome};
use crate::print::table::Table;
use crate::print::{error_line, stdout};
use crate::units::format_duration;

/// What other programs that run programs say when they could not.
const CANNOT_CAPTURE: u8 = 125;
/// Characters of a cell of the table of `--check`.
const CELL_CHARACTERS: usize = 40;

pub(crate) fn run(path: &Path, is_check: bool, settings: &Settings) -> Run {
    let services = match read(path) {
        Ok(services) => services,
        Err(Refusal::Unreadable(why)) => {
            error_line(settings.color, &why);
            return Ok(Outcome::Code(CANNOT_CAPTURE));
        }
        Err(Refusal::Mistakes(mistakes)) => {
            for mistake in &mistakes {
                error_line(settings.color, &at(path, mistake));
            }
            if is_check && settings.json {
                mistakes_json(path, &mistakes, settings)?;
            }
            return Ok(Outcome::Code(CANNOT_CAPTURE));
        }
    };
    if is_check {
        return check(path, &services, settings);
    }
    let prepared = settings
        .attach()
        .and_then(|bus| Running::new(&bus, &services, settings));
    match prepared {
        Ok(running) => Ok(running.run_all()),
        Err(failure) => {
            error_line(settings.color, &failure);
            Ok(Outcome::Code(CANNOT_CAPTURE))
        }
    }
}

/// Why nothing is started.
enum Refusal {
    Unreadable(Failure),
    Mistakes(Vec<Mistake>),
}

fn read(path: &Path) -> Result<Services, Refusal> {
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("cannot read the services file {}: {error}", path.display());
        Refusal::Unreadable(Failure::new(message))
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let (line, column) = line_and_column(&bytes, error.valid_up_to());
        Refusal::Mistakes(vec![Mistake {
            line,
            column,
            message: "this is not UTF-8, so it is no TOML".to_owned(),
        }])
    })?;
    parse(text, path).map_err(Refusal::Mistakes)
}

/// `services.toml:12:3: what is wrong`, as compilers say it and editors read it.
fn at(path: &Path, mistake: &Mistake) -> String {
    let Mistake {
        line,
        column,
        message,
    } = mistake;
    format!("{}:{line}:{column}: {message}", path.display())
}

fn mistakes_json(path: &Path, mistakes: &[Mistake], settings: &Settings) -> Result<(), Failure> {
    let mistakes: Vec<Value> = (mistakes.iter())
        .map(|mistake| {
            json!({ "line": mistake.line, "column": mistake.column, "message": mistake.message })
        })
        .collect();
    let answer = json!({ "version": 1, "file": path.display().to_string(), "mistakes": mistakes });
    let mut out = stdout(settings.color);
    writeln!(out, "{answer}")?;
    out.flush()?;
    Ok(())
}

/// What would be run, in the order of the starts.
fn check(path: &Path, services: &Services, settings: &Settings) -> Run {
    let mut out = stdout(settings.color);
    let in_order = services
        .order
        .iter()
        .map(|&place| &services.services[place]);
    if settings.json {
        let values: Vec<Value> = in_order.map(|one| service_json(one, services)).collect();
        let file = path.display().to_string();
        let answer = json!({ "version": 1, "file": file, "services": values, "mistakes": [] });
        writeln!(out, "{answer}")?;
    } else {
        let header = [
            "service",
            "after",
            "restart",
            "stop",
            "output",
            "command",
            "directory",
        ];
        let mut table = Table::new(&header);
        for service in in_order {
            table.row(vec![
                service.name().to_owned(),
                or_dash(names_after(service, services).join(",")),
                restart_text(service),
                stop_text(service),
                output_text(service),
                cell(&service.spec.command.to_string()),
                cell(&directory(service)),
            ]);
        }
        table.print(&mut out)?;
    }
    out.flush()?;
    Ok(Outcome::Found)
}

fn service_json(service: &Service, services: &Services) -> Value {
    let (spec, restart) = (&service.spec, &service.restart);
    let lossy = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let words = std::iter::once(&spec.command.program).chain(&spec.command.arguments);
    let command: Vec<String> = words.map(|word| lossy(word)).collect();
    let environment: Map<String, Value> = (spec.command.environment.iter())
        .map(|(name, value)| (lossy(name), lossy(value).into()))
        .collect();
    let (size, newlines) = match spec.mode {
        Mode::Pty { size, newlines } => (
            json!({ "columns": size.columns, "rows": size.rows }),
            json!(newlines_name(newlines)),
        ),
        Mode::Pipe => (Value::Null, Value::Null),
    };
    json!({
        "name": service.name(),
        "command": command,
        "directory": directory(service),
        "environment": environment,
        "after": names_after(service, services),
        "restart": restart.when.name(),
        "restart_delay_ns": nanoseconds(restart.delay),
        "restart_delay_limit_ns": nanoseconds(restart.delay_limit),
        "restart_limit": restart.limit,
        "stop_signal": signal_name(service.stop_signal),
        "stop_timeout_ns": nanoseconds(service.stop_timeout),
        "terminal": matches!(spec.mode, Mode::Pty { .. }),
        "size": size,
        "newlines": newlines,
        "view": match spec.view { View::Terminal => "terminal", View::Exact => "exact" },
        "partial_delay_ns": nanoseconds(spec.partial_delay),
        "level": spec.level.map_or("auto", level_name),
        "linger_ns": nanoseconds(spec.linger),
        "raw_to": spec.raw_to.as_ref().map(|path| path.display().to_string()),
    })
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn newlines_name(newlines: Newlines) -> &'static str {
    match newlines {
        Newlines::Auto => "auto",
        Newlines::Kernel => "kernel",
        Newlines::Own => "own",
    }
}

fn level_name(level: millpond_bus::Level) -> &'static str {
    millpond_logfile::Level::from_u8(level as u8).name()
}

fn names_after<'s>(service: &Service, services: &'s Services) -> Vec<&'s str> {
    let earlier = service.after.iter();
    earlier
        .map(|&place| services.services[place].name())
        .collect()
}

fn restart_text(service: &Service) -> String {
    let restart = &service.restart;
    if restart.when == When::No {
        return restart.when.name().to_owned();
    }
    let limit = restart
        .limit
        .map_or_else(String::new, |limit| format!(", at most {limit}"));
    format!(
        "{} {}..{}{limit}",
        restart.when.name(),
        format_duration(restart.delay),
        format_duration(restart.delay_limit)
    )
}

fn stop_text(service: &Service) -> String {
    let timeout = format_duration(service.stop_timeout);
    format!("{} {timeout}", signal_name(service.stop_signal))
}

fn output_text(service: &Service) -> String {
    match service.spec.mode {
        Mode::Pty { size, .. } => format!("terminal {}x{}", size.columns, size.rows),
        Mode::Pipe => "pipes".to_owned(),
    }
}

fn directory(service: &Service) -> String {
    let directory = service.spec.command.directory.as_ref();
    directory.map_or_else(|| ".".to_owned(), |path| path.display().to_string())
}

fn or_dash(text: String) -> String {
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}

/// Text that a terminal can be shown, and that fits.
fn cell(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == CELL_CHARACTERS {
            shown.push('…');
            break;
        }
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

/// Any bytes in a services file: every mistake is at a place of the file, and where there is none each service has
/// its place in the order, behind those that it waits for.
///
/// # Panics
/// Where that is not so.
pub fn hostile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse(text, Path::new("/hostile/services.toml")) {
        Ok(Services { services, order }) => {
            let mut places = vec![None; services.len()];
            for (place, &service) in order.iter().enumerate() {
                assert_eq!(places[service].replace(place), None, "started twice");
            }
            for (index, service) in services.iter().enumerate() {
                assert!(places[index].is_some(), "never started");
                let after = &service.after;
                assert!(after.iter().all(|&first| places[first] < places[index]));
                assert!(millpond_logfile::check_service_name(service.name()).is_ok());
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            let lines: Vec<&str> = text.split('\n').collect();
            for Mistake {
                line,
                column,
                message,
            } in &mistakes
            {
                let columns = line.checked_sub(1).and_then(|line| lines.get(line));
                let columns = columns.map(|line| line.chars().count() + 1);
                assert!(*column >= 1 && Some(*column) <= columns, "{line}:{column}");
                assert!(!message.is_empty());
            }
        }
    }
}
