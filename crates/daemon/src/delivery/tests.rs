//! The collectors without a bus: records in, pieces out, parsed as a subscriber would.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_bus::{AggregateView, BatchView, NameRef};

use super::*;
use millpond_bus::Field;

const MILLISECOND: u64 = 1_000_000;

fn rule(class: Class) -> Rule {
    Rule {
        class,
        ..Rule::new("data:*".parse().expect("a pattern"))
    }
}

/// `power: f64`, `index: u32`, four bytes of something, under the number 7.
fn schemas(id: u32) -> Option<Arc<Schema>> {
    let fields = vec![
        Field::of::<f64>("power_mw", 0, Some("mW")),
        Field::of::<u32>("index", 8, None),
        Field::of::<u32>("other", 12, None),
    ];
    let schema = Schema::new("gpu:sample", 16, fields).expect("a schema");
    (id == 7).then(|| Arc::new(schema))
}

fn sample(power_mw: f64, index: u32) -> Vec<u8> {
    let mut payload = power_mw.to_le_bytes().to_vec();
    payload.extend_from_slice(&index.to_le_bytes());
    payload.extend_from_slice(&[0; 4]);
    payload
}

/// One event of a test. Ids of names are given in the order they come; 0 means "not interned".
#[derive(Debug, Clone)]
struct Given {
    lane: LaneId,
    sequence: u64,
    time_ns: u64,
    name_id: u32,
    name: String,
    schema_id: u32,
    payload: Vec<u8>,
}

impl Given {
    fn new(name: &str, payload: &[u8]) -> Self {
        Given {
            lane: LaneId { slot: 0, epoch: 1 },
            sequence: 0,
            time_ns: 1_000 * MILLISECOND,
            name_id: u32::MAX,
            name: name.to_owned(),
            schema_id: 0,
            payload: payload.to_vec(),
        }
    }
}

/// One entry that came out.
#[derive(Debug, Clone, PartialEq)]
struct Got {
    record: usize,
    prefix: String,
    name: String,
    lane: u64,
    sequence: u64,
    time_ns: u64,
    replaced: u32,
    is_aggregate: bool,
    payload: Vec<u8>,
}

struct Bench {
    delivery: Delivery,
    rule: Rule,
    names: BTreeMap<u32, String>,
    got: Vec<Got>,
    records: Vec<usize>,
    gaps: Vec<GapBody>,
    coalesced: BTreeMap<u64, u64>,
    flushed_bytes_max: usize,
}

impl Bench {
    fn new(rule: Rule) -> Self {
        Bench {
            delivery: Delivery::new(),
            rule,
            names: BTreeMap::new(),
            got: Vec::new(),
            records: Vec::new(),
            gaps: Vec::new(),
            coalesced: BTreeMap::new(),
            flushed_bytes_max: 0,
        }
    }

    fn offer(&mut self, given: &Given) -> Verdict {
        if given.name_id != u32::MAX {
            self.names.insert(given.name_id, given.name.clone());
        }
        let record = Record {
            lane: given.lane,
            label: "test",
            rule: &self.rule,
            channel: 3,
            source: 5,
            time_ns: given.time_ns,
            sequence: given.sequence,
            level: 2,
            flags: 0,
            name: NameRef {
                id: given.name_id,
                text: &given.name,
            },
            schema_id: given.schema_id,
            payload: &given.payload,
        };
        self.delivery.offer(&record, &schemas)
    }

    /// Offers until it is taken, as the consumer does: `Stop`, flush, again.
    fn deliver(&mut self, given: &Given) {
        if self.offer(given) == Verdict::Stop {
            assert_eq!(self.delivery.next_due(0), Some(3), "full means due");
            self.flush(given.time_ns);
            assert_eq!(self.offer(given), Verdict::Keep);
        }
    }

