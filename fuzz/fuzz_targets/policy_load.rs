//! See `agentwall_fuzz::policy::load_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::policy::load_file(data));
