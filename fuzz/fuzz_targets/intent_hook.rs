//! See `agentwall_fuzz::cli::intent_hook`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::cli::intent_hook(data));
