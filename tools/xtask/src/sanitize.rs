//! `cargo xtask sanitize`: unit tests under the sanitizers that nightly has here.

use std::path::PathBuf;
use std::process::Command;

use crate::{has_nightly, root, target};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// False where a sanitizer found something. What cannot run here is said, and is no failure.
pub(crate) fn run() -> bool {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        eprintln!("== sanitize: skipped: set up for {TARGET} alone");
        return true;
    }
    if !has_nightly() {
        eprintln!("== sanitize: skipped: no nightly toolchain: `rustup toolchain install nightly`");
        return true;
    }
    // Memory errors show with a standard library that knows nothing of it; races do not: each lock would be one.
    let with_std = has_std_sources();
    let mut passed = sanitize("address", with_std);
    match with_std {
        true => passed &= sanitize("thread", true),
        false => eprintln!(
            "== sanitize thread: skipped: it needs the standard library built with it, and nightly has no rust-src"
        ),
    }
    passed
}

fn sanitize(sanitizer: &str, with_std: bool) -> bool {
    eprintln!("== sanitize {sanitizer}: unit tests of bus and logfile");
    let mut command = Command::new("cargo");
    command.args(["+nightly", "test", "--target", TARGET, "--lib"]);
    command.args(["-p", "millpond-bus", "-p", "millpond-logfile"]);
    if with_std {
        command.arg("-Zbuild-std");
    }
    let status = command
        .arg("--target-dir")
        .arg(target().join(format!("sanitize-{sanitizer}")))
        .env("RUSTFLAGS", format!("-Zsanitizer={sanitizer}"))
        .current_dir(root())
        .status();
    let passed = status.is_ok_and(|status| status.success());
    let word = if passed { "passed" } else { "FAILED" };
    eprintln!("== sanitize {sanitizer}: {word}");
    passed
}

fn has_std_sources() -> bool {
    let sysroot = Command::new("rustc")
        .args(["+nightly", "--print", "sysroot"])
        .output();
    let Ok(sysroot) = sysroot else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    let sources = PathBuf::from(sysroot.trim_end()).join("lib/rustlib/src/rust/library/std");
    sources.is_dir()
}
