//! `daemon --http`: what each page says, in recovery, when the consumer hangs, when the log cannot be written, and to
//! visitors that are slow, many or wrong. Tools that read the pages (curl, promtool, Prometheus) where they are installed.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use millpond_bus::{Bus, ErrorKind, Level};
use millpond_tests::{Random, Watchdog, setting};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

use crate::figures;
use crate::support::{Daemon, Place, code, signal, text};

const LIMIT: Duration = Duration::from_secs(120);
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// As many as the server has at a time.
const CONNECTIONS_MAX: usize = 32;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// `problems` or `waits_for`, as one text.
    pub(crate) fn reasons(&self, key: &str) -> String {
        let value = self.json();
        let reasons = value[key].as_array().expect("a list").iter();
        let words: Vec<&str> = reasons.filter_map(Value::as_str).collect();
        words.join("; ")
    }
}

/// Sends these bytes; what came until the other side closed, however it did.
fn talk(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    // It may close before it has read everything.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn parse(bytes: &[u8]) -> Answer {
    let whole = text(bytes);
    let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    Answer {
        status: status.parse().expect("a number"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    parse(&talk(address, request.as_bytes()))
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path)
}

/// Asks until the status is this one.
fn await_status(address: SocketAddr, path: &str, status: u16) -> Answer {
    loop {
        let answer = get(address, path);
        if answer.status == status {
            return answer;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// The end of the line that a daemon, or its status, says where its pages are with.
pub(crate) fn address_in(line: &str) -> SocketAddr {
    let (_, address) = line.trim_end().rsplit_once(", http ").expect("an address");
    address.parse().expect("an address")
}

impl Place {
    fn serve(&mut self, args: &[&str]) -> SocketAddr {
        let args = [&["--http", "127.0.0.1:0"], args].concat();
        address_in(&self.start(&args))
    }

    fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").child.id()
    }

    /// How many entries the kernel shows in this directory of the daemon: threads (`task`), file handles (`fd`).
    fn count(&self, what: &str) -> usize {
        let dir = format!("/proc/{}/{what}", self.pid());
        fs::read_dir(dir).expect("it lives").count()
    }
}

/// The output of a program, or a visible word that it is not there.
fn run_tool(command: &mut Command) -> Option<Output> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {:?}: {error}", command.get_program());
            None
        }
    }
}

fn guide(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
    root.join(path)
}

#[test]
fn each_page_has_its_words_its_type_and_its_methods() {
    let _watchdog = Watchdog::start("pages", LIMIT);
    let mut place = Place::new("pages");
    let address = place.serve(&[]);
    for (page, word) in [
        ("/livez", "live"),
        ("/healthz", "healthy"),
        ("/readyz", "ready"),
    ] {
        let answer = get(address, page);
        assert_eq!(answer.status, 200, "{page}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let value = answer.json();
        assert_eq!((&value["version"], &value[word]), (&1.into(), &true.into()));
        assert_eq!(value["phase"], "running");
        assert_eq!(value["bus"], place.bus.as_str());
        assert_eq!(value["pid"], place.pid());
    }
    let index = get(address, "/");
    assert!(index.status == 200 && index.body.contains("/readyz"));
    let unknown = get(address, "/etc/passwd");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("/metrics"), "{}", unknown.body);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let refused = ask(address, method, "/healthz");
        assert_eq!(refused.status, 405, "{method}");
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    }
    // The head says how long the body would be, and there is none.
    let (whole, head) = (get(address, "/"), ask(address, "HEAD", "/"));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(
        head.header("content-length"),
        whole.header("content-length")
    );
    let asked = get(address, "/healthz?verbose=1");
    assert_eq!(asked.status, 200, "what stands behind ? changes nothing");
    let http10 = parse(&talk(address, b"GET /healthz HTTP/1.0\r\n\r\n"));
    assert_eq!(http10.status, 200);
    place.stop();
}

