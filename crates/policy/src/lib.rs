//! The policy language of AgentWall: load, decide, explain, and placement queries.
//!
//! A policy is one or more YAML files that people can read aloud. [`load`] reads them strictly: every
//! unknown key, bad glob, wrong type or ill-formed condition is a [`Diagnostic`] with line, column and
//! a suggestion. The result, a [`Policy`], is immutable and pure: [`Policy::decide`] is a function of
//! the policy and the [`Action`](agentwall_action::Action) alone, without clock, environment or file
//! system, so that a recorded decision can be replayed.
//!
//! Enforcement points ask [`Policy::region`], [`Policy::anchors`], [`Policy::host_loopback`] and
//! [`Policy::resolve_name`] where a rule can be placed; these answers are sound over-approximations
//! of what `decide` would say, tested against it.
//!
//! Invariants: nothing here prints, reads the environment or touches the file system; input of any
//! kind ends in an answer or an error, in bounded time; everything unknown fails closed.

#![forbid(unsafe_code)]

mod address;
mod cel_types;
mod charge;
mod compile;
mod condition;
mod coverage;
mod diagnostic;
mod digest;
mod direct;
mod document;
mod fields;
mod format;
mod glob;
mod host_executed;
mod json;
mod layers;
mod layout;
mod lint;
mod load;
mod network;
mod nfa;
mod pattern;
mod policy;
mod real_paths;
mod region;
mod rule;
mod schema;
mod secret;
mod table;
mod templates;
mod temporal;
mod testrun;
mod vars;
mod yaml;

mod advise;
pub mod analyse;
mod detail;
mod facts_read;
mod pattern_text;
pub mod recommend;
pub mod strict;

pub use address::{ADDRESS_SETS, AddressSet, Addresses, Network};
pub use advise::{
    Advice, Change, ChangeKind, FactChange, Guard, MetCondition, NearObject, Never, NewRule,
    Overridden,
};
pub use charge::{Charge, ChargeError, MICRO_UNITS};
pub use compile::{AutomatonReport, Compiled, Report, Verdict};
pub use compile::{By, CompiledTable, TableAnswer, TableError};
pub use condition::{Expression, MAX_EXPRESSION};
pub use coverage::{Coverage, RuleCoverage, TableFailure, TableReport};
pub use detail::{ConditionReport, Nearest};
pub use diagnostic::{Diagnostic, LoadError, MAX_DIAGNOSTICS};
pub use document::{Enforcement, LedgerFailure, MAX_RULES};
pub use facts_read::FactRead;
pub use fields::MAX_FILE_STEPS;
pub use format::{FileKind, FormatError, LayoutChange, file_kind, format};
pub use glob::{Glob, GlobError, GlobKind, MAX_ALTERNATIVES, MAX_PATTERN, MAX_STEPS, glob_escape};
pub use host_executed::{HOST_EXECUTED, host_executed_folders, host_executed_globs};
pub use layout::LINE_WIDTH;
pub use lint::{MAX_WARNINGS, WARNING_CODES, Warning, load_with_warnings};
pub use load::{Source, load};
pub use network::LoopbackPorts;
pub use pattern::{EndpointPattern, HostPattern, LabelPattern, ResourcePattern, UnixPattern};
pub use policy::{ExplainedRule, Explanation, Policy, RuleOutcome};
pub use region::Region;
pub use rule::{
    DEFAULT_PRIORITY, ISOLATABLE, Layer, Location, Mismatch, PatternList, Rule, RuleEffect,
    RuleTest,
};
pub use schema::{schema, table_schema};
pub use secret::{secret_globs, secret_socket_globs};
pub use table::{CASE_SUBJECT, Case, MAX_CASES, Table, load_table};
pub use templates::{Template, templates};
pub use temporal::{Budget, Event, EventKind, Property, PropertyForm, Risk};
pub use testrun::{TestFailure, TestReport};
pub use vars::Variables;
pub use yaml::{MAX_DEPTH, MAX_FILE, MAX_KEYS};
