//! See `agentwall_fuzz::conditions::condition`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::conditions::condition(data));
