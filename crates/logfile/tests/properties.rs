//! Properties of lines, indexes and recovery over any bytes. Seeds are printed where a case fails.

use std::ops::ControlFlow;

use millpond_logfile::{
    BlockWriter, Level, Query, Reader, SegmentId, Source, escape, parse_line, read_index,
    rebuild_index, recover_segment, unescape, verify_segment,
};
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        "\\PC{0,200}".prop_map(String::into_bytes),
        "[\\\\nrx0-9a-f\\r\\n\\t\u{80}-\u{9f}é]{0,100}".prop_map(String::into_bytes),
    ]
}

const ID_NS: u64 = 1_795_224_593_123_456_789;

/// A service directory with one segment of this text.
fn service_with(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf, SegmentId) {
    let logs = tempfile::tempdir().expect("a temporary place");
    let dir = logs.path().join("web");
    let id = SegmentId::from_ns(ID_NS);
    std::fs::create_dir(&dir).expect("room on the disk");
    std::fs::write(id.log_path(&dir), text).expect("room on the disk");
    (logs, dir, id)
}

fn lines_of(count: usize) -> Vec<u8> {
    let (mut block, mut text) = (BlockWriter::new(), Vec::new());
    for number in 0..count as u64 {
        let message = format!("line {number} {}", "x".repeat((number * 37 % 90) as usize));
        let level = Level::from_u8((number % 6) as u8);
        block.append(
            &mut text,
            ID_NS + number,
            level,
            &Source::new("s"),
            message.as_bytes(),
        );
    }
    text
}

