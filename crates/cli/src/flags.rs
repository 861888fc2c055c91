//! Every flag, once: help, man pages and completions are made from this table.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use millpond_capture::{Newlines, View, WindowSize};
use millpond_logfile::Cursor;

use crate::commands::top::model::View as TopView;
use crate::conditions::Condition;
use crate::log::Levels;
use crate::units::{parse_duration, parse_size, parse_terminal_size};

const EXIT_CODES: &str =
    "Exit codes: 0 found or done, 1 nothing matched or something was lost, 2 error.";

/// A shared-memory event bus and log pipeline for one host.
///
/// Services publish events without a system call; one daemon writes them to plain text files with an index;
/// this command does both, and asks the files.
#[derive(Debug, Parser)]
#[command(name = "millpond", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Bus to use [default: default]
    #[arg(long, global = true, env = "MILLPOND_BUS", value_name = "NAME")]
    pub(crate) bus: Option<String>,
    /// Log directory [default: /var/log/millpond for root, else ~/.local/state/millpond/logs]
    #[arg(long, global = true, env = "MILLPOND_LOGS", value_name = "DIR")]
    pub(crate) logs: Option<PathBuf>,
    /// Configuration file [default: /etc/millpond/config.toml for root, else
    /// ~/.config/millpond/config.toml, where it exists]
    #[arg(long, global = true, env = "MILLPOND_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// When to use colour; `auto` means on a terminal and without NO_COLOR
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN"
    )]
    pub(crate) color: Color,
    /// Print JSON with stable keys
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What of millpond's own doing is told on standard error: off, error, warn, info, debug or trace; also by part, as
    /// in `warn,sink=debug` (daemon, sink, telemetry)
    #[arg(
        long,
        global = true,
        env = "MILLPOND_LOG",
        value_name = "LEVELS",
        default_value = "warn",
        hide_short_help = true
    )]
    pub(crate) log_level: Levels,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the consumer in the foreground: drain the bus, write the logs
    #[command(after_help = concat!("Examples:\n  millpond daemon\n  millpond daemon --bus test --logs /tmp/logs --sync always\n  millpond daemon --drain              # write what dead publishers left, and end\n  millpond daemon --http 127.0.0.1:9464; curl -i localhost:9464/readyz\n\nPrints one line when it is ready. SIGTERM and SIGINT stop it after everything is written; SIGUSR1 starts new segments, SIGHUP reads the rules of the configuration file again. Under systemd (Type=notify) it tells the manager that it is ready, what it does, and that it lives: docs/guide/systemd has the units, docs/guide/health.md the pages.\n\nExit codes: 0 stopped in order, 2 error."))]
    Daemon(RunFlags),
    /// Publish the lines of standard input to the log of a service
    #[command(after_help = concat!("Examples:\n  my-service 2>&1 | millpond pipe --service web\n  millpond pipe --service build --source make --tee < build.log\n  make 2>&1 | millpond pipe --service build --view terminal --tee\n\nReturns when every line is in the file. A line longer than 16 KiB, or than the rule allows, goes out in pieces. While there is no daemon, or it cannot write, it waits and says so; lines are dropped only where the rule says `drop-newest`. A level is found in the first 100 bytes of a line (`ERROR`, `[warn]`, `level=error`, `error:` ..), else it is info.\n\nExit codes: 0 all written, 1 some lines were dropped (says how many), 2 error (also: standard output could not be written). Durations: 50ms, 10s, 5m."))]
    Pipe(PipeFlags),
    /// Run a command as ever, with everything it writes in the log
    #[command(after_help = concat!("Examples:\n  millpond capture --service web -- npm run dev\n  millpond capture --service build --raw-to build.cast -- make -j8\n  millpond capture --service db --pipe -- postgres -D data\n  millpond capture --file services.toml --check\n  millpond query --service web\n\nThe command has a terminal of its own; bytes, keys, signals, window size and exit status go through. Lines are in the log without escape sequences, a progress bar in its last state; `--raw-to` and `millpond attach` have the exact bytes. Nothing ever waits for the log: what does not fit is dropped, counted, and told in the log.\n\nDurations: 50ms, 10s, 5m.\n\nExit codes: those of the command, 128 and its number after a signal; 127 no such command, 126 not executable, 125 it could not be captured, 2 flags that cannot be used. With --file: 0 all ended well, 1 one did not, 125 nothing was started."))]
    Capture(CaptureFlags),
    /// Look on at a captured command: the last lines of its terminal, then live
    #[command(after_help = concat!("Examples:\n  millpond attach web\n  millpond attach web -n 0                # only what comes from now on\n  millpond attach web@4711                # the second of two captures of web\n  millpond attach web --format asciicast | websocat -s 8080\n\nAny number may look on, also while there is no daemon; nobody waits for a slow one, which is told what it missed. Ctrl-C ends the looking, not the command.\n\nExit codes: 0 the command has ended (with whatever code), or you have; 1 no such capture, 2 error."))]
    Attach(AttachFlags),
    /// Publish one event
    #[command(after_help = concat!("Examples:\n  millpond publish log:web:deploy 'version 1.2 is live'\n  millpond publish data:users:created '{\"id\":7}'\n  uptime | millpond publish log:host\n\nExit codes: 0 published, 1 dropped, 2 error."))]
    Publish(PublishFlags),
    /// Show events as they come
    #[command(after_help = concat!("Examples:\n  millpond subscribe 'data:*'\n  millpond subscribe 'data:users:*' 'chat:*' --since 5m\n  millpond subscribe 'log:web:*' --since oldest --json\n  millpond subscribe 'gpu:*' --json -n 10 --timeout 30s | jq .fields\n  millpond subscribe 'task:*' --where /metadata/target=me --where /priority\n\nEvents go to standard output, word of missed and dropped ones to standard error. Sleeps without using the CPU while nothing comes. Quote patterns: a shell may take `*` for files.\n\nWith `--since`, events of rules that have a `service` (`log:*`) come out of the log: everything from then on, then live, without a gap or a repeat, also while no daemon runs and across its restarts. `--json` lines have a `cursor` then, the `--since` that goes on behind them. Other events come from memory, which keeps the latest of each publisher. `millpond explain PATTERN` says which rules are logged.\n\nExit codes: 0 something came (or it was stopped by a signal), 1 nothing came before the timeout, 2 error."))]
    Subscribe(SubscribeFlags),
    /// Wait for one event, print it, and end
    #[command(after_help = concat!("Examples:\n  millpond wait 'build:*:done' --timeout 10m\n  millpond wait task:handoff --where /metadata/handoff_target=reviewer --json\n\nTwo agents that take turns. The reviewer notes where it is, looks whether there is work, and waits from there: what is posted between the look and the wait is not missed.\n  reviewer:  at=$(millpond wait --print-position)\n             ls inbox/* 2>/dev/null ||\n               millpond wait task:handoff --since \"$at\" --where /to=reviewer --timeout 60s\n  writer:    millpond publish task:handoff '{\"to\":\"reviewer\",\"file\":\"a.rs\"}'\n             millpond wait task:handoff --where /to=writer --timeout 10m\n\nSleeps without using the CPU. With `--json` the line has a `position`: the `--since` of the next wait. With `--since TIME`, events of rules that have a `service` come out of the log, as with `subscribe`.\n\nExit codes: 0 it came, 124 the time is up, 128 and its number after a signal, 2 error."))]
    Wait(WaitFlags),
    /// Search the logs; works with or without a daemon
    #[command(after_help = concat!("Examples:\n  millpond query --service web -n 200\n  millpond query --service web,db --level error --since 10m\n  millpond query --grep 'connection refused' --since 2026-11-21T01:00:00Z --until 2026-11-21T02:00:00Z\n  millpond query --source 'pty:*' --regex 'after \\d+ ms$' --newest-first | head\n  millpond query --count --by level\n  millpond query --histogram --since today --level warn\n  millpond query --service web --raw > web.out\n  millpond query --level error --follow\n\nWhat is new since the last look, as often as you like:\n  millpond query --cursor \"$at\" --print-cursor 2>err; at=$(tail -n 1 err)\n\nTimes: RFC 3339, `2026-11-21 01:29`, `01:29` (today), `today`, `yesterday`, or `5m` for five minutes ago. Everything that is asked for must hold. Lines of a service come in the order of its files, services are merged by time.\n\nExit codes: 0 found (or stopped while following), 1 nothing matched, 2 error or damage (what could be read is printed)."))]
    Query(QueryFlags),
    /// Write the log text of services as it is stored
    #[command(after_help = concat!("Examples:\n  millpond cat web | less\n  millpond cat web --since yesterday --until today > yesterday.log\n  millpond cat --all | grep -c ERROR\n  millpond cat web --segments\n\nEvery byte of the files, oldest segment first, sealed ones unpacked; one service after the other. With times, the lines of that time (a line without a time goes with the one in front of it). To see services merged by time, use `millpond query`.\n\nExit codes: 0 done, 1 nothing there, 2 error or damage (what could be read is written)."))]
    Cat(CatFlags),
    /// Show the last lines of services, and follow them
    #[command(after_help = concat!("Examples:\n  millpond tail --service web\n  millpond tail -f\n  millpond tail --service web,db -n 50 -f\n\nFollowing survives rotation, takes in services that appear later, and uses no CPU while nothing is written. `millpond query --follow` is the same with filters.\n\nExit codes: 0 found (or stopped while following), 1 nothing there, 2 error."))]
    Tail(TailFlags),
    /// Show what is counted on the bus, from shared memory; works when the daemon hangs or is dead
    #[command(after_help = concat!("Examples:\n  millpond stats\n  millpond stats --json | jq '.sources[] | select(.dropped.total > 0)'\n  millpond stats --since 10m\n  millpond stats --by service --since 1h\n  millpond stats --format prometheus > /var/lib/node_exporter/millpond.prom\n\nTotals first, then what is wrong with its remedy: a daemon that is dead or hangs, who lost, who is behind, who was the loudest (by events published in the last ten minutes, or `--since`), who missed. Tables fit the terminal; in a pipe they are as wide as they are. Process, user and executable are what the kernel tells; `?` marks a publisher's own word. The history of an hour is in shared memory and outlives the daemon.\n\nExit codes: 0 nothing lost (with `--since`: since then), or --format prometheus; 1 something was dropped or rejected, 2 error."))]
    Stats(StatsFlags),
    /// Watch the bus on a screen of its own: rates, lag, drops, disk and GPUs; works when the daemon hangs or is dead
    #[command(after_help = concat!("Examples:\n  millpond top\n  millpond top --interval 200ms --view rules --sort dropped\n  millpond top --once\n  millpond top --once --json | jq '.sources[] | select(.dropped_per_s > 0)'\n  millpond top --once --view services --sort disk_bytes --filter web\n\nKeys: ? help, q leave, / filter, < > sort, r reverse, 1-6 tables, space pause, + - interval.\n\nReads shared memory, asks nobody. A bus that is made later, or removed and made again, is shown as it comes. Durations: 50ms, 1s, 5m; at least 50ms.\n\nExit codes: 0 left; with --once: a daemon runs and nothing was lost in the interval. 1 (with --once) something was dropped or refused in it, or no daemon runs, or it hangs. 2 error: no terminal; with --once: no such bus."))]
    Top(TopFlags),
    /// Publish samples of GPUs and of the host
    #[command(after_help = concat!("Examples:\n  millpond telemetry\n  millpond telemetry --interval 1s --host-only\n  millpond telemetry --once --json | jq .events[0].fields\n  millpond telemetry --gpu-only --record gpus.ndjson     # until Ctrl-C\n  millpond telemetry --samples gpus.ndjson               # no GPU needed\n  millpond subscribe 'gpu:*' 'host:*' 'telemetry:*'\n\nPublishes gpu:INDEX:sample, gpu:INDEX:process:PID, host:cpu, host:memory and their like. Units are the last word of each name: ratios are 0 to 1. What a GPU does not have is NaN (`null` in JSON). The rule gpu:* makes one record a second of it.\n\nNo library, a driver that goes away, a GPU that is lost: each is a state (telemetry:state:THING and a line on standard error) and is tried again, after 1 s, 2 s, 4 s, up to a minute. It ends by SIGTERM or SIGINT alone, and says then what it published and what that cost.\n\nDurations: 50ms, 10s, 5m.\n\nExit codes: 0 stopped, everything published (--once: something was sampled); 1 some events were dropped (--once: nothing to sample); 2 error."))]
    Telemetry(TelemetryFlags),
    /// Say which rule applies to an event name, how its events are delivered, and why
    #[command(after_help = concat!("Examples:\n  millpond explain data:users:created\n  millpond explain log:web:pty:out --json\n  millpond explain 'data:*'\n\nFor a pattern it lists the rules that can carry names that match it, in order of precedence.\n\nExit codes: 0 a rule applies, 1 none does, 2 error."))]
    Explain {
        /// Event name, such as data:users:created, or a pattern such as data:*
        name: String,
    },
    /// Check kernel, limits, daemon, logs and leftovers, and say what to do
    #[command(after_help = concat!("Examples:\n  millpond doctor\n  millpond doctor --logs /srv/logs --json\n  millpond doctor --fix --dry-run\n  millpond doctor --fix\n\n`--fix` does what can lose nothing: it removes objects that nobody holds and that hold nothing, buses on which nobody lives and nothing waits, and files that were being made; it makes damaged indexes of closed segments anew, and mends `current.log`. What could lose something it leaves alone, and says which command does it.\n\nExit codes: 0 all well (warnings allowed), 1 something does not work, 2 error."))]
    Doctor(DoctorFlags),
    /// Show a bus as it lies in memory, event by event: of a daemon that hangs or is dead, too
    #[command(after_help = concat!("Examples:\n  millpond dump\n  millpond dump --lane 1f --records 1000\n  millpond dump --lane 1f --raw > lost.txt\n  cp /dev/shm/millpond.default.* /tmp/crash/ && millpond dump --dir /tmp/crash --json\n\nReads copies, changes nothing, and needs nobody. Shows who holds what, which events the publishers committed and no consumer has taken, what was claimed and never committed, and what is damaged. Lanes are named by the number in the name of their object.\n\nExit codes: 0 shown, 1 no such bus (and nothing is printed, also with `--json`), 2 error or damage (the rest is shown)."))]
    Dump(DumpFlags),
    /// Remove the shared memory of buses on which nobody lives
    #[command(after_help = concat!("Examples:\n  millpond gc --all --dry-run\n  millpond gc --bus test\n  millpond gc --all\n  millpond gc --bus test --discard\n\nWithout `--all`, the bus that `--bus` names. Only what belongs to this user. A bus is left alone while a daemon, a publisher, a subscriber or any process that has it mapped lives. One that still holds events which no consumer has taken is refused: `millpond daemon --drain` writes them first.\n\nExit codes: 0 removed (or would be), 1 nothing to remove, 2 error or refused."))]
    Gc(GcFlags),
    /// Check everything against everything: text, indexes, filters, seals, links, commit point, counts
    #[command(after_help = concat!("Examples:\n  millpond verify\n  millpond verify --service web,db --since yesterday\n  millpond verify --json\n\nReads all the text there is, and changes nothing; works while a daemon writes. Each damaged place is named with file, byte, what is expected, what is found, and what to do.\n\nExit codes: 0 all well, 1 the directory holds no log, 2 error or damage."))]
    Verify(VerifyFlags),
    /// Print every setting, with where it came from; or have the daemon read its rules again
    #[command(after_help = concat!("Examples:\n  millpond config\n  MILLPOND_BUS=test millpond config --json\n  millpond config reload\n\nPrecedence: flags, then environment, then the configuration file, then defaults.\n\nExit codes: 0 done, 2 error."))]
    Config(ConfigFlags),
    /// Rebuild the indexes of log files
    #[command(after_help = concat!("Examples:\n  millpond index rebuild\n  millpond index rebuild --service web\n\nRefuses while a daemon writes there. `millpond verify` compares indexes with their text.\n\nExit codes: 0 done, 1 no log there, 2 error."))]
    Index {
        #[command(subcommand)]
        action: IndexAction,
    },
    /// Bring the logs of another system into the log directory: an SQLite table, or the systemd journal
    #[command(after_help = concat!("Examples:\n  millpond import logs.db --dry-run\n  millpond import logs.db\n  millpond import old.sqlite --table entries --time-unit ms --service-prefix old-\n  journalctl -o export --since yesterday | millpond import -\n\nThe file says itself which of the two it is. `--dry-run` shows what would become of it and writes nothing. Columns are found by name: context, source, tags, timestamp, level, error, content. The message is the content, then ` error=..`, ` tags=..` and every other column.\n\nNo daemon may write to the log directory meanwhile. Killed or stopped at any point, the same command goes on where it was, and every row is there once. Imported services are new ones: where one of that name has a log already, `--service-prefix imported-` keeps them apart.\n\nExit codes: 0 every row is in the log, 2 error, or rows that have no time and were left out (each is named), 128 and its number after a signal."))]
    Import(ImportFlags),
    /// Ask the daemon to start a new segment for every service
    #[command(after_help = concat!("Examples:\n  millpond rotate\n\nExit codes: 0 asked, 2 error."))]
    Rotate,
    /// Show the main job on real logs in under 30 seconds, in a temporary place
    #[command(after_help = concat!("Examples:\n  millpond demo\n  millpond demo --lines 1000000 --remove\n\nExit codes: 0 all accounted for, 1 something was lost, 2 error."))]
    Demo(DemoFlags),
    /// Play a load from a real system beside what it replaced: counts are judged, times shown
    #[command(after_help = concat!("Examples:\n  millpond replay tower-start --size ci\n  millpond replay tower-start --only 1000/s\n  millpond replay debate --only pair --json | jq .pair.asleep.p50_ns\n  millpond replay week --size 1GB,4GB,16GB --dir /var/tmp --corpus logs/\n\nScenario          ci   full     disk   memory  processes  phases, for --only\n  tower-start     6 s  6 min    -      1 GB    11         100/s, 1000/s, unpaced,\n                                                          sustained\n  last-value      2 s  2 min    -      100 MB  4          snapshot, persona\n  debate          5 s  1 min    -      100 MB  10         pair, meeting, sleep,\n                                                          baselines\n  selective-wake  2 s  20 s     -      100 MB  6          -\n  normal-day      3 s  2 min    2 GB   300 MB  6          -\n  runaway         6 s  3 min    250 MB 300 MB  5          same, different\n  rotation        5 s  1 min    10 MB  100 MB  7          -\n  crash           5 s  1 min    100 MB 100 MB  11         -\n  frozen-disk     10 s 2 min    100 MB 100 MB  6          -\n  full-disk       11 s 2 min    -      400 MB  6          -\n  power-cut       4 s  1 min    150 MB 200 MB  3          simulated\n  ptys            5 s  1 min    10 GB  500 MB  26         -\n  gpus            10 s 1 min    -      100 MB  3          -\n  week            15 s 10 min   7 GB   300 MB  4          -\n\nweek of N bytes of text takes N/3 of disk and 64 MiB for each service, up to\n4 GB of text 2 N more for SQLite; it says what is needed and left first.\n\nfrozen-disk needs root and /dev/fuse, full-disk needs root: without, they end with\n2. power-cut takes a disk that is simulated where it may not mount one, and says\nso. crash needs neither.\n\nEach has a bus, a daemon and a log directory of its own, gone at the end:\n`--bus` and `--logs` change nothing.\n\nExit codes: 0 all counts are right, 1 some are not (see the report), 2 error."))]
    Replay(ReplayFlags),
    /// Measure millpond on this machine, beside what the machine itself needs, and make a report of it
    #[command(after_help = concat!("Examples:\n  millpond bench\n  millpond bench publish sink --rounds 9\n  millpond bench --size tiny                       # that it runs; its figures mean nothing\n  millpond bench --growth --save own.jsonl --report report\n  millpond bench --only-report --rows own.jsonl bus.jsonl --report report\n  millpond bench query --json | jq 'select(.is_floor | not) | .peer'\n\nFull takes minutes, --growth twice as long, and as much disk as half of what is free. Rounds of all who do the same work are interleaved; medians with the least and the greatest are shown. Rows of programs that measure others (benches/compare) go into the same report. The report is README.md, report.html (one file, for a phone too), the plots, and rows.jsonl.\n\nBuses and log directories are its own, gone at the end and at Ctrl-C, which ends it behind the round that it is in and leaves no file; a second one ends it at once. `--bus` and `--logs` change nothing.\n\nExit codes: 0 done (what cannot run here is skipped, and said), 1 millpond itself failed in a round, 2 error, 128 and its number after a signal."))]
    Bench(BenchFlags),
    /// Print a completion script for a shell
    #[command(after_help = concat!("Examples:\n  millpond completions bash > ~/.local/share/bash-completion/completions/millpond"))]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages
    #[command(after_help = concat!("Examples:\n  millpond man ~/.local/share/man/man1"))]
    Man {
        /// Directory to write them to
        dir: PathBuf,
    },
    /// One publisher process of the demo
    #[command(hide = true)]
    DemoFeed(DemoFeedFlags),
    /// One process of a scenario
    #[command(hide = true)]
    ReplayRole(RoleFlags),
    /// One process of a measurement
    #[command(hide = true)]
    BenchRole(RoleFlags),
}

