//! What the daemon is asked to do: govern, release, reload, tell what stands.

use std::path::{Path, PathBuf};

use agentwall_kernel::wire::Governed as Task;
use agentwall_ledger::{
    Record,
    entry::{PolicyRecord, PolicySource, PolicyVariables, SessionEnd, SessionStart, User},
    hash::sha256_hex,
};
use agentwall_policy::Variables;
use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    book::{SessionNote, variables},
    config::{Config, Entry},
    daemon::{Daemon, Ending, Inner},
    policy::{self, Ready},
    proc::{self, Process},
    session::{Session, View},
    trail,
};
use crate::{
    bundles,
    control::{
        Governed, HostPolicy, HostRequest, HostSession, HostStatus, Request, Response, ViewStatus,
    },
    session::minute_of,
    state::{now_ms, random_text, shown},
    supervisor::{Peer, lock},
};

/// The subject of a policy that is in no entry: `agent:host`.
const UNNAMED: &str = "host";

impl Daemon {
    /// Answers a request. Root may ask anything; everybody else may put themselves under a named policy.
    pub fn respond(&self, peer: Peer, request: Request) -> Response {
        let root = peer.uid == rustix::process::geteuid().as_raw() || peer.uid == 0;
        let said = match request {
            Request::Host(HostRequest::Govern { pid, policy }) => {
                self.may_govern(root, peer, pid, &policy).and_then(|pid| {
                    self.govern(pid, &policy, Some(peer.uid))
                        .map(Response::Governed)
                })
            }
            _ if !root => Err(anyhow!(
                "only root may ask this of the daemon; everybody may ask 'agentwall daemon exec --policy \
                 NAME' with a NAME of its configuration"
            )),
            Request::Host(HostRequest::Status) => {
                self.status().map(|s| Response::Host(Box::new(s)))
            }
            Request::Host(HostRequest::Release { pid }) => self.release(pid, peer.uid).map(done),
            Request::Host(HostRequest::Reload) => self.reload(peer.uid).map(done),
            Request::Host(HostRequest::Stop { unload }) => {
                *lock(&self.ending) = Some(Ending {
                    unload,
                    by: Some(peer.uid),
                });
                Ok(done(match unload {
                    true => "the daemon ends and takes the kernel wall away".to_owned(),
                    false => "the daemon ends; what is enforced stays so".to_owned(),
                }))
            }
            Request::Pending => Ok(Response::Pending(self.pending())),
            Request::Approve { id, scope } => return self.approve(&id, scope, peer.uid),
            Request::Reject { id, reason } => return self.reject(&id, reason, peer.uid),
            Request::Apply { .. } => Err(anyhow!(
                "policies of the kernel wall are read again by 'agentwall daemon reload'"
            )),
            Request::Checkpoint { .. } => Err(anyhow!(
                "the kernel wall makes no copies, so there is nothing to keep"
            )),
        };
        said.unwrap_or_else(|e| Response::Error {
            text: format!("{e:#}"),
        })
    }

    /// Which process is meant, if the peer may ask for it.
    fn may_govern(
        &self,
        root: bool,
        peer: Peer,
        pid: Option<u32>,
        policy: &HostPolicy,
    ) -> Result<u32> {
        match (pid, policy) {
            (_, _) if root => Ok(pid.unwrap_or(peer.pid)),
            (Some(pid), _) if pid != peer.pid => {
                bail!("only root may put process {pid} under a policy; others only themselves")
            }
            (_, HostPolicy::File(_)) => bail!(
                "only root may name a policy by its file; others name an entry of {}",
                shown(&self.places.config)
            ),
            _ => Ok(peer.pid),
        }
    }

