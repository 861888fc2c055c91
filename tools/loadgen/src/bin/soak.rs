//! `soak [--minutes N] [--seed S] [--out DIR] [--dir DIR]`: see `millpond_loadgen::soak`. `--each-once` plays each
//! kind of fault once instead. Interrupted, it ends the faults and tells what it has.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use millpond_loadgen::{Error, all_met, role, soak};

const USAGE: &str = "usage: soak [--minutes N] [--seed S] [--out DIR] [--dir DIR] [--each-once]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // See `Host::current`.
    if arguments.first().is_some_and(|word| word == "replay-role") {
        return match role(&arguments[1..]) {
            Some(Ok(())) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        };
    }
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(what) => {
            eprintln!("soak: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<soak::Options, String> {
    let mut options = soak::Options::full();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--each-once" {
            options = soak::Options {
                seed: options.seed,
                out: options.out,
                dir: options.dir,
                ..soak::Options::ci()
            };
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} lacks its value"))?;
        let number = || {
            let number = value.parse::<u64>();
            number.map_err(|error| format!("{word} {value}: {error}"))
        };
        match word.as_str() {
            "--minutes" => options.time = Duration::from_secs(60 * number()?),
            "--seed" => options.seed = number()?,
            "--out" => options.out = Some(value.into()),
            "--dir" => options.dir = Some(value.into()),
            _ => return Err(format!("{word} is not understood")),
        }
    }
    Ok(options)
}

fn run(options: &soak::Options) -> Result<bool, Error> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&options.stop))?;
    }
    let report = soak::run(options, &mut |what| eprintln!("{what}"))?;
    print!("{report}");
    Ok(all_met(&report.criteria))
}
