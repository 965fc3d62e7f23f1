//! What the daemon is asked to do: govern, release, reload, tell what stands.

use std::path::{Path, PathBuf};

use agentwall_kernel::Programs;
use agentwall_ledger::{
    Record,
    entry::{PolicyRecord, PolicySource, PolicyVariables, SessionEnd, SessionStart, User},
    hash::sha256_hex,
};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    book::SessionNote,
    config::Entry,
    daemon::{Daemon, Ending, Inner},
    policy::Ready,
    proc::{self, Process},
    session::Session,
    trail,
};
use crate::{
    bundles,
    control::{Governed, HostPolicy, HostRequest, Request, Response},
    session::minute_of,
    state::{now_ms, random_text, shown},
    supervisor::{Peer, lock},
};

/// The subject of a policy that is in no entry: `agent:host`.
pub(super) const UNNAMED: &str = "host";

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
                let text = match (unload, self.no_wall()) {
                    (true, None) => "the daemon ends and takes the kernel wall away",
                    (true, Some(_)) => "the daemon ends and takes the monitor away",
                    (false, None) => "the daemon ends; what is enforced stays so",
                    (false, Some(_)) => "the daemon ends; the monitor stays and its events wait",
                };
                Ok(done(text.to_owned()))
            }
            Request::Pending => Ok(Response::Pending(self.pending())),
            Request::Approve { id, scope, digest } => {
                return self.approve(&id, scope, digest.as_deref(), peer.uid);
            }
            Request::Reject { id, reason } => return self.reject(&id, reason, peer.uid),
            Request::Apply { .. } => Err(anyhow!(
                "policies of the kernel wall are read again by 'agentwall daemon reload'"
            )),
            Request::Gateway(_) => Err(anyhow!(
                "this is the daemon; gateways are asked at their own sockets"
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
            _ => {
                // Who asked may have ended, and its number be another's by now.
                let process =
                    proc::process(peer.pid).with_context(|| format!("process {}", peer.pid))?;
                if process.uid != peer.uid {
                    bail!("process {} is another user's", peer.pid);
                }
                Ok(peer.pid)
            }
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
        if let Some(task) = tasks.iter().find(|t| t.pid == pid && !t.released) {
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
        let variables = self.variables_of(&entry, &process, by.is_none());
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
            names: 0,
        };
        let command = proc::command_of(pid);
        let records = [
            of_policy(&ready, None, by),
            self.of_start(&note, command, &entry.name, entry.audit, &ready),
        ];
        let (lacks, digest, names) = (ready.lacks(), ready.digest().to_owned(), ready.names);
        let view = self.view_for(inner, &entry.name, &entry.policy, ready, entry.audit)?;
        inner.next_session += 1;
        inner
            .sessions
            .insert(number, Session::new(SessionNote { view, ..note }, 0));
        // The book before the kernel: what is governed is known to who comes after this daemon.
        let begun = records
            .into_iter()
            .try_for_each(|record| self.seal(inner, Some(number), record))
            .and_then(|()| self.save(inner))
            .and_then(|()| match names {
                true => self.open_door(number, 0),
                false => Ok(()),
            });
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
                let _ = self.let_go(inner, number, false);
                return Err(e);
            }
        };
        let session = inner.sessions.get(&number);
        Ok(Governed {
            session: session.map(|s| s.note.id.clone()).unwrap_or_default(),
            view,
            subject: format!("agent:{}", entry.name),
            digest,
            audit: self.mode_with(entry.audit).audit,
            processes: tasks.iter().map(|t| t.pid).collect(),
            lacks,
        })
    }

    /// Takes the policy away from all that is of a session; `for_good` says that the configuration gives them none.
    fn let_go(&self, inner: &mut Inner, session: u64, for_good: bool) -> Result<usize> {
        let mut count = 0;
        // What is forked meanwhile is found in the next round.
        for _ in 0..64 {
            let tasks = self.tasks_of(session)?;
            if tasks.is_empty() {
                self.end(inner, session)?;
                self.retire(inner)?;
                return Ok(count);
            }
            count += tasks.len();
            for task in &tasks {
                let gone = match for_good {
                    true => self.kernel.release(task.pid),
                    false => self.kernel.adopt(task.pid, 0, 0),
                };
                match gone {
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
        let count = self.let_go(&mut inner, number, true)?;
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
        self.close_door(number)?;
        self.take_back(inner, |grant| grant.session == number)?;
        trail::forget(&self.places, number);
        Ok(())
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

    pub(super) fn of_start(
        &self,
        note: &SessionNote,
        command: Vec<String>,
        name: &str,
        audit: bool,
        ready: &Ready,
    ) -> Record {
        let text = |path: &Option<PathBuf>| path.as_deref().map(PolicyVariables::text);
        let mode = match self.mode_with(audit).audit {
            true => "audit",
            false => "enforce",
        };
        let backend = match self.kernel.kind() {
            Programs::Wall => "kernel",
            Programs::Monitor => "monitor",
        };
        let enforcement = [("backend", backend), ("mode", mode)];
        let values = &ready.variables;
        Record::SessionStart(SessionStart {
            name: name.to_owned(),
            command,
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
}

fn done(text: String) -> Response {
    Response::Done { text }
}

pub(super) fn unnamed(file: &Path) -> Entry {
    Entry {
        name: UNNAMED.to_owned(),
        exe: None,
        user: None,
        policy: file.to_owned(),
        audit: false,
        workspace: None,
    }
}

pub(super) fn of_policy(ready: &Ready, replaces: Option<&str>, by: Option<u32>) -> Record {
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
