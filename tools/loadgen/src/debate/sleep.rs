//! What waiting costs when nothing comes.

use std::time::{Duration, Instant};

use millpond_bus::{Bus, SubscribeOptions};

use super::Sleep;
use crate::clock::thread_cpu_ns;
use crate::error::Error;
use crate::process::{Arguments, Host, Talk};
use crate::stage::Stage;

pub(super) fn run(host: &Host, stage: &Stage, time: Duration) -> Result<Sleep, Error> {
    let millis = time.as_millis();
    let mut sleeper = host.start("sleeper", &[("bus", &stage.name()), ("ms", &millis)])?;
    sleeper.say("go")?;
    sleeper.result(time + Duration::from_secs(30))
}

/// `bus=NAME ms=N`.
pub(crate) fn sleeper_role(arguments: &Arguments<'_>, talk: &Talk) -> Result<(), Error> {
    let bus = Bus::open(arguments.text("bus")?)?;
    let time = Duration::from_millis(arguments.get("ms")?);
    // Nobody posts here.
    let pattern = "debate:silence:*".parse()?;
    let mut inbox = bus.subscribe(SubscribeOptions::new("sleeper", pattern))?;
    talk.ready()?;
    let (started, before_ns) = (Instant::now(), thread_cpu_ns());
    let woken = inbox.wait(Some(time));
    talk.say(&Sleep {
        waited_ns: started.elapsed().as_nanos() as u64,
        cpu_ns: thread_cpu_ns() - before_ns,
        woken,
    })
}
