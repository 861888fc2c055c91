//! Answers of terminals, such as where the cursor is: they are typed for the program, and where it has echo on they
//! come back in its output.
//!
//! [`ReplyFilter`] is told what the terminal in front sends to the program, knows an answer by its form, and takes the
//! echo of it, once, out of the copy that goes to lines and raw stream. What the terminal in front gets is not its
//! business.
//!
//! | answer | form |
//! |---|---|
//! | cursor position | `CSI row ; column R`, where the program has asked (`CSI 6n`); `CSI ? .. R` |
//! | device attributes | `CSI ? .. c`, `CSI > .. c` |
//! | status | `CSI .. n` |
//! | state of a mode | `CSI .. $ y` |
//! | window | `CSI .. t` |
//! | keyboard protocol | `CSI ? .. u` |
//! | focus | `CSI I`, `CSI O` |
//! | mouse | `CSI M` and three bytes, `CSI < .. M`, `CSI < .. m`, `CSI n ; n ; n M` |
//! | strings | `OSC number ..`, `DCS ..`, `APC G ..`, to ST (OSC: or BEL) |
//!
//! `CSI 1;5R` is also F3 with Ctrl on some terminals. It is a key as long as the program has not asked for the cursor,
//! and an answer when it has: a key between question and answer is then taken for the answer, and the answer for a key.
//! All other keys that people have (arrows, F1 to F12, `CSI .. ~`, `CSI .. u`) have other forms.

use std::collections::VecDeque;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// An echo comes behind what was in the terminal's buffers when the answer was typed. One that has not come after so
/// many bytes of output will not: the program has turned echo off.
const WAIT_BYTES: usize = 64 << 10;
/// Nor one that has not come after so many reads of output.
const WAIT_READS: u32 = 256;
/// A question for the cursor is forgotten after so many bytes of output.
const ASKED_BYTES: usize = 1 << 20;
/// Questions and answers that are waited for at once; older ones are forgotten.
const WAITING_LIMIT: usize = 64;
/// Longest answer; what is longer (a clipboard) is no answer that is waited for.
const REPLY_BYTES: usize = 4096;

/// What the terminal does with what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// ECHO is off.
    None,
    /// ECHO and ECHOCTL: `^[[24;80R`.
    Caret,
    /// ECHO without ECHOCTL: the bytes themselves.
    Literal,
}

/// Takes echoes of terminal answers out of a program's output.
///
/// Output that could be the start of an expected echo is held back, at most as much as an answer is long; call
/// [`ReplyFilter::flush`] where nothing has come for a while, and at the end.
#[derive(Debug, Default)]
pub(crate) struct ReplyFilter {
    /// Start of what may become an answer, as typed, and its echo.
    typed: Vec<u8>,
    typed_echo: Vec<u8>,
    /// Echoes of answers, in order.
    expected: VecDeque<Expected>,
    /// Output that may be the start of an echo.
    held: Vec<u8>,
    /// How often the program has asked for the cursor without an answer yet.
    asked: usize,
    asked_bytes_left: usize,
    /// The last bytes of the output, where a question may have begun.
    tail: Vec<u8>,
}

#[derive(Debug)]
struct Expected {
    echo: Vec<u8>,
    bytes_left: usize,
    reads_left: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Unfinished,
    /// The answer to `CSI 6n`, or F3.
    Cursor,
    Reply,
    Other,
}

impl ReplyFilter {
    pub(crate) fn new() -> Self {
        ReplyFilter::default()
    }

