//! Running tables of cases against a policy, and telling which rules the tests reach.
//!
//! A rule counts as covered when some test shows it giving the answer of the *whole* policy: a case of
//! a table that it decided, or an in-file `match` example that it decides for the usual subject
//! without any facts. A rule of `monitor` is covered when a test shows it marking. So a rule that can
//! be read but never decides (shadowed, or with a condition nobody tried) is told apart from one that
//! does, which an in-file example alone cannot do.
//!
//! Everything goes through [`Policy::decide`]: there is no second reading of what a rule means.

use std::{collections::HashMap, fmt};

use agentwall_action::{Action, Decision, Effect, Subject, escape_text};

use crate::{
    diagnostic::nearest,
    policy::Policy,
    rule::{Location, RuleEffect},
    table::{CASE_SUBJECT, Case, Table},
};

/// Most test lines that are kept for one rule; the rest is counted.
const MAX_LINES: usize = 64;

/// What [`Policy::run_table`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct TableReport {
    /// How many cases were run.
    pub run: usize,
    /// Those that failed.
    pub failures: Vec<TableFailure>,
}

/// A case whose answer is another than it says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TableFailure {
    /// Where the case is written.
    pub location: Location,
    /// The action, `VERB RESOURCE`.
    pub action: String,
    /// What the case says must happen.
    pub expected: Effect,
    /// The rule that must decide, if the case says one; null for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_rule: Option<Option<String>>,
    /// What happens.
    pub found: Effect,
    /// The rule that decides; null for the default.
    pub found_rule: Option<String>,
    /// The note of the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Conditions that failed to evaluate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// What is likely wrong with the case itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

/// How the tests reach one rule.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RuleCoverage {
    /// The rule.
    pub rule: String,
    /// Where it is written.
    pub location: Location,
    /// Its effect.
    pub effect: &'static str,
    /// How many in-file `match` examples it has.
    pub matches: usize,
    /// How many in-file `not_match` examples it has.
    pub not_matches: usize,
    /// How many tests it decided (or marked, for `monitor`).
    pub decided: usize,
    /// Where those tests are written; the first 64.
    pub decided_by: Vec<Location>,
}

/// Which rules the tests reach.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Every rule, in the order they are looked at.
    pub rules: Vec<RuleCoverage>,
}

impl TableReport {
    /// Whether every case got its answer.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        write!(f, "{} cases, {} failed", self.run, self.failures.len())
    }
}

impl fmt::Display for TableFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |rule: Option<&str>| match rule {
            Some(rule) => format!("rule {}", escape_text(rule)),
            None => "the default".to_owned(),
        };
        write!(
            f,
            "{}: '{}' must be {}",
            self.location, self.action, self.expected
        )?;
        if let Some(rule) = &self.expected_rule {
            write!(f, " by {}", by(rule.as_deref()))?;
        }
        let found = by(self.found_rule.as_deref());
        write!(f, " and is {} by {found}", self.found)?;
        if let Some(note) = &self.note {
            write!(f, " ({})", escape_text(note))?;
        }
        for error in &self.errors {
            write!(f, "\n  {}", escape_text(error))?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "\n  {}", escape_text(suggestion))?;
        }
        Ok(())
    }
}

impl RuleCoverage {
    /// Whether some test shows the rule giving the answer.
    pub fn is_covered(&self) -> bool {
        self.decided > 0
    }
}

impl Coverage {
    /// How many rules are covered.
    pub fn covered(&self) -> usize {
        self.rules.iter().filter(|r| r.is_covered()).count()
    }

    /// The share of covered rules in whole percent, rounded down; 100 without rules.
    pub fn percent(&self) -> usize {
        match self.rules.len() {
            0 => 100,
            all => self.covered() * 100 / all,
        }
    }
}

impl Policy {
    /// Decides every case of a table.
    pub fn run_table(&self, table: &Table) -> TableReport {
        let mut report = TableReport::default();
        for case in &table.cases {
            report.run += 1;
            report.failures.extend(self.run_case(case));
        }
        report
    }

    /// Which rules are reached by the in-file examples and by the cases of the tables.
    pub fn coverage(&self, tables: &[Table]) -> Coverage {
        let mut rules: Vec<RuleCoverage> = Vec::new();
        let mut index: HashMap<&str, usize> = HashMap::new();
        for rule in self.rules() {
            index.insert(&rule.id, rules.len());
            let matches = rule.tests.iter().filter(|t| t.expect).count();
            rules.push(RuleCoverage {
                rule: rule.id.clone(),
                location: rule.location.clone(),
                effect: rule.effect.as_str(),
                matches,
                not_matches: rule.tests.len() - matches,
                decided: 0,
                decided_by: Vec::new(),
            });
        }
        let mut reach = |id: &str, location: Location| {
            if let Some(rule) = index.get(id).and_then(|at| rules.get_mut(*at)) {
                rule.decided += 1;
                if rule.decided_by.len() < MAX_LINES {
                    rule.decided_by.push(location);
                }
            }
        };
        for rule in self.rules() {
            for test in rule.tests.iter().filter(|t| t.expect) {
                let subject = Subject(CASE_SUBJECT.to_owned());
                let action = Action::new(subject, test.verb, test.resource.clone());
                let decision = self.decide(&action);
                let gave = match rule.effect {
                    RuleEffect::Decide(_) => decision.rule.as_ref() == Some(&rule.id),
                    RuleEffect::Monitor => decision.monitors.contains(&rule.id),
                };
                if gave {
                    let location = Location {
                        source: rule.location.source.clone(),
                        line: test.line,
                    };
                    reach(&rule.id, location);
                }
            }
        }
        for case in tables.iter().flat_map(|t| &t.cases) {
            let Decision { rule, monitors, .. } = self.decide(&case.action);
            for id in rule.iter().chain(&monitors) {
                reach(id, case.location.clone());
            }
        }
        Coverage { rules }
    }

    fn run_case(&self, case: &Case) -> Option<TableFailure> {
        let decision = self.decide(&case.action);
        let as_expected = decision.effect == case.expect
            && case.rule.as_ref().is_none_or(|r| *r == decision.rule);
        if as_expected {
            return None;
        }
        let wanted = case.rule.as_ref().and_then(Option::as_deref);
        let unknown = wanted.filter(|id| self.rule(id).is_none());
        Some(TableFailure {
            location: case.location.clone(),
            action: format!("{} {}", case.action.verb, case.action.resource),
            expected: case.expect,
            expected_rule: case.rule.clone(),
            found: decision.effect,
            found_rule: decision.rule,
            note: case.note.clone(),
            errors: decision.errors,
            suggestion: unknown.map(
                |id| match nearest(id, self.rules().map(|r| r.id.as_str())) {
                    Some(near) => {
                        format!("the policy has no rule '{id}'; did you mean '{near}'?")
                    }
                    None => format!("the policy has no rule '{id}'"),
                },
            ),
        })
    }
}
