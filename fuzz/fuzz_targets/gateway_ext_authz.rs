//! See `agentwall_fuzz::gateway::ext_authz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::gateway::ext_authz(data));
