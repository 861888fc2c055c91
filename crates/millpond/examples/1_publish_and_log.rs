//! Publish two events, be the consumer yourself, and read the log that they became.
//!
//! In a larger system the consumer is `millpond daemon`, and this program only publishes.

use std::ops::ControlFlow;

use millpond::logs::{Query, Reader};
use millpond::{Bus, BusOptions, Daemon, Guarantee, Level};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A name of its own, so that the example meets no other bus; normally it is one word for all processes.
    let bus = Bus::attach(
        &format!("example-1-{}", std::process::id()),
        &BusOptions::default(),
    )?;
    let logs = tempfile::tempdir()?;
    let daemon = Daemon::builder(&bus, logs.path()).spawn()?;

    // A publisher belongs to a thread. Publishing makes no system call while the consumer is awake.
    let mut publisher = bus.publisher("web")?;
    let rpc = publisher.topic("log:web:rpc")?; // service `web`, source `rpc`
    publisher.publish(rpc, Level::Info, b"listening on :8080")?;
    publisher.publish(rpc, Level::Error, b"no route to db")?;
    // Waits until both are in the file. `Durable` would wait for the disk as well.
    publisher.flush(Guarantee::Written, None)?;

    let reader = Reader::open(logs.path())?;
    reader.run(&Query::new().service("web"), &mut |hit| {
        print!("{}", String::from_utf8_lossy(hit.line));
        ControlFlow::Continue(())
    })?;

    drop(publisher);
    daemon.stop()?;
    bus.remove()?;
    Ok(())
}
