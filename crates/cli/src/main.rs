//! The `agentwall` binary.
fn main() {}
