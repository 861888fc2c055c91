//! Reports of rows that are made up: what is said of them is what is in them.

use super::words::{COUNT, TIME, three, unit, varied};
use super::*;
use crate::row::{Figure, Guarantees, LatencyNs, Round, Spread, Varied};

/// A row of a round for each rate.
fn rated(peer: &str, rates: &[f64]) -> Row {
    let rounds = rates.iter().map(|&rate| Round {
        events: 1_000_000,
        seconds: 1e6 / rate,
        cpu_seconds: 0.5,
        ..Round::default()
    });
    Row {
        part: "throughput".to_owned(),
        work: "64 B, one to one".to_owned(),
        peer: peer.to_owned(),
        version: "1.2".to_owned(),
        figure: Figure::Rate,
        varied: None,
        is_floor: false,
        guarantees: Guarantees {
            bounded: true,
            ..Guarantees::default()
        },
        rounds: rounds.collect(),
        skipped: None,
        failed: None,
    }
}

fn floor(peer: &str, rates: &[f64]) -> Row {
    Row {
        is_floor: true,
        ..rated(peer, rates)
    }
}

/// A curve: what an event costs, in ns, with so much of what varies.
fn curve(peer: &str, costs: &[(u64, f64)]) -> Vec<Row> {
    let row = |&(value, cost): &(u64, f64)| Row {
        figure: Figure::Cost,
        rounds: vec![Round {
            events: 1_000_000,
            seconds: cost / 1e3,
            ..Round::default()
        }],
        varied: Some(Varied {
            name: "publishers".to_owned(),
            value,
        }),
        ..rated(peer, &[])
    };
    costs.iter().map(row).collect()
}

fn head() -> Head {
    Head {
        date: "2026-11-21 01:29 +00:00".to_owned(),
        machine: "a processor, 2 cores".to_owned(),
        commit: Some("abc".to_owned()),
        version: "0.1.0".to_owned(),
        command: "millpond bench --growth".to_owned(),
        is_tiny: false,
    }
}

/// Everything that a report can have.
fn all_kinds() -> Vec<Row> {
    let mut lossy = rated("loser", &[40e6, 41e6, 42e6]);
    lossy.rounds[1].lost = 1234;
    lossy.guarantees.lossy = true;
    let mut late = rated("millpond, asleep", &[1e3, 1e3, 1e3]);
    late.part = "wake".to_owned();
    late.work = "64 B to a sleeping receiver with a name that is longer than any terminal is wide"
        .to_owned();
    late.figure = Figure::Latency;
    for (round, p50) in late.rounds.iter_mut().zip([5000, 7000, 6000]) {
        round.latency_ns = Some(LatencyNs {
            p50,
            p99: 4 * p50,
            p999: 8 * p50,
            max: 100 * p50,
        });
        round.memory_bytes = Some(3 << 20);
        round.disk_bytes = Some(128_000_000);
    }
    let skipped = Row {
        skipped: Some(
            "no server: `nats-server` is not installed | apt-get install nats-server".to_owned(),
        ),
        ..rated("nats core", &[])
    };
    let failed = Row {
        failed: Some("round 2: <it> ended".to_owned()),
        ..rated("unix stream socket", &[2e6])
    };
    let mut rows = vec![
        skipped,
        floor("bare ring", &[50e6, 51e6, 52e6]),
        rated("millpond", &[25e6, 26e6, 24e6]),
        rated("millpond, by 16", &[30e6, 31e6, 32e6]),
        rated("rtrb, in process", &[90e6, 91e6, 92e6]),
        rated("iceoryx2", &[10e6, 11e6, 12e6]),
        lossy,
        failed,
        late,
    ];
    rows.extend(curve("millpond", &[(1, 20.0), (8, 24.0), (64, 50.0)]));
    rows.extend(curve("bare ring", &[(1, 8.0), (8, 8.1), (64, 8.2)]));
    rows
}

fn pages(rows: &[Row]) -> (String, String) {
    let page = page::Page::of(&[head()], rows, &[]);
    (page.markdown(), page.html())
}