    fn flush(&mut self, now_ns: u64) {
        let (got, records, gaps) = (&mut self.got, &mut self.records, &mut self.gaps);
        let mut bytes = 0;
        let limit = self.rule.outbox_bytes as usize / 4;
        let names = &self.names;
        let coalesced = self.delivery.flush(3, now_ns, &mut |piece| match piece {
            Piece::Gap(gap) => gaps.push(gap),
            Piece::Batch(parts) => {
                let payload =
                    [&parts.header(0)[..], parts.prefix().as_ref(), parts.entries].concat();
                assert!(payload.len() + RECORD_HEADER_BYTES <= limit, "a quarter");
                bytes += payload.len() + RECORD_HEADER_BYTES;
                let view = BatchView::parse(&payload).expect("a good record");
                let record = records.len();
                records.push(view.count() as usize);
                let mut times = (u64::MAX, 0);
                for entry in view.entries().map(|entry| entry.entry()) {
                    times = (times.0.min(entry.time_ns), times.1.max(entry.time_ns));
                    assert_eq!(entry.source, 5);
                    got.push(Got {
                        record,
                        prefix: view.prefix().to_owned(),
                        name: match entry.name.id {
                            u32::MAX => entry.name.text.to_owned(),
                            id => names[&id].clone(),
                        },
                        lane: entry.lane_epoch,
                        sequence: entry.sequence,
                        time_ns: entry.time_ns,
                        replaced: entry.replaced,
                        is_aggregate: entry.is_aggregate,
                        payload: entry.payload.to_vec(),
                    });
                }
                assert_eq!(times, (view.first_time_ns(), view.last_time_ns()));
            }
        });
        for (lane, count) in coalesced {
            *self.coalesced.entry(lane.epoch).or_default() += count;
        }
        self.flushed_bytes_max = self.flushed_bytes_max.max(bytes);
    }

    /// As if these prefixes had been busy just now: nothing of them is the first after a pause.
    fn warm_up(&mut self, names: &[&str]) {
        for name in names {
            self.offer(&Given::new(name, b"x"));
        }
        self.flush(Given::new("a", b"").time_ns);
        self.got.clear();
        self.records.clear();
    }

    fn pending_bytes(&self) -> usize {
        self.delivery.channels[3]
            .as_ref()
            .map_or(0, |channel| channel.pending.bytes)
    }
}

/// xorshift64*; the seed is in every message.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn seed() -> u64 {
    let seed = std::env::var("MILLPOND_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()) | 1 << 40);
    println!("MILLPOND_TEST_SEED={seed}");
    seed
}

#[test]
fn a_batch_is_due_at_max_events() {
    let mut bench = Bench::new(Rule {
        max_events: 3,
        ..rule(Class::Batch)
    });
    bench.warm_up(&["data:users:created", "data:orders:created"]);
    let given = Given::new("data:users:created", b"x");
    assert_eq!(bench.delivery.due_ns(), None);
    bench.offer(&given);
    bench.offer(&given);
    bench.offer(&Given::new("data:orders:created", b"x"));
    assert_eq!(bench.delivery.next_due(given.time_ns), None);
    bench.offer(&given);
    assert_eq!(bench.delivery.next_due(0), Some(3));
    // It goes on taking events until it is flushed, in further records.
    bench.offer(&given);
    bench.flush(given.time_ns);
    assert_eq!(bench.records, [3, 1, 1]);
    assert_eq!(bench.got[0].prefix, "data:users");
    assert_eq!(bench.got[4].prefix, "data:orders");
    assert_eq!(
        (bench.delivery.due_ns(), bench.delivery.next_pending()),
        (None, None)
    );
}

#[test]
fn a_batch_is_due_at_max_bytes() {
    let mut bench = Bench::new(Rule {
        max_bytes: 1000,
        ..rule(Class::Batch)
    });
    bench.warm_up(&["data:users:created"]);
    let given = Given::new("data:users:created", &[1; 300]);
    bench.offer(&given);
    bench.offer(&given);
    assert_eq!(bench.delivery.next_due(given.time_ns), None);
    bench.offer(&given);
    assert_eq!(
        bench.delivery.next_due(0),
        Some(3),
        "the third does not fit with them"
    );
    bench.flush(given.time_ns);
    assert_eq!(bench.records, [2, 1]);
}

