//! What waits are compared with: a table that is polled, a condition variable, a pair of pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use serde::Serialize;

use crate::clock::monotonic_ns;
use crate::error::Error;
use crate::latencies::{Latencies, Summary};
use crate::place::pin;
use crate::process::Host;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The same exchange by other means. All times are one way, from the post to the waiter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Baselines {
    /// A table of SQLite that the waiter looks at once a second.
    pub sqlite_polling: Summary,
    /// Looks at the table that found nothing.
    pub sqlite_empty_polls: u64,
    /// A mutex and a condition variable between two threads of one process. Part of these waits may have found
    /// the post before they slept.
    pub in_process: Summary,
    /// A pair of pipes between two processes.
    pub pipes: Summary,
}

pub(super) fn run(
    host: &Host,
    polls: u32,
    rounds: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<Baselines, Error> {
    progress(&format!(
        "debate: baseline, {polls} waits on a polled table"
    ));
    let dir = tempfile::Builder::new()
        .prefix("millpond-replay-")
        .tempdir()?;
    let (sqlite, sqlite_empty_polls) = sqlite_polling(&dir.path().join("messages.db"), polls)?;
    progress(&format!(
        "debate: baselines, {rounds} rounds in one process and over pipes"
    ));
    Ok(Baselines {
        sqlite_polling: sqlite.summary(),
        sqlite_empty_polls,
        in_process: in_process(rounds)?.summary(),
        pipes: pipes(host, rounds)?.summary(),
    })
}

fn open(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, posted_ns INTEGER NOT NULL)",
    )?;
    Ok(connection)
}

/// Posts fall anywhere between two looks, each part of that second as often as the others.
fn sqlite_polling(path: &Path, rounds: u32) -> Result<(Latencies, u64), Error> {
    let poster = open(path)?;
    let waiter = open(path)?;
    let (asleep, sleeps) = mpsc::sync_channel::<()>(0);
    std::thread::scope(|scope| {
        let posting = scope.spawn(move || -> Result<(), Error> {
            for round in 0..rounds {
                // The waiter has just looked in vain, and sleeps from now on.
                if sleeps.recv().is_err() {
                    break;
                }
                // 1/2, 3/2, 5/2 .. of the rounds' share of a second, in an order that is not sorted.
                let place = round * 7 % rounds;
                let place = if rounds.is_multiple_of(7) {
                    round
                } else {
                    place
                };
                let offset = POLL_INTERVAL * (2 * place + 1) / (2 * rounds);
                std::thread::sleep(offset);
                poster.execute(
                    "INSERT INTO messages (posted_ns) VALUES (?1)",
                    [monotonic_ns() as i64],
                )?;
            }
            Ok(())
        });
        let waited = wait_polling(&waiter, rounds, asleep);
        let posted = posting
            .join()
            .map_err(|_| Error::new("the thread that posts to the table panicked"))?;
        posted.and(waited)
    })
}

