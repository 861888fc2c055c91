//! Subscribe with a trait: events one by one, or a whole batch at once.
//!
//! `chat:*` is `passthrough` and comes straight from its publisher, with no daemon in between. `data:*` is
//! `batch`: the consumer collects, and a subscriber gets `data:users:batch` with everything in it.

use millpond::{
    Batch, Bus, BusOptions, Daemon, Event, Lagged, Level, SubscribeOptions, Subscriber,
};

#[derive(Default)]
struct Printer {
    events: u64,
}

impl Subscriber for Printer {
    fn on_event(&mut self, event: &Event<'_>) {
        self.events += 1;
        println!("{}: {}", event.name, String::from_utf8_lossy(event.payload));
    }

    // Without this, each event of a batch would go to `on_event`.
    fn on_batch(&mut self, batch: &Batch<'_>) {
        self.events += batch.len() as u64;
        println!("{}: {} events at once", batch.name(), batch.len());
    }

    fn on_lagged(&mut self, lagged: &Lagged) {
        eprintln!("too slow: {lagged}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = format!("example-2-{}", std::process::id());
    let bus = Bus::attach(&name, &BusOptions::default())?;
    let logs = tempfile::tempdir()?;
    let daemon = Daemon::builder(&bus, logs.path()).spawn()?;

    let mut options = SubscribeOptions::new("printer", "chat:*".parse()?);
    options.patterns.push("data:*".parse()?);
    let mut subscription = bus.subscribe(options)?;

    let mut publisher = bus.publisher("app")?;
    let chat = publisher.topic("chat:room:7")?;
    let created = publisher.topic("data:users:created")?;
    publisher.publish(chat, Level::Info, b"hello")?;
    for user in 0..50 {
        let payload = format!("{{\"id\":{user}}}");
        publisher.publish(created, Level::Info, payload.as_bytes())?;
    }

    let mut printer = Printer::default();
    while printer.events < 51 {
        subscription.run(&mut printer, None)?; // sleeps until there is something
    }
    drop((subscription, publisher));
    daemon.stop()?;
    Ok(bus.remove()?)
}
