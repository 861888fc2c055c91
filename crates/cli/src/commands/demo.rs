//! `millpond demo`: the main job on real logs, with separate processes, in a temporary place.
//!
//! The logs are output of real programs, see `demo/README.md` of this crate.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use millpond_bus::{Bus, Guarantee, Stats};
use millpond_capture::detect_level;
use millpond_logfile::{Level, LevelSet, Query, Reader, SegmentText, list_segments, list_services};

use crate::Run;
use crate::args::Settings;
use crate::flags::{DemoFeedFlags, DemoFlags};
use crate::outcome::{Failure, Outcome};
use crate::print::progress::Progress;
use crate::print::table::Table;
use crate::print::{self, BOLD, DIM, GREEN, RED, stdout};
use crate::units::{human_count, human_size};

/// The services of the demo, and what they say.
const LOGS: [(&str, &[u8]); 8] = [
    ("build", include_bytes!("../../demo/build.log")),
    ("db", include_bytes!("../../demo/db.log")),
    ("git", include_bytes!("../../demo/git.log")),
    ("kernel", include_bytes!("../../demo/kernel.log")),
    ("node", include_bytes!("../../demo/node.log")),
    ("packages", include_bytes!("../../demo/packages.log")),
    ("tests", include_bytes!("../../demo/tests.log")),
    ("web", include_bytes!("../../demo/web.log")),
];
/// Publisher processes; each speaks for two services.
const PUBLISHERS: usize = 4;
/// Sealed text is unpacked in pieces of this size.
const UNSEAL_BYTES: u64 = 1 << 20;
const LIVE_INTERVAL: Duration = Duration::from_millis(250);
/// A line that is in the logs a few times and no more.
const NEEDLE: &str = "the needle in this haystack";

pub(crate) fn run(flags: &DemoFlags, settings: &Settings) -> Run {
    crate::args::parse_backend(&flags.backend)?;
    let dir = tempfile::Builder::new()
        .prefix("millpond-demo-")
        .tempdir()?;
    let stage = Stage {
        bus: format!("demo-{}", std::process::id()),
        logs: dir.path().join("logs"),
        settings,
    };
    let outcome = stage.play(flags);
    let kept = if flags.remove || outcome.is_err() {
        None
    } else {
        Some(dir.keep())
    };
    if let Some(dir) = kept {
        println!(
            "The files are in {}; remove them with: rm -r {0}",
            dir.display()
        );
        let logs = stage.logs.display();
        println!("Try: millpond query --logs {logs} --service web --level error -n 5");
    }
    outcome
}

struct Stage<'s> {
    bus: String,
    logs: PathBuf,
    settings: &'s Settings,
}

