//! Which wall governs a process.
//!
//! There are several walls, and each knows its own processes: the sources are asked in their order, and
//! the first that knows a process answers. A process that none of them knows runs without a policy, as
//! far as this user can tell: the sessions of another user are in that user's state folder.

use std::collections::HashMap;

use agentwall_agents::{Process, proc::Snapshot};
use anyhow::{Result, anyhow};
use serde::Serialize;

use crate::{
    cmd::daemon,
    control::{HostRequest, HostStatus, Response},
    session::Session,
    state::State,
};

/// Who governs where no kernel wall can.
const MONITOR: &str = "monitor";

/// The policy that governs a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Governance {
    /// By what: `session`, `kernel` for the kernel wall, `monitor` where that only looks on: nothing is refused.
    pub by: &'static str,
    /// The id, of the session.
    pub id: String,
    /// The name it has for people.
    pub name: String,
    /// Where the policy is from.
    pub source: String,
    /// SHA-256 of the effective policy, lower-case hex.
    pub digest: String,
}

impl Governance {
    /// Whether nothing is refused.
    pub fn is_audit(&self) -> bool {
        self.by == MONITOR
    }

    /// By what, for a person.
    pub fn in_words(&self) -> &'static str {
        match self.is_audit() {
            true => "monitor, audit only,",
            false => self.by,
        }
    }
}

/// Somebody who may govern processes.
pub trait Governed {
    /// The policy under which a process is, if it is governed here.
    fn policy_of(&self, pid: u32) -> Option<&Governance>;
}

/// Everybody who may govern, in the order in which they are asked.
pub type Walls = Vec<Box<dyn Governed>>;

/// Everybody who may govern processes on this host, and what could not be asked.
pub fn sources(state: &State, shot: &Snapshot) -> Result<(Walls, Vec<anyhow::Error>)> {
    let (sessions, mut errors) = Session::list(state)?;
    let running = sessions.into_iter().filter(Session::is_running);
    let mut walls: Walls = vec![Box::new(Sessions::new(running, shot))];
    if daemon::is_there() {
        match daemon::ask(HostRequest::Status) {
            Ok(Response::Host(status)) => walls.push(Box::new(Kernel::new(&status))),
            Ok(_) => errors.push(anyhow!(
                "the daemon of the kernel wall answered something else"
            )),
            Err(e) => errors.push(e),
        }
    }
    Ok((walls, errors))
}

/// What the kernel wall governs, as its daemon tells root.
#[derive(Debug)]
struct Kernel {
    governed: HashMap<u32, Governance>,
}

impl Kernel {
    fn new(status: &HostStatus) -> Kernel {
        let mut governed = HashMap::new();
        for session in &status.sessions {
            let Some(view) = status.views.iter().find(|v| v.view == session.view) else {
                continue;
            };
            let governance = Governance {
                by: match status.no_wall {
                    Some(_) => MONITOR,
                    None => "kernel",
                },
                id: session.id.clone(),
                name: view.subject.clone(),
                source: view.policy.clone(),
                digest: view.digest.clone(),
            };
            governed.extend(
                session
                    .processes
                    .iter()
                    .map(|pid| (*pid, governance.clone())),
            );
        }
        Kernel { governed }
    }
}

impl Governed for Kernel {
    fn policy_of(&self, pid: u32) -> Option<&Governance> {
        self.governed.get(&pid)
    }
}

/// The sessions of `agentwall run` that run at this moment.
#[derive(Debug)]
struct Sessions {
    governed: HashMap<u32, Governance>,
}

impl Sessions {
    /// Below the supervisor of a session is the agent, and a few processes of the wall. The agent's are
    /// those that are not in the supervisor's process id namespace: a program that only was started by
    /// something called so is not governed.
    fn new(running: impl Iterator<Item = Session>, shot: &Snapshot) -> Sessions {
        let supervisors: HashMap<u32, Governance> = running
            .map(|session| {
                let record = session.record;
                let governance = Governance {
                    by: "session",
                    id: record.id,
                    name: record.name,
                    source: record.policy_source,
                    digest: record.policy_digest,
                };
                (record.supervisor_pid, governance)
            })
            .collect();
        let by_pid: HashMap<u32, &Process> = shot.processes.iter().map(|p| (p.pid, p)).collect();
        let of = |process: &Process| {
            let supervisor = above(process, &by_pid).find(|p| supervisors.contains_key(&p.pid))?;
            let (outside, inside) = (supervisor.pid_namespace?, process.pid_namespace?);
            let governance = supervisors.get(&supervisor.pid)?;
            (inside != outside).then(|| (process.pid, governance.clone()))
        };
        Sessions {
            governed: shot.processes.iter().filter_map(of).collect(),
        }
    }
}

impl Governed for Sessions {
    fn policy_of(&self, pid: u32) -> Option<&Governance> {
        self.governed.get(&pid)
    }
}

/// The processes above one, the nearest first. A parent that is younger than its child has another's
/// number; no chain is longer than there are processes.
fn above<'a>(
    process: &'a Process,
    by_pid: &'a HashMap<u32, &'a Process>,
) -> impl Iterator<Item = &'a Process> {
    let parent = |p: &&'a Process| {
        let parent = by_pid.get(&p.parent).copied()?;
        (parent.started <= p.started && parent.pid != p.pid).then_some(parent)
    };
    std::iter::successors(Some(process), parent)
        .skip(1)
        .take(by_pid.len())
}

#[cfg(test)]
#[path = "governed_tests.rs"]
mod tests;
