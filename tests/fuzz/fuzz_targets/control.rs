//! See `fuzz_targets::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millpond_fuzz::fuzz_targets::control(data));
