//! See `agentwall_fuzz::table::table`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::table::table(data));
