//! One round: the processes of one peer, from their start to their figures, under a watchdog.
//!
//! Each process has one end (all ends, where the peer lives inside one process) and speaks in JSON lines:
//! it says that it is ready, is told `go`, reports, is told `sent` when all senders have reported and `end` when
//! all receivers have.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use millpond_peers::{Crew, LatencyNs, Round, Watch};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::peer::{AnyPeer, Fallible, Place};
use crate::work::{BURST, End, Part, Work};

/// What one end did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Of a sender: right before its first event.
    pub started_ns: u64,
    /// Of a sender: after its last event. Of a receiver: when its last event was there.
    pub ended_ns: u64,
    /// Of a receiver: events that came.
    #[serde(default)]
    pub received: u64,
    /// Of a receiver: how long events were under way. Of a sender: how long bursts took.
    #[serde(default)]
    pub times_ns: Vec<u64>,
    /// Of a receiver: what the events take on the disk, where they are there.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
}

/// A line from a process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// Its ends are made.
    Ready,
    /// A sender is done.
    Sender(Report),
    /// A receiver is done.
    Receiver(Report),
    /// Its last line: what the process used since `go`.
    Used {
        /// Processor time of all its threads.
        cpu_ns: u64,
        /// Its greatest resident memory, shared memory included.
        memory_bytes: u64,
    },
    /// It gives up.
    Failed(String),
}

/// What a process is told on its command line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    peer: String,
    work: Work,
    /// Empty: the process makes the place itself.
    place: String,
    senders: Vec<usize>,
    receivers: Vec<usize>,
}

/// Runs one round.
///
/// # Errors
/// Why there are no figures: the peer failed, or the watchdog ended it.
pub fn round(peer: &dyn AnyPeer, work: &Work, watch: &Watch) -> Fallible<Round> {
    let about = peer.about();
    // Before the processes that use it, so that they are gone when it is removed, however the round ends.
    let place = match about.is_in_process {
        true => Place::new("", ()),
        false => peer.open(work)?,
    };
    let mut ends = Ends::new(watch);
    let task = |senders: Vec<usize>, receivers: Vec<usize>| Task {
        peer: about.name.to_owned(),
        work: work.clone(),
        place: place.address.clone(),
        senders,
        receivers,
    };
    if about.is_in_process {
        let all = task((0..work.senders).collect(), (0..work.receivers).collect());
        ends.crew.start(this_program(&all)?)?;
    } else {
        for index in 0..work.receivers {
            ends.crew.start(this_program(&task(vec![], vec![index]))?)?;
        }
        ends.wait_until(|ends| ends.ready == work.receivers)?;
        for index in 0..work.senders {
            let end = End {
                work,
                place: &place.address,
                channel: 0,
                index,
            };
            let own = peer
                .command(&end)
                .map_or_else(|| this_program(&task(vec![index], vec![])), Ok);
            ends.crew.start(own?)?;
        }
    }
    ends.wait_until(|ends| ends.ready == ends.crew.count())?;
    let servers_cpu = || place.servers.iter().map(|pid| cpu_ns(*pid)).sum::<u64>();
    let cpu_before_ns = servers_cpu();
    ends.crew.tell("go");
    ends.wait_until(|ends| ends.senders.len() == work.senders)?;
    ends.crew.tell("sent");
    ends.wait_until(|ends| ends.receivers.len() == work.receivers)?;
    ends.crew.tell("end");
    ends.wait_until(|ends| ends.used == ends.crew.count())?;
    ends.cpu_ns += servers_cpu().saturating_sub(cpu_before_ns);
    ends.memory_bytes += place
        .servers
        .iter()
        .map(|pid| memory_bytes(*pid))
        .sum::<u64>();
    Ok(ends.figures(work))
}

fn this_program(task: &Task) -> Fallible<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("role").arg(serde_json::to_string(task)?);
    Ok(command)
}

/// The processes of a round, and what they have said so far.
struct Ends {
    crew: Crew<Said>,
    ready: usize,
    used: usize,
    senders: Vec<Report>,
    receivers: Vec<Report>,
    cpu_ns: u64,
    memory_bytes: u64,
}

impl Ends {
    fn new(watch: &Watch) -> Self {
        Ends {
            crew: Crew::new(watch),
            ready: 0,
            used: 0,
            senders: Vec::new(),
            receivers: Vec::new(),
            cpu_ns: 0,
            memory_bytes: 0,
        }
    }

    fn wait_until(&mut self, is_reached: impl Fn(&Ends) -> bool) -> Fallible<()> {
        let mut ended = 0;
        while !is_reached(self) {
            match self.crew.hear()? {
                None => {
                    ended += 1;
                    if ended > self.used {
                        return Err("one of its processes ended early".into());
                    }
                }
                Some(Said::Ready) => self.ready += 1,
                Some(Said::Sender(report)) => self.senders.push(report),
                Some(Said::Receiver(report)) => self.receivers.push(report),
                Some(Said::Used {
                    cpu_ns,
                    memory_bytes,
                }) => {
                    self.used += 1;
                    self.cpu_ns += cpu_ns;
                    self.memory_bytes += memory_bytes;
                }
                Some(Said::Failed(why)) => return Err(why.into()),
            }
        }
        Ok(())
    }

