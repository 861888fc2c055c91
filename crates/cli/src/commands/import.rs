//! `millpond import`: the logs of another system, each record once.
//!
//! First everything is looked at: services, times, what cannot be taken. Then it is written in groups, and after each
//! group the state says how far that was; whoever is killed in between goes on there. See `docs/guide/import.md`.

pub(crate) mod hostile;
mod journald;
mod mapping;
mod report;
mod sqlite;
mod state;

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use millpond_daemon::{Policy, SyncPolicy};
use millpond_logfile::{
    Level, SegmentId, SegmentText, Source, check_service_name, list_segments, list_services,
};
use millpond_sink::{CompletedGroup, DirectoryLock, ServiceId, Sink};

use crate::Run;
use crate::args::Settings;
use crate::commands::import::journald::Journal;
use crate::commands::import::mapping::{
    Naming, Position, Record, add, fingerprint, level_of, source_of,
};
use crate::commands::import::report::{Done, Survey};
use crate::commands::import::sqlite::Table;
use crate::commands::import::state::{ServiceState, State, StateFile};
use crate::flags::ImportFlags;
use crate::outcome::{Failure, Outcome};
use crate::print;
use crate::print::hits::CONTINUED;
use crate::print::progress::Progress;
use crate::signals;
use crate::units::{human_size, now_ns, utc};

/// What a shell adds to the number of a signal that ended a command.
const SIGNALLED: u8 = 128;
/// Groups with the writer: one being written, one behind it.
const IN_FLIGHT_MAX: usize = 2;
/// A writer that failed so often will not get further without help.
const WRITE_FAILURES_MAX: u64 = 5;
/// Services of one directory, as the sink has it.
const SERVICES_MAX: usize = 1024;
/// A longer message goes into several lines: even when every byte is escaped, a line stays well below the 256 MiB
/// that readers take for one.
const PIECE_BYTES: usize = 32 << 20;
/// Names that are remembered with what they became; beyond that they are looked up anew.
const REMEMBERED_MAX: usize = 1 << 16;
/// The progress is told after so many records.
const PROGRESS_STEP: u64 = 1024;

/// Called with each record; `Break` ends the reading.
type Each<'a> = dyn FnMut(&Record) -> Result<ControlFlow<()>, Failure> + 'a;

