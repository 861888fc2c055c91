//! What terminals write: lines, and casts.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millpond_capture::{CastHeader, CastWriter, Exit, LineSplitter, View};

use super::Script;

type Pieces = Vec<(Vec<u8>, bool)>;

/// Three bytes (length of a piece, columns, how the stream is cut) and a stream. The exact view gives every byte
/// back; in the terminal view no piece is longer than it may be or has a newline or an escape; in both the pieces do not
/// depend on how the stream is cut.
///
/// # Panics
/// Where that is not so.
pub fn lines(data: &[u8]) {
    let mut script = Script(data);
    let piece_bytes = usize::from(script.byte()) + 1;
    let columns = u16::from(script.byte());
    let cut_bytes = usize::from(script.byte()) + 1;
    let stream = script.0;
    for view in [View::Exact, View::Terminal] {
        let whole = split(view, piece_bytes, columns, stream.chunks(usize::MAX));
        let in_parts = split(view, piece_bytes, columns, stream.chunks(cut_bytes));
        assert_eq!(whole, in_parts, "{view:?}: cuts change nothing");
        for (piece, _) in &whole {
            assert!(piece.len() <= piece_bytes, "{view:?} {}", piece.len());
            assert!(!piece.contains(&b'\n'), "{view:?}");
        }
        if view == View::Terminal {
            let is_escape = |piece: &Pieces| piece.iter().any(|(piece, _)| piece.contains(&0x1b));
            assert!(!is_escape(&whole), "an escape is in the terminal view");
            continue;
        }
        let mut back = Vec::new();
        for (piece, is_continued) in &whole {
            back.extend_from_slice(piece);
            if !is_continued {
                back.push(b'\n');
            }
        }
        assert!(back == stream, "the exact view is the stream");
    }
}

fn split<'a>(
    view: View,
    piece_bytes: usize,
    columns: u16,
    cuts: impl Iterator<Item = &'a [u8]>,
) -> Pieces {
    let mut splitter = LineSplitter::new(view, piece_bytes);
    splitter.set_columns(columns);
    let mut pieces = Pieces::new();
    let mut keep = |piece: &[u8], is_continued| {
        pieces.push((piece.to_vec(), is_continued));
        Ok::<_, Infallible>(())
    };
    for cut in cuts {
        let Ok(()) = splitter.push(cut, &mut keep);
    }
    let Ok(()) = splitter.finish(&mut keep);
    assert!(!splitter.has_partial(), "it has ended");
    pieces
}

pub(super) fn lines_seeds() -> Vec<Vec<u8>> {
    let streams: [&[u8]; 8] = [
        b"fetching  10%\rfetching 100%\n\x1b[32mdone\x1b[0m\r\n",
        b"\x1b[?1049h an editor\x1b[2J\x1b[H~\x1b[?1049l\nshell$ ",
        b"one\ntwo\n\x1b[2A\x1b[2Kthree\r\n\x1b[1Bfour\n",
        b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n",
        b"a\tb\x08\x08c\x1b[5Cd\x1b[3Ge\x1b[K\x1b[1P\x1b[2@f\n",
        "wide \u{4e2d}\u{6587} e\u{301} \u{1f600}\u{200d}\u{1f600} \u{fffd}\n".as_bytes(),
        b"\xff\xfe\xf0\x9d\x84\x00\x7f\xc2\x9b31m\n",
        b"\x1b7\x1b[s\x1b[10;10Hx\x1b[u\x1b8\x1b[1;5r\x1bD\x1bM\x1b[?25l\x1bP1;2|q\x1b\\\n",
    ];
    let heads: [&[u8]; 3] = [&[0xff, 80, 0], &[7, 10, 2], &[0, 0, 30]];
    let with = |head: &[u8]| streams.map(|stream| [head, stream].concat());
    let mut seeds: Vec<Vec<u8>> = heads.into_iter().flat_map(with).collect();
    // A tab that is cut into blanks, more than a piece takes.
    seeds.push(b"\x07\x0a\x02a\t\x1d\xff\r\x01\x04\x06\0\0\0\0\0\0\0\x1b[0P\x1b[\0\0\0\n".to_vec());
    seeds
}

/// Outputs and other events of a terminal. Each line of the cast is JSON, times do not go back, and the exact bytes
/// come back.
///
/// # Panics
/// Where that is not so.
pub fn cast(data: &[u8]) {
    let mut script = Script(data);
    let mut cast = CastWriter::new(Vec::new(), &CastHeader::default());
    let (mut given, mut at) = (Vec::new(), Duration::ZERO);
    while !script.is_empty() {
        let step = script.byte();
        at += Duration::from_micros(u64::from(step) * 1000);
        match step % 8 {
            0 => {
                let (columns, rows) = (script.number(2) as u16, script.number(2) as u16);
                cast.resize(at, millpond_capture::WindowSize { columns, rows });
            }
            1 => {
                let length = script.byte().into();
                cast.marker(at, &String::from_utf8_lossy(script.bytes(length)));
            }
            2 => cast.flush(),
            _ => {
                let length = script.byte().into();
                let bytes = script.bytes(length);
                given.extend_from_slice(bytes);
                cast.output(at, bytes);
            }
        }
    }
    cast.exit(at, Exit::Code(0));
    let written = cast.finish().expect("memory takes everything");
    let text = std::str::from_utf8(&written).expect("a cast is text");
    assert!(text.ends_with('\n'));
    let mut lines = text.lines();
    let header: serde_json::Value =
        serde_json::from_str(lines.next().unwrap_or_default()).expect("a header");
    assert_eq!(header["version"], 2);
    let (mut parts, mut last) = (Vec::<Vec<u8>>::new(), 0.0);
    for line in lines {
        let (time, code, data): (f64, String, String) =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(time >= last, "{line}");
        last = time;
        match code.as_str() {
            "o" => parts.push(data.into_bytes()),
            "b" => {
                *parts.last_mut().expect("`b` is about an `o`") =
                    STANDARD.decode(&data).expect("base64");
            }
            "r" | "m" | "x" => {}
            _ => panic!("no event: {line}"),
        }
    }
    assert!(parts.concat() == given, "the exact bytes");
}

pub(super) fn cast_seeds() -> Vec<Vec<u8>> {
    vec![
        b"\x03\x0blistening\r\n\x00\x50\x00\x18\x00\x01\x04mark\x02\x04\x03\xf0\x9d\x84\x05\x01\x9e"
            .to_vec(),
        b"\x03\x04\xff\xfe\x00a\x03\x05\x1b[31m\x03\x03\xe2\x82\xac".to_vec(),
    ]
}
