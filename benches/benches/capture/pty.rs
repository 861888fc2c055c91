//! Terminals: one that is only read, `millpond capture`, `script` and `tmux pipe-pane`, with lines of 128 bytes and of
//! 2; and how long a key takes to come back.
//!
//! `MILLPOND_BENCH_SECONDS` is how long a command writes (1.5), `MILLPOND_BENCH_ROUNDS` how often (5), one after the
//! other in turns, so that what else the machine does is spread over all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millpond_bench::{Figure, LatencyNs, Round, Row};
use millpond_benches::{Spread, cpu_ns, cpu_seconds, is_tiny, percentiles, rounds_or};
use millpond_bus::Bus;
use millpond_loadgen::{Host, Terminal, without_carriage_returns};

use crate::Running;
use crate::rows::{Who, row};

const KEYS: usize = 2000;
/// What a program gives to one `write`.
const BLOCK_BYTES: usize = 64 << 10;
const LINE_BYTES: [usize; 2] = [128, 2];

/// Who reads what the command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Recorder {
    BareKernel,
    BareOwn,
    CaptureKernel,
    CaptureOwn,
    Script,
    Tmux,
}

const RECORDERS: [Recorder; 6] = [
    Recorder::BareKernel,
    Recorder::BareOwn,
    Recorder::CaptureKernel,
    Recorder::CaptureOwn,
    Recorder::Script,
    Recorder::Tmux,
];

impl Recorder {
    fn name(self) -> &'static str {
        match self {
            Recorder::BareKernel => "bare reader, onlcr",
            Recorder::BareOwn => "bare reader, -onlcr",
            Recorder::CaptureKernel => "millpond capture --newlines kernel",
            Recorder::CaptureOwn => "millpond capture --newlines own",
            Recorder::Script => "script -qf",
            Recorder::Tmux => "tmux pipe-pane",
        }
    }

    fn is_capture(self) -> bool {
        matches!(self, Recorder::CaptureKernel | Recorder::CaptureOwn)
    }

    fn who<'a>(self, millpond: &'a [&'a str; 2]) -> Who<'a> {
        Who {
            name: self.name(),
            version: match self {
                Recorder::Script => &["script", "--version"],
                Recorder::Tmux => &["tmux", "-V"],
                Recorder::BareKernel | Recorder::BareOwn => &["uname", "-sr"],
                Recorder::CaptureKernel | Recorder::CaptureOwn => millpond,
            },
            is_floor: matches!(self, Recorder::BareKernel | Recorder::BareOwn),
            drops: self.is_capture(),
        }
    }

    /// What has to be installed.
    fn program(self) -> Option<&'static str> {
        match self {
            Recorder::Script => Some("script"),
            Recorder::Tmux => Some("tmux"),
            _ => None,
        }
    }
}

/// One run.
#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    megabytes_per_second: f64,
    seconds: f64,
    recorder_seconds_per_gigabyte: f64,
    daemon_seconds_per_gigabyte: f64,
    lines: u64,
    logged: u64,
    dropped: u64,
}

/// What a helper process does: a role of the scenarios, or one of ours.
pub(crate) fn role(args: &[String]) {
    match args[0].as_str() {
        "writer" => writer(&args[1..]),
        "bare" => bare(&args[1..]),
        _ => {
            if let Some(Err(error)) = millpond_loadgen::role(args) {
                panic!("{error}");
            }
        }
    }
}

fn host() -> Host {
    let this = std::env::current_exe().expect("a program knows its own path");
    Host::new(this, &["role"])
}

fn this_words(words: &[&str]) -> Vec<OsString> {
    let this = std::env::current_exe().expect("a program knows its own path");
    let words = ["role"].iter().chain(words).map(OsString::from);
    std::iter::once(this.into_os_string())
        .chain(words)
        .collect()
}

