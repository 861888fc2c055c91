//! See `millpond_cli::hostile::import`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millpond_cli::hostile::import(data));
