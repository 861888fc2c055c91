//! `week`: what operators ask of seven days of 24 services, while a normal day writes.
//!
//! A log directory is generated from real log lines, closed segments sealed, and the `millpond query` command is
//! timed as a whole process: the last lines of a service, its errors in a minute, counts by level over everything,
//! a needle, a common substring in ten minutes, a regular expression. Each answer is compared with `grep` on the
//! text. SQLite with indexes and ripgrep answer beside it. With several sizes the growth of the times is shown.
//!
//! ```no_run
//! use millpond_loadgen::{all_met, week};
//! let options = week::Options { millpond: Some("/usr/bin/millpond".into()), ..week::Options::ci() };
//! let report = week::run(&options, &mut |what| eprintln!("{what}"))?;
//! println!("{report}");
//! assert!(all_met(&report.criteria));
//! # Ok::<(), millpond_loadgen::Error>(())
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use millpond_bus::RuleTable;
use serde::Serialize;

use crate::clock::real_ns;
use crate::criteria::{Criterion, balance_criterion};
use crate::day::{self, Load, Publishers};
use crate::disk;
use crate::error::{Error, no_such_phase};
use crate::latencies::Latencies;
use crate::measured::{Measured, measure};
use crate::plot::{Plot, Series};
use crate::process::Host;
use crate::stage::{Keeping, Stage, temporary};
use crate::text;

mod generate;
mod journal;
mod questions;
mod sqlite;
mod truth;

pub(crate) use self::sqlite::sqlite_ask_role;

use self::generate::{ASKED_SERVICE, NEEDLES, REGEX_SERVICE, Week, generate};
use self::questions::{Answer, Question};

/// No question needs more, whatever the size.
const MEMORY_LIMIT_BYTES: u64 = 64 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A day of 24 services, as SCENARIOS counts it.
const DAY_BYTES: u64 = 2_300_000_000;
/// Lines of each service of the day that goes on meanwhile, in a second; and so many that it never ends by itself.
const LIVE_PER_SECOND: u64 = 5;
const LIVE_LINES: u64 = 1 << 32;
/// A table with its indexes takes about so many times its text.
const SQLITE_FACTOR: u64 = 2;
/// A journal takes about so many times its text.
const JOURNAL_FACTOR: u64 = 3;
/// Sealed text takes less than this share of the disk that it took.
const SEALED_SHARE: u64 = 3;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How processes are started; `None`: this program, see [`Host::current`].
    pub host: Option<Host>,
    /// The `millpond` program that is asked; `None`: this program.
    pub millpond: Option<PathBuf>,
    /// Bytes of text, one run for each.
    pub sizes: Vec<u64>,
    /// Services, at least 6.
    pub services: usize,
    /// Time from the first line to the last.
    pub span: Duration,
    /// A segment is closed at this size, or smaller ones where a service would have fewer than [`Options::segments_min`].
    pub segment_bytes: u64,
    /// Segments that a service has at least; all but its last are sealed. 1: a small week is all open.
    pub segments_min: u64,
    /// zstd level of sealed segments.
    pub level: i32,
    /// Where the log lines are taken from; `None`: they are made of words.
    pub corpus: Option<PathBuf>,
    /// Makes the same week again.
    pub seed: u64,
    /// Times each question is asked once the files are in memory; the median is told.
    pub runs: usize,
    /// Whether each is also asked with the files out of memory.
    pub cold: bool,
    /// Services whose answers are compared with `grep`: all, or two.
    pub check_all: bool,
    /// Up to so much text SQLite is asked too.
    pub sqlite_bytes_limit: u64,
    /// Up to so much text the systemd journal is asked too.
    pub journal_bytes_limit: u64,
    /// Where logs are made, and `week.md` and `week.svg` are left; `None`: where the system has such, and they
    /// are not.
    pub dir: Option<PathBuf>,
}

