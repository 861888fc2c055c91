//! Who sits in front: reads everything, answers what a terminal answers, and changes its size.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use memchr::memmem;

use super::child::{WELL, WHERE};
use crate::error::Error;
use crate::random::Random;
use crate::terminal::Terminal;

/// The longest of what is looked for, so that it is found where two reads meet.
const KEPT_BYTES: usize = 63;
const LOOK: Duration = Duration::from_millis(20);

/// What was done in front of one capture.
#[derive(Debug, Default)]
pub(super) struct Played {
    /// Code of the capture's process; -1: a signal ended it.
    pub(super) exit_code: i32,
    /// Sizes that the terminal was given, the first included.
    pub(super) sizes: Vec<String>,
    /// Answers with cursor positions.
    pub(super) answers: Vec<String>,
    pub(super) received_bytes: u64,
}

/// The last bytes that came, to find what is cut in two.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    /// What was found ends here, in `bytes`.
    seen: Vec<usize>,
}

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        let drop = self.bytes.len().saturating_sub(KEPT_BYTES);
        self.bytes.drain(..drop);
        for seen in &mut self.seen {
            *seen = seen.saturating_sub(drop);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// How often `what` is there that was not there before; `slot` is its own.
    fn count(&mut self, slot: usize, what: &[u8]) -> usize {
        if self.seen.len() <= slot {
            self.seen.resize(slot + 1, 0);
        }
        let mut count = 0;
        while let Some(at) = memmem::find(&self.bytes[self.seen[slot]..], what) {
            self.seen[slot] += at + what.len();
            count += 1;
        }
        count
    }
}

/// Plays it to the end of everybody who has the terminal.
pub(super) fn play(
    mut terminal: Terminal,
    first_size: (u16, u16),
    seed: u64,
    received: &Path,
) -> Result<Played, Error> {
    let mut random = Random::new(seed);
    let mut received = BufWriter::new(File::create(received)?);
    let mut played = Played::default();
    let text = |(columns, rows): (u16, u16)| format!("{columns}x{rows}");
    played.sizes.push(text(first_size));
    let mut buffer = vec![0; 64 << 10];
    let mut tail = Tail::default();
    let mut due: VecDeque<Instant> = VecDeque::new();
    // Whether the command has told the size that was set last; and when the next is set.
    let (mut is_told, mut next_size) = (false, Instant::now());
    let mut is_ending = false;
    loop {
        if terminal.wait_readable(LOOK.min(until(&due)))? {
            let count = terminal.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            received.write_all(&buffer[..count])?;
            played.received_bytes += count as u64;
            tail.add(&buffer[..count]);
            for _ in 0..tail.count(0, WHERE) {
                due.push_back(Instant::now() + Duration::from_millis(1 + random.below(15)));
            }
            is_ending |= tail.count(1, WELL) > 0;
            let last = played.sizes.last().map_or("", String::as_str);
            if !is_told && tail.count(2, format!(" {last}.").as_bytes()) > 0 {
                is_told = true;
                next_size = Instant::now() + Duration::from_millis(100 + random.below(300));
            }
        }
        while due.front().is_some_and(|&due| due <= Instant::now()) {
            due.pop_front();
            // No two alike: an echo has to be told from that of a later answer.
            let number = played.answers.len();
            let (row, column) = (1 + number % 200, 1 + number / 200);
            let answer = format!("[{row};{column}R");
            terminal.write_all(format!("\x1b{answer}").as_bytes())?;
            played.answers.push(answer);
        }
        if is_ending && is_told {
            is_ending = false;
            is_told = false;
            terminal.write_all(b"\x1b[0n")?;
        } else if is_told && !is_ending && Instant::now() >= next_size {
            let columns = 60 + random.below(100) as u16;
            let size = (columns, 20 + random.below(60) as u16);
            // The same again would be no news, and no signal.
            if played.sizes.last() != Some(&text(size)) {
                terminal.resize(size)?;
                played.sizes.push(text(size));
                is_told = false;
            }
        }
    }
    received.flush()?;
    played.exit_code = terminal.wait()?.code().unwrap_or(-1);
    Ok(played)
}

fn until(due: &VecDeque<Instant>) -> Duration {
    due.front()
        .map_or(LOOK, |due| due.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_in_two_is_found_once() {
        let mut tail = Tail::default();
        let mut found = 0;
        for part in [
            "abc\x1b[",
            "6",
            "n\x1b[6n",
            "",
            "x",
            &"y".repeat(200),
            "\x1b[6n",
        ] {
            tail.add(part.as_bytes());
            found += tail.count(0, WHERE);
        }
        assert_eq!(found, 3);
    }
}