#[test]
fn a_batch_is_due_max_delay_after_its_first_event() {
    let mut bench = Bench::new(rule(Class::Batch));
    bench.warm_up(&["data:users:created"]);
    let first = Given::new("data:users:created", b"x");
    let due_ns = first.time_ns + 50 * MILLISECOND;
    bench.offer(&first);
    bench.offer(&Given {
        time_ns: first.time_ns + 30 * MILLISECOND,
        ..first.clone()
    });
    assert_eq!(bench.delivery.due_ns(), Some(due_ns));
    assert_eq!(bench.delivery.next_due(due_ns - 1), None);
    assert_eq!(bench.delivery.next_due(due_ns), Some(3));
    bench.flush(due_ns);
    assert_eq!(bench.delivery.due_ns(), None);
}

#[test]
fn the_first_event_after_a_pause_does_not_wait() {
    let mut bench = Bench::new(rule(Class::Batch));
    let at = |millis: u64, name: &str| Given {
        time_ns: Given::new(name, b"").time_ns + millis * MILLISECOND,
        ..Given::new(name, b"x")
    };
    let start_ns = at(0, "a").time_ns;
    bench.offer(&at(0, "system:health:check"));
    assert_eq!(bench.delivery.next_due(start_ns), Some(3), "the first ever");
    bench.flush(start_ns);
    // The same prefix again, within the delay: collected, and due with its delay.
    bench.offer(&at(20, "system:health:check"));
    assert_eq!(bench.delivery.due_ns(), Some(start_ns + 70 * MILLISECOND));
    // Another prefix is quiet by itself, and takes the others along.
    bench.offer(&at(30, "data:chat:created"));
    assert_eq!(
        bench.delivery.next_due(start_ns + 30 * MILLISECOND),
        Some(3)
    );
    bench.flush(start_ns + 30 * MILLISECOND);
    assert_eq!(bench.records, [1, 1, 1]);
    // A flood of prefixes that are all new flushes ten times in a delay, and not once for each.
    bench.offer(&at(31, "id:1:created"));
    assert_eq!(bench.delivery.due_ns(), Some(start_ns + 35 * MILLISECOND));
}

#[test]
fn an_event_too_large_to_share_goes_alone() {
    let mut bench = Bench::new(Rule {
        max_bytes: 500,
        ..rule(Class::Batch)
    });
    let small = Given::new("data:users:created", &[1; 50]);
    let large = Given::new("data:users:created", &vec![2; 64 << 10]);
    for given in [&small, &small, &large, &small] {
        assert_eq!(bench.offer(given), Verdict::Keep);
    }
    bench.flush(small.time_ns);
    assert_eq!(bench.records, [2, 1, 1]);
    let lengths: Vec<_> = bench.got.iter().map(|got| got.payload.len()).collect();
    assert_eq!(lengths, [50, 50, 64 << 10, 50]);
    // What no record holds is refused and counted.
    let huge = Given::new("data:users:created", &vec![2; 256 << 10]);
    assert_eq!(bench.offer(&huge), Verdict::Reject);
    assert_eq!(bench.delivery.counts(3).too_long, 1);
}

