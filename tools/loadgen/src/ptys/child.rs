//! The command that is captured: writes what its script says, asks its terminal, and watches its size.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGWINCH;

use super::script::Script;
use crate::error::Error;
use crate::process::Arguments;
use crate::terminal::readable_within;

/// Where is the cursor? The answer ends in `R`.
pub(super) const WHERE: &[u8] = b"\x1b[6n";
/// Are you well? The answer ends in `n`; it is asked once, when only the end is left.
pub(super) const WELL: &[u8] = b"\x1b[5n";
const FRAME: Duration = Duration::from_millis(33);
const LOOK: Duration = Duration::from_millis(10);
/// What takes longer than this to be answered never is.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const BLOCK_BYTES: usize = 16 << 10;
const PENDING_BYTES: usize = 64 << 10;

/// What a child says of itself, in a file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) wrote_bytes: u64,
    pub(super) lines: u64,
    pub(super) bars: u64,
    /// Cursor positions that it asked for, and answers that it read.
    pub(super) asked: u64,
    pub(super) answered: u64,
    /// Sizes that it saw, the first included.
    pub(super) sizes: Vec<String>,
}

struct Child {
    script: Script,
    copy: BufWriter<File>,
    truth: BufWriter<File>,
    said: Said,
    resized: Arc<AtomicBool>,
    /// Its terminal as it was; `None`: it has none.
    terminal: Option<Termios>,
    /// It keeps whole lines: what ends an answer ends a line.
    is_canonical: bool,
    /// It has its terminal raw from start to end: nothing echoes.
    is_raw: bool,
}

impl Child {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.copy.write_all(bytes)?;
        for part in self.script.cut(bytes) {
            write_all(part)?;
        }
        self.said.wrote_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes what the script has made.
    fn write_script(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.script.bytes);
        self.write(&bytes)?;
        let lines = std::mem::take(&mut self.script.lines);
        Ok(self.truth.write_all(&lines)?)
    }

    fn tell_size(&mut self) -> Result<(), Error> {
        let size = tcgetwinsize(rustix::stdio::stdin()).map_err(io::Error::from)?;
        let size = format!("{}x{}", size.ws_col, size.ws_row);
        self.script.size(&size);
        self.said.sizes.push(size);
        self.write_script()
    }

    /// What the signal of a new size has said, where one came.
    fn look_at_size(&mut self) -> Result<(), Error> {
        // ORDERING: SeqCst; the flag stands before the size is looked at, and this is not a fast path.
        match self.resized.swap(false, Ordering::SeqCst) {
            true => self.tell_size(),
            false => Ok(()),
        }
    }

    fn bar(&mut self, frames: usize) -> Result<(), Error> {
        let started = Instant::now();
        for (index, frame) in self.script.bar(frames).iter().enumerate() {
            let due = started + FRAME * index as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.write(frame)?;
        }
        self.said.bars += 1;
        self.write_script()?;
        self.look_at_size()
    }

    /// Asks, writes `late` bytes of lines meanwhile, and reads the answer up to `end`.
    fn ask(&mut self, what: &[u8], end: u8, echo: bool, late: usize) -> Result<(), Error> {
        let Some(before) = self.terminal.clone() else {
            return Ok(());
        };
        if !self.is_raw {
            let mut during = before.clone();
            during.local_modes.set(LocalModes::ECHO, echo);
            during
                .local_modes
                .set(LocalModes::ICANON, self.is_canonical);
            set(&during)?;
        }
        self.write(what)?;
        if late > 0 {
            self.script.lines_of(late);
            self.write_script()?;
        }
        let answered = self.read_answer(end)?;
        self.said.asked += u64::from(what == WHERE);
        self.said.answered += u64::from(what == WHERE && answered);
        if !self.is_raw {
            set(&before)?;
        }
        Ok(())
    }

    /// Reads up to `end`, and tells of sizes meanwhile.
    fn read_answer(&mut self, end: u8) -> Result<bool, Error> {
        let stdin = rustix::stdio::stdin();
        let started = Instant::now();
        while started.elapsed() < ANSWER_LIMIT {
            self.look_at_size()?;
            if readable_within(stdin, LOOK)? {
                let mut buffer = [0; 64];
                let count = rustix::io::read(stdin, &mut buffer[..]).map_err(io::Error::from)?;
                match buffer[..count].last() {
                    Some(&last) if last == end => return Ok(true),
                    Some(_) => {}
                    None => return Err(Error::new("its terminal is gone")),
                }
            }
        }
        Ok(false)
    }
}

