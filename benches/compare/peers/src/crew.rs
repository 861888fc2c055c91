//! The processes of one round, under a watchdog.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::de::DeserializeOwned;

use crate::Fallible;

/// How often the watchdog looks whether it was itself told to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What ends a round that does not end by itself.
#[derive(Debug, Clone)]
pub struct Watch {
    limit: Duration,
    interrupted: Arc<AtomicBool>,
}

impl Watch {
    /// A round is given up after `limit`, or when `interrupted`.
    pub fn new(limit: Duration, interrupted: Arc<AtomicBool>) -> Self {
        Watch { limit, interrupted }
    }

    /// Whether the comparison was told to end.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

/// Processes that speak in JSON lines of type `S`, and are told words. Whoever is still there when this is dropped is
/// killed, with all that it has started.
pub struct Crew<S> {
    members: Vec<Member>,
    watch: Watch,
    deadline: Instant,
    say: Sender<Option<Fallible<S>>>,
    said: Receiver<Option<Fallible<S>>>,
}

struct Member {
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // Also where it ended well: no program of a round outlives it. Its number is nobody else's before it was
        // waited for.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl<S: DeserializeOwned + Send + 'static> Crew<S> {
    /// Nobody yet. The limit of `watch` begins now.
    pub fn new(watch: &Watch) -> Self {
        let (say, said) = channel();
        Crew {
            members: Vec::new(),
            watch: watch.clone(),
            deadline: Instant::now() + watch.limit,
            say,
            said,
        }
    }

    /// How many were started.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Starts one more, in a process group of its own.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&mut self, mut command: Command) -> Fallible<()> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take();
        self.members.push(Member { child, input });
        let output = output.ok_or("its output was asked for")?;
        let say = self.say.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let said = serde_json::from_str(&line)
                    .map_err(|error| format!("it said {line:?}: {error}").into());
                // Nobody listens any more where the round was given up.
                let _ = say.send(Some(said));
            }
            let _ = say.send(None);
        });
        Ok(())
    }

    /// Tells all of them a word.
    pub fn tell(&mut self, word: &str) {
        for member in &mut self.members {
            if let Some(input) = &mut member.input {
                // One that has ended needs to know nothing; that it ended too early is noticed elsewhere.
                let _ = writeln!(input, "{word}");
            }
        }
    }

    /// Tells all of them that they are told nothing more.
    pub fn close_inputs(&mut self) {
        for member in &mut self.members {
            member.input = None;
        }
    }

    /// What one of them says next; `None`: it says nothing any more. Waits for it.
    ///
    /// # Errors
    /// Where the time is over, the comparison was told to end, or what was said is not understood.
    pub fn hear(&mut self) -> Fallible<Option<S>> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left.min(LOOK_INTERVAL)) {
                Ok(said) => return said.transpose(),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if self.watch.is_interrupted() => {
                    return Err("interrupted".into());
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    let limit = self.watch.limit.as_secs_f64();
                    return Err(format!("killed by the watchdog after {limit} s").into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crew(limit: Duration) -> Crew<String> {
        Crew::new(&Watch::new(limit, Arc::default()))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn it_hears_what_is_said_and_that_no_more_comes() {
        let mut crew = crew(Duration::from_secs(60));
        crew.start(shell("read word; echo \"\\\"$word\\\"\""))
            .expect("a shell");
        crew.tell("go");
        assert_eq!(crew.hear().expect("a line"), Some("go".to_owned()));
        assert_eq!(crew.hear().expect("the end"), None);
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_started() {
        let mut crew = crew(Duration::from_millis(1));
        // The second process holds the pipe: the end of the output shows that it is gone.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = shell("sleep 1000 & wait");
        command.stderr(writer);
        crew.start(command).expect("a shell");
        let why = crew.hear().expect_err("it says nothing").to_string();
        assert_eq!(why, "killed by the watchdog after 0.001 s");
        drop(crew);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut &reader, &mut rest).expect("all writers are gone");
    }

    #[test]
    fn whoever_is_told_to_end_does_not_wait_for_the_limit() {
        let interrupted = Arc::new(AtomicBool::new(true));
        let mut crew: Crew<String> = Crew::new(&Watch::new(Duration::from_secs(1000), interrupted));
        crew.start(shell("sleep 1000")).expect("a shell");
        let why = crew.hear().expect_err("it was told to").to_string();
        assert_eq!(why, "interrupted");
    }
}
