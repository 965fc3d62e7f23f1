//! Objects of JSON whose members stay as they were spelled: what is not changed goes on byte for byte.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Serialize,
    de::{self, Deserializer, MapAccess, Visitor},
    ser::Serializer,
};
use serde_json::value::RawValue;

use super::rpc;

/// An object's members in their order, each as it was spelled.
#[derive(Debug, Default)]
pub struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    /// Reads an object; a member twice is an error, and one of `result`, `tools`, `id` and `method` in another spelling.
    pub fn read(bytes: &[u8]) -> serde_json::Result<Members> {
        serde_json::from_slice(bytes)
    }

    /// A member.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| &**value)
    }

    /// Exchanges a member, or adds it at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        for (n, old) in &mut self.0 {
            if n == name {
                *old = value;
                return;
            }
        }
        self.0.push((name.to_owned(), value));
    }

    /// Takes a member away.
    pub fn take(&mut self, name: &str) -> Option<Box<RawValue>> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// Whether a member is spelled almost so, and a reader that does not look at case could take it for this one.
    pub fn is_like(&self, name: &str) -> bool {
        let almost = |n: &str| n != name && rpc::folded(n) == rpc::folded(name);
        self.0.iter().any(|(n, _)| almost(n))
    }

    /// As it is written.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut all: Vec<(String, Box<RawValue>)> = Vec::new();
                let mut seen = HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if !seen.insert(name.clone()) {
                        return Err(de::Error::custom("a member twice"));
                    }
                    all.push((name, value));
                }
                Ok(Members(all))
            }
        }
        let members = deserializer.deserialize_map(Object)?;
        let known = ["result", "tools", "id", "method"];
        if let Some(name) = known.into_iter().find(|name| members.is_like(name)) {
            return Err(de::Error::custom(format_args!(
                "'{name}' in another spelling"
            )));
        }
        Ok(members)
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// A value as it is written.
pub fn raw(value: &impl Serialize) -> serde_json::Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value)
}
