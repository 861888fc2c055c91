//! Writes a small log as the sink does, then asks it three questions.
//!
//! Run with `cargo run -p millpond-logfile --example 1_generate`.

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path;

use millpond_logfile::{
    BlockWriter, CURRENT_LINK, Level, LevelSet, Order, Query, Reader, SegmentId, Source,
    rebuild_index,
};

const LINES: u64 = 100_000;
const SECOND_NS: u64 = 1_000_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let logs = tempfile::tempdir()?;
    let start_ns = 1_795_224_593 * SECOND_NS;
    for service in ["db", "web"] {
        write_segment(&logs.path().join(service), start_ns)?;
    }
    let reader = Reader::open(logs.path())?;

    println!("# counts by level, from the index alone");
    let counts = reader.count(&Query::new())?;
    for level in Level::ALL {
        println!("{level:<6} {:>7}", counts.level(level));
    }
    println!(
        "{} lines, {} bytes of text read",
        counts.total(),
        counts.report.text_bytes_read
    );

    println!("# the last errors of `web`");
    let errors = Query::new()
        .service("web")
        .levels(LevelSet::at_least(Level::Error))
        .order(Order::Newest)
        .limit(3);
    show(&reader, &errors)?;

    println!("# one request in all services, within ten seconds");
    let request = Query::new()
        .since_ns(start_ns + 40 * SECOND_NS)
        .until_ns(start_ns + 50 * SECOND_NS)
        .contains("request 4711")
        .regex(r"took 5\d ms$")?;
    show(&reader, &request)
}

/// One open segment: text, link and index. Its time is the caller's, since the format has no clock.
fn write_segment(dir: &Path, start_ns: u64) -> Result<(), Box<dyn Error>> {
    fs::create_dir(dir)?;
    let (mut block, mut text) = (BlockWriter::new(), Vec::new());
    let source = Source::new("http");
    for number in 0..LINES {
        let level = if number % 1000 == 999 {
            Level::Error
        } else {
            Level::Info
        };
        let message = format!("request {number} took {} ms", number % 97);
        block.append(
            &mut text,
            start_ns + number * SECOND_NS / 100,
            level,
            &source,
            message.as_bytes(),
        );
    }
    let id = SegmentId::from_ns(start_ns);
    fs::write(id.log_path(dir), &text)?;
    symlink(format!("{id}.log"), dir.join(CURRENT_LINK))?;
    rebuild_index(dir, id, true)?;
    Ok(())
}

fn show(reader: &Reader, query: &Query) -> Result<(), Box<dyn Error>> {
    let report = reader.run(query, &mut |hit| {
        print!("{:<4} {}", hit.service, String::from_utf8_lossy(hit.line));
        ControlFlow::Continue(())
    })?;
    println!(
        "{} lines, {} bytes of text read",
        report.matched, report.text_bytes_read
    );
    Ok(())
}
