//! Recovery after any cut, any hole and any garbage: the text that is kept is what was written, the index is
//! the one made from it, a second recovery has nothing to do, and a writer goes on as if nothing had happened.

use std::fs;

use millpond_logfile::{
    BLOCK_BYTES, Recovered, inspect_segment, parse_line, rebuild_index, recover_segment,
};

use crate::segment::{ID, Random, Segment, append_line, index_bytes};

/// Recovers, and checks what holds of every recovery.
fn recover(random: &mut Random, segment: &Segment, committed_bytes: Option<u64>) -> Recovered {
    let log_before = segment.read_log();
    let index_before = fs::read(segment.index_path()).ok();
    let seen = inspect_segment(segment.dir(), ID, committed_bytes).unwrap();
    assert!(segment.read_log() == log_before, "looking changes nothing");
    assert!(fs::read(segment.index_path()).ok() == index_before);

    let recovered = recover_segment(segment.dir(), ID, committed_bytes).unwrap();
    assert_eq!(recovered.length_bytes, seen.length_bytes);
    assert_eq!(
        (&recovered.why, &recovered.damage),
        (&seen.why, &seen.damage)
    );

    let kept = segment.read_log();
    assert_eq!(kept.len() as u64, recovered.length_bytes);
    assert!(log_before.starts_with(&kept));
    assert!(kept.is_empty() || kept.ends_with(b"\n"));
    assert_eq!(recovered.cut_bytes, (log_before.len() - kept.len()) as u64);
    assert_eq!(recovered.why.is_empty(), recovered.cut_bytes == 0);
    assert_eq!(recovered.block.length_bytes(), recovered.length_bytes);
    let index = fs::read(segment.index_path()).unwrap();
    assert!(
        index == segment.rebuilt(true),
        "the index is the one made from the text"
    );
    assert!(index == index_bytes(false, &recovered.entries));

    let committed_bytes = committed_bytes.map(|_| recovered.length_bytes);
    let again = recover_segment(segment.dir(), ID, committed_bytes).unwrap();
    assert_eq!((again.cut_bytes, again.missing_bytes), (0, 0));
    assert_eq!(again.damage, []);
    check_that_a_writer_can_go_on(random, segment, again);
    recovered
}

/// Appends, closes, and compares with the index of the whole text.
fn check_that_a_writer_can_go_on(random: &mut Random, segment: &Segment, recovered: Recovered) {
    let before = segment.read_log();
    let (mut block, mut entries) = (recovered.block, recovered.entries);
    let mut text = Vec::new();
    for _ in 0..random.below(300) {
        append_line(random, &mut block, &mut text);
    }
    block.finish(&text);
    entries.append(&mut block.take_entries());
    segment.write_log(&[&before[..], &text].concat());
    assert!(index_bytes(true, &entries) == segment.rebuilt(false));
    segment.write_log(&before);
}

/// Killed in the middle of a recovery: the text must not be cut as long as a closed index goes on behind the cut.
#[test]
fn text_is_cut_when_the_index_is_written() {
    let mut random = Random::seeded();
    let segment = Segment::random(&mut random, 800, true);
    let text = segment.read_log();
    let committed_bytes = segment.whole_lines(text.len() / 2) as u64;
    // The new index cannot be written: recovery ends here.
    let in_the_way = segment.index_path().with_extension("idx.new");
    fs::create_dir(&in_the_way).unwrap();
    recover_segment(segment.dir(), ID, Some(committed_bytes)).unwrap_err();
    assert!(
        segment.read_log() == text,
        "cut before the index was written"
    );
    fs::remove_dir(&in_the_way).unwrap();
    recover(&mut random, &segment, Some(committed_bytes));
}

