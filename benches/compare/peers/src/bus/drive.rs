//! What senders and receivers do, whoever the peer is.

use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;
use rustix::thread::CpuSet;

use crate::control::Control;
use crate::event::{Incoming, Outgoing, clock};
use crate::peer::{Fallible, Peer, Receiver, Sender};
use crate::run::{Report, Said};
use crate::work::{BURST, End, PAUSE, Part, Work};

/// One look at a peer that sleeps takes about this long.
const PATIENCE: Duration = Duration::from_millis(20);
/// What did not come so long after the last send will not come any more.
const GRACE: Duration = Duration::from_millis(300);
const PACE: Duration = Duration::from_millis(1);

/// Sends all events of one sender.
pub fn send<P: Peer>(peer: &P, end: &End<'_>, control: &Control) -> Fallible<()> {
    let work = end.work;
    let clock = clock(work)?;
    let mut events = Outgoing::new(end, clock.clone());
    let mut sender = peer.sender(end)?;
    control.begin()?;
    pin(work, 0)?;
    let mut report = Report {
        started_ns: clock.now_ns(),
        ..Report::default()
    };
    match work.part {
        Part::Wake | Part::WakePinned => {
            for number in 1..=work.events {
                std::thread::sleep(PACE);
                sender.send(events.event(number))?;
                sender.flush()?;
            }
        }
        Part::Publish => {
            let mut number = 1;
            while number <= work.events {
                let started_ns = clock.now_ns();
                sender.send_all(number..=number + BURST - 1, &mut events)?;
                report.times_ns.push(clock.now_ns() - started_ns);
                number += BURST;
                let pause = Instant::now();
                while pause.elapsed() < PAUSE {
                    std::thread::yield_now();
                }
            }
            sender.flush()?;
        }
        _ => {
            sender.send_all(1..=work.events, &mut events)?;
            sender.flush()?;
        }
    }
    report.ended_ns = clock.now_ns();
    control.end(Said::Sender(report))
}

/// Receives until everything is there, or nothing more comes.
pub fn receive<P: Peer>(peer: &P, end: &End<'_>, control: &Control) -> Fallible<()> {
    let work = end.work;
    let clock = clock(work)?;
    let mut incoming = Incoming::new(work, clock.clone());
    let mut receiver = peer.receiver(end)?;
    control.begin()?;
    pin(work, 1)?;
    let patience = if work.part.polls() {
        Duration::ZERO
    } else {
        PATIENCE
    };
    let backoff = Backoff::new();
    let (mut ended_ns, mut was_sent, mut quiet_since) = (0, false, Instant::now());
    loop {
        let seen = receiver.receive(patience, &mut |payload| incoming.take(payload))?;
        if seen > 0 {
            ended_ns = clock.now_ns();
            if incoming.is_complete(work) {
                break;
            }
            quiet_since = Instant::now();
            backoff.reset();
            continue;
        }
        if work.part.polls() {
            backoff.snooze();
        }
        if control.is_sent() {
            if !was_sent {
                receiver.sent()?;
                was_sent = true;
                quiet_since = Instant::now();
            } else if quiet_since.elapsed() > GRACE {
                break;
            }
        }
    }
    incoming.check()?;
    control.end(Said::Receiver(Report {
        ended_ns: receiver.arrived_ns().unwrap_or(ended_ns),
        disk_bytes: receiver.disk_bytes(),
        received: incoming.received,
        times_ns: incoming.times_ns,
        ..Report::default()
    }))
}

/// Sends one event, waits for the answer, sends the next.
pub fn ping<P: Peer>(peer: &P, end: &End<'_>, control: &Control) -> Fallible<()> {
    let work = end.work;
    let clock = clock(work)?;
    let mut events = Outgoing::new(end, clock.clone());
    let mut replies = peer.receiver(&End { channel: 1, ..*end })?;
    let mut sender = peer.sender(end)?;
    control.begin()?;
    pin(work, 0)?;
    let started_ns = clock.now_ns();
    for number in 1..=work.events {
        sender.send(events.event(number))?;
        sender.flush()?;
        while replies.receive(Duration::ZERO, &mut |_| {})? == 0 {
            std::hint::spin_loop();
        }
    }
    let ended_ns = clock.now_ns();
    control.end(Said::Sender(Report {
        started_ns,
        ended_ns,
        ..Report::default()
    }))
}

/// Answers each event as soon as it sees it.
pub fn pong<P: Peer>(peer: &P, end: &End<'_>, control: &Control) -> Fallible<()> {
    let work = end.work;
    let clock = clock(work)?;
    let mut incoming = Incoming::new(work, clock.clone());
    let mut answers = Outgoing::new(end, clock.clone());
    let mut receiver = peer.receiver(end)?;
    control.begin()?;
    pin(work, 1)?;
    let mut sender = peer.sender(&End { channel: 1, ..*end })?;
    while incoming.received < work.events {
        let seen = receiver.receive(Duration::ZERO, &mut |payload| incoming.take(payload))?;
        if seen == 0 {
            std::hint::spin_loop();
            continue;
        }
        sender.send(answers.event(incoming.received))?;
        sender.flush()?;
        incoming.check()?;
    }
    control.end(Said::Receiver(Report {
        ended_ns: clock.now_ns(),
        received: incoming.received,
        times_ns: incoming.times_ns,
        ..Report::default()
    }))
}

/// Keeps this thread on one core, where the work says so.
fn pin(work: &Work, core: usize) -> Fallible<()> {
    if work.part.is_pinned() {
        let mut set = CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set)
            .map_err(|error| format!("core {core} cannot be had: {error}"))?;
    }
    Ok(())
}
