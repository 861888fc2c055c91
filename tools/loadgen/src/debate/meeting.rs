//! The debate: each waits for the posts of all others before it goes on.

use std::collections::HashMap;

use millpond_bus::{Bus, Guarantee, Level, Position, Since, SubscribeOptions};
use serde::{Deserialize, Serialize};

use super::Meeting;
use super::pair::{ANSWER_LIMIT, FLUSH_LIMIT, receive, round_of};
use crate::error::Error;
use crate::latencies::Latencies;
use crate::process::{Arguments, Host, Talk};
use crate::stage::{Stage, account};

/// What each of them tells.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    published: u64,
    waits: u64,
    received: u64,
    one_way: Latencies,
}

pub(super) fn run(host: &Host, stage: &Stage, members: u64, rounds: u64) -> Result<Meeting, Error> {
    // One for all, taken before the first of them is there: nothing that any of them posts is missed.
    let since = stage.bus.position();
    let mut processes = Vec::new();
    for number in 0..members {
        processes.push(host.start(
            "member",
            &[
                ("bus", &stage.name()),
                ("me", &format!("member-{number}")),
                ("since", &since),
                ("members", &members),
                ("rounds", &rounds),
            ],
        )?);
    }
    for process in &mut processes {
        process.say("go")?;
    }
    let limit = ANSWER_LIMIT * (rounds as u32 + 1);
    let told: Vec<Told> = processes
        .into_iter()
        .map(|process| process.result(limit))
        .collect::<Result<_, _>>()?;
    let stats = stage.settle()?;
    let accounts = told.iter().enumerate().map(|(number, one)| {
        let label = format!("member-{number}");
        // Every post goes to all others, so there is no single number of receipts: the criterion has it.
        account(&stats, &label, "debate:meeting", one.published, None, 0)
    });
    let accounts = accounts.collect();
    let (waits, received) = told.iter().fold((0, 0), |(waits, received), one| {
        (waits + one.waits, received + one.received)
    });
    let mut one_way = Latencies::default();
    told.into_iter().for_each(|one| one_way.merge(one.one_way));
    Ok(Meeting {
        members,
        rounds,
        waits,
        received,
        one_way: one_way.summary(),
        accounts,
    })
}

/// `bus=NAME me=NAME since=POSITION members=N rounds=N`.
pub(crate) fn member_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let me = arguments.text("me")?;
    let (members, rounds): (usize, u64) = (arguments.get("members")?, arguments.get("rounds")?);
    let since: Position = arguments.get("since")?;
    let own_name = format!("debate:meeting:{me}");
    let mut publisher = bus.publisher(me)?;
    let topic = publisher.topic(&own_name)?;
    let mut options = SubscribeOptions::new(me, "debate:meeting:*".parse()?);
    options.since = Since::Position(since);
    let mut inbox = bus.subscribe(options)?;
    let clock = bus.clock();
    talk.ready()?;

    let mut told = Told {
        published: 0,
        waits: 0,
        received: 0,
        one_way: Latencies::default(),
    };
    // Posts by round; the others may be a round ahead of us.
    let mut heard: HashMap<u64, usize> = HashMap::new();
    'rounds: for round in 0..rounds {
        let text = format!(r#"{{"round":{round},"claim":"I beg to differ"}}"#);
        publisher.publish(topic, Level::Info, text.as_bytes())?;
        while heard.get(&round).copied().unwrap_or(0) + 1 < members {
            let Some(event) = receive(&mut inbox)? else {
                break 'rounds;
            };
            if *event.name == *own_name {
                continue;
            }
            told.one_way
                .record(clock.now_ns().saturating_sub(event.time_ns));
            told.received += 1;
            if let Some(round) = round_of(&event) {
                *heard.entry(round).or_default() += 1;
            }
        }
        told.waits += 1;
    }
    publisher.flush(Guarantee::Written, Some(FLUSH_LIMIT))?;
    told.published = publisher.counts().published;
    talk.say(&told)
}