    /// `bytes` go in to the program, and the terminal does `echo` with them. Answers may be split over calls.
    pub(crate) fn typed(&mut self, bytes: &[u8], echo: Echo) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.typed.is_empty() {
                let Some(start) = memchr::memchr(ESC, rest) else {
                    return;
                };
                rest = &rest[start..];
            }
            let byte = rest[0];
            rest = &rest[1..];
            self.take_typed(byte, echo);
        }
    }

    fn take_typed(&mut self, byte: u8, echo: Echo) {
        self.typed.push(byte);
        push_echo(byte, echo, &mut self.typed_echo);
        let form = match form_of(&self.typed) {
            Form::Cursor if self.asked > 0 => {
                self.asked -= 1;
                Form::Reply
            }
            form => form,
        };
        if form == Form::Unfinished {
            return;
        }
        self.typed.clear();
        let text = std::mem::take(&mut self.typed_echo);
        if form == Form::Reply && !text.is_empty() {
            if self.expected.len() == WAITING_LIMIT {
                self.expected.pop_front();
            }
            self.expected.push_back(Expected {
                echo: text,
                bytes_left: WAIT_BYTES,
                reads_left: WAIT_READS,
            });
        } else if byte == ESC {
            self.take_typed(byte, echo);
        }
    }

    /// `output` without echoes, and behind what was held back before: `output` itself where none is expected, which
    /// costs a search for questions, else `kept`.
    pub(crate) fn filter<'a>(&mut self, output: &'a [u8], kept: &'a mut Vec<u8>) -> &'a [u8] {
        self.look_for_questions(output);
        if self.expected.is_empty() && self.typed_echo.is_empty() && self.held.is_empty() {
            return output;
        }
        kept.clear();
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(output);
        let mut rest = &held[..];
        while let Some(start) = memchr::memchr2(b'^', ESC, rest) {
            kept.extend_from_slice(&rest[..start]);
            rest = &rest[start..];
            let found = self
                .expected
                .iter()
                .position(|expected| rest.starts_with(&expected.echo));
            if let Some(found) = found {
                rest = &rest[self.expected[found].echo.len()..];
                // Echoes come in the order in which answers were typed: those before will not come any more.
                self.expected.drain(..=found);
                continue;
            }
            if self.is_start(rest) {
                break;
            }
            kept.push(rest[0]);
            rest = &rest[1..];
        }
        if self.is_start(rest) {
            self.held.extend_from_slice(rest);
        } else {
            kept.extend_from_slice(rest);
        }
        self.forget(output.len());
        kept
    }

    /// Gives out what is held back. Should the rest of that echo come still, it is not taken out.
    pub(crate) fn flush<'a>(&mut self, kept: &'a mut Vec<u8>) -> &'a [u8] {
        kept.clear();
        kept.append(&mut self.held);
        kept
    }

    /// Whether [`ReplyFilter::flush`] would give out anything.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether `output`, all of it, is the start of an echo that is expected, or of one that may come to be.
    fn is_start(&self, output: &[u8]) -> bool {
        let expected = self.expected.iter().map(|expected| &expected.echo);
        !output.is_empty()
            && expected
                .chain([&self.typed_echo])
                .any(|echo| echo.starts_with(output))
    }

    fn forget(&mut self, output_bytes: usize) {
        for expected in &mut self.expected {
            expected.bytes_left = expected.bytes_left.saturating_sub(output_bytes);
            expected.reads_left = expected.reads_left.saturating_sub(1);
        }
        self.expected
            .retain(|expected| expected.bytes_left > 0 && expected.reads_left > 0);
    }

    /// Finds `CSI 6n` and `CSI ? 6n`, also where they are cut.
    fn look_for_questions(&mut self, output: &[u8]) {
        const LONGEST: usize = b"\x1b[?6n".len();
        self.asked_bytes_left = self.asked_bytes_left.saturating_sub(output.len());
        if self.asked_bytes_left == 0 {
            self.asked = 0;
        }
        let mut asked = count_questions(output);
        let kept_bytes = self.tail.len();
        self.tail
            .extend_from_slice(&output[..output.len().min(LONGEST - 1)]);
        if kept_bytes > 0 {
            // Those that lie across the border: in the tail, but neither in its old part nor in its new one alone.
            let across = count_questions(&self.tail);
            let within = count_questions(&self.tail[..kept_bytes])
                + count_questions(&self.tail[kept_bytes..]);
            asked += across - within;
        }
        if output.len() >= LONGEST {
            self.tail.clear();
            self.tail
                .extend_from_slice(&output[output.len() - (LONGEST - 1)..]);
        } else {
            let excess = self.tail.len().saturating_sub(LONGEST - 1);
            self.tail.drain(..excess);
        }
        if asked > 0 {
            self.asked = (self.asked + asked).min(WAITING_LIMIT);
            self.asked_bytes_left = ASKED_BYTES;
        }
    }
}

