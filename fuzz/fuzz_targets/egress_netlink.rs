//! See `agentwall_fuzz::egress::netlink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agentwall_fuzz::egress::netlink(data));
