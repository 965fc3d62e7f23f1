//! The tests that signatures carry.
//!
//! A test asks the whole set, as a listing does: a process of `match` must be taken for this
//! signature and for no other that stands before it, one of `not_match` must not be taken for this
//! one. So two signatures that claim one process are found when the data are made.

use std::fmt;

use agentwall_action::escape_text;
use serde::Serialize;

use crate::signature::{Case, Signature, Signatures};

/// What [`Signatures::run_tests`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TestReport {
    /// How many tests were run.
    pub run: usize,
    /// Those that failed.
    pub failures: Vec<TestFailure>,
}

/// One test that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestFailure {
    /// The signature.
    pub signature: String,
    /// The file.
    pub source: String,
    /// The line of the process, from 1.
    pub line: usize,
    /// Whether the process should have been taken for the signature's.
    pub expected: bool,
    /// What it was taken for.
    pub found: Option<String>,
}

impl fmt::Display for TestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let should = if self.expected {
            "should be"
        } else {
            "should not be"
        };
        let found = self.found.as_deref().unwrap_or("unknown");
        write!(
            f,
            "{}:{}: the process {should} {}, and is {found}",
            escape_text(&self.source),
            self.line,
            self.signature,
        )
    }
}

impl TestReport {
    /// Whether every test passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Signatures {
    /// Runs every signature's tests.
    pub fn run_tests(&self) -> TestReport {
        let mut report = TestReport::default();
        for signature in &self.list {
            let wanted = signature.matches.iter().map(|case| (case, true));
            let unwanted = signature.not_matches.iter().map(|case| (case, false));
            for (case, expected) in wanted.chain(unwanted) {
                report.run += 1;
                report.failures.extend(self.run(signature, case, expected));
            }
        }
        report
    }

    fn run(&self, signature: &Signature, case: &Case, expected: bool) -> Option<TestFailure> {
        let found = self.identify(&case.process, case.family());
        let found = found.and_then(|(n, _)| Some(self.list.get(n)?.id.clone()));
        ((found.as_ref() == Some(&signature.id)) != expected).then(|| TestFailure {
            signature: signature.id.clone(),
            source: signature.source.clone(),
            line: case.line,
            expected,
            found,
        })
    }
}
