//! What log lines look like: from real logs where they are, else words put together alike.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::random::Random;

/// Lines of one system are cut here: what is longer is rare.
const LINE_BYTES_MAX: usize = 600;
const WORDS: &[&str] = &[
    "accepted",
    "block",
    "cannot",
    "client",
    "closed",
    "commit",
    "connection",
    "container",
    "core",
    "daemon",
    "data",
    "error",
    "exception",
    "failed",
    "for",
    "from",
    "generating",
    "instance",
    "invalid",
    "job",
    "kernel",
    "lock",
    "memory",
    "node",
    "opened",
    "packet",
    "password",
    "received",
    "request",
    "root",
    "served",
    "service",
    "session",
    "size",
    "started",
    "status",
    "task",
    "terminating",
    "to",
    "user",
    "worker",
];
const SYSTEMS: usize = 11;
const LINES: usize = 2000;

/// Lines by system.
pub(crate) struct Corpus {
    systems: Vec<Vec<Vec<u8>>>,
    /// Where they are from.
    pub(crate) origin: String,
}

impl Corpus {
    /// The `.log` files of a directory, each a system; words where there is no such directory.
    pub(crate) fn open(dir: Option<&Path>, seed: u64) -> Result<Self, Error> {
        let Some(dir) = dir else {
            return Ok(Self::made(seed));
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut systems = Vec::new();
        for path in &paths {
            let text = fs::read(path)?;
            let lines = text.split(|&byte| byte == b'\n').map(|line| {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                line[..line.len().min(LINE_BYTES_MAX)].to_vec()
            });
            let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
            if !lines.is_empty() {
                systems.push(lines);
            }
        }
        if systems.is_empty() {
            return Err(Error::new(format!(
                "{}: there is no .log file in it",
                dir.display()
            )));
        }
        Ok(Corpus {
            origin: format!("{} logs of {}", systems.len(), dir.display()),
            systems,
        })
    }

    fn made(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut line = || {
            let mut line = Vec::new();
            for _ in 0..6 + random.below(18) {
                let word = random.below(WORDS.len() as u64) as usize;
                line.extend_from_slice(WORDS[word].as_bytes());
                if random.below(4) == 0 {
                    line.extend_from_slice(format!("={:x}", random.below(1 << 32)).as_bytes());
                }
                line.push(b' ');
            }
            line.pop();
            line
        };
        Corpus {
            systems: (0..SYSTEMS)
                .map(|_| (0..LINES).map(|_| line()).collect())
                .collect(),
            origin: "words put together: no corpus given".to_owned(),
        }
    }

    /// The lines that a service says.
    pub(crate) fn of(&self, service: usize) -> &[Vec<u8>] {
        &self.systems[service % self.systems.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_lines() {
        let (one, other) = (Corpus::made(7), Corpus::made(7));
        assert_eq!(one.of(3), other.of(3 + SYSTEMS));
        assert_eq!(one.of(0).len(), LINES);
        assert!(Corpus::open(Some(Path::new("/nowhere")), 1).is_err());
    }
}
