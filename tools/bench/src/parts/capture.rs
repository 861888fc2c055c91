//! A command on a terminal or a pipe, with `millpond` behind it, or somebody who throws away what it writes.
//!
//! A round's time is the command's own, from its first write to its last: what it pays for being captured. Lines that did
//! not come into the log are counted there, as bytes; more of them than were told to be dropped fails the round.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millpond_bus::BusOptions;
use millpond_loadgen::{
    Arguments, Error, Host, Terminal, measure, used_bytes, without_carriage_returns,
};
use millpond_logfile::{Query, Reader};
use serde::{Deserialize, Serialize};

use crate::parts::log_stage::{Backend, LIMIT, LogStage};
use crate::plan::{Case, Options};
use crate::row::{Figure, Guarantees, Round, Row};

/// With its newline.
const LINE_BYTES: u64 = 128;
/// What a program gives to one `write`.
const BLOCK_BYTES: usize = 64 << 10;
const TERMINAL_BYTES: u64 = 64 << 20;
const PIPE_BYTES: u64 = 256 << 20;
const SERVICE: &str = "bench";
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Who reads what the command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recorder {
    /// Nobody does anything with it. The kernel makes two characters of a newline.
    BareTerminal,
    /// The same, and it does not.
    BareOwn,
    /// The kernel makes them.
    Capture,
    /// `millpond` makes them.
    CaptureOwn,
    BarePipe,
    CapturePipe,
    Pipe,
}

impl Recorder {
    const TERMINAL: [Recorder; 4] = [
        Recorder::Capture,
        Recorder::CaptureOwn,
        Recorder::BareTerminal,
        Recorder::BareOwn,
    ];
    const PIPE: [Recorder; 3] = [Recorder::Pipe, Recorder::CapturePipe, Recorder::BarePipe];

    fn peer(self) -> &'static str {
        match self {
            Recorder::BareTerminal => "bare reader",
            Recorder::BareOwn => "bare reader, -onlcr",
            Recorder::Capture => "millpond capture",
            Recorder::CaptureOwn => "millpond capture, --newlines own",
            Recorder::BarePipe => "bare reader",
            Recorder::CapturePipe => "millpond capture, --pipe",
            Recorder::Pipe => "millpond pipe",
        }
    }

    /// The way of reading of somebody who throws away, as [`reader_role`] knows it.
    fn bare(self) -> Option<&'static str> {
        match self {
            Recorder::BareTerminal => Some("onlcr"),
            Recorder::BareOwn => Some("-onlcr"),
            Recorder::BarePipe => Some("pipe"),
            _ => None,
        }
    }

    fn promised(self) -> Guarantees {
        Guarantees {
            bounded: true,
            // A terminal or a pipe that nobody reads stops who writes; `capture` itself drops, and tells, instead.
            blocking: !matches!(
                self,
                Recorder::Capture | Recorder::CaptureOwn | Recorder::CapturePipe
            ),
            lossy: self.bare().is_some(),
            crash_safe: self.bare().is_none(),
            durable: false,
        }
    }

    /// `millpond` as this recorder, without the command that it runs.
    fn millpond(self, program: &Path, bus: &str) -> Command {
        let mut command = Command::new(program);
        let how: &[&str] = match self {
            Recorder::Pipe => &["pipe"],
            Recorder::CapturePipe => &["capture", "--pipe"],
            Recorder::CaptureOwn => &["capture", "--newlines", "own"],
            _ => &["capture", "--newlines", "kernel"],
        };
        command.args(how).args(["--bus", bus, "--service", SERVICE]);
        command
    }
}

pub(crate) fn cases(options: &Options) -> Result<Vec<Case>, Error> {
    let on = |place: &str, recorders: &[Recorder], full_bytes: u64| -> Vec<Case> {
        // Whole lines.
        let bytes = options.events(full_bytes) / LINE_BYTES * LINE_BYTES;
        let work = format!("{place}, {bytes} B in lines of {LINE_BYTES} B");
        let row = |recorder: Recorder| {
            let make = match recorder.bare() {
                Some(_) => Row::of_floor,
                None => Row::of_millpond,
            };
            make(
                "capture",
                &work,
                recorder.peer(),
                Figure::Bandwidth,
                recorder.promised(),
            )
        };
        let case = |&recorder: &Recorder| {
            let options = options.clone();
            let round = Box::new(move || play(&options, recorder, bytes));
            let row = row(recorder);
            Case { row, round }
        };
        recorders.iter().map(case).collect()
    };
    let mut cases = on("a terminal", &Recorder::TERMINAL, TERMINAL_BYTES);
    cases.extend(on("a pipe", &Recorder::PIPE, PIPE_BYTES));
    Ok(cases)
}

