//! See `agentwall_fuzz::witness::trust`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::witness::trust(data));