/// Does something to the index that the text does not show.
fn spoil_index(random: &mut Random, segment: &Segment) {
    let mut bytes = fs::read(segment.index_path()).unwrap();
    match random.below(5) {
        0 => return,
        1 => return fs::remove_file(segment.index_path()).unwrap(),
        2 => bytes.truncate(random.below(bytes.len() + 1)),
        3 => bytes.fill(0),
        _ => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1;
        }
    }
    fs::write(segment.index_path(), bytes).unwrap();
}

#[test]
fn a_torn_tail_is_cut_behind_the_last_whole_line() {
    let mut random = Random::seeded();
    for round in 0..100 {
        let lines = random.below(800);
        let segment = Segment::random(&mut random, lines, false);
        let length = random.below(segment.text.len() + 1);
        let mut log = segment.text[..length].to_vec();
        let (garbage, why) = match random.below(4) {
            0 => (vec![], "its last line has no end"),
            1 => (
                vec![0; 1 + random.below(200_000)],
                "it ends in bytes that were never written",
            ),
            2 => (
                b"\nno line\n".to_vec(),
                "it ends in text that is no log line",
            ),
            _ => (vec![b'x'; 100], "its last line has no end"),
        };
        log.extend_from_slice(&garbage);
        segment.write_log(&log);
        spoil_index(&mut random, &segment);

        let kept = segment.whole_lines(length);
        let recovered = recover(&mut random, &segment, None);
        // A line whose very last byte is torn off can be made whole by what comes next.
        let is_repaired = garbage.starts_with(b"\n") && recovered.length_bytes == length as u64 + 1;
        if !is_repaired {
            assert_eq!(recovered.length_bytes, kept as u64, "round {round}");
            assert!(
                recovered.cut_bytes == 0 || recovered.why == why,
                "{}",
                recovered.why
            );
        }
    }
}

#[test]
fn text_beyond_the_commit_is_cut_and_text_before_it_is_not() {
    let mut random = Random::seeded();
    for round in 0..100 {
        let lines = random.below(800);
        let segment = Segment::random(&mut random, lines, false);
        let committed = segment.line_boundary(&mut random);
        let length = committed + random.below(segment.text.len() - committed + 1);
        segment.write_log(&segment.text[..length]);
        // Entries for text that is written and not committed are normal.
        let written = segment
            .entries
            .iter()
            .filter(|entry| entry.end() <= length as u64);
        segment.write_index(false, &written.copied().collect::<Vec<_>>());

        let recovered = recover(&mut random, &segment, Some(committed as u64));
        assert_eq!(recovered.length_bytes, committed as u64, "round {round}");
        assert_eq!((recovered.missing_bytes, recovered.damage), (0, vec![]));
        let uncommitted = length > committed;
        assert_eq!(
            recovered.why == "it was written and never committed",
            uncommitted
        );
    }
}

#[test]
fn text_that_the_commit_names_and_the_file_lacks_is_reported() {
    let mut random = Random::seeded();
    for _ in 0..50 {
        let segment = Segment::random(&mut random, 300, false);
        let length = random.below(segment.text.len());
        segment.write_log(&segment.text[..length]);
        let committed = segment.text.len() as u64;
        let recovered = recover(&mut random, &segment, Some(committed));
        assert_eq!(recovered.length_bytes, segment.whole_lines(length) as u64);
        assert_eq!(recovered.missing_bytes, committed - length as u64);
        let is_ahead = segment
            .entries
            .iter()
            .any(|entry| entry.end() > length as u64);
        assert_eq!(recovered.damage.len(), usize::from(is_ahead));
    }
}

