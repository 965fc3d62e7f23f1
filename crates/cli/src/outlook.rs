//! What would become of each change at a commit: the groups of `diff` and of the review.
//!
//! This only looks ahead. The commit asks the same policy and looks at the same originals again, and
//! its word counts; what comes meanwhile can only hold more back.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use agentwall_cow::{Change, ChangeKind, ChangeSet, Disposition};

use crate::{
    changes::{Chosen, Named},
    cmd::commit::disposition,
    judge::{Judge, Verdict},
    output,
};

/// What would become of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// It would be committed.
    Committed,
    /// It would stay until a person names it, or what it needs is committed.
    Held,
    /// It is never committed.
    Denied,
    /// The original changed.
    Conflict,
    /// The session's policy cannot be read.
    Unknown,
}

impl Group {
    /// All, in the order in which they are shown.
    pub const ALL: [Group; 5] = [
        Group::Committed,
        Group::Held,
        Group::Denied,
        Group::Conflict,
        Group::Unknown,
    ];

    /// The word of `--json`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Group::Committed => "committed",
            Group::Held => "held",
            Group::Denied => "denied",
            Group::Conflict => "conflict",
            Group::Unknown => "unknown",
        }
    }

    /// The headline of a list.
    pub const fn headline(self) -> &'static str {
        match self {
            Group::Committed => "would be committed",
            Group::Held => "held: name it, or use --held",
            Group::Denied => "denied, never committed",
            Group::Conflict => "in conflict, not touched",
            Group::Unknown => "the session's policy cannot be read",
        }
    }
}

/// What would become of one change.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// The group.
    pub group: Group,
    /// Why, escaped; empty for what would be committed.
    pub why: String,
    /// What the policy says, if it can be read.
    pub verdict: Option<Verdict>,
}

impl Outlook {
    fn new(group: Group, why: String, verdict: Option<Verdict>) -> Outlook {
        Outlook {
            group,
            why,
            verdict,
        }
    }
}

/// Looks ahead for every change that is meant. `held`: also what the policy asks about is.
pub fn outlook(
    set: &ChangeSet,
    chosen: &Chosen,
    judge: Option<&Judge>,
    held: bool,
) -> BTreeMap<usize, Outlook> {
    let mut all: BTreeMap<usize, Outlook> = chosen
        .iter()
        .map(|(n, named)| (*n, by_itself(&set.changes[*n], *named, judge, held)))
        .collect();
    wait_for_others(set, &mut all);
    all
}

fn by_itself(change: &Change, named: Named, judge: Option<&Judge>, held: bool) -> Outlook {
    let conflict = || {
        change
            .conflict
            .as_ref()
            .map(|c| output::tame(&c.to_string()))
    };
    let Some(verdict) = judge.map(|j| j.verdict(change)) else {
        return match conflict() {
            Some(why) => Outlook::new(Group::Conflict, why, None),
            None => Outlook::new(Group::Unknown, String::new(), None),
        };
    };
    let disposition = disposition(&verdict, named, held);
    let by_rule = |word: &str| format!("commit {word} by {}", verdict.why(change));
    let (group, why) = if disposition == Disposition::Hold {
        match verdict.asks() {
            true => (Group::Held, by_rule("asked first")),
            false => (Group::Denied, by_rule("refused")),
        }
    } else if change.kind == ChangeKind::Special {
        let why = "a device node or an unknown overlay feature".to_owned();
        (Group::Denied, why)
    } else if let Some(why) = conflict() {
        (Group::Conflict, why)
    } else if disposition == Disposition::Commit && !change.privileges.is_empty() {
        (Group::Held, "grants rights: name the very file".to_owned())
    } else {
        (Group::Committed, String::new())
    };
    Outlook::new(group, why, Some(verdict))
}

/// A change waits for its new folder; a deletion waits for what the object was renamed to.
fn wait_for_others(set: &ChangeSet, all: &mut BTreeMap<usize, Outlook>) {
    let at: HashMap<(usize, &Path), usize> = set
        .changes
        .iter()
        .enumerate()
        .map(|(n, c)| ((c.layer, c.path.as_path()), n))
        .collect();
    let committed = |all: &BTreeMap<usize, Outlook>, n: &usize| {
        let outlook = all.get(n).map(|o| o.group);
        matches!(outlook, Some(Group::Committed | Group::Unknown))
    };
    let indices: Vec<usize> = all.keys().copied().collect();
    // By path: a folder before what is in it.
    for n in &indices {
        let change = &set.changes[*n];
        let (None, true) = (change.parent, committed(all, n)) else {
            continue;
        };
        let folder = change
            .path
            .parent()
            .and_then(|p| at.get(&(change.layer, p)));
        if folder.is_some_and(|folder| !committed(all, folder)) {
            hold(all, *n, "its folder is not committed");
        }
    }
    for (to, change) in set.changes.iter().enumerate() {
        let Some(from) = &change.rename_from else {
            continue;
        };
        if committed(all, &to) {
            continue;
        }
        for n in &indices {
            let source = &set.changes[*n];
            let waits = source.kind == ChangeKind::Delete
                && source.layer == change.layer
                && from.starts_with(&source.path);
            if waits && committed(all, n) {
                hold(all, *n, "waits until what it was renamed to is committed");
            }
        }
    }
}

fn hold(all: &mut BTreeMap<usize, Outlook>, n: usize, why: &str) {
    if let Some(outlook) = all.get_mut(&n) {
        outlook.group = Group::Held;
        why.clone_into(&mut outlook.why);
    }
}
