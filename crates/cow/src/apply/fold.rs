//! One step for each path of a commit that was cut off and met a path again when it went on.
//!
//! An undo looks at each step alone: what the first one left is not there any more when a second one
//! replaced it. So two steps become one, from the original of the first to what the second left. What
//! lay between was the session's own and is not needed.
//!
//! Steps are joined only where the second one found exactly what the first one had left. Otherwise
//! somebody else had a hand in it; both stay, and the undo says what changed.

use std::collections::HashMap;

use crate::amend::Amended;
use crate::dir::EntryKind;
use crate::undo::kept::{Aside, Kept};

/// Steps of one commit, at most one for a path unless somebody else worked there in between.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub steps: Vec<Kept>,
    /// Names of steps whose original no undo needs.
    pub freed: Vec<String>,
    /// Names of steps that came to nothing: what the one made, another took away.
    pub nothing: Vec<String>,
}

/// Joins steps, given in the order in which they were done.
pub(super) fn fold(steps: Vec<Kept>) -> Folded {
    let mut folded = Folded::default();
    let mut out: Vec<Option<Kept>> = Vec::with_capacity(steps.len());
    let mut last: HashMap<Vec<u8>, usize> = HashMap::new();
    for step in steps {
        let at = last.get(&step.rel).copied();
        let first = at.and_then(|at| out[at].take_if(|first| follows(first, &step)));
        let (Some(at), Some(first)) = (at, first) else {
            last.insert(step.rel.clone(), out.len());
            out.push(Some(step));
            continue;
        };
        // With a directory that the commit had made went all that it had made in it.
        let is_dir = first
            .after
            .as_ref()
            .is_some_and(|s| s.kind == EntryKind::Directory);
        if is_dir && first.in_place.is_none() && step.in_place.is_none() {
            for below in out.iter_mut().skip(at + 1) {
                let gone = |k: &mut Kept| k.before.is_none() && is_below(&k.rel, &step.rel);
                if let Some(gone) = below.take_if(gone) {
                    last.remove(&gone.rel);
                    folded.nothing.push(gone.name);
                    folded.nothing.extend(gone.folded);
                }
            }
        }
        let (whole, freed) = join(first, step);
        folded.freed.extend(freed);
        match whole.before.is_none() && whole.after.is_none() {
            true => {
                last.remove(&whole.rel);
                folded.nothing.push(whole.name);
                folded.nothing.extend(whole.folded);
            }
            false => out[at] = Some(whole),
        }
    }
    folded.steps = out.into_iter().flatten().collect();
    folded
}

/// Whether the second step found what the first one had left.
fn follows(first: &Kept, second: &Kept) -> bool {
    let (Some(left), Some(found)) = (&first.after, &second.before) else {
        return first.after.is_none() && second.before.is_none();
    };
    let same_bytes = match (&first.content, &second.old_content) {
        (Some(left), Some(found)) => left.blocks == found.blocks,
        _ => true,
    };
    // A directory gets its last attributes after the step that made it.
    let is_dir = left.kind == EntryKind::Directory;
    match is_dir {
        true => left.id == found.id,
        false => left.same_object(found) && same_bytes,
    }
}

/// The two as one, and the name under which an original rests that nobody needs any more.
fn join(first: Kept, second: Kept) -> (Kept, Option<String>) {
    let mut folded = first.folded;
    folded.extend(second.folded.iter().cloned());
    let amended = amended(first.amended, second.amended);
    let (name, other, freed) = match (&first.in_place, &second.in_place) {
        // The original itself had been given attributes, and rests with these.
        (Some(_), None) => (second.name, first.name, None),
        (None, None) if second.before.is_some() => {
            (first.name, second.name.clone(), Some(second.name))
        }
        _ => (first.name, second.name, None),
    };
    folded.push(other);
    let aside = match (&first.in_place, &second.in_place, &second.before) {
        (Some((xattrs, _)), None, Some(was)) => Some(Aside {
            was: was.clone(),
            xattrs: xattrs.clone(),
        }),
        _ => first.aside,
    };
    let in_place = match (first.in_place, &second.in_place) {
        (Some((old, _)), Some((_, new))) => Some((old, new.clone())),
        _ => None,
    };
    let meta = second.in_place.is_some();
    let whole = Kept {
        rel: second.rel,
        name,
        parent: second.parent,
        after: second.after,
        content: if meta {
            first.content.or(second.content)
        } else {
            second.content
        },
        xattrs: second.xattrs,
        link_to: if meta { first.link_to } else { second.link_to },
        before: first.before,
        old_content: first.old_content.or(if aside.is_some() {
            second.old_content
        } else {
            None
        }),
        in_place,
        amended: if meta { first.amended } else { amended },
        aside,
        folded,
    };
    (whole, freed)
}

/// Whether somebody had edited the original is said by the first, what became of the copy by the second.
fn amended(first: Option<Amended>, second: Option<Amended>) -> Option<Amended> {
    match (first.is_some_and(Amended::was_in_conflict), second) {
        (true, None) => Some(Amended::Merged),
        (true, Some(Amended::Part)) => Some(Amended::PartInConflict),
        (false, Some(Amended::PartInConflict)) => Some(Amended::Part),
        (_, second) => second,
    }
}

fn is_below(rel: &[u8], dir: &[u8]) -> bool {
    rel.strip_prefix(dir)
        .is_some_and(|rest| rest.first() == Some(&b'/'))
}
