//! What an operator asks, and how each program is asked it.

use std::path::Path;
use std::process::Command;

use millpond_logfile::format_time;

use super::generate::{ASKED_SERVICE, NEEDLE, NEEDLES, REGEX_SERVICE, Week, service_name};

const MINUTE_NS: u64 = 60_000_000_000;
const LAST_LINES: u64 = 200;
/// Their names, in the order of [`all`].
pub(super) const NAMES: [&str; 6] = [
    "last 200 lines of a service",
    "errors of a service in a minute",
    "counts by level",
    "a needle with 5 hits",
    "a substring in 10 minutes",
    "a regex over a service",
];
/// The peer that is asked for: one line in twenty.
pub(super) const PEER: u64 = 7;
const PEER_TEXT: &str = "peer=10.0.0.7;";
const REGEX: &str = "seq=[0-9]*42$";

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Lines of one service, as they stand in the files.
    LinesOf(usize),
    /// Lines of all services by time, each with its service.
    Lines,
    /// Counts by level.
    Levels,
}

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) name: &'static str,
    pub(super) answer: Answer,
    arguments: Vec<String>,
    /// The shell's filter that leaves the same lines of a service's text.
    pub(super) filter: String,
    pub(super) sql: String,
    /// Why ripgrep is not asked, or what.
    ripgrep: Result<String, &'static str>,
    /// The same of journalctl.
    journal: Result<Vec<String>, &'static str>,
}

/// All of them, about this week.
pub(super) fn all(week: &Week) -> Vec<Question> {
    let (asked, other) = (service_name(ASKED_SERVICE), service_name(REGEX_SERVICE));
    let words = |text: &[&str]| text.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let time = |ns: u64| String::from_utf8_lossy(&format_time(ns)).into_owned();
    let range = |from: u64, to: u64| {
        let times = (time(from), time(to));
        let arguments = words(&["--since", &times.0, "--until", &times.1]);
        (arguments, format!("time_ns >= {from} AND time_ns < {to}"))
    };
    let minute = week.error_minute_ns;
    let (minute_range, minute_sql) = range(minute, minute + MINUTE_NS);
    let minute_text = &time(minute)[.."2026-11-21T01:29".len()];
    let errors = format!("^{minute_text}[^ ]* (ERROR|FATAL) ");
    let ten = week.peer_minutes_ns;
    let (ten_range, ten_sql) = range(ten, ten + 10 * MINUTE_NS);
    let ten_text = &time(ten)[.."2026-11-21T01:2".len()];
    // The journal's command takes times in seconds, and includes the last one.
    let journal_range = |from: u64, to: u64| {
        let second = |ns: u64| format!("@{}", ns / 1_000_000_000);
        let (since, until) = (second(from), second(to - 1));
        words(&["--since", &since, "--until", &until])
    };
    let of_service = |service: &str| format!("SYSLOG_IDENTIFIER={service}");
    let [
        last_lines,
        errors_in_a_minute,
        counts,
        needle,
        substring,
        regex,
    ] = NAMES;
    let columns = "SELECT service, time_ns, level, source, message FROM logs";
    vec![
        Question {
            name: last_lines,
            answer: Answer::LinesOf(ASKED_SERVICE),
            arguments: words(&["--service", &asked, "-n", &LAST_LINES.to_string()]),
            filter: format!("tail -n {LAST_LINES}"),
            sql: format!(
                "{columns} WHERE service = '{asked}' ORDER BY time_ns DESC LIMIT {LAST_LINES}"
            ),
            ripgrep: Err("it searches, and does not tell the last ones"),
            journal: Ok(words(&[&of_service(&asked), "-n", &LAST_LINES.to_string()])),
        },
        Question {
            name: errors_in_a_minute,
            answer: Answer::LinesOf(ASKED_SERVICE),
            arguments: [
                words(&["--service", &asked, "--level", "error"]),
                minute_range,
            ]
            .concat(),
            filter: format!("grep -a -E '{errors}'"),
            sql: format!(
                "{columns} WHERE service = '{asked}' AND {minute_sql} AND level IN ('ERROR', 'FATAL') \
                 ORDER BY time_ns"
            ),
            ripgrep: Ok(errors),
            journal: Ok([
                words(&[&of_service(&asked), "-p", "err"]),
                journal_range(minute, minute + MINUTE_NS),
            ]
            .concat()),
        },
        Question {
            name: counts,
            answer: Answer::Levels,
            arguments: words(&[
                "--count",
                "--by",
                "level",
                "--json",
                "--until",
                &time(week.end_ns),
            ]),
            filter: String::new(),
            sql: "SELECT level, count(*) FROM logs GROUP BY level".to_owned(),
            ripgrep: Err("it counts one pattern at a time"),
            journal: Err("it does not count"),
        },
        Question {
            name: needle,
            answer: Answer::Lines,
            arguments: words(&["--grep", NEEDLE]),
            filter: format!("grep -a -F '{NEEDLE}'"),
            sql: format!("{columns} WHERE instr(message, '{NEEDLE}') > 0 ORDER BY time_ns"),
            ripgrep: Ok(NEEDLE.to_owned()),
            journal: Ok(words(&["-g", NEEDLE])),
        },
        Question {
            name: substring,
            answer: Answer::Lines,
            arguments: [words(&["--grep", PEER_TEXT]), ten_range].concat(),
            filter: format!("grep -a '^{ten_text}' | grep -a -F '{PEER_TEXT}'"),
            sql: format!(
                "{columns} WHERE {ten_sql} AND instr(message, '{PEER_TEXT}') > 0 ORDER BY time_ns"
            ),
            ripgrep: Ok(format!("^{ten_text}.*{}", PEER_TEXT.replace('.', "\\."))),
            journal: Ok([
                words(&["-g", &PEER_TEXT.replace('.', "\\.")]),
                journal_range(ten, ten + 10 * MINUTE_NS),
            ]
            .concat()),
        },
        Question {
            name: regex,
            answer: Answer::LinesOf(REGEX_SERVICE),
            arguments: words(&["--service", &other, "--regex", REGEX]),
            filter: format!("grep -a -E '{REGEX}'"),
            // SQLite has no regular expressions of its own; this one can be said with LIKE.
            sql: format!(
                "{columns} WHERE service = '{other}' AND message LIKE '%seq=%42' ORDER BY time_ns"
            ),
            ripgrep: Ok(REGEX.to_owned()),
            journal: Ok(words(&[&of_service(&other), "-g", REGEX])),
        },
    ]
}

