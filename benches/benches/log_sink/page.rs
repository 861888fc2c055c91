//! The figures as tables, and the place in the page where they go.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use millpond_benches::{Spread, commit, machine, percentiles};

use crate::asker::{Answers, QUESTIONS};
use crate::store::{Cell, Figures, Sizes, Store};

const BEGIN: &str = "<!-- results: begin, written by the bench -->";
const END: &str = "<!-- results: end -->";
const PAGE: &str = "log-sink.md";
const PLOT: &str = "log-sink.svg";

/// Where and how it was measured.
pub(crate) struct Conditions {
    pub(crate) rounds: usize,
    text: String,
}

impl Conditions {
    pub(crate) fn new(sizes: &Sizes, dir: &Path, rounds: usize) -> Self {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("a clock after 1970");
        let time = millpond_logfile::format_time(now.as_nanos() as u64);
        let date = String::from_utf8_lossy(&time[..10]).into_owned();
        let text = format!(
            "{date}, {}, files on {}, commit {}, SQLite {}. {} s a cell ({} s for sync by interval) or {} rows, {} rows \
             before it; rounds: {rounds}.",
            machine(),
            file_system(dir),
            commit(),
            rusqlite::version(),
            sizes.time.as_secs_f64(),
            sizes.time.max(sizes.interval_time_min).as_secs_f64(),
            grouped(sizes.rows_max as f64),
            grouped(sizes.prefill as f64),
        );
        Conditions { rounds, text }
    }
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn file_system(dir: &Path) -> String {
    let Ok(found) = rustix::fs::statfs(dir) else {
        return "an unknown file system".to_owned();
    };
    match found.f_type as u32 {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "XFS".to_owned(),
        0x9123_683e => "Btrfs".to_owned(),
        0x0102_1994 => "tmpfs, where a sync costs nothing and says nothing".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        kind => format!("a file system of type {kind:#x}"),
    }
}

/// A cell and what its rounds came to.
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    rounds: Vec<Figures>,
}

impl Measured {
    pub(crate) fn new(cell: Cell) -> Self {
        Measured {
            cell,
            rounds: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, figures: Figures) {
        self.rounds.push(figures);
    }

    fn spread(&self, figure: impl Fn(&Figures) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(figure).collect())
    }

    pub(crate) fn rows_per_s(&self) -> Spread {
        self.spread(|round| round.rows as f64 / round.elapsed.as_secs_f64())
    }

    /// Middle, 99 of 100, and longest time of a commit, in ms, over all rounds; the last is the number of commits.
    fn commits_ms(&self) -> Option<([f64; 3], usize)> {
        let times: Vec<u64> = self
            .rounds
            .iter()
            .flat_map(|round| round.commits_ns.clone())
            .collect();
        let count = times.len();
        (count > 0).then(|| (summary_ms(times), count))
    }

    pub(crate) fn worst_commit_ms(&self) -> Option<f64> {
        self.commits_ms().map(|([_, _, worst], _)| worst)
    }

    fn answers(&self) -> Option<Answers> {
        let mut all = Answers::default();
        for round in &self.rounds {
            all.merge(round.answers.as_ref()?);
        }
        Some(all)
    }
}

fn summary_ms(times_ns: Vec<u64>) -> [f64; 3] {
    let [middle, most, _, worst] = percentiles(times_ns);
    [middle, most, worst].map(|time_ns| time_ns as f64 / 1e6)
}

