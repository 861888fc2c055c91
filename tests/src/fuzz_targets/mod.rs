//! What must hold for any bytes, one function for each reader of bytes. The same functions are run by libFuzzer
//! (`tests/fuzz`, `cargo xtask fuzz`; it compiles this module by its path, so that it needs no more than what is read) and,
//! with inputs of a mutator, by ordinary tests.
//!
//! Each takes any bytes and panics where something does not hold. What is promised stands at the function.

use std::path::Path;

mod bus;
mod capture;
mod logs;
mod shared;

pub use self::bus::{batch, pattern, schema};
pub use self::capture::{cast, lines};
pub use self::logs::{index, sealed, segment};
pub use self::shared::{control, lane};

/// One target.
pub struct Target {
    /// As `cargo xtask fuzz NAME` and the file in `tests/fuzz/fuzz_targets` have it.
    pub name: &'static str,
    /// The body.
    pub run: fn(&[u8]),
    /// Inputs that get far: what mutations start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// All of this package. Those of the command line's own readers (configuration, services file, imports) are in
/// the crate `millpond-cli`.
pub const TARGETS: &[Target] = &[
    target("index", index, logs::index_seeds),
    target("segment", segment, logs::segment_seeds),
    target("sealed", sealed, logs::sealed_seeds),
    target("pattern", pattern, bus::pattern_seeds),
    target("schema", schema, bus::schema_seeds),
    target("batch", batch, bus::batch_seeds),
    target("lines", lines, capture::lines_seeds),
    target("cast", cast, capture::cast_seeds),
    target("lane", lane, shared::lane_seeds),
    target("control", control, shared::control_seeds),
];

/// What the canary wants to see in front.
pub const CANARY_MAGIC: &[u8; 8] = b"millpond";

/// The target that must fail: a fuzzer that does not find this defect finds none. A magic in front, and then an
/// addition that does not fit.
///
/// # Panics
/// With the magic in front and a byte above 250 behind it.
pub fn canary(data: &[u8]) {
    let Some((magic, rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    if magic == CANARY_MAGIC {
        let sum = rest.first().map(|byte| byte.checked_add(5));
        assert!(sum != Some(None), "the canary is dead: {data:?}");
    }
}

/// A place in memory, where the machine has one: a target makes thousands of files a second.
pub fn scratch_base() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

/// Reads an input piece by piece; at its end everything is 0.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn number(&mut self, bytes: usize) -> u64 {
        let mut number = [0; 8];
        let taken = self.bytes(bytes);
        number[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(number)
    }

    fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }
}