/// Something to import from.
trait Input {
    /// What was found in it, for people.
    fn describe(&self) -> String;
    /// What tells it from every other input, the way it is read included.
    fn identity(&self) -> Result<Vec<Vec<u8>>, Failure>;
    /// Whether `read` goes in order of time.
    fn is_sorted(&self) -> bool;
    /// Under which name the message keeps what the service is called in the input, where that is no legal name.
    fn service_label(&self) -> &'static str;
    /// A record's place, for people.
    fn place_name(&self, place: i64) -> String;
    /// The end of what is there now.
    fn bound(&mut self) -> Result<i64, Failure>;
    /// Everything up to `bound`: service, level and time, the message only where that costs nothing.
    fn survey(
        &mut self,
        bound: i64,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure>;
    /// Everything behind `from`, up to `bound`, in the order in which it is to be written.
    fn read(
        &mut self,
        bound: i64,
        from: Position,
        record: &mut Record,
        each: &mut Each<'_>,
    ) -> Result<(), Failure>;
}

pub(crate) fn run(flags: &ImportFlags, settings: &Settings) -> Run {
    let naming = naming(flags)?;
    let mut input = open(flags, settings)?;
    let mut identity = input.identity()?;
    identity.push(naming.prefix.clone().into_bytes());
    identity.push(naming.service.clone().unwrap_or_default().into_bytes());
    let fingerprint = fingerprint(identity.iter().map(Vec::as_slice));
    let state_file = StateFile::new(&settings.logs, &fingerprint);
    let stop = Arc::new(AtomicU8::new(0));
    let asked = Arc::clone(&stop);
    // ORDERING: Relaxed; a number that is looked at again and again.
    signals::watch_stop(move |signal| asked.store(signal, Ordering::Relaxed))?;
    let job = Job {
        name: flags.file.display().to_string(),
        owner: format!("import-{fingerprint}"),
        state_file,
        naming,
        settings,
        stop,
    };
    if flags.dry_run {
        return job.dry_run(&mut *input);
    }
    job.import(&mut *input)
}

fn naming(flags: &ImportFlags) -> Result<Naming, Failure> {
    if let Some(name) = &flags.service {
        check_service_name(name)?;
    }
    if !flags.service_prefix.is_empty() {
        check_service_name(&flags.service_prefix)?;
    }
    Ok(Naming {
        service: flags.service.clone(),
        prefix: flags.service_prefix.clone(),
    })
}

fn open(flags: &ImportFlags, settings: &Settings) -> Result<Box<dyn Input>, Failure> {
    let path = &flags.file;
    let is_stdin = path.as_os_str() == "-";
    let name = match is_stdin {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let cannot_read = |error: io::Error| Failure::new(format!("cannot read {name}: {error}"));
    let mut file = match is_stdin {
        true => copy_of_stdin(flags, settings)?,
        false => File::open(path).map_err(cannot_read)?,
    };
    if !file.metadata().map_err(cannot_read)?.is_file() {
        return Err(Failure::new(format!(
            "{name} is not a file: a stream is read with `millpond import - < FILE`"
        )));
    }
    let is_sqlite = sqlite::is_sqlite(&file);
    io::Seek::rewind(&mut file)?;
    if !is_sqlite {
        return Ok(Box::new(Journal::open(file, &name, &flags.field)?));
    }
    if is_stdin {
        return Err(Failure::new(
            "standard input is an SQLite file, which cannot be read in pieces: name the file",
        ));
    }
    if !flags.field.is_empty() {
        return Err(Failure::new(format!(
            "`--field` is for journal exports, and {name} is an SQLite file: all its columns are kept"
        )));
    }
    Ok(Box::new(Table::open(path, &flags.table, flags.time_unit)?))
}

/// Standard input is read twice, so it is copied to a file without a name, which goes with this process.
fn copy_of_stdin(flags: &ImportFlags, settings: &Settings) -> Result<File, Failure> {
    let mut file = if flags.dry_run {
        tempfile::tempfile()?
    } else {
        create_logs_dir(&settings.logs)?;
        tempfile::tempfile_in(&settings.logs)?
    };
    io::copy(&mut io::stdin().lock(), &mut file)
        .map_err(|error| Failure::new(format!("cannot copy standard input to a file: {error}")))?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

fn create_logs_dir(logs_dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(logs_dir).map_err(|error| {
        let shown = logs_dir.display();
        Failure::new(format!(
            "cannot create the log directory {shown}: {error}; choose another with `--logs`"
        ))
    })
}

fn now_text() -> String {
    utc(now_ns())
}

/// One run of the command.
struct Job<'a> {
    name: String,
    /// Whom the lock file names.
    owner: String,
    state_file: StateFile,
    naming: Naming,
    settings: &'a Settings,
    /// The signal that asked us to stop; 0 for none.
    stop: Arc<AtomicU8>,
}

impl Job<'_> {
    fn stopped(&self) -> Option<u8> {
        // ORDERING: Relaxed; see where it is stored.
        match self.stop.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal),
        }
    }

    fn warn(&self, message: &dyn std::fmt::Display) {
        print::warning_line(self.settings.color, message);
    }

    fn dry_run(&self, input: &mut dyn Input) -> Run {
        let earlier = self.state_file.read()?;
        if let Some(state) = earlier.as_ref().filter(|state| state.finished.is_some()) {
            return self.say_finished(state);
        }
        let bound = match &earlier {
            Some(state) => state.bound,
            None => input.bound()?,
        };
        let survey = self.survey(input, bound)?;
        if let Some(signal) = self.stopped() {
            return Ok(Outcome::Code(SIGNALLED + signal));
        }
        survey.print(self.settings, &input.describe(), earlier.as_ref())?;
        survey
            .warnings(self.settings, input.service_label())
            .iter()
            .for_each(|warning| self.warn(warning));
        if earlier.is_none() {
            self.check_services(&survey)?;
        }
        Ok(match survey.counts.rejected.is_empty() {
            true => Outcome::Found,
            false => Outcome::Code(2),
        })
    }

    fn import(&self, input: &mut dyn Input) -> Run {
        let began = Instant::now();
        let logs = &self.settings.logs;
        create_logs_dir(logs)?;
        let lock = DirectoryLock::take(logs)?;
        let (mut state, resumed) = match self.state_file.read()? {
            Some(state) if state.finished.is_some() => return self.say_finished(&state),
            Some(state) => {
                self.check_untouched(&state, lock.last_owner())?;
                (state, true)
            }
            None => {
                let bound = input.bound()?;
                let survey = self.survey(input, bound)?;
                if let Some(signal) = self.stopped() {
                    return Ok(Outcome::Code(SIGNALLED + signal));
                }
                self.check_services(&survey)?;
                for warning in survey.warnings(self.settings, input.service_label()) {
                    self.warn(&warning);
                }
                (survey.into_state(self.name.clone(), bound), false)
            }
        };
        // Only the sink's own lock is held from here on.
        drop(lock);
        if resumed {
            let counts = &state.counts;
            let (written, rows) = (counts.written, counts.rows);
            let place = input.place_name(state.position.place);
            eprintln!("resuming at row {written} of {rows}, behind {place}");
        }
        let before = state.counts.written;
        let importer = Importer::open(self, input, &mut state)?;
        let stopped = importer.run(input)?;
        let done = Done {
            resumed_at: resumed.then_some(before),
            written_now: state.counts.written - before,
            seconds: began.elapsed().as_secs_f64(),
        };
        report::print_summary(&state, &done, self.settings)?;
        if let Some(signal) = stopped {
            let rows = state.counts.rows;
            eprintln!(
                "stopped at row {} of {rows}; run the same command again to go on",
                state.counts.written
            );
            return Ok(Outcome::Code(SIGNALLED + signal));
        }
        if let Some(warning) = report::retention_warning(self.settings)? {
            self.warn(&warning);
        }
        Ok(match state.counts.rejected.is_empty() {
            true => Outcome::Found,
            false => Outcome::Code(2),
        })
    }

    fn say_finished(&self, state: &State) -> Run {
        report::print_finished(state, self.settings, self.state_file.path())?;
        Ok(Outcome::Found)
    }

    fn survey(&self, input: &mut dyn Input, bound: i64) -> Result<Survey, Failure> {
        let progress = Progress::of_rows_unknown();
        let mut survey = Survey::default();
        let sorted = input.is_sorted();
        let mut rejected = Vec::new();
        let mut each = |record: &Record| {
            survey.count(record, &self.naming, sorted, &mut rejected);
            if survey.counts.rows.is_multiple_of(PROGRESS_STEP) {
                progress.set(survey.counts.rows);
                if self.stopped().is_some() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        input.survey(bound, &mut Record::default(), &mut each)?;
        progress.finish();
        survey.counts.rejected_rows = rejected
            .iter()
            .map(|(place, why)| format!("{}: {why}", input.place_name(*place)))
            .collect();
        Ok(survey)
    }

    /// Imported records are older than what a service has already, and segments are in order of time: an import begins
    /// services, and adds to none.
    fn check_services(&self, survey: &Survey) -> Result<(), Failure> {
        let logs = &self.settings.logs;
        let there = match logs.is_dir() {
            true => list_services(logs)?,
            false => Vec::new(),
        };
        let mut taken = Vec::new();
        for name in survey.services.keys().filter(|&name| there.contains(name)) {
            if !list_segments(&logs.join(name))?.is_empty() {
                taken.push(format!("{name:?}"));
            }
        }
        if !taken.is_empty() {
            let more = match taken.len().saturating_sub(5) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            taken.truncate(5);
            return Err(Failure::new(format!(
                "{} has logs of {}{more} already, and older lines cannot be put in front of them: use \
                 `--service-prefix imported-`, or another directory with `--logs`",
                logs.display(),
                taken.join(", ")
            )));
        }
        let services = there.len() + survey.services.len();
        if services > SERVICES_MAX {
            return Err(Failure::new(format!(
                "{} would have {services} services, more than the limit of {SERVICES_MAX}: put all into one with \
                 `--service NAME`",
                logs.display()
            )));
        }
        Ok(())
    }

    /// Where somebody else has written to the directory since, what is behind our commit point cannot be told from
    /// what is theirs: then there must be nothing.
    fn check_untouched(&self, state: &State, last_owner: &str) -> Result<(), Failure> {
        if last_owner == self.owner {
            return Ok(());
        }
        for (name, service) in &state.services {
            let dir = self.settings.logs.join(name);
            let last = match dir.is_dir() {
                true => list_segments(&dir)?.pop(),
                false => None,
            };
            let committed = SegmentId::from_ns(service.segment_id);
            let length_bytes = match last {
                Some(id) if id == committed => SegmentText::open(&dir, id)?.length_bytes()?,
                Some(_) => u64::MAX,
                None => 0,
            };
            if length_bytes != service.length_bytes {
                return Err(Failure::new(format!(
                    "the import was stopped in the middle of a write, and {last_owner:?} has used {} since: what service \
                     {name:?} has beyond its last commit cannot be told from new lines. Import into another directory \
                     with `--logs`, or remove the services {} and {} and import again",
                    self.settings.logs.display(),
                    state
                        .services
                        .keys()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(", "),
                    self.state_file.path().display()
                )));
            }
        }
        Ok(())
    }
}

/// No limit of the daemon's holds while we write: what is removed is removed by the daemon, after a warning.
fn policy(settings: &Settings) -> Policy {
    Policy {
        // What the state says is there has to be there after a power cut too.
        sync: SyncPolicy::Always,
        segment_bytes_limit: settings.policy.segment_bytes_limit,
        segment_age_limit: settings.policy.segment_age_limit,
        group_bytes_limit: settings.policy.group_bytes_limit,
        backend: settings.policy.backend,
        service_bytes_limit: None,
        total_bytes_limit: None,
        keep_free_bytes: Some(0),
        ..Policy::default()
    }
}

/// What is true once a group is written.
struct Snapshot {
    group: u64,
    position: Position,
    written: u64,
    lines: u64,
}

/// What a service is called in the input, and where its records go.
#[derive(Clone, Copy)]
struct Target {
    service: ServiceId,
    is_faithful: bool,
}

/// A source of the input, ready for the column.
struct Column {
    source: Source,
    name: String,
    is_faithful: bool,
}

/// Records into the sink, groups into the state.
struct Importer<'a> {
    job: &'a Job<'a>,
    state: &'a mut State,
    sink: Sink,
    completions: mpsc::Receiver<()>,
    snapshots: VecDeque<Snapshot>,
    targets: HashMap<Vec<u8>, Target>,
    columns: HashMap<Vec<u8>, Column>,
    service_label: &'static str,
    message: Vec<u8>,
    /// What has been handed to the sink.
    position: Position,
    written: u64,
    lines: u64,
    /// What an earlier run wrote and the sink, having had another owner since, no longer counts.
    uncounted_lines: u64,
    uncounted_bytes: u64,
    progress: Progress,
}

