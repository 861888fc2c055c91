//! A daemon for tests: says `ready`, runs until its stdin closes, then stops in order. Or gets killed.
//!
//! `victim_daemon bus=B logs=DIR rules=block|drop backend=auto|uring|pwrite [refuse_uring=1]
//! [kill_at=LABEL] [kill_after=N] [segment_bytes=N] [total_bytes=N] [group_bytes=N] [seal=LEVEL, 0 for never] [rate=LINES_PER_S] [sample=N]
//! [sync=MILLIS, 0 for always] [fsize=BYTES] [tell=1]`
//!
//! `fsize`: the largest file it may write. `tell`: what people should hear of is said on stdout too, as `notice ..`.
//! Told `refuse io_uring_enter ERRNO` by its stdin, every thread of it gets that from this call, or 0 and nothing done
//! for an `ERRNO` of 0; it says `refused ERRNO`.
//!
//! Asked for new rules, with `rules=reload` it takes one of `reload_tables`, any but the one in force, and says
//! `reloaded N`; else it takes the same again.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use millpond_bus::Bus;
use millpond_daemon::{
    BackendChoice, Configuration, Daemon, Policy, RateLimit, Reduction, Reductions, SealPolicy,
    SyncPolicy,
};
use millpond_tests::{Arguments, Random, Watchdog, arm, options, reload_tables, setting};

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
    arm(arguments);
    // As the command does.
    millpond_bus::guard_truncated_objects()?;
    if arguments.number("refuse_uring") == Some(1)
        && let Err(error) = refuse(libc::SYS_io_uring_setup, libc::EPERM as u32)
    {
        println!("skip no seccomp filter can be installed here: {error}");
        return Ok(());
    }
    let bus = Bus::attach(arguments.text("bus"), &options(arguments.text("rules")))?;
    if let Some(bytes) = arguments.number("fsize") {
        let limit = rustix::process::Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit)?;
    }
    let normal = Policy::default();
    let policy = Policy {
        segment_bytes_limit: arguments
            .number("segment_bytes")
            .unwrap_or(normal.segment_bytes_limit),
        total_bytes_limit: arguments.number("total_bytes"),
        sync: match arguments.number("sync") {
            None => normal.sync,
            Some(0) => SyncPolicy::Always,
            Some(millis) => SyncPolicy::Interval(Duration::from_millis(millis)),
        },
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
        .reload_with(new_rules(arguments.text("rules")))
        .open()?;
    let stop = daemon.stop_handle();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let errno = line.strip_prefix("refuse io_uring_enter ");
            if let Some(errno) = errno.and_then(|errno| errno.parse().ok()) {
                match refuse(libc::SYS_io_uring_enter, errno) {
                    Ok(()) => println!("refused {errno}"),
                    Err(error) => println!("skip no seccomp filter for all threads: {error}"),
                }
            }
        }
        // Whatever ends the reading, the parent has let go of us.
        stop.stop();
    });
    let consumer = bus.consumer().ok_or("no lease")?;
    println!("ready {}", consumer.backend);
    std::io::stdout().flush()?;
    let tells = arguments.number("tell") == Some(1);
    daemon.run(&mut |notice| {
        eprintln!("daemon {}: {notice}", std::process::id());
        if tells {
            println!("notice {notice}");
        }
    });
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

/// Those of another table, or the same again where the test is not about that.
fn new_rules(rules: &str) -> impl FnMut() -> Result<Configuration, String> + Send + use<> {
    let same = (rules != "reload").then(|| options(rules).rules);
    let (mut random, mut current, mut reloads) = (None, 0, 0);
    move || {
        if let Some(rules) = &same {
            return Ok(Configuration {
                rules: rules.clone(),
                ..Configuration::default()
            });
        }
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

/// From here on, the call `number` fails with `errno` in all threads of this process, as it does in many containers;
/// with 0, it does nothing and says that all is well.
fn refuse(number: libc::c_long, errno: u32) -> std::io::Result<()> {
    // Load the number of the call; if it is that, the error, else allow.
    let number = number as u32;
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
            libc::SECCOMP_RET_ERRNO | errno,
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
    let (mode, flags) = (
        libc::SECCOMP_SET_MODE_FILTER,
        libc::SECCOMP_FILTER_FLAG_TSYNC,
    );
    // SAFETY: `program` points to `filter`, and both live until the call has copied them.
    let outcome = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    match outcome {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
