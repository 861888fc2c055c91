//! `millpond bench`: what it does on this machine, in figures, and the report that others are in, too.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use jiff::Zoned;
use millpond_bench::report::{Head, Report, table};
use millpond_bench::{Options, Part, Row, Size, Step, commit, machine};
use serde_json::json;

use crate::Run;
use crate::args::Settings;
use crate::flags::{BenchFlags, BenchSize, RoleFlags};
use crate::outcome::{Failure, Outcome};
use crate::print::progress::Progress;
use crate::print::{BOLD, DIM, known_columns, stdout};
use crate::signals;

/// What the exit code of what a signal has ended is above its number.
const SIGNALLED: u8 = 128;
/// The bar of a part is so long, however many rounds it has.
const PART_STEPS: u64 = 1000;
/// Who is measured is cut to this beside the bar.
const WORDS_MAX: usize = 36;

pub(crate) fn run(flags: &BenchFlags, settings: &Settings) -> Run {
    if flags.list {
        return list(settings);
    }
    check_places(flags)?;
    let mut report = read(flags)?;
    if !flags.only_report {
        let options = options(flags)?;
        let head = head(flags);
        let signal = watch(&options)?;
        let measured = measure(&options);
        // ORDERING: Relaxed; the thread that watches writes nothing else that is read here.
        let signal = signal.load(Ordering::Relaxed);
        if signal > 0 {
            // What failed then failed because of it.
            return Ok(Outcome::Code(SIGNALLED + signal));
        }
        let rows = measured?;
        if let Some(path) = &flags.save {
            let mut own = Report::default();
            own.add(Some(head.clone()), rows.clone());
            let text = own.text()?;
            fs::write(path, text).map_err(|error| cannot("written", path, &error))?;
        }
        report.add(Some(head), rows);
    }
    if let Some(dir) = &flags.report {
        report.write(dir)?;
    }
    print(flags, &report, settings)?;
    Ok(Outcome::found(!report.rows().iter().any(Row::is_bad)))
}

/// One process of a measurement.
pub(crate) fn role(flags: &RoleFlags) -> Run {
    match millpond_bench::role(&flags.arguments) {
        Some(outcome) => outcome.map(|()| Outcome::Found).map_err(Failure::from),
        None => Err(Failure::new("no role given")),
    }
}

fn list(settings: &Settings) -> Run {
    let mut out = stdout(settings.color);
    if settings.json {
        let part = |part: Part| json!({"part": part.name(), "measures": part.words()});
        let parts: Vec<_> = Part::ALL.into_iter().map(part).collect();
        writeln!(out, "{}", json!({"version": 1, "parts": parts}))?;
    } else {
        for part in Part::ALL {
            writeln!(out, "{BOLD}{:<8}{BOLD:#}  {}", part.name(), part.words())?;
        }
    }
    out.flush()?;
    Ok(Outcome::Found)
}

fn cannot(what: &str, path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("{} cannot be {what}: {why}", path.display()))
}

/// Minutes of measuring shall not end with a directory that is not there.
fn check_places(flags: &BenchFlags) -> Result<(), Failure> {
    let missing = "there is no such directory";
    if let Some(dir) = flags.dir.as_ref().filter(|dir| !dir.is_dir()) {
        return Err(cannot("used for logs", dir, &missing));
    }
    if let Some(path) = &flags.save {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        if path.is_dir() {
            return Err(cannot("written", path, &"it is a directory"));
        }
        if parent.is_some_and(|parent| !parent.is_dir()) {
            return Err(cannot("written", path, &missing));
        }
    }
    if let Some(path) = flags.report.as_ref().filter(|path| path.is_file()) {
        return Err(cannot("made a directory", path, &"it is a file"));
    }
    Ok(())
}

fn read(flags: &BenchFlags) -> Result<Report, Failure> {
    let mut report = Report::default();
    for path in &flags.rows {
        let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
        report.read(&path.display().to_string(), &text)?;
    }
    Ok(report)
}

fn options(flags: &BenchFlags) -> Result<Options, Failure> {
    let mut options = Options::new(match flags.size {
        BenchSize::Tiny => Size::Tiny,
        BenchSize::Full => Size::Full,
    });
    if !flags.parts.is_empty() {
        // In their own order, and each once, however they were named.
        options.parts.retain(|part| flags.parts.contains(part));
    }
    if let Some(rounds) = flags.rounds {
        options.rounds = usize::from(rounds);
    }
    options.growth = flags.growth;
    options.dir.clone_from(&flags.dir);
    options.millpond = Some(std::env::current_exe()?);
    Ok(options)
}

fn head(flags: &BenchFlags) -> Head {
    let words = std::env::args().skip(1).map(quoted);
    let command = std::iter::once("millpond".to_owned()).chain(words);
    Head {
        date: Zoned::now().strftime("%Y-%m-%d %H:%M %:z").to_string(),
        machine: machine(),
        // Of the work tree that this was built in, where that is still there; never of the one we happen to be in.
        commit: commit(Path::new(env!("CARGO_MANIFEST_DIR"))),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: command.collect::<Vec<_>>().join(" "),
        is_tiny: flags.size == BenchSize::Tiny,
    }
}

/// A word as a shell takes it.
fn quoted(word: String) -> String {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@".contains(character);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Has a signal end the measuring in order: what it is in the middle of removes its bus and its files. The number of that
/// signal, 0 while there is none.
fn watch(options: &Options) -> Result<Arc<AtomicU8>, Failure> {
    let signal = Arc::new(AtomicU8::new(0));
    let (told, stop) = (Arc::clone(&signal), Arc::clone(&options.stop));
    signals::watch_stop(move |number| {
        // ORDERING: Relaxed; each is looked at for itself.
        told.store(number, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
    })?;
    Ok(signal)
}

fn measure(options: &Options) -> Result<Vec<Row>, Failure> {
    let parts = options.parts.len() as u64;
    let progress = Progress::of_steps(parts * PART_STEPS);
    progress.say("preparing");
    let mut say = |step: &Step<'_>| {
        let before = options.parts.iter().position(|&part| part == step.part);
        let share = step.index as u64 * PART_STEPS / step.count.max(1) as u64;
        progress.set(before.unwrap_or(0) as u64 * PART_STEPS + share);
        let words: String = format!("{}: {}", step.part.name(), step.row.peer)
            .chars()
            .take(WORDS_MAX)
            .collect();
        progress.say(words);
    };
    let measured = millpond_bench::run(options, &mut say);
    progress.finish();
    Ok(measured?)
}

fn print(flags: &BenchFlags, report: &Report, settings: &Settings) -> Result<(), Failure> {
    let mut out = stdout(settings.color);
    if settings.json {
        for row in report.rows() {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
    } else {
        write!(
            out,
            "{}",
            table(report.rows(), known_columns().unwrap_or(usize::MAX))
        )?;
        if flags.size == BenchSize::Tiny && !flags.only_report {
            writeln!(out, "\nA tiny run: its figures mean nothing.")?;
        }
        if let Some(dir) = &flags.report {
            let page = dir.join("report.html");
            writeln!(out, "{DIM}report: {}{DIM:#}", page.display())?;
        }
    }
    Ok(out.flush()?)
}
