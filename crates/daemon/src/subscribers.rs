//! Batched channels: from lanes through the collectors into outboxes.

use std::collections::BTreeMap;

use millpond_bus::{Drain, Item, Outbox, Pass, Rule, RuleTable, Scope, Verdict};

use crate::delivery::{ChannelCounts, Delivery, Piece};
use crate::schemas::Schemas;

/// A pass that fills a channel ends, the channel is flushed, and another pass follows; so often at most
/// before the log has its turn.
const ROUNDS_MAX: u32 = 8;

/// The processor is offered to others after so large a part of an outbox.
const YIELD_PART: u64 = 8;

/// What stands between batched lanes and the outboxes.
#[derive(Debug)]
pub(crate) struct Subscribers {
    delivery: Delivery,
    bits: NameBits,
    /// Since the processor was last offered to others.
    pushed_bytes: u64,
    /// Events in each consolidated record of the flush under way.
    batch_events: Vec<u32>,
    /// The rules, by channel, and what was said of their events already.
    rules: BTreeMap<u32, (Rule, ChannelCounts)>,
}

/// Which names each channel holds, as the bells count them.
#[derive(Debug, Default)]
struct NameBits {
    by_name: Vec<u64>,
    by_channel: Vec<u64>,
}

impl NameBits {
    #[inline]
    fn add(&mut self, record: &millpond_bus::Record<'_>) {
        let bit = match self.by_name.get(record.name.id as usize) {
            Some(&bit) if bit != 0 => bit,
            _ => self.learn(record),
        };
        let channel = record.channel as usize;
        if self.by_channel.len() <= channel {
            self.by_channel.resize(channel + 1, 0);
        }
        self.by_channel[channel] |= bit;
    }

    #[cold]
    fn learn(&mut self, record: &millpond_bus::Record<'_>) -> u64 {
        let bit = record.name_bit();
        let index = record.name.id as usize;
        // A name that travels with its record has no number.
        if record.name.id != u32::MAX {
            if self.by_name.len() <= index {
                self.by_name.resize(index + 1, 0);
            }
            self.by_name[index] = bit;
        }
        bit
    }

    fn take(&mut self, channel: u32) -> u64 {
        let bits = self.by_channel.get_mut(channel as usize);
        // Word of names that fell silent comes without a record: whoever listens may want it.
        match bits.map(std::mem::take) {
            Some(bits) if bits != 0 => bits,
            _ => u64::MAX,
        }
    }
}

impl Subscribers {
    pub(crate) fn new() -> Self {
        Subscribers {
            delivery: Delivery::new(),
            bits: NameBits::default(),
            pushed_bytes: 0,
            batch_events: Vec::new(),
            rules: BTreeMap::new(),
        }
    }

