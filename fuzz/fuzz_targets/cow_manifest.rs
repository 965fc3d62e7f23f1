//! See `agentwall_fuzz::wall::base_manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::wall::base_manifest(data));
