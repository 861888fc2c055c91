//! The same questions to sealed segments: whole, half, with filters that are gone or damaged, and while they are
//! being sealed.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use millpond_logfile::{
    CURRENT_LINK, IndexHeader, Level, Query, Reader, SegmentId, rebuild_index, seal_segment,
    verify_segment,
};

use crate::model::{
    Ask, Found, Logs, Random, SERVICES, SegmentWriter, check, check_random_questions, run, text_of,
};

const LEVEL: i32 = 1;

fn closed_segments(logs: &Logs) -> Vec<(PathBuf, SegmentId)> {
    let services: Vec<_> = Reader::open(logs.path()).unwrap().services().to_vec();
    let mut segments = Vec::new();
    for service in services {
        let dir = logs.service_dir(&service);
        let current = fs::read_link(dir.join(CURRENT_LINK)).unwrap();
        let ids = logs.segments(&service).into_iter();
        let closed = ids.filter(|id| current != Path::new(&format!("{id}.log")));
        segments.extend(closed.map(|id| (dir.clone(), id)));
    }
    segments
}

fn seal(dir: &Path, id: SegmentId) {
    seal_segment(dir, id, LEVEL, &mut || true).unwrap().unwrap();
    assert!(!id.log_path(dir).exists());
}

fn seal_all(logs: &Logs) {
    for (dir, id) in closed_segments(logs) {
        seal(&dir, id);
    }
}

/// One service, one closed segment of these messages and one empty open one.
fn logs_of(messages: impl Iterator<Item = Vec<u8>>) -> (Logs, PathBuf, SegmentId) {
    let mut logs = Logs {
        dir: tempfile::tempdir().unwrap(),
        records: Vec::new(),
    };
    let id = SegmentId::from_ns(1_795_224_593_000_000_000);
    let mut segment = SegmentWriter::create(logs.path(), "web", id);
    for (number, message) in messages.enumerate() {
        let time_ns = id.as_ns() + number as u64;
        let record = segment.append_message(time_ns, Level::Info, "log", &message);
        logs.records.push(record);
    }
    segment.write(true);
    let next = SegmentId::from_ns(id.as_ns() + 1_000_000_000);
    SegmentWriter::create(logs.path(), "web", next).write(false);
    let dir = logs.service_dir("web");
    (logs, dir, id)
}

fn random_message(random: &mut Random) -> Vec<u8> {
    let length = random.below(200);
    let kind = random.below(4);
    let byte = |random: &mut Random| match kind {
        0 => random.next() as u8,
        1 => b"ab\\n\x1b\xc3\xa9\n"[random.below(8)],
        _ => b"0123456789abcdef -"[random.below(18)],
    };
    (0..length).map(|_| byte(random)).collect()
}

#[test]
fn a_thousand_random_questions_are_answered_alike_in_every_form() {
    let mut random = Random::seeded();
    for lines in [300, 6_000, 12_000] {
        let logs = Logs::random(&mut random, &SERVICES, lines);
        check_random_questions(&mut random, &logs, 60);
        let segments = closed_segments(&logs);
        for (dir, id) in &segments {
            if random.one_in(2) {
                seal(dir, *id);
            }
        }
        check_random_questions(&mut random, &logs, 60);
        seal_all(&logs);
        check_random_questions(&mut random, &logs, 60);
        for (dir, id) in &segments {
            let _ = fs::remove_file(id.filter_path(dir));
        }
        check_random_questions(&mut random, &logs, 60);
        for (dir, id) in &segments {
            fs::remove_file(id.index_path(dir)).unwrap();
        }
        check_random_questions(&mut random, &logs, 60);
        logs.rebuild_indexes();
        check_random_questions(&mut random, &logs, 60);
    }
}

#[test]
fn a_filter_never_hides_a_match() {
    let mut random = Random::seeded();
    let messages: Vec<Vec<u8>> = (0..6_000).map(|_| random_message(&mut random)).collect();
    let (logs, dir, id) = logs_of(messages.into_iter());
    seal(&dir, id);
    assert!(id.filter_path(&dir).exists());
    for _ in 0..400 {
        let message = random.pick(&logs.records).message;
        if message.is_empty() {
            continue;
        }
        let start = random.below(message.len());
        let length = random.below((message.len() - start).min(40) + 1);
        let ask = Ask {
            substrings: vec![message[start..start + length].to_vec()],
            ..Ask::default()
        };
        check(&logs, &ask, "a part of a message");
    }
}

