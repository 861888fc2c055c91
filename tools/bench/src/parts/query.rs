//! What operators ask of log files: `millpond query` from its start to its exit, with the files in memory.
//!
//! The same lines lie there in two forms: all open, and cut into segments of which all but the last are sealed. Every
//! answer is compared with what the question was answered before. The floors are a process that does nothing, and one that
//! reads the text which the question is about and throws it away.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use millpond_loadgen::week::{self, LogQuestion, QUESTIONS, write_logs};
use millpond_loadgen::{Arguments, Error, Host, Measured, free_bytes, measure, used_bytes};

use crate::plan::{Case, Options, Size};
use crate::row::{Figure, Guarantees, Round, Row, Varied};

const SERVICES: usize = 8;
const TEXT_BYTES: u64 = 256_000_000;
/// Of anything smaller not every question has an answer.
const TEXT_BYTES_MIN: u64 = 400_000;
/// As `millpond daemon` closes them.
const SEGMENT_BYTES: u64 = 64 << 20;
/// So often a round asks; the middle time is the round's.
const ASKS: usize = 5;
const READ_BYTES: usize = 1 << 20;
/// What is asked of logs of all sizes: the needle has to look everywhere, the others should not.
const GROWTH_QUESTIONS: [usize; 4] = [3, 1, 0, 2];

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let asker = Rc::new(Asker::new(options)?);
    let mut cases = Vec::new();
    let text_bytes = options.events(TEXT_BYTES).max(TEXT_BYTES_MIN);
    // Before one of them is measured, or the first round of a case would be what makes its log.
    let open = Rc::new(Logs::make(&asker, text_bytes, Form::Open)?);
    let sealed = Rc::new(Logs::make(&asker, text_bytes, Form::Sealed)?);
    let forms = [("millpond, open", &open), ("millpond, sealed", &sealed)];
    for (index, name) in QUESTIONS.into_iter().enumerate() {
        let work = format!("{name}, {} of text", bytes_text(text_bytes));
        for (peer, logs) in forms {
            let row = Row::of_millpond("query", &work, peer, Figure::Time, Guarantees::default());
            let (asker, logs) = (Rc::clone(&asker), Rc::clone(logs));
            let round = Box::new(move || asker.ask(&logs, index));
            cases.push(Case { row, round });
        }
        for floor in [Floor::Start, Floor::Read] {
            let logs = Rc::clone(&open);
            // The index answers that one without the text.
            if floor == Floor::Read && !is_scan(&logs.questions[index]) {
                continue;
            }
            let row = Row::of_floor(
                "query",
                &work,
                floor.name(),
                Figure::Time,
                Guarantees::default(),
            );
            let asker = Rc::clone(&asker);
            let round = Box::new(move || asker.ask_floor(&logs, index, floor));
            cases.push(Case { row, round });
        }
    }
    if options.growth {
        cases.extend(growth(options, &asker)?);
    }
    Ok(cases)
}

/// Whether nothing but the text can answer it: a needle, or a regular expression.
fn is_scan(question: &LogQuestion) -> bool {
    let asked = |flag: &str| question.arguments.iter().any(|argument| argument == flag);
    (asked("--grep") || asked("--regex")) && !asked("--since")
}

