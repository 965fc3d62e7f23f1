//! Evaluating the common part of the expression language without allocating.
//!
//! The interpreter of the language builds a context of named values for each evaluation. Most conditions
//! compare arguments, labels and numbers with literals: these are evaluated here, on the action where it
//! lies. What is not understood here, or comes out as something unusual, is *open*: the caller asks the
//! interpreter, whose word counts. So this may know less than the interpreter, and never anything else:
//! `tests.rs` and the equivalence of the compiled policy hold it to that.
//!
//! Invariant: no evaluation allocates but the first of a regular expression on each thread.

mod eval;
mod understand;
mod value;

use std::sync::OnceLock;

use agentwall_action::Action;
use cel::IdedExpr;

use value::Value;

/// What an expression comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    Yes,
    No,
    /// The evaluation fails.
    Fails,
    /// The interpreter has to say.
    Open,
}

/// An expression as far as it is understood.
#[derive(Debug)]
pub(crate) struct Direct {
    root: Node,
}

/// Why there is no value.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Fails,
    Open,
}

/// Most loops around an expression; `condition.rs` allows no more.
const MAX_LOOPS: usize = 2;

#[derive(Debug)]
enum Node {
    Open,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Null,
    Text(String),
    /// A list of literals.
    List(Vec<Node>),
    Subject,
    Verb,
    Resource,
    Method,
    SessionId,
    SessionName,
    Workspace,
    Interactive,
    Args,
    Labels,
    Risk,
    Time,
    /// The variable of the loop of this depth.
    Bound(usize),
    Field(Box<Node>, String),
    Has(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    If(Box<[Node; 3]>),
    Equals(Box<[Node; 2]>),
    Differs(Box<[Node; 2]>),
    Compare(Order, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    Add(Box<[Node; 2]>),
    Subtract(Box<[Node; 2]>),
    StartsWith(Box<[Node; 2]>),
    EndsWith(Box<[Node; 2]>),
    Contains(Box<[Node; 2]>),
    Matches(Box<Node>, Pattern),
    Size(Box<Node>),
    /// Whether one (`true`) or all (`false`) of a list are so; the body is in a loop of this depth.
    Any(bool, usize, Box<[Node; 2]>),
}

/// A regular expression, compiled when it is first asked for.
#[derive(Debug)]
struct Pattern {
    text: String,
    regex: OnceLock<Option<regex::Regex>>,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Less,
    LessEquals,
    Greater,
    GreaterEquals,
}

/// The values of the loops around.
type Scope<'a> = [Option<Value<'a>>; MAX_LOOPS];

impl Direct {
    /// What is understood of an expression.
    pub(crate) fn new(expression: &IdedExpr) -> Direct {
        let root = understand::compile(expression, &mut Vec::new());
        Direct { root }
    }

    /// The truth of the expression for an action.
    pub(crate) fn truth(&self, action: &Action) -> Truth {
        match eval::eval(&self.root, action, &[None; MAX_LOOPS]) {
            Ok(Value::Bool(true)) => Truth::Yes,
            Ok(Value::Bool(false)) => Truth::No,
            // It is no truth.
            Ok(_) | Err(Stop::Fails) => Truth::Fails,
            Err(Stop::Open) => Truth::Open,
        }
    }
}

#[cfg(test)]
mod tests;