#[test]
fn a_winner_is_named_with_its_factor_and_what_it_promises_otherwise() {
    let rows = all_kinds();
    let (markdown, _) = pages(&rows);
    // By pairs of rounds: 40/30, 41/31, 42/32.
    let sentence = "loser wins, 1.32x faster than the best of millpond. loser: 40.9 M/s (40.0 to 42.0); millpond, by 16: \
                    31.0 M/s (30.0 to 32.0).";
    assert!(markdown.contains(sentence), "{markdown}");
    assert!(markdown.contains("They do not promise the same. loser: bounded, loses silently; millpond, by 16: bounded, never blocks."));
    assert!(markdown.contains("loser lost 1,234 of 3,000,000 (0.04 %)."));
    assert!(
        markdown.contains("The best between threads of one process is 3.60x faster than millpond.")
    );
    assert!(markdown.contains(
        "The nearest floor is 2.00x faster than millpond. bare ring: 51.0 M/s (50.0 to 52.0)."
    ));
    let own = "| throughput | 64 B, one to one | loser | 1.32x faster | millpond, by 16 |";
    assert!(markdown.contains(own), "{markdown}");
    // The best first, with the ratio to the first row of millpond; floors and in-process peers win nothing.
    let order = [
        "rtrb, in process",
        "bare ring (floor)",
        "loser",
        "millpond, by 16",
        "millpond**",
        "iceoryx2",
        "unix stream",
    ];
    let from = markdown.find("### 64 B, one to one").expect("a heading");
    let at: Vec<_> = order
        .map(|name| markdown[from..].find(name).expect("a line"))
        .to_vec();
    assert!(at.is_sorted(), "{at:?} {}", &markdown[from..]);
}

#[test]
fn rounds_that_overlap_have_no_winner() {
    let rows = [
        rated("millpond", &[10e6, 20e6, 30e6]),
        rated("other", &[9e6, 15e6, 18e6]),
    ];
    let (markdown, _) = pages(&rows);
    assert!(markdown.contains("Too close to tell, their rounds overlap: millpond: 20.0 M/s (10.0 to 30.0); other: 15.0 M/s (9.00 to 18.0)."), "{markdown}");
    assert!(!markdown.contains(" wins, ") && !markdown.contains("chance"));
    let (markdown, _) = pages(&[rated("millpond", &[1e6]), rated("other", &[2e6])]);
    assert!(markdown.contains("That was one round, and may be chance."));
    // Less is better of a cost.
    let mut rows = [rated("millpond", &[1e6; 3]), rated("other", &[2e6; 3])];
    rows.iter_mut().for_each(|row| row.figure = Figure::Cost);
    let (markdown, _) = pages(&rows);
    assert!(
        markdown.contains(
            "other wins, 2.00x faster than the best of millpond. other: 500 ns; millpond: 1.00 us."
        ),
        "{markdown}"
    );
}

#[test]
fn who_did_not_run_has_the_reason_in_the_table() {
    let rows = all_kinds();
    let (markdown, html) = pages(&rows);
    let reason = "skipped: no server: `nats-server` is not installed \\| apt-get";
    assert!(
        markdown.contains(&format!("| nats core | {reason}")),
        "{markdown}"
    );
    assert!(
        markdown.contains("unix stream socket failed: round 2: &lt;it> ended, after 1 round."),
        "{markdown}"
    );
    assert!(html.contains("<code>nats-server</code> is not installed | apt-get"));
    assert!(html.contains("&lt;it&gt; ended") && !html.contains("<it>"));
    for width in [30, 80, usize::MAX] {
        let text = table(&rows, width)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(
            text.contains("nats core skipped: no server: `nats-server` is not"),
            "{text}"
        );
        assert!(text.contains("failed: round 2"), "{text}");
    }
}

#[test]
fn a_table_keeps_to_its_width_and_to_what_was_lost() {
    let rows = all_kinds();
    for width in (30..200).chain([usize::MAX]) {
        let text = table(&rows, width);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(width), "{width}:\n{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for figure in [
            "25.0 M/s",
            "40.9 M/s",
            "1,234 of 3,000,000",
            "6.00 us",
            "1.60x faster",
        ] {
            assert!(words.contains(figure), "{width}, {figure}:\n{text}");
        }
    }
    let wide = table(&rows, usize::MAX);
    for title in [
        "range",
        "p99.9",
        "CPU s/M",
        "MiB",
        "disk B/event",
        "promises",
        "version",
    ] {
        assert!(wide.contains(title), "{title}:\n{wide}");
    }
    assert!(
        wide.contains("700 us"),
        "the greatest of all rounds: {wide}"
    );
    assert_eq!(
        wide.matches("MiB").count(),
        1,
        "not where nobody measured it"
    );
}