/// The section of the page between its marks.
pub(crate) fn results(conditions: &Conditions, measured: &[Measured], sizes: &Sizes) -> String {
    let mut out = format!(
        "{conditions}\n\n![Rows per second and worst commit time by rows per commit]({PLOT})\n"
    );
    let rate = |entry: &Measured| Some(rounded(entry.rows_per_s().median));
    let worst = |entry: &Measured| entry.worst_commit_ms().map(milliseconds);
    for (title, reader) in [("Nobody reads", false), ("One reads", true)] {
        let title = format!("Rows per second. {title}");
        by_batch(&mut out, &title, measured, sizes, reader, &rate);
    }
    for (title, reader) in [("Nobody reads", false), ("One reads", true)] {
        let title = format!("Worst commit, ms. {title}");
        by_batch(&mut out, &title, measured, sizes, reader, &worst);
    }
    answers(&mut out, measured, sizes);
    out.push_str("\n<details><summary>Every cell</summary>\n");
    all(&mut out, measured, false);
    all(&mut out, measured, true);
    out.push_str("\n</details>\n");
    out
}

fn row(out: &mut String, columns: &[String]) {
    writeln!(out, "| {} |", columns.join(" | ")).expect("a string takes everything");
}

/// `texts` are the columns that are not figures.
fn head(out: &mut String, title: &str, texts: &[usize], columns: &[String]) {
    writeln!(out, "\n### {title}\n").expect("a string takes everything");
    row(out, columns);
    let rule = |index: usize| {
        if texts.contains(&index) {
            "---"
        } else {
            "---:"
        }
    };
    let rules: Vec<_> = (0..columns.len())
        .map(|index| rule(index).to_owned())
        .collect();
    row(out, &rules);
}

fn by_batch(
    out: &mut String,
    title: &str,
    measured: &[Measured],
    sizes: &Sizes,
    reader: bool,
    figure: &dyn Fn(&Measured) -> Option<String>,
) {
    let mut batches: Vec<_> = sizes.batches.iter().copied().map(Some).collect();
    batches.push(None);
    let mut columns = vec!["rows per commit".to_owned()];
    columns.extend(
        batches
            .iter()
            .map(|batch| batch.map_or("unconfirmed".to_owned(), |rows| grouped(rows as f64))),
    );
    columns.push("a confirmed row survives".to_owned());
    head(out, title, &[0, columns.len() - 1], &columns);
    for store in Store::all() {
        let find = |batch: Option<usize>| {
            let wanted = Cell {
                store,
                batch,
                reader,
            };
            measured.iter().find(|entry| entry.cell == wanted)
        };
        let mut columns = vec![store.name()];
        columns.extend(batches.iter().map(|&batch| {
            find(batch)
                .and_then(figure)
                .unwrap_or_else(|| "-".to_owned())
        }));
        columns.push(store.promise().to_owned());
        row(out, &columns);
    }
}

/// How long the reader waited, beside writers of one batch size.
fn answers(out: &mut String, measured: &[Measured], sizes: &Sizes) {
    let batch = sizes
        .batches
        .iter()
        .copied()
        .filter(|&rows| rows <= 1000)
        .max();
    let title = format!(
        "The reader's answers, ms: p50 / worst, beside {} rows per commit",
        batch.unwrap_or_default()
    );
    let mut columns = vec!["".to_owned()];
    columns.extend(QUESTIONS.map(str::to_owned));
    let more = [
        "answers",
        "rows at the end",
        "found it locked: reader",
        "writer",
    ];
    columns.extend(more.map(str::to_owned));
    head(out, &title, &[0], &columns);
    for entry in measured.iter().filter(|entry| entry.cell.batch == batch) {
        let Some(answers) = entry.answers() else {
            continue;
        };
        let mut columns = vec![entry.cell.store.name()];
        columns.extend(answers.times_ns.iter().map(|times| {
            if times.is_empty() {
                return "-".to_owned();
            }
            let [middle, _, worst] = summary_ms(times.clone());
            format!("{} / {}", milliseconds(middle), milliseconds(worst))
        }));
        let busy: u64 = entry.rounds.iter().map(|round| round.busy).sum();
        let stored = entry.spread(|round| round.stored_rows as f64);
        columns.extend([
            answers.all_ns().len().to_string(),
            rounded(stored.median),
            answers.busy.to_string(),
            busy.to_string(),
        ]);
        row(out, &columns);
    }
}

