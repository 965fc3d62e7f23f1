//! See `agentwall_fuzz::ledger::clip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::ledger::clip(data));
