//! `cargo xtask report`: everything that is compared, on this machine, into one report.
//!
//! A step is a program that leaves a file of rows, or a page. It is written under another name and renamed when the
//! program has ended, so that a step whose file is there was run to its end, and is not run again.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::{root, target};

/// At most 80 columns.
const HELP: &str = "\
usage: cargo xtask report [--size tiny|full] [--rounds N] [--out DIR]
                          [--skip STEP,..] [--again]

Measures millpond and what others use on this machine, and writes one report:
DIR/README.md, DIR/report.html, plots, and all rows in DIR/rows.jsonl. Needs a
Rust toolchain and a C compiler; says what else to install for all peers. What
is missing is skipped, with the reason in the report; a step that fails is told
there and stops nothing.

  --size S      full: as it is quoted; tiny: unoptimised and small, a proof that
                it runs, whose figures mean nothing [default: full]
  --rounds N    of each measurement [default: 5; of questions 11; tiny: 1]
  --out DIR     where [default: target/report]
  --skip A,B    steps to leave out; what they left earlier is in the report
  --again       runs steps again that have left their file in DIR

steps, and about how many minutes a full one takes on 2 cores:
";

/// Debian's names of what the peers and the tools are in.
const PACKAGES: &[&str] = &[
    "g++",
    "gcc",
    "pkg-config",
    "util-linux",
    "bsdutils",
    "libzmq5",
    "nats-server",
    "lttng-tools",
    "liblttng-ust-dev",
    "babeltrace2",
    "s6",
    "daemontools",
    "libspdlog-dev",
    "systemd",
    "rsyslog",
    "ripgrep",
    "zstd",
    "sqlite3",
    "tmux",
    "valgrind",
    "python3-venv",
];
const SCENARIOS: &[&str] = &[
    "tower-start",
    "last-value",
    "debate",
    "selective-wake",
    "normal-day",
    "runaway",
    "gpus",
    "ptys",
];
/// A directory of logs and the stores made of them, a line: less is not begun with.
const QUERY_LINE_BYTES: u64 = 900;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Bench,
    PeersBus,
    PeersLog,
    QueryMillion,
    QueryTenMillion,
    Capture,
    LogSink,
    Scenarios,
    Instructions,
}

impl Step {
    const ALL: [Step; 9] = [
        Step::Bench,
        Step::PeersBus,
        Step::PeersLog,
        Step::QueryMillion,
        Step::QueryTenMillion,
        Step::Capture,
        Step::LogSink,
        Step::Scenarios,
        Step::Instructions,
    ];

    fn name(self) -> &'static str {
        match self {
            Step::Bench => "bench",
            Step::PeersBus => "peers-bus",
            Step::PeersLog => "peers-log",
            Step::QueryMillion => "query-1m",
            Step::QueryTenMillion => "query-10m",
            Step::Capture => "capture",
            Step::LogSink => "log-sink",
            Step::Scenarios => "scenarios",
            Step::Instructions => "instructions",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Step::Bench => "millpond itself, floors, and how its cost grows",
            Step::PeersBus => "the bus beside iceoryx2, ZeroMQ, NATS, LTTng, pipes ..",
            Step::PeersLog => "the log beside SQLite, spdlog, journald, rsyslog ..",
            Step::QueryMillion => "questions to a million lines, beside ripgrep, SQLite, DuckDB",
            Step::QueryTenMillion => "the same to ten million",
            Step::Capture => "terminals and pipes beside script, tmux, s6-log",
            Step::LogSink => "the log table that millpond replaced",
            Step::Scenarios => "loads of real systems, beside what they had",
            Step::Instructions => "instructions of the hot paths, beside the baseline",
        }
    }

    /// For whoever wants to know whether to wait; each step tells what it took.
    fn minutes(self) -> u64 {
        match self {
            Step::Bench => 5,
            Step::PeersBus => 18,
            Step::PeersLog => 4,
            Step::QueryMillion => 2,
            Step::QueryTenMillion => 14,
            Step::Capture => 4,
            Step::LogSink => 12,
            Step::Scenarios => 17,
            Step::Instructions => 2,
        }
    }

    /// What it leaves: rows, or a page. What it prints is kept beside its words in [`Report::said`].
    fn left(self, out: &Path) -> PathBuf {
        match self {
            Step::LogSink | Step::Scenarios | Step::Instructions => {
                out.join(format!("{}.md", self.name()))
            }
            _ => self.rows(out),
        }
    }

    fn rows(self, out: &Path) -> PathBuf {
        out.join("rows").join(format!("{}.jsonl", self.name()))
    }
}

