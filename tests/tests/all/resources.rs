//! What a host gives and takes away: memory, file handles, threads, room in shared memory, the ring of the kernel, time.
//! Real processes under real limits; what this host does not let us set is skipped with a word.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Place, Process};

mod churn;
mod clock;
mod confined;
mod memory;
mod ring;
mod shm_full;
mod stopped;
mod surroundings;

/// Starts `program` after `first`, commands of the shell, in the same process.
fn after(first: &str, program: &str, arguments: &[String]) -> Process {
    let script = format!("{first} && exec \"$@\"");
    let mut all = vec!["-c".to_owned(), script, "sh".to_owned(), program.to_owned()];
    all.extend_from_slice(arguments);
    Process::start("/bin/sh", &all)
}

/// A daemon that is started after `first` and may refuse.
fn daemon_after(place: &Place, first: &str, backend: &str, more: &[&str]) -> Process {
    let arguments = place.daemon_arguments(backend, more);
    after(first, env!("CARGO_BIN_EXE_victim_daemon"), &arguments)
}

/// A publisher that is started after `first`.
fn publisher_after(place: &Place, first: &str, label: &str, more: &[&str]) -> Process {
    let arguments = place.publisher_arguments(label, &format!("log:web:{label}"), more);
    after(first, env!("CARGO_BIN_EXE_publisher"), &arguments)
}

/// Whether this is the test `name` in mounts of its own, after `prepare`, commands of the shell that run there. Where it
/// is not yet, runs it there: then there is nothing left to do here.
fn is_inside(name: &str, prepare: &str) -> bool {
    const INSIDE: &str = "MILLPOND_TEST_INSIDE";
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c"]);
        command
    };
    let can = unshare().arg(prepare).output();
    if !can.as_ref().is_ok_and(|can| can.status.success()) {
        let why = can.map(|can| String::from_utf8_lossy(&can.stderr).trim().to_owned());
        eprintln!("skipped: {name} needs mounts of its own and {prepare:?}: {why:?}");
        return false;
    }
    let outcome = unshare()
        .arg(format!("{prepare} && exec \"$@\""))
        .arg("sh")
        .arg(std::env::current_exe().expect("our path"))
        .args(["--exact", &format!("resources::{name}"), "--nocapture"])
        .env(INSIDE, name)
        .status();
    let outcome = outcome.expect("it starts");
    assert!(outcome.success(), "{name} inside: {outcome}");
    false
}

/// A number of `/proc/PID/status`, in kB there.
fn status_kb(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = (status.lines())
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {key} in {status}"));
    let number = line.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

/// The file handles of a process.
fn handles(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    entries.count()
}

/// The processor time of a process so far, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, rest) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let of = |index: usize| -> u64 { fields[index].parse().expect("a number") };
    of(11) + of(12)
}

/// A cgroup of one controller, removed in the end.
struct Cgroup {
    dir: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// `None`, with a word, where it cannot be had.
    fn new(controller: &str) -> Option<Self> {
        let name = crate::support::fresh_name();
        let v1 = PathBuf::from("/sys/fs/cgroup").join(controller);
        let (parent, is_v2) = match v1.is_dir() {
            true => (v1, false),
            false => (PathBuf::from("/sys/fs/cgroup"), true),
        };
        if is_v2 {
            // It may be on already, or not ours to switch on: what follows tells.
            let _ = std::fs::write(
                parent.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        let group = Cgroup {
            dir: parent.join(name),
            is_v2,
        };
        let made = std::fs::create_dir(&group.dir);
        let has = std::fs::read_dir(&group.dir).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| {
                    let name = entry.file_name();
                    name.to_string_lossy()
                        .starts_with(&format!("{controller}."))
                })
            })
        });
        if made.is_err() || !has {
            eprintln!("skipped: no cgroup with {controller:?} can be made here: {made:?}");
            return None;
        }
        Some(group)
    }

    fn set(&self, v1: &str, v2: &str, value: u64) {
        let file = self.dir.join(if self.is_v2 { v2 } else { v1 });
        std::fs::write(&file, value.to_string())
            .unwrap_or_else(|error| panic!("{file:?}: {error}"));
    }

    fn read(&self, v1: &str, v2: &str) -> String {
        let file = self.dir.join(if self.is_v2 { v2 } else { v1 });
        std::fs::read_to_string(&file).unwrap_or_else(|error| format!("{file:?}: {error}"))
    }

    /// What a shell does to be in it.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.dir.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have been waited for; the kernel may be a moment behind.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        eprintln!("left behind: {}", self.dir.display());
    }
}