#[test]
fn a_regex_finds_what_is_in_a_message_whatever_leads_to_it() {
    let mut random = Random::seeded();
    let messages: Vec<Vec<u8>> = (0..6_000).map(|_| random_message(&mut random)).collect();
    let (logs, dir, id) = logs_of(messages.into_iter());
    let literal = |bytes: &[u8]| -> String {
        let byte = |byte: &u8| format!(r"\x{byte:02x}");
        format!("(?-u:{})", bytes.iter().map(byte).collect::<String>())
    };
    let mut patterns = Vec::new();
    while patterns.len() < 300 {
        let message = random.pick(&logs.records).message;
        if message.is_empty() {
            continue;
        }
        let start = random.below(message.len());
        let length = random.below((message.len() - start).min(12)) + 1;
        let found = literal(&message[start..start + length]);
        let before = literal(&message[start / 2..start]);
        patterns.push(match random.below(6) {
            0 => format!("(?s-u:.*{found})"),
            1 => format!("(?s-u:[^a]*{found}.*$)"),
            2 => format!("(?s-u:^.*{found}|nothing such)"),
            3 => format!("(?s-u:[0-9a-f]*{before}.*{found})"),
            4 => format!("(?i-u:[a-f0-9]{found})"),
            _ => format!("(?s-u:.(?:{found}){{1,2}})"),
        });
    }
    let before: Vec<usize> = patterns
        .iter()
        .map(|pattern| {
            let regex = regex::bytes::Regex::new(pattern).unwrap();
            let is_match = |record: &&crate::model::Record| regex.is_match(&record.message);
            let expected = logs.records.iter().filter(is_match).count();
            let found = run(logs.path(), &Query::new().regex(pattern).unwrap()).0;
            assert_eq!(found.len(), expected, "{pattern}");
            expected
        })
        .collect();
    assert!(before.iter().filter(|&&found| found > 0).count() > 200);
    seal(&dir, id);
    for (pattern, expected) in patterns.iter().zip(before) {
        let found = run(logs.path(), &Query::new().regex(pattern).unwrap()).0;
        assert_eq!(found.len(), expected, "{pattern} in a sealed segment");
    }
}

/// Whoever wrote these lines escapes otherwise than we do, or not at all.
#[test]
fn foreign_escapes_are_found_behind_filters_too() {
    let filler = (0..4_000).map(|number| format!("filler {number} of a segment {number}").into());
    let (logs, dir, id) = logs_of(filler);
    let mut text = fs::read(id.log_path(&dir)).unwrap();
    for message in [
        &b"\\x6eeedle 4711"[..],
        b"raw \x1b[31mneedle",
        b"odd \\q needle",
    ] {
        text.extend_from_slice(b"2026-11-21T01:29:53.900000000Z INFO  log ");
        text.extend_from_slice(message);
        text.push(b'\n');
    }
    fs::write(id.log_path(&dir), text).unwrap();
    rebuild_index(&dir, id, false).unwrap();
    let queries = ["needle 4711", r"\x1b\[31mneedle", r"\\q needle", "needle"];
    let queries = queries.map(|pattern| Query::new().regex(pattern).unwrap());
    let before = queries.clone().map(|query| run(logs.path(), &query).0);
    seal(&dir, id);
    let after = queries.map(|query| run(logs.path(), &query).0);
    assert_eq!(before.each_ref().map(Vec::len), [1, 1, 1, 3]);
    assert!(before == after);
}

#[test]
fn a_needle_that_is_not_there_touches_no_text() {
    let messages = (0..20_000_u64).map(|number| {
        let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("id={id:016x} served").into_bytes()
    });
    let (logs, dir, id) = logs_of(messages);
    seal(&dir, id);
    let query = Query::new().contains("id=no-such-thing");
    let (found, report) = run(logs.path(), &query);
    assert_eq!((found.len(), report.text_bytes_read), (0, 0));
    let needle = logs.records[7_000].message.clone();
    let (found, report) = run(logs.path(), &Query::new().contains(needle));
    assert_eq!(found.len(), 1);
    assert!(report.text_bytes_read < 200_000, "{report:?}");

    fs::remove_file(id.filter_path(&dir)).unwrap();
    let (_, report) = run(logs.path(), &query);
    assert!(report.text_bytes_read > 1_000_000, "{report:?}");
    assert_eq!(report.damage, []);
}

