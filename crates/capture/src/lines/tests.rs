//! What programs write, and the lines of it; then properties over streams that no program writes.

use std::convert::Infallible;

use proptest::prelude::*;

use super::{LineSplitter, Note, PIECE_BYTES, View, scan};

type Pieces = Vec<(Vec<u8>, bool)>;

/// The pieces of `parts`, one push each.
fn split<'a>(
    view: View,
    piece_bytes: usize,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> (Pieces, LineSplitter) {
    let mut splitter = LineSplitter::new(view, piece_bytes);
    let mut pieces = Vec::new();
    let mut out = keep(&mut pieces);
    for part in parts {
        let Ok(()) = splitter.push(part, &mut out);
    }
    let Ok(()) = splitter.finish(&mut out);
    drop(out);
    (pieces, splitter)
}

fn keep(pieces: &mut Pieces) -> impl FnMut(&[u8], bool) -> Result<(), Infallible> {
    |piece, is_continued| {
        pieces.push((piece.to_vec(), is_continued));
        Ok(())
    }
}

fn nothing(_piece: &[u8], _is_continued: bool) -> Result<(), Infallible> {
    Ok(())
}

/// The lines that a person reads, pieces put together.
fn lines(bytes: &[u8]) -> Vec<String> {
    let (pieces, _) = split(View::Terminal, PIECE_BYTES, [bytes]);
    joined(&pieces)
}

fn joined(pieces: &Pieces) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for (piece, is_continued) in pieces {
        line.extend_from_slice(piece);
        if !is_continued {
            lines.push(String::from_utf8_lossy(&line).into_owned());
            line.clear();
        }
    }
    if !line.is_empty() {
        lines.push(String::from_utf8_lossy(&line).into_owned());
    }
    lines
}

