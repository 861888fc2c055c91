//! How far an import is: one small file in the log directory, replaced as a whole after each group.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use millpond_bus::ServiceCommit;
use serde::{Deserialize, Serialize};

use crate::commands::import::mapping::Position;
use crate::outcome::Failure;

const VERSION: u32 = 1;
/// Not a legal service name: readers and the daemon leave it alone.
const DIR: &str = ".import";

/// The file, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    /// As the user named it.
    pub(super) input: String,
    /// RFC 3339, UTC.
    pub(super) began: String,
    /// When the last record was written; absent until then.
    pub(super) finished: Option<String>,
    /// What was there when the import began: the highest rowid, or the length in bytes.
    pub(super) bound: i64,
    /// All records up to here are in the log.
    pub(super) position: Position,
    pub(super) counts: Counts,
    /// By service name.
    pub(super) services: BTreeMap<String, ServiceState>,
}

/// What is counted. `rows` comes from the look at the input before anything is written, `written` from the writing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) written: u64,
    /// Lines in the log: more than `written` where a record is longer than a line may be.
    pub(super) lines: u64,
    /// Bytes of text in the log.
    pub(super) text_bytes: u64,
    /// By reason.
    pub(super) rejected: BTreeMap<String, u64>,
    /// The first rejected ones, by name.
    pub(super) rejected_rows: Vec<String>,
    /// Level texts that mean nothing to us.
    pub(super) unknown_levels: BTreeMap<String, u64>,
    /// Records that are earlier than the one before them of their service.
    pub(super) backward_steps: u64,
}

impl Counts {
    pub(super) fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }
}

/// A service of this import, and its commit point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ServiceState {
    /// Earliest record: the id of the first segment.
    pub(super) first_ns: u64,
    pub(super) segment_id: u64,
    pub(super) length_bytes: u64,
    pub(super) lines: u64,
    pub(super) bytes: u64,
    pub(super) segments: u64,
}

impl State {
    pub(super) fn new(input: String, bound: i64, now: String) -> Self {
        State {
            version: VERSION,
            input,
            began: now,
            finished: None,
            bound,
            position: Position::START,
            counts: Counts::default(),
            services: BTreeMap::new(),
        }
    }

    /// What the sink has to know of the last run.
    pub(super) fn commits(&self) -> Vec<ServiceCommit> {
        let commit = |(name, state): (&String, &ServiceState)| ServiceCommit {
            name: name.clone(),
            segment_id: state.segment_id,
            length_bytes: state.length_bytes,
            lines: state.lines,
            bytes: state.bytes,
            segments: state.segments,
            ..ServiceCommit::default()
        };
        self.services.iter().map(commit).collect()
    }

    /// Takes over what the sink says, of the services of this import alone.
    pub(super) fn commit(&mut self, commits: &[ServiceCommit]) {
        for commit in commits {
            if let Some(state) = self.services.get_mut(&commit.name) {
                state.segment_id = commit.segment_id;
                state.length_bytes = commit.length_bytes;
                state.lines = commit.lines;
                state.bytes = commit.bytes;
                state.segments = commit.segments;
            }
        }
    }
}

/// Where the state of one import is.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(super) fn new(logs_dir: &Path, fingerprint: &str) -> Self {
        StateFile {
            path: logs_dir.join(DIR).join(format!("{fingerprint}.json")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The state of an earlier run; `None` where there was none.
    pub(super) fn read(&self) -> Result<Option<State>, Failure> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", &error)),
        };
        let state: State =
            serde_json::from_slice(&text).map_err(|error| self.failed("read", &error))?;
        if state.version != VERSION {
            let found = state.version;
            let why =
                format!("version {found} is not {VERSION}: finish it with the program that began");
            return Err(self.failed("use", &why));
        }
        Ok(Some(state))
    }

    /// Replaces the file in one step, and returns when it is on the disk.
    pub(super) fn write(&self, state: &State) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(state)?;
        let dir = self.path.parent().unwrap_or(&self.path);
        let new = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            fs::create_dir_all(dir)?;
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&new, &self.path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| self.failed("write", &error))
    }

    fn failed(&self, what: &str, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!(
            "cannot {what} the state of the import, {}: {why}",
            self.path.display()
        ))
    }
}
