//! The wall in the kernel: whether it stands and whether canaries proved it is asked of the daemon, or of what
//! is pinned; what it makes of a rule, of the code that takes a policy for it.

use std::sync::Arc;

use agentwall_action::Subject;
use agentwall_policy::Policy;
use agentwall_wall::enforcement::Landing;
use anyhow::Result;

use super::{About, Report};
use crate::{
    cmd::{daemon, policy::variables},
    host::{
        Places,
        policy::{self, OwnFiles},
    },
    policies::Chosen,
    prepare::own_binary,
};

/// The policy as it would be enforced, and where its rules land; what was found of the host goes into the
/// report. `None` if nothing can be found out.
pub fn look(
    chosen: Chosen,
    about: About<'_>,
    report: &mut Report,
) -> Result<Option<(Arc<Policy>, Vec<Landing>)>> {
    if !rustix::process::geteuid().is_root() {
        report.reason =
            Some("what the kernel holds is shown to root alone; run it as root".to_owned());
        return Ok(None);
    }
    let places = Places::default();
    let status = daemon::standing(&places)?;
    report.stands = status.enforcing;
    report.audit = status.standing && status.audit;
    report.reason = match (status.enforcing, report.audit) {
        (true, _) => None,
        (false, true) => {
            Some("the wall in the kernel only audits: it records and refuses nothing".to_owned())
        }
        (false, false) => Some(match status.trouble.first() {
            Some(why) => why.clone(),
            None => "the wall in the kernel is not proved; 'agentwall daemon status' tells more"
                .to_owned(),
        }),
    };
    let variables = variables(Some(about.workspace))?;
    let own = OwnFiles::of(&places, own_binary()?);
    let subject = Subject::agent(about.name);
    let names = status.names && !report.audit;
    let policy = policy::completed(&chosen.sources, &variables, &own, &subject, names)?;
    let lacks = policy::lacks(&policy, &subject, names);
    report.refused = policy::check(&policy, &lacks, report.audit)
        .err()
        .map(|e| format!("{e:#}"));
    let found = policy::landings(&policy, &subject, about.verbs, names);
    Ok(Some((Arc::new(policy), found)))
}