impl Options {
    /// 3 and 9 MB, about five seconds.
    pub fn ci() -> Self {
        Options {
            host: None,
            millpond: None,
            sizes: vec![3_000_000, 9_000_000],
            services: 24,
            span: 7 * DAY,
            segment_bytes: 128 << 10,
            // Most of a small week has to be sealed too, as it is of a large one.
            segments_min: 8,
            level: 1,
            corpus: None,
            seed: 1,
            runs: 2,
            cold: false,
            check_all: true,
            sqlite_bytes_limit: 4_000_000,
            journal_bytes_limit: 4_000_000,
            dir: None,
        }
    }

    /// Seven days of 2.3 GB: some minutes, 7 GB of disk.
    pub fn full() -> Self {
        Options {
            sizes: vec![7 * DAY_BYTES],
            segment_bytes: 64 << 20,
            level: 3,
            runs: 5,
            cold: true,
            check_all: false,
            sqlite_bytes_limit: 4_100_000_000,
            journal_bytes_limit: 1_100_000_000,
            ..Self::ci()
        }
    }

    /// There are no phases.
    ///
    /// # Errors
    /// Always.
    pub fn only(self, phase: &str) -> Result<Self, Error> {
        Err(no_such_phase("week", phase, "none"))
    }

    fn segment_bytes_at(&self, text_bytes: u64) -> u64 {
        self.segment_bytes
            .min(text_bytes / self.services as u64 / self.segments_min)
    }

    fn needed_bytes(&self, text_bytes: u64) -> u64 {
        let open = self.segment_bytes_at(text_bytes) * self.services as u64;
        let table = match text_bytes <= self.sqlite_bytes_limit {
            true => text_bytes * SQLITE_FACTOR,
            false => 0,
        };
        let journal = match text_bytes <= self.journal_bytes_limit && journal::missing().is_none() {
            true => text_bytes * JOURNAL_FACTOR,
            false => 0,
        };
        text_bytes / SEALED_SHARE + open + table + journal
    }
}

/// How long a program took for a question.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// `millpond`, `SQLite`, `ripgrep` or `journalctl`.
    pub program: String,
    /// Files out of memory before; `None`: not measured.
    pub cold_ns: Option<u64>,
    /// Median with the files in memory.
    pub warm_ns: u64,
    /// The most memory that a process had. Its starter's counts until it is loaded, so it is never told below 8 MB.
    pub memory_bytes: u64,
    /// Lines of the answer.
    pub lines: u64,
    /// Why it was not asked.
    pub skipped: Option<String>,
}

/// One question, and who answered it.
#[derive(Debug, Clone, Serialize)]
pub struct Answered {
    /// The question.
    pub question: String,
    /// First `millpond`, then the others.
    pub asked: Vec<Asked>,
}

/// One size.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sized {
    /// Bytes of text.
    pub text_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Lines.
    pub lines: u64,
    /// Segments.
    pub segments: u64,
    /// How long it took to write.
    pub generated_ns: u64,
    /// Lines that the day wrote meanwhile.
    pub live_lines: u64,
    /// How files were put out of memory; `None`: they were not.
    pub cold: Option<String>,
    /// The questions.
    pub answered: Vec<Answered>,
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Makes the same week again.
    pub seed: u64,
    /// Where the lines are from.
    pub corpus: String,
    /// One for each size.
    pub sizes: Vec<Sized>,
    /// The plot, where one was wanted.
    pub plot: Option<PathBuf>,
    /// The counts that must be right.
    pub criteria: Vec<Criterion>,
}

