//! Which of all processes are which agent, and which trees they are the roots of.
//!
//! Processes are walked from their ancestors down. A process that a signature matches is the root of
//! an instance, unless it is already inside one of the same signature (a wrapper that starts the
//! program proper). Whatever an instance's processes start belongs to it, until something in there is
//! an instance of its own: an agent that another agent started, a server of tools.
//!
//! A process whose parent is gone is handed to another one by the kernel and would be lost. What an
//! agent puts into the environment of what it starts tells it all the same: it is *left behind*.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    process::Process,
    signature::{Family, Kind, Reason, Signatures},
};

/// An agent, a server or a helper that was found, with its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The signature's id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The process at the top.
    pub root: u32,
    /// Every process of it, the root first, parents before children.
    pub members: Vec<u32>,
    /// The root of the instance in which this one was started.
    pub within: Option<u32>,
    /// Why the root is what it is.
    pub reasons: Vec<Reason>,
    /// The agent is gone, or not above it any more; see the module header.
    pub left_behind: bool,
}

/// What [`identify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identification {
    /// Every instance, in the order of their roots' process ids.
    pub found: Vec<Found>,
    of: HashMap<u32, usize>,
}

impl Identification {
    /// The innermost instance that a process belongs to.
    pub fn of(&self, pid: u32) -> Option<&Found> {
        self.found.get(*self.of.get(&pid)?)
    }
}

/// Finds every instance among all processes of a host.
pub fn identify(signatures: &Signatures, processes: &[Process]) -> Identification {
    let order = from_the_top(processes);
    let mut walk = Walk {
        signatures,
        found: Vec::new(),
        of: HashMap::new(),
        labels: HashMap::new(),
    };
    for (process, parent) in &order {
        walk.visit(process, *parent);
    }
    for (process, parent) in &order {
        walk.visit_left_behind(process, *parent);
    }
    walk.finish()
}

/// Every process once, with its parent, parents before their children. A parent that is not there, or
/// was started later than the child and so has another's process id, is none; a circle is cut.
pub(crate) fn from_the_top(processes: &[Process]) -> Vec<(&Process, Option<u32>)> {
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|p| (p.pid, p)).collect();
    let parent = |p: &Process| {
        let parent = by_pid.get(&p.parent)?;
        (parent.pid != p.pid && parent.started <= p.started).then_some(parent.pid)
    };
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    let mut stack: Vec<(&Process, Option<u32>)> = Vec::new();
    for process in by_pid.values().copied() {
        match parent(process) {
            Some(parent) => children.entry(parent).or_default().push(process),
            None => stack.push((process, None)),
        }
    }
    stack.reverse();
    let mut seen: HashSet<u32> = HashSet::new();
    let mut order = Vec::with_capacity(by_pid.len());
    // Whoever is left over when all tops are walked is in a circle, or below one.
    let mut left = by_pid.values().copied();
    loop {
        while let Some((process, parent)) = stack.pop() {
            if seen.insert(process.pid) {
                order.push((process, parent));
                let below = children.get(&process.pid).into_iter().flatten();
                stack.extend(below.rev().map(|child| (*child, Some(process.pid))));
            }
        }
        match left.find(|p| !seen.contains(&p.pid)) {
            Some(process) => stack.push((process, None)),
            None => return order,
        }
    }
}

struct Walk<'a> {
    signatures: &'a Signatures,
    found: Vec<(usize, Found)>,
    of: HashMap<u32, usize>,
    /// What each process itself was matched as, `KIND:ID`.
    labels: HashMap<u32, String>,
}

impl Walk<'_> {
    fn visit(&mut self, process: &Process, parent: Option<u32>) {
        let around = parent.and_then(|p| self.of.get(&p).copied());
        let ancestors = self.around(around);
        let family = Family {
            parent: parent.and_then(|p| self.labels.get(&p)).map(String::as_str),
            ancestors: &ancestors,
        };
        let matched = self.signatures.identify(process, family);
        let Some((n, reasons)) = matched else {
            return self.join(process, around);
        };
        let signature = &self.signatures.list[n];
        self.labels.insert(process.pid, signature.label());
        let inside_itself = around.is_some_and(|at| self.found[at].0 == n);
        if inside_itself || (around.is_some() && signature.kind == Kind::Helper) {
            return self.join(process, around);
        }
        self.begin(n, process, around, reasons, false);
    }

    fn visit_left_behind(&mut self, process: &Process, parent: Option<u32>) {
        if self.of.contains_key(&process.pid) {
            return;
        }
        // Its parent was left behind, and so is what that one started.
        if let Some(at) = parent.and_then(|p| self.of.get(&p).copied())
            && self.found[at].1.left_behind
        {
            return self.join(process, Some(at));
        }
        let all = self.signatures.list.iter().enumerate();
        let marked = all.filter_map(|(n, s)| Some((n, s.mark(process)?))).next();
        if let Some((n, reason)) = marked {
            self.begin(n, process, None, vec![reason], true);
        }
    }

    fn begin(
        &mut self,
        n: usize,
        process: &Process,
        around: Option<usize>,
        reasons: Vec<Reason>,
        left_behind: bool,
    ) {
        let signature = &self.signatures.list[n];
        self.of.insert(process.pid, self.found.len());
        let found = Found {
            id: signature.id.clone(),
            name: signature.name.clone(),
            kind: if left_behind {
                Kind::Helper
            } else {
                signature.kind
            },
            root: process.pid,
            members: vec![process.pid],
            within: around.map(|at| self.found[at].1.root),
            reasons,
            left_behind,
        };
        self.found.push((n, found));
    }

    fn join(&mut self, process: &Process, around: Option<usize>) {
        if let Some(at) = around {
            self.of.insert(process.pid, at);
            self.found[at].1.members.push(process.pid);
        }
    }

    /// The labels of the instances around a process, the innermost first.
    fn around(&self, innermost: Option<usize>) -> Vec<String> {
        let mut labels = Vec::new();
        let mut next = innermost;
        while let Some(at) = next {
            let (n, found) = &self.found[at];
            labels.push(self.signatures.list[*n].label());
            // The instance around was begun earlier, so that this ends.
            next = found.within.and_then(|root| self.of.get(&root).copied());
            next = next.filter(|outer| *outer < at);
        }
        labels
    }

    fn finish(self) -> Identification {
        let mut order: Vec<usize> = (0..self.found.len()).collect();
        order.sort_by_key(|at| self.found[*at].1.root);
        let place: HashMap<usize, usize> =
            order.iter().enumerate().map(|(n, at)| (*at, n)).collect();
        let mut found: Vec<Option<Found>> = self.found.into_iter().map(|(_, f)| Some(f)).collect();
        Identification {
            found: order.iter().filter_map(|at| found[*at].take()).collect(),
            of: self
                .of
                .into_iter()
                .map(|(pid, at)| (pid, place[&at]))
                .collect(),
        }
    }
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
