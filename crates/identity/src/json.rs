//! JSON with one reading.
//!
//! RFC 8259 leaves open what a repeated member means, and parsers differ. Where one checks the first and
//! another uses the last, a signature says nothing. So a repeated member is an error here, at any depth, and the
//! depth is bounded. What comes out is the only parse there is: no second look at the text.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 32;

/// Why bytes are not JSON with one reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Longer than is taken here.
    #[error("expected at most {limit} bytes of JSON, found {found}")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
        /// The length, in bytes.
        found: usize,
    },
    /// Not JSON, a member twice, too deep, or something behind the value.
    #[error("expected JSON without repeated members, found: {0}")]
    Syntax(String),
    /// A value, but no object.
    #[error("expected a JSON object")]
    NotAnObject,
}

/// Reads one JSON value of at most `limit` bytes. Members that are repeated, deeper nesting than [`MAX_DEPTH`]
/// and bytes behind the value are errors. The arguments of a call are read by it, too, so that what is
/// checked against constraints is what is sent on.
pub fn parse_json(bytes: &[u8], limit: usize) -> Result<Value, JsonError> {
    parse_json_to(bytes, limit, MAX_DEPTH)
}

/// As [`parse_json`], with nesting of at most `depth` levels.
pub fn parse_json_to(bytes: &[u8], limit: usize, depth: usize) -> Result<Value, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLong {
            limit,
            found: bytes.len(),
        });
    }
    let syntax = |e: serde_json::Error| JsonError::Syntax(e.to_string());
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let one = One { depth, room: depth };
    let value = one.deserialize(&mut reader).map_err(syntax)?;
    reader.end().map_err(syntax)?;
    Ok(value)
}

/// As [`parse_json`], an object.
pub(crate) fn parse_object(bytes: &[u8], limit: usize) -> Result<Map<String, Value>, JsonError> {
    match parse_json(bytes, limit)? {
        Value::Object(map) => Ok(map),
        _ => Err(JsonError::NotAnObject),
    }
}

/// One value, with room for so many levels below.
#[derive(Clone, Copy)]
struct One {
    depth: usize,
    room: usize,
}

impl One {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        match self.room.checked_sub(1) {
            Some(room) => Ok(One { room, ..self }),
            None => Err(E::custom(format_args!(
                "nesting deeper than {} levels",
                self.depth
            ))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for One {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number without a value"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(de::Error::custom("a member that stands there twice"));
            }
            all.insert(name, members.next_value_seed(below)?);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeated_members_are_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"[{"y":[{"a":1,"a":2}]}]"#,
        ] {
            let found = parse_json(text.as_bytes(), 1000);
            assert!(matches!(found, Err(JsonError::Syntax(_))), "{text}");
        }
        // Names that only look alike are two names.
        assert!(parse_json(r#"{"a":1,"A":1,"x":{"a":2}}"#.as_bytes(), 1000).is_ok());
    }

    #[test]
    fn length_depth_and_rest_are_bounded() {
        assert!(parse_json(b"[1]", 3).is_ok());
        assert!(matches!(
            parse_json(b"[1]", 2),
            Err(JsonError::TooLong { limit: 2, found: 3 })
        ));
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse_json(nested(MAX_DEPTH).as_bytes(), 1000).is_ok());
        assert!(parse_json(nested(MAX_DEPTH + 1).as_bytes(), 1000).is_err());
        assert!(parse_json_to(nested(100).as_bytes(), 1000, 100).is_ok());
        assert!(parse_json_to(nested(101).as_bytes(), 1000, 100).is_err());
        for text in [
            "",
            "{} x",
            "{}{}",
            "{'a':1}",
            "{\"a\":1,}",
            "nan",
            "\u{feff}{}",
        ] {
            assert!(parse_json(text.as_bytes(), 1000).is_err(), "{text}");
        }
        assert!(parse_json(b"\"\xff\"", 10).is_err(), "not UTF-8");
        assert!(parse_json(br#""\ud800""#, 10).is_err(), "half a character");
        assert_eq!(parse_object(b"[]", 10), Err(JsonError::NotAnObject));
    }

    proptest! {
        /// What it reads is what serde_json reads.
        #[test]
        fn the_same_values(text in r#"[\[\]{}",:0-9a-c\\u.e+ -]{0,40}"#) {
            if let Ok(value) = parse_json(text.as_bytes(), 100) {
                prop_assert_eq!(value, serde_json::from_str::<Value>(&text).expect("JSON"));
            }
        }
    }
}