#[test]
fn a_hundred_thousand_prefixes_stay_below_the_cap() {
    let mut bench = Bench::new(rule(Class::Batch));
    let cap = bench.rule.outbox_bytes as usize / 4;
    let mut memory_bytes_max = 0;
    for at in 0..100_000 {
        let given = Given {
            sequence: at,
            ..Given::new(&format!("data:{at}:created"), b"payload")
        };
        bench.deliver(&given);
        assert!(bench.pending_bytes() <= cap);
        if at % 97 == 0 {
            let channel = bench.delivery.channels[3].as_ref().expect("in use");
            memory_bytes_max = memory_bytes_max.max(channel.pending.groups.memory_bytes());
        }
    }
    bench.flush(0);
    assert!(memory_bytes_max <= cap, "{memory_bytes_max} of {cap}");
    assert!(bench.flushed_bytes_max <= cap, "what a flush writes");
    assert_eq!(bench.got.len(), 100_000);
    assert_eq!(bench.records.len(), 100_000);
    assert!((0..).zip(&bench.got).all(|(at, got)| got.sequence == at));
}

#[test]
fn order_is_kept_within_a_prefix() {
    let seed = seed();
    let mut random = Random(seed);
    let mut bench = Bench::new(Rule {
        max_events: 7,
        ..rule(Class::Batch)
    });
    for sequence in 0..20_000 {
        let id = random.below(12) as u32;
        let name = format!("data:p{}:n{id}", id % 4);
        let given = Given {
            sequence,
            name_id: if id == 11 { u32::MAX } else { id },
            ..Given::new(&name, &vec![0; random.below(200) as usize])
        };
        bench.deliver(&given);
        if random.below(50) == 0 {
            bench.flush(0);
        }
    }
    bench.flush(0);
    assert_eq!(bench.got.len(), 20_000);
    assert!(bench.records.iter().all(|&count| count <= 7));
    let mut last = BTreeMap::new();
    for got in &bench.got {
        assert_eq!(literal_prefix(&got.name), got.prefix);
        let before = last.insert(got.prefix.clone(), got.sequence);
        assert!(before < Some(got.sequence), "seed {seed}");
    }
}

#[test]
fn gaps_come_out_first_and_neighbours_are_one() {
    let mut bench = Bench::new(rule(Class::Batch));
    bench.offer(&Given::new("data:users:created", b"x"));
    let rule = bench.rule.clone();
    let gap = |epoch, first, last| Gap {
        lane: LaneId { slot: 0, epoch },
        label: "test",
        rule: &rule,
        channel: 3,
        source: 5,
        first,
        last,
        dropped: [0; 3],
    };
    for gap in [gap(1, 3, 5), gap(1, 6, 6), gap(2, 7, 7), gap(2, 9, 9)] {
        assert_eq!(bench.delivery.offer_gap(&gap, 0), Verdict::Keep);
    }
    assert_eq!(bench.delivery.due_ns(), Some(50 * MILLISECOND));
    bench.flush(0);
    let wanted = [(1, 3, 6), (2, 7, 7), (2, 9, 9)];
    let wanted = wanted.map(|(lane, first, last)| GapBody::new(lane, first, last, 5));
    assert_eq!(bench.gaps, wanted);
    assert_eq!(bench.got.len(), 1);
    // A publisher that drops every other event for ever cannot fill the memory.
    let stopped = (0..1_000_000)
        .map(|at| bench.delivery.offer_gap(&gap(1, at * 2, at * 2), 0))
        .position(|verdict| verdict == Verdict::Stop);
    assert!(stopped.is_some_and(|count| count * GAP_BYTES <= rule.outbox_bytes as usize / 4));
    assert_eq!(bench.delivery.next_due(0), Some(3));
}

#[test]
fn conflate_keeps_the_last_and_counts_what_it_replaced() {
    let mut bench = Bench::new(rule(Class::Conflate));
    for (sequence, name) in (0..).zip(["data:a:s", "data:b:s", "data:a:s", "data:a:s"]) {
        bench.offer(&Given {
            sequence,
            lane: LaneId {
                slot: 0,
                epoch: 1 + sequence / 2,
            },
            ..Given::new(name, &[sequence as u8])
        });
    }
    bench.flush(0);
    let got: Vec<_> = bench
        .got
        .iter()
        .map(|got| {
            (
                got.name.as_str(),
                got.sequence,
                got.replaced,
                got.payload[0],
            )
        })
        .collect();
    assert_eq!(got, [("data:b:s", 1, 0, 1), ("data:a:s", 3, 2, 3)]);
    assert_eq!(bench.coalesced, BTreeMap::from([(1, 1), (2, 1)]));
    // A new window starts from nothing.
    bench.offer(&Given::new("data:a:s", b"x"));
    bench.flush(0);
    assert_eq!(bench.got[2].replaced, 0);
}

