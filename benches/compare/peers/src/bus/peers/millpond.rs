//! millpond itself, in the four ways events go through it.

use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;
use millpond_bus::{
    Bus, BusOptions, Class, Drain, Event, Item, Level, Overflow, Publisher, RecvError, Rule,
    RuleTable, Scope, SubscribeOptions, Subscription, Topic, Verdict,
};
use millpond_daemon::Daemon;

use crate::event::Outgoing;
use crate::peer::{About, Fallible, Fit, Peer, Place, Receiver, Sender, Speed, locked};
use crate::work::{End, Part, QUEUE_BYTES, Work};

const DEADLINE: Duration = Duration::from_secs(60);
/// The consumer lets a few events gather before it looks again.
const FEW: u64 = 64;
const SPINS: u32 = 2000;
const BATCH: u64 = 16;

/// Which way events go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Millpond {
    /// To the bus's consumer, one event a commit. Nothing is lost.
    Consumer,
    /// The same, 16 events a commit.
    By16,
    /// Class `passthrough`: subscribers read the publishers' lanes. A daemon runs beside.
    Passthrough,
    /// Class `batch`: publishers -> daemon -> subscribers.
    Batch,
}

impl Millpond {
    fn class(self) -> Class {
        match self {
            Millpond::Passthrough => Class::Passthrough,
            _ => Class::Batch,
        }
    }

    fn is_subscribed(self) -> bool {
        matches!(self, Millpond::Passthrough | Millpond::Batch)
    }
}

impl Peer for Millpond {
    type Sender = Publishes;
    type Receiver = Receives;

    fn about(&self) -> About {
        let name = match self {
            Millpond::Consumer => "millpond, consumer",
            Millpond::By16 => "millpond, consumer, by 16",
            Millpond::Passthrough => "millpond, passthrough",
            Millpond::Batch => "millpond, batch",
        };
        About {
            speed: Speed::Memory,
            ..About::new(name)
        }
    }

    fn version(&self) -> Result<String, String> {
        Ok(locked("millpond-bus"))
    }

