//! See `agentwall_fuzz::identity::constraint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::identity::constraint(data));
