//! Signatures: which descriptions are which agent.
//!
//! A signature has matchers, of which one is enough. A matcher has conditions, which must all hold. A
//! condition names a field of the description and patterns, of which one must match one of the
//! field's values. Patterns are the policy language's globs. What matched is kept as evidence.

use std::{borrow::Cow, fmt};

use agentwall_action::escape_bytes;
use agentwall_policy::{Glob, GlobKind};
use serde::Serialize;

use crate::process::Process;

/// What a signature's processes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Decides by a model what to do, and does it.
    Agent,
    /// Offers tools to an agent (Model Context Protocol), on standard input and output or a socket.
    McpServer,
    /// Runs models.
    ModelServer,
    /// Belongs to an agent and decides nothing.
    Helper,
}

impl Kind {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Kind); 4] = [
        ("agent", Kind::Agent),
        ("mcp-server", Kind::McpServer),
        ("model-server", Kind::ModelServer),
        ("helper", Kind::Helper),
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Agent => "agent",
            Kind::McpServer => "mcp-server",
            Kind::ModelServer => "model-server",
            Kind::Helper => "helper",
        }
    }
}

/// A field of a description that a condition can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// The program's path.
    Exe,
    /// The last part of the program's path.
    Basename,
    /// The name the kernel has, at most 15 bytes.
    Comm,
    /// The interpreter's script, absolute.
    Script,
    /// The module of `python -m`.
    Module,
    /// The first argument that is no option.
    Subcommand,
    /// Any argument after the first.
    Argument,
    /// A package that it runs: `npm:NAME`, `python:NAME`.
    Package,
    /// A name in its environment.
    Env,
    /// A file that it has open.
    Opens,
    /// What its parent is: `agent:ID`, `mcp-server:ID`, ….
    Parent,
    /// What one of the processes above it is.
    Ancestor,
    /// Standard input and output: `piped`, `terminal`, `other`.
    Stdio,
}

impl Field {
    /// All of them, with their keys.
    pub const ALL: [(&'static str, Field); 13] = [
        ("exe", Field::Exe),
        ("basename", Field::Basename),
        ("comm", Field::Comm),
        ("script", Field::Script),
        ("module", Field::Module),
        ("subcommand", Field::Subcommand),
        ("argument", Field::Argument),
        ("package", Field::Package),
        ("env", Field::Env),
        ("opens", Field::Opens),
        ("parent", Field::Parent),
        ("ancestor", Field::Ancestor),
        ("stdio", Field::Stdio),
    ];

    /// The key.
    pub fn as_str(self) -> &'static str {
        let all = Field::ALL.iter();
        all.copied()
            .find_map(|(key, field)| (field == self).then_some(key))
            .unwrap_or("")
    }

    /// The kind of glob its patterns are.
    pub(crate) fn glob_kind(self) -> GlobKind {
        match self {
            Field::Exe | Field::Script | Field::Opens => GlobKind::Path,
            _ => GlobKind::Text,
        }
    }
}

/// What is known about the processes above one: `KIND:ID`, the parent's own first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Family<'a> {
    pub parent: Option<&'a str>,
    pub ancestors: &'a [String],
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub field: Field,
    pub patterns: Vec<Glob>,
}

impl Condition {
    fn holds(&self, process: &Process, family: Family<'_>) -> Option<Evidence> {
        values(self.field, process, family)
            .iter()
            .find_map(|value| {
                let pattern = self.patterns.iter().find(|p| p.matches(value, false))?;
                Some(Evidence {
                    field: self.field,
                    value: escape_bytes(value),
                    pattern: pattern.as_str().to_owned(),
                })
            })
    }
}

/// The values that a field has.
fn values<'p>(field: Field, process: &'p Process, family: Family<'p>) -> Vec<Cow<'p, [u8]>> {
    let one = |value: Option<&'p [u8]>| value.map(Cow::Borrowed).into_iter().collect();
    match field {
        Field::Exe => one(process.exe.as_deref()),
        Field::Basename => one(process.basename()),
        Field::Comm => one(Some(process.comm.as_slice())),
        Field::Script => process.script().map(Cow::Owned).into_iter().collect(),
        Field::Module => one(process.invocation().module),
        Field::Subcommand => one(process.invocation().subcommand),
        Field::Argument => process
            .args
            .iter()
            .skip(1)
            .map(|a| a.as_slice().into())
            .collect(),
        Field::Package => process
            .packages()
            .iter()
            .map(|p| Cow::Owned(p.to_string().into_bytes()))
            .collect(),
        Field::Env => process
            .env
            .iter()
            .flatten()
            .map(|n| n.as_slice().into())
            .collect(),
        Field::Opens => process
            .descriptors
            .iter()
            .flatten()
            .filter_map(|d| match &d.target {
                crate::Target::Path(path) => Some(path.as_slice().into()),
                _ => None,
            })
            .collect(),
        Field::Parent => one(family.parent.map(str::as_bytes)),
        Field::Ancestor => family
            .ancestors
            .iter()
            .map(|a| a.as_bytes().into())
            .collect(),
        Field::Stdio => one(process.stdio().map(str::as_bytes)),
    }
}

