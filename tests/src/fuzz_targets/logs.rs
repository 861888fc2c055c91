//! Segments, indexes, sealed text and filters.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use millpond_logfile::{
    BlockWriter, Hit, Level, Order, Query, QueryReport, Reader, SegmentId, SegmentText, Source,
    inspect_segment, parse_line, read_index, rebuild_index, recover_segment, seal_segment,
    unescape, verify_segment,
};

use super::Script;

const ID_NS: u64 = 1_795_224_593_123_456_789;

/// A service directory.
struct Logs {
    place: tempfile::TempDir,
    dir: PathBuf,
    id: SegmentId,
}

impl Logs {
    fn new() -> Self {
        let place = tempfile::tempdir_in(super::scratch_base()).expect("a temporary place");
        let dir = place.path().join("web");
        std::fs::create_dir(&dir).expect("room on the disk");
        Logs {
            place,
            dir,
            id: SegmentId::from_ns(ID_NS),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).expect("room on the disk");
    }

    fn with_text(text: &[u8]) -> Self {
        let logs = Logs::new();
        logs.write(&logs.id.log_path(&logs.dir), text);
        logs
    }

    fn text(&self) -> Vec<u8> {
        std::fs::read(self.id.log_path(&self.dir)).expect("it is there")
    }

    fn index(&self) -> Vec<u8> {
        std::fs::read(self.id.index_path(&self.dir)).expect("it is there")
    }

    /// The lines that a query gives, one after the other.
    fn lines(&self, query: Query) -> (Vec<Vec<u8>>, QueryReport) {
        let reader = Reader::open(self.place.path()).expect("a directory");
        let mut lines = Vec::new();
        let report = reader
            .run(&query.service("web"), &mut |hit: Hit<'_>| {
                lines.push(hit.line.to_vec());
                ControlFlow::Continue(())
            })
            .expect("the service is there");
        assert_eq!(report.matched, lines.len() as u64);
        (lines, report)
    }

    fn count(&self, query: &Query) -> u64 {
        let reader = Reader::open(self.place.path()).expect("a directory");
        reader.count(query).expect("the service is there").total()
    }

    /// All that the readers do with a directory whose index may lie: they end, and give lines of `text` only
    /// where nothing is wrong with it.
    fn read_all_ways(&self, text: &[u8]) {
        let sound = verify_segment(&self.dir, self.id).is_ok_and(|report| report.damage.is_empty());
        let truth: Vec<&[u8]> = text
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| parse_line(line).is_ok())
            .collect();
        for query in queries() {
            let (lines, report) = self.lines(query.clone());
            let counted = self.count(&query);
            if sound {
                assert!(report.damage.is_empty(), "{:?}", report.damage);
                let mut matcher = query.matcher();
                let wanted: Vec<&[u8]> = (truth.iter().copied())
                    .filter(|line| matcher.matches(line))
                    .collect();
                assert_eq!(lines.len(), wanted.len(), "{query:?}");
                assert!(
                    lines
                        .iter()
                        .zip(&wanted)
                        .all(|(line, wanted)| line == wanted)
                );
                assert_eq!(counted, wanted.len() as u64, "{query:?}");
            }
        }
        let (newest, _) = self.lines(Query::new().order(Order::Newest));
        assert!(!sound || newest.len() == truth.len());
    }
}

fn queries() -> [Query; 5] {
    [
        Query::new(),
        Query::new().contains("line 7"),
        Query::new().since_ns(ID_NS + 100).until_ns(ID_NS + 200),
        Query::new().levels(millpond_logfile::LevelSet::at_least(Level::Warn)),
        Query::new().source("s1").verify(true),
    ]
}

/// Lines of ours: a bit more than two blocks.
fn fixed_text() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        let (mut block, mut text) = (BlockWriter::new(), Vec::new());
        for number in 0..400 {
            let message = format!(
                "line {number} {}",
                "lorem ".repeat(50 + number as usize % 11)
            );
            let level = Level::from_u8((number % 6) as u8);
            let source = Source::new(&format!("s{}", number % 3));
            let time_ns = ID_NS + number;
            block.append(&mut text, time_ns, level, &source, message.as_bytes());
        }
        text
    })
}

/// What lies beside [`fixed_text`] when it is closed and sealed: index, sealed text, filter.
fn fixed_files() -> &'static [Vec<u8>; 3] {
    static FILES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
    FILES.get_or_init(|| {
        let logs = Logs::with_text(fixed_text());
        rebuild_index(&logs.dir, logs.id, false).expect("an index");
        seal_segment(&logs.dir, logs.id, 3, &mut || true).expect("it can be sealed");
        let paths = [
            logs.id.index_path(&logs.dir),
            logs.id.sealed_path(&logs.dir),
            logs.id.filter_path(&logs.dir),
        ];
        paths.map(|path| std::fs::read(path).expect("it is there"))
    })
}

