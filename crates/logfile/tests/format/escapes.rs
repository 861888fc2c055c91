//! Whatever the bytes of a record: one line, safe to print, and the very bytes back.

use millpond_logfile::{Level, LineWriter, Source, escape, parse_line, unescape};
use proptest::prelude::*;

/// Escapes one character after the other, as the format document words it.
fn reference(message: &[u8]) -> Vec<u8> {
    let mut out = String::new();
    for chunk in message.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push('\t'),
                _ if character.is_control() => {
                    let mut bytes = [0; 4];
                    for byte in character.encode_utf8(&mut bytes).bytes() {
                        out.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                _ => out.push(character),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.into_bytes()
}

fn check(message: &[u8]) {
    let mut escaped = Vec::new();
    escape(message, &mut escaped);
    let shown = message.escape_ascii();
    assert_eq!(escaped, reference(message), "{shown}");
    let mut back = Vec::new();
    unescape(&escaped, &mut back);
    assert_eq!(back, message, "{shown}");
}

#[test]
fn every_pair_of_bytes_is_escaped_as_the_reference_does() {
    for first in 0..=255 {
        for second in 0..=255 {
            check(&[first, second]);
        }
    }
}

#[test]
fn every_byte_is_seen_wherever_it_stands() {
    for length in 1..130 {
        for at in 0..length {
            for byte in [b'\n', b'\\', b'\t', 0x1f, 0x7f, 0x80, 0xff] {
                let mut message = vec![b'm'; length];
                message[at] = byte;
                check(&message);
            }
        }
    }
}

#[test]
fn every_character_is_escaped_as_the_reference_does() {
    let all: String = ('\0'..=char::MAX).collect();
    check(all.as_bytes());
}

#[test]
fn what_looks_like_an_escape_and_is_none_stands_for_itself() {
    for text in [
        r"\", r"\q", r"\x", r"\x1", r"\xg0", r"\x1G", r"C:\dir", r"\N",
    ] {
        let mut out = Vec::new();
        unescape(text.as_bytes(), &mut out);
        assert_eq!(out, text.as_bytes(), "{text}");
    }
}

/// Bytes with many of those that matter.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let odd =
        prop::sample::select(b"\\\n\r\t\0\x1b\x7f\x80\xc2\x9f\xa0\xe4\xb8\xad\xf0\xff nx".to_vec());
    prop::collection::vec(
        prop_oneof![3 => b' '..=b'~', 1 => odd, 1 => any::<u8>()],
        0..300,
    )
}

proptest! {
    #[test]
    fn a_source_token_is_one_word_and_comes_back(name in any::<String>()) {
        let source = Source::new(&name);
        prop_assert!(source.token().iter().all(u8::is_ascii_graphic));
        let mut back = Vec::new();
        unescape(source.token(), &mut back);
        let expected = if name.is_empty() { "-" } else { &name };
        prop_assert_eq!(back, expected.as_bytes());
    }

    #[test]
    fn times_in_any_order_are_formatted_right(times in prop::collection::vec(any::<u64>(), 1..20)) {
        let (mut lines, source) = (LineWriter::new(), Source::new("s"));
        for time_ns in times.into_iter().flat_map(|time_ns| [time_ns, time_ns ^ 1]) {
            let mut out = Vec::new();
            lines.write(&mut out, time_ns, Level::Info, &source, b"");
            prop_assert_eq!(parse_line(&out).expect("we wrote it").time_ns, time_ns);
        }
    }

    #[test]
    fn no_bytes_upset_the_readers(text in message()) {
        let _ = parse_line(&text);
        unescape(&text, &mut Vec::new());
    }
}