/// What the first failure of the design did wrong: it kept the oldest reading of a window.
#[test]
fn ten_thousand_pairs_of_not_ready_and_ready_end_in_ready() {
    let seed = seed();
    let mut random = Random(seed);
    let mut bench = Bench::new(Rule {
        conflate_key: ConflateKey::Pointer("/service".to_owned()),
        ..rule(Class::Conflate)
    });
    let mut last = BTreeMap::new();
    for pair in 0..10_000_u64 {
        let service = pair % 3;
        let payload = format!("{{\"service\":{service},\"pair\":{pair}}}");
        for (at, state) in ["not_ready", "ready"].iter().enumerate() {
            bench.deliver(&Given {
                sequence: pair * 2 + at as u64,
                name_id: 10 + at as u32,
                ..Given::new(&format!("data:status:{state}"), payload.as_bytes())
            });
            if random.below(100) == 0 {
                let before = bench.got.len();
                bench.flush(0);
                for got in &bench.got[before..] {
                    last.insert(got.payload[11], got.clone());
                }
            }
        }
    }
    let before = bench.got.len();
    bench.flush(0);
    for got in &bench.got[before..] {
        last.insert(got.payload[11], got.clone());
    }
    assert_eq!(last.len(), 3);
    assert!(last.values().all(|got| got.name == "data:status:ready"));
    assert_eq!(last[&b'0'].sequence, 2 * 9_999 + 1, "seed {seed}");
    let replaced: u64 = bench.got.iter().map(|got| u64::from(got.replaced)).sum();
    assert_eq!(replaced + bench.got.len() as u64, 20_000, "seed {seed}");
    assert_eq!(bench.coalesced[&1], replaced);
}