/// Plays it.
///
/// # Errors
/// What kept it from being played to its end, a disk that is too small among it; criteria that are not met are
/// none.
pub fn run(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Report, Error> {
    let host = Host::or_current(options.host.as_ref())?;
    let millpond = match &options.millpond {
        Some(program) => program.clone(),
        None => std::env::current_exe()?,
    };
    if options.services <= NEEDLES.max(REGEX_SERVICE).max(ASKED_SERVICE) {
        return Err(Error::new(format!(
            "week needs 6 services at least, not {}",
            options.services
        )));
    }
    let mut report = Report {
        seed: options.seed,
        ..Report::default()
    };
    for &text_bytes in &options.sizes {
        let mut play = Play {
            host: &host,
            millpond: &millpond,
            options,
            progress,
            criteria: Vec::new(),
        };
        let (sized, corpus) = play.run(text_bytes)?;
        report.corpus = corpus;
        report.criteria.append(&mut play.criteria);
        report.sizes.push(sized);
    }
    if let Some(dir) = &options.dir {
        let plot = dir.join("week.svg");
        fs::write(&plot, draw(&report))?;
        report.plot = Some(plot);
        fs::write(dir.join("week.md"), report.to_string())?;
    }
    Ok(report)
}

/// What operators ask, in the order of [`write_logs`].
///
/// ```
/// use millpond_loadgen::week::QUESTIONS;
/// assert!(QUESTIONS.contains(&"counts by level"));
/// ```
pub const QUESTIONS: [&str; 6] = questions::NAMES;

/// A question about the lines that [`write_logs`] has written.
///
/// See there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuestion {
    /// What is asked, in words.
    pub name: &'static str,
    /// What `millpond` is given to answer it.
    pub arguments: Vec<String>,
    /// Services whose lines are asked of, all or one.
    pub service_dirs: Vec<PathBuf>,
    /// Lines of the answer, where that is known beforehand.
    pub lines: Option<u64>,
}

/// Writes a week of `text_bytes` of text to `logs_dir`, which is there and empty, with its last line before `end_ns`
/// (real time in ns); returns what operators ask of it. Takes all processors: 1 GB is a matter of seconds.
///
/// The same options, size and time make the same lines, however they are cut into segments.
///
/// ```
/// use millpond_loadgen::week::{Options, write_logs};
/// let place = tempfile::tempdir()?;
/// let options = Options { services: 6, segments_min: 1, ..Options::ci() };
/// let asked = write_logs(place.path(), &options, 200_000, 1_795_224_593_000_000_000)?;
/// let needle = asked.iter().find(|question| question.name.contains("needle"));
/// assert_eq!(needle.and_then(|question| question.lines), Some(5));
/// # Ok::<(), millpond_loadgen::Error>(())
/// ```
///
/// # Errors
/// Where there is no room, or so little text that not every question has an answer.
pub fn write_logs(
    logs_dir: &Path,
    options: &Options,
    text_bytes: u64,
    end_ns: u64,
) -> Result<Vec<LogQuestion>, Error> {
    let week = generate(logs_dir, options, text_bytes, end_ns, &mut |_| {})?;
    let service_dirs = |answer| match answer {
        Answer::LinesOf(number) => vec![logs_dir.join(&week.services[number])],
        Answer::Lines | Answer::Levels => {
            let services = week.services.iter();
            services.map(|service| logs_dir.join(service)).collect()
        }
    };
    let asked = questions::all(&week).into_iter();
    Ok(asked
        .map(|question| LogQuestion {
            name: question.name,
            arguments: question.arguments_for(logs_dir),
            service_dirs: service_dirs(question.answer),
            lines: question.lines(),
        })
        .collect())
}

struct Play<'a> {
    host: &'a Host,
    millpond: &'a Path,
    options: &'a Options,
    progress: &'a mut dyn FnMut(&str),
    criteria: Vec<Criterion>,
}

/// A normal day that goes on in the same directory.
struct Live {
    stage: Stage,
    publishers: Publishers,
}