impl<'a> Importer<'a> {
    fn open(job: &'a Job<'a>, input: &dyn Input, state: &'a mut State) -> Result<Self, Failure> {
        let (completed, completions) = mpsc::channel();
        let now_ns = u64::try_from(state.position.time_ns).unwrap_or(0);
        let (mut sink, cuts) = Sink::open(
            &job.settings.logs,
            policy(job.settings),
            &job.owner,
            &state.commits(),
            now_ns,
            move || {
                // Nobody waits any more: the import has failed and says why.
                let _ = completed.send(());
            },
        )?;
        for cut in &cuts {
            if cut.kept_bytes > 0 {
                job.warn(&format!(
                    "{}: {} bytes kept: {}",
                    cut.service, cut.kept_bytes, cut.why
                ));
                continue;
            }
            // What is cut of our own is what the last run had not finished.
            if !state.services.contains_key(&cut.service) {
                job.warn(&format!(
                    "{}: {} bytes cut: {}",
                    cut.service, cut.cut_bytes, cut.why
                ));
            }
        }
        for (name, service) in &state.services {
            sink.service(name, service.first_ns)?;
        }
        let new = sink.take_new_services();
        state.commit(&new);
        // From here on a crash leaves text that this state knows of.
        job.state_file.write(state)?;
        let sum = |of: fn(&ServiceState) -> u64| state.services.values().map(of).sum::<u64>();
        let counts = &state.counts;
        let handled = counts.written + counts.rejected_total();
        let progress = Progress::of_rows(counts.rows, handled);
        Ok(Importer {
            job,
            completions,
            snapshots: VecDeque::new(),
            targets: HashMap::new(),
            columns: HashMap::new(),
            service_label: input.service_label(),
            message: Vec::new(),
            position: state.position,
            written: counts.written,
            lines: counts.lines,
            uncounted_lines: counts.lines.saturating_sub(sum(|service| service.lines)),
            uncounted_bytes: counts
                .text_bytes
                .saturating_sub(sum(|service| service.bytes)),
            progress,
            sink,
            state,
        })
    }