#[test]
fn statistics_are_the_same_as_on_the_command_line() {
    let _watchdog = Watchdog::start("statistics", LIMIT);
    let mut place = Place::new("same-stats");
    let address = place.serve(&[]);
    for number in 0..7 {
        let payload = number.to_string();
        let args = ["publish", "log:web:rpc", &payload, "--wait", "written"];
        assert_eq!(code(&place.run(&args)), 0);
    }
    // Lanes that are gone are counted out when the consumer looks, once a second.
    let at_rest = || {
        let printed = place.run(&["stats", "--json"]);
        let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
        printed["lanes"].as_array().is_some_and(Vec::is_empty)
    };
    while !at_rest() {
        std::thread::sleep(LOOK_INTERVAL);
    }
    let plain = |mut value: Value| {
        value["time_ns"] = Value::Null;
        let consumer = &mut value["consumer"];
        consumer["heartbeat_ns"] = Value::Null;
        // Told anew each second, too.
        let figures = &mut consumer["figures"];
        for of_now in ["cpu_ns", "memory_bytes", "sync_ns"] {
            figures[of_now] = Value::Null;
        }
        for of_now in ["time_ns", "free_bytes", "unsynced_segments"] {
            figures["disk"][of_now] = Value::Null;
        }
        value
    };
    let printed = place.run(&["stats", "--json"]);
    let served = get(address, "/stats.json");
    assert_eq!(served.header("content-type"), Some("application/json"));
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(plain(served.json()), plain(printed));

    let metrics = get(address, "/metrics");
    let exposition = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(metrics.header("content-type"), Some(exposition));
    let published = metrics
        .body
        .lines()
        .find(|line| line.starts_with("millpond_events_published_total{"));
    assert!(
        published.is_some_and(|line| line.ends_with("} 7")),
        "{}",
        metrics.body
    );
    place.stop();
}

#[test]
fn a_port_in_use_and_what_is_no_address_are_told_before_anything_is_made() {
    let place = Place::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it has one").to_string();
    let output = place.run(&["daemon", "--http", &address]);
    let words = text(&output.stderr);
    assert_eq!(code(&output), 2, "{words}");
    assert!(
        words.contains(&address) && words.contains("ss -ltnp") && words.contains("another port"),
        "{words}"
    );
    let error = Bus::open(&place.bus).expect_err("no bus was made");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!place.logs().exists());

    for wrong in ["localhost:9464", "9464", ":9464", "127.0.0.1", "[::1]"] {
        let output = place.run(&["daemon", "--http", wrong]);
        assert_eq!(code(&output), 2, "{wrong}");
        assert!(text(&output.stderr).contains("127.0.0.1:9464"), "{wrong}");
    }
    // Not of this host (a range for documents).
    let output = place.run(&["daemon", "--http", "192.0.2.1:9464"]);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("ip address"));
}

#[test]
fn the_address_comes_from_the_file_and_a_flag_goes_before_it() {
    let _watchdog = Watchdog::start("the file", LIMIT);
    let mut place = Place::new("http-file");
    let path = place.dir.path().join("config.toml");
    fs::write(&path, "http = \"127.0.0.1:0\"\n").expect("ours");
    let path = path.to_str().expect("text").to_owned();
    let ready = place.start(&["--config", &path]);
    assert_eq!(get(address_in(&ready), "/readyz").status, 200);
    place.stop();
    let ready = place.start(&["--config", &path, "--http", "off"]);
    assert!(!ready.contains(", http "), "{ready}");
    place.stop();
    let shown = place.run(&["config", "--config", &path]);
    assert!(text(&shown.stdout).contains("127.0.0.1:0"));
    fs::write(&path, "http = \"everywhere\"\n").expect("ours");
    let output = place.run(&["daemon", "--config", &path]);
    assert_eq!(code(&output), 2);
    let words = text(&output.stderr);
    assert!(words.contains("configuration key http"), "{words}");
}

