//! Constraints: what the arguments of a granted capability may be (Agent Auth Protocol v1.0-draft, section 3.4).
//!
//! A rule is about one top-level argument: a value that it must be, or operators that must all hold. Rules are only
//! ever put together so that both hold ([`Constraints::narrowed`]): whoever takes part can take away and cannot add.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::key::{clip, shown};

/// Most rules of one grant.
pub const MAX_RULES: usize = 64;
/// Most values of one list.
pub const MAX_VALUES: usize = 256;

/// Why constraints are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// Operators that nobody here enforces. Never ignored.
    #[error("expected the operators min, max, in, not_in or eq, found {}", shown(.0))]
    UnknownOperators(Vec<String>),
    /// Another shape.
    #[error("the constraint on '{}' {problem}", clip(field))]
    Shape {
        /// The argument.
        field: String,
        /// What was expected.
        problem: &'static str,
    },
    /// Not an object of rules, or too many.
    #[error("constraints are an object with at most {MAX_RULES} members")]
    NotRules,
}

/// Rules by argument. Empty: nothing is constrained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Constraints(BTreeMap<String, Rule>);

/// What one argument must be. All that is there must hold.
#[derive(Debug, Clone, PartialEq, Default)]
struct Rule {
    eq: Option<Value>,
    min: Option<Number>,
    max: Option<Number>,
    within: Option<Vec<Value>>,
    not_in: Vec<Value>,
}

/// An argument that is not what it must be. The shape is Agent Auth's, so an agent can correct itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// The argument.
    pub field: String,
    /// The rule: one operator and its value.
    pub constraint: Value,
    /// What it is; absent if the argument is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<Value>,
}

impl Constraints {
    /// Reads the object of a request or a record.
    pub fn read(value: &Value) -> Result<Self, ConstraintError> {
        let fields = value.as_object().ok_or(ConstraintError::NotRules)?;
        if fields.len() > MAX_RULES {
            return Err(ConstraintError::NotRules);
        }
        let mut unknown = Vec::new();
        let mut rules = BTreeMap::new();
        for (field, value) in fields {
            rules.insert(field.clone(), Rule::read(field, value, &mut unknown)?);
        }
        match unknown.is_empty() {
            true => Ok(Constraints(rules)),
            false => Err(ConstraintError::UnknownOperators(unknown)),
        }
    }

    /// Whether nothing is constrained.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both: arguments hold exactly if they hold against each of the two.
    #[must_use]
    pub fn narrowed(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (field, rule) in &other.0 {
            both.0.entry(field.clone()).or_default().narrow(rule);
        }
        both
    }

    /// What of the arguments does not hold; empty if all does. `arguments` is an object or null.
    pub fn violations(&self, arguments: &Value) -> Vec<Violation> {
        let none = Map::new();
        let given = arguments.as_object().unwrap_or(&none);
        let mut found = Vec::new();
        for (field, rule) in &self.0 {
            rule.check(field, given.get(field), &mut found);
        }
        found
    }
}

impl Rule {
    fn read(
        field: &str,
        value: &Value,
        unknown: &mut Vec<String>,
    ) -> Result<Self, ConstraintError> {
        let wrong = |problem| ConstraintError::Shape {
            field: field.to_owned(),
            problem,
        };
        let Value::Object(operators) = value else {
            return Ok(Rule {
                eq: Some(value.clone()),
                ..Rule::default()
            });
        };
        if operators.is_empty() {
            return Err(wrong("has no operator"));
        }
        let mut rule = Rule::default();
        for (operator, value) in operators {
            let number = || match value {
                Value::Number(n) => Ok(Some(n.clone())),
                _ => Err(wrong("has a min or max that is no number")),
            };
            let list = || match value {
                Value::Array(all) if all.len() <= MAX_VALUES => Ok(all.clone()),
                _ => Err(wrong(
                    "has an in or not_in that is no list of at most 256 values",
                )),
            };
            match operator.as_str() {
                "eq" => rule.eq = Some(value.clone()),
                "min" => rule.min = number()?,
                "max" => rule.max = number()?,
                "in" => rule.within = Some(list()?),
                "not_in" => rule.not_in = list()?,
                other => unknown.push(other.to_owned()),
            }
        }
        Ok(rule)
    }

    fn write(self) -> Value {
        let mut all = Map::new();
        let mut put = |name: &str, value: Value| all.insert(name.to_owned(), value);
        if let Some(eq) = self.eq {
            put("eq", eq);
        }
        if let Some(min) = self.min {
            put("min", Value::Number(min));
        }
        if let Some(max) = self.max {
            put("max", Value::Number(max));
        }
        if let Some(within) = self.within {
            put("in", Value::Array(within));
        }
        if !self.not_in.is_empty() || all.is_empty() {
            all.insert("not_in".to_owned(), Value::Array(self.not_in));
        }
        Value::Object(all)
    }

