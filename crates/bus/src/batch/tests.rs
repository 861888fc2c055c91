//! Round trips, and nonsense: whatever the bytes are, parsing ends in a value or an error.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Written {
    is_aggregate: bool,
    inline: bool,
    name: u32,
    source: u32,
    payload: Vec<u8>,
}

const NAMES: [&str; 3] = ["data:users:created", "data:users:changed", "data:users:x"];

fn written() -> impl Strategy<Value = Written> {
    let payload = prop::collection::vec(any::<u8>(), 0..90);
    (any::<bool>(), any::<bool>(), 0..3u32, 0..4u32, payload).prop_map(
        |(is_aggregate, inline, name, source, payload)| Written {
            is_aggregate,
            inline,
            name,
            source,
            payload: if is_aggregate {
                aggregate(payload.len())
            } else {
                payload
            },
        },
    )
}

fn aggregate(seed: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let fields = (0..seed % 4).map(|at| FieldSummary {
        min: -1.5,
        max: seed as f64,
        mean: at as f64,
        last: 0.0,
    });
    append_aggregate(
        &mut payload,
        seed as u64,
        (1, 2),
        seed.is_multiple_of(2),
        fields,
    );
    payload
}

fn entry(written: &Written, sequence: usize) -> Entry<'_> {
    Entry {
        is_aggregate: written.is_aggregate,
        level: Level::Warn as u8,
        time_ns: 1000 + sequence as u64,
        sequence: sequence as u64,
        name: NameRef {
            id: if written.inline {
                INLINE_NAME_ID
            } else {
                written.name
            },
            text: NAMES[written.name as usize],
        },
        schema_id: 5,
        lane_epoch: 9,
        source: written.source,
        replaced: 3,
        payload: &written.payload,
    }
}

fn encode(all: &[Written]) -> Vec<u8> {
    let mut entries = Vec::new();
    for (sequence, written) in all.iter().enumerate() {
        let before = entries.len();
        let entry = entry(written, sequence);
        append_entry(&mut entries, &entry);
        assert_eq!(entries.len() - before, entry.entry_bytes());
    }
    let parts = BatchParts {
        class: Class::Aggregate,
        prefix: "data:users",
        count: all.len() as u32,
        first_time_ns: 1000,
        last_time_ns: 2000,
        entries: &entries,
    };
    let payload = [
        &parts.header(77)[..],
        parts.prefix().as_ref(),
        parts.entries,
    ]
    .concat();
    assert_eq!(payload.len(), parts.payload_bytes());
    payload
}

fn resolver(view: &BatchView<'_>) -> Result<Resolver, &'static str> {
    let mut resolver = Resolver::default();
    let mut name = |id: u32| Some((*NAMES.get(id as usize)?).to_owned());
    // Source 3 has been given up.
    let mut source = |id: u32| (id < 3).then(|| format!("source {id}"));
    resolver.resolve(view, &mut name, &mut source)?;
    Ok(resolver)
}

/// Uses everything that a reader may call.
fn walk(payload: &[u8]) -> Result<usize, &'static str> {
    let view = BatchView::parse(payload)?;
    let resolver = resolver(&view)?;
    let batch = Batch::new(view, &resolver, None);
    let mut count = 0;
    for event in batch.events() {
        count += 1;
        if event.is_aggregate {
            let aggregate = event.aggregate().ok_or("checked by parse")?;
            assert_eq!(aggregate.fields().len(), aggregate.fields().count());
        }
    }
    assert_eq!(count, batch.len());
    Ok(count)
}

