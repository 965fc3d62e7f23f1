//! See `agentwall_fuzz::ledger::tile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::ledger::tile(data));