fn growth(options: &Options, asker: &Rc<Asker>) -> Result<Vec<Case>, Error> {
    let place = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let room_bytes = free_bytes(&place)? / 2;
    let mut cases = Vec::new();
    let mut all_bytes = 0;
    for text_bytes in sizes(options) {
        // They lie there together, so that rounds of all of them can take turns.
        all_bytes += text_bytes;
        let skipped = (all_bytes > room_bytes).then(|| {
            format!(
                "logs of {} are more than half of what is free at {}, {}; `--dir` is another place",
                bytes_text(all_bytes),
                place.display(),
                bytes_text(2 * room_bytes)
            )
        });
        // Made when first asked: a size that nobody comes to takes no room.
        let logs: Rc<RefCell<Option<Logs>>> = Rc::default();
        for index in GROWTH_QUESTIONS {
            let row = Row {
                varied: Some(Varied {
                    name: "log bytes".to_owned(),
                    value: text_bytes,
                }),
                skipped: skipped.clone(),
                ..Row::of_millpond(
                    "query",
                    QUESTIONS[index],
                    "millpond",
                    Figure::Time,
                    Guarantees::default(),
                )
            };
            let (asker, logs) = (Rc::clone(asker), Rc::clone(&logs));
            let round = Box::new(move || {
                let mut logs = logs.borrow_mut();
                let logs = match &mut *logs {
                    Some(logs) => logs,
                    none => none.insert(Logs::make(&asker, text_bytes, Form::Usual)?),
                };
                asker.ask(logs, index)
            });
            cases.push(Case { row, round });
        }
    }
    Ok(cases)
}

/// 1 MB, and ten times as much as long as that is allowed; tiny: of what nearly everything can be asked.
fn sizes(options: &Options) -> Vec<u64> {
    let least = match options.size {
        Size::Tiny => TEXT_BYTES_MIN,
        Size::Full => 1_000_000,
    };
    let tenfold = std::iter::successors(Some(least), |bytes: &u64| bytes.checked_mul(10));
    let limit = options.log_bytes_limit.max(least);
    let mut sizes: Vec<u64> = tenfold.take_while(|&bytes| bytes <= limit).collect();
    // So that there is something to see growing, at whatever size.
    if sizes.len() == 1 && limit > least {
        sizes.push(limit);
    }
    sizes
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        1_000_000.. => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} kB", bytes as f64 / 1e3),
    }
}

// ---------------------------------------------------------------------------------------------- the logs

/// How the text lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One open segment a service.
    Open,
    /// Eight segments a service, of which seven are sealed.
    Sealed,
    /// As a daemon would have left it: closed and sealed at 64 MiB.
    Usual,
}

/// A log directory, gone when it is dropped.
struct Logs {
    // Removed with them.
    _dir: tempfile::TempDir,
    questions: Vec<LogQuestion>,
    text_bytes: u64,
    disk_bytes: u64,
}

impl Logs {
    /// Some seconds for 1 GB.
    fn make(asker: &Asker, text_bytes: u64, form: Form) -> Result<Self, Error> {
        let dir = asker.options.new_dir()?;
        let options = week::Options {
            services: SERVICES,
            segment_bytes: match form {
                Form::Open => u64::MAX,
                Form::Sealed | Form::Usual => SEGMENT_BYTES,
            },
            segments_min: match form {
                Form::Open | Form::Usual => 1,
                Form::Sealed => 8,
            },
            level: 3,
            ..week::Options::full()
        };
        let questions = write_logs(dir.path(), &options, text_bytes, asker.end_ns)?;
        let disk_bytes = used_bytes(dir.path())?;
        Ok(Logs {
            _dir: dir,
            questions,
            text_bytes,
            disk_bytes,
        })
    }
}

// ---------------------------------------------------------------------------------------------- asking

/// What all questions have in common.
struct Asker {
    options: Options,
    host: Host,
    millpond: PathBuf,
    /// For the answer that comes in.
    place: tempfile::TempDir,
    /// When all logs end: those of one size have the same lines.
    end_ns: u64,
    /// By size and question.
    answers: RefCell<BTreeMap<(u64, usize), Vec<u8>>>,
}

