//! Once a second: what each source and service has done so far goes to the history, and how far lanes lagged.

use super::{Drain, DrainLane, SourceTotalsPlain};
use crate::control::Control;
use crate::history::{self, Interval};
use crate::layout::SOURCES_MAX;
use crate::stats::{DropCounts, lane_counts};
use crate::sync::atomic::Ordering;

/// Housekeeping may come more often, when publishers come and go.
const RECORD_INTERVAL_NS: u64 = 1_000_000_000;

/// What the history needs between two recordings.
pub(super) struct Recorder {
    recorded_ns: u64,
    /// By source: the most bytes that waited in lanes that are gone, since the last recording.
    lag_bytes: Vec<u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            recorded_ns: 0,
            lag_bytes: vec![0; SOURCES_MAX],
        }
    }
}

impl Recorder {
    /// The lane goes: its lag is its source's.
    pub(super) fn keep_lag(&mut self, control: &Control, lane: &DrainLane) {
        let source = lane.source as usize;
        let lag_bytes = &mut self.lag_bytes[source];
        *lag_bytes = (*lag_bytes).max(lane.lag_bytes_recent);
        control.source_origins[source].raise_lag(*lag_bytes);
    }
}

impl Drain {
    pub(super) fn record_history(&mut self) {
        let now_ns = self.clock.now_ns();
        let due_ns = self.recorder.recorded_ns.saturating_add(RECORD_INTERVAL_NS);
        // A clock that was set back is no reason to wait for it.
        if (self.recorder.recorded_ns..due_ns).contains(&now_ns) {
            return;
        }
        self.recorder.recorded_ns = now_ns;
        self.control.figures.tell_process();
        let control = &self.control;
        let mut sums: Vec<SourceTotalsPlain> = control
            .sources
            .iter()
            // ORDERING: Relaxed; the consumer is the only writer.
            .take_while(|slot| slot.in_use.load(Ordering::Relaxed) == 1)
            .map(SourceTotalsPlain::load_in_force)
            .collect();
        let lags_bytes = &mut self.recorder.lag_bytes;
        for &slot in &self.open_slots {
            let Some(lane) = self.lanes[slot].as_deref_mut() else {
                continue;
            };
            let counts = lane_counts(control, slot, lane.info.epoch, lane.scope, &lane.ring);
            let lag_bytes = std::mem::take(&mut lane.lag_bytes_recent).max(counts.lag_bytes);
            control.origins[slot].raise_lag(lag_bytes);
            let source = lane.source as usize;
            control.source_origins[source].raise_lag(lag_bytes);
            lags_bytes[source] = lags_bytes[source].max(lag_bytes);
            if let Some(sum) = sums.get_mut(source) {
                sum.add_live(&counts);
            }
        }
        for (index, sum) in sums.iter().enumerate() {
            let counters = Interval {
                lag_bytes_max: std::mem::take(&mut lags_bytes[index]),
                ..sum.into()
            };
            history::record(control, &self.lease, index, &counters, now_ns);
        }
        for (index, service) in self.area.services().iter().enumerate() {
            let counters = Interval {
                written: service.lines,
                bytes: service.bytes,
                ..Interval::default()
            };
            history::record(control, &self.lease, SOURCES_MAX + index, &counters, now_ns);
        }
    }
}

impl From<&SourceTotalsPlain> for Interval {
    fn from(sum: &SourceTotalsPlain) -> Self {
        Interval {
            published: sum.published,
            delivered: sum.delivered,
            written: sum.written,
            rejected: sum.rejected,
            dropped: DropCounts {
                full: sum.dropped_full,
                deadline: sum.dropped_deadline,
                too_long: sum.dropped_too_long,
                other: sum.dropped_other,
            }
            .total(),
            coalesced: sum.coalesced,
            suppressed: sum.suppressed,
            bytes: sum.bytes,
            ..Interval::default()
        }
    }
}
