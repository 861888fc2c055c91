//! See `fuzz_targets::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millpond_fuzz::fuzz_targets::batch(data));
