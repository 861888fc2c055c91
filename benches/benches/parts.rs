//! The parts by themselves: a stamp, a publish into an empty lane, a line, a query's parse.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millpond_bus::{
    Bus, BusOptions, Class, Item, Level, Overflow, Rule, RuleTable, Scope, Verdict,
};
use millpond_logfile::{BlockWriter, Level as LineLevel, LineWriter, Source, parse_line};

const MESSAGE: &[u8] =
    b"GET /api/v1/collections/users/7f3a1c returned 200 in 14 ms (cached, 2 lookups)";

fn clock(criterion: &mut Criterion) {
    let bus = bus("clock");
    let clock = bus.clock();
    criterion.bench_function("clock/now", |bencher| {
        bencher.iter(|| black_box(clock.now_ns()))
    });
    criterion.bench_function("clock/system", |bencher| {
        bencher.iter(|| black_box(std::time::SystemTime::now()));
    });
    bus.remove().expect("nobody uses it");
}

fn publish(criterion: &mut Criterion) {
    let bus = bus("publish");
    let mut drain = bus.drain().expect("the only consumer");
    let mut publisher = bus.publisher("bench").expect("a label");
    let topic = publisher.topic("bench:publish").expect("a rule matches");
    drain.housekeep();
    let mut group = criterion.benchmark_group("publish");
    group.throughput(Throughput::Elements(1));
    let payload = [7; 64];
    let mut published = 0u32;
    group.bench_function("64 bytes, drained by the same thread", |bencher| {
        bencher.iter(|| {
            publisher
                .publish(topic, Level::Info, black_box(&payload))
                .expect("there is room");
            published += 1;
            if published.is_multiple_of(1024) {
                drain.pass(Scope::Passthrough, &mut |item: Item<'_>| {
                    black_box(&item);
                    Verdict::Keep
                });
                drain.commit_passthrough();
            }
        });
    });
    group.finish();
    drop((publisher, drain));
    bus.remove().expect("nobody uses it");
}

fn lines(criterion: &mut Criterion) {
    let source = Source::new("pty:out");
    let mut group = criterion.benchmark_group("line");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(1 << 20);
    let mut time_ns = 1_795_224_593_000_000_000;
    let mut writer = LineWriter::new();
    group.bench_function("format 80 bytes", |bencher| {
        bencher.iter(|| {
            if out.len() > 1 << 19 {
                out.clear();
            }
            time_ns += 137;
            writer.write(
                &mut out,
                time_ns,
                LineLevel::Info,
                &source,
                black_box(MESSAGE),
            );
        });
    });
    let mut block = BlockWriter::new();
    group.bench_function("format and account 80 bytes, with checksum", |bencher| {
        bencher.iter(|| {
            if out.len() > 1 << 19 {
                block.fold(&out);
                out.clear();
            }
            time_ns += 137;
            block.append(
                &mut out,
                time_ns,
                LineLevel::Info,
                &source,
                black_box(MESSAGE),
            );
        });
    });
    let mut line = Vec::new();
    writer.write(&mut line, time_ns, LineLevel::Info, &source, MESSAGE);
    group.bench_function("parse", |bencher| {
        bencher.iter(|| black_box(parse_line(&line)))
    });
    group.finish();
}

fn bus(name: &str) -> Bus {
    let pattern = "bench:*".parse().expect("a pattern");
    let rule = Rule {
        class: Class::Passthrough,
        overflow: Overflow::DropNewest,
        ..Rule::new(pattern)
    };
    let rules = RuleTable::new(vec![rule]).expect("one good rule");
    let options = BusOptions {
        rules,
        ..BusOptions::default()
    };
    let name = format!("bench-{name}-{}", std::process::id());
    Bus::attach(&name, &options).expect("shared memory can be had")
}

criterion_group!(benches, clock, publish, lines);
criterion_main!(benches);
