//! The same rows as lines: a publisher, shared memory, a daemon in another process, files.

use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use millpond_benches::{cpu_ns, read_line, start_self};
use millpond_bus::{Bus, BusOptions, Guarantee, Overflow, Publisher, Rule, RuleTable, Topic};
use millpond_daemon::{Daemon, Policy, SyncPolicy};
use millpond_logfile::{Query, Reader};

use crate::asker::Asker;
use crate::rows::{Row, needle};
use crate::store::{Cell, Figures, Sizes, Sync, Writer, drive, process_cpu_ns};
use crate::store::{copy_tree, settle, tree_bytes};

impl Sync {
    fn word(self) -> &'static str {
        match self {
            Sync::Always => "always",
            Sync::Interval => "interval",
            Sync::Never => "never",
        }
    }
}

struct TextWriter {
    publisher: Publisher,
    /// The topic of each row of the study.
    topics: Vec<Topic>,
    guarantee: Guarantee,
}

impl TextWriter {
    fn new(bus: &Bus, rows: &[Row], guarantee: Guarantee) -> Self {
        let mut publisher = bus.publisher("study").expect("a label");
        let topics = rows
            .iter()
            .map(|row| publisher.topic(&row.topic()).expect("a rule matches"))
            .collect();
        TextWriter {
            publisher,
            topics,
            guarantee,
        }
    }
}

impl Writer for TextWriter {
    fn begin(&mut self) {}

    fn write(&mut self, index: usize, row: &Row) {
        self.publisher
            .publish(self.topics[index], row.level, row.message.as_bytes())
            .expect("the daemon drains");
    }

    fn commit(&mut self) {
        self.publisher
            .flush(self.guarantee, None)
            .expect("the daemon writes");
    }
}

/// A bus with a daemon in a process of its own.
struct Running {
    bus: Bus,
    daemon: Child,
}

impl Running {
    fn start(logs: &Path, sync: Sync) -> Self {
        let rule = Rule {
            service: Some("*".into()),
            lane_bytes: 4 << 20,
            max_events: 1 << 20,
            // As the table does: the caller waits rather than lose a row.
            overflow: Overflow::Block {
                deadline: Duration::from_secs(60),
            },
            ..Rule::new("log:*".parse().expect("a pattern"))
        };
        let options = BusOptions {
            rules: RuleTable::new(vec![rule]).expect("one good rule"),
            ..BusOptions::default()
        };
        let name = format!("bench-study-{}", std::process::id());
        let bus = Bus::attach(&name, &options).expect("a bus");
        let logs = logs.display().to_string();
        let args = ["role", "daemon", bus.name(), &logs, sync.word()].map(str::to_owned);
        let (daemon, mut output) = start_self(&args);
        read_line(&mut output);
        Running { bus, daemon }
    }

    fn stop(mut self) {
        drop(self.daemon.stdin.take());
        let status = self.daemon.wait().expect("the daemon ends");
        assert!(status.success(), "the daemon ends well");
        self.bus.remove().expect("nobody uses it");
    }
}

pub(crate) fn daemon_process(bus: &str, logs: &Path, sync: &str) {
    let bus = Bus::open(bus).expect("our parent made it");
    let policy = Policy {
        sync: match sync {
            "always" => SyncPolicy::Always,
            "interval" => SyncPolicy::Interval(Duration::from_secs(1)),
            _ => SyncPolicy::Never,
        },
        total_bytes_limit: None,
        ..Policy::default()
    };
    let builder = Daemon::builder(&bus, logs).policy(policy);
    let running = builder.spawn().expect("the daemon starts");
    println!("ready");
    // Our parent closes our input when we may go.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("our input can be read");
    running.stop().expect("everything is written");
}

/// Makes a log directory with `count` lines in `dir`.
pub(crate) fn prefill(dir: &Path, rows: &[Row], count: u64) {
    std::fs::create_dir_all(dir).expect("room on the disk");
    let running = Running::start(dir, Sync::Never);
    let mut writer = TextWriter::new(&running.bus, rows, Guarantee::Written);
    let plain = rows.iter().enumerate().cycle();
    for (index, row) in plain.take(count.saturating_sub(1) as usize) {
        writer.write(index, row);
    }
    let needle = needle();
    let topic = writer.publisher.topic(&needle.topic());
    writer.topics.push(topic.expect("a rule matches"));
    writer.write(rows.len(), &needle);
    writer.commit();
    drop(writer);
    running.stop();
}

pub(crate) fn measure(
    cell: &Cell,
    sync: Sync,
    sizes: &Sizes,
    rows: &[Row],
    template: &Path,
    dir: &Path,
) -> Figures {
    copy_tree(template, dir);
    let running = Running::start(dir, sync);
    let guarantee = match sync {
        Sync::Always => Guarantee::Durable,
        Sync::Interval | Sync::Never => Guarantee::Written,
    };
    let mut writer = TextWriter::new(&running.bus, rows, guarantee);
    settle(dir);
    let asker = cell.reader.then(|| Asker::start("text", dir));
    let daemon = running.daemon.id();
    let cpu = process_cpu_ns() + cpu_ns(daemon);
    let mut figures = drive(cell, sizes, rows, &mut writer);
    figures.cpu_ns = process_cpu_ns() + cpu_ns(daemon) - cpu;
    figures.answers = asker.map(Asker::stop);
    drop(writer);
    running.stop();
    figures.file_bytes = tree_bytes(dir);
    figures.stored_rows = sizes.prefill + figures.rows;
    let reader = Reader::open(dir).expect("the logs are there");
    let counts = reader.count(&Query::new()).expect("the logs can be read");
    assert_eq!(
        counts.total(),
        figures.stored_rows,
        "every line is there, once"
    );
    figures
}
