//! Where and of what a measurement is.

use std::process::Command;

/// Kernel, processor, cores, memory. Reads /proc.
///
/// ```
/// assert!(millpond_bench::machine().contains("Linux"));
/// ```
pub fn machine() -> String {
    let first = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        });
        value.unwrap_or_default()
    };
    let model = match first("/proc/cpuinfo", "model name") {
        model if model.is_empty() => "unknown processor".to_owned(),
        model => model,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = first("/proc/meminfo", "MemTotal");
    let kib: f64 = memory
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(f64::from(0));
    format!(
        "{model}, {cores} cores, {:.0} GiB, {}",
        kib / f64::from(1 << 20),
        kernel()
    )
}

/// The kernel with its version: what a floor is made of.
pub(crate) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// The commit of the work tree at `dir` as git knows it; `None` where there is none.
pub fn commit(dir: &std::path::Path) -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=10"])
        .current_dir(dir)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
