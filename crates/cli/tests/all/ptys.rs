//! Many captures at once, and what they keep of programs that people run: every byte, every line. The scenario, then
//! `ls`, compilers, progress bars, full-screen programs, random bytes. `MILLPOND_TEST_SECONDS` and
//! `MILLPOND_TEST_MEGABYTES` make it more, `MILLPOND_TEST_SEED` repeats a run.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_bus::{Bus, SourceStats};
use millpond_loadgen::ptys::{self, Cast, difference};
use millpond_loadgen::{Host, Random, Terminal};
use millpond_tests::{Watchdog, seed, setting};

use crate::support::{Place, text};

fn host() -> Host {
    Host::new(env!("CARGO_BIN_EXE_millpond"), &["replay-role"])
}

fn watchdog(what: &str) -> Watchdog {
    let more = 2 * setting("MILLPOND_TEST_SECONDS", 2) + setting("MILLPOND_TEST_MEGABYTES", 10);
    Watchdog::start(what, Duration::from_secs(180 + more))
}

/// A place with a daemon, and an end to waiting for what never comes.
struct Stage {
    place: Place,
    _watchdog: Watchdog,
}

impl Stage {
    fn new(what: &str) -> Self {
        let watchdog = watchdog(what);
        let mut place = Place::new(&format!("ptys-{what}"));
        let ready = place.start(&[]);
        assert!(!ready.is_empty(), "the daemon starts");
        Stage {
            place,
            _watchdog: watchdog,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.dir.path().join(name)
    }

    /// Runs a command on a terminal, typing `keys` once it shows `prompt`; everything that the terminal received.
    fn on_terminal(&self, words: &[&OsStr], prompt: &str, keys: &[u8]) -> Vec<u8> {
        let logs = self.place.logs();
        let environment = [
            ("MILLPOND_BUS", OsStr::new(&self.place.bus)),
            ("MILLPOND_LOGS", logs.as_os_str()),
            ("MILLPOND_CONFIG", OsStr::new("/dev/null")),
            ("TERM", OsStr::new("xterm-256color")),
        ];
        let mut terminal = Terminal::start(&host(), (100, 30), &environment, words)
            .expect("a terminal with a command");
        let (mut received, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        let mut keys = Some(keys).filter(|keys| !keys.is_empty());
        loop {
            let count = terminal.read(&mut buffer).expect("it can be read");
            if count == 0 {
                break;
            }
            received.extend_from_slice(&buffer[..count]);
            if text(&received).contains(prompt)
                && let Some(keys) = keys.take()
            {
                std::io::Write::write_all(&mut terminal, keys).expect("it listens");
            }
        }
        let status = terminal.wait().expect("it ends");
        assert!(status.success(), "{words:?}: {status}: {}", text(&received));
        received
    }

    /// The same captured; what the terminal received, and the raw stream.
    fn captured(
        &self,
        service: &str,
        flags: &[&str],
        words: &[&OsStr],
        prompt: &str,
        keys: &[u8],
    ) -> (Vec<u8>, Cast) {
        let cast = self.file(&format!("{service}.cast"));
        let mut all: Vec<&OsStr> = [
            env!("CARGO_BIN_EXE_millpond"),
            "capture",
            "--service",
            service,
        ]
        .map(OsStr::new)
        .to_vec();
        all.extend([OsStr::new("--raw-to"), cast.as_os_str()]);
        all.extend(flags.iter().map(OsStr::new));
        all.push(OsStr::new("--"));
        all.extend(words);
        let received = self.on_terminal(&all, prompt, keys);
        (received, Cast::read(&cast).expect("an asciicast"))
    }

    /// Sources of lines, once nothing is under way.
    fn settled(&self) -> Vec<SourceStats> {
        let bus = Bus::open(&self.place.bus).expect("the bus is there");
        loop {
            let mut sources = bus.stats().sources;
            if sources.iter().all(|source| source.in_flight == 0) {
                sources.retain(|source| source.pattern == "log:*");
                return sources;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Messages of one source of a service, as they were written.
    fn messages(&self, service: &str, source: &str) -> Vec<u8> {
        let asked = ["query", "--raw", "--service", service, "--source", source];
        self.place.run(&asked).stdout
    }
}

fn words<'a>(words: &'a [&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(OsStr::new).collect()
}

/// Says so where it is not there.
fn is_installed(program: &str) -> bool {
    let found = Command::new("which").arg(program).output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("skipped: {program} is not installed");
    }
    is_there
}

#[track_caller]
fn assert_same(what: &str, found: &[u8], wanted: &[u8]) {
    if let Some(difference) = difference(found, wanted) {
        panic!("{what}: {difference}");
    }
}

/// Without a capture, with one, and in the raw stream: the same bytes.
fn same_three_ways(what: &str, command: &[&OsStr]) {
    let stage = Stage::new(what);
    let bare = stage.on_terminal(command, "", b"");
    assert!(!bare.is_empty());
    for newlines in ["kernel", "own"] {
        let (received, cast) =
            stage.captured(newlines, &["--newlines", newlines], command, "", b"");
        assert_same(&format!("{what}, {newlines}, received"), &received, &bare);
        assert_same(&format!("{what}, {newlines}, raw"), &cast.bytes, &bare);
        assert_eq!(cast.size, (100, 30));
        assert_eq!(cast.backwards, 0);
    }
}

#[test]
fn eight_terminals_at_once_lose_and_change_nothing() {
    let _watchdog = watchdog("ptys");
    let place = tempfile::tempdir().expect("a temporary place");
    let options = ptys::Options {
        host: Some(host()),
        millpond: Some(env!("CARGO_BIN_EXE_millpond").into()),
        seed: seed() % 1_000_000,
        dir: Some(place.path().to_owned()),
        ..ptys::Options::ci()
    };
    let report = ptys::run(&options, &mut |_| {}).expect("it is played to its end");
    println!("{report}");
    for criterion in &report.criteria {
        assert!(criterion.met, "{}\n{report}", criterion.text);
    }
}

#[test]
fn a_list_of_files_in_colours_is_the_same_with_and_without_capture() {
    let dir = ["/usr/include", "/usr/share/zoneinfo", "/etc"]
        .into_iter()
        .find(|dir| Path::new(dir).is_dir())
        .expect("one of them is there");
    same_three_ways("ls", &words(&["ls", "-R", "--color=always", dir]));
}

#[test]
fn messages_of_a_compiler_in_colours_are_the_same_with_and_without_capture() {
    let place = tempfile::tempdir().expect("a temporary place");
    let source = place.path().join("wrong.c");
    let lines: String = (0..200)
        .map(|n| format!("int f{n}(void) {{ return undeclared_{n} + \"é漢\"; }}\n"))
        .collect();
    fs::write(&source, lines).expect("a file");
    if is_installed("gcc") {
        let command = format!(
            "gcc -c -fdiagnostics-color=always -fmax-errors=0 -o /dev/null '{}'; true",
            source.display()
        );
        same_three_ways("gcc", &words(&["sh", "-c", &command]));
    }
}

/// As apt, pip and cargo draw them.
const BARS: &str = r#"
i=0; while [ $i -le 100 ]; do printf '\r\033[K%3d%% [%s]' $i "$(printf '%*s' $((i/5)) '' | tr ' ' '#')"; i=$((i+5)); done; echo
i=0; while [ $i -le 100 ]; do printf '\r     \033[90m━━━━━━━━━━\033[0m \033[32m%d/100 kB\033[0m eta 0:00:01' $i; i=$((i+5)); done; printf '\n'
i=0; while [ $i -le 100 ]; do printf '\033[1m\033[36m    Building\033[0m [==>  ] %d/100: crate-%d\033[K\r' $i $i; i=$((i+5)); done; printf '\033[K\033[1m\033[32m    Finished\033[0m all 100 crates\n'
"#;

#[test]
fn progress_bars_are_the_same_with_and_without_capture_and_one_line_each() {
    same_three_ways("bars", &words(&["sh", "-c", BARS]));
    let stage = Stage::new("bar-lines");
    let flags = ["--partial-delay", "10m"];
    stage.captured("bars", &flags, &words(&["sh", "-c", BARS]), "", b"");
    stage.settled();
    let lines = text(&stage.messages("bars", "pty:out"));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(
        lines,
        [
            "100% [####################]",
            "     ━━━━━━━━━━ 100/100 kB eta 0:00:01",
            "    Finished all 100 crates"
        ]
    );
}

#[test]
fn full_screen_programs_show_what_the_raw_stream_has() {
    let stage = Stage::new("screen");
    let page = stage.file("page.txt");
    let lines: String = (0..500).map(|n| format!("page line {n} é漢🦀\n")).collect();
    fs::write(&page, lines).expect("a file");
    let page = page.display().to_string();
    let programs: [(&str, &[&str], &str, &[u8]); 4] = [
        ("vim", &["vim", "-u", "NONE", "-c", ":q", &page], "", b""),
        (
            "less",
            &["less", &page],
            "page line 20 ",
            b"  G\x1b[A\x1b[Aq",
        ),
        ("top", &["top", "-n1"], "", b""),
        ("top", &["top", "-b", "-n1"], "", b""),
    ];
    for (index, (program, command, prompt, keys)) in programs.into_iter().enumerate() {
        if !is_installed(program) {
            continue;
        }
        for newlines in ["kernel", "own"] {
            let service = format!("{program}-{index}-{newlines}");
            let flags = ["--newlines", newlines];
            let (received, cast) = stage.captured(&service, &flags, &words(command), prompt, keys);
            assert!(!received.is_empty());
            assert_same(&service, &received, &cast.bytes);
        }
    }
}

#[test]
fn random_bytes_pass_through_a_pipe_and_come_back_from_the_raw_stream() {
    let stage = Stage::new("random");
    let mut random = Random::new(seed());
    let bytes = setting("MILLPOND_TEST_MEGABYTES", 10) as usize * 1_000_000;
    let wanted: Vec<u8> = (0..bytes / 7)
        .flat_map(|_| {
            let number = random.below(1 << 56).to_le_bytes();
            number.into_iter().take(7)
        })
        .collect();
    let (from, to, cast) = (stage.file("from"), stage.file("to"), stage.file("cast"));
    fs::write(&from, &wanted).expect("a file");
    let status = stage
        .place
        .command(&["capture", "--service", "random", "--pipe", "--raw-to"])
        .arg(&cast)
        .arg("--")
        .arg("cat")
        .arg(&from)
        .stdin(Stdio::null())
        .stdout(File::create(&to).expect("a file"))
        .status()
        .expect("it starts");
    assert!(status.success());
    assert_same("passed through", &fs::read(&to).expect("a file"), &wanted);
    let cast = Cast::read(&cast).expect("an asciicast");
    let mut exact = Vec::with_capacity(wanted.len());
    for line in cast.bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(line) => {
                exact.extend_from_slice(line);
                exact.push(b'\n');
            }
            None => exact.extend_from_slice(line),
        }
    }
    assert_same("the raw stream", &exact, &wanted);
}

#[test]
fn what_eight_unpaced_captures_lose_is_counted_to_the_line() {
    let stage = Stage::new("unpaced");
    let lines = 200_000 * setting("MILLPOND_TEST_SECONDS", 2);
    let captures: Vec<_> = (0..8)
        .map(|index| {
            let newlines = ["kernel", "own"][index % 2];
            stage
                .place
                .command(&["capture", "--service", &format!("fast-{index}")])
                .args(["--newlines", newlines, "--", "seq", &lines.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts")
        })
        .collect();
    for mut capture in captures {
        assert!(capture.wait().expect("it ends").success());
    }
    let sources = stage.settled();
    assert_eq!(sources.len(), 8, "{sources:?}");
    for source in &sources {
        let service = source.label.strip_prefix("capture:").expect("a capture");
        // Its own lines: the start, the end, and between them that something was dropped.
        let notes = 2 + u64::from(source.dropped.total() > 0);
        assert_eq!(source.published, lines + notes, "{source:?}");
        assert_eq!(source.published, source.delivered + source.dropped.total());
        let taken = source.written + source.rejected + source.coalesced + source.suppressed;
        assert_eq!(source.delivered, taken, "{source:?}");
        let output = text(&stage.messages(service, "pty:out"));
        let numbers: Vec<u64> = output
            .lines()
            .map(|line| line.parse().expect("a number of `seq`, whole"))
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        let there = numbers.len() as u64;
        let notes = text(&stage.messages(service, "capture")).lines().count() as u64;
        assert_eq!(there + notes, source.written);
        // What was lost before the daemon knew whose it was is told in its own log.
        let gaps = [service, "millpond"].map(|log| text(&stage.messages(log, "millpond")));
        let gaps = gaps.concat();
        let head = format!("gap source={} ", source.label);
        let told = gaps.lines().filter(|line| line.starts_with(&head));
        let told = told.filter_map(|line| {
            let count = line.split(' ').find_map(|word| word.strip_prefix("count="));
            count?.parse::<u64>().ok()
        });
        assert_eq!(told.sum::<u64>(), source.dropped.total(), "{gaps}");
        println!(
            "{service}: {lines} lines, {there} there, {} dropped",
            source.dropped.total()
        );
    }
}