    /// Puts a process and all that descends from it under a policy.
    pub(super) fn govern(
        &self,
        pid: u32,
        policy: &HostPolicy,
        by: Option<u32>,
    ) -> Result<Governed> {
        let mut inner = lock(&self.inner);
        if proc::line_of(std::process::id()).contains(&pid) {
            bail!("the daemon itself descends from process {pid}; name one further down");
        }
        let process = proc::process(pid).with_context(|| format!("process {pid}"))?;
        let tasks = self.kernel.governed()?;
        if let Some(task) = tasks.iter().find(|t| t.pid == pid) {
            match task.of_the_wall {
                true => bail!("process {pid} belongs to the wall"),
                false => bail!(
                    "process {pid} is governed already; 'agentwall daemon release {pid}' ends that"
                ),
            }
        }
        let entry = match policy {
            HostPolicy::Named(name) => inner.config.named(name).cloned().ok_or_else(|| {
                anyhow!(
                    "{} has no entry '{}'",
                    shown(&self.places.config),
                    agentwall_action::escape_text(name)
                )
            })?,
            HostPolicy::File(file) => unnamed(file),
        };
        let variables = self.variables_of(&entry, &process);
        let ready = self.read(&entry.policy, &entry.name, &variables, entry.audit)?;
        self.put_under(&mut inner, &process, &entry, ready, by)
    }

    fn put_under(
        &self,
        inner: &mut Inner,
        process: &Process,
        entry: &Entry,
        ready: Ready,
        by: Option<u32>,
    ) -> Result<Governed> {
        let pid = process.pid;
        let now = now_ms();
        let number = inner.next_session;
        let note = SessionNote {
            number,
            id: format!("{}-{}", minute_of(now), random_text(4)?),
            view: 0,
            pid,
            uid: process.uid,
            exe: proc::program(pid, b"?"),
            decisions: Default::default(),
        };
        let records = [
            of_policy(&ready, None, by),
            self.of_start(&note, entry, &ready),
        ];
        let (lacks, digest) = (ready.lacks(), ready.digest().to_owned());
        let view = self.view_for(inner, &entry.name, &entry.policy, ready, entry.audit)?;
        inner.next_session += 1;
        inner.sessions.insert(
            number,
            Session {
                note: SessionNote { view, ..note },
                seq: 0,
            },
        );
        // The book before the kernel: what is governed is known to who comes after this daemon.
        let begun = records
            .into_iter()
            .try_for_each(|record| self.seal(inner, Some(number), record))
            .and_then(|()| self.save(inner));
        let adopted = begun.and_then(|()| {
            self.kernel
                .adopt(pid, view, number)
                .with_context(|| format!("process {pid} cannot be put under the policy"))?;
            // The number may be another's by now; and what the kernel does not confirm is not so.
            let same = proc::process(pid).is_ok_and(|p| p.started == process.started);
            let tasks = self.tasks_of(number)?;
            match same && tasks.iter().any(|t| t.pid == pid && t.view == view) {
                true => Ok(tasks),
                false => Err(anyhow!(
                    "the kernel does not confirm that process {pid} is under the policy"
                )),
            }
        });
        let tasks = match adopted {
            Ok(tasks) => tasks,
            Err(e) => {
                // Of a process that has ended there is nothing to take back.
                let _ = self.let_go(inner, number);
                return Err(e);
            }
        };
        let session = inner.sessions.get(&number);
        Ok(Governed {
            session: session.map(|s| s.note.id.clone()).unwrap_or_default(),
            view,
            subject: format!("agent:{}", entry.name),
            digest,
            audit: entry.audit || self.audit,
            processes: tasks.iter().map(|t| t.pid).collect(),
            lacks,
        })
    }

    /// Takes the policy away from all that is of a session.
    fn let_go(&self, inner: &mut Inner, session: u64) -> Result<usize> {
        let mut count = 0;
        // What is forked meanwhile is found in the next round.
        for _ in 0..64 {
            let tasks = self.tasks_of(session)?;
            if tasks.is_empty() {
                self.end(inner, session)?;
                return Ok(count);
            }
            count += tasks.len();
            for task in &tasks {
                match self.kernel.adopt(task.pid, 0, 0) {
                    Err(agentwall_kernel::WallError::Process { .. }) => {}
                    other => drop(other?),
                }
            }
        }
        bail!("the session forks faster than it can be released; stop it first (SIGSTOP)")
    }