    /// Everything that is left. Returns the signal that stopped it.
    fn run(mut self, input: &mut dyn Input) -> Result<Option<u8>, Failure> {
        let (bound, from) = (self.state.bound, self.state.position);
        let mut stopped = None;
        input.read(bound, from, &mut Record::default(), &mut |record| {
            self.take(record)?;
            stopped = self.job.stopped();
            Ok(match stopped {
                None => ControlFlow::Continue(()),
                Some(_) => ControlFlow::Break(()),
            })
        })?;
        if stopped.is_none() {
            // What the daemon writes to these services goes to segments of its own.
            let names: Vec<String> = self.state.services.keys().cloned().collect();
            for name in &names {
                self.sink.rotate_service(name);
            }
        }
        self.submit()?;
        self.wait_until(0)?;
        self.progress.finish();
        if stopped.is_none() {
            self.check_counts()?;
            self.state.finished = Some(now_text());
            self.job.state_file.write(self.state)?;
        }
        Ok(stopped)
    }

    fn take(&mut self, record: &Record) -> Result<(), Failure> {
        self.position.place = record.end_place;
        let Some(time_ns) = record.time else {
            // Counted and named by the survey.
            return Ok(());
        };
        // Segments are named by time and never go back, also where the input does.
        self.position.time_ns = self.position.time_ns.max(time_ns);
        let target = self.target(record)?;
        let level = level_of(&record.level);
        if !self.columns.contains_key(&record.source) {
            if self.columns.len() == REMEMBERED_MAX {
                self.columns.clear();
            }
            let (name, is_faithful) = source_of(&record.source);
            let source = Source::new(&name);
            let column = Column {
                source,
                name,
                is_faithful,
            };
            self.columns.insert(record.source.clone(), column);
        }
        let column = &self.columns[&record.source];
        let message = match target.is_faithful && column.is_faithful && level.is_some() {
            true => &record.message,
            false => {
                self.message.clear();
                self.message.extend_from_slice(&record.message);
                if !target.is_faithful {
                    add(&mut self.message, self.service_label, &record.service);
                }
                if !column.is_faithful {
                    add(&mut self.message, "source", &record.source);
                }
                if level.is_none() {
                    add(&mut self.message, "level", &record.level);
                }
                &self.message
            }
        };
        let level = level.unwrap_or(Level::Info);
        let time_ns = time_ns.unsigned_abs();
        let mut rest = message.as_slice();
        if rest.len() > PIECE_BYTES {
            let continued = format!("{}{}", column.name, char::from(CONTINUED));
            let continued = Source::new(&continued);
            while let Some((piece, behind)) = rest.split_at_checked(PIECE_BYTES)
                && !behind.is_empty()
            {
                self.sink
                    .append(target.service, time_ns, level, &continued, piece);
                self.lines += 1;
                rest = behind;
            }
        }
        self.sink
            .append(target.service, time_ns, level, &column.source, rest);
        self.lines += 1;
        self.written += 1;
        if self.written.is_multiple_of(PROGRESS_STEP) {
            self.progress.add(PROGRESS_STEP);
        }
        if !self.sink.has_room() {
            self.submit()?;
        }
        Ok(())
    }

