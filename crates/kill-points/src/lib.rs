//! Named places in the product where a process can be killed, for the crash lab.
//!
//! The crates of the product import this one with their feature `kill-points` alone, and their macro `kill_point!`
//! is nothing without it: no build that ships has it. A test's process sets the hook once, and the hook decides, by
//! label, when the process dies. Nothing here reads the environment or kills anybody.
//!
//! Why not the crate `fail`: it keeps its actions behind a lock and under strings, which every publish would ask; it
//! takes them from the environment; and of what it can do (panic, sleep, return something else) only the callback
//! would be used here. What is wanted is a label and a call, and a list of all labels that a test can go through,
//! which `fail` does not have.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//! static PASSED: AtomicU64 = AtomicU64::new(0);
//! assert!(millpond_kill_points::set_hook(|label| {
//!     assert!(millpond_kill_points::LABELS.contains(&label));
//!     PASSED.fetch_add(1, Ordering::Relaxed);
//! }));
//! millpond_kill_points::pass("sink.text_written");
//! assert_eq!(PASSED.load(Ordering::Relaxed), 1);
//! ```

#![forbid(unsafe_code)]

use std::sync::OnceLock;

static HOOK: OnceLock<fn(&'static str)> = OnceLock::new();

/// From here on `hook` is called with each label that is passed, on the thread that passes it. Once per process; false
/// where there is one already.
pub fn set_hook(hook: fn(&'static str)) -> bool {
    HOOK.set(hook).is_ok()
}

/// This place is passed. A load where no hook is set.
#[inline]
pub fn pass(label: &'static str) {
    if let Some(hook) = HOOK.get() {
        hook(label);
    }
}

/// Every label there is. What stands before the dot says whose it is.
pub const LABELS: &[&str] = &[
    // Whoever makes a bus, or any object of it.
    "object.created",
    "creator.object_made",
    "creator.filled",
    "creator.ready",
    // A publisher.
    "publisher.lane_object",
    "publisher.name_taken",
    "publisher.lane_entered",
    "publisher.lane_announced",
    "publisher.claimed",
    "publisher.written",
    "publisher.tail_stored",
    "publisher.committed",
    "publisher.woken",
    "publisher.batch_staged",
    "publisher.retired",
    // A subscriber.
    "subscriber.object",
    "subscriber.slot_taken",
    "subscriber.ready",
    "subscriber.parked",
    "subscriber.leaving",
    // The consumer, as it starts.
    "open.lease",
    "open.directory_locked",
    "open.cleaned",
    "open.uncommitted_dropped",
    "recover.index_written",
    "recover.index_replaced",
    "recover.text_cut",
    "open.lane_adopted",
    "open.services_committed",
    // The consumer's rounds.
    "consumer.drained",
    "consumer.submitted",
    "consumer.bank_written",
    "consumer.flipped",
    "consumer.bell_rung",
    "consumer.released",
    "consumer.passthrough_taken",
    "consumer.passthrough_flipped",
    "consumer.outbox_object",
    "consumer.outbox_entered",
    "consumer.outbox_written",
    "consumer.lanes_staged",
    "consumer.outbox_tail",
    "consumer.batch_told",
    // A table of rules is replaced; or written by whoever makes the bus.
    "rules.entry_written",
    "rules.in_force",
    // Lanes and subscribers that go.
    "consumer.estate_staged",
    "consumer.estate_left",
    "consumer.lane_counted",
    "consumer.lane_unlinked",
    "consumer.lane_cleared",
    "consumer.subscriber_freed",
    // The consumer's end.
    "closing.written",
    "closing.committed",
    // The writer: groups.
    "sink.group_taken",
    "sink.writer_told",
    "sink.text_written",
    "sink.index_written",
    "sink.service_done",
    "sink.group_written",
    "sink.group_synced",
    // The writer: a segment begins, and is closed.
    "begin.log_made",
    "begin.index_made",
    "begin.link_made",
    "begin.link_renamed",
    "close.reserve_cut",
    "close.synced",
    "close.marked",
    // A segment is sealed.
    "seal.index_completed",
    "seal.written",
    "seal.synced",
    "seal.read_back",
    "seal.filter_renamed",
    "seal.text_renamed",
    "seal.directory_synced",
    "seal.text_removed",
    // Retention.
    "remove.file_gone",
    "remove.segment_gone",
];
