//! Read events from the past, and go on live without a gap or a repeat.
//!
//! The log of a persisted rule is its outbox: past and present are the same file, so there is no seam.

use std::time::Duration;

use millpond::replay::{Replay, ReplaySince, Replayed};
use millpond::{Bus, BusOptions, Daemon, Guarantee, Level};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("example-5-{}", std::process::id());
    let bus = Bus::attach(&name, &BusOptions::default())?;
    let logs = tempfile::tempdir()?;
    let daemon = Daemon::builder(&bus, logs.path()).spawn()?;
    let mut publisher = bus.publisher("web")?;
    let orders = publisher.topic("log:web:orders")?;

    for number in 0..3 {
        publisher.publish(orders, Level::Info, format!("order {number}").as_bytes())?;
    }
    publisher.flush(Guarantee::Written, None)?;

    // Three events are history by now. What comes after them is live, and the loop does not care.
    let mut since = ReplaySince::Oldest;
    for round in 0..2 {
        let mut subscription = Replay::new(&bus, logs.path())
            .pattern("log:web:*".parse()?)
            .since(since)
            .open()?;
        for number in 0..3 {
            let text = format!("order {number} of round {round}, live");
            publisher.publish(orders, Level::Info, text.as_bytes())?;
        }
        let events = if round == 0 { 6 } else { 3 };
        for _ in 0..events {
            match subscription.recv_timeout(Duration::from_secs(10))? {
                Replayed::Event(event) => {
                    println!(
                        "{}: {}",
                        event.name,
                        String::from_utf8_lossy(&event.payload)
                    );
                }
                Replayed::Dropped(loss) => println!("{} dropped {}", loss.source, loss.count),
                Replayed::Gone(loss) => println!("{loss}"),
            }
        }
        // A word that can be stored: another process goes on with it, tomorrow if need be.
        let cursor = subscription.cursor().to_string();
        println!("-- at {cursor}");
        since = ReplaySince::Cursor(cursor.parse()?);
    }
    drop(publisher);
    daemon.stop()?;
    Ok(bus.remove()?)
}
