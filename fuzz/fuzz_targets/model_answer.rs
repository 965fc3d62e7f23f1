//! See `agentwall_fuzz::model::answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::model::answer(data));