fn set(terminal: &Termios) -> Result<(), Error> {
    let stdin = rustix::stdio::stdin();
    Ok(tcsetattr(stdin, OptionalActions::Now, terminal).map_err(io::Error::from)?)
}

fn write_all(mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}

/// `seed=N way=pty|own|raw|pipe millis=N burst=BYTES bytes=BYTES frames=N code=N place=PREFIX`: ends with `code`.
pub(crate) fn child_role(arguments: &Arguments<'_>) -> Result<(), Error> {
    let way = arguments.text("way")?;
    let time = Duration::from_millis(arguments.get("millis")?);
    let (burst, bytes): (usize, u64) = (arguments.get("burst")?, arguments.get("bytes")?);
    let frames: usize = arguments.get("frames")?;
    let place = arguments.text("place")?;
    let resized = Arc::new(AtomicBool::new(false));
    let mut terminal = None;
    if way != "pipe" {
        signal_hook::flag::register(SIGWINCH, Arc::clone(&resized))?;
        let mut attributes = tcgetattr(rustix::stdio::stdin()).map_err(io::Error::from)?;
        match way {
            "raw" => attributes.make_raw(),
            // What ends an answer ends a line too: so it never has to leave line mode.
            "own" => {
                attributes.special_codes[SpecialCodeIndex::VEOL] = b'R';
                attributes.special_codes[SpecialCodeIndex::VEOL2] = b'n';
            }
            _ => {}
        }
        set(&attributes)?;
        terminal = Some(attributes);
    }
    let file = |what: &str| File::create(format!("{place}.{what}")).map(BufWriter::new);
    let mut child = Child {
        script: Script::new(arguments.get("seed")?),
        copy: file("copy")?,
        truth: file("truth")?,
        said: Said::default(),
        resized,
        is_canonical: way == "own",
        is_raw: way == "raw",
        terminal,
    };
    if child.terminal.is_some() {
        child.tell_size()?;
    }
    let started = Instant::now();
    for round in 0_u64.. {
        let mut burst_left = burst;
        while burst_left > 0 && child.said.wrote_bytes < bytes {
            child.script.lines_of(BLOCK_BYTES.min(burst_left));
            child.write_script()?;
            child.look_at_size()?;
            burst_left = burst_left.saturating_sub(BLOCK_BYTES);
        }
        if round == 1 {
            child.script.big_line();
            child.write_script()?;
        }
        child.ask(WHERE, b'R', true, 0)?;
        child.ask(WHERE, b'R', false, 0)?;
        let late = BLOCK_BYTES * (round % 2) as usize;
        child.ask(WHERE, b'R', round % 4 < 2, late)?;
        child.bar(frames)?;
        if round > 1 && started.elapsed() >= time {
            break;
        }
    }
    child.ask(WELL, b'n', false, 0)?;
    child.script.lines_of(PENDING_BYTES);
    child.script.end();
    child.said.lines = child.script.number;
    let (bytes, lines) = (child.script.bytes.as_slice(), child.script.lines.as_slice());
    child.said.wrote_bytes += bytes.len() as u64;
    child.copy.write_all(bytes)?;
    child.truth.write_all(lines)?;
    child.copy.flush()?;
    child.truth.flush()?;
    fs::write(format!("{place}.json"), serde_json::to_vec(&child.said)?)?;
    let code = arguments.get("code")?;
    // Nothing is between the last byte and the end.
    write_all(bytes)?;
    #[expect(clippy::disallowed_methods, reason = "how it ends is part of the load")]
    std::process::exit(code);
}
