//! Which facts an expression reads, and what they are for one action.
//!
//! An explanation of a condition that did not hold shows its inputs. A fact is named as the
//! expression names it (`auth.method`, `args[1]`, `args.amount`); names that a loop binds are no
//! facts. The values are the ones that evaluation sees; a fact that is absent has none.

use agentwall_action::Action;
use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr, LiteralValue},
};
use serde_json::{Value, json};

use crate::condition::{Expression, FACTS};

/// One step from a fact to a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Field(String),
    Index(usize),
}

/// A fact, or a part of one, as an expression names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FactPath {
    pub root: String,
    pub steps: Vec<Step>,
}

/// A fact that a condition read, with its value for one action.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct FactRead {
    /// As the expression names it, for example `auth.method` or `args[1]`.
    pub fact: String,
    /// Its value; `None` if the fact is absent, which is an error of evaluation.
    pub value: Option<Value>,
}

impl std::fmt::Display for FactPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.root)?;
        let plain = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        for step in &self.steps {
            match step {
                Step::Field(name) if plain(name) => write!(f, ".{name}")?,
                Step::Field(name) => write!(f, "[{}]", json!(name))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl FactPath {
    /// The value for one action; `None` if it is absent.
    pub(crate) fn value(&self, action: &Action) -> Option<Value> {
        let mut value = root(&self.root, action)?;
        for step in &self.steps {
            value = match step {
                Step::Field(name) => value.get_mut(name)?.take(),
                Step::Index(index) => value.get_mut(index)?.take(),
            };
        }
        Some(value)
    }
}

impl Expression {
    /// The facts that the expression names, each once, with their values for `action`. Evaluation may
    /// stop before it reads all of them.
    pub fn facts(&self, action: &Action) -> Vec<FactRead> {
        let mut found = Vec::new();
        walk(self.syntax(), &mut Vec::new(), &mut found);
        found.sort();
        found.dedup();
        let read = |path: FactPath| FactRead {
            fact: path.to_string(),
            value: path.value(action),
        };
        found.into_iter().map(read).collect()
    }
}

/// The whole fact, as [`Expression::test`] sees it.
fn root(name: &str, action: &Action) -> Option<Value> {
    let facts = &action.facts;
    Some(match name {
        "subject" => json!(action.subject.as_str()),
        "action" => json!(action.verb.as_str()),
        "resource" => json!(action.resource.to_string()),
        "auth" => json!(facts.auth),
        "session" => json!(facts.session),
        "args" if facts.args.is_null() => return None,
        "args" => facts.args.clone(),
        "labels" => json!(facts.labels),
        "risk" => json!(facts.risk),
        "time" if facts.time == 0 => return None,
        "time" => json!(facts.time),
        _ => return None,
    })
}

/// The fact that an expression is, if it is one and nothing more.
pub(crate) fn fact_path(e: &IdedExpr, bound: &[String]) -> Option<FactPath> {
    match &e.expr {
        Expr::Ident(name) if FACTS.contains(&name.as_str()) && !bound.contains(name) => {
            Some(FactPath {
                root: name.clone(),
                steps: Vec::new(),
            })
        }
        Expr::Select(select) => {
            let mut path = fact_path(&select.operand, bound)?;
            path.steps.push(Step::Field(select.field.clone()));
            Some(path)
        }
        Expr::Call(call) if call.func_name == "_[_]" => {
            let [operand, index] = call.args.as_slice() else {
                return None;
            };
            let mut path = fact_path(operand, bound)?;
            path.steps.push(match &index.expr {
                Expr::Literal(LiteralValue::String(s)) => Step::Field(s.inner().to_owned()),
                Expr::Literal(LiteralValue::Int(i)) => Step::Index((*i.inner()).try_into().ok()?),
                _ => return None,
            });
            Some(path)
        }
        _ => None,
    }
}

/// The parts of an expression, from left to right, and the names that hold inside them.
pub(crate) fn parts<'e>(e: &'e IdedExpr, bound: &mut Vec<String>) -> Vec<&'e IdedExpr> {
    match &e.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => Vec::new(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Call(call) => {
            let target = call.target.iter().map(AsRef::as_ref);
            target.chain(&call.args).collect()
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => {
            let entries = map.entries.iter().map(|entry| &entry.expr);
            entries
                .flat_map(|entry| match entry {
                    EntryExpr::StructField(f) => vec![&f.value],
                    EntryExpr::MapEntry(m) => vec![&m.key, &m.value],
                })
                .collect()
        }
        Expr::Struct(_) => Vec::new(),
        Expr::Comprehension(c) => {
            bound.extend([c.iter_var.clone(), c.accu_var.clone()]);
            bound.extend(c.iter_var2.clone());
            vec![
                &c.iter_range,
                &c.accu_init,
                &c.loop_cond,
                &c.loop_step,
                &c.result,
            ]
        }
    }
}

fn walk(e: &IdedExpr, bound: &mut Vec<String>, found: &mut Vec<FactPath>) {
    if let Some(path) = fact_path(e, bound) {
        return found.push(path);
    }
    // The depth of the tree was bounded when the expression was loaded.
    let before = bound.len();
    for part in parts(e, bound) {
        walk(part, bound, found);
    }
    bound.truncate(before);
}
