//! Check, then wait: without the race in between, and without polling.
//!
//! Note the position, look at the state, and if it is not there yet wait for an event *since that position*:
//! what was published between the look and the wait is found before anybody sleeps.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millpond::{Bus, BusOptions, Event, Level, Since, SubscribeOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("example-4-{}", std::process::id());
    let bus = Bus::attach(&name, &BusOptions::default())?;
    // Stands for a table, a file, a service that can be asked.
    let answer: Arc<Mutex<Option<String>>> = Arc::default();

    let (their_bus, their_answer) = (bus.clone(), Arc::clone(&answer));
    let other = std::thread::spawn(move || -> Result<(), millpond::Error> {
        let mut publisher = their_bus.publisher("other")?;
        let reply = publisher.topic("chat:reply:7")?;
        // First the state, then the event: whoever gets the event finds the state.
        *their_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some("42".to_owned());
        // A drop would be counted, and told to the waiter.
        let _ = publisher.publish(reply, Level::Info, br#"{"to":"me"}"#);
        Ok(())
    });

    let position = bus.position();
    let look = || {
        answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    };
    let found = match look() {
        Some(found) => found,
        None => {
            let mut options = SubscribeOptions::new("asker", "chat:reply:7".parse()?);
            options.since = Since::Position(position);
            let mut replies = bus
                .subscribe(options)?
                .filter(|event: &Event<'_>| event.payload.ends_with(br#""to":"me"}"#));
            replies.recv_timeout(Duration::from_secs(60))?; // `TimedOut` is an error of its own
            look().ok_or("an event and no state")?
        }
    };
    println!("the answer is {found}");
    other.join().map_err(|_| "the other thread failed")??;
    Ok(bus.remove()?)
}
