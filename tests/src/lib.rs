//! What the helper processes and the multi-process tests share: arguments, rules, seeds and watchdogs.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use millpond_bus::{BusOptions, Class, Overflow, Rule, RuleTable};
use millpond_derive::Event;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub mod fuzz_targets;
mod mutator;

pub use self::mutator::Mutator;

/// Ends the whole process when it has not been dropped in time: a hang becomes a failure.
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    /// Barks after `limit`.
    pub fn start(what: &str, limit: Duration) -> Self {
        let (alive, gone) = mpsc::channel::<()>();
        let what = what.to_owned();
        std::thread::spawn(move || {
            if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("watchdog: {what} still runs after {limit:?}; aborting");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// `key=value` arguments of a helper process.
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Those of this process.
    ///
    /// # Panics
    /// On an argument without `=`.
    pub fn read() -> Self {
        let pair = |argument: String| match argument.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => panic!("argument {argument:?} is not KEY=VALUE"),
        };
        Arguments(std::env::args().skip(1).map(pair).collect())
    }

    /// A text that must be there.
    ///
    /// # Panics
    /// Where it is not.
    pub fn text(&self, key: &str) -> &str {
        match self.0.get(key) {
            Some(value) => value,
            None => panic!("argument {key}=... is missing"),
        }
    }

    /// A number, if given.
    ///
    /// # Panics
    /// Where it is not one.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|value| match value.parse() {
            Ok(number) => number,
            Err(error) => panic!("argument {key}={value}: {error}"),
        })
    }

    /// A text, if given.
    pub fn optional(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Kills this process with SIGKILL when it passes the label `kill_at=LABEL` for the `kill_after=N`-th time (1 where it is
/// not said), where the arguments say so.
///
/// # Panics
/// Where they do and this was built without the feature `kill-points`.
pub fn arm(arguments: &Arguments) {
    let Some(label) = arguments.optional("kill_at") else {
        return;
    };
    #[cfg(feature = "kill-points")]
    victim::arm(label, arguments.number("kill_after").unwrap_or(1));
    #[cfg(not(feature = "kill-points"))]
    panic!("kill_at={label}: built without the feature kill-points");
}

#[cfg(feature = "kill-points")]
mod victim {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    static PLAN: OnceLock<(String, u64)> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub(crate) fn arm(label: &str, after: u64) {
        let is_known = millpond_kill_points::LABELS.contains(&label);
        assert!(is_known, "kill_at={label}: there is no such label");
        let is_first = PLAN.set((label.to_owned(), after)).is_ok();
        assert!(
            is_first && millpond_kill_points::set_hook(passed),
            "armed twice"
        );
    }

    fn passed(label: &'static str) {
        let Some((wanted, after)) = PLAN.get() else {
            return;
        };
        // ORDERING: Relaxed; a count that says only itself.
        if label == wanted && PASSED.fetch_add(1, Ordering::Relaxed) + 1 >= *after {
            // A process may always kill itself.
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
}

/// The options that every process of a test attaches with.
///
/// `peers`: see [`peer_rules`]; `reload`: the first of [`reload_tables`].
///
/// `block`: publishers wait up to 60 s, so that nothing is ever dropped. `drop`: a lane of 64 KiB that
/// drops the newest.
///
/// # Panics
/// On any other word.
pub fn options(rules: &str) -> BusOptions {
    let of_peers = match rules {
        "peers" => Some(peer_rules()),
        "reload" => reload_tables().into_iter().next(),
        _ => None,
    };
    if let Some(rules) = of_peers {
        return BusOptions {
            rules,
            ..BusOptions::default()
        };
    }
    let (overflow, lane_bytes) = match rules {
        "block" => (
            Overflow::Block {
                deadline: Duration::from_secs(60),
            },
            1 << 20,
        ),
        "drop" => (Overflow::DropNewest, 64 << 10),
        other => panic!("rules={other}: block or drop"),
    };
    let pattern = match "log:*".parse() {
        Ok(pattern) => pattern,
        Err(error) => panic!("log:*: {error}"),
    };
    let log = Rule {
        service: Some("*".to_owned()),
        overflow,
        lane_bytes,
        payload_bytes_limit: 4 << 10,
        max_events: 1 << 20,
        ..Rule::new(pattern)
    };
    let table = match RuleTable::new(vec![log]) {
        Ok(table) => table,
        Err(error) => panic!("{error}"),
    };
    BusOptions {
        rules: table,
        ..BusOptions::default()
    }
}

/// A rule that drops nothing: publishers wait up to 60 s.
///
/// # Panics
/// On a pattern that is none.
pub fn lossless(pattern: &str, class: Class) -> Rule {
    let pattern = match pattern.parse() {
        Ok(pattern) => pattern,
        Err(error) => panic!("{pattern}: {error}"),
    };
    Rule {
        class,
        overflow: Overflow::Block {
            deadline: Duration::from_secs(60),
        },
        lane_bytes: 256 << 10,
        payload_bytes_limit: 1 << 10,
        max_delay: Duration::from_millis(2),
        ..Rule::new(pattern)
    }
}

/// One lossless rule for each way of delivery: `pass:*`, `batch:*`, `conflate:*`, and `log:*`, which is kept.
///
/// # Panics
/// Never; the rules are good.
pub fn peer_rules() -> RuleTable {
    let log = Rule {
        service: Some("*".to_owned()),
        max_events: 1 << 20,
        ..lossless("log:*", Class::Batch)
    };
    table(vec![
        lossless("pass:*", Class::Passthrough),
        lossless("batch:*", Class::Batch),
        lossless("conflate:*", Class::Conflate),
        log,
    ])
}

/// Tables that are put in force one after the other while `load:x:...` is published: other classes, other
/// patterns, other sizes.
///
/// # Panics
/// Never; the rules are good.
pub fn reload_tables() -> Vec<RuleTable> {
    let batch = |pattern| lossless(pattern, Class::Batch);
    let pass = |pattern| lossless(pattern, Class::Passthrough);
    let small = Rule {
        max_events: 10,
        outbox_bytes: 128 << 10,
        ..batch("load:*")
    };
    let large = Rule {
        max_events: 1 << 20,
        max_bytes: 1 << 20,
        outbox_bytes: 8 << 20,
        lane_bytes: 4 << 20,
        max_delay: Duration::from_millis(30),
        ..batch("load:*")
    };
    let kept = Rule {
        service: Some("load".to_owned()),
        max_events: 1 << 20,
        ..batch("load:*")
    };
    vec![
        table(vec![batch("load:*")]),
        table(vec![pass("load:*")]),
        table(vec![batch("load:*"), pass("load:x:*")]),
        table(vec![small]),
        table(vec![pass("*")]),
        table(vec![large]),
        table(vec![kept]),
        table(vec![pass("load:*"), batch("load:x:p0")]),
    ]
}

fn table(rules: Vec<Rule>) -> RuleTable {
    match RuleTable::new(rules) {
        Ok(table) => table,
        Err(error) => panic!("{error}"),
    }
}

/// An event of fixed layout that one process publishes.
#[derive(Debug, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "pass:gpu:sample", crate = "millpond_bus")]
pub struct GpuSample {
    /// What it draws.
    #[event(unit = "mW")]
    pub power_mw: u32,
    /// How fast its fan is.
    #[event(unit = "rpm")]
    pub fan_rpm: u32,
}

/// What another process takes it for.
#[derive(Debug, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "pass:room:sample", crate = "millpond_bus")]
pub struct RoomSample {
    /// As long as the other.
    #[event(unit = "mK")]
    pub temperature_mk: u64,
}

/// What this run's random numbers start from: `MILLPOND_TEST_SEED`, else the time. It is printed, and a test that
/// fails shows it.
///
/// # Panics
/// On a `MILLPOND_TEST_SEED` that is no number: a run that is to be repeated must not be another one.
pub fn seed() -> u64 {
    let seed = match std::env::var("MILLPOND_TEST_SEED") {
        Ok(text) => match text.parse() {
            Ok(seed) => seed,
            Err(error) => panic!("MILLPOND_TEST_SEED={text}: {error}"),
        },
        Err(_) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(1, |now| now.as_nanos() as u64)
        }
    };
    eprintln!("seed: MILLPOND_TEST_SEED={seed}");
    seed
}

/// A small random generator: the same seed, the same numbers.
pub struct Random(millpond_loadgen::Random);

impl Random {
    /// From [`seed`].
    pub fn seeded() -> Self {
        Random(millpond_loadgen::Random::new(seed()))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    /// A time below `millis`.
    pub fn millis(&mut self, millis: u64) -> Duration {
        Duration::from_micros(self.below(millis * 1000))
    }
}

/// A number from the environment, or what CI uses.
pub fn setting(name: &str, normal: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(normal)
}