/// How the daemon writes. Every one of these may stand in the configuration file under the same name.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DaemonFlags {
    /// When text is forced to the disk: never, always, or an interval such as 1s [default: 1s]
    #[arg(long, value_name = "WHEN")]
    pub(crate) sync: Option<String>,
    /// Close a segment at this size [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) segment_bytes: Option<u64>,
    /// Close a segment at this age [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) segment_age: Option<Duration>,
    /// Keep at most this much of each service on the disk [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) service_bytes: Option<u64>,
    /// Keep at most this much of all services on the disk [default: 4GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) total_bytes: Option<u64>,
    /// Keep at most this many segments of each service, the open one included [default: no limit]
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep_segments: Option<u32>,
    /// Remove closed segments whose last line is older than this [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) keep_age: Option<Duration>,
    /// Remove closed segments while less than this is free on the file system [default: 1GiB, or 5 %
    /// of the file system if that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) keep_free: Option<u64>,
    /// Compress closed segments: `never`, or at a zstd level from 1 to 19 [default: 3]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) seal: Option<String>,
    /// Write a line `alive lines=N` to the log of each service this often [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) liveness: Option<Duration>,
    /// The longest a line waits in memory [default: 50ms]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) flush_delay: Option<Duration>,
    /// Text written at a time; memory is about six times this in the worst case [default: 4MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) group_bytes: Option<u64>,
    /// How files are written: auto, io_uring or pwrite [default: auto]
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// Shared memory for all lanes of a new bus [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) bus_bytes: Option<u64>,
    /// Lanes of a new bus, at most 1024 [default: 1024]
    #[arg(long, value_name = "COUNT")]
    pub(crate) lanes: Option<u32>,
    /// Serve /livez, /healthz, /readyz, /metrics (Prometheus) and /stats.json here, such as 127.0.0.1:9464 or
    /// [::1]:9464; port 0 is any that is free, `off` is none [default: off]
    #[arg(long, value_name = "ADDR", value_parser = parse_http)]
    pub(crate) http: Option<Http>,
}

