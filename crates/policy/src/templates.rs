//! The policies that `agentwall init` writes, one per agent, with their own tests.

/// A policy to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// The agent it is for: `generic`, `claude-code`, `codex`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

/// Every template; `generic` is the first.
pub fn templates() -> &'static [Template] {
    &[
        Template {
            name: "generic",
            text: include_str!("../../../policies/generic.yaml"),
        },
        Template {
            name: "claude-code",
            text: include_str!("../../../policies/claude-code.yaml"),
        },
        Template {
            name: "codex",
            text: include_str!("../../../policies/codex.yaml"),
        },
    ]
}