#[test]
fn other_hosts_are_warned_of_and_ipv6_is_served() {
    let _watchdog = Watchdog::start("addresses", LIMIT);
    let place = Place::new("addresses");
    let mut open = place.command(&["daemon", "--http", "0.0.0.0:0"]);
    let mut daemon = Daemon::start(open.stderr(Stdio::piped()));
    let port = address_in(&daemon.ready).port();
    let answer = get(SocketAddr::from(([127, 0, 0, 1], port)), "/readyz");
    assert_eq!(answer.status, 200);
    let mut errors = daemon.child.stderr.take().expect("asked for");
    daemon.stop();
    let mut words = String::new();
    errors.read_to_string(&mut words).expect("text");
    assert!(
        words.contains("other hosts may reach http 0.0.0.0:"),
        "{words}"
    );

    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this host has no IPv6");
        return;
    }
    let mut six = place.command(&["daemon", "--http", "[::1]:0"]);
    let daemon = Daemon::start(six.stderr(Stdio::piped()));
    let address = address_in(&daemon.ready);
    assert!(address.is_ipv6());
    assert_eq!(get(address, "/readyz").status, 200);
    daemon.stop();
}

/// Those who open connections and say nothing, or very slowly, keep nobody out, and cost no thread.
#[test]
fn slow_and_many_visitors_keep_nobody_out() {
    let _watchdog = Watchdog::start("slow visitors", LIMIT);
    let mut place = Place::new("slow");
    let address = place.serve(&[]);
    assert_eq!(get(address, "/metrics").status, 200);
    let (threads, handles) = (place.count("task"), place.count("fd"));
    let many = setting("MILLPOND_TEST_CONNECTIONS", 200) as usize;
    let mut slow: Vec<TcpStream> = Vec::new();
    for number in 0..many {
        let mut stream = TcpStream::connect(address).expect("it listens");
        // Some have sent nothing yet, some the half of a head, some a whole one whose answer they do not read.
        let begun: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\nx-slow: ",
            _ => b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n",
        };
        let _ = stream.write_all(begun);
        slow.push(stream);
        assert_eq!(get(address, "/healthz").status, 200, "behind {number}");
    }
    assert_eq!(place.count("task"), threads, "no thread for any of them");
    assert!(place.count("fd") <= handles + CONNECTIONS_MAX + 2);
    // One more byte of each: those that lost their place are told so by a closed connection.
    for stream in &mut slow {
        let _ = stream.write_all(b"x");
    }
    assert_eq!(get(address, "/readyz").status, 200);
    // Those left are ended in time, without another visitor in their place: only a watchdog bounds that.
    while place.count("fd") > handles {
        std::thread::sleep(LOOK_INTERVAL);
    }
    place.stop();
}

