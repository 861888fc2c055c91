//! Seals all closed segments of a log directory, and says what became of their sizes.
//!
//! Run with `cargo run --release -p millpond-logfile --example 2_seal -- LOGS [LEVEL]`; without LOGS it makes a
//! directory of its own.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use millpond_logfile::{
    BlockWriter, CURRENT_LINK, Level, SegmentId, Source, list_segments, list_services,
    rebuild_index, seal_segment,
};

const LEVEL: i32 = 3;
const LINES: u64 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let own = tempfile::tempdir()?;
    let logs = match arguments.next() {
        Some(logs) => PathBuf::from(logs),
        None => {
            generate(&own.path().join("web"))?;
            own.path().to_owned()
        }
    };
    let level = arguments.next().map_or(Ok(LEVEL), |level| level.parse())?;

    let started = Instant::now();
    let (mut text_bytes, mut file_bytes, mut sidecar_bytes) = (0, 0, 0);
    for service in list_services(&logs)? {
        let dir = logs.join(&service);
        let current = fs::read_link(dir.join(CURRENT_LINK)).unwrap_or_default();
        for id in list_segments(&dir)? {
            let is_open = current == Path::new(&format!("{id}.log"));
            if !is_open && let Some(sealed) = seal_segment(&dir, id, level, &mut || true)? {
                text_bytes += sealed.text_bytes;
                file_bytes += sealed.file_bytes;
                sidecar_bytes += sealed.sidecar_bytes;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("text      {text_bytes} bytes");
    println!(
        "sealed    {file_bytes} bytes, {:.2} times smaller",
        text_bytes as f64 / file_bytes as f64
    );
    println!(
        "sidecars  {sidecar_bytes} bytes, {:.2} % of the text",
        100.0 * sidecar_bytes as f64 / text_bytes as f64
    );
    println!(
        "time      {seconds:.2} s, {:.0} MB/s",
        text_bytes as f64 / seconds / 1e6
    );
    Ok(())
}

/// One closed segment.
fn generate(dir: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir(dir)?;
    let (mut block, mut text) = (BlockWriter::new(), Vec::new());
    let source = Source::new("http");
    let id = SegmentId::from_ns(1_795_224_593_000_000_000);
    for number in 0..LINES {
        let message = format!("request {number} took {} ms", number % 97);
        block.append(
            &mut text,
            id.as_ns() + number * 1_000_000,
            Level::Info,
            &source,
            message.as_bytes(),
        );
    }
    fs::write(id.log_path(dir), &text)?;
    rebuild_index(dir, id, false)?;
    Ok(())
}
