//! A cast read back is what was written: by a reader written from the page alone, and by the script on it.

use std::io::{self, Write};
use std::process::Command;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const PAGE: &str = include_str!("../../../../docs/formats/cast.md");

/// The events, and the exact bytes.
fn read(cast: &[u8]) -> (Value, Vec<(f64, String, String)>, Vec<u8>) {
    let text = std::str::from_utf8(cast).unwrap();
    assert!(text.ends_with('\n'));
    let mut lines = text.lines();
    let header: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let (mut events, mut parts) = (Vec::new(), Vec::<Vec<u8>>::new());
    for line in lines {
        let (time, code, data): (f64, String, String) = serde_json::from_str(line).unwrap();
        match code.as_str() {
            "o" => parts.push(data.clone().into_bytes()),
            "b" => *parts.last_mut().unwrap() = STANDARD.decode(&data).unwrap(),
            _ => {}
        }
        events.push((time, code, data));
    }
    (header, events, parts.concat())
}

fn write(cuts: &[&[u8]]) -> Vec<u8> {
    let mut cast = CastWriter::new(Vec::new(), &CastHeader::default());
    for (index, cut) in cuts.iter().enumerate() {
        cast.output(Duration::from_millis(7 * index as u64), cut);
    }
    cast.finish().unwrap()
}

#[test]
fn header_is_json_with_what_was_given() {
    let header = CastHeader {
        size: WindowSize {
            columns: 132,
            rows: 43,
        },
        timestamp: 5,
        title: "web",
        command: Some("sh -c 'echo \"\\\u{1b}\u{7f}é\"'"),
        environment: &[("TERM", "xterm"), ("SHELL", "/bin/sh")],
        is_pipe: true,
    };
    let cast = CastWriter::new(Vec::new(), &header).finish().unwrap();
    let (read, events, _) = read(&cast);
    assert_eq!(read["version"], 2);
    assert_eq!((&read["width"], &read["height"]), (&132.into(), &43.into()));
    assert_eq!(read["timestamp"], 5);
    assert_eq!(read["title"], "web");
    assert_eq!(read["command"], "sh -c 'echo \"\\\u{1b}\u{7f}é\"'");
    assert_eq!(read["env"]["TERM"], "xterm");
    assert_eq!(read["env"]["SHELL"], "/bin/sh");
    assert_eq!(read["millpond"]["mode"], "pipe");
    assert!(events.is_empty());
}

#[test]
fn terminal_without_a_size_plays() {
    let header = CastHeader {
        size: WindowSize {
            columns: 0,
            rows: 0,
        },
        ..CastHeader::default()
    };
    let (read, _, _) = read(&CastWriter::new(Vec::new(), &header).finish().unwrap());
    assert_eq!((&read["width"], &read["height"]), (&80.into(), &24.into()));
}

#[test]
fn characters_cut_anywhere_are_whole() {
    let text = "aé€𝄞 ü\u{1b}[1m\u{fffd}𝄞";
    for first in 0..=text.len() {
        for second in first..=text.len() {
            let bytes = text.as_bytes();
            let cast = write(&[&bytes[..first], &bytes[first..second], &bytes[second..]]);
            let (_, events, exact) = read(&cast);
            assert_eq!(exact, bytes);
            assert!(events.iter().all(|(_, code, _)| code == "o"), "{events:?}");
            let joined: String = events.iter().map(|(_, _, data)| data.as_str()).collect();
            assert_eq!(joined, text);
        }
    }
}

#[test]
fn character_that_never_ends_is_kept() {
    let mut cast = CastWriter::new(Vec::new(), &CastHeader::default());
    cast.output(Duration::ZERO, b"a\xf0\x9d\x84");
    cast.exit(Duration::from_secs(1), Exit::Signal(9));
    let (_, events, exact) = read(&cast.finish().unwrap());
    assert_eq!(exact, b"a\xf0\x9d\x84");
    let codes: Vec<&str> = events.iter().map(|(_, code, _)| code.as_str()).collect();
    assert_eq!(codes, ["o", "o", "b", "x"]);
    assert_eq!(events[3].2, "137");
}

#[test]
fn times_never_go_back() {
    let mut cast = CastWriter::new(Vec::new(), &CastHeader::default());
    for millis in [5, 3, 9, 1] {
        cast.output(Duration::from_millis(millis), b"x");
    }
    cast.resize(Duration::ZERO, WindowSize::default());
    let (_, events, _) = read(&cast.finish().unwrap());
    let times: Vec<f64> = events.iter().map(|event| event.0).collect();
    assert_eq!(times, [0.005, 0.005, 0.009, 0.009, 0.009]);
    assert_eq!(events[4].2, "80x24");
}

/// Takes so many bytes, and no more; notes where each write ended.
struct Disk {
    room: usize,
    bytes: Vec<u8>,
    writes: usize,
}