fn all(out: &mut String, measured: &[Measured], reader: bool) {
    let title = match reader {
        false => "Every cell. Nobody reads",
        true => "Every cell. One reads",
    };
    let mut columns: Vec<String> = [
        "",
        "rows per commit",
        "rows/s",
        "(least to greatest)",
        "commits",
        "commit p50 ms",
        "p99",
        "worst",
        "longest batch ms",
        "CPU s per M rows: caller",
        "all",
        "bytes/row",
    ]
    .map(str::to_owned)
    .into();
    if reader {
        let more = [
            "answers",
            "answer p50 ms",
            "p99",
            "worst",
            "locked: reader",
            "writer",
        ];
        columns.extend(more.map(str::to_owned));
    }
    head(out, title, &[0], &columns);
    for entry in measured.iter().filter(|entry| entry.cell.reader == reader) {
        let rate = entry.rows_per_s();
        let per_million = |cpu_ns: u64, round: &Figures| cpu_ns as f64 / 1e3 / round.rows as f64;
        let caller = entry.spread(|round| per_million(round.caller_cpu_ns, round));
        let cpu = entry.spread(|round| per_million(round.cpu_ns, round));
        let bytes = entry.spread(|round| round.file_bytes as f64 / round.stored_rows as f64);
        let stand = entry.spread(|round| round.stand_ns_max as f64 / 1e6);
        let range = format!("{} to {}", rounded(rate.min), rounded(rate.max));
        let mut columns = vec![
            entry.cell.store.name(),
            entry.cell.batch_name(),
            rounded(rate.median),
            range,
        ];
        match entry.commits_ms() {
            Some((times, count)) => {
                columns.push(count.to_string());
                columns.extend(times.map(milliseconds));
            }
            None => columns.extend(["-"; 4].map(str::to_owned)),
        }
        columns.push(milliseconds(stand.max));
        columns.extend([caller.median, cpu.median].map(|seconds| format!("{seconds:.2}")));
        columns.push(format!("{:.0}", bytes.median));
        if let Some(answers) = entry.answers() {
            let times = answers.all_ns();
            columns.push(times.len().to_string());
            columns.extend(summary_ms(times).map(milliseconds));
            let busy: u64 = entry.rounds.iter().map(|round| round.busy).sum();
            columns.extend([answers.busy, busy].map(|count| count.to_string()));
        }
        row(out, &columns);
    }
}

/// Three digits that count, in groups: 1234567 is 1,230,000.
fn rounded(value: f64) -> String {
    if value < 1.0 {
        return format!("{value:.1}");
    }
    let step = 10f64.powi((value.log10().floor() as i32 - 2).max(0));
    grouped((value / step).round() * step)
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn milliseconds(value: f64) -> String {
    match value {
        0.0..1.0 => format!("{value:.3}"),
        1.0..100.0 => format!("{value:.1}"),
        _ => rounded(value),
    }
}

/// Puts the results between the marks of the page in `docs`, or makes a page of them, and the plot beside it.
pub(crate) fn write(docs: &Path, results: &str, plot: &str) {
    std::fs::create_dir_all(docs).expect("room on the disk");
    let path = docs.join(PAGE);
    let page = std::fs::read_to_string(&path).unwrap_or_else(|_| format!("{BEGIN}\n{END}\n"));
    let (before, rest) = page
        .split_once(BEGIN)
        .unwrap_or_else(|| panic!("{} lacks the line {BEGIN}", path.display()));
    let (_, behind) = rest
        .split_once(END)
        .unwrap_or_else(|| panic!("{} lacks the line {END}", path.display()));
    let page = format!("{before}{BEGIN}\n{results}{END}{behind}");
    std::fs::write(&path, page).expect("room on the disk");
    std::fs::write(docs.join(PLOT), plot).expect("room on the disk");
    println!("wrote {} and {PLOT} beside it", path.display());
}
