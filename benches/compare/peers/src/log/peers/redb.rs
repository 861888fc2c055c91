//! redb: a B-tree of records in the process that logs.

use std::time::{Duration, Instant};

use millpond_peers::Guarantees;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{BATCH_LINES, record_of};
use crate::lines::{Check, Lines};
use crate::peer::{Peer, Place, Result, Setup, USUAL, locked, ns_since};

const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lines");
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Records by number, 1,000 a commit; one where each is to be durable.
pub struct Redb {
    /// Commits are durable once a second, as millpond's are in its usual configuration, not each of them.
    pub is_lazy: bool,
}

impl Redb {
    fn commit(
        database: &Database,
        first: u64,
        count: u64,
        durability: Durability,
        lines: &mut Lines,
    ) -> Result<()> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            let mut record = Vec::new();
            for number in first..first + count {
                record_of(lines.next_message().unwrap_or_default(), &mut record);
                table.insert(number, record.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Peer for Redb {
    fn name(&self) -> String {
        let way = if self.is_lazy {
            ", durable each second"
        } else {
            ""
        };
        format!("redb{way}")
    }

    fn does_durable(&self) -> bool {
        !self.is_lazy
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees {
            // What no durable commit follows is lost with the process.
            crash_safe: !self.is_lazy,
            durable: !self.is_lazy,
            ..USUAL
        }
    }

    fn find(&self, _: &Setup) -> Result<String> {
        Ok(locked("redb"))
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let database = Database::create(place.out_path())?;
        let started = Instant::now();
        let (mut synced, mut number) = (started, 0);
        while lines.remaining() > 0 {
            let count = BATCH_LINES.min(lines.remaining());
            let is_due = synced.elapsed() >= SYNC_INTERVAL || lines.remaining() == count;
            let durability = if is_due || !self.is_lazy {
                synced = Instant::now();
                Durability::Immediate
            } else {
                Durability::None
            };
            Self::commit(&database, number, count, durability, lines)?;
            number += count;
        }
        Ok(started.elapsed())
    }

    fn write_durably(&self, place: &mut Place, lines: &mut Lines) -> Result<Vec<u64>> {
        let database = Database::create(place.out_path())?;
        let mut times_ns = Vec::new();
        for number in 0..lines.remaining() {
            let started = Instant::now();
            Self::commit(&database, number, 1, Durability::Immediate, lines)?;
            times_ns.push(ns_since(started));
        }
        Ok(times_ns)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        let database = Database::open(place.out_path())?;
        let transaction = database.begin_read()?;
        for entry in transaction.open_table(TABLE)?.iter()? {
            check.line(entry?.1.value());
        }
        Ok(())
    }
}