    fn target(&mut self, record: &Record) -> Result<Target, Failure> {
        if let Some(&target) = self.targets.get(&record.service) {
            return Ok(target);
        }
        let naming = &self.job.naming;
        let name = naming.service_name(&record.service);
        let Some(service) = self.state.services.get(&name) else {
            return Err(Failure::new(format!(
                "the record at {} is of service {name:?}, which was not there when the import began: the input has been \
                 changed; import it into another directory with `--logs`",
                record.place
            )));
        };
        let target = Target {
            service: self.sink.service(&name, service.first_ns)?,
            is_faithful: naming.is_faithful(&record.service, &name),
        };
        if self.targets.len() == REMEMBERED_MAX {
            self.targets.clear();
        }
        self.targets.insert(record.service.clone(), target);
        Ok(target)
    }

    /// Hands over what is there, once the writer has room for it.
    fn submit(&mut self) -> Result<(), Failure> {
        self.wait_until(IN_FLIGHT_MAX - 1)?;
        let now_ns = u64::try_from(self.position.time_ns).unwrap_or(0);
        let group = self.sink.submit(now_ns, true);
        self.snapshots.push_back(Snapshot {
            group,
            position: self.position,
            written: self.written,
            lines: self.lines,
        });
        Ok(())
    }

    /// Waits until at most this many groups are with the writer.
    fn wait_until(&mut self, in_flight: usize) -> Result<(), Failure> {
        loop {
            while let Some(group) = self.sink.poll() {
                self.complete(&group)?;
            }
            if self.sink.in_flight() <= in_flight {
                return Ok(());
            }
            // A group, or time to look whether there is trouble.
            let woken = self.completions.recv_timeout(Duration::from_secs(1));
            let status = self.sink.status();
            let is_dead = matches!(woken, Err(mpsc::RecvTimeoutError::Disconnected));
            if let Some(trouble) = status
                .trouble
                .filter(|_| status.failures >= WRITE_FAILURES_MAX)
            {
                return Err(Failure::new(format!(
                    "{trouble}; then run the same command again to go on"
                )));
            }
            if is_dead && self.sink.in_flight() > in_flight {
                return Err(Failure::new(
                    "the writer has ended; run the same command again to go on",
                ));
            }
        }
    }