    fn narrow(&mut self, other: &Rule) {
        match (&self.eq, &other.eq) {
            (Some(a), Some(b)) if !same(a, b) => self.within = Some(Vec::new()),
            (None, Some(b)) => self.eq = Some(b.clone()),
            _ => {}
        }
        let tighter = |mine: &mut Option<Number>, theirs: &Option<Number>, tighter: Ordering| {
            if let Some(theirs) = theirs
                && mine
                    .as_ref()
                    .is_none_or(|mine| order(theirs, mine) == tighter)
            {
                *mine = Some(theirs.clone());
            }
        };
        tighter(&mut self.min, &other.min, Ordering::Greater);
        tighter(&mut self.max, &other.max, Ordering::Less);
        match (&mut self.within, &other.within) {
            (Some(mine), Some(theirs)) => mine.retain(|v| has(theirs, v)),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            _ => {}
        }
        for value in &other.not_in {
            if !has(&self.not_in, value) {
                self.not_in.push(value.clone());
            }
        }
    }

    fn check(&self, field: &str, actual: Option<&Value>, found: &mut Vec<Violation>) {
        let mut wrong = |operator: &str, value: Value| {
            found.push(Violation {
                field: field.to_owned(),
                constraint: serde_json::json!({ operator: value }),
                actual: actual.cloned(),
            });
        };
        let number = match actual {
            Some(Value::Number(n)) => Some(n),
            _ => None,
        };
        if let Some(eq) = &self.eq
            && !actual.is_some_and(|a| same(a, eq))
        {
            wrong("eq", eq.clone());
        }
        if let Some(min) = &self.min
            && number.is_none_or(|n| order(n, min) == Ordering::Less)
        {
            wrong("min", Value::Number(min.clone()));
        }
        if let Some(max) = &self.max
            && number.is_none_or(|n| order(n, max) == Ordering::Greater)
        {
            wrong("max", Value::Number(max.clone()));
        }
        if let Some(within) = &self.within
            && !actual.is_some_and(|a| has(within, a))
        {
            wrong("in", Value::Array(within.clone()));
        }
        if actual.is_some_and(|a| has(&self.not_in, a)) {
            wrong("not_in", Value::Array(self.not_in.clone()));
        }
    }
}

impl TryFrom<Value> for Constraints {
    type Error = ConstraintError;

    fn try_from(value: Value) -> Result<Self, ConstraintError> {
        Constraints::read(&value)
    }
}

impl From<Constraints> for Value {
    fn from(all: Constraints) -> Value {
        let written = all.0.into_iter().map(|(field, rule)| (field, rule.write()));
        Value::Object(written.collect())
    }
}

fn has(values: &[Value], value: &Value) -> bool {
    values.iter().any(|v| same(v, value))
}

/// Whether two values are one: numbers by what they mean (1 is 1.0), objects without order, texts byte by byte.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => order(a, b) == Ordering::Equal,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let member = |(name, a): (&String, &Value)| b.get(name).is_some_and(|b| same(a, b));
            a.len() == b.len() && a.iter().all(member)
        }
        _ => a == b,
    }
}

/// The order of two numbers, exactly: an integer is not rounded to be compared with a fraction.
fn order(a: &Number, b: &Number) -> Ordering {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(a), None) => against(a, float(b)),
        (None, Some(b)) => against(b, float(a)).reverse(),
        (None, None) => float(a).total_cmp(&float(b)),
    }
}

fn integer(n: &Number) -> Option<i128> {
    n.as_i64()
        .map(i128::from)
        .or_else(|| n.as_u64().map(i128::from))
}

/// A number of JSON has a value; `-0.0` is 0.
fn float(n: &Number) -> f64 {
    n.as_f64().unwrap_or(f64::NAN) + 0.0
}

