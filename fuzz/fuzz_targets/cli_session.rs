//! See `agentwall_fuzz::cli::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::cli::session(data));