pub(crate) fn help() -> String {
    let mut text = HELP.to_owned();
    for step in Step::ALL {
        let minutes = step.minutes();
        // Memory takes what it is given.
        let _ = writeln!(text, "  {:12} {minutes:3}  {}", step.name(), step.words());
    }
    text
}

/// Runs the steps and writes the report; no success where one failed.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let report = match Report::parse(arguments) {
        Ok(report) => report,
        Err(why) => {
            eprint!("report: {why}\n\n{}", help());
            return ExitCode::from(2);
        }
    };
    match report.make() {
        Ok(is_whole) => crate::code(is_whole),
        Err(why) => {
            eprintln!("== report: {why}");
            ExitCode::FAILURE
        }
    }
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

struct Report {
    is_tiny: bool,
    rounds: Option<u32>,
    out: PathBuf,
    skip: Vec<Step>,
    again: bool,
}

impl Report {
    fn parse(arguments: &[String]) -> Fallible<Self> {
        let mut report = Report {
            is_tiny: false,
            rounds: None,
            out: target().join("report"),
            skip: Vec::new(),
            again: false,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word == "--again" {
                report.again = true;
                continue;
            }
            let known = ["--size", "--rounds", "--out", "--skip"];
            if !known.contains(&word.as_str()) {
                return Err(format!("{word}: there is no such flag").into());
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{word} lacks its value"))?;
            match word.as_str() {
                "--size" => {
                    report.is_tiny = match value.as_str() {
                        "tiny" => true,
                        "full" => false,
                        other => return Err(format!("--size {other}: tiny or full").into()),
                    }
                }
                "--rounds" => {
                    let rounds = value.parse().ok().filter(|&rounds: &u32| rounds > 0);
                    let rounds =
                        rounds.ok_or_else(|| format!("--rounds {value}: a number from 1"))?;
                    report.rounds = Some(rounds);
                }
                "--out" => report.out = std::path::absolute(value)?,
                _ => {
                    for name in value.split(',') {
                        let step = Step::ALL.into_iter().find(|step| step.name() == name);
                        let step =
                            step.ok_or_else(|| format!("--skip {name}: there is no such step"))?;
                        report.skip.push(step);
                    }
                }
            }
        }
        Ok(report)
    }

    fn make(&self) -> Fallible<bool> {
        for dir in ["rows", "steps"] {
            fs::create_dir_all(self.out.join(dir))?;
        }
        say_what_is_missing();
        let steps: Vec<Step> = Step::ALL
            .into_iter()
            .filter(|step| !self.skip.contains(step))
            .filter(|step| self.again || !step.left(&self.out).exists())
            .filter(|step| !(self.is_tiny && *step == Step::QueryTenMillion))
            .collect();
        let minutes: u64 = steps.iter().map(|step| step.minutes()).sum();
        let names: Vec<_> = steps.iter().map(|step| step.name()).collect();
        match self.is_tiny {
            true => eprintln!("== report: {}", names.join(", ")),
            false => eprintln!(
                "== report: {}: about {minutes} minutes, and those of the build",
                names.join(", ")
            ),
        }
        self.build()?;
        let mut is_whole = true;
        for step in steps {
            eprintln!("== report: {}: {}", step.name(), step.words());
            let started = Instant::now();
            let outcome = self.run(step);
            let took = in_words(started.elapsed());
            let told = match &outcome {
                Ok(()) => format!("ran in {took}"),
                Err(why) => format!("FAILED after {took}: {why}"),
            };
            eprintln!("== report: {}: {told}", step.name());
            fs::write(self.said(step, "outcome"), told)?;
            is_whole &= outcome.is_ok();
        }
        fs::write(self.out.join("steps.md"), self.steps_page())?;
        // Where millpond itself failed in a round, it is written all the same.
        if let Err(why) = self.write() {
            eprintln!("== report: FAILED: {why}");
            is_whole = false;
        }
        eprintln!("== report: {}", self.out.join("README.md").display());
        Ok(is_whole)
    }

    /// Rows of all steps, also of those that were run earlier, into pages.
    fn write(&self) -> Fallible<()> {
        let mut command = Command::new(self.program());
        command.args(["bench", "--only-report", "--report"]);
        command.arg(&self.out).arg("--rows");
        let rows = Step::ALL.map(|step| step.rows(&self.out));
        let rows: Vec<_> = rows.iter().filter(|path| path.exists()).collect();
        if rows.is_empty() {
            return Err("no step has left rows".into());
        }
        let said = self.out.join("steps/report.txt");
        must(perform(command.args(rows), &said)?)
    }

    fn profile(&self) -> &'static str {
        if self.is_tiny { "dev" } else { "release" }
    }