proptest! {
    #[test]
    fn an_escaped_message_comes_back_and_is_safe_to_print(message in bytes()) {
        let mut escaped = Vec::new();
        escape(&message, &mut escaped);
        let text = std::str::from_utf8(&escaped).expect("always UTF-8");
        prop_assert!(text.chars().all(|character| !character.is_control() || character == '\t'));
        let mut back = Vec::new();
        unescape(&escaped, &mut back);
        prop_assert_eq!(back, message);
    }

    #[test]
    fn a_line_comes_apart_as_it_was_put_together(
        message in bytes(), source in "\\PC{0,40}", time_ns in any::<u64>(), level in 0..6u8,
    ) {
        let (mut text, source) = (Vec::new(), Source::new(&source));
        BlockWriter::new().append(&mut text, time_ns, Level::from_u8(level), &source, &message);
        prop_assert_eq!(memchr::memchr_iter(b'\n', &text).count(), 1);
        let line = parse_line(&text).expect("a line");
        prop_assert_eq!((line.time_ns, line.level as u8, line.source), (time_ns, level, source.token()));
        let mut back = Vec::new();
        unescape(line.message, &mut back);
        prop_assert_eq!(back, message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_live_index_is_the_rebuilt_index(
        lengths in prop::collection::vec((0..3000usize, any::<bool>()), 1..200), closed in any::<bool>(),
    ) {
        let mut block = BlockWriter::new();
        let (mut text, mut buffer) = (Vec::new(), Vec::new());
        for (number, (length, fold)) in lengths.into_iter().enumerate() {
            let message = vec![b'a' + (number % 26) as u8; length];
            let source = Source::new(["a", "b"][number % 2]);
            block.append(&mut buffer, ID_NS + number as u64, Level::Warn, &source, &message);
            if fold {
                block.fold(&buffer);
                text.append(&mut buffer);
            }
        }
        if closed {
            block.finish(&buffer);
        }
        text.append(&mut buffer);
        let live = block.take_entries();
        let (_logs, dir, id) = service_with(&text);
        rebuild_index(&dir, id, !closed).expect("it can be rebuilt");
        let rebuilt = read_index(&id.index_path(&dir), Some(id)).expect("it can be read");
        prop_assert_eq!(rebuilt.closed, closed);
        prop_assert_eq!(rebuilt.entries, live);
    }

    #[test]
    fn recovery_cuts_at_the_committed_length_and_can_be_appended_to(
        lines in 1..2500usize, committed in 0.0..1.0f64, indexed in any::<bool>(),
    ) {
        let text = lines_of(lines);
        let (_logs, dir, id) = service_with(&text);
        if indexed {
            rebuild_index(&dir, id, true).expect("it can be built");
        }
        let at = (text.len() as f64 * committed) as usize;
        let at = memchr::memrchr(b'\n', &text[..at]).map_or(0, |newline| newline + 1);
        let mut recovered = recover_segment(&dir, id, Some(at as u64)).expect("it can be recovered");
        prop_assert_eq!(recovered.length_bytes, at as u64);
        prop_assert_eq!(recovered.cut_bytes, (text.len() - at) as u64);
        prop_assert_eq!(&std::fs::read(id.log_path(&dir)).expect("the text")[..], &text[..at]);
        // What is appended gets the index that a writer without a crash would have made.
        let mut more = Vec::new();
        for number in 0..1500 {
            recovered.block.append(&mut more, number, Level::Info, &Source::new("s"), b"after the crash");
        }
        let live = recovered.block.take_entries();
        let before = read_index(&id.index_path(&dir), Some(id)).expect("it can be read").entries;
        std::fs::write(id.log_path(&dir), [&text[..at], &more].concat()).expect("room on the disk");
        rebuild_index(&dir, id, true).expect("it can be rebuilt");
        let rebuilt = read_index(&id.index_path(&dir), Some(id)).expect("it can be read").entries;
        prop_assert_eq!([before, live].concat(), rebuilt);
    }

    #[test]
    fn recovery_without_a_commit_keeps_every_whole_line_and_no_torn_one(
        lines in 1..2500usize, kept in 0.0..1.0f64, zeros in 0..9000usize, indexed in any::<bool>(),
    ) {
        let text = lines_of(lines);
        let (_logs, dir, id) = service_with(&text);
        if indexed {
            rebuild_index(&dir, id, true).expect("it can be built");
        }
        // A power cut: the text ends somewhere, and zeros stand where data never arrived.
        let at = (text.len() as f64 * kept) as usize;
        let torn = [&text[..at], &vec![0; zeros]].concat();
        std::fs::write(id.log_path(&dir), &torn).expect("room on the disk");
        let whole = memchr::memrchr(b'\n', &text[..at]).map_or(0, |newline| newline + 1);
        let recovered = recover_segment(&dir, id, None).expect("it can be recovered");
        prop_assert_eq!(recovered.length_bytes, whole as u64);
        prop_assert_eq!(recovered.cut_bytes, (torn.len() - whole) as u64);
        prop_assert_eq!(recovered.why.is_empty(), recovered.cut_bytes == 0);
        prop_assert_eq!(&std::fs::read(id.log_path(&dir)).expect("the text")[..], &text[..whole]);
        prop_assert_eq!(verify_segment(&dir, id).expect("it can be read").damage, vec![]);
    }

    #[test]
    fn any_bytes_at_all_are_read_without_panic(
        text in prop::collection::vec(any::<u8>(), 0..5000),
        index in prop::collection::vec(any::<u8>(), 0..1000),
        header in any::<bool>(),
    ) {
        let (logs, dir, id) = service_with(&text);
        let head = if header { millpond_logfile::IndexHeader::new(id, false).to_bytes().to_vec() } else { vec![] };
        std::fs::write(id.index_path(&dir), [head, index].concat()).expect("room on the disk");
        let reader = Reader::open(logs.path()).expect("a log directory");
        for query in [Query::new(), Query::new().contains("a"), Query::new().source("*")] {
            reader.run(&query, &mut |_| ControlFlow::Continue(())).expect("damage is no error");
            reader.count(&query).expect("damage is no error");
        }
        verify_segment(&dir, id).expect("damage is no error");
        recover_segment(&dir, id, Some(text.len() as u64 / 2)).expect("it can be recovered");
        recover_segment(&dir, id, None).expect("it can be recovered");
    }
}
