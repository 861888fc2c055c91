//! Processes of a scenario: started from one program, told what to do by lines, heard by JSON lines.
//!
//! A role says `{"ready":true}`, waits for the line `go`, and ends with one line, its result. When its
//! standard input ends before that, whoever started it is gone, and it ends too.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;

/// How long a process may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How to start the processes of a scenario: a program that hands its arguments, from the name of the role
/// on, to [`role`].
///
/// ```
/// let host = millpond_loadgen::Host::new("/usr/bin/millpond", &["replay-role"]);
/// assert!(format!("{host:?}").contains("replay-role"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Host {
    /// `program`, with what comes before the name of the role.
    pub fn new(program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        Host {
            program: program.into(),
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    /// This program, as `PROGRAM replay-role ROLE ..`: what `millpond` itself understands.
    ///
    /// # Errors
    /// When the system does not tell where this program is.
    pub fn current() -> Result<Self, Error> {
        Ok(Self::new(std::env::current_exe()?, &["replay-role"]))
    }

    /// The one that was asked for, or this program.
    pub(crate) fn or_current(host: Option<&Self>) -> Result<Self, Error> {
        host.map_or_else(Self::current, |host| Ok(host.clone()))
    }

    /// The command of a role, still without arguments.
    pub fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(role);
        command
    }

    /// Starts a role, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready within 30 s.
    pub fn start(&self, role: &str, arguments: &[(&str, &dyn Display)]) -> Result<Process, Error> {
        let mut command = self.command(role);
        for (key, value) in arguments {
            command.arg(format!("{key}={value}"));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let program = self.program.display();
                Error::new(format!("{program} cannot be started as {role}: {error}"))
            })?;
        let (sender, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            // Ends with the pipe, that is with the child.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let mut process = Process {
            role: role.to_owned(),
            input: child.stdin.take(),
            child,
            lines,
        };
        process.hear::<Value>(START_LIMIT)?;
        Ok(process)
    }
}

/// A process that does not outlive us: [`Host::start`] makes it.
///
/// ```no_run
/// let host = millpond_loadgen::Host::current()?;
/// let mut process = host.start("sleeper", &[("seconds", &5)])?;
/// process.say("go")?;
/// # Ok::<(), millpond_loadgen::Error>(())
/// ```
#[derive(Debug)]
pub struct Process {
    role: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Its number in this system.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says one line.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn say(&mut self, line: &str) -> Result<(), Error> {
        let failed = |error| Error::new(format!("{} does not listen: {error}", self.role));
        match &mut self.input {
            Some(input) => writeln!(input, "{line}").map_err(failed),
            None => Ok(()),
        }
    }

    /// Waits for one line.
    ///
    /// # Errors
    /// When none comes within `limit`, when it is none of `T`, or says that the role failed.
    pub fn hear<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, Error> {
        let role = &self.role;
        let line = self
            .lines
            .recv_timeout(limit)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    Error::new(format!("{role} has said nothing for {limit:?}"))
                }
                RecvTimeoutError::Disconnected => {
                    Error::new(format!("{role} ended without a word"))
                }
            })?;
        let value: Value = serde_json::from_str(&line)
            .map_err(|error| Error::new(format!("{role} said {line:?}: {error}")))?;
        if let Some(why) = value.get("failed").and_then(Value::as_str) {
            return Err(Error::new(format!("{role}: {why}")));
        }
        Ok(serde_json::from_value(value)?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::new(format!("{} has no process id", self.role)))?;
        Ok(kill_process(pid, signal).map_err(std::io::Error::from)?)
    }

    /// Lines that it has said and nobody has heard yet. Does not wait.
    pub fn said(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Whether it has ended, however.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn has_ended(&mut self) -> Result<bool, Error> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// SIGKILL, where it has not ended yet; returns when it is gone, with what it had said until then and nobody had
    /// heard.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<Vec<String>, Error> {
        self.child.kill()?;
        self.child.wait()?;
        // Ends with the pipe.
        Ok(self.lines.iter().collect())
    }

    /// Waits for the last line, and for the end.
    ///
    /// # Errors
    /// Those of [`Process::hear`].
    pub fn result<T: DeserializeOwned>(mut self, limit: Duration) -> Result<T, Error> {
        let result = self.hear(limit)?;
        drop(self.input.take());
        self.child.wait()?;
        Ok(result)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, unless something went wrong before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `key=value` arguments of a role: [`play_role`] hands them over.
///
/// ```
/// let args = ["juggler".to_owned(), "balls=3".to_owned()];
/// let played = millpond_loadgen::play_role(&args, &|name, arguments, _| {
///     assert_eq!((name, arguments.get::<u32>("balls")?), ("juggler", 3));
///     Ok(())
/// });
/// assert!(played.is_some_and(|outcome| outcome.is_ok()));
/// ```
pub struct Arguments<'a>(&'a [String]);

impl Arguments<'_> {
    /// All of them, as they are.
    pub fn words(&self) -> &[String] {
        self.0
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// When there is none.
    pub fn text(&self, key: &str) -> Result<&str, Error> {
        self.0
            .iter()
            .filter_map(|argument| argument.split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value))
            .ok_or_else(|| Error::new(format!("argument {key}=.. is missing")))
    }

    /// The value of `key`, parsed.
    ///
    /// # Errors
    /// When there is none, or it is no `T`.
    pub fn get<T: FromStr<Err: Display>>(&self, key: &str) -> Result<T, Error> {
        let text = self.text(key)?;
        text.parse()
            .map_err(|error| Error::new(format!("argument {key}={text}: {error}")))
    }
}

