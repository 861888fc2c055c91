//! A daemon for tests: says `ready`, runs until its stdin closes, then stops in order. Or gets killed.
//!
//! `victim_daemon bus=B logs=DIR rules=block|drop backend=auto|uring|pwrite [refuse_uring=1]
//! [segment_bytes=N] [total_bytes=N] [group_bytes=N] [seal=LEVEL, 0 for never] [rate=LINES_PER_S] [sample=N]`
//!
//! Asked for new rules, it takes one of `reload_tables`, any but the one in force, and says `reloaded N`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use millpond_bus::Bus;
use millpond_daemon::{
    BackendChoice, Configuration, Daemon, Policy, RateLimit, Reduction, Reductions, SealPolicy,
};
use millpond_tests::{Arguments, Random, Watchdog, options, reload_tables, setting};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let limit = 120 + 5 * setting("MILLPOND_TEST_KILLS", 5) + setting("MILLPOND_TEST_SECONDS", 2);
    let _watchdog = Watchdog::start("victim_daemon", Duration::from_secs(limit));
    match run(&Arguments::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("refused {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.number("refuse_uring") == Some(1)
        && let Err(error) = refuse_uring()
    {
        println!("skip no seccomp filter can be installed here: {error}");
        return Ok(());
    }
    let bus = Bus::attach(arguments.text("bus"), &options(arguments.text("rules")))?;
    let normal = Policy::default();
    let policy = Policy {
        segment_bytes_limit: arguments
            .number("segment_bytes")
            .unwrap_or(normal.segment_bytes_limit),
        total_bytes_limit: arguments.number("total_bytes"),
        group_bytes_limit: arguments
            .number("group_bytes")
            .map_or(normal.group_bytes_limit, |bytes| bytes as usize),
        seal: match arguments.number("seal") {
            None => normal.seal,
            Some(0) => SealPolicy::Never,
            Some(level) => SealPolicy::AfterRotation {
                level: level as i32,
            },
        },
        backend: match arguments.text("backend") {
            "auto" => BackendChoice::Auto,
            "uring" => BackendChoice::Uring,
            "pwrite" => BackendChoice::Pwrite,
            other => return Err(format!("backend={other}").into()),
        },
        ..normal
    };
    let mut daemon = Daemon::builder(&bus, Path::new(arguments.text("logs")))
        .policy(policy)
        .reductions(reductions(arguments))
        .reload_with(new_rules())
        .open()?;
    let stop = daemon.stop_handle();
    std::thread::spawn(move || {
        // Whatever ends the reading, the parent has let go of us.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.stop();
    });
    let consumer = bus.consumer().ok_or("no lease")?;
    println!("ready {}", consumer.backend);
    std::io::stdout().flush()?;
    daemon.run(&mut |notice| eprintln!("daemon {}: {notice}", std::process::id()));
    daemon.close()?;
    println!("stopped");
    Ok(())
}

/// Repeats, and what the arguments ask for.
fn reductions(arguments: &Arguments) -> Reductions {
    let number = |key: &str| Some(arguments.number(key)? as u32);
    let rate_limit = number("rate").map(|lines_per_s| RateLimit {
        lines_per_s,
        burst_lines: lines_per_s,
    });
    Reductions {
        default: Reduction {
            rate_limit,
            sample: number("sample"),
            ..Reduction::default()
        },
        ..Reductions::default()
    }
}

fn new_rules() -> impl FnMut() -> Result<Configuration, String> + Send {
    let (mut random, mut current, mut reloads) = (None, 0, 0);
    move || {
        let random = random.get_or_insert_with(Random::seeded);
        let tables = reload_tables();
        let step = 1 + random.below(tables.len() as u64 - 1);
        current = (current + step as usize) % tables.len();
        reloads += 1;
        // Before they are in force: whoever reads it asks the bus.
        println!("reloaded {reloads} to table {current}");
        let rules = tables.into_iter().nth(current);
        Ok(Configuration {
            rules: rules.ok_or_else(|| "no tables".to_owned())?,
            ..Configuration::default()
        })
    }
}

/// From here on, `io_uring_setup` fails with EPERM in this process, as in many containers.
fn refuse_uring() -> std::io::Result<()> {
    // Load the number of the call; if it is io_uring_setup, EPERM, else allow.
    let number = libc::SYS_io_uring_setup as u32;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain numbers; concerns this process alone.
    let outcome = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if outcome != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` points to `filter`, and both live until the call has copied them.
    let outcome = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0) };
    match outcome {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