#[test]
fn lines_behind_a_hole_are_kept_and_the_hole_is_reported() {
    let mut random = Random::seeded();
    for _ in 0..50 {
        let segment = Segment::random(&mut random, 1500, false);
        let mut log = segment.text.clone();
        let page = random.below(log.len()) & !4095;
        let hole = page..log.len().min(page + 4096);
        log[hole.clone()].fill(0);
        segment.write_log(&log);

        let recovered = recover(&mut random, &segment, None);
        let torn = segment
            .entries
            .iter()
            .filter(|entry| entry.offset() < hole.end as u64 && entry.end() > hole.start as u64);
        let torn: Vec<u64> = torn.map(|entry| entry.offset()).collect();
        let reported: Vec<u64> = recovered
            .damage
            .iter()
            .map(|damage| damage.offset)
            .collect();
        assert_eq!(reported, torn);
        // What follows the line that the hole ends in is as good as it was.
        let next_line = log[hole.end..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        if hole.end + next_line < log.len() {
            assert_eq!(recovered.length_bytes, log.len() as u64);
        }
    }
}

#[test]
fn a_segment_torn_far_from_its_end_is_searched_back_to_there() {
    let mut random = Random::seeded();
    let segment = Segment::random(&mut random, 20_000, false);
    assert!(
        segment.entries.len() > 80,
        "{} blocks",
        segment.entries.len()
    );
    let mut log = segment.text.clone();
    let last = segment.entries.len() - 1;
    // Holes less than 64 blocks apart lead from the end to the first.
    let torn = [last - 75, last - 40, last - 3];
    for block in torn {
        log[segment.entries[block].offset() as usize] = 0;
    }
    segment.write_log(&log);
    let recovered = recover(&mut random, &segment, None);
    let reported: Vec<u64> = recovered
        .damage
        .iter()
        .map(|damage| damage.offset)
        .collect();
    assert_eq!(reported, torn.map(|block| segment.entries[block].offset()));
}

#[test]
fn the_last_block_of_a_closed_segment_is_opened_again() {
    let mut random = Random::seeded();
    for _ in 0..20 {
        let segment = Segment::random(&mut random, 300, true);
        let recovered = recover(&mut random, &segment, None);
        assert_eq!(recovered.cut_bytes, 0);
        assert!(
            recovered
                .entries
                .iter()
                .all(|entry| entry.length_bytes() >= BLOCK_BYTES)
        );
    }
}

#[test]
fn foreign_text_within_the_commit_is_never_cut() {
    let mut random = Random::seeded();
    let segment = Segment::of_text(b"by hand\n\0\0\0\nmore\n");
    let recovered = recover(&mut random, &segment, Some(17));
    assert_eq!((recovered.length_bytes, recovered.cut_bytes), (17, 0));
}

/// A power cut that took a page in the middle: what stands around the hole reads as a line, and was never one.
#[test]
fn line_with_a_hole_in_its_message_is_damaged() {
    let mut random = Random::seeded();
    let whole = b"1970-01-01T00:00:00.000000007Z INFO  rpc listening\n";
    let mut torn = whole.to_vec();
    torn[43..46].fill(0);
    assert!(parse_line(whole).is_ok() && parse_line(&torn).is_err());
    let segment = Segment::of_text(&[&whole[..], &torn, whole].concat());
    let recovered = recover(&mut random, &segment, None);
    assert_eq!(recovered.cut_bytes, 0, "a good line stands behind it");
    let report = rebuild_index(segment.dir(), ID, false).unwrap();
    assert_eq!((report.lines, report.damaged_lines), (3, 1));
}

#[test]
fn no_bytes_at_all_upset_recovery() {
    let mut random = Random::seeded();
    for _ in 0..100 {
        let good = Segment::random(&mut random, 200, true);
        let mut log = good.text.clone();
        let mut index = fs::read(good.index_path()).unwrap();
        for bytes in [&mut log, &mut index] {
            match random.below(3) {
                0 => *bytes = random.bytes(bytes.len()),
                1 => {
                    for _ in 0..random.below(50) {
                        let at = random.below(bytes.len());
                        bytes[at] = random.next() as u8;
                    }
                }
                _ => {}
            }
        }
        good.write_log(&log);
        fs::write(good.index_path(), index).unwrap();
        let committed = (random.below(2) == 0).then(|| random.below(2 * log.len()) as u64);
        recover(&mut random, &good, committed);
    }
}
