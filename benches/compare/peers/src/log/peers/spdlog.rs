//! spdlog: a logger in the process that logs, in C++, compiled when the comparison runs.

use std::process::Command;
use std::time::Duration;

use millpond_peers::Guarantees;

use crate::lines::Lines;
use crate::peer::{Peer, Place, Program, Result, Setup, USUAL, compile, version_of};

/// Its basic file sink.
pub struct Spdlog {
    /// Through its thread and queue; waits where that is full.
    pub is_async: bool,
}

impl Peer for Spdlog {
    fn name(&self) -> String {
        let way = if self.is_async { ", async" } else { "" };
        format!("spdlog{way}")
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees {
            // Lines are in the buffer of stdio, and in the queue.
            crash_safe: false,
            ..USUAL
        }
    }

    fn find(&self, setup: &Setup) -> Result<String> {
        let version = version_of(&["pkg-config", "--modversion", "spdlog"])?;
        let source = setup.tools.join("spdlog.cpp");
        std::fs::write(
            setup.tools.join("lines.h"),
            include_str!("../native/lines.h"),
        )?;
        std::fs::write(&source, include_str!("../native/spdlog.cpp"))?;
        compile("c++", &source, "spdlog-lines", &["spdlog"], setup)?;
        Ok(version)
    }

    fn write(&self, place: &mut Place, lines: &mut Lines) -> Result<Duration> {
        let block = place.dir().join("block");
        std::fs::write(&block, lines.block())?;
        let mut command = Command::new(place.setup.tools.join("spdlog-lines"));
        command
            .arg(if self.is_async { "async" } else { "sync" })
            .arg(block)
            .arg(lines.remaining().to_string())
            .arg(place.out_path());
        let mut program = Program::start_talking(&mut command)?;
        let elapsed_ns = program.read_line()?.parse()?;
        place.note_memory();
        program.finish()?;
        Ok(Duration::from_nanos(elapsed_ns))
    }
}
