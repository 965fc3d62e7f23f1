//! See `agentwall_fuzz::bundle::bundle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::bundle::bundle(data));