impl Play<'_> {
    fn run(&mut self, text_bytes: u64) -> Result<(Sized, String), Error> {
        let options = self.options;
        let place = temporary(options.dir.as_deref())?;
        let logs_dir = place.path().join("logs");
        fs::create_dir(&logs_dir)?;
        let needed = options.needed_bytes(text_bytes);
        let left = disk::check_room(place.path(), needed)?;
        (self.progress)(&format!(
            "week: {} of text; disk: about {} needed, {} left; seed {}",
            text::bytes(text_bytes),
            text::bytes(needed),
            text::bytes(left),
            options.seed
        ));
        let started = std::time::Instant::now();
        let week = generate(&logs_dir, options, text_bytes, real_ns(), self.progress)?;
        let mut sized = Sized {
            text_bytes: week.text_bytes,
            disk_bytes: disk::used_bytes(&logs_dir)?,
            lines: week.lines,
            segments: week.segments,
            generated_ns: started.elapsed().as_nanos() as u64,
            ..Sized::default()
        };
        let live = self.live(&logs_dir)?;
        let questions = questions::all(&week);
        for question in &questions {
            let asked = self.millpond(question, place.path(), &logs_dir, &week, &mut sized.cold)?;
            sized.answered.push(Answered {
                question: question.name.to_owned(),
                asked: vec![asked],
            });
        }
        sized.live_lines = self.end_live(live, &logs_dir)?;
        self.others(&questions, place.path(), &logs_dir, &week, &mut sized)?;
        Ok((sized, week.corpus))
    }

    fn live(&mut self, logs_dir: &Path) -> Result<Live, Error> {
        let keeping = Keeping {
            total_bytes: Some(0),
            ..Keeping::default()
        };
        let rules = RuleTable::defaults();
        let stage = Stage::keeping(self.host, "week", rules, &keeping, logs_dir)?;
        let load = Load {
            prefix: "live",
            services: 24,
            lines: LIVE_LINES,
            per_second: LIVE_PER_SECOND,
            processes: 1,
        };
        let mut publishers = load.start(self.host, stage.name())?;
        publishers.go()?;
        Ok(Live { stage, publishers })
    }

    fn end_live(&mut self, live: Live, logs_dir: &Path) -> Result<u64, Error> {
        let Live {
            stage,
            mut publishers,
        } = live;
        publishers.stop()?;
        let (said, _) = publishers.end()?;
        let stats = stage.settle()?;
        stage.close()?;
        let (complete, wrong) = day::complete_in_files(logs_dir, &said)?;
        let wrong = wrong.map_or(String::new(), |wrong| format!("; {wrong}"));
        self.criteria
            .push(balance_criterion(&day::accounts(&stats, &said)));
        self.criteria.push(Criterion::new(
            format!(
                "{complete} of {} services that wrote meanwhile are complete{wrong}",
                said.len()
            ),
            complete == said.len() as u64,
        ));
        Ok(said.iter().map(|said| said.published).sum())
    }

    /// Asks millpond, and compares the answer with the text.
    fn millpond(
        &mut self,
        question: &Question,
        place: &Path,
        logs_dir: &Path,
        week: &Week,
        how_cold: &mut Option<String>,
    ) -> Result<Asked, Error> {
        let name = question.name;
        (self.progress)(&format!("week: millpond: {name}"));
        let command = question.millpond(self.millpond, logs_dir);
        let answer = place.join("answer");
        let (mut asked, exit_code) =
            self.ask("millpond", &command, &answer, logs_dir, Some(how_cold))?;
        (self.progress)(&format!("week: grep: {name}"));
        let checked: Vec<usize> = match self.options.check_all {
            true => (0..week.services.len()).collect(),
            false => vec![ASKED_SERVICE, REGEX_SERVICE],
        };
        let has_zstdcat = truth::runs("zstdcat");
        let verdict = truth::judge(question, &answer, logs_dir, week, &checked, has_zstdcat)?;
        asked.lines = verdict.lines;
        let size = text::bytes(week.text_bytes);
        let wrong = verdict.wrong.join("; ");
        let separator = if wrong.is_empty() { "" } else { ": " };
        self.criteria.push(Criterion::new(
            format!(
                "{size}, {name}: {} lines, as the text has them{separator}{wrong}",
                verdict.lines
            ),
            // No question is asked that has no answer: equal to nothing would show nothing.
            wrong.is_empty() && exit_code == 0 && verdict.lines > 0,
        ));
        if question.answer == Answer::Lines && question.name.contains("needle") {
            let expected = NEEDLES as u64;
            self.criteria.push(Criterion::new(
                format!("{size}: {} of {expected} needles found", verdict.lines),
                verdict.lines == expected,
            ));
        }
        self.criteria.push(Criterion::new(
            format!(
                "{size}, {name}: {} of memory at most, less than 64 MiB",
                text::bytes(asked.memory_bytes)
            ),
            asked.memory_bytes < MEMORY_LIMIT_BYTES,
        ));
        Ok(asked)
    }

    /// Times a program, cold first where that is wanted, then warm.
    fn ask(
        &self,
        program: &str,
        command: &Command,
        answer: &Path,
        files: &Path,
        how_cold: Option<&mut Option<String>>,
    ) -> Result<(Asked, i32), Error> {
        let mut all: Vec<Measured> = Vec::new();
        let mut cold_ns = None;
        if self.options.cold {
            let how = disk::forget(files)?;
            if let Some(told) = how_cold {
                *told = Some(how.to_owned());
            }
            let measured = measure(self.host, command, answer)?;
            cold_ns = Some(measured.elapsed_ns);
            all.push(measured);
        }
        let mut warm = Latencies::default();
        for _ in 0..self.options.runs.max(1) {
            let measured = measure(self.host, command, answer)?;
            warm.record(measured.elapsed_ns);
            all.push(measured);
        }
        let exit_code = all
            .iter()
            .map(|measured| measured.exit_code)
            .find(|&code| code != 0);
        let asked = Asked {
            program: program.to_owned(),
            cold_ns,
            warm_ns: warm.summary().p50_ns,
            memory_bytes: all
                .iter()
                .map(|measured| measured.memory_bytes)
                .max()
                .unwrap_or(0),
            lines: 0,
            skipped: None,
        };
        Ok((asked, exit_code.unwrap_or(0)))
    }

    /// What others say to the same questions, about the same lines.
    fn others(
        &mut self,
        questions: &[Question],
        place: &Path,
        logs_dir: &Path,
        week: &Week,
        sized: &mut Sized,
    ) -> Result<(), Error> {
        let database = place.join("logs.sqlite");
        let limit = self.options.sqlite_bytes_limit;
        let has_table = week.text_bytes <= limit;
        if has_table {
            sqlite::load(&database, logs_dir, week, self.progress)?;
        }
        let journal_file = place.join("week.journal");
        let limit = self.options.journal_bytes_limit;
        let no_journal = journal::missing().or_else(|| {
            (week.text_bytes > limit).then(|| format!("not asked above {}", text::bytes(limit)))
        });
        if no_journal.is_none() {
            journal::load(&journal_file, logs_dir, week, self.progress)?;
        }
        let limit = self.options.sqlite_bytes_limit;
        let has_ripgrep = truth::runs("rg");
        let answer = place.join("answer");
        for (question, answered) in questions.iter().zip(&mut sized.answered) {
            let name = question.name;
            let skipped = |program: &str, why: String| Asked {
                program: program.to_owned(),
                cold_ns: None,
                warm_ns: 0,
                memory_bytes: 0,
                lines: 0,
                skipped: Some(why),
            };
            answered.asked.push(match has_table {
                true => {
                    (self.progress)(&format!("week: SQLite: {name}"));
                    let mut command = self.host.command("sqlite-ask");
                    command.arg(format!("path={}", database.display()));
                    command.arg(format!("sql={}", question.sql));
                    self.other("SQLite", &command, &answer, place)?
                }
                false => skipped("SQLite", format!("not asked above {}", text::bytes(limit))),
            });
            answered.asked.push(match question.ripgrep(logs_dir, week) {
                Err(why) => skipped("ripgrep", why.to_owned()),
                Ok(_) if !has_ripgrep => skipped("ripgrep", "rg is not installed".to_owned()),
                Ok(command) => {
                    (self.progress)(&format!("week: ripgrep: {name}"));
                    self.other("ripgrep", &command, &answer, logs_dir)?
                }
            });
            answered
                .asked
                .push(match (question.journal(&journal_file), &no_journal) {
                    (_, Some(why)) => skipped("journalctl", why.clone()),
                    (Err(why), None) => skipped("journalctl", why.to_owned()),
                    (Ok(command), None) => {
                        (self.progress)(&format!("week: journalctl: {name}"));
                        self.other("journalctl", &command, &answer, &journal_file)?
                    }
                });
        }
        Ok(())
    }

    fn other(
        &self,
        program: &str,
        command: &Command,
        answer: &Path,
        files: &Path,
    ) -> Result<Asked, Error> {
        let (mut asked, exit_code) = self.ask(program, command, answer, files, None)?;
        asked.lines = fs::read(answer)?
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count() as u64;
        if exit_code != 0 {
            asked.skipped = Some(format!("ended with {exit_code}"));
        }
        Ok(asked)
    }
}

