//! Evaluation.

use std::cmp::Ordering;

use agentwall_action::Action;

use super::{
    Node, Order, Pattern, Scope, Stop,
    value::{Text, Value, any, compare, contained, equal, json, resource, texts},
};

pub(super) fn eval<'a>(
    node: &'a Node,
    action: &'a Action,
    scope: &Scope<'a>,
) -> Result<Value<'a>, Stop> {
    let facts = &action.facts;
    let value = |node: &'a Node| eval(node, action, scope);
    let text = |text: &'a str| Ok(Value::Text(Text::new(text)));
    Ok(match node {
        Node::Open => return Err(Stop::Open),
        Node::Bool(b) => Value::Bool(*b),
        Node::Int(i) => Value::Int(*i),
        Node::UInt(u) => Value::UInt(*u),
        Node::Double(d) => Value::Double(*d),
        Node::Null => Value::Null,
        Node::Text(t) => return text(t),
        Node::List(elements) => Value::Literals(elements),
        Node::Subject => return text(action.subject.as_str()),
        Node::Verb => return text(action.verb.as_str()),
        Node::Resource => return resource(&action.resource),
        Node::Method => return text(&facts.auth.method),
        Node::SessionId => return text(&facts.session.id),
        Node::SessionName => return text(&facts.session.name),
        Node::Workspace => return text(&facts.session.workspace),
        Node::Interactive => Value::Bool(facts.session.interactive),
        // What a face does not know is no name at all.
        Node::Args if facts.args.is_null() => return Err(Stop::Fails),
        Node::Args => json(&facts.args),
        Node::Labels => Value::Labels(&facts.labels),
        Node::Risk => Value::Int(facts.risk.into()),
        Node::Time if facts.time == 0 => return Err(Stop::Fails),
        Node::Time => Value::Int(facts.time),
        Node::Bound(depth) => return scope.get(*depth).copied().flatten().ok_or(Stop::Open),
        Node::Field(base, name) => match value(base)? {
            Value::Object(map) => json(map.get(name).ok_or(Stop::Fails)?),
            _ => return Err(Stop::Open),
        },
        Node::Has(base, name) => match value(base)? {
            Value::Object(map) => Value::Bool(map.contains_key(name)),
            _ => return Err(Stop::Open),
        },
        Node::Index(base, index) => match (value(base)?, value(index)?) {
            (Value::Object(map), Value::Text(key)) => {
                json(map.get(key.whole()?).ok_or(Stop::Fails)?)
            }
            (Value::Array(list), Value::Int(at)) => {
                let at = usize::try_from(at).map_err(|_| Stop::Fails)?;
                json(list.get(at).ok_or(Stop::Fails)?)
            }
            _ => return Err(Stop::Open),
        },
        Node::And(pair) => return both(value(&pair[0]), || value(&pair[1]), false),
        Node::Or(pair) => return both(value(&pair[0]), || value(&pair[1]), true),
        Node::Not(inner) => Value::Bool(!truth(value(inner)?)?),
        Node::If(three) => {
            let [condition, yes, no] = &**three;
            return value(if truth(value(condition)?)? { yes } else { no });
        }
        Node::Equals(pair) => Value::Bool(equal(value(&pair[0])?, value(&pair[1])?)?),
        Node::Differs(pair) => Value::Bool(!equal(value(&pair[0])?, value(&pair[1])?)?),
        Node::Compare(order, pair) => {
            let ordering = compare(value(&pair[0])?, value(&pair[1])?)?;
            Value::Bool(match order {
                Order::Less => ordering == Ordering::Less,
                Order::LessEquals => ordering != Ordering::Greater,
                Order::Greater => ordering == Ordering::Greater,
                Order::GreaterEquals => ordering != Ordering::Less,
            })
        }
        Node::In(pair) => Value::Bool(contained(value(&pair[0])?, value(&pair[1])?)?),
        Node::Add(pair) => match (value(&pair[0])?, value(&pair[1])?) {
            (Value::Text(a), Value::Text(b)) => Value::Text(Text {
                front: a.whole()?,
                back: b.whole()?,
            }),
            (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(b).ok_or(Stop::Fails)?),
            (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
            _ => return Err(Stop::Open),
        },
        Node::Subtract(pair) => match (value(&pair[0])?, value(&pair[1])?) {
            (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(b).ok_or(Stop::Fails)?),
            (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
            _ => return Err(Stop::Open),
        },
        Node::StartsWith(pair) => {
            let (a, b) = texts(value(&pair[0])?, value(&pair[1])?)?;
            Value::Bool(a.starts_with(b))
        }
        Node::EndsWith(pair) => {
            let (a, b) = texts(value(&pair[0])?, value(&pair[1])?)?;
            Value::Bool(a.ends_with(b))
        }
        Node::Contains(pair) => {
            let (a, b) = texts(value(&pair[0])?, value(&pair[1])?)?;
            Value::Bool(a.contains(b))
        }
        Node::Matches(inner, pattern) => match (value(inner)?, pattern.regex()) {
            (Value::Text(text), Some(regex)) => Value::Bool(regex.is_match(text.whole()?)),
            _ => return Err(Stop::Open),
        },
        Node::Size(inner) => {
            let size = match value(inner)? {
                Value::Array(list) => list.len(),
                Value::Object(map) => map.len(),
                Value::Labels(labels) => labels.len(),
                Value::Literals(list) => list.len(),
                Value::Text(text) => text.front.chars().count() + text.back.chars().count(),
                _ => return Err(Stop::Open),
            };
            Value::Int(i64::try_from(size).map_err(|_| Stop::Open)?)
        }
        Node::Any(one, depth, pair) => {
            let [list, body] = &**pair;
            let mut decides = |item: Value<'a>| {
                let mut inner = *scope;
                *inner.get_mut(*depth).ok_or(Stop::Open)? = Some(item);
                Ok(truth(eval(body, action, &inner)?)? == *one)
            };
            Value::Bool(any(value(list)?, &mut decides)? == *one)
        }
    })
}

impl Pattern {
    /// What the loader checked; the interpreter would compile it each time.
    fn regex(&self) -> Option<&regex::Regex> {
        let regex = self
            .regex
            .get_or_init(|| regex::Regex::new(&self.text).ok());
        regex.as_ref()
    }
}

fn truth(value: Value<'_>) -> Result<bool, Stop> {
    match value {
        Value::Bool(b) => Ok(b),
        _ => Err(Stop::Open),
    }
}

/// `&&` and `||`: one side is enough where it decides, whatever the other comes to.
fn both<'a>(
    left: Result<Value<'a>, Stop>,
    right: impl FnOnce() -> Result<Value<'a>, Stop>,
    absorbing: bool,
) -> Result<Value<'a>, Stop> {
    let left = left.and_then(truth);
    if matches!(left, Ok(b) if b == absorbing) {
        return Ok(Value::Bool(absorbing));
    }
    let right = right().and_then(truth);
    match (left, right) {
        (_, Ok(b)) if b == absorbing => Ok(Value::Bool(absorbing)),
        (Ok(_), Ok(b)) => Ok(Value::Bool(b)),
        (Err(Stop::Open), _) | (_, Err(Stop::Open)) => Err(Stop::Open),
        _ => Err(Stop::Fails),
    }
}
