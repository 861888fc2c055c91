//! multilog of daemontools: lines through a pipe into rotated files.

use std::process::Command;
use std::time::Duration;

use millpond_peers::Guarantees;

use super::s6_log::read_rotated;
use super::usual;
use crate::lines::{Check, Lines};
use crate::peer::{Part, Peer, Place, Result, Setup, packaged_version};

/// Files of 16 MiB, the most it takes; so many that none is removed.
pub struct Multilog;

impl Peer for Multilog {
    fn name(&self) -> String {
        "multilog".to_owned()
    }

    fn guarantees(&self, _: Part) -> Guarantees {
        usual()
    }

    fn find(&self, _: &Setup) -> Result<String> {
        packaged_version("multilog", "daemontools")
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let mut command = Command::new("multilog");
        command.args(["s16777215", "n10000"]).arg(place.out());
        place.feed(&mut command, lines)
    }

    fn read_back(&self, place: &Place, check: &mut Check) -> Result<()> {
        read_rotated(place, check)
    }
}
