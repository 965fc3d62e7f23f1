//! Who there is: hosts, agents, what is granted to them.
//!
//! Who reads does not wait: records are exchanged whole ([`shards`]). There is one writer at a time. A change is made on
//! copies ([`Draft`]), written to the [`Store`], and only then seen; the events about it follow. What takes
//! something away is in effect even if the store fails, and says so.
//!
//! Several directories, each in a process of its own, may have one store. A change that another one made first is taken in, and
//! one's own is made anew on top of it ([`Directory::follow`] takes others' changes in as they come).
//!
//! Readers may see a change to several records in between. That is harmless by the order of the writing: hosts first, and
//! an agent acts only if its host may, by that host's present key.
//!
//! ```text
//! authenticate  tokens -> principals; whether a principal may still act
//! register      new hosts and agents
//! lifecycle     approval, expiry, revocation with its cascade, keys
//! grants        what is asked for, granted, denied, and whether a call is within it
//! ```

mod authenticate;
mod draft;
mod grants;
mod lifecycle;
mod register;
mod shards;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};

pub use authenticate::{HostAuth, HostPrincipal, Newcomer, Principal};
pub use grants::{Approval, Catalogue, Wanted};
pub use lifecycle::AgentView;
pub use register::{Registered, Registration};

use crate::{
    error::ChangeError,
    event::{Event, Subscription},
    id::{AgentId, HostId},
    key::Thumbprint,
    model::{Agent, AgentStatus, Host, HostStatus, Lifetimes},
    store::{Change, Store, StoreError},
};
use draft::Draft;
use shards::Shards;

/// How long before the latest use that is known it is looked for others', in seconds: others note it later.
const USE_OVERLAP: i64 = 60;

/// How often a change is made anew because another instance wrote first.
const TRIES: usize = 64;

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Agents of one host that are in use or wait.
    pub agents_per_host: usize,
    /// Hosts that wait for approval. What comes beyond is refused, so bound the rate at which unknown hosts may register, too.
    pub pending_hosts: usize,
}

impl Default for Limits {
    /// 1,000 agents of a host, 10,000 waiting hosts.
    fn default() -> Self {
        Limits {
            agents_per_host: 1_000,
            pending_hosts: 10_000,
        }
    }
}

/// How a directory behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long agents live.
    pub lifetimes: Lifetimes,
    /// How many there may be.
    pub limits: Limits,
    /// Whether hosts that nobody knows may register; they then wait for approval.
    pub dynamic_registration: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lifetimes: Lifetimes::default(),
            limits: Limits::default(),
            dynamic_registration: true,
        }
    }
}

/// Who makes a change. A host changes its own agents alone.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// A host, by a token of its own.
    Host(&'a HostPrincipal),
    /// A person or a part of the control plane, which has checked that they may. The name goes into records and events.
    Operator(&'a str),
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Host(host) => write!(f, "host:{}", host.host()),
            By::Operator(name) => f.write_str(name),
        }
    }
}

/// Hosts, agents and grants. See the module's header.
pub struct Directory {
    settings: Settings,
    hosts: Shards<HostId, Arc<Host>>,
    /// Hosts by the thumbprints of their keys, retired ones too.
    by_thumbprint: Shards<Thumbprint, HostId>,
    /// Hosts by the addresses of their JWK sets.
    by_url: Shards<String, HostId>,
    agents: Shards<AgentId, Arc<AgentCell>>,
    writer: Mutex<Writer>,
}

/// An agent, and when it was used last: the one thing that changes without a change.
pub(crate) struct AgentCell {
    agent: Agent,
    used_at: Arc<AtomicI64>,
}

impl AgentCell {
    fn used_at(&self) -> i64 {
        self.used_at.load(Ordering::Relaxed)
    }
}

/// What only changes need.
struct Writer {
    store: Arc<dyn Store>,
    /// The number of the last event that was stored when this was looked at last.
    last_event: u64,
    /// What is in effect although the store failed. It is written with whatever comes next.
    unsaved: Change,
    /// Agents by host, of those that have not ended.
    of_host: HashMap<HostId, BTreeSet<AgentId>>,
    /// Agents by host and key, retired keys too.
    by_key: HashMap<(HostId, Thumbprint), AgentId>,
    subscribers: Vec<SyncSender<Event>>,
}

impl Directory {
    /// Reads everything from the store.
    pub fn open(store: Box<dyn Store>, settings: Settings) -> Result<Self, StoreError> {
        let contents = store.load()?;
        let directory = Directory {
            settings,
            hosts: Shards::new(),
            by_thumbprint: Shards::new(),
            by_url: Shards::new(),
            agents: Shards::new(),
            writer: Mutex::new(Writer {
                store: store.into(),
                last_event: contents.last_event,
                unsaved: Change::default(),
                of_host: HashMap::new(),
                by_key: HashMap::new(),
                subscribers: Vec::new(),
            }),
        };
        {
            let mut writer = directory.lock()?;
            directory.publish(&mut writer, contents.hosts, contents.agents);
        }
        Ok(directory)
    }

