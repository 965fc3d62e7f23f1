//! See `agentwall_fuzz::ledger_text::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::ledger_text::text(data));
