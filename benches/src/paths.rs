//! Programs that run one hot path as often as they are told, for counting instructions.
//!
//! `cargo xtask instructions` runs such a program under `valgrind --tool=callgrind` with two counts and divides the
//! difference, so that whatever does not grow with the count is gone. Most of what is counted is one part of a longer
//! way (the publishes, not the drain that makes room for them): this part goes through [`counted`], a function that the
//! tool finds by its name.
//!
//! Every program in `src/bin` whose `list` prints [`Path`]s is run.

use std::process::ExitCode;

/// What of a run is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What this thread does within [`counted`].
    Part,
    /// All threads of the process.
    Process,
}

/// One path of a program.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Its name in the baseline: what is done, as `publish, by 16`.
    pub name: &'static str,
    /// What of it is counted.
    pub scope: Scope,
    /// How often it is run, in two runs: the first greater than 0, the second greater by enough that what comes once
    /// does not matter.
    pub counts: [u64; 2],
    /// Runs it so often.
    ///
    /// # Errors
    /// Why it cannot be run here: it is skipped then, with this reason.
    pub run: fn(u64) -> Result<(), String>,
}

/// Runs `work`, and has its instructions counted. Costs ten instructions itself: give it many events at once.
#[inline(never)]
pub fn counted(work: &mut dyn FnMut()) {
    work();
    // Without this the call above would be a jump, and the function never left.
    std::hint::black_box(());
}

/// The program: `list`, one path a line (name, scope, both counts, between tabs), or a name and a count.
pub fn main(paths: &[Path]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let found = |name: &str| paths.iter().find(|path| path.name == name);
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            for path in paths {
                let scope = match path.scope {
                    Scope::Part => "part",
                    Scope::Process => "process",
                };
                let [few, many] = path.counts;
                println!("{}\t{scope}\t{few}\t{many}", path.name);
            }
            ExitCode::SUCCESS
        }
        [name, count] => match (found(name), count.parse()) {
            (Some(path), Ok(count)) => {
                if let Err(reason) = (path.run)(count) {
                    println!("skipped: {reason}");
                }
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: PROGRAM list | PROGRAM NAME COUNT; it is run by `cargo xtask instructions`");
    ExitCode::from(2)
}
