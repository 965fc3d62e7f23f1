//! JSON whose objects name every key once.
//!
//! RFC 8259, section 4, leaves open which of two members of the same name counts, and programs differ.
//! A call that was decided by one of them and made by the other would not be the call that was
//! decided on, so such text is refused.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Reads any JSON value; for `#[serde(deserialize_with)]`.
pub fn value<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
    from.deserialize_any(Unique).map(|u| u.0)
}

struct Unique;
struct Found(Value);

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Unique)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found(Value::Null))
    }
    fn visit_bool<E>(self, b: bool) -> Result<Found, E> {
        Ok(Found(b.into()))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Found, E> {
        Ok(Found(n.into()))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Found, E> {
        Ok(Found(n.into()))
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<Found, E> {
        let number = Number::from_f64(n).ok_or_else(|| E::custom("a number that is not finite"))?;
        Ok(Found(number.into()))
    }
    fn visit_str<E>(self, s: &str) -> Result<Found, E> {
        Ok(Found(s.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Found, A::Error> {
        let mut items = Vec::new();
        while let Some(Found(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Found(items.into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Found, A::Error> {
        let mut map = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key '{key}' is there twice")));
            }
            let Found(item) = from.next_value()?;
            map.insert(key, item);
        }
        Ok(Found(map.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_reads_as_it_is_and_no_key_twice() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,0.5,"x"],"b":{"a":{}}}"#;
        let read = value(&mut serde_json::Deserializer::from_str(text)).unwrap();
        assert_eq!(read, serde_json::from_str::<Value>(text).unwrap());
        for twice in [r#"{"a":1,"a":2}"#, r#"[{"b":{"a":1,"\u0061":1}}]"#] {
            let error = value(&mut serde_json::Deserializer::from_str(twice)).unwrap_err();
            assert!(error.to_string().contains("twice"), "{error}");
        }
    }
}
