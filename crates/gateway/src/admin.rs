//! What the operator of a gateway does: sees who asks to be let in, answers, ends agents - and what follows from that.

use std::time::Duration;

use agentwall_identity::{
    AgentId, AgentStatus, AgentView, Approval, By, ChangeError, Constraints, Event, EventKind,
    GrantStatus, Host, HostId, HostStatus, NoEvent, Subscription, UserId,
};

use crate::{
    approvals::Question,
    gateway::{Gateway, now, now_s},
    protocol::user_code,
};

/// An agent that waits for a person: to be let in, or for capabilities.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// What a person answers with.
    pub code: String,
    /// The host; it may wait, too.
    pub host: Host,
    /// The agent.
    pub agent: AgentView,
    /// The capabilities that wait.
    pub capabilities: Vec<String>,
}

/// What ended by a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Agents whose answers were under way.
    pub streams: usize,
    /// Questions that waited, or were approved and not used.
    pub questions: usize,
}

impl Gateway {
    /// Who waits, the longest first.
    pub fn applicants(&self) -> Vec<Applicant> {
        let mut all = Vec::new();
        for (host, agent) in self.agents() {
            let waiting = agent.agent.grants.iter();
            let waiting = waiting.filter(|(_, grant)| grant.status == GrantStatus::Pending);
            let capabilities: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
            let pending = agent.standing == AgentStatus::Pending;
            let open =
                pending || (agent.standing == AgentStatus::Active && !capabilities.is_empty());
            if open {
                all.push(Applicant {
                    code: user_code(&agent.agent.id),
                    host,
                    agent,
                    capabilities,
                });
            }
        }
        all.sort_by_key(|a| (a.agent.agent.updated_at, a.code.clone()));
        all
    }

    /// All hosts and agents, hosts in the order of their ids.
    pub fn agents(&self) -> Vec<(Host, AgentView)> {
        let mut hosts = self.directory.hosts();
        hosts.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        let mut all = Vec::new();
        for host in hosts {
            let agents = self
                .directory
                .agents_of(&host.id, now_s())
                .unwrap_or_default();
            all.extend(agents.into_iter().map(|agent| (Host::clone(&host), agent)));
        }
        all
    }

    /// Lets an applicant in, with all that it asks for: the host, then the agent.
    ///
    /// # Errors
    /// It ended meanwhile, or it cannot be written down.
    pub fn admit(&self, applicant: &Applicant, user: &str, by: &str) -> Result<(), ChangeError> {
        let (host, agent) = (&applicant.host, &applicant.agent.agent.id);
        if host.status == HostStatus::Pending {
            let user: Option<UserId> = user.parse().ok();
            self.directory
                .approve_host(&host.id, user.as_ref(), by, now_s())?;
        }
        for capability in &applicant.capabilities {
            let approval = Approval {
                constraints: &Constraints::default(),
                expires_at: None,
                by,
            };
            self.directory
                .grant(agent, capability, &approval, &self.catalogue, now_s())?;
        }
        if applicant.capabilities.is_empty() {
            self.directory.approve_agent(agent, by, now_s())?;
        }
        Ok(())
    }

    /// Turns an applicant away: what it asks for is denied, and if it waits to be let in, it is not; nor is its host,
    /// if that waits.
    ///
    /// # Errors
    /// It ended meanwhile, or it cannot be written down.
    pub fn turn_away(
        &self,
        applicant: &Applicant,
        reason: Option<&str>,
        by: &str,
    ) -> Result<(), ChangeError> {
        let (host, agent) = (&applicant.host, &applicant.agent);
        if host.status == HostStatus::Pending {
            return self.directory.reject_host(&host.id, by, now_s()).map(drop);
        }
        if agent.standing == AgentStatus::Pending {
            return self.directory.reject_agent(&agent.agent.id, by, now_s());
        }
        for capability in &applicant.capabilities {
            self.directory
                .deny(&agent.agent.id, capability, reason, by, now_s())?;
        }
        Ok(())
    }

    /// Ends an agent, or a host with its agents; how many agents.
    ///
    /// # Errors
    /// There is none of this id, or it cannot be written down: then it has ended in this process alone.
    pub fn revoke(&self, id: &str, by: &str) -> Result<usize, ChangeError> {
        let by = By::Operator(by);
        let done = match (id.parse::<AgentId>(), id.parse::<HostId>()) {
            (Ok(agent), _) if self.directory.status(by, &agent, now_s()).is_ok() => {
                self.directory.revoke_agent(by, &agent, now_s()).map(|()| 1)
            }
            (_, Ok(host)) => self.directory.revoke_host(by, &host, now_s()),
            _ => Err(ChangeError::AgentNotFound),
        };
        self.end_the_ended();
        done
    }

    /// Records what becomes of hosts and agents and ends what they have under way, until `over` says so. Also looks every
    /// second at who has ended by the clock.
    pub fn follow(
        &self,
        mut events: Subscription,
        over: impl Fn() -> bool,
        trouble: impl Fn(&str),
    ) {
        while !over() {
            match events.wait(Duration::from_secs(1)) {
                Ok(event) => {
                    if takes_away(&event) {
                        self.end_the_ended();
                    }
                    if event.kind == EventKind::AgentKeyRotated
                        || event.kind == EventKind::CapabilityRevoked
                    {
                        let agent = event.agent.as_ref().map(AgentId::as_str);
                        self.live.end(|live| Some(live) == agent);
                    }
                    if let Err(e) = self.judge.recorder().principal(&event) {
                        trouble(&e.to_string());
                    }
                }
                Err(NoEvent::Quiet) => {
                    self.end_the_ended();
                }
                Err(NoEvent::Lost) => {
                    self.live.end(|_| true);
                    self.end_the_ended();
                    trouble(
                        "events about hosts and agents were lost; all that was under way has ended",
                    );
                    match self.directory.subscribe() {
                        Ok(again) => events = again,
                        Err(e) => return trouble(&e.to_string()),
                    }
                }
            }
        }
    }

    /// Ends what agents have under way that may not act any more.
    pub fn end_the_ended(&self) -> Ended {
        let over = |agent: &str| !self.stands(agent);
        let questions: Vec<Question> = self.judge.approvals().revoke(|payload| {
            let by = payload.by.as_deref();
            // Other subjects than agents are those of who asks about them.
            let vouched = by.is_some() && payload.agent.parse::<AgentId>().is_err();
            by.is_some_and(|by| !self.may_decide(by)) || (!vouched && over(&payload.agent))
        });
        Ended {
            streams: self.live.end(over),
            questions: questions.len(),
        }
    }

    /// Whether an enforcement point is still one: its token was not taken away.
    fn may_decide(&self, by: &str) -> bool {
        by == crate::authzen::LOCAL || self.tokens.stands(by, now_s())
    }

    fn stands(&self, agent: &str) -> bool {
        let Ok(id) = agent.parse::<AgentId>() else {
            return false;
        };
        let view = self.directory.status(By::Operator("gateway"), &id, now_s());
        let Ok(view) = view else {
            return false;
        };
        let host = self.directory.host(&view.agent.host);
        view.standing == AgentStatus::Active && host.is_some_and(|h| h.status == HostStatus::Active)
    }

    /// The questions that wait.
    pub fn questions(&self) -> Vec<Question> {
        self.judge.approvals().waiting(now())
    }
}

fn takes_away(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::HostRejected
            | EventKind::HostUnlinked
            | EventKind::HostLinked
            | EventKind::HostRevoked
            | EventKind::HostKeyRotated
            | EventKind::AgentRejected
            | EventKind::AgentRevoked
            | EventKind::AgentClaimed
    )
}
