//! See `agentwall_fuzz::wall::commit_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::wall::commit_record(data));