    fn figures(&self, work: &Work) -> Round {
        let started_ns = self.senders.iter().map(|report| report.started_ns).min();
        let ends = self.receivers.iter().chain(match work.receivers {
            0 => &self.senders[..],
            _ => &[],
        });
        let ended_ns = ends.map(|report| report.ended_ns).max();
        let elapsed_ns = ended_ns
            .unwrap_or(0)
            .saturating_sub(started_ns.unwrap_or(0));
        let (times_ns, seconds): (Vec<u64>, _) = if work.part == Part::Publish {
            let bursts = self.senders.iter().flat_map(|report| &report.times_ns);
            let spent_ns: u64 = bursts.clone().sum();
            (bursts.map(|ns| ns / BURST).collect(), spent_ns as f64 / 1e9)
        } else {
            let times = self.receivers.iter().flat_map(|report| &report.times_ns);
            (times.copied().collect(), elapsed_ns as f64 / 1e9)
        };
        // Each arrival counts, where an event goes to several.
        let events = work.expected() * work.receivers.max(1) as u64;
        let received: u64 = self.receivers.iter().map(|report| report.received).sum();
        Round {
            events,
            seconds,
            latency_ns: (!times_ns.is_empty()).then(|| LatencyNs::of(times_ns)),
            cpu_seconds: self.cpu_ns as f64 / 1e9,
            memory_bytes: Some(self.memory_bytes),
            disk_bytes: self
                .receivers
                .iter()
                .filter_map(|report| report.disk_bytes)
                .reduce(|sum, more| sum + more),
            lost: match work.receivers {
                0 => 0,
                _ => events.saturating_sub(received),
            },
        }
    }
}

/// Processor time that all threads of a process have used so far.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// The greatest resident memory of a process so far.
fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What a process that was started for a round does.
///
/// # Errors
/// When it cannot even speak to the process that started it.
pub fn role(task: &str, peers: &'static [&'static dyn AnyPeer]) -> Fallible<()> {
    // Whoever started us may be killed, and nobody else ends a sender that waits for room.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut task: Task = serde_json::from_str(task)?;
    let known = peers.iter().find(|peer| peer.about().name == task.peer);
    let peer: &'static dyn AnyPeer = *known.ok_or("no such peer")?;
    let (say, said) = mpsc::channel();
    let _place = match task.place.is_empty() {
        true => {
            let place = match peer.open(&task.work) {
                Ok(place) => place,
                Err(error) => return answer(&Said::Failed(error.to_string())),
            };
            place.address.clone_into(&mut task.place);
            Some(place)
        }
        false => None,
    };
    let task = Arc::new(task);
    let sent = Arc::new(AtomicBool::new(false));
    let (mut gates, mut threads) = (Vec::new(), Vec::new());
    let receivers = task.receivers.iter().map(|index| (false, *index));
    let ends: Vec<_> = receivers
        .chain(task.senders.iter().map(|index| (true, *index)))
        .collect();
    let mut ready = 0;
    for (number, &(is_sender, index)) in ends.iter().enumerate() {
        let (go, gate) = mpsc::channel();
        gates.push(go);
        let (task, sent, say) = (Arc::clone(&task), Arc::clone(&sent), say.clone());
        threads.push(std::thread::spawn(move || {
            let control = Control {
                say,
                go: gate,
                sent,
            };
            let end = End {
                work: &task.work,
                place: &task.place,
                channel: 0,
                index,
            };
            let outcome = match is_sender {
                true => peer.send(&end, &control),
                false => peer.receive(&end, &control),
            };
            if let Err(error) = outcome {
                // The main thread is gone where the round was given up.
                drop(control.say.send(Said::Failed(error.to_string())));
            }
        }));
        // A sender is made when all receivers are there, also among threads.
        while ready <= number {
            match said.recv()? {
                Said::Ready => ready += 1,
                other => return answer(&other),
            }
        }
    }
    answer(&Said::Ready)?;
    if !listen("go") {
        return Ok(());
    }
    let cpu_before_ns = cpu_time_ns();
    open_all(&gates);
    let (say_end, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if listen("sent") {
            sent.store(true, Ordering::Release);
            // The main thread is gone where the round was given up.
            let _ = listen("end") && say_end.send(()).is_ok();
        }
    });
    for _ in &ends {
        let one = said.recv()?;
        answer(&one)?;
        if matches!(one, Said::Failed(_)) {
            return Ok(());
        }
    }
    ended.recv()?;
    open_all(&gates);
    for thread in threads {
        thread.join().map_err(|_| "an end panicked")?;
    }
    answer(&Said::Used {
        cpu_ns: cpu_time_ns() - cpu_before_ns,
        memory_bytes: memory_bytes(std::process::id()),
    })
}

/// Whether the next thing that our parent says is this.
fn listen(wanted: &str) -> bool {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok() && line.trim_end() == wanted
}

fn open_all(gates: &[mpsc::Sender<()>]) {
    for gate in gates {
        // An end that failed waits for nothing.
        let _ = gate.send(());
    }
}

fn answer(said: &Said) -> Fallible<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, said)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

fn cpu_time_ns() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