/// A matcher: conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    pub(crate) conditions: Vec<Condition>,
    /// The line it is written on.
    pub line: usize,
}

impl Matcher {
    fn holds(&self, process: &Process, family: Family<'_>) -> Option<Vec<Evidence>> {
        let all = self.conditions.iter();
        all.map(|condition| condition.holds(process, family))
            .collect()
    }
}

/// One fact that a condition was met by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The field.
    pub field: Field,
    /// Its value, escaped.
    pub value: String,
    /// The pattern that matched.
    pub pattern: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Evidence {
            field,
            value,
            pattern,
        } = self;
        write!(f, "{} '{value}'", field.as_str())?;
        match value == pattern {
            true => Ok(()),
            false => write!(f, " fits '{pattern}'"),
        }
    }
}

/// Why a process is what it is said to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The matcher's number in its signature, from 1; 0 for the signature's marks.
    pub matcher: usize,
    /// The line of the signature file on which it is written.
    pub line: usize,
    /// What it was met by, in the order of its conditions.
    pub evidence: Vec<Evidence>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, evidence) in self.evidence.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{evidence}")?;
        }
        Ok(())
    }
}

/// One known agent, server or helper.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    /// Its name in rules and output, such as `claude-code`.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Who makes it.
    pub vendor: String,
    /// Where more is said about it.
    pub homepage: String,
    /// What it is.
    pub kind: Kind,
    /// Any of these is enough.
    pub any: Vec<Matcher>,
    /// None of these may hold.
    pub unless: Vec<Matcher>,
    /// Names in the environment that it gives to what it starts.
    pub(crate) marks: Vec<Glob>,
    pub(crate) matches: Vec<Case>,
    pub(crate) not_matches: Vec<Case>,
    /// The source it is from, and the line on which it begins.
    pub source: String,
    /// From 1.
    pub line: usize,
}

/// A process description of a test.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    pub process: Process,
    pub parent: Option<String>,
    pub ancestors: Vec<String>,
    pub line: usize,
}

impl Case {
    pub fn family(&self) -> Family<'_> {
        Family {
            parent: self.parent.as_deref(),
            ancestors: &self.ancestors,
        }
    }
}

impl Signature {
    /// How a condition names it: `agent:claude-code`.
    pub fn label(&self) -> String {
        format!("{}:{}", self.kind.as_str(), self.id)
    }

    /// Every matcher that holds; empty if none does, or one of `unless`.
    pub(crate) fn reasons(&self, process: &Process, family: Family<'_>) -> Vec<Reason> {
        if self
            .unless
            .iter()
            .any(|m| m.holds(process, family).is_some())
        {
            return Vec::new();
        }
        let held = |(n, matcher): (usize, &Matcher)| {
            Some(Reason {
                matcher: n + 1,
                line: matcher.line,
                evidence: matcher.holds(process, family)?,
            })
        };
        self.any.iter().enumerate().filter_map(held).collect()
    }

    /// The mark that the process carries.
    pub(crate) fn mark(&self, process: &Process) -> Option<Reason> {
        let names = process.env.as_ref()?;
        let (name, pattern) = names.iter().find_map(|name| {
            let pattern = self.marks.iter().find(|p| p.matches(name, false))?;
            Some((name, pattern))
        })?;
        Some(Reason {
            matcher: 0,
            line: self.line,
            evidence: vec![Evidence {
                field: Field::Env,
                value: escape_bytes(name),
                pattern: pattern.as_str().to_owned(),
            }],
        })
    }
}

/// A set of signatures, in the order in which they are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Signatures {
    /// The version of the data: the highest of its files.
    pub version: u64,
    pub(crate) list: Vec<Signature>,
}

impl Signatures {
    /// The signatures, in their order.
    pub fn list(&self) -> &[Signature] {
        &self.list
    }

    /// The signature with an id.
    pub fn get(&self, id: &str) -> Option<&Signature> {
        self.list.iter().find(|s| s.id == id)
    }

    /// The first signature that matches, and why.
    pub(crate) fn identify(
        &self,
        process: &Process,
        family: Family<'_>,
    ) -> Option<(usize, Vec<Reason>)> {
        self.list.iter().enumerate().find_map(|(n, signature)| {
            let reasons = signature.reasons(process, family);
            (!reasons.is_empty()).then_some((n, reasons))
        })
    }
}
