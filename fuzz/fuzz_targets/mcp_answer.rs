//! See `agentwall_fuzz::mcp::answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::mcp::answer(data));