/// Makes the checksums of an index right, so that what lies behind them is looked at.
fn sign_index(index: &mut [u8]) {
    if index.len() < 64 {
        return;
    }
    let (header, entries) = index.split_at_mut(64);
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    for entry in entries.chunks_exact_mut(96) {
        let crc = crc32c::crc32c(&entry[..92]);
        entry[92..].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A byte that says whether the checksums are made right, and an index beside a fixed text. Readers end and blame it or
/// go by it; recovery keeps all of the text; the index made anew is the true one.
///
/// # Panics
/// Where that is not so.
pub fn index(data: &[u8]) {
    let Some((&signed, bytes)) = data.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if signed & 1 == 1 {
        sign_index(&mut bytes);
    }
    let logs = Logs::with_text(fixed_text());
    let index_path = logs.id.index_path(&logs.dir);
    logs.write(&index_path, &bytes);
    read_index(&index_path, Some(logs.id)).expect("it can be read");
    let inspected = inspect_segment(&logs.dir, logs.id, None).expect("it can be read");
    assert_eq!(
        (inspected.length_bytes, inspected.cut_bytes),
        (fixed_text().len() as u64, 0),
        "an index cuts no text"
    );
    logs.read_all_ways(fixed_text());
    recover_segment(&logs.dir, logs.id, None).expect("it can be written");
    assert!(logs.text() == fixed_text(), "an index changes no text");
    let recovered = logs.index();
    let again = recover_segment(&logs.dir, logs.id, None).expect("it can be written");
    assert!(again.damage.is_empty(), "{:?}", again.damage);
    assert!(logs.index() == recovered, "recovery is done once");
    rebuild_index(&logs.dir, logs.id, false).expect("it can be written");
    assert!(logs.index() == fixed_files()[0], "the text is the truth");
}

pub(super) fn index_seeds() -> Vec<Vec<u8>> {
    let index = &fixed_files()[0];
    vec![
        [&[0][..], index].concat(),
        [&[1][..], index].concat(),
        [&[1][..], &index[..64]].concat(),
    ]
}

/// Whether a line stands as a daemon would have written it.
fn is_whole(line: &[u8]) -> bool {
    let Ok(parsed) = parse_line(line) else {
        return false;
    };
    let (mut source, mut message, mut again) = (Vec::new(), Vec::new(), Vec::new());
    unescape(parsed.source, &mut source);
    unescape(parsed.message, &mut message);
    let Ok(source) = String::from_utf8(source) else {
        return false;
    };
    let source = Source::new(&source);
    let (time_ns, level) = (parsed.time_ns, parsed.level);
    BlockWriter::new().append(&mut again, time_ns, level, &source, &message);
    again == line
}

/// Any text. Recovery keeps all whole lines in front of the last one that a daemon can have written, and does nothing
/// the second time; a query gives each line once, whatever stands between.
///
/// # Panics
/// Where that is not so.
pub fn segment(data: &[u8]) {
    let logs = Logs::with_text(data);
    let recovered = recover_segment(&logs.dir, logs.id, None).expect("it can be written");
    let text = logs.text();
    let (kept, cut) = data.split_at(recovered.length_bytes as usize);
    assert!(text == kept, "it only cuts, at the end");
    assert_eq!(recovered.cut_bytes, cut.len() as u64);
    assert!(kept.is_empty() || kept.ends_with(b"\n"));
    let lost = cut
        .split_inclusive(|&byte| byte == b'\n')
        .find(|line| is_whole(line));
    assert!(lost.is_none(), "{:?}", lost.map(String::from_utf8_lossy));
    let index = logs.index();
    let again = recover_segment(&logs.dir, logs.id, None).expect("it can be written");
    assert_eq!((again.cut_bytes, again.damage.len()), (0, 0));
    assert!(logs.text() == kept && logs.index() == index);

    let (lines, report) = logs.lines(Query::new());
    let truth: Vec<&[u8]> = kept
        .split_inclusive(|&byte| byte == b'\n')
        .filter(|line| parse_line(line).is_ok())
        .collect();
    assert_eq!(lines.len(), truth.len(), "{report:?}");
    assert!(lines.iter().zip(&truth).all(|(line, truth)| line == truth));
    let rebuilt = rebuild_index(&logs.dir, logs.id, false).expect("it can be written");
    let newlines = kept.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert_eq!(rebuilt.lines, newlines);
    assert_eq!(rebuilt.damaged_lines, newlines - truth.len() as u64);
    for query in queries() {
        let (lines, _) = logs.lines(query.clone());
        let mut matcher = query.matcher();
        let wanted = truth.iter().filter(|line| matcher.matches(line)).count();
        assert_eq!(lines.len(), wanted, "{query:?}");
        assert_eq!(logs.count(&query), wanted as u64, "{query:?}");
    }
    let (newest, _) = logs.lines(Query::new().order(Order::Newest));
    let once = |lines: &[Vec<u8>]| {
        let mut counts = BTreeMap::<Vec<u8>, u32>::new();
        for line in lines {
            *counts.entry(line.clone()).or_default() += 1;
        }
        counts
    };
    assert_eq!(once(&newest), once(&lines));
    let (unfolded, _) = logs.lines(Query::new().unfold().limit(1000));
    assert!(unfolded.len() <= 1000);
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    let mut block = BlockWriter::new();
    let told = "repeat source=s count=3 first=2026-11-21T01:29:53.123456789Z last=2026-11-21T01:29:53.123456789Z";
    for (source, message) in [
        ("s", &b"line 7 \xff\x1b[31m \\ \n end"[..]),
        ("millpond", told.as_bytes()),
        ("s1", "\u{85}\u{e9} tab\t".as_bytes()),
        ("s+", b"a part"),
        ("s", b""),
    ] {
        block.append(
            &mut text,
            ID_NS + 150,
            Level::Warn,
            &Source::new(source),
            message,
        );
    }
    let whole = text.len();
    text.extend_from_slice(b"2026-11-21T01:29:53.12345");
    vec![
        text[..whole].to_vec(),
        [&text[..whole], b"written by hand\n", &text[..whole]].concat(),
        [&text[..whole], &[0; 100], b"\n"].concat(),
        text,
    ]
}

/// Three bytes, what is spoilt of a sealed segment, and then either its bytes, or where and what they are
/// overwritten with. Readers end, give only what is there, and blame what is wrong; with a sound directory the answers are
/// those of the text.
///
/// # Panics
/// Where that is not so.
pub fn sealed(data: &[u8]) {
    let mut script = Script(data);
    let which = usize::from(script.byte()) % 3;
    let is_whole_file = script.byte() & 1 == 1;
    let mut files = fixed_files().clone();
    if is_whole_file {
        files[which] = script.0.to_vec();
    } else {
        while !script.is_empty() {
            // From the end: tables and checks are there.
            let from_end = script.number(2) as usize;
            let length = usize::from(script.byte()) % 16 + 1;
            let bytes = script.bytes(length);
            let file = &mut files[which];
            let at = file.len().saturating_sub(from_end);
            let end = (at + bytes.len()).min(file.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
        }
    }
    let logs = Logs::new();
    let paths = [
        logs.id.index_path(&logs.dir),
        logs.id.sealed_path(&logs.dir),
        logs.id.filter_path(&logs.dir),
    ];
    for (path, bytes) in paths.iter().zip(&files) {
        logs.write(path, bytes);
    }
    logs.read_all_ways(fixed_text());
    if let Ok(text) = SegmentText::open(&logs.dir, logs.id) {
        let length = text.length_bytes().unwrap_or_default();
        let mut piece = vec![0; length.min(4096) as usize];
        // What it says it has it may not have; that is an error, and no more.
        let _ = text.read_exact_at(&mut piece, length.saturating_sub(4096));
    }
    let sealed_before = std::fs::read(&paths[1]).expect("it is there");
    let _ = recover_segment(&logs.dir, logs.id, None);
    let _ = rebuild_index(&logs.dir, logs.id, false);
    let sealed_after = std::fs::read(&paths[1]).expect("it is there");
    assert!(
        sealed_before == sealed_after,
        "sealed text is never changed"
    );
    if which != 1 {
        let report = verify_segment(&logs.dir, logs.id).expect("it can be read");
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        logs.read_all_ways(fixed_text());
    }
}

pub(super) fn sealed_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, file) in fixed_files().iter().enumerate() {
        seeds.push([&[which as u8, 1][..], file].concat());
        seeds.push(vec![which as u8, 0, 20, 0, 3, 0xff, 0xff, 0xff, 0xff]);
        seeds.push(vec![
            which as u8,
            0,
            17,
            1,
            7,
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            40,
            0,
            0,
            9,
        ]);
    }
    seeds
}
