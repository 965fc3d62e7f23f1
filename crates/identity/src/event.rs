//! What happened to hosts and agents, in order, for whoever has to follow: other instances, open streams, leases, waiting
//! approvals, the ledger.
//!
//! An event is sent when the change is durable and in effect. Nobody waits for a subscriber: one that is [`CAPACITY`]
//! events behind is cut off and told so, and then has to look at everything again.

use std::{
    sync::mpsc::{self, RecvTimeoutError, SyncSender, TryRecvError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, HostId};

/// How many events wait for one subscriber.
pub const CAPACITY: usize = 8192;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// A host was seen for the first time; it waits.
    #[serde(rename = "host.created")]
    HostCreated,
    /// A host was approved.
    #[serde(rename = "host.approved")]
    HostApproved,
    /// A host was rejected; its agents are.
    #[serde(rename = "host.rejected")]
    HostRejected,
    /// A host belongs to a person now.
    #[serde(rename = "host.linked")]
    HostLinked,
    /// A host belongs to nobody now; its delegated agents are revoked.
    #[serde(rename = "host.unlinked")]
    HostUnlinked,
    /// A host was revoked; its agents are.
    #[serde(rename = "host.revoked")]
    HostRevoked,
    /// A host has another key; the old one is dead.
    #[serde(rename = "host.key_rotated")]
    HostKeyRotated,
    /// A host's defaults were changed.
    #[serde(rename = "host.updated")]
    HostUpdated,
    /// An agent was registered.
    #[serde(rename = "agent.created")]
    AgentCreated,
    /// An agent became active.
    #[serde(rename = "agent.activated")]
    AgentActivated,
    /// An agent was rejected.
    #[serde(rename = "agent.rejected")]
    AgentRejected,
    /// An agent was reactivated; its grants decayed.
    #[serde(rename = "agent.reactivated")]
    AgentReactivated,
    /// An agent was revoked.
    #[serde(rename = "agent.revoked")]
    AgentRevoked,
    /// An autonomous agent was claimed by its host's new user.
    #[serde(rename = "agent.claimed")]
    AgentClaimed,
    /// An agent has another key; the old one is dead.
    #[serde(rename = "agent.key_rotated")]
    AgentKeyRotated,
    /// A capability was asked for.
    #[serde(rename = "capability.requested")]
    CapabilityRequested,
    /// A capability was granted.
    #[serde(rename = "capability.granted")]
    CapabilityGranted,
    /// A capability was denied.
    #[serde(rename = "capability.denied")]
    CapabilityDenied,
    /// A grant was taken back.
    #[serde(rename = "capability.revoked")]
    CapabilityRevoked,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// When, in seconds since 1970.
    pub at: i64,
    /// What.
    pub kind: EventKind,
    /// To which host.
    pub host: HostId,
    /// To which agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// About which capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// By whom: `host:ID`, `agent:ID`, or who the control plane says it was.
    pub by: String,
}

/// The events since [`Directory::subscribe`](crate::Directory::subscribe).
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Event>);

/// Why there is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEvent {
    /// None yet.
    #[error("nothing happened")]
    Quiet,
    /// Events were lost, or the directory is gone: look at everything again and subscribe anew. What was allowed on the strength of
    /// events has to be checked or to end.
    #[error("events were lost")]
    Lost,
}

impl Subscription {
    pub(crate) fn new() -> (SyncSender<Event>, Subscription) {
        let (to, from) = mpsc::sync_channel(CAPACITY);
        (to, Subscription(from))
    }

    /// The next event, if there is one.
    pub fn try_next(&self) -> Result<Event, NoEvent> {
        self.0.try_recv().map_err(|e| match e {
            TryRecvError::Empty => NoEvent::Quiet,
            TryRecvError::Disconnected => NoEvent::Lost,
        })
    }

    /// The next event; waits for one.
    pub fn wait(&self, timeout: Duration) -> Result<Event, NoEvent> {
        self.0.recv_timeout(timeout).map_err(|e| match e {
            RecvTimeoutError::Timeout => NoEvent::Quiet,
            RecvTimeoutError::Disconnected => NoEvent::Lost,
        })
    }
}
