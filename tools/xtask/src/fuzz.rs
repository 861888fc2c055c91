//! `cargo xtask fuzz`: libFuzzer around each reader of bytes, and around a canary that must fail.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use crate::{has_nightly, root};

/// The files of `tests/fuzz/fuzz_targets`.
const TARGETS: &[&str] = &[
    "index", "segment", "sealed", "pattern", "schema", "batch", "lines", "cast", "lane", "control",
    "config", "services", "import",
];
/// Those of the command line, which take the whole of it to build.
const OF_CLI: &[&str] = &["config", "services", "import"];
const CANARY: &str = "canary";
const SECONDS: u64 = 60;
/// None: nearly all that reads bytes here is free of `unsafe`, mapped memory is nothing that AddressSanitizer knows the
/// bounds of, and without it there are several times the executions. `cargo xtask sanitize` has it for unit tests.
const SANITIZER: &str = "--sanitizer=none";
/// What it says when it fails as planted, and not of something else.
const CANARY_WORDS: &str = "the canary is dead";
/// An input that takes longer is a failure: nothing here loops for ever.
const INPUT_SECONDS: u64 = 20;

pub(crate) fn help() -> String {
    let targets = TARGETS.chunks(8).map(|line| line.join(" "));
    let targets = targets.collect::<Vec<_>>().join("\n         ");
    format!(
        "\
usage: cargo xtask fuzz [--seconds N] [TARGET...]

Runs libFuzzer around each TARGET, or all of them, for N seconds each ({SECONDS}).
Needs nightly and cargo-fuzz (cargo install cargo-fuzz --locked).

targets: {targets}
         {CANARY}: must fail, or the fuzzer would find nothing at all

What falls is kept in tests/fuzz/artifacts, what was learned in
tests/fuzz/corpus; neither is in the repository. The ordinary tests run the
same bodies for MILLPOND_TEST_SECONDS each:
  cargo test -p millpond-tests --test all -- hostile_bytes
  cargo test -p millpond-cli --test all -- hostile
"
    )
}

/// Runs the targets named in `arguments`, or all; no success where one fails, or the canary does not.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    match parse(arguments) {
        Some((seconds, targets)) => crate::code(run_targets(seconds, &targets)),
        None => {
            eprint!("{}", help());
            ExitCode::from(2)
        }
    }
}

fn run_targets(seconds: u64, targets: &[&str]) -> bool {
    if let Some(why) = missing() {
        eprintln!("== fuzz: skipped: {why}");
        return true;
    }
    let seeds = root().join("tests/fuzz/corpus");
    let written = Command::new("cargo")
        .args([
            "run",
            "-q",
            "-p",
            "millpond-cli",
            "--example",
            "fuzz_seeds",
            "--",
        ])
        .arg(&seeds)
        .current_dir(root())
        .status();
    if !written.is_ok_and(|status| status.success()) {
        eprintln!("== fuzz: the seeds could not be written");
        return false;
    }
    let mut failed = Vec::new();
    for &target in targets {
        let started = Instant::now();
        let is_canary = target == CANARY;
        // A fuzzer that does not find the planted defect would not find any.
        let passed = match is_canary {
            true => finds_canary(seconds),
            false => build(target) && libfuzzer(target, seconds).status().is_ok_and(succeeded),
        };
        let word = match (passed, is_canary) {
            (true, false) => "passed",
            (true, true) => "passed: the planted defect was found",
            (false, false) => "FAILED, see tests/fuzz/artifacts",
            (false, true) => "FAILED: the planted defect was not found",
        };
        eprintln!(
            "== fuzz {target}: {word} in {:.0} s",
            started.elapsed().as_secs_f64()
        );
        if !passed {
            failed.push(target);
        }
    }
    if !failed.is_empty() {
        eprintln!("== fuzz: FAILED: {}", failed.join(" "));
    }
    failed.is_empty()
}

fn parse(arguments: &[String]) -> Option<(u64, Vec<&str>)> {
    let (seconds, names) = match arguments {
        [flag, seconds, names @ ..] if flag == "--seconds" => (seconds.parse().ok()?, names),
        names => (SECONDS, names),
    };
    let all = || TARGETS.iter().copied().chain([CANARY]);
    if names.is_empty() {
        return Some((seconds, all().collect()));
    }
    let names = names.iter().map(|name| all().find(|target| target == name));
    Some((seconds, names.collect::<Option<_>>()?))
}

/// What keeps it from running here.
fn missing() -> Option<&'static str> {
    if !has_nightly() {
        return Some("no nightly toolchain: `rustup toolchain install nightly`");
    }
    let installed = Command::new("cargo").args(["fuzz", "--version"]).output();
    match installed {
        Ok(output) if output.status.success() => None,
        _ => Some("no cargo-fuzz: `cargo install cargo-fuzz --locked`"),
    }
}

fn fuzz(action: &str, target: &str) -> Command {
    let directory: PathBuf = ["tests", "fuzz"].iter().collect();
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "fuzz", action, "--fuzz-dir"])
        .arg(&directory)
        .arg("--target-dir")
        .arg(target_dir())
        .arg(SANITIZER)
        .args(OF_CLI.contains(&target).then_some("--features=cli"))
        .arg(target)
        .current_dir(root());
    command
}

/// Beside everything else that is built, and apart from it: other flags.
fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(base) => Path::new(&base).join("fuzz"),
        None => root().join("target/fuzz"),
    }
}

fn build(target: &str) -> bool {
    let built = fuzz("build", target).status().is_ok_and(succeeded);
    if !built {
        eprintln!("== fuzz {target}: it cannot be built");
    }
    built
}

fn succeeded(status: ExitStatus) -> bool {
    status.success()
}

/// Runs for its time, or until something falls.
fn libfuzzer(target: &str, seconds: u64) -> Command {
    eprintln!("== fuzz {target}: {seconds} s");
    let limits = [
        format!("-max_total_time={seconds}"),
        format!("-timeout={INPUT_SECONDS}"),
        "-rss_limit_mb=3000".to_owned(),
        "-print_final_stats=1".to_owned(),
    ];
    let mut command = fuzz("run", target);
    command.arg("--").args(limits);
    command
}

/// Whether it fails, and of the planted defect: what fails to build, or to start, has found nothing.
fn finds_canary(seconds: u64) -> bool {
    if !build(CANARY) {
        return false;
    }
    let Ok(output) = libfuzzer(CANARY, seconds).output() else {
        return false;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    !output.status.success() && said.contains(CANARY_WORDS)
}