impl Question {
    pub(super) fn millpond(&self, program: &Path, logs_dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(self.arguments_for(logs_dir));
        command
    }

    /// What `millpond` is given.
    pub(super) fn arguments_for(&self, logs_dir: &Path) -> Vec<String> {
        let logs_dir = logs_dir.display().to_string();
        let place = ["query", "--logs", &logs_dir, "--utc", "--color", "never"];
        let place = place.map(str::to_owned).into_iter();
        place.chain(self.arguments.iter().cloned()).collect()
    }

    /// Lines of its answer, where those do not depend on the size.
    pub(super) fn lines(&self) -> Option<u64> {
        let [last_lines, _, _, needle, _, _] = NAMES;
        match self.name {
            name if name == needle => Some(NEEDLES as u64),
            name if name == last_lines => Some(LAST_LINES),
            _ => None,
        }
    }

    /// Over the same files; the zstd program unpacks them for it.
    pub(super) fn ripgrep(&self, logs_dir: &Path, week: &Week) -> Result<Command, &'static str> {
        let pattern = self.ripgrep.as_ref().map_err(|&why| why)?;
        let mut command = Command::new("rg");
        command.args([
            "--no-config",
            "-z",
            "-a",
            "--no-filename",
            "--no-line-number",
        ]);
        command.args(["-g", "*.log", "-g", "*.log.zst", "-e", pattern, "--"]);
        match self.answer {
            Answer::LinesOf(number) => {
                command.arg(logs_dir.join(&week.services[number]));
            }
            Answer::Lines | Answer::Levels => {
                command.args(week.services.iter().map(|service| logs_dir.join(service)));
            }
        }
        Ok(command)
    }

    /// From a journal file with the same lines.
    pub(super) fn journal(&self, file: &Path) -> Result<Command, &'static str> {
        let arguments = self.journal.as_ref().map_err(|&why| why)?;
        let mut command = Command::new("journalctl");
        command
            .arg("--file")
            .arg(file)
            .args(["--utc", "--no-pager", "-q"]);
        command.args(["-o", "short-iso-precise"]).args(arguments);
        Ok(command)
    }
}