#[test]
fn heads_without_end_and_bytes_without_sense_are_refused() {
    let _watchdog = Watchdog::start("nonsense", LIMIT);
    let mut place = Place::new("nonsense");
    let address = place.serve(&[]);
    let long_value = format!(
        "GET /healthz HTTP/1.1\r\nx-long: {}\r\n\r\n",
        "a".repeat(1 << 20)
    );
    let many_headers = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(5_000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    for request in [&long_value, &many_headers, &long_path] {
        let bytes = talk(address, request.as_bytes());
        // Where the rest of it was on its way the answer may be lost with the connection.
        if !bytes.is_empty() {
            let status = parse(&bytes).status;
            assert!([414, 431, 400].contains(&status), "{status}");
        }
        assert_eq!(get(address, "/healthz").status, 200);
    }
    for request in [
        &b"GET\r\n\r\n"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
    ] {
        let bytes = talk(address, request);
        let is_refused = bytes.is_empty() || (400..500).contains(&parse(&bytes).status);
        assert!(is_refused, "{}", text(&bytes));
    }
    let mut random = Random::seeded();
    for _ in 0..setting("MILLPOND_TEST_ROUNDS", 100) {
        let length = random.below(300);
        let mut request: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        // Ended, so that it is not waited for.
        request.extend_from_slice(b"\r\n\r\n");
        talk(address, &request);
    }
    // A body that nobody wants is not read.
    let body = format!(
        "POST /healthz HTTP/1.1\r\ncontent-length: {}\r\n\r\nabc",
        u64::MAX / 4
    );
    assert_eq!(parse(&talk(address, body.as_bytes())).status, 405);
    assert_eq!(get(address, "/healthz").status, 200);
    place.stop();
}

#[test]
fn visitors_at_once_are_all_answered() {
    let _watchdog = Watchdog::start("a hammer", LIMIT);
    let mut place = Place::new("hammer");
    let address = place.serve(&[]);
    let rounds = setting("MILLPOND_TEST_ROUNDS", 50);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    for page in ["/healthz", "/metrics", "/readyz", "/stats.json", "/nothing"] {
                        let answer = get(address, page);
                        let expected = if page == "/nothing" { 404 } else { 200 };
                        assert_eq!(answer.status, expected, "{page}");
                        // Whole, not cut.
                        let length = answer.header("content-length").expect("a length");
                        assert_eq!(length, answer.body.len().to_string());
                    }
                }
            });
        }
    });
    place.stop();
}

/// A FIFO in place of a file: who reads it waits there until somebody opens the other end.
pub(crate) struct Gate {
    path: PathBuf,
}

impl Gate {
    /// Recovery of the log in this directory will stand still.
    pub(crate) fn shut(logs: &Path) -> Self {
        let dir = logs.join("web");
        fs::create_dir_all(&dir).expect("a directory");
        let name = "20261121T040000.000000000Z";
        let line = "2026-11-21T04:00:00.000000000Z INFO  rpc one\n";
        fs::write(dir.join(format!("{name}.log")), line).expect("a segment");
        Self::at(dir.join(format!("{name}.idx")))
    }

    /// The consumer stands still when it reads this configuration again.
    pub(crate) fn instead_of(config: PathBuf) -> Self {
        fs::remove_file(&config).expect("it was there");
        Self::at(config)
    }

    fn at(path: PathBuf) -> Self {
        let status = Command::new("mkfifo").arg(&path).status();
        assert!(status.expect("mkfifo starts").success());
        Gate { path }
    }

    /// A configuration that says nothing, and that a gate can take the place of.
    pub(crate) fn config(place: &Place) -> PathBuf {
        let config = place.dir.path().join("config.toml");
        fs::write(&config, "").expect("a file");
        config
    }

    /// It goes on, with a file that is empty.
    pub(crate) fn open(self) {
        let other_end = fs::File::options().write(true).open(&self.path);
        let other_end = other_end.expect("recovery has it open");
        // What is opened next under this name is a file.
        fs::remove_file(&self.path).expect("ours");
        drop(other_end);
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it has one").port()
}

#[test]
fn recovery_is_waited_for_and_said() {
    let _watchdog = Watchdog::start("recovery", LIMIT);
    let mut place = Place::new("recovery");
    let gate = Gate::shut(&place.logs());
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let shown = address.to_string();
    let mut command = place.command(&["daemon", "--http", &shown]);
    let asker = std::thread::spawn(move || {
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(LOOK_INTERVAL);
        }
        let recovering = loop {
            let answer = get(address, "/readyz");
            // It takes the lease first.
            if answer.json()["phase"] == "recovery" {
                break answer;
            }
        };
        let others = ["/livez", "/healthz", "/metrics", "/stats.json"];
        let others = others.map(|page| get(address, page).status);
        gate.open();
        (recovering, others)
    });
    // Returns when it is ready.
    place.daemon = Some(Daemon::start(&mut command));
    let (recovering, others) = asker.join().expect("it was answered");
    assert_eq!(recovering.status, 503);
    assert_eq!(recovering.reasons("waits_for"), "recovery of the log");
    assert_eq!(recovering.json()["heartbeat_age_ns"], Value::Null);
    assert_eq!(others, [200; 4], "it lives, and is counted");
    assert_eq!(get(address, "/readyz").status, 200);
    place.stop();
}