fn wait_polling(
    waiter: &Connection,
    rounds: u32,
    asleep: mpsc::SyncSender<()>,
) -> Result<(Latencies, u64), Error> {
    let mut look = waiter.prepare("SELECT id, posted_ns FROM messages WHERE id > ?1")?;
    let (mut last, mut latencies, mut empty) = (0_i64, Latencies::default(), 0);
    while latencies.len() < rounds as usize {
        let mut rows = look.query([last])?;
        let mut found = false;
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            let posted_ns: i64 = row.get(1)?;
            latencies.record(monotonic_ns().saturating_sub(posted_ns as u64));
            found = true;
        }
        drop(rows);
        if !found {
            empty += 1;
            // One post at a time: a poster that still has one to make hears this at its next round.
            let _ = asleep.try_send(());
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    Ok((latencies, empty))
}

/// A place for one post at a time.
#[derive(Default)]
struct Place {
    posted_ns: Mutex<Option<u64>>,
    changed: Condvar,
}

impl Place {
    fn post(&self) {
        *self
            .posted_ns
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(monotonic_ns());
        self.changed.notify_one();
    }

    fn wait(&self) -> u64 {
        let guard = self
            .posted_ns
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut guard = self
            .changed
            .wait_while(guard, |posted| posted.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let posted_ns = guard.take().unwrap_or_default();
        monotonic_ns().saturating_sub(posted_ns)
    }
}

fn in_process(rounds: u64) -> Result<Latencies, Error> {
    let (there, back) = (Place::default(), Place::default());
    let mut latencies = Latencies::default();
    std::thread::scope(|scope| {
        // Threads of their own: they keep the processor they are put on.
        let other = scope.spawn(|| -> Result<Latencies, Error> {
            let mut latencies = Latencies::default();
            let pinned = pin(0);
            for _ in 0..rounds {
                latencies.record(there.wait());
                back.post();
            }
            pinned?;
            Ok(latencies)
        });
        let one = scope.spawn(|| -> Result<Latencies, Error> {
            let mut latencies = Latencies::default();
            let pinned = pin(1);
            for _ in 0..rounds {
                there.post();
                latencies.record(back.wait());
            }
            pinned?;
            Ok(latencies)
        });
        for thread in [one, other] {
            let ended = thread.join();
            latencies.merge(ended.map_err(|_| Error::new("a thread of the baseline panicked"))??);
        }
        Ok(latencies)
    })
}

/// The time of the post travels there; how long that took, and the time of the answer, travel back.
fn pipes(host: &Host, rounds: u64) -> Result<Latencies, Error> {
    let mut child = host
        .command("pipe-echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let ends = child.stdin.take().zip(child.stdout.take());
    let exchanged = ends
        .ok_or_else(|| Error::new("the process that answers has no pipes"))
        .and_then(|(mut input, mut output)| {
            // A thread of its own: it keeps the processor it is put on.
            let thread = std::thread::spawn(move || {
                pin(1)?;
                exchange(&mut input, &mut output, rounds)
            });
            let ended = thread.join();
            ended.map_err(|_| Error::new("the thread that writes to the pipe panicked"))?
        });
    // Its input has ended by now, so it ends too.
    child.wait()?;
    exchanged
}

fn exchange(
    input: &mut impl Write,
    output: &mut impl Read,
    rounds: u64,
) -> Result<Latencies, Error> {
    let mut latencies = Latencies::default();
    for _ in 0..rounds {
        input.write_all(&monotonic_ns().to_le_bytes())?;
        let mut answer = [0; 16];
        output.read_exact(&mut answer)?;
        let now_ns = monotonic_ns();
        let [there, posted_ns] = [&answer[..8], &answer[8..]].map(number);
        latencies.record(there);
        latencies.record(now_ns.saturating_sub(posted_ns));
    }
    Ok(latencies)
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// Answers each 8 bytes on standard input, until they end.
pub(crate) fn pipe_echo_role() -> Result<(), Error> {
    pin(0)?;
    // Not `Stdout`: that one looks for ends of lines, and this is no text.
    let mut input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut posted = [0; 8];
    while input.read_exact(&mut posted).is_ok() {
        let there = monotonic_ns().saturating_sub(number(&posted));
        let mut answer = [0; 16];
        answer[..8].copy_from_slice(&there.to_le_bytes());
        answer[8..].copy_from_slice(&monotonic_ns().to_le_bytes());
        output.write_all(&answer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notification_in_the_process_is_measured() {
        let latencies = in_process(200).expect("two threads");
        assert_eq!(latencies.len(), 400);
    }

    #[test]
    fn an_exchange_is_measured_both_ways() {
        let answer = [5_u64.to_le_bytes(), monotonic_ns().to_le_bytes()].concat();
        let mut sent = Vec::new();
        let latencies = exchange(&mut sent, &mut answer.as_slice(), 1).expect("an answer");
        assert_eq!((sent.len(), latencies.len()), (8, 2));
        assert_eq!(number(&7_u64.to_le_bytes()), 7);
    }

    #[test]
    fn a_polled_table_answers_late_and_always() {
        let dir = tempfile::tempdir().expect("a directory");
        let (latencies, empty) = sqlite_polling(&dir.path().join("m.db"), 2).expect("two rounds");
        assert_eq!(latencies.len(), 2);
        assert!(empty >= 2);
    }
}
