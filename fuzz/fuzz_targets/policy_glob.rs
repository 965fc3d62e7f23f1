//! See `agentwall_fuzz::globs::glob`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::globs::glob(data));