    /// Where cargo puts what it builds.
    fn built(&self) -> PathBuf {
        target().join(if self.is_tiny { "debug" } else { "release" })
    }

    fn program(&self) -> PathBuf {
        self.built().join("millpond")
    }

    fn peers(&self) -> PathBuf {
        target().join("peers")
    }

    fn said(&self, step: Step, ending: &str) -> PathBuf {
        let name = format!("{}.{ending}", step.name());
        self.out.join("steps").join(name)
    }

    fn build(&self) -> Fallible<()> {
        let said = self.out.join("steps/build.txt");
        let mut own = Command::new("cargo");
        own.args(["build", "--profile", self.profile()]);
        own.args(["-p", "millpond-cli", "-p", "millpond-loadgen", "--bins"]);
        must(perform(&mut own, &said)?)?;
        let mut benches = Command::new("cargo");
        benches.args(["bench", "--no-run", "--profile"]);
        benches.arg(if self.is_tiny { "dev" } else { "bench" });
        benches.args(["-p", "millpond-benches", "--bench", "capture"]);
        benches.args(["--bench", "log_sink"]);
        must(perform(&mut benches, &said)?)?;
        // Others may lack what they need: their steps say so.
        let mut peers = Command::new("cargo");
        peers.args(["build", "--profile", self.profile(), "--manifest-path"]);
        peers.arg("benches/compare/peers/Cargo.toml");
        peers.arg("--target-dir").arg(self.peers());
        if let Err(why) = perform(&mut peers, &said).and_then(must) {
            eprintln!("== report: the peers cannot be built: {why}");
        }
        Ok(())
    }

    fn run(&self, step: Step) -> Fallible<()> {
        match step {
            Step::Bench => {
                let mut command = Command::new(self.program());
                command.args(["bench", "--growth"]);
                self.measure(step, self.with_rounds(&mut command), "--save")
            }
            Step::PeersBus | Step::PeersLog => {
                let profile = if self.is_tiny { "debug" } else { "release" };
                let mut command = Command::new(self.peers().join(profile).join(step.name()));
                if step == Step::PeersLog {
                    command.arg("--millpond").arg(self.program());
                }
                self.measure(step, self.with_rounds(&mut command), "--json")
            }
            Step::QueryMillion if self.is_tiny => self.query(step, 80_000),
            Step::QueryMillion => self.query(step, 1_000_000),
            Step::QueryTenMillion => self.query(step, 10_000_000),
            Step::Capture => self.measure(step, &mut self.benchmark("capture"), "--json"),
            Step::LogSink => self.log_sink(step),
            Step::Scenarios => self.scenarios(step),
            Step::Instructions => self.instructions(step),
        }
    }

