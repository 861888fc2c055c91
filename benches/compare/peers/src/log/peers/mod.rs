//! Every peer in a file of its own. What is shared by those of one kind is here.

mod fjall;
mod floors;
mod journald;
mod lttng;
mod millpond;
mod redb;
mod rotated;
mod rsyslog;
mod spdlog;
mod sqlite;
mod tracing_appender;

pub use self::millpond::run_role;

use std::time::SystemTime;

use crate::peer::Peer;

/// Rows that the stores take with one commit.
const BATCH_LINES: u64 = 1000;

/// All of them, in the order of the table.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(millpond::Bus { publishers: 1 }),
        Box::new(millpond::Bus { publishers: 4 }),
        Box::new(millpond::Pipe),
        Box::new(floors::Copy {
            command: &["dd", "bs=1M", "status=none"],
            name: "dd bs=1M",
            is_floor: true,
        }),
        Box::new(floors::Write),
        Box::new(floors::Buffered),
        Box::new(floors::Copy {
            command: &["cat"],
            name: "cat > file",
            is_floor: false,
        }),
        Box::new(rotated::S6_LOG),
        Box::new(rotated::MULTILOG),
        Box::new(spdlog::Spdlog { is_async: false }),
        Box::new(spdlog::Spdlog { is_async: true }),
        Box::new(tracing_appender::TracingAppender),
        Box::new(sqlite::Sqlite),
        Box::new(redb::Redb { is_lazy: false }),
        Box::new(redb::Redb { is_lazy: true }),
        Box::new(fjall::Fjall),
        Box::new(lttng::Lttng),
        Box::new(rsyslog::Rsyslog),
        Box::new(journald::Journald),
    ]
}

/// Nanoseconds since 1970, for peers that leave it to their callers to say when.
fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A record for a store of bytes: time, level, message.
fn record_of(message: &[u8], out: &mut Vec<u8>) {
    const LEVEL_INFO: u8 = 2;
    out.clear();
    out.extend_from_slice(&now_ns().to_le_bytes());
    out.push(LEVEL_INFO);
    out.extend_from_slice(message);
}
