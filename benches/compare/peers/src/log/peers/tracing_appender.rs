//! tracing with tracing-appender: a thread writes what the process logs.

use std::time::{Duration, Instant};

use millpond_peers::Guarantees;
use tracing_appender::non_blocking::NonBlockingBuilder;

use crate::lines::Lines;
use crate::peer::{Peer, Place, Result, Setup, USUAL, locked};

/// Its usual format, through its thread; waits where the queue of 128,000 lines is full.
pub struct TracingAppender;

impl Peer for TracingAppender {
    fn name(&self) -> String {
        "tracing-appender".to_owned()
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees {
            crash_safe: false,
            ..USUAL
        }
    }

    fn find(&self, _: &Setup) -> Result<String> {
        Ok(locked("tracing-appender"))
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let appender = tracing_appender::rolling::never(place.out(), "lines");
        let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(appender);
        let subscriber = tracing_subscriber::fmt()
            .with_writer(writer)
            .with_ansi(false);
        // A round is a process: nobody else has set one.
        tracing::subscriber::set_global_default(subscriber.finish())?;
        let started = Instant::now();
        while let Some(message) = lines.next_message() {
            tracing::info!("{}", std::str::from_utf8(message)?);
        }
        // Writes what is queued, for as long as it takes that to be: a second.
        drop(guard);
        Ok(started.elapsed())
    }
}
