//! `cargo xtask ci`: everything that must hold before a change lands. `cargo xtask loom`: the models alone.
//! `cargo xtask bench`: the benchmarks of `docs/benchmarks/`.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

const TEST_SEED: &str = "MILLPOND_TEST_SEED";

/// One command of a run.
struct Task {
    what: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

const fn cargo(what: &'static str, args: &'static [&'static str]) -> Task {
    Task {
        what,
        program: "cargo",
        args,
        environment: &[],
    }
}

const FORMAT: Task = cargo("format", &["fmt", "--all", "--check"]);
const CLIPPY: Task = cargo(
    "clippy",
    &[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ],
);
const TEST: Task = cargo("tests", &["test", "--workspace"]);
/// Streams, and the code of the guide that uses them.
const TEST_TOKIO: Task = cargo(
    "tests, feature tokio",
    &["test", "--package", "millpond", "--features", "tokio"],
);
const DOCS: Task = Task {
    what: "documentation",
    program: "cargo",
    args: &["doc", "--workspace", "--no-deps"],
    environment: &[("RUSTDOCFLAGS", "--deny warnings")],
};
const LOOM: Task = Task {
    what: "loom models",
    program: "cargo",
    args: &[
        "test",
        "--release",
        "--package",
        "millpond-bus",
        "--lib",
        "--target-dir",
        "target/loom",
    ],
    environment: &[("RUSTFLAGS", "--cfg loom")],
};
/// The benches in tiny form, so that they do not rot. No figure of it means anything.
const BENCHES_TINY: Task = Task {
    what: "benches, tiny",
    program: "cargo",
    args: &["bench", "--package", "millpond-benches", "--", "--test"],
    environment: &[("MILLPOND_BENCH_TINY", "1")],
};
const BENCHES: Task = cargo("benches", &["bench", "--package", "millpond-benches"]);

/// Runs without arguments, as a reader would.
const fn example(args: &'static [&'static str]) -> Task {
    cargo("example", args)
}

const CI: &[Task] = &[
    FORMAT,
    CLIPPY,
    TEST,
    TEST_TOKIO,
    example(&[
        "run",
        "-q",
        "-p",
        "millpond",
        "--example",
        "1_publish_and_log",
    ]),
    example(&["run", "-q", "-p", "millpond", "--example", "2_subscribe"]),
    example(&["run", "-q", "-p", "millpond", "--example", "3_fixed_layout"]),
    example(&[
        "run",
        "-q",
        "-p",
        "millpond",
        "--example",
        "4_wait_for_a_reply",
    ]),
    example(&[
        "run",
        "-q",
        "-p",
        "millpond",
        "--example",
        "5_replay_then_live",
    ]),
    LOOM,
    DOCS,
    BENCHES_TINY,
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let tasks: &[Task] = match name.as_str() {
        "ci" => CI,
        "loom" => &[LOOM],
        "bench" => &[BENCHES],
        _ => {
            eprintln!("usage: cargo xtask ci | loom | bench");
            return ExitCode::from(2);
        }
    };
    let seed = seed();
    if let Some(seed) = &seed {
        eprintln!("== {TEST_SEED}={seed}");
    }
    for task in tasks {
        if !run(task, seed.as_deref()) {
            return ExitCode::FAILURE;
        }
    }
    if name == "ci" {
        say_about_miri();
    }
    ExitCode::SUCCESS
}

/// What random tests start from: as given, else from the commit, so that a commit that passed here
/// passes elsewhere; none outside a git work tree, where each test draws its own.
fn seed() -> Option<String> {
    if let Ok(given) = std::env::var(TEST_SEED) {
        return Some(given);
    }
    let output = Command::new("git")
        .args(["rev-parse", "--short=15", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    let seed = u64::from_str_radix(commit.trim().get(..15)?, 16).ok()?;
    Some(seed.to_string())
}

fn run(task: &Task, seed: Option<&str>) -> bool {
    eprintln!("== {}: {} {}", task.what, task.program, task.args.join(" "));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let started = Instant::now();
    let mut command = Command::new(task.program);
    command
        .args(task.args)
        .envs(task.environment.iter().copied())
        .envs(seed.map(|seed| (TEST_SEED, seed)))
        .current_dir(root);
    let passed = match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("{} cannot be started: {error}", task.program);
            false
        }
    };
    let word = if passed { "passed" } else { "FAILED" };
    eprintln!(
        "== {}: {word} in {:.0} s",
        task.what,
        started.elapsed().as_secs_f64()
    );
    passed
}

/// Miri needs a component that not every machine has: it runs where it is, and says so where it is not.
fn say_about_miri() {
    let miri = Command::new("cargo")
        .args(["+nightly", "miri", "--version"])
        .output();
    if !miri.is_ok_and(|output| output.status.success()) {
        eprintln!("== miri: skipped: `cargo +nightly miri` is not installed");
        return;
    }
    let task = Task {
        what: "miri",
        program: "cargo",
        args: &[
            "+nightly",
            "miri",
            "test",
            "-p",
            "millpond-bus",
            "--lib",
            "region::",
            "ring::",
            "names::",
        ],
        environment: &[("MIRIFLAGS", "-Zmiri-disable-isolation")],
    };
    run(&task, None);
}