    /// Takes the policy away from the session that a process is in.
    fn release(&self, pid: u32, by: u32) -> Result<String> {
        let mut inner = lock(&self.inner);
        let tasks = self.kernel.governed()?;
        let task = tasks.iter().find(|t| t.pid == pid && t.view != 0);
        let Some(task) = task else {
            bail!("process {pid} is not governed; 'agentwall daemon status' lists what is");
        };
        let (number, view) = (task.session, task.view);
        // Durable before it happens: afterwards nobody refuses anything there.
        let former = inner.views.get(&view).map(|v| v.ready.digest().to_owned());
        let record = Record::Policy(PolicyRecord {
            replaces: Some(former.unwrap_or_default()),
            by: Some(format!("uid:{by}")),
            ..PolicyRecord::default()
        });
        self.seal(&mut inner, Some(number), record)?;
        let processes = tasks.iter().filter(|t| t.session == number);
        let released: Vec<(u32, u64)> = processes
            .filter_map(|t| proc::process(t.pid).ok())
            .map(|p| (p.pid, p.started))
            .collect();
        inner.released.extend(released);
        let count = self.let_go(&mut inner, number)?;
        let used = self.kernel.governed()?;
        if !used.iter().any(|t| t.view == view) && inner.unknown.remove(&view) {
            self.kernel.remove(view)?;
        }
        self.save(&inner)?;
        Ok(match count {
            1 => "released: 1 process".to_owned(),
            _ => format!("released: {count} processes"),
        })
    }

    /// The last entry of a session, and what is remembered only for it.
    pub(super) fn end(&self, inner: &mut Inner, number: u64) -> Result<()> {
        self.expire(inner, |question| question.grant.session == number);
        let Some(session) = inner.sessions.get(&number) else {
            return Ok(());
        };
        let record = Record::SessionEnd(SessionEnd {
            decisions: session.note.decisions.clone(),
            ..SessionEnd::default()
        });
        self.note(inner, Some(number), record);
        inner.sessions.remove(&number);
        self.take_back(inner, |grant| grant.session == number)?;
        trail::forget(&self.places, number);
        self.retire(inner)
    }

    /// What was permitted is not any more.
    pub(super) fn take_back(
        &self,
        inner: &mut Inner,
        which: impl Fn(&super::kernel::Grant) -> bool,
    ) -> Result<()> {
        for grant in inner.grants.iter().filter(|g| which(g)) {
            self.kernel.take_back(grant)?;
        }
        inner.grants.retain(|g| !which(g));
        Ok(())
    }

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
        let mut changed = Vec::new();
        for view in inner.views.values().filter(|v| v.installed) {
            let entry = config.named(&view.name).filter(|_| view.name != UNNAMED);
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
        self.save(inner)?;
        let entries = inner.config.govern.len();
        Ok(format!(
            "read again: {entries} entries of the configuration, {count} of {} policies in use changed",
            inner.views.len()
        ))
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
        self.install(&mut next)?;
        inner.views.insert(number, next);
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
                .and_then(|c| policy::ready(c, &entry.name, &variables, &self.own, entry.audit))
                .with_context(|| format!("the entry '{}'", entry.name))?;
        }
        Ok(())
    }

    /// A policy from its file.
    fn read(&self, file: &Path, name: &str, variables: &Variables, audit: bool) -> Result<Ready> {
        let chosen = policy::choose(file)?;
        let audit = audit || self.audit;
        let ready = policy::ready(chosen, name, variables, &self.own, audit)
            .with_context(|| format!("the policy {}", shown(file)))?;
        for bundle in &ready.bundles {
            bundles::remember(&self.state, bundle)?;
        }
        Ok(ready)
    }

    fn variables_of(&self, entry: &Entry, process: &Process) -> Variables {
        let workspace = (entry.workspace.clone()).or_else(|| proc::folder_of(process.pid));
        let home = proc::home_of(process.uid);
        variables(workspace.as_deref(), home.as_deref(), self.state.root())
    }

    fn of_start(&self, note: &SessionNote, entry: &Entry, ready: &Ready) -> Record {
        let text = |path: &Option<PathBuf>| path.as_deref().map(PolicyVariables::text);
        let mode = match entry.audit || self.audit {
            true => "audit",
            false => "enforce",
        };
        let enforcement = [("backend", "kernel"), ("mode", mode)];
        let values = &ready.variables;
        Record::SessionStart(SessionStart {
            name: entry.name.clone(),
            command: proc::command_of(note.pid),
            workspace: text(&values.workspace).unwrap_or_default(),
            policy: ready.digest().to_owned(),
            enforcement: enforcement
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            user: User {
                uid: note.uid,
                name: String::new(),
            },
            variables: Some(PolicyVariables {
                workspace: text(&values.workspace),
                home: text(&values.home),
                tmp: text(&values.tmp),
                state: text(&values.state),
            }),
            bundles: ready.bundles.iter().map(bundles::recorded).collect(),
            ..SessionStart::default()
        })
    }

    /// What stands.
    pub fn status(&self) -> Result<HostStatus> {
        let tasks = self.kernel.governed()?;
        let counters = self.kernel.counters()?;
        let inner = lock(&self.inner);
        let under = |view: u32| tasks.iter().filter(|t| t.view == view).count();
        Ok(HostStatus {
            standing: true,
            enforcing: !self.audit,
            audit: self.audit,
            daemon: true,
            kernel: release_of_kernel(),
            programs: self.programs.clone(),
            hooks: self.kernel.hooks(),
            proved_ms: Some(self.proved_ms),
            views: (inner.views.values().filter(|v| v.installed))
                .map(|view| of_view(view, under(view.number), self.audit))
                .collect(),
            sessions: inner
                .sessions
                .values()
                .map(|s| of_session(&s.note, &tasks))
                .collect(),
            counters: of_counters(&counters),
            lost: inner.lost,
            pending: inner.questions.len(),
            trouble: inner.trouble.iter().cloned().collect(),
        })
    }
}

