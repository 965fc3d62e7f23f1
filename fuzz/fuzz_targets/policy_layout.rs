//! See `agentwall_fuzz::policy::layout`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::policy::layout(data));
