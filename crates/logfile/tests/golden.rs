//! A committed sample of format version 1, parsed by the offsets of `docs/formats/log.md`: what was written
//! once is read for ever.
//!
//! The sample was made with `BlockWriter` by `make_sample`, which the first test repeats.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use millpond_logfile::{
    BlockWriter, IndexHeader, Level, Query, Reader, SegmentId, Source, rebuild_index,
    verify_segment,
};

const ID: &str = "20261121T012953.123456789Z";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn segment_id() -> SegmentId {
    ID.parse().expect("the id of the sample")
}

/// 1,500 lines: one full block, and a short one behind it.
fn make_sample() -> (Vec<u8>, Vec<u8>) {
    let (mut block, mut text) = (BlockWriter::new(), Vec::new());
    let sources = ["pty:out", "rpc", "two words"].map(Source::new);
    for number in 0..1500u64 {
        let message = match number % 100 {
            13 => b"caf\xc3\xa9 \\ tab\there \x1b[31mred\x1b[0m \xff\r".to_vec(),
            _ => format!("request {number} took {} us", number * 37 % 1000).into_bytes(),
        };
        let level = Level::from_u8((number % 6) as u8);
        let time_ns = segment_id().as_ns() + number * 1_000_003;
        block.append(
            &mut text,
            time_ns,
            level,
            &sources[number as usize % 3],
            &message,
        );
    }
    block.finish(&text);
    let mut index = IndexHeader::new(segment_id(), true).to_bytes().to_vec();
    block
        .take_entries()
        .iter()
        .for_each(|entry| index.extend_from_slice(&entry.to_bytes()));
    (text, index)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn what_is_written_today_is_the_sample() {
    let (text, index) = make_sample();
    let dir = golden().join("web");
    if std::env::var_os("MILLPOND_MAKE_GOLDEN").is_some() {
        std::fs::write(segment_id().log_path(&dir), &text).expect("the sample can be written");
        std::fs::write(segment_id().index_path(&dir), &index).expect("the sample can be written");
    }
    let sample = std::fs::read(segment_id().log_path(&dir)).expect("the sample is there");
    assert!(
        sample == text,
        "the text of a line has changed: that is a new format version"
    );
    let sample = std::fs::read(segment_id().index_path(&dir)).expect("the sample is there");
    assert!(
        sample == index,
        "the index has changed: that is a new format version"
    );
}

#[test]
fn the_index_has_the_offsets_of_the_document() {
    let dir = golden().join("web");
    let text = std::fs::read(segment_id().log_path(&dir)).expect("the sample is there");
    let index = std::fs::read(segment_id().index_path(&dir)).expect("the sample is there");
    assert_eq!(&index[0..8], b"mpondidx");
    assert_eq!((u32_at(&index, 8), u32_at(&index, 12)), (1, 96));
    assert_eq!(u64_at(&index, 16), segment_id().as_ns());
    assert_eq!(u32_at(&index, 24), 1, "closed in order");
    assert_eq!(u32_at(&index, 60), crc32c::crc32c(&index[..60]));
    let entries: Vec<&[u8]> = index[64..].chunks(96).collect();
    assert_eq!(entries.len(), 2);
    let mut next = 0;
    for entry in entries {
        assert_eq!(u64_at(entry, 0), next);
        let length = u64::from(u32_at(entry, 32));
        let block = &text[next as usize..(next + length) as usize];
        next += length;
        let lines: Vec<&[u8]> = block.split_inclusive(|&byte| byte == b'\n').collect();
        assert_eq!(u32_at(entry, 36) as usize, lines.len());
        for (level, token) in ["TRACE", "DEBUG", "INFO ", "WARN ", "ERROR", "FATAL"]
            .iter()
            .enumerate()
        {
            let count = lines
                .iter()
                .filter(|line| &line[31..36] == token.as_bytes())
                .count();
            assert_eq!(u32_at(entry, 40 + 4 * level) as usize, count, "{token}");
        }
        let mask = ["pty:out", "rpc", r"two\x20words"]
            .iter()
            .fold(0, |mask, source| {
                mask | 1 << (crc32c::crc32c(source.as_bytes()) % 64)
            });
        assert_eq!(u64_at(entry, 24), mask);
        assert_eq!(u32_at(entry, 64), 0, "no damaged line");
        assert_eq!(u32_at(entry, 68), crc32c::crc32c(block));
        assert_eq!(u32_at(entry, 92), crc32c::crc32c(&entry[..92]));
    }
    assert_eq!(next, text.len() as u64);
}

#[test]
fn the_sample_answers_queries_and_its_index_is_rebuilt_to_the_bit() {
    let copy = tempfile::tempdir().expect("a temporary place");
    let dir = copy.path().join("web");
    std::fs::create_dir(&dir).expect("room on the disk");
    let sample = golden().join("web");
    let text = std::fs::read(segment_id().log_path(&sample)).expect("the sample is there");
    let index = std::fs::read(segment_id().index_path(&sample)).expect("the sample is there");
    std::fs::write(segment_id().log_path(&dir), &text).expect("room on the disk");
    rebuild_index(&dir, segment_id(), false).expect("it can be rebuilt");
    let rebuilt = std::fs::read(segment_id().index_path(&dir)).expect("it was rebuilt");
    assert!(rebuilt == index, "the rebuilt index differs");
    assert_eq!(
        verify_segment(&dir, segment_id())
            .expect("it can be read")
            .damage,
        []
    );
    let mut odd = Vec::new();
    Reader::open(copy.path())
        .expect("a log directory")
        .run(&Query::new().contains("red"), &mut |hit| {
            let mut message = Vec::new();
            hit.raw_message(&mut message);
            odd.push(message);
            ControlFlow::Continue(())
        })
        .expect("it can be searched");
    assert_eq!(odd.len(), 15);
    assert!(
        odd.iter()
            .all(|message| message == b"caf\xc3\xa9 \\ tab\there \x1b[31mred\x1b[0m \xff\r")
    );
}
