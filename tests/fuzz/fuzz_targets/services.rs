//! See `millpond_cli::hostile::services`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millpond_cli::hostile::services(data));