    fn with_rounds<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.args(["--size", if self.is_tiny { "tiny" } else { "full" }]);
        if let Some(rounds) = self.rounds {
            command.args(["--rounds", &rounds.to_string()]);
        }
        command
    }

    /// One of the benches of the workspace.
    fn benchmark(&self, name: &str) -> Command {
        let mut command = Command::new("cargo");
        command.args([
            "bench",
            "--quiet",
            "-p",
            "millpond-benches",
            "--bench",
            name,
        ]);
        if self.is_tiny {
            command.args(["--profile", "dev"]);
            command.env("MILLPOND_BENCH_TINY", "1");
        }
        if let Some(rounds) = self.rounds {
            command.env("MILLPOND_BENCH_ROUNDS", rounds.to_string());
        }
        command.env("MILLPOND_BENCH_PROGRAM", self.program());
        command.arg("--");
        command
    }

    /// Runs what writes its rows to the file behind `flag`. Rows of a program that says that something is wrong are kept:
    /// they say what.
    fn measure(&self, step: Step, command: &mut Command, flag: &str) -> Fallible<()> {
        let (rows, part) = (step.rows(&self.out), self.said(step, "jsonl"));
        let ended = perform(command.arg(flag).arg(&part), &self.said(step, "txt"))?;
        if part.exists() {
            fs::rename(part, rows)?;
        }
        must(ended)
    }

    fn query(&self, step: Step, lines: u64) -> Fallible<()> {
        let place = target().join("report-logs");
        let done = self.query_in(&place, step, lines);
        // Some GB that nobody needs any more.
        let _ = fs::remove_dir_all(place);
        done
    }

    fn query_in(&self, place: &Path, step: Step, lines: u64) -> Fallible<()> {
        if place.exists() {
            fs::remove_dir_all(place)?;
        }
        fs::create_dir_all(place)?;
        let wanted = lines * QUERY_LINE_BYTES;
        if let Some(free) = free_bytes(place).filter(|free| *free < wanted) {
            let gigabytes = |bytes: u64| bytes as f64 / 1e9;
            return Err(format!(
                "{} has {:.1} GB free, {:.1} are needed",
                place.display(),
                gigabytes(free),
                gigabytes(wanted)
            )
            .into());
        }
        let said = self.said(step, "txt");
        let [logs, sealed] = ["logs", "sealed"].map(|name| place.join(name));
        let mut write = Command::new(self.built().join("log_lines"));
        write.arg(lines.to_string()).arg(&logs).arg(&sealed);
        must(perform(&mut write, &said)?)?;
        let mut command = Command::new("python3");
        command.arg("benches/compare/query.py").arg(&logs);
        command.arg("--sealed").arg(&sealed);
        command.arg("--millpond").arg(self.program());
        command.arg("--python").arg(duckdb());
        for (flag, name) in [
            ("--sqlite", "logs.db"),
            ("--fts", "words.db"),
            ("--parquet", "logs.parquet"),
        ] {
            command.arg(flag).arg(place.join(name));
        }
        let runs = self.rounds.or(self.is_tiny.then_some(1));
        if let Some(runs) = runs {
            command.args(["--runs", &runs.to_string()]);
            command.args(["--cold-runs", &runs.min(5).to_string()]);
        }
        let done = self.measure(step, &mut command, "--json");
        let text = fs::read_to_string(&said).unwrap_or_default();
        let page = format!("# Questions to {lines} lines\n\n{text}");
        fs::write(self.out.join(format!("{}.md", step.name())), page)?;
        done
    }

    /// It has a page and a plot of its own; one that is tiny writes none.
    fn log_sink(&self, step: Step) -> Fallible<()> {
        let said = self.said(step, "txt");
        let place = self.out.join("steps");
        let mut command = self.benchmark("log_sink");
        command.arg("--write-docs").arg(&place);
        must(perform(&mut command, &said)?)?;
        let mut page = "# Writing into a table and into a log\n\n".to_owned();
        match fs::read_to_string(place.join("log-sink.md")) {
            Ok(results) => page += &results,
            Err(_) => page += &fenced(&fs::read_to_string(&said)?),
        }
        let plot = place.join("log-sink.svg");
        if plot.exists() {
            fs::rename(plot, self.out.join("log-sink.svg"))?;
        }
        Ok(fs::write(step.left(&self.out), page)?)
    }

    /// Each for itself: one that fails is told, and the others are played.
    fn scenarios(&self, step: Step) -> Fallible<()> {
        let size = if self.is_tiny { "ci" } else { "full" };
        let mut page = format!("# Scenarios\n\n`millpond replay SCENARIO --size {size}`\n");
        let mut failed = Vec::new();
        for scenario in SCENARIOS {
            eprintln!("== report: scenario {scenario}");
            let said = self.out.join(format!("steps/{scenario}.txt"));
            let mut command = Command::new(self.program());
            command.args(["replay", scenario, "--size", size]);
            let outcome = perform(&mut command, &said).and_then(must);
            let text = fs::read_to_string(&said).unwrap_or_default();
            page += &format!("\n## {scenario}\n\n");
            if let Err(why) = outcome {
                page += &format!("Failed: {why}\n\n");
                failed.push(format!("{scenario}: {why}"));
            }
            page += &fenced(&text);
        }
        if failed.len() == SCENARIOS.len() {
            return Err(failed.join("; ").into());
        }
        fs::write(step.left(&self.out), page)?;
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.join("; ").into()),
        }
    }

    /// Drift is no failure of the report: it says so.
    fn instructions(&self, step: Step) -> Fallible<()> {
        let said = self.said(step, "txt");
        let mut command = Command::new("cargo");
        command.args(["xtask", "instructions"]);
        let ended = perform(&mut command, &said)?;
        let text = fs::read_to_string(&said)?;
        if !text.trim().is_empty() {
            let page = format!("# Instructions\n\n{}", fenced(&text));
            fs::write(step.left(&self.out), page)?;
        }
        must(ended)
    }

    /// What was run, how long it took, and what failed.
    fn steps_page(&self) -> String {
        let mut page =
            "# Steps of this report\n\n| step | what | outcome |\n|---|---|---|\n".to_owned();
        for step in Step::ALL {
            let outcome = fs::read_to_string(self.said(step, "outcome"));
            let outcome = outcome.unwrap_or_else(|_| "was not run".to_owned());
            // A row of a table is one line.
            let outcome = outcome.replace('|', "\\|").replace('\n', " ");
            page += &format!("| {} | {} | {outcome} |\n", step.name(), step.words());
        }
        page
    }
}

