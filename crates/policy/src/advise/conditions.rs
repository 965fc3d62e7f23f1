//! Facts that would let an action through: comparisons in the conditions of the rules that speak about
//! it are made true or false by changing the fact they compare, and the whole policy decides again.
//!
//! Only simple comparisons of a fact with a literal are tried, one and then two at a time. What the
//! policy then says is the proof; how the comparisons stand in the expression does not matter.

use agentwall_action::{Action, Facts};
use cel::{
    IdedExpr,
    common::ast::{Expr, LiteralValue},
};
use serde_json::{Value, json};

use super::{FactChange, MetCondition, budget};
use crate::{
    condition::Expression,
    facts_read::{FactPath, Step, fact_path, parts},
    pattern::ResourcePattern,
    policy::Policy,
    rule::RuleEffect,
};

/// At most this many changes of facts are tried.
const MAX_CHANGES: usize = 32;
/// At most this many answers.
const MAX_MET: usize = 4;

/// A fact with another value, and the comparison that this makes true.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    path: FactPath,
    value: Value,
    text: String,
}

/// What would let the action through, the fewest changes first.
pub(super) fn met(policy: &Policy, action: &Action) -> Vec<MetCondition> {
    let now = policy.answer(action).effect;
    let changes = changes(policy, action);
    let mut left = budget(policy);
    let mut found: Vec<MetCondition> = Vec::new();
    let singles = changes.iter().map(|c| vec![c]);
    let pairs = changes.iter().enumerate().flat_map(|(n, a)| {
        let rest = changes[n + 1..].iter().filter(|b| b.path != a.path);
        rest.map(move |b| vec![a, b])
    });
    for set in singles.chain(pairs) {
        // Two changes where one is enough are no answer.
        let alone = |m: &MetCondition| m.facts.len() == 1;
        if left == 0 || found.len() == MAX_MET || (set.len() > 1 && found.iter().any(alone)) {
            break;
        }
        left -= 1;
        let mut other = action.clone();
        if !set.iter().all(|change| apply(change, &mut other.facts)) {
            continue;
        }
        let decision = policy.answer(&other);
        if !decision.effect.proceeds() || decision.effect >= now {
            continue;
        }
        let facts = set.iter().map(|change| FactChange {
            fact: change.path.to_string(),
            now: change.path.value(action),
            // As the fact is then: of a label, the whole list.
            value: change.path.value(&other).unwrap_or(Value::Null),
        });
        let texts: Vec<&str> = set.iter().map(|c| c.text.as_str()).collect();
        found.push(MetCondition {
            condition: texts.join(" && "),
            facts: facts.collect(),
            effect: decision.effect,
            rule: decision.rule,
        });
    }
    found
}

/// The changes that the conditions of rules about this object suggest.
fn changes(policy: &Policy, action: &Action) -> Vec<Change> {
    let mut found: Vec<Change> = Vec::new();
    for rule in policy.rules() {
        let object = |p: &ResourcePattern| p.matches(&action.resource, &action.facts);
        let speaks = rule.is_conditional()
            && matches!(rule.effect, RuleEffect::Decide(_))
            && rule.verbs.contains(&action.verb)
            && rule.matches_subject(&action.subject)
            && rule.resource.matches(object);
        if !speaks {
            continue;
        }
        for expression in rule.when.iter().chain(&rule.unless) {
            walk(expression.syntax(), &mut Vec::new(), &mut found);
        }
        if found.len() >= MAX_CHANGES {
            break;
        }
    }
    // What the fact is already changes nothing.
    found.retain(|c| c.path.value(action).as_ref() != Some(&c.value));
    let mut unique: Vec<Change> = Vec::new();
    for change in found {
        if !unique.contains(&change) {
            unique.push(change);
        }
    }
    unique.truncate(MAX_CHANGES);
    unique
}

fn walk(e: &IdedExpr, bound: &mut Vec<String>, found: &mut Vec<Change>) {
    if let Some(path) = fact_path(e, bound) {
        if path.to_string() == "session.interactive" {
            found.push(change(&path, json!(true), "session.interactive"));
            found.push(change(&path, json!(false), "!session.interactive"));
        }
        return;
    }
    compare(e, bound, found);
    let before = bound.len();
    for part in parts(e, bound) {
        walk(part, bound, found);
    }
    bound.truncate(before);
}

fn change(path: &FactPath, value: Value, text: impl Into<String>) -> Change {
    Change {
        path: path.clone(),
        value,
        text: text.into(),
    }
}

/// A fact compared with a literal: values that make it true, and values that make it false.
fn compare(e: &IdedExpr, bound: &[String], found: &mut Vec<Change>) {
    let Expr::Call(call) = &e.expr else {
        return;
    };
    let operands: Vec<&IdedExpr> = call
        .target
        .iter()
        .map(AsRef::as_ref)
        .chain(&call.args)
        .collect();
    let [left, right] = operands.as_slice() else {
        return;
    };
    let name = call.func_name.as_str();
    if name == "@in" || name == "_in_" {
        return membership(left, right, bound, found);
    }
    let (path, value, turned) = match (fact_path(left, bound), literal(right)) {
        (Some(path), Some(value)) => (path, value, false),
        _ => match (literal(left), fact_path(right, bound)) {
            (Some(value), Some(path)) => (path, value, true),
            _ => return,
        },
    };
    let operator = match (name, turned) {
        ("_==_", _) | ("startsWith" | "endsWith" | "contains", false) => "==",
        ("_!=_", _) => "!=",
        ("_<_", false) | ("_>_", true) => "<",
        ("_<=_", false) | ("_>=_", true) => "<=",
        ("_>_", false) | ("_<_", true) => ">",
        ("_>=_", false) | ("_<=_", true) => ">=",
        _ => return,
    };
    let mut add = |operator: &str, tried: Option<Value>| {
        if let Some(tried) = tried {
            found.push(change(&path, tried, format!("{path} {operator} {value}")));
        }
    };
    let whole = value.as_i64();
    let near = |by: i64| whole.and_then(|n| n.checked_add(by)).map(|n| json!(n));
    match operator {
        "==" | "!=" => {
            add("==", Some(value.clone()));
            add("!=", different(&value));
        }
        "<" | ">=" => {
            add("<", near(-1));
            add(">=", Some(value.clone()));
        }
        _ => {
            add("<=", Some(value.clone()));
            add(">", near(1));
        }
    }
}

