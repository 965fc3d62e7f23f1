//! See `agentwall_fuzz::witness::add_checkpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::witness::add_checkpoint(data));
