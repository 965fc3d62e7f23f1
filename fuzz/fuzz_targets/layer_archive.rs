//! See `agentwall_fuzz::layers::layer_archive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::layers::layer_archive(data));
