//! Values where they lie, and what can be said of two of them.

use std::cmp::Ordering;

use agentwall_action::Resource;
use serde_json::Value as Json;

use super::{Node, Stop};

/// A value where it lies.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Null,
    Text(Text<'a>),
    Array(&'a [Json]),
    Object(&'a serde_json::Map<String, Json>),
    Labels(&'a std::collections::BTreeSet<String>),
    Literals(&'a [Node]),
}

impl Value<'_> {
    pub(super) const fn is_number(self) -> bool {
        matches!(self, Value::Int(_) | Value::UInt(_) | Value::Double(_))
    }

    pub(super) const fn is_scalar(self) -> bool {
        self.is_number() || matches!(self, Value::Bool(_) | Value::Null | Value::Text(_))
    }
}

/// A text, in two pieces when it was put together.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub front: &'a str,
    pub back: &'a str,
}

impl<'a> Text<'a> {
    pub(super) const fn new(text: &'a str) -> Text<'a> {
        Text {
            front: text,
            back: "",
        }
    }

    pub(super) fn whole(self) -> Result<&'a str, Stop> {
        match (self.front, self.back) {
            (text, "") | ("", text) => Ok(text),
            _ => Err(Stop::Open),
        }
    }

    pub(super) fn bytes(self) -> impl Iterator<Item = u8> {
        self.front.bytes().chain(self.back.bytes())
    }

    pub(super) fn is(self, other: Text<'_>) -> bool {
        match (self.back, other.back) {
            ("", "") => self.front == other.front,
            _ => {
                let len = |t: Text<'_>| t.front.len() + t.back.len();
                len(self) == len(other) && self.bytes().eq(other.bytes())
            }
        }
    }
}

pub(super) fn json(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(u)) => Value::UInt(u),
            (None, None) => n.as_f64().map_or(Value::Null, Value::Double),
        },
        Json::String(text) => Value::Text(Text::new(text)),
        Json::Array(list) => Value::Array(list),
        Json::Object(map) => Value::Object(map),
    }
}

/// The text of an object where that is what it lies as: without anything to escape.
pub(super) fn resource(resource: &Resource) -> Result<Value<'_>, Stop> {
    use std::os::unix::ffi::OsStrExt;
    let (front, bytes) = match resource {
        Resource::Path(path) => ("", path.as_bytes()),
        Resource::Named(name) => ("", name.as_bytes()),
        Resource::Host(name) => ("dns:", name.as_bytes()),
        Resource::Unix(path) => ("unix:", path.as_os_str().as_bytes()),
        Resource::Endpoint(_) => return Err(Stop::Open),
    };
    let plain = |b: &u8| (0x20..0x7f).contains(b) && *b != b'\\';
    match std::str::from_utf8(bytes) {
        Ok(back) if bytes.iter().all(plain) => Ok(Value::Text(Text { front, back })),
        _ => Err(Stop::Open),
    }
}

pub(super) fn equal(left: Value<'_>, right: Value<'_>) -> Result<bool, Stop> {
    Ok(match (left, right) {
        (Value::Text(a), Value::Text(b)) => a.is(b),
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Null, Value::Null) => true,
        (a, b) if a.is_number() && b.is_number() => compare(a, b)? == Ordering::Equal,
        (a, b) if a.is_scalar() && b.is_scalar() => false,
        _ => return Err(Stop::Open),
    })
}

pub(super) fn compare(left: Value<'_>, right: Value<'_>) -> Result<Ordering, Stop> {
    let double = |a: f64, b: f64| a.partial_cmp(&b).ok_or(Stop::Open);
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(&b)),
        (Value::UInt(a), Value::UInt(b)) => Ok(a.cmp(&b)),
        (Value::Int(a), Value::UInt(b)) => Ok(i128::from(a).cmp(&i128::from(b))),
        (Value::UInt(a), Value::Int(b)) => Ok(i128::from(a).cmp(&i128::from(b))),
        (Value::Double(a), Value::Double(b)) => double(a, b),
        (Value::Int(a), Value::Double(b)) => double(a as f64, b),
        (Value::Double(a), Value::Int(b)) => double(a, b as f64),
        (Value::Text(a), Value::Text(b)) => Ok(a.whole()?.cmp(b.whole()?)),
        _ => Err(Stop::Open),
    }
}

pub(super) fn texts<'a>(left: Value<'a>, right: Value<'a>) -> Result<(&'a str, &'a str), Stop> {
    match (left, right) {
        (Value::Text(a), Value::Text(b)) => Ok((a.whole()?, b.whole()?)),
        _ => Err(Stop::Open),
    }
}

pub(super) fn contained(item: Value<'_>, list: Value<'_>) -> Result<bool, Stop> {
    let (list, item) = match (list, item) {
        (Value::Labels(labels), Value::Text(text)) => {
            return Ok(match text.whole() {
                Ok(whole) => labels.contains(whole),
                Err(_) => labels.iter().any(|label| text.is(Text::new(label))),
            });
        }
        (Value::Object(map), Value::Text(text)) => return Ok(map.contains_key(text.whole()?)),
        both => both,
    };
    any(list, &mut |element| equal(element, item))
}

/// Whether one element of a list is so, asked from the first on. A failure is left to the interpreter,
/// which may still find an element that settles it.
pub(super) fn any<'a>(
    list: Value<'a>,
    decides: &mut impl FnMut(Value<'a>) -> Result<bool, Stop>,
) -> Result<bool, Stop> {
    let mut ask = |item: Value<'a>| decides(item).map_err(|_| Stop::Open);
    let mut found = false;
    match list {
        Value::Array(list) => {
            for item in list {
                found = found || ask(json(item))?;
            }
        }
        Value::Labels(labels) => {
            for label in labels {
                found = found || ask(Value::Text(Text::new(label)))?;
            }
        }
        Value::Literals(list) => {
            for item in list {
                found = found || ask(item.literal()?)?;
            }
        }
        _ => return Err(Stop::Open),
    }
    Ok(found)
}

impl Node {
    fn literal(&self) -> Result<Value<'_>, Stop> {
        Ok(match self {
            Node::Bool(b) => Value::Bool(*b),
            Node::Int(i) => Value::Int(*i),
            Node::UInt(u) => Value::UInt(*u),
            Node::Double(d) => Value::Double(*d),
            Node::Null => Value::Null,
            Node::Text(text) => Value::Text(Text::new(text)),
            _ => return Err(Stop::Open),
        })
    }
}