/// An integer of 64 bits against a fraction.
fn against(integer: i128, fraction: f64) -> Ordering {
    // Beyond 2^65 the fraction is larger than any of them; below, its whole part fits.
    let bound = 36_893_488_147_419_103_232.0;
    if fraction >= bound {
        return Ordering::Less;
    }
    if fraction <= -bound {
        return Ordering::Greater;
    }
    let whole = fraction.floor();
    integer.cmp(&(whole as i128)).then(if fraction > whole {
        Ordering::Less
    } else {
        Ordering::Equal
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn rules(value: Value) -> Constraints {
        Constraints::read(&value).expect("constraints")
    }

    fn holds(rule: Value, arguments: Value) -> bool {
        rules(rule).violations(&arguments).is_empty()
    }

    #[test]
    fn operators() {
        for (rule, good, bad) in [
            (json!({ "a": 1 }), json!({ "a": 1.0 }), json!({ "a": "1" })),
            (
                json!({ "a": { "eq": [1, { "x": 2 }] } }),
                json!({ "a": [1, { "x": 2.0 }] }),
                json!({ "a": [1] }),
            ),
            (
                json!({ "a": { "min": 2 } }),
                json!({ "a": 2 }),
                json!({ "a": 1.999 }),
            ),
            (
                json!({ "a": { "max": 2 } }),
                json!({ "a": 2 }),
                json!({ "a": 2.001 }),
            ),
            (
                json!({ "a": { "max": 2 } }),
                json!({ "a": -5 }),
                json!({ "a": "1" }),
            ),
            (
                json!({ "a": { "min": 1, "max": 2 } }),
                json!({ "a": 1.5 }),
                json!({ "a": 3 }),
            ),
            (
                json!({ "a": { "in": ["x", null] } }),
                json!({ "a": null }),
                json!({ "a": "X" }),
            ),
            (
                json!({ "a": { "not_in": [1] } }),
                json!({ "a": "1" }),
                json!({ "a": 1.0 }),
            ),
            (
                json!({ "a": { "in": [] } , "b": 1}),
                json!({}),
                json!({ "a": 1, "b": 1 }),
            ),
        ] {
            let only_bad = rule == json!({ "a": { "in": [] }, "b": 1 });
            assert_eq!(
                holds(rule.clone(), good.clone()),
                !only_bad,
                "{rule} {good}"
            );
            assert!(!holds(rule.clone(), bad.clone()), "{rule} {bad}");
        }
        // What is not there is a violation, except of not_in.
        for missing in [
            json!(1),
            json!({ "eq": null }),
            json!({ "min": 0 }),
            json!({ "max": 0 }),
            json!({ "in": [1] }),
        ] {
            assert!(!holds(json!({ "a": missing }), json!({ "b": 1 })));
            assert!(!holds(json!({ "a": missing }), Value::Null));
        }
        assert!(holds(json!({ "a": { "not_in": [1] } }), json!({})));
        // Only the top level has arguments.
        assert!(!holds(json!({ "a": 1 }), json!({ "b": { "a": 1 } })));
    }

    #[test]
    fn shapes() {
        for wrong in [
            json!([]),
            json!({ "a": {} }),
            json!({ "a": { "min": "1" } }),
            json!({ "a": { "in": 1 } }),
            json!({ "a": { "not_in": { "x": 1 } } }),
        ] {
            assert!(Constraints::read(&wrong).is_err(), "{wrong}");
        }
        let unknown =
            Constraints::read(&json!({ "a": { "min": 1, "like": "x" }, "b": { "or": [] } }));
        let names = vec!["like".to_owned(), "or".to_owned()];
        assert_eq!(unknown, Err(ConstraintError::UnknownOperators(names)));
    }

    /// Beyond 2^53 a fraction does not have every integer.
    #[test]
    fn large_numbers_are_not_rounded() {
        let limit = json!({ "a": { "max": 9_007_199_254_740_992u64 } });
        assert!(holds(
            limit.clone(),
            json!({ "a": 9_007_199_254_740_992u64 })
        ));
        assert!(!holds(
            limit.clone(),
            json!({ "a": 9_007_199_254_740_993u64 })
        ));
        assert!(holds(limit, json!({ "a": 9_007_199_254_740_992.0 })));
        let limit = json!({ "a": { "max": 9_007_199_254_740_992.0 } });
        assert!(!holds(limit, json!({ "a": 9_007_199_254_740_993u64 })));
        assert!(!holds(
            json!({ "a": { "max": u64::MAX } }),
            json!({ "a": 1e300 })
        ));
        assert!(!holds(
            json!({ "a": { "min": i64::MIN } }),
            json!({ "a": -1e300 })
        ));
        assert!(holds(json!({ "a": 0 }), json!({ "a": -0.0 })));
    }

    fn number() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-4..4i64).prop_map(|n| json!(n)),
            (-8..8i64).prop_map(|n| json!(n as f64 / 2.0))
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            number(),
            Just(json!("x")),
            Just(json!("y")),
            Just(Value::Null)
        ]
    }

    fn rule() -> impl Strategy<Value = Value> {
        let some = |operator: &'static str, v: BoxedStrategy<Value>| {
            prop::option::weighted(0.3, v.prop_map(move |v| (operator.to_owned(), v)))
        };
        let list = || {
            prop::collection::vec(value(), 0..4)
                .prop_map(Value::Array)
                .boxed()
        };
        (
            some("eq", value().boxed()),
            some("min", number().boxed()),
            some("max", number().boxed()),
            some("in", list()),
            some("not_in", list()),
        )
            .prop_map(|(a, b, c, d, e)| {
                let all: Map<_, _> = [a, b, c, d, e].into_iter().flatten().collect();
                match all.is_empty() {
                    true => json!({ "not_in": [] }),
                    false => Value::Object(all),
                }
            })
    }

    proptest! {
        /// Both is both: nobody widens what another one demands, in either order.
        #[test]
        fn narrowed_is_the_conjunction(a in rule(), b in rule(), v in prop::option::of(value())) {
            let (a, b) = (rules(json!({ "f": a })), rules(json!({ "f": b })));
            let mut arguments = Map::new();
            if let Some(v) = v {
                arguments.insert("f".to_owned(), v);
            }
            let arguments = Value::Object(arguments);
            let ok = |c: &Constraints| c.violations(&arguments).is_empty();
            prop_assert_eq!(ok(&a.narrowed(&b)), ok(&a) && ok(&b));
            prop_assert_eq!(ok(&b.narrowed(&a)), ok(&a) && ok(&b));
            let written = Value::from(a.narrowed(&b));
            prop_assert_eq!(ok(&rules(written)), ok(&a) && ok(&b));
        }
    }
}
