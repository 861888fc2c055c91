//! s6-log, and multilog of daemontools: lines through a pipe into rotated files, none of which is removed.

use std::process::Command;
use std::time::Duration;

use crate::lines::{Check, Lines};
use crate::peer::{Peer, Place, Result, Setup, files_by_name, packaged_version};

/// One of them.
pub struct Rotated {
    program: &'static str,
    package: &'static str,
    args: &'static [&'static str],
}

/// Blocking, files of 64 MiB as millpond's segments.
pub const S6_LOG: Rotated = Rotated {
    program: "s6-log",
    package: "s6",
    args: &["-b", "n1000", "s67108864"],
};

/// Files of 16 MiB, the most it takes.
pub const MULTILOG: Rotated = Rotated {
    program: "multilog",
    package: "daemontools",
    args: &["s16777215", "n10000"],
};

impl Peer for Rotated {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn find(&self, _: &Setup) -> Result<String> {
        packaged_version(self.program, self.package)
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let mut command = Command::new(self.program);
        place.feed(command.args(self.args).arg(place.out()), lines)
    }

    /// Files named `@time` in their order, and the one that is written, `current`.
    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        let files = files_by_name(&place.out())?;
        let is_log = |name: &str| name.starts_with('@') || name == "current";
        let name_of = |path: &std::path::Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let logs = files
            .iter()
            .filter(|path| name_of(path).is_some_and(|name| is_log(&name)));
        logs.into_iter().try_for_each(|path| check.file(path))
    }
}
