//! See `agentwall_fuzz::egress::greeting`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::egress::greeting(data));
