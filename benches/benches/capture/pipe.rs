//! Lines through a pipe into files: `millpond pipe` with a daemon, and what else people put there. This program is the
//! producer; its own processor time is in no figure, that of all others is.
//!
//! `MILLPOND_BENCH_MB` is how much goes through (256), `MILLPOND_BENCH_ROUNDS` how often (5), one after the other in
//! turns, so that what else the machine does is spread over all. Nobody waits for the disk.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Instant;

use millpond_bench::{Figure as Of, Round, Row};
use millpond_benches::{Spread, cpu_seconds, is_tiny, machine, read_line, rounds_or};
use millpond_bus::Bus;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::Running;
use crate::rows::{Who, row};

/// With its newline.
const LINE_BYTES: [usize; 3] = [100, 1000, 16 << 10];
/// What a program gives to one `write`.
const BLOCK_BYTES: usize = 64 << 10;
const SERVICE: &str = "bench";

/// One run.
#[derive(Clone, Copy)]
struct Figure {
    seconds: f64,
    cpu_seconds: f64,
    /// Lines that are in no file.
    lost: u64,
}

/// Writes bytes to a program or a chain of them, and waits for its end.
type Peer = fn(&Place<'_>, &[u8]) -> Option<Figure>;

struct Place<'p> {
    program: &'p Path,
    dir: &'p Path,
}

