//! A second opinion: cedar-policy answers the same questions.
//!
//! The fragment both languages can say: rules of one priority that allow or deny, the default deny,
//! subjects, verbs and their families, patterns of paths, hosts, names and sockets as listed in
//! [`pattern`], networks and address sets, and conditions on facts that are there ([`rule`]). Each
//! random case ([`generate`]) is written in both languages; answer and deciding rule must agree. The
//! translation itself is held to account: an error that Cedar met while evaluating is a failure, every
//! form of pattern has to decide and to fail to decide, and a fault planted in the translation has to
//! be found ([`Fault`]).

pub mod generate;
pub mod pattern;
pub mod request;
pub mod rule;
mod text;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use agentwall_action::{Action, Effect, Subject};
use agentwall_policy::{Compiled, Layer, Policy, Source, Variables, load};
use cedar_policy::{
    Authorizer, Decision as CedarDecision, Entities, Policy as CedarPolicy, PolicyId, PolicySet,
};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use generate::{Case, case};

/// A wrong translation, to see that a difference is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The translation as it is.
    None,
    /// Single stars cross separators, as in Cedar.
    CountGuard,
    /// `/a/**` means `/a` itself, whatever it is.
    DirectoryClause,
    /// A `deny` allows.
    DenyIsAllow,
}

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many policies.
    pub policies: u32,
    /// Most rules of a policy.
    pub rules: usize,
    /// Most requests of a policy.
    pub requests: usize,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What was asked, when all agreed.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Policies.
    pub policies: u64,
    /// Answers compared.
    pub pairs: u64,
    /// How often each answer was given: allowed, denied by a rule, denied by default.
    pub allowed: u64,
    /// Denied by a rule.
    pub denied: u64,
    /// Denied by default.
    pub default: u64,
    /// For each form of pattern: requests made from it that its kind of rule decided, and others.
    pub forms: BTreeMap<&'static str, (u64, u64)>,
}

/// Runs a plan. The error is the shrunk case, written in both languages.
pub fn run(plan: Plan, fault: Fault) -> Result<Tally, String> {
    let entities = request::entities()?;
    let mut tally = Tally::default();
    explore(plan, |case| check(case, &entities, fault, &mut tally)).map_err(|(why, case)| {
        format!(
            "{why}\n{}",
            case.map_or_else(String::new, |c| show(&c, fault))
        )
    })?;
    Ok(tally)
}

/// Calls `check` with the plan's random cases; the error is what it says about the shrunk case.
pub fn explore(
    plan: Plan,
    check: impl FnMut(&Case) -> Result<(), String>,
) -> Result<(), (String, Option<Case>)> {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
    let config = Config {
        cases: plan.policies,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let check = RefCell::new(check);
    let outcome = TestRunner::new_with_rng(config, rng)
        .run(&case(plan.rules, plan.requests), |case| {
            (check.borrow_mut())(&case).map_err(TestCaseError::fail)
        });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Abort(why)) => Err((format!("seed {}: {why}", plan.seed), None)),
        Err(TestError::Fail(why, case)) => Err((format!("seed {}: {why}", plan.seed), Some(case))),
    }
}

/// One case: every answer agrees, or a sentence about the first that does not.
fn check(case: &Case, entities: &Entities, fault: Fault, tally: &mut Tally) -> Result<(), String> {
    let policy = ours(case)?;
    // A policy is compiled for a session.
    let compiled = compiled(case, &policy);
    let theirs = theirs(case, fault)?;
    let authorizer = Authorizer::new();
    tally.policies += 1;
    for (number, ask, form) in case.asks() {
        let session = &case.sessions[number];
        let action = ask.action(session);
        let answer = Answer::compiled(&compiled[number], &action);
        let interpreted = Answer::interpreted(&policy, &action);
        if answer != interpreted {
            return Err(format!(
                "compiled: {answer:?}; interpreted: {interpreted:?}; asked: {action:?}"
            ));
        }
        let request = ask.cedar(session)?;
        let response = authorizer.is_authorized(&request, &theirs, entities);
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(format!("Cedar could not evaluate: {error}"));
        }
        let reasons: BTreeSet<String> = response
            .diagnostics()
            .reason()
            .map(PolicyId::to_string)
            .collect();
        let allowed = response.decision() == CedarDecision::Allow;
        let agree = answer.allowed == allowed
            && match &answer.rule {
                Some(rule) => reasons.contains(rule),
                None => reasons.is_empty(),
            };
        if !agree {
            return Err(format!(
                "ours: {answer:?}; Cedar: {} by {reasons:?}; asked: {ask:?} by {session:?}",
                if allowed { "allowed" } else { "denied" }
            ));
        }
        tally.count(&answer, form);
    }
    Ok(())
}

