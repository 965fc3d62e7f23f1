//! See `agentwall_fuzz::cli::grant`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::cli::grant(data));
