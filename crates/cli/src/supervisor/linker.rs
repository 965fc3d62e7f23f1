//! Which event belongs to which action, how sure that is, and where the two do not fit.
//!
//! Pure: it is told what was said (intents) and what happened (events, in the order of the log), and
//! answers with links and findings. A process is known by its number and the moment it was started, never
//! by its number alone. The words of an agent link nothing by themselves: what counts is who descends from
//! whom, as the broker read it while the call waited.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use agentwall_action::Verb;
use agentwall_ledger::{
    Hash, Record,
    entry::{ActionEnd, Finding, Intent, KernelSummary, argv_sha256},
    tree::Frontier,
};
use agentwall_wall::wire::Event;

use super::meant::{arguments, covers, fits, is_tool};

/// A process: its number on the host, and when it was started.
pub type Process = (u32, u64);

/// Most actions that are open at a time; the oldest is given up for one more.
pub const MAX_OPEN: usize = 64;
/// Most processes that are remembered as an action's own, and most findings that are told apart.
const MAX_KNOWN: usize = 4096;

/// By how much a finding raises the session's risk.
const WITHOUT_INTENT: u8 = 20;
const BROADER: u8 = 10;
const WITHOUT_ACTION: u8 = 5;

/// How an event was found to belong to an action, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribution {
    /// It belongs to none.
    Unattributed,
    /// It happened while the action was open, and nothing more is known.
    Window,
    /// Its process descends from the action's, or from the agent and is younger than the intent of the only
    /// action that was open.
    Lineage,
    /// And it starts the program with the arguments that the intent told.
    LineageArgv,
}

impl Attribution {
    /// As entries have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Attribution::Unattributed => "unattributed",
            Attribution::Window => "window",
            Attribution::Lineage => "lineage",
            Attribution::LineageArgv => "lineage+argv",
        }
    }
}

/// Where an event belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The action.
    pub action: Option<String>,
    /// How sure that is; `None` when the session tells no intents, and for the wall's own tools.
    pub attribution: Option<Attribution>,
}

/// An action whose intent was sealed.
#[derive(Debug)]
pub struct Begun {
    /// What was said.
    pub intent: Intent,
    /// The process whose descendants carry it out.
    pub agent: Option<Process>,
    /// A process that is the action's own, with all that descends from it.
    pub own: Option<Process>,
    /// When the intent was durable, in clock ticks since boot.
    pub since: u64,
    /// The shell line, where the intent is to run one.
    pub line: Option<String>,
    /// Number in the session of the newest entry of the action.
    pub previous: u64,
}

#[derive(Debug)]
struct Open {
    begun: Begun,
    tree: Frontier,
    counts: BTreeMap<String, u64>,
    attribution: BTreeMap<String, u64>,
    /// Events that are in no ledger.
    lost: u64,
    /// A program was started for it.
    started: bool,
}

impl Open {
    fn fits(&self, event: &Event) -> usize {
        fits(&self.begun.intent, self.begun.line.as_deref(), event)
    }
}

/// All that is known of a session's actions.
#[derive(Debug, Default)]
pub struct Linker {
    /// The session tells its intents: what happens without one is a finding.
    captures: bool,
    /// The session's own command, until it is started: action and digest of the arguments.
    command: Option<(String, String)>,
    /// The process that it is; the session ends with it, so that its number is nobody else's.
    first: Option<u32>,
    open: VecDeque<Open>,
    /// Processes of actions, also of those that have ended.
    known: HashMap<Process, String>,
    agents: HashSet<Process>,
    told: HashSet<(&'static str, Verb, String)>,
}

/// The kinds of findings.
const ACTION_WITHOUT_INTENT: &str = "action-without-intent";
const INTENT_WITHOUT_ACTION: &str = "intent-without-action";
const BROADER_THAN_INTENT: &str = "action-broader-than-intent";

impl Linker {
    /// The session tells its intents from now on.
    pub fn capture(&mut self) {
        self.captures = true;
    }

    /// The sealed intent of the session's own command.
    pub fn command(&mut self, intent: &Intent) {
        let digest = intent.claims.first().and_then(|c| c.argv_sha256.clone());
        self.command = digest.map(|digest| (intent.action_id.clone(), digest));
    }

    /// An action begins. Gives the one that had to be given up for it.
    pub fn begin(&mut self, begun: Begun) -> Option<String> {
        self.captures = true;
        self.agents.extend(begun.agent);
        if let Some(own) = begun.own {
            self.remember(own, begun.intent.action_id.clone());
        }
        self.open.push_back(Open {
            begun,
            tree: Frontier::default(),
            counts: BTreeMap::new(),
            attribution: BTreeMap::new(),
            lost: 0,
            started: false,
        });
        let oldest = self.open.front().filter(|_| self.open.len() > MAX_OPEN);
        oldest.map(|open| open.begun.intent.action_id.clone())
    }

