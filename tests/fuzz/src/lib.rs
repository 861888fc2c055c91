//! The bodies, compiled by their path: without what else `millpond-tests` takes.

#[path = "../../src/fuzz_targets/mod.rs"]
pub mod fuzz_targets;
