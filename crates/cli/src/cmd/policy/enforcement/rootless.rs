//! The wall of `agentwall run`: the plan is made by the code that makes it for a run, the host is probed by
//! the code behind `doctor`, and whether a run would be refused is asked of the function that refuses it.

use std::sync::Arc;

use agentwall_policy::Policy;
use agentwall_wall::enforcement::{Landing, Question, landings};
use anyhow::Result;

use super::{About, Report};
use crate::{doctor, fixed, policies::Chosen, prepare, state::State};

/// The policy as it would be enforced, and where its rules land; what was found of the host goes into the report.
pub fn look(
    chosen: Chosen,
    about: About<'_>,
    report: &mut Report,
) -> Result<(Arc<Policy>, Vec<Landing>)> {
    let state = State::open()?;
    let prepared = prepare::planned(
        &state,
        chosen,
        about.name,
        about.workspace,
        "explain",
        false,
        |_| Ok(()),
    )?;
    let findings = doctor::findings();
    report.stands = doctor::stands(&findings);
    if !report.stands {
        let missing = findings.iter().filter(|f| f.needed && !f.ok);
        let missing: Vec<String> = missing
            .map(|f| format!("{}: {}", f.what, f.found))
            .collect();
        report.reason = Some(format!(
            "no wall stands on this host ({}); 'agentwall doctor' tells what to do",
            missing.join("; ")
        ));
    }
    let engine = &prepared.engine;
    let policy = engine.policy();
    report.landlock = agentwall_wall::landlock_abi();
    report.refused = prepare::check_requirement(&policy)
        .err()
        .map(|e| format!("{e:#}"));
    let found = landings(&Question {
        policy: &policy,
        subject: engine.subject(),
        facts: engine.facts(),
        view: &prepared.view,
        no_trace: fixed::denies_tracing(engine),
        verbs: about.verbs,
    });
    Ok((policy, found))
}