/// The growth of each question's time with the size.
fn draw(report: &Report) -> String {
    let names = report
        .sizes
        .first()
        .map_or(&[][..], |sized| &sized.answered);
    let series: Vec<Series> = names
        .iter()
        .enumerate()
        .map(|(index, answered)| Series {
            name: answered.question.clone(),
            points: report
                .sizes
                .iter()
                .filter_map(|sized| {
                    let asked = sized.answered.get(index)?.asked.first()?;
                    Some((sized.text_bytes as f64, asked.warm_ns as f64))
                })
                .collect(),
        })
        .collect();
    let plot = Plot {
        title: "millpond query, whole process, files in memory",
        x_name: "text in the log",
        y_name: "time",
        series: &series,
    };
    plot.svg(&|bytes| text::bytes(bytes as u64), &|ns| {
        text::duration(ns as u64)
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "week: lines from {}, seed {}\n", self.corpus, self.seed)?;
        // A row for each size: what millpond took, cold / warm.
        let names = self.sizes.first().map_or(&[][..], |sized| &sized.answered);
        let names: Vec<&str> = names
            .iter()
            .map(|answered| answered.question.as_str())
            .collect();
        writeln!(
            f,
            "| text | disk | lines | {} | peak memory |",
            names.join(" | ")
        )?;
        writeln!(f, "|{}", "---:|".repeat(names.len() + 4))?;
        for sized in &self.sizes {
            let ours = || {
                sized
                    .answered
                    .iter()
                    .filter_map(|answered| answered.asked.first())
            };
            let times: Vec<String> = ours().map(times).collect();
            let memory = ours().map(|asked| asked.memory_bytes).max().unwrap_or(0);
            writeln!(
                f,
                "| {} | {} | {} | {} | {} |",
                text::bytes(sized.text_bytes),
                text::bytes(sized.disk_bytes),
                sized.lines,
                times.join(" | "),
                text::bytes(memory)
            )?;
        }
        for sized in &self.sizes {
            let written = sized.text_bytes as f64 * 1e3 / sized.generated_ns.max(1) as f64;
            writeln!(
                f,
                "\n{} in {} segments, written at {written:.0} MB/s; {} lines written by the day meanwhile; cold: {}\n",
                text::bytes(sized.text_bytes),
                sized.segments,
                sized.live_lines,
                sized.cold.as_deref().unwrap_or("not measured")
            )?;
            writeln!(
                f,
                "| question | program | cold / warm | peak memory | lines |\n|---|---|---:|---:|---:|"
            )?;
            for answered in &sized.answered {
                for asked in &answered.asked {
                    let (question, program) = (&answered.question, &asked.program);
                    match &asked.skipped {
                        Some(why) => {
                            writeln!(f, "| {question} | {program} | skipped: {why} | | |")?
                        }
                        None => writeln!(
                            f,
                            "| {question} | {program} | {} | {} | {} |",
                            times(asked),
                            text::bytes(asked.memory_bytes),
                            asked.lines
                        )?,
                    }
                }
            }
        }
        if let Some(plot) = &self.plot {
            writeln!(f, "\nplot: {}", plot.display())?;
        }
        writeln!(f)?;
        text::criteria(f, &self.criteria)
    }
}

fn times(asked: &Asked) -> String {
    let cold = asked.cold_ns.map_or("-".to_owned(), text::duration);
    format!("{cold} / {}", text::duration(asked.warm_ns))
}
