//! Completions and man pages, from the flag table.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Run;
use crate::flags::Cli;
use crate::outcome::Outcome;

pub(crate) fn completions(shell: Shell) -> Run {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "millpond", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script)?;
    Ok(Outcome::Found)
}

pub(crate) fn man(dir: &Path) -> Run {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)?;
    Ok(Outcome::Found)
}