    fn complete(&mut self, group: &CompletedGroup) -> Result<(), Failure> {
        let Some(snapshot) = self.snapshots.pop_front() else {
            return Ok(());
        };
        debug_assert_eq!(snapshot.group, group.group);
        self.state.commit(&group.services);
        self.state.position = snapshot.position;
        self.state.counts.written = snapshot.written;
        self.state.counts.lines = snapshot.lines;
        let bytes: u64 = self
            .state
            .services
            .values()
            .map(|service| service.bytes)
            .sum();
        self.state.counts.text_bytes = bytes + self.uncounted_bytes;
        self.job.state_file.write(self.state)
    }

    /// read = written + rejected, and as many lines in the files as we wrote.
    fn check_counts(&self) -> Result<(), Failure> {
        let counts = &self.state.counts;
        let in_files: u64 = self
            .state
            .services
            .values()
            .map(|service| service.lines)
            .sum();
        let in_files = in_files + self.uncounted_lines;
        if in_files != counts.lines {
            return Err(Failure::new(format!(
                "{} lines were written and {in_files} are in the log: this is a mistake of this program",
                counts.lines
            )));
        }
        let handled = counts.written + counts.rejected_total();
        if handled != counts.rows {
            let text = human_size(counts.text_bytes);
            return Err(Failure::new(format!(
                "{} rows were there when the import began, {handled} could be read ({text} of text): the input has been \
                 changed meanwhile; what was read is in the log",
                counts.rows
            )));
        }
        Ok(())
    }
}
