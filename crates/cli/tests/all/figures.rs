//! What the daemon says of its own work, in each of the three forms, and by the checker of Prometheus.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Place, code, text};

/// What `promtool check metrics` says of a page; `None` where the tool is not installed.
pub(crate) fn promtool(page: &[u8]) -> Option<(bool, String)> {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut tool = match started {
        Ok(tool) => tool,
        Err(error) => {
            eprintln!("skipped: promtool cannot be started: {error}");
            return None;
        }
    };
    let mut input = tool.stdin.take().expect("asked for");
    input.write_all(page).expect("it reads");
    drop(input);
    let output = tool.wait_with_output().expect("it ends");
    let said = text(&output.stdout) + &text(&output.stderr);
    Some((output.status.success() && said.is_empty(), said))
}

#[test]
fn figures_are_in_text_json_and_prometheus_and_promtool_finds_nothing_wrong() {
    let mut place = Place::new("figures");
    // Before anybody consumes there are none, and the page is one all the same.
    let first = place.run(&["publish", "log:web", "early"]);
    assert_eq!(code(&first), 0, "{first:?}");
    let pages = |place: &Place| {
        let page = place.run(&["stats", "--format", "prometheus"]);
        assert_eq!(code(&page), 0, "{page:?}");
        if let Some((is_clean, said)) = promtool(&page.stdout) {
            assert!(is_clean, "{said}");
        }
        text(&page.stdout)
    };
    assert!(!pages(&place).contains("millpond_group_events"));
    place.start(&["--total-bytes", "1GiB"]);
    let lines = b"a line of some length\nand another one\n".repeat(500);
    let output = place.feed(&["pipe", "--service", "web"], &lines);
    assert_eq!(code(&output), 0, "{output:?}");
    place.stop();

    let json = place.run(&["stats", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let figures = &json["consumer"]["figures"];
    assert_eq!(figures["group_events"]["sum"], 1_001);
    let groups = &figures["group_events"]["count"];
    for key in ["group_bytes", "write_ns"] {
        assert_eq!(&figures[key]["count"], groups, "{key}");
        let buckets = figures[key]["buckets"].as_array().expect("buckets");
        let sum: u64 = buckets.iter().filter_map(|one| one["count"].as_u64()).sum();
        assert_eq!(Some(sum), groups.as_u64(), "{key}");
    }
    assert_eq!(figures["batch_events"]["count"], 0);
    assert_eq!(figures["disk"]["bytes_limit"], 1u64 << 30);
    let web = &json["services"][0];
    assert_eq!(web["name"], "web");
    assert_eq!(web["disk"]["segments"], 1);
    assert!(web["disk"]["bytes_limit"].is_null());

    let shown = text(&place.run(&["stats"]).stdout);
    for start in ["groups ", "latency  write ", "disk "] {
        let line = shown.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no {start:?} in {shown}"));
        assert!(line.chars().count() <= 80, "{line}");
    }

    let page = pages(&place);
    let value = |series: &str| {
        let found = page.lines().find_map(|line| {
            let (name, labels_and_value) = line.split_once('{')?;
            let (labels, value) = labels_and_value.split_once("} ")?;
            let (of, le) = series.split_once(' ').unwrap_or((series, ""));
            (name == of && labels.contains(le)).then(|| value.to_owned())
        });
        found.unwrap_or_else(|| panic!("no {series} in {page}"))
    };
    assert_eq!(value("millpond_group_events_sum"), "1001");
    let buckets = value("millpond_group_events_bucket le=\"+Inf\"");
    assert_eq!(buckets, groups.to_string());
    assert_eq!(
        value("millpond_group_write_seconds_count"),
        groups.to_string()
    );
    assert_eq!(value("millpond_log_disk_limit_bytes"), "1073741824");
    assert_eq!(value("millpond_build_info"), "1");
    for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).expect("a name");
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
    }
}
