//! The policies that `agentwall init` writes, one per agent or server, each with tests of its own.

/// A policy to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Template {
    /// What it is for, as `agentwall init --agent` takes it: `generic`, `claude-code`, `mcp-github`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
    /// The table of cases that the file as a whole must answer.
    pub table: &'static str,
}

impl Template {
    /// One line that says what it is for: the file's first comment.
    pub fn about(&self) -> &'static str {
        let first = self.text.lines().find_map(|l| l.strip_prefix("# "));
        first.unwrap_or_default()
    }
}

/// The files of a template.
macro_rules! template {
    ($name:literal) => {
        Template {
            name: $name,
            text: include_str!(concat!("../../../policies/", $name, ".yaml")),
            table: include_str!(concat!("../../../policies/", $name, ".tests.yaml")),
        }
    };
}

/// Every template; `generic` is the first.
pub fn templates() -> &'static [Template] {
    &[
        template!("generic"),
        template!("claude-code"),
        template!("codex"),
        template!("gemini-cli"),
        template!("ci-agent"),
        template!("cloud-operator"),
        template!("researcher"),
        template!("database-analyst"),
        template!("trading-agent"),
        template!("medical-records"),
        template!("mcp-filesystem"),
        template!("mcp-github"),
        template!("mcp-slack"),
        template!("mcp-postgres"),
        template!("mcp-browser"),
    ]
}