fn assert_lines(bytes: impl AsRef<[u8]>, expected: &[&str]) {
    let bytes = bytes.as_ref();
    assert_eq!(
        lines(bytes),
        expected,
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
}

// ---- real programs

#[test]
fn a_status_with_half_a_character_is_no_longer_than_a_piece() {
    let stream = [27, 55, 27, 77, 1, 13, 194];
    let (pieces, _) = split(View::Terminal, 1, [&stream[..]]);
    assert_eq!(pieces, [(vec![194], false)]);
}

#[test]
fn a_build_with_its_progress_bar() {
    assert_lines(
        "\x1b[1m\x1b[32m   Compiling\x1b[0m bus v0.1.0 (/src/bus)\r\n\
         \x1b[1m\x1b[36m    Building\x1b[0m [====>          ] 3/10: bus\r\
         \x1b[K\x1b[1m\x1b[33mwarning\x1b[0m\x1b[1m: unused\x1b[0m\r\n\
         \x1b[1m\x1b[36m    Building\x1b[0m [==========>    ] 7/10: bus, sink\r\
         \x1b[K\x1b[1m\x1b[32m    Finished\x1b[0m in 1.2s\r\n",
        &[
            "   Compiling bus v0.1.0 (/src/bus)",
            "warning: unused",
            "    Finished in 1.2s",
        ],
    );
}

#[test]
fn bars_that_draw_themselves_anew() {
    // pip (rich): cursor hidden, the line erased, its last state ended with a newline.
    assert_lines(
        "Downloading numpy-2.1.0.whl (16.3 MB)\r\n\x1b[?25l\
         \x1b[2K   \x1b[90m━━━━━━━━━━\x1b[0m \x1b[32m0.0/16.3 MB\x1b[0m\
         \r\x1b[2K   \x1b[91m━━━━━\x1b[0m\x1b[90m╺━━━━\x1b[0m \x1b[32m8.1/16.3 MB\x1b[0m\
         \r\x1b[2K   \x1b[32m━━━━━━━━━━\x1b[0m \x1b[32m16.3/16.3 MB\x1b[0m\r\n\x1b[?25h",
        &[
            "Downloading numpy-2.1.0.whl (16.3 MB)",
            "   ━━━━━━━━━━ 16.3/16.3 MB",
        ],
    );
    // git clone: shorter ones are erased to the right, or are longer anyhow.
    assert_lines(
        "Cloning into 'x'...\nremote: Counting objects:  50% (2/4)\x1b[K\rremote: Counting objects: 100% (4/4)\x1b[K\r\
         remote: Counting objects: 100% (4/4), done.\x1b[K\nReceiving objects:  25% (1/4)\r\
         Receiving objects: 100% (4/4), 1.2 MiB | 2 MiB/s, done.\n",
        &[
            "Cloning into 'x'...",
            "remote: Counting objects: 100% (4/4), done.",
            "Receiving objects: 100% (4/4), 1.2 MiB | 2 MiB/s, done.",
        ],
    );
    // curl, with the bare newline at its end.
    assert_lines(
        "  % Total\n\r  0     0    0     0\r100  1256  100  1256\n",
        &["  % Total", "100  1256  100  1256"],
    );
    // wget and tqdm write blanks over what was longer.
    assert_lines(
        "x 10%[=>      ] 12.1K  eta 10s   \rx 100%[======>] 120K            \n",
        &["x 100%[======>] 120K"],
    );
    // ninja.
    assert_lines(
        "\r[1/3] CXX a.o\x1b[K\r[2/3] CXX b.o\x1b[K\r[3/3] LINK a\x1b[K\n",
        &["[3/3] LINK a"],
    );
    // npm: a spinner that is taken away.
    assert_lines(
        "⠙\x1b[1G\x1b[0K⠹\x1b[1G\x1b[0K\nadded 3 packages\n",
        &["", "added 3 packages"],
    );
    // A spinner of backspaces.
    assert_lines("Working |\x08/\x08-\x08\\\x08done\n", &["Working done"]);
    // Interrupted: the last state is there.
    assert_lines("10%\r20%\r30%", &["30%"]);
    assert_lines("10%\r20%\r30%\r", &["30%"]);
}

#[test]
fn bars_below_each_other() {
    // tqdm, nested: each time that the cursor goes to the other bar, the one that it leaves is a line.
    assert_lines(
        "outer:   0%|  | 0/2\n\rinner:  50%|# | 1/2\x1b[A\r\nouter:  50%|# | 1/2\x1b[A\n",
        &[
            "outer:   0%|  | 0/2",
            "inner:  50%|# | 1/2",
            "",
            "outer:  50%|# | 1/2",
            "",
        ],
    );
    // docker pull.
    assert_lines(
        "a1: Pulling fs layer\r\nb2: Pulling fs layer\r\n\
         \x1b[2A\x1b[2K\ra1: Downloading 1MB\r\x1b[2B\x1b[1A\x1b[2K\rb2: Pull complete\r\x1b[1B\
         Status: Downloaded\r\n",
        &[
            "a1: Pulling fs layer",
            "b2: Pulling fs layer",
            "a1: Downloading 1MB",
            "b2: Pull complete",
            "Status: Downloaded",
        ],
    );
}

#[test]
fn a_status_at_the_bottom_of_the_screen() {
    // apt: part of the screen scrolls, the last row has the bar.
    let bar = |percent: u32| {
        format!(
            "\x1b7\x1b[24;0f\x1b[42m\x1b[30mProgress: [{percent:3}%]\x1b[49m\x1b[39m [##..] \x1b8"
        )
    };
    let mut stream = "Reading package lists... Done\r\n\n\x1b7\x1b[0;23r\x1b8\x1b[1A".to_owned();
    stream += &bar(0);
    stream += "Unpacking x (1.2) ...\r\n";
    stream += &bar(50);
    stream += "Setting up x";
    stream += &bar(75);
    stream += " (1.2) ...\r\n";
    stream += &bar(100);
    let running = stream.clone();
    stream += "\r\n\x1b7\x1b[0;24r\x1b8\x1b[1A\x1b[J$ \r\n";
    let expected = [
        "Reading package lists... Done",
        "",
        "Unpacking x (1.2) ...",
        "Setting up x (1.2) ...",
    ];
    let last = "Progress: [100%] [##..] ";
    assert_lines(&stream, &[&expected[..], &["", last, "$ "]].concat());
    // Killed in between.
    assert_lines(&running, &[&expected[..], &[last]].concat());
    // A text behind a newline is no status.
    assert_lines("\x1b7\x1b[H one\ntwo\n\x1b8", &[" one", "two"]);
    // How programs ask for the size of a terminal.
    assert_lines("ab\x1b7\x1b[999;999H\x1b[6n\x1b8cd\n", &["abcd"]);
    // Restored on the line itself.
    assert_lines("ab\x1b[scd\x1b[uX\n", &["abXd"]);
}

#[test]
fn full_screen_programs() {
    let editor = b"\x1b[1;1H~\r\n~ \"x\" 3L\x1b[?25h\x1b]0;vim\x07\x1b[?1049l";
    let mut stream = b"$ vim x\r\n\x1b[?1049h".to_vec();
    stream.extend_from_slice(editor);
    stream.extend_from_slice(b"\x1b[?2004h$ exit\r\n");
    for cut in 0..stream.len() {
        let (pieces, mut splitter) = split(
            View::Terminal,
            PIECE_BYTES,
            [&stream[..cut], &stream[cut..]],
        );
        assert_eq!(joined(&pieces), ["$ vim x", "$ exit"], "{cut}");
        let note = Note {
            full_screens: 1,
            bytes: editor.len() as u64,
        };
        assert_eq!(splitter.take_note(), Some(note), "{cut}");
        assert_eq!(splitter.take_note(), None);
    }
    // `less` as git starts it: the text stays, prompts go.
    assert_lines(
        "commit 1\r\n:\x1b[K\r\x1b[Kcommit 2\r\n\x1b[7m(END)\x1b[27m\x1b[K\r\x1b[K",
        &["commit 1", "commit 2"],
    );
    // `clear`.
    assert_lines("a\nb\x1b[H\x1b[2J\x1b[3Jc\n", &["a", "b", "c"]);
}

#[test]
fn shells() {
    assert_lines(
        "\x1b[?2004h\x1b]0;u@h: ~\x07\x1b[01;32mu@h\x1b[00m:\x1b[01;34m~\x1b[00m$ lsx\x08\x1b[K -l\r\n\x1b[?2004l\r\
         total 0\r\n\x1b[?2004h$ exit\r\n\x1b[?2004l\rexit\r\n",
        &["u@h:~$ ls -l", "total 0", "$ exit", "exit"],
    );
    // readline puts a character in: the rest is written again, then back.
    assert_lines(
        "$ ec hi\x08\x08\x08h hi\x08\x08\x08o hi\r\n",
        &["$ echo hi"],
    );
    assert_lines("$ ec hi\x1b[3D\x1b[2@ho\r\n", &["$ echo hi"]);
    assert_lines("$ abc\x08\x1b[P\r\n", &["$ ab"]);
    // zsh, which makes sure that its prompt begins a line.
    let mark = format!(
        "\x1b[1m\x1b[7m%\x1b[27m\x1b[1m\x1b[0m{}\r \r\r\x1b[0m\x1b[27m\x1b[24m\x1b[J% ls\x1b[K\r\r\n",
        " ".repeat(79)
    );
    assert_lines(mark, &["% ls"]);
    // python.
    assert_lines(
        "\x1b[?2004h>>> 1+1\r\n\x1b[?2004l\r2\r\n",
        &[">>> 1+1", "2"],
    );
}

#[test]
fn colours_links_and_pictures() {
    assert_lines("\x1b[0m\x1b[01;34mdir\x1b[0m  x\n", &["dir  x"]);
    assert_lines(
        "\x1b[35m\x1b[Kf\x1b[m\x1b[K\x1b[36m\x1b[K:\x1b[m\x1b[Khit\n",
        &["f:hit"],
    );
    assert_lines("\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\!\n", &["link!"]);
    assert_lines("a\x1bPq#0;2;0\n;0~-\x1b\\b\n", &["ab"]);
    assert_lines("a\x1b_Ga=T,f=100;iVBOR\x1b\\b\n", &["ab"]);
    assert_lines("\x1bPtmux;\x1b\x1b]0;t\x07\x1b\\x\n", &["x"]);
    assert_lines("\x1bkvim\x1b\\x\n\x1bkvim\nx\n", &["x", "", "x"]);
    assert_lines("\x1b(B\x0e\x0f\x07a\x00b\x7f\n", &["ab"]);
    assert_lines("\x1b[60G[ OK ]\n", &[&format!("{}[ OK ]", " ".repeat(59))]);
    assert_lines("a\x1b[3bc\n", &["aaaac"]);
}

#[test]
fn sequences_that_are_broken() {
    assert_lines("a\x1b[1\u{e9}b\n", &["a\u{e9}b"]);
    assert_lines("a\x1b\u{e9}b\n", &["a\u{e9}b"]);
    assert_lines("a\x1b[31\x1b[32mb\n", &["ab"]);
    assert_lines("a\x1b[3\x18b\x1b]0;x\x18c\n", &["abc"]);
    assert_lines("a\x1b[1?2;3mb\n", &["ab"]);
    assert_lines("a\x1b[3\n1mb\n", &["a", "b"]);
    assert_lines("a\x1b", &["a"]);
    assert_lines("\x1b]0;never ends", &[]);
}

// ---- the line

#[test]
fn newlines_and_returns() {
    assert_lines("a\r\nb\r\r\nc\n\r\n\n", &["a", "b", "c", "", ""]);
    assert_lines("a\rb\n", &["b"]);
    assert_lines("abc\rd\n", &["dbc"]);
    assert_lines("a\r\x1b[0m\nb\n", &["a", "b"]);
    assert_lines("a\x0bb\x0cc\x01\n", &["a\u{b}b\u{c}c\u{1}"]);
    assert_lines("a\u{85}b\n", &["a\u{85}b"]);
}

#[test]
fn columns_of_characters() {
    // Wide characters are written over whole; a mark belongs to its character.
    assert_lines("日本x\rab\n", &["ab本x"]);
    assert_lines("日本x\ra\n", &["a 本x"]);
    assert_lines("e\u{301}f\rx\n", &["xf"]);
    assert_lines("e\u{301}f\x08\x08\x1b[Cg\n", &["e\u{301}g"]);
    assert_lines("ab\x08\u{301}\n", &["a\u{301}b"]);
    // A tab stays one until something is written into it.
    assert_lines("a\tb\r\x1b[Kc\td\n", &["c\td"]);
    assert_lines("a\tb\rx\n", &["x\tb"]);
    assert_lines("a\tb\r\x1b[2Cx\n", &["a x     b"]);
    assert_lines("abcdefghij\r\tX\n", &["abcdefghXj"]);
    assert_lines("abc\x1b[2Kd\n", &["   d"]);
    assert_lines("abcdef\x1b[3D\x1b[1Kx\n", &["   xef"]);
    assert_lines("abcdef\r\x1b[2Xx\n", &["x cdef"]);
}

#[test]
fn bytes_that_are_no_text_stay() {
    let (pieces, _) = split(View::Terminal, 100, [&b"\xff\xc3a\r\n\xe2\x82\n"[..]]);
    assert_eq!(
        pieces,
        [
            (b"\xff\xc3a".to_vec(), false),
            (b"\xe2\x82".to_vec(), false)
        ]
    );
    let (pieces, _) = split(View::Terminal, 100, [&b"\xff\xc3ab\rX\xe2\x82\n"[..]]);
    assert_eq!(pieces, [(b"X\xe2\x82b".to_vec(), false)]);
}

#[test]
fn blanks_that_were_written_stay_others_go() {
    assert_lines("a  \n  \nb", &["a  ", "  ", "b"]);
    assert_lines("abc\ra  \n", &["a"]);
    assert_lines("abc  \rd\n", &["dbc"]);
    assert_lines("$ ab\x08\x08\x1b[K\n", &["$ "]);
    assert_lines("abc\x1b[10Cd\x1b[D \n", &["abc"]);
}

// ---- pieces

#[test]
fn pieces_of_long_lines() {
    let (pieces, _) = split(View::Exact, 4, [&b"abcd\nabcde\nabcdefgh"[..]]);
    let told: Vec<(&str, bool)> = pieces
        .iter()
        .map(|(piece, is_continued)| (std::str::from_utf8(piece).unwrap(), *is_continued))
        .collect();
    let expected = [
        ("abcd", false),
        ("abcd", true),
        ("e", false),
        ("abcd", true),
        ("efgh", true),
    ];
    assert_eq!(told, expected);
    // In the terminal view between two characters.
    let (pieces, _) = split(View::Terminal, 4, ["aéééb\r\n".as_bytes()]);
    let expected = [
        ("aé".as_bytes().to_vec(), true),
        ("éé".as_bytes().to_vec(), true),
        (b"b".to_vec(), false),
    ];
    assert_eq!(pieces, expected);
}

#[test]
fn a_line_that_stood_for_a_while() {
    let play = |steps: &[&str]| {
        let mut pieces = Vec::new();
        let mut out = keep(&mut pieces);
        let mut splitter = LineSplitter::new(View::Terminal, PIECE_BYTES);
        for step in steps {
            let Ok(()) = splitter.push(step.as_bytes(), &mut out);
            let Ok(()) = splitter.flush(&mut out);
            assert!(!splitter.has_partial());
        }
        let Ok(()) = splitter.finish(&mut out);
        drop(out);
        pieces
            .into_iter()
            .map(|(piece, is_continued)| {
                String::from_utf8(piece).unwrap() + if is_continued { "+" } else { "" }
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(play(&["Name: ", "bob\r\n"]), ["Name: +", "bob"]);
    assert_eq!(
        play(&["10%", "\r20%", "\r30%\n"]),
        ["10%+", "", "20%+", "", "30%"]
    );
    assert_eq!(play(&["10%\r", "20%\r", "\n"]), ["10%+", "", "20%+", ""]);
    assert_eq!(play(&["⠙\x1b[1G\x1b[K", "x\n"]), ["x"]);
    assert_eq!(play(&["⠙", "\x1b[1G\x1b[Kx\n"]), ["⠙+", "", "x"]);
    assert_eq!(play(&["$ ls", "\x08\x08cd\n"]), ["$ ls+", "cd"]);
    assert_eq!(play(&["a\rb ", "c"]), ["b +", "c+", ""]);
    assert_eq!(play(&["a\rb\x1b[5G", "c\n"]), ["b+", "   c"]);
    assert_eq!(play(&["a", "\x1b[Ab\n"]), ["a+", "", "b"]);
}

#[test]
fn memory_is_bounded() {
    /// What is handled by the character is as full after a few pieces as it ever is.
    const FEW_BYTES: usize = 1 << 20;
    const MANY_BYTES: usize = 64 << 20;
    let streams: [(&str, usize, &[u8], &[u8]); 10] = [
        ("a line", MANY_BYTES, b"", b"0123456789abcdef"),
        ("a title", MANY_BYTES, b"\x1b]0;", b"0123456789abcdef"),
        ("a picture", MANY_BYTES, b"\x1bPq", b"#0;2;0;0;0~~@@vv"),
        ("numbers", MANY_BYTES, b"\x1b[", b"1;2:3;4;5;6;7;8;"),
        (
            "cells",
            FEW_BYTES,
            b"ab\x08",
            b"0123456\xc3\xa9abc\xff\x01\t",
        ),
        ("tabs", 4 * FEW_BYTES, b"ab\x08", b"\t"),
        (
            "marks",
            FEW_BYTES,
            b"e\x08\x1b[C",
            "\u{301}\u{302}".as_bytes(),
        ),
        ("writing over", FEW_BYTES, b"", b"\rx"),
        ("moves", FEW_BYTES, b"a", b"\x1b[999Cx\x1b[3Ga\x1b[999@"),
        (
            "a status",
            FEW_BYTES,
            b"\x1b7\x1b[H",
            b"0123456789abcde\t\x08\x1b[99b\x1b[3H",
        ),
    ];
    for view in [View::Exact, View::Terminal] {
        for (name, stream_bytes, start, part) in &streams {
            let chunk = part.repeat((64 << 10) / part.len());
            let mut splitter = LineSplitter::new(view, PIECE_BYTES);
            let Ok(()) = splitter.push(start, &mut nothing);
            let mut out = |piece: &[u8], _| {
                assert!(piece.len() <= PIECE_BYTES);
                Ok::<_, Infallible>(())
            };
            let begun = std::time::Instant::now();
            for _ in 0..stream_bytes / chunk.len() {
                let Ok(()) = splitter.push(&chunk, &mut out);
            }
            let held = splitter.held_bytes();
            eprintln!("{view:?}, {name}: {held} bytes held, {:?}", begun.elapsed());
            assert!(held <= 140 * PIECE_BYTES, "{view:?}, {name}: {held} bytes");
        }
    }
}

#[test]
fn an_error_of_the_closure_is_handed_on_and_the_next_line_is_whole() {
    for view in [View::Exact, View::Terminal] {
        let mut splitter = LineSplitter::new(view, 8);
        let fails = &mut |_: &[u8], _| Err("no");
        assert_eq!(splitter.push(b"ab", fails), Ok(()));
        assert_eq!(splitter.push(b"c\nlost", fails), Err("no"));
        let mut pieces = Vec::new();
        let Ok(()) = splitter.push(b"next\n", &mut keep(&mut pieces));
        assert_eq!(pieces, [(b"next".to_vec(), false)]);
    }
}

// ---- properties

/// Words of a stream: what programs write, what they could, and what nobody would.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let fixed = |words: &'static [&'static str]| {
        prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec())
    };
    let csi = (
        prop::sample::select(&["", "?", ">", "1;", "7:"][..]),
        prop::option::of(0_u16..70),
        prop::sample::select(&b"mmmKKKGGCDABHJPX@bsurhlI`Zadfq$"[..]),
    )
        .prop_map(|(first, number, last)| {
            let number = number.map(|number| number.to_string()).unwrap_or_default();
            format!("\x1b[{first}{number}{}", char::from(last)).into_bytes()
        });
    prop_oneof![
        4 => "[a-z ]{1,12}".prop_map(String::into_bytes),
        2 => fixed(&["\n", "\r\n", "\r", "\x08", "\t", "\r\r\n"]),
        2 => fixed(&["é", "日", "e\u{301}", "👩\u{200d}🔧", "\u{9b}", "\u{85}", "\u{301}"]),
        3 => csi,
        1 => fixed(&[
            "\x1b7", "\x1b8", "\x1bM", "\x1bE", "\x1bc", "\x1b(B", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?1049l",
            "\x1b]0;title\x07", "\x1b]8;;x\x1b\\", "\x1bPq1;2\n~\x1b\\", "\x1bkt\x1b\\", "\x1b_G\x1b\\",
        ]),
        1 => fixed(&["\x1b", "\x1b[", "\x1b]", "\x00", "\x07", "\x0e", "\x18", "\x7f", "\x0b", "\x01"]),
        1 => prop::collection::vec(any::<u8>(), 1..6),
        1 => "[a-z]{40,160}".prop_map(String::into_bytes),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(word(), 0..60).prop_map(|words| words.concat())
}

fn parts<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts
        .iter()
        .map(|cut| cut.index(stream.len() + 1))
        .chain([stream.len()])
        .collect();
    ends.sort_unstable();
    let mut start = 0;
    ends.into_iter()
        .map(|end| &stream[std::mem::replace(&mut start, end)..end])
        .collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

#[test]
fn what_is_left_of_a_tab_goes_out_in_pieces_too() {
    let cases: [(&[u8], &str); 4] = [
        (b"a\tb\x1b[3G\x1b[P\n", "a      b"),
        (b"a\tb\x1b[3G\x1b[X\n", "a       b"),
        (b"a\tb\x1b[3G\x1b[1K\n", "        b"),
        (b"a\tbc\x1b[3G\x1b[6X\x1b[10G\x1b[K\n", "a       b"),
    ];
    for (stream, expected) in cases {
        let (pieces, _) = split(View::Terminal, 4, [stream]);
        let longest = pieces.iter().map(|(piece, _)| piece.len()).max();
        assert!(longest <= Some(4), "{pieces:?}");
        assert_eq!(joined(&pieces), [expected], "{pieces:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn exact_pieces_are_the_stream(
        stream in stream(), cuts in cuts(), flushes in any::<u8>(), piece_bytes in 1_usize..40,
    ) {
        let mut splitter = LineSplitter::new(View::Exact, piece_bytes);
        let mut found = Vec::new();
        let mut out = |piece: &[u8], is_continued: bool| {
            assert!(piece.len() <= piece_bytes);
            found.extend_from_slice(piece);
            if !is_continued {
                found.push(b'\n');
            }
            Ok::<_, Infallible>(())
        };
        for (number, part) in parts(&stream, &cuts).into_iter().enumerate() {
            let Ok(()) = splitter.push(part, &mut out);
            if flushes >> (number % 8) & 1 == 1 {
                let Ok(()) = splitter.flush(&mut out);
                assert!(!splitter.has_partial());
            }
        }
        let Ok(()) = splitter.finish(&mut out);
        prop_assert_eq!(found, stream);
    }

    #[test]
    fn cuts_change_nothing(
        stream in stream(), cuts in cuts(), piece_bytes in prop_oneof![1_usize..6, 6_usize..200],
    ) {
        for view in [View::Exact, View::Terminal] {
            let (whole, mut splitter) = split(view, piece_bytes, [&stream[..]]);
            let note = splitter.take_note();
            let (cut, mut splitter) = split(view, piece_bytes, parts(&stream, &cuts));
            prop_assert_eq!(&whole, &cut);
            prop_assert_eq!(note, splitter.take_note());
            let (bytewise, _) = split(view, piece_bytes, stream.chunks(1));
            prop_assert_eq!(&whole, &bytewise);
        }
    }

    #[test]
    fn no_sequence_is_in_the_terminal_view(
        stream in stream(), cuts in cuts(), flushes in any::<u8>(), piece_bytes in 1_usize..80,
    ) {
        let mut splitter = LineSplitter::new(View::Terminal, piece_bytes);
        let mut out = |piece: &[u8], _: bool| {
            assert!(piece.len() <= piece_bytes);
            assert!(!piece.iter().any(|byte| b"\x1b\n\r\x08\x07\x00\x0e\x0f\x7f".contains(byte)));
            Ok::<_, Infallible>(())
        };
        for (number, part) in parts(&stream, &cuts).into_iter().enumerate() {
            let Ok(()) = splitter.push(part, &mut out);
            if flushes >> (number % 8) & 1 == 1 {
                let has_partial = splitter.has_partial();
                let mut told = false;
                let Ok(()) = splitter.flush(&mut |piece: &[u8], is_continued| {
                    told = true;
                    assert!(is_continued && !piece.is_empty());
                    out(piece, is_continued)
                });
                assert_eq!(told, has_partial);
            }
        }
        let Ok(()) = splitter.finish(&mut out);
    }

    /// Where nothing moves the cursor every byte of text is in the lines.
    #[test]
    fn text_is_kept(
        lines in prop::collection::vec(prop::collection::vec(0x20_u8..=0xff, 0..200), 0..20), piece_bytes in 1_usize..80,
    ) {
        let mut lines = lines;
        lines.iter_mut().flatten().for_each(|byte| *byte = if *byte == 0x7f { b'\t' } else { *byte });
        let mut stream = lines.join(&b"\x1b[1mm\r\n"[..]);
        stream.push(b'\n');
        let (pieces, _) = split(View::Terminal, piece_bytes, [&stream[..]]);
        let mut found = Vec::new();
        for (piece, is_continued) in pieces {
            found.extend(piece);
            if !is_continued {
                found.push(b'\n');
            }
        }
        let mut expected = lines.join(&b"m\n"[..]);
        expected.push(b'\n');
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn scans_find_the_first(bytes in prop::collection::vec(prop_oneof![80 => 0x20_u8..0x7f, 3 => any::<u8>(), 8 => Just(b'\n'), 1 => Just(b'\r')], 0..300)) {
        let control = |byte: u8| byte < 0x20 && byte != b'\t' || byte == 0x7f;
        let text = bytes.iter().position(|&byte| control(byte)).unwrap_or(bytes.len());
        prop_assert_eq!(scan::text_bytes(&bytes), text);
        prop_assert_eq!(scan::newline(&bytes), bytes.iter().position(|byte| *byte == b'\n'));
        let plain = (0..bytes.len()).find(|&at| {
            control(bytes[at]) && bytes[at] != b'\n' && !bytes[at..].starts_with(b"\r\n")
        });
        prop_assert_eq!(scan::plain_bytes(&bytes), plain.unwrap_or(bytes.len()));
    }
}
