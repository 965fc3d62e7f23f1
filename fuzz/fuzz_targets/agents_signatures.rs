//! See `agentwall_fuzz::agents::signatures`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::agents::signatures(data));