/// Prints the table; the same as rows.
pub(crate) fn measure(program: &Path) -> Vec<Row> {
    let megabytes = std::env::var("MILLPOND_BENCH_MB").ok();
    let bytes = match megabytes.and_then(|text| text.parse::<usize>().ok()) {
        _ if is_tiny() => 1_000_000,
        megabytes => megabytes.unwrap_or(256) * 1_000_000,
    };
    let dir = std::env::var_os("MILLPOND_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let place = Place { program, dir: &dir };
    let millpond = program.display().to_string();
    let own = [millpond.as_str(), "--version"];
    let who = |name, version, drops| Who {
        name,
        version,
        is_floor: false,
        drops,
    };
    let peers: [(Who<'_>, Peer); 5] = [
        (who("millpond pipe, daemon", &own, false), pipe),
        (who("millpond capture --pipe, daemon", &own, true), capture),
        (
            who("cat > file", &["cat", "--version"], false),
            |place, text| chain(place, text, 1),
        ),
        (
            who("cat into cat > file", &["cat", "--version"], false),
            |place, text| chain(place, text, 2),
        ),
        (
            who(
                "s6-log",
                &["dpkg-query", "-W", "-f", "${Package} ${Version}", "s6"],
                false,
            ),
            s6_log,
        ),
    ];
    let mut rows = Vec::new();
    let rounds = rounds_or(5);
    println!("{}", machine());
    println!(
        "{} MB through a pipe to {}; median (least to greatest) of {rounds} rounds; processor time without the \
         producer's",
        bytes / 1_000_000,
        dir.display(),
    );
    println!(
        "{:34} {:>10} {:30} {:>10} {:>10} {:>8}",
        "", "line bytes", "     MB/s", "M lines/s", "cpu s/GB", "lost"
    );
    for line_bytes in LINE_BYTES {
        let text = lines(bytes, line_bytes);
        let count = (text.len() / line_bytes) as f64;
        let gigabytes = text.len() as f64 / 1e9;
        let mut figures: Vec<Vec<Figure>> = vec![Vec::new(); peers.len()];
        for round in 0..rounds {
            for at in 0..peers.len() {
                // Who is first pays for the write-back of the round before.
                let index = (round + at) % peers.len();
                figures[index].extend(peers[index].1(&place, &text));
            }
        }
        for ((who, _), figures) in peers.iter().zip(figures) {
            let name = who.name;
            let rounds = figures.iter().map(|figure| Round {
                events: text.len() as u64,
                seconds: figure.seconds,
                cpu_seconds: figure.cpu_seconds,
                lost: figure.lost * line_bytes as u64,
                ..Round::default()
            });
            let work = format!("lines of {line_bytes} B through a pipe");
            rows.push(row(work, *who, Of::Bandwidth, rounds.collect()));
            if figures.is_empty() {
                println!("{name:34} {line_bytes:10} skipped: not there");
                continue;
            }
            let spread = |of: &dyn Fn(&Figure) -> f64| Spread::of(figures.iter().map(of).collect());
            let rate = spread(&|figure| gigabytes * 1000.0 / figure.seconds);
            let lines = spread(&|figure| count / 1e6 / figure.seconds);
            let cpu = spread(&|figure| figure.cpu_seconds / gigabytes);
            let lost: u64 = figures.iter().map(|figure| figure.lost).sum();
            println!(
                "{name:34} {line_bytes:10} {:30} {:10.2} {:10.2} {lost:8}",
                rate.to_string(),
                lines.median,
                cpu.median
            );
        }
    }
    if is_tiny() {
        println!("(a tiny run: the figures mean nothing)");
    }
    rows
}

/// No two lines are the same: the daemon would write such as one.
fn lines(bytes: usize, line_bytes: usize) -> Vec<u8> {
    let words =
        b"GET /index.html 200 took 12 ms user=alice region=eu-west-1 trace=abcdef0123456789 ";
    let mut text = Vec::with_capacity(bytes + line_bytes);
    while text.len() < bytes {
        let end = text.len() + line_bytes - 1;
        text.extend_from_slice(format!("{:012} ", text.len() / line_bytes).as_bytes());
        text.extend(words.iter().cycle().take(end - text.len()));
        text.push(b'\n');
    }
    text
}

fn feed(mut input: ChildStdin, text: &[u8]) {
    for block in text.chunks(BLOCK_BYTES) {
        input.write_all(block).expect("the program reads");
    }
}

/// Waits for its end; its processor time, and whether it said that all is well.
fn ended(mut child: Running) -> (f64, bool) {
    let pid = Pid::from_child(&child);
    // Dead and not yet taken away it still can be asked.
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .expect("it is our child");
    let (user, system) = cpu_seconds(child.id());
    let status = child.wait().expect("it is our child");
    (user + system, status.success())
}

fn chain(place: &Place<'_>, text: &[u8], cats: usize) -> Option<Figure> {
    let file = tempfile::NamedTempFile::new_in(place.dir).expect("a file");
    let started = Instant::now();
    let mut children: Vec<Running> = Vec::new();
    for index in 0..cats {
        let mut command = Command::new("cat");
        match children.last_mut().and_then(|child| child.stdout.take()) {
            Some(before) => command.stdin(before),
            None => command.stdin(Stdio::piped()),
        };
        match index + 1 == cats {
            true => command.stdout(File::create(file.path()).expect("a file")),
            false => command.stdout(Stdio::piped()),
        };
        children.push(Running::start(&mut command).ok()?);
    }
    feed(children[0].stdin.take()?, text);
    let cpu_seconds = children.into_iter().map(|child| ended(child).0).sum();
    Some(Figure {
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds,
        lost: 0,
    })
}

fn s6_log(place: &Place<'_>, text: &[u8]) -> Option<Figure> {
    let logs = tempfile::tempdir_in(place.dir).expect("a place for the logs");
    let started = Instant::now();
    let mut command = Command::new("s6-log");
    command
        .args(["-b", "n20", "s67108864"])
        .arg(logs.path())
        .stdin(Stdio::piped());
    let mut child = Running::start(&mut command).ok()?;
    feed(child.stdin.take()?, text);
    let (cpu_seconds, _) = ended(child);
    Some(Figure {
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds,
        lost: 0,
    })
}

fn pipe(place: &Place<'_>, text: &[u8]) -> Option<Figure> {
    with_daemon(place, text, &["pipe", "--service", SERVICE])
}

/// The command is `cat`, which counts as the producer.
fn capture(place: &Place<'_>, text: &[u8]) -> Option<Figure> {
    let args = ["capture", "--service", SERVICE, "--pipe", "--", "cat"];
    with_daemon(place, text, &args)
}

fn with_daemon(place: &Place<'_>, text: &[u8], args: &[&str]) -> Option<Figure> {
    let logs = tempfile::tempdir_in(place.dir).expect("a place for the logs");
    let bus = format!("bench-capture-{}", std::process::id());
    let command = |args: &[&str]| {
        let mut command = Command::new(place.program);
        command
            .args(args)
            .env("MILLPOND_BUS", &bus)
            .env("MILLPOND_LOGS", logs.path())
            .env("MILLPOND_CONFIG", "/dev/null");
        command
    };
    let mut daemon =
        Running::start(command(&["daemon"]).stdout(Stdio::piped())).expect("the daemon starts");
    let mut ready = std::io::BufReader::new(daemon.stdout.take()?);
    read_line(&mut ready);
    let started = Instant::now();
    let mut capturing = command(args);
    capturing
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = Running::start(&mut capturing).expect("the program starts");
    let mut input = child.stdin.take()?;
    // A command that is not there yet reads nothing.
    let is_read = text
        .chunks(BLOCK_BYTES)
        .all(|block| input.write_all(block).is_ok());
    drop(input);
    let (cpu, is_well) = ended(child);
    let seconds = started.elapsed().as_secs_f64();
    let (user, system) = cpu_seconds(daemon.id());
    let pid = Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is our child");
    daemon.wait().expect("it is our child");
    let count = |source: &str| -> u64 {
        let args = ["query", "--service", SERVICE, "--source", source, "--count"];
        let output = command(&args).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().parse().unwrap_or_default()
    };
    let lines = lines_of(text);
    let found = count("pipe*");
    Bus::open(&bus)
        .and_then(|bus| bus.remove())
        .expect("nobody uses it");
    (is_read && (is_well || found > 0)).then_some(Figure {
        seconds,
        cpu_seconds: cpu + user + system,
        lost: lines.saturating_sub(found),
    })
}

fn lines_of(text: &[u8]) -> u64 {
    text.iter().map(|&byte| u64::from(byte == b'\n')).sum()
}
