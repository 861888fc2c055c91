//! What is read, and from where.

use std::path::PathBuf;

/// Where the host is read.
///
/// ```
/// use millpond_telemetry::host::HostOptions;
/// let options = HostOptions { logs_dir: Some("/var/log/millpond".into()), ..HostOptions::default() };
/// assert_eq!(options.proc_dir, std::path::Path::new("/proc"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostOptions {
    /// Where procfs is mounted.
    pub proc_dir: PathBuf,
    /// Where sysfs is mounted; it tells partitions from disks.
    pub sys_dir: PathBuf,
    /// The log directory, whose file system is watched; `None` for none.
    pub logs_dir: Option<PathBuf>,
}

impl Default for HostOptions {
    /// `/proc`, `/sys`, no log directory.
    fn default() -> Self {
        HostOptions {
            proc_dir: "/proc".into(),
            sys_dir: "/sys".into(),
            logs_dir: None,
        }
    }
}

/// Which parts of the host a sample reads.
///
/// ```
/// use millpond_telemetry::host::HostParts;
/// let often = HostParts { cpu: true, pressure: true, ..HostParts::NONE };
/// assert!(often.cpu && !often.disks && HostParts::ALL.disks);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostParts {
    /// `host:cpu`.
    pub cpu: bool,
    /// `host:memory`.
    pub memory: bool,
    /// `host:pressure`.
    pub pressure: bool,
    /// `host:disk:<device>`, and `host:filesystem:logs`.
    pub disks: bool,
    /// `host:network:<interface>`.
    pub networks: bool,
    /// `host:process:<pid>`.
    pub processes: bool,
}

impl HostParts {
    /// Nothing.
    pub const NONE: HostParts = HostParts {
        cpu: false,
        memory: false,
        pressure: false,
        disks: false,
        networks: false,
        processes: false,
    };
    /// Everything.
    pub const ALL: HostParts = HostParts {
        cpu: true,
        memory: true,
        pressure: true,
        disks: true,
        networks: true,
        processes: true,
    };
}