/// Where the pages are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    Off,
    At(SocketAddr),
}

impl std::fmt::Display for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Http::Off => f.write_str("off"),
            Http::At(address) => address.fmt(f),
        }
    }
}

pub(crate) fn parse_http(text: &str) -> Result<Http, String> {
    if text == "off" {
        return Ok(Http::Off);
    }
    text.parse().map(Http::At).map_err(|_| {
        format!("{text:?} is no address: write a number and a port, such as 127.0.0.1:9464 or [::1]:9464, or off")
    })
}

#[derive(Debug, Args)]
pub(crate) struct RunFlags {
    #[command(flatten)]
    pub(crate) daemon: DaemonFlags,
    /// End when everything is written that waits in shared memory now: after a crash, before `gc`
    #[arg(long)]
    pub(crate) drain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopFlags {
    /// Look this often; with `--once`, what rates are over
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub(crate) interval: Duration,
    /// Look twice, print once, and end: text, or JSON with --json
    #[arg(long)]
    pub(crate) once: bool,
    /// Begin with this table; with `--once`, print only this one
    #[arg(long, value_enum, value_name = "TABLE")]
    pub(crate) view: Option<TopView>,
    /// Sort by this column of the table, by its key in JSON
    #[arg(long, value_name = "COLUMN")]
    pub(crate) sort: Option<String>,
    /// Sort the other way around
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Only rows that hold this text, in whatever case
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) filter: String,
    /// Times in UTC instead of local time
    #[arg(long)]
    pub(crate) utc: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TelemetryFlags {
    /// Time between two samples of a GPU, and the shortest time between any two; at least 1ms
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    /// Time between two looks at the host
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) host_interval: Duration,
    /// Time between two looks at the PCIe link of a GPU; each takes its driver 40 ms
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    pub(crate) pcie_interval: Duration,
    /// Time between two looks at the memory errors of a GPU
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) ecc_interval: Duration,
    /// Time between two looks at processes: on GPUs, and those that publish
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) processes_interval: Duration,
    /// Only the GPUs
    #[arg(long, conflicts_with = "host_only")]
    pub(crate) gpu_only: bool,
    /// Only the host
    #[arg(long)]
    pub(crate) host_only: bool,
    /// Play the samples of this file in the place of GPUs: each in its turn, over and over
    #[arg(long, value_name = "FILE", conflicts_with = "host_only")]
    pub(crate) samples: Option<PathBuf>,
    /// Write down what the driver of the GPUs says, for `--samples`; the file must not exist
    #[arg(long, value_name = "FILE", conflicts_with_all = ["host_only", "samples", "once"])]
    pub(crate) record: Option<PathBuf>,
    /// Look at everything for a second, print it, and end; publishes nothing
    #[arg(long)]
    pub(crate) once: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|interval| match interval < Duration::from_millis(1) {
        true => Err(format!("{text:?} is too short: at least 1ms")),
        false => Ok(interval),
    })
}

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// Do what can lose nothing, and say each thing
    #[arg(long)]
    pub(crate) fix: bool,
    /// Say what `--fix` would do, and do nothing
    #[arg(long, requires = "fix")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DumpFlags {
    /// Only the lane with this number, as its object is named (hexadecimal)
    #[arg(long, value_name = "N", value_parser = parse_epoch)]
    pub(crate) lane: Option<u64>,
    /// At most this many records of each lane, and of each outbox that is asked for; 0: none
    #[arg(long, value_name = "N", default_value = "10")]
    pub(crate) records: u64,
    /// The payloads of all events of the lane that no consumer has taken, and nothing else; of a rule with a service a
    /// newline behind each
    #[arg(long, requires = "lane", conflicts_with = "json")]
    pub(crate) raw: bool,
    /// Directory of the objects: copies from another host, say [default: /dev/shm]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

