//! What is installed, by what it says itself.

use std::process::Command;

use crate::Fallible;

/// The kernel's version, for what the kernel itself does.
pub fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// The version of a crate, from the lock file this was built with.
pub fn locked(name: &str) -> String {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{name}\"\nversion = \""));
    let version = entry.and_then(|(_, rest)| Some(rest.split_once('"')?.0));
    format!("{name} {}", version.unwrap_or("of an unknown version"))
}

/// What `command` says first, as its version.
///
/// # Errors
/// Where it is not installed.
pub fn version_of(command: &[&str]) -> Fallible<String> {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.map_err(|_| format!("{} is not installed", command[0]))?;
    if !output.status.success() {
        return Err(format!("{}: {}", command.join(" "), first_line(&output.stderr)).into());
    }
    Ok(first_line(&output.stdout))
}

/// The first line that is not empty.
pub fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or_default().trim().to_owned()
}
