//! The format on disk: escapes against a naive reference over every byte and character, recovery, rebuilding
//! and verifying after random cuts, holes and garbage.
//!
//! `MILLPOND_TEST_SEED` repeats a run; each random test prints its seed.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod escapes;
mod recovery;
mod segment;
mod verify;