#[test]
fn a_consumer_that_hangs_is_neither_live_nor_ready_until_it_moves_again() {
    let _watchdog = Watchdog::start("a hang", LIMIT);
    let mut place = Place::new("hang");
    let config = Gate::config(&place);
    let mut command = place.command(&["daemon", "--http", "127.0.0.1:0"]);
    let daemon = Daemon::start(command.env("MILLPOND_CONFIG", &config));
    let address = address_in(&daemon.ready);
    let gate = Gate::instead_of(config);
    signal(&daemon.child, "-HUP");
    place.daemon = Some(daemon);
    let dead = await_status(address, "/livez", 503);
    assert!(dead.reasons("problems").contains("hangs"), "{}", dead.body);
    assert_eq!(get(address, "/healthz").status, 503);
    let waiting = get(address, "/readyz");
    assert_eq!(waiting.status, 503);
    assert!(waiting.reasons("waits_for").contains("sign of life"));
    assert_eq!(get(address, "/metrics").status, 200, "counted all the same");
    gate.open();
    await_status(address, "/livez", 200);
    assert_eq!(get(address, "/readyz").status, 200);
    place.stop();
}

/// How large a file the daemon may make.
fn limit_files(pid: u32, bytes: Option<u64>) {
    let pid = Pid::from_raw(pid.try_into().expect("small")).expect("not 0");
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(pid), Resource::Fsize, limit).expect("a process of ours");
}

#[test]
fn a_log_that_cannot_be_written_is_unhealthy_and_no_reason_to_restart() {
    let _watchdog = Watchdog::start("trouble", LIMIT);
    let mut place = Place::new("trouble");
    let plain = place.command(&["daemon", "--http", "127.0.0.1:0", "--backend", "pwrite"]);
    // A process that ignores the signal is told by an error that its file is too large.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (key, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    place.daemon = Some(Daemon::start(command.stderr(Stdio::null())));
    let address = address_in(&place.daemon.as_ref().expect("it runs").ready);
    assert_eq!(get(address, "/healthz").status, 200);
    limit_files(place.pid(), Some(4096));
    // More than that, and not waited for.
    let bus = Bus::open(&place.bus).expect("a bus");
    let mut publisher = bus.publisher("web").expect("a label");
    let topic = publisher.topic("log:web:rpc").expect("a rule");
    for number in 0..100 {
        let payload = format!("{number} {}", "x".repeat(200));
        let published = publisher.publish(topic, Level::Info, payload.as_bytes());
        published.expect("room");
    }
    let ill = await_status(address, "/healthz", 503);
    let words = ill.reasons("problems");
    assert!(words.contains("cannot be written"), "{words}");
    assert_eq!(
        get(address, "/livez").status,
        200,
        "a restart mends nothing"
    );
    assert_eq!(get(address, "/readyz").status, 503);
    limit_files(place.pid(), None);
    await_status(address, "/healthz", 200);
    await_status(address, "/readyz", 200);
    place.stop();
    let lines = place.run(&["query", "--service", "web", "--count"]);
    assert_eq!(text(&lines.stdout).trim(), "100", "none of them is lost");
}

