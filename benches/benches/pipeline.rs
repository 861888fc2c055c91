//! Lines from other processes through shared memory into indexed files, beside writers of plain text in
//! the same run. Nothing may be lost, and every line is counted afterwards.
//!
//! Run: `cargo bench -p millpond-benches --bench pipeline`

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millpond_benches::{
    Spread, cpu_seconds, is_tiny, machine, read_line, rounds, size, start_self,
};
use millpond_bus::{Bus, BusOptions, Guarantee, Level, Overflow, Rule, RuleTable};
use millpond_daemon::{BackendChoice, Daemon, Policy, Reductions};
use millpond_logfile::{Level as LineLevel, LineWriter, Query, Reader, Source};

/// With time, level and source a line of 128 bytes.
const MESSAGE_BYTES: usize = 86;
const SERVICES: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |word: &str| {
        args.iter()
            .position(|arg| arg == word)
            .map(|at| &args[at + 1..])
    };
    if let Some(rest) = after("publisher") {
        return publisher_process(&rest[0], &rest[1], rest[2].parse().expect("a number"));
    }
    if let Some(rest) = after("daemon") {
        return daemon_process(&rest[0], Path::new(&rest[1]), &rest[2]);
    }
    let lines = size(10_000_000);
    let dir = std::env::var_os("MILLPOND_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    println!("{}", machine());
    println!(
        "{lines} lines of 128 bytes, {SERVICES} services, to {}; median (least to greatest) of {} rounds",
        dir.display(),
        rounds().min(6)
    );
    println!(
        "{:40} {:>8}  {:22} {:>10} {:>14}",
        "", "M lines/s", "", "MB/s", "cpu s, all"
    );
    let cases: [(&str, usize, &str); 4] = [
        ("millpond, 1 publisher, io_uring", 1, "auto"),
        ("millpond, 4 publishers, io_uring", 4, "auto"),
        ("millpond, 1 publisher, pwrite", 1, "pwrite"),
        ("millpond, 4 publishers, pwrite", 4, "pwrite"),
    ];
    let text = plain_text(lines);
    let mut figures: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    let mut add = |name: &str, figure: Option<(f64, f64)>| {
        let index = figures
            .iter()
            .position(|(known, _)| known == name)
            .unwrap_or_else(|| {
                figures.push((name.to_owned(), Vec::new()));
                figures.len() - 1
            });
        figures[index].1.extend(figure);
    };
    // The first writer of a round pays for the write-back of the last one: each round begins elsewhere.
    for round in 0..rounds().min(6) {
        for at in 0..cases.len() {
            let (name, publishers, backend) = cases[(round + at) % cases.len()];
            add(name, Some(millpond(lines, publishers, backend, &dir)));
        }
        add(
            "BufWriter of preformatted lines",
            Some(buf_writer(&text, lines, &dir)),
        );
        add(
            "dd bs=1M of the same bytes",
            through(&["dd", "bs=1M", "status=none"], &text, lines, &dir),
        );
        add("cat > file", through(&["cat"], &text, lines, &dir));
        add("s6-log (through a pipe)", s6_log(&text, lines, &dir));
    }
    for (name, figures) in figures {
        if figures.is_empty() {
            println!("{name:40} skipped: not installed");
            continue;
        }
        let rate = Spread::of(figures.iter().map(|figure| figure.0 / 1e6).collect());
        let cpu = Spread::of(figures.iter().map(|figure| figure.1).collect());
        println!(
            "{name:40} {rate:32} {:10.0} {:14.2}",
            rate.median * 128.0,
            cpu.median
        );
    }
    if is_tiny() {
        println!("(a tiny run: the figures mean nothing)");
    }
}

fn options() -> BusOptions {
    let pattern = "log:*".parse().expect("a pattern");
    let rule = Rule {
        service: Some("*".into()),
        lane_bytes: 4 << 20,
        max_events: 1 << 20,
        overflow: Overflow::Block {
            deadline: Duration::from_secs(60),
        },
        ..Rule::new(pattern)
    };
    BusOptions {
        rules: RuleTable::new(vec![rule]).expect("one good rule"),
        ..BusOptions::default()
    }
}

/// Lines a second from the first publish until all is written, and the processor time of all processes.
fn millpond(lines: u64, publishers: usize, backend: &str, dir: &Path) -> (f64, f64) {
    let logs = tempfile::tempdir_in(dir).expect("a place for the logs");
    let bus =
        Bus::attach(&format!("bench-pipe-{}", std::process::id()), &options()).expect("a bus");
    let logs_text = logs.path().display().to_string();
    let (mut daemon, mut ready) = start_self(&[
        "daemon".into(),
        bus.name().into(),
        logs_text,
        backend.into(),
    ]);
    read_line(&mut ready);
    let mut children: Vec<_> = (0..publishers)
        .map(|number| {
            let share = lines / publishers as u64;
            start_self(&[
                "publisher".into(),
                bus.name().into(),
                number.to_string(),
                share.to_string(),
            ])
        })
        .collect();
    children
        .iter_mut()
        .for_each(|(_, output)| drop(read_line(output)));
    let started = Instant::now();
    for (child, _) in &mut children {
        // Closing its input is the signal to begin.
        drop(child.stdin.take());
    }
    let mut cpu = 0.0;
    for (child, output) in &mut children {
        cpu += read_line(output).parse::<f64>().expect("processor time");
        child.wait().expect("the publisher ends");
    }
    let elapsed = started.elapsed();
    let (user, system) = cpu_seconds(daemon.id());
    drop(daemon.stdin.take());
    daemon.wait().expect("the daemon ends");
    let published = lines / publishers as u64 * publishers as u64;
    let reader = Reader::open(logs.path()).expect("the logs are there");
    let counts = reader.count(&Query::new()).expect("the logs can be read");
    assert_eq!(
        counts.total(),
        published,
        "nothing is lost and nothing is there twice"
    );
    bus.remove().expect("nobody uses it");
    (
        published as f64 / elapsed.as_secs_f64(),
        cpu + user + system,
    )
}

