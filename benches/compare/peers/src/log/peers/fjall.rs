//! fjall: a log-structured tree of records in the process that logs.

use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{BATCH_LINES, record_of};
use crate::lines::{Check, Lines};
use crate::peer::{Peer, Place, Result, Setup, locked, ns_since};

/// Records by number, 1,000 a batch, each of which is then the kernel's; one, and `persist`, where each is to be durable.
pub struct Fjall;

fn open(place: &Place) -> Result<(Database, Keyspace)> {
    let database = Database::builder(place.out()).open()?;
    let lines = database.keyspace("lines", KeyspaceCreateOptions::default)?;
    Ok((database, lines))
}

impl Peer for Fjall {
    fn name(&self) -> String {
        "fjall".to_owned()
    }

    fn does_durable(&self) -> bool {
        true
    }

    fn find(&self, _: &Setup) -> Result<String> {
        Ok(locked("fjall"))
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let (database, keyspace) = open(place)?;
        let mut record = Vec::new();
        let started = Instant::now();
        let mut number = 0_u64;
        while lines.remaining() > 0 {
            let mut batch = database.batch();
            for _ in 0..BATCH_LINES.min(lines.remaining()) {
                record_of(lines.next_message().unwrap_or_default(), &mut record);
                batch.insert(&keyspace, number.to_be_bytes(), record.as_slice());
                number += 1;
            }
            batch.commit()?;
        }
        Ok(started.elapsed())
    }

    fn write_durably(&self, place: &mut Place, lines: &mut Lines) -> Result<Vec<u64>> {
        let (database, keyspace) = open(place)?;
        let mut record = Vec::new();
        let mut times_ns = Vec::new();
        for number in 0..lines.remaining() {
            let started = Instant::now();
            record_of(lines.next_message().unwrap_or_default(), &mut record);
            keyspace.insert(number.to_be_bytes(), record.as_slice())?;
            database.persist(PersistMode::SyncData)?;
            times_ns.push(ns_since(started));
        }
        Ok(times_ns)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        let (_database, keyspace) = open(place)?;
        for entry in keyspace.iter() {
            check.line(&entry.value()?);
        }
        Ok(())
    }
}