fn fenced(text: &str) -> String {
    format!("```text\n{}\n```\n", text.trim_end())
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {} s", seconds % 60),
    }
}

/// How a program ended, where that was not well.
type Ended = Option<String>;

fn must(ended: Ended) -> Fallible<()> {
    ended.map_or(Ok(()), |why| Err(why.into()))
}

/// Runs it, what it prints into a file, what it says as it goes on to whoever watches. The last of that is the reason
/// where it does not end well.
fn perform(command: &mut Command, said: &Path) -> Fallible<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(File::create(said)?)
        .stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.map_err(|error| format!("{program} cannot be started: {error}"))?;
    let mut last = String::new();
    if let Some(errors) = child.stderr.take() {
        for line in BufReader::new(errors).split(b'\n') {
            let line = line?;
            let mut out = std::io::stderr().lock();
            // Whoever closed it does not want to know.
            let _ = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
            let text = String::from_utf8_lossy(&line);
            if !text.trim().is_empty() {
                last = text.trim().to_owned();
            }
        }
    }
    let status = child.wait()?;
    Ok((!status.success()).then(|| format!("{status}: {last}")))
}

/// A Python that has DuckDB, or one that has it not, which is then told in the rows.
fn duckdb() -> PathBuf {
    let place = target().join("report-venv");
    let python = place.join("bin/python");
    let has_it = |python: &Path| {
        let asked = Command::new(python)
            .args(["-c", "import duckdb"])
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    if has_it(Path::new("python3")) {
        return PathBuf::from("python3");
    }
    if !has_it(&python) {
        let make = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&place)
            .status();
        let made = make.and_then(|_| {
            let mut install = Command::new(&python);
            install.args(["-m", "pip", "install", "--quiet", "duckdb"]);
            install.status()
        });
        if !made.is_ok_and(|status| status.success()) {
            eprintln!(
                "== report: no DuckDB: `pip install duckdb` in {}",
                place.display()
            );
            return PathBuf::from("python3");
        }
    }
    python
}

