//! See `agentwall_fuzz::gateway::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::gateway::target(data));
