//! Live shared memory under a script: publishing, draining, restarts, reading, and between them any bytes anywhere.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use millpond_bus::{
    BatchParts, Bus, BusOptions, Class, Drain, Entry, Event, Item, Level, Overflow, Publisher,
    Rule, RuleTable, Scope, ServiceCommit, Since, SubscribeOptions, Subscription, Topic, Verdict,
    append_entry, prometheus_text,
};

use super::Script;

/// Where the live part of a ring begins, how long it is, and where its data does.
const RING_OFFSET: u64 = 0x400;
const RING_WORDS: u64 = 0x180 / 8;
const DATA_OFFSET: u64 = 0x1000;
const LANE_BYTES: u32 = 64 << 10;
/// A consumer visits at most this much in one pass: every record of every lane, and a gap in front of each.
const ITEMS_MAX: u64 = 2 * 8 * (LANE_BYTES as u64 / 32 + 1);
/// Steps of a script.
const STEPS_MAX: u32 = 200;

/// Any bytes anywhere in the lanes of a publisher and in the outboxes, while another one publishes. The consumer ends
/// every pass within the records that fit into its lanes, and the other's events are all there, once, in order, as they
/// were published, over any number of consumers.
///
/// # Panics
/// Where that is not so.
pub fn lane(data: &[u8]) {
    Play::new(false).run(data);
}

/// As [`lane`], and any bytes anywhere in the control segment too. Nothing panics and everything ends; what can be told
/// of events then is nothing.
///
/// # Panics
/// Where something does.
pub fn control(data: &[u8]) {
    Play::new(true).run(data);
}

/// A bus of our own, removed in the end.
struct Place(String);

impl Place {
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let prefix = format!("millpond.{}.{kind}", self.0);
        let Ok(entries) = std::fs::read_dir("/dev/shm") else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut objects: Vec<PathBuf> = names
            .filter(|name| name.starts_with(&prefix))
            .map(|name| Path::new("/dev/shm").join(name))
            .collect();
        objects.sort();
        objects
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for object in self.objects("") {
            let _ = std::fs::remove_file(object);
        }
    }
}

struct Play {
    /// Writes to the control segment are allowed.
    is_wild: bool,
    /// The control segment was written to.
    is_spoilt: bool,
    bus: Bus,
    options: BusOptions,
    victim: Publisher,
    topics: Vec<Topic>,
    lanes: Vec<PathBuf>,
    good: Publisher,
    good_topic: Topic,
    published: u64,
    drained: u64,
    drain: Option<Drain>,
    subscriptions: Vec<Subscription>,
    /// Dropped last: it removes what the others use.
    place: Place,
}

fn options() -> BusOptions {
    let rule = |pattern: &str, class, service: Option<&str>| Rule {
        class,
        overflow: Overflow::DropNewest,
        lane_bytes: LANE_BYTES,
        outbox_bytes: LANE_BYTES,
        payload_bytes_limit: 1 << 10,
        service: service.map(str::to_owned),
        ..Rule::new(pattern.parse().expect("a pattern"))
    };
    let rules = vec![
        rule("pass:*", Class::Passthrough, None),
        rule("batch:*", Class::Batch, None),
        rule("log:*", Class::Batch, Some("*")),
        rule("fine:*", Class::Batch, Some("fine")),
    ];
    BusOptions {
        rules: RuleTable::new(rules).expect("good rules"),
        ..BusOptions::default()
    }
}

impl Play {
    fn new(is_wild: bool) -> Self {
        static PLAYS: AtomicU32 = AtomicU32::new(0);
        let number = PLAYS.fetch_add(1, Ordering::Relaxed);
        let place = Place(format!("fuzz-{}-{number}", std::process::id()));
        let options = options();
        let bus = Bus::attach(&place.0, &options).expect("a new bus");
        let mut good = bus.publisher("good").expect("a publisher");
        let good_topic = good.topic("fine:x").expect("a topic");
        let kept = place.objects("lane.");
        let mut victim = bus.publisher("victim").expect("a publisher");
        let topics = ["pass:x", "batch:x", "log:x"]
            .map(|name| victim.topic(name).expect("a topic"))
            .to_vec();
        let mut lanes = place.objects("lane.");
        lanes.retain(|lane| !kept.contains(lane));
        let drain = bus.drain().expect("the lease");
        Play {
            is_wild,
            is_spoilt: false,
            bus,
            options,
            victim,
            topics,
            lanes,
            good,
            good_topic,
            published: 0,
            drained: 0,
            drain: Some(drain),
            subscriptions: Vec::new(),
            place,
        }
    }