    /// What people should hear of events that their rule could not treat as it says, since the last call.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (&channel, (rule, told)) in &mut self.rules {
            let counts = self.delivery.counts(channel);
            let mut warn = |count: u64, told: u64, what: &str| {
                if count > told {
                    let pattern = &rule.pattern;
                    warnings.push(format!("rule \"{pattern}\": {} {what}", count - told));
                }
            };
            let key = format!(
                "events without the key {} went by their name",
                rule.conflate_key
            );
            warn(counts.not_keyed, told.not_keyed, &key);
            let plain = "events without a schema to aggregate by were delivered as they are";
            warn(counts.not_aggregated, told.not_aggregated, plain);
            let long =
                "events were refused: raise `outbox-bytes`, a quarter of it does not hold them";
            warn(counts.too_long, told.too_long, long);
            *told = counts;
        }
        warnings
    }

    /// The collectors go by these rules from their next flush on.
    pub(crate) fn set_rules(&mut self, drain: &Drain, rules: &RuleTable) {
        for rule in rules.iter() {
            if let Some(channel) = drain.channel(&rule.pattern) {
                self.delivery.set_rule(channel, rule);
                let told = self.rules.remove(&channel).map(|(_, told)| told);
                (self.rules).insert(channel, (rule.clone(), told.unwrap_or_default()));
            }
        }
    }

    /// Outboxes are made when lanes are found, and keep their size: call it behind that.
    pub(crate) fn follow_outboxes(&mut self, drain: &Drain) {
        for (channel, record_bytes_limit) in drain.outbox_limits() {
            if self.delivery.limit(channel) != record_bytes_limit {
                self.delivery.set_limit(channel, record_bytes_limit);
            }
        }
    }

    /// Takes what is in batched lanes, and hands on what is due; with `all`, everything. How many records.
    pub(crate) fn deliver(
        &mut self,
        drain: &mut Drain,
        schemas: &Schemas,
        now_ns: u64,
        all: bool,
    ) -> u64 {
        let mut records = 0;
        for _ in 0..ROUNDS_MAX {
            let pass = self.collect(drain, schemas, now_ns);
            records += pass.records;
            // A lane that is half full is released by a flush, and by nothing else.
            self.flush_due(drain, now_ns, all || pass.pressure);
            if !pass.stopped {
                break;
            }
        }
        if records > 0 {
            self.commit_rest(drain);
        }
        records
    }

    fn collect(&mut self, drain: &mut Drain, schemas: &Schemas, now_ns: u64) -> Pass {
        let Subscribers { delivery, bits, .. } = self;
        let schema = |id: u32| schemas.get(id);
        // By reference: a copy of the record, made right after it was put together, waits for its stores.
        drain.pass(Scope::Batched, &mut |item| match &item {
            Item::Gap(gap) => delivery.offer_gap(gap, now_ns),
            Item::Record(record) => {
                let verdict = delivery.offer(record, &schema);
                if verdict == Verdict::Keep {
                    bits.add(record);
                }
                verdict
            }
        })
    }

    fn flush_due(&mut self, drain: &mut Drain, now_ns: u64, all: bool) {
        loop {
            let channel = match self.delivery.next_due(now_ns) {
                Some(channel) => channel,
                None if all => match self.delivery.next_pending() {
                    Some(channel) => channel,
                    None => return,
                },
                None => return,
            };
            self.flush(drain, channel, now_ns);
        }
    }

    fn flush(&mut self, drain: &mut Drain, channel: u32, now_ns: u64) {
        let bits = self.bits.take(channel);
        let mut outbox = drain.outbox(channel);
        let batch_events = &mut self.batch_events;
        let (mut pushed_bytes, capacity_bytes) =
            (0, outbox.as_deref().map_or(0, Outbox::capacity_bytes));
        let coalesced = self.delivery.flush(channel, now_ns, &mut |piece| {
            let pushed = match (&mut outbox, &piece) {
                (Some(outbox), Piece::Batch(parts)) => {
                    pushed_bytes += parts.payload_bytes() as u64;
                    let pushed = outbox.push(parts, bits);
                    batch_events.extend(pushed.then_some(parts.count));
                    pushed
                }
                (Some(outbox), Piece::Gap(gap)) => outbox.push_gap(gap, now_ns),
                (None, _) => false,
            };
            // The collectors hold no more than a quarter of the outbox, overhead included.
            let is_whole = outbox.as_deref().is_none_or(|outbox| !outbox.is_lost());
            debug_assert!(
                pushed || !is_whole,
                "channel {channel} has no room for {piece:?}"
            );
        });
        drain.commit_batched(channel, coalesced);
        for events in self.batch_events.drain(..) {
            drain.count_batch(events.into());
        }
        self.pushed_bytes += pushed_bytes;
        if self.pushed_bytes > capacity_bytes / YIELD_PART {
            // In a flood, whoever reads this must have a turn on the processor before it is overwritten. Nobody
            // is waited for: the lanes fill meanwhile, which slows down the flooder alone.
            self.pushed_bytes = 0;
            std::thread::yield_now();
        }
    }

    /// Lanes of which everything was refused have nothing to wait for.
    fn commit_rest(&mut self, drain: &mut Drain) {
        for channel in drain.uncommitted_channels() {
            if !self.delivery.is_pending(channel) {
                drain.commit_batched(channel, &[]);
            }
        }
    }

    /// When the next flush is due.
    pub(crate) fn due_ns(&self) -> Option<u64> {
        self.delivery.due_ns()
    }
}