    /// How it behaves.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The host of this id.
    pub fn host(&self, id: &HostId) -> Option<Arc<Host>> {
        self.hosts.get(id)
    }

    /// Whether there is, or was, an agent of this id.
    pub fn has_agent(&self, id: &AgentId) -> bool {
        self.agents.get(id).is_some()
    }

    /// Whether a host has, or had, the key of this thumbprint.
    pub fn has_host_key(&self, thumbprint: Thumbprint) -> bool {
        self.by_thumbprint.get(&thumbprint).is_some()
    }

    /// All hosts, in no order; each as it is when it is looked at.
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        let mut all = Vec::new();
        self.hosts.for_each(|_, host| all.push(Arc::clone(host)));
        all
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> Result<Subscription, StoreError> {
        let (to, subscription) = Subscription::new();
        self.lock()?.subscribers.push(to);
        Ok(subscription)
    }

    /// Notes that the agent was used: its session goes on. For calls whose token was taken once
    /// ([`Principal::once`]) and that are within the rate; until then nothing about the agent changes.
    pub fn touch(&self, principal: &Principal, now: i64) {
        if let Some(cell) = self.agents.get(principal.agent()) {
            cell.used_at.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Writes down when agents were used last, for those that were since, and reads when they were used at other instances. To be called every few seconds: what is lost in a crash makes
    /// sessions shorter, never longer. Also writes what could not be written before.
    pub fn store_use(&self) -> Result<(), StoreError> {
        let mut writer = self.lock()?;
        if writer.unsaved != Change::default() {
            self.take_in(&mut writer)?;
            writer.store.commit(&writer.unsaved)?;
            writer.last_event = writer.next_event() - 1;
            writer.unsaved = Change::default();
        }
        let mut used = Vec::new();
        let mut cells = Vec::new();
        self.agents.for_each(|id, cell| {
            let at = cell.used_at();
            if at > cell.agent.used_at.unwrap_or(0) {
                used.push((id.clone(), at));
                cells.push((Arc::clone(cell), at));
            }
        });
        let mut latest = 0;
        (self.agents).for_each(|_, cell| latest = latest.max(cell.used_at()));
        // What others noted, and what they notice later of the same time.
        for (id, at) in writer.store.used_since(latest - USE_OVERLAP)? {
            if let Some(cell) = self.agents.get(&id) {
                cell.used_at.fetch_max(at, Ordering::Relaxed);
            }
        }
        if used.is_empty() {
            return Ok(());
        }
        writer.store.note_use(&used)?;
        let noted = cells.into_iter().map(|(cell, at)| {
            let mut agent = cell.agent.clone();
            agent.used_at = Some(at);
            let used_at = Arc::clone(&cell.used_at);
            (agent.id.clone(), Arc::new(AgentCell { agent, used_at }))
        });
        self.agents.extend(noted);
        Ok(())
    }

    /// The one writer. A writer that panicked may have left what is stored and what is seen apart: nobody writes after it.
    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Writer>, StoreError> {
        self.writer
            .lock()
            .map_err(|_| StoreError::Failed("an earlier change was cut off; restart".to_owned()))
    }

    /// Waits until another instance has changed something, at most `patience`, and takes it in. Says how many events those were.
    pub fn follow(&self, patience: Duration) -> Result<usize, StoreError> {
        let store = Arc::clone(&self.lock()?.store);
        store.wait(patience)?;
        let known = self.lock()?.last_event;
        // Not under the lock: a store that hangs holds up nobody here.
        let theirs = store.since(known)?;
        let mut writer = self.lock()?;
        match writer.last_event == known {
            true => self.merge(&mut writer, theirs),
            false => self.take_in(&mut writer),
        }
    }

    /// Takes in what other instances wrote.
    fn take_in(&self, writer: &mut Writer) -> Result<usize, StoreError> {
        let theirs = writer.store.since(writer.last_event)?;
        self.merge(writer, theirs)
    }

    fn merge(&self, writer: &mut Writer, mut theirs: Change) -> Result<usize, StoreError> {
        let count = theirs.events.len();
        let numbers = theirs.events.iter().map(|event| event.number);
        if !numbers.eq((writer.last_event + 1..).take(count)) {
            return Err(StoreError::Failed(format!(
                "the events after number {} are not numbered on",
                writer.last_event
            )));
        }
        writer.last_event += count as u64;
        let unsaved = &writer.unsaved.events;
        if !unsaved.is_empty() && theirs.events.starts_with(unsaved) {
            // It was written: only the answer was lost.
            writer.unsaved = Change::default();
        }
        writer.rebase(&mut theirs);
        self.publish(writer, theirs.hosts, theirs.agents);
        writer.tell(theirs.events);
        Ok(count)
    }

    /// Makes a change on copies, writes it, and lets it be seen. Nothing happens if `make` fails. A change that `takes_away` is in
    /// effect even if it cannot be written. Where another instance wrote first, its change is taken in and `make` called again; so it is
    /// when it fails on what is known here.
    fn change<T>(
        &self,
        by: String,
        now: i64,
        takes_away: bool,
        make: impl Fn(&mut Draft<'_>) -> Result<T, ChangeError>,
    ) -> Result<T, ChangeError> {
        let mut writer = self.lock()?;
        let mut tries = 0;
        let (made, change, whole, stored) = loop {
            let mut draft = Draft::new(self, &writer, by.clone(), now);
            let made = make(&mut draft);
            let change = draft.finish();
            if made.is_err() && tries == 0 && self.take_in(&mut writer).is_ok_and(|n| n > 0) {
                tries += 1;
                continue;
            }
            let made = made?;
            if change == Change::default() && writer.unsaved == Change::default() {
                return Ok(made);
            }
            debug_assert!(
                change.names_all(),
                "others would not hear of it: {change:?}"
            );
            let mut whole = writer.unsaved.clone();
            whole.extend(&change);
            tries += 1;
            match writer.store.commit(&whole) {
                Err(StoreError::Conflict { .. })
                    if tries < TRIES && self.take_in(&mut writer).is_ok_and(|n| n > 0) => {}
                stored => break (made, change, whole, stored),
            }
        };
        if let (Err(e), false) = (&stored, takes_away) {
            return Err(e.clone().into());
        }
        match &stored {
            Ok(()) => {
                writer.last_event += whole.events.len() as u64;
                writer.unsaved = Change::default();
            }
            Err(_) => writer.unsaved = whole,
        }
        self.publish(&mut writer, change.hosts, change.agents);
        writer.tell(change.events);
        stored.map_err(ChangeError::NotDurable)?;
        Ok(made)
    }

    /// Lets records be seen: hosts before their agents, so that what a host lost none of its agents still has.
    fn publish(&self, writer: &mut Writer, hosts: Vec<Host>, agents: Vec<Agent>) {
        for host in hosts {
            for thumbprint in host.key.retired.iter().chain([&host.key.key.thumbprint()]) {
                self.by_thumbprint.insert(*thumbprint, host.id.clone());
            }
            if let Some(jwks) = &host.key.jwks {
                self.by_url.insert(jwks.url.clone(), host.id.clone());
            }
            self.hosts.insert(host.id.clone(), Arc::new(host));
        }
        let mut cells = Vec::new();
        for agent in agents {
            for thumbprint in agent
                .key
                .retired
                .iter()
                .chain([&agent.key.key.thumbprint()])
            {
                let key = (agent.host.clone(), *thumbprint);
                writer.by_key.insert(key, agent.id.clone());
            }
            let used_at = match self.agents.get(&agent.id) {
                Some(cell) => {
                    let used_at = Arc::clone(&cell.used_at);
                    used_at.fetch_max(agent.used_at.unwrap_or(0), Ordering::Relaxed);
                    used_at
                }
                None => Arc::new(AtomicI64::new(agent.used_at.unwrap_or(0))),
            };
            let of_host = writer.of_host.entry(agent.host.clone()).or_default();
            match agent.status.has_ended() {
                true => of_host.remove(&agent.id),
                false => of_host.insert(agent.id.clone()),
            };
            cells.push((agent.id.clone(), Arc::new(AgentCell { agent, used_at })));
        }
        self.agents.extend(cells);
    }
}

impl Writer {
    /// The number of the next event.
    fn next_event(&self) -> u64 {
        self.last_event + 1 + self.unsaved.events.len() as u64
    }

    /// What could not be written yet comes after what others wrote. A record that both changed ends: what was taken away here must
    /// not come back with theirs, nor what they took away with ours.
    fn rebase(&mut self, theirs: &mut Change) {
        for host in &mut theirs.hosts {
            if let Some(ours) = self
                .unsaved
                .hosts
                .iter_mut()
                .find(|ours| ours.id == host.id)
            {
                host.status = HostStatus::Revoked;
                ours.clone_from(host);
            }
        }
        for agent in &mut theirs.agents {
            if let Some(ours) = (self.unsaved.agents.iter_mut()).find(|ours| ours.id == agent.id) {
                agent.status = AgentStatus::Revoked;
                ours.clone_from(agent);
            }
        }
        let numbers = self.last_event + 1..;
        for (event, number) in self.unsaved.events.iter_mut().zip(numbers) {
            event.number = number;
        }
    }

    /// Sends events. Who is too far behind is cut off, which their subscription tells them.
    fn tell(&mut self, events: Vec<Event>) {
        self.subscribers.retain(|to| {
            let sent = |event: &Event| to.try_send(event.clone()).is_ok();
            events.iter().all(sent)
        });
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
