//! `verify_segment` and `rebuild_index`: what agrees, what does not, and how it is said.

use std::fs::{self, File};

use millpond_logfile::{BLOCK_BYTES, ENTRY_BYTES, HEADER_BYTES, rebuild_index, verify_segment};

use crate::segment::{ID, Random, Segment};

fn damage(segment: &Segment) -> Vec<String> {
    let report = verify_segment(segment.dir(), ID).unwrap();
    report
        .damage
        .iter()
        .map(|damage| damage.what.to_owned())
        .collect()
}

#[test]
fn an_index_written_live_is_the_one_made_from_the_text() {
    let mut random = Random::seeded();
    for round in 0..60 {
        let closed = round % 2 == 0;
        let lines = [0, 1, 50, 3000][round % 4];
        let segment = Segment::random(&mut random, lines, closed);
        let live = fs::read(segment.index_path()).unwrap();
        assert_eq!(damage(&segment), [] as [&str; 0]);
        rebuild_index(segment.dir(), ID, !closed).unwrap();
        assert!(
            fs::read(segment.index_path()).unwrap() == live,
            "round {round}"
        );
        let full = segment.entries.iter().rev().skip(usize::from(closed));
        assert!(
            full.into_iter()
                .all(|entry| entry.length_bytes() >= BLOCK_BYTES)
        );
    }
}

#[test]
fn a_rebuild_counts_foreign_lines_and_goes_on() {
    let mut random = Random::seeded();
    let good = Segment::random(&mut random, 500, true);
    let middle = good.line_boundary(&mut random);
    let (before, after) = good.text.split_at(middle);
    let foreign = b"--- by hand ---\n\n\xff\0\xff\n2026-11-21 nearly a line\n";
    let segment = Segment::of_text(&[before, foreign, after].concat());
    let report = rebuild_index(segment.dir(), ID, false).unwrap();
    assert_eq!((report.lines, report.damaged_lines), (504, 4));
    assert_eq!(report.text_bytes, segment.text.len() as u64);
    let report = verify_segment(segment.dir(), ID).unwrap();
    assert_eq!(report.damage[0].what, "first damaged line of the block");
    assert_eq!(report.damage[0].offset, middle as u64);
    assert!((1..=2).contains(&report.damage.len()), "one a block");
}

#[test]
fn a_stretch_without_a_line_end_is_cut_into_damaged_lines() {
    let segment = Segment::of_text(b"");
    let file = File::options()
        .write(true)
        .open(segment.log_path())
        .unwrap();
    file.set_len(257 << 20).unwrap(); // sparse
    let report = rebuild_index(segment.dir(), ID, false).unwrap();
    assert_eq!(
        (report.blocks, report.lines, report.damaged_lines),
        (1, 1, 1)
    );
    assert_eq!(report.text_bytes, 257 << 20);
}

#[test]
fn any_byte_that_changes_is_found() {
    let mut random = Random::seeded();
    let segment = Segment::random(&mut random, 2000, true);
    for _ in 0..50 {
        let mut text = segment.text.clone();
        let at = random.below(text.len());
        text[at] ^= 1 + random.below(255) as u8;
        segment.write_log(&text);
        let report = verify_segment(segment.dir(), ID).unwrap();
        let entry = segment
            .entries
            .iter()
            .position(|entry| entry.end() > at as u64)
            .unwrap();
        let (log, index) = (segment.log_path(), segment.index_path());
        let entry_offset = (HEADER_BYTES + entry * ENTRY_BYTES) as u64;
        let block_offset = segment.entries[entry].offset();
        let is_it = report.damage.iter().any(|damage| {
            (damage.path == log && damage.offset == block_offset)
                || (damage.path == index && damage.offset == entry_offset)
        });
        assert!(is_it, "byte {at} of {log:?}: {:?}", report.damage);
    }
}

#[test]
fn an_index_that_counts_wrong_is_found_though_its_checksums_fit() {
    let mut random = Random::seeded();
    let segment = Segment::random(&mut random, 2000, true);
    let good = fs::read(segment.index_path()).unwrap();
    let fields = [
        (8, "earliest time of the block"),
        (16, "latest time of the block"),
        (24, "sources of the block"),
        (36, "lines of the block"),
        (40, "lines by level"),
        (60, "lines by level"),
        (64, "damaged lines"),
        (68, "checksum of the block"),
    ];
    for (field, what) in fields {
        let mut bad = good.clone();
        let entry = &mut bad[HEADER_BYTES + ENTRY_BYTES..][..ENTRY_BYTES];
        entry[field] ^= 1;
        let crc = crc32c::crc32c(&entry[..ENTRY_BYTES - 4]);
        entry[ENTRY_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        fs::write(segment.index_path(), bad).unwrap();
        assert_eq!(damage(&segment), [what]);
    }
}

#[test]
fn an_index_behind_its_text_is_normal_and_one_ahead_is_not() {
    let mut random = Random::seeded();
    let segment = Segment::random(&mut random, 2000, false);
    let blocks = segment.entries.len();
    segment.write_index(false, &segment.entries[..blocks / 2]);
    assert_eq!(damage(&segment), [] as [&str; 0]);

    segment.write_index(true, &segment.entries[..blocks / 2]);
    assert_eq!(
        damage(&segment),
        ["length of the text"],
        "closed, it should cover all"
    );

    fs::remove_file(segment.index_path()).unwrap();
    assert_eq!(damage(&segment), [] as [&str; 0]);

    segment.write_index(false, &segment.entries);
    segment.write_log(&segment.text[..segment.entries[1].end() as usize]);
    assert_eq!(damage(&segment), ["text covered by the index"]);
    let report = verify_segment(segment.dir(), ID).unwrap();
    let ahead = &report.damage[0];
    assert_eq!(
        ahead.expected,
        format!("at most {} bytes", segment.entries[1].end())
    );
    assert_eq!(
        ahead.found,
        format!("{} bytes", segment.entries[blocks - 1].end())
    );
}

#[test]
fn a_closed_segment_that_ends_in_half_a_line_is_damage() {
    let mut random = Random::seeded();
    let segment = Segment::random(&mut random, 20, true);
    segment.write_log(&[&segment.text[..], b"2026-11-21T01:2"].concat());
    assert_eq!(damage(&segment), ["last line"]);
}
