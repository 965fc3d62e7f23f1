//! See `agentwall_fuzz::gateway::evaluation`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::gateway::evaluation(data));
