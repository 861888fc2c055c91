//! The reader: a process that asks what the failed system's screen asked, every 10 ms.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use millpond_benches::{read_line, start_self};
use millpond_logfile::{Order, Query, Reader};
use rusqlite::Connection;

use crate::rows::{ASKED_SERVICE, NEEDLE};
use crate::table;

/// From one question to the next, or as soon as the last is answered.
const PACE: Duration = Duration::from_millis(10);

/// What is asked, in turn.
pub(crate) const QUESTIONS: [&str; 3] = [
    "newest 200 of a service",
    "count by level",
    "newest 50 with a substring",
];

/// How long answers took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    pub(crate) times_ns: [Vec<u64>; QUESTIONS.len()],
    /// How often the reader found the table locked.
    pub(crate) busy: u64,
}

impl Answers {
    /// The times of all questions together.
    pub(crate) fn all_ns(&self) -> Vec<u64> {
        self.times_ns.concat()
    }

    pub(crate) fn merge(&mut self, other: &Answers) {
        for (mine, theirs) in self.times_ns.iter_mut().zip(&other.times_ns) {
            mine.extend(theirs);
        }
        self.busy += other.busy;
    }
}

/// The reader's process, seen from the one who writes.
pub(crate) struct Asker {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Asker {
    /// Starts it, lets it ask each question once, and sets it going.
    pub(crate) fn start(kind: &str, path: &Path) -> Self {
        let path = path.display().to_string();
        let args = ["role", "asker", kind, &path].map(str::to_owned);
        let (mut child, mut output) = start_self(&args);
        read_line(&mut output);
        let input = child.stdin.as_mut().expect("its input was asked for");
        input.write_all(b"go\n").expect("the reader listens");
        Asker { child, output }
    }

    /// Ends it after the question that it is at.
    pub(crate) fn stop(mut self) -> Answers {
        drop(self.child.stdin.take());
        let mut answers = Answers::default();
        for line in self.output.by_ref().lines() {
            let line = line.expect("the reader's output can be read");
            let (what, figure) = line.split_once(' ').expect("two words");
            let figure = figure.parse().expect("a figure");
            match what.parse::<usize>() {
                Ok(question) => answers.times_ns[question].push(figure),
                Err(_) => answers.busy = figure,
            }
        }
        let status = self.child.wait().expect("the reader ends");
        assert!(status.success(), "the reader ends well");
        answers
    }
}

/// The reader's process.
pub(crate) fn asker_process(kind: &str, path: &Path) {
    match kind {
        "table" => {
            let table = table::open(path);
            ask(|question| ask_table(&table, question));
        }
        _ => ask(|question| ask_text(path, question)),
    }
}

fn ask(mut question: impl FnMut(usize)) {
    (0..QUESTIONS.len()).for_each(&mut question);
    println!("ready");
    let mut go = String::new();
    let stdin = std::io::stdin();
    stdin.read_line(&mut go).expect("our input can be read");
    let busy = table::busy_count();
    let (stop, stopped) = channel::<()>();
    // Our parent closes our input when it has enough; the end of this thread drops `stop`.
    let listener = std::thread::spawn(move || {
        let _until_the_end = stop;
        std::io::stdin().read_to_end(&mut Vec::new())
    });
    let mut times_ns = Vec::new();
    let mut next = Instant::now();
    for number in (0..QUESTIONS.len()).cycle() {
        let wait = next.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
        let started = Instant::now();
        question(number);
        times_ns.push((number, started.elapsed().as_nanos()));
        next = (next + PACE).max(Instant::now());
    }
    let end = listener.join().expect("the listener ends");
    end.expect("our input can be read");
    let mut out = std::io::stdout().lock();
    for (number, time_ns) in times_ns {
        writeln!(out, "{number} {time_ns}").expect("our parent listens");
    }
    let busy = table::busy_count() - busy;
    writeln!(out, "busy {busy}").expect("our parent listens");
}

fn ask_table(table: &Connection, question: usize) {
    let (sql, args): (_, &[&str]) = match question {
        0 => (
            "select * from logs where context = ? order by id desc limit 200",
            &[ASKED_SERVICE],
        ),
        1 => ("select level, count(*) from logs group by level", &[]),
        _ => (
            "select * from logs where content like '%' || ? || '%' order by id desc limit 50",
            &[NEEDLE],
        ),
    };
    let mut statement = table.prepare_cached(sql).expect("good SQL");
    let columns = statement.column_count();
    let mut found = statement
        .query(rusqlite::params_from_iter(args))
        .expect("a table");
    let mut count = 0;
    while let Some(row) = found.next().expect("a table") {
        for column in 0..columns {
            black_box(row.get_ref(column).expect("a column"));
        }
        count += 1;
    }
    assert!(count > 0, "something is found");
}

fn ask_text(logs: &Path, question: usize) {
    // A screen sees services that are new: the directory is listed for every question.
    let reader = Reader::open(logs).expect("the logs are there");
    if question == 1 {
        let counts = reader.count(&Query::new()).expect("the logs can be read");
        return assert!(black_box(counts).total() > 0, "something is found");
    }
    let query = Query::new().order(Order::Newest);
    let query = match question {
        0 => query.service(ASKED_SERVICE).limit(200),
        _ => query.contains(NEEDLE).limit(50),
    };
    let mut count = 0;
    let report = reader.run(&query, &mut |hit| {
        black_box(hit.message);
        count += 1;
        ControlFlow::Continue(())
    });
    assert!(report.expect("the logs can be read").damage.is_empty());
    assert!(count > 0, "something is found");
}