#[test]
fn whole_segments_are_counted_without_index_and_text() {
    let (logs, dir, id) = logs_of((0..10_000).map(|number| format!("{number} served").into()));
    seal(&dir, id);
    // Neither is looked at, so neither is missed.
    fs::write(id.index_path(&dir), "no index").unwrap();
    fs::write(id.sealed_path(&dir), "no text").unwrap();
    let counts = Reader::open(logs.path()).unwrap().count(&Query::new());
    let counts = counts.unwrap();
    assert_eq!((counts.total(), counts.report.damage), (10_000, Vec::new()));
}

#[test]
fn filters_that_are_damaged_are_reported_and_do_not_matter() {
    let mut random = Random::seeded();
    let messages: Vec<Vec<u8>> = (0..6_000).map(|_| random_message(&mut random)).collect();
    let (logs, dir, id) = logs_of(messages.into_iter());
    seal(&dir, id);
    let path = id.filter_path(&dir);
    let good = fs::read(&path).unwrap();
    for round in 0..150 {
        let mut bad = good.clone();
        match round % 5 {
            0 => bad.truncate(random.below(good.len())),
            1 => bad.fill(0),
            _ => {
                let at = random.below(if round % 5 == 2 { 200 } else { bad.len() });
                bad[at] ^= 1 << random.below(8);
            }
        }
        fs::write(&path, &bad).unwrap();
        assert!(bad == good || !verify_segment(&dir, id).unwrap().damage.is_empty());
        let message = random.pick(&logs.records).message;
        let length = message.len().min(20);
        let ask = Ask {
            substrings: vec![message[..length].to_vec()],
            ..Ask::default()
        };
        check(&logs, &ask, "with a damaged filter");
    }
    fs::write(&path, &good[..100]).unwrap();
    let (_, report) = run(logs.path(), &Query::new().contains("anything"));
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert_eq!(report.damage[0].path, path);
}

/// Whether `part` is what remains of `whole` when some lines are left out.
fn is_part(part: &[Found], whole: &[Found]) -> bool {
    let mut whole = whole.iter();
    part.iter()
        .all(|found| whole.any(|line| line.line == found.line && line.time_ns == found.time_ns))
}

#[test]
fn no_bit_of_sealed_text_flips_unreported() {
    let mut random = Random::seeded();
    let messages: Vec<Vec<u8>> = (0..4_000).map(|_| random_message(&mut random)).collect();
    let (logs, dir, id) = logs_of(messages.into_iter());
    seal(&dir, id);
    let path = id.sealed_path(&dir);
    let good = fs::read(&path).unwrap();
    let (all, _) = run(logs.path(), &Query::new());
    // zstd has a few bits that a decoder ignores, and codes with two readings of equal result. The
    // checksum is of the text: what leaves the text as it was is no damage.
    let mut without_effect = 0;
    for round in 0..200 {
        let mut bad = good.clone();
        let at = match round % 4 {
            // The seek table, and what checks it.
            0 => bad.len() - 1 - random.below(100),
            _ => random.below(bad.len()),
        };
        bad[at] ^= 1 << random.below(8);
        fs::write(&path, bad).unwrap();
        let (found, report) = run(logs.path(), &Query::new());
        if report.damage.is_empty() {
            assert_eq!(found, all, "byte {at} of {}", good.len());
            without_effect += 1;
            continue;
        }
        assert!(is_part(&found, &all), "byte {at}");
        assert!(!found.is_empty(), "byte {at}: {report:?}");
        assert!(!verify_segment(&dir, id).unwrap().damage.is_empty());
    }
    assert!(without_effect <= 10, "{without_effect} of 200 bits");
}

#[test]
fn a_damaged_frame_is_named_and_costs_its_block_only() {
    let (logs, dir, id) = logs_of((0..20_000).map(|number| format!("{number} served").into()));
    let blocks = verify_segment(&dir, id).unwrap().blocks;
    seal(&dir, id);
    let path = id.sealed_path(&dir);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let (found, report) = run(logs.path(), &Query::new());
    let [damage] = &report.damage[..] else {
        panic!("{report:?}")
    };
    assert_eq!((&damage.path, damage.what), (&path, "frame"));
    assert!(damage.expected.starts_with("block "), "{damage}");
    let lost = logs.records.len() - found.len();
    assert!(lost > 0 && lost < 2 * logs.records.len() / blocks as usize);

    // A rebuild keeps what is known of the block, and the damage goes on being reported.
    rebuild_index(&dir, id, false).unwrap();
    assert_eq!(verify_segment(&dir, id).unwrap().damage, report.damage);
    let count = Reader::open(logs.path()).unwrap().count(&Query::new());
    assert_eq!(count.unwrap().total(), 20_000);
}

