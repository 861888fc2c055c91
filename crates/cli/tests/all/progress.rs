//! Progress on a terminal: it comes when work takes long, keeps to one line however narrow the terminal is, goes without a
//! trace (also at Ctrl-C), and is never mixed with what a command puts out. Nothing where standard error is no terminal.
//!
//! Logs are made twice as long until the work takes long enough for progress to be seen, whatever the machine;
//! `MILLPOND_TEST_PROGRESS_BYTES` says how long they are at first.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use millpond_loadgen::{Host, Terminal};
use millpond_tests::{Watchdog, setting};

use crate::support::{Place, text};

const SEGMENT: &str = "20261121T012953.000000000Z.log";
/// Work is made no longer than this: 16 GB, which no machine searches in half a second.
const SERVICES_MAX: usize = 1024;
const CTRL_C: &[u8] = b"\x03";
const SIGINT: i32 = 2;

/// Logs of as many services as are needed, all with the same text.
struct Logs {
    place: Place,
    services: usize,
    _watchdog: Watchdog,
}

impl Logs {
    fn new(name: &str) -> Self {
        let bytes = setting("MILLPOND_TEST_PROGRESS_BYTES", 16 << 20);
        let watchdog = Watchdog::start(name, Duration::from_secs(240));
        let logs = Logs {
            place: Place::new(&format!("progress-{name}")),
            services: 1,
            _watchdog: watchdog,
        };
        let mut lines = String::with_capacity(bytes as usize);
        let mut number = 0;
        while (lines.len() as u64) < bytes {
            number += 1;
            lines +=
                &format!("2026-11-21T01:30:00.{number:09}Z INFO  rpc call {number} took a while\n");
        }
        fs::create_dir_all(logs.dir(0)).expect("a directory");
        fs::write(logs.dir(0).join(SEGMENT), lines).expect("a file");
        logs
    }

    fn dir(&self, service: usize) -> std::path::PathBuf {
        self.place.logs().join(format!("s{service}"))
    }

    fn double(&mut self) {
        for service in self.services..2 * self.services {
            fs::create_dir(self.dir(service)).expect("a directory");
            let first = self.dir(0).join(SEGMENT);
            fs::hard_link(first, self.dir(service).join(SEGMENT)).expect("a link");
        }
        self.services *= 2;
        assert!(
            self.services <= SERVICES_MAX,
            "no progress in all that time"
        );
    }

    fn start(&self, columns: u16, script: &str) -> Terminal {
        let logs = self.place.logs();
        let environment = [
            ("MILLPOND", OsStr::new(env!("CARGO_BIN_EXE_millpond"))),
            ("MILLPOND_BUS", OsStr::new(&self.place.bus)),
            ("MILLPOND_LOGS", logs.as_os_str()),
            ("MILLPOND_CONFIG", OsStr::new("/dev/null")),
            ("TERM", OsStr::new("xterm-256color")),
            ("LC_ALL", OsStr::new("C.UTF-8")),
        ];
        let host = Host::new(env!("CARGO_BIN_EXE_millpond"), &["replay-role"]);
        let words = ["sh", "-c", script].map(OsStr::new);
        Terminal::start(&host, (columns, 24), &environment, &words).expect("a terminal")
    }

    /// Runs a script on a terminal until it is long enough for `sign` to be seen, and then types `keys`.
    fn run(&mut self, columns: u16, script: &str, sign: &str, keys: &[u8]) -> Ran {
        loop {
            let mut terminal = self.start(columns, script);
            let mut screen = Screen::new(usize::from(columns));
            let (mut buffer, mut was_seen) = (vec![0; 64 << 10], false);
            let mut received = Vec::new();
            loop {
                let count = terminal.read(&mut buffer).expect("it can be read");
                if count == 0 {
                    break;
                }
                received.extend_from_slice(&buffer[..count]);
                if !was_seen && text(&received).contains(sign) {
                    was_seen = true;
                    terminal.write_all(keys).expect("it listens");
                }
            }
            screen.take(&text(&received));
            let status = terminal.wait().expect("it ends");
            if was_seen {
                return Ran { screen, status };
            }
            self.double();
        }
    }
}

struct Ran {
    screen: Screen,
    status: ExitStatus,
}

/// What a person sees: as much of a terminal as progress needs.
struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Lines that were longer than a row.
    wraps: usize,
}

impl Screen {
    fn new(columns: usize) -> Self {
        Screen {
            columns,
            rows: vec![Vec::new()],
            row: 0,
            column: 0,
            wraps: 0,
        }
    }

