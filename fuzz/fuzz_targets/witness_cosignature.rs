//! See `agentwall_fuzz::witness::cosignature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::witness::cosignature(data));