fn count_questions(output: &[u8]) -> usize {
    memchr::memmem::find_iter(output, b"6n")
        .filter(|&at| output[..at].ends_with(b"\x1b[") || output[..at].ends_with(b"\x1b[?"))
        .count()
}

fn push_echo(byte: u8, echo: Echo, text: &mut Vec<u8>) {
    match echo {
        Echo::None => {}
        // Tab and newline are never shown that way; neither is in an answer.
        Echo::Caret if (byte < 0x20 && byte != b'\t' && byte != b'\n') || byte == 0x7f => {
            text.extend_from_slice(&[b'^', byte ^ 0x40]);
        }
        Echo::Caret | Echo::Literal => text.push(byte),
    }
}

/// What `typed`, which begins with ESC, is; every byte but its last one left it unfinished.
fn form_of(typed: &[u8]) -> Form {
    let (Some(&last), Some(&kind)) = (typed.last(), typed.get(1)) else {
        return Form::Unfinished;
    };
    if typed.len() > REPLY_BYTES {
        return Form::Other;
    }
    match (kind, typed.get(2)) {
        (b'[' | b']' | b'P' | b'_', None) => Form::Unfinished,
        (b'[', Some(b'M')) if typed.len() < 6 => Form::Unfinished,
        (b'[', Some(b'M')) => Form::Reply,
        (b'[', _) if (0x20..0x40).contains(&last) => Form::Unfinished,
        (b'[', _) => form_of_csi(&typed[2..typed.len() - 1], last),
        // People do not type these: Alt-], Alt-P and Alt-_ are rarely followed by what they begin with.
        (b']', Some(b'0'..=b'9'))
        | (b'P', Some(b'0'..=b'9' | b'>' | b'!' | b'+' | b'$'))
        | (b'_', Some(b'G')) => form_of_string(typed, kind),
        _ => Form::Other,
    }
}

fn form_of_csi(params: &[u8], last: u8) -> Form {
    let mut numbers = params.split(|byte| *byte == b';');
    let count = numbers.clone().count();
    let are_numbers =
        numbers.all(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit));
    let is_reply = match (params.first(), last) {
        (Some(b'?'), b'R' | b'c' | b'n' | b'u' | b'y') | (Some(b'>'), b'c') => true,
        (Some(b'<'), b'M' | b'm') => true,
        (None, b'I' | b'O') => true,
        (Some(_), b'R') if are_numbers && count == 2 => return Form::Cursor,
        (Some(_), b'M') => are_numbers && count == 3,
        (Some(_), b'n' | b't') => are_numbers,
        (Some(_), b'y') => params.ends_with(b"$"),
        _ => false,
    };
    if is_reply { Form::Reply } else { Form::Other }
}