/// How trouble with a configuration begins.
const RELOAD: &str = "the configuration was not taken";

fn done(text: String) -> Response {
    Response::Done { text }
}

fn unnamed(file: &Path) -> Entry {
    Entry {
        name: UNNAMED.to_owned(),
        exe: None,
        user: None,
        policy: file.to_owned(),
        audit: false,
        workspace: None,
    }
}

fn of_policy(ready: &Ready, replaces: Option<&str>, by: Option<u32>) -> Record {
    let sources = ready.sources.iter().map(|s| PolicySource {
        name: agentwall_action::escape_bytes(s.name.as_bytes()),
        sha256: sha256_hex(&s.text),
    });
    Record::Policy(PolicyRecord {
        digest: ready.digest().to_owned(),
        sources: sources.collect(),
        replaces: replaces.map(str::to_owned),
        by: by
            .filter(|_| replaces.is_some())
            .map(|uid| format!("uid:{uid}")),
        bundles: match replaces {
            Some(_) => ready.bundles.iter().map(bundles::recorded).collect(),
            None => Vec::new(),
        },
        ..PolicyRecord::default()
    })
}

fn of_view(view: &View, processes: usize, audit: bool) -> ViewStatus {
    ViewStatus {
        view: view.number,
        subject: format!("agent:{}", view.name),
        policy: shown(&view.policy),
        digest: view.ready.digest().to_owned(),
        generation: view.generation,
        audit: view.audit || audit,
        processes,
        lacks: view.ready.lacks(),
    }
}

/// A session with the processes it has now.
pub fn of_session(note: &SessionNote, tasks: &[Task]) -> HostSession {
    let own = tasks
        .iter()
        .filter(|t| t.session == note.number && t.view != 0);
    HostSession {
        id: note.id.clone(),
        view: note.view,
        pid: note.pid,
        uid: note.uid,
        exe: note.exe.clone(),
        processes: own.map(|t| t.pid).collect(),
    }
}

/// Counters by name.
pub fn of_counters(
    counters: &agentwall_kernel::Counters,
) -> std::collections::BTreeMap<String, u64> {
    [
        ("decisions", counters.decisions),
        ("cached", counters.cached),
        ("refused", counters.refused),
        ("dropped", counters.dropped),
        ("undecided", counters.undecided),
        ("no_memory", counters.no_memory),
        ("granted", counters.granted),
    ]
    .map(|(name, n)| (name.to_owned(), n))
    .into()
}

/// The kernel's release.
pub fn release_of_kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}
