//! The review on the whole screen: every change by what would become of it, its patch, and a mark for
//! each change or each hunk.
//!
//! | module | does |
//! |---|---|
//! | `model` | marks and keys, without a terminal |
//! | `draw` | puts the model on cells |
//! | `terminal` | raw mode, signals, keys |
//! | `texts` | reads what is shown |
//!
//! What is committed is the set that was scanned at the beginning, or content made of it: what changed
//! since then is a conflict and stays. The caller holds the session's lock, or is its supervisor.

mod draw;
mod model;
mod terminal;
mod texts;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use agentwall_cow::{ChangeKind, ChangeSet};
use anyhow::{Context as _, Result, anyhow};

pub use terminal::{has_terminal, no_terminal};

use crate::{
    changes::{self, Chosen, kind_text},
    cmd::{
        commit::{Made, Report, commit_made},
        diff::{Part, line_counts, remarks, sizes},
    },
    judge::Judge,
    outlook::{Group, outlook},
    output,
    review::{drop_exactly, exactly},
    session::Session,
    state::State,
};
use model::{Decision, Item, Model};
use texts::SessionTexts;

/// What a review did.
#[derive(Debug, Default)]
pub struct Reviewed {
    /// The commit, if anything was accepted.
    pub report: Option<Report>,
    /// What was dropped, and what is to be told about it.
    pub dropped: Option<(usize, Vec<String>)>,
}

/// Shows the changes that are meant, and does what the person decides. `None`: nothing was decided.
///
/// # Errors
/// There is no terminal, or what was decided cannot be done.
pub fn review(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    chosen: &Chosen,
) -> Result<Option<Reviewed>> {
    if !has_terminal() {
        return Err(no_terminal());
    }
    let part = Part::of(set, chosen);
    let decision = {
        let texts = SessionTexts::new(session, &part.set);
        let items = items(session, &part)?;
        let title = format!("agentwall review {}", session.id());
        let mut model = Model::new(title, items, &texts);
        let decided = terminal::run(&mut model, &texts)?;
        decided.map(|d| made_of(&part.set, d, &texts)).transpose()?
    };
    match decision {
        Some(decided) => carry_out(state, session, &part.set, decided).map(Some),
        None => Ok(None),
    }
}

/// The list: by group, and in each the deletions first.
fn items(session: &Session, part: &Part) -> Result<Vec<Item>> {
    let set = &part.set;
    let judge = Judge::of(session).ok();
    let outlooks = outlook(set, &part.named, judge.as_ref(), false);
    let lines = line_counts(session, set)?;
    let counts: HashMap<_, _> = lines.iter().map(|l| ((&l.path, l.kind), l)).collect();
    let moved: HashMap<&Path, &Path> = (set.changes.iter())
        .filter_map(|c| Some((c.rename_from.as_deref()?, c.path.as_path())))
        .collect();
    let mut items = Vec::new();
    for (n, change) in set.changes.iter().enumerate() {
        let outlook = outlooks.get(&n);
        let path = output::path_below(&change.path, &session.record.workspace);
        let group = outlook.map_or(Group::Unknown, |o| o.group);
        let mut item = Item::new(n, kind_text(change.kind).0, path, group);
        if let Some(line) = counts.get(&(&change.path, change.kind)) {
            let lines = match (line.insertions, line.deletions) {
                (Some(plus), Some(minus)) => format!("+{plus} -{minus}  "),
                _ => String::new(),
            };
            item.detail = format!("{lines}{}", sizes(line));
            let to = moved.get(change.path.as_path()).copied();
            let remarks = remarks(session, change, line, outlook, to);
            item.remarks = remarks.into_iter().map(|(_, text)| text).collect();
        }
        items.push(item);
    }
    // Stable: by path within these.
    items.sort_by_key(|i| (i.group, set.changes[i.index].kind != ChangeKind::Delete));
    Ok(items)
}

/// A decision with the content that was made.
struct Decided {
    accept: BTreeSet<usize>,
    reject: BTreeSet<usize>,
    made: Made,
}

fn made_of(set: &ChangeSet, decision: Decision, texts: &SessionTexts<'_>) -> Result<Decided> {
    let mut made = Made::default();
    let mut accept: BTreeSet<usize> = decision.accept.into_iter().collect();
    for (n, content, hunks, of) in decision.parts {
        let sides = texts.sides(n).ok_or_else(|| anyhow!("a text is gone"))?;
        made.amendments.insert(&set.changes[n], sides.part(content));
        let note = format!("{hunks} of {of} hunks; the rest stays in the session");
        made.notes.insert(n, note);
        accept.insert(n);
    }
    for (n, amendment) in decision.merges {
        made.amendments.insert(&set.changes[n], amendment);
        let note = "merged with the edits of the original".to_owned();
        made.notes.insert(n, note);
        accept.insert(n);
    }
    Ok(Decided {
        accept,
        reject: decision.reject.into_iter().collect(),
        made,
    })
}

/// Commits, then drops.
fn carry_out(
    state: &State,
    session: &mut Session,
    set: &ChangeSet,
    decided: Decided,
) -> Result<Reviewed> {
    let objects = |of: &BTreeSet<usize>| {
        let object = |n: &usize| {
            let change = &set.changes[*n];
            (change.layer, change.path.clone())
        };
        of.iter().map(object).collect::<BTreeSet<_>>()
    };
    let mut reviewed = Reviewed::default();
    if !decided.accept.is_empty() {
        let chosen = exactly(set, &objects(&decided.accept));
        let report = commit_made(state, session, set, chosen, false, &decided.made);
        reviewed.report = Some(report?);
    }
    if !decided.reject.is_empty() {
        let dropped = drop_exactly(state, session, &objects(&decided.reject));
        reviewed.dropped = Some(dropped.context("what was accepted is committed")?);
    }
    Ok(reviewed)
}

/// The changes that are meant by paths, with the new folders that these need.
pub fn meant(session: &Session, set: &ChangeSet, paths: &[std::path::PathBuf]) -> Result<Chosen> {
    let mut chosen = changes::select(session, set, paths)?;
    changes::with_folders(set, &mut chosen);
    Ok(chosen)
}
