//! The JSON Schema of a policy file, for editors.

/// JSON Schema, draft 2020-12. It helps while typing; loading a policy checks far more.
pub fn schema() -> &'static str {
    include_str!("../schema.json")
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