fn parse_epoch(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text, 16).map_err(|_| {
        format!("{text:?} is no number of a lane: the end of the name of its object, such as 1f")
    })
}

#[derive(Debug, Args)]
pub(crate) struct GcFlags {
    /// Every bus of this user
    #[arg(long)]
    pub(crate) all: bool,
    /// Also buses with events that no consumer has taken: they are lost
    #[arg(long)]
    pub(crate) discard: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyFlags {
    /// Service to verify; repeatable, or several with commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) service: Vec<String>,
    /// Only segments with lines from this time on
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Read times in UTC instead of local time
    #[arg(long)]
    pub(crate) utc: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigFlags {
    #[command(flatten)]
    pub(crate) daemon: DaemonFlags,
    #[command(subcommand)]
    pub(crate) action: Option<ConfigAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Have the daemon read the rules of its configuration file again
    #[command(after_help = concat!("Examples:\n  millpond config reload\n  kill -HUP $(pidof millpond)        # the same, without an answer\n\nThe file is checked here first. Publishers that are attached go over to the new rules, and no event is lost. A file with a mistake changes nothing. Only rules, and repeats, rate-limit, sample and redact of services, are read again: other keys need a restart.\n\nExit codes: 0 the rules of this file are in force, 1 not within the timeout, 2 error."))]
    Reload(ReloadFlags),
}

#[derive(Debug, Args)]
pub(crate) struct ReloadFlags {
    /// How long to wait until the rules are in force
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// What `subscribe` and `wait` listen to.
#[derive(Debug, Args)]
pub(crate) struct SelectFlags {
    /// Begin in the past: `oldest`, a duration such as 5m, a time, a log cursor (c1:..) or a position
    /// in memory (p1:..) [default: now]
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Read from the log, also from now on; an error for events of rules that are not logged
    #[arg(long)]
    pub(crate) replay: bool,
    /// Only events whose JSON payload has this value at /json/pointer, or anything there without
    /// `=value`; repeatable, all must hold. Events with a schema are looked at by field
    #[arg(long = "where", value_name = "/POINTER[=VALUE]")]
    pub(crate) conditions: Vec<Condition>,
    /// What `--where` does with a payload that is not JSON
    #[arg(long, value_enum, default_value = "skip", value_name = "WHAT")]
    pub(crate) where_not_json: NotJson,
    /// Read and show times in UTC instead of local time
    #[arg(long)]
    pub(crate) utc: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NotJson {
    /// It matches
    Pass,
    /// It does not match; counted, and said at the end
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LagPolicy {
    /// Say how many were missed, and go on
    Skip,
    /// End with an error
    End,
}

#[derive(Debug, Args)]
pub(crate) struct SubscribeFlags {
    /// Patterns of event names, such as 'data:*' or 'sentinel:*:status'
    #[arg(value_name = "PATTERN", required = true)]
    pub(crate) patterns: Vec<String>,
    #[command(flatten)]
    pub(crate) select: SelectFlags,
    /// End after this many lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) lines: Option<u64>,
    /// End after this long [default: go on]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// What to do when events were overwritten before they could be read
    #[arg(long, value_enum, default_value = "skip", value_name = "WHAT")]
    pub(crate) on_lag: LagPolicy,
    /// Look for events in memory without sleeping: under a microsecond, for one whole CPU
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// One line for each consolidated record instead of one for each of its events; always so with
    /// `--json`, which has the events inside
    #[arg(long)]
    pub(crate) batches: bool,
    /// At the end print a log cursor on standard error, as its last line: the `--since` that goes on
    /// there. Implies `--replay`
    #[arg(long)]
    pub(crate) print_cursor: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WaitFlags {
    /// Patterns of event names, such as 'data:*' or 'sentinel:*:status'
    #[arg(value_name = "PATTERN", required_unless_present = "print_position")]
    pub(crate) patterns: Vec<String>,
    #[command(flatten)]
    pub(crate) select: SelectFlags,
    /// Give up after this long, with exit code 124 [default: wait]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print the position of now, for a later `--since`, and end
    #[arg(long)]
    pub(crate) print_position: bool,
}

/// What a line of statistics is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsBy {
    /// A publisher's label and a rule
    Source,
    /// A log
    Service,
    /// One process's ring
    Lane,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsFormat {
    /// For people
    Text,
    /// One object, the same as --json
    Json,
    /// The text exposition format, for a scrape
    Prometheus,
}

#[derive(Debug, Args)]
pub(crate) struct StatsFlags {
    /// Show only this table, all of it, who produced most first [default: sources and services]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) by: Option<StatsBy>,
    /// Counts and rates of that long until now, at most an hour, in steps of 10 s [default: since
    /// the bus was made]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) since: Option<Duration>,
    /// How to print [default: text, or json with --json]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<StatsFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct CaptureFlags {
    /// Service whose log takes the lines
    #[arg(long, value_name = "NAME", required_unless_present = "file")]
    pub(crate) service: Option<String>,
    /// Two pipes in place of a terminal: output and errors are told apart
    #[arg(long)]
    pub(crate) pipe: bool,
    /// Keep the exact bytes with their times in this file (asciicast version 2: `asciinema play FILE`); one that
    /// exists is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) raw_to: Option<PathBuf>,
    /// What becomes lines: what is read on a terminal, or every byte
    #[arg(long, value_enum, default_value = "terminal", value_name = "VIEW")]
    pub(crate) view: ViewFlag,
    /// A line that has not ended is logged after this long without another byte
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub(crate) partial_delay: Duration,
    /// Level of the lines: auto, trace, debug, info, warn, error or fatal
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    pub(crate) level: String,
    /// Size of the terminal where there is none in front, or one that says 0x0
    #[arg(long, value_name = "COLUMNSxROWS", default_value = "80x24", value_parser = parse_terminal_size)]
    pub(crate) size: WindowSize,
    /// Who turns newlines into the two characters that a terminal needs: `own` is many times as fast with short
    /// lines, and a program can see it (`stty -a` says `-onlcr`); `auto` is `kernel` where a person sits in front
    #[arg(long, value_enum, default_value = "auto", value_name = "WHO")]
    pub(crate) newlines: NewlinesFlag,
    /// When the command has ended and others hold its terminal, listen to them until they are silent this long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "100ms")]
    pub(crate) linger: Duration,
    /// Capture all the commands of this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["service", "pipe", "raw_to", "view", "partial_delay", "level", "size", "newlines", "linger", "command"])]
    pub(crate) file: Option<PathBuf>,
    /// Only say whether the file is in order, and what it would run
    #[arg(long, requires = "file")]
    pub(crate) check: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "file")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ViewFlag {
    Terminal,
    Exact,
}

impl From<ViewFlag> for View {
    fn from(flag: ViewFlag) -> Self {
        match flag {
            ViewFlag::Terminal => View::Terminal,
            ViewFlag::Exact => View::Exact,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NewlinesFlag {
    Auto,
    Kernel,
    Own,
}

impl From<NewlinesFlag> for Newlines {
    fn from(flag: NewlinesFlag) -> Self {
        match flag {
            NewlinesFlag::Auto => Newlines::Auto,
            NewlinesFlag::Kernel => Newlines::Kernel,
            NewlinesFlag::Own => Newlines::Own,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct AttachFlags {
    /// Service, or SERVICE@PID for one of several captures of it
    #[arg(value_name = "SERVICE")]
    pub(crate) service: String,
    /// Lines of what was there before [default: as many as are in memory]
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) lines: Option<u64>,
    /// Bytes for a terminal, or asciicast lines for a program
    #[arg(long, value_enum, default_value = "raw", value_name = "FORMAT")]
    pub(crate) format: AttachFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttachFormat {
    Raw,
    Asciicast,
}

#[derive(Debug, Args)]
pub(crate) struct PipeFlags {
    /// Service whose log takes the lines
    #[arg(long, value_name = "NAME")]
    pub(crate) service: String,
    /// Source written into each line
    #[arg(long, value_name = "NAME", default_value = "pipe")]
    pub(crate) source: String,
    /// Level of the lines: auto, trace, debug, info, warn, error or fatal
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    pub(crate) level: String,
    /// What becomes lines: every byte, or what is read on a terminal
    #[arg(long, value_enum, default_value = "exact", value_name = "VIEW")]
    pub(crate) view: ViewFlag,
    /// A line that has not ended is logged after this long without another byte, as a record that goes on; `query`
    /// shows it and what comes later as one line
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub(crate) partial_delay: Duration,
    /// Copy standard input to standard output as well, byte for byte. As with `tee`, a slow reader slows down
    /// whoever writes; one that closes (`| head`) is let go and the log goes on; where it cannot be written, the log
    /// goes on and the exit code is 2
    #[arg(long)]
    pub(crate) tee: bool,
    /// Give up waiting for the daemon after this long [default: wait]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// It is in shared memory: survives the daemon, not the host
    Queued,
    /// It is in the file: survives every process
    Written,
    /// It is on the disk: survives a power cut
    Durable,
}

#[derive(Debug, Args)]
pub(crate) struct PublishFlags {
    /// Event name, such as log:web:deploy
    pub(crate) name: String,
    /// Payload; read from standard input where absent
    pub(crate) payload: Option<String>,
    /// Level of the event
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) level: String,
    /// What to wait for
    #[arg(long, value_enum, default_value = "queued")]
    pub(crate) wait: Wait,
    /// Give up waiting after this long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CountBy {
    /// One number
    Total,
    /// A number per level
    Level,
    /// A number per service
    Service,
}

#[derive(Debug, Args)]
pub(crate) struct QueryFlags {
    /// Service to search; repeatable, or several with commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) service: Vec<String>,
    /// Not before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub(crate) until: Option<String>,
    /// Read and show times in UTC instead of local time
    #[arg(long)]
    pub(crate) utc: bool,
    /// This level and the graver ones
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<String>,
    /// This level alone
    #[arg(long, value_name = "LEVEL", conflicts_with = "level")]
    pub(crate) only_level: Option<String>,
    /// Source, with a trailing `*` for all that start so; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Vec<String>,
    /// Text that the message contains; repeatable, all must be there
    #[arg(long, value_name = "TEXT")]
    pub(crate) grep: Vec<String>,
    /// Regular expression that the message matches (linear time, as in the Rust crate regex)
    #[arg(long, value_name = "REGEX")]
    pub(crate) regex: Option<String>,
    /// Only the newest N lines; with `--cursor`, the first N behind it
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<u64>,
    /// Newest line first
    #[arg(long, conflicts_with_all = ["follow", "cursor"])]
    pub(crate) newest_first: bool,
    /// Go on as lines are written, also of services that appear later
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// Only what is behind this cursor (c1:..), as `--print-cursor` prints them
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<Cursor>,
    /// At the end print a cursor on standard error, as its last line: the `--cursor` that goes on there
    #[arg(long)]
    pub(crate) print_cursor: bool,
    /// Count lines instead of printing them
    #[arg(long, conflicts_with_all = ["follow", "cursor", "print_cursor", "lines"])]
    pub(crate) count: bool,
    /// What to count by
    #[arg(
        long,
        value_enum,
        default_value = "total",
        requires = "count",
        value_name = "WHAT"
    )]
    pub(crate) by: CountBy,
    /// Draw how many lines there are over time, by level; numbers alone where it is not a terminal
    #[arg(long, conflicts_with_all = ["count", "follow", "cursor", "print_cursor", "lines", "newest_first"])]
    pub(crate) histogram: bool,
    /// How long a bar of the histogram is [default: one of 1s, 1m, 1h .. that makes up to 40 bars]
    #[arg(long, requires = "histogram", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) bucket: Option<Duration>,
    /// The very bytes that were logged, without time, level and source; what came again, as often as it came
    #[arg(long, conflicts_with_all = ["json", "count", "histogram"])]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CatFlags {
    /// Service whose text to write; several are written one after the other
    #[arg(
        value_name = "SERVICE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) service: Vec<String>,
    /// Every service, by name
    #[arg(long)]
    pub(crate) all: bool,
    /// Not before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Read and show times in UTC instead of local time
    #[arg(long)]
    pub(crate) utc: bool,
    /// List the segments instead: state, sizes, lines and times
    #[arg(long, conflicts_with_all = ["since", "until"])]
    pub(crate) segments: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TailFlags {
    /// Service to show; repeatable, or several with commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) service: Vec<String>,
    /// How many lines to begin with
    #[arg(short = 'n', long, value_name = "N", default_value = "10")]
    pub(crate) lines: u64,
    /// Go on as lines are written
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// Show times in UTC instead of local time
    #[arg(long)]
    pub(crate) utc: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IndexAction {
    /// Make indexes anew from the text alone
    Rebuild {
        /// Service; repeatable [default: all]
        #[arg(long, value_name = "NAME")]
        service: Vec<String>,
    },
}

/// What one is in the time column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeUnit {
    /// A second
    S,
    /// A millisecond
    Ms,
    /// A microsecond
    Us,
    /// A nanosecond
    Ns,
}

impl TimeUnit {
    /// How long it is, in ns.
    pub(crate) fn nanoseconds(self) -> u32 {
        match self {
            TimeUnit::S => 1_000_000_000,
            TimeUnit::Ms => 1_000_000,
            TimeUnit::Us => 1_000,
            TimeUnit::Ns => 1,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImportFlags {
    /// SQLite file, or export of the journal; `-` for an export from standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Table to read
    #[arg(long, value_name = "NAME", default_value = "logs")]
    pub(crate) table: String,
    /// Unit of numbers in the time column
    #[arg(long, value_enum, value_name = "UNIT", default_value = "s")]
    pub(crate) time_unit: TimeUnit,
    /// Field of the journal to keep in the message; repeatable
    #[arg(long, value_name = "NAME")]
    pub(crate) field: Vec<String>,
    /// Put everything into this service; the message says `context=..`
    #[arg(long, value_name = "NAME", conflicts_with = "service_prefix")]
    pub(crate) service: Option<String>,
    /// Put this in front of the name of every service
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) service_prefix: String,
    /// Show what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoFlags {
    /// Lines to publish, over all services
    #[arg(long, value_name = "N", default_value = "4000000")]
    pub(crate) lines: u64,
    /// Remove the files at the end
    #[arg(long)]
    pub(crate) remove: bool,
    /// How files are written: auto, io_uring or pwrite
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) backend: String,
}

#[derive(Debug, Args)]
pub(crate) struct DemoFeedFlags {
    /// Services to feed
    #[arg(long)]
    pub(crate) service: Vec<String>,
    /// Lines for each of them
    #[arg(long)]
    pub(crate) lines: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayFlags {
    /// Scenario to play
    #[arg(value_enum)]
    pub(crate) scenario: Scenario,
    /// How much of it: `ci` (seconds) or `full` (as the scenario is written); of week also bytes of text, several with
    /// commas to see the growth
    #[arg(long, default_value = "full", value_name = "SIZE", value_parser = parse_replay_size)]
    pub(crate) size: Size,
    /// Play this phase alone: 100/s, 1000/s, unpaced or sustained of tower-start; snapshot or persona of last-value;
    /// pair, meeting, sleep or baselines of debate; same or different of runaway; simulated of power-cut (the disk)
    #[arg(long, value_name = "PHASE")]
    pub(crate) only: Option<String>,
    /// Where logs are made, removed at the end; week leaves week.md and week.svg there [default: the
    /// temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Directory of .log files that week takes its lines from [default: words put together]
    #[arg(long, value_name = "DIR")]
    pub(crate) corpus: Option<PathBuf>,
    /// Makes the same week, or the same output of ptys, again
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// An indexer floods the bus while people talk and health is watched
    TowerStart,
    /// The newest reading wins, and what must not be merged is not
    LastValue,
    /// Processes that wait for each other's posts
    Debate,
    /// Many wait on one rule, each for what is meant for it alone
    SelectiveWake,
    /// 24 services log a day's lines, faster: nothing lost, memory and processor time
    NormalDay,
    /// One service repeats itself without end, and the others do not suffer
    Runaway,
    /// A thousand rotations with followers that miss nothing
    Rotation,
    /// Every process is killed, again and again: nothing lost, nothing twice
    Crash,
    /// A disk that stops, and one that is slow to sync: nobody waits, drops are counted
    FrozenDisk,
    /// No space on the disk for a while: it mends without a restart
    FullDisk,
    /// The power fails: what was acknowledged as durable is there
    PowerCut,
    /// Eight captures on terminals that write as fast as they can: every byte, every line
    Ptys,
    /// Eight GPUs sampled ten times a second: one record a second for each, computed a second time
    Gpus,
    /// What operators ask of seven days of 24 services, beside SQLite and ripgrep
    Week,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Size {
    /// Seconds
    Ci,
    /// As the scenario is written
    Full,
    /// So many bytes of text, one run for each
    Bytes(Vec<u64>),
}

fn parse_replay_size(text: &str) -> Result<Size, String> {
    match text {
        "ci" => Ok(Size::Ci),
        "full" => Ok(Size::Full),
        sizes => sizes
            .split(',')
            .map(|size| parse_size(size).map_err(|error| format!("{error}, or `ci`, or `full`")))
            .collect::<Result<_, _>>()
            .map(Size::Bytes),
    }
}

#[derive(Debug, Args)]
pub(crate) struct RoleFlags {
    /// The role, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchFlags {
    /// Measure these parts alone [default: all]
    #[arg(value_name = "PART", value_parser = parts())]
    pub(crate) parts: Vec<BenchPart>,
    /// How much: `tiny` (seconds; shows that it runs) or `full`
    #[arg(long, value_enum, default_value = "full", value_name = "SIZE")]
    pub(crate) size: BenchSize,
    /// How often each piece of work is measured [default: 5; of tiny 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: Option<u16>,
    /// How cost grows as well: with publishers, payload, rules, lanes, subscribers, services, and the size of the log
    #[arg(long)]
    pub(crate) growth: bool,
    /// Where logs are made, removed at the end [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print the parts, and end
    #[arg(long)]
    pub(crate) list: bool,
    /// Write the rows that were measured to this file, an object a line; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Put the rows of these files into the table and the report, too: of earlier runs, and of others. The same work by the
    /// same peer is taken from the last that has it
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) rows: Vec<PathBuf>,
    /// Measure nothing: only what `--rows` names
    #[arg(long, requires = "rows", conflicts_with_all = ["parts", "rounds", "growth", "dir", "save", "list"])]
    pub(crate) only_report: bool,
    /// Write the report into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

pub(crate) use millpond_bench::Part as BenchPart;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchSize {
    /// Seconds; the figures mean nothing
    Tiny,
    /// As it is quoted
    Full,
}

/// Their names and what they measure are in the crate that does it.
fn parts() -> impl TypedValueParser<Value = BenchPart> {
    let values = BenchPart::ALL.map(|part| PossibleValue::new(part.name()).help(part.words()));
    PossibleValuesParser::new(values)
        .try_map(|name| BenchPart::named(&name).ok_or_else(|| format!("there is no part {name:?}")))
}
