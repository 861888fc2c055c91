//! Rows as text.

use millpond_peers::{Guarantees, Row};

use crate::work::Part;

/// The head of one part.
pub fn title(part: Part) -> String {
    let unit = match part {
        Part::Publish => "ns/event",
        part if part.is_latency() => "p50 us",
        _ => "M events/s",
    };
    format!(
        "\n{}: {}\n{:32} {unit:>10}  {:22} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>9}  promises, version",
        part.name(),
        part.words(),
        "",
        "(least to greatest)",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "CPU s/M",
        "MiB",
        "lost",
    )
}

/// One row; its figures are medians of the rounds.
pub fn line(part: Part, row: &Row) -> String {
    let mut text = format!("{:32} ", row.peer);
    let (count, why) = (row.rounds.len(), row.skipped.as_deref().unwrap_or_default());
    if count == 0 {
        return text + "skipped: " + why;
    }
    let figures = row.rounds.iter().map(|round| {
        let events = round.events as f64;
        match (part, round.latency_ns) {
            (Part::Publish, _) => round.seconds * 1e9 / events,
            (part, Some(latency)) if part.is_latency() => latency.p50 as f64 / 1e3,
            (part, None) if part.is_latency() => f64::NAN,
            _ => (events - lost_each(part, round.lost)) / round.seconds / 1e6,
        }
    });
    let (least, median, greatest) = spread(figures.collect());
    text += &format!(
        "{median:10.3}  {:22}",
        format!("({least:.3} to {greatest:.3})")
    );
    let latencies: Vec<_> = row
        .rounds
        .iter()
        .filter_map(|round| round.latency_ns)
        .collect();
    let picks: [fn(&millpond_peers::LatencyNs) -> u64; 4] =
        [|of| of.p50, |of| of.p99, |of| of.p999, |of| of.max];
    for pick in picks {
        text += &match latencies.is_empty() {
            true => format!(" {:>9}", "-"),
            false => {
                let all = latencies.iter().map(|of| pick(of) as f64 / 1e3).collect();
                format!(" {:9.3}", spread(all).1)
            }
        };
    }
    let of_rounds =
        |pick: fn(&millpond_peers::Round) -> f64| spread(row.rounds.iter().map(pick).collect()).1;
    let cpu = of_rounds(|round| round.cpu_seconds * 1e6 / round.events as f64);
    let memory = of_rounds(|round| round.memory_bytes.unwrap_or(0) as f64 / (1 << 20) as f64);
    let lost: u64 = row.rounds.iter().map(|round| round.lost).sum();
    text += &format!(
        " {cpu:8.2} {memory:8.1} {lost:9}  {}; {}",
        words(&row.guarantees),
        row.version
    );
    if !why.is_empty() {
        text += &format!("; {why}");
    }
    text
}

/// Of four receivers, what one lost on average.
fn lost_each(part: Part, lost: u64) -> f64 {
    lost as f64 / if part == Part::FanOut { 4.0 } else { 1.0 }
}

fn spread(mut figures: Vec<f64>) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    (
        at(0),
        at(figures.len() / 2),
        at(figures.len().saturating_sub(1)),
    )
}

fn words(promised: &Guarantees) -> String {
    let word = |is_so: bool, yes: &'static str, no: &'static str| if is_so { yes } else { no };
    let all = [
        word(promised.bounded, "bounded", "unbounded"),
        word(promised.blocking, "may block", "never blocks"),
        word(promised.lossy, "loses silently", ""),
        word(promised.crash_safe, "survives its sender", ""),
        word(promised.durable, "durable", ""),
    ];
    all.into_iter()
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use millpond_peers::Round;

    use super::*;

    fn row(rounds: Vec<Round>, skipped: Option<&str>) -> Row {
        Row {
            part: String::new(),
            work: String::new(),
            peer: "a peer".into(),
            version: "1.0".into(),
            guarantees: Guarantees {
                bounded: true,
                ..Guarantees::default()
            },
            rounds,
            skipped: skipped.map(str::to_owned),
        }
    }

    #[test]
    fn what_was_lost_is_shown_and_not_in_the_rate() {
        let round = |seconds, lost| Round {
            events: 4_000_000,
            seconds,
            lost,
            ..Round::default()
        };
        let rounds = vec![round(1.0, 0), round(2.0, 0), round(1.0, 2_000_000)];
        let text = line(Part::Throughput, &row(rounds, None));
        assert!(text.contains(" 2.000  (2.000 to 4.000)"), "{text}");
        assert!(
            text.contains(" 2000000  bounded, never blocks; 1.0"),
            "{text}"
        );
    }

    #[test]
    fn a_peer_that_failed_says_so_beside_what_it_did() {
        let text = line(Part::Wake, &row(vec![], Some("not installed")));
        assert!(text.ends_with("skipped: not installed"), "{text}");
        let round = Round {
            events: 1,
            seconds: 1.0,
            ..Round::default()
        };
        let text = line(
            Part::Publish,
            &row(
                vec![round],
                Some("round 2: killed by the watchdog after 20 s"),
            ),
        );
        assert!(
            text.ends_with("round 2: killed by the watchdog after 20 s"),
            "{text}"
        );
    }
}
