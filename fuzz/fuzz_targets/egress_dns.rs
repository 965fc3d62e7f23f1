//! See `agentwall_fuzz::egress::dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::egress::dns(data));