#[test]
fn a_knee_is_where_cost_first_leaves_its_least() {
    let said = |costs: &[(u64, f64)]| {
        let rows = curve("millpond", costs);
        let parts = works::parts(&rows);
        growth::sentences(&parts[0].curves[0]).join(" ")
    };
    let flat = said(&[(8, 24.0), (1, 20.0), (64, 29.9)]);
    assert_eq!(
        flat,
        "millpond: no knee up to 64 publishers, 29.9 ns there; from the least (20.0 ns at 1 publisher) on it is at most 1.50x that."
    );
    let rising = said(&[(1, 20.0), (8, 31.0), (64, 90.0)]);
    assert_eq!(
        rising,
        "millpond: knee at 8 publishers, 31.0 ns, which is 1.55x its least (20.0 ns at 1 publisher); at 64 publishers it is 90.0 ns, 4.50x."
    );
    // What falls is no knee, and what comes back is told.
    let falling = said(&[(1, 90.0), (8, 20.0), (64, 21.0)]);
    assert!(
        falling.contains("no knee up to 64 publishers") && falling.contains("at 8 publishers"),
        "{falling}"
    );
    let back = said(&[(1, 20.0), (8, 40.0), (64, 21.0)]);
    assert!(
        back.contains("knee at 8 publishers")
            && back.ends_with("at 64 publishers it is 21.0 ns, 1.05x."),
        "{back}"
    );
    assert_eq!(
        said(&[(4, 20.0)]),
        "millpond: 20.0 ns at 4 publishers, the only point."
    );
    let mut rows = curve("millpond", &[(1, 20.0), (2, 30.0)]);
    rows[0].rounds[0].lost = 10;
    rows[1].rounds.clear();
    rows[1].skipped = Some("no room".to_owned());
    let parts = works::parts(&rows);
    let said = growth::sentences(&parts[0].curves[0]);
    assert_eq!(
        said[1..],
        [
            "millpond at 1 publisher lost 10 of 1,000,000 (0.00 %).",
            "millpond at 2 publishers skipped: no room."
        ]
    );
}

#[test]
fn rates_grow_as_what_an_event_costs() {
    let mut rows = curve("millpond", &[(1, 20.0), (2, 40.0)]);
    rows.iter_mut().for_each(|row| row.figure = Figure::Rate);
    let parts = works::parts(&rows);
    let said = growth::sentences(&parts[0].curves[0]);
    assert!(
        said[0].contains("knee at 2 publishers, 40.0 ns, which is 2.00x"),
        "{said:?}"
    );
}

#[test]
fn a_plot_has_no_more_lines_than_can_be_told_apart() {
    let mut rows = Vec::new();
    for work in ["needle", "last 200", "counts"] {
        for peer in ["millpond", "sqlite", "ripgrep"] {
            let points = curve(peer, &[(1, 5.0), (10, 6.0)]).into_iter();
            rows.extend(points.map(|row| Row {
                work: work.to_owned(),
                ..row
            }));
        }
    }
    let parts = works::parts(&rows);
    let plots = growth::plots("query", &parts[0].curves[0]);
    assert_eq!(plots.len(), 3);
    assert_eq!(plots[0].0, "growth-query-publishers-ns-event-1.svg");
    assert!(
        plots
            .iter()
            .all(|(_, svg)| svg.matches("<polyline").count() == 3)
    );
    let two = works::parts(&rows[..8]);
    assert_eq!(growth::plots("query", &two[0].curves[0]).len(), 1);
}

#[test]
fn the_report_of_its_own_rows_is_the_same_report() {
    let place = tempfile::tempdir().expect("a place for it");
    let dir = place.path().join("deep/report");
    let mut report = Report::default();
    report.add(Some(head()), all_kinds());
    report.write(&dir).expect("it can be written");
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("it is there");
    let first = (read("README.md"), read("report.html"), read(ROWS_FILE));
    let plot = "growth-throughput-publishers-ns-event.svg";
    assert!(first.0.contains(&format!("]({plot})")) && read(plot).contains("<polyline"));

    let mut again = Report::default();
    again.read(ROWS_FILE, &first.2).expect("rows");
    assert_eq!(again, report);
    fs::write(dir.join("growth-old.svg"), "of an earlier one").expect("room");
    fs::write(dir.join("scenarios.md"), "# Scenarios, played\n").expect("room");
    again.write(&dir).expect("it can be written");
    assert!(!dir.join("growth-old.svg").exists());
    assert!(read("README.md").contains("- [Scenarios, played](scenarios.md)"));
    fs::remove_file(dir.join("scenarios.md")).expect("it was there");
    again.write(&dir).expect("it can be written");
    assert_eq!(
        (read("README.md"), read("report.html"), read(ROWS_FILE)),
        first
    );
}

