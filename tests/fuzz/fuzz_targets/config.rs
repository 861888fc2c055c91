//! See `millpond_cli::hostile::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millpond_cli::hostile::config(data));
