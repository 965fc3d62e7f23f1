//! See `agentwall_fuzz::policy::table`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::policy::table(data));
