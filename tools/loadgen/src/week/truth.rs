//! The right answers: from the text, unpacked by `zstdcat` and filtered by `grep`, with none of our code between.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use millpond_logfile::{Level, SegmentText, TIME_BYTES, list_segments};
use serde_json::Value;

use super::generate::Week;
use super::questions::{Answer, Question};
use crate::error::Error;

const READ_BYTES: u64 = 1 << 20;

/// Whether a program starts at all.
pub(super) fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null());
    let output = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    output.is_ok_and(|status| status.success())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// A service's text through a filter of the shell.
fn filtered(dir: &Path, filter: &str, has_zstdcat: bool) -> Result<Vec<u8>, Error> {
    let segments = list_segments(dir)?;
    let mut unpack = String::new();
    for &id in &segments {
        let (plain, sealed) = (id.log_path(dir), id.sealed_path(dir));
        match plain.exists() {
            true => unpack.push_str(&format!("cat {}; ", quoted(&plain))),
            false => unpack.push_str(&format!("zstdcat -q {}; ", quoted(&sealed))),
        }
    }
    let script = match has_zstdcat {
        true => format!("{{ {unpack}}} | {filter}"),
        false => filter.to_owned(),
    };
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).env("LC_ALL", "C");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| match (input, has_zstdcat) {
            (Some(input), false) => feed(dir, input),
            _ => Ok(()),
        });
        let read = output.map_or(Ok(0), |mut output| output.read_to_end(&mut found));
        let fed = feeder.join().unwrap_or(Ok(()));
        read.and(fed.map(|()| 0))
    })?;
    // `grep` ends with 1 where it found nothing.
    child.wait()?;
    Ok(found)
}

/// Where there is no `zstdcat`: our own unpacking, but no query.
fn feed(dir: &Path, mut out: impl Write) -> io::Result<()> {
    let mut buffer = Vec::new();
    for id in list_segments(dir).map_err(io::Error::other)? {
        let text = SegmentText::open(dir, id)?;
        let (mut offset, end) = (0, text.length_bytes()?);
        while offset < end {
            buffer.resize(READ_BYTES.min(end - offset) as usize, 0);
            text.read_exact_at(&mut buffer, offset)?;
            out.write_all(&buffer)?;
            offset += buffer.len() as u64;
        }
    }
    Ok(())
}

/// What was compared, and what of it was wrong.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Lines of the answer; for counts, what they add up to.
    pub(super) lines: u64,
    pub(super) wrong: Vec<String>,
}

/// Compares an answer with the text of these services; what is known without reading is compared for all.
pub(super) fn judge(
    question: &Question,
    answer: &Path,
    logs_dir: &Path,
    week: &Week,
    checked: &[usize],
    has_zstdcat: bool,
) -> Result<Verdict, Error> {
    let mut answered = Vec::new();
    File::open(answer)?.read_to_end(&mut answered)?;
    let text_of = |number: usize, filter: &str| {
        filtered(&logs_dir.join(&week.services[number]), filter, has_zstdcat)
    };
    let mut verdict = Verdict::default();
    match question.answer {
        Answer::LinesOf(number) => {
            verdict.lines = count_lines(&answered);
            let expected = text_of(number, &question.filter)?;
            if expected != answered {
                verdict.wrong.push(difference(&expected, &answered));
            }
        }
        Answer::Lines => {
            verdict.lines = count_lines(&answered);
            let lines: Vec<&[u8]> = answered.split_inclusive(|&byte| byte == b'\n').collect();
            // The time comes first.
            if !lines.is_sorted_by_key(|line| &line[..line.len().min(TIME_BYTES)]) {
                verdict
                    .wrong
                    .push("the lines are not in the order of time".to_owned());
            }
            for &number in checked {
                let service = &week.services[number];
                let expected = with_service(&text_of(number, &question.filter)?, service);
                let mark = format!(" {service} ");
                let is_of = |line: &&&[u8]| {
                    line.get(TIME_BYTES..)
                        .is_some_and(|rest| rest.starts_with(mark.as_bytes()))
                };
                let found: Vec<u8> = lines
                    .iter()
                    .filter(is_of)
                    .copied()
                    .flatten()
                    .copied()
                    .collect();
                if found != expected {
                    verdict.wrong.push(difference(&expected, &found));
                }
            }
        }
        Answer::Levels => {
            let counts: Value = serde_json::from_slice(&answered)?;
            for (level, &expected) in Level::ALL.iter().zip(&week.levels) {
                let found = &counts["levels"][level.name()];
                verdict.lines += found.as_u64().unwrap_or_default();
                if *found != expected {
                    verdict
                        .wrong
                        .push(format!("{level}: {found} instead of {expected}"));
                }
            }
            for &number in checked {
                for level in Level::ALL {
                    let filter = format!(
                        "grep -a -c '^{}{} '",
                        ".".repeat(TIME_BYTES + 1),
                        level.token()
                    );
                    let expected = text_of(number, &filter)?;
                    let expected = String::from_utf8_lossy(&expected).trim().to_owned();
                    let found = counts["services"][&week.services[number]][level.name()].as_u64();
                    if found != expected.parse().ok() {
                        let service = &week.services[number];
                        verdict.wrong.push(format!(
                            "{service} {level}: {found:?} instead of {expected}"
                        ));
                    }
                }
            }
        }
    }
    Ok(verdict)
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Lines as they are shown where there are several services: with the service behind the time.
fn with_service(text: &[u8], service: &str) -> Vec<u8> {
    let mut shown = Vec::new();
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let (time, rest) = line.split_at(line.len().min(TIME_BYTES));
        shown.extend_from_slice(time);
        shown.push(b' ');
        shown.extend_from_slice(service.as_bytes());
        shown.extend_from_slice(rest);
    }
    shown
}

fn difference(expected: &[u8], found: &[u8]) -> String {
    let at = expected
        .iter()
        .zip(found)
        .take_while(|(one, other)| one == other)
        .count();
    let show = |text: &[u8]| {
        let start = text[..at.min(text.len())]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let line = text[start..]
            .split(|&byte| byte == b'\n')
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(line).into_owned()
    };
    format!(
        "{} lines instead of {}; first difference: {:?} instead of {:?}",
        count_lines(found),
        count_lines(expected),
        show(found),
        show(expected)
    )
}