/// A child that does not outlive us.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage<'_> {
    fn play(&self, flags: &DemoFlags) -> Run {
        let mut daemon = self.start_daemon(&flags.backend)?;
        let bus = Bus::open(&self.bus)?;
        let outcome = self.perform(flags, &bus, &mut daemon);
        drop(daemon);
        bus.remove()?;
        outcome
    }

    fn perform(&self, flags: &DemoFlags, bus: &Bus, daemon: &mut Reaped) -> Run {
        let per_service = (flags.lines / LOGS.len() as u64).max(1);
        let started = Instant::now();
        let publishers = self.start_publishers(per_service)?;
        println!(
            "{PUBLISHERS} publisher processes, {} services, {} lines each",
            LOGS.len(),
            per_service
        );
        self.watch(bus, publishers)?;
        let elapsed = started.elapsed();
        let progress = Progress::in_words();
        progress.say("the daemon closes the files and compresses them");
        bus.request_rotation();
        self.stop(daemon)?;
        let stats = bus.stats();
        let mut out = stdout(self.settings.color);
        writeln!(out)?;
        progress.say("asking the logs");
        self.ask(&mut out)?;
        let lost = accounting(&mut out, &stats)?;
        progress.say("copying the same bytes with dd");
        self.compare_with_dd(&mut out, &stats, elapsed)?;
        progress.finish();
        out.flush()?;
        Ok(Outcome::found(!lost))
    }

    fn command(&self, subcommand: &str) -> Result<Command, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(subcommand)
            .arg("--bus")
            .arg(&self.bus)
            .arg("--logs")
            .arg(&self.logs);
        // The demo shows the defaults, whatever this host is configured to.
        command.args(["--config", "/dev/null"]);
        Ok(command)
    }

    fn start_daemon(&self, backend: &str) -> Result<Reaped, Failure> {
        let mut command = self.command("daemon")?;
        let child = command
            .args(["--backend", backend])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut daemon = Reaped(child);
        let Some(output) = daemon.0.stdout.take() else {
            return Err(Failure::new("the daemon has no output"));
        };
        let mut ready = String::new();
        BufReader::new(output).read_line(&mut ready)?;
        if ready.is_empty() {
            return Err(Failure::new(
                "the daemon did not start; its own message is above",
            ));
        }
        print!("{ready}");
        Ok(daemon)
    }

    fn start_publishers(&self, lines: u64) -> Result<Vec<Reaped>, Failure> {
        LOGS.chunks(LOGS.len() / PUBLISHERS)
            .map(|services| {
                let mut command = self.command("demo-feed")?;
                for (service, _) in services {
                    command.args(["--service", service]);
                }
                Ok(Reaped(
                    command.args(["--lines", &lines.to_string()]).spawn()?,
                ))
            })
            .collect()
    }

    /// A line of rates while the publishers run: in place on a terminal, of which the last stays; one after the other in
    /// a pipe.
    fn watch(&self, bus: &Bus, mut publishers: Vec<Reaped>) -> Result<(), Failure> {
        let is_terminal = io::stdout().is_terminal();
        let progress = match is_terminal {
            true => Progress::in_words(),
            false => Progress::none(),
        };
        let mut last = (Instant::now(), 0, 0);
        loop {
            let mut running = false;
            for publisher in &mut publishers {
                match publisher.0.try_wait()? {
                    None => running = true,
                    Some(status) if !status.success() => {
                        return Err(Failure::new(format!("a publisher ended with {status}")));
                    }
                    Some(_) => {}
                }
            }
            let stats = bus.stats();
            let lines: u64 = stats.services.iter().map(|service| service.lines).sum();
            let bytes: u64 = stats.services.iter().map(|service| service.bytes).sum();
            let seconds = last.0.elapsed().as_secs_f64();
            let dropped: u64 = stats
                .sources
                .iter()
                .map(|source| source.dropped.total())
                .sum();
            let text = format!(
                "{:>9} lines/s  {:>8}/s  written {:>7}  dropped {dropped}",
                human_count((lines - last.1) as f64 / seconds),
                human_size(((bytes - last.2) as f64 / seconds) as u64),
                human_count(lines as f64),
            );
            progress.say(text.clone());
            if !running {
                progress.finish();
            }
            if (is_terminal && !running) || (!is_terminal && seconds > 0.1) {
                writeln!(io::stdout(), "{text}")?;
            }
            if !running {
                return Ok(());
            }
            last = (Instant::now(), lines, bytes);
            std::thread::sleep(LIVE_INTERVAL);
        }
    }

    /// SIGTERM, and the end: everything is on the disk then.
    fn stop(&self, daemon: &mut Reaped) -> Result<(), Failure> {
        let pid = rustix::process::Pid::from_child(&daemon.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(io::Error::from)?;
        let status = daemon.0.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure::new(format!("the daemon ended with {status}"))),
        }
    }

    fn ask(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let reader = Reader::open(&self.logs)?;
        let errors = Query::new()
            .service("web")
            .levels(LevelSet::at_least(Level::Error));
        let started = Instant::now();
        let counts = reader.count(&errors)?;
        answer(out, "errors of web", &counts.total().to_string(), started)?;

        let started = Instant::now();
        let counts = reader.count(&Query::new())?;
        let by_level: Vec<String> = Level::ALL
            .into_iter()
            .rev()
            .filter(|&level| counts.level(level) > 0)
            .map(|level| format!("{level} {}", counts.level(level)))
            .collect();
        answer(out, "counts by level", &by_level.join(", "), started)?;

        let needle = Query::new().contains(NEEDLE);
        let started = Instant::now();
        let report = reader.run(&needle, &mut |_| ControlFlow::Continue(()))?;
        answer(
            out,
            "a needle",
            &format!("{} hits", report.matched),
            started,
        )
    }

    /// The same bytes through `dd`, file by file, to the same disk.
    fn compare_with_dd(
        &self,
        out: &mut dyn Write,
        stats: &Stats,
        elapsed: Duration,
    ) -> Result<(), Failure> {
        let lines: u64 = stats.services.iter().map(|service| service.lines).sum();
        let bytes: u64 = stats.services.iter().map(|service| service.bytes).sum();
        let rate = |amount: u64, elapsed: Duration| amount as f64 / elapsed.as_secs_f64();
        let (line_rate, byte_rate) = (rate(lines, elapsed), rate(bytes, elapsed) as u64);
        writeln!(
            out,
            "millpond: {} lines/s, {}/s, from {PUBLISHERS} processes into indexed files",
            human_count(line_rate),
            human_size(byte_rate)
        )?;
        let (source, copy) = (
            self.logs.with_file_name("dd.in"),
            self.logs.with_file_name("dd.out"),
        );
        let copied = copy_with_dd(&self.logs, &source, &copy);
        // Only its time was of interest.
        let _ = std::fs::remove_file(&source);
        let _ = std::fs::remove_file(&copy);
        match copied {
            Ok((copied, taken)) => writeln!(
                out,
                "dd:       {} lines/s, {}/s, the same bytes from memory to one file",
                human_count(line_rate * rate(copied, taken) / byte_rate.max(1) as f64),
                human_size(rate(copied, taken) as u64)
            )?,
            Err(why) => writeln!(out, "dd:       skipped: {why}")?,
        }
        Ok(())
    }
}

