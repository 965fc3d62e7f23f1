//! What a session's wall was built from, and how another policy compares with it.
//!
//! The new policy is read and loaded as `run` does, with the session's values, and planned with the
//! mounts and protected places of the start.
//!
//! Invariants:
//! * A policy of which the standing wall cannot enforce all is named with what it lacks, never trimmed.
//! * Nothing that the agent can change says what the policy is: neither the file nor a link.
//! * The record on disk names a policy only after the ledger has it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::escape_bytes;
use agentwall_bundle::Opened;
use agentwall_engine::Engine;
use agentwall_ledger::{
    Record,
    entry::{PolicyRecord, PolicySource},
    hash::sha256_hex,
};
use agentwall_policy::{Policy, Source};
use agentwall_wall::{
    Revision,
    live::{Change, differences, left_out},
};
use anyhow::{Context as _, Result};

use super::Supervisor;
use crate::{
    bundles,
    control::PolicyText,
    fixed::Fixed,
    policies::{self, Chosen, Origin},
    prepare::{self, Prepared, RealPaths},
    reach,
    session::Session,
    state::{State, shown},
};

/// Most places of a refusal that are told.
const MOST: usize = 20;

/// What the wall was built from, and the session whose policy changes.
pub(super) struct Standing {
    prepared: Prepared,
    fixed: Fixed,
    origin: Origin,
    session: Session,
}

/// A policy as it was read and loaded.
pub(super) struct Next {
    pub(super) policy: Arc<Policy>,
    pub(super) sources: Vec<Source>,
    files: Vec<PathBuf>,
    bundles: Vec<Opened>,
    real: RealPaths,
}

impl Standing {
    pub(super) fn new(prepared: Prepared, origin: Origin, session: Session) -> Standing {
        Standing {
            fixed: Fixed::of(&prepared.engine),
            prepared,
            origin,
            session,
        }
    }

    /// The session, with the policy it is decided by.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Reads and loads a policy as `run` does.
    pub(super) fn read(&self, given: Option<PolicyText>) -> Result<Next> {
        let workspace = &self.session.record.workspace;
        let Chosen {
            sources,
            files,
            bundles,
        } = match given {
            Some(given) => (self.origin).take(Path::new(&given.name), given.text.into_bytes())?,
            None => self.origin.choose(workspace)?,
        };
        let policy = policies::load(&sources, &self.prepared.variables)?;
        prepare::check_requirement(&policy)?;
        let (policy, real) = prepare::with_real_paths(policy);
        Ok(Next {
            policy: Arc::new(policy),
            sources,
            files,
            bundles,
            real,
        })
    }

    /// What the standing wall cannot enforce of it, for a person.
    pub(super) fn differences(&self, next: &Next) -> Result<Vec<String>> {
        let Prepared { engine, view, .. } = &self.prepared;
        let files = next.files.iter();
        let mut found: Vec<String> = files
            .filter(|file| reach::is_file_of_agent(file, view))
            .map(|file| {
                format!(
                    "{}: the policy is in this file, which the agent can change",
                    shown(file)
                )
            })
            .collect();
        let led = next.real.iter().filter(|pair| {
            pair.0 != pair.1
                && !self.prepared.real.contains(pair)
                && reach::is_way_of_agent(&pair.0, &pair.1, view)
        });
        found.extend(led.map(|(name, real)| {
            format!(
                "{}: leads to {} by a link that the agent can change; name that place itself",
                shown(name),
                shown(real)
            )
        }));
        // An engine decides for the same agent and session, only by the other policy.
        let (subject, facts) = (engine.subject().clone(), engine.facts().clone());
        let other = Engine::new(Arc::clone(&next.policy), subject, facts);
        let wanted = Fixed::of(&other);
        if wanted.loopback != self.fixed.loopback {
            found.push("it names other loopback ports of the host".into());
        }
        if wanted.devices != self.fixed.devices {
            found.push("it gives other devices".into());
        }
        if wanted.no_trace != self.fixed.no_trace {
            found.push("it decides otherwise on tracing inside the session".into());
        }
        let planned = self.prepared.plan(&next.policy)?;
        let places = differences(&Change {
            standing: view,
            planned: &planned,
            policy: &next.policy,
            subject: engine.subject(),
            facts: engine.facts(),
        });
        let more = places.len().saturating_sub(MOST);
        found.extend(places.iter().take(MOST).map(|d| match &d.path {
            Some(path) => format!("{}: {}", shown(path), d.what),
            None => format!("it {}", d.what),
        }));
        if more > 0 {
            found.push(format!("and {more} more places"));
        }
        Ok(found)
    }

    pub(super) fn revision(&self, next: &Next, old: &Policy) -> Revision {
        let Prepared { engine, view, .. } = &self.prepared;
        let denied = |policy: &Policy| left_out(policy, view, engine.subject(), engine.facts());
        // What the policy in force denies as well, the agent could not make.
        let before: HashSet<PathBuf> = denied(old).into_iter().collect();
        let mut absent = denied(&next.policy);
        absent.retain(|path| !before.contains(path));
        Revision::new(&next.sources, &self.prepared.variables, &next.real, absent)
    }

    /// Writes the change down, durably where it matters: the text into the session's folder, the change
    /// into the ledger, then the name of the new policy into the session's record. Gives the session as
    /// it was, for [`Standing::take_back`].
    ///
    /// # Errors
    /// What could not be written; the session's policy is the former one.
    pub(super) fn record(
        &mut self,
        supervisor: &Supervisor,
        next: &Next,
        old: &str,
        by: u32,
    ) -> Result<Session> {
        Self::remember(next).context("nothing was changed")?;
        let former = self.session.clone();
        let mut session = former.clone();
        session
            .keep_policy(&next.sources, &self.prepared.variables, &next.policy)
            .context("nothing was changed")?;
        supervisor
            .seal(Record::Policy(record(next, old, by)))
            .context("the change cannot be recorded; nothing was changed")?;
        self.session = session;
        if let Err(e) = self.session.save_soon() {
            self.take_back(supervisor, former, next.policy.digest(), by);
            return Err(e.context("nothing was changed"));
        }
        Ok(former)
    }

    /// No older version of the bundles is used after this.
    fn remember(next: &Next) -> Result<()> {
        if next.bundles.is_empty() {
            return Ok(());
        }
        let state = State::open()?;
        (next.bundles.iter()).try_for_each(|bundle| bundles::remember(&state, bundle))
    }

    /// The policy that was recorded does not come into force after all.
    pub(super) fn take_back(
        &mut self,
        supervisor: &Supervisor,
        former: Session,
        digest: &str,
        by: u32,
    ) {
        self.session = former;
        // The record names the former policy still, or again; a failure shows when it is saved at
        // the end of the session.
        let _ = self.session.save();
        supervisor.note(Record::Policy(PolicyRecord {
            digest: self.session.record.policy_digest.clone(),
            replaces: Some(digest.to_owned()),
            by: Some(format!("uid:{by}")),
            ..PolicyRecord::default()
        }));
    }
}

fn record(next: &Next, old: &str, by: u32) -> PolicyRecord {
    let sources = next.sources.iter().map(|s| PolicySource {
        name: escape_bytes(s.name.as_bytes()),
        sha256: sha256_hex(&s.text),
    });
    PolicyRecord {
        digest: next.policy.digest().to_owned(),
        sources: sources.collect(),
        replaces: Some(old.to_owned()),
        by: Some(format!("uid:{by}")),
        bundles: next.bundles.iter().map(bundles::recorded).collect(),
        ..PolicyRecord::default()
    }
}
