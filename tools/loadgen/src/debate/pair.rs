//! Two processes in turns.

use std::time::Duration;

use millpond_bus::{
    Bus, Clock, Guarantee, Level, OwnedEvent, Position, Publisher, RecvError, Since,
    SubscribeOptions, Subscription, Topic,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Options, Pair};
use crate::error::Error;
use crate::latencies::Latencies;
use crate::place::pin;
use crate::process::{Arguments, Host, Talk};
use crate::stage::{Stage, account};

/// Nobody takes this long to answer who is there at all.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(20);
pub(super) const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// What each of the two tells.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    published: u64,
    received: u64,
    fresh: u64,
    fresh_received: u64,
    sleeps: u64,
    wakes: u64,
    /// Of waits that slept.
    asleep: Latencies,
    /// Of those that found the post before they could.
    awake: Latencies,
}

pub(super) fn run(host: &Host, stage: &Stage, options: &Options) -> Result<Pair, Error> {
    let start = |me: &str, other: &str, begins: bool| {
        host.start(
            "debater",
            &[
                ("bus", &stage.name()),
                ("me", &me),
                ("other", &other),
                ("begins", &begins),
                ("rounds", &options.rounds),
                ("fresh-every", &options.fresh_every),
            ],
        )
    };
    let (mut answering, mut beginning) =
        (start("kant", "hume", false)?, start("hume", "kant", true)?);
    answering.say("go")?;
    beginning.say("go")?;
    let limit = ANSWER_LIMIT * 2 + Duration::from_millis(10) * options.rounds as u32;
    let told: [Told; 2] = [beginning.result(limit)?, answering.result(limit)?];
    let stats = stage.settle()?;
    let sum = |of: fn(&Told) -> u64| told.iter().map(of).sum::<u64>();
    // What one has posted, the other one has received.
    let accounts = [("hume", 0, 1), ("kant", 1, 0)].map(|(label, own, other)| {
        let prefix = format!("debate:{label}");
        let received = Some(told[other].received);
        account(&stats, label, &prefix, told[own].published, received, 0)
    });
    let (received, fresh) = (sum(|one| one.received), sum(|one| one.fresh));
    let sleeps = sum(|one| one.sleeps);
    let (fresh_received, wakes) = (sum(|one| one.fresh_received), sum(|one| one.wakes));
    let (mut asleep, mut awake) = (Latencies::default(), Latencies::default());
    for one in told {
        asleep.merge(one.asleep);
        awake.merge(one.awake);
    }
    Ok(Pair {
        rounds: options.rounds,
        received,
        fresh,
        fresh_received,
        sleeps,
        wakes,
        asleep: asleep.summary(),
        awake: awake.summary(),
        accounts: accounts.into(),
    })
}

/// `bus=NAME me=NAME other=NAME begins=BOOL rounds=N fresh-every=N`.
pub(crate) fn debater_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let me = arguments.text("me")?;
    let mut publisher = bus.publisher(me)?;
    let mut debater = Debater {
        clock: bus.clock(),
        topic: publisher.topic(&format!("debate:{me}:claim"))?,
        others: format!("debate:{}:claim", arguments.text("other")?),
        label: me.to_owned(),
        begins: arguments.get("begins")?,
        rounds: arguments.get("rounds")?,
        fresh_every: arguments.get("fresh-every")?,
        bus,
        publisher,
        told: Told {
            published: 0,
            received: 0,
            fresh: 0,
            fresh_received: 0,
            sleeps: 0,
            wakes: 0,
            asleep: Latencies::default(),
            awake: Latencies::default(),
        },
    };
    pin(usize::from(debater.begins))?;
    debater.run(talk)?;
    debater
        .publisher
        .flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    debater.told.published = debater.publisher.counts().published;
    talk.say(&debater.told)
}

struct Debater {
    bus: Bus,
    clock: Clock,
    publisher: Publisher,
    topic: Topic,
    /// Name of the other one's posts.
    others: String,
    label: String,
    begins: bool,
    rounds: u64,
    fresh_every: u64,
    told: Told,
}

impl Debater {
    fn run(&mut self, talk: &Talk) -> Result<(), Error> {
        let mut inbox = self.subscribe(Since::Now)?;
        // Taken before the other one can post what it is for.
        let mut position = self.position_for(0);
        talk.ready()?;
        if self.begins {
            self.post(0)?;
        }
        for round in 0..self.rounds {
            if !self.wait(&mut inbox, round, position.take())? {
                break;
            }
            position = self.position_for(round + 1);
            match self.begins {
                true if round + 1 < self.rounds => self.post(round + 1)?,
                true => {}
                false => self.post(round)?,
            }
        }
        let counts = inbox.counts();
        (self.told.sleeps, self.told.wakes) = (counts.sleeps, counts.wakes);
        Ok(())
    }

    fn subscribe(&self, since: Since) -> Result<Subscription, Error> {
        let mut options = SubscribeOptions::new(&self.label, self.others.parse()?);
        options.since = since;
        Ok(self.bus.subscribe(options)?)
    }

    fn position_for(&self, round: u64) -> Option<Position> {
        let is_fresh = self.fresh_every > 0 && round % self.fresh_every == self.fresh_every - 1;
        let wanted = is_fresh && round < self.rounds;
        wanted.then(|| self.bus.position())
    }

    fn post(&mut self, round: u64) -> Result<(), Error> {
        let text = format!(r#"{{"round":{round},"claim":"all knowledge begins with experience"}}"#);
        self.publisher
            .publish(self.topic, Level::Info, text.as_bytes())?;
        Ok(())
    }

    /// Waits for the other one's post of this round; false where it did not come.
    fn wait(
        &mut self,
        inbox: &mut Subscription,
        round: u64,
        position: Option<Position>,
    ) -> Result<bool, Error> {
        if let Some(position) = position {
            self.told.fresh += 1;
            let mut fresh = self.subscribe(Since::Position(position))?;
            let found = receive(&mut fresh)?;
            self.told.fresh_received +=
                u64::from(found.is_some_and(|event| round_of(&event) == Some(round)));
            // What the inbox has had for a while says nothing of a wait.
            let found = receive(inbox)?;
            return Ok(self.count(found, round));
        }
        let sleeps = inbox.counts().sleeps;
        let found = receive(inbox)?;
        let now_ns = self.clock.now_ns();
        let latencies = match inbox.counts().sleeps > sleeps {
            true => &mut self.told.asleep,
            false => &mut self.told.awake,
        };
        if let Some(event) = &found {
            latencies.record(now_ns.saturating_sub(event.time_ns));
        }
        Ok(self.count(found, round))
    }

    fn count(&mut self, found: Option<OwnedEvent>, round: u64) -> bool {
        let is_right = found.is_some_and(|event| round_of(&event) == Some(round));
        self.told.received += u64::from(is_right);
        is_right
    }
}

/// The next event, or none within the limit.
pub(super) fn receive(subscription: &mut Subscription) -> Result<Option<OwnedEvent>, Error> {
    match subscription.recv_timeout(ANSWER_LIMIT) {
        Ok(event) => Ok(Some(event)),
        Err(RecvError::TimedOut) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn round_of(event: &OwnedEvent) -> Option<u64> {
    let value: Value = serde_json::from_slice(&event.payload).ok()?;
    value.get("round")?.as_u64()
}
