//! In-file tests: the examples a rule carries, run against the rule itself.
//!
//! A test speaks about the rule's actions and objects alone: whether another rule would win, who the
//! subject is and whether a condition holds are other questions (`agentwall policy explain`).

use std::fmt;

use crate::{policy::Policy, rule::Location};

/// What [`Policy::run_tests`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct TestReport {
    /// How many tests were run.
    pub run: usize,
    /// Those that failed.
    pub failures: Vec<TestFailure>,
}

/// One in-file test that failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TestFailure {
    /// The rule.
    pub rule: String,
    /// Where the test is written.
    pub location: Location,
    /// The test, `VERB RESOURCE`.
    pub test: String,
    /// Whether the rule should have matched.
    pub expected: bool,
}

impl TestReport {
    /// Whether every test passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            let (should, does) = match failure.expected {
                true => ("should match", "does not"),
                false => ("should not match", "does"),
            };
            writeln!(
                f,
                "{}: rule {} {should} '{}' and {does}",
                failure.location,
                failure.rule,
                agentwall_action::escape_text(&failure.test)
            )?;
        }
        write!(f, "{} tests, {} failed", self.run, self.failures.len())
    }
}

impl Policy {
    /// Runs the tests of every rule.
    pub fn run_tests(&self) -> TestReport {
        let mut report = TestReport::default();
        for rule in self.rules() {
            for test in &rule.tests {
                report.run += 1;
                if rule.matches_object(test.verb, &test.resource) != test.expect {
                    report.failures.push(TestFailure {
                        rule: rule.id.clone(),
                        location: Location {
                            source: rule.location.source.clone(),
                            line: test.line,
                        },
                        test: test.text.clone(),
                        expected: test.expect,
                    });
                }
            }
        }
        report
    }
}