#[test]
fn keys_are_told_apart() {
    let mut bench = Bench::new(Rule {
        conflate_key: ConflateKey::Pointer("/id".to_owned()),
        ..rule(Class::Conflate)
    });
    for (name, payload) in [
        ("data:a:x", r#"{"id":7}"#),
        ("data:a:y", r#"{"id":7}"#), // replaces the first: one thing, two names
        ("data:a:x", r#"{"id":"7"}"#),
        ("data:b:x", r#"{"id":7}"#),
        ("data:a:x", "no JSON"),
        ("data:a:x", r#"{"id":null}"#), // replaces the one before: both go by their name
        ("data:a:y", r#"{"other":7}"#),
    ] {
        bench.offer(&Given::new(name, payload.as_bytes()));
    }
    bench.flush(0);
    assert_eq!(bench.got.len(), 5);
    assert_eq!(bench.got.iter().filter(|got| got.replaced == 1).count(), 2);
    assert_eq!(bench.delivery.counts(3).not_keyed, 3);

    let mut bench = Bench::new(Rule {
        conflate_key: ConflateKey::Field("index".to_owned()),
        ..rule(Class::Conflate)
    });
    for (power, index, schema_id) in [(1.0, 0, 7), (2.0, 1, 7), (3.0, 0, 7), (4.0, 0, 8)] {
        bench.offer(&Given {
            schema_id,
            ..Given::new("data:gpu:sample", &sample(power, index))
        });
    }
    bench.flush(0);
    let replaced: Vec<_> = bench.got.iter().map(|got| got.replaced).collect();
    assert_eq!(replaced, [0, 1, 0]);
    assert_eq!(bench.delivery.counts(3).not_keyed, 1, "an unknown schema");
}

#[test]
fn keys_are_bounded() {
    let mut bench = Bench::new(Rule {
        outbox_bytes: 1 << 26,
        ..rule(Class::Conflate)
    });
    let mut stopped = false;
    for at in 0..=conflate::KEYS_MAX {
        let given = Given::new(&format!("data:k{at}:s"), b"");
        stopped |= bench.offer(&given) == Verdict::Stop;
    }
    assert!(stopped);
    assert_eq!(bench.delivery.next_due(0), Some(3));
    bench.flush(0);
    assert!(bench.got.len() <= conflate::KEYS_MAX && bench.got.len() > 1000);
    assert!(bench.flushed_bytes_max <= PENDING_BYTES_MAX);
}

#[test]
fn aggregates_agree_with_a_naive_count() {
    let seed = seed();
    let mut random = Random(seed);
    let mut bench = Bench::new(rule(Class::Aggregate));
    let mut naive: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for sequence in 0..5000 {
        let id = random.below(5) as u32;
        let name = format!("data:gpu{id}:sample");
        let power = random.below(1_000_000) as f64 - 500_000.0;
        naive.entry(name.clone()).or_default().push(power);
        let given = Given {
            sequence,
            time_ns: 1_000 * MILLISECOND + sequence,
            name_id: if id == 4 { u32::MAX } else { id },
            schema_id: 7,
            ..Given::new(&name, &sample(power, id))
        };
        assert_eq!(bench.offer(&given), Verdict::Keep);
    }
    bench.flush(0);
    assert_eq!(bench.got.len(), 5);
    for got in &bench.got {
        assert!(got.is_aggregate);
        let values = &naive[&got.name];
        let view = AggregateView::parse(&got.payload).expect("an aggregate");
        assert_eq!((view.count(), view.stale()), (values.len() as u64, false));
        assert_eq!(view.last_time_ns(), got.time_ns);
        let fields: Vec<_> = view.fields().collect();
        assert_eq!(fields.len(), 3);
        let fold = |f: fn(f64, f64) -> f64| values.iter().copied().reduce(f).expect("some");
        assert_eq!(fields[0].min, fold(f64::min), "seed {seed}");
        assert_eq!(fields[0].max, fold(f64::max), "seed {seed}");
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((fields[0].mean - mean).abs() < 1e-6, "seed {seed}");
        assert_eq!(Some(&fields[0].last), values.last());
        let index = fields[1];
        assert_eq!((index.min, index.mean), (index.max, index.last));
    }
    assert_eq!(bench.coalesced[&1], 5000 - 5);
}

#[test]
fn odd_numbers_stay_within_their_field() {
    let mut bench = Bench::new(rule(Class::Aggregate));
    for power in [f64::NAN, 2.0, f64::MAX, f64::MAX, f64::NAN] {
        bench.offer(&Given {
            schema_id: 7,
            ..Given::new("data:gpu:sample", &sample(power, 1))
        });
    }
    bench.flush(0);
    let view = AggregateView::parse(&bench.got[0].payload).expect("an aggregate");
    let power = view.fields().next().expect("a field");
    assert_eq!((view.count(), power.min, power.max), (5, 2.0, f64::MAX));
    assert!(power.last.is_nan() && power.mean <= f64::MAX);
}

#[test]
fn events_without_a_usable_schema_go_as_they_are() {
    let mut bench = Bench::new(rule(Class::Aggregate));
    for (schema_id, length) in [(0, 16), (8, 16), (7, 15), (7, 16), (7, 17)] {
        bench.offer(&Given {
            schema_id,
            ..Given::new("data:gpu:sample", &sample(1.0, 1).repeat(2)[..length])
        });
    }
    bench.flush(0);
    let aggregates = bench.got.iter().filter(|got| got.is_aggregate).count();
    assert_eq!((bench.got.len(), aggregates), (5, 1));
    assert_eq!(bench.delivery.counts(3).not_aggregated, 4);
    assert!(bench.coalesced.is_empty());
}

#[test]
fn a_silent_name_is_reported_once() {
    let mut bench = Bench::new(Rule {
        max_delay: Duration::from_secs(1),
        ..rule(Class::Aggregate)
    });
    let second = 1_000 * MILLISECOND;
    let given = |name: &str, time_ns, power| Given {
        time_ns,
        schema_id: 7,
        ..Given::new(name, &sample(power, 1))
    };
    bench.offer(&given("data:gpu0:sample", second, 5.0));
    bench.offer(&given("data:gpu1:sample", second, 6.0));
    bench.flush(2 * second);
    for window in 2..5 {
        bench.offer(&given("data:gpu1:sample", window * second, 7.0));
        let now_ns = bench.delivery.due_ns().expect("pending");
        assert_eq!(now_ns, (window + 1) * second);
        bench.flush(now_ns);
    }
    let stale = |bench: &Bench| -> Vec<(String, f64, u64)> {
        let all = bench.got.iter().filter_map(|got| {
            let view = AggregateView::parse(&got.payload)?;
            let last = view.fields().next()?.last;
            view.stale().then(|| (got.name.clone(), last, view.count()))
        });
        all.collect()
    };
    let first = ("data:gpu0:sample".to_owned(), 5.0, 0);
    assert_eq!(stale(&bench), std::slice::from_ref(&first));
    // Nothing else comes: the other one makes the channel due by itself, once.
    assert_eq!(bench.delivery.due_ns(), Some(7 * second));
    bench.flush(7 * second);
    assert_eq!(
        stale(&bench),
        [first, ("data:gpu1:sample".to_owned(), 7.0, 0)]
    );
    assert_eq!(bench.delivery.due_ns(), None);
    assert_eq!(bench.delivery.counts(3).stale, 2);
    // It is heard of again, and falls silent again.
    bench.offer(&given("data:gpu0:sample", 10 * second, 8.0));
    bench.flush(11 * second);
    assert_eq!(bench.delivery.due_ns(), Some(13 * second));
}

#[test]
fn remembered_names_are_bounded_and_all_reported() {
    let mut bench = Bench::new(rule(Class::Aggregate));
    let cap = bench.rule.outbox_bytes as usize / 4;
    for at in 0..5000_u64 {
        bench.deliver(&Given {
            schema_id: 7,
            time_ns: 1_000 * MILLISECOND + at,
            ..Given::new(&format!("data:gpu{at}:sample"), &sample(1.0, 1))
        });
        assert!(bench.pending_bytes() <= cap);
    }
    bench.flush(0);
    assert_eq!(bench.got.len(), 5000);
    let now_ns = u64::MAX / 2;
    let mut flushes = 0;
    while bench.delivery.next_due(now_ns).is_some() {
        bench.flush(now_ns);
        flushes += 1;
        assert!(flushes < 100, "each flush reports some");
    }
    assert!(bench.flushed_bytes_max <= cap);
    assert_eq!(bench.got.len(), 5000 + aggregate::NAMES_KEPT_MAX);
}

#[test]
fn delivered_is_coalesced_and_written() {
    let seed = seed();
    let mut random = Random(seed);
    for class in [Class::Batch, Class::Conflate, Class::Aggregate] {
        let mut bench = Bench::new(Rule {
            outbox_bytes: 64 << 10,
            payload_bytes_limit: 8 << 10,
            conflate_key: match class {
                Class::Conflate => ConflateKey::Pointer("/k".to_owned()),
                _ => ConflateKey::Name,
            },
            ..rule(class)
        });
        let mut delivered: BTreeMap<u64, u64> = BTreeMap::new();
        let mut now_ns = 1_000 * MILLISECOND;
        for sequence in 0..30_000 {
            now_ns += random.below(MILLISECOND);
            let id = random.below(300) as u32;
            let epoch = 1 + random.below(4) + sequence / 10_000;
            let key = random.below(20);
            let is_fixed = random.below(3) > 0;
            let payload = match is_fixed {
                true => sample(key as f64, id),
                false => format!("{{\"k\":{key},\"x\":\"{}\"}}", "y".repeat(id as usize)).into(),
            };
            // A slot that is used again by a later lane.
            let slot = (epoch % 3) as u32;
            bench.deliver(&Given {
                lane: LaneId { slot, epoch },
                sequence,
                time_ns: now_ns,
                name_id: if id < 100 { id } else { u32::MAX },
                schema_id: if is_fixed { 7 } else { 0 },
                ..Given::new(&format!("data:p{}:n{id}", id % 30), &payload)
            });
            *delivered.entry(epoch).or_default() += 1;
            if bench.delivery.next_due(now_ns).is_some() {
                bench.flush(now_ns);
            }
        }
        bench.flush(now_ns);
        assert_eq!(bench.delivery.next_pending(), None);
        let mut accounted = bench.coalesced.clone();
        for got in &bench.got {
            let stale = AggregateView::parse(&got.payload).is_some_and(|view| view.stale());
            if !(got.is_aggregate && stale) {
                *accounted.entry(got.lane).or_default() += 1;
            }
        }
        assert_eq!(delivered, accounted, "{} with seed {seed}", class.name());
        let counts = bench.delivery.counts(3);
        assert_eq!(counts.entries, bench.got.len() as u64);
        // Marks of names that fell silent may be more than what was coalesced.
        let coalesced: u64 = bench.coalesced.values().sum();
        assert_eq!(coalesced == 0, class == Class::Batch, "{}", class.name());
        // A quarter of the outbox per flush.
        assert!(bench.flushed_bytes_max <= 16 << 10, "seed {seed}");
    }
}

#[test]
fn a_new_rule_takes_over_with_the_next_flush() {
    let mut bench = Bench::new(rule(Class::Batch));
    bench.offer(&Given::new("data:a:s", b"1"));
    bench.delivery.set_rule(3, &rule(Class::Conflate));
    bench.offer(&Given::new("data:a:s", b"2"));
    assert_eq!(bench.delivery.next_due(0), Some(3));
    bench.flush(0);
    assert_eq!(bench.got.len(), 2, "still a batch");
    bench.offer(&Given::new("data:a:s", b"3"));
    bench.offer(&Given::new("data:a:s", b"4"));
    bench.flush(0);
    assert_eq!((bench.got.len(), bench.got[2].replaced), (3, 1));
}

/// Not a bound, a number to look at: run with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn events_per_second() {
    for class in [Class::Batch, Class::Conflate, Class::Aggregate] {
        let rule = rule(class);
        let mut delivery = Delivery::new();
        let payload = match class {
            Class::Aggregate => sample(1.0, 1),
            _ => vec![1; 64],
        };
        let mut entries = 0;
        let start = std::time::Instant::now();
        for sequence in 0..20_000_000 {
            let record = Record {
                lane: LaneId { slot: 0, epoch: 1 },
                label: "test",
                rule: &rule,
                channel: 0,
                source: 5,
                time_ns: sequence,
                sequence,
                level: 2,
                flags: 0,
                name: NameRef {
                    id: 1 + sequence as u32 % 2,
                    text: "data:users:created",
                },
                schema_id: 7,
                payload: &payload,
            };
            if delivery.offer(&record, &schemas) == Verdict::Stop || sequence % 1000 == 999 {
                delivery.flush(0, 0, &mut |piece| {
                    if let Piece::Batch(parts) = piece {
                        entries += u64::from(parts.count);
                    }
                });
            }
        }
        let rate = 20.0 / start.elapsed().as_secs_f64();
        println!("{}: {rate:.1} M/s, {entries} entries", class.name());
    }
}
