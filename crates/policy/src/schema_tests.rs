use std::collections::BTreeSet;

use serde_json::Value;

use super::schema;
use crate::{document, temporal};

fn at(pointer: &str) -> Value {
    let schema: Value = serde_json::from_str(schema()).unwrap();
    schema
        .pointer(pointer)
        .cloned()
        .unwrap_or_else(|| panic!("{pointer}"))
}

fn keys(pointer: &str) -> BTreeSet<String> {
    at(pointer).as_object().unwrap().keys().cloned().collect()
}

fn words(pointer: &str) -> BTreeSet<String> {
    let list = at(pointer);
    let list = list.as_array().unwrap();
    list.iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_schema_knows_the_keys_that_loading_knows() {
    let pairs: [(&str, &[&str]); 9] = [
        ("/properties", document::TOP_KEYS),
        ("/properties/require/properties", document::REQUIRE_KEYS),
        ("/properties/risk/properties", temporal::RISK_KEYS),
        ("/$defs/rule/properties", document::RULE_KEYS),
        (
            "/$defs/rule/properties/hint/anyOf/1/properties",
            document::HINT_KEYS,
        ),
        (
            "/$defs/rule/properties/tests/properties",
            document::TEST_KEYS,
        ),
        ("/$defs/budget/properties", temporal::BUDGET_KEYS),
        ("/$defs/property/properties", temporal::PROPERTY_KEYS),
        ("/properties/require/properties", &["enforcement"]),
    ];
    for (pointer, known) in pairs {
        assert_eq!(keys(pointer), set(known.iter().copied()), "{pointer}");
    }
}

#[test]
fn the_schema_knows_the_words_that_loading_knows() {
    let effects = document::EFFECTS.iter().map(|(w, _)| *w);
    assert_eq!(words("/$defs/rule/properties/effect/enum"), set(effects));
    let defaults = document::DEFAULTS.iter().map(|(w, _)| *w);
    assert_eq!(words("/properties/default/enum"), set(defaults));
    let levels = document::ENFORCEMENTS.iter().map(|(w, _)| *w);
    assert_eq!(
        words("/properties/require/properties/enforcement/enum"),
        set(levels)
    );
    let verbs = agentwall_action::Verb::ALL.iter().map(|v| v.as_str());
    assert_eq!(words("/$defs/verb/enum"), set(verbs));
}
