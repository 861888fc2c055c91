use millpond_bus::*;
use std::time::Instant;
fn main() {
    let n: u64 = std::env::args()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_000_000);
    let spin: u64 = std::env::args()
        .nth(2)
        .and_then(|s| s.parse().ok())
        .unwrap_or(20);
    let bus = Bus::attach(
        &format!("quick-{}", std::process::id()),
        &BusOptions::default(),
    )
    .unwrap();
    let clock = bus.clock();
    let t = Instant::now();
    let mut x = 0u64;
    for _ in 0..10_000_000 {
        x = x.wrapping_add(clock.now_ns());
    }
    println!(
        "clock {:.1} ns {}",
        t.elapsed().as_nanos() as f64 / 1e7,
        x & 1
    );
    for batch in [1usize, 16, 64] {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut drain = bus.drain().unwrap();
        std::thread::scope(|s| {
            let stop = &stop;
            let bus2 = bus.clone();
            let h = s.spawn(move || {
                let mut p = bus2.publisher("q").unwrap();
                let topic = p.topic("data:x").unwrap();
                let payload = [7u8; 64];
                let t = Instant::now();
                if batch == 1 {
                    for _ in 0..n {
                        p.publish(topic, Level::Info, &payload).unwrap();
                    }
                } else {
                    for _ in 0..n / batch as u64 {
                        let mut b = p.batch(topic).unwrap();
                        for _ in 0..batch {
                            b.push(Level::Info, &payload).unwrap();
                        }
                        b.commit();
                    }
                }
                let e = t.elapsed();
                p.flush(Guarantee::Written, None).unwrap();
                let e2 = t.elapsed();
                println!(
                    "batch {batch}: publish {:.1} ns/event, through {:.1} M/s",
                    e.as_nanos() as f64 / n as f64,
                    n as f64 / e2.as_secs_f64() / 1e6
                );
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            let mut sum = 0u64;
            let mut passes = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let pass = drain.pass(Scope::Unpersisted, &mut |item| {
                    if let Item::Record(r) = item {
                        sum += r.payload[0] as u64;
                    }
                    Verdict::Keep
                });
                if drain.directory_changed() {
                    drain.housekeep();
                }
                drain.commit_unpersisted();
                if pass.records > 0 {
                    passes += 1;
                }
                if pass.records < 64 {
                    for _ in 0..spin {
                        std::hint::spin_loop();
                    }
                }
            }
            h.join().unwrap();
            println!("  records per pass {:.0}", sum as f64 / 7.0 / passes as f64);
        });
    }
    bus.remove().unwrap();
}