    fn run(mut self, data: &[u8]) {
        let mut script = Script(data);
        let mut steps = 0;
        while !script.is_empty() && steps < STEPS_MAX {
            steps += 1;
            self.step(&mut script);
        }
        // What has come waits for at most a pass or two.
        for _ in 0..4 {
            self.consume();
        }
        if !self.is_spoilt {
            assert_eq!(self.drained, self.published, "the lane beside it");
        }
        self.look();
        let Play {
            bus,
            drain,
            subscriptions,
            place,
            ..
        } = self;
        drop((subscriptions, drain, bus, place));
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 12 {
            0 | 1 => {
                let lane = script.byte();
                let at = RING_OFFSET + 8 * (u64::from(script.byte()) % RING_WORDS);
                self.spoil_ring(lane, at, &script.number(8).to_le_bytes());
            }
            2 => {
                let (lane, at) = (script.byte(), DATA_OFFSET + script.number(2));
                let length = usize::from(script.byte()) % 64 + 1;
                self.spoil_ring(lane, at, script.bytes(length));
            }
            3 => {
                let (lane, at) = (script.byte(), script.number(2) % RING_OFFSET);
                let length = usize::from(script.byte()) % 32 + 1;
                self.spoil_ring(lane, at, script.bytes(length));
            }
            4 => {
                let topic = self.topics[usize::from(script.byte()) % self.topics.len()];
                let length = script.number(2) as usize % 1100;
                // It may be full, or quarantined.
                let _ = self.victim.publish(topic, Level::Info, &vec![b'v'; length]);
            }
            5 => self.publish_good(),
            6 => self.consume(),
            7 => {
                self.drain = None;
                self.open_drain();
                self.consume();
            }
            8 => self.subscribe_or_poll(),
            9 => self.look(),
            10 => {
                if let Some(drain) = &mut self.drain {
                    drain.housekeep();
                    drain.take_notices();
                    drain.flush_requested();
                    drain.reload_requested();
                    drain.rotation_requested();
                }
            }
            _ => {
                // Regions are 4 KiB and more; most of what matters is in front.
                let page = script.number(2) % 800;
                let at = match page % 4 {
                    0 => script.number(2) % 0x1000,
                    _ => page * 4096 + script.number(2) % 4096,
                };
                let length = usize::from(script.byte()) % 64 + 1;
                let bytes = script.bytes(length);
                if self.is_wild {
                    self.is_spoilt = true;
                    for path in self.place.objects("control") {
                        write_over(&path, at, bytes);
                    }
                }
            }
        }
    }

    /// Of the victim's lanes, or of an outbox.
    fn spoil_ring(&self, which: u8, at: u64, bytes: &[u8]) {
        let outboxes = self.place.objects("outbox.");
        let rings: Vec<&PathBuf> = self.lanes.iter().chain(&outboxes).collect();
        write_over(rings[usize::from(which) % rings.len()], at, bytes);
    }

    fn publish_good(&mut self) {
        let payload = self.published.to_le_bytes();
        let topic = self.good_topic;
        match self.good.publish(topic, Level::Info, &payload) {
            Ok(_) => self.published += 1,
            Err(error) => assert!(self.is_spoilt, "its lane is drained: {error}"),
        }
    }

    fn open_drain(&mut self) {
        match self.bus.drain() {
            Ok(drain) => self.drain = Some(drain),
            Err(error) => assert!(self.is_spoilt, "{error}"),
        }
    }