    /// The open action with this id, or the newest with this id of a tool call.
    pub fn find(&self, text: &str) -> Option<String> {
        let ids = || self.open.iter().rev().map(|open| &open.begun.intent);
        let found = ids().find(|i| i.action_id == text);
        let found = found.or_else(|| ids().find(|i| i.call.as_deref() == Some(text)));
        found.map(|i| i.action_id.clone())
    }

    /// The open action of this source with this id of a tool call.
    pub fn find_of(&self, source: &str, call: &str) -> Option<String> {
        let mut of = self.open_of(source).into_iter();
        let found = of.find(|(_, known)| known.as_deref() == Some(call));
        found.map(|(id, _)| id)
    }

    /// The open actions of a source, with their tool calls.
    pub fn open_of(&self, source: &str) -> Vec<(String, Option<String>)> {
        let intents = self.open.iter().map(|open| &open.begun.intent);
        let of = intents.filter(|i| i.source == source);
        of.map(|i| (i.action_id.clone(), i.call.clone())).collect()
    }

    /// The process that the session's command is, once it has started.
    pub fn first(&self) -> Option<u32> {
        self.first
    }

    /// The actions that are open, the oldest first.
    pub fn still_open(&self) -> Vec<String> {
        let ids = self.open.iter().map(|o| o.begun.intent.action_id.clone());
        ids.collect()
    }

    /// Where an event belongs. Must be asked once for each, in the order of the log.
    pub fn link(&mut self, event: &Event) -> Link {
        let exec = event.action.verb == Verb::ProcessExec;
        let starts = exec && event.decision.effect.proceeds();
        if let Some((id, digest)) = self.command.take_if(|_| starts) {
            self.first = Some(event.actor.pid);
            if argv_sha256(&arguments(event)) == digest {
                return Link {
                    action: Some(id),
                    attribution: Some(Attribution::LineageArgv),
                };
            }
        }
        // Before the agent there are the wall's canaries, whose refusals may be told late.
        if !self.captures || self.command.is_some() || is_tool(event) {
            return Link::default();
        }
        let (action, attribution) = self.belongs(event, exec);
        Link {
            action,
            attribution: Some(attribution),
        }
    }

    fn belongs(&mut self, event: &Event, exec: bool) -> (Option<String>, Attribution) {
        let line = &event.actor.lineage;
        if let Some(id) = line.iter().find_map(|p| self.known.get(p)) {
            let told = self.opened(id).is_some_and(|o| exec && o.fits(event) > 0);
            let attribution = if told {
                Attribution::LineageArgv
            } else {
                Attribution::Lineage
            };
            return (Some(id.clone()), attribution);
        }
        // Descendants of the agent that are younger than the intent; the agent itself does many things at once.
        let below: Vec<(&Open, Process)> = self
            .open
            .iter()
            .filter_map(|open| {
                let at = line.iter().position(|p| Some(*p) == open.begun.agent)?;
                let branch = *line.get(at.checked_sub(1)?)?;
                (branch.1 >= open.begun.since).then_some((open, branch))
            })
            .collect();
        if exec
            && let Some((length, open, branch)) = below
                .iter()
                .map(|(open, branch)| (open.fits(event), *open, *branch))
                .max_by_key(|(length, ..)| *length)
            && length > 0
        {
            let id = open.begun.intent.action_id.clone();
            self.remember(branch, id.clone());
            return (Some(id), Attribution::LineageArgv);
        }
        if let [(open, _)] = below.as_slice() {
            return (
                Some(open.begun.intent.action_id.clone()),
                Attribution::Lineage,
            );
        }
        let newest = || self.open.iter().rev();
        let meant = newest().find(|open| covers(&open.begun.intent, event));
        match meant.or_else(|| newest().next()) {
            Some(open) => (
                Some(open.begun.intent.action_id.clone()),
                Attribution::Window,
            ),
            None => (None, Attribution::Unattributed),
        }
    }

    /// An event was recorded: as entry `seq` of the session, with this leaf hash, `None` when the ledger could not take
    /// it. Gives what does not fit.
    pub fn recorded(
        &mut self,
        link: &Link,
        event: &Event,
        seq: u64,
        leaf: Option<Hash>,
    ) -> Option<Finding> {
        let attribution = link.attribution?;
        let verb = event.action.verb;
        let Some(id) = &link.action else {
            // What the agent's own process does besides is its business and the policy's; a program that it
            // starts is not.
            let process = event.actor.lineage.first();
            let agent = Some(event.actor.pid) == self.first
                || process.is_some_and(|p| self.agents.contains(p));
            let watched = verb == Verb::ProcessExec || !agent;
            return watched
                .then(|| self.tell(ACTION_WITHOUT_INTENT, event))
                .flatten()
                .map(|finding| Finding {
                    entry: Some(seq),
                    ..finding
                });
        };
        let open = self.opened_mut(id)?;
        match leaf {
            Some(leaf) => open.tree.push(leaf, |_, _, _| {}),
            None => open.lost += 1,
        }
        let effect = event.decision.effect;
        *open.counts.entry(format!("{verb} {effect}")).or_default() += 1;
        *open
            .attribution
            .entry(attribution.as_str().to_owned())
            .or_default() += 1;
        open.started |= verb == Verb::ProcessExec && attribution >= Attribution::Lineage;
        // What only the time links may be another's.
        if attribution < Attribution::Lineage || covers(&open.begun.intent, event) {
            return None;
        }
        let previous = open.begun.previous;
        let finding = Finding {
            action_id: Some(id.clone()),
            previous: Some(previous),
            entry: Some(seq),
            ..self.tell(BROADER_THAN_INTENT, event)?
        };
        Some(finding)
    }