/// `LINE_BYTES MILLIS FILE`: writes lines for so long, and then to the file how long, how many bytes, how much CPU.
fn writer(args: &[String]) {
    let line_bytes: usize = args[0].parse().expect("a number");
    let time = Duration::from_millis(args[1].parse().expect("a number"));
    // No two lines in a row are alike: else the log would count repeats.
    let mut block = Vec::new();
    for number in 0.. {
        let text = b'a' + (number % 26) as u8;
        block.extend(std::iter::repeat_n(text, line_bytes - 1));
        block.push(b'\n');
        if block.len() + line_bytes > BLOCK_BYTES {
            break;
        }
    }
    let mut out = std::io::stdout().lock();
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < time {
        out.write_all(&block).expect("somebody reads");
        bytes += block.len();
    }
    out.flush().expect("somebody reads");
    let elapsed = started.elapsed().as_nanos();
    let cpu = cpu_ns(std::process::id());
    // Renamed: whoever sees it sees all of it.
    let part = format!("{}.part", args[2]);
    fs::write(&part, format!("{elapsed} {bytes} {cpu}")).expect("a place for it");
    fs::rename(&part, &args[2]).expect("a place for it");
}

/// `onlcr|-onlcr COMMAND ..`: a terminal that is read, and nothing else.
fn bare(args: &[String]) {
    let is_own = args[0] == "-onlcr";
    let attributes = |attributes: &mut _| {
        if is_own {
            without_carriage_returns(attributes);
        }
    };
    let words = &args[1..];
    let mut terminal =
        Terminal::start_with(&host(), (80, 24), &[], words, &attributes).expect("a terminal");
    let mut buffer = vec![0; BLOCK_BYTES];
    while terminal.read(&mut buffer).expect("it can be read") > 0 {}
    terminal.wait().expect("it ends");
}

/// Everything that a run needs.
struct Place {
    dir: tempfile::TempDir,
    millpond: PathBuf,
    bus: String,
    daemon: Running,
    millis: u64,
    run: u32,
}

