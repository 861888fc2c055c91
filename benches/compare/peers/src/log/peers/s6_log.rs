//! s6-log: lines through a pipe into rotated files.

use std::process::Command;
use std::time::Duration;

use millpond_peers::Guarantees;

use super::usual;
use crate::lines::{Check, Lines};
use crate::peer::{Part, Peer, Place, Result, Setup, files_by_name, packaged_version};

/// Blocking, files of 64 MiB as millpond's segments, so many that none is removed.
pub struct S6Log;

impl Peer for S6Log {
    fn name(&self) -> String {
        "s6-log".to_owned()
    }

    fn guarantees(&self, _: Part) -> Guarantees {
        usual()
    }

    fn find(&self, _: &Setup) -> Result<String> {
        packaged_version("s6-log", "s6")
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let mut command = Command::new("s6-log");
        command.args(["-b", "n1000", "s67108864"]).arg(place.out());
        place.feed(&mut command, lines)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        read_rotated(place, check)
    }
}

/// Files named `@time` in their order, and the one that is written, `current`.
pub(super) fn read_rotated(place: &Place, check: &mut Check) -> Result<()> {
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