impl Write for &mut Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= count;
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn full_disk_ends_writing_and_is_told() {
    let mut disk = Disk {
        room: 100_000,
        bytes: Vec::new(),
        writes: 0,
    };
    let mut cast = CastWriter::new(&mut disk, &CastHeader::default());
    for index in 0..1000 {
        cast.output(Duration::from_millis(index), &[b'x'; 1000]);
    }
    assert!(cast.failure().is_some());
    cast.exit(Duration::from_secs(1), Exit::Code(0));
    let error = cast.finish().err().unwrap();
    assert_eq!(error.taken_bytes(), 100_000);
    assert_eq!(
        error.to_string(),
        "no storage space; 100000 bytes of the cast are written"
    );
    assert_eq!(disk.bytes.len(), 100_000);
    // Whole up to the last complete line.
    let whole = disk.bytes.iter().rposition(|&byte| byte == b'\n').unwrap();
    let (_, events, _) = read(&disk.bytes[..=whole]);
    assert!(events.len() > 90);
}

#[test]
fn writes_are_few_and_not_late() {
    let mut disk = Disk {
        room: usize::MAX,
        bytes: Vec::new(),
        writes: 0,
    };
    let mut cast = CastWriter::new(&mut disk, &CastHeader::default());
    // A key every 10 ms for a second: a write every 100 ms.
    for index in 0..=100 {
        cast.output(Duration::from_millis(10 * index), b"k");
    }
    assert_eq!(cast.flush_due(Duration::from_secs(1)), None);
    cast.output(Duration::from_millis(1010), b"k");
    let due = cast.flush_due(Duration::from_millis(1020));
    assert_eq!(due, Some(Duration::from_millis(80)));
    cast.finish().unwrap();
    assert_eq!(disk.writes, 11);
    assert_eq!(read(&disk.bytes).2.len(), 102);
}

#[test]
fn script_on_the_page_gives_the_bytes_back() {
    let script = PAGE
        .split("```python\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the page has a script");
    let dir = tempfile::tempdir().unwrap();
    let (script_path, cast_path) = (dir.path().join("exact.py"), dir.path().join("a.cast"));
    std::fs::write(&script_path, script).unwrap();
    let mut bytes = vec![0; 200_000];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    bytes.extend_from_slice("\r\r\nä\r\n\n".as_bytes());
    for is_pipe in [false, true] {
        let header = CastHeader {
            is_pipe,
            ..CastHeader::default()
        };
        let mut cast = CastWriter::new(Vec::new(), &header);
        let mut shown = Vec::new();
        for &byte in &bytes {
            if is_pipe && byte == b'\n' {
                shown.push(b'\r');
            }
            shown.push(byte);
        }
        for (index, part) in shown.chunks(4093).enumerate() {
            cast.output(Duration::from_micros(index as u64), part);
        }
        let mut file = cast.finish().unwrap();
        // Killed in the middle of a line.
        file.extend_from_slice(b"[9.000000,\"o\",\"hal");
        std::fs::write(&cast_path, file).unwrap();
        let ran = Command::new("python3")
            .arg(&script_path)
            .arg(&cast_path)
            .output();
        let output = match ran {
            Ok(output) => output,
            Err(error) => {
                eprintln!("SKIPPED: python3 does not start: {error}");
                return;
            }
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stdout == bytes, "is_pipe {is_pipe}");
    }
}

#[test]
fn every_byte_is_escaped_as_json_wants_it() {
    for at in 0..24 {
        for byte in 0..=0x7f_u8 {
            let mut text = vec![b'a'; 24];
            text[at] = byte;
            text[(at + 3) % 24] = b'\\';
            let text = String::from_utf8(text).unwrap();
            let mut out = Vec::new();
            push_string(&mut out, &text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}

/// Random bytes, and text that is cut.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<String>().prop_map(String::into_bytes),
        (any::<char>(), 0..4_usize).prop_map(|(c, cut)| {
            let bytes = c.to_string().into_bytes();
            bytes[..cut.min(bytes.len())].to_vec()
        }),
    ]
}

proptest! {
    #[test]
    fn exact_bytes_come_back_for_any_cuts(pieces in prop::collection::vec(piece(), 0..20)) {
        let cuts: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let (_, events, exact) = read(&write(&cuts));
        prop_assert_eq!(&exact, &pieces.concat());
        // Exact bytes are told only where text cannot.
        for pair in events.windows(2).filter(|pair| pair[1].1 == "b") {
            prop_assert_eq!(pair[0].1.as_str(), "o");
            prop_assert_eq!(pair[0].0, pair[1].0);
            let has_mark = pair[0].2.contains(char::REPLACEMENT_CHARACTER);
            prop_assert!(has_mark);
        }
    }
}

/// `cargo test --release -p millpond-capture cast_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cast_speed() {
    let mut random = vec![0_u8; 4 << 20];
    let mut state = 1_u64;
    for byte in &mut random {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    let line = b"\x1b[32m   Compiling\x1b[0m millpond-bus v0.1.0 (/src/millpond/crates/bus) in a line of some length\r\n";
    let text = line.repeat((4 << 20) / line.len());
    let plain = vec![b'x'; 4 << 20];
    for (name, bytes) in [("random", &random), ("text", &text), ("plain", &plain)] {
        for part_bytes in [4 << 10, 64 << 10] {
            let started = std::time::Instant::now();
            let mut cast = CastWriter::new(io::sink(), &CastHeader::default());
            for round in 0..32 {
                for part in bytes.chunks(part_bytes) {
                    cast.output(Duration::from_millis(round), part);
                }
            }
            cast.finish().unwrap();
            let rate = 32.0 * bytes.len() as f64 / started.elapsed().as_secs_f64() / 1e6;
            eprintln!("{name} in {part_bytes}: {rate:.0} MB/s");
        }
    }
}
