//! `cargo xtask instructions`: what each hot path costs in instructions, beside what it cost when that was last written down.
//!
//! Times drift by tens of per cent between two runs on a busy machine; instructions do not. A program of `benches/src/bin`
//! runs a path with two counts under `valgrind --tool=callgrind`, and the difference, divided, is what one event costs.
//! Which parts of it are counted is said by the program: see `millpond_benches::paths`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::root;

const BASELINE: &str = "benches/instructions.toml";
/// More than this beyond the baseline, in either direction, fails: also what got cheaper is to be written down, so that
/// it does not get lost again.
const TOLERANCE_PERCENT: f64 = 2.0;
/// The same where all threads count: what a writer does once a second is in it, and a run takes longer on a busy machine.
const TOLERANCE_PROCESS_PERCENT: f64 = 15.0;
/// What has drifted is counted so often in all, and the least stands: what comes once a second only ever adds.
const TRIES: u32 = 3;
/// The function that makes what it runs count.
const COUNTED: &str = "millpond_benches::paths::counted";

/// At most 80 columns.
const HELP: &str = "\
usage: cargo xtask instructions [--write] [--only WORD]

Counts the instructions of the hot paths with valgrind, per event, and compares
them with benches/instructions.toml. Fails where one has drifted by more than
2 % (15 % where all threads of a process count), in either direction: `--write`
puts the new figures there. Drift is shown and not judged where the compiler is
another one. Skipped where valgrind is not installed.

Copies above some KiB cost an instruction a byte here, since valgrind counts
each step of `rep movsb`.

  --write      write the figures down
  --only WORD  the paths whose names hold WORD
";

/// What `--help` prints.
pub(crate) fn help() -> &'static str {
    HELP
}

struct Options {
    write: bool,
    only: Option<String>,
}

/// One path, as its program lists it.
struct Counted {
    program: PathBuf,
    name: String,
    is_part: bool,
    counts: [u64; 2],
}

/// What is checked in.
#[derive(Default)]
struct Baseline {
    compiler: String,
    /// By path, per event.
    instructions: BTreeMap<String, f64>,
}

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let Some(options) = parse(arguments) else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    let valgrind = Command::new("valgrind").arg("--version").output();
    let Ok(valgrind) = valgrind else {
        eprintln!("== instructions: skipped: valgrind is not installed (`apt install valgrind`)");
        return ExitCode::SUCCESS;
    };
    let valgrind = String::from_utf8_lossy(&valgrind.stdout).trim().to_owned();
    match count(&options, &valgrind) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("== instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        write: false,
        only: None,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => options.write = true,
            "--only" => options.only = Some(arguments.next()?.clone()),
            _ => return None,
        }
    }
    Some(options)
}

/// Counts, shows, and writes where that was asked for; false where something has drifted.
fn count(options: &Options, valgrind: &str) -> Result<bool, String> {
    let baseline_path = root().join(BASELINE);
    let mut baseline = Baseline::read(&baseline_path)?;
    let compiler = compiler()?;
    let is_judged = baseline.compiler == compiler;
    println!("{compiler}; {valgrind}");
    if !is_judged && !options.write {
        println!(
            "drift is shown and not judged: the baseline is of {}",
            match baseline.compiler.as_str() {
                "" => "no compiler",
                other => other,
            }
        );
    }
    println!(
        "{:44} {:>12} {:>10} {:>8}",
        "instructions an event", "now", "baseline", "drift"
    );
    let mut has_drifted = false;
    let mut found = BTreeMap::new();
    for path in paths(options)? {
        let before = baseline.instructions.get(&path.name).copied();
        let Some(now) = path.count_until_near(before)? else {
            continue;
        };
        found.insert(path.name.clone(), now);
        let Some(before) = before else {
            println!("{:44} {now:12.1} {:>10} {:>8}", path.name, "-", "new");
            continue;
        };
        let drift_percent = drift_percent(now, before);
        let is_over = drift_percent.abs() > path.tolerance_percent();
        has_drifted |= is_over;
        println!(
            "{:44} {now:12.1} {before:10.1} {drift_percent:+7.2}%{}",
            path.name,
            if is_over { "  <==" } else { "" }
        );
    }
    if options.write {
        match options.only {
            Some(_) => baseline.instructions.extend(found),
            None => baseline.instructions = found,
        }
        baseline.compiler = compiler;
        baseline.write(&baseline_path, valgrind)?;
        println!("written to {BASELINE}");
        return Ok(true);
    }
    if has_drifted && is_judged {
        println!("drift: find out why, or write it down with `cargo xtask instructions --write`");
    }
    Ok(!(has_drifted && is_judged))
}

