//! Losses on their way to becoming lines: collected per lane, one line per group.

use std::collections::BTreeMap;

use millpond_bus::{Gap, LaneId, Rule};
use millpond_logfile::{Level, Source};
use millpond_sink::Sink;

use crate::router::Router;

/// The service that losses go to whose own service nobody knows.
const FALLBACK_SERVICE: &str = "millpond";
const CAUSES: [&str; 3] = ["full", "deadline", "too_long"];

/// What is known of one lane's losses.
#[derive(Debug, Default)]
struct LaneGaps {
    label: String,
    count: u64,
    first: u64,
    last: u64,
    /// The publisher's counters now, and what of them the lines so far have told. The counters may be ahead
    /// of the numbers we have missed: what they have too much is told by a later line.
    dropped: [u64; 3],
    told: [u64; 3],
}

/// The losses of all lanes.
#[derive(Debug)]
pub(crate) struct Gaps {
    lanes: BTreeMap<LaneId, LaneGaps>,
    pending: bool,
    source: Source,
}

impl Gaps {
    pub(crate) fn new() -> Self {
        Gaps {
            lanes: BTreeMap::new(),
            pending: false,
            source: Source::new(Rule::OWN_SOURCE),
        }
    }

    pub(crate) fn add(&mut self, gap: &Gap<'_>) {
        let lane = self.lanes.entry(gap.lane).or_default();
        if lane.count == 0 {
            gap.label.clone_into(&mut lane.label);
            lane.first = gap.first;
        }
        lane.last = gap.last;
        lane.count += gap.last - gap.first + 1;
        lane.dropped = gap.dropped;
        self.pending = true;
    }

    /// Appends a line for each lane that lost something since the last call.
    pub(crate) fn write(&mut self, router: &Router, sink: &mut Sink, now_ns: u64) {
        if !std::mem::take(&mut self.pending) {
            return;
        }
        for (id, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.count > 0) {
            // Where its records go: those before the loss, where there is none behind it yet.
            let service = match router.service_of(*id) {
                Some(service) => Some(service),
                None => sink.service(FALLBACK_SERVICE, now_ns).ok(),
            };
            let Some(service) = service else { continue };
            let message = lane.message(id.epoch);
            sink.append(
                service,
                now_ns,
                Level::Warn,
                &self.source,
                message.as_bytes(),
            );
            lane.count = 0;
        }
        // Lanes of the past are not remembered for ever.
        while self.lanes.len() > 2048 {
            self.lanes.pop_first();
        }
    }
}

impl LaneGaps {
    /// `gap source=LABEL lane=EPOCH count=N cause=CAUSE:N,.. first=SEQUENCE last=SEQUENCE`
    fn message(&mut self, epoch: u64) -> String {
        let label = Source::new(&self.label);
        let label = String::from_utf8_lossy(label.token());
        let mut causes = Vec::new();
        let mut left = self.count;
        for (index, cause) in CAUSES.iter().enumerate() {
            let count = self.dropped[index]
                .saturating_sub(self.told[index])
                .min(left);
            if count > 0 {
                causes.push(format!("{cause}:{count}"));
                self.told[index] += count;
                left -= count;
            }
        }
        if left > 0 {
            causes.push(format!("other:{left}"));
        }
        let (count, cause) = (self.count, causes.join(","));
        let (first, last) = (self.first, self.last);
        format!(
            "gap source={label} lane={epoch} count={count} cause={cause} first={first} last={last}"
        )
    }
}
