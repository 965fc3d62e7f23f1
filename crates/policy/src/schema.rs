//! The JSON Schemas of policies and of tables of test cases, for editors.

/// JSON Schema, draft 2020-12. It helps while typing; loading a policy checks far more.
pub fn schema() -> &'static str {
    include_str!("../schema.json")
}

/// The JSON Schema of a table of test cases.
pub fn table_schema() -> &'static str {
    include_str!("../table.schema.json")
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