    fn take(&mut self, text: &str) {
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            match character {
                '\r' => self.column = 0,
                '\n' => self.down(1),
                '\x1b' => {
                    assert_eq!(rest.next(), Some('['), "{text:?}");
                    let mut number = String::new();
                    let letter = loop {
                        match rest.next().expect("a whole sequence") {
                            digit if digit.is_ascii_digit() => number.push(digit),
                            ';' | '?' => number.clear(),
                            letter => break letter,
                        }
                    };
                    let number: usize = number.parse().unwrap_or(1);
                    match letter {
                        'A' => self.row = self.row.saturating_sub(number),
                        'B' => self.down(number),
                        'C' => self.column += number,
                        'D' => self.column = self.column.saturating_sub(number),
                        'K' if number == 2 => self.rows[self.row].clear(),
                        'K' => self.rows[self.row].truncate(self.column),
                        'm' | 'h' | 'l' => {}
                        other => panic!("a sequence that progress does not need: {other}"),
                    }
                }
                shown => self.put(shown),
            }
        }
    }

    fn down(&mut self, count: usize) {
        self.row += count;
        while self.rows.len() <= self.row {
            self.rows.push(Vec::new());
        }
    }

    fn put(&mut self, shown: char) {
        if self.column == self.columns {
            self.wraps += 1;
            self.down(1);
            self.column = 0;
        }
        let row = &mut self.rows[self.row];
        row.resize(row.len().max(self.column + 1), ' ');
        row[self.column] = shown;
        self.column += 1;
    }

    /// Rows that are not empty.
    fn lines(&self) -> Vec<String> {
        let rows = self.rows.iter().map(|row| row.iter().collect::<String>());
        let rows = rows.map(|row| row.trim_end().to_owned());
        rows.filter(|row| !row.is_empty()).collect()
    }
}

#[test]
fn long_work_shows_a_line_that_leaves_no_trace() {
    let mut logs = Logs::new("commands");
    for (script, answer) in [
        ("\"$MILLPOND\" index rebuild", "rebuilt "),
        ("\"$MILLPOND\" query --count --regex 'call .*5 took'", ""),
        ("\"$MILLPOND\" query --regex 'no such .*line' > lines", ""),
    ] {
        let script = format!("cd {} && {script}", logs.place.dir.path().display());
        let ran = logs.run(80, &script, "\u{2588}", b"");
        let lines = ran.screen.lines();
        let expected = usize::from(!script.ends_with("lines"));
        assert_eq!(lines.len(), expected, "{script}: {lines:?}");
        assert!(
            lines.iter().all(|line| line.starts_with(answer)),
            "{script}: {lines:?}"
        );
        assert_eq!(ran.screen.wraps, 0, "{script}");
        assert!(
            ran.status.code().is_some_and(|code| code <= 1),
            "{script}: {}",
            ran.status
        );
    }
}

#[test]
fn a_narrow_terminal_has_one_line_of_it_too() {
    let mut logs = Logs::new("narrow");
    // What the command itself says at its end is longer than that.
    let rebuild = "\"$MILLPOND\" index rebuild > /dev/null";
    let ran = logs.run(40, rebuild, "%", b"");
    assert_eq!(ran.screen.wraps, 0);
    assert_eq!(ran.screen.lines().len(), 0, "{:?}", ran.screen.lines());
    let count = "\"$MILLPOND\" query --count --regex 'call .*5 took'";
    // MB or GB: as much as the machine needs.
    let ran = logs.run(40, count, "B", b"");
    assert_eq!(ran.screen.wraps, 0);
    assert_eq!(ran.screen.lines().len(), 1, "{:?}", ran.screen.lines());
}

#[test]
fn ctrl_c_leaves_the_screen_clean_and_ends_the_command_as_ever() {
    let mut logs = Logs::new("ctrl-c");
    for columns in [80, 40] {
        // `exec`: the command itself is what the terminal signals and what is waited for.
        let count = "exec \"$MILLPOND\" query --count --regex 'call .*5 took'";
        let ran = loop {
            let ran = logs.run(columns, count, "%, ", CTRL_C);
            // It may have been about to end.
            match ran.status.code() {
                Some(_) => logs.double(),
                None => break ran,
            }
        };
        assert_eq!(ran.status.signal(), Some(SIGINT));
        let nothing: [&str; 0] = [];
        assert_eq!(ran.screen.lines(), nothing);
        assert_eq!((ran.screen.wraps, ran.screen.column), (0, 0));
    }
}

#[test]
fn lines_on_the_same_terminal_come_without_progress_among_them() {
    let mut logs = Logs::new("lines");
    // Nothing for a while, then one line: what was shown until then is gone.
    let query =
        "\"$MILLPOND\" query --service s0 -n 1; \"$MILLPOND\" query --regex 'no such .*line'";
    let ran = logs.run(80, query, "searched", b"");
    let lines = ran.screen.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("took a while"), "{lines:?}");
    // Much text: the same as in a pipe, and nothing else.
    let mut terminal = logs.start(200, "\"$MILLPOND\" cat s0");
    let mut shown = Vec::new();
    terminal.read_to_end(&mut shown).expect("it can be read");
    assert!(!shown.contains(&0x1b));
    let stored = fs::read(logs.dir(0).join(SEGMENT)).expect("it is there");
    assert!(text(&shown).replace("\r\n", "\n").ends_with(&text(&stored)));
}

#[test]
fn nothing_is_shown_where_standard_error_is_no_terminal_or_a_pager_may_be_behind_a_pipe() {
    let mut logs = Logs::new("pipes");
    // Long enough for progress where there is a terminal.
    let count = "\"$MILLPOND\" query --count --regex 'call .*5 took'";
    logs.run(80, count, "searched", b"");
    let output = logs
        .place
        .run(&["query", "--count", "--regex", "call .*5 took"]);
    assert_eq!(text(&output.stderr), "");
    let mut terminal = logs.start(80, "\"$MILLPOND\" query --regex 'no such .*line' | cat");
    let mut shown = Vec::new();
    terminal.read_to_end(&mut shown).expect("it can be read");
    assert_eq!(text(&shown), "");
}
