//! See `fuzz_targets::cast`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millpond_fuzz::fuzz_targets::cast(data));
