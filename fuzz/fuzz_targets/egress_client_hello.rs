//! See `agentwall_fuzz::egress::client_hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::egress::client_hello(data));
