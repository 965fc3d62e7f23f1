//! See `agentwall_fuzz::text::escape`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::text::escape(data));
