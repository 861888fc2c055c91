//! `millpond top` on real terminals of 80x24 and 200x60, by keys sent and the screen read; and without a terminal,
//! as scripts meet it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use millpond_bus::{Bus, Level, Publisher};
use millpond_tests::{Watchdog, options};

use crate::support::{Place, code, signal, text};

/// A shell on a terminal of its own, in a tmux server of its own.
struct Tmux {
    socket: String,
    /// The command writes its number to it.
    pid_file: PathBuf,
    _watchdog: Watchdog,
}

impl Tmux {
    /// `None`, and says so, where there is no tmux.
    fn start(place: &Place, columns: usize, rows: usize) -> Option<Self> {
        let found = Command::new("tmux").arg("-V").output();
        if !found.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: tmux is not installed");
            return None;
        }
        let tmux = Tmux {
            socket: format!("{}-{columns}", place.bus),
            pid_file: place.dir.path().join("pid"),
            _watchdog: Watchdog::start("top in tmux", Duration::from_secs(300)),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let shell = "env PS1='prompt> ' ENV= sh";
        let size = ["-x", &columns, "-y", &rows, shell];
        let started = tmux.run(&[&["-f", "/dev/null", "new-session", "-d"], &size[..]].concat());
        assert!(started.status.success(), "{}", text(&started.stderr));
        let variables = [
            ("MILLPOND_BUS", place.bus.clone()),
            ("MILLPOND_LOGS", place.logs().display().to_string()),
            ("MILLPOND_CONFIG", "/dev/null".to_owned()),
        ];
        for (name, value) in variables {
            tmux.type_line(&format!("export {name}='{value}'"));
        }
        tmux.type_line("unset NO_COLOR; before=$(stty -g); clear");
        tmux.until(|screen| screen.trim() == "prompt>");
        Some(tmux)
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new("tmux")
            .args(["-L", &self.socket])
            .args(words)
            .stdin(Stdio::null())
            .env_remove("TMUX")
            .output()
            .expect("tmux starts")
    }

    /// Keys by their names: `q`, `Enter`, `C-z`.
    fn keys(&self, keys: &[&str]) {
        let sent = self.run(&[&["send-keys"], keys].concat());
        assert!(sent.status.success(), "{}", text(&sent.stderr));
    }

