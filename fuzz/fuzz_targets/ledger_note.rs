//! See `agentwall_fuzz::ledger::note`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::ledger::note(data));
