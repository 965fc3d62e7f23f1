//! Looking at what a server answers before an agent reads it.
//!
//! A hook, with one scanner that is always there: text that a person who looks at the answer does not see, and a model
//! reads. It is no judgement of what the text says.

use std::fmt;

use serde_json::Value;

/// What a scanner found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind it is, as a short name.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

/// Looks at results.
pub trait Scan: fmt::Debug + Send + Sync {
    /// What there is to say about a result.
    fn scan(&self, result: &Value) -> Vec<Finding>;
}

/// What happens to a result with findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFinding {
    /// It goes on, and says so in `_meta`.
    #[default]
    Flag,
    /// It does not go on: the agent is told what was found instead.
    Withhold,
}

/// Characters that are not seen: tags, selectors of variants beyond the first sixteen, controls of direction, and operators
/// without a form.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hidden;

impl Scan for Hidden {
    fn scan(&self, result: &Value) -> Vec<Finding> {
        let mut found = [0usize; 3];
        count(result, &mut found);
        let kinds = [
            ("tag-characters", "that carry text nobody sees"),
            ("direction-controls", "that change what text looks like"),
            ("invisible-characters", "that have no form"),
        ];
        let seen = kinds.iter().zip(found).filter(|(_, n)| *n > 0);
        seen.map(|((code, what), n)| Finding {
            code,
            text: format!("{n} characters {what}"),
        })
        .collect()
    }
}

fn count(value: &Value, found: &mut [usize; 3]) {
    match value {
        Value::String(text) => count_in(text, found),
        Value::Array(items) => items.iter().for_each(|item| count(item, found)),
        Value::Object(members) => {
            for (name, value) in members {
                count_in(name, found);
                count(value, found);
            }
        }
        _ => {}
    }
}

fn count_in(text: &str, found: &mut [usize; 3]) {
    for c in text.chars() {
        let kind = match c {
            '\u{e0000}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}' => 0,
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => 1,
            // Not the joiners U+200C and U+200D: scripts and emoji need them.
            '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' => 2,
            _ => continue,
        };
        found[kind] += 1;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_that_nobody_sees_is_found_wherever_it_is() {
        let codes =
            |value: Value| -> Vec<_> { Hidden.scan(&value).iter().map(|f| f.code).collect() };
        for harmless in [
            json!({ "content": [{ "type": "text", "text": "grüße, 世界, ❤️, 👩‍💻, می‌خواهم" }] }),
            json!({ "n": [1, null, true] }),
        ] {
            assert!(codes(harmless).is_empty());
        }
        let tags = "a\u{e0072}\u{e006d}";
        assert_eq!(
            codes(json!({ "content": [{ "text": tags }] })),
            ["tag-characters"]
        );
        assert_eq!(codes(json!({ tags: 1 })), ["tag-characters"]);
        assert_eq!(codes(json!([["x\u{202e}y"]])), ["direction-controls"]);
        assert_eq!(
            codes(json!("x\u{200b}\u{e0100}")),
            ["tag-characters", "invisible-characters"]
        );
    }
}