    fn type_line(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    /// Starts the command in the shell.
    fn top(&self, flags: &str) {
        let (exe, pid) = (env!("CARGO_BIN_EXE_millpond"), self.pid_file.display());
        self.type_line(&format!(
            "sh -c 'echo $$ > {pid}; exec \"$0\" \"$@\"' '{exe}' top --interval 100ms {flags}"
        ));
    }

    /// Sends a signal to the command.
    fn signal(&self, name: &str) {
        let pid = fs::read_to_string(&self.pid_file).expect("it was started");
        let sent = Command::new("kill").args([name, pid.trim()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{name}");
    }

    fn screen(&self) -> String {
        text(&self.run(&["capture-pane", "-p"]).stdout)
    }

    /// The first screen of which this is true.
    #[track_caller]
    fn until(&self, is_it: impl Fn(&str) -> bool) -> String {
        let mut looks = 0u32;
        loop {
            let screen = self.screen();
            if is_it(&screen) {
                return screen;
            }
            looks += 1;
            // For whoever has to find out what the watchdog ended.
            if looks.is_multiple_of(500) {
                eprintln!("still waiting; the screen:\n{screen}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn until_has(&self, wanted: &str) -> String {
        self.until(|screen| screen.contains(wanted))
    }

    /// The shell has its terminal again, as it was.
    #[track_caller]
    fn is_given_back(&self) {
        self.until(|screen| screen.trim_end().ends_with("prompt>"));
        self.type_line("[ \"$before\" = \"$(stty -g)\" ] && echo 'as it' was");
        let screen = self.until_has("as it was");
        assert!(!screen.contains("q  quit"), "{screen}");
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

/// Publishes this many lines to the log of `service`, under a label of its own; kept, its lane lives.
fn publish(bus: &Bus, label: &str, service: &str, count: u64) -> Publisher {
    let mut publisher = bus.publisher(label).expect("a publisher");
    let topic = publisher
        .topic(&format!("log:{service}"))
        .expect("a rule takes it");
    for number in 0..count {
        let line = format!("line {number}");
        // Some are to be dropped.
        let _ = publisher.publish(topic, Level::Info, line.as_bytes());
    }
    publisher
}

/// A place with a daemon, and lines of three services in its log.
fn busy(name: &str) -> (Place, Vec<Publisher>) {
    let mut place = Place::new(name);
    place.start(&[]);
    let bus = Bus::open(&place.bus).expect("the bus is there");
    let publishers = ["web-main", "db-main", "cache-main"]
        .into_iter()
        .zip(1..)
        .map(|(name, times)| publish(&bus, name, name, 100 * times))
        .collect();
    (place, publishers)
}

/// Names of the rows under the titles, in their order.
fn names(screen: &str, title: &str) -> Vec<String> {
    let lines = screen.lines().skip_while(|line| !line.starts_with(title));
    let rows = lines.skip(1).take_while(|line| !line.trim().is_empty());
    rows.filter_map(|row| row.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn tables_sorting_filter_pause_and_help_at_80_by_24_and_at_200_by_60() {
    let (place, _publishers) = busy("top-keys");
    for (columns, rows) in [(80, 24), (200, 60)] {
        let Some(tmux) = Tmux::start(&place, columns, rows) else {
            return;
        };
        tmux.top("");
        let screen = tmux.until(|screen| screen.contains("web-main") && screen.contains("/s"));
        assert!(screen.contains(&format!("bus {}", place.bus)), "{screen}");
        assert!(screen.contains("daemon "), "{screen}");
        assert!(screen.contains("[1 sources 3]"), "{screen}");
        assert!(screen.contains("in/s▼"), "{screen}");
        assert!(screen.contains("drop/s"), "{screen}");
        assert_eq!(screen.contains("executable"), columns == 200, "{screen}");
        assert_eq!(screen.contains("10 s each"), rows == 60, "{screen}");

        // By name, then the other way around.
        tmux.keys(&["<", "<"]);
        let screen = tmux.until_has("source▲");
        let wanted = ["cache-main", "db-main", "web-main"];
        assert_eq!(names(&screen, "source▲"), wanted, "{screen}");
        tmux.keys(&["r"]);
        let screen = tmux.until_has("source▼");
        assert_eq!(names(&screen, "source▼")[0], "web-main", "{screen}");

        // `q` is a letter while a filter is typed.
        tmux.keys(&["/", "D", "B", "-", "M", "q"]);
        tmux.until_has("filter: DB-Mq_");
        tmux.keys(&["BSpace", "Enter"]);
        let screen = tmux.until_has("1 with \"DB-M\"");
        assert_eq!(names(&screen, "source▼"), ["db-main"], "{screen}");
        tmux.keys(&["2"]);
        let screen = tmux.until_has("[2 services 3]");
        assert_eq!(names(&screen, "service"), ["db-main"], "{screen}");
        tmux.keys(&["Escape"]);
        tmux.until(|screen| screen.contains("cache-main") && screen.contains("web-main"));

        tmux.keys(&["3"]);
        tmux.until(|screen| screen.contains("[3 rules") && screen.contains("gpu:*"));
        tmux.keys(&["4"]);
        tmux.until_has("nobody subscribes");
        tmux.keys(&["Tab"]);
        tmux.until_has("no samples of GPUs");
        tmux.keys(&["Tab"]);
        tmux.until_has("group, events");

        tmux.keys(&["Space"]);
        tmux.until_has("PAUSED");
        tmux.keys(&["Space"]);
        tmux.until(|screen| !screen.contains("PAUSED"));
        tmux.keys(&["?"]);
        tmux.until_has("any key closes this");
        tmux.keys(&["x"]);
        tmux.until(|screen| !screen.contains("any key closes this"));
        tmux.keys(&["q"]);
        tmux.is_given_back();
    }
}

#[test]
fn a_screen_can_become_any_size() {
    let (place, _publishers) = busy("top-size");
    let Some(tmux) = Tmux::start(&place, 80, 24) else {
        return;
    };
    tmux.top("--sort dropped");
    tmux.until_has("web-main");
    for (columns, rows) in [(40, 24), (200, 60), (40, 10), (20, 3), (1, 1), (120, 50)] {
        let (x, y) = (columns.to_string(), rows.to_string());
        tmux.run(&["resize-window", "-x", &x, "-y", &y]);
        let screen = match rows {
            // At the least: who was there, what rows are sorted by, and where to find help.
            24.. => tmux.until(|screen| {
                let fits = screen.lines().all(|line| line.chars().count() <= columns);
                let mut wanted = ["web-", "dropped▼", "? help"].into_iter();
                let is_wide = screen.contains("executable");
                fits && wanted.all(|part| screen.contains(part)) && is_wide == (columns == 200)
            }),
            _ => tmux.screen(),
        };
        assert!(screen.lines().count() <= rows, "{screen}");
    }
    tmux.keys(&["q"]);
    tmux.is_given_back();
}

#[test]
fn the_terminal_is_given_back_at_every_end_and_while_it_is_stopped() {
    let (place, _publishers) = busy("top-ends");
    let Some(tmux) = Tmux::start(&place, 80, 24) else {
        return;
    };
    let top = || {
        tmux.type_line("clear");
        tmux.top("--filter nobody");
        tmux.until_has("nothing holds");
    };
    top();
    tmux.keys(&["C-c"]);
    tmux.is_given_back();
    for signal in ["-TERM", "-INT", "-HUP"] {
        top();
        tmux.signal(signal);
        tmux.is_given_back();
    }
    top();
    for stop in [
        |tmux: &Tmux| tmux.keys(&["C-z"]),
        |tmux: &Tmux| tmux.signal("-TSTP"),
    ] {
        stop(&tmux);
        tmux.is_given_back();
        tmux.type_line("clear; fg");
        tmux.until_has("nothing holds");
    }
    tmux.keys(&["Escape"]);
    tmux.until_has("web-main");
    tmux.keys(&["q"]);
    tmux.is_given_back();
}

#[test]
fn a_daemon_that_hangs_or_dies_is_told_with_since_when() {
    let (mut place, _publishers) = busy("top-daemon");
    let Some(tmux) = Tmux::start(&place, 80, 24) else {
        return;
    };
    tmux.top("");
    tmux.until_has("daemon ");
    let daemon = place.daemon.take().expect("a daemon runs");
    let pid = daemon.child.id();
    signal(&daemon.child, "-STOP");
    let screen = tmux.until_has("DAEMON HANGS since ");
    assert!(
        screen.contains(&format!("-> `kill -CONT {pid}`")),
        "{screen}"
    );
    assert!(screen.contains("ago"), "{screen}");
    assert!(screen.contains("web-main"), "the rest is there: {screen}");
    let once = place.run(&["top", "--once", "--json", "--interval", "50ms"]);
    assert_eq!(code(&once), 1, "{}", text(&once.stderr));
    let json: serde_json::Value = serde_json::from_slice(&once.stdout).expect("JSON");
    assert_eq!(json["daemon"]["state"], "hangs");
    assert_eq!(json["daemon"]["pid"], pid);
    signal(&daemon.child, "-CONT");
    tmux.until(|screen| !screen.contains("HANGS"));
    // SIGKILL.
    drop(daemon);
    let screen = tmux.until_has("DAEMON DIED ");
    assert!(screen.contains("ago"), "{screen}");
    place.start(&[]);
    tmux.until(|screen| !screen.contains("DIED"));
    place.stop();
    tmux.until_has("NO DAEMON since ");
    tmux.keys(&["q"]);
    tmux.is_given_back();
}

#[test]
fn a_bus_that_comes_goes_and_comes_again_is_followed() {
    let place = Place::new("top-bus");
    let Some(tmux) = Tmux::start(&place, 80, 24) else {
        return;
    };
    tmux.top("");
    tmux.until_has("NO BUS ");
    for _ in 0..2 {
        let bus = Bus::attach(&place.bus, &options("drop")).expect("a bus");
        let publisher = publish(&bus, "first-one", "web", 10);
        let screen = tmux.until_has("first-one");
        assert!(screen.contains("NO DAEMON"), "{screen}");
        assert!(screen.contains("waiting 10"), "{screen}");
        drop(publisher);
        bus.remove().expect("nobody drains it");
        tmux.until_has("WAS REMOVED ");
    }
    // Removed and made again between two looks.
    let bus = Bus::attach(&place.bus, &options("drop")).expect("a bus");
    let _publisher = publish(&bus, "second-one", "web", 3);
    tmux.until_has("second-one");
    bus.remove().expect("nobody drains it");
    let bus = Bus::attach(&place.bus, &options("drop")).expect("a bus");
    let _publisher = publish(&bus, "third-one", "web", 4);
    let screen = tmux.until_has("third-one");
    assert!(!screen.contains("second-one"), "{screen}");
    tmux.keys(&["q"]);
    tmux.is_given_back();
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let place = Place::new("top-pipe");
    for flags in [&["top"][..], &["top", "--json"]] {
        let output = place.run(flags);
        assert_eq!(code(&output), 2);
        let said = text(&output.stderr);
        assert!(said.contains("--once"), "{said}");
        assert_eq!(output.stdout, b"");
    }
    let output = place.run(&["top", "--once"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains(&place.bus));
    for (wrong, told) in [
        (&["--interval", "1ms"][..], "50ms"),
        (&["--sort", "colour"], "published_per_s"),
        (&["--view", "colour"], "sources"),
    ] {
        let output = place.run(&[&["top", "--once"], wrong].concat());
        assert_eq!(code(&output), 2, "{wrong:?}");
        assert!(
            text(&output.stderr).contains(told),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn once_counts_what_was_dropped_by_cause_source_and_rule() {
    let place = Place::new("top-once");
    let bus = Bus::attach(&place.bus, &options("drop")).expect("a bus");
    // Nobody drains: what does not fit into the lane is dropped.
    let _full = publish(&bus, "flood", "web", 20_000);
    let mut _long = publish(&bus, "long", "db", 1);
    let topic = _long.topic("log:db").expect("a rule takes it");
    for _ in 0..3 {
        assert!(_long.publish(topic, Level::Info, &[b'x'; 9_000]).is_err());
    }
    let output = place.run(&["top", "--once", "--json", "--interval", "50ms"]);
    // No daemon runs.
    assert_eq!(code(&output), 1, "{}", text(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["version"], 1);
    assert_eq!(json["bus"], *place.bus);
    assert_eq!(json["daemon"]["state"], "never");
    let stats = bus.stats();
    let of = |label: &str| {
        let mut sources = stats.sources.iter();
        let source = sources.find(|source| source.label == label);
        source.expect("it has published").dropped
    };
    assert!(of("flood").full > 0, "{stats:?}");
    assert_eq!(of("long").too_long, 3);
    let rows = json["sources"].as_array().expect("a table");
    assert_eq!(rows.len(), 2);
    for row in rows {
        let dropped = of(row["source"].as_str().expect("a text"));
        assert_eq!(row["dropped_full"], dropped.full);
        assert_eq!(row["dropped_too_long"], dropped.too_long);
        assert_eq!(row["dropped"], dropped.total());
        assert_eq!(row["dropped_per_s"], 0.0, "not in the interval");
    }
    let rule = &json["rules"][0];
    assert_eq!(rule["rule"], "log:*");
    assert_eq!(rule["dropped_full"], of("flood").full);
    assert_eq!(rule["dropped_too_long"], 3);
    assert_eq!(json["totals"]["dropped"]["total"], of("flood").total() + 3);

    let only = ["--view", "sources", "--sort", "dropped", "--filter", "LONG"];
    let asked = [&["top", "--once", "--interval", "50ms"], &only[..]].concat();
    let output = text(&place.run(&asked).stdout);
    assert!(output.contains("NO DAEMON has run here yet"), "{output}");
    assert!(
        output.lines().any(|line| line.starts_with("long ")),
        "{output}"
    );
    assert!(
        !output.lines().any(|line| line.starts_with("flood ")),
        "{output}"
    );
    assert!(
        output.lines().any(|line| line.contains("dropped▼")),
        "{output}"
    );
    // COLUMNS is 80; the lines above are sentences and go on.
    let table = output.lines().skip_while(|line| !line.is_empty());
    for line in table {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn rates_are_over_the_interval_and_all_is_well_with_a_daemon() {
    let _watchdog = Watchdog::start("top of rates", Duration::from_secs(120));
    let (place, mut publishers) = busy("top-rates");
    let topic = publishers[0]
        .topic("log:web-main")
        .expect("a rule takes it");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let publisher = &mut publishers[0];
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            // ORDERING: Relaxed; a flag that says only itself.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                publisher
                    .publish(topic, Level::Info, b"again")
                    .expect("there is room");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let output = place.run(&["top", "--once", "--json", "--interval", "500ms"]);
        // ORDERING: Relaxed; as above.
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        output
    });
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["daemon"]["state"], "runs");
    let seconds = json["seconds"].as_f64().expect("a number");
    assert!(seconds >= 0.5, "{seconds}");
    // Who publishes is first.
    assert_eq!(json["sources"][0]["source"], "web-main");
    let rate = json["sources"][0]["published_per_s"].as_f64();
    let rate = rate.expect("a number");
    assert!(rate > 0.0 && rate <= 1_000.0, "{rate}");
    assert_eq!(json["sources"][1]["published_per_s"], 0.0);
    assert_eq!(json["totals"]["published_per_s"], rate);
    // What the daemon says of itself, it says once a second.
    loop {
        let output = place.run(&["top", "--once", "--json", "--interval", "50ms"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut figures = json["figures"].as_array().expect("a table").iter();
        let write = figures.find(|row| row["figure"] == "write").expect("a row");
        if write["ever"].as_u64() > Some(0) && json["disk"]["bytes"].as_u64() > Some(0) {
            assert!(write["p99_ever"].as_f64() > Some(0.0), "{write}");
            break;
        }
    }
}

#[test]
fn without_colour_there_is_none() {
    let place = Place::new("top-colour");
    let bus = Bus::attach(&place.bus, &options("drop")).expect("a bus");
    let _publisher = publish(&bus, "flood", "web", 5_000);
    let Some(tmux) = Tmux::start(&place, 80, 24) else {
        return;
    };
    let coloured = |screen: &str| {
        let codes = screen.split("\x1b[").skip(1);
        let codes = codes.filter_map(|rest| rest.split('m').next());
        codes
            .flat_map(|code| code.split(';'))
            .any(|number| matches!(number.parse(), Ok(31..=36u32 | 38 | 41..=46 | 48 | 91..=96)))
    };
    let as_sent = || text(&tmux.run(&["capture-pane", "-p", "-e"]).stdout);
    tmux.top("");
    tmux.until_has("flood");
    assert!(coloured(&as_sent()), "{}", as_sent());
    tmux.keys(&["q"]);
    tmux.is_given_back();
    tmux.type_line("clear; export NO_COLOR=1");
    tmux.top("");
    tmux.until_has("flood");
    assert!(!coloured(&as_sent()), "{}", as_sent());
    tmux.keys(&["q"]);
    tmux.is_given_back();
}