impl Tally {
    fn count(&mut self, answer: &Answer, form: &'static str) {
        self.pairs += 1;
        match (answer.allowed, &answer.rule) {
            (true, _) => self.allowed += 1,
            (false, Some(_)) => self.denied += 1,
            (false, None) => self.default += 1,
        }
        let (decided, not) = self.forms.entry(form).or_default();
        match answer.rule {
            Some(_) => *decided += 1,
            None => *not += 1,
        }
    }
}

/// What our side says.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    allowed: bool,
    rule: Option<String>,
}

impl Answer {
    fn compiled(compiled: &Compiled, action: &Action) -> Answer {
        let verdict = compiled.verdict(action);
        Answer {
            allowed: verdict.effect == Effect::Allow,
            rule: verdict.rule.map(|r| r.id.clone()),
        }
    }

    fn interpreted(policy: &Policy, action: &Action) -> Answer {
        let decision = policy.decide(action);
        Answer {
            allowed: decision.effect == Effect::Allow,
            rule: decision.rule,
        }
    }
}

/// The case's policy in our language.
fn our_text(case: &Case) -> String {
    let mut text = "agentwall: 1\n".to_owned();
    if !case.rules.is_empty() {
        text.push_str("rules:\n");
    }
    for (n, rule) in case.rules.iter().enumerate() {
        text.push_str(&rule.ours(&format!("r{n}")));
    }
    text
}

/// The policy compiled for each session.
pub fn compiled(case: &Case, policy: &Arc<Policy>) -> Vec<Compiled> {
    let sessions = case.sessions.iter();
    sessions
        .map(|s| Compiled::new(Arc::clone(policy), &Subject(s.subject.clone()), &s.facts()))
        .collect()
}

/// The case's policy, read by our side.
pub fn ours(case: &Case) -> Result<Arc<Policy>, String> {
    let text = our_text(case);
    let source = Source::new("policy.yaml", text.as_bytes(), Layer::User);
    match load(&[source], &Variables::default()) {
        Ok(policy) => Ok(Arc::new(policy)),
        Err(error) => Err(format!("our side does not read it: {error}")),
    }
}

fn theirs(case: &Case, fault: Fault) -> Result<PolicySet, String> {
    let mut set = PolicySet::new();
    for (n, rule) in case.rules.iter().enumerate() {
        let text = rule.cedar(fault);
        let id = PolicyId::new(format!("r{n}"));
        let policy = CedarPolicy::parse(Some(id), &text)
            .map_err(|e| format!("Cedar does not read it: {e}\n{text}"))?;
        set.add(policy).map_err(|e| e.to_string())?;
    }
    Ok(set)
}

/// A case in both languages.
pub fn show(case: &Case, fault: Fault) -> String {
    let mut out = format!("--- ours\n{}--- Cedar\n", our_text(case));
    for (n, rule) in case.rules.iter().enumerate() {
        let _ = writeln!(out, "// r{n}\n{}", rule.cedar(fault));
    }
    out.push_str("--- asked\n");
    for (number, ask, _) in case.asks() {
        let _ = writeln!(out, "{ask:?}\n  by {:?}", case.sessions[number]);
    }
    out
}