    /// The number in the session of an open action's newest entry.
    pub fn previous(&self, id: &str) -> Option<u64> {
        self.opened(id).map(|open| open.begun.previous)
    }

    /// An entry of an action was written.
    pub fn wrote(&mut self, id: &str, seq: u64) {
        if let Some(open) = self.opened_mut(id) {
            open.begun.previous = seq;
        }
    }

    /// An action ends; gives its last records, without `previous`, in the order they belong in.
    pub fn end(&mut self, id: &str, outcome: &str, exit: Option<i32>) -> Option<Ended> {
        let at = self
            .open
            .iter()
            .position(|o| o.begun.intent.action_id == id)?;
        let open = self.open.remove(at)?;
        let intent = &open.begun.intent;
        let exec = Verb::ProcessExec.as_str();
        let unmet = intent.claims.iter().find(|c| c.verb == exec);
        let finding = unmet
            .filter(|_| !open.started && !["denied", "told"].contains(&outcome))
            .map(|claim| Finding {
                action_id: Some(id.to_owned()),
                kind: INTENT_WITHOUT_ACTION.to_owned(),
                verb: claim.verb.clone(),
                resource: claim.resource.clone(),
                ..Finding::default()
            });
        Some(Ended {
            previous: open.begun.previous,
            finding,
            summary: KernelSummary {
                action_id: id.to_owned(),
                events: open.tree.size(),
                counts: open.counts,
                attribution: open.attribution,
                root: open.tree.root().to_base64(),
                lost: open.lost,
                ..KernelSummary::default()
            },
            end: ActionEnd {
                action_id: id.to_owned(),
                outcome: outcome.to_owned(),
                exit,
                ..ActionEnd::default()
            },
        })
    }

    /// A finding that was not told before.
    fn tell(&mut self, kind: &'static str, event: &Event) -> Option<Finding> {
        let (verb, resource) = (event.action.verb, event.action.resource.to_string());
        if self.told.len() >= MAX_KNOWN || !self.told.insert((kind, verb, resource.clone())) {
            return None;
        }
        Some(Finding {
            kind: kind.to_owned(),
            verb: verb.as_str().to_owned(),
            resource,
            ..Finding::default()
        })
    }

    fn remember(&mut self, process: Process, action: String) {
        if self.known.len() >= MAX_KNOWN {
            // Those of actions that have ended: what they left running is not linked any more.
            let open: HashSet<&str> = self
                .open
                .iter()
                .map(|o| o.begun.intent.action_id.as_str())
                .collect();
            self.known.retain(|_, id| open.contains(id.as_str()));
        }
        self.known.insert(process, action);
    }

    fn opened(&self, id: &str) -> Option<&Open> {
        self.open.iter().find(|o| o.begun.intent.action_id == id)
    }

    fn opened_mut(&mut self, id: &str) -> Option<&mut Open> {
        self.open
            .iter_mut()
            .find(|o| o.begun.intent.action_id == id)
    }
}

/// The last records of an action.
#[derive(Debug)]
pub struct Ended {
    /// Number in the session of the action's newest entry.
    pub previous: u64,
    /// What it said and did not do.
    pub finding: Option<Finding>,
    /// What was seen of it.
    pub summary: KernelSummary,
    /// Its end.
    pub end: ActionEnd,
}

/// By how much a finding raises the risk.
pub fn weight(finding: &Finding) -> u8 {
    match finding.kind.as_str() {
        ACTION_WITHOUT_INTENT => WITHOUT_INTENT,
        BROADER_THAN_INTENT => BROADER,
        _ => WITHOUT_ACTION,
    }
}

/// Puts a link into the record of its event.
pub fn write_link(record: &mut Record, link: &Link) {
    let decision = match record {
        Record::Decision(decision) => decision,
        Record::Exec(exec) => &mut exec.decision,
        Record::Connect(connect) => &mut connect.decision,
        _ => return,
    };
    decision.action_id = link.action.clone();
    decision.attribution = link.attribution.map(|a| a.as_str().to_owned());
}

#[cfg(test)]
#[path = "linker_tests.rs"]
mod tests;