/// Copying text out says so too where some of it is missing, whatever the file ends in.
#[test]
fn text_that_was_cut_off_is_reported_by_whoever_copies_it() {
    let (logs, dir, id) = logs_of((0..20_000).map(|number| format!("{number} served").into()));
    let copied = || {
        let reader = Reader::open(logs.path()).unwrap();
        let mut text_bytes = 0;
        let report = reader.text(&logs.records[0].service, None, &mut |text| {
            text_bytes += text.len();
            ControlFlow::Continue(())
        });
        (text_bytes, report.unwrap().damage)
    };
    let (whole_bytes, damage) = copied();
    assert_eq!(damage, Vec::new());
    seal(&dir, id);
    assert_eq!(copied(), (whole_bytes, Vec::new()));
    let path = id.sealed_path(&dir);
    let sealed = fs::read(&path).unwrap();
    for cut_bytes in [1, 300, sealed.len() / 2] {
        fs::write(&path, &sealed[..sealed.len() - cut_bytes]).unwrap();
        let (text_bytes, damage) = copied();
        assert!(
            text_bytes <= whole_bytes && !damage.is_empty(),
            "{cut_bytes}: {damage:?}"
        );
    }
}

#[test]
fn questions_are_answered_while_segments_are_sealed() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES, 8_000);
    let segments = closed_segments(&logs);
    let all = logs.records.len();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (dir, id) in &segments {
                seal(dir, *id);
            }
            is_done.store(true, Ordering::Release);
        });
        while !is_done.load(Ordering::Acquire) {
            let (found, report) = run(logs.path(), &Query::new());
            assert_eq!(found.len(), all, "{report:?}");
            assert_eq!((report.damage, report.deleted), (vec![], vec![]));
        }
    });
    check_random_questions(&mut random, &logs, 30);
}

#[test]
fn a_seal_can_be_repeated_from_wherever_it_was_killed() {
    let (logs, dir, id) = logs_of((0..8_000).map(|number| format!("{number} served").into()));
    let [log, sealed, filter, index] = [
        id.log_path(&dir),
        id.sealed_path(&dir),
        id.filter_path(&dir),
        id.index_path(&dir),
    ];
    let (new_sealed, new_filter) = (
        dir.join(format!("{id}.log.zst.new")),
        dir.join(format!("{id}.filter.new")),
    );
    let text = fs::read(&log).unwrap();
    let open_index = {
        let mut bytes = fs::read(&index).unwrap();
        bytes[..64].copy_from_slice(&IndexHeader::new(id, false).to_bytes());
        bytes
    };
    seal(&dir, id);
    let files = [&sealed, &filter, &index].map(|path| fs::read(path).unwrap());
    let [sealed_bytes, filter_bytes, index_bytes] = &files;
    let ask = Ask {
        substrings: vec![b"4711 served".to_vec()],
        ..Ask::default()
    };
    // What is on the disk besides the text, which is there until the end.
    let states: [&[(&Path, &[u8])]; 9] = [
        &[],
        &[(&index, &index_bytes[..index_bytes.len() - 100])],
        &[(&index, &open_index)],
        &[(&index, index_bytes), (&new_sealed, &sealed_bytes[..1000])],
        &[
            (&new_sealed, sealed_bytes),
            (&new_filter, &filter_bytes[..9]),
        ],
        &[(&new_sealed, sealed_bytes), (&new_filter, filter_bytes)],
        &[(&new_sealed, sealed_bytes), (&filter, filter_bytes)],
        &[(&sealed, sealed_bytes), (&filter, filter_bytes)],
        &[(&sealed, &[0; 1000]), (&filter, &[0; 1000])],
    ];
    for (number, state) in states.into_iter().enumerate() {
        for path in [&sealed, &filter, &index, &new_sealed, &new_filter] {
            let _ = fs::remove_file(path);
        }
        fs::write(&log, &text).unwrap();
        for (path, bytes) in state {
            fs::write(path, bytes).unwrap();
        }
        check(&logs, &ask, &format!("state {number}"));
        seal(&dir, id);
        assert!(
            !new_sealed.exists() && !new_filter.exists(),
            "state {number}"
        );
        let now = [&sealed, &filter, &index].map(|path| fs::read(path).unwrap());
        assert!(now == files, "state {number}");
        check(&logs, &ask, &format!("state {number}, sealed"));
        // Again, for nothing.
        seal(&dir, id);
    }
}

