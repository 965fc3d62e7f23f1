//! Reading again: configuration and policies, all or nothing.
//!
//! Everything is compiled before anything changes. Then each policy is exchanged with one update of its view's
//! table, after all who are under it have it in their ledger.

use std::path::Path;

use agentwall_policy::Variables;
use anyhow::{Context as _, Result};

use super::{
    book::variables,
    config::{Config, Entry},
    daemon::{Daemon, Inner},
    policy::{self, Ready},
    proc::{self, Process},
    requests::{UNNAMED, of_policy, unnamed},
};
use crate::{bundles, state::shown, supervisor::lock};

/// How trouble with a configuration begins.
const RELOAD: &str = "the configuration was not taken";

impl Daemon {
    /// Reads configuration and policies again. All of it comes into force, or nothing.
    pub fn reload(&self, by: u32) -> Result<String> {
        let mut inner = lock(&self.inner);
        let result = self.reread(&mut inner, by);
        inner.trouble.retain(|t| !t.starts_with(RELOAD));
        if let Err(e) = &result {
            inner.trouble.insert(format!("{RELOAD}: {e:#}"));
        }
        result
    }

    fn reread(&self, inner: &mut Inner, by: u32) -> Result<String> {
        let config = policy::configuration(&self.places.config).context("nothing was changed")?;
        self.try_entries(&config).context("nothing was changed")?;
        self.retire(inner)?;
        let (mut changed, mut gone) = (Vec::new(), 0);
        for view in inner.views.values().filter(|v| v.installed) {
            let entry = config.named(&view.name).filter(|_| view.name != UNNAMED);
            // A file that somebody named once may be gone by now. Those under its policy must not keep the others from
            // another one.
            if entry.is_none() && matches!(view.policy.try_exists(), Ok(false)) {
                gone += 1;
                continue;
            }
            let entry = entry.cloned().unwrap_or_else(|| Entry {
                audit: view.audit,
                name: view.name.clone(),
                ..unnamed(&view.policy)
            });
            let ready = self
                .read(
                    &entry.policy,
                    &view.name,
                    &view.ready.variables,
                    entry.audit,
                )
                .context("nothing was changed")?;
            let same = ready.digest() == view.ready.digest()
                && entry.audit == view.audit
                && entry.policy == view.policy;
            if !same {
                changed.push((view.number, entry, ready));
            }
        }
        inner.config = config;
        inner.given_up.clear();
        inner.views.retain(|_, view| view.installed);
        let count = changed.len();
        for (number, entry, ready) in changed {
            self.exchange(inner, number, entry, ready, by)?;
        }
        self.select(inner)?;
        self.save(inner)?;
        let entries = inner.config.govern.len();
        let mut text = format!(
            "read again: {entries} entries of the configuration, {count} of {} policies in use changed",
            inner.views.len()
        );
        if gone > 0 {
            text.push_str(&format!(
                "; the files of {gone} are gone, and these policies stay as they were"
            ));
        }
        Ok(text)
    }

    /// Puts another policy into a view: into the ledger of all who are under it, then into the kernel.
    fn exchange(
        &self,
        inner: &mut Inner,
        number: u32,
        entry: Entry,
        ready: Ready,
        by: u32,
    ) -> Result<()> {
        let generation = inner.next_generation();
        let Some(view) = inner.views.get(&number) else {
            return Ok(());
        };
        let mut next = view.clone();
        let record = of_policy(&ready, Some(view.ready.digest()), Some(by));
        next.replace(ready, generation);
        next.audit = entry.audit;
        next.policy = entry.policy;
        let under: Vec<u64> = (inner.sessions.values())
            .filter(|s| s.note.view == number)
            .map(|s| s.note.number)
            .collect();
        for session in &under {
            self.seal(inner, Some(*session), record.clone())?;
        }
        if next.ready.names {
            for session in &under {
                self.open_door(*session, 0)?;
            }
        }
        self.install(&mut next)?;
        inner.views.insert(number, next);
        for session in &under {
            self.doors.policy_changed(*session);
        }
        // A yes was given under the former policy.
        self.take_back(inner, |grant| under.contains(&grant.session))
    }

    /// Whether the policies of all entries can be put into the kernel, with values that stand for others.
    pub fn try_entries(&self, config: &Config) -> Result<()> {
        for entry in &config.govern {
            let home = match &entry.user {
                Some((_, home)) => Some(home.clone()),
                None => proc::home_of(0),
            };
            let workspace = entry.workspace.clone().or_else(|| home.clone());
            let variables = variables(workspace.as_deref(), home.as_deref(), self.state.root());
            let chosen = policy::choose(&entry.policy);
            chosen
                .and_then(|c| {
                    policy::ready(
                        c,
                        &entry.name,
                        &variables,
                        &self.own,
                        self.mode_with(entry.audit),
                    )
                })
                .with_context(|| format!("the entry '{}'", entry.name))?;
        }
        Ok(())
    }

    /// A policy from its file.
    pub(super) fn read(
        &self,
        file: &Path,
        name: &str,
        variables: &Variables,
        audit: bool,
    ) -> Result<Ready> {
        let chosen = policy::choose(file)?;
        let mode = self.mode_with(audit);
        let ready = policy::ready(chosen, name, variables, &self.own, mode)
            .with_context(|| format!("the policy {}", shown(file)))?;
        for bundle in &ready.bundles {
            bundles::remember(&self.state, bundle)?;
        }
        Ok(ready)
    }

    /// The values for a process; `found` says that the configuration means it, and nobody chose it where it works.
    pub(super) fn variables_of(&self, entry: &Entry, process: &Process, found: bool) -> Variables {
        let home = proc::home_of(process.uid);
        let of_user = home.clone().filter(|_| found && entry.exe.is_none());
        let workspace = (entry.workspace.clone())
            .or(of_user)
            .or_else(|| proc::folder_of(process.pid));
        variables(workspace.as_deref(), home.as_deref(), self.state.root())
    }
}