impl Place {
    fn new(millpond: &Path, millis: u64) -> Self {
        let dir = tempfile::tempdir().expect("a place for the files");
        let bus = format!("bench-pty-{}", std::process::id());
        let mut command = Command::new(millpond);
        command
            .args(["daemon", "--bus", &bus, "--logs"])
            .arg(dir.path().join("logs"))
            .env("MILLPOND_CONFIG", "/dev/null")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut daemon = Running::start(&mut command).expect("a daemon can be started");
        while Bus::open(&bus).is_err() {
            let ended = daemon.try_wait().expect("it can be asked");
            assert!(ended.is_none(), "the daemon goes on: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Place {
            dir,
            millpond: millpond.to_owned(),
            bus,
            daemon,
            millis,
            run: 0,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn capture(&self, service: &str, more: &[&str]) -> Command {
        let mut command = Command::new(&self.millpond);
        command.args(["capture", "--bus", &self.bus, "--service", service]);
        command.args(more).arg("--");
        command.env("MILLPOND_CONFIG", "/dev/null");
        command
    }

    fn run(&mut self, recorder: Recorder, line_bytes: usize) -> Figures {
        self.run += 1;
        let said = self.file(&format!("said-{}", self.run));
        let service = format!("run-{}", self.run);
        let words = this_words(&[
            "writer",
            &line_bytes.to_string(),
            &self.millis.to_string(),
            &said.display().to_string(),
        ]);
        let daemon_before = own_cpu_seconds(self.daemon.id());
        let children_before = children_cpu_seconds(std::process::id());
        let mut used = None;
        let mut command = match recorder {
            Recorder::BareKernel | Recorder::BareOwn => {
                let mode = match recorder {
                    Recorder::BareOwn => "-onlcr",
                    _ => "onlcr",
                };
                let bare = this_words(&["bare", mode]);
                let mut command = Command::new(&bare[0]);
                command.args(&bare[1..]).args(&words);
                Some(command)
            }
            Recorder::CaptureKernel | Recorder::CaptureOwn => {
                let who = match recorder {
                    Recorder::CaptureOwn => "own",
                    _ => "kernel",
                };
                let mut command = self.capture(&service, &["--newlines", who]);
                command.args(&words);
                Some(command)
            }
            Recorder::Script => {
                let mut command = Command::new("script");
                command.args(["-qf", "-c"]).arg(shell_line(&words));
                command.arg(self.file("typescript"));
                Some(command)
            }
            Recorder::Tmux => {
                used = Some(self.tmux(&words, &said));
                None
            }
        };
        if let Some(command) = &mut command {
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let status = command.status().expect("it can be started");
            assert!(status.success(), "{recorder:?}: {status}");
        }
        let used =
            used.unwrap_or_else(|| children_cpu_seconds(std::process::id()) - children_before);
        let text = fs::read_to_string(&said).expect("the writer has told");
        let told: Vec<f64> = text
            .split(' ')
            .map(|word| word.parse().expect("a figure"))
            .collect();
        let (elapsed, bytes, writer_cpu) = (told[0] / 1e9, told[1], told[2] / 1e9);
        let (logged, dropped) = self.account(&service);
        let daemon = own_cpu_seconds(self.daemon.id()) - daemon_before;
        let is_capture = recorder.is_capture();
        // The next has a disk at rest, and room.
        for name in ["typescript", "pane"] {
            let _ = fs::remove_file(self.file(name));
        }
        Figures {
            megabytes_per_second: bytes / 1e6 / elapsed,
            seconds: elapsed,
            recorder_seconds_per_gigabyte: (used - writer_cpu).max(0.0) / (bytes / 1e9),
            daemon_seconds_per_gigabyte: match is_capture {
                true => daemon / (bytes / 1e9),
                false => 0.0,
            },
            lines: bytes as u64 / line_bytes as u64,
            logged,
            dropped,
        }
    }

    /// A server of its own; the command starts when the pane is piped. Processor time of the server, of the command
    /// and of the one that writes the file.
    fn tmux(&self, words: &[OsString], said: &Path) -> f64 {
        let socket = format!("millpond-bench-{}", std::process::id());
        let tmux = |args: &[&str]| {
            let mut command = Command::new("tmux");
            command.args(["-L", &socket, "-f", "/dev/null"]).args(args);
            let output = command.stdin(Stdio::null()).output().expect("tmux runs");
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "tmux {args:?}: {why}");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        let line = format!("read go; exec {}", shell_line(words));
        tmux(&["new-session", "-d", "-x", "80", "-y", "24", &line]);
        tmux(&["set-option", "-g", "remain-on-exit", "on"]);
        let to = format!("cat > {}", self.file("pane").display());
        tmux(&["pipe-pane", "-o", &to]);
        tmux(&["send-keys", "Enter"]);
        while !said.exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let is_dead = || tmux(&["display-message", "-p", "#{pane_dead}"]) == "1";
        while !is_dead() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid: u32 = tmux(&["display-message", "-p", "#{pid}"])
            .parse()
            .expect("a number");
        let cat = children_of(pid)
            .into_iter()
            .map(|pid| cpu_ns(pid) as f64 / 1e9)
            .sum::<f64>();
        let used = own_cpu_seconds(pid) + cat + children_cpu_seconds(pid);
        tmux(&["kill-server"]);
        used
    }

    /// Lines in the log, and lines dropped, once nothing is under way.
    fn account(&self, service: &str) -> (u64, u64) {
        let bus = Bus::open(&self.bus).expect("the bus is there");
        let label = format!("capture:{service}");
        loop {
            let stats = bus.stats();
            let mine = stats
                .sources
                .iter()
                .filter(|source| source.label == label && source.pattern == "log:*");
            let sum = mine.fold((0, 0, 0), |(flight, logged, dropped), source| {
                let now = (source.in_flight, source.delivered, source.dropped.total());
                (flight + now.0, logged + now.1, dropped + now.2)
            });
            if sum.0 == 0 {
                return (sum.1, sum.2);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Times from a key to its echo by a program, in ns.
    fn keys(&self, recorder: Option<Recorder>, count: usize) -> Vec<u64> {
        let raw = "stty raw -echo; echo ready; exec cat";
        let shell = ["sh", "-c", raw].map(OsString::from);
        let words: Vec<OsString> = match recorder {
            None => shell.to_vec(),
            Some(Recorder::Script) => {
                let file = self.file("typescript").into_os_string();
                let mut words = ["script", "-qf", "-c", raw].map(OsString::from).to_vec();
                words.push(file);
                words
            }
            Some(_) => {
                let command = self.capture("keys", &[]);
                let words = std::iter::once(command.get_program()).chain(command.get_args());
                words.map(OsString::from).chain(shell).collect()
            }
        };
        let mut terminal = Terminal::start(
            &host(),
            (80, 24),
            &[("MILLPOND_CONFIG", "/dev/null".as_ref())],
            &words,
        )
        .expect("a terminal");
        let mut buffer = [0; 4096];
        let mut seen = Vec::new();
        while !seen.windows(5).any(|part| part == b"ready") {
            let count = terminal.read(&mut buffer).expect("it can be read");
            assert!(
                count > 0,
                "it goes on: {:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.extend_from_slice(&buffer[..count]);
        }
        // The rest of that line; `cat` is ready when a key comes back.
        while terminal
            .wait_readable(Duration::from_millis(50))
            .expect("it can be asked")
        {
            let _rest = terminal.read(&mut buffer).expect("it can be read");
        }
        let mut key = |key: u8| {
            let started = Instant::now();
            terminal.write_all(&[key]).expect("it listens");
            let count = terminal.read(&mut buffer).expect("it can be read");
            let elapsed = started.elapsed().as_nanos() as u64;
            assert_eq!(buffer[..count], [key], "the key comes back");
            elapsed
        };
        for _ in 0..20 {
            key(b'x');
        }
        let pause = Duration::from_micros(200);
        (0..count)
            .map(|number| {
                // Whoever types leaves everybody time to fall asleep.
                std::thread::sleep(pause);
                key(b'a' + (number % 26) as u8)
            })
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.daemon.end();
        if let Ok(bus) = Bus::open(&self.bus) {
            let _ = bus.remove();
        }
    }
}

/// Processor time of `pid`, of threads that have ended too, in seconds; resolution 10 ms.
fn own_cpu_seconds(pid: u32) -> f64 {
    let (user, system) = cpu_seconds(pid);
    user + system
}

/// Processor time of children of `pid` that it has waited for, in seconds; resolution 10 ms.
fn children_cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The command's name is in parentheses and may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(13).take(2);
    ticks
        .filter_map(|text| text.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn children_of(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Nothing in it needs more than quotes.
fn shell_line(words: &[OsString]) -> String {
    let words = words
        .iter()
        .map(|word| format!("'{}'", word.to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

fn is_installed(program: &str) -> bool {
    let command = Command::new("which")
        .arg(program)
        .stdout(Stdio::null())
        .status();
    command.is_ok_and(|status| status.success())
}

impl Figures {
    fn round(&self, line_bytes: usize) -> Round {
        let gigabytes = self.megabytes_per_second * self.seconds / 1e3;
        Round {
            events: self.lines * line_bytes as u64,
            seconds: self.seconds,
            cpu_seconds: (self.recorder_seconds_per_gigabyte + self.daemon_seconds_per_gigabyte)
                * gigabytes,
            lost: self.dropped * line_bytes as u64,
            ..Round::default()
        }
    }
}

/// Measures everything and prints it; the same as rows.
pub(crate) fn measure(millpond: &Path) -> Vec<Row> {
    let seconds = std::env::var("MILLPOND_BENCH_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(1.5);
    let millis = match is_tiny() {
        true => 50,
        false => (1000.0 * seconds) as u64,
    };
    let rounds = rounds_or(5);
    let mut place = Place::new(millpond, millis);
    let mut figures: BTreeMap<(usize, Recorder), Vec<Figures>> = BTreeMap::new();
    let mut present = RECORDERS.to_vec();
    present.retain(|recorder| {
        let missing = recorder.program().filter(|program| !is_installed(program));
        if let Some(program) = missing {
            println!("skipped: {program} is not installed");
        }
        missing.is_none()
    });
    for round in 0..rounds {
        for (index, line_bytes) in LINE_BYTES.into_iter().enumerate() {
            for &recorder in &present {
                let found = place.run(recorder, line_bytes);
                if !is_tiny() {
                    eprintln!(
                        "round {} of {rounds}, {line_bytes}: {recorder:?}: {found:.1?}",
                        round + 1
                    );
                }
                figures.entry((index, recorder)).or_default().push(found);
            }
        }
    }
    println!(
        "a command on a terminal, written in blocks of 64 KiB for {millis} ms, {rounds} rounds"
    );
    println!(
        "median  (least to greatest) MB/s; CPU s/GB of the recorder, of the daemon; lines, logged, dropped"
    );
    let program = millpond.display().to_string();
    let own = [program.as_str(), "--version"];
    let mut rows = Vec::new();
    for (index, line_bytes) in LINE_BYTES.into_iter().enumerate() {
        for recorder in RECORDERS {
            let all = figures.get(&(index, recorder)).into_iter().flatten();
            let rounds = all.map(|found| found.round(line_bytes)).collect();
            let work = format!("lines of {line_bytes} B on a terminal");
            rows.push(row(work, recorder.who(&own), Figure::Bandwidth, rounds));
        }
    }
    for ((index, recorder), all) in &figures {
        let spread = |of: &dyn Fn(&Figures) -> f64| Spread::of(all.iter().map(of).collect());
        let sum = |of: &dyn Fn(&Figures) -> u64| all.iter().map(of).sum::<u64>();
        println!(
            "{:>3} B  {:<35} {}  {:5.2}  {:5.2}  {:>10} {:>10} {:>10}",
            LINE_BYTES[*index],
            recorder.name(),
            spread(&|found| found.megabytes_per_second),
            spread(&|found| found.recorder_seconds_per_gigabyte).median,
            spread(&|found| found.daemon_seconds_per_gigabyte).median,
            sum(&|found| found.lines),
            sum(&|found| found.logged),
            sum(&|found| found.dropped),
        );
    }
    rows.extend(measure_keys(&place, rounds, &present, &own));
    rows
}

fn measure_keys(place: &Place, rounds: usize, present: &[Recorder], own: &[&str; 2]) -> Vec<Row> {
    let count = match is_tiny() {
        true => 20,
        false => KEYS / rounds,
    };
    let ways = [
        ("without", None),
        ("capture", Some(Recorder::CaptureKernel)),
        ("script", Some(Recorder::Script)),
    ];
    let mut times: Vec<Vec<u64>> = vec![Vec::new(); ways.len()];
    let mut rounds_of: Vec<Vec<Round>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (index, (_, recorder)) in ways.iter().enumerate() {
            if recorder.is_none_or(|recorder| present.contains(&recorder)) {
                let keys = place.keys(*recorder, count);
                rounds_of[index].push(Round {
                    events: keys.len() as u64,
                    seconds: keys.iter().sum::<u64>() as f64 / 1e9,
                    latency_ns: Some(LatencyNs::of(keys.clone())),
                    ..Round::default()
                });
                times[index].extend(keys);
            }
        }
    }
    let mut rows = Vec::new();
    for ((_, recorder), rounds) in ways.iter().zip(rounds_of) {
        let mut who = recorder.unwrap_or(Recorder::BareKernel).who(own);
        if recorder.is_none() {
            who.name = "bare terminal";
        }
        let work = "from a key to its echo by `cat`".to_owned();
        rows.push(row(work, who, Figure::Latency, rounds));
    }
    println!(
        "from a key to its echo by `cat`, {} keys: p50, p99, p99.9, longest in us",
        count * rounds
    );
    for ((name, _), times) in ways.iter().zip(times) {
        let [p50, p99, p999, max] = percentiles(times).map(|ns| ns as f64 / 1e3);
        println!("  {name:<8} {p50:8.1} {p99:8.1} {p999:8.1} {max:8.1}");
    }
    // The file of `script` is nobody's any more.
    drop(File::create(place.file("typescript")));
    rows
}
