//! See `agentwall_fuzz::text::resource`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::text::resource(data));
