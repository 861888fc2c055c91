//! `fuzz_seeds DIRECTORY`: writes what fuzzing starts from, one directory for each target.

use std::path::Path;
use std::process::ExitCode;

use millpond_cli::hostile;
use millpond_tests::fuzz_targets::TARGETS;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: fuzz_seeds DIRECTORY");
        return ExitCode::from(2);
    };
    match write_all(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", Path::new(&directory).display());
            ExitCode::FAILURE
        }
    }
}

fn write_all(directory: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        write(directory, target.name, (target.seeds)())?;
    }
    write(directory, "config", hostile::config_seeds())?;
    write(directory, "services", hostile::services_seeds())?;
    write(directory, "import", hostile::import_seeds())
}

fn write(directory: &Path, target: &str, seeds: Vec<Vec<u8>>) -> std::io::Result<()> {
    let directory = directory.join(target);
    std::fs::create_dir_all(&directory)?;
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number:03}")), seed)?;
    }
    Ok(())
}
