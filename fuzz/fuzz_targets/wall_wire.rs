//! See `agentwall_fuzz::wall::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::wall::wire(data));