fn form_of_string(typed: &[u8], kind: u8) -> Form {
    let before = typed[typed.len() - 2];
    match typed[typed.len() - 1] {
        b'\\' if before == ESC => Form::Reply,
        _ if before == ESC => Form::Other,
        BEL if kind == b']' => Form::Reply,
        ESC => Form::Unfinished,
        // Nobody answers with a line end, and people type them.
        b'\r' | b'\n' => Form::Other,
        _ => Form::Unfinished,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPLIES: [&[u8]; 16] = [
        b"\x1b[24;80R",
        b"\x1b[?24;80;1R",
        b"\x1b[?62;22c",
        b"\x1b[>0;276;0c",
        b"\x1b[0n",
        b"\x1b[?997;1n",
        b"\x1b[?2026;2$y",
        b"\x1b[8;24;80t",
        b"\x1b[?0u",
        b"\x1b[I",
        b"\x1b[M !\xa1",
        b"\x1b[<0;12;5M",
        b"\x1b[<0;12;5m",
        b"\x1b]11;rgb:0000/0000/0000\x1b\\",
        b"\x1b]10;rgb:ffff/ffff/ffff\x07",
        b"\x1bP>|xterm(388)\x1b\\",
    ];

    const KEYS: [&[u8]; 12] = [
        b"\x1b[A",
        b"\x1b[1;5A",
        b"\x1bOP",
        b"\x1b[11~",
        b"\x1b[1;5P",
        b"\x1b[H",
        b"\x1b[200~",
        b"\x1b[97;5u",
        b"\x1b\x1b[C",
        b"\x1b",
        b"ls -l\r",
        b"\x1bb",
    ];

    fn caret(reply: &[u8], echo: Echo) -> Vec<u8> {
        let mut text = Vec::new();
        reply
            .iter()
            .for_each(|byte| push_echo(*byte, echo, &mut text));
        text
    }

    fn filter_all(filter: &mut ReplyFilter, outputs: &[&[u8]]) -> Vec<u8> {
        let mut found = Vec::new();
        let mut kept = Vec::new();
        for output in outputs {
            found.extend_from_slice(filter.filter(output, &mut kept));
        }
        found.extend_from_slice(filter.flush(&mut kept));
        found
    }

    #[test]
    fn echoes_of_replies_go_and_those_of_keys_stay() {
        for echo in [Echo::Caret, Echo::Literal] {
            for reply in REPLIES {
                let mut filter = ReplyFilter::new();
                filter_all(&mut filter, &[b"\x1b[6n"]);
                filter.typed(reply, echo);
                let text = caret(reply, echo);
                let output = [b"a^", &text[..], b"^[b", &text[..]].concat();
                let expected = [b"a^^[b", &text[..]].concat();
                assert_eq!(filter_all(&mut filter, &[&output]), expected, "{reply:?}");
            }
            for key in KEYS {
                let mut filter = ReplyFilter::new();
                filter.typed(key, echo);
                filter.typed(b"\r", echo);
                let text = caret(key, echo);
                assert_eq!(filter_all(&mut filter, &[&text]), text, "{key:?}");
            }
        }
    }

    #[test]
    fn the_cursor_is_a_reply_only_when_it_was_asked_for() {
        let f3 = b"\x1b[1;5R";
        let echo = &b"^[[1;5R"[..];
        let mut filter = ReplyFilter::new();
        filter.typed(f3, Echo::Caret);
        assert_eq!(filter_all(&mut filter, &[echo]), echo);
        for question in [&b"\x1b[6n"[..], b"\x1b[?6n"] {
            for cut in 0..question.len() {
                let mut filter = ReplyFilter::new();
                let (first, second) = question.split_at(cut);
                assert_eq!(filter_all(&mut filter, &[first, second]), question);
                filter.typed(f3, Echo::Caret);
                assert_eq!(filter_all(&mut filter, &[echo]), b"");
                // One question, one answer.
                filter.typed(f3, Echo::Caret);
                assert_eq!(filter_all(&mut filter, &[echo]), echo);
            }
            let mut filter = ReplyFilter::new();
            let bytes: Vec<&[u8]> = question.chunks(1).collect();
            filter_all(&mut filter, &bytes);
            assert_eq!(filter.asked, 1);
        }
    }

    #[test]
    fn what_does_not_come_is_forgotten_and_nothing_is_kept_for_ever() {
        let mut filter = ReplyFilter::new();
        let mut kept = Vec::new();
        filter.typed(b"\x1b[0n", Echo::None);
        assert_eq!(filter.filter(b"^[[0n", &mut kept), b"^[[0n");
        filter.typed(b"\x1b[0n", Echo::Caret);
        for _ in 0..WAIT_READS {
            filter.filter(b"x", &mut kept);
        }
        assert_eq!(filter.filter(b"^[[0n", &mut kept), b"^[[0n");
        filter.typed(b"\x1b[0n", Echo::Caret);
        filter.filter(&vec![b'x'; WAIT_BYTES], &mut kept);
        assert_eq!(filter.filter(b"^[[0n", &mut kept), b"^[[0n");
        for _ in 0..10 * WAITING_LIMIT {
            filter.typed(b"\x1b[0n", Echo::Caret);
        }
        filter.typed(b"\x1b]1", Echo::Caret);
        filter.typed(&vec![b'x'; 1 << 20], Echo::Caret);
        assert_eq!(filter.expected.len(), WAITING_LIMIT);
        assert!(filter.typed.len() <= REPLY_BYTES && filter.typed_echo.len() <= 2 * REPLY_BYTES);
    }

    #[test]
    fn an_echo_is_known_before_its_reply_is_whole() {
        let mut filter = ReplyFilter::new();
        let mut kept = Vec::new();
        filter.typed(b"\x1b[?62", Echo::Caret);
        assert_eq!(filter.filter(b"a^[[?62", &mut kept), b"a");
        assert!(filter.is_holding());
        filter.typed(b";22c", Echo::Caret);
        assert_eq!(filter.filter(b";22cb", &mut kept), b"b");
        assert!(!filter.is_holding());
        // It was a key.
        filter.typed(b"\x1b", Echo::Caret);
        assert_eq!(filter.filter(b"^[", &mut kept), b"");
        filter.typed(b"x", Echo::Caret);
        assert_eq!(filter.filter(b"x", &mut kept), b"^[x");
    }

    #[derive(Debug, Clone)]
    enum Act {
        Output(Vec<u8>),
        /// A reply is typed, in two parts, and its echo comes behind so many bytes more of output, in two parts as well.
        Reply(usize, prop::sample::Index, Vec<u8>, prop::sample::Index),
        Key(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        let output = || prop::collection::vec(prop::sample::select(&b"ab\n\x1b[[^^;0R"[..]), 0..12);
        prop_oneof![
            output().prop_map(Act::Output),
            (
                0..REPLIES.len(),
                any::<prop::sample::Index>(),
                "[a-z]{0,9}",
                any::<prop::sample::Index>()
            )
                .prop_map(|(reply, typed, before, cut)| Act::Reply(
                    reply,
                    typed,
                    before.into_bytes(),
                    cut
                )),
            (0..KEYS.len()).prop_map(Act::Key),
        ]
    }

    proptest! {
        #[test]
        fn output_comes_without_echoes(acts in prop::collection::vec(act(), 0..30), is_literal in any::<bool>()) {
            let echo = if is_literal { Echo::Literal } else { Echo::Caret };
            let mut filter = ReplyFilter::new();
            let mut kept = Vec::new();
            let mut found = Vec::new();
            let mut expected = Vec::new();
            for act in acts {
                match act {
                    Act::Output(output) => {
                        found.extend_from_slice(filter.filter(&output, &mut kept));
                        expected.extend_from_slice(&output);
                    }
                    Act::Key(key) => {
                        let text = caret(KEYS[key], echo);
                        filter.typed(KEYS[key], echo);
                        found.extend_from_slice(filter.filter(&text, &mut kept));
                        expected.extend_from_slice(&text);
                        // A lone ESC would make Alt-ESC of the next one, which is no answer then.
                        filter.typed(b"\r", echo);
                    }
                    Act::Reply(reply, typed, before, cut) => {
                        let reply = REPLIES[reply];
                        found.extend_from_slice(filter.filter(b"\x1b[6n", &mut kept));
                        expected.extend_from_slice(b"\x1b[6n");
                        let (first, second) = reply.split_at(typed.index(reply.len()));
                        filter.typed(first, echo);
                        filter.typed(second, echo);
                        let output = [&before[..], &caret(reply, echo)].concat();
                        let (first, second) = output.split_at(cut.index(output.len()));
                        found.extend_from_slice(filter.filter(first, &mut kept));
                        found.extend_from_slice(filter.filter(second, &mut kept));
                        expected.extend_from_slice(&before);
                    }
                }
            }
            found.extend_from_slice(filter.flush(&mut kept));
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn without_replies_nothing_changes(
            outputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            key in 0..KEYS.len(),
        ) {
            let mut filter = ReplyFilter::new();
            filter.typed(KEYS[key], Echo::Caret);
            let parts: Vec<&[u8]> = outputs.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(filter_all(&mut filter, &parts), outputs.concat());
        }
    }
}
