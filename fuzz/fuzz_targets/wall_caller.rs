//! See `agentwall_fuzz::wall::caller`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::wall::caller(data));
