//! What is another in a question than in the attempt before it, field by field.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Change {
    /// Which: a JSON pointer (RFC 6901).
    pub field: String,
    /// What it was, as JSON; absent when it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is, as JSON; absent when it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

/// The fields in which two bound texts differ, in the order of their names. Texts that are not JSON differ as a whole.
pub fn between(before: &str, now: &str) -> Vec<Change> {
    let (old, new) = (fields(before), fields(now));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let changed = names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name));
    let change = changed.map(|name| Change {
        field: name.clone(),
        before: old.get(name).cloned(),
        now: new.get(name).cloned(),
    });
    change.collect()
}

fn fields(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    match serde_json::from_str(text) {
        Ok(value) => put(&mut all, String::new(), &value),
        Err(_) => drop(all.insert(String::new(), text.to_owned())),
    }
    all
}

/// The depth is bounded: deeper JSON was not read.
fn put(all: &mut BTreeMap<String, String>, name: String, value: &Value) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                let key = key.replace('~', "~0").replace('/', "~1");
                put(all, format!("{name}/{key}"), value);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                put(all, format!("{name}/{at}"), value);
            }
        }
        plain => drop(all.insert(name, plain.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_differs_is_named_and_no_other() {
        let change = |field: &str, before: Option<&str>, now: Option<&str>| Change {
            field: field.into(),
            before: before.map(str::to_owned),
            now: now.map(str::to_owned),
        };
        let found = between(
            r#"{"a":{"to":"x","n":1},"l":[1,2],"same":true}"#,
            r#"{"a":{"to":"y","n":1},"l":[1],"same":true,"b/c":""}"#,
        );
        let expected = [
            change("/a/to", Some("\"x\""), Some("\"y\"")),
            change("/b~1c", None, Some("\"\"")),
            change("/l/1", Some("2"), None),
        ];
        assert_eq!(found, expected);
        assert!(between("{}", "{}").is_empty());
        // A number is not a text that looks like it.
        assert_eq!(between(r#"{"a":1}"#, r#"{"a":"1"}"#).len(), 1);
        assert_eq!(between("x", "y"), [change("", Some("x"), Some("y"))]);
    }
}