/// What the command leaves at its end.
#[derive(Debug, Serialize, Deserialize)]
struct Wrote {
    elapsed_ns: u64,
    lines: u64,
}

fn play(options: &Options, recorder: Recorder, bytes: u64) -> Result<Round, Error> {
    let host = options.host()?;
    let place = options.new_dir()?;
    let told = place.path().join("told");
    let mut writer = host.command("capture-writer");
    writer.arg(format!("bytes={bytes}"));
    writer.arg(format!("told={}", told.display()));
    if let Some(how) = recorder.bare() {
        let mut reader = host.command("capture-reader");
        reader.arg(format!("how={how}"));
        reader.arg(format!("host={}", serde_json::to_string(&host)?));
        reader.arg(format!("words={}", serde_json::to_string(&words(&writer))?));
        return run(&host, &reader, &told, bytes);
    }
    // The usual rules: what they do to lines that come too fast is part of the figure.
    let mut stage = LogStage::start(
        options,
        "capture",
        &BusOptions::default(),
        Backend::Auto,
        false,
    )?;
    let mut command = recorder.millpond(&options.millpond()?, stage.bus().name());
    if recorder == Recorder::Pipe {
        let mut piped = host.command("capture-piped");
        piped.arg(format!(
            "reader={}",
            serde_json::to_string(&words(&command))?
        ));
        piped.arg(format!("words={}", serde_json::to_string(&words(&writer))?));
        command = piped;
    } else {
        command.arg("--").args(words(&writer));
    }
    let before = stage.usage()?;
    let round = run(&host, &command, &told, bytes)?;
    let dropped = settle(&stage)?;
    let daemon = stage.usage()?.since(before);
    stage.stop()?;
    let lines = bytes / LINE_BYTES;
    let query = Query::new().service(SERVICE).source("pipe*").source("pty*");
    let found = Reader::open(stage.logs())?.count(&query)?.total();
    let lost = lines.checked_sub(found).filter(|&lost| lost <= dropped);
    let Some(lost) = lost else {
        return Err(Error::new(format!(
            "{found} of {lines} lines are in the log, and {dropped} were told to be dropped"
        )));
    };
    Ok(Round {
        cpu_seconds: round.cpu_seconds + daemon.cpu_seconds(),
        memory_bytes: round.memory_bytes.map(|bytes| bytes + daemon.memory_bytes),
        disk_bytes: Some(used_bytes(stage.logs())?),
        lost: lost * LINE_BYTES,
        ..round
    })
}

/// One that is started and waited for, with everybody whom it starts.
fn run(host: &Host, command: &Command, told: &Path, bytes: u64) -> Result<Round, Error> {
    let measured = measure(host, command, Path::new("/dev/null"))?;
    if measured.exit_code > 1 || measured.exit_code < 0 {
        let code = measured.exit_code;
        return Err(Error::new(format!(
            "{command:?} ended with exit code {code}"
        )));
    }
    let text =
        fs::read(told).map_err(|error| Error::new(format!("the command has not told: {error}")))?;
    let wrote: Wrote = serde_json::from_slice(&text)?;
    if wrote.lines * LINE_BYTES != bytes {
        let lines = wrote.lines;
        return Err(Error::new(format!(
            "the command wrote {lines} lines of {}",
            bytes / LINE_BYTES
        )));
    }
    Ok(Round {
        events: bytes,
        seconds: wrote.elapsed_ns as f64 / 1e9,
        cpu_seconds: measured.cpu_ns as f64 / 1e9,
        memory_bytes: Some(measured.memory_bytes),
        ..Round::default()
    })
}

