//! Rows as a table for people.

use millpond_peers::{Guarantees, Round, Row};

use crate::peer::{Peer, Result};

/// Prints peers with their versions, or why they cannot run.
pub fn print_found(peers: &[Box<dyn Peer>], found: &[Result<String>]) {
    for (peer, found) in peers.iter().zip(found) {
        let said = match found {
            Ok(version) => version.clone(),
            Err(why) => format!("skipped: {why}"),
        };
        println!("{:26}  {said}", peer.name());
    }
}

/// Prints the rows of one part.
pub fn print(rows: &[Row]) {
    let Some(first) = rows.first() else {
        return;
    };
    let has_latency = rows
        .iter()
        .flat_map(|row| &row.rounds)
        .any(|round| round.latency_ns.is_some());
    println!("\n{}: {}\n", first.part, first.work);
    let mut cells = vec![head(has_latency)];
    for row in rows {
        cells.push(figures(row, has_latency));
    }
    let columns = cells[0].len();
    let is_whole = |row: &&Vec<String>| row.len() == columns;
    let width_of = |column: usize| {
        cells
            .iter()
            .filter(is_whole)
            .map(move |row| row[column].chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width_of(column).unwrap_or_default())
        .collect();
    let name_width = rows
        .iter()
        .map(|row| row.peer.chars().count())
        .max()
        .unwrap_or_default();
    for row in cells {
        if row.len() < columns {
            println!("{:name_width$}  {}", row[0], row[1]);
            continue;
        }
        let padded: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| match column {
                0 => format!("{cell:width$}", width = widths[0].max(name_width)),
                last if last + 1 == columns => cell.clone(),
                _ => format!("{cell:>width$}", width = widths[column]),
            })
            .collect();
        println!("{}", padded.join("  "));
    }
    println!();
    for row in rows.iter().filter(|row| !row.version.is_empty()) {
        println!("  {:name_width$}  {}", row.peer, row.version);
    }
}

fn head(has_latency: bool) -> Vec<String> {
    let speed: &[&str] = if has_latency {
        &["p50 us", "p99 us", "p99.9 us", "max us"]
    } else {
        &["M lines/s", "least to greatest"]
    };
    let rest = ["CPU s/M", "MiB", "B/line", "lost", "promises"];
    let names = ["peer"].iter().chain(speed).chain(&rest);
    names.map(|&name| name.to_owned()).collect()
}

/// A row's cells; two where it has no figures.
fn figures(row: &Row, has_latency: bool) -> Vec<String> {
    let mut cells = vec![row.peer.clone()];
    if let Some(why) = &row.skipped {
        cells.push(why.clone());
        return cells;
    }
    let of = |figure: &dyn Fn(&Round) -> f64| spread(row.rounds.iter().map(figure).collect());
    if has_latency {
        let figures: [&dyn Fn(&Round) -> u64; 4] = [
            &|round| round.latency_ns.unwrap_or_default().p50,
            &|round| round.latency_ns.unwrap_or_default().p99,
            &|round| round.latency_ns.unwrap_or_default().p999,
            &|round| round.latency_ns.unwrap_or_default().max,
        ];
        for figure in figures {
            cells.push(format!("{:.1}", of(&|round| figure(round) as f64 / 1e3)[1]));
        }
    } else {
        let [least, median, greatest] = of(&|round| round.events as f64 / round.seconds / 1e6);
        cells.push(format!("{median:.3}"));
        cells.push(format!("{least:.3} to {greatest:.3}"));
    }
    cells.push(format!(
        "{:.3}",
        of(&|round| round.cpu_seconds / round.events as f64 * 1e6)[1]
    ));
    let mib = of(&|round| round.memory_bytes.unwrap_or_default() as f64 / f64::from(1 << 20))[1];
    cells.push(format!("{mib:.0}"));
    let each = of(&|round| round.disk_bytes.unwrap_or_default() as f64 / round.events as f64)[1];
    cells.push(format!("{each:.0}"));
    cells.push(
        row.rounds
            .iter()
            .map(|round| round.lost)
            .sum::<u64>()
            .to_string(),
    );
    cells.push(in_words(&row.guarantees));
    cells
}

/// Least, median, greatest.
fn spread(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or_default();
    [
        at(0),
        at(figures.len() / 2),
        at(figures.len().saturating_sub(1)),
    ]
}

fn in_words(promise: &Guarantees) -> String {
    let when_full = match (promise.blocking, promise.lossy) {
        (_, true) => "may lose untold",
        (true, false) => "waits when full",
        (false, false) => "drops when full, and says how many",
    };
    let survives = match (promise.crash_safe, promise.durable) {
        (_, true) => "survives a power cut",
        (true, false) => "survives the process",
        (false, false) => "lost with the process",
    };
    let memory = if promise.bounded {
        "bounded"
    } else {
        "unbounded"
    };
    format!("{memory}, {when_full}, {survives}")
}
