//! SQLite as a log sink, and millpond beside it: how fast rows go in, how long a caller stands until they are
//! confirmed, what that costs, and what it does to one who reads meanwhile.
//!
//! A table with the schema and the indexes of the system that failed takes rows in transactions of 1 to 10,000, for
//! three journal modes and three levels of `synchronous`. millpond takes the same rows as lines, from a publisher
//! through shared memory to a daemon in another process and its files, for three sync policies, with as many rows
//! confirmed together as a transaction has, and unconfirmed as loggers do it. Every cell begins with a copy of the
//! same store, on a disk that has come to rest; everything is counted afterwards.
//!
//! Run: `cargo bench -p millpond-benches --bench log_sink`, with `-- --write-docs` to renew
//! `docs/benchmarks/log-sink.md` and its plot, or `-- --write-docs DIR` to make them elsewhere.
//!
//! `MILLPOND_BENCH_SECONDS` is the time of a cell (1), `MILLPOND_BENCH_ROUNDS` how often each is measured (1),
//! `MILLPOND_BENCH_ROWS` at most so many rows a cell (10 million), `MILLPOND_BENCH_DIR` the place of the files,
//! and `MILLPOND_BENCH_PARTS=sqlite` or `millpond` leaves the other away.

mod asker;
mod chart;
mod page;
mod rows;
mod store;
mod table;
mod text;

use std::path::{Path, PathBuf};
use std::time::Duration;

use millpond_benches::{is_tiny, rounds_or};

use crate::page::{Conditions, Measured};
use crate::store::{Cell, Figures, Sizes, Store};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |word: &str| {
        let at = args.iter().position(|arg| arg == word)?;
        Some(&args[at + 1..])
    };
    if let Some(rest) = after("role") {
        return role(rest);
    }
    let docs = after("--write-docs").map(|rest| match rest.first() {
        Some(dir) if !dir.starts_with('-') => PathBuf::from(dir),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks"),
    });
    let sizes = sizes();
    let dir = std::env::var_os("MILLPOND_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let conditions = Conditions::new(&sizes, &dir, rounds_or(1));
    println!("{conditions}");
    let measured = measure_all(&sizes, &dir, conditions.rounds);
    let results = page::results(&conditions, &measured, &sizes);
    let plot = chart::svg(&measured, &sizes);
    println!("{results}");
    if is_tiny() {
        println!("(a tiny run: the figures mean nothing, and no page is written)");
    } else if let Some(docs) = docs {
        page::write(&docs, &results, &plot);
    }
}

/// What a helper process does.
fn role(args: &[String]) {
    match args[0].as_str() {
        "daemon" => text::daemon_process(&args[1], Path::new(&args[2]), &args[3]),
        "asker" => asker::asker_process(&args[1], Path::new(&args[2])),
        other => panic!("no such role: {other}"),
    }
}

fn sizes() -> Sizes {
    let number = |name: &str| std::env::var(name).ok()?.parse::<f64>().ok();
    if is_tiny() {
        return Sizes {
            time: Duration::ZERO,
            rows_max: 1,
            interval_time_min: Duration::ZERO,
            prefill: 300,
            batches: vec![1, 100],
        };
    }
    Sizes {
        time: Duration::from_secs_f64(number("MILLPOND_BENCH_SECONDS").unwrap_or(1.0)),
        rows_max: number("MILLPOND_BENCH_ROWS").map_or(10_000_000, |rows| rows as u64),
        // Long enough for a sync or two.
        interval_time_min: Duration::from_millis(2500),
        prefill: 200_000,
        batches: vec![1, 10, 100, 1000, 10_000],
    }
}

/// The cells of the study: every store, every batch, without a reader and with one.
fn cells(sizes: &Sizes) -> Vec<Cell> {
    let parts = std::env::var("MILLPOND_BENCH_PARTS").unwrap_or_default();
    let wanted = |part: &str| parts.is_empty() || parts.split(',').any(|known| known == part);
    let mut cells = Vec::new();
    for store in Store::all() {
        let mut batches: Vec<_> = sizes.batches.iter().copied().map(Some).collect();
        let part = match store {
            Store::Table(..) => "sqlite",
            Store::Text(_) => {
                batches.push(None);
                "millpond"
            }
        };
        if !wanted(part) {
            continue;
        }
        for batch in batches {
            cells.extend([false, true].map(|reader| Cell {
                store,
                batch,
                reader,
            }));
        }
    }
    cells
}

fn measure_all(sizes: &Sizes, dir: &Path, rounds: usize) -> Vec<Measured> {
    let rows = rows::rows();
    let work = tempfile::tempdir_in(dir).expect("a place for the files");
    let [table_template, text_template] = ["table", "text"].map(|name| work.path().join(name));
    table::prefill(&table_template, &rows, sizes.prefill);
    text::prefill(&text_template, &rows, sizes.prefill);
    let cells = cells(sizes);
    let mut measured: Vec<Measured> = cells.iter().copied().map(Measured::new).collect();
    // Each round measures everything once: what else the machine does is spread over all cells.
    for round in 0..rounds {
        for (number, entry) in measured.iter_mut().enumerate() {
            let (cell, store_dir) = (entry.cell, work.path().join("cell"));
            let figures: Figures = match cell.store {
                Store::Table(journal, level) => table::measure(
                    &cell,
                    (journal, level),
                    sizes,
                    &rows,
                    &table_template,
                    &store_dir,
                ),
                Store::Text(sync) => {
                    text::measure(&cell, sync, sizes, &rows, &text_template, &store_dir)
                }
            };
            std::fs::remove_dir_all(&store_dir).expect("nobody uses it");
            if !is_tiny() {
                eprintln!(
                    "round {} of {rounds}, {} of {}: {}, batch {}, {}: {:.0} rows/s",
                    round + 1,
                    number + 1,
                    cells.len(),
                    cell.store.name(),
                    cell.batch_name(),
                    if cell.reader { "read" } else { "not read" },
                    figures.rows as f64 / figures.elapsed.as_secs_f64(),
                );
            }
            entry.add(figures);
        }
    }
    measured
}
