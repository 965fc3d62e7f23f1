//! Intents: what an agent says it is about to do, sealed in the ledger before it is let do it.
//!
//! An agent speaks HTTP to the session's socket ([`INTENT_PATH`]): `POST /v1/intent` with a [`Statement`],
//! later `POST /v1/intent/ID/end` with an [`Ending`]. Hooks of agents (`agentwall hook`), `agentwall act`
//! and whoever has curl are the same kind of client. The supervisor hears it in
//! [`crate::supervisor::intents`].
//!
//! What is said here permits nothing: every system call is decided on as without it.

pub mod act;
pub mod claims;
pub mod client;
pub mod event;
pub mod hook;
pub mod http;
pub mod install;
pub mod message;
pub mod transcript;

pub use agentwall_wall::INTENT_PATH;

pub use message::{Answer, Does, Ended, Ending, Failure, Statement};

/// Where the wall's own program is inside the wall.
pub const TOOL: &str = "/dev/agentwall/bin/agentwall";

/// The command of a hook, as it stands in the settings of an agent. Found inside the wall whatever the shell's
/// start files make of PATH; whatever goes wrong blocks: agents go on after any status but 2.
pub fn hook_line(agent: &str) -> String {
    format!("PATH=\"$PATH:/dev/agentwall/bin\" agentwall hook {agent} || exit 2")
}

/// Whether a shell line is the command of a hook, and nothing besides.
pub fn is_hook_line(line: &str) -> bool {
    ["claude-code", "codex"]
        .iter()
        .any(|agent| line == hook_line(agent))
}