impl Asker {
    fn new(options: &Options) -> Result<Self, Error> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Asker {
            options: options.clone(),
            host: options.host()?,
            millpond: options.millpond()?,
            place: options.new_dir()?,
            end_ns: now.unwrap_or(Duration::ZERO).as_nanos() as u64,
            answers: RefCell::default(),
        })
    }

    /// The middle one of several runs of a command.
    fn run(&self, command: &Command, answer: &Path) -> Result<Round, Error> {
        let asks = match self.options.size {
            Size::Tiny => 1,
            Size::Full => ASKS,
        };
        let mut all: Vec<Measured> = Vec::new();
        for _ in 0..asks {
            let measured = measure(&self.host, command, answer)?;
            if measured.exit_code != 0 {
                let code = measured.exit_code;
                return Err(Error::new(format!(
                    "{command:?} ended with exit code {code}"
                )));
            }
            all.push(measured);
        }
        all.sort_by_key(|measured| measured.elapsed_ns);
        let middle = all[all.len() / 2];
        Ok(Round {
            events: 1,
            seconds: middle.elapsed_ns as f64 / 1e9,
            cpu_seconds: middle.cpu_ns as f64 / 1e9,
            memory_bytes: all.iter().map(|measured| measured.memory_bytes).max(),
            ..Round::default()
        })
    }

    fn ask(&self, logs: &Logs, index: usize) -> Result<Round, Error> {
        let question = &logs.questions[index];
        let mut command = Command::new(&self.millpond);
        command.args(&question.arguments);
        let path = self.place.path().join("answer");
        let round = self.run(&command, &path)?;
        let answer = std::fs::read(path)?;
        let lines = answer.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if lines == 0 || question.lines.is_some_and(|expected| expected != lines) {
            let expected = question
                .lines
                .map_or("some".to_owned(), |lines| lines.to_string());
            return Err(Error::new(format!(
                "it answered {lines} lines where there are {expected}"
            )));
        }
        let mut answers = self.answers.borrow_mut();
        match answers.get(&(logs.text_bytes, index)) {
            Some(before) if *before != answer => {
                return Err(Error::new(format!(
                    "it answered {lines} lines ({} bytes), and other ones before ({} bytes)",
                    answer.len(),
                    before.len()
                )));
            }
            Some(_) => {}
            None => drop(answers.insert((logs.text_bytes, index), answer)),
        }
        Ok(Round {
            disk_bytes: Some(logs.disk_bytes),
            ..round
        })
    }

    fn ask_floor(&self, logs: &Logs, index: usize, floor: Floor) -> Result<Round, Error> {
        let mut command = self.host.command("query-floor");
        if floor == Floor::Read {
            command.args(&logs.questions[index].service_dirs);
        }
        self.run(&command, Path::new("/dev/null"))
    }
}

// ---------------------------------------------------------------------------------------------- floors

/// A process of this program that answers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Floor {
    Start,
    Read,
}

impl Floor {
    fn name(self) -> &'static str {
        match self {
            Floor::Start => "start of a process",
            Floor::Read => "read of the text",
        }
    }
}

/// `DIR ..`: reads the text of these services.
pub(super) fn floor_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    let mut buffer = vec![0; READ_BYTES];
    for dir in arguments.words() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            // The link to the open one is the same text again.
            if path.is_symlink() || path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let mut file = File::open(path)?;
            while file.read(&mut buffer)? > 0 {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_tenfold_up_to_the_limit() {
        let mut options = Options::new(Size::Full);
        options.log_bytes_limit = 250_000_000;
        assert_eq!(sizes(&options), [1_000_000, 10_000_000, 100_000_000]);
        let tiny = Options::new(Size::Tiny);
        assert_eq!(sizes(&tiny), [TEXT_BYTES_MIN, 1_000_000]);
    }

    #[test]
    fn the_reading_floor_is_there_where_text_has_to_be_read() {
        let place = tempfile::tempdir().expect("a place for the log");
        let options = week::Options {
            services: SERVICES,
            segments_min: 1,
            ..week::Options::ci()
        };
        let end_ns = 1_795_224_593_000_000_000;
        let questions =
            write_logs(place.path(), &options, TEXT_BYTES_MIN, end_ns).expect("room for it");
        let scans: Vec<&str> = questions
            .iter()
            .filter(|question| is_scan(question))
            .map(|question| question.name)
            .collect();
        assert_eq!(scans, ["a needle with 5 hits", "a regex over a service"]);
        let names: Vec<&str> = questions.iter().map(|question| question.name).collect();
        assert_eq!(names, QUESTIONS);
    }
}