#[test]
fn a_seal_that_is_told_to_stop_leaves_the_text() {
    let (logs, dir, id) = logs_of((0..4_000).map(|number| format!("{number} served").into()));
    let text = fs::read(id.log_path(&dir)).unwrap();
    let before = fs::read_dir(&dir).unwrap().count();
    for blocks in 0.. {
        let mut left = blocks;
        let mut go_on = || {
            left -= 1;
            left >= 0
        };
        if seal_segment(&dir, id, LEVEL, &mut go_on).unwrap().is_some() {
            assert!(
                blocks > 4,
                "asked for each block, and again to read it back"
            );
            break;
        }
        assert!(fs::read(id.log_path(&dir)).unwrap() == text);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), before);
    }
    check(&logs, &Ask::default(), "sealed at last");
}

#[test]
fn every_zstd_reader_finds_the_text() {
    let mut random = Random::seeded();
    let messages: Vec<Vec<u8>> = (0..3_000).map(|_| random_message(&mut random)).collect();
    let (_logs, dir, id) = logs_of(messages.into_iter());
    let text = fs::read(id.log_path(&dir)).unwrap();
    seal(&dir, id);
    assert!(text_of(&id.log_path(&dir)) == text);
    let mut zstd = Command::new("zstd");
    match zstd.arg("-dc").arg(id.sealed_path(&dir)).output() {
        Ok(output) => assert!(output.stdout == text, "{output:?}"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no zstd program here");
        }
        Err(error) => panic!("zstd: {error}"),
    }
}

#[test]
fn rebuilt_index_and_filters_are_the_same_to_the_bit() {
    let mut random = Random::seeded();
    let logs = Logs::random(&mut random, &SERVICES[..2], 8_000);
    seal_all(&logs);
    for (dir, id) in closed_segments(&logs) {
        let read = || {
            (
                fs::read(id.index_path(&dir)).unwrap(),
                fs::read(id.filter_path(&dir)).ok(),
            )
        };
        let before = read();
        assert_eq!(verify_segment(&dir, id).unwrap().damage, []);
        fs::remove_file(id.index_path(&dir)).unwrap();
        let _ = fs::remove_file(id.filter_path(&dir));
        rebuild_index(&dir, id, false).unwrap();
        assert!(read() == before);
        assert_eq!(verify_segment(&dir, id).unwrap().damage, []);
    }
}

#[test]
fn damage_of_the_text_is_sealed_with_it() {
    let (logs, dir, id) = logs_of((0..8_000).map(|number| format!("{number} served").into()));
    let mut text = fs::read(id.log_path(&dir)).unwrap();
    let at = text
        .windows(11)
        .position(|window| window == b"4711 served")
        .unwrap();
    text[at] = b'5';
    text.extend_from_slice(b"2026-11-21T01:29:53.9 half a line");
    fs::write(id.log_path(&dir), &text).unwrap();
    let whats = |logs: &Logs| {
        let (_, report) = run(logs.path(), &Query::new());
        report
            .damage
            .iter()
            .map(|damage| damage.what)
            .collect::<Vec<_>>()
    };
    let before = whats(&logs);
    assert_eq!(before, ["checksum of the block", "last line"]);
    seal(&dir, id);
    assert_eq!(whats(&logs), before);
    assert!(text_of(&id.log_path(&dir)) == text);
    let verified = verify_segment(&dir, id).unwrap().damage;
    let verified: Vec<_> = verified.iter().map(|damage| damage.what).collect();
    assert_eq!(verified, before);
}

#[test]
fn text_that_is_missing_is_not_sealed_away() {
    let (_logs, dir, id) = logs_of((0..4_000).map(|number| format!("{number} served").into()));
    let file = fs::OpenOptions::new().write(true).open(id.log_path(&dir));
    file.unwrap().set_len(1_000).unwrap();
    let error = seal_segment(&dir, id, LEVEL, &mut || true).unwrap_err();
    assert!(
        error.to_string().contains("text of it is missing"),
        "{error}"
    );
    assert!(id.log_path(&dir).exists());
}
