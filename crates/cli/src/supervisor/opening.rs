//! The first entries of a session: policy and start, durable before the wall's parts are joined; then
//! what was found out while it was built: the self-test and what is hidden.

use std::{collections::BTreeMap, ffi::OsString, os::unix::ffi::OsStrExt as _, path::PathBuf};

use agentwall_action::{Verb, escape_bytes};
use agentwall_ledger::{
    Record,
    entry::{
        Canary, Claim, Intent, Mask, PolicyRecord, PolicySource, PolicyVariables, Selftest,
        SessionStart, User, argv_sha256,
    },
    hash::sha256_hex,
};
use agentwall_policy::Variables;
use agentwall_wall::Report;

use anyhow::Result;

use crate::{bundles, prepare::Prepared, state::random_text};

/// How many entries a session begins with: those of [`begin`], and the intent of its command.
pub const COUNT: u64 = 3;

/// How the session begins, for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beginning {
    /// It goes on in its own layers.
    pub resumes: bool,
    /// It has a copy of that session's layers.
    pub from: Option<String>,
    /// It leaves nothing.
    pub ephemeral: bool,
}

/// What is sealed before anything else.
pub fn begin(command: &[OsString], prepared: &Prepared, beginning: &Beginning) -> [Record; 2] {
    let engine = &prepared.engine;
    let digest = engine.policy().digest().to_owned();
    let session = &engine.facts().session;
    let sources = prepared.sources.iter().map(|s| PolicySource {
        name: escape_bytes(s.name.as_bytes()),
        sha256: sha256_hex(&s.text),
    });
    [
        Record::Policy(PolicyRecord {
            digest: digest.clone(),
            sources: sources.collect(),
            ..PolicyRecord::default()
        }),
        Record::SessionStart(SessionStart {
            name: session.name.clone(),
            command: command.iter().map(|c| escape_bytes(c.as_bytes())).collect(),
            workspace: escape_bytes(session.workspace.as_bytes()),
            policy: digest,
            enforcement: BTreeMap::from([("backend".to_owned(), "rootless".to_owned())]),
            user: User {
                uid: rustix::process::getuid().as_raw(),
                name: std::env::var("USER").unwrap_or_default(),
            },
            variables: Some(variables(&prepared.variables)),
            bundles: prepared.bundles.iter().map(bundles::recorded).collect(),
            resumes: beginning.resumes,
            from: beginning.from.clone(),
            ephemeral: beginning.ephemeral,
            ..SessionStart::default()
        }),
    ]
}

/// The intent of the session's own command.
pub fn command(agent: &str, command: &[OsString]) -> Result<Intent> {
    let argv: Vec<&[u8]> = command.iter().map(|c| c.as_bytes()).collect();
    let text: Vec<String> = argv.iter().map(|c| escape_bytes(c)).collect();
    Ok(Intent {
        action_id: random_text(16)?,
        agent: agent.to_owned(),
        source: "command".into(),
        parameters: text.join(" "),
        claims: vec![Claim {
            verb: Verb::ProcessExec.as_str().into(),
            resource: text.first().cloned().unwrap_or_default(),
            argv_sha256: Some(argv_sha256(&argv)),
        }],
        ..Intent::default()
    })
}

/// The values of the policy's variables as the ledger has them.
fn variables(values: &Variables) -> PolicyVariables {
    let text = |path: &Option<PathBuf>| path.as_deref().map(PolicyVariables::text);
    PolicyVariables {
        workspace: text(&values.workspace),
        home: text(&values.home),
        tmp: text(&values.tmp),
        state: text(&values.state),
    }
}

/// What was found out while the wall was built.
pub fn findings(report: &Report) -> Vec<Record> {
    let floor = Canary {
        name: "landlock".to_owned(),
        result: if report.landlock { "on" } else { "absent" }.to_owned(),
        // A second line of defence: without it the mounts still hold.
        ok: true,
    };
    let canaries = report.canaries.iter().map(|c| Canary {
        name: format!("{} {}", c.class, c.target),
        result: c.detail.clone(),
        ok: c.held,
    });
    let mut records = vec![Record::Selftest(Selftest {
        ok: report.canaries.iter().all(|c| c.held),
        canaries: std::iter::once(floor).chain(canaries).collect(),
        ..Selftest::default()
    })];
    records.extend(report.masks.iter().map(|(path, rule)| {
        Record::Mask(Mask {
            path: escape_bytes(path.as_os_str().as_bytes()),
            rule: rule.clone(),
        })
    }));
    records
}