/// `fact in [literals]`, `literal in labels`.
fn membership(left: &IdedExpr, right: &IdedExpr, bound: &[String], found: &mut Vec<Change>) {
    if let (Some(path), Expr::List(list)) = (fact_path(left, bound), &right.expr) {
        let values: Vec<Value> = list.elements.iter().filter_map(literal).collect();
        let text = json!(values);
        for value in values.iter().take(2) {
            found.push(change(&path, value.clone(), format!("{path} == {value}")));
        }
        let other = values.first().and_then(different);
        if let Some(other) = other.filter(|o| !values.contains(o)) {
            found.push(change(&path, other, format!("!({path} in {text})")));
        }
    }
    if let (Some(value), Some(path)) = (literal(left), fact_path(right, bound))
        && path.root == "labels"
        && path.steps.is_empty()
        && value.is_string()
    {
        found.push(change(
            &path,
            json!({ "with": value }),
            format!("{value} in labels"),
        ));
        found.push(change(
            &path,
            json!({ "without": value }),
            format!("!({value} in labels)"),
        ));
    }
}

/// A value of the same type that is another one.
fn different(value: &Value) -> Option<Value> {
    match value {
        Value::String(s) if s.is_empty() => Some(json!("other")),
        Value::String(_) => Some(json!("")),
        Value::Bool(b) => Some(json!(!b)),
        Value::Number(n) => n.as_i64()?.checked_add(1).map(|n| json!(n)),
        _ => None,
    }
}

fn literal(e: &IdedExpr) -> Option<Value> {
    let Expr::Literal(literal) = &e.expr else {
        return None;
    };
    Some(match literal {
        LiteralValue::Boolean(b) => json!(b.inner()),
        LiteralValue::Int(i) => json!(i.inner()),
        LiteralValue::UInt(u) => json!(u.inner()),
        LiteralValue::Double(d) => json!(d.inner()),
        LiteralValue::String(s) => json!(s.inner()),
        LiteralValue::Bytes(_) | LiteralValue::Null => return None,
    })
}

/// Puts the value in the fact's place; `false` where it does not fit or the fact is not one that could
/// be different (who acts, what is done, to what, and which session it is are the action itself).
fn apply(change: &Change, facts: &mut Facts) -> bool {
    let value = &change.value;
    let field = match change.path.steps.as_slice() {
        [Step::Field(name)] => name.as_str(),
        _ => "",
    };
    match (change.path.root.as_str(), field) {
        ("auth", "method") => set_text(&mut facts.auth.method, value),
        ("session", "name") => set_text(&mut facts.session.name, value),
        ("session", "interactive") => value
            .as_bool()
            .map(|b| facts.session.interactive = b)
            .is_some(),
        ("risk", _) => {
            let risk = value
                .as_u64()
                .and_then(|n| u8::try_from(n).ok())
                .filter(|n| *n <= 100);
            risk.map(|n| facts.risk = n).is_some()
        }
        ("time", _) => {
            // Zero means that there is no clock.
            let time = value.as_i64().filter(|t| *t > 0);
            time.map(|t| facts.time = t).is_some()
        }
        ("labels", _) => {
            let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
            match (text("with"), text("without")) {
                (Some(label), _) => facts.labels.insert(label),
                (_, Some(label)) => facts.labels.remove(&label),
                _ => false,
            }
        }
        ("args", _) => argument(&change.path.steps, value, &mut facts.args),
        _ => false,
    }
}

fn set_text(slot: &mut String, value: &Value) -> bool {
    value.as_str().map(|s| *slot = s.to_owned()).is_some()
}

/// Sets an argument that is there, or the next one of a list, or any of a mapping.
fn argument(steps: &[Step], value: &Value, args: &mut Value) -> bool {
    let [step] = steps else {
        return false;
    };
    match (step, args) {
        (Step::Index(0), Value::Array(_)) => false,
        (Step::Index(index), Value::Array(list)) if *index < list.len() => {
            list[*index] = value.clone();
            true
        }
        (Step::Index(index), Value::Array(list)) if *index == list.len() => {
            list.push(value.clone());
            true
        }
        (Step::Field(name), Value::Object(map)) => {
            map.insert(name.clone(), value.clone());
            true
        }
        _ => false,
    }
}

/// The condition under which an action with exactly these arguments is meant; `None` without arguments.
pub(super) fn exactly(args: &Value) -> Option<String> {
    let expression = format!("args == {args}");
    let fits = !args.is_null()
        && Expression::compile(&expression, crate::condition::Wanted::Boolean).is_ok();
    fits.then_some(expression)
}
