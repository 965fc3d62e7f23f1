//! See `agentwall_fuzz::cli::daemon_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::cli::daemon_config(data));