/// What a role hears and says: [`play_role`] hands it over.
///
/// ```no_run
/// millpond_loadgen::Talk.ready()?; // until it is told `go`
/// # Ok::<(), millpond_loadgen::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Talk;

impl Talk {
    /// Says that it is ready, and waits for `go`.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn ready(&self) -> Result<(), Error> {
        self.say(&json!({"ready": true}))?;
        self.hear().map(|_| ())
    }

    /// The next line.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn hear(&self) -> Result<String, Error> {
        let mut line = String::new();
        match std::io::stdin().read_line(&mut line)? {
            0 => Err(Error::new("nobody is left to tell it what to do")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Lines as they come, without waiting for them here; the other side is gone where there are no more.
    pub fn all_lines(&self) -> Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(line) = Talk.hear() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// Tells of the next line, or of the end of them, without waiting for it here.
    pub fn next_line(&self) -> Receiver<()> {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // A line, the end or an error: each of them ends the role.
            let _ = Talk.hear();
            let _ = sender.send(());
        });
        receiver
    }

    /// Says one line.
    ///
    /// # Errors
    /// When nobody is there any more.
    pub fn say(&self, what: &impl Serialize) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(what)?)?;
        Ok(out.flush()?)
    }
}

/// Plays a role of a scenario, when `args` begin with the name of one: what a program does first that a
/// [`Host`] starts. `None`: there is no argument, it was started for something else.
///
/// A failure has been told on standard output already.
pub fn role(args: &[String]) -> Option<Result<(), Error>> {
    play_role(args, &play)
}

/// The same with roles of another program's own: `play` is given the name, and refuses those that it does not know.
pub fn play_role(
    args: &[String],
    play: &dyn Fn(&str, &Arguments<'_>, &Talk) -> Result<(), Error>,
) -> Option<Result<(), Error>> {
    let (name, rest) = args.split_first()?;
    let talk = Talk;
    let outcome = play(name, &Arguments(rest), &talk);
    if let Err(error) = &outcome {
        // Whoever started it may be gone.
        let _ = talk.say(&json!({"failed": error.to_string()}));
    }
    Some(outcome)
}

fn play(name: &str, arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    match name {
        "daemon" => crate::stage::daemon_role(arguments, talk),
        "tower-publisher" => crate::tower_start::publisher_role(arguments, talk),
        "pipe-echo" => crate::debate::baselines::pipe_echo_role(),
        "tower-subscriber" => crate::tower_start::subscriber_role(arguments, talk),
        "last-value-publisher" => crate::last_value::publisher_role(arguments, talk),
        "last-value-subscriber" => crate::last_value::subscriber_role(arguments, talk),
        "gpus-sampler" => crate::gpus::sampler_role(arguments, talk),
        "debater" => crate::debate::debater_role(arguments, talk),
        "member" => crate::debate::member_role(arguments, talk),
        "sleeper" => crate::debate::sleeper_role(arguments, talk),
        "crash-publisher" => crate::crash::publisher_role(arguments, talk),
        "crash-ticker" => crate::crash::ticker_role(arguments, talk),
        "crash-subscriber" => crate::crash::subscriber_role(arguments, talk),
        "disk-publisher" => crate::disk_load::publisher_role(arguments, talk),
        "day-publisher" => crate::day::publisher_role(arguments, talk),
        "runaway-publisher" => crate::runaway::publisher_role(arguments, talk),
        "rotation-publisher" => crate::rotation::publisher_role(arguments, talk),
        "rotation-follower" => crate::rotation::follower_role(arguments, talk),
        "soak-daemon" => crate::soak::daemon_role(arguments, talk),
        "soak-publisher" => crate::soak::publisher_role(arguments, talk),
        "soak-subscriber" => crate::soak::subscriber_role(arguments, talk),
        "soak-follower" => crate::soak::follower_role(arguments, talk),
        "measured" => crate::measured::measured_role(arguments, talk),
        "sqlite-ask" => crate::week::sqlite_ask_role(arguments),
        "on-terminal" => crate::terminal::on_terminal_role(arguments),
        "ptys-child" => crate::ptys::child_role(arguments),
        "waiters" => crate::selective_wake::waiters_role(arguments, talk),
        other => Err(Error::new(format!("there is no role {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_by_their_key() {
        let given = ["bus=b=1".to_owned(), "count=7".to_owned()];
        let arguments = Arguments(&given);
        assert_eq!(arguments.text("bus").expect("given"), "b=1");
        assert_eq!(arguments.get::<u64>("count").expect("a number"), 7);
        let missing = arguments.get::<u64>("rate").expect_err("not given");
        assert!(missing.to_string().contains("rate"));
    }

    #[test]
    fn an_unknown_role_is_an_error() {
        let outcome = role(&["juggler".to_owned()]).expect("a role was asked for");
        assert!(
            outcome
                .expect_err("no such role")
                .to_string()
                .contains("juggler")
        );
    }
}