fn answer(out: &mut dyn Write, what: &str, found: &str, started: Instant) -> Result<(), Failure> {
    let milliseconds = started.elapsed().as_secs_f64() * 1e3;
    writeln!(
        out,
        "{BOLD}{what}{BOLD:#}: {found} {DIM}({milliseconds:.1} ms){DIM:#}"
    )?;
    Ok(())
}

/// Prints the table; true if anything was lost.
fn accounting(out: &mut dyn Write, stats: &Stats) -> Result<bool, Failure> {
    writeln!(out)?;
    let mut table = Table::new(&[
        "source",
        "published",
        "=",
        "written",
        "+",
        "reduced",
        "+",
        "dropped",
    ]);
    let mut balanced = true;
    let mut lost = false;
    for source in &stats.sources {
        let reduced = source.coalesced + source.suppressed;
        balanced &= source.published == source.written + reduced + source.dropped.total();
        lost |= source.dropped.total() > 0;
        table.row(vec![
            source.label.clone(),
            source.published.to_string(),
            "=".to_owned(),
            source.written.to_string(),
            "+".to_owned(),
            reduced.to_string(),
            "+".to_owned(),
            source.dropped.total().to_string(),
        ]);
    }
    table.print(out)?;
    match balanced {
        true => writeln!(out, "{GREEN}every event is accounted for{GREEN:#}")?,
        false => writeln!(out, "{RED}the accounts do not balance{RED:#}")?,
    }
    writeln!(out)?;
    Ok(lost || !balanced)
}

/// Copies the text of all segments to one file; how many bytes, and how long `dd` took. `source` is where text is
/// put for it that is sealed.
fn copy_with_dd(logs: &Path, source: &Path, copy: &Path) -> Result<(u64, Duration), String> {
    let (mut copied, mut taken) = (0, Duration::ZERO);
    for service in list_services(logs).map_err(|error| error.to_string())? {
        let dir = logs.join(service);
        for id in list_segments(&dir).map_err(|error| error.to_string())? {
            let text = SegmentText::open(&dir, id).map_err(|error| error.to_string())?;
            copied += text.length_bytes().map_err(|error| error.to_string())?;
            let path = match text.is_sealed() {
                true => {
                    unseal(&text, source).map_err(|error| error.to_string())?;
                    source
                }
                false => text.path(),
            };
            let started = Instant::now();
            let status = Command::new("dd")
                .arg(format!("if={}", path.display()))
                .arg(format!("of={}", copy.display()))
                .args(["bs=1M", "oflag=append", "conv=notrunc", "status=none"])
                .status()
                .map_err(|error| format!("dd cannot be started: {error}"))?;
            taken += started.elapsed();
            if !status.success() {
                return Err(format!("dd ended with {status}"));
            }
        }
    }
    Ok((copied, taken))
}

fn unseal(text: &SegmentText, path: &Path) -> io::Result<()> {
    let mut out = std::fs::File::create(path)?;
    let (mut offset, end) = (0, text.length_bytes()?);
    let mut piece = Vec::new();
    while offset < end {
        piece.resize((end - offset).min(UNSEAL_BYTES) as usize, 0);
        text.read_exact_at(&mut piece, offset)?;
        out.write_all(&piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// One publisher process: the text of its services, over and over, as fast as the bus takes it.
pub(crate) fn feed(flags: &DemoFeedFlags, settings: &Settings) -> Run {
    let bus = settings.attach()?;
    let mut publishers = Vec::new();
    for service in &flags.service {
        let Some((_, text)) = LOGS.iter().find(|(name, _)| name == service) else {
            return Err(Failure::new(format!("the demo has no service {service:?}")));
        };
        let mut publisher = bus.publisher(service)?;
        let topic = publisher.topic(&format!("log:{service}:stdout"))?;
        // Levels are found once: finding them is not what the demo is about.
        let mut lines: Vec<(millpond_bus::Level, &[u8])> = text
            .split(|&byte| byte == b'\n')
            .map(|line| (detect_level(line), line))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        // A line that comes again at once would be counted and not written, and the rate told one of nothing done.
        lines.dedup();
        if lines.len() > 1 && lines.first() == lines.last() {
            lines.pop();
        }
        publishers.push((publisher, topic, lines));
    }
    for number in 0..flags.lines as usize {
        for (publisher, topic, lines) in &mut publishers {
            let (level, line) = lines[number % lines.len()];
            let is_needle = number == flags.lines as usize / 2;
            let line = if is_needle { NEEDLE.as_bytes() } else { line };
            // A drop is counted, and shown in the table at the end.
            let _ = publisher.publish(*topic, level, line);
        }
    }
    for (mut publisher, _, _) in publishers {
        publisher.flush(Guarantee::Written, None).map_err(|error| {
            print::error_line(settings.color, &error);
            Failure::new("the demo's publisher could not finish")
        })?;
    }
    Ok(Outcome::Found)
}