fn daemon_process(bus: &str, logs: &Path, backend: &str) {
    let bus = Bus::open(bus).expect("our parent made it");
    let backend = if backend == "pwrite" {
        BackendChoice::Pwrite
    } else {
        BackendChoice::Auto
    };
    let policy = Policy {
        backend,
        total_bytes_limit: None,
        ..Policy::default()
    };
    // For a comparison: `MILLPOND_BENCH_REPEATS=off` writes every record as it comes.
    let looks = std::env::var_os("MILLPOND_BENCH_REPEATS").is_none_or(|value| value != "off");
    let reductions = match looks {
        true => Reductions::default(),
        false => Reductions::none(),
    };
    let running = Daemon::builder(&bus, logs)
        .policy(policy)
        .reductions(reductions)
        .spawn()
        .expect("the daemon starts");
    println!("ready");
    // Our parent closes our input when we may go.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("our input can be read");
    running.stop().expect("everything is written");
}

fn publisher_process(bus: &str, number: &str, lines: u64) {
    let bus = Bus::open(bus).expect("our parent made it");
    let mut publisher = bus.publisher(&format!("bench-{number}")).expect("a label");
    let topics: Vec<_> = (0..SERVICES)
        .map(|service| {
            publisher
                .topic(&format!("log:s{service}:out"))
                .expect("a rule matches")
        })
        .collect();
    let mut message = [b'm'; MESSAGE_BYTES];
    println!("ready");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("our input can be read");
    for line in 0..lines {
        let topic = topics[(line / 64) as usize % SERVICES];
        // No two in a row are the same: those would become one line.
        message[..8].copy_from_slice(&line.to_le_bytes().map(|byte| b'a' + (byte & 15)));
        message[8..16].copy_from_slice(&line.to_le_bytes().map(|byte| b'a' + (byte >> 4)));
        publisher
            .publish(topic, Level::Info, &message)
            .expect("the daemon drains");
    }
    publisher
        .flush(Guarantee::Written, None)
        .expect("the daemon writes");
    let (user, system) = cpu_seconds(std::process::id());
    println!("{}", user + system);
}

/// The same lines, formatted, in memory.
fn plain_text(lines: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let (mut writer, source) = (LineWriter::new(), Source::new("out"));
    for line in 0..lines {
        let time_ns = 1_795_224_593_000_000_000 + line * 137;
        writer.write(
            &mut text,
            time_ns,
            LineLevel::Info,
            &source,
            &[b'm'; MESSAGE_BYTES],
        );
    }
    text
}

fn own_cpu() -> f64 {
    let (user, system) = cpu_seconds(std::process::id());
    user + system
}

fn buf_writer(text: &[u8], lines: u64, dir: &Path) -> (f64, f64) {
    let file = tempfile::NamedTempFile::new_in(dir).expect("a file");
    let cpu = own_cpu();
    let started = Instant::now();
    let mut out = BufWriter::new(File::create(file.path()).expect("a file"));
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        out.write_all(line).expect("room on the disk");
    }
    out.flush().expect("room on the disk");
    (
        lines as f64 / started.elapsed().as_secs_f64(),
        own_cpu() - cpu,
    )
}

/// The text through a program's standard input, its output to a file.
fn through(command: &[&str], text: &[u8], lines: u64, dir: &Path) -> Option<(f64, f64)> {
    let file = tempfile::NamedTempFile::new_in(dir).expect("a file");
    let mut command_line = Command::new(command[0]);
    command_line
        .args(&command[1..])
        .stdout(File::create(file.path()).expect("a file"));
    feed(command_line, text, lines)
}

fn s6_log(text: &[u8], lines: u64, dir: &Path) -> Option<(f64, f64)> {
    let logs = tempfile::tempdir_in(dir).expect("a place for the logs");
    let mut command = Command::new("s6-log");
    command.args(["-b", "n20", "s67108864"]).arg(logs.path());
    feed(command, text, lines)
}

fn feed(mut command: Command, text: &[u8], lines: u64) -> Option<(f64, f64)> {
    let started = Instant::now();
    let cpu = own_cpu();
    let mut child = command.stdin(Stdio::piped()).spawn().ok()?;
    let mut input = child.stdin.take().expect("its input was asked for");
    input.write_all(text).expect("the program reads");
    let (user, system) = cpu_seconds(child.id());
    drop(input);
    child.wait().expect("the program ends");
    let elapsed = started.elapsed().as_secs_f64();
    Some((lines as f64 / elapsed, own_cpu() - cpu + user + system))
}