    /// What a daemon does, with memory for a disk.
    fn consume(&mut self) {
        let Some(drain) = &mut self.drain else {
            return;
        };
        if drain.directory_changed() {
            drain.housekeep();
        }
        drain.take_passthrough();
        let mut items = 0;
        let mut count = || {
            items += 1;
            assert!(items < ITEMS_MAX, "a pass that does not end");
        };
        let (mut drained, is_spoilt) = (self.drained, self.is_spoilt);
        drain.pass(Scope::Persisted, &mut |item: Item<'_>| {
            count();
            if let Item::Record(record) = item
                && record.label == "good"
                && !is_spoilt
            {
                assert_eq!(record.name.text, "fine:x");
                assert_eq!(record.payload, drained.to_le_bytes(), "number {drained}");
                assert_eq!(record.sequence, drained);
                drained += 1;
            }
            Verdict::Keep
        });
        self.drained = drained;
        let mark = drain.mark(Scope::Persisted);
        let fine = ServiceCommit {
            name: "fine".to_owned(),
            lines: drained,
            ..ServiceCommit::default()
        };
        drain.commit(mark, &[fine], true);
        let mut batches: Vec<(u32, Vec<u8>, u32)> = Vec::new();
        drain.pass(Scope::Batched, &mut |item: Item<'_>| {
            count();
            if let Item::Record(record) = item {
                let place = batches.iter().position(|batch| batch.0 == record.channel);
                let place = place.unwrap_or_else(|| {
                    batches.push((record.channel, Vec::new(), 0));
                    batches.len() - 1
                });
                append_entry(&mut batches[place].1, &Entry::from(&record));
                batches[place].2 += 1;
            }
            Verdict::Keep
        });
        for (channel, entries, count) in batches {
            let Some(outbox) = drain.outbox(channel) else {
                continue;
            };
            let parts = BatchParts {
                class: Class::Batch,
                prefix: "batch",
                count,
                first_time_ns: 1,
                last_time_ns: 2,
                entries: &entries,
            };
            // One that is too long for it is left out.
            let _ = outbox.push(&parts, u64::MAX);
        }
        for channel in drain.uncommitted_channels() {
            drain.commit_batched(channel, &[]);
        }
        drain.mark_durable();
    }

    fn subscribe_or_poll(&mut self) {
        if self.subscriptions.len() < 2 {
            let patterns = ["*:x", "pass:x"];
            let options = SubscribeOptions {
                since: Since::Oldest,
                ..SubscribeOptions::new(
                    "reader",
                    patterns[self.subscriptions.len()]
                        .parse()
                        .expect("a pattern"),
                )
            };
            match self.bus.subscribe(options) {
                Ok(subscription) => self.subscriptions.push(subscription),
                Err(error) => assert!(self.is_spoilt, "{error}"),
            }
        }
        for subscription in &mut self.subscriptions {
            let mut events = 0_u64;
            // It may have lagged, or its bus be damaged.
            let _ = subscription.poll(&mut |_: &Event<'_>| {
                events += 1;
                assert!(events < 100 * ITEMS_MAX, "a poll that does not end");
            });
            subscription.counts();
        }
    }

    /// What inspectors do; also a process that attaches now.
    fn look(&self) {
        let stats = self.bus.stats();
        prometheus_text(&stats);
        self.bus.history();
        self.bus.consumer();
        self.bus.committed_services();
        let _ = self.bus.rules();
        match Bus::attach(&self.place.0, &self.options) {
            Ok(bus) => {
                bus.stats();
            }
            Err(error) => assert!(self.is_spoilt, "{error}"),
        }
    }
}

fn write_over(path: &Path, at: u64, bytes: &[u8]) {
    // It may be gone by now. Never longer than it is: that would be another fault.
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return;
    };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if at + bytes.len() as u64 <= length {
        let _ = file.write_all_at(bytes, at);
    }
}

pub(super) fn lane_seeds() -> Vec<Vec<u8>> {
    let (publish, good, consume, restart, read, look, tidy) = (4, 5, 6, 7, 8, 9, 10);
    let victim = |topic: u8, length: u16| {
        let length = length.to_le_bytes();
        [publish, topic, length[0], length[1]]
    };
    let word =
        |lane: u8, word: u8, value: u64| [&[0, lane, word][..], &value.to_le_bytes()].concat();
    let all = [
        &[read][..],
        &victim(0, 10),
        &victim(1, 700),
        &victim(2, 0),
        &[good, consume, read, good, restart, read, look, tidy],
    ]
    .concat();
    let mut seeds = vec![all.clone()];
    // Tail, number, overwrite, head, drained, selector; lanes and then outboxes.
    for (place, value) in [
        (0, u64::MAX - 7),
        (0, 64),
        (1, u64::MAX),
        (1, 1 << 47),
        (8, 1 << 40),
        (16, u64::MAX - 7),
        (16, 8),
        (20, 3),
        (7, 1 << 60),
    ] {
        for lane in 0..4 {
            let words = word(lane, place, value);
            seeds.push([&all[..], &words, &all, &words, &all].concat());
        }
    }
    for at in [0_u16, 8, 16, 32, 4000] {
        let at = at.to_le_bytes();
        let bytes = [&[2, 1, at[0], at[1], 40][..], &[0xff; 41]].concat();
        seeds.push([&all[..], &victim(1, 30), &bytes, &all].concat());
    }
    seeds
}

pub(super) fn control_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let all = lane_seeds().swap_remove(0);
    let write = |page: u16, at: u16, bytes: &[u8]| {
        let (page, at) = (page.to_le_bytes(), at.to_le_bytes());
        let head = [11, page[0], page[1], at[0], at[1], bytes.len() as u8 - 1];
        [&head[..], bytes].concat()
    };
    // The first page, a line at a time; page 0 stands for it.
    for line in (0_u16..0x1000).step_by(0x80).filter(|line| *line < 0x400) {
        for value in [[0xff; 64], [0; 64], [0x80; 64]] {
            let words = write(0, line, &value);
            seeds.push([&all[..], &words, &all, &words, &all].concat());
        }
    }
    for page in (1..800).filter(|page| page % 4 != 0).step_by(7) {
        let words = write(page, 16, &[0xff; 64]);
        seeds.push([&all[..], &words, &all].concat());
    }
    seeds
}