/// Waits until nothing is under way; lines that were dropped until then.
fn settle(stage: &LogStage) -> Result<u64, Error> {
    let started = Instant::now();
    loop {
        let stats = stage.bus().stats();
        let lines = stats
            .sources
            .iter()
            .filter(|source| source.pattern == "log:*");
        let (in_flight, dropped) = lines.fold((0, 0), |(in_flight, dropped), source| {
            (
                in_flight + source.in_flight,
                dropped + source.dropped.total(),
            )
        });
        if in_flight == 0 {
            return Ok(dropped);
        }
        if started.elapsed() > LIMIT {
            return Err(Error::new(format!(
                "{in_flight} lines are still under way after {LIMIT:?}"
            )));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Program and arguments.
fn words(command: &Command) -> Vec<String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

fn command_of(arguments: &Arguments<'_>, key: &str) -> Result<Command, Error> {
    let words: Vec<String> = serde_json::from_str(arguments.text(key)?)?;
    let (program, rest) = words
        .split_first()
        .ok_or_else(|| Error::new(format!("{key}= has no words")))?;
    let mut command = Command::new(program);
    command.args(rest);
    Ok(command)
}

// ---------------------------------------------------------------------------------------------- roles

/// `bytes=N told=FILE`: writes so many bytes in lines to standard output, and then to the file how long that took.
pub(super) fn writer_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    let bytes: u64 = arguments.get("bytes")?;
    // No two lines in a row are alike: the log would have one of them, and a count.
    let block: Vec<u8> = (0..BLOCK_BYTES)
        .map(|at| match (at + 1).is_multiple_of(LINE_BYTES as usize) {
            true => b'\n',
            false => b'a' + (at / LINE_BYTES as usize % 26) as u8,
        })
        .collect();
    let mut out = std::io::stdout().lock();
    let mut left = bytes;
    let started = Instant::now();
    while left > 0 {
        let piece = &block[..block.len().min(left as usize)];
        out.write_all(piece)?;
        // Each block is a write of its own, however the library would gather them.
        out.flush()?;
        left -= piece.len() as u64;
    }
    let wrote = Wrote {
        elapsed_ns: started.elapsed().as_nanos() as u64,
        lines: bytes / LINE_BYTES,
    };
    Ok(fs::write(
        arguments.text("told")?,
        serde_json::to_vec(&wrote)?,
    )?)
}

/// `how=onlcr|-onlcr|pipe host=JSON words=JSON`: runs the command, reads what it writes and keeps nothing of it.
pub(super) fn reader_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    let mut command = command_of(arguments, "words")?;
    let mut buffer = vec![0; BLOCK_BYTES];
    let how = arguments.text("how")?;
    if how == "pipe" {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        if let Some(mut output) = child.stdout.take() {
            while output.read(&mut buffer)? > 0 {}
        }
        child.wait()?;
        return Ok(());
    }
    let host: Host = serde_json::from_str(arguments.text("host")?)?;
    let mut terminal =
        Terminal::start_with(&host, (80, 24), &[], &words(&command), &|attributes| {
            if how == "-onlcr" {
                without_carriage_returns(attributes);
            }
        })?;
    while terminal.read(&mut buffer)? > 0 {}
    terminal.wait()?;
    Ok(())
}

/// `reader=JSON words=JSON`: the command, and behind it, by a pipe, the reader.
pub(super) fn piped_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    let mut reader = command_of(arguments, "reader")?;
    let mut reader = reader.stdin(Stdio::piped()).spawn()?;
    let input = reader
        .stdin
        .take()
        .ok_or_else(|| Error::new("its input was asked for"))?;
    let mut writer = command_of(arguments, "words")?;
    let wrote = writer.stdout(input).status()?;
    // Or the reader would wait for more of what this end could write.
    drop(writer);
    let read = reader.wait()?;
    match wrote.success() && read.success() {
        true => Ok(()),
        false => Err(Error::new(format!(
            "the command ended with {wrote}, its reader with {read}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_to_other_processes_and_back() {
        let command = Recorder::CapturePipe.millpond("/bin/millpond".as_ref(), "b");
        let text = format!(
            "words={}",
            serde_json::to_string(&words(&command)).expect("text")
        );
        let args = ["juggler".to_owned(), text];
        let played = millpond_loadgen::play_role(&args, &|_, arguments, _| {
            let back = command_of(arguments, "words")?;
            let expected = [
                "/bin/millpond",
                "capture",
                "--pipe",
                "--bus",
                "b",
                "--service",
                SERVICE,
            ];
            assert_eq!(words(&back), expected);
            Ok(())
        });
        assert!(played.is_some_and(|outcome| outcome.is_ok()));
    }
}