#[test]
fn curl_gets_what_a_probe_needs() {
    let _watchdog = Watchdog::start("curl", LIMIT);
    let mut place = Place::new("curl");
    let address = place.serve(&[]);
    let url = |page: &str| format!("http://{address}{page}");
    let probe = ["--silent", "--show-error", "--fail", "--max-time", "60"];
    let mut curl = Command::new("curl");
    let Some(output) = run_tool(curl.args(probe).arg(url("/readyz"))) else {
        return;
    };
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("\"ready\":true"));
    let mut curl = Command::new("curl");
    let output = run_tool(curl.args(probe).arg("--head").arg(url("/metrics"))).expect("again");
    assert_eq!(code(&output), 0);
    let head = text(&output.stdout).to_lowercase();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let mut curl = Command::new("curl");
    let output = run_tool(
        curl.args(probe)
            .args(["--data", "x=y"])
            .arg(url("/healthz")),
    );
    assert_eq!(
        code(&output.expect("again")),
        22,
        "405 is a failure to --fail"
    );
    place.stop();
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page_nor_with_the_guide() {
    let _watchdog = Watchdog::start("promtool", LIMIT);
    let rules = guide("prometheus/millpond.rules.yml");
    let mut promtool = Command::new("promtool");
    let Some(output) = run_tool(promtool.args(["check", "rules"]).arg(rules)) else {
        return;
    };
    assert_eq!(
        code(&output),
        0,
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let config = guide("prometheus/prometheus.yml");
    let mut promtool = Command::new("promtool");
    let output = run_tool(promtool.args(["check", "config"]).arg(config)).expect("again");
    assert_eq!(
        code(&output),
        0,
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );

    let mut place = Place::new("promtool");
    let address = place.serve(&[]);
    assert_eq!(code(&place.run(&["publish", "log:web:rpc", "x"])), 0);
    let page = get(address, "/metrics");
    let (is_clean, said) = figures::promtool(page.body.as_bytes()).expect("it was there");
    assert!(is_clean, "{said}");
    place.stop();
    // What alerts ask for is there.
    let rules = fs::read_to_string(guide("prometheus/millpond.rules.yml")).expect("text");
    let letters = |c: char| !(c.is_ascii_lowercase() || c == '_');
    let names = rules
        .split(letters)
        .filter(|word| word.starts_with("millpond_"));
    for name in names.filter(|name| !name.contains("subscriber")) {
        assert!(page.body.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

/// A process that is killed when it is dropped.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_scrapes_it_and_gives_the_numbers_back() {
    let _watchdog = Watchdog::start("prometheus", LIMIT);
    let mut place = Place::new("prometheus");
    let address = place.serve(&[]);
    for number in 0..7 {
        let payload = number.to_string();
        let args = ["publish", "log:web:rpc", &payload, "--wait", "written"];
        assert_eq!(code(&place.run(&args)), 0);
    }
    let config = place.dir.path().join("prometheus.yml");
    let words = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: millpond\n    static_configs:\n      - targets: [\"{address}\"]\n"
    );
    fs::write(&config, words).expect("ours");
    let web = format!("127.0.0.1:{}", free_port());
    let started = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            place.dir.path().join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={web}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(prometheus) = started else {
        eprintln!("skipped: prometheus is not installed");
        return;
    };
    let _prometheus = Child(prometheus);
    let server = format!("http://{web}");
    let query = |expression: &str| {
        let mut promtool = Command::new("promtool");
        let output = run_tool(promtool.args(["query", "instant", &server, expression]));
        output.map(|output| text(&output.stdout))
    };
    let bus = &place.bus;
    for (expression, value) in [
        (format!("millpond_consumer_up{{bus=\"{bus}\"}}"), "=> 1 @"),
        (
            format!("sum(millpond_events_published_total{{bus=\"{bus}\"}})"),
            "=> 7 @",
        ),
        (
            format!("millpond_log_lines_total{{bus=\"{bus}\",service=\"web\"}}"),
            "=> 7 @",
        ),
        ("up{job=\"millpond\"}".to_owned(), "=> 1 @"),
    ] {
        // It starts, and scrapes once a second.
        loop {
            let Some(found) = query(&expression) else {
                return;
            };
            if found.contains(value) {
                break;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
    place.stop();
}