/// `None` where it is not known.
fn free_bytes(dir: &Path) -> Option<u64> {
    let output = Command::new("df")
        .args(["--output=avail", "-B1"])
        .arg(dir)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1)?.trim().parse().ok()
}

fn say_what_is_missing() {
    let asked = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Abbrev}\n"])
        .args(PACKAGES)
        .output();
    let Ok(asked) = asked else {
        eprintln!(
            "== report: no dpkg here: install what provides {}",
            PACKAGES.join(" ")
        );
        return;
    };
    let known = String::from_utf8_lossy(&asked.stdout).into_owned();
    let is_installed = |package: &&&str| {
        let mut lines = known.lines();
        lines.any(|line| {
            line.split_once(" ii")
                .is_some_and(|(name, _)| name == **package)
        })
    };
    let missing: Vec<_> = PACKAGES
        .iter()
        .filter(|package| !is_installed(package))
        .copied()
        .collect();
    if missing.is_empty() {
        return;
    }
    eprintln!(
        "== report: peers are skipped whose package is not there; for all of them:\n     apt-get install {}",
        missing.join(" ")
    );
    if missing.contains(&"rsyslog") {
        eprintln!("     (rsyslog becomes the logger of a machine that has none)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Fallible<Report> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Report::parse(&words)
    }

    #[test]
    fn flags_are_read_and_wrong_ones_are_named() {
        let report = parse(&[
            "--size",
            "tiny",
            "--skip",
            "capture,query-1m",
            "--rounds",
            "3",
        ])
        .expect("all are right");
        assert!(report.is_tiny && !report.again);
        assert_eq!(report.skip, [Step::Capture, Step::QueryMillion]);
        assert_eq!(report.rounds, Some(3));
        for (words, part) in [
            (&["--skip", "nothing"][..], "nothing"),
            (&["--size", "big"], "tiny or full"),
            (&["--rounds", "0"], "from 1"),
            (&["--out"], "lacks its value"),
            (&["--fast"], "no such flag"),
        ] {
            let why = parse(words).err().expect("it is wrong").to_string();
            assert!(why.contains(part), "{words:?}: {why}");
        }
    }

    #[test]
    fn what_a_program_says_last_is_why_it_failed() {
        let said = std::env::temp_dir().join(format!("millpond-xtask-{}.txt", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo page; echo one >&2; echo why >&2; exit 3"]);
        let ended = perform(&mut command, &said)
            .expect("a shell")
            .expect("it failed");
        let text = fs::read_to_string(&said).expect("it was written");
        fs::remove_file(&said).expect("it is ours");
        assert_eq!(
            (ended.as_str(), text.as_str()),
            ("exit status: 3: why", "page\n")
        );
    }

    #[test]
    fn help_names_every_step_in_80_columns() {
        let help = help();
        assert!(Step::ALL.iter().all(|step| help.contains(step.name())));
        let long = help.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None);
    }
}