    fn fit(&self, part: Part) -> Fit {
        let fits = match self {
            Millpond::Consumer | Millpond::By16 => {
                matches!(
                    part,
                    Part::Throughput | Part::Throughput1k | Part::Publish | Part::FanIn
                )
            }
            Millpond::Passthrough => true,
            // It lets events gather for 50 ms: latency is not what it is for.
            Millpond::Batch => !part.is_latency(),
        };
        if fits { Fit::Yes } else { Fit::Apart }
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let rule = |pattern: &str| {
            Ok::<_, millpond_bus::PatternError>(Rule {
                class: self.class(),
                lane_bytes: QUEUE_BYTES as u32,
                outbox_bytes: QUEUE_BYTES as u32,
                // What a loaded bus is given: fewer and larger records.
                max_events: 2000,
                max_bytes: 1 << 20,
                overflow: Overflow::Block { deadline: DEADLINE },
                ..Rule::new(pattern.parse()?)
            })
        };
        let options = BusOptions {
            rules: RuleTable::new(vec![rule("to:*")?, rule("back:*")?])?,
            ..BusOptions::default()
        };
        let name = format!("peers-{}", std::process::id());
        let bus = OwnBus(Bus::attach(&name, &options)?);
        let daemon = match self.is_subscribed() {
            true => Some(OwnDaemon::start(&name)?),
            false => None,
        };
        Ok(Place {
            address: name,
            servers: daemon.iter().map(|daemon| daemon.child.id()).collect(),
            keep: Box::new((daemon, bus)),
        })
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Publishes> {
        let bus = Bus::open(end.place)?;
        let mut publisher = bus.publisher("peers")?;
        let topic = publisher.topic(&format!("{}:events", channel(end)))?;
        Ok(Publishes {
            publisher,
            topic,
            is_batched: *self == Millpond::By16,
        })
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Receives> {
        let bus = Bus::open(end.place)?;
        let pattern = format!("{}:*", channel(end)).parse()?;
        if self.is_subscribed() {
            let options = SubscribeOptions {
                busy_poll: end.work.part.polls(),
                ..SubscribeOptions::new("peers", pattern)
            };
            return Ok(Receives::Subscriber(Box::new(bus.subscribe(options)?)));
        }
        let drain = bus.drain()?;
        let channel = drain.channel(&pattern).ok_or("the rule is there")?;
        Ok(Receives::Consumer(Box::new((drain, channel))))
    }
}

fn channel(end: &End<'_>) -> &'static str {
    if end.channel == 0 { "to" } else { "back" }
}

/// The side that publishes.
pub struct Publishes {
    publisher: Publisher,
    topic: Topic,
    is_batched: bool,
}

impl Sender for Publishes {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        self.publisher.publish(self.topic, Level::Info, payload)?;
        Ok(())
    }

    fn send_all(&mut self, numbers: RangeInclusive<u64>, events: &mut Outgoing) -> Fallible<()> {
        if !self.is_batched {
            for number in numbers {
                self.send(events.event(number))?;
            }
            return Ok(());
        }
        let (mut next, last) = (*numbers.start(), *numbers.end());
        while next <= last {
            let mut many = self.publisher.batch(self.topic)?;
            for number in next..=last.min(next + BATCH - 1) {
                many.push(Level::Info, events.event(number))?;
            }
            many.commit();
            next += BATCH;
        }
        Ok(())
    }
}

/// The side that gets them.
pub enum Receives {
    /// The consumer itself, and its channel.
    Consumer(Box<(Drain, u32)>),
    /// A subscriber.
    Subscriber(Box<Subscription>),
}

impl Receiver for Receives {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let (drain, channel) = match self {
            Receives::Consumer(both) => (&mut both.0, both.1),
            Receives::Subscriber(subscription) => {
                let mut each = |event: &Event<'_>| take(event.payload);
                if patience.is_zero() {
                    return Ok(subscription.poll(&mut each)?);
                }
                return match subscription.run(&mut each, Some(patience)) {
                    Err(RecvError::TimedOut) => Ok(0),
                    other => Ok(other?),
                };
            }
        };
        let backoff = Backoff::new();
        loop {
            let pass = drain.pass(Scope::Batched, &mut |item: Item<'_>| {
                if let Item::Record(record) = item {
                    take(record.payload);
                }
                Verdict::Keep
            });
            if drain.directory_changed() {
                drain.housekeep();
            }
            if pass.records > 0 {
                // Nothing is handed on: what is measured is the way to the consumer.
                drain.commit_batched(channel, &[]);
            }
            if pass.records < FEW && !patience.is_zero() {
                (0..SPINS).for_each(|_| std::hint::spin_loop());
            }
            if pass.records > 0 || patience.is_zero() || backoff.is_completed() {
                return Ok(pass.records);
            }
            backoff.snooze();
        }
    }
}

/// Removes its bus.
struct OwnBus(Bus);

impl Drop for OwnBus {
    fn drop(&mut self) {
        // What is left where this fails is shared memory, and there is nobody to tell.
        drop(self.0.remove());
    }
}

/// A daemon in a process of its own.
struct OwnDaemon {
    child: Child,
    _logs: tempfile::TempDir,
}

impl OwnDaemon {
    fn start(bus: &str) -> Fallible<Self> {
        let logs = tempfile::tempdir()?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("daemon")
            .arg(bus)
            .arg(logs.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take();
        let daemon = OwnDaemon { child, _logs: logs };
        let mut answer = [0];
        output
            .ok_or("its output was asked for")?
            .read_exact(&mut answer)?;
        Ok(daemon)
    }
}

impl Drop for OwnDaemon {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > DEADLINE {
                // Its figures are taken already: what hangs here must not hold up the others.
                drop(self.child.kill());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What the daemon's process does, until its input ends.
///
/// # Errors
/// When the daemon cannot start, or could not write at its end.
pub fn daemon_process(bus: &str, logs: &Path) -> Fallible<()> {
    let running = Daemon::builder(&Bus::open(bus)?, logs).spawn()?;
    let mut output = std::io::stdout();
    output.write_all(b"r")?;
    output.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(running.stop()?)
}