/// What `rustc` says of itself, without the date.
fn compiler() -> Result<String, String> {
    let output = Command::new("rustc")
        .args(["--version", "--verbose"])
        .output();
    let text = output.map_err(|error| format!("rustc cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let after = |word: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(word));
        line.unwrap_or("unknown").trim().to_owned()
    };
    Ok(format!("rustc {}, {}", after("release:"), after("host:")))
}

/// Builds the programs and asks them what they have.
fn paths(options: &Options) -> Result<Vec<Counted>, String> {
    let mut paths = Vec::new();
    for program in build()? {
        let listed = Command::new(&program).arg("list").output();
        let listed = listed.map_err(|error| format!("{}: {error}", program.display()))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for line in listed.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, scope, few, many] = fields[..] else {
                return Err(format!("{}: not a path: {line:?}", program.display()));
            };
            let number = |text: &str| text.parse().map_err(|_| format!("not a count: {text:?}"));
            if options.only.as_ref().is_none_or(|only| name.contains(only)) {
                paths.push(Counted {
                    program: program.clone(),
                    name: name.to_owned(),
                    is_part: scope == "part",
                    counts: [number(few)?, number(many)?],
                });
            }
        }
    }
    Ok(paths)
}

/// The programs of the benches, built as they would be for use.
fn build() -> Result<Vec<PathBuf>, String> {
    let output = Command::new("cargo")
        .args(["build", "--release", "--package", "millpond-benches"])
        .args(["--bins", "--message-format", "json-render-diagnostics"])
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output();
    let output = output.map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !output.status.success() {
        return Err("the programs cannot be built".to_owned());
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    // A message a line; only that of a program has a path there.
    let executable = |message: &str| {
        let (_, rest) = message.split_once(r#""executable":""#)?;
        Some(PathBuf::from(rest.split('"').next()?))
    };
    Ok(messages.lines().filter_map(executable).collect())
}

fn drift_percent(now: f64, before: f64) -> f64 {
    100.0 * (now - before) / before
}

impl Counted {
    fn tolerance_percent(&self) -> f64 {
        match self.is_part {
            true => TOLERANCE_PERCENT,
            false => TOLERANCE_PROCESS_PERCENT,
        }
    }

    /// As [`Counted::count`], and again where it is not near what it was.
    fn count_until_near(&self, before: Option<f64>) -> Result<Option<f64>, String> {
        let mut least: Option<f64> = None;
        for _ in 0..TRIES {
            let Some(now) = self.count()? else {
                return Ok(None);
            };
            let now = least.map_or(now, |least| least.min(now));
            least = Some(now);
            let is_near = |before| drift_percent(now, before).abs() <= self.tolerance_percent();
            if before.is_some_and(is_near) {
                break;
            }
        }
        Ok(least)
    }

    /// Instructions an event; `None` where the program says that it cannot run this here.
    fn count(&self) -> Result<Option<f64>, String> {
        let [few, many] = self.counts;
        let Some(first) = self.run(few)? else {
            return Ok(None);
        };
        let Some(second) = self.run(many)? else {
            return Ok(None);
        };
        Ok(Some(
            (second.saturating_sub(first)) as f64 / (many - few) as f64,
        ))
    }

    /// All instructions of one run.
    fn run(&self, count: u64) -> Result<Option<u64>, String> {
        let file = std::env::temp_dir().join(format!("callgrind.{}.out", std::process::id()));
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", file.display()));
        if self.is_part {
            command.arg(format!("--toggle-collect={COUNTED}"));
        }
        command.arg(&self.program).arg(&self.name);
        let output = command.arg(count.to_string()).output();
        let text = std::fs::read_to_string(&file);
        let _ = std::fs::remove_file(&file);
        let output = output.map_err(|error| format!("valgrind cannot be started: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some(reason) = said.trim().strip_prefix("skipped: ") {
            println!("{:44} skipped: {reason}", self.name);
            return Ok(None);
        }
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{}: {}", self.name, why.trim()));
        }
        let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
        let total = text.lines().find_map(|line| {
            let line = line
                .strip_prefix("totals:")
                .or(line.strip_prefix("summary:"));
            line?.trim().parse().ok()
        });
        match total {
            Some(0) | None => Err(format!("{}: nothing was counted", self.name)),
            Some(total) => Ok(Some(total)),
        }
    }
}

impl Baseline {
    fn read(path: &Path) -> Result<Self, String> {
        let mut baseline = Baseline::default();
        let Ok(text) = std::fs::read_to_string(path) else {
            return Ok(baseline);
        };
        let wrong = |line: &str| format!("{}: not understood: {line:?}", path.display());
        // The little of TOML that `write` makes.
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', '[']) {
                continue;
            }
            let (key, value) = line.split_once(" = ").ok_or_else(|| wrong(line))?;
            let (key, value) = (key.trim_matches('"'), value.trim_matches('"'));
            match key {
                "compiler" => baseline.compiler = value.to_owned(),
                "valgrind" => {}
                _ => {
                    let value = value.parse().map_err(|_| wrong(line))?;
                    baseline.instructions.insert(key.to_owned(), value);
                }
            }
        }
        Ok(baseline)
    }

    fn write(&self, path: &Path, valgrind: &str) -> Result<(), String> {
        let mut text = format!(
            "# Instructions an event, written by `cargo xtask instructions --write`, which also compares with them.\n\
             # The payload of an event is 64 bytes, a line has 128 bytes, one to parse or to format 126.\n\
             compiler = \"{}\"\nvalgrind = \"{valgrind}\"\n\n[instructions]\n",
            self.compiler
        );
        for (name, instructions) in &self.instructions {
            text += &format!("\"{name}\" = {instructions:.1}\n");
        }
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}