#[test]
fn plots_of_others_stay() {
    let place = tempfile::tempdir().expect("a place for it");
    let theirs = place.path().join("growth-of-my-garden.svg");
    fs::write(&theirs, "tomatoes").expect("room");
    Report::default()
        .write(place.path())
        .expect("it can be written");
    assert!(theirs.exists());
}

#[test]
fn the_page_in_one_file_needs_nothing_else() {
    let mut rows = all_kinds();
    rows.push(rated("<script>alert(1)</script>", &[1e6]));
    let (markdown, html) = pages(&rows);
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert!(html.contains("name=\"viewport\"") && html.contains("<svg "));
    for foreign in ["<script", "src=", "url(", "<link", "@import"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    let namespaces = html.matches("http").count();
    assert_eq!(
        namespaces,
        html.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
    );
    assert!(!markdown.contains("<script"));
    for tag in [
        "table", "tr", "td", "div", "p", "ul", "li", "h2", "h3", "svg", "code",
    ] {
        let opened =
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn what_was_measured_again_takes_the_place_of_what_was_there() {
    let mut report = Report::default();
    report.add(
        Some(head()),
        vec![rated("millpond", &[1e6]), rated("other", &[2e6])],
    );
    report.add(Some(head()), vec![rated("millpond", &[3e6])]);
    let peers: Vec<_> = report
        .rows()
        .iter()
        .map(|row| (row.peer.as_str(), row.rounds.len()))
        .collect();
    assert_eq!(peers, [("other", 1), ("millpond", 1)]);
    assert_eq!(
        report.rows()[1]
            .spread()
            .map(|spread| spread.median.round()),
        Some(3e6)
    );
    assert_eq!(report.text().expect("JSON").matches("\"head\"").count(), 1);
}

#[test]
fn a_line_that_is_no_row_is_named_and_nothing_is_taken() {
    let mut report = Report::default();
    let good = serde_json::to_string(&rated("millpond", &[1e6])).expect("JSON");
    let error = report
        .read("bus.jsonl", &format!("{good}\n\n{{\"part\": 7}}\n"))
        .expect_err("no row");
    assert!(
        error.to_string().starts_with("bus.jsonl, line 3: no row: "),
        "{error}"
    );
    assert!(report.rows().is_empty());
}

#[test]
fn a_report_of_nothing_and_of_nonsense_is_written_all_the_same() {
    let (markdown, html) = pages(&[]);
    assert!(markdown.contains("How to do it again") && html.contains("</html>"));
    let mut odd = rated("millpond", &[1e6]);
    odd.rounds[0].seconds = 0.0;
    odd.rounds[0].events = 0;
    let mut rows = vec![odd.clone(), rated("other", &[1e6])];
    rows.push(Row {
        varied: Some(Varied {
            name: "log bytes".to_owned(),
            value: 0,
        }),
        ..odd
    });
    let (markdown, html) = pages(&rows);
    let text = table(&rows, 40);
    for said in [markdown, html, text] {
        assert!(!said.contains("NaN") && !said.contains("inf"), "{said}");
    }
}

#[test]
fn figures_have_three_digits_and_a_unit_that_suits_them() {
    assert_eq!(
        [0.0, 0.001_234, 0.5, 9.999, 12.34, 123.4, 1234.0].map(three),
        ["0", "0.00123", "0.500", "10.0", "12.3", "123", "1234"]
    );
    assert_eq!(
        [999.4, 999.6, 25e6].map(|value| unit(Figure::Rate).text(value)),
        ["999/s", "1.00 k/s", "25.0 M/s"]
    );
    assert_eq!(
        [0.5, 17.2, 61_000.0].map(|ms| unit(Figure::Time).text(ms)),
        ["500 us", "17.2 ms", "61.0 s"]
    );
    assert_eq!(unit(Figure::Bandwidth).text(1.5e9), "1.50 GB/s");
    assert_eq!(
        (COUNT.text(12.0), TIME.text(f64::NAN)),
        ("12.0".to_owned(), "-".to_owned())
    );
    let spread = Spread {
        median: 1.2e6,
        min: 0.9e6,
        max: 2e6,
    };
    assert_eq!(
        unit(Figure::Rate).spread(spread),
        "1.20 M/s (0.900 to 2.00)"
    );
    let much = [
        ("publishers", 1),
        ("lanes", 1000),
        ("payload bytes", 65_536),
        ("log bytes", 100_000_000),
        ("log bytes", 10_000_000_000),
    ];
    assert_eq!(
        much.map(|(name, value)| varied(name, value)),
        [
            "1 publisher",
            "1,000 lanes",
            "64 KiB of payload",
            "100 MB of log",
            "10.0 GB of log"
        ]
    );
}
