//! What every comparison prints: one row a piece of work and peer, with all its rounds.

use serde::{Deserialize, Serialize};

/// What a peer promises while it does this work, in the words of the table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Guarantees {
    /// Whether its memory has a bound that does not depend on the load.
    pub bounded: bool,
    /// Whether a publisher may have to wait for a reader.
    pub blocking: bool,
    /// Whether events may be lost without the reader being told.
    pub lossy: bool,
    /// Whether what was accepted survives the death of the publisher's process.
    pub crash_safe: bool,
    /// Whether what was accepted survives a power cut.
    pub durable: bool,
}

/// One run of a piece of work.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Round {
    /// Events handed in.
    pub events: u64,
    /// Time from the first to the last, in s.
    pub seconds: f64,
    /// Latencies in ns, where the work measures them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<LatencyNs>,
    /// Processor time of all processes that took part, in s.
    pub cpu_seconds: f64,
    /// Greatest resident memory of all of them together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What it left on the disk, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Events that did not arrive.
    pub lost: u64,
}

/// Percentiles of one round.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LatencyNs {
    /// Half are below.
    pub p50: u64,
    /// 99 in 100 are below.
    pub p99: u64,
    /// 999 in 1,000 are below.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
}

/// One piece of work, done by one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Kind of work: `publish`, `throughput`, `wake`, `fan-out`, `sink`, `query` ..
    pub part: String,
    /// The work in words: payload, publishers, subscribers.
    pub work: String,
    /// Who did it; `millpond`, a peer, or a floor such as `memcpy`.
    pub peer: String,
    /// Its version, as it says itself.
    pub version: String,
    /// What it promises meanwhile.
    pub guarantees: Guarantees,
    /// Its rounds, interleaved with those of the others; empty where it was skipped.
    pub rounds: Vec<Round>,
    /// Why it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}
