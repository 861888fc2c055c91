//! What is run over the repository: `cargo xtask` says what there is, `cargo xtask fuzz --help` and such what takes
//! arguments.
//!
//! What needs tools that not every machine has says where it is skipped, and is no failure there.

#![forbid(unsafe_code)]

mod fuzz;
mod instructions;
mod report;
mod sanitize;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const TEST_SEED: &str = "MILLPOND_TEST_SEED";

/// At most 80 columns.
const HELP: &str = "\
usage: cargo xtask COMMAND

  ci        everything that must hold before a change lands: format, clippy,
            tests, examples, models, documentation, tiny benches; then Miri and
            cargo deny, where they are installed
  loom      the models alone
  bench     the benchmarks of docs/benchmarks
  report    the whole comparison with what others use: cargo xtask report --help
  instructions
            what each hot path costs in instructions, beside what it did cost
            (benches/instructions.toml): [--write] [--only WORD]
  soak      a long run of load and faults: --minutes N, --seed S, --out DIR
  fuzz      libFuzzer around every reader of bytes: cargo xtask fuzz --help
  sanitize  unit tests of bus and logfile under AddressSanitizer, and under
            ThreadSanitizer where nightly has the sources of the standard
            library (rustup component add rust-src --toolchain nightly)

Random tests start from MILLPOND_TEST_SEED, which a failing run prints.
";

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
/// Most tests wait for processes and disks, and not for a processor: more of them at once than there are cores take two
/// thirds of the time on two.
const TEST: Task = Task {
    what: "tests",
    program: "cargo",
    args: &["test", "--workspace"],
    environment: &[("RUST_TEST_THREADS", "4")],
};
/// Streams, and the code of the guide that uses them.
const TEST_TOKIO: Task = cargo(
    "tests, feature tokio",
    &["test", "--package", "millpond", "--features", "tokio"],
);
/// Processes that die at each labelled point of the product: the labels are compiled in for this alone.
const TEST_KILL_POINTS: Task = cargo(
    "tests, feature kill-points",
    &[
        "test",
        "--package",
        "millpond-tests",
        "--features",
        "kill-points",
        "--test",
        "all",
        "--",
        "kill_points",
    ],
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
/// The benches in tiny form, so that they do not rot. No figure of it means anything, so they take what the tests have built.
const BENCHES_TINY: Task = Task {
    what: "benches, tiny",
    program: "cargo",
    args: &[
        "bench",
        "--profile",
        "dev",
        "--package",
        "millpond-benches",
        "--",
        "--test",
    ],
    environment: &[("MILLPOND_BENCH_TINY", "1")],
};
/// Further arguments are those of the program.
const SOAK: &[&str] = &[
    "run",
    "--quiet",
    "--release",
    "--package",
    "millpond-loadgen",
    "--bin",
    "soak",
    "--",
];
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
    TEST_KILL_POINTS,
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
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let wants_help = matches!(arguments.first().map(String::as_str), Some("--help" | "-h"));
    // The soak has a help of its own.
    if wants_help && name != "soak" {
        let help = match name.as_str() {
            "fuzz" => fuzz::help(),
            "report" => report::help(),
            _ => HELP.to_owned(),
        };
        print!("{help}");
        print!(
            "{}",
            match name.as_str() {
                "fuzz" => fuzz::help(),
                "instructions" => instructions::help().to_owned(),
                _ => HELP.to_owned(),
            }
        );
        return ExitCode::SUCCESS;
    }
    let tasks: &[Task] = match name.as_str() {
        "ci" => CI,
        "loom" => &[LOOM],
        "bench" => &[BENCHES],
        "soak" => return soak(),
        "fuzz" => return fuzz::run(&arguments),
        "report" => return report::run(&arguments),
        "instructions" => return instructions::run(&arguments),
        "sanitize" => return code(sanitize::run()),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    let seed = seed();
    if let Some(seed) = &seed {
        eprintln!("== {TEST_SEED}={seed}");
    }
    // What takes a second comes before what takes minutes.
    if name == "ci" && !check_supplies() {
        return ExitCode::FAILURE;
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

/// Ends as the program does, and in the directory it was called from: it may be given a relative one.
fn soak() -> ExitCode {
    let status = Command::new("cargo")
        .args(SOAK)
        .args(std::env::args().skip(2))
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => ExitCode::from(status.code().map_or(1, |code| code.clamp(1, 255) as u8)),
        Err(error) => {
            eprintln!("cargo cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

fn code(passed: bool) -> ExitCode {
    match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR");
    given.map_or_else(|| root().join("target"), PathBuf::from)
}

fn has_nightly() -> bool {
    let version = Command::new("rustc")
        .args(["+nightly", "--version"])
        .output();
    version.is_ok_and(|output| output.status.success())
}

/// Licences, duplicates and registries, by `deny.toml`: where cargo-deny is there, it must pass.
fn check_supplies() -> bool {
    let deny = Command::new("cargo").args(["deny", "--version"]).output();
    if !deny.is_ok_and(|output| output.status.success()) {
        eprintln!("== cargo deny: skipped: not installed (`cargo install cargo-deny --locked`)");
        return true;
    }
    let task = cargo(
        "licences, duplicates and registries",
        &["deny", "check", "licenses", "bans", "sources"],
    );
    run(&task, None)
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
    let started = Instant::now();
    let mut command = Command::new(task.program);
    command
        .args(task.args)
        .envs(task.environment.iter().copied())
        .envs(seed.map(|seed| (TEST_SEED, seed)))
        .current_dir(root());
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
