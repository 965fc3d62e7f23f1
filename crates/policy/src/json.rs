//! YAML nodes as JSON values, by the core schema of YAML 1.2.2 (section 10.3.2).
//!
//! Arguments of calls in a table of test cases are values, not texts: `amount: 5` is a number and
//! `amount: "5"` a text. Only what is written without quotes can be something else than text.
//! Infinity and not-a-number, which JSON does not have, stay the texts they are.
//!
//! Nodes are bounded in depth and size by the reader, and so is what comes out.

use serde_json::{Number, Value};

use crate::yaml::{Kind, Node, is_null};

/// The value of a node.
pub(crate) fn value(node: &Node) -> Value {
    match &node.kind {
        Kind::Scalar(text, plain) => scalar(text, *plain),
        Kind::Sequence(items) => items.iter().map(value).collect(),
        Kind::Mapping(entries) => {
            let pairs = entries.iter().map(|(k, v)| (k.text.clone(), value(v)));
            Value::Object(pairs.collect())
        }
    }
}

fn scalar(text: &str, plain: bool) -> Value {
    match text {
        _ if !plain => Value::from(text),
        _ if is_null(text, plain) => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::from(text), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        return all
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
            .map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        let all = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        return all
            .then(|| u64::from_str_radix(digits, 8).ok())
            .flatten()
            .map(Number::from);
    }
    let bare = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match bare.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (bare, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_fine = exponent.is_none_or(|e| !e.is_empty() && digits(e));
    let is_number = !(whole.is_empty() && fraction.is_empty());
    if !(is_number && digits(whole) && digits(fraction) && exponent_is_fine) {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Ok(n) = text.parse::<i64>() {
        return Some(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Some(n.into());
    }
    Number::from_f64(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_types_of_the_core_schema() {
        for (text, json) in [
            ("0", "0"),
            ("-12", "-12"),
            ("+3", "3"),
            ("007", "7"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("1.5", "1.5"),
            (".5", "0.5"),
            ("-1e3", "-1000.0"),
            ("18446744073709551615", "18446744073709551615"),
            ("true", "true"),
            ("False", "false"),
            ("~", "null"),
            ("", "null"),
            ("yes", "\"yes\""),
            ("0x", "\"0x\""),
            ("1e", "\"1e\""),
            (".", "\".\""),
            ("-", "\"-\""),
            ("1_000", "\"1_000\""),
            (".inf", "\".inf\""),
            ("1.2.3", "\"1.2.3\""),
            ("2026-01-01", "\"2026-01-01\""),
        ] {
            assert_eq!(scalar(text, true).to_string(), json, "{text}");
            assert_eq!(scalar(text, false), Value::from(text));
        }
        assert_eq!(scalar("1e999", true), Value::from("1e999"));
    }
}