proptest! {
    #[test]
    fn what_is_written_is_read(all in prop::collection::vec(written(), 0..20)) {
        let payload = encode(&all);
        let view = BatchView::parse(&payload).expect("just written");
        prop_assert_eq!(view.events_before(), 77);
        let resolver = resolver(&view).expect("known names");
        let batch = Batch::new(view, &resolver, None);
        prop_assert_eq!(batch.class(), Class::Aggregate);
        prop_assert_eq!(batch.name(), "data:users:batch");
        prop_assert_eq!((batch.first_time_ns(), batch.last_time_ns()), (1000, 2000));
        prop_assert_eq!(batch.len(), all.len());
        let events: Vec<Event<'_>> = batch.events().collect();
        prop_assert_eq!(events.len(), all.len());
        for (sequence, (event, written)) in events.iter().zip(&all).enumerate() {
            let source = match written.source {
                3 => "?".to_owned(),
                known => format!("source {known}"),
            };
            let wanted = Event {
                name: NAMES[written.name as usize],
                source: &source,
                time_ns: 1000 + sequence as u64,
                level: Level::Warn,
                lane: 9,
                sequence: sequence as u64,
                schema_id: 5,
                replaced: 3,
                is_aggregate: written.is_aggregate,
                payload: &written.payload,
            };
            prop_assert_eq!(*event, wanted);
        }
        // Every second one, as a filter would keep.
        let kept: Vec<u32> = view.entries().step_by(2).map(|entry| entry.offset()).collect();
        let filtered = Batch::new(view, &resolver, Some(&kept));
        prop_assert_eq!(filtered.len(), all.len().div_ceil(2));
        let wanted: Vec<Event<'_>> = events.iter().step_by(2).copied().collect();
        prop_assert_eq!(filtered.events().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn nonsense_never_panics(
        all in prop::collection::vec(written(), 0..8),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut payload = encode(&all);
        for (at, value) in changes {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        if cuts {
            payload.truncate(cut.index(payload.len() + 1));
        }
        let _ = walk(&payload);
        let _ = GapBody::parse(&payload);
        let _ = AggregateView::parse(&payload).map(|aggregate| aggregate.fields().count());
    }

    #[test]
    fn any_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = walk(&payload);
        let _ = GapBody::parse(&payload);
    }
}

/// Flips each bit of a record: every one of them is an error or leaves a record that can be walked.
#[test]
fn every_single_bit_may_be_wrong() {
    let all: Vec<Written> = (0..6)
        .map(|at| Written {
            is_aggregate: at % 3 == 2,
            inline: at % 2 == 1,
            name: at % 3,
            source: at % 4,
            payload: if at % 3 == 2 {
                aggregate(3)
            } else {
                vec![7; 5]
            },
        })
        .collect();
    let good = encode(&all);
    assert_eq!(walk(&good), Ok(6));
    let mut refused = 0;
    for at in 0..good.len() * 8 {
        let mut payload = good.clone();
        payload[at / 8] ^= 1 << (at % 8);
        refused += usize::from(walk(&payload).is_err());
    }
    assert!(refused > 300, "{refused} bits are checked");
}

#[test]
fn errors_say_what_is_wrong() {
    let one = Written {
        is_aggregate: false,
        inline: false,
        name: 0,
        source: 0,
        payload: vec![1; 8],
    };
    let good = encode(&[one]);
    let entry = good.len() - 56;
    let wrong = |at: usize, value: u8| {
        let mut payload = good.clone();
        payload[at] = value;
        walk(&payload).expect_err("nonsense")
    };
    assert_eq!(wrong(0, 2), "entry count of a batch record");
    assert_eq!(wrong(4, 9), "class of a batch record");
    assert_eq!(wrong(6, 200), "prefix length of a batch record");
    assert_eq!(wrong(40, b' '), "prefix text of a batch record");
    assert_eq!(wrong(entry, 9), "entry length of a batch record");
    assert_eq!(wrong(entry + 4, 3), "entry kind of a batch record");
    assert_eq!(wrong(entry + 4, 2), "aggregate of a batch record");
    assert_eq!(wrong(entry + 6, 1), "inline name of a batch record");
    assert_eq!(wrong(entry + 24, 3), "name id of a batch record");
    let backwards = GapBody::new(1, 5, 4, 0);
    assert!(GapBody::parse(backwards.as_bytes()).is_err());
    assert!(GapBody::parse(GapBody::new(1, 5, 5, 0).as_bytes()).is_ok());
}

/// Not a bound, a number to look at: `cargo test --release -p millpond-bus entries_per_second -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn entries_per_second() {
    let one = Written {
        is_aggregate: false,
        inline: false,
        name: 1,
        source: 1,
        payload: vec![1; 64],
    };
    let all = vec![one; 1000];
    let payload = encode(&all);
    let start = std::time::Instant::now();
    let mut sum = 0;
    for _ in 0..10_000 {
        let view = BatchView::parse(&payload).expect("good");
        let resolver = resolver(&view).expect("good");
        for event in Batch::new(view, &resolver, None).events() {
            sum += event.sequence + event.payload.len() as u64 + event.name.len() as u64;
        }
    }
    let read = 1e7 / start.elapsed().as_secs_f64();
    let start = std::time::Instant::now();
    let mut entries = Vec::new();
    for _ in 0..10_000 {
        entries.clear();
        for (sequence, written) in all.iter().enumerate() {
            append_entry(&mut entries, &entry(written, sequence));
        }
        sum += std::hint::black_box(&entries).len() as u64;
    }
    let write = 1e7 / start.elapsed().as_secs_f64();
    println!(
        "read {:.1} M/s, write {:.1} M/s ({sum})",
        read / 1e6,
        write / 1e6
    );
}
